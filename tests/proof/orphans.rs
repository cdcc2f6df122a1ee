//! A file that one client holds open while another removes it: it stays as long as its holder lives, and not longer.

use std::time::Duration;

use pohmelfs::client::{Client, ClientOptions, OpenOptions};
use pohmelfs::types::{Name, ROOT_INODE};

use crate::common::{Cluster, until};

const LEN: usize = 300_000;

/// A client with a runtime of its own, so that it can die: no word of it comes after that.
struct Mortal {
    runtime: Option<tokio::runtime::Runtime>,
    client: Option<Client>,
}

impl Mortal {
    async fn start(cluster: &Cluster) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        // As short as a session can be, so that its end is soon.
        let options = ClientOptions {
            session_ttl: Duration::from_secs(1),
            label: "mortal".into(),
            ..ClientOptions::default()
        };
        let addresses = cluster.addresses();
        let connected = runtime.spawn(async move { Client::connect(&addresses, options).await });
        let client = connected.await.unwrap().unwrap();
        Self { runtime: Some(runtime), client: Some(client) }
    }

    /// Runs something of it where its tasks live.
    async fn run<T: Send + 'static>(&self, what: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.as_ref().unwrap().spawn(what).await.unwrap()
    }

    fn client(&self) -> Client {
        self.client.clone().unwrap()
    }

    /// From here on it is silent: it closes nothing and keeps nothing alive.
    fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.die();
    }
}

async fn put(client: &Client, name: &str) {
    let bytes = vec![u8::try_from(name.len()).unwrap(); LEN];
    client.put(&bytes[..], format!("/{name}"), pohmelfs::client::PutOptions::default()).await.unwrap();
}

async fn blocks_are(cluster: &Cluster, what: &str, wanted: u64) {
    until(what, async || match cluster.block_count().await? {
        count if count == wanted => Ok(()),
        count => Err(format!("{count} blocks")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_lives_as_long_as_its_holder() {
    let cluster = Cluster::start(3, 3).await;
    let remover = cluster.client().await;
    let mut holder = Mortal::start(&cluster).await;
    put(&remover, "held").await;
    put(&remover, "free").await;
    // One block of each, three replicas.
    blocks_are(&cluster, "both files' blocks", 6).await;

    let name = Name::new("held").unwrap();
    let (client, opening) = (holder.client(), name.clone());
    let file = holder
        .run(async move { client.open_at(ROOT_INODE, &opening, OpenOptions::reading()).await.unwrap().file })
        .await;
    let inode = file.inode();
    remover.unlink_at(ROOT_INODE, name.clone()).await.unwrap();
    remover.unlink_at(ROOT_INODE, Name::new("free").unwrap()).await.unwrap();
    // Removed behind it and held by nobody: once that one's blocks are gone, the held one had every chance to go as well.
    blocks_are(&cluster, "the other file's blocks to be gone", 3).await;
    let (reading, read) = (file.clone(), vec![4; LEN]);
    let bytes = holder.run(async move { reading.read_at(0, LEN).await.unwrap() }).await;
    assert!(bytes == read, "it is removed and can be read");
    assert!(remover.lookup(ROOT_INODE, &name).await.unwrap_err().is_not_found());
    assert_eq!(remover.getattr(inode).await.unwrap().nlink, 0);
    assert_eq!(remover.statfs().await.unwrap().inode_count, 2, "the root and the orphan");

    holder.die();
    blocks_are(&cluster, "the blocks to be reclaimed", 0).await;
    assert_eq!(remover.statfs().await.unwrap().inode_count, 1);
    assert_eq!(remover.getattr(inode).await.unwrap_err().errno(), 116, "it is gone");
    drop(file);
    remover.close().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
