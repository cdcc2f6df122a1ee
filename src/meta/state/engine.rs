//! sled and the read cache in front of it: what is already on its way to the disk. Records are told apart here; in sled, neighbours share
//! an entry (`page`).
//!
//! `writer` writes, views read, `recover` opens and verifies. Holds: each batch ends at one log index and carries its
//! stamp, so that after a crash of the process sled is the state at some log index; every value is checked
//! against its checksum before it leaves. sled panics on some damaged files: all calls are guarded, a panic is an error.
//! Not here: durability. sled does not promise it on power loss (docs/decisions/0005-view.md); the view is rebuilt then.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use sled::IVec;

use super::super::StoreError;
use super::cache::ReadCache;
use super::filter::KeyFilter;
use super::page::{self, PageKey};
use super::parts::{Part, parts};
use super::record::{Stamp, Tally, seal, show, unseal};
use crate::namespace::{Key, ViewError};
use crate::runtime::processor_count;
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

/// What is wrong with an entry.
const WRONG_CHECKSUM: &str = "wrong checksum";
const NO_PAGE: &str = "it should be a page of records and is none";

/// What becomes of records of one page, by their numbers.
type PageChanges<'a> = Vec<(u8, Option<&'a [u8]>)>;

/// One sled database with its cache.
pub(super) struct SledEngine {
    // Dropped in this order: the tree is a handle on the database.
    tree: sled::Tree,
    db: sled::Db,
    cache: ReadCache,
    filter: KeyFilter,
    dir: PathBuf,
}

