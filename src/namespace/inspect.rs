//! What the servers themselves want to know of the namespace: the map, sessions, orphans, blocks.
//!
//! Called by `meta`'s leader and workers. Pages are ordered by id; `after` is the last id of the previous page.

use std::ops::ControlFlow;

use super::ops::{self, nodes};
use super::records::{Block, Orphan, Reclaim, Record, Session, StoredReply, Superblock};
use super::restore::RestoringInfo;
use super::txn::{corrupt, read, scan};
use super::{Reply, View, ViewError, extents, keys};
use crate::types::{
    BlockId, BlockRef, ClusterId, ClusterMap, Epoch, InodeId, Level, RequestId, SessionId, Timestamp,
    Unreferenced,
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
    pub used: u128,
    /// The namespace is being restored from a dump: what else it holds is half of that, and of no use.
    pub restoring: Option<RestoringInfo>,
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
    /// Only this session can hold it: it made it without a dentry.
    pub holder: Option<SessionId>,
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
    let Some(superblock) = read::<Superblock>(view, keys::SUPERBLOCK)? else {
        return Ok(ClusterMap::default());
    };
    Ok(ClusterMap {
        cluster: superblock.cluster,
        epoch: superblock.epoch,
        layout: superblock.layout,
        meta: nodes::meta_nodes(view)?.into_iter().map(|n| (n.node, n)).collect(),
        data: nodes::data_nodes(view)?.into_iter().map(|n| (n.node, n)).collect(),
        groups: nodes::groups(view)?.into_iter().map(|g| (g.group, g)).collect(),
    })
}

/// Identity and counters; none before the cluster is founded.
///
/// # Errors
/// When the view cannot be read.
pub fn superblock(view: &dyn View) -> Result<Option<SuperblockInfo>, ViewError> {
    Ok(read::<Superblock>(view, keys::SUPERBLOCK)?.map(|s| info(&s)))
}

pub(super) fn info(s: &Superblock) -> SuperblockInfo {
    SuperblockInfo {
        cluster: s.cluster,
        hash_seed: s.hash_seed,
        epoch: s.epoch,
        newest: s.newest,
        next_inode: s.next_inode,
        next_session: s.next_session,
        inode_count: s.inode_count,
        used: s.used,
        restoring: s.restoring.as_ref().map(|r| r.info()),
    }
}

/// The format level that the cluster works at, and since when it does, if it was ever raised.
///
/// # Errors
/// When the view cannot be read.
pub fn level(view: &dyn View) -> Result<(Level, Option<Timestamp>), ViewError> {
    ops::level::level(view)
}

/// The format level that one record of the state tells, if it is the one that does: for whoever reads records one by one.
///
/// # Errors
/// When it makes no sense.
pub fn level_in(key: &[u8], value: &[u8]) -> Result<Option<Level>, ViewError> {
    if key == keys::LEVEL { ops::level::decode(value).map(|(level, _)| Some(level)) } else { Ok(None) }
}

/// What people call the cluster; empty: nothing.
///
/// # Errors
/// When the view cannot be read.
pub fn label(view: &dyn View) -> Result<String, ViewError> {
    ops::label::label(view)
}

