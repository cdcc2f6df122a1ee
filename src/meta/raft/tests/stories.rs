//! What a cluster must survive.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::cluster::{Cluster, until};
use crate::meta::raft::messages::{kind, pack};
use crate::meta::raft::types::Vote;
use crate::meta::raft::{ConsensusError, RaftConfig, RaftState};
use crate::net::{Channel, ChannelOptions};
use crate::runtime;
use crate::types::{LogIndex, NodeId};
use crate::wire::{Class, Hello, Role, RpcError};

fn plain(_: &mut RaftConfig) {}

/// Snapshots after a few entries, and hardly any log behind them.
fn small(config: &mut RaftConfig) {
    config.snapshot_every = 50;
    config.log_keep = 5;
    config.segment_len = 4096;
    config.cache_len = 2048;
}

fn set(applied: &[Bytes]) -> BTreeSet<String> {
    applied.iter().map(|command| String::from_utf8(command.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let cluster = Arc::new(Cluster::running(plain).await);
    let acknowledged = AtomicU64::new(0);
    let proposals = (0..1000).map(|i| {
        let (cluster, acknowledged) = (cluster.clone(), &acknowledged);
        async move {
            let command = format!("command {i}");
            let acked = cluster.propose(&command).await;
            acknowledged.fetch_add(u64::from(acked), Ordering::Relaxed);
            acked.then_some(command)
        }
    });
    let killer = async {
        until("some proposals to be acknowledged", || {
            (acknowledged.load(Ordering::Relaxed) >= 300).then_some(())
        })
        .await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        leader
    };
    let (acked, killed) = tokio::join!(join_all(proposals), killer);
    let acked: BTreeSet<String> = acked.into_iter().flatten().collect();
    assert_ne!(cluster.leader().await, killed);
    let applied = set(&cluster.agreed().await);
    assert!(acked.is_subset(&applied), "lost: {:?}", acked.difference(&applied));

    cluster.start(killed).await;
    let after = set(&cluster.agreed().await);
    assert!(acked.is_subset(&after), "lost after the old leader returned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_killed_as_a_whole_comes_back_with_everything() {
    let cluster = Cluster::running(small).await;
    let mut acked = BTreeSet::new();
    for round in 0..3 {
        let commands: Vec<_> = (0..120).map(|i| format!("round {round} command {i}")).collect();
        for (command, done) in
            commands.iter().zip(join_all(commands.iter().map(|c| cluster.propose(c))).await)
        {
            if done {
                acked.insert(command.clone());
            }
        }
        for id in 1..=3 {
            cluster.kill(id);
        }
        for id in 1..=3 {
            cluster.start(id).await;
        }
        let applied = set(&cluster.agreed().await);
        assert!(acked.is_subset(&applied), "lost in round {round}: {:?}", acked.difference(&applied));
    }
}

/// All three ask each other at the same moment, and each is told twice: one cluster must come of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_that_is_raced_makes_one_cluster() {
    let cluster = Cluster::new(plain);
    tokio::join!(cluster.start(1), cluster.start(2), cluster.start(3));
    let voters: std::collections::BTreeMap<_, _> =
        (1..=3).map(|id| (NodeId(id), cluster.address(id))).collect();
    for id in 1..=3 {
        cluster.consensus(id).bootstrap(voters.clone(), true).await.unwrap();
    }
    cluster.agreed().await;
    for status in cluster.statuses() {
        assert_eq!(status.members, voters);
    }
}

/// Nobody may make a cluster before all have said that there is none: the silent one may hold it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_do_not_make_a_cluster() {
    let cluster = Cluster::new(plain);
    cluster.start(1).await;
    cluster.start(2).await;
    // Long enough for them to have asked each other several times.
    runtime::sleep(Duration::from_secs(1)).await;
    for status in cluster.statuses() {
        assert_eq!((status.state, status.last_log), (RaftState::Blank, LogIndex(0)));
    }
    let refused = cluster.consensus(1).propose(Bytes::from_static(b"too early")).await;
    assert_eq!(refused, Err(ConsensusError::NotReady));
    cluster.start(3).await;
    cluster.agreed().await;
}

async fn asks_for_vote(cluster: &Cluster, id: u64) -> Result<(), RpcError> {
    let hello = Hello::new(Role::Meta, "test");
    let channel = Channel::new(cluster.address(id), hello, Class::Consensus, ChannelOptions::default());
    let request = openraft::raft::VoteRequest::<crate::meta::raft::types::TypeConfig>::new(
        Vote::new(1_000_000, 3),
        Some(openraft::LogId::new_term_index(900_000, 900_000)),
    );
    channel.call(kind::PRE_VOTE, pack(&request)?, Bytes::new(), Duration::from_secs(5)).await.map(drop)
}

/// The disk of a follower was replaced. It must not vote on promises that it has forgotten; it comes back by a
/// snapshot, and then is as good as any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_server_gives_no_vote_before_it_has_caught_up_by_snapshot() {
    let cluster = Cluster::running(small).await;
    for i in 0..300 {
        cluster.propose(&format!("command {i}")).await;
    }
    cluster.until_purged(LogIndex(200)).await;
    let leader = cluster.leader().await;
    let [wiped, other] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else {
        panic!("two followers");
    };
    cluster.kill(wiped);
    cluster.kill(other);
    std::fs::remove_dir_all(cluster.dir(wiped)).unwrap();
    cluster.start(wiped).await;
    // The leader alone is no majority; were the wiped one to count, the two could commit without `other`, which may be
    // the only one to remember what the wiped one promised.
    // Long enough for it to have asked the leader several times.
    runtime::sleep(Duration::from_secs(1)).await;
    let refused = asks_for_vote(&cluster, wiped).await;
    assert!(matches!(refused, Err(RpcError::NotReady { .. })), "{refused:?}");
    assert_eq!(cluster.consensus(wiped).status().state, RaftState::Blank);

    cluster.start(other).await;
    cluster.until_state(wiped, RaftState::Follower).await;
    let applied = set(&cluster.agreed().await);
    assert!((0..300).all(|i| applied.contains(&format!("command {i}"))));
    assert!(cluster.consensus(wiped).status().purged >= LogIndex(200), "it came by snapshot");
    assert!(asks_for_vote(&cluster, wiped).await.is_ok(), "now it votes");

    // And it counts again.
    cluster.kill(other);
    assert!(cluster.propose("with the one that was wiped").await);
}

