//! A dump taken while callers create, rename and remove is the state at its index, and has all that was acknowledged before it began.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pohmelfs::wire::status::ServerStatus;

use crate::common::{Cluster, Load, Shape, http, until};
use crate::{dump, lose_all_metadata, restore};

/// Asks a server again and again for its state hash, and notes each with its index, until told to stop.
async fn watch(http: String, seen: Arc<Mutex<BTreeMap<u64, String>>>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(status) = http::get_json::<ServerStatus>(&http, "/status").await
            && let Some(meta) = status.meta
        {
            let before = seen.lock().insert(meta.state_hash_at, meta.state_hash.clone());
            assert!(before.is_none_or(|hash| hash == meta.state_hash), "two states at one index");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_under_load_equals_the_state_at_its_index() {
    let mut cluster = Cluster::of(Shape::default().meta_only()).await;
    let before = Load::creators(&cluster, "/before", 4).await;
    before.progress(40).await;
    let before = before.stop().await;
    let load = Load::creators(&cluster, "/load", 4).await;
    load.progress(10).await;

    let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let watchers: Vec<_> = cluster
        .meta()
        .iter()
        .map(|node| tokio::spawn(watch(node.http.clone(), Arc::clone(&seen), stop.clone())))
        .collect();
    let file = cluster.root().join("metadata.dump");
    // The servers say their hash as of this moment or that: dumps are taken until one is of an index at which somebody asked.
    let value = until("a dump of an index whose hash a server told", async || {
        let value = tokio::task::block_in_place(|| dump(&cluster, &file));
        let index = value["index"].as_u64().unwrap();
        let told = seen.lock().get(&index).cloned();
        let told = told.ok_or_else(|| format!("nobody asked at index {index}"))?;
        assert_eq!(
            value["state_hash"], told,
            "the dump is another state than the servers had at index {index}"
        );
        Ok(value)
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for watcher in watchers {
        watcher.await.unwrap();
    }
    load.progress(10).await;
    load.finish(&cluster).await.assert_clean("load beside the dumps");
    assert_eq!(cluster.check().await, Vec::<String>::new());

    lose_all_metadata(&mut cluster).await;
    let restored = restore(&cluster, &file);
    assert_eq!(restored["inodes"], value["inodes"]);
    cluster.same_state().await;
    before.compare(&cluster).await.assert_clean("what was acknowledged before the dump");
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
