//! The thread that moves applied change sets from memory into sled, and the bounded queue before it.
//!
//! The applier pushes sets and waits while too many bytes are queued. Holds: one sled batch is a run of whole sets with
//! the stamp of the last one, so sled never holds half of a set; sets reach sled in the order applied.
//!
//! Batches stay small: sled lets nobody read while it applies one (its lock is for the whole process), and a cold read
//! must not wait longer than a few milliseconds. Why not large ones with an intent: docs/decisions/0005-view.md.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::core::Core;
use super::record::Stamp;
use crate::namespace::ChangeSet;

/// Records in one batch, unless a single set has more. 1024 puts keep sled's lock for some 3 ms (benches/view.rs).
const BATCH_RECORDS: usize = 1024;
/// The writer waits this long for a batch to fill: records that change again meanwhile reach sled once.
const LINGER: Duration = Duration::from_millis(100);
/// Bytes that one queued change takes beside key and values: the change itself, its slot in the overlay, heap headers.
const CHANGE_OVERHEAD: u64 = 320;

/// One applied change set.
struct Set {
    number: u64,
    stamp: Stamp,
    changes: ChangeSet,
    bytes: u64,
}

#[derive(Default)]
struct Waiting {
    sets: VecDeque<Set>,
    records: usize,
    bytes: u64,
    /// Number of the newest set pushed.
    pushed: u64,
    /// Sets up to this number are in sled.
    written: u64,
    /// Somebody waits for this set: no lingering before it.
    wanted: u64,
    /// The writer ends: at once, or after the rest is written.
    stop: bool,
    drain: bool,
    /// The writer has ended or failed: nothing will be written any more.
    ended: bool,
}

/// Sets on their way into sled.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes those who wait for room or for a set to be written.
    progress: Condvar,
}

/// Changes of a batch to one key, coalesced.
pub(super) struct Merged {
    /// Before the batch: what sled has.
    pub old: Option<Bytes>,
    /// After it.
    pub new: Option<Bytes>,
}

/// The writer ended: what was waited for does not come.
pub(super) struct Ended;

impl Queue {
    /// Number that the next set gets.
    pub(super) fn next_number(&self) -> u64 {
        self.waiting.lock().pushed + 1
    }

    /// Queues a set that is in the overlay by now.
    pub(super) fn push(&self, stamp: Stamp, changes: ChangeSet) {
        let mut waiting = self.waiting.lock();
        let bytes = changes.iter().map(|c| {
            let values = c.old.as_ref().map_or(0, Bytes::len) + c.new.as_ref().map_or(0, Bytes::len);
            CHANGE_OVERHEAD + (c.key.len() + values) as u64
        });
        let bytes = CHANGE_OVERHEAD + bytes.sum::<u64>();
        waiting.pushed += 1;
        waiting.records += changes.len();
        waiting.bytes += bytes;
        let number = waiting.pushed;
        waiting.sets.push_back(Set { number, stamp, changes, bytes });
        // One signal when work begins (the writer sleeps without a limit) and one when a batch is full.
        if waiting.sets.len() == 1 || waiting.records >= BATCH_RECORDS {
            self.work.notify_one();
        }
    }

    /// Waits until fewer than `bytes_max` bytes are queued; whether it had to.
    pub(super) fn wait_for_room(&self, bytes_max: u64) -> Result<bool, Ended> {
        let mut waiting = self.waiting.lock();
        let mut waited = false;
        while waiting.bytes >= bytes_max {
            if waiting.ended {
                return Err(Ended);
            }
            waited = true;
            waiting.wanted = waiting.wanted.max(waiting.sets.front().map_or(0, |set| set.number));
            self.work.notify_one();
            self.progress.wait(&mut waiting);
        }
        Ok(waited)
    }

    /// Waits until all sets pushed before the call are in sled.
    pub(super) fn wait_until_written(&self) -> Result<(), Ended> {
        let mut waiting = self.waiting.lock();
        let target = waiting.pushed;
        waiting.wanted = waiting.wanted.max(target);
        self.work.notify_one();
        while waiting.written < target {
            if waiting.ended {
                return Err(Ended);
            }
            self.progress.wait(&mut waiting);
        }
        Ok(())
    }

