//! How a node with an empty disk becomes part of a cluster without breaking a promise that it no longer remembers.
//!
//! A voter promises votes and keeps entries. One whose disk was wiped and that comes back under its id has forgotten
//! both; let it vote or count at once, and an entry that it helped to commit can be lost. So a node with an empty log
//! first asks *all* other voters, and meanwhile neither votes nor stores:
//!
//! - None of them has ever seen a leader: nothing can have been committed. The cluster is made. Peers that are a step
//!   ahead and campaign already are no obstacle; terms that they used are refused, this node may have promised them.
//! - Some have: it was wiped. It refuses all terms up to the highest that any of them knows (it cannot have promised
//!   a vote in a higher one: a candidate stores its term before it asks), and joins: it takes entries or a snapshot,
//!   but neither votes nor campaigns before it has applied all that the leader it follows had in its log when asked.
//!   That leader was elected without the forgotten log, or had sent this node everything it ever kept.
//!
//! Holds with one wiped voter at a time. While another voter does not answer, a wiped one waits: with both gone the
//! promise may be remembered by nobody. Two of three wiped at once stay without a leader until the third is restored;
//! nothing is overwritten.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use openraft::BasicNode;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::RaftError;

use super::log::{Standing, StoredVote};
use super::messages::{Probed, kind, pack, unpack};
use super::network::Lane;
use super::store::log_id;
use super::{Consensus, Leader, MetricsWatch, StoreError, leader_of, log_index_of};
use crate::runtime;
use crate::types::{LogIndex, NodeAddress, NodeId};
use crate::wire::RpcError;

/// Between two rounds of asking. A start of the whole cluster waits for its slowest server anyway.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What the answers of all other voters mean for a node with an empty log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// There is no cluster: make it.
    Found,
    /// Others are making it: wait for their leader, promise nothing up to this term.
    Follow { floor: u64 },
    /// There is one: this node was wiped. Promise nothing up to this term.
    Join { floor: u64 },
}

fn judge(answers: &[Probed]) -> Verdict {
    let floor = answers.iter().map(|answer| answer.term).max().unwrap_or(0);
    if answers.iter().any(|answer| answer.has_seen_leader) {
        Verdict::Join { floor }
    } else if floor > 0 {
        Verdict::Follow { floor }
    } else {
        Verdict::Found
    }
}

impl Consensus {
    /// Makes this node part of the cluster of `voters`. Every configured server calls it at every start with the same
    /// list, once it listens for its peers; does nothing when this node has been part of it before.
    ///
    /// With an empty disk it asks all other voters first, and waits until each has answered: if none of them has
    /// ever seen a leader the cluster is made, else this node was wiped and joins as such. A first start therefore
    /// needs all configured servers once.
    ///
    /// # Errors
    /// The log cannot be written, consensus was stopped meanwhile, or the list of voters lacks this node.
    pub async fn bootstrap(&self, voters: BTreeMap<NodeId, NodeAddress>) -> Result<(), StoreError> {
        let joined = self.join(voters).await;
        if let Err(error) = &joined
            && !self.shared.tasks.stopping().is_stopping()
        {
            self.shared.failure.send_replace(Some(error.clone()));
        }
        joined
    }

    async fn join(&self, voters: BTreeMap<NodeId, NodeAddress>) -> Result<(), StoreError> {
        let _one = self.shared.bootstrapping.lock().await;
        if self.shared.raft.get().is_some() {
            return Ok(());
        }
        let me = self.shared.config.node;
        let failed = |reason: String| StoreError::new("joining the cluster", reason);
        if !voters.contains_key(&me) {
            return Err(failed(format!("node {me} is not among the configured voters")));
        }
        let stopping = self.shared.tasks.stopping();
        // Dropping the asking loses nothing.
        let answers = tokio::select! {
            answers = self.ask_all(&voters) => answers,
            () = stopping.stopped() => return Err(failed("stopped".into())),
        };
        let verdict = judge(&answers);
        tracing::info!(node = %me, ?verdict, "all other metadata servers have answered");
        let promise = |floor| StoredVote { term: floor, node: me.0, committed: false };
        let (standing, floor) = match verdict {
            Verdict::Found => (Standing::Member, None),
            Verdict::Follow { floor } => (Standing::Member, Some(promise(floor))),
            Verdict::Join { floor } => (Standing::Joining, Some(promise(floor))),
        };
        if standing == Standing::Member && self.shared.machine.position().index > LogIndex(0) {
            return Err(failed(
                "this server has the state of a cluster, but no log, and no other server knows a cluster: \
                 restore the others, or wipe this one"
                    .into(),
            ));
        }
        if floor.is_some() {
            let note = self.shared.log.update_durably(|hard| {
                hard.standing = standing;
                hard.vote = floor;
            });
            note.await.map_err(|e| failed(e.to_string()))?;
        }
        self.take_part(standing).await?;
        if verdict == Verdict::Found {
            self.found(&voters).await?;
        }
        Ok(())
    }

    /// Writes the first entry, the same on every voter that comes here, and notes that this node takes part.
    async fn found(&self, voters: &BTreeMap<NodeId, NodeAddress>) -> Result<(), StoreError> {
        let failed = |reason: String| StoreError::new("making the cluster", reason);
        let members: BTreeMap<u64, BasicNode> =
            voters.iter().map(|(node, address)| (node.0, BasicNode::new(address))).collect();
        let raft = self.raft().map_err(|e| failed(e.to_string()))?;
        match raft.initialize(members).await {
            Ok(()) => tracing::info!(voters = voters.len(), "cluster made"),
            // Another voter was faster, and its entry is here already.
            Err(RaftError::APIError(e)) => tracing::info!(reason = %e, "another server made the cluster"),
            Err(RaftError::Fatal(e)) => return Err(failed(e.to_string())),
        }
        let note = self.shared.log.update_durably(|hard| hard.standing = Standing::Member);
        note.await.map_err(|e| failed(e.to_string()))
    }

