//! Storing and deleting blocks.
//!
//! The data server calls it for uploads, repair and reclaim. Holds: a put verifies the bytes before they are written,
//! and enters the block into the index after it is durable; puts and deletes of one block come one after the other.
//! Not here: the steps of a write (`directory`).

use std::io;

use bytes::Bytes;

use super::directory::is_full;
use super::error::StoreError;
use super::format::{self, HEAD_LEN, Head};
use super::index::{DirectorySet, Entry};
use super::status::count;
use super::{BlockStore, Put, StoredBlock, each_at_once};
use crate::types::{BLOCK_LEN_MAX, BlockId, Checksum};

impl BlockStore {
    /// Stores a block, durably: in as many healthy directories as the mode asks, at least one.
    ///
    /// Sent again it is [`Put::AlreadyStored`], after its copies were read, and mended where they were not whole.
    ///
    /// # Errors
    /// See [`StoreError`]. After an error the block may nevertheless be stored; sending it again is harmless.
    pub fn put(&self, id: BlockId, checksum: Checksum, data: &Bytes) -> Result<Put, StoreError> {
        let bad_len = || StoreError::BadLen { block: id, len: data.len() };
        let len = u32::try_from(data.len()).map_err(|_| bad_len())?;
        if !(1..=BLOCK_LEN_MAX).contains(&len) {
            return Err(bad_len());
        }
        let (sectors, computed) = format::checksums(data);
        if computed != checksum {
            return Err(StoreError::BadChecksum { block: id, sent: checksum, computed });
        }
        let head = Head { block: StoredBlock { id, len, checksum }, sectors };

        let _guard = self.busy.enter(id);
        let known = self.index.lock().get(id);
        if let Some(entry) = known {
            if entry.block(id) != head.block {
                let (have_len, have) = (entry.len, entry.checksum);
                return Err(StoreError::Conflict { block: id, have_len, have, sent: checksum });
            }
            // Reads every copy, and adds those that a directory which failed meanwhile could not take.
            if self.mend_locked(id, entry).is_ok() {
                count(&self.counters.put_again_count, 1);
                return Ok(Put::AlreadyStored);
            }
        } else if self.index.lock().len() >= self.config.block_count_max {
            return Err(StoreError::TooManyBlocks(self.config.block_count_max));
        }

        // Copies that are damaged beyond mending are replaced where they are, the rest goes by free space.
        let copies = self.write_copies(&head, data, usize::from(self.config.mode.copy_count()), 0)?;
        let stale = known.map_or(0, |entry| entry.copies & !copies);
        for (_, directory) in self.holders(stale) {
            if let Err(error) = directory.unlink(&head.block) {
                tracing::warn!(block = %id, dir = %directory.path.display(), reason = %error, "damaged copy stays");
            }
        }
        self.index.lock().set(id, Entry { len, checksum, copies, bad: 0 });
        count(&self.counters.put_count, 1);
        count(&self.counters.put_bytes, u64::from(len));
        Ok(Put::Stored)
    }

    /// Writes up to `wanted` copies into healthy directories outside `except`; says into which. Copies go to several
    /// directories at the same time; a directory that fails is replaced by another one.
    pub(super) fn write_copies(
        &self,
        head: &Head,
        data: &[u8],
        wanted: usize,
        except: DirectorySet,
    ) -> Result<DirectorySet, StoreError> {
        let len = head.block.len;
        let mut failure = None;
        let mut candidates = self.candidates(len, except, &mut failure);
        candidates.reverse();
        let mut copies: DirectorySet = 0;
        while (copies.count_ones() as usize) < wanted && !candidates.is_empty() {
            let missing = wanted - copies.count_ones() as usize;
            let batch = candidates.split_off(candidates.len().saturating_sub(missing));
            let write = |&index: &usize| (index, self.directories[index].write(head, data));
            let results: Vec<(usize, io::Result<()>)> = each_at_once(&*self.disk, &batch, write);
            for (index, result) in results {
                match result {
                    Ok(()) => copies |= 1 << index,
                    Err(source) if is_full(&source) => failure = Some(StoreError::NoSpace { len }),
                    Err(source) => {
                        let path = self.directories[index].path.clone();
                        failure = Some(StoreError::Io { what: "store a block in", path, source });
                    }
                }
            }
        }
        if copies == 0 { Err(failure.unwrap_or(StoreError::NoDirectory)) } else { Ok(copies) }
    }

    /// Healthy directories with room for a block, best first: the one that was given least for the room it has, so
    /// that all fill in proportion and none takes every write only because it is a little emptier.
    fn candidates(&self, len: u32, except: DirectorySet, failure: &mut Option<StoreError>) -> Vec<usize> {
        let need = u64::from(len) + HEAD_LEN as u64;
        let mut ranked: Vec<(u128, usize)> = Vec::new();
        for (index, directory) in self.directories.iter().enumerate() {
            if except & 1 << index != 0 || !directory.takes_writes() {
                continue;
            }
            match directory.room() {
                Ok(room) if room >= need => {
                    let given = u128::from(directory.given_bytes() + need);
                    ranked.push(((given << 64) / u128::from(room), index));
                }
                Ok(_) => *failure = Some(StoreError::NoSpace { len }),
                Err(error) => directory.note_error("statvfs", &error),
            }
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, index)| index).collect()
    }

    /// Deletes a block; says whether it was here. A crash may bring it back: it is then listed again, and deleted
    /// again by who asked for it.
    ///
    /// # Errors
    /// When a directory refused; the block is served no more in any case.
    pub fn delete(&self, id: BlockId) -> Result<bool, StoreError> {
        let _guard = self.busy.enter(id);
        let Some(entry) = self.index.lock().remove(id) else { return Ok(false) };
        count(&self.counters.delete_count, 1);
        let mut result = Ok(true);
        for (_, directory) in self.holders(entry.copies) {
            if let Err(source) = directory.unlink(&entry.block(id)) {
                result =
                    Err(StoreError::Io { what: "delete a block in", path: directory.path.clone(), source });
            }
        }
        result
    }
}
