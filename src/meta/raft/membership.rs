//! Who belongs to the cluster: the changes of it, what others are told of it, and how a node learns that it was removed.
//!
//! `changes` asks for a change on the leader, one at a time, when it has decided that it may be; `join` asks others for their roster.
//! Holds: voters change by a joint configuration only; who is removed campaigns no more once it knows.
//! Not here: whether a change is wise (`members`), and what a node with an empty disk makes of a roster (`join`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers, ServerState};
use tokio::sync::watch;

use super::messages::{Roster, kind, pack, unpack};
use super::network::Lane;
use super::types::Members;
use super::{Consensus, ConsensusError, leader_of, stopped};
use crate::runtime::{self, Instant};
use crate::types::{LogIndex, NodeAddress, NodeId};
use crate::wire::{Applied, RpcError};

/// Between two looks at whether anybody still speaks with this node.
const LOOK: Duration = Duration::from_millis(250);
/// Silence of all leaders after which a member asks what became of it. Longer than most elections.
const SILENCE: Duration = Duration::from_secs(2);
/// Longest wait for a roster.
pub(super) const ROSTER_MAX: Duration = Duration::from_secs(2);

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Gets the log from now on, and is not counted.
    AddLearner(NodeId, NodeAddress),
    /// A learner is counted.
    Promote(NodeId),
    /// A member is none any more.
    Remove(NodeId),
    /// A learner is counted in the place of a voter, who is no member any more.
    Replace {
        /// Who goes.
        old: NodeId,
        /// Who comes.
        new: NodeId,
    },
    /// Ends a change of voters that another leader began.
    Finish,
}

/// Where a node stands beyond what its log says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing is known but what the log says.
    #[default]
    Unknown,
    /// It has no log and the cluster does not know it.
    Stranger,
    /// It was a member and is none any more.
    Removed,
}

/// When a leader last spoke to this node.
#[derive(Debug)]
pub(super) struct Heard {
    began: Instant,
    /// Milliseconds since `began`.
    at: AtomicU64,
}

impl Default for Heard {
    fn default() -> Self {
        Self { began: runtime::now(), at: AtomicU64::new(0) }
    }
}

impl Heard {
    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Now.
    pub(super) fn note(&self) {
        self.at.store(self.millis(), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(self.at.load(Ordering::Relaxed)))
    }
}

/// The changes in openraft's words, and whether voters that go stay as learners.
fn in_words(change: Change, is_voter: impl Fn(NodeId) -> bool) -> (ChangeMembers<u64, BasicNode>, bool) {
    match change {
        Change::AddLearner(node, address) => {
            (ChangeMembers::AddNodes(BTreeMap::from([(node.0, BasicNode::new(address))])), true)
        }
        Change::Promote(node) => (ChangeMembers::AddVoterIds(BTreeSet::from([node.0])), true),
        Change::Remove(node) if is_voter(node) => {
            (ChangeMembers::RemoveVoters(BTreeSet::from([node.0])), false)
        }
        Change::Remove(node) => (ChangeMembers::RemoveNodes(BTreeSet::from([node.0])), false),
        Change::Replace { old, new } => {
            let out = ChangeMembers::RemoveVoters(BTreeSet::from([old.0]));
            let into = ChangeMembers::AddVoterIds(BTreeSet::from([new.0]));
            (ChangeMembers::Batch(vec![out, into]), false)
        }
        Change::Finish => (ChangeMembers::AddVoterIds(BTreeSet::new()), false),
    }
}

