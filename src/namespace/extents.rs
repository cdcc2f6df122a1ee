//! The algebra of extents: cut ranges out of a file, put pieces in, count references of blocks.
//!
//! ```text
//! before      [----- A -----][--- B ---]      [- C -]
//! insert N            [------ N ------]
//! after       [--- A --][------ N ------][B]  [- C -]      A trimmed, B trimmed; N inside A would split A in two
//! ```
//!
//! Called by `ops/publish`, `ops/clone`, `ops/range`, `ops/set_attrs`, `ops/orphans`. Holds: extents of a file never overlap; the
//! references that a block's record counts are the extents that name it; a block leaves its record for the reclaim
//! queue with its last reference. Not here: the size of the file, permissions, timestamps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::keys;
use super::records::{Block, Reclaim, Record, Session, StoredExtent};
use super::txn::{Overlay, Step, corrupt, read, scan};
use super::{View, ViewError};
use crate::types::{
    BLOCK_LEN_MAX, BlockId, BlockRef, Extent, ExtentSource, FsError, INLINE_LEN_MAX, InodeId, SessionId,
};

/// Largest size of a file: 2^63 - 1, what `off_t` holds.
pub(super) const SIZE_MAX: u64 = i64::MAX.unsigned_abs();

/// The extent of a record.
pub(super) fn from_record(key: &[u8], value: &[u8]) -> Result<Extent, ViewError> {
    let StoredExtent { len, source } = StoredExtent::decode(value)?;
    keys::second(key)
        .and_then(|end| end.checked_sub(len))
        .map(|offset| Extent { offset, len, source })
        .filter(is_possible)
        .ok_or_else(|| corrupt(format!("extent under {key:02x?} is not possible")))
}

