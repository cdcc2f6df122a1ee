//! The raft log of this node: entries, vote and commit mark in one stream of records, in segment files.
//!
//! `store` puts it behind openraft's traits; `join` keeps this node's standing in it. Appending, promising a vote and
//! purging only put records into a queue, in their order; one thread, or task, writes whatever has gathered with one write and
//! one fsync (`writer`), then reports. Holds: entries can be read as soon as `append` returns; a report of success
//! comes after the fsync; nothing is reported out of order; after one failed write everything fails.
//! Not here: what an entry means.

pub(crate) mod fuzz;
mod read;
mod record;
mod scan;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::super::StoreError;
use super::types::log_index;
use crate::runtime::disk::{Disk, DiskLock};
use crate::runtime::{self, Task};
use crate::types::LogIndex;
use record::{Behind, HEADER_LEN};
use scan::{Segment, Slot, io_error, next};
use writer::{Before, Place};

pub(super) use read::ReadError;
pub(super) use record::{EntryId, EntryKind, HardState, INDEX_MAX, Standing, StoredEntry, StoredVote};

/// Bytes of entries that one read gives at most, unless the first entry alone is longer: also the length of an
/// append message. At 1 Gbit/s it takes 8 ms, well below a heartbeat interval.
pub(super) const READ_LEN_MAX: usize = 1 << 20;
/// Bytes that may wait for the disk before appending waits too.
const QUEUED_LEN_MAX: usize = 64 << 20;

/// Called once when what was queued with it is on the disk, or could not be written.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Sizes of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogOptions {
    pub(super) cache_len: usize,
    pub(super) segment_len: u32,
}

/// The log of one directory. Clones are the same log; it closes when the last one is dropped.
#[derive(Clone)]
pub(super) struct Log {
    handle: Arc<Handle>,
}

/// Closes the log when the last user is gone.
struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<Writer>>,
}

/// Who writes.
enum Writer {
    Thread(std::thread::JoinHandle<()>),
    /// Where the disk has no threads. Ends when it is dropped.
    Task(Task<()>),
}

struct Shared {
    dir: PathBuf,
    options: LogOptions,
    state: Mutex<State>,
    disk: Arc<dyn Disk>,
    /// Wakes the writer that is a thread.
    work: Condvar,
    /// Wakes the writer that is a task; there is none where the disk has threads.
    woken: Option<Arc<Notify>>,
    /// Held while a batch is written. A segment whose last bytes are written and not synced.
    writing: Mutex<Option<Arc<Segment>>>,
    /// Wakes who waits for the queue to shrink.
    room: Notify,
    /// For tests: how long each sync takes besides, in milliseconds.
    #[cfg(test)]
    sync_delay: std::sync::atomic::AtomicU64,
    /// Held until the log is closed, so that no other process opens it.
    lock: Mutex<Option<Box<dyn DiskLock>>>,
}

struct State {
    hard: HardState,
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// The newest entries, ending with the last slot's.
    cache: VecDeque<StoredEntry>,
    cache_len: usize,
    segments: VecDeque<Arc<Segment>>,
    /// Where the next record goes in the last segment.
    tail_len: u32,
    /// Of segments to come.
    behind: Behind,
    queue: Vec<Chunk>,
    queued_len: usize,
    /// Segment and length that are in the file, and on the disk.
    written: (u64, u32),
    synced: (u64, u32),
    failure: Option<String>,
    closing: bool,
    /// For tests: its first entry may be any.
    #[cfg(test)]
    begins_anywhere: bool,
}

/// Records for one segment, to be written together.
struct Chunk {
    segment: Arc<Segment>,
    /// The segment is new: these bytes begin with its header.
    creates: bool,
    bytes: Vec<u8>,
    /// Length of the segment with them.
    end: u32,
    sync: bool,
    done: Vec<Done>,
    /// To be removed once this is on the disk.
    unlink: Vec<Arc<Segment>>,
}

/// The boot of the machine of `disk`; 0 where it has no name.
fn boot_of(disk: &dyn Disk) -> u128 {
    u128::from_str_radix(&disk.boot_id().replace('-', ""), 16).unwrap_or(0)
}

impl Shared {
    fn place(&self) -> Place<'_> {
        Place { disk: &*self.disk, dir: &self.dir, segment_len: self.options.segment_len }
    }

    fn wake(&self) {
        match &self.woken {
            Some(woken) => woken.notify_one(),
            None => {
                self.work.notify_one();
            }
        }
    }
}

