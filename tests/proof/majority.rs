//! Without a majority nothing is written, calls end with an error, nothing is lost, and all heals by itself.

use std::time::Duration;

use pohmelfs::client::{ClientError, ClientOptions};

use crate::common::{Cluster, LONG, Load};

#[tokio::test(flavor = "multi_thread")]
async fn majority_loss_stops_writes_and_heals_by_itself() {
    let mut cluster = Cluster::start(3, 0).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    load.progress(20).await;
    let options = ClientOptions { call_timeout: Duration::from_secs(3), ..ClientOptions::default() };
    let hasty = cluster.client_with(options).await;
    hasty.mkdir("/before", 0o755).await.unwrap();

    let leader = cluster.leader().await;
    let survivor = cluster.meta_indexes().find(|&i| i != leader).unwrap();
    for i in cluster.meta_indexes().filter(|&i| i != survivor) {
        cluster.nodes[i].kill();
    }
    // A call ends by its deadline with an error of the exchange: never with success, never with a wrong answer.
    for attempt in 0..2 {
        let outcome = tokio::time::timeout(LONG, hasty.mkdir(format!("/during-{attempt}"), 0o755)).await;
        let error =
            outcome.expect("a call ends by its deadline").expect_err("nobody can have committed this");
        assert!(is_exchange(&error), "{error}");
        let read = tokio::time::timeout(LONG, hasty.stat("/before")).await;
        let error =
            read.expect("a read ends by its deadline").expect_err("nobody can know that this is the newest");
        assert!(is_exchange(&error), "{error}");
    }

    for i in cluster.meta_indexes().filter(|&i| i != survivor) {
        cluster.nodes[i].start();
    }
    cluster.ready().await;
    load.progress(20).await;
    assert!(hasty.stat("/before").await.is_ok());
    let (stopped, failed) = load.stop().await.forgive_failed();
    println!("{failed} calls of the load ran into their deadline");
    stopped.compare(&cluster).await.assert_clean("load around the majority loss");
    cluster.same_state().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

fn is_exchange(error: &ClientError) -> bool {
    match error {
        ClientError::Rpc { .. } => true,
        ClientError::At { source, .. } => is_exchange(source),
        _ => false,
    }
}
