//! The locks of one file: who holds what, who waits, and who is next.
//!
//! ```text
//! held by A     [=== write ===]                         A unlocks the middle:  [==]     [==]
//! waiting       [-- B write --]  [- C read -]           B waits for both; C, behind B and apart from it, would hold
//! ```
//!
//! `ops/lock` loads the table of a file, changes it and stores it; `query` and `check` read it. Holds: locks held by different
//! owners do not conflict; those of one owner neither overlap nor touch with the same mode; whoever waits has somebody
//! in his way: a holder, or one who came earlier and waits for the same bytes. The order of waiting is the order of the
//! commands, so nobody starves. A waiter who held locks when he came heeds holders only: behind somebody who waits for him he
//! would wait for ever.
//! Not here: sessions, permissions (an open file is enough), how the waiting client learns of its turn.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::records::Record;
use super::txn::{Overlay, corrupt, read, scan};
use super::{View, ViewError, keys};
use crate::types::{FsError, HeldLock, InodeId, Lock, LockKind, LockOwner, LockRange, RequestId, SessionId};

/// Locks and waiters of one file when a request comes: a table is read whole for every change of it. A grant may split what
/// its owner holds in two, so that there are at most twice as many.
pub(super) const LOCKS_MAX: usize = 1024;
/// Files on which one session has locks: all are looked at when it ends, in one command.
pub(super) const FILES_MAX: u64 = 4096;
/// Steps from one waiting owner to the next before a deadlock is given up looking for.
const DEADLOCK_STEPS: usize = 64;
/// Files of a session that are searched for an owner's locks.
const SEARCHED_FILES: usize = 16;

/// A stored lock or waiter, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredLock {
    pub(super) session: SessionId,
    pub(super) owner: LockOwner,
    pub(super) pid: u32,
    pub(super) range: LockRange,
    pub(super) write: bool,
    /// Of a waiter: the request that asked for it, and whether it heeds those who wait before it.
    pub(super) waiting: Option<Waiting>,
}

/// What a waiter adds to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) request: RequestId,
    pub(super) heeds_waiters: bool,
}

/// How many locks and waiters a session has on a file; under inode 0, on how many files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LockCount {
    pub(super) count: u64,
}

impl Record for StoredLock {
    const NAME: &'static str = "lock";
}

impl Record for LockCount {
    const NAME: &'static str = "lock count";
}

/// Someone who locks: an owner of a session.
pub(super) type Locker = (SessionId, LockOwner);

impl StoredLock {
    pub(super) fn locker(&self) -> Locker {
        (self.session, self.owner)
    }

    /// True if both cannot be held at a time.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        self.locker() != other.locker()
            && (self.owner.kind == LockKind::Flock) == (other.owner.kind == LockKind::Flock)
            && (self.write || other.write)
            && self.range.overlaps(other.range)
    }

    fn held(&self) -> HeldLock {
        let Self { session, owner, pid, range, write, .. } = *self;
        HeldLock { session, owner, pid, range, write }
    }
}

/// What a request for a lock says.
pub(super) fn wanted(session: SessionId, lock: &Lock) -> Result<StoredLock, FsError> {
    let range = range_of(lock.owner, lock.range)?;
    Ok(StoredLock { session, owner: lock.owner, pid: lock.pid, range, write: lock.write, waiting: None })
}

/// The range meant: of a flock, the whole file.
pub(super) fn range_of(owner: LockOwner, range: LockRange) -> Result<LockRange, FsError> {
    match owner.kind {
        LockKind::Flock => Ok(LockRange::WHOLE),
        _ if range.first > range.last => Err(FsError::Invalid),
        _ => Ok(range),
    }
}

/// The locks and waiters of one file.
pub(super) struct Table {
    inode: InodeId,
    before: BTreeMap<u64, StoredLock>,
    locks: BTreeMap<u64, StoredLock>,
}

