//! openraft's types as this crate fills them in, and the two translations: log indexes and positions.
//!
//! Holds: openraft counts entries from 0, everything outside this folder from 1 (0: none); only here is one added.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::super::{Position, StoreError};
use crate::namespace::Reply;
use crate::types::{LogIndex, NodeAddress, NodeId, codec};

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

/// Who belongs to the cluster, as of the applied state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that are counted; while they are being changed, those of the set before and of the one after.
    pub voters: BTreeSet<NodeId>,
    /// Where each answers, as written into the log; learners too.
    pub addresses: BTreeMap<NodeId, NodeAddress>,
    /// The voters are being changed: `leaving` counts until that is done.
    pub is_changing: bool,
    /// Voters that are none any more when the change is done.
    pub leaving: BTreeSet<NodeId>,
    /// Who was a member once and is none now. Their ids are not used again.
    pub removed: BTreeSet<NodeId>,
}

impl Members {
    fn new(membership: &Membership, removed: &BTreeSet<u64>) -> Self {
        let configs = membership.get_joint_config();
        let after = configs.last();
        let leaving = membership.voter_ids().filter(|id| after.is_some_and(|after| !after.contains(id)));
        Self {
            voters: membership.voter_ids().map(NodeId).collect(),
            addresses: membership.nodes().map(|(id, n)| (NodeId(*id), NodeAddress(n.addr.clone()))).collect(),
            is_changing: configs.len() > 1,
            leaving: leaving.map(NodeId).collect(),
            removed: removed.iter().copied().map(NodeId).collect(),
        }
    }
}

/// The members as of the applied state, and apart from them the voters: none while those are being changed. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct MembersCell(Arc<Cell>);

#[derive(Debug, Default)]
struct Cell {
    voters: Mutex<Option<Arc<BTreeSet<NodeId>>>>,
    members: watch::Sender<Arc<Members>>,
}

impl MembersCell {
    pub(super) fn voters(&self) -> Option<Arc<BTreeSet<NodeId>>> {
        self.0.voters.lock().clone()
    }

    pub(super) fn members(&self) -> Arc<Members> {
        self.0.members.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Members>> {
        self.0.members.subscribe()
    }

    /// Takes in what the state keeps; to be called before the index that it holds from is announced.
    fn set(&self, membership: &StoredMembership, removed: &BTreeSet<u64>) {
        let voters = match membership.membership().get_joint_config().as_slice() {
            [voters] if !voters.is_empty() => Some(Arc::new(voters.iter().copied().map(NodeId).collect())),
            _ => None,
        };
        *self.0.voters.lock() = voters;
        self.0.members.send_replace(Arc::new(Members::new(membership.membership(), removed)));
    }
}

/// Version of the bytes in [`Position::raft`].
const POSITION_VERSION: u8 = 2;

/// What the state keeps for consensus: last applied entry, the membership as of it, and who was a member before.
#[derive(Serialize, Deserialize)]
struct PositionRecord {
    version: u8,
    last: Option<LogId>,
    membership: StoredMembership,
    removed: BTreeSet<u64>,
}

/// The first layout, from when nobody could be removed.
#[derive(Serialize, Deserialize)]
struct PositionRecord1 {
    version: u8,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// Makes positions entry after entry.
pub(super) struct PositionWriter {
    last: Option<LogId>,
    membership: StoredMembership,
    removed: BTreeSet<u64>,
    /// Told when the membership changes.
    members: MembersCell,
}

impl PositionWriter {
    /// Goes on from where the state is.
    pub(super) fn new(position: &Position, members: MembersCell) -> Result<Self, StoreError> {
        let PositionRecord { last, membership, removed, .. } = read_record(position)?;
        members.set(&membership, &removed);
        Ok(Self { last, membership, removed, members })
    }

    pub(super) fn current(&self) -> (Option<LogId>, StoredMembership) {
        (self.last, self.membership.clone())
    }

