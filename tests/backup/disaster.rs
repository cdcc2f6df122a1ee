//! All metadata servers are lost. With a dump and the data servers' disks everything that was dumped is back, byte for byte.

use pohmelfs::client::ClientError;
use pohmelfs::wire::RpcError;
use serde_json::Value;

use crate::common::{Cluster, Load, Shape, content_of, load, until};
use crate::{dump, lose_all_metadata, restore, run};

fn is_wrong_cluster(error: &ClientError) -> bool {
    match error {
        ClientError::Rpc { last, .. } => matches!(**last, RpcError::WrongCluster { .. }),
        ClientError::At { source, .. } => is_wrong_cluster(source),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_metadata_servers_take_over_the_data_servers_with_all_their_blocks() {
    // Without the grace of `grace.rs`: what the dump does not know goes at once.
    let meta_timers = "reclaim_grace_ms = 0\n".into();
    let mut cluster = Cluster::of(Shape { meta_timers, ..Shape::default() }).await;
    let names = Load::creators(&cluster, "/names", 2).await;
    let files = Load::writers(&cluster, "/files", 2, 300_000).await;
    names.progress(20).await;
    files.progress(4).await;
    let (names, files) = (names.stop().await, files.stop().await);
    let file = cluster.root().join("metadata.dump");
    let value = dump(&cluster, &file);
    assert!(value["blocks"].as_u64().unwrap() > 0 && value["data_servers"].as_array().unwrap().len() == 3);

    // Behind the dump: lost with the metadata. A client that lives on, an inode and blocks that nobody must get again.
    let survivor = cluster.client().await;
    load::write_file(&survivor, "/late", content_of("late", 500_000).into()).await.unwrap();
    let late = survivor.stat("/late").await.unwrap().inode;
    // One data server runs all the time, the others are started again.
    for index in cluster.data_indexes().skip(1) {
        cluster.nodes[index].kill();
    }
    let third = cluster.nodes[2].dir.clone();
    let aside = cluster.root().join("old-meta-3");
    copy_dir(&third, &aside);
    lose_all_metadata(&mut cluster).await;
    assert!(run(&cluster, &["fs", "ls", "/"]).unwrap().is_empty());

    let restored = restore(&cluster, &file);
    assert_eq!(restored["state_hash"], value["state_hash"]);
    cluster.start_all();
    cluster.ready().await;
    cluster.same_state().await;
    names.compare(&cluster).await.assert_clean("names behind the restore");
    files.compare(&cluster).await.assert_clean("files behind the restore");
    let checked = run(&cluster, &["check", "--deep", "--json"]).unwrap();
    let checked: Value = serde_json::from_str(&checked).unwrap();
    assert_eq!(
        (checked["problem_count"].as_u64(), &checked["blocks"]),
        (Some(0), &value["blocks"]),
        "{checked}"
    );
    // What was written behind the dump is nobody's, and goes: at the start of a data server, else within ten minutes.
    until("the blocks behind the dump to be reclaimed", async || {
        for node in &cluster.data()[1..] {
            let count = node.status().await?.data.unwrap().block_count;
            if Some(count) != checked["blocks"].as_u64() {
                return Err(format!("{} has {count} blocks", node.name));
            }
        }
        Ok(())
    })
    .await;

    // Who was a client of the lost cluster is told so; new ones work, and no id is given out again.
    let error = survivor.stat("/names").await.unwrap_err();
    assert!(is_wrong_cluster(&error), "{error}");
    let client = cluster.client().await;
    load::write_file(&client, "/new", content_of("new", 500_000).into()).await.unwrap();
    assert_eq!(load::read_all(&client, "/new").await.unwrap(), content_of("new", 500_000));
    let new = client.stat("/new").await.unwrap().inode;
    assert!(new.0 > late.0 + 1_000_000, "inode {new} behind {late}");
    assert!(client.stat("/late").await.is_err());
    client.close().await;

    // A metadata server of the lost cluster comes back in the place of a new one: it is refused, and disturbs nobody.
    let mine = cluster.root().join("new-meta-3");
    cluster.nodes[2].kill();
    std::fs::rename(&third, &mine).unwrap();
    std::fs::rename(&aside, &third).unwrap();
    cluster.nodes[2].start();
    let ended = until("the old server to end", async || {
        let node = &mut cluster.nodes[2];
        node.ended().ok_or_else(|| "it runs".into())
    })
    .await;
    assert!(!ended.success());
    assert!(cluster.nodes[2].log_text().contains("but of the metadata servers in `peers`"));
    std::fs::remove_dir_all(&third).unwrap();
    std::fs::rename(&mine, &third).unwrap();
    cluster.start_all();
    cluster.ready().await;
    cluster.same_state().await;

    // All are killed once more: what was restored is as durable as what was written.
    cluster.kill_all();
    cluster.start_all();
    cluster.ready().await;
    files.compare(&cluster).await.assert_clean("files behind the restore and a power cut");

    // And the second disaster, with a dump of the restored cluster.
    let value = dump(&cluster, &file);
    lose_all_metadata(&mut cluster).await;
    assert_eq!(restore(&cluster, &file)["state_hash"], value["state_hash"]);
    cluster.ready().await;
    files.compare(&cluster).await.assert_clean("files behind the second restore");
    let client = cluster.client().await;
    assert_eq!(load::read_all(&client, "/new").await.unwrap(), content_of("new", 500_000));
    client.close().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
