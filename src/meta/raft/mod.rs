//! Consensus: the only place that knows openraft.
//!
//! `service` proposes encoded commands and gets their replies back, once a majority has them on disk and this node
//! has applied them; it hands in what peers send ([`Consensus::handle_peer`]). Entries reach the state through
//! [`super::Machine`]. Holds: what was acknowledged is in the fsynced log of a majority; a log index counts from 1.
//! Not here: what a command means, who may ask, when the process gives up.

mod config;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::namespace::Reply;
use crate::net;
use crate::runtime::{Instant, Tasks};
use crate::types::{LogIndex, NodeAddress, NodeId};
use crate::wire::{Applied, RpcError};

use super::{Machine, StoreError};

pub use config::{ENTRY_LEN_MAX, Peers, RaftConfig, Timers};
pub use status::{RaftState, RaftStatus};

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
    /// Not started, or the time is over.
    #[error("not ready: this server has not joined its cluster yet")]
    NotReady,
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
            Self::NotLeader { .. } | Self::NoQuorum | Self::TooLong { .. } | Self::NotReady => Applied::No,
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
        _machine: Arc<dyn Machine>,
        _peers: Peers,
        _tasks: &Tasks,
    ) -> Result<Self, StoreError> {
        config.openraft()?;
        let shared = Shared { config, leader: watch::Sender::new(None), failure: watch::Sender::new(None) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes this node part of the cluster of `voters`. Every configured server calls it at every start with the same
    /// list, once it listens for its peers; does nothing when this node has been part of it before.
    ///
    /// With an empty disk it asks all other voters first, and waits until each has answered: if none of them has
    /// ever seen a leader the cluster is made, else this node was wiped and joins as such.
    ///
    /// # Errors
    /// The log cannot be written, or consensus was stopped meanwhile.
    pub async fn bootstrap(&self, _voters: BTreeMap<NodeId, NodeAddress>) -> Result<(), StoreError> {
        Ok(())
    }

    /// Appends an entry with these encoded commands; returns when a majority has it on disk and this node has applied
    /// it. Many may be in flight; they are applied in the order of the calls.
    ///
    /// # Errors
    /// See [`ConsensusError::applied`] before proposing the same again.
    pub async fn propose(&self, _commands: Bytes) -> Result<Vec<Reply>, ConsensusError> {
        Err(ConsensusError::NotReady)
    }

    /// On the leader: an index such that a state that has applied it shows everything acknowledged before this call.
    /// Calls that come while a round is under way share the next one.
    ///
    /// # Errors
    /// This node does not lead, or cannot prove it.
    pub async fn read_index(&self) -> Result<LogIndex, ConsensusError> {
        Err(ConsensusError::NotReady)
    }

    /// Returns once the state of this node has applied `index`.
    ///
    /// # Errors
    /// Not by `deadline`, or consensus has stopped.
    pub async fn wait_applied(&self, _index: LogIndex, _deadline: Instant) -> Result<(), ConsensusError> {
        Err(ConsensusError::NotReady)
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        *self.shared.leader.borrow()
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
        RaftStatus {
            node: self.shared.config.node,
            state: RaftState::Blank,
            term: 0,
            leader: None,
            last_log: LogIndex(0),
            committed: LogIndex(0),
            applied: LogIndex(0),
            purged: LogIndex(0),
            snapshot: LogIndex(0),
            members: BTreeMap::new(),
            matched: BTreeMap::new(),
            log_bytes: 0,
            failure: None,
        }
    }

    /// If this node leads, hands over to the follower that has most of the log, and waits a moment for it to lead.
    pub async fn transfer_leader(&self) {}

    /// Stops; returns when the log is closed. Proposals under way fail with [`ConsensusError::Stopped`].
    pub async fn shutdown(&self) {}

    /// Answers what a peer sent with a kind of the consensus band. Append messages of one connection are to be handed
    /// in in the order of their arrival: what has to keep its order is done before the first await.
    ///
    /// # Errors
    /// The bytes make no sense, or this node is not ready or has stopped.
    pub async fn handle_peer(
        &self,
        kind: u16,
        _meta: Bytes,
        _payload: Bytes,
    ) -> Result<net::Reply, RpcError> {
        Err(RpcError::NotReady { reason: format!("consensus is not started (kind {kind:#x})") })
    }
}