impl Log {
    /// Opens the log in `dir` of `disk`, or begins one, and verifies all of it. Blocks on the disk.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, options: LogOptions) -> Result<Self, StoreError> {
        let boot = boot_of(&*disk);
        Self::open_in_boot(disk, dir, options, boot)
    }

    fn open_in_boot(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        boot: u128,
    ) -> Result<Self, StoreError> {
        disk.make_dirs(dir).map_err(io_error("making", dir))?;
        let lock = disk.lock(&dir.join("lock")).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => StoreError::new(
                format!("raft log {}", dir.display()),
                "another process has it open: stop that one first",
            ),
            _ => io_error("taking the lock in", dir)(e),
        })?;

        let found = scan::scan(&*disk, dir, boot)?;
        // A process that ended between naming a segment and this left a name that a crash may take back.
        disk.sync_dir(dir).map_err(io_error("syncing", dir))?;
        let mut state = State {
            hard: found.hard,
            first: found.first,
            slots: found.slots,
            cache: VecDeque::new(),
            cache_len: 0,
            segments: found.segments,
            tail_len: found.tail_len,
            behind: found.behind,
            queue: Vec::new(),
            queued_len: 0,
            written: (0, 0),
            synced: (0, 0),
            failure: None,
            closing: false,
            #[cfg(test)]
            begins_anywhere: false,
        };
        state.hard.boot = boot;
        match state.segments.back() {
            None => state.roll(dir),
            Some(tail) => {
                let at = (tail.number, state.tail_len);
                // Written by a process of this boot, it may not be on the disk yet; the sync below puts it there.
                state.written = at;
                state.put_state();
            }
        }
        state.want_sync(None);
        let first = std::mem::take(&mut state.queue);
        state.queued_len = 0;
        let place = Place { disk: &*disk, dir, segment_len: options.segment_len };
        for chunk in &first {
            writer::write(&place, chunk, Before::Unknown)
                .map_err(io_error("writing", &chunk.segment.path))?;
            state.written = (chunk.segment.number, chunk.end);
            state.synced = state.written;
        }

        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            options,
            state: Mutex::new(state),
            work: Condvar::new(),
            woken: (!disk.has_threads()).then(Arc::default),
            writing: Mutex::default(),
            disk,
            room: Notify::new(),
            #[cfg(test)]
            sync_delay: std::sync::atomic::AtomicU64::new(0),
            lock: Mutex::new(Some(lock)),
        });
        let writer = match &shared.woken {
            Some(woken) => {
                let writer = writer::run_as_task(Arc::downgrade(&shared), woken.clone());
                Writer::Task(runtime::spawn("raft-log", writer))
            }
            None => {
                let shared = shared.clone();
                let thread = std::thread::Builder::new().name("raft-log".into());
                let thread = thread.spawn(move || writer::run(&shared));
                Writer::Thread(thread.map_err(io_error("starting the writer of", dir))?)
            }
        };
        Ok(Self { handle: Arc::new(Handle { shared, writer: Mutex::new(Some(writer)) }) })
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Vote, marks and standing as of the newest record queued.
    pub(super) fn hard(&self) -> HardState {
        self.shared().state.lock().hard.clone()
    }

    /// Index of the last entry, counted as outside consensus.
    pub(super) fn last(&self) -> LogIndex {
        self.shared().state.lock().hard.last.map_or(LogIndex(0), |last| log_index(last.index))
    }

    /// Bytes of all segment files, without the room ahead.
    pub(super) fn len(&self) -> u64 {
        let state = self.shared().state.lock();
        state.segments.iter().map(|segment| u64::from(segment.len.load(Ordering::Relaxed))).sum()
    }

    /// Waits while too much waits for the disk.
    pub(super) async fn room(&self) {
        loop {
            let room = self.shared().room.notified();
            {
                let state = self.shared().state.lock();
                if state.queued_len < QUEUED_LEN_MAX || state.failure.is_some() {
                    return;
                }
            }
            room.await;
        }
    }

    /// Queues entries, which must follow the last one. They can be read at once.
    pub(super) fn append(&self, entries: Vec<StoredEntry>, done: Done) -> io::Result<()> {
        let mut state = self.shared().state.lock();
        state.check()?;
        for entry in entries {
            if entry.data.len() > super::ENTRY_LEN_MAX {
                return Err(io::Error::other(format!("an entry of {} bytes is too long", entry.data.len())));
            }
            let expected = next(state.hard.last);
            #[cfg(test)]
            let expected = if state.begins_with(&entry) { entry.id.index } else { expected };
            if entry.id.index != expected {
                let found = entry.id.index;
                return Err(io::Error::other(format!("entry {found} cannot stand where {expected} is next")));
            }
            state.make_room(&self.shared().dir, entry.record_len(), self.shared().options.segment_len);
            state.put_entry(entry);
        }
        state.want_sync(Some(done));
        state.evict(self.shared().options.cache_len);
        drop(state);
        self.shared().wake();
        Ok(())
    }

    /// Changes what is not entries, and queues it. With `done` it is written and synced; without, it goes to the file with
    /// what is appended next. A crash before that loses nothing that is owed: the leader tells again what is committed, and what is cut
    /// off or purged will be cut off or purged again.
    pub(super) fn update(&self, change: impl FnOnce(&mut HardState), done: Option<Done>) -> io::Result<()> {
        let mut state = self.shared().state.lock();
        state.check()?;
        let mut hard = state.hard.clone();
        change(&mut hard);
        if hard == state.hard && done.is_none() {
            return Ok(());
        }
        // Before the change: a new segment opens with the state as it was at the end of the one before.
        state.make_room(&self.shared().dir, HEADER_LEN + 256, self.shared().options.segment_len);
        state.hard = hard;
        state.trim();
        state.put_state();
        if done.is_some() {
            state.want_sync(done);
            drop(state);
            self.shared().wake();
        }
        Ok(())
    }

    /// As [`Log::update`], and returns when it is on the disk.
    pub(super) async fn update_durably(&self, change: impl FnOnce(&mut HardState)) -> io::Result<()> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        // Who no longer waits needs no answer.
        self.update(change, Some(Box::new(move |result| drop(tx.send(result)))))?;
        rx.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Drops the entries behind `last`.
    pub(super) fn truncate_after(&self, last: Option<EntryId>) -> io::Result<()> {
        self.update(|hard| hard.last = hard.last.min(last), None)
    }

    /// Drops the entries up to `upto`, and unlinks files that hold nothing else once that is on the disk.
    pub(super) fn purge(&self, upto: EntryId) -> io::Result<()> {
        self.update(
            |hard| {
                hard.purged = hard.purged.max(Some(upto));
                if next(hard.last) <= upto.index {
                    hard.last = Some(upto);
                }
            },
            None,
        )?;
        let mut state = self.shared().state.lock();
        let keep = state.slots.front().map_or(u64::MAX, |slot| slot.segment);
        let mut gone = Vec::new();
        while state.segments.len() > 1 && state.segments[0].number < keep {
            let segment = state.segments.pop_front().expect("more than one segment");
            gone.push(segment);
        }
        if !gone.is_empty() {
            state.want_sync(None);
            let chunk = state.queue.last_mut().expect("the purge is queued, or want_sync made a chunk");
            chunk.unlink.extend(gone);
        }
        drop(state);
        self.shared().wake();
        Ok(())
    }

    /// From now on segments have room ahead (decision 0006); the one that is written to gives way to such a one.
    pub(super) fn room_ahead(&self) -> io::Result<()> {
        let mut state = self.shared().state.lock();
        state.check()?;
        if state.behind == Behind::Room {
            return Ok(());
        }
        state.behind = Behind::Room;
        state.roll(&self.shared().dir);
        drop(state);
        self.shared().wake();
        Ok(())
    }

    /// An empty log takes any entry for its first one, as openraft's suite of storage tests has it.
    #[cfg(test)]
    pub(super) fn begin_anywhere(&self) {
        self.shared().state.lock().begins_anywhere = true;
    }

    #[cfg(test)]
    pub(super) fn delay_syncs(&self, by: std::time::Duration) {
        let millis = u64::try_from(by.as_millis()).expect("a short time");
        self.shared().sync_delay.store(millis, Ordering::Relaxed);
    }

    /// Writes what is queued and closes. Blocks on the disk; whoever uses the log afterwards gets errors.
    pub(super) fn close(&self) {
        self.handle.close();
    }
}

