//! Advisory locks of files: `flock(2)`, and the record locks of `fcntl(2)`, by process and by open file.

use serde::{Deserialize, Serialize};

use super::{InodeId, RequestId, SessionId};

/// Which call a lock belongs to. `Flock` and the other two never see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// `flock(2)`: the whole file, owned by an open file.
    Flock,
    /// `fcntl(2)` with `F_SETLK`: a range, owned by a process.
    Posix,
    /// `fcntl(2)` with `F_OFD_SETLK`: a range, owned by an open file.
    Ofd,
}

/// Whose lock it is within a session: the client's own number for a process or an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockOwner {
    /// The call.
    pub kind: LockKind,
    /// The client's number.
    pub id: u64,
}

/// Bytes that a lock covers, both ends among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockRange {
    /// First byte.
    pub first: u64,
    /// Last byte; `u64::MAX` to the end, however the file grows.
    pub last: u64,
}

impl LockRange {
    /// The whole file.
    pub const WHOLE: Self = Self { first: 0, last: u64::MAX };

    /// True if the two have a byte in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// True if all of `other` is within.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// Take a lock, or change one that the owner has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Of which file.
    pub inode: InodeId,
    /// For whom.
    pub owner: LockOwner,
    /// Process id, for people and for `F_GETLK`.
    pub pid: u32,
    /// Which bytes; of a `Flock`, all of them, whatever it says.
    pub range: LockRange,
    /// True: alone. False: shared with other readers.
    pub write: bool,
    /// True: wait in a queue while others are in the way. False: refuse.
    pub wait: bool,
}

/// Give up what an owner has locked within a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlock {
    /// Of which file.
    pub inode: InodeId,
    /// Whose.
    pub owner: LockOwner,
    /// Which bytes; of a `Flock`, all of them, whatever it says.
    pub range: LockRange,
}

/// Leave the queue for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelLock {
    /// Of which file.
    pub inode: InodeId,
    /// The number that the request for the lock had in this session.
    pub request: RequestId,
}

/// A lock that somebody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    /// Whose session.
    pub session: SessionId,
    /// For whom.
    pub owner: LockOwner,
    /// Process id on the machine of that session.
    pub pid: u32,
    /// Which bytes.
    pub range: LockRange,
    /// True: alone.
    pub write: bool,
}