/// Elections that nobody lives to see.
fn patient(config: &mut RaftConfig) {
    config.timers.election_min = Duration::from_secs(600);
    config.timers.election_max = Duration::from_secs(601);
}

/// Between knowing that there is a cluster and having caught up with it, a wiped server must not vote either, and a
/// restart must not make it forget that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_joins_gives_no_vote() {
    let mut cluster = Cluster::running(plain).await;
    cluster.agreed().await;
    for id in 1..=3 {
        cluster.kill(id);
    }
    std::fs::remove_dir_all(cluster.dir(1)).unwrap();
    // Nobody leads, so there is nobody to catch up with.
    cluster.configure = patient;
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.until_state(1, RaftState::Joining).await;
    for _ in 0..2 {
        let refused = asks_for_vote(&cluster, 1).await;
        assert!(matches!(refused, Err(RpcError::NotReady { .. })), "{refused:?}");
        assert_eq!(cluster.consensus(1).accepted(), None, "nor may a read count on its log");
        cluster.kill(1);
        cluster.start(1).await;
        cluster.until_state(1, RaftState::Joining).await;
    }
    assert!(asks_for_vote(&cluster, 2).await.is_ok(), "the others do");
}

/// The leader itself is wiped: the others elect without it, and it follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_leader_comes_back_as_a_follower() {
    let cluster = Cluster::running(plain).await;
    for i in 0..50 {
        cluster.propose(&format!("command {i}")).await;
    }
    let leader = cluster.leader().await;
    cluster.kill(leader);
    std::fs::remove_dir_all(cluster.dir(leader)).unwrap();
    cluster.start(leader).await;
    until("the wiped one to take part again", || {
        let state = cluster.consensus(leader).status().state;
        matches!(state, RaftState::Follower | RaftState::Leader).then_some(())
    })
    .await;
    let applied = set(&cluster.agreed().await);
    assert!((0..50).all(|i| applied.contains(&format!("command {i}"))));
}

/// Where a read gets the index from that it waits for.
#[derive(Clone, Copy)]
enum Ask {
    /// The leader.
    Leader,
    /// This server and one other: the longer of two logs.
    Majority,
}

