//! Every server is killed at the same moment, under load. What was acknowledged is there when they are back.

use crate::common::{Cluster, Load, rounds};

#[tokio::test(flavor = "multi_thread")]
async fn all_six_killed_at_once_lose_nothing() {
    let mut cluster = Cluster::start(3, 3).await;
    for round in 0..rounds(2) {
        let names = Load::creators(&cluster, &format!("/names-{round}"), 12).await;
        let files = Load::writers(&cluster, &format!("/files-{round}"), 3, 300_000).await;
        names.progress(15).await;
        files.progress(3).await;
        let (_, before) = cluster.meta_status(cluster.leader().await).await.unwrap();
        cluster.kill_all();
        // Calls that were in flight may fail: with nobody there, a deadline is all that can be kept.
        cluster.start_all();
        cluster.ready().await;
        // A leader that went on in its old term would give an index that its followers committed, and that it had not
        // written yet, to another command: files were found with the bytes of others.
        let (_, after) = cluster.meta_status(cluster.leader().await).await.unwrap();
        assert!(after.term > before.term, "term {} went on after all were killed", before.term);
        names.progress(5).await;
        files.progress(2).await;
        for (what, load) in [("names", names), ("files", files)] {
            let (stopped, failed) = load.stop().await.forgive_failed();
            println!("round {round}, {what}: {failed} calls failed while nobody was there");
            stopped.compare(&cluster).await.assert_clean(what);
        }
        cluster.same_state().await;
        assert_eq!(cluster.check().await, Vec::<String>::new());
    }
}
