//! A metadata server loses its disk in the middle of load. It comes back empty, and by a snapshot becomes as the others.

use crate::common::{Cluster, Load, Shape, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_server_comes_back_by_snapshot_with_the_same_state() {
    let mut cluster = Cluster::of(Shape::default().meta_only().with_snapshots(300, 100)).await;
    let load = Load::creators(&cluster, "/load", 8).await;
    load.progress(100).await;
    for victim in [cluster.follower().await, cluster.leader().await] {
        // Only a snapshot can bring it back once the others have purged the beginning of the log.
        let other = cluster.meta_indexes().find(|&i| i != victim).unwrap();
        until("the log to be purged", async || {
            let (_, meta) = cluster.meta_status(other).await?;
            if meta.purged > 0 { Ok(()) } else { Err(format!("applied {}, purged 0", meta.applied)) }
        })
        .await;
        cluster.nodes[victim].kill();
        cluster.nodes[victim].wipe();
        load.progress(20).await;
        cluster.nodes[victim].start();
        cluster.ready().await;
        load.progress(20).await;
        let (status, meta) = cluster.meta_status(victim).await.unwrap();
        assert!(meta.snapshot > 0, "{} has no snapshot, so it did not come back by one", status.name);
    }
    load.finish(&cluster).await.assert_clean("load around the wipes");
    cluster.same_state().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
