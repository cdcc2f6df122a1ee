//! Linearizable reads without the leader: a majority says how far its logs go.
//!
//! `service` tries this first and asks the leader for a read index (`raft`) when it gives nothing. An update is acknowledged
//! once a majority of the voters has its entry, so any majority asked later has a member with that entry in its log: if this
//! server has applied as far as the longest log of a majority reaches, it shows everything that was acknowledged before the
//! majority was asked. (Quorum reads: Charapko, Ailijiang, Demirbas, "Linearizable Quorum Reads in Paxos", HotStorage 2019.)
//!
//! It costs one message to one of three servers, no round of the leader and no clock, and goes on while there is no leader. Holds:
//! only servers that remember all they ever accepted are counted; the voters are those as of the applied state, and the same
//! before and after. Gives nothing while an update is on its way: the leader's index does not wait for that one.
//! Not here: sharing one round among readers (`reads`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::peers::Peers;
use super::raft::Consensus;
use crate::types::{LogIndex, NodeId};

/// Longest wait for one server before another one is asked. It answers from memory; what takes longer is gone or overloaded.
const PATIENCE: Duration = Duration::from_millis(50);

/// Whom to ask first.
#[derive(Debug, Default)]
pub struct Quorum {
    /// Counts up when a server failed: the next round begins with the one behind it.
    turn: AtomicUsize,
}

impl Quorum {
    /// An index that this server has applied already and that covers everything acknowledged before the call. None: this way
    /// does not lead there now.
    pub async fn index(&self, consensus: &Consensus, peers: &Peers) -> Option<LogIndex> {
        let voters = consensus.voters()?;
        let own = consensus.accepted()?;
        if own > consensus.applied() {
            return None;
        }
        let longest = self.longest(consensus.node(), &voters, own, peers).await?;
        let unchanged = consensus.voters().is_some_and(|now| Arc::ptr_eq(&now, &voters));
        (unchanged && longest <= consensus.applied()).then_some(longest)
    }

    /// The end of the longest log of a majority with this server in it.
    async fn longest(
        &self,
        own_node: NodeId,
        voters: &BTreeSet<NodeId>,
        own: LogIndex,
        peers: &Peers,
    ) -> Option<LogIndex> {
        let turn = self.turn.load(Ordering::Relaxed);
        let mut waiting = in_turn(own_node, voters, turn).into_iter();
        let mut missing = voters.len() / 2;
        let ask = |node| peers.accepted(node, PATIENCE);
        let mut asked: FuturesUnordered<_> = waiting.by_ref().take(missing).map(ask).collect();
        let mut longest = own;
        // Dropped, the questions that are on their way are cancelled.
        while missing > 0 {
            match asked.next().await? {
                Ok(index) => {
                    longest = longest.max(index);
                    missing -= 1;
                }
                Err(error) => {
                    tracing::debug!(%error, "a metadata server does not say how far its log goes");
                    // Losing the race means that another round has moved on already.
                    let _ = self.turn.compare_exchange(
                        turn,
                        turn.wrapping_add(1),
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    );
                    asked.push(ask(waiting.next()?));
                }
            }
        }
        Some(longest)
    }
}

/// For a caller that asks `witnesses` itself: the index as of which this server may answer now, if they and this server are a
/// majority and it has applied its own log to the end. What it reads *after* this call shows every update acknowledged before
/// the caller's question, if no log of a witness, asked after that question too, reaches beyond the index.
pub fn beside(consensus: &Consensus, witnesses: &[NodeId]) -> Option<LogIndex> {
    // In this order: an entry up to this index that changes the voters shows in the voters read later.
    let applied = consensus.applied();
    let own = consensus.accepted()?;
    let voters = consensus.voters()?;
    (own <= applied && are_majority(consensus.node(), witnesses, &voters)).then_some(applied)
}

/// Whether `own`, a voter, and the witnesses, each counted once, are more than half of the voters.
fn are_majority(own: NodeId, witnesses: &[NodeId], voters: &BTreeSet<NodeId>) -> bool {
    let named = |voter: &&NodeId| **voter == own || witnesses.contains(voter);
    voters.iter().filter(named).count() > voters.len() / 2
}

/// The other voters, beginning with the one behind `own` in the ring of ids so that servers do not all ask the same one,
/// moved on by `turn`.
fn in_turn(own: NodeId, voters: &BTreeSet<NodeId>, turn: usize) -> Vec<NodeId> {
    let behind = voters.iter().filter(|id| **id > own);
    let mut others: Vec<NodeId> = behind.chain(voters.iter().filter(|id| **id < own)).copied().collect();
    if !others.is_empty() {
        let by = turn % others.len();
        others.rotate_left(by);
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_begins_with_its_neighbour_and_moves_on() {
        let voters: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        assert_eq!(in_turn(NodeId(1), &voters, 0), [2, 3].map(NodeId));
        assert_eq!(in_turn(NodeId(2), &voters, 0), [3, 1].map(NodeId));
        assert_eq!(in_turn(NodeId(3), &voters, 0), [1, 2].map(NodeId));
        assert_eq!(in_turn(NodeId(3), &voters, 1), [2, 1].map(NodeId));
        assert_eq!(in_turn(NodeId(1), &[NodeId(1)].into(), 7), []);
    }

    #[test]
    fn only_voters_count_each_once() {
        let voters: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        assert!(are_majority(NodeId(1), &[NodeId(3)], &voters));
        assert!(!are_majority(NodeId(1), &[], &voters));
        assert!(!are_majority(NodeId(1), &[NodeId(1), NodeId(4), NodeId(4)], &voters));
        let five: BTreeSet<NodeId> = [1, 2, 3, 4, 5].map(NodeId).into();
        assert!(!are_majority(NodeId(1), &[NodeId(2), NodeId(2)], &five));
        assert!(are_majority(NodeId(1), &[NodeId(2), NodeId(5)], &five));
        assert!(are_majority(NodeId(1), &[], &[NodeId(1)].into()));
    }
}