impl SledEngine {
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
        Ok(Self {
            tree,
            db,
            cache: ReadCache::new(cache_bytes),
            filter: KeyFilter::new(),
            dir: dir.to_owned(),
        })
    }

    /// Bytes of the read cache.
    pub(super) fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// So many records are about to be read or written.
    pub(super) fn expect(&self, records: u64) {
        self.filter.make_room(records);
    }

    /// Bytes of sled's files.
    pub(super) fn disk_bytes(&self) -> u64 {
        guarded(|| self.db.size_on_disk()).unwrap_or(0)
    }

    /// The value under `key`, remembering it (or its absence). The caller makes sure that `key` is not being changed
    /// meanwhile: it is not in the overlay.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if let Some(known) = self.cache.get(key) {
            return Ok(known);
        }
        if !self.filter.may_hold(key) {
            return Ok(None);
        }
        let value = match page::place(key) {
            None => self.stored(key, |value| Ok(Some(Bytes::copy_from_slice(value))))?,
            Some((page, number)) => self.stored(page.as_bytes(), |records| {
                for record in page::records(records) {
                    let (found, value) = record.ok_or_else(|| self.unreadable(page.as_bytes(), NO_PAGE))?;
                    if found == number {
                        return Ok(Some(Bytes::copy_from_slice(value)));
                    }
                }
                Ok(None)
            })?,
        };
        self.cache.insert(Key::from(key), value.as_deref());
        Ok(value)
    }

    /// What `read` makes of the value of an entry of sled, if there is one.
    fn stored<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<Option<T>, ViewError>,
    ) -> Result<Option<T>, ViewError> {
        let stored = guarded(|| self.tree.get(key)).map_err(|reason| self.unreadable(key, &reason))?;
        match stored {
            None => Ok(None),
            Some(stored) => read(unseal(key, &stored).ok_or_else(|| self.unreadable(key, WRONG_CHECKSUM))?),
        }
    }

    /// Records between two bounds in key order, past the cache: a long listing must not empty it.
    pub(super) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> SledRecords<'_> {
        let first = match from {
            Bound::Included(key) | Bound::Excluded(key) => page::first_page(key),
            Bound::Unbounded => None,
        };
        let begin = first.as_ref().map_or(from, |page| Bound::Included(page.as_bytes()));
        SledRecords {
            engine: self,
            iter: self.tree.range::<&[u8], _>((begin, to)),
            bounds: (from.map(Into::into), to.map(Into::into)),
            page: VecDeque::new(),
            last: None,
        }
    }

    fn unreadable(&self, key: &[u8], reason: &str) -> ViewError {
        ViewError { reason: format!("key {} in {}: {reason}", show(key), self.dir.display()) }
    }

    /// Writes changes and the stamp of the state that they lead to, all or nothing.
    pub(super) fn write<'a>(
        &self,
        changes: impl Iterator<Item = super::engines::Put<'a>>,
        stamp: Option<&Stamp>,
    ) -> Result<(), StoreError> {
        let failed =
            |reason: String| StoreError::new(format!("writing the view {}", self.dir.display()), reason);
        if let Some(stamp) = stamp {
            self.filter.make_room(stamp.tally.records);
        }
        let mut batch = sled::Batch::default();
        let mut pages: BTreeMap<PageKey, PageChanges<'_>> = BTreeMap::new();
        for (key, value) in changes {
            if value.is_some() {
                self.filter.add(key);
            }
            match (page::place(key), value) {
                (Some((page, number)), value) => {
                    pages.entry(page).or_default().push((number, value.map(AsRef::as_ref)));
                }
                (None, value) => {
                    // Nobody can read while a batch is applied: what it has to read from disk is read before.
                    guarded(|| self.tree.get(key)).map_err(failed)?;
                    match value {
                        Some(value) => batch.insert(key, seal(key, value)),
                        None => batch.remove(key),
                    }
                }
            }
        }
        for (key, changes) in pages {
            let key = key.as_bytes();
            // Nobody else writes.
            let old = guarded(|| self.tree.get(key)).map_err(failed)?;
            let old = match &old {
                Some(stored) => {
                    unseal(key, stored).ok_or_else(|| failed(self.unreadable(key, WRONG_CHECKSUM).reason))?
                }
                None => &[],
            };
            match page::changed(old, changes) {
                None => return Err(failed(self.unreadable(key, NO_PAGE).reason)),
                Some(page) if page.is_empty() => batch.remove(key),
                Some(page) => batch.insert(key, seal(key, &page)),
            }
        }
        if let Some(stamp) = stamp {
            let stamp = codec::encode(stamp).map_err(|e| failed(e.to_string()))?;
            batch.insert(STAMP_KEY, seal(STAMP_KEY, &stamp));
        }
        guarded(|| self.tree.apply_batch(batch)).map_err(failed)
    }

    /// Remembers what was just written, before the overlay forgets it: from then on the cache answers.
    pub(super) fn remember(&self, changes: &BTreeMap<Key, super::writer::Merged>) {
        for (key, merged) in changes {
            match &merged.new {
                Some(value) => self.cache.insert(key.clone(), Some(value)),
                None => self.cache.remove(key),
            }
        }
    }

    /// Reads everything, with all processors, and compares its sum with the stamp: a lost, doubled or altered record anywhere is noticed.
    /// Fills the filter and the cache on the way: to be called once, before the first read.
    pub(super) fn verify(&self) -> Result<Stamp, StoreError> {
        let failed =
            |reason: String| StoreError::new(format!("verifying the view {}", self.dir.display()), reason);
        let stamp = match guarded(|| self.tree.get(STAMP_KEY)).map_err(failed)? {
            None => Stamp::default(),
            Some(stored) => {
                let bytes =
                    unseal(STAMP_KEY, &stored).ok_or_else(|| failed("its stamp is damaged".into()))?;
                codec::decode::<Stamp>(bytes).map_err(|e| failed(e.to_string()))?
            }
        };
        // A number that the files cannot hold is not believed: it will not add up.
        self.expect(stamp.tally.records.min(self.disk_bytes()));
        let parts = parts(&self.tree, STAMP_KEY, stamp.tally.records).map_err(|e| failed(e.to_string()))?;
        let (next, readers) = (AtomicUsize::new(0), processor_count().min(parts.len()));
        let read = || {
            let mut tally = Tally::default();
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                tally.join(self.read_part(part)?);
            }
            Ok::<_, ViewError>(tally)
        };
        let mut tally = Tally::default();
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..readers).map(|_| scope.spawn(read)).collect();
            tally.join(read()?);
            for other in others {
                let panicked = |_| ViewError { reason: "a thread that read a part of it panicked".into() };
                tally.join(other.join().map_err(panicked)??);
            }
            Ok(())
        })
        .map_err(|e: ViewError| failed(e.reason))?;
        if tally != stamp.tally {
            return Err(failed(format!(
                "its records ({}, hash {}) are not those of its stamp ({}, hash {})",
                tally.records, tally.hash, stamp.tally.records, stamp.tally.hash
            )));
        }
        Ok(stamp)
    }

    /// Sums up the records of a part, for the filter and, as far as there is room, for the cache.
    fn read_part(&self, (from, to): &Part) -> Result<Tally, ViewError> {
        let mut tally = Tally::default();
        for record in self.range(from.as_ref().map(|key| &**key), to.as_ref().map(|key| &**key)) {
            let (key, value) = record?;
            tally.add(&key, &value);
            self.filter.add(&key);
            self.cache.fill(Key::from(&key[..]), &value);
        }
        Ok(tally)
    }

    /// What a disk that lies would do.
    #[cfg(test)]
    pub(super) fn overwrite_raw(&self, key: &[u8], stored: &[u8]) {
        self.filter.add(key);
        let page = page::place(key);
        self.tree.insert(page.as_ref().map_or(key, |(page, _)| page.as_bytes()), stored).unwrap();
        self.cache.clear();
    }

    /// The records as they are stored.
    #[cfg(test)]
    pub(super) const fn tree(&self) -> &sled::Tree {
        &self.tree
    }

    /// What a database that loses a record would do.
    #[cfg(test)]
    pub(super) fn lose_raw(&self, key: &[u8]) {
        let page = page::place(key);
        assert!(self.tree.remove(page.as_ref().map_or(key, |(page, _)| page.as_bytes())).unwrap().is_some());
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
pub(super) struct SledRecords<'a> {
    engine: &'a SledEngine,
    iter: sled::Iter,
    bounds: (Bound<IVec>, Bound<IVec>),
    /// The rest of the page that was read last.
    page: VecDeque<(IVec, Bytes)>,
    last: Option<IVec>,
}