impl Ask {
    async fn index(self, cluster: &Cluster, id: u64) -> Option<LogIndex> {
        let consensus = cluster.try_with(id, |node| node.consensus.clone())?;
        match self {
            Self::Leader => runtime::timeout(Duration::from_secs(2), consensus.read_index()).await.ok()?.ok(),
            Self::Majority => {
                let other = cluster.try_with(id % 3 + 1, |node| node.consensus.clone())?;
                Some(consensus.accepted()?.max(other.accepted()?))
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_index_covers_all_that_was_acknowledged_through_leader_changes() {
    reads_through_leader_changes(Ask::Leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_logs_of_a_majority_cover_all_that_was_acknowledged_through_leader_changes() {
    reads_through_leader_changes(Ask::Majority).await;
}

/// A client writes, then reads, while leaders are killed: the read must see the write, whoever answers.
async fn reads_through_leader_changes(ask: Ask) {
    let cluster = Arc::new(Cluster::running(plain).await);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));

    let writer = {
        let (cluster, acknowledged, is_over) = (cluster.clone(), acknowledged.clone(), is_over.clone());
        async move {
            let mut next = 1;
            while !is_over.load(Ordering::Relaxed) {
                if cluster.propose(&format!("{next}")).await {
                    acknowledged.store(next, Ordering::SeqCst);
                }
                next += 1;
            }
        }
    };
    let reader = {
        let (cluster, acknowledged, is_over) = (cluster.clone(), acknowledged.clone(), is_over.clone());
        async move {
            let mut reads = 0;
            while !is_over.load(Ordering::Relaxed) {
                for id in cluster.ids() {
                    let must_see = acknowledged.load(Ordering::SeqCst);
                    let Some((consensus, machine)) =
                        cluster.try_with(id, |node| (node.consensus.clone(), node.machine.clone()))
                    else {
                        continue;
                    };
                    let Some(index) = ask.index(&cluster, id).await else { continue };
                    let deadline = runtime::now() + Duration::from_secs(5);
                    if consensus.wait_applied(index, deadline).await.is_err() {
                        // Killed meanwhile, or the end of a log that never came to a majority.
                        continue;
                    }
                    let seen: Option<u64> = machine
                        .applied()
                        .iter()
                        .filter_map(|command| std::str::from_utf8(command).ok()?.parse().ok())
                        .max();
                    assert!(seen.unwrap_or(0) >= must_see, "read {seen:?} after {must_see} was acknowledged");
                    reads += 1;
                }
                runtime::sleep(Duration::from_millis(1)).await;
            }
            reads
        }
    };
    let killer = {
        let (cluster, acknowledged, is_over) = (cluster.clone(), acknowledged.clone(), is_over.clone());
        async move {
            for _ in 0..3 {
                let before = acknowledged.load(Ordering::SeqCst);
                until("writes to go on", || {
                    (acknowledged.load(Ordering::SeqCst) > before + 20).then_some(())
                })
                .await;
                let leader = cluster.leader().await;
                cluster.kill(leader);
                cluster.leader().await;
                cluster.start(leader).await;
            }
            is_over.store(true, Ordering::Relaxed);
        }
    };
    let (reads, (), ()) = tokio::join!(reader, writer, killer);
    assert!(reads > 0, "no read succeeded");
}

/// Times that a machine busy with other tests keeps.
fn unhurried(config: &mut RaftConfig) {
    config.timers.heartbeat = Duration::from_millis(250);
    config.timers.election_min = Duration::from_secs(1);
    config.timers.election_max = Duration::from_secs(2);
}

/// The disks of the followers take eight seconds to sync, longer than lease and election timeout together. The leader is
/// alive and reachable; replacing it would help nobody, and it can prove that it leads without any disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_do_not_depose_the_leader() {
    let cluster = Cluster::running(unhurried).await;
    cluster.agreed().await;
    let leader = cluster.leader().await;
    let consensus = cluster.consensus(leader);
    let term = consensus.status().term;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.with(id, |node| node.consensus.delay_syncs(Duration::from_secs(8)));
    }
    let proposed = runtime::spawn("proposal", {
        let consensus = consensus.clone();
        async move { consensus.propose(Bytes::from_static(b"slow command")).await }
    });
    let mut reads = 0;
    let deadline = runtime::now() + Duration::from_secs(60);
    while !proposed.is_finished() {
        assert!(runtime::now() < deadline, "the proposal is lost: the leader was deposed");
        reads += u32::from(consensus.read_index().await.is_ok());
        runtime::sleep(Duration::from_millis(10)).await;
    }
    proposed.await.unwrap().unwrap();
    assert!(reads >= 10, "{reads} reads while the disks were busy");
    let status = consensus.status();
    assert_eq!((status.state, status.term), (RaftState::Leader, term));
}

/// A state that cannot follow must stop its server, and say so; the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_fails_stops_its_node_and_nobody_else() {
    let cluster = Cluster::running(plain).await;
    cluster.propose("before").await;
    let leader = cluster.leader().await;
    cluster.with(leader, |node| node.machine.breaks.store(true, Ordering::Relaxed));
    let consensus = cluster.consensus(leader);
    let failed = consensus.propose(Bytes::from_static(b"never applied here")).await;
    assert!(matches!(failed, Err(ConsensusError::Stopped { .. })), "{failed:?}");
    let mut failure = consensus.watch_failure();
    let failure = failure.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(failure.to_string().contains("the disk is broken"), "{failure}");
    let status = consensus.status();
    assert_eq!(status.state, RaftState::Stopped);
    assert!(status.failure.is_some());
    cluster.kill(leader);
    assert!(cluster.propose("the others go on").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::running(plain).await;
    let leader = cluster.leader().await;
    cluster.propose("before").await;
    cluster.consensus(leader).transfer_leader().await;
    until("another one to lead", || {
        cluster
            .ids()
            .into_iter()
            .find(|id| *id != leader && cluster.consensus(*id).status().state == RaftState::Leader)
    })
    .await;
    cluster.agreed().await;
    // And a node that is shut down in good order has let go of its log.
    let consensus = cluster.consensus(leader);
    consensus.shutdown().await;
    assert!(matches!(consensus.propose(Bytes::new()).await, Err(ConsensusError::Stopped { .. })));
    cluster.kill(leader);
    cluster.start(leader).await;
    cluster.agreed().await;
}
