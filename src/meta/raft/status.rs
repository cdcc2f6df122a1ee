//! What consensus tells of itself: for the status page, for tests, and for whoever must decide to give up.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ServerState;

use super::log::Standing;
use super::membership::Place;
use super::types::{TypeConfig, log_index, log_index_of};
use crate::types::{LogIndex, NodeAddress, NodeId};

/// Part this node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RaftState {
    /// Its disk is empty and it does not know yet what it is: neither votes nor stores.
    Blank,
    /// Its disk is empty, and it is no member of the cluster: it waits to be added.
    Stranger,
    /// It was a member and is none any more.
    Removed,
    /// Was empty in an existing cluster: stores entries, does not vote before it has what the leader had.
    Joining,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Stores, is not counted.
    Learner,
    /// Stopped, on request or by a failure.
    Stopped,
}

/// Consensus on this node at one moment. Log indexes count from 1.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RaftStatus {
    /// This node.
    pub node: NodeId,
    /// Its part.
    pub state: RaftState,
    /// Newest term it has seen.
    pub term: u64,
    /// Leader of that term, if known.
    pub leader: Option<NodeId>,
    /// Last entry in its log; 0: none.
    pub last_log: LogIndex,
    /// Last entry it knows to be committed.
    pub committed: LogIndex,
    /// Last entry applied.
    pub applied: LogIndex,
    /// Entries up to this one are no longer in the log.
    pub purged: LogIndex,
    /// Last entry that the newest snapshot covers.
    pub snapshot: LogIndex,
    /// Voters and learners, with the addresses written into the log.
    pub members: BTreeMap<NodeId, NodeAddress>,
    /// Those of them that are counted.
    pub voters: BTreeSet<NodeId>,
    /// On the leader: the last entry each peer is known to have on its disk.
    pub matched: BTreeMap<NodeId, LogIndex>,
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// Why it stopped, and the way out.
    pub failure: Option<String>,
}

/// The status from openraft's metrics, if it runs.
pub(super) fn status(
    node: NodeId,
    standing: Standing,
    place: Place,
    metrics: Option<openraft::RaftMetrics<TypeConfig>>,
    log_bytes: u64,
    failure: Option<String>,
) -> RaftStatus {
    let metrics = metrics.unwrap_or_else(|| openraft::RaftMetrics::new_initial(node.0));
    let state = match (standing, metrics.state) {
        _ if place == Place::Removed => RaftState::Removed,
        (Standing::Blank, _) if place == Place::Stranger => RaftState::Stranger,
        (Standing::Blank, _) => RaftState::Blank,
        (_, ServerState::Shutdown) => RaftState::Stopped,
        _ if metrics.running_state.is_err() => RaftState::Stopped,
        (Standing::Joining, _) => RaftState::Joining,
        (Standing::Member, ServerState::Follower) => RaftState::Follower,
        (Standing::Member, ServerState::Candidate) => RaftState::Candidate,
        (Standing::Member, ServerState::Leader) => RaftState::Leader,
        (Standing::Member, ServerState::Learner) => RaftState::Learner,
    };
    let members = metrics.membership_config.nodes();
    let matched = metrics.replication.iter().flatten();
    RaftStatus {
        node,
        state,
        term: metrics.current_term,
        leader: metrics.current_leader.map(NodeId),
        last_log: metrics.last_log_index.map_or(LogIndex(0), log_index),
        committed: log_index_of(metrics.local_committed.as_ref()),
        applied: log_index_of(metrics.last_applied.as_ref()),
        purged: log_index_of(metrics.purged.as_ref()),
        snapshot: log_index_of(metrics.snapshot.as_ref()),
        voters: metrics.membership_config.voter_ids().map(NodeId).collect(),
        members: members.map(|(id, node)| (NodeId(*id), NodeAddress(node.addr.clone()))).collect(),
        matched: matched.map(|(id, matched)| (NodeId(*id), log_index_of(matched.as_ref()))).collect(),
        log_bytes,
        failure,
    }
}