    /// Asks every other voter until each has answered.
    async fn ask_all(&self, voters: &BTreeMap<NodeId, NodeAddress>) -> Vec<Probed> {
        let mut answers = BTreeMap::new();
        let mut rounds = 0_u32;
        loop {
            let missing = voters
                .iter()
                .filter(|(node, _)| **node != self.shared.config.node && !answers.contains_key(*node));
            let asked = missing.map(|(node, address)| async move { (*node, self.ask(*node, address).await) });
            let mut silent = Vec::new();
            for (node, answer) in join_all(asked).await {
                match answer {
                    Ok(answer) => drop(answers.insert(node, answer)),
                    Err(e) => silent.push((node, e)),
                }
            }
            if silent.is_empty() {
                return answers.into_values().collect();
            }
            for (node, error) in silent.iter().filter(|_| rounds.is_multiple_of(25)) {
                tracing::warn!(
                    %node, %error,
                    "this server's disk is empty: it waits until every other metadata server has said whether there is a cluster"
                );
            }
            rounds += 1;
            runtime::sleep(ASK_AGAIN).await;
        }
    }

    async fn ask(&self, node: NodeId, address: &NodeAddress) -> Result<Probed, RpcError> {
        let address = self.shared.network.address(node.0, Some(&address.0));
        let channel = self.shared.network.channel(node.0, &address, Lane::Beat);
        let reply = channel.call(kind::PROBE, pack(&())?, Bytes::new(), ANSWER_MAX).await?;
        let answer: Probed = unpack(&reply.meta)?;
        if answer.node != node.0 {
            return Err(RpcError::WrongNode { expected: node, found: NodeId(answer.node) });
        }
        Ok(answer)
    }

    /// What this node knows of a cluster, from its log.
    pub(super) fn probed(&self) -> Probed {
        let hard = self.shared.log.hard();
        let led = |vote: StoredVote| vote.committed && vote.term > 0;
        Probed {
            node: self.shared.config.node.0,
            term: hard.vote.map_or(0, |vote| vote.term).max(hard.last.map_or(0, |last| last.term)),
            has_seen_leader: hard.vote.is_some_and(led)
                || hard.last.is_some_and(|last| last.term > 0)
                || hard.standing == Standing::Joining
                || self.shared.machine.position().index > LogIndex(1),
            leads: self.leader().is_some_and(|leader| {
                leader.node == self.shared.config.node
                    && hard.vote.is_some_and(|vote| vote.term == leader.term)
            }),
            last: hard.last.map(log_id),
        }
    }

    /// Runs while this node joins: until it has applied all that its leader had.
    pub(super) async fn catch_up(self) {
        let stopping = self.shared.tasks.stopping();
        // Whatever is dropped is asked again at the next start.
        tokio::select! {
            () = stopping.stopped() => {}
            () = self.catch_up_with_a_leader() => {}
        }
    }

    async fn catch_up_with_a_leader(&self) {
        let Ok(raft) = self.raft() else { return };
        let mut metrics = raft.metrics();
        loop {
            runtime::sleep(ASK_AGAIN).await;
            let now = leader_of(&metrics.borrow_watched());
            let Some(leader) = now else { continue };
            let Some(address) = self.address(leader.node) else { continue };
            let answer = match self.ask(leader.node, &address).await {
                Ok(answer) if answer.leads && answer.term == leader.term => answer,
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, leader = %leader.node, "the leader does not say how far its log goes");
                    continue;
                }
            };
            let target = log_index_of(answer.last.as_ref());
            if !self.reaches(target, leader, &mut metrics).await {
                continue;
            }
            if let Err(e) = self.shared.log.update_durably(|hard| hard.standing = Standing::Member).await {
                tracing::error!(error = %e, "cannot note that this server has caught up");
                return;
            }
            *self.shared.standing.lock() = Standing::Member;
            raft.runtime_config().elect(true);
            tracing::info!(index = %target, leader = %leader.node, "caught up after a start with an empty disk: votes again");
            return;
        }
    }

    /// Waits until `target` is applied under `leader`; false if that one no longer leads.
    async fn reaches(&self, target: LogIndex, leader: Leader, metrics: &mut MetricsWatch) -> bool {
        loop {
            {
                let now = metrics.borrow_watched();
                if leader_of(&now) != Some(leader) {
                    return false;
                }
                if log_index_of(now.last_applied.as_ref()) >= target {
                    return true;
                }
            }
            if metrics.changed().await.is_err() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(term: u64, has_seen_leader: bool) -> Probed {
        Probed { node: 1, term, has_seen_leader, leads: false, last: None }
    }

    #[test]
    fn only_where_nobody_has_seen_anything_a_cluster_is_made() {
        assert_eq!(judge(&[]), Verdict::Found);
        assert_eq!(judge(&[answer(0, false), answer(0, false)]), Verdict::Found);
        assert_eq!(judge(&[answer(0, false), answer(2, false)]), Verdict::Follow { floor: 2 });
        assert_eq!(judge(&[answer(7, false), answer(3, true)]), Verdict::Join { floor: 7 });
    }
}