/// The extents that touch `start..end`, in order, at most `limit`; whether more follow.
pub(super) fn touching(
    view: &dyn View,
    inode: InodeId,
    start: u64,
    end: u64,
    limit: usize,
) -> Result<(Vec<Extent>, bool), ViewError> {
    let mut found = Vec::new();
    let mut more = false;
    if start < end {
        let range = keys::extents(inode).starting(&keys::extent(inode, start + 1));
        scan(view, &range, |key, value| {
            let extent = from_record(key, value)?;
            if extent.offset >= end {
                return Ok(ControlFlow::Break(()));
            }
            if found.len() == limit {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            found.push(extent);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok((found, more))
}

/// The part of `extent` within `start..end`, which it touches.
pub(super) fn part(extent: &Extent, start: u64, end: u64) -> Extent {
    let offset = extent.offset.max(start);
    let len = extent.end().min(end) - offset;
    let cut = offset - extent.offset;
    let source = match &extent.source {
        ExtentSource::Block { block, block_offset } => ExtentSource::Block {
            block: *block,
            block_offset: block_offset + u32::try_from(cut).expect("an extent is no longer than its block"),
        },
        ExtentSource::Inline(bytes) => {
            let from = usize::try_from(cut).expect("an inline extent is short");
            let to = from + usize::try_from(len).expect("an inline extent is short");
            ExtentSource::Inline(bytes.slice(from..to))
        }
        ExtentSource::Zero => ExtentSource::Zero,
    };
    Extent { offset, len, source }
}

/// `a` and `b`, which begins where `a` ends, as one extent, if they can be.
fn joined(a: &Extent, b: &Extent) -> Option<Extent> {
    let source = match (&a.source, &b.source) {
        (ExtentSource::Zero, ExtentSource::Zero) => ExtentSource::Zero,
        (ExtentSource::Inline(x), ExtentSource::Inline(y)) if x.len() + y.len() <= INLINE_LEN_MAX => {
            ExtentSource::Inline([x.as_ref(), y.as_ref()].concat().into())
        }
        _ => return None,
    };
    Some(Extent { offset: a.offset, len: a.len + b.len, source })
}

/// Changes of one file's extents within one command: cut and put as often as wanted, then `settle`.
pub(super) struct Edit<'r, 'v> {
    records: &'r Overlay<'v>,
    inode: InodeId,
    used: Used,
    /// References gained and lost.
    blocks: BTreeMap<BlockId, (BlockRef, u64, u64)>,
}

/// How the bytes covered by extents changed. On the way through an edit that is more than a file may have: one of the
/// largest size is cut, split and moved by taking all of it out and putting it in again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used(i128);

impl Used {
    /// What a file uses after the change.
    pub(super) fn of(self, used: u64) -> u64 {
        let after = (i128::from(used) + self.0).clamp(0, i128::from(SIZE_MAX));
        u64::try_from(after).expect("clamped to what fits")
    }

    /// What all files use after the change.
    pub(super) fn of_all(self, used: u128) -> u128 {
        used.saturating_add_signed(self.0)
    }
}

impl<'r, 'v> Edit<'r, 'v> {
    pub(super) fn new(records: &'r Overlay<'v>, inode: InodeId) -> Self {
        Self { records, inode, used: Used::default(), blocks: BTreeMap::new() }
    }

    fn refer(&mut self, extent: &Extent) {
        self.used.0 += i128::from(extent.len);
        if let ExtentSource::Block { block, .. } = extent.source {
            self.blocks.entry(block.id).or_insert((block, 0, 0)).1 += 1;
        }
    }

    fn unrefer(&mut self, extent: &Extent) {
        self.used.0 -= i128::from(extent.len);
        if let ExtentSource::Block { block, .. } = extent.source {
            self.blocks.entry(block.id).or_insert((block, 0, 0)).2 += 1;
        }
    }

    fn put(&mut self, extent: &Extent) -> Result<(), ViewError> {
        self.refer(extent);
        let record = StoredExtent { len: extent.len, source: extent.source.clone() };
        self.records.put(&keys::extent(self.inode, extent.end()), &record)
    }

    fn delete(&mut self, extent: &Extent) -> Result<(), ViewError> {
        self.unrefer(extent);
        self.records.delete(&keys::extent(self.inode, extent.end()))
    }

    /// Makes a hole of `start..end`.
    pub(super) fn cut(&mut self, start: u64, end: u64) -> Result<(), ViewError> {
        let (old, _) = touching(self.records, self.inode, start, end, usize::MAX)?;
        for extent in old {
            self.delete(&extent)?;
            if extent.offset < start {
                self.put(&part(&extent, extent.offset, start))?;
            }
            if extent.end() > end {
                self.put(&part(&extent, end, extent.end()))?;
            }
        }
        Ok(())
    }

    /// Puts an extent over whatever is there.
    pub(super) fn insert(&mut self, mut extent: Extent) -> Result<(), ViewError> {
        self.cut(extent.offset, extent.end())?;
        // Block pieces stay apart: they say which block they were written with.
        if !matches!(extent.source, ExtentSource::Block { .. }) {
            // One scan finds both neighbours: what ends where this begins and what begins where this ends.
            let from = extent.offset.saturating_sub(1);
            let to = extent.end().saturating_add(1);
            for near in touching(self.records, self.inode, from, to, 2)?.0 {
                let both = if near.end() == extent.offset {
                    joined(&near, &extent)
                } else if near.offset == extent.end() {
                    joined(&extent, &near)
                } else {
                    None
                };
                if let Some(both) = both {
                    self.delete(&near)?;
                    extent = both;
                }
            }
        }
        self.put(&extent)
    }

    /// Splits what reaches over `at`, so that an extent may end and begin there.
    pub(super) fn split(&mut self, at: u64) -> Result<(), ViewError> {
        let (over, _) = touching(self.records, self.inode, at.saturating_sub(1), at, 1)?;
        if let Some(extent) = over.into_iter().find(|e| e.offset < at && at < e.end()) {
            self.delete(&extent)?;
            self.put(&part(&extent, extent.offset, at))?;
            self.put(&part(&extent, at, extent.end()))?;
        }
        Ok(())
    }

    /// Reserves the holes within `start..end` as zeros.
    pub(super) fn fill(&mut self, start: u64, end: u64) -> Result<(), ViewError> {
        let (there, _) = touching(self.records, self.inode, start, end, usize::MAX)?;
        let mut from = start;
        let mut holes = Vec::new();
        for extent in &there {
            if extent.offset > from {
                holes.push((from, extent.offset));
            }
            from = extent.end();
        }
        if from < end {
            holes.push((from, end));
        }
        for (offset, end) in holes {
            self.insert(Extent { offset, len: end - offset, source: ExtentSource::Zero })?;
        }
        Ok(())
    }

    /// Moves all that begins at `start` or behind it so that it begins at `to` or behind it. Nothing reaches over
    /// `start`, and what lies between is a hole.
    pub(super) fn shift(&mut self, start: u64, to: u64) -> Result<(), ViewError> {
        let (mut moved, _) = touching(self.records, self.inode, start, u64::MAX, usize::MAX)?;
        for extent in &moved {
            self.delete(extent)?;
        }
        for extent in &mut moved {
            extent.offset = extent.offset - start + to;
            self.put(extent)?;
        }
        Ok(())
    }

    /// Removes up to `limit` extents from the front; how many there were.
    pub(super) fn remove_some(&mut self, limit: usize) -> Result<usize, ViewError> {
        let (some, _) = touching(self.records, self.inode, 0, u64::MAX, limit)?;
        for extent in &some {
            self.delete(extent)?;
        }
        Ok(some.len())
    }

    /// Writes the reference counts; blocks without a reference enter the reclaim queue. Returns how the bytes covered
    /// changed.
    pub(super) fn settle(self) -> Result<Used, ViewError> {
        for (id, (block, gained, lost)) in self.blocks {
            let key = keys::block(id);
            let old = read::<Block>(self.records, &key)?;
            let refs = old
                .map_or(0, |b| b.refs)
                .saturating_add(gained)
                .checked_sub(lost)
                .ok_or_else(|| corrupt(format!("block {id} loses references that it does not have")))?;
            if refs > 0 {
                let new = Block { refs, len: block.len, checksum: block.checksum, group: block.group };
                if old != Some(new) {
                    self.records.put(&key, &new)?;
                }
            } else {
                // A new block that a later extent of the same publish hides has no record, but has replicas.
                if old.is_some() {
                    self.records.delete(&key)?;
                }
                self.records.put(&keys::reclaim(id), &Reclaim { group: block.group })?;
            }
        }
        Ok(self.used)
    }
}

/// True if the source has as many bytes as the extent is long.
fn is_possible(extent: &Extent) -> bool {
    let fits = match &extent.source {
        ExtentSource::Block { block, block_offset } => {
            (1..=BLOCK_LEN_MAX).contains(&block.len)
                && extent.len <= u64::from(block.len)
                && u64::from(*block_offset) + extent.len <= u64::from(block.len)
        }
        ExtentSource::Inline(bytes) => bytes.len() <= INLINE_LEN_MAX && bytes.len() as u64 == extent.len,
        ExtentSource::Zero => true,
    };
    fits && extent.len > 0
}

/// The shape of an extent that a client made up, moved by `base`: its length, its source, its end.
pub(super) fn checked(extent: &Extent, base: u64) -> Result<Extent, FsError> {
    let offset = base.checked_add(extent.offset).ok_or(FsError::TooBig)?;
    match offset.checked_add(extent.len) {
        Some(end) if end <= SIZE_MAX => {}
        _ => return Err(FsError::TooBig),
    }
    if !is_possible(extent) {
        return Err(FsError::BadExtent);
    }
    Ok(Extent { offset, len: extent.len, source: extent.source.clone() })
}

/// EIO unless a session may publish this block: one that extents refer to already, or a new one of its own. A block of
/// another session that no extent refers to may be deleted at any moment, as may one in the reclaim queue.
pub(super) fn admit(records: &Overlay<'_>, session: SessionId, block: &BlockRef) -> Step<()> {
    let good = if let Some(known) = read::<Block>(records, &keys::block(block.id))? {
        known.agrees(block)
    } else {
        block.id.session == session
            && records.get(&keys::group(block.group))?.is_some()
            && records.get(&keys::reclaim(block.id))?.is_none()
            && !was_reclaimed(records, block.id)?
    };
    if good { Ok(()) } else { Err(FsError::BadExtent.into()) }
}

/// True if a block of an open session was reclaimed.
pub(super) fn was_reclaimed(view: &dyn View, id: BlockId) -> Result<bool, ViewError> {
    Ok(view.get(&keys::reclaimed(id))?.is_some_and(|bits| bit_is_set(&bits, id)))
}

/// True if the bitmap record that `id` falls into has its bit set.
pub(super) fn bit_is_set(bits: &[u8], id: BlockId) -> bool {
    let (byte, bit) = bit_of(id);
    bits.get(byte).is_some_and(|b| b & bit != 0)
}

/// Takes a block out of the reclaim queue. As long as its session lives, a bit remembers that it must not come back.
pub(super) fn reclaimed(records: &Overlay<'_>, id: BlockId) -> Result<(), ViewError> {
    let key = keys::reclaim(id);
    if records.get(&key)?.is_none() {
        return Ok(());
    }
    records.delete(&key)?;
    if read::<Session>(records, &keys::session(id.session))?.is_some() {
        let key = keys::reclaimed(id);
        let mut bits = records.get(&key)?.map_or_else(empty_bitmap, |b| b.to_vec());
        let (byte, bit) = bit_of(id);
        if let Some(b) = bits.get_mut(byte) {
            *b |= bit;
        }
        records.put_bytes(&key, bits.into())?;
    }
    Ok(())
}

/// Bytes of a bitmap record: the version and the bits.
const BITMAP_LEN: usize = 1 + (keys::BITMAP_BITS / 8) as usize;

fn empty_bitmap() -> Vec<u8> {
    let mut bits = vec![0; BITMAP_LEN];
    bits[0] = 1;
    bits
}

/// Byte within the record, behind the version, and mask within the byte.
fn bit_of(id: BlockId) -> (usize, u8) {
    let index = usize::try_from(id.index % keys::BITMAP_BITS).expect("below 1024");
    (1 + index / 8, 1 << (index % 8))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::Txn;
    use super::super::memory::MemoryView;
    use super::*;
    use crate::types::{Checksum, GroupId};

    const FILE: InodeId = InodeId(5);

    fn block(index: u64, len: u32) -> BlockRef {
        let id = BlockId { session: SessionId(1), index };
        BlockRef { id, group: GroupId(1), len, checksum: Checksum(9) }
    }

    fn from_block(offset: u64, len: u64, index: u64, block_offset: u32) -> Extent {
        Extent { offset, len, source: ExtentSource::Block { block: block(index, 100), block_offset } }
    }

    fn inline(offset: u64, text: &'static str) -> Extent {
        let source = ExtentSource::Inline(Bytes::from_static(text.as_bytes()));
        Extent { offset, len: text.len() as u64, source }
    }

    fn all(txn: &Txn<'_>) -> Vec<Extent> {
        touching(&txn.records, FILE, 0, u64::MAX, usize::MAX).unwrap().0
    }

    fn refs(txn: &Txn<'_>, index: u64) -> Option<u64> {
        read::<Block>(&txn.records, &keys::block(block(index, 1).id)).unwrap().map(|b| b.refs)
    }

    fn edit(txn: &Txn<'_>, change: impl FnOnce(&mut Edit<'_, '_>)) -> Used {
        let mut edit = Edit::new(&txn.records, FILE);
        change(&mut edit);
        edit.settle().unwrap()
    }

    #[test]
    fn an_insert_splits_what_it_falls_into() {
        let view = MemoryView::default();
        let txn = Txn::new(&view);
        edit(&txn, |e| e.insert(from_block(0, 100, 1, 0)).unwrap());
        let used = edit(&txn, |e| e.insert(from_block(40, 20, 2, 5)).unwrap());
        assert_eq!(used.of(100), 100);
        assert_eq!(all(&txn), [from_block(0, 40, 1, 0), from_block(40, 20, 2, 5), from_block(60, 40, 1, 60)]);
        assert_eq!((refs(&txn, 1), refs(&txn, 2)), (Some(2), Some(1)));
    }

    #[test]
    fn a_cut_at_the_edges_leaves_the_neighbours_whole() {
        let view = MemoryView::default();
        let txn = Txn::new(&view);
        edit(&txn, |e| {
            e.insert(from_block(0, 10, 1, 0)).unwrap();
            e.insert(from_block(10, 10, 2, 0)).unwrap();
            e.insert(from_block(20, 10, 3, 0)).unwrap();
        });
        edit(&txn, |e| e.cut(10, 20).unwrap());
        assert_eq!(all(&txn), [from_block(0, 10, 1, 0), from_block(20, 10, 3, 0)]);
        assert_eq!(refs(&txn, 2), None);
        assert!(txn.records.get(&keys::reclaim(block(2, 1).id)).unwrap().is_some());
    }

    #[test]
    fn inline_neighbours_become_one_and_are_cut_by_bytes() {
        let view = MemoryView::default();
        let txn = Txn::new(&view);
        edit(&txn, |e| {
            e.insert(inline(0, "abc")).unwrap();
            e.insert(inline(6, "ghi")).unwrap();
            e.insert(inline(3, "def")).unwrap();
        });
        assert_eq!(all(&txn), [inline(0, "abcdefghi")]);
        edit(&txn, |e| e.cut(2, 5).unwrap());
        assert_eq!(all(&txn), [inline(0, "ab"), inline(5, "fghi")]);
    }

    #[test]
    fn a_block_hidden_by_the_same_publish_is_reclaimed() {
        let view = MemoryView::default();
        let txn = Txn::new(&view);
        edit(&txn, |e| {
            e.insert(from_block(0, 10, 1, 0)).unwrap();
            e.insert(from_block(0, 20, 2, 0)).unwrap();
        });
        assert_eq!((refs(&txn, 1), refs(&txn, 2)), (None, Some(1)));
        assert!(txn.records.get(&keys::reclaim(block(1, 1).id)).unwrap().is_some());
    }

    #[test]
    fn impossible_extents_are_refused() {
        let bad = |e: &Extent| checked(e, 0).unwrap_err();
        assert_eq!(bad(&from_block(0, 0, 1, 0)), FsError::BadExtent);
        assert_eq!(bad(&from_block(0, 100, 1, 1)), FsError::BadExtent);
        assert_eq!(bad(&from_block(0, u64::MAX - 3, 1, 0)), FsError::TooBig);
        assert_eq!(bad(&Extent { len: 4, ..inline(0, "abc") }), FsError::BadExtent);
        assert_eq!(checked(&inline(SIZE_MAX - 2, "abc"), 0), Err(FsError::TooBig));
        assert_eq!(checked(&inline(u64::MAX, "abc"), u64::MAX), Err(FsError::TooBig));
        assert!(checked(&inline(SIZE_MAX - 3, "abc"), 0).is_ok());
        assert!(checked(&from_block(7, 100, 1, 0), 3).is_ok_and(|e| e.offset == 10));
    }
}