impl Table {
    pub(super) fn load(view: &dyn View, inode: InodeId) -> Result<Self, ViewError> {
        let mut locks = BTreeMap::new();
        scan(view, &keys::locks(inode), |key, value| {
            let number = keys::second(key).ok_or_else(|| corrupt(format!("lock key {key:02x?}")))?;
            locks.insert(number, StoredLock::decode(value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Self { inode, before: locks.clone(), locks })
    }

    pub(super) fn len(&self) -> usize {
        self.locks.len()
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = &StoredLock> {
        self.locks.values().filter(|l| l.waiting.is_none())
    }

    pub(super) fn waiters(&self) -> impl Iterator<Item = (u64, &StoredLock)> {
        self.locks.iter().filter(|(_, l)| l.waiting.is_some()).map(|(number, l)| (*number, l))
    }

    /// The first lock in the way of `lock`, by its bytes.
    pub(super) fn conflict(&self, lock: &StoredLock) -> Option<HeldLock> {
        let in_the_way = self.holders().filter(|held| held.conflicts(lock));
        in_the_way.map(StoredLock::held).min_by_key(|held| (held.range, held.session, held.owner))
    }

    /// Those in the way of `lock`, which came as number `number`.
    pub(super) fn in_the_way(&self, number: u64, lock: &StoredLock, heeds_waiters: bool) -> BTreeSet<Locker> {
        let holders = self.holders().filter(|held| held.conflicts(lock));
        let earlier = self
            .waiters()
            .filter(|(n, waiter)| heeds_waiters && *n < number && waiter.conflicts(lock))
            .map(|(_, waiter)| waiter);
        holders.chain(earlier).map(StoredLock::locker).collect()
    }

    /// True if `locker` holds any lock here.
    pub(super) fn is_holder(&self, locker: Locker) -> bool {
        self.holders().any(|held| held.locker() == locker)
    }

    /// True if its owner holds a lock that permits what `lock` would, all over the same bytes.
    pub(super) fn has_as_strong(&self, lock: &StoredLock) -> bool {
        let as_strong = |held: &StoredLock| held.write || !lock.write;
        self.holders().any(|h| h.locker() == lock.locker() && h.range.covers(lock.range) && as_strong(h))
    }

    fn next_number(&self) -> u64 {
        self.locks.last_key_value().map_or(0, |(number, _)| number + 1)
    }

    /// Those in the way of a lock that comes now.
    pub(super) fn in_the_way_of_new(&self, lock: &StoredLock, heeds_waiters: bool) -> BTreeSet<Locker> {
        self.in_the_way(self.next_number(), lock, heeds_waiters)
    }

    /// Lets `lock` wait behind all others.
    pub(super) fn queue(&mut self, lock: StoredLock, waiting: Waiting) {
        let number = self.next_number();
        self.locks.insert(number, StoredLock { waiting: Some(waiting), ..lock });
    }

    /// Takes a waiter out; false if nobody waits under this request.
    pub(super) fn cancel(&mut self, session: SessionId, request: RequestId) -> bool {
        let number = self.waiter_of(session, request);
        number.is_some_and(|number| self.locks.remove(&number).is_some())
    }

    pub(super) fn waiter_of(&self, session: SessionId, request: RequestId) -> Option<u64> {
        self.waiters().find(|(_, l)| is_request(l, session, request)).map(|(number, _)| number)
    }

    /// Gives up what `locker` holds within `range`; what reaches out of it stays.
    pub(super) fn release(&mut self, locker: Locker, range: LockRange) {
        let mine: Vec<(u64, StoredLock)> = self
            .locks
            .iter()
            .filter(|(_, l)| l.waiting.is_none() && l.locker() == locker && l.range.overlaps(range))
            .map(|(number, l)| (*number, *l))
            .collect();
        for (number, lock) in mine {
            self.locks.remove(&number);
            if lock.range.first < range.first {
                let left = LockRange { first: lock.range.first, last: range.first - 1 };
                self.locks.insert(number, StoredLock { range: left, ..lock });
            }
            if lock.range.last > range.last {
                let right = LockRange { first: range.last + 1, last: lock.range.last };
                let number = self.next_number();
                self.locks.insert(number, StoredLock { range: right, ..lock });
            }
        }
    }

    /// Lets `lock` be held, in place of what its owner holds there; joins it with its like.
    pub(super) fn hold(&mut self, lock: StoredLock) {
        self.release(lock.locker(), lock.range);
        let mut range = lock.range;
        let like: Vec<u64> = self
            .locks
            .iter()
            .filter(|(_, l)| {
                l.waiting.is_none()
                    && l.locker() == lock.locker()
                    && l.write == lock.write
                    && (l.range.last.checked_add(1) == Some(range.first)
                        || range.last.checked_add(1) == Some(l.range.first))
            })
            .map(|(number, _)| *number)
            .collect();
        for number in like {
            if let Some(l) = self.locks.remove(&number) {
                range =
                    LockRange { first: range.first.min(l.range.first), last: range.last.max(l.range.last) };
            }
        }
        let number = self.next_number();
        self.locks.insert(number, StoredLock { range, waiting: None, ..lock });
    }

    /// Removes all of a session.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.locks.retain(|_, l| l.session != session);
    }

    /// Removes all.
    pub(super) fn clear(&mut self) {
        self.locks.clear();
    }

    /// The first waiter with nobody in his way. Asked at every change of a table that may have a thousand waiters: whoever waits first
    /// is in the way of most of them, and nobody behind him is looked at.
    pub(super) fn next(&self) -> Option<u64> {
        let holders: Vec<&StoredLock> = self.holders().collect();
        let mut earlier: Vec<&StoredLock> = Vec::new();
        for (number, waiter) in self.waiters() {
            let heeds_waiters = waiter.waiting.is_some_and(|w| w.heeds_waiters);
            let conflicts = |others: &[&StoredLock]| others.iter().any(|other| other.conflicts(waiter));
            let is_kept_out = conflicts(&holders) || heeds_waiters && conflicts(&earlier);
            if !is_kept_out {
                return Some(number);
            }
            earlier.push(waiter);
        }
        None
    }

    /// Lets all hold that can, in their order.
    pub(super) fn grant(&mut self) {
        while let Some(lock) = self.next().and_then(|number| self.locks.remove(&number)) {
            self.hold(lock);
        }
    }

    fn counts(locks: &BTreeMap<u64, StoredLock>) -> BTreeMap<SessionId, u64> {
        let mut counts = BTreeMap::new();
        for lock in locks.values() {
            *counts.entry(lock.session).or_insert(0) += 1;
        }
        counts
    }

    /// True if `session` may have locks on one more file, or has some on this one.
    pub(super) fn has_room(&self, records: &Overlay<'_>, session: SessionId) -> Result<bool, ViewError> {
        Ok(self.before.values().any(|l| l.session == session)
            || count(records, session, InodeId(0))? < FILES_MAX)
    }

    /// Writes what changed.
    pub(super) fn store(self, records: &Overlay<'_>) -> Result<(), ViewError> {
        for number in self.before.keys().filter(|number| !self.locks.contains_key(number)) {
            records.delete(&keys::lock(self.inode, *number))?;
        }
        for (number, lock) in &self.locks {
            if self.before.get(number) != Some(lock) {
                records.put(&keys::lock(self.inode, *number), lock)?;
            }
        }
        let (before, now) = (Self::counts(&self.before), Self::counts(&self.locks));
        for session in before.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
            let (old, new) = (before.get(session).copied(), now.get(session).copied());
            if old == new {
                continue;
            }
            put_count(records, *session, self.inode, new.unwrap_or(0))?;
            let files = count(records, *session, InodeId(0))?;
            let files =
                files.saturating_add(u64::from(old.is_none())).saturating_sub(u64::from(new.is_none()));
            put_count(records, *session, InodeId(0), files)?;
        }
        Ok(())
    }
}

fn count(records: &Overlay<'_>, session: SessionId, inode: InodeId) -> Result<u64, ViewError> {
    Ok(read::<LockCount>(records, &keys::lock_count(session, inode))?.map_or(0, |c| c.count))
}

fn put_count(records: &Overlay<'_>, session: SessionId, inode: InodeId, count: u64) -> Result<(), ViewError> {
    let key = keys::lock_count(session, inode);
    if count == 0 { records.delete(&key) } else { records.put(&key, &LockCount { count }) }
}

/// Files on which a session has locks or waits for one, at most `limit`.
pub(super) fn files_of(view: &dyn View, session: SessionId, limit: usize) -> Result<Vec<InodeId>, ViewError> {
    let mut files = Vec::new();
    scan(view, &keys::lock_counts(session), |key, _| {
        match keys::second(key) {
            Some(0) | None => {}
            Some(inode) => files.push(InodeId(inode)),
        }
        Ok(if files.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(files)
}

/// The file and the place among its locks that the record under `key` is about, if it is a lock or a waiter.
#[must_use]
pub fn lock_place(key: &[u8]) -> Option<(InodeId, u64)> {
    if key.first() != Some(&keys::LOCK) {
        return None;
    }
    Some((InodeId(keys::first(key)?), keys::second(key)?))
}

/// The place among the locks of a file at which a request waits; none if it does not.
///
/// # Errors
/// When the view cannot be read.
pub fn waiting_at(
    view: &dyn View,
    inode: InodeId,
    session: SessionId,
    request: RequestId,
) -> Result<Option<u64>, ViewError> {
    let mut place = None;
    scan(view, &keys::locks(inode), |key, value| {
        if is_request(&StoredLock::decode(value)?, session, request) {
            place = keys::second(key);
        }
        Ok(if place.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(place)
}

/// True if a request waits where [`waiting_at`] has found it: it moves only when it is granted.
///
/// # Errors
/// When the view cannot be read.
pub fn still_waits_at(
    view: &dyn View,
    inode: InodeId,
    place: u64,
    session: SessionId,
    request: RequestId,
) -> Result<bool, ViewError> {
    let lock = read::<StoredLock>(view, &keys::lock(inode, place))?;
    Ok(lock.is_some_and(|lock| is_request(&lock, session, request)))
}

fn is_request(lock: &StoredLock, session: SessionId, request: RequestId) -> bool {
    lock.session == session && lock.waiting.is_some_and(|waiting| waiting.request == request)
}

/// True if `locker` holds nothing, as far as is looked: the first few files of its session.
pub(super) fn holds_nothing(view: &dyn View, locker: Locker) -> Result<bool, ViewError> {
    let files = files_of(view, locker.0, SEARCHED_FILES + 1)?;
    if files.len() > SEARCHED_FILES {
        return Ok(false);
    }
    for inode in files {
        if Table::load(view, inode)?.is_holder(locker) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// True if those in the way of `locker` wait, through others, for `locker` itself. Only processes are asked about: an open file
/// may be unlocked by any thread, so that its waiting proves nothing. As Linux, it looks only so far.
pub(super) fn deadlocks(
    view: &dyn View,
    locker: Locker,
    in_the_way: &BTreeSet<Locker>,
) -> Result<bool, ViewError> {
    if locker.1.kind != LockKind::Posix {
        return Ok(false);
    }
    let mut seen: BTreeSet<Locker> = BTreeSet::new();
    let mut tables: BTreeMap<InodeId, Table> = BTreeMap::new();
    let mut next: Vec<Locker> = in_the_way.iter().copied().collect();
    while let Some(other) = next.pop() {
        if other == locker {
            return Ok(true);
        }
        if other.1.kind != LockKind::Posix || !seen.insert(other) {
            continue;
        }
        if seen.len() > DEADLOCK_STEPS {
            return Ok(false);
        }
        for inode in files_of(view, other.0, SEARCHED_FILES)? {
            // Most of those who wait for each other wait for the same files.
            let table = match tables.entry(inode) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(Table::load(view, inode)?),
            };
            for (number, waiter) in table.waiters().filter(|(_, w)| w.locker() == other) {
                let heeds = waiter.waiting.is_some_and(|w| w.heeds_waiters);
                next.extend(table.in_the_way(number, waiter, heeds));
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::frozen;
    use super::*;

    /// What is stored on disks of clusters that run: a difference here needs a new version, not a new expectation.
    #[test]
    fn record_bytes_are_frozen() {
        let held = StoredLock {
            session: SessionId(1),
            owner: LockOwner { kind: LockKind::Posix, id: 9 },
            pid: 300,
            range: LockRange { first: 2, last: u64::MAX },
            write: true,
            waiting: None,
        };
        frozen(&held, "01010109fb2c0102fdffffffffffffffff0100");
        let waiting = Some(Waiting { request: RequestId(5), heeds_waiters: true });
        frozen(&StoredLock { waiting, ..held }, "01010109fb2c0102fdffffffffffffffff01010501");
        let whole = LockRange::WHOLE;
        let flock = LockOwner { kind: LockKind::Flock, id: 0x1_0000 };
        frozen(
            &StoredLock { owner: flock, range: whole, write: false, ..held },
            "010100fc00000100fb2c0100fdffffffffffffffff0000",
        );
        let ofd = LockOwner { kind: LockKind::Ofd, id: 8 };
        frozen(&StoredLock { owner: ofd, pid: 0, ..held }, "010102080002fdffffffffffffffff0100");
        frozen(&LockCount { count: 251 }, "01fbfb00");
    }
}
