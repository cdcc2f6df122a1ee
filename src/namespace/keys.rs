//! The ordered byte keys of all tables.
//!
//! ```text
//! 01                                superblock
//! 02 inode:8                        inode
//! 03 parent:8 cookie:8              dentry, in the order of its directory
//! 04 inode:8 name                   extended attribute
//! 05 inode:8 end:8                  extent, under the offset behind its last byte
//! 06 session:8 index:8              block that extents refer to
//! 07 inode:8                        orphan
//! 08 session:8                      session
//! 09 session:8 request:8            remembered reply
//! 0a node:8                         data server
//! 0b node:8                         metadata server
//! 0c group:4                        group
//! 0d session:8 index:8              block that waits for reclaim
//! 0e session:8 index/1024:8         bitmap of reclaimed blocks, kept while their session lives
//! 0f                                groups that may take blocks
//! 10 inode:8 number:8               lock, or waiter for one, in the order they came
//! 11 session:8 inode:8              locks of a session on a file; under inode 0, files with any
//! 12                                format level, once it is above the first
//! 13                                label of the cluster, once it has one
//! 14                                clusters whose state was restored into this one
//! ```
//!
//! Numbers are big-endian, so that the order of the bytes is the order of the numbers. Tags from 0x80 on are free
//! for whoever stores the view. Holds: a key is never longer than 9 + 255 bytes.
//!
//! Extents stand under their end because a view scans forward only: the first key above an offset is the first extent
//! that reaches beyond it, however long it is.

use crate::types::{BlockId, Cookie, GroupId, InodeId, NodeId, RequestId, SessionId};

pub(super) const SUPERBLOCK: &[u8] = &[1];
pub(super) const HEALTHY: &[u8] = &[15];
/// The key of the format level. It stays where it is for ever: a program that is too old for all else finds it here.
pub(super) const LEVEL: &[u8] = &[18];
pub(super) const LABEL: &[u8] = &[19];
pub(super) const LINEAGE: &[u8] = &[20];

pub(super) const INODE: u8 = 2;
pub(super) const DENTRY: u8 = 3;
pub(super) const XATTR: u8 = 4;
pub(super) const EXTENT: u8 = 5;
pub(super) const BLOCK: u8 = 6;
pub(super) const ORPHAN: u8 = 7;
pub(super) const SESSION: u8 = 8;
pub(super) const REPLY: u8 = 9;
pub(super) const DATA_NODE: u8 = 10;
pub(super) const META_NODE: u8 = 11;
pub(super) const GROUP: u8 = 12;
pub(super) const RECLAIM: u8 = 13;
pub(super) const RECLAIMED: u8 = 14;
pub(super) const LOCK: u8 = 16;
pub(super) const LOCK_COUNT: u8 = 17;

/// Length of the keys of a table whose last number is given out one after the other, so that records written together stand side by
/// side; none for the other tables.
#[must_use]
pub fn counting_key_len(tag: u8) -> Option<usize> {
    match tag {
        INODE => Some(9),
        BLOCK | REPLY | RECLAIM => Some(17),
        _ => None,
    }
}

/// Blocks whose bits share one bitmap record: 128 bytes each.
pub(super) const BITMAP_BITS: u64 = 1024;

fn one(tag: u8, a: u64) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&a.to_be_bytes());
    key
}

fn two(tag: u8, a: u64, b: u64) -> [u8; 17] {
    let mut key = [tag; 17];
    key[1..9].copy_from_slice(&a.to_be_bytes());
    key[9..].copy_from_slice(&b.to_be_bytes());
    key
}

pub(super) fn inode(id: InodeId) -> [u8; 9] {
    one(INODE, id.0)
}

pub(super) fn dentry(parent: InodeId, cookie: Cookie) -> [u8; 17] {
    two(DENTRY, parent.0, cookie.0)
}

pub(super) fn xattr(inode: InodeId, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + name.len());
    key.extend_from_slice(&one(XATTR, inode.0));
    key.extend_from_slice(name);
    key
}

