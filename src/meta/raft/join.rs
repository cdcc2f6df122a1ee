//! How a node with an empty disk becomes part of a cluster without breaking a promise that it no longer remembers.
//!
//! A voter promises votes and keeps entries. One whose disk was wiped and that comes back under its id has forgotten
//! both; let it vote or count at once, and an entry that it helped to commit can be lost. So a node with an empty log
//! first asks the others who the members are, and meanwhile neither votes nor stores:
//!
//! - No configured server has ever seen a leader: nothing can have been committed. The cluster is made, if this node is to
//!   make one. Peers that are a step ahead and campaign already are no obstacle; terms that they used are refused, this
//!   node may have promised them.
//! - By the newest membership that anybody knows it is a voter: it was wiped. It waits until *all* other voters have answered, refuses
//!   all terms up to the highest that any of them knows (it cannot have promised a vote in a higher one: a candidate stores its
//!   term before it asks), and joins: it takes entries or a snapshot, but neither votes nor campaigns before it has
//!   applied all that the leader it follows had in its log when asked. That leader was elected without the forgotten log, or
//!   had sent this node everything it ever kept. A newer membership than all of them know cannot count: the entry that changes
//!   the voters is on a majority of the voters before, so on one of those asked.
//! - A leader that a majority has confirmed says that it is a learner: it has promised nothing that counts, and joins in the same way.
//! - The same says that it is none of the members: a stranger, which waits to be added; or that it was removed: then it stops here.
//!
//! Holds with one wiped voter at a time. While another voter does not answer, a wiped one waits: with both gone the
//! promise may be remembered by nobody. Two of three wiped at once stay without a leader until the third is restored;
//! nothing is overwritten.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use openraft::BasicNode;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::RaftError;

use super::log::{Standing, StoredVote};
use super::membership::Place;
use super::messages::{Probed, Roster, kind, pack, unpack};
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

/// What the answers of the others mean for a node with an empty log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// There is no cluster: make it.
    Found,
    /// Others are making it: wait for their leader, promise nothing up to this term.
    Follow { floor: u64 },
    /// There is one, and this node a member of it. Promise nothing up to this term.
    Join { floor: u64 },
    /// There may be one, and this node is none of its members, as far as is known for sure.
    Stranger,
    /// It was one of them.
    Removed,
    /// Not all have answered who must.
    Wait,
}

/// Judges what others answered last. `founders`: the configured servers, if this node is to make a cluster with them.
fn judge(
    me: u64,
    founders: Option<&BTreeMap<NodeId, NodeAddress>>,
    answers: &BTreeMap<u64, Roster>,
) -> Verdict {
    let floor = answers.values().map(|roster| roster.probed.term).max().unwrap_or(0);
    let newest = answers.values().filter(|roster| roster.at.is_some()).max_by_key(|roster| roster.at);
    let seen_leader = answers.values().any(|roster| roster.probed.has_seen_leader);
    if let Some(newest) = newest.filter(|_| seen_leader) {
        let mut voters = newest.voters.iter().flatten();
        if newest.voters.iter().any(|set| set.contains(&me)) {
            let all = voters.all(|voter| *voter == me || answers.contains_key(voter));
            return if all { Verdict::Join { floor } } else { Verdict::Wait };
        }
        let confirmed = answers.values().find(|roster| roster.confirmed && roster.at == newest.at);
        return match confirmed {
            Some(roster) if roster.addresses.contains_key(&me) => Verdict::Join { floor },
            Some(roster) if roster.removed.contains(&me) => Verdict::Removed,
            Some(_) => Verdict::Stranger,
            None => Verdict::Wait,
        };
    }
    let Some(founders) = founders else { return Verdict::Stranger };
    match founders.keys().all(|node| node.0 == me || answers.contains_key(&node.0)) {
        // A leader was seen by one whose log tells of no members: it is a step behind the others.
        true if seen_leader => Verdict::Wait,
        true if floor > 0 => Verdict::Follow { floor },
        true => Verdict::Found,
        false => Verdict::Wait,
    }
}