impl Consensus {
    /// The members as of the applied state.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        self.shared.members.members()
    }

    /// The same, as they change.
    #[must_use]
    pub fn watch_members(&self) -> watch::Receiver<Arc<Members>> {
        self.shared.members.watch()
    }

    /// This node was a member once and is none any more. Never goes back.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        *self.shared.place.borrow() == Place::Removed
    }

    /// The cluster does not know it, and its disk is empty.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        *self.shared.place.borrow() == Place::Stranger
    }

    /// It has no log, so it has promised nothing that it remembers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.raft.get().is_none()
    }

    pub(super) fn set_place(&self, place: Place) -> bool {
        self.shared.place.send_if_modified(|before| std::mem::replace(before, place) != place)
    }

    /// On the leader: changes the members; returns when that is committed and applied here. To be called one at a time. A change
    /// of voters that was dropped half way is ended by [`Change::Finish`].
    ///
    /// # Errors
    /// This node does not lead (any more), or another change is under way.
    pub async fn change_members(&self, change: Change) -> Result<(), ConsensusError> {
        let members = self.members();
        let (change, keep) = in_words(change, |node| members.voters.contains(&node));
        match self.raft()?.change_membership(change, keep).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward))) => {
                Err(ConsensusError::LeaderLost { leader: self.forward(&forward) })
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(self.not_leader(&forward))
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))) => Err(ConsensusError::Changing),
            Err(RaftError::APIError(e)) => Err(stopped(&e, Applied::No)),
            Err(RaftError::Fatal(e)) => Err(stopped(&e, Applied::Maybe)),
        }
    }

    /// On the leader: lets `to` lead, a voter that answers. True once somebody else does; false if nobody took over in time, and this
    /// node may lead on.
    ///
    /// # Errors
    /// Consensus has not started or has stopped.
    pub async fn transfer_leader_to(&self, to: NodeId) -> Result<bool, ConsensusError> {
        let me = self.shared.config.node;
        self.raft()?.trigger().transfer_leader(to.0).await.map_err(|e| stopped(&e, Applied::No))?;
        let mut leader = self.watch_leader();
        let handed_over = leader.wait_for(|leader| leader.is_some_and(|leader| leader.node != me));
        // One election without its time-out: a few fsyncs. And one with it, should `to` have died just now.
        Ok(runtime::timeout(self.shared.config.timers.election_max * 3, handed_over).await.is_ok())
    }

    /// If this node leads, hands over to the voter that has most of the log, and waits a moment for it to lead.
    pub async fn transfer_leader(&self) {
        let Ok(raft) = self.raft() else { return };
        let me = self.shared.config.node;
        let target = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
            let matched = metrics.replication.as_ref().filter(|_| metrics.state == ServerState::Leader);
            matched.and_then(|matched| {
                let others = matched.iter().filter(|(node, _)| **node != me.0 && voters.contains(*node));
                others.max_by_key(|(_, matched)| **matched).map(|(node, _)| NodeId(*node))
            })
        };
        let Some(target) = target else { return };
        match self.transfer_leader_to(target).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(to = %target, "leadership was not taken over in time"),
            Err(e) => tracing::warn!(error = %e, to = %target, "cannot hand over leadership"),
        }
    }

    /// What this node knows of the members. A leader first makes sure that it still is one.
    pub(super) async fn roster(&self) -> Roster {
        let leads = self.leader().is_some_and(|leader| leader.node == self.shared.config.node);
        let confirmed =
            leads && matches!(runtime::timeout(ROSTER_MAX / 2, self.read_index()).await, Ok(Ok(_)));
        let effective =
            self.shared.raft.get().map(|raft| raft.metrics().borrow_watched().membership_config.clone());
        let membership = effective.as_ref().map(|stored| stored.membership());
        Roster {
            probed: self.probed(),
            confirmed,
            at: effective.as_ref().and_then(|stored| *stored.log_id()),
            voters: membership.map_or_else(Vec::new, |m| m.get_joint_config().clone()),
            addresses: membership
                .map(|m| m.nodes().map(|(id, node)| (*id, node.addr.clone())).collect())
                .unwrap_or_default(),
            removed: self.members().removed.iter().map(|node| node.0).collect(),
        }
    }

    /// Asks everybody at `known` but this node for their roster.
    pub(super) async fn ask_rosters(
        &self,
        known: &BTreeMap<NodeId, NodeAddress>,
    ) -> BTreeMap<NodeId, Result<Roster, RpcError>> {
        let others = known.iter().filter(|(node, _)| **node != self.shared.config.node);
        let asked =
            others.map(|(node, address)| async move { (*node, self.ask_roster(*node, address).await) });
        join_all(asked).await.into_iter().collect()
    }

    async fn ask_roster(&self, node: NodeId, address: &NodeAddress) -> Result<Roster, RpcError> {
        let address = self.shared.network.address(node.0, Some(&address.0));
        let channel = self.shared.network.channel(node.0, &address, Lane::Beat);
        let reply = channel.call(kind::ROSTER, pack(&())?, Bytes::new(), ROSTER_MAX).await?;
        let roster: Roster = unpack(&reply.meta)?;
        if roster.probed.node != node.0 {
            return Err(RpcError::WrongNode { expected: node, found: NodeId(roster.probed.node) });
        }
        Ok(roster)
    }

    /// Runs while this node takes part: lets go of connections to those who left, and finds out when it was removed.
    pub(super) async fn watch_place(self) {
        let stopping = self.shared.tasks.stopping();
        let mut members = self.watch_members();
        loop {
            let now = members.borrow_and_update().clone();
            let me = self.shared.config.node;
            // The members it stood in last: a node that is alone in knowing them asks those.
            if !now.addresses.is_empty() && now.addresses.contains_key(&me) {
                self.shared.network.keep(&now.addresses);
            }
            let leads = self.is_followed();
            if now.removed.contains(&me) && !leads {
                return self.retire(LogIndex(0)).await;
            }
            // One that was added and has heard nothing yet knows those of its configuration; they are kept where others are not.
            let known = if now.addresses.is_empty() {
                self.shared.network.configured()
            } else {
                now.addresses.clone()
            };
            // It is not sent the end of the change that takes it out.
            let silence = if now.leaving.contains(&me) { SILENCE / 8 } else { SILENCE };
            if !leads && self.shared.heard.silence() >= silence && !known.is_empty() {
                tracing::debug!(node = %me, "nobody speaks with this node: it asks the others whether it is still a member");
                // Dropped at a stop: it is asked again at the next start.
                let told = tokio::select! {
                    told = self.told_of_removal(known) => told,
                    () = stopping.stopped() => return,
                };
                if let Some(roster) = told {
                    return self.retire(super::log_index_of(roster.at.as_ref())).await;
                }
            }
            // Nothing is lost in a branch that is dropped: the members are looked at again.
            tokio::select! {
                _ = members.changed() => {}
                () = runtime::sleep(LOOK) => {}
                () = stopping.stopped() => return,
            }
        }
    }

    /// This node leads, and most of the members have said so lately. One that proposed its own removal and was cut off meanwhile would
    /// take itself for the leader for ever: its successor has nothing to tell it.
    fn is_followed(&self) -> bool {
        let Some(raft) = self.shared.raft.get() else { return false };
        let metrics = raft.metrics().borrow_watched().clone();
        let acknowledged = metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < SILENCE);
        acknowledged && leader_of(&metrics).is_some_and(|leader| leader.node == self.shared.config.node)
    }

    /// Asks the members that this node knows of, and those that they know of, until a leader says that this node was removed: it may be
    /// none of those that were members then.
    async fn told_of_removal(&self, mut ask: BTreeMap<NodeId, NodeAddress>) -> Option<Roster> {
        let me = self.shared.config.node;
        let mut asked = BTreeSet::new();
        while !ask.is_empty() {
            let rosters = self.ask_rosters(&ask).await;
            asked.extend(ask.into_keys());
            let mut further = BTreeMap::new();
            for roster in rosters.into_values().flatten() {
                if roster.confirmed && roster.removed.contains(&me.0) {
                    return Some(roster);
                }
                further.extend(roster.addresses.into_iter().map(|(id, at)| (NodeId(id), NodeAddress(at))));
            }
            further.retain(|node, _| !asked.contains(node));
            ask = further;
        }
        None
    }

    /// This node was removed: it campaigns no more, and whoever looks is told.
    pub(super) async fn retire(&self, at: LogIndex) {
        if let Some(raft) = self.shared.raft.get() {
            raft.runtime_config().elect(false);
        }
        if self.set_place(Place::Removed) {
            self.shared.leader.send_replace(None);
            tracing::error!(
                node = %self.shared.config.node, index = %at,
                "this server was removed from the cluster: it serves nothing any more; stop it, and delete its directory before the \
                 machine is used under another node id"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_that_go_do_not_stay_as_learners() {
        let is_voter = |node: NodeId| node.0 <= 3;
        let (_, keep) = in_words(Change::Remove(NodeId(3)), is_voter);
        assert!(!keep);
        let (words, _) = in_words(Change::Remove(NodeId(4)), is_voter);
        assert_eq!(words, ChangeMembers::RemoveNodes(BTreeSet::from([4])));
        let (words, keep) = in_words(Change::Replace { old: NodeId(1), new: NodeId(4) }, is_voter);
        assert!(matches!(words, ChangeMembers::Batch(steps) if steps.len() == 2) && !keep);
    }
}
