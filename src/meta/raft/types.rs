//! openraft's types as this crate fills them in, and the two translations: log indexes and positions.
//!
//! Holds: openraft counts entries from 0, everything outside this folder from 1 (0: none); only here is one added.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::super::{Position, StoreError};
use crate::namespace::Reply;
use crate::types::{LogIndex, NodeId, codec};

openraft::declare_raft_types!(
    /// Standard raft: at most one leader in a term.
    pub(super) TypeConfig:
        D = Commands,
        R = Replies,
        NodeId = u64,
        Node = openraft::BasicNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = super::executor::Executor,
);

pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(super) type RaftEntryOf = openraft::alias::EntryOf<TypeConfig>;
pub(super) type Payload = openraft::EntryPayload<Commands, u64, openraft::BasicNode>;
pub(super) type Membership = openraft::Membership<u64, openraft::BasicNode>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// Encoded commands: the payload of an entry, opaque to consensus.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Commands(pub(super) Bytes);

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the commands of one entry came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Replies(pub(super) Vec<Reply>);

/// The index that the rest of the crate uses for openraft's.
pub(super) const fn log_index(raft: u64) -> LogIndex {
    LogIndex(raft.saturating_add(1))
}

/// The same for what may be none.
pub(super) fn log_index_of(id: Option<&LogId>) -> LogIndex {
    id.map_or(LogIndex(0), |id| log_index(id.index))
}

/// The voters as of the applied state; none while the membership is being changed. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct VotersCell(Arc<Mutex<Option<Arc<BTreeSet<NodeId>>>>>);

impl VotersCell {
    pub(super) fn get(&self) -> Option<Arc<BTreeSet<NodeId>>> {
        self.0.lock().clone()
    }

    /// Takes in what the state keeps; to be called before the index that it holds from is announced.
    fn set(&self, membership: &StoredMembership) {
        let voters = match membership.membership().get_joint_config().as_slice() {
            [voters] if !voters.is_empty() => Some(Arc::new(voters.iter().copied().map(NodeId).collect())),
            _ => None,
        };
        *self.0.lock() = voters;
    }
}

/// Version of the bytes in [`Position::raft`].
const POSITION_VERSION: u8 = 1;

/// What the state keeps for consensus: last applied entry and the membership as of it.
#[derive(Serialize, Deserialize)]
struct PositionRecord {
    version: u8,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// Makes positions entry after entry, encoding the membership only when it changes.
pub(super) struct PositionWriter {
    last: Option<LogId>,
    membership: StoredMembership,
    /// Told when the membership changes.
    voters: VotersCell,
}

impl PositionWriter {
    /// Goes on from where the state is.
    pub(super) fn new(position: &Position, voters: VotersCell) -> Result<Self, StoreError> {
        let (last, membership) = read_position(position)?;
        voters.set(&membership);
        Ok(Self { last, membership, voters })
    }

    pub(super) fn current(&self) -> (Option<LogId>, StoredMembership) {
        (self.last, self.membership.clone())
    }

    /// The position once `entry` is applied.
    pub(super) fn step(&mut self, entry: &RaftEntryOf) -> Result<Position, StoreError> {
        let id = entry.log_id();
        if let Some(membership) = entry.get_membership() {
            self.membership = StoredMembership::new(Some(id), membership);
            self.voters.set(&self.membership);
        }
        self.last = Some(id);
        let record = PositionRecord {
            version: POSITION_VERSION,
            last: self.last,
            membership: self.membership.clone(),
        };
        let raft = codec::encode(&record).map_err(|e| StoreError::new("encoding the position", e))?;
        Ok(Position { index: log_index(id.index), raft: raft.into() })
    }
}

/// Last applied entry and membership from what the state kept.
pub(super) fn read_position(position: &Position) -> Result<(Option<LogId>, StoredMembership), StoreError> {
    if position.raft.is_empty() {
        return Ok((None, StoredMembership::default()));
    }
    let damaged = |reason: String| {
        StoreError::new("reading the position kept by the state", format!("{reason}; {WAY_OUT}"))
    };
    let record: PositionRecord = codec::decode(&position.raft).map_err(|e| damaged(e.to_string()))?;
    if record.version != POSITION_VERSION || log_index_of(record.last.as_ref()) != position.index {
        return Err(damaged(format!("version {}, index {}", record.version, position.index)));
    }
    Ok((record.last, record.membership))
}

/// What to do with a server whose files are damaged.
pub(super) const WAY_OUT: &str =
    "wipe this server's directory and start it again: it will rejoin by snapshot";
