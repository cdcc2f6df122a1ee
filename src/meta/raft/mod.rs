//! Consensus: the only place that knows openraft.
//!
//! `service` proposes encoded commands and gets their replies back, once a majority has them on disk and this node
//! has applied them; it hands in what peers send ([`Consensus::handle_peer`]). Entries reach the state through
//! [`super::Machine`]. Holds: what was acknowledged is in the fsynced log of a majority; a log index counts from 1.
//! Not here: what a command means, who may ask, when the process gives up.

mod config;
mod executor;
pub(crate) mod fuzz;
mod join;
pub(crate) mod log;
mod machine;
mod membership;
mod messages;
mod network;
mod peer;
mod read;
mod snapshot;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError,
};
use openraft::{Raft, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::namespace::Reply;
use crate::runtime::{self, Instant, Tasks};
use crate::types::{ClusterId, LogIndex, NodeAddress, NodeId};
use crate::wire::Applied;

use super::{Machine, StoreError};
use log::{Log, Standing};
use machine::StateMachine;
use membership::{Heard, Place};
use network::Network;
use read::ReadIndexes;
use snapshot::Receiver;
use store::LogStore;
use types::{Commands, MembersCell, TypeConfig, log_index, log_index_of};

pub use config::{ENTRY_LEN_MAX, Peers, RaftConfig, Timers};
pub use membership::Change;
pub use messages::kind;
pub use status::{RaftState, RaftStatus};
pub use types::Members;

type RaftOf = Raft<TypeConfig, StateMachine>;
type Metrics = openraft::RaftMetrics<TypeConfig>;
type MetricsWatch = openraft::alias::WatchReceiverOf<TypeConfig, Metrics>;

/// Who leads, and since which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The leader.
    pub node: NodeId,
    /// Its term.
    pub term: u64,
}

/// A proposal or a read index that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsensusError {
    /// This node does not lead: ask the leader. Nothing was done.
    #[error("this server does not lead: ask {leader:?}")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<(NodeId, NodeAddress)>,
    },
    /// The leader changed while the entry was under way: it may yet be applied.
    #[error("the leader changed while the proposal was under way: ask {leader:?} with the same request id")]
    LeaderLost {
        /// Who leads now, as far as is known.
        leader: Option<(NodeId, NodeAddress)>,
    },
    /// A majority did not confirm in time that this node still leads. Nothing was done.
    #[error("a majority of metadata servers does not answer: check that they run; see `pohmelfs status`")]
    NoQuorum,
    /// Longer than [`ENTRY_LEN_MAX`]. Nothing was done.
    #[error("an entry of {len} bytes is too long: propose fewer commands at a time")]
    TooLong {
        /// Bytes of the encoded commands.
        len: usize,
    },
    /// This node has not joined its cluster yet. Nothing was done.
    #[error("not ready: this server has not joined its cluster yet")]
    NotReady,
    /// The members are being changed already. Nothing was done.
    #[error("the members are being changed already: wait until that is done")]
    Changing,
    /// The state has not come to the index by the deadline.
    #[error("this server is behind: it has not applied entry {index} in time")]
    Behind {
        /// The index waited for.
        index: LogIndex,
    },
    /// Consensus has stopped on this node.
    #[error("consensus has stopped on this server: {reason}")]
    Stopped {
        /// Why.
        reason: String,
        /// Whether the entry may yet be applied.
        applied: Applied,
    },
}

impl ConsensusError {
    /// Whether the commands may have taken effect, or may yet.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        match self {
            Self::LeaderLost { .. } => Applied::Maybe,
            Self::Stopped { applied, .. } => *applied,
            Self::NotLeader { .. }
            | Self::NoQuorum
            | Self::TooLong { .. }
            | Self::NotReady
            | Self::Changing
            | Self::Behind { .. } => Applied::No,
        }
    }
}

/// Consensus on this node. Clones are the same node.
#[derive(Clone)]
pub struct Consensus {
    shared: Arc<Shared>,
}

