//! Lock, unlock, leave the queue; and what follows for those who wait.

use super::super::apply::Caller;
use super::super::locks::{self, LOCKS_MAX, Table, Waiting};
use super::super::txn::Step;
use super::super::{Txn, ViewError};
use crate::types::{CancelLock, FsError, InodeId, Lock, LockKind, LockRange, SessionId, Unlock, UpdateReply};

pub(crate) fn lock(txn: &mut Txn<'_>, caller: &Caller<'_>, lock: &Lock) -> Step<UpdateReply> {
    txn.inode(lock.inode)?;
    let wanted = locks::wanted(caller.session, lock)?;
    let locker = wanted.locker();
    let mut table = Table::load(&txn.records, lock.inode)?;
    // One lock inside another splits it in three.
    if table.len() + 2 > LOCKS_MAX || !table.has_room(&txn.records, caller.session)? {
        return Err(FsError::TooManyLocks.into());
    }
    let in_the_way = table.in_the_way_of_new(&wanted, false);
    if !lock.wait {
        if !in_the_way.is_empty() {
            return Err(FsError::WouldBlock.into());
        }
        table.hold(wanted);
        table.grant();
        table.store(&txn.records)?;
        return Ok(UpdateReply::Locked);
    }
    // Who holds nothing gives way to those who came earlier. A flock is given up before a stronger one is waited for.
    let heeds_waiters = match wanted.owner.kind {
        LockKind::Flock => !table.has_as_strong(&wanted),
        _ => !table.is_holder(locker) && locks::holds_nothing(&txn.records, locker)?,
    };
    let in_the_way = table.in_the_way_of_new(&wanted, heeds_waiters);
    if locks::deadlocks(&txn.records, locker, &in_the_way)? {
        return Err(FsError::Deadlock.into());
    }
    let queued = !in_the_way.is_empty();
    if queued {
        if wanted.owner.kind == LockKind::Flock {
            // As flock(2): a lock is given up before a stronger one is waited for, or two readers would wait for each other.
            table.release(locker, LockRange::WHOLE);
        }
        table.queue(wanted, Waiting { request: caller.request, heeds_waiters });
    } else {
        table.hold(wanted);
    }
    table.grant();
    let granted = !queued || table.waiter_of(caller.session, caller.request).is_none();
    table.store(&txn.records)?;
    Ok(if granted { UpdateReply::Locked } else { UpdateReply::LockQueued { request: caller.request } })
}

pub(crate) fn unlock(txn: &mut Txn<'_>, caller: &Caller<'_>, unlock: &Unlock) -> Step<UpdateReply> {
    let range = locks::range_of(unlock.owner, unlock.range)?;
    let mut table = Table::load(&txn.records, unlock.inode)?;
    if table.len() + 1 > LOCKS_MAX && range != LockRange::WHOLE {
        return Err(FsError::TooManyLocks.into());
    }
    table.release((caller.session, unlock.owner), range);
    table.grant();
    table.store(&txn.records)?;
    Ok(UpdateReply::Done)
}

/// Done if the request waited; Locked if it does not wait any more.
pub(crate) fn cancel(txn: &mut Txn<'_>, caller: &Caller<'_>, cancel: &CancelLock) -> Step<UpdateReply> {
    let mut table = Table::load(&txn.records, cancel.inode)?;
    if !table.cancel(caller.session, cancel.request) {
        return Ok(UpdateReply::Locked);
    }
    // Others may have waited behind it.
    table.grant();
    table.store(&txn.records)?;
    Ok(UpdateReply::Done)
}

/// A session has ended: all it held is free.
pub(crate) fn session_ended(txn: &mut Txn<'_>, session: SessionId) -> Result<(), ViewError> {
    for inode in locks::files_of(&txn.records, session, usize::MAX)? {
        let mut table = Table::load(&txn.records, inode)?;
        table.forget(session);
        table.grant();
        table.store(&txn.records)?;
    }
    Ok(())
}