/// A page of a table: what `make` makes of keys and records, at most `limit`.
fn page<T: Record, R>(
    view: &dyn View,
    range: &keys::Range,
    limit: usize,
    make: impl Fn(&[u8], T) -> Option<R>,
) -> Result<Vec<R>, ViewError> {
    let mut found = Vec::new();
    if limit > 0 {
        scan(view, range, |key, value| {
            let item = make(key, T::decode(value)?);
            found.push(item.ok_or_else(|| corrupt(format!("key {key:02x?} has a wrong length")))?);
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
    }
    Ok(found)
}

/// All open sessions, in order of their ids.
///
/// # Errors
/// When the view cannot be read.
pub fn sessions(view: &dyn View) -> Result<Vec<SessionInfo>, ViewError> {
    page(view, &keys::all_sessions(), usize::MAX, |key, s: Session| {
        let session = SessionId(keys::first(key)?);
        Some(SessionInfo { session, ttl_ms: s.ttl_ms, label: s.label, opened: s.opened })
    })
}

/// True if the session is open.
///
/// # Errors
/// The view cannot be read.
pub fn session_alive(view: &dyn View, session: SessionId) -> Result<bool, ViewError> {
    Ok(view.get(&keys::session(session))?.is_some())
}

/// A page of the orphans, in order of their ids.
///
/// # Errors
/// When the view cannot be read.
pub fn orphans(view: &dyn View, after: Option<InodeId>, limit: usize) -> Result<Vec<OrphanInfo>, ViewError> {
    let mut range = keys::all_orphans();
    if let Some(after) = after {
        range = range.behind(&keys::orphan(after));
    }
    page(view, &range, limit, |key, o: Orphan| {
        let inode = InodeId(keys::first(key)?);
        Some(OrphanInfo {
            inode,
            at: o.at,
            sessions_below: o.sessions_below,
            holder: o.born.map(|born| born.session),
            freeing: o.freeing,
        })
    })
}

fn block_id(key: &[u8]) -> Option<BlockId> {
    Some(BlockId { session: SessionId(keys::first(key)?), index: keys::second(key)? })
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
    let mut range = keys::all_reclaims();
    if let Some(after) = after {
        range = range.behind(&keys::reclaim(after));
    }
    page(view, &range, limit, |key, r: Reclaim| Some(Unreferenced { block: block_id(key)?, group: r.group }))
}

/// What the namespace knows of each of `ids`, in their order.
///
/// # Errors
/// When the view cannot be read.
pub fn block_refs(view: &dyn View, ids: &[BlockId]) -> Result<Vec<BlockUse>, ViewError> {
    ids.iter().map(|id| block_use(view, *id)).collect()
}

fn block_use(view: &dyn View, id: BlockId) -> Result<BlockUse, ViewError> {
    if let Some(block) = read::<Block>(view, &keys::block(id))? {
        return Ok(BlockUse::Referenced(block.block_ref(id)));
    }
    if view.get(&keys::reclaim(id))?.is_some() {
        return Ok(BlockUse::Queued);
    }
    let session_alive = session_alive(view, id.session)?;
    if session_alive && extents::was_reclaimed(view, id)? {
        return Ok(BlockUse::Reclaimed);
    }
    Ok(BlockUse::Unknown { session_alive })
}

/// A page of the blocks that extents refer to, in order of their ids.
///
/// # Errors
/// When the view cannot be read.
pub fn blocks(view: &dyn View, after: Option<BlockId>, limit: usize) -> Result<Vec<BlockRef>, ViewError> {
    let mut range = keys::all_blocks();
    if let Some(after) = after {
        range = range.behind(&keys::block(after));
    }
    page(view, &range, limit, |key, b: Block| Some(b.block_ref(block_id(key)?)))
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
    Ok(read::<StoredReply>(view, &keys::reply(session, request))?.map(|stored| stored.reply))
}

#[cfg(test)]
mod tests {
    use super::super::ops::fixture::Bench;
    use super::*;
    use crate::types::{Checksum, Extent, ExtentSource, GroupId, Publish, Update};

    #[test]
    fn blocks_come_in_pages() {
        let mut bench = Bench::new();
        bench.with_groups();
        let inode = bench.make_file("a");
        let block = |index: u64| BlockRef {
            id: BlockId { session: bench.session, index },
            group: GroupId(1),
            len: 10,
            checksum: Checksum(1),
        };
        let all: Vec<BlockRef> = (0..5).map(block).collect();
        let extents = all
            .iter()
            .map(|b| Extent {
                offset: b.id.index * 10,
                len: 10,
                source: ExtentSource::Block { block: *b, block_offset: 0 },
            })
            .collect();
        let publish = Publish { inode, extents, grow_to: None, append: false, mtime: None };
        assert!(bench.update(Update::Publish(publish)).is_ok());
        assert_eq!(blocks(&bench.view, None, 3).unwrap(), all[..3]);
        assert_eq!(blocks(&bench.view, Some(all[2].id), 3).unwrap(), all[3..]);
        assert!(blocks(&bench.view, Some(all[4].id), 3).unwrap().is_empty());
        assert!(blocks(&bench.view, None, 0).unwrap().is_empty());
    }
}
