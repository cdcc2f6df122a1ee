//! sled and the read cache in front of it: what is already on its way to the disk.
//!
//! `writer` writes, views read, `recover` opens and verifies. Holds: each batch ends at one log index and carries its
//! stamp, so that after a crash of the process sled is the state at some log index; every value is checked
//! against its checksum before it leaves. sled panics on some damaged files: all calls are guarded, a panic is an error.
//! Not here: durability. sled does not promise it on power loss (docs/decisions/0005-view.md); the view is rebuilt then.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::super::StoreError;
use super::filter::KeyFilter;
use super::record::{Stamp, Tally, seal, show, unseal};
use crate::namespace::ViewError;
use crate::types::codec;

/// The key of the stamp. No record has an empty key.
const STAMP_KEY: &[u8] = b"";
/// sled writes its buffers this often by itself; a killed process loses at most this much, and the log has it.
const SLED_WRITE_EVERY_MS: u64 = 200;
/// Times that opening is tried while sled's own lock is still held: a database closed a moment ago in this process
/// lets go of it from a background thread.
const OPEN_TRIES: u32 = 50;
/// Wait between those tries.
const OPEN_RETRY: std::time::Duration = std::time::Duration::from_millis(100);
/// Bytes one cached record takes beside key and value: two `Bytes` with their heap headers and a slot. Measured by
/// benches/view.rs.
const CACHE_OVERHEAD: u64 = 160;

/// Key -> value, or the knowledge that there is none.
type ReadCache = Cache<Bytes, Option<Bytes>, CacheWeight>;

#[derive(Clone)]
struct CacheWeight;

impl Weighter<Bytes, Option<Bytes>> for CacheWeight {
    fn weight(&self, key: &Bytes, value: &Option<Bytes>) -> u64 {
        CACHE_OVERHEAD + (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64
    }
}

/// One sled database with its cache.
pub(super) struct Engine {
    // Dropped in this order: the tree is a handle on the database.
    tree: sled::Tree,
    db: sled::Db,
    cache: ReadCache,
    filter: KeyFilter,
    dir: PathBuf,
}

impl Engine {
    /// Opens or makes the database in `dir`.
    pub(super) fn open(dir: &Path, sled_cache_bytes: u64, cache_bytes: u64) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::new(format!("opening the view {}", dir.display()), reason);
        fs::create_dir_all(dir).map_err(|e| failed(e.to_string()))?;
        remove_half_made_tables(dir).map_err(|e| failed(e.to_string()))?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(sled_cache_bytes)
            .flush_every_ms(Some(SLED_WRITE_EVERY_MS));
        let mut tries = 0;
        let db = loop {
            tries += 1;
            match guarded(|| config.open()) {
                Ok(db) => break db,
                Err(reason) if tries < OPEN_TRIES && reason.contains("acquire lock") => {
                    std::thread::sleep(OPEN_RETRY);
                }
                Err(reason) => return Err(failed(reason)),
            }
        };
        let tree: sled::Tree = (*db).clone();
        let items = usize::try_from(cache_bytes / (CACHE_OVERHEAD * 2)).unwrap_or(usize::MAX).max(16);
        let cache = Cache::with_weighter(items, cache_bytes, CacheWeight);
        Ok(Self { tree, db, cache, filter: KeyFilter::new(), dir: dir.to_owned() })
    }

    /// Bytes of the read cache.
    pub(super) fn cache_bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// Bytes of sled's files.
    pub(super) fn disk_bytes(&self) -> u64 {
        guarded(|| self.db.size_on_disk()).unwrap_or(0)
    }

