//! What the servers themselves want to know of the namespace: the map, sessions, orphans, blocks.
//!
//! Called by `meta`'s leader and workers. Pages are ordered by id; `after` is the last id of the previous page.

use super::{Reply, View, ViewError};
use crate::types::{
    BlockId, BlockRef, ClusterId, ClusterMap, Epoch, InodeId, RequestId, SessionId, Timestamp, Unreferenced,
};

/// Identity, counters and clock of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperblockInfo {
    /// Whose namespace it is.
    pub cluster: ClusterId,
    /// Seed of the name hash.
    pub hash_seed: u64,
    /// Epoch of the cluster map.
    pub epoch: Epoch,
    /// The newest time a command has had; no later command is applied with an earlier one.
    pub newest: Timestamp,
    /// The inode id that the next new inode gets.
    pub next_inode: InodeId,
    /// The id that the next session gets.
    pub next_session: SessionId,
    /// Inodes there are, orphans among them.
    pub inode_count: u64,
    /// Bytes that extents cover.
    pub used: u64,
}

/// A session, as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Which.
    pub session: SessionId,
    /// Its life without a keep-alive, in milliseconds.
    pub ttl_ms: u32,
    /// Who it is, for people.
    pub label: String,
    /// When it was opened.
    pub opened: Timestamp,
}

/// An orphan: an inode without a dentry that some session may still hold open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanInfo {
    /// Which.
    pub inode: InodeId,
    /// When it became one.
    pub at: Timestamp,
    /// Only sessions with an id below this one can hold it: they were open before it lost its last dentry.
    pub sessions_below: SessionId,
    /// A command has begun to free it: nobody can use it any more.
    pub freeing: bool,
}

/// What the namespace knows of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockUse {
    /// Extents refer to it: it must be kept.
    Referenced(BlockRef),
    /// Nothing refers to it, and nothing ever will: its replicas are to be deleted.
    Queued,
    /// No extent names it. With its writer's session alive it may still be published; without, it may be deleted.
    Unknown {
        /// The session that wrote it is open.
        session_alive: bool,
    },
    /// It was in the reclaim queue and has left it: a replica that turns up may be deleted.
    Reclaimed,
}

/// The whole cluster map; an empty one with epoch 0 before the cluster is founded.
///
/// # Errors
/// When the view cannot be read.
pub fn map(view: &dyn View) -> Result<ClusterMap, ViewError> {
    let _ = view;
    Ok(ClusterMap::default())
}

/// Identity and counters; none before the cluster is founded.
///
/// # Errors
/// When the view cannot be read.
pub fn superblock(view: &dyn View) -> Result<Option<SuperblockInfo>, ViewError> {
    let _ = view;
    Ok(None)
}

/// All open sessions.
///
/// # Errors
/// When the view cannot be read.
pub fn sessions(view: &dyn View) -> Result<Vec<SessionInfo>, ViewError> {
    let _ = view;
    Ok(Vec::new())
}

/// A page of the orphans, in order of their ids.
///
/// # Errors
/// When the view cannot be read.
pub fn orphans(view: &dyn View, after: Option<InodeId>, limit: usize) -> Result<Vec<OrphanInfo>, ViewError> {
    let _ = (view, after, limit);
    Ok(Vec::new())
}

/// A page of the blocks that wait for their replicas to be deleted.
///
/// # Errors
/// When the view cannot be read.
pub fn reclaim_queue(
    view: &dyn View,
    after: Option<BlockId>,
    limit: usize,
) -> Result<Vec<Unreferenced>, ViewError> {
    let _ = (view, after, limit);
    Ok(Vec::new())
}

/// What the namespace knows of each of `ids`, in their order.
///
/// # Errors
/// When the view cannot be read.
pub fn block_refs(view: &dyn View, ids: &[BlockId]) -> Result<Vec<BlockUse>, ViewError> {
    let _ = view;
    Ok(ids.iter().map(|_| BlockUse::Unknown { session_alive: true }).collect())
}

/// A page of the blocks that extents refer to.
///
/// # Errors
/// When the view cannot be read.
pub fn blocks(view: &dyn View, after: Option<BlockId>, limit: usize) -> Result<Vec<BlockRef>, ViewError> {
    let _ = (view, after, limit);
    Ok(Vec::new())
}

/// The remembered reply to a request, if it has one.
///
/// # Errors
/// When the view cannot be read.
pub fn remembered(
    view: &dyn View,
    session: SessionId,
    request: RequestId,
) -> Result<Option<Reply>, ViewError> {
    let _ = (view, session, request);
    Ok(None)
}
