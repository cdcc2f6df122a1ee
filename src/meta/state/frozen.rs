//! The whole state as of one moment, in a file, to be read for as long as it takes while the state goes on.
//!
//! [`super::State::frozen`] makes one for `check`, [`super::State::freeze`] for a dump. Holds: the records are those of one stamp, whose count and hash were
//! verified; nothing is locked while they are read. The file is a snapshot in all but name: it is unlinked once it is
//! open, so nothing is left of it however its reader ends, and what a crash leaves goes at the next open.
//!
//! Memory: the first key of every block of the file (256 KiB each) and the last few blocks read.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::StoreError;
use super::packing::Packing;
use super::record::Stamp;
use super::snapshot::{Fault, SnapshotReader, block_at, payload_at};
use crate::namespace::{View, ViewError};
use crate::runtime::disk::{Disk, DiskFile};
use crate::types::{LogIndex, Tally};

/// Blocks kept decoded. Who scans one table and looks into two others in the same order reads each block once.
const KEPT: usize = 8;

type Records = Arc<Vec<(Bytes, Bytes)>>;

/// A view of such a file.
pub struct Frozen {
    /// Which state.
    pub(super) stamp: Stamp,
    file: Box<dyn DiskFile>,
    packing: Packing,
    /// First key of each block, and where the block stands.
    index: Vec<(Bytes, u64)>,
    kept: Mutex<VecDeque<(usize, Records)>>,
}

impl Frozen {
    /// Verifies the file and unlinks it.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, Fault> {
        let file = disk.open(path)?;
        let mut reader = SnapshotReader::open(disk, path)?;
        disk.unlink(path)?;
        let mut index = Vec::new();
        loop {
            let at = reader.at();
            let Some(records) = reader.block()? else { break };
            index.extend(records.into_iter().next().map(|(key, _)| (key, at)));
        }
        Ok(Self { packing: reader.packing(), stamp: reader.stamp, file, index, kept: Mutex::default() })
    }

    /// The log index that it is the state of.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        self.stamp.position.index
    }

    /// Its records: how many, and the state hash.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.stamp.tally
    }

    /// Blocks it consists of.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.index.len()
    }

    /// The packed records of a block, verified; none behind the last.
    ///
    /// # Errors
    /// The file cannot be read, or has changed since it was made.
    pub fn packed(&self, number: usize) -> Result<Option<Bytes>, StoreError> {
        let Some((_, at)) = self.index.get(number) else { return Ok(None) };
        let packed = payload_at(&*self.file, self.packing, *at, number);
        packed.map(Some).map_err(|fault| StoreError::new("reading the copy that is dumped", fault))
    }

    fn block(&self, number: usize) -> Result<Records, ViewError> {
        let mut kept = self.kept.lock();
        if let Some((_, records)) = kept.iter().find(|(n, _)| *n == number) {
            return Ok(records.clone());
        }
        let records = block_at(&*self.file, self.packing, self.index[number].1, number)
            .map_err(|fault| ViewError { reason: format!("reading the copy that is checked: {fault}") })?;
        let records = Arc::new(records);
        kept.truncate(KEPT - 1);
        kept.push_front((number, records.clone()));
        Ok(records)
    }

    /// The block that `key` is in, if it is in any.
    fn block_of(&self, key: &[u8]) -> usize {
        self.index.partition_point(|(first, _)| first[..] <= *key).saturating_sub(1)
    }
}

impl View for Frozen {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if self.index.is_empty() {
            return Ok(None);
        }
        let records = self.block(self.block_of(key))?;
        let found = records.binary_search_by(|(k, _)| k[..].cmp(key));
        Ok(found.ok().map(|at| records[at].1.clone()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        for number in self.block_of(from)..self.index.len() {
            if self.index[number].0[..] >= *to {
                break;
            }
            let records = self.block(number)?;
            let start = records.partition_point(|(key, _)| key[..] < *from);
            for (key, value) in records[start..].iter().take_while(|(key, _)| key[..] < *to) {
                if each(key, value).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
