//! Reading blocks back: ranges, whole blocks, verification, and mending bad copies from good ones.
//!
//! The data server's reads, its scrub and its repair call it. Holds: bytes leave only when every sector they come
//! from has its checksum; a copy found bad is remembered, counted and named in a warning; a block without a good
//! copy is [`StoreError::BlockCorrupt`] and is listed by `corrupt()` until it is put again or deleted.

use std::ops::Range;

use bytes::Bytes;

use super::error::{CopyFault, StoreError};
use super::index::{DirectorySet, Entry};
use super::status::count;
use super::{BlockStore, StoredBlock};
use crate::runtime::disk::Way;
use crate::types::BlockId;

/// What verifying a block found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The block.
    pub block: StoredBlock,
    /// Good copies now.
    pub copy_count: u32,
    /// How many of them were damaged or lacking and were written anew.
    pub mended_count: u32,
}

impl BlockStore {
    /// Bytes `range` of a block. Reads and verifies the sectors that cover it, and no others.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::BadRange`] unless `start <= end <= len`, and
    /// [`StoreError::BlockCorrupt`] if no copy here is good in these sectors.
    pub fn get(&self, id: BlockId, range: Range<u32>) -> Result<Bytes, StoreError> {
        let block = self.stat(id)?;
        let Range { start, end } = range;
        if start > end || end > block.len {
            return Err(StoreError::BadRange { block: id, start, end, len: block.len });
        }
        if start == end {
            return Ok(Bytes::new());
        }
        let way = if (start, end) == (0, block.len) { self.way(id) } else { Way::Cached };
        let bytes =
            self.read_any(id, |copy, block| copy.read(block, start, end, way).map(|(_, bytes)| bytes))?;
        count(&self.counters.get_count, 1);
        count(&self.counters.get_bytes, bytes.len() as u64);
        Ok(bytes)
    }

    /// The whole block, verified against its own checksum as well.
    ///
    /// # Errors
    /// As [`BlockStore::get`].
    pub fn get_all(&self, id: BlockId) -> Result<(StoredBlock, Bytes), StoreError> {
        let way = self.way(id);
        let (head, bytes) = self.read_any(id, |copy, block| copy.read(block, 0, block.len, way))?;
        count(&self.counters.get_count, 1);
        count(&self.counters.get_bytes, bytes.len() as u64);
        Ok((head.block, bytes))
    }

    /// How a whole block is read: past the page cache the first time, for most that is read whole is read once. Through it
    /// when it is wanted again, and from then on.
    fn way(&self, id: BlockId) -> Way {
        if self.lately.lock().note(id) { Way::Cached } else { Way::Direct }
    }

    /// Reads all of every copy; mends what is damaged, and makes copies that the mode asks for and that lack.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and [`StoreError::BlockCorrupt`] if no copy is good.
    pub fn verify(&self, id: BlockId) -> Result<Verified, StoreError> {
        let _guard = self.busy.enter(id);
        let entry = self.index.lock().get(id).ok_or(StoreError::NotFound(id))?;
        count(&self.counters.verify_count, 1);
        self.mend_locked(id, entry)
    }

    /// Asks one copy after the other: those not known to be bad first, then healthy directories before others.
    fn read_any<T>(
        &self,
        id: BlockId,
        read: impl Fn(&super::Directory, &StoredBlock) -> Result<T, CopyFault>,
    ) -> Result<T, StoreError> {
        let entry = self.index.lock().get(id).ok_or(StoreError::NotFound(id))?;
        let block = entry.block(id);
        let mut copies: Vec<_> = self.holders(entry.copies).collect();
        copies.sort_by_key(|(index, copy)| (entry.bad & 1 << index != 0, !copy.takes_writes(), *index));
        let mut bad: DirectorySet = 0;
        let mut last = CopyFault::Missing;
        for (index, copy) in copies {
            match read(copy, &block) {
                Ok(found) => {
                    if bad != 0 {
                        self.mend(id);
                    }
                    return Ok(found);
                }
                Err(fault) => {
                    self.note_bad(id, index, fault);
                    bad |= 1 << index;
                    last = fault;
                }
            }
        }
        // A delete may have come between the look into the index and the read.
        if self.index.lock().get(id).is_none() {
            return Err(StoreError::NotFound(id));
        }
        Err(StoreError::BlockCorrupt { block: id, fault: last })
    }

    /// Remembers that a copy is bad, and says so once.
    fn note_bad(&self, id: BlockId, directory_index: usize, fault: CopyFault) {
        let bit: DirectorySet = 1 << directory_index;
        let mut index = self.index.lock();
        let Some(mut entry) = index.get(id).filter(|entry| entry.copies & bit != 0 && entry.bad & bit == 0)
        else {
            return;
        };
        entry.bad |= bit;
        index.set(id, entry);
        drop(index);
        count(&self.counters.bad_copy_count, 1);
        tracing::warn!(block = %id, dir = %self.directories[directory_index].path.display(), reason = fault.as_str(),
            "bad copy of a block");
    }

    /// Mends a block in passing, for a reader that already has its bytes: what fails here is left to the scrub.
    fn mend(&self, id: BlockId) {
        let _guard = self.busy.enter(id);
        let Some(entry) = self.index.lock().get(id) else { return };
        if let Err(error) = self.mend_locked(id, entry) {
            tracing::warn!(block = %id, reason = %error, "cannot mend a block");
        }
    }

    /// Reads every copy to its end, writes the bad ones anew and adds lacking ones. Called with the block locked.
    pub(super) fn mend_locked(&self, id: BlockId, entry: Entry) -> Result<Verified, StoreError> {
        let block = entry.block(id);
        let (mut good, mut bad): (DirectorySet, DirectorySet) = (0, 0);
        let mut whole = None;
        let mut last = CopyFault::Missing;
        for (index, copy) in self.holders(entry.copies) {
            match copy.read(&block, 0, block.len, Way::Direct) {
                Ok(found) => {
                    good |= 1 << index;
                    whole = Some(found);
                }
                Err(fault) => {
                    self.note_bad(id, index, fault);
                    bad |= 1 << index;
                    last = fault;
                }
            }
        }
        let Some((head, data)) = whole else {
            return Err(StoreError::BlockCorrupt { block: id, fault: last });
        };
        let mut mended: DirectorySet = 0;
        for (index, copy) in self.holders(bad).filter(|(_, copy)| copy.takes_writes()) {
            match copy.write(&head, &data) {
                Ok(()) => mended |= 1 << index,
                Err(error) => tracing::warn!(block = %id, dir = %copy.path.display(), step = "mend",
                    reason = %error, "cannot write a copy anew"),
            }
        }
        // Bad copies in directories that take no writes do not count: others take their place.
        let wanted = usize::from(self.config.mode.copy_count());
        let lacking = wanted.saturating_sub((good | mended).count_ones() as usize);
        let mut copies = entry.copies;
        if lacking > 0
            && let Ok(added) = self.write_copies(&head, &data, lacking, copies)
        {
            copies |= added;
            mended |= added;
        }
        good |= mended;
        self.index.lock().set(id, Entry { copies, bad: copies & !good, ..entry });
        let mended_count = mended.count_ones();
        if mended_count > 0 {
            count(&self.counters.mended_count, u64::from(mended_count));
            tracing::info!(block = %id, mended_count, "copies of a block written anew");
        }
        Ok(Verified { block, copy_count: good.count_ones(), mended_count })
    }
}
