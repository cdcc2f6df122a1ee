//! Leadership moves on request, and with a planned stop. It prints the pauses of writes.

use std::time::{Duration, Instant};

use crate::common::{Cluster, Load, Shape, rounds, until};
use crate::{already, done};

#[tokio::test(flavor = "multi_thread")]
async fn writes_hardly_notice_when_leadership_moves() {
    let mut cluster = Cluster::of(Shape::default().meta_only()).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    load.progress(10).await;
    let mut pauses = Vec::new();
    for round in 0..rounds(6) {
        load.begin_round();
        let before = cluster.leader().await;
        if round.is_multiple_of(2) {
            let to = cluster.nodes[cluster.follower().await].id.to_string();
            let value = done(&cluster, &["transfer-leader", &to]);
            assert_eq!(value["leader"].as_u64(), to.parse().ok(), "{value}");
            already(&cluster, &["transfer-leader", &to]);
        } else {
            done(&cluster, &["transfer-leader"]);
        }
        assert_ne!(cluster.leader().await, before);
        load.progress(8).await;
        pauses.push(load.longest());
    }
    report("leadership transferred", &mut pauses);

    let mut pauses = Vec::new();
    for _ in 0..rounds(3) {
        load.begin_round();
        let leader = cluster.leader().await;
        let began = Instant::now();
        cluster.nodes[leader].terminate();
        let node = &mut cluster.nodes[leader];
        until("the end", async || node.ended().ok_or("it runs".into())).await;
        println!("stopped in {} ms", began.elapsed().as_millis());
        load.progress(8).await;
        pauses.push(load.longest());
        cluster.nodes[leader].start();
        cluster.ready().await;
    }
    report("leader stopped (SIGTERM)", &mut pauses);
    load.finish(&cluster).await.assert_clean("load while leadership moved");
    cluster.same_state().await;
}

fn report(what: &str, pauses: &mut [Duration]) {
    pauses.sort();
    let ms: Vec<u128> = pauses.iter().map(Duration::as_millis).collect();
    println!("PAUSE|{what}|{}|{}|{}", ms.len(), ms[ms.len() / 2], ms[ms.len() - 1]);
}