impl Handle {
    fn close(&self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
        match self.writer.lock().take() {
            Some(Writer::Thread(thread)) => {
                let ended = thread.join();
                if ended.is_err() {
                    tracing::error!(dir = %self.shared.dir.display(), "the writer of the raft log panicked");
                }
            }
            Some(Writer::Task(task)) => {
                drop(task);
                writer::step(&self.shared);
            }
            None => {}
        }
        self.shared.lock.lock().take();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Not joined: this may be a task of the runtime, and the writer may be in an fsync. A task ends here, and what it has
        // not written is told so.
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
    }
}

fn closed() -> io::Error {
    io::Error::other("the raft log is closed")
}

impl State {
    fn check(&self) -> io::Result<()> {
        match &self.failure {
            Some(failure) => Err(io::Error::other(failure.clone())),
            None if self.closing => Err(closed()),
            None => Ok(()),
        }
    }

    #[cfg(test)]
    fn begins_with(&mut self, entry: &StoredEntry) -> bool {
        let begins = self.begins_anywhere && self.hard.last.is_none();
        if begins {
            self.first = entry.id.index;
        }
        begins
    }

    fn tail(&self) -> &Arc<Segment> {
        self.segments.back().expect("an open log has a segment")
    }

    /// Bytes of the last segment that are known to be on the disk.
    fn synced_len(&self) -> u32 {
        if self.synced.0 == self.tail().number { self.synced.1 } else { 0 }
    }

