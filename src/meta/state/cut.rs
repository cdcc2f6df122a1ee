//! A consistent cut of sled, read in chunks while the writer goes on writing.
//!
//! `snapshots` reads it, `writer` keeps it whole. Holds: the chunks together are the records of one stamp: before the
//! writer changes a record that the cut has not reached, the value as of the cut is put aside (its *pre-image*), and
//! the next chunk takes it from there. Both hold the disk lock, for one batch and one chunk at a time.
//!
//! Memory: one pre-image for each record changed ahead of the cut, bounded: above the bound the writer waits for the
//! cut to move on, the overlay takes what is applied meanwhile, and when that is full too, apply waits.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::engines::Engine;
use super::record::Stamp;
use super::writer::Merged;
use crate::namespace::{Key, ViewError};

/// Records in one chunk: sled is held for about a millisecond.
const CHUNK_RECORDS: usize = 1024;
/// Bytes in one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of a pre-image beside its key and value.
const PRE_IMAGE_OVERHEAD: u64 = 128;

/// What sled holds, under the disk lock.
#[derive(Default)]
pub(super) struct Disk {
    /// The state in sled.
    pub stamp: Stamp,
    /// A cut being read.
    pub cut: Option<Cut>,
}

/// How far a cut has come.
#[derive(Default)]
pub(super) struct Cut {
    /// Keys up to here are read. The empty key is no record, so a fresh cut has read none.
    done: Key,
    /// Records behind `done` as of the cut; none: not there then.
    pre_images: BTreeMap<Key, Option<Bytes>>,
    bytes: u64,
}

fn size(key: &[u8], value: Option<&Bytes>) -> u64 {
    PRE_IMAGE_OVERHEAD + (key.len() + value.map_or(0, Bytes::len)) as u64
}

impl Disk {
    /// Puts aside what a batch is going to change ahead of the cut; false when there is no room for it now.
    pub(super) fn keep_pre_images(&mut self, batch: &BTreeMap<Key, Merged>, bytes_max: u64) -> bool {
        let Some(cut) = &mut self.cut else { return true };
        if cut.bytes >= bytes_max {
            return false;
        }
        for (key, merged) in batch.range::<Key, _>((Bound::Excluded(&cut.done), Bound::Unbounded)) {
            if !cut.pre_images.contains_key(key) {
                cut.bytes += size(key, merged.old.as_ref());
                cut.pre_images.insert(key.clone(), merged.old.clone());
            }
        }
        true
    }
}

impl Cut {
    /// The next records of the cut in key order, perhaps none of them in this chunk; no list at the end.
    pub(super) fn chunk(&mut self, engine: &Engine) -> Result<Option<Vec<(Key, Bytes)>>, ViewError> {
        let mut present = Vec::new();
        let mut bytes = 0;
        for record in engine.range(Bound::Excluded(self.done.as_ref()), Bound::Unbounded) {
            let (key, value) = record?;
            bytes += key.len() + value.len();
            present.push((Key::from(&key[..]), value));
            if present.len() >= CHUNK_RECORDS || bytes >= CHUNK_BYTES {
                break;
            }
        }
        let last = present.last().map(|(key, _)| key.clone());
        let mut old = std::mem::take(&mut self.pre_images);
        if let Some(last) = &last {
            // Pre-images behind the last key of the chunk belong to later chunks.
            self.pre_images = old.split_off(last);
            if let Some(own) = self.pre_images.remove(last) {
                old.insert(last.clone(), own);
            }
        }
        self.bytes -= old.iter().map(|(key, value)| size(key, value.as_ref())).sum::<u64>();
        match last {
            Some(last) => self.done = last,
            None if old.is_empty() => return Ok(None),
            None => {}
        }
        if old.is_empty() {
            return Ok(Some(present));
        }
        for (key, value) in present {
            old.entry(key).or_insert(Some(value));
        }
        Ok(Some(old.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()))
    }
}
