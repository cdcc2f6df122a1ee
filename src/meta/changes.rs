//! Carries out what an operator wants of the members, on the leader, one change at a time.
//!
//! `service` calls it for `MetaRequest::Members`, `worker` at each tick. Holds: a change that is decided upon (`members`) rests on
//! a view gathered under the same turn; one that was dropped half way, or whose leader died, is ended at a later tick.
//! Not here: the decisions, and what the cluster map makes of it (`worker`).

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;

use super::members::{self, Seen, Step, Stranger, View};
use super::raft::{Change, ConsensusError};
use super::service::Service;
use crate::runtime;
use crate::types::{MetaNode, NodeAddress, NodeId, NodeState};
use crate::wire::RpcError;
use crate::wire::members::{MembersOutcome, MembersRequest, Refusal};

/// Longest wait for one server to say that it is there.
pub(super) const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Longest wait for a server that is to be added: its name has to be resolved, perhaps, and it may be busy starting.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a change to be committed. The majority answered a moment ago.
const COMMIT_MAX: Duration = Duration::from_secs(10);

/// Whose turn it is, and what servers said of themselves.
#[derive(Default)]
pub(super) struct Changes {
    /// Held while members are changed.
    turn: tokio::sync::Mutex<()>,
    /// What holds it.
    now: Mutex<Option<MembersRequest>>,
    /// Name and addresses of members, as they told this server.
    pub(super) introduced: Mutex<BTreeMap<NodeId, MetaNode>>,
    /// Ticks in which the leader that founded the cluster still tries to raise the level.
    pub(super) raises: AtomicU32,
}

impl Service {
    /// Does what an operator wants, if it may be done. `Err`: ask the leader.
    pub(super) async fn change_members(
        &self,
        request: &MembersRequest,
    ) -> Result<Result<MembersOutcome, Refusal>, RpcError> {
        let _turn = loop {
            if let Ok(turn) = self.changes.turn.try_lock() {
                break turn;
            }
            let other = self.changes.now.lock().clone();
            match other {
                // The same, sent again: its outcome is what the caller wants to know.
                Some(same) if same == *request => runtime::sleep(ANSWER_MAX / 10).await,
                Some(other) => return Ok(Err(Refusal::Changing { what: words(&other) })),
                None => runtime::sleep(ANSWER_MAX / 50).await,
            }
        };
        *self.changes.now.lock() = Some(request.clone());
        let done = self.change(request).await;
        *self.changes.now.lock() = None;
        done
    }