/// An inode is freed: nobody holds it, so nobody misses its locks.
pub(crate) fn inode_freed(txn: &mut Txn<'_>, inode: InodeId) -> Result<(), ViewError> {
    let mut table = Table::load(&txn.records, inode)?;
    if table.len() > 0 {
        table.clear();
        table.store(&txn.records)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::{Op, check};
    use super::super::fixture::Bench;
    use super::*;
    use crate::types::{Cred, HeldLock, LockOwner, OpenSession, Query, QueryReply, RequestId, Update};

    /// Several sessions that lock one file.
    struct Locks {
        bench: Bench,
        inode: InodeId,
        sessions: Vec<SessionId>,
    }

    fn owner(kind: LockKind, id: u64) -> LockOwner {
        LockOwner { kind, id }
    }

    const P: LockKind = LockKind::Posix;

    impl Locks {
        fn new() -> Self {
            let mut bench = Bench::new();
            let inode = bench.make_file("a");
            let mut sessions = vec![bench.session];
            for _ in 0..3 {
                let open = OpenSession { ttl_ms: 9_000, label: "more".into() };
                match bench.update(Update::OpenSession(open)) {
                    Ok(UpdateReply::Session { session, .. }) => sessions.push(session),
                    other => panic!("{other:?}"),
                }
            }
            Self { bench, inode, sessions }
        }

        fn send(&mut self, who: usize, update: Update) -> Result<UpdateReply, FsError> {
            self.bench.session = self.sessions[who];
            let reply = self.bench.update(update);
            assert_eq!(check(&self.bench.view).unwrap(), Vec::<String>::new());
            reply
        }

        fn lock(&mut self, who: usize, kind: LockKind, range: (u64, u64), how: &str) -> String {
            let range = LockRange { first: range.0, last: range.1 };
            let (write, wait) = (how.contains('w'), how.contains('+'));
            let lock = Lock { inode: self.inode, owner: owner(kind, 1), pid: 5, range, write, wait };
            match self.send(who, Update::Lock(lock)) {
                Ok(UpdateReply::Locked) => "locked".into(),
                Ok(UpdateReply::LockQueued { .. }) => "queued".into(),
                Ok(other) => panic!("{other:?}"),
                Err(e) => format!("{e:?}"),
            }
        }

        fn unlock(&mut self, who: usize, kind: LockKind, range: (u64, u64)) {
            let range = LockRange { first: range.0, last: range.1 };
            let unlock = Unlock { inode: self.inode, owner: owner(kind, 1), range };
            assert_eq!(self.send(who, Update::Unlock(unlock)), Ok(UpdateReply::Done));
        }

        /// What is in the way of a write lock by a stranger, one byte after the other.
        fn map(&self, kind: LockKind, len: u64) -> String {
            let at = |byte| {
                let range = LockRange { first: byte, last: byte };
                let (session, owner) = (SessionId(0), owner(kind, 9));
                let lock = Lock { inode: self.inode, owner, pid: 0, range, write: true, wait: false };
                match self.bench.ask(&Query::TestLock { session, lock }) {
                    Ok(QueryReply::Conflict(None)) => ".".into(),
                    Ok(QueryReply::Conflict(Some(HeldLock { session, write, .. }))) => {
                        let who = self.sessions.iter().position(|s| *s == session).unwrap();
                        let letter = ["a", "b", "c", "d"][who];
                        if write { letter.to_uppercase() } else { letter.to_string() }
                    }
                    other => panic!("{other:?}"),
                }
            };
            (0..len).map(at).collect()
        }
    }

    #[test]
    fn ranges_merge_split_and_change_their_mode() {
        let mut l = Locks::new();
        assert_eq!(l.lock(0, P, (2, 3), "r"), "locked");
        assert_eq!(l.lock(0, P, (4, 6), "r"), "locked");
        assert_eq!(l.bench.view.records.keys().filter(|k| k[0] == 0x10).count(), 1, "they are one");
        assert_eq!(l.lock(0, P, (4, 4), "w"), "locked");
        assert_eq!(l.map(P, 8), "..aaAaa.");
        assert_eq!(l.lock(1, P, (0, 2), "r"), "locked");
        assert_eq!(l.lock(1, P, (0, 4), "r"), "WouldBlock");
        l.unlock(0, P, (3, 5));
        assert_eq!(l.map(P, 8), "bbb...a.", "of two readers the one whose range begins first is named");
        l.unlock(0, P, (0, u64::MAX));
        l.unlock(1, P, (0, u64::MAX));
        assert_eq!(l.lock(0, P, (5, 4), "r"), "Invalid");
        assert!(l.bench.view.records.keys().all(|k| k[0] != 0x10 && k[0] != 0x11), "nothing is left");
    }

    #[test]
    fn flock_is_whole_and_apart() {
        let mut l = Locks::new();
        let f = LockKind::Flock;
        assert_eq!(l.lock(0, f, (3, 3), "r"), "locked");
        assert_eq!(l.lock(1, P, (0, 9), "w"), "locked");
        assert_eq!(l.lock(2, LockKind::Ofd, (0, 0), "r"), "WouldBlock");
        assert_eq!(l.lock(1, f, (0, 0), "r"), "locked");
        assert_eq!(l.lock(0, f, (0, 0), "w"), "WouldBlock");
        assert_eq!(l.map(f, 2), "aa", "what it had stays");
        assert_eq!(l.lock(0, f, (0, 0), "w+"), "queued");
        assert_eq!(l.lock(1, f, (0, 0), "w+"), "queued", "behind the first");
        assert_eq!(l.map(f, 1), "A", "both gave up what they had, and the first got it");
        assert_eq!(l.lock(0, f, (0, 0), "w+"), "locked", "what it has it need not wait for");
    }

    #[test]
    fn waiting_is_in_order_and_a_writer_does_not_starve() {
        let mut l = Locks::new();
        assert_eq!(l.lock(0, P, (0, 9), "r+"), "locked");
        assert_eq!(l.lock(1, P, (0, 9), "w+"), "queued");
        assert_eq!(l.lock(2, P, (0, 9), "r+"), "queued", "a reader that comes later waits behind the writer");
        assert_eq!(l.lock(3, P, (20, 29), "r+"), "locked", "other bytes");
        l.unlock(0, P, (0, 9));
        assert_eq!(l.map(P, 1), "B");
        let closed = l.send(1, Update::CloseSession);
        assert_eq!(closed, Ok(UpdateReply::Done));
        assert_eq!(l.map(P, 1), "c", "the end of a session lets the next one hold");
    }

    #[test]
    fn a_cancelled_waiter_makes_room_and_a_granted_one_says_so() {
        let mut l = Locks::new();
        assert_eq!(l.lock(0, P, (0, 9), "r"), "locked");
        assert_eq!(l.lock(1, P, (0, 9), "w+"), "queued");
        let request = l.bench.request;
        assert_eq!(l.lock(2, P, (0, 9), "r+"), "queued");
        let cancel = Update::CancelLock(CancelLock { inode: l.inode, request });
        let waits = |l: &Locks, who: usize, request| {
            let session = l.sessions[who];
            l.bench.ask(&Query::LockWaits { inode: l.inode, session, request })
        };
        assert_eq!(waits(&l, 1, request), Ok(QueryReply::Waits(true)));
        assert_eq!(l.send(1, cancel.clone()), Ok(UpdateReply::Done));
        assert_eq!(waits(&l, 1, request), Ok(QueryReply::Waits(false)));
        assert_eq!(l.send(1, cancel), Ok(UpdateReply::Locked));
        l.unlock(0, P, (0, 9));
        assert_eq!(l.map(P, 1), "c");
        let gone = Query::LockWaits { inode: l.inode, session: SessionId(77), request: RequestId(1) };
        assert_eq!(l.bench.ask(&gone), Err(FsError::SessionExpired));
    }

    #[test]
    fn processes_that_would_wait_for_each_other_are_told() {
        let mut l = Locks::new();
        for who in 0..3 {
            let byte = who as u64;
            assert_eq!(l.lock(who, P, (byte, byte), "w"), "locked");
        }
        assert_eq!(l.lock(0, P, (1, 1), "w+"), "queued");
        assert_eq!(l.lock(1, P, (2, 2), "w+"), "queued");
        assert_eq!(l.lock(2, P, (0, 0), "w+"), "Deadlock");
        l.unlock(2, P, (2, 2));
        assert_eq!(l.map(P, 3), "ABB");
    }

    #[test]
    fn a_holder_is_not_put_behind_those_who_wait_for_it() {
        let mut l = Locks::new();
        assert_eq!(l.lock(0, P, (0, 0), "r"), "locked");
        assert_eq!(l.lock(1, P, (0, 5), "w+"), "queued");
        assert_eq!(l.lock(0, P, (3, 3), "r+"), "locked");
        l.unlock(0, P, (0, 9));
        assert_eq!(l.map(P, 6), "BBBBBB");
    }

    #[test]
    fn locks_of_a_file_are_bounded_and_go_with_it() {
        let mut l = Locks::new();
        let mut last = String::new();
        for i in 0..=LOCKS_MAX as u64 {
            let range = LockRange { first: 2 * i, last: 2 * i };
            let (inode, owner) = (l.inode, owner(P, 1));
            let lock = Lock { inode, owner, pid: 5, range, write: true, wait: false };
            last = format!("{:?}", l.bench.update(Update::Lock(lock)));
        }
        assert_eq!(last, "Err(TooManyLocks)");
        let unlink = crate::types::Unlink {
            parent: crate::types::ROOT_INODE,
            name: super::super::fixture::name("a"),
            dir: false,
        };
        assert!(l.send(0, Update::Unlink(unlink)).is_ok());
        assert!(l.bench.command(Op::FreeOrphans(vec![l.inode])).is_ok());
        assert_eq!(check(&l.bench.view).unwrap(), Vec::<String>::new());
        assert!(l.bench.view.records.keys().all(|k| k[0] != 0x10 && k[0] != 0x11));
        assert_eq!(l.lock(0, P, (0, 0), "r"), "Stale");
        assert_eq!(Cred::root().uid, 0);
    }
}