    /// The position once `entry` is applied.
    pub(super) fn step(&mut self, entry: &RaftEntryOf) -> Result<Position, StoreError> {
        let id = entry.log_id();
        if let Some(membership) = entry.get_membership() {
            let gone =
                self.membership.nodes().map(|(id, _)| *id).filter(|id| membership.get_node(id).is_none());
            self.removed.extend(gone);
            self.membership = StoredMembership::new(Some(id), membership);
            self.members.set(&self.membership, &self.removed);
        }
        self.last = Some(id);
        let record = PositionRecord {
            version: POSITION_VERSION,
            last: self.last,
            membership: self.membership.clone(),
            removed: self.removed.clone(),
        };
        let raft = codec::encode(&record).map_err(|e| StoreError::new("encoding the position", e))?;
        Ok(Position { index: log_index(id.index), raft: raft.into() })
    }
}

/// Last applied entry and membership from what the state kept.
pub(super) fn read_position(position: &Position) -> Result<(Option<LogId>, StoredMembership), StoreError> {
    read_record(position).map(|record| (record.last, record.membership))
}

fn read_record(position: &Position) -> Result<PositionRecord, StoreError> {
    let empty = PositionRecord {
        version: POSITION_VERSION,
        last: None,
        membership: StoredMembership::default(),
        removed: BTreeSet::new(),
    };
    if position.raft.is_empty() {
        return Ok(empty);
    }
    let damaged = |reason: String| {
        StoreError::new("reading the position kept by the state", format!("{reason}; {WAY_OUT}"))
    };
    let record = if position.raft.first() == Some(&1) {
        let old: PositionRecord1 = codec::decode(&position.raft).map_err(|e| damaged(e.to_string()))?;
        PositionRecord { last: old.last, membership: old.membership, ..empty }
    } else {
        codec::decode(&position.raft).map_err(|e| damaged(e.to_string()))?
    };
    if record.version != POSITION_VERSION || log_index_of(record.last.as_ref()) != position.index {
        return Err(damaged(format!("version {}, index {}", record.version, position.index)));
    }
    Ok(record)
}

/// What to do with a server whose files are damaged.
pub(super) const WAY_OUT: &str =
    "wipe this server's directory and start it again: it will rejoin by snapshot";

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, voters: &[&[u64]], nodes: &[u64]) -> RaftEntryOf {
        let nodes: BTreeMap<u64, openraft::BasicNode> =
            nodes.iter().map(|id| (*id, openraft::BasicNode::new(format!("meta-{id}:1")))).collect();
        let configs = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let membership = Membership::new(configs, nodes).unwrap();
        RaftEntryOf::new(LogId::new_term_index(1, index), Payload::Membership(membership))
    }

    /// A server of old that came back under its id would vote on promises of another life.
    #[test]
    fn whoever_was_a_member_once_is_remembered() {
        let cell = MembersCell::default();
        let mut writer = PositionWriter::new(&Position::default(), cell.clone()).unwrap();
        writer.step(&entry(0, &[&[1, 2, 3]], &[1, 2, 3])).unwrap();
        writer.step(&entry(1, &[&[1, 2, 3]], &[1, 2, 3, 4])).unwrap();
        assert_eq!(cell.voters().unwrap().len(), 3);
        writer.step(&entry(2, &[&[1, 2, 3], &[1, 2, 4]], &[1, 2, 3, 4])).unwrap();
        assert_eq!(cell.voters(), None);
        let members = cell.members();
        assert!(members.is_changing && members.leaving == [NodeId(3)].into() && members.removed.is_empty());
        let position = writer.step(&entry(3, &[&[1, 2, 4]], &[1, 2, 4])).unwrap();
        assert_eq!(cell.members().removed, [NodeId(3)].into());
        let again = MembersCell::default();
        PositionWriter::new(&position, again.clone()).unwrap();
        assert_eq!(again.members(), cell.members());
    }

    #[test]
    fn a_position_of_the_first_layout_is_read() {
        let mut writer = PositionWriter::new(&Position::default(), MembersCell::default()).unwrap();
        let position = writer.step(&entry(6, &[&[1]], &[1])).unwrap();
        let (last, membership) = writer.current();
        let old = PositionRecord1 { version: 1, last, membership: membership.clone() };
        let old = Position { raft: codec::encode(&old).unwrap().into(), ..position.clone() };
        assert_eq!(read_position(&old).unwrap(), (last, membership));
        assert!(read_position(&Position { index: LogIndex(3), ..position }).is_err());
    }

    #[test]
    fn golden_position() {
        let mut writer = PositionWriter::new(&Position::default(), MembersCell::default()).unwrap();
        writer.step(&entry(5, &[&[1, 2, 3]], &[1, 2, 3])).unwrap();
        let position = writer.step(&entry(6, &[&[1, 2]], &[1, 2])).unwrap();
        let record = read_record(&position).unwrap();
        let PositionRecord { last, membership, removed, .. } = record;
        assert_eq!(removed, [3].into());
        let first = codec::encode(&PositionRecord1 { version: 1, last, membership }).unwrap();
        let samples = vec![("version 2".into(), position.raft.to_vec()), ("version 1".into(), first)];
        crate::golden::check("position", samples);
    }
}