/// `end` is the offset behind the extent's last byte.
pub(super) fn extent(inode: InodeId, end: u64) -> [u8; 17] {
    two(EXTENT, inode.0, end)
}

pub(super) fn block(id: BlockId) -> [u8; 17] {
    two(BLOCK, id.session.0, id.index)
}

pub(super) fn orphan(id: InodeId) -> [u8; 9] {
    one(ORPHAN, id.0)
}

pub(super) fn session(id: SessionId) -> [u8; 9] {
    one(SESSION, id.0)
}

pub(super) fn reply(session: SessionId, request: RequestId) -> [u8; 17] {
    two(REPLY, session.0, request.0)
}

pub(super) fn data_node(id: NodeId) -> [u8; 9] {
    one(DATA_NODE, id.0)
}

pub(super) fn meta_node(id: NodeId) -> [u8; 9] {
    one(META_NODE, id.0)
}

pub(super) fn group(id: GroupId) -> [u8; 5] {
    let mut key = [GROUP; 5];
    key[1..].copy_from_slice(&id.0.to_be_bytes());
    key
}

pub(super) fn reclaim(id: BlockId) -> [u8; 17] {
    two(RECLAIM, id.session.0, id.index)
}

pub(super) fn reclaimed(id: BlockId) -> [u8; 17] {
    two(RECLAIMED, id.session.0, id.index / BITMAP_BITS)
}

pub(super) fn lock(inode: InodeId, number: u64) -> [u8; 17] {
    two(LOCK, inode.0, number)
}

pub(super) fn lock_count(session: SessionId, inode: InodeId) -> [u8; 17] {
    two(LOCK_COUNT, session.0, inode.0)
}

/// A half-open range of keys.
pub(super) struct Range {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
}

impl Range {
    /// Every key that begins with `prefix`, which must not be all 0xff (no key is).
    fn prefix(prefix: &[u8]) -> Self {
        let mut to = prefix.to_vec();
        while let Some(last) = to.last_mut() {
            if *last < u8::MAX {
                *last += 1;
                break;
            }
            to.pop();
        }
        Self { from: prefix.to_vec(), to }
    }

    /// The same, but only behind the key `after`.
    pub(super) fn behind(mut self, after: &[u8]) -> Self {
        self.from = after.to_vec();
        self.from.push(0);
        self
    }

    /// The same, but only before the key `to`.
    pub(super) fn until(mut self, to: &[u8]) -> Self {
        self.to = to.to_vec();
        self
    }

    /// The same, from the key `from` on.
    pub(super) fn starting(mut self, from: &[u8]) -> Self {
        self.from = from.to_vec();
        self
    }
}

pub(super) fn all_inodes() -> Range {
    Range::prefix(&[INODE])
}

pub(super) fn all_dentries() -> Range {
    Range::prefix(&[DENTRY])
}

pub(super) fn dentries(parent: InodeId) -> Range {
    Range::prefix(&one(DENTRY, parent.0))
}

pub(super) fn all_xattrs() -> Range {
    Range::prefix(&[XATTR])
}

pub(super) fn xattrs(inode: InodeId) -> Range {
    Range::prefix(&one(XATTR, inode.0))
}

pub(super) fn all_extents() -> Range {
    Range::prefix(&[EXTENT])
}

pub(super) fn extents(inode: InodeId) -> Range {
    Range::prefix(&one(EXTENT, inode.0))
}

pub(super) fn all_blocks() -> Range {
    Range::prefix(&[BLOCK])
}

pub(super) fn all_orphans() -> Range {
    Range::prefix(&[ORPHAN])
}

pub(super) fn all_sessions() -> Range {
    Range::prefix(&[SESSION])
}

pub(super) fn all_replies() -> Range {
    Range::prefix(&[REPLY])
}

pub(super) fn replies(session: SessionId) -> Range {
    Range::prefix(&one(REPLY, session.0))
}