impl SledRecords<'_> {
    /// Fills `page` from the next entry of sled. False: there is none.
    fn refill(&mut self) -> Result<bool, ViewError> {
        let iter = &mut self.iter;
        let (key, stored) = match guarded(|| iter.next().transpose()) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(false),
            Err(reason) => {
                let at = self.last.as_deref().unwrap_or_default();
                return Err(ViewError {
                    reason: format!("behind key {} in {}: {reason}", show(at), self.engine.dir.display()),
                });
            }
        };
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(self.engine.unreadable(&key, "out of order"));
        }
        let value = unseal(&key, &stored).ok_or_else(|| self.engine.unreadable(&key, WRONG_CHECKSUM))?;
        match page::place(&key) {
            // The reading began at a page, which may lie before the bounds.
            None if self.bounds.contains(&key) => {
                self.page.push_back((key.clone(), Bytes::copy_from_slice(value)));
            }
            None => {}
            Some((page, 0)) => {
                for record in page::records(value) {
                    let (number, value) = record.ok_or_else(|| self.engine.unreadable(&key, NO_PAGE))?;
                    let record = IVec::from(page.record(number).as_bytes());
                    if self.bounds.contains(&record) {
                        self.page.push_back((record, Bytes::copy_from_slice(value)));
                    }
                }
            }
            Some(_) => return Err(self.engine.unreadable(&key, "not the key of a page")),
        }
        self.last = Some(key);
        Ok(true)
    }
}

impl Iterator for SledRecords<'_> {
    type Item = Result<(IVec, Bytes), ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.page.pop_front() {
                return Some(Ok(record));
            }
            match self.refill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
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