struct Shared {
    config: RaftConfig,
    log: Log,
    machine: Arc<dyn Machine>,
    network: Network,
    receiver: Receiver,
    tasks: Tasks,
    /// What this node may do. Never goes back.
    standing: Mutex<Standing>,
    /// Set once the standing is known.
    raft: OnceLock<RaftOf>,
    /// One bootstrap at a time; held while peers are asked.
    bootstrapping: tokio::sync::Mutex<()>,
    reads: ReadIndexes,
    applied: watch::Sender<LogIndex>,
    /// As of the applied state.
    members: MembersCell,
    /// Where this node stands, as far as it is not in its log.
    place: watch::Sender<Place>,
    heard: Heard,
    leader: watch::Sender<Option<Leader>>,
    failure: watch::Sender<Option<StoreError>>,
}

impl Consensus {
    /// Opens the log and goes on where this node stopped. With an empty directory nothing happens before
    /// [`Consensus::bootstrap`]. `tasks` own the watching; openraft's own tasks end with [`Consensus::shutdown`].
    ///
    /// # Errors
    /// The log is damaged or cannot be read (the text names the file and the way out), or the state cannot follow.
    pub async fn start(
        config: RaftConfig,
        machine: Arc<dyn Machine>,
        peers: Peers,
        tasks: &Tasks,
    ) -> Result<Self, StoreError> {
        config.openraft()?;
        let (disk, dir, options) = (config.disk.clone(), config.dir.clone(), config.log_options());
        let log = runtime::blocking("open raft log", move || Log::open(disk, &dir, options)).await?;
        let shared = Shared {
            network: Network::new(peers, config.timers.clone(), log.clone(), config.disk.clone()),
            receiver: Receiver::new(machine.clone(), config.disk.clone()),
            tasks: tasks.clone(),
            standing: Mutex::default(),
            raft: OnceLock::new(),
            bootstrapping: tokio::sync::Mutex::default(),
            reads: ReadIndexes::default(),
            applied: watch::Sender::new(LogIndex(0)),
            members: MembersCell::default(),
            place: watch::Sender::new(Place::Unknown),
            heard: Heard::default(),
            leader: watch::Sender::new(None),
            failure: watch::Sender::new(None),
            config,
            log,
            machine,
        };
        let this = Self { shared: Arc::new(shared) };
        let hard = this.shared.log.hard();
        let standing = match hard.standing {
            // It stopped between the first entry and the note that it takes part.
            Standing::Blank if hard.vote.is_some() || hard.last.is_some() => Standing::Member,
            standing => standing,
        };
        if standing != Standing::Blank {
            this.take_part(standing).await?;
        }
        Ok(this)
    }