    /// Drops all queued sets: the state they belong to is being replaced. The caller holds the disk lock.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting.lock();
        waiting.sets.clear();
        waiting.records = 0;
        waiting.bytes = 0;
        waiting.written = waiting.pushed;
        self.progress.notify_all();
    }

    /// Tells the writer to end, after writing what is queued if `drain`.
    pub(super) fn stop(&self, drain: bool) {
        let mut waiting = self.waiting.lock();
        waiting.stop = true;
        waiting.drain = drain;
        self.work.notify_one();
    }

    /// Bytes queued and records in them, for the status page.
    pub(super) fn size(&self) -> (u64, u64) {
        let waiting = self.waiting.lock();
        (waiting.bytes, waiting.records as u64)
    }

    /// Waits for sets, lets them gather, and says whether there are any; not so when the writer must end.
    fn gather(&self) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.sets.is_empty() && !waiting.stop {
            self.work.wait(&mut waiting);
        }
        while waiting.records < BATCH_RECORDS && waiting.wanted <= waiting.written && !waiting.stop {
            if self.work.wait_for(&mut waiting, LINGER).timed_out() {
                break;
            }
        }
        !waiting.stop || (waiting.drain && !waiting.sets.is_empty())
    }

    /// Takes whole sets for one batch.
    fn take(&self) -> Vec<Set> {
        let mut waiting = self.waiting.lock();
        let mut sets: Vec<Set> = Vec::new();
        let mut records = 0;
        while let Some(set) = waiting.sets.front() {
            if !sets.is_empty() && records + set.changes.len() > BATCH_RECORDS {
                break;
            }
            records += set.changes.len();
            sets.extend(waiting.sets.pop_front());
        }
        waiting.records -= records;
        sets
    }

    fn written(&self, number: u64, bytes: u64) {
        let mut waiting = self.waiting.lock();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        waiting.written = waiting.written.max(number);
        self.progress.notify_all();
    }

    fn end(&self) {
        self.waiting.lock().ended = true;
        self.progress.notify_all();
    }
}

/// The writer: runs until stopped or until sled fails, which stops the node at its next apply.
pub(super) fn run(core: &Arc<Core>) {
    /// Lets waiters go even if the writer panics.
    struct End<'a>(&'a Core);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.queue.end();
        }
    }
    let _end = End(core);
    while core.queue.gather() {
        if let Err(e) = write_batch(core) {
            core.damaged(&e.to_string());
            return;
        }
    }
}

fn write_batch(core: &Core) -> Result<(), super::super::StoreError> {
    // Taken before the sets: whoever holds it sees every set either in the queue or in sled.
    let mut disk = core.disk.lock();
    let sets = core.queue.take();
    let Some(last) = sets.last() else { return Ok(()) };
    let (number, stamp) = (last.number, last.stamp.clone());
    let bytes = sets.iter().map(|set| set.bytes).sum();
    let mut merged = BTreeMap::<Bytes, Merged>::new();
    for change in sets.into_iter().flat_map(|set| set.changes) {
        match merged.get_mut(&change.key) {
            Some(earlier) => earlier.new = change.new,
            None => drop(merged.insert(change.key, Merged { old: change.old, new: change.new })),
        }
    }
    while !disk.keep_pre_images(&merged, core.config.overlay_bytes_max / 2) {
        core.cut_progress.wait(&mut disk);
    }
    let Some(engine) = core.memory.read().engine.clone() else { return Ok(()) };
    engine.write(merged.iter().map(|(key, m)| (key, m.new.as_ref())), Some(&stamp))?;
    disk.stamp = stamp;
    engine.remember(&merged);
    core.memory.write().retire(number, merged.keys());
    // Still under the disk lock: an install that clears the queue comes before or after all of this.
    core.queue.written(number, bytes);
    Ok(())
}
