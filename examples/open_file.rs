//! Opens a file of the cluster, writes in the middle of it, reads it back and appends.
//!
//! ```sh
//! POHMELFS_CLUSTER=127.0.0.1:7001,127.0.0.1:7002 cargo run --example open_file -- /notes
//! ```

use std::error::Error;

use pohmelfs::client::{Client, ClientOptions, OpenOptions};
use pohmelfs::types::NodeAddress;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: open_file CLUSTER_PATH")?;
    let servers: Vec<NodeAddress> =
        std::env::var("POHMELFS_CLUSTER")?.split(',').map(|a| NodeAddress(a.trim().to_owned())).collect();
    let client = Client::connect(&servers, ClientOptions::default()).await?;

    let file = client.open(&path, OpenOptions::writing()).await?;
    file.write_at(0, "hello, brave new world\n".into()).await?;
    file.write_at(7, "old  ".into()).await?;
    // Not flushed yet, and seen by this handle all the same.
    println!("{:?}", file.read_at(0, 100).await?);
    // From here on everybody sees it, and no single failure loses it.
    file.sync().await?;
    let at = file.append("one more line\n".into()).await?;
    println!("appended at {at}");
    file.close().await?;
    client.close().await;
    Ok(())
}
