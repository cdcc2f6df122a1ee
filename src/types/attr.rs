//! Attributes: what `stat` shows and what `setattr` changes.

use serde::{Deserialize, Serialize};

use super::{InodeId, Timestamp, Version};

/// The bits of `st_mode` that chmod can set: permissions, sticky, setgid, setuid.
pub const MODE_BITS: u32 = 0o7777;

/// What an inode is (`S_IFMT` of POSIX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDev,
    /// Block device.
    BlockDev,
}

impl FileKind {
    /// The `S_IFMT` part of `st_mode`.
    #[must_use]
    pub const fn mode_type(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDev => 0o020_000,
            Self::Dir => 0o040_000,
            Self::BlockDev => 0o060_000,
            Self::File => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// One letter, as `ls -l` prints it.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Dir => 'd',
            Self::Symlink => 'l',
            Self::Fifo => 'p',
            Self::Socket => 's',
            Self::CharDev => 'c',
            Self::BlockDev => 'b',
        }
    }
}

/// What `stat` shows of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Identity.
    pub inode: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission, sticky, setgid and setuid bits: a value within [`MODE_BITS`].
    pub mode: u32,
    /// Number of dentries that name it; of a directory, 2 plus its subdirectories. 0: an orphan.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device, else 0.
    pub rdev: u64,
    /// Logical length in bytes: of a file; of a symlink's target; of a directory, its number of dentries.
    pub size: u64,
    /// Bytes that its extents cover (holes do not count).
    pub used: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of attributes or contents.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Change counter: grows with every change of the inode.
    pub version: Version,
}

/// A timestamp to set (`utimensat(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// To the time of the command (`UTIME_NOW`): write permission is enough.
    Now,
    /// To a given moment: the caller owns the file or is root.
    At(Timestamp),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// New mode, within [`MODE_BITS`].
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size: a truncate; needs write permission or a handle opened for writing.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
}
