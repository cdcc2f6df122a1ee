//! How long a client's writes pause when the server that leads goes away, here and in etcd: the same events, one system after the other.
//!
//! Measurements for `scripts/faults --pauses`, not tests: nothing is judged but that writes go on. Each prints lines
//! `PAUSE|system|event|rounds|median ms|worst ms`. `POHMELFS_ROUNDS` says how many rounds (3).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

#[path = "../common/mod.rs"]
mod common;

mod etcd;

use std::time::Duration;

use common::{Cluster, Load, Shape, rounds, until};

/// Clients that write, each one call after the other.
const WRITERS: usize = 4;
/// Calls of each of them between two events.
const CALLS_BETWEEN: u64 = 20;
/// Rounds, unless the environment says otherwise.
const ROUNDS: usize = 3;

/// What happens to the server that leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Kill,
    Pause,
    Stop,
    Transfer,
}

impl Event {
    const ALL: [Self; 4] = [Self::Kill, Self::Pause, Self::Stop, Self::Transfer];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "leader killed (kill -9)",
            Self::Pause => "leader silent (SIGSTOP)",
            Self::Stop => "leader stopped (SIGTERM)",
            Self::Transfer => "leadership transferred",
        }
    }
}

fn report(system: &str, event: Event, mut pauses: Vec<Duration>) {
    pauses.sort();
    let ms: Vec<u128> = pauses.iter().map(Duration::as_millis).collect();
    println!("PAUSE|{system}|{}|{}|{}|{}", event.name(), ms.len(), ms[ms.len() / 2], ms[ms.len() - 1]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for scripts/faults --pauses"]
async fn a_pohmelfs_leader_goes_away() {
    let mut cluster = Cluster::of(Shape::default().meta_only()).await;
    let load = Load::creators(&cluster, "/load", WRITERS).await;
    load.progress(CALLS_BETWEEN).await;
    for event in Event::ALL {
        let mut pauses = Vec::new();
        for _ in 0..rounds(ROUNDS) {
            let leader = cluster.leader().await;
            load.begin_round();
            match event {
                Event::Kill => cluster.nodes[leader].kill(),
                Event::Pause => cluster.nodes[leader].pause(),
                Event::Stop => {
                    let node = &mut cluster.nodes[leader];
                    node.terminate();
                    until("its end", async || node.ended().ok_or("it runs".into())).await;
                }
                Event::Transfer => {
                    let output = cluster.command(&["cluster", "transfer-leader"]);
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                }
            }
            load.progress(CALLS_BETWEEN).await;
            let pause = load.longest();
            eprintln!("pohmelfs, {}: {} ms", event.name(), pause.as_millis());
            pauses.push(pause);
            match event {
                Event::Kill | Event::Stop => cluster.nodes[leader].start(),
                Event::Pause => cluster.nodes[leader].resume(),
                Event::Transfer => {}
            }
            cluster.ready().await;
            load.progress(CALLS_BETWEEN).await;
        }
        report("pohmelfs", event, pauses);
    }
    load.finish(&cluster).await.assert_clean("load while leaders went away");
    cluster.same_state().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for scripts/faults --pauses"]
async fn an_etcd_leader_goes_away() {
    let Some(version) = etcd::version() else {
        println!("left out: there is no etcd (Debian: apt-get install etcd-server)");
        return;
    };
    let _turn = common::cluster::Turn::take().await;
    println!("PAUSE-VERSION|{version}");
    let mut etcd = etcd::Etcd::start().await;
    let writers = etcd::Writers::start(&etcd, WRITERS);
    writers.progress(CALLS_BETWEEN).await;
    for event in Event::ALL {
        let mut pauses = Vec::new();
        for _ in 0..rounds(ROUNDS) {
            let leader = etcd.leader().await;
            writers.begin_round();
            match event {
                Event::Kill => etcd.kill(leader),
                Event::Pause => etcd.pause(leader),
                Event::Stop => etcd.stop(leader).await,
                Event::Transfer => etcd.transfer(leader).await,
            }
            writers.progress(CALLS_BETWEEN).await;
            let pause = writers.longest();
            eprintln!("etcd, {}: {} ms", event.name(), pause.as_millis());
            pauses.push(pause);
            match event {
                Event::Kill | Event::Stop => etcd.run(leader),
                Event::Pause => etcd.resume(leader),
                Event::Transfer => {}
            }
            etcd.ready().await;
            writers.progress(CALLS_BETWEEN).await;
        }
        report("etcd", event, pauses);
    }
    writers.stop().await;
}
