//! The writer that moves applied change sets from memory into sled, and the bounded queue before it.
//!
//! It is a thread where the disk has threads. Else it is a task, and who would have to wait for it does its work instead.
//! The applier pushes sets and waits while too many bytes are queued. Holds: one sled batch is a run of whole sets with
//! the stamp of the last one, so sled never holds half of a set; sets reach sled in the order applied.
//!
//! Batches stay small: sled lets nobody read while it applies one (its lock is for the whole process), and a cold read
//! must not wait longer than some milliseconds. Why not large ones with an intent: docs/decisions/0005-view.md.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::core::Core;
use super::record::Stamp;
use crate::namespace::{ChangeSet, Key};
use crate::runtime::{self, Instant};

/// Records in one batch, unless a single set has more: sled's lock, and a processor, for some 5 ms. Much of what a few thousand creates change is
/// gone when they are done (remembered replies), so a batch of a few hundred writes twice as much as one of a thousand.
const BATCH_RECORDS: usize = 1024;
/// Records in one batch when the writer must hurry: what counts then is how much there is to do in all.
const BATCH_RECORDS_HURRY: usize = 2048;
/// Keys that a batch touches at most, those included that come and go within it: bounds memory and the time of merging.
const BATCH_KEYS: usize = 8192;
/// Change sets merged into one batch at most: bounds the time that merging takes when they all change the same records.
const BATCH_SETS: usize = 1024;
/// A set waits this long before it goes to sled. What changes again meanwhile (the attributes of a busy directory, counters)
/// reaches sled once, and what comes and goes (remembered replies) never: of five records that a create changes, two are left.
const HOLD: Duration = Duration::from_millis(2000);
/// After a batch the writer rests this many times as long as the batch took; less and less from half of the room on, not at all when there
/// is none. So a load that goes on finds the rate that both can keep, and no writer takes the processors for itself. sled works at some
/// 10 µs a record: without rest three servers on a small machine spend half of it on a view that nobody waits for.
/// With it, a burst of half a million records costs its callers a thirtieth of a core, and sled gets it in the minutes after.
const REST: f64 = 29.0;
/// Longest rest, so that a batch that a slow disk held up does not stop the writer for long.
const REST_MAX: Duration = Duration::from_millis(200);
/// When the writer wakes it takes all sets at least this old, so that it wakes once a second and not for each set.
const TAKE: Duration = Duration::from_millis(1000);
/// Bytes that one queued change takes beside key and values: the change itself, its slot in the overlay, heap headers.
const CHANGE_OVERHEAD: u64 = 320;

/// One applied change set.
struct Set {
    number: u64,
    stamp: Stamp,
    changes: ChangeSet,
    bytes: u64,
    pushed_at: Instant,
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
pub(super) struct Queue {
    /// Before this many bytes appliers wait; with half of them queued nothing is held back any more.
    bytes_max: u64,
    waiting: Mutex<Waiting>,
    /// Wakes the writer that is a thread, and the one that is a task; there is either one or the other.
    work: Condvar,
    woken: Option<Arc<Notify>>,
    /// Wakes those who wait for room or for a set to be written.
    progress: Condvar,
}

/// What the writer is to do.
enum Due {
    /// To write a batch.
    Now,
    /// To write one then, if nothing happens before.
    At(Instant),
    /// To wait.
    Nothing,
    /// To end.
    End,
}

/// Sets taken for one batch.
struct Taken {
    /// Number of the last one.
    number: u64,
    /// The state after it.
    stamp: Stamp,
    /// What they took in the queue.
    bytes: u64,
    merged: BTreeMap<Key, Merged>,
}

/// Changes of a batch to one key, coalesced.
pub(super) struct Merged {
    /// Before the batch: what sled has.
    pub old: Option<Bytes>,
    /// After it.
    pub new: Option<Bytes>,
}

impl Merged {
    /// False: it came and went within the batch, and sled never had it.
    fn counts(&self) -> bool {
        self.old.is_some() || self.new.is_some()
    }
}

/// The writer ended: what was waited for does not come.
pub(super) struct Ended;

impl Queue {
    /// An empty queue before which appliers wait at `bytes_max`.
    pub(super) fn new(bytes_max: u64, threads: bool) -> Self {
        Self {
            bytes_max,
            waiting: Mutex::default(),
            work: Condvar::new(),
            woken: (!threads).then(Arc::default),
            progress: Condvar::new(),
        }
    }