    /// The chunk that the next record goes to.
    fn chunk(&mut self) -> &mut Chunk {
        let tail = self.tail().clone();
        if self.queue.last().is_none_or(|chunk| chunk.segment.number != tail.number) {
            self.queue.push(Chunk {
                segment: tail,
                creates: false,
                bytes: Vec::new(),
                end: self.tail_len,
                sync: false,
                done: Vec::new(),
                unlink: Vec::new(),
            });
        }
        self.queue.last_mut().expect("a chunk was just pushed")
    }

    fn put(&mut self, put: impl FnOnce(&mut Vec<u8>, record::Place, u32)) -> (u32, u32) {
        let (tail, offset, synced) = (self.tail(), self.tail_len, self.synced_len());
        let place = record::Place { number: tail.number, behind: tail.behind, offset };
        let chunk = self.chunk();
        let before = chunk.bytes.len();
        put(&mut chunk.bytes, place, synced);
        let len = u32::try_from(chunk.bytes.len() - before).expect("a record is at most BODY_LEN_MAX");
        chunk.end = offset + len;
        self.tail_len = offset + len;
        self.tail().len.store(self.tail_len, Ordering::Relaxed);
        self.queued_len += len as usize;
        (offset, len)
    }

    fn put_state(&mut self) {
        let hard = self.hard.clone();
        self.put(|out, place, synced| record::put_state(out, &hard, place, synced));
    }

    fn put_entry(&mut self, entry: StoredEntry) {
        let (offset, len) = self.put(|out, place, synced| record::put_entry(out, &entry, place, synced));
        let segment = self.tail().number;
        self.slots.push_back(Slot { term: entry.id.term, segment, offset, len });
        self.hard.last = Some(entry.id);
        self.cache_len += entry.record_len();
        self.cache.push_back(entry);
    }

    /// What is queued so far is to be synced.
    fn want_sync(&mut self, done: Option<Done>) {
        let chunk = self.chunk();
        chunk.sync = true;
        chunk.done.extend(done);
    }

    /// Goes on in a new segment if the last one has no room for a record of `len` bytes.
    fn make_room(&mut self, dir: &Path, len: usize, segment_len: u32) {
        if self.tail_len as usize + len > segment_len as usize {
            self.roll(dir);
        }
    }

    fn roll(&mut self, dir: &Path) {
        let number = self.segments.back().map_or(scan::FIRST_SEGMENT, |tail| tail.number + 1);
        self.segments.push_back(Arc::new(Segment::new(dir, number, self.behind)));
        self.tail_len = 0;
        let header = record::segment_header(number, self.behind);
        self.put(|out, _, _| out.extend_from_slice(&header));
        self.chunk().creates = true;
        self.put_state();
    }

    /// Drops slots and cached entries that the marks no longer cover.
    fn trim(&mut self) {
        let end = next(self.hard.last);
        while !self.slots.is_empty() && self.first + self.slots.len() as u64 > end {
            self.slots.pop_back();
            if let Some(entry) = self.cache.pop_back() {
                self.cache_len -= entry.record_len();
            }
        }
        scan::trim(&self.hard, &mut self.first, &mut self.slots);
        while self.cache.len() > self.slots.len() {
            if let Some(entry) = self.cache.pop_front() {
                self.cache_len -= entry.record_len();
            }
        }
    }

    /// Keeps the cache within its bound, but for entries that are in no file yet.
    fn evict(&mut self, cache_len: usize) {
        while self.cache_len > cache_len {
            let slot = self.slots[self.slots.len() - self.cache.len()];
            if (slot.segment, slot.offset) >= self.written {
                return;
            }
            if let Some(entry) = self.cache.pop_front() {
                self.cache_len -= entry.record_len();
            }
        }
    }
}
