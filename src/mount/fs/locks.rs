//! Advisory locks: `flock(2)` and the record locks of `fcntl(2)`, which hold on all mounts.
//!
//! The kernel names owners by numbers: a process's table of files for record locks, the open file for `flock` and OFD locks.
//! Holds: what a process has locked ends with its first close of the file, what an open file has locked ends with the
//! open file, everything with the mount's session. What was written under a lock is published before the lock is given back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard};

use super::super::fuse::{Answer, Errno, Interrupt, Lock as KernelLock, LockCall, LockKind as KernelKind};
use super::convert::errno;
use super::open_files::OpenFile;
use super::{MountFs, caller};
use crate::runtime;
use crate::types::{FsError, Lock, LockKind, LockOwner, LockRange, Unlock};

/// How long a wait that a signal ended asks the cluster to take it back: programs expect EINTR of such a call, and soon.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// Open files that are being given back, with what is locked by them. The kernel tells of the last close of an open file after
/// `close(2)` has returned, so a program may ask for such a lock before it is free.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// Held for reading by each.
    running: RwLock<()>,
    count: AtomicU64,
}

/// One of them.
pub(super) struct Ending<'e> {
    endings: &'e Endings,
    _running: RwLockReadGuard<'e, ()>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.endings.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Endings {
    pub(super) async fn begin(&self) -> Ending<'_> {
        Ending { endings: self, _running: self.running.read().await }
    }

    /// How many have ended.
    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for those that have begun; true if any ended since there were `count`.
    async fn any_since(&self, count: u64) -> bool {
        drop(self.running.write().await);
        self.count() != count
    }
}

/// The owner of record locks. (An OFD lock comes as one of an owner who never closes: the open file itself.)
fn record_owner(id: u64) -> LockOwner {
    LockOwner { kind: LockKind::Posix, id }
}

fn flock_owner(id: u64) -> LockOwner {
    LockOwner { kind: LockKind::Flock, id }
}

fn owner(call: &LockCall) -> LockOwner {
    if call.flock { flock_owner(call.owner) } else { record_owner(call.owner) }
}

fn range(call: &LockCall) -> LockRange {
    if call.flock {
        return LockRange::WHOLE;
    }
    let last = if call.lock.end >= KernelLock::END { u64::MAX } else { call.lock.end };
    LockRange { first: call.lock.start, last }
}

fn wanted(open: &OpenFile, call: &LockCall, wait: bool) -> Lock {
    Lock {
        inode: open.file.inode(),
        owner: owner(call),
        pid: call.lock.pid,
        range: range(call),
        write: call.lock.kind == KernelKind::Exclusive,
        wait,
    }
}

impl MountFs {
    pub(super) async fn getlk(&self, call: LockCall) -> Result<Answer, Errno> {
        let open = self.shared.files.get(call.handle).ok_or(Errno::BADF)?;
        let found = self.shared.client.test_lock(wanted(&open, &call, false)).await.map_err(|e| errno(&e))?;
        let none = KernelLock { kind: KernelKind::Unlock, ..call.lock };
        Ok(Answer::Lock(found.map_or(none, |held| KernelLock {
            start: held.range.first,
            end: held.range.last.min(KernelLock::END),
            kind: if held.write { KernelKind::Exclusive } else { KernelKind::Shared },
            pid: held.pid,
        })))
    }

    pub(super) async fn setlk(&self, call: LockCall) -> Result<Answer, Errno> {
        let open = self.shared.files.get(call.handle).ok_or(Errno::BADF)?;
        let client = &self.shared.client;
        let done = if call.lock.kind == KernelKind::Unlock {
            // Who gets the lock next is to see what was written under it.
            if !open.file.overlay().is_empty() {
                open.file.flush_behind().await;
            }
            client.unlock(Unlock { inode: open.file.inode(), owner: owner(&call), range: range(&call) }).await
        } else {
            note(&open, &call);
            let since = self.shared.endings.count();
            match client.lock(wanted(&open, &call, false)).await {
                // What was in the way may be of an open file whose close has returned already.
                Err(e)
                    if e.fs() == Some(FsError::WouldBlock) && self.shared.endings.any_since(since).await =>
                {
                    client.lock(wanted(&open, &call, false)).await
                }
                other => other,
            }
        };
        done.map(|()| Answer::Done).map_err(|e| errno(&e))
    }

    /// Waits for a lock, as long as it takes; a signal ends it.
    pub(super) async fn setlk_wait(
        &self,
        call: LockCall,
        pid: u32,
        interrupt: Interrupt,
    ) -> Result<Answer, Errno> {
        let open = self.shared.files.get(call.handle).ok_or(Errno::BADF)?;
        note(&open, &call);
        let locking = self.shared.client.lock_unless(wanted(&open, &call, true), interrupt.interrupted());
        // With servers away a place in the queue cannot be cancelled now; it is once they are back.
        let given_up = async {
            interrupt.interrupted().await;
            if !caller::is_dying(pid) {
                runtime::sleep(CANCEL_GRACE).await;
            }
        };
        tokio::select! {
            biased;
            locked = locking => locked.map(|()| Answer::Done).map_err(|e| errno(&e)),
            () = given_up => Err(Errno::INTR),
        }
    }

    /// A process has closed the file, through one descriptor: its record locks end.
    pub(super) async fn closed_by(&self, open: &OpenFile, lock_owner: u64) -> Result<(), Errno> {
        // Through whichever of its descriptors it took them.
        open.lockers.lock().remove(&lock_owner);
        let released = self.shared.client.release_owner(open.file.inode(), record_owner(lock_owner)).await;
        released.map_err(|e| errno(&e))
    }

    /// An open file is gone: what is locked by it ends.
    pub(super) async fn unlock_all(&self, open: &OpenFile, flock: Option<u64>) {
        let lockers: Vec<u64> = std::mem::take(&mut *open.lockers.lock()).into_iter().collect();
        let owners = lockers.into_iter().map(record_owner).chain(flock.map(flock_owner));
        for owner in owners {
            if let Err(error) = self.shared.client.release_owner(open.file.inode(), owner).await {
                tracing::warn!(inode = open.file.inode().0, %error, "a lock is not released: it ends with the session");
            }
        }
    }
}

fn note(open: &OpenFile, call: &LockCall) {
    if !call.flock {
        open.lockers.lock().insert(call.owner);
    }
}