    /// Starts openraft with this standing.
    async fn take_part(&self, standing: Standing) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut config = (*shared.config.openraft()?).clone();
        config.enable_elect = standing == Standing::Member;
        let raft = RaftOf::new(
            shared.config.node.0,
            Arc::new(config),
            shared.network.clone(),
            LogStore(shared.log.clone()),
            StateMachine::new(shared.machine.clone(), shared.applied.clone(), shared.members.clone())?,
        )
        .await
        .map_err(|e| StoreError::new("starting consensus", e))?;
        let metrics = raft.metrics();
        if shared.raft.set(raft).is_err() {
            return Err(StoreError::new("starting consensus", "it was started twice"));
        }
        *shared.standing.lock() = standing;
        shared.tasks.spawn("raft watch", self.clone().watch(metrics));
        shared.tasks.spawn("raft place", self.clone().watch_place());
        if standing == Standing::Joining {
            shared.tasks.spawn("raft join", self.clone().catch_up());
        }
        tracing::info!(node = %shared.config.node, ?standing, dir = %shared.config.dir.display(), "consensus started");
        Ok(())
    }

    /// Passes on what openraft says of the leader and of its end.
    async fn watch(self, mut metrics: MetricsWatch) {
        let stopping = self.shared.tasks.stopping();
        loop {
            let (leader, failure) = {
                let now = metrics.borrow_watched();
                (leader_of(&now), failure_of(&now))
            };
            if self.shared.leader.send_if_modified(|before| std::mem::replace(before, leader) != leader) {
                tracing::info!(?leader, "leader changed");
            }
            if let Some(failure) = failure {
                tracing::error!(error = %failure, "consensus has stopped on this server");
                self.shared.leader.send_replace(None);
                self.shared.failure.send_replace(Some(failure));
                return;
            }
            // Either way nothing is lost: the metrics keep their newest value.
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                () = stopping.stopped() => return,
            }
        }
    }

    fn raft(&self) -> Result<&RaftOf, ConsensusError> {
        self.shared.raft.get().ok_or(ConsensusError::NotReady)
    }

    /// Appends an entry with these encoded commands; returns when a majority has it on disk and this node has applied
    /// it. Many may be in flight; they are applied in the order in which they were first polled.
    ///
    /// # Errors
    /// See [`ConsensusError::applied`] before proposing the same again.
    pub async fn propose(&self, commands: Bytes) -> Result<Vec<Reply>, ConsensusError> {
        if commands.len() > ENTRY_LEN_MAX {
            return Err(ConsensusError::TooLong { len: commands.len() });
        }
        match self.raft()?.client_write(Commands(commands)).await {
            Ok(written) => Ok(written.data.0),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward))) => {
                Err(ConsensusError::LeaderLost { leader: self.forward(&forward) })
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(self.not_leader(&forward))
            }
            Err(RaftError::APIError(e)) => Err(stopped(&e, Applied::No)),
            Err(RaftError::Fatal(e)) => Err(stopped(&e, Applied::Maybe)),
        }
    }

    /// On the leader: an index such that a state that has applied it shows everything acknowledged before this call.
    /// Calls that come while a round is under way share the next one.
    ///
    /// # Errors
    /// This node does not lead, or cannot prove it.
    pub async fn read_index(&self) -> Result<LogIndex, ConsensusError> {
        self.raft()?;
        let (answer, must_run) = self.shared.reads.join();
        if must_run {
            let this = self.clone();
            // Ends when no call waits; a round is bounded by the lease.
            runtime::spawn("read index", async move {
                this.shared.reads.run(|| this.read_round()).await;
            })
            .detach();
        }
        answer.await.unwrap_or_else(|_| Err(stopped(&"shut down", Applied::No)))
    }

    async fn read_round(&self) -> Result<LogIndex, ConsensusError> {
        match self.raft()?.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(log_index(read.index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(self.not_leader(&forward))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ConsensusError::NoQuorum)
            }
            Err(RaftError::Fatal(e)) => Err(stopped(&e, Applied::No)),
        }
    }

    /// Returns once the state of this node has applied `index`.
    ///
    /// # Errors
    /// Not by `deadline`, or consensus has stopped.
    pub async fn wait_applied(&self, index: LogIndex, deadline: Instant) -> Result<(), ConsensusError> {
        if *self.shared.applied.borrow() >= index {
            return Ok(());
        }
        let (mut applied, mut failure) = (self.shared.applied.subscribe(), self.shared.failure.subscribe());
        // Nothing is lost in a branch that is dropped: both watch values that stay.
        tokio::select! {
            biased;
            reached = runtime::timeout_at(deadline, applied.wait_for(|applied| *applied >= index)) => match reached {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(stopped(&"shut down", Applied::No)),
                Err(_) => Err(ConsensusError::Behind { index }),
            },
            failed = failure.wait_for(Option::is_some) => Err(match failed {
                Ok(failure) => stopped(&failure.as_ref().map_or_else(String::new, ToString::to_string), Applied::No),
                Err(_) => stopped(&"shut down", Applied::No),
            }),
        }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.config.node
    }

    /// How far the log of this node goes, committed or not: everything it ever accepted that can have been committed. None
    /// while it cannot know, because it came with an empty disk and has not caught up.
    #[must_use]
    pub fn accepted(&self) -> Option<LogIndex> {
        if *self.shared.standing.lock() != Standing::Member || self.is_removed() {
            return None;
        }
        // A snapshot may have come in place of entries.
        Some(self.shared.log.last().max(self.applied()))
    }

    /// Last index that the state of this node has applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        *self.shared.applied.borrow()
    }

    /// The voters as of the applied state, the same `Arc` until they change. None while they are being changed, and on a node
    /// that is not one of them.
    #[must_use]
    pub fn voters(&self) -> Option<Arc<BTreeSet<NodeId>>> {
        self.shared.members.voters().filter(|voters| voters.contains(&self.shared.config.node))
    }

    /// Last index that the state of this node has applied, as it grows.
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<LogIndex> {
        self.shared.applied.subscribe()
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        leader_of(&self.shared.raft.get()?.metrics().borrow_watched()).filter(|_| !self.is_removed())
    }

    /// Consensus has ended on this node: it will not learn who leads.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.raft.get().is_some_and(|raft| raft.metrics().borrow_watched().running_state.is_err())
    }

    /// Where a member answers.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<NodeAddress> {
        let metrics = self.shared.raft.get()?.metrics();
        let metrics = metrics.borrow_watched();
        let member = metrics.membership_config.get_node(&node.0);
        let address = self.shared.network.address(node.0, member.map(|member| member.addr.as_str()));
        (!address.0.is_empty()).then_some(address)
    }

    /// Who leads, as it changes.
    #[must_use]
    pub fn watch_leader(&self) -> watch::Receiver<Option<Leader>> {
        self.shared.leader.subscribe()
    }

    /// Becomes Some when consensus stopped because a disk failed or the state could not follow. The process should
    /// end then: it serves nothing any more.
    #[must_use]
    pub fn watch_failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.shared.failure.subscribe()
    }

    /// Consensus on this node now.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let standing = *self.shared.standing.lock();
        let metrics = self.shared.raft.get().map(|raft| raft.metrics().borrow_watched().clone());
        let failure = self.shared.failure.borrow().as_ref().map(ToString::to_string);
        let place = *self.shared.place.borrow();
        status::status(self.shared.config.node, standing, place, metrics, self.shared.log.len(), failure)
    }

    /// From now on only peers of this cluster are connected to.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.shared.network.set_cluster(cluster);
    }

    /// From now on the log is written with room ahead, as programs before [`crate::types::Level::PACKED`] cannot read it.
    ///
    /// # Errors
    /// The log has failed or is closed.
    pub fn room_ahead(&self) -> std::io::Result<()> {
        self.shared.log.room_ahead()
    }

    /// Stops; returns when the log is closed. Proposals under way fail with [`ConsensusError::Stopped`].
    pub async fn shutdown(&self) {
        if let Some(raft) = self.shared.raft.get()
            && let Err(e) = raft.shutdown().await
        {
            tracing::warn!(error = %e, "consensus did not end cleanly");
        }
        let log = self.shared.log.clone();
        runtime::blocking("close raft log", move || log.close()).await;
    }

    #[cfg(test)]
    fn delay_syncs(&self, by: std::time::Duration) {
        self.shared.log.delay_syncs(by);
    }

    /// The leader that openraft names instead of this node.
    fn forward(&self, forward: &ForwardToLeader<TypeConfig>) -> Option<(NodeId, NodeAddress)> {
        let node = forward.leader_id?;
        let address = forward.leader_node.as_ref().map(|node| node.addr.as_str());
        Some((NodeId(node), self.shared.network.address(node, address)))
    }

    fn not_leader(&self, forward: &ForwardToLeader<TypeConfig>) -> ConsensusError {
        if forward.reason == ForwardReason::LeaseExpired {
            return ConsensusError::NoQuorum;
        }
        ConsensusError::NotLeader { leader: self.forward(forward) }
    }
}

fn stopped(reason: &impl ToString, applied: Applied) -> ConsensusError {
    ConsensusError::Stopped { reason: reason.to_string(), applied }
}

fn leader_of(metrics: &Metrics) -> Option<Leader> {
    let node = metrics.current_leader.filter(|_| metrics.running_state.is_ok())?;
    Some(Leader { node: NodeId(node), term: metrics.current_term })
}

/// What ended openraft, other than a wish.
fn failure_of(metrics: &Metrics) -> Option<StoreError> {
    match &metrics.running_state {
        Ok(()) | Err(Fatal::Stopped) => None,
        Err(e) => Some(StoreError::new("consensus", e)),
    }
}
