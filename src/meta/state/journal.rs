//! The view on a disk that sled does not know: all records in memory, and a journal of the batches that led to them.
//!
//! A simulation runs on it. Holds: after a crash of the process the view is the state at some log index, the last batch
//! that is whole in the file; nothing is synced before [`JournalEngine::close`], as sled syncs nothing either: another boot
//! means that the view is made anew. Not here: making the file shorter. A view that a snapshot replaces gets a new one.
//!
//! ```text
//! batch*   len u32 | crc32c(len, payload) u32 | payload
//! payload  stamp len u32 (0: none) | Stamp (bincode) | (key len u32, value len u32 or 0xffffffff: deleted, key, value)*
//! ```
//!
//! All numbers little-endian.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::super::StoreError;
use super::engines::Put;
use super::record::{Stamp, Tally};
use crate::namespace::Key;
use crate::runtime::disk::{Disk, DiskFile};
use crate::types::codec;

const FILE: &str = "journal";
/// Bytes before a payload.
const HEAD_LEN: usize = 8;
/// Length of the value of a key that is deleted.
const DELETED: u32 = u32::MAX;
/// Records that a range copies at a time.
const CHUNK: usize = 64;

type Changes = Vec<(Key, Option<Bytes>)>;

/// One view.
pub(super) struct JournalEngine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    records: RwLock<BTreeMap<Key, Bytes>>,
    journal: Mutex<Journal>,
}

struct Journal {
    file: Box<dyn DiskFile>,
    /// Bytes of whole batches in it.
    len: u64,
    stamp: Stamp,
}

impl JournalEngine {
    /// Opens or makes the view in `dir`: reads its journal up to the first batch that is not whole, and cuts it there.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, StoreError> {
        let failed = |e: std::io::Error| StoreError::new(format!("opening the view {}", dir.display()), e);
        disk.make_dirs(dir).map_err(failed)?;
        let path = dir.join(FILE);
        let file = match disk.open_to_write(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => disk.create(&path),
            opened => opened,
        }
        .map_err(failed)?;
        let len = file.length().map_err(failed)?;
        let bytes = file.read_at(0, usize::try_from(len).unwrap_or(usize::MAX)).map_err(failed)?;
        let (mut records, mut stamp, mut at) = (BTreeMap::new(), Stamp::default(), 0);
        while let Some((batch_len, batch_stamp, changes)) = batch(&bytes[at..]) {
            at += batch_len;
            stamp = batch_stamp.unwrap_or(stamp);
            put(&mut records, changes);
        }
        if at < bytes.len() {
            tracing::warn!(journal = %path.display(), offset = at, "the last batch of the view is not whole: cut off");
            file.set_len(at as u64).map_err(failed)?;
        }
        let journal = Mutex::new(Journal { file, len: at as u64, stamp });
        Ok(Self { disk, dir: dir.to_owned(), records: RwLock::new(records), journal })
    }

    /// Bytes of the journal.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.journal.lock().len
    }

    /// The value under `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.records.read().get(&Key::from(key)).cloned()
    }

    /// Records between two bounds in key order.
    pub(super) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> JournalRecords<'_> {
        JournalRecords {
            engine: self,
            from: from.map(Key::from),
            to: to.map(Key::from),
            chunk: VecDeque::new(),
        }
    }

    /// Writes changes and the stamp of the state that they lead to, all or nothing.
    pub(super) fn write<'a>(
        &self,
        changes: impl Iterator<Item = Put<'a>>,
        stamp: Option<&Stamp>,
    ) -> Result<(), StoreError> {
        let failed = |e: &dyn std::fmt::Display| {
            StoreError::new(format!("writing the view {}", self.dir.display()), e)
        };
        let changes: Changes = changes.map(|(key, value)| (Key::from(key), value.cloned())).collect();
        let bytes = encode(&changes, stamp).map_err(|e| failed(&e))?;
        let mut journal = self.journal.lock();
        journal.file.write_at(&bytes, journal.len).map_err(|e| failed(&e))?;
        journal.len += bytes.len() as u64;
        journal.stamp = stamp.unwrap_or(&journal.stamp).clone();
        put(&mut self.records.write(), changes);
        Ok(())
    }

    /// Compares the sum of all records with the stamp.
    pub(super) fn verify(&self) -> Result<Stamp, StoreError> {
        let stamp = self.journal.lock().stamp.clone();
        let mut tally = Tally::default();
        self.records.read().iter().for_each(|(key, value)| tally.add(key, value));
        if tally != stamp.tally {
            return Err(StoreError::new(
                format!("verifying the view {}", self.dir.display()),
                format!(
                    "its records ({}, hash {}) are not those of its stamp ({}, hash {})",
                    tally.records, tally.hash, stamp.tally.records, stamp.tally.hash
                ),
            ));
        }
        Ok(stamp)
    }

    /// Makes the journal durable, for an orderly end.
    pub(super) fn close(self) -> Result<(), StoreError> {
        let Self { disk, dir, records: _, journal } = self;
        let synced = journal.into_inner().file.sync().and_then(|()| disk.sync_dir(&dir));
        synced.map_err(|e| StoreError::new(format!("closing the view {}", dir.display()), e))
    }
}