impl Consensus {
    /// Makes this node part of the cluster. Every server calls it at every start, once it listens for its peers, with the
    /// servers of its configuration; does nothing when this node has been part of it before. `founds`: these servers, this one among
    /// them, make the cluster if there is none.
    ///
    /// With an empty disk it asks them who the members are. To make the cluster, all must have answered that there is
    /// none: a first start needs all configured servers once. One that is no member waits to be made one.
    ///
    /// # Errors
    /// The log cannot be written, consensus was stopped meanwhile, or a founder is not in the list.
    pub async fn bootstrap(
        &self,
        servers: BTreeMap<NodeId, NodeAddress>,
        founds: bool,
    ) -> Result<(), StoreError> {
        let joined = self.join(servers, founds).await;
        if let Err(error) = &joined
            && !self.shared.tasks.stopping().is_stopping()
        {
            self.shared.failure.send_replace(Some(error.clone()));
        }
        joined
    }

    async fn join(&self, servers: BTreeMap<NodeId, NodeAddress>, founds: bool) -> Result<(), StoreError> {
        let _one = self.shared.bootstrapping.lock().await;
        if self.shared.raft.get().is_some() {
            return Ok(());
        }
        let me = self.shared.config.node;
        let failed = |reason: String| StoreError::new("joining the cluster", reason);
        if founds && !servers.contains_key(&me) {
            return Err(failed(format!("node {me} is not among the configured voters")));
        }
        let stopping = self.shared.tasks.stopping();
        // Dropping the asking loses nothing.
        let verdict = tokio::select! {
            verdict = self.ask_until_clear(&servers, founds) => verdict,
            () = stopping.stopped() => return Err(failed("stopped".into())),
        };
        tracing::info!(node = %me, ?verdict, "the other metadata servers have answered");
        let promise = |floor| StoredVote { term: floor, node: me.0, committed: false };
        let (standing, floor) = match verdict {
            Verdict::Found => (Standing::Member, None),
            Verdict::Follow { floor } => (Standing::Member, Some(promise(floor))),
            Verdict::Join { floor } => (Standing::Joining, Some(promise(floor))),
            Verdict::Removed => {
                self.retire(LogIndex(0)).await;
                return Ok(());
            }
            Verdict::Stranger | Verdict::Wait => return Err(failed("nothing is clear".into())),
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
        self.set_place(Place::Unknown);
        self.take_part(standing).await?;
        if verdict == Verdict::Found {
            self.found(&servers).await?;
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

    /// Asks everybody it hears of, again and again, until it is clear what this node is to do.
    async fn ask_until_clear(&self, servers: &BTreeMap<NodeId, NodeAddress>, founds: bool) -> Verdict {
        let me = self.shared.config.node;
        let mut known = servers.clone();
        // Of a first start: who has once said that it knows no cluster need not say so again.
        let mut answered: BTreeMap<u64, Roster> = BTreeMap::new();
        let mut rounds = 0_u32;
        loop {
            let mut silent = Vec::new();
            for (node, answer) in self.ask_rosters(&known).await {
                match answer {
                    Ok(roster) => {
                        for (id, address) in &roster.addresses {
                            known.entry(NodeId(*id)).or_insert_with(|| NodeAddress(address.clone()));
                        }
                        answered.insert(node.0, roster);
                    }
                    Err(e) => {
                        // What it said of a cluster may be old by now.
                        answered.retain(|id, roster| *id != node.0 || !roster.probed.has_seen_leader);
                        silent.push((node, e));
                    }
                }
            }
            let verdict = judge(me.0, founds.then_some(servers), &answered);
            match verdict {
                Verdict::Wait => {}
                Verdict::Stranger => {
                    if self.set_place(Place::Stranger) {
                        tracing::warn!(
                            node = %me, command = format!("pohmelfs cluster add {me} ADDRESS"),
                            "this server is no member of the cluster: it waits until it is added"
                        );
                    }
                }
                clear => return clear,
            }
            for (node, error) in silent.iter().filter(|_| rounds.is_multiple_of(25)) {
                tracing::warn!(
                    %node, %error,
                    "this server's disk is empty: it waits until the other metadata servers have said whether there is a cluster"
                );
            }
            rounds = rounds.wrapping_add(1);
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::meta::raft::types::LogId;

    fn answer(node: u64, term: u64, has_seen_leader: bool) -> Roster {
        Roster {
            probed: Probed { node, term, has_seen_leader, leads: false, last: None },
            confirmed: false,
            at: None,
            voters: Vec::new(),
            addresses: BTreeMap::new(),
            removed: BTreeSet::new(),
        }
    }

    /// It knows of these voters and learners since entry `at`.
    fn member(node: u64, term: u64, at: u64, voters: &[&[u64]], learners: &[u64]) -> Roster {
        let sets: Vec<BTreeSet<u64>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let all = sets.iter().flatten().chain(learners).map(|id| (*id, format!("meta-{id}:1")));
        Roster {
            at: Some(LogId::new_term_index(1, at)),
            addresses: all.collect(),
            voters: sets,
            ..answer(node, term, true)
        }
    }

    fn judged(me: u64, founders: &[u64], answers: &[Roster]) -> Verdict {
        let founders = founders.iter().map(|id| (NodeId(*id), NodeAddress::default())).collect();
        let answers = answers.iter().map(|roster| (roster.probed.node, roster.clone())).collect();
        judge(me, Some(&founders).filter(|f: &&BTreeMap<_, _>| !f.is_empty()), &answers)
    }

    #[test]
    fn only_where_nobody_has_seen_anything_a_cluster_is_made() {
        assert_eq!(judged(1, &[1], &[]), Verdict::Found);
        assert_eq!(judged(1, &[1, 2, 3], &[answer(2, 0, false)]), Verdict::Wait);
        assert_eq!(judged(1, &[1, 2, 3], &[answer(2, 0, false), answer(3, 0, false)]), Verdict::Found);
        assert_eq!(
            judged(1, &[1, 2, 3], &[answer(2, 0, false), answer(3, 2, false)]),
            Verdict::Follow { floor: 2 }
        );
        assert_eq!(judged(1, &[], &[answer(2, 0, false), answer(3, 0, false)]), Verdict::Stranger);
    }

    #[test]
    fn a_wiped_voter_waits_for_all_others_of_the_newest_membership() {
        let all = &[&[1_u64, 2, 3][..]];
        let [two, three] = [member(2, 7, 0, all, &[]), member(3, 4, 0, all, &[])];
        assert_eq!(judged(1, &[1, 2, 3], std::slice::from_ref(&two)), Verdict::Wait);
        assert_eq!(judged(1, &[1, 2, 3], &[two.clone(), three]), Verdict::Join { floor: 7 });
        // 3 was replaced by 4 meanwhile: 3 need not answer any more, and 4 must.
        let now = member(2, 7, 9, &[&[1, 2, 4]], &[]);
        assert_eq!(judged(1, &[1, 2, 3], std::slice::from_ref(&now)), Verdict::Wait);
        assert_eq!(
            judged(1, &[1, 2, 3], &[now, member(4, 8, 9, &[&[1, 2, 4]], &[])]),
            Verdict::Join { floor: 8 }
        );
        // Somebody is in the middle of a change: both sets count.
        let joint = member(2, 7, 8, &[&[1, 2, 3], &[1, 2, 4]], &[]);
        assert_eq!(judged(1, &[], &[joint.clone(), member(3, 1, 0, all, &[])]), Verdict::Wait);
        let both =
            [joint.clone(), member(3, 1, 0, all, &[]), Roster { probed: answer(4, 9, true).probed, ..joint }];
        assert_eq!(judged(1, &[], &both), Verdict::Join { floor: 9 });
    }

    /// A dead voter is why a new server comes: it must not keep it out.
    #[test]
    fn a_new_server_needs_the_word_of_a_confirmed_leader_only() {
        let unsure = member(2, 5, 9, &[&[1, 2, 3]], &[4]);
        assert_eq!(judged(4, &[], std::slice::from_ref(&unsure)), Verdict::Wait);
        let sure = Roster { confirmed: true, removed: [8].into(), ..unsure.clone() };
        assert_eq!(judged(4, &[], std::slice::from_ref(&sure)), Verdict::Join { floor: 5 });
        assert_eq!(judged(5, &[], std::slice::from_ref(&sure)), Verdict::Stranger);
        assert_eq!(judged(8, &[], std::slice::from_ref(&sure)), Verdict::Removed);
        let newer = member(3, 6, 11, &[&[1, 2, 3]], &[]);
        assert_eq!(judged(4, &[], &[sure, newer]), Verdict::Wait, "that leader does not know the newest");
        assert_eq!(
            judged(5, &[3, 4, 5], &[Roster { confirmed: true, ..unsure }]),
            Verdict::Stranger,
            "nor makes it one"
        );
    }
}
