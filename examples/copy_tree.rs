//! Copies the regular files of a local directory into the cluster, several at a time.
//!
//! ```sh
//! POHMELFS_CLUSTER=127.0.0.1:7001,127.0.0.1:7002 cargo run --example copy_tree -- src /src
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use pohmelfs::client::{Client, ClientError, ClientOptions, PutOptions};
use pohmelfs::types::NodeAddress;

/// Files on their way at a time.
const FILES_IN_FLIGHT: usize = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(from), Some(to)) = (args.next(), args.next()) else {
        return Err("usage: copy_tree LOCAL_DIRECTORY CLUSTER_PATH".into());
    };
    let servers: Vec<NodeAddress> =
        std::env::var("POHMELFS_CLUSTER")?.split(',').map(|a| NodeAddress(a.trim().to_owned())).collect();
    let client = Client::connect(&servers, ClientOptions::default()).await?;

    let mut dirs = vec![from.clone()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        client.mkdir_all(target(&from, &to, &dir), 0o755).await?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    let sizes: Vec<u64> = stream::iter(&files)
        .map(|file| put(&client, file, target(&from, &to, file)))
        .buffer_unordered(FILES_IN_FLIGHT)
        .try_collect()
        .await?;
    println!("{} files, {} bytes", sizes.len(), sizes.iter().sum::<u64>());
    client.close().await;
    Ok(())
}

/// Where `local`, below `from`, belongs below `to`.
fn target(from: &Path, to: &Path, local: &Path) -> PathBuf {
    to.join(local.strip_prefix(from).unwrap_or(local))
}

async fn put(client: &Client, local: &Path, to: PathBuf) -> Result<u64, ClientError> {
    let reader = tokio::fs::File::open(local).await?;
    Ok(client.put(reader, to, PutOptions::default()).await?.size)
}