    async fn change(&self, request: &MembersRequest) -> Result<Result<MembersOutcome, Refusal>, RpcError> {
        if self.consensus.members().is_changing && !matches!(request, MembersRequest::TransferLeader { .. }) {
            // Another leader began it, or this one was interrupted.
            self.commit(Change::Finish).await?;
        }
        let view = self.view().await;
        let (step, change) = match request {
            MembersRequest::Add { node, address } => {
                (self.decide_add(&view, *node, address).await, Change::AddLearner(*node, address.clone()))
            }
            MembersRequest::Promote { node } => (members::may_promote(&view, *node), Change::Promote(*node)),
            MembersRequest::Remove { node } => (members::may_remove(&view, *node), Change::Remove(*node)),
            MembersRequest::Replace { old, new } => {
                (members::may_replace(&view, *old, *new), Change::Replace { old: *old, new: *new })
            }
            MembersRequest::RaiseLevel => return self.raise_level().await,
            MembersRequest::TransferLeader { from, to } => {
                return match members::may_transfer(&view, *from, *to) {
                    Ok(None) => Ok(Ok(MembersOutcome::Already)),
                    Ok(Some(to)) => Ok(self.hand_over(to).await?.map(|()| MembersOutcome::Done)),
                    Err(refusal) => Ok(Err(refusal)),
                };
            }
        };
        match step {
            Ok(Step::Already) => return Ok(Ok(MembersOutcome::Already)),
            Ok(Step::Go) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        let goes = match change {
            Change::Remove(node) | Change::Replace { old: node, .. } => Some(node),
            _ => None,
        };
        if goes == Some(self.node) {
            // Who goes does not lead: the next leader is asked to do it.
            let to = match members::successor(&view) {
                Ok(to) => to,
                Err(refusal) => return Ok(Err(refusal)),
            };
            return match self.hand_over(to).await? {
                Ok(()) => Err(RpcError::NoLeader),
                Err(refusal) => Ok(Err(refusal)),
            };
        }
        match self.commit(change.clone()).await {
            Ok(()) => {
                tracing::info!(?change, "members changed");
                Ok(Ok(MembersOutcome::Done))
            }
            Err(ConsensusError::Changing) => {
                Ok(Err(Refusal::Changing { what: "it is being committed".into() }))
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn commit(&self, change: Change) -> Result<(), ConsensusError> {
        match runtime::timeout(COMMIT_MAX, self.consensus.change_members(change)).await {
            Ok(done) => done,
            Err(_) => Err(ConsensusError::NoQuorum),
        }
    }

    async fn hand_over(&self, to: NodeId) -> Result<Result<(), Refusal>, RpcError> {
        tracing::info!(%to, "hands leadership over");
        match self.consensus.transfer_leader_to(to).await {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(Refusal::NotTakenOver { to })),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a server may be added, which includes what it says when it is called.
    async fn decide_add(&self, view: &View, node: NodeId, address: &NodeAddress) -> Result<Step, Refusal> {
        let map = self.map().unwrap_or_default();
        if map.data.contains_key(&node) {
            return Err(Refusal::BadId { node });
        }
        if members::may_add(view, node, address)? == Step::Already {
            return Ok(Step::Already);
        }
        match self.peers.introduction_at(node, address, CALL_MAX).await {
            Ok((told, program)) => {
                let (cluster, is_empty) = (told.cluster, told.is_empty);
                let stranger = Stranger { node: told.server.node, cluster, is_empty, program };
                let active = self.level().map_err(|e| Refusal::Unreachable {
                    node: self.node,
                    address: self.own.address.clone(),
                    reason: e.to_string(),
                })?;
                members::is_fit(node, address, self.cluster(), active, &stranger)?;
                let name = told.server.name.clone();
                let of_data = map.data.values().filter(|n| n.state != NodeState::Removed);
                let names =
                    map.meta.values().map(|n| (n.node, &n.name)).chain(of_data.map(|n| (n.node, &n.name)));
                if let Some((node, _)) = names.into_iter().find(|(_, taken)| **taken == name) {
                    return Err(Refusal::NameTaken { name, node });
                }
                self.introduced(MetaNode { address: address.clone(), ..told.server });
                Ok(Step::Go)
            }
            Err(RpcError::WrongNode { expected, found }) => {
                Err(Refusal::OtherNode { address: address.clone(), expected, found })
            }
            Err(RpcError::WrongCluster { server: theirs, .. }) => Err(Refusal::OtherCluster { node, theirs }),
            Err(e) => Err(Refusal::Unreachable { node, address: address.clone(), reason: e.to_string() }),
        }
    }

    fn introduced(&self, server: MetaNode) {
        self.changes.introduced.lock().insert(server.node, server);
    }

    /// The members as this server, which leads, sees them now.
    async fn view(&self) -> View {
        let members = self.consensus.members();
        let status = self.consensus.status();
        let asked = members.addresses.iter().map(|(node, address)| async {
            let (node, own) = (*node, *node == self.node);
            let answer = if own { Ok(status.last_log) } else { self.peers.accepted(node, ANSWER_MAX).await };
            let (answers, remembers) = match &answer {
                Ok(_) => (true, true),
                Err(RpcError::NotReady { .. }) => (true, false),
                Err(_) => (false, false),
            };
            let matched = status.matched.get(&node).copied().unwrap_or_default();
            let seen = Seen {
                address: address.clone(),
                is_voter: members.voters.contains(&node),
                answers,
                remembers,
                lag: if own { 0 } else { status.last_log.0.saturating_sub(matched.0) },
            };
            (node, seen)
        });
        let seen = join_all(asked).await.into_iter().collect();
        View { leader: self.node, members: seen, removed: members.removed.clone() }
    }

    /// Ends a change of voters that nobody is carrying out any more.
    pub(super) async fn finish_change(&self) {
        if !self.consensus.members().is_changing {
            return;
        }
        let Ok(_turn) = self.changes.turn.try_lock() else { return };
        *self.changes.now.lock() = None;
        match self.commit(Change::Finish).await {
            Ok(()) => tracing::info!("ended a change of the members that was left half way"),
            Err(error) => {
                tracing::warn!(%error, "a change of the members is half way: tried again at the next tick")
            }
        }
    }

    /// Asks voters of whom neither the map nor the configuration has a name.
    pub(super) async fn introduce(&self, nodes: &[NodeId]) {
        let asked = nodes.iter().map(|node| self.peers.introduction(*node, ANSWER_MAX));
        for told in join_all(asked).await.into_iter().flatten() {
            self.introduced(told.server);
        }
    }
}

fn words(request: &MembersRequest) -> String {
    match request {
        MembersRequest::Add { node, .. } => format!("add {node}"),
        MembersRequest::Promote { node } => format!("promote {node}"),
        MembersRequest::Remove { node } => format!("remove {node}"),
        MembersRequest::Replace { old, new } => format!("replace {old} by {new}"),
        MembersRequest::RaiseLevel => "raise the format level".to_owned(),
        MembersRequest::TransferLeader { to, .. } => {
            format!("transfer leadership to {}", to.map_or_else(|| "another".to_owned(), |to| to.to_string()))
        }
    }
}
