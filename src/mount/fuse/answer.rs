//! What a filesystem answers: one [`Answer`] for each [`super::Op`].
//!
//! Made by a [`super::Filesystem`]; `encode` turns it into bytes. Times to live are what the kernel may rely on
//! without asking: zero makes it ask every time.

use std::time::Duration;

use bytes::Bytes;

pub use super::dir_page::DirPage;
use super::op::Lock;
use crate::types::{FileKind, Timestamp};

/// An answer. Which one belongs to which operation stands at [`super::Op`]; another one becomes EIO for the caller
/// and an error in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done; there is nothing to tell.
    Done,
    /// An inode under a name.
    Entry(Entry),
    /// Attributes.
    Attr {
        /// They.
        attr: Attr,
        /// How long the kernel may rely on them.
        ttl: Duration,
    },
    /// An open file or directory.
    Open(Opened),
    /// A new file, open.
    Create(Entry, Opened),
    /// Bytes: of a file (in pieces, one after the other), or the target of a symlink.
    Data(Vec<Bytes>),
    /// Bytes written.
    Written(u32),
    /// Space and inodes.
    Statfs(Statfs),
    /// A value, or a list of names: whole. The transport answers with the size if the caller asked for that.
    Xattr(Bytes),
    /// A lock, with kind `Unlock` if there is none in the way.
    Lock(Lock),
    /// A position in a file.
    Position(u64),
    /// Bytes copied.
    Copied(u64),
    /// A page of a directory.
    Directory(DirPage),
}

impl Answer {
    /// Bytes in one piece.
    #[must_use]
    pub fn data(bytes: Bytes) -> Self {
        Self::Data(vec![bytes])
    }
}

/// An inode under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, by which the kernel asks from now on; 0 says "there is nothing under this name, and you may rely
    /// on that for `entry_ttl`" (in answers to a lookup only).
    pub inode: u64,
    /// Tells inodes apart that have the same number one after the other; 0 where numbers are never used again.
    pub generation: u64,
    /// Its attributes.
    pub attr: Attr,
    /// How long the kernel may rely on the name.
    pub entry_ttl: Duration,
    /// How long it may rely on the attributes.
    pub attr_ttl: Duration,
}

/// Attributes, as `stat` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// `st_ino`.
    pub inode: u64,
    /// Type.
    pub kind: FileKind,
    /// Permission, sticky, setgid and setuid bits.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number (`makedev`), of a device.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// What `st_blksize` tells programs to read and write at once.
    pub block_size: u32,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change.
    pub ctime: Timestamp,
    /// Creation; shown by `statx` only.
    pub btime: Timestamp,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The handle: comes back with every operation on the open file.
    pub handle: u64,
    /// How the kernel treats it.
    pub flags: OpenFlags,
}

/// How the kernel treats an open file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent flags of the kernel")]
pub struct OpenFlags {
    /// Around the kernel's cache: every read and write is asked for.
    pub direct_io: bool,
    /// What the kernel has cached of the file is still true; otherwise it drops it at the open.
    pub keep_cache: bool,
    /// Entries of the open directory may be cached.
    pub cache_dir: bool,
    /// No position; `lseek` fails.
    pub nonseekable: bool,
    /// No [flush](super::Op::Flush) at close.
    pub no_flush: bool,
    /// Direct writes to the file may come at the same time.
    pub parallel_direct_writes: bool,
}

/// Space and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statfs {
    /// All space, in units of `fragment_size`.
    pub blocks: u64,
    /// Free.
    pub blocks_free: u64,
    /// Free for others than root.
    pub blocks_available: u64,
    /// Inodes.
    pub files: u64,
    /// Inodes that can still be made.
    pub files_free: u64,
    /// What to read and write at once.
    pub block_size: u32,
    /// The unit.
    pub fragment_size: u32,
    /// Longest name in bytes.
    pub name_len_max: u32,
}