fn put(records: &mut BTreeMap<Key, Bytes>, changes: Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => records.insert(key, value),
            None => records.remove(&key),
        };
    }
}

fn encode(changes: &Changes, stamp: Option<&Stamp>) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut out = vec![0; HEAD_LEN];
    let stamp = stamp.map(codec::encode).transpose()?.unwrap_or_default();
    out.extend_from_slice(&u32::try_from(stamp.len())?.to_le_bytes());
    out.extend_from_slice(&stamp);
    for (key, value) in changes {
        let value_len = value.as_ref().map_or(Ok(DELETED), |value| u32::try_from(value.len()))?;
        out.extend_from_slice(&u32::try_from(key.len())?.to_le_bytes());
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let len = u32::try_from(out.len() - HEAD_LEN)?.to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&len), &out[HEAD_LEN..]);
    out[..4].copy_from_slice(&len);
    out[4..HEAD_LEN].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// A batch of two changes that leads to `stamp`: for its frozen bytes.
#[cfg(test)]
pub(super) fn golden_batch(stamp: &Stamp) -> Vec<u8> {
    let changes = vec![(Key::from("a"), Some(Bytes::from_static(b"one"))), (Key::from("b"), None)];
    let bytes = encode(&changes, Some(stamp)).unwrap();
    assert_eq!(batch(&bytes), Some((bytes.len(), Some(stamp.clone()), changes)));
    bytes
}

/// The batch at the start of `bytes` and its length; none if it is not whole.
fn batch(bytes: &[u8]) -> Option<(usize, Option<Stamp>, Changes)> {
    let mut rest = bytes;
    let len = take_u32(&mut rest)?;
    let crc = take_u32(&mut rest)?;
    let mut payload = rest.get(..len as usize)?;
    if crc != crc32c::crc32c_append(crc32c::crc32c(&len.to_le_bytes()), payload) {
        return None;
    }
    let stamp_len = take_u32(&mut payload)?;
    let stamp = take(&mut payload, stamp_len)?;
    let stamp = if stamp.is_empty() { None } else { Some(codec::decode(stamp).ok()?) };
    let mut changes = Changes::new();
    while !payload.is_empty() {
        let (key_len, value_len) = (take_u32(&mut payload)?, take_u32(&mut payload)?);
        let key = Key::from(take(&mut payload, key_len)?);
        let value = if value_len == DELETED { None } else { Some(take(&mut payload, value_len)?) };
        changes.push((key, value.map(Bytes::copy_from_slice)));
    }
    Some((HEAD_LEN + len as usize, stamp, changes))
}

fn take<'a>(bytes: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len as usize)?;
    *bytes = rest;
    Some(taken)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*taken))
}

/// Records in key order.
pub(super) struct JournalRecords<'a> {
    engine: &'a JournalEngine,
    from: Bound<Key>,
    to: Bound<Key>,
    /// The next ones: nothing is locked while they are looked at.
    chunk: VecDeque<(Key, Bytes)>,
}

impl Iterator for JournalRecords<'_> {
    type Item = (Key, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        if self.chunk.is_empty() {
            let is_empty = match (&self.from, &self.to) {
                (Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to))
                | (Bound::Included(from), Bound::Excluded(to)) => from >= to,
                (Bound::Included(from), Bound::Included(to)) => from > to,
                _ => false,
            };
            if is_empty {
                return None;
            }
            let records = self.engine.records.read();
            let range = records.range((self.from.clone(), self.to.clone()));
            self.chunk.extend(range.take(CHUNK).map(|(key, value)| (key.clone(), value.clone())));
            self.from = Bound::Excluded(self.chunk.back()?.0.clone());
        }
        self.chunk.pop_front()
    }
}