pub(super) fn all_data_nodes() -> Range {
    Range::prefix(&[DATA_NODE])
}

pub(super) fn all_meta_nodes() -> Range {
    Range::prefix(&[META_NODE])
}

pub(super) fn all_groups() -> Range {
    Range::prefix(&[GROUP])
}

pub(super) fn all_reclaims() -> Range {
    Range::prefix(&[RECLAIM])
}

pub(super) fn all_reclaimed() -> Range {
    Range::prefix(&[RECLAIMED])
}

pub(super) fn reclaimed_of(session: SessionId) -> Range {
    Range::prefix(&one(RECLAIMED, session.0))
}

pub(super) fn all_locks() -> Range {
    Range::prefix(&[LOCK])
}

pub(super) fn locks(inode: InodeId) -> Range {
    Range::prefix(&one(LOCK, inode.0))
}

pub(super) fn all_lock_counts() -> Range {
    Range::prefix(&[LOCK_COUNT])
}

pub(super) fn lock_counts(session: SessionId) -> Range {
    Range::prefix(&one(LOCK_COUNT, session.0))
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// The number behind the tag of a key with one number.
pub(super) fn first(key: &[u8]) -> Option<u64> {
    number(key.get(1..9)?)
}

/// The second number of a key with two, which ends there.
pub(super) fn second(key: &[u8]) -> Option<u64> {
    number(key.get(9..)?)
}

/// The name at the end of a key of an extended attribute.
pub(super) fn xattr_name(key: &[u8]) -> &[u8] {
    key.get(9..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// What is stored on disks of clusters that run: a difference here needs a migration, not a new expectation.
    #[test]
    fn key_bytes_are_frozen() {
        let block_id = BlockId { session: SessionId(7), index: 0x0102_0304 };
        let keys: Vec<String> = [
            SUPERBLOCK.to_vec(),
            inode(InodeId(1)).to_vec(),
            dentry(InodeId(2), Cookie(0x7fff_ffff_ffff_ffff)).to_vec(),
            xattr(InodeId(3), b"user.a"),
            extent(InodeId(4), 4096).to_vec(),
            block(block_id).to_vec(),
            orphan(InodeId(5)).to_vec(),
            session(SessionId(6)).to_vec(),
            reply(SessionId(6), RequestId(9)).to_vec(),
            data_node(NodeId(10)).to_vec(),
            meta_node(NodeId(11)).to_vec(),
            group(GroupId(12)).to_vec(),
            reclaim(block_id).to_vec(),
            reclaimed(block_id).to_vec(),
            HEALTHY.to_vec(),
            lock(InodeId(14), 15).to_vec(),
            lock_count(SessionId(16), InodeId(17)).to_vec(),
            LEVEL.to_vec(),
            LABEL.to_vec(),
            LINEAGE.to_vec(),
        ]
        .iter()
        .map(|k| hex(k))
        .collect();
        assert_eq!(
            keys,
            [
                "01",
                "020000000000000001",
                "0300000000000000027fffffffffffffff",
                "040000000000000003757365722e61",
                "0500000000000000040000000000001000",
                "0600000000000000070000000001020304",
                "070000000000000005",
                "080000000000000006",
                "0900000000000000060000000000000009",
                "0a000000000000000a",
                "0b000000000000000b",
                "0c0000000c",
                "0d00000000000000070000000001020304",
                "0e00000000000000070000000000004080",
                "0f",
                "10000000000000000e000000000000000f",
                "1100000000000000100000000000000011",
                "12",
                "13",
                "14",
            ]
        );
    }

    #[test]
    fn a_prefix_range_ends_behind_its_last_key() {
        let range = dentries(InodeId(0xff));
        assert!(range.to.as_slice() > dentry(InodeId(0xff), Cookie(u64::MAX)).as_slice());
        assert!(range.to.as_slice() <= dentry(InodeId(0x100), Cookie(0)).as_slice());
    }
}
