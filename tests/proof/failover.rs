//! A server dies or falls silent under load: nothing fails, nothing is lost, nothing is done twice.

use std::time::Duration;

use crate::common::{Cluster, Load, rounds};

/// Calls of every writer between two events, so that each event meets a busy cluster.
const CALLS_BETWEEN: u64 = 20;

#[derive(Clone, Copy)]
enum Event {
    Kill,
    /// Killed, and started again before anybody noticed.
    Bounce,
    Pause,
}

#[derive(Clone, Copy)]
enum Victim {
    Leader,
    Follower,
    Data,
}

/// Prints what `scripts/faults` collects.
fn report(what: &str, mut longest: Vec<Duration>) {
    longest.sort();
    let ms: Vec<u128> = longest.iter().map(Duration::as_millis).collect();
    let (median, worst) = (ms[ms.len() / 2], ms[ms.len() - 1]);
    println!("FAULT|{what}|{}|{median}|{worst}", ms.len());
}

async fn fault_rounds(what: &str, victim: Victim, event: Event) {
    let mut cluster = Cluster::start(3, if matches!(victim, Victim::Data) { 3 } else { 0 }).await;
    let load = match victim {
        Victim::Leader | Victim::Follower => Load::creators(&cluster, "/load", 16).await,
        Victim::Data => Load::writers(&cluster, "/load", 4, 300_000).await,
    };
    let between = if matches!(victim, Victim::Data) { 3 } else { CALLS_BETWEEN };
    load.progress(between).await;
    let mut longest = Vec::new();
    for round in 0..rounds(2) {
        let hit = match victim {
            Victim::Leader => cluster.leader().await,
            Victim::Follower => cluster.follower().await,
            Victim::Data => cluster.data_indexes().nth(round % 3).unwrap(),
        };
        load.begin_round();
        match event {
            Event::Kill => cluster.nodes[hit].kill(),
            Event::Bounce => {
                cluster.nodes[hit].kill();
                cluster.nodes[hit].start();
            }
            Event::Pause => cluster.nodes[hit].pause(),
        }
        load.progress(between).await;
        let pause = load.longest();
        println!("round {round}: {} hit, longest call {} ms", cluster.nodes[hit].name, pause.as_millis());
        longest.push(pause);
        match event {
            Event::Kill => cluster.nodes[hit].start(),
            Event::Bounce => {}
            Event::Pause => cluster.nodes[hit].resume(),
        }
        // The next event must find a whole cluster: one failure at a time is what is promised.
        cluster.ready().await;
        load.progress(between).await;
    }
    let verdict = load.finish(&cluster).await;
    println!("VERDICT|{what}|{}|{}|{}", verdict.failed.len(), verdict.lost.len(), verdict.doubled.len());
    report(what, longest);
    verdict.assert_clean(what);
    cluster.same_state().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_not_noticed_by_applications() {
    fault_rounds("leader killed (kill -9)", Victim::Leader, Event::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_and_back_at_once_is_not_noticed_by_applications() {
    fault_rounds("leader killed and back at once", Victim::Leader, Event::Bounce).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_leader_is_not_noticed_by_applications() {
    fault_rounds("leader silent (SIGSTOP)", Victim::Leader, Event::Pause).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_is_not_noticed_by_applications() {
    fault_rounds("follower killed (kill -9)", Victim::Follower, Event::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_follower_is_not_noticed_by_applications() {
    fault_rounds("follower silent (SIGSTOP)", Victim::Follower, Event::Pause).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_data_server_is_not_noticed_by_applications() {
    fault_rounds("data server killed (kill -9)", Victim::Data, Event::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_data_server_is_not_noticed_by_applications() {
    fault_rounds("data server silent (SIGSTOP)", Victim::Data, Event::Pause).await;
}
