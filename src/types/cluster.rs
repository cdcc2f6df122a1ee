//! The cluster map: which nodes there are, where they answer, how they are, and which groups they form.
//!
//! Replicated state, small enough for each client to hold: it grows with servers and groups, never with files.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ClusterId, Epoch, GroupId, NodeId, Timestamp};

/// Where a node answers: `host:port`. A name is resolved at every connect, because a container that comes back
/// may come back with another address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeAddress(pub String);

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Failure domain: a label two replicas of a block may not share (a host, a rack).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainLabel(pub String);

/// Space of a data server, in bytes, over all its directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// All that its directories could hold (mirrors already divided out).
    pub total: u64,
    /// What new blocks may still take.
    pub free: u64,
    /// Blocks stored.
    pub block_count: u64,
}

/// Load of a data server since its previous heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// Requests in flight now.
    pub in_flight: u32,
    /// Bytes read a second.
    pub read_rate: u64,
    /// Bytes written a second.
    pub write_rate: u64,
    /// It has compared all blocks that it ought to hold with what it holds, since it was last away.
    pub compared: bool,
    /// Blocks that it is known to lack; while it has not compared all, those found so far.
    pub lacking: u64,
}

/// What the cluster believes of a data server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Heartbeats arrive.
    Up,
    /// Some were missed: new blocks avoid its groups, reads try it last.
    Suspect,
    /// Many were missed: nobody asks it before it registers again.
    Down,
    /// Being emptied by an operator; still read from.
    Draining,
    /// Gone for ever; its id is never used again.
    Removed,
}

impl NodeState {
    /// True if it may take new blocks.
    #[must_use]
    pub const fn takes_blocks(self) -> bool {
        matches!(self, Self::Up)
    }
}

/// A data server in the cluster map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataNode {
    /// Identity.
    pub node: NodeId,
    /// Name for people.
    pub name: String,
    /// Where it serves blocks.
    pub address: NodeAddress,
    /// Where it serves its status over HTTP.
    pub http: NodeAddress,
    /// Failure domain.
    pub domain: DomainLabel,
    /// Space, as last committed (heartbeats are committed only when something moved).
    pub capacity: Capacity,
    /// What the cluster believes of it.
    pub state: NodeState,
    /// When `state` last changed.
    pub since: Timestamp,
}

/// A metadata server in the cluster map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaNode {
    /// Identity: its raft id.
    pub node: NodeId,
    /// Name for people.
    pub name: String,
    /// Where it serves clients and data servers.
    pub address: NodeAddress,
    /// Where it serves its status over HTTP.
    pub http: NodeAddress,
}

/// A set of data servers that hold the blocks of that group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Identity.
    pub group: GroupId,
    /// Its members, as many as the replica count.
    pub members: Vec<NodeId>,
}

/// Per-file policy of how data is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Replicas of each block.
    pub replica_count: u8,
    /// The write rule: replicas that must be durable before a write is acknowledged when not all members of
    /// the group answer. (When all answer, all are durable.)
    pub durable_min: u8,
    /// Length of a full block, in bytes.
    pub block_len: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Self { replica_count: 3, durable_min: 2, block_len: super::BLOCK_LEN_MAX }
    }
}

/// The whole map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Whose map it is.
    pub cluster: ClusterId,
    /// Grows by one with every change.
    pub epoch: Epoch,
    /// How new files are kept.
    pub layout: Layout,
    /// Metadata servers.
    pub meta: BTreeMap<NodeId, MetaNode>,
    /// Data servers.
    pub data: BTreeMap<NodeId, DataNode>,
    /// Groups.
    pub groups: BTreeMap<GroupId, Group>,
}

impl ClusterMap {
    /// The members of `group` that are in the map, in the group's order.
    pub fn members(&self, group: GroupId) -> impl Iterator<Item = &DataNode> {
        self.groups.get(&group).into_iter().flat_map(|g| &g.members).filter_map(|id| self.data.get(id))
    }
}
