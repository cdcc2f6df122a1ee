//! A dump that was too old is restored. As long as the grace behind that lasts, everything is there to restore a newer one.

use pohmelfs::client::{Client, OpenOptions};
use pohmelfs::types::{Name, ROOT_INODE};
use pohmelfs::wire::status::GraceStatus;
use serde_json::Value;

use crate::common::{Cluster, Shape, content_of, load, until};
use crate::{dump, lose_all_metadata, restore, run};

/// One block, of which there are three replicas.
const LEN: usize = 300_000;

async fn write(client: &Client, name: &str) {
    load::write_file(client, &format!("/{name}"), content_of(name, LEN).into()).await.unwrap();
}

async fn assert_files(cluster: &Cluster, names: &[&str]) {
    let client = cluster.client().await;
    for name in names {
        let read = load::read_all(&client, &format!("/{name}")).await.unwrap();
        assert!(read == content_of(name, LEN), "/{name} has other bytes");
    }
    let mut listed: Vec<_> = run(cluster, &["fs", "ls", "/"]).unwrap().lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(listed, names, "these files and no others");
    client.close().await;
}

async fn replicas_are(cluster: &Cluster, what: &str, wanted: u64) {
    until(what, async || match cluster.block_count().await? {
        count if count == wanted => Ok(()),
        count => Err(format!("{count} replicas")),
    })
    .await;
}

/// Waits until every data server has looked what it keeps for the grace behind the restore, and that is so much.
async fn kept(cluster: &Cluster, replicas: u64) -> GraceStatus {
    let what = format!("{replicas} replicas to be kept");
    until(&what, async || match cluster.cluster_status().await?.grace {
        Some(grace) if (grace.looked, grace.kept.replicas) == (3, replicas) => Ok(grace),
        other => Err(format!("{other:?}")),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_restore_of_an_old_dump_a_newer_one_can_be_restored() {
    let mut cluster = Cluster::of(Shape::default()).await;
    let (old, new) = (cluster.root().join("old.dump"), cluster.root().join("new.dump"));
    let client = cluster.client().await;
    write(&client, "kept").await;
    write(&client, "removed").await;
    // A file without a name: in the older dump it is an orphan, which nobody can hold any more.
    let unnamed = client.tmpfile_open_at(ROOT_INODE, OpenOptions::writing()).await.unwrap().file;
    unnamed.write_at(0, content_of("named", LEN).into()).await.unwrap();
    unnamed.sync().await.unwrap();
    dump(&cluster, &old);
    client.link_at(unnamed.inode(), ROOT_INODE, Name::new("named").unwrap()).await.unwrap();
    unnamed.close().await.unwrap();
    write(&client, "new").await;
    dump(&cluster, &new);
    write(&client, "late").await;
    client.close().await;
    replicas_are(&cluster, "five files", 15).await;

    // The older dump is restored, while one data server runs all the time.
    for index in cluster.data_indexes().skip(1) {
        cluster.nodes[index].kill();
    }
    lose_all_metadata(&mut cluster).await;
    restore(&cluster, &old);
    cluster.start_all();
    cluster.ready().await;
    assert_files(&cluster, &["kept", "removed"]).await;
    let grace = kept(&cluster, 6).await;
    assert_eq!((grace.kept.bytes, grace.until - grace.restored), (6 * LEN as u64, 24 * 3600), "{grace:?}");
    let told = run(&cluster, &["status"]).unwrap();
    assert!(told.contains("6 replicas") && told.contains("restore a newer one"), "{told}");
    // What is written and removed in this life goes as always. When it is gone, everything else had every chance to go as well.
    let client = cluster.client().await;
    write(&client, "fresh").await;
    replicas_are(&cluster, "the new file's blocks", 18).await;
    client.unlink("/fresh").await.unwrap();
    replicas_are(&cluster, "the new file's blocks to be gone", 15).await;
    client.close().await;

    // The grace is none of a process: all are killed and come back.
    cluster.kill_all();
    cluster.start_all();
    cluster.ready().await;
    let again = kept(&cluster, 6).await;
    assert_eq!((again.restored, again.until), (grace.restored, grace.until));
    replicas_are(&cluster, "all blocks", 15).await;

    // Somebody has noticed: the newer dump, into servers that are new again.
    for index in cluster.data_indexes() {
        cluster.nodes[index].kill();
    }
    lose_all_metadata(&mut cluster).await;
    restore(&cluster, &new);
    cluster.start_all();
    cluster.ready().await;
    assert_files(&cluster, &["kept", "named", "new", "removed"]).await;
    let checked: Value =
        serde_json::from_str(&run(&cluster, &["check", "--deep", "--json"]).unwrap()).unwrap();
    assert_eq!((checked["problem_count"].as_u64(), checked["blocks"].as_u64()), (Some(0), Some(4)));
    kept(&cluster, 3).await;
    // A file of the dump that is removed now is removed now.
    let client = cluster.client().await;
    client.unlink("/removed").await.unwrap();
    replicas_are(&cluster, "the removed file's blocks to be gone", 12).await;
    client.close().await;

    // The grace is over: what was in no dump goes.
    cluster.kill_all();
    cluster.reshape(|shape| shape.meta_timers += "reclaim_grace_ms = 1\n");
    cluster.start_all();
    cluster.ready().await;
    replicas_are(&cluster, "the late file's blocks to be gone", 9).await;
    assert_eq!(cluster.cluster_status().await.unwrap().grace, None);
    assert_files(&cluster, &["kept", "named", "new"]).await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