    /// The value under `key`, remembering it (or its absence). The caller makes sure that `key` is not being changed
    /// meanwhile: it is not in the overlay.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if !self.filter.may_hold(key) {
            return Ok(None);
        }
        if let Some(known) = self.cache.get(key) {
            return Ok(known);
        }
        let value = match guarded(|| self.tree.get(key)).map_err(|reason| self.unreadable(key, &reason))? {
            Some(stored) => Some(unseal(key, &stored).ok_or_else(|| self.unreadable(key, "wrong checksum"))?),
            None => None,
        };
        self.cache.insert(Bytes::copy_from_slice(key), value.clone());
        Ok(value)
    }

    /// Records between two bounds in key order, past the cache: a long listing must not empty it.
    pub(super) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Records<'_> {
        Records { engine: self, iter: self.tree.range::<&[u8], _>((from, to)), last: None }
    }

    fn unreadable(&self, key: &[u8], reason: &str) -> ViewError {
        ViewError { reason: format!("key {} in {}: {reason}", show(key), self.dir.display()) }
    }

    /// Writes changes and the stamp of the state that they lead to, all or nothing.
    pub(super) fn write<'a>(
        &self,
        changes: impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)>,
        stamp: Option<&Stamp>,
    ) -> Result<(), StoreError> {
        let failed =
            |reason: String| StoreError::new(format!("writing the view {}", self.dir.display()), reason);
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => {
                    self.filter.add(key);
                    batch.insert(key.as_ref(), seal(key, value));
                }
                None => batch.remove(key.as_ref()),
            }
        }
        if let Some(stamp) = stamp {
            let stamp = codec::encode(stamp).map_err(|e| failed(e.to_string()))?;
            batch.insert(STAMP_KEY, seal(STAMP_KEY, &stamp));
        }
        guarded(|| self.tree.apply_batch(batch)).map_err(failed)
    }

    /// Remembers what was just written, before the overlay forgets it: from then on the cache answers.
    pub(super) fn remember(&self, changes: &BTreeMap<Bytes, super::writer::Merged>) {
        for (key, merged) in changes {
            match &merged.new {
                Some(_) => self.cache.insert(key.clone(), merged.new.clone()),
                None => drop(self.cache.remove(key)),
            }
        }
    }

    /// Reads everything and compares its sum with the stamp: a lost, doubled or altered record anywhere is noticed. Fills
    /// the filter on the way: to be called once, before the first read.
    pub(super) fn verify(&self) -> Result<Stamp, StoreError> {
        let failed =
            |reason: String| StoreError::new(format!("verifying the view {}", self.dir.display()), reason);
        let stamp = match guarded(|| self.tree.get(STAMP_KEY)).map_err(failed)? {
            None => Stamp::default(),
            Some(stored) => {
                let bytes =
                    unseal(STAMP_KEY, &stored).ok_or_else(|| failed("its stamp is damaged".into()))?;
                codec::decode::<Stamp>(&bytes).map_err(|e| failed(e.to_string()))?
            }
        };
        let mut tally = Tally::default();
        for record in self.range(Bound::Excluded(STAMP_KEY), Bound::Unbounded) {
            let (key, value) = record.map_err(|e| failed(e.reason))?;
            tally.add(&key, &value);
            self.filter.add(&key);
        }
        if tally != stamp.tally {
            return Err(failed(format!(
                "its records ({}, hash {}) are not those of its stamp ({}, hash {})",
                tally.records, tally.hash, stamp.tally.records, stamp.tally.hash
            )));
        }
        Ok(stamp)
    }

    /// What a disk that lies would do.
    #[cfg(test)]
    pub(super) fn overwrite_raw(&self, key: &[u8], stored: &[u8]) {
        self.filter.add(key);
        self.tree.insert(key, stored).unwrap();
        self.cache.clear();
    }

    /// What a database that loses a record would do.
    #[cfg(test)]
    pub(super) fn lose_raw(&self, key: &[u8]) {
        assert!(self.tree.remove(key).unwrap().is_some());
    }

    /// Writes sled's buffers, closes it and fsyncs its files (sled itself does not), for an orderly end.
    pub(super) fn close(self) -> Result<(), StoreError> {
        let Self { tree, db, cache, filter: _, dir } = self;
        let failed = |reason: String| StoreError::new(format!("closing the view {}", dir.display()), reason);
        guarded(|| db.flush()).map_err(failed)?;
        guarded(|| {
            drop(tree);
            drop(db);
            Ok(())
        })
        .map_err(failed)?;
        drop(cache);
        sync_tree(&dir).map_err(|e| failed(e.to_string()))
    }
}

/// Records of sled in key order, each checked.
pub(super) struct Records<'a> {
    engine: &'a Engine,
    iter: sled::Iter,
    last: Option<sled::IVec>,
}

impl Iterator for Records<'_> {
    type Item = Result<(sled::IVec, Bytes), ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        let iter = &mut self.iter;
        let (key, stored) = match guarded(|| iter.next().transpose()) {
            Ok(found) => found?,
            Err(reason) => {
                let at = self.last.as_deref().unwrap_or_default();
                return Some(Err(ViewError {
                    reason: format!("behind key {} in {}: {reason}", show(at), self.engine.dir.display()),
                }));
            }
        };
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Some(Err(self.engine.unreadable(&key, "out of order")));
        }
        let Some(value) = unseal(&key, &stored) else {
            return Some(Err(self.engine.unreadable(&key, "wrong checksum")));
        };
        self.last = Some(key.clone());
        Some(Ok((key, value)))
    }
}

/// Runs a call of sled; its error and its panic both become a reason. sled's guards release its locks on unwinding.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(e.to_string()),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(format!("sled panicked: {text}"))
        }
    }
}

/// A crash while sled opens leaves its half-made page table, and the next open takes that for corruption.
fn remove_half_made_tables(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// fsyncs a directory and everything in it.
fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    fs::File::open(dir)?.sync_all()
}
