//! Which blocks are stored and in which directories: in memory, in the order of ids.
//!
//! `BlockStore` fills it from the names of files when it opens, and changes it after the disk. Holds: a block that
//! is in it is durable in each directory that its entry names. Bounded: at most `block_count_max` entries of about
//! [`INDEX_BYTES_PER_BLOCK`] bytes; a put beyond is refused. Not here: the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::StoredBlock;
use crate::types::{BlockId, Checksum};

/// Memory that the index takes for each block, in bytes: 28 bytes of key and entry in the leaf of a B-tree, whose
/// leaves are half full when ids arrive in order, and an eleventh of an edge. One million blocks take 64 MB, and
/// hold up to 4 TiB.
pub const INDEX_BYTES_PER_BLOCK: usize = 64;

/// A set of directories, by position: bit `i` is directory `i`.
pub(super) type DirectorySet = u16;

/// Most directories of one store: the width of a [`DirectorySet`].
pub(super) const DIRECTORY_COUNT_MAX: usize = DirectorySet::BITS as usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub len: u32,
    pub checksum: Checksum,
    /// Directories that hold a copy.
    pub copies: DirectorySet,
    /// Those of `copies` that were found damaged.
    pub bad: DirectorySet,
}

impl Entry {
    pub(super) fn block(&self, id: BlockId) -> StoredBlock {
        StoredBlock { id, len: self.len, checksum: self.checksum }
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    blocks: BTreeMap<BlockId, Entry>,
    /// Blocks without a good copy left, to be fetched from another data server.
    corrupt: BTreeSet<BlockId>,
    /// Copies and bytes in each directory.
    usage: [(u64, u64); DIRECTORY_COUNT_MAX],
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn get(&self, id: BlockId) -> Option<Entry> {
        self.blocks.get(&id).copied()
    }

    /// Puts `entry` in the place of what was known about `id`.
    pub(super) fn set(&mut self, id: BlockId, entry: Entry) {
        debug_assert!(entry.copies != 0 && entry.bad & !entry.copies == 0, "block {id}: {entry:?}");
        if let Some(old) = self.blocks.insert(id, entry) {
            self.account(old.copies, old.len, false);
        }
        self.account(entry.copies, entry.len, true);
        if entry.bad == entry.copies {
            self.corrupt.insert(id);
        } else {
            self.corrupt.remove(&id);
        }
    }

    pub(super) fn remove(&mut self, id: BlockId) -> Option<Entry> {
        let entry = self.blocks.remove(&id)?;
        self.account(entry.copies, entry.len, false);
        self.corrupt.remove(&id);
        Some(entry)
    }

    /// Up to `limit` blocks behind `after`, in the order of ids.
    pub(super) fn list(&self, after: Option<BlockId>, limit: usize) -> Vec<StoredBlock> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.blocks.range((from, Bound::Unbounded)).take(limit).map(|(&id, e)| e.block(id)).collect()
    }

    /// Up to `limit` blocks of which no copy is good.
    pub(super) fn corrupt(&self, limit: usize) -> Vec<BlockId> {
        self.corrupt.iter().take(limit).copied().collect()
    }

    /// Copies in a directory and their bytes.
    pub(super) fn usage(&self, directory_index: usize) -> (u64, u64) {
        self.usage[directory_index]
    }

    fn account(&mut self, copies: DirectorySet, len: u32, add: bool) {
        for (index, (count, bytes)) in self.usage.iter_mut().enumerate() {
            if copies & 1 << index == 0 {
                continue;
            }
            if add {
                *count += 1;
                *bytes += u64::from(len);
            } else {
                *count -= 1;
                *bytes -= u64::from(len);
            }
        }
    }
}
