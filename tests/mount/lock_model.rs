//! What two mounts know of the locks on their files: open files that lock, and a model of who holds what.
//!
//! Used by `two_mounts`. The rules are those of one Linux machine, on which each mount is a process: a lock of a process ends with
//! the first close of the file through that mount; `flock` and record locks do not see each other.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::common::LONG;
use crate::record_lock::{Family, Want, is_free, set};

/// Bytes of a file that locks are taken on: few, so that they meet.
const BYTES: usize = 10;
/// Files held open at a time.
const OPEN_MAX: usize = 8;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// This process, through one mount.
    Process(usize),
    /// An open file.
    Open(u64),
}

/// Holders of one thing, and whether each holds it alone.
type Holders = BTreeMap<Who, bool>;

fn conflicts(holders: &Holders, who: Who, write: bool) -> bool {
    holders.iter().any(|(other, alone)| *other != who && (write || *alone))
}

#[derive(Debug, Default)]
struct OfInode {
    whole: Holders,
    bytes: [Holders; BYTES],
    /// An open file was closed with its locks. The kernel tells a mount of it a moment later, so they may be there still.
    closing: bool,
}

impl OfInode {
    fn forget(&mut self, who: Who) {
        self.whole.remove(&who);
        for byte in &mut self.bytes {
            byte.remove(&who);
        }
    }
}

#[derive(Debug)]
struct Open {
    id: u64,
    side: usize,
    inode: u64,
    file: File,
}

/// Open files and locks.
#[derive(Debug, Default)]
pub struct Locks {
    open: Vec<Open>,
    inodes: BTreeMap<u64, OfInode>,
    next: u64,
    /// Locks that were taken, and that were refused.
    pub counts: (u64, u64),
}

impl Locks {
    /// Opens a file to lock it; closes another if there are many.
    pub fn open(&mut self, rng: &mut StdRng, side: usize, inode: u64, path: &Path) {
        if self.open.len() >= OPEN_MAX {
            self.close(rng);
        }
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        self.next += 1;
        self.open.push(Open { id: self.next, side, inode, file });
    }

    /// Closes one of the open files.
    pub fn close(&mut self, rng: &mut StdRng) {
        if self.open.is_empty() {
            return;
        }
        let Open { id, side, inode, file } = self.open.swap_remove(rng.random_range(0..self.open.len()));
        drop(file);
        self.closed(side, inode);
        let locks = self.inodes.entry(inode).or_default();
        locks.forget(Who::Open(id));
        locks.closing = true;
    }

    /// Somebody has closed a file through a mount.
    pub fn closed(&mut self, side: usize, inode: u64) {
        if let Some(locks) = self.inodes.get_mut(&inode) {
            locks.forget(Who::Process(side));
        }
    }

    /// Takes, changes, gives up or asks for a lock of one of the open files, and compares the answer. Tells what it was.
    pub fn step(&mut self, rng: &mut StdRng) -> String {
        if self.open.is_empty() {
            return "nothing is open".into();
        }
        let Open { id, side, inode, file } = &self.open[rng.random_range(0..self.open.len())];
        let locks = self.inodes.entry(*inode).or_default();
        let want = [Want::Read, Want::Write, Want::Write, Want::Unlock][rng.random_range(0..4)];
        let (taken, what) = if rng.random_range(0..3) == 0 {
            (flock(locks, *id, file, want), format!("flock {want:?}"))
        } else {
            let first = rng.random_range(0..BYTES);
            let bytes = first..rng.random_range(first + 1..=BYTES);
            let (family, who) = match rng.random_range(0..2) {
                0 => (Family::Process, Who::Process(*side)),
                _ => (Family::OpenFile, Who::Open(*id)),
            };
            ask(locks, (family, who), file, want, &bytes);
            (record(locks, (family, who), file, want, &bytes), format!("{family:?} {want:?} {bytes:?}"))
        };
        match taken {
            true => self.counts.0 += 1,
            false => self.counts.1 += 1,
        }
        format!("{what} of inode {inode} by {id} through {side}: {taken}")
    }
}

/// Tries again while only a lock that is about to go can be in the way.
fn once_closed<T: PartialEq>(closing: &mut bool, wanted: &T, mut attempt: impl FnMut() -> T) -> T {
    let began = Instant::now();
    loop {
        let got = attempt();
        if got == *wanted || !*closing {
            return got;
        }
        if began.elapsed() > LONG {
            // It did not go: the caller says so.
            *closing = false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn flock(locks: &mut OfInode, id: u64, file: &File, want: Want) -> bool {
    let who = Who::Open(id);
    if want == Want::Unlock {
        file.unlock().unwrap();
        locks.whole.remove(&who);
        return true;
    }
    let write = want == Want::Write;
    let wanted = !conflicts(&locks.whole, who, write);
    let taken = once_closed(&mut locks.closing, &wanted, || {
        match if write { file.try_lock() } else { file.try_lock_shared() } {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(e)) => panic!("flock: {e}"),
        }
    });
    assert_eq!(taken, wanted, "flock {want:?} by {id}: {locks:?}");
    if taken {
        locks.whole.insert(who, write);
    }
    taken
}

fn in_the_way(locks: &OfInode, who: Who, want: Want, bytes: &Range<usize>) -> bool {
    locks.bytes[bytes.clone()].iter().any(|byte| conflicts(byte, who, want == Want::Write))
}

fn wide(bytes: &Range<usize>) -> Range<u64> {
    bytes.start as u64..bytes.end as u64
}

fn record(
    locks: &mut OfInode,
    (family, who): (Family, Who),
    file: &File,
    want: Want,
    bytes: &Range<usize>,
) -> bool {
    let wanted = want == Want::Unlock || !in_the_way(locks, who, want, bytes);
    let taken = once_closed(&mut locks.closing, &wanted, || match set(file, family, want, &wide(bytes)) {
        Ok(()) => true,
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => false,
        Err(e) => panic!("{family:?} {want:?}: {e}"),
    });
    assert_eq!(taken, wanted, "{family:?} {want:?} {bytes:?} by {who:?}: {locks:?}");
    for byte in &mut locks.bytes[bytes.clone()] {
        if taken && want == Want::Unlock {
            byte.remove(&who);
        } else if taken {
            byte.insert(who, want == Want::Write);
        }
    }
    taken
}

/// `F_GETLK`, which changes nothing.
fn ask(locks: &mut OfInode, (family, who): (Family, Who), file: &File, want: Want, bytes: &Range<usize>) {
    if want == Want::Unlock {
        return;
    }
    let wanted = !in_the_way(locks, who, want, bytes);
    let free =
        once_closed(&mut locks.closing, &wanted, || is_free(file, family, want, &wide(bytes)).unwrap());
    assert_eq!(free, wanted, "{family:?} {want:?} {bytes:?} asked by {who:?}: {locks:?}");
}