    /// What wakes the writer that is a task; none: the writer is a thread.
    pub(super) fn woken(&self) -> Option<Arc<Notify>> {
        self.woken.clone()
    }

    fn wake(&self) {
        match &self.woken {
            Some(woken) => woken.notify_one(),
            None => {
                self.work.notify_one();
            }
        }
    }

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
        let was_pressed = self.is_pressed(&waiting);
        waiting.pushed += 1;
        waiting.records += changes.len();
        waiting.bytes += bytes;
        let number = waiting.pushed;
        waiting.sets.push_back(Set { number, stamp, changes, bytes, pushed_at: runtime::now() });
        // One signal when work begins (the writer sleeps without a limit) and one when it must not hold sets back.
        if waiting.sets.len() == 1 || (!was_pressed && self.is_pressed(&waiting)) {
            self.wake();
        }
    }

    /// Waits until there is room for more; whether it had to.
    fn wait_for_room(&self) -> Result<bool, Ended> {
        let mut waiting = self.waiting.lock();
        let mut waited = false;
        while waiting.bytes >= self.bytes_max {
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
    fn wait_until_written(&self) -> Result<(), Ended> {
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
        self.wake();
    }

    /// Bytes queued and records in them, for the status page.
    pub(super) fn size(&self) -> (u64, u64) {
        let waiting = self.waiting.lock();
        (waiting.bytes, waiting.records as u64)
    }

    /// Sets are due when they are old enough, or at once when somebody waits for them or many bytes are queued.
    fn due(&self, waiting: &Waiting) -> Due {
        if waiting.stop {
            return if waiting.drain && !waiting.sets.is_empty() { Due::Now } else { Due::End };
        }
        let Some(front) = waiting.sets.front() else { return Due::Nothing };
        let ripe = front.pushed_at + HOLD;
        if self.hurries(waiting) || self.is_pressed(waiting) || runtime::now() >= ripe {
            return Due::Now;
        }
        Due::At(ripe)
    }

    /// Waits until a batch is due. False when the writer must end.
    fn gather(&self) -> bool {
        let mut waiting = self.waiting.lock();
        loop {
            match self.due(&waiting) {
                Due::Now => return true,
                Due::End => return false,
                Due::Nothing => self.work.wait(&mut waiting),
                Due::At(ripe) => {
                    // Woken early or not, it looks again.
                    let _timed_out = self.work.wait_for(&mut waiting, ripe - runtime::now());
                }
            }
        }
    }

    /// Lets others have the processor after a batch that was begun at `began` and is now done, unless somebody waits.
    fn rest(&self, began: Instant) {
        let mut waiting = self.waiting.lock();
        let room = self.bytes_max.saturating_sub(waiting.bytes);
        let part = (room as f64 / (self.bytes_max / 2).max(1) as f64).min(1.0);
        let now = runtime::now();
        let end = now + (now - began).mul_f64(REST * part).min(REST_MAX);
        while !self.hurries(&waiting) && runtime::now() < end {
            // Woken early or not, it looks again.
            let _timed_out = self.work.wait_for(&mut waiting, end - runtime::now());
        }
    }

    /// Somebody waits.
    fn hurries(&self, waiting: &Waiting) -> bool {
        waiting.wanted > waiting.written || waiting.stop
    }

    /// So much is queued that it is to become less.
    fn is_pressed(&self, waiting: &Waiting) -> bool {
        waiting.bytes >= self.bytes_max / 2
    }

    /// Takes whole sets for one batch, merged.
    fn take(&self) -> Option<Taken> {
        let mut waiting = self.waiting.lock();
        let (ripe, records_max) = if self.hurries(&waiting) || self.is_pressed(&waiting) {
            (None, BATCH_RECORDS_HURRY)
        } else {
            (Some(runtime::now()), BATCH_RECORDS)
        };
        let mut taken: Option<Taken> = None;
        // Keys that sled will have to be told of, as far as the batch goes.
        let (mut count, mut live) = (0, 0_usize);
        while let Some(set) = waiting.sets.front() {
            let keys = taken.as_ref().map_or(0, |t| t.merged.len());
            let full = live + set.changes.len() > records_max || keys > BATCH_KEYS || count >= BATCH_SETS;
            let young = ripe.is_some_and(|now| now.saturating_duration_since(set.pushed_at) < TAKE);
            if count > 0 && (full || young) {
                break;
            }
            let Some(set) = waiting.sets.pop_front() else { break };
            count += 1;
            waiting.records -= set.changes.len();
            let taken = taken.get_or_insert_with(|| Taken {
                number: 0,
                stamp: set.stamp.clone(),
                bytes: 0,
                merged: BTreeMap::new(),
            });
            (taken.number, taken.stamp) = (set.number, set.stamp);
            taken.bytes += set.bytes;
            for change in set.changes {
                match taken.merged.entry(change.key) {
                    Entry::Occupied(earlier) => {
                        let earlier = earlier.into_mut();
                        live -= usize::from(earlier.counts());
                        earlier.new = change.new;
                        live += usize::from(earlier.counts());
                    }
                    Entry::Vacant(free) => {
                        live += 1;
                        free.insert(Merged { old: change.old, new: change.new });
                    }
                }
            }
        }
        taken
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

/// The thread: runs until stopped or until sled fails, which stops the node at its next apply.
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
        let began = runtime::now();
        if !step(core) {
            return;
        }
        core.queue.rest(began);
    }
}

/// The task: runs until stopped, until the view fails, or until the state is gone, which it does not keep. When it is
/// dropped, what it has not written is left to the log.
pub(super) async fn run_as_task(core: Weak<Core>, woken: Arc<Notify>) {
    loop {
        let due = {
            let Some(core) = core.upgrade() else { return };
            let due = core.queue.due(&core.queue.waiting.lock());
            if matches!(due, Due::Now) && !step(&core) {
                return;
            }
            due
        };
        match due {
            Due::Now => runtime::yield_now().await,
            Due::End => return,
            Due::Nothing => woken.notified().await,
            Due::At(ripe) => {
                // Over or not, it looks again.
                let _over = runtime::timeout_at(ripe, woken.notified()).await;
            }
        }
    }
}

/// Writes one batch. False when that failed, and no other is to follow.
fn step(core: &Core) -> bool {
    if let Err(e) = write_batch(core) {
        core.damaged(&e.to_string());
        core.queue.end();
        return false;
    }
    true
}

/// Waits until there is room for more in the queue, or makes it; whether it had to.
pub(super) fn wait_for_room(core: &Core) -> Result<bool, Ended> {
    if core.queue.woken.is_none() {
        return core.queue.wait_for_room();
    }
    let mut waited = false;
    while core.queue.size().0 >= core.queue.bytes_max {
        waited = true;
        work(core)?;
    }
    Ok(waited)
}

/// Waits until all sets pushed before the call are in sled, or puts them there.
pub(super) fn wait_until_written(core: &Core) -> Result<(), Ended> {
    if core.queue.woken.is_none() {
        return core.queue.wait_until_written();
    }
    let target = {
        let mut waiting = core.queue.waiting.lock();
        waiting.wanted = waiting.wanted.max(waiting.pushed);
        waiting.pushed
    };
    while core.queue.waiting.lock().written < target {
        work(core)?;
    }
    Ok(())
}

/// What a task that was stopped has left: it is written if that was asked for.
pub(super) fn finish(core: &Core) {
    loop {
        let due = core.queue.due(&core.queue.waiting.lock());
        if !matches!(due, Due::Now) || !core.is_usable() || !step(core) {
            break;
        }
    }
    core.queue.end();
}

/// The next step of the writer, done by who would wait for it.
fn work(core: &Core) -> Result<(), Ended> {
    let ended = core.queue.waiting.lock().ended;
    if ended || !core.is_usable() || !step(core) { Err(Ended) } else { Ok(()) }
}

fn write_batch(core: &Core) -> Result<(), super::super::StoreError> {
    // Taken before the sets: whoever holds it sees every set either in the queue or in sled.
    let mut disk = core.disk.lock();
    let Some(Taken { number, stamp, bytes, mut merged }) = core.queue.take() else { return Ok(()) };
    let touched: Vec<Key> = merged.keys().cloned().collect();
    // What came and went within the batch was never in sled.
    merged.retain(|_, m| m.counts());
    while !disk.keep_pre_images(&merged, core.config.overlay_bytes_max / 2) {
        core.cut_progress.wait(&mut disk);
    }
    let Some(engine) = core.memory.read().engine.clone() else { return Ok(()) };
    engine.write(merged.iter().map(|(key, m)| (&key[..], m.new.as_ref())), Some(&stamp))?;
    disk.stamp = stamp;
    engine.remember(&merged);
    core.memory.write().retire(number, touched.iter());
    // Still under the disk lock: an install that clears the queue comes before or after all of this.
    core.queue.written(number, bytes);
    Ok(())
}
