//! What the kernel asks for: one [`Request`] with its [`Op`], parsed and validated.
//!
//! Made by `parse` from the bytes of either transport; read by a [`super::Filesystem`].
//! Holds: names are never empty and contain neither `/` nor NUL; a length never exceeds what the kernel was told.
//! Not here: the layout of the bytes (`abi`), and what an operation means.

use bytes::Bytes;

use crate::types::{SetTime, Timestamp};

/// One request of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Number of the request within the mount; never used again.
    pub unique: u64,
    /// The inode it is about: the directory for operations on names. [`Request::ROOT`] is the root of the mount.
    /// 0 where there is none (statfs of an old kernel, destroy).
    pub inode: u64,
    /// On whose behalf.
    pub caller: Caller,
    /// What is wanted.
    pub op: Op,
}

impl Request {
    /// The inode number by which the kernel knows the root of the mount.
    pub const ROOT: u64 = 1;
}

/// Who made the call, in the ids of the mount's user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Its filesystem user id.
    pub uid: u32,
    /// Its filesystem group id.
    pub gid: u32,
    /// Its thread id; 0 for work of the kernel itself (read-ahead, write-back, release).
    pub pid: u32,
    /// Supplementary groups that the kernel sent along: for operations that create, the one that equals the group
    /// of the parent directory. Empty says nothing: the others are in `/proc/PID/status`.
    pub groups: Vec<u32>,
}

/// An advisory lock as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// First byte.
    pub start: u64,
    /// Last byte, included; [`Lock::END`] is "to the end, whatever it becomes".
    pub end: u64,
    /// What is held or wanted.
    pub kind: LockKind,
    /// The process (as answer of getlk: the holder).
    pub pid: u32,
}

impl Lock {
    /// The last byte of a lock without end.
    pub const END: u64 = i64::MAX as u64;
}

/// Kind of an advisory lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Many may hold it.
    Shared,
    /// One alone.
    Exclusive,
    /// None: give back.
    Unlock,
}

/// A lock call: of which open file, for whom, and which of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockCall {
    /// The open file.
    pub handle: u64,
    /// Who owns the lock: for `fcntl` the process's table of files, for OFD locks and `flock` the open file.
    /// Equal numbers are equal owners.
    pub owner: u64,
    /// True for `flock(2)`, a family of its own; false for `fcntl(2)` byte ranges.
    pub flock: bool,
    /// What is wanted.
    pub lock: Lock,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The open file through which it is done (ftruncate, for instance), if the kernel named one.
    pub handle: Option<u64>,
    /// New permission bits (with the type bits, as `st_mode` has them).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// New change time: only with a write-back cache.
    pub ctime: Option<Timestamp>,
    /// Clear setuid, and setgid of a group-executable file: the caller has no right to keep them.
    pub kill_suid_sgid: bool,
    /// Owner of the locks of the caller, for a truncate under mandatory locks. Rarely of use.
    pub lock_owner: Option<u64>,
}

/// Which kind of position [`Op::Lseek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte of data at or after the offset.
    Data,
    /// The next hole at or after the offset; the end of the file counts as one.
    Hole,
}

/// How [`Op::SetXattr`] treats an attribute that exists or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Make it or replace it.
    Any,
    /// `XATTR_CREATE`: fail with EEXIST if it is there.
    Create,
    /// `XATTR_REPLACE`: fail with ENODATA if it is not.
    Replace,
}

/// The operations. Every one answers with what [`super::Answer`] says beside it, or an errno.
///
/// Handles are numbers that the filesystem gave in an answer; the kernel sends them back as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Find `name`; `.` and `..` are asked for by exporters. → `Entry`. Each counts for the inode's
    /// [forget](super::Filesystem::forget).
    Lookup {
        /// What to find.
        name: Bytes,
    },
    /// Attributes. → `Attr`
    Getattr {
        /// The open file through which it is asked, if any.
        handle: Option<u64>,
    },
    /// Change attributes. → `Attr`
    Setattr(SetAttr),
    /// Target of a symlink. → `Data`
    Readlink,
    /// Make a symlink. → `Entry`
    Symlink {
        /// Its name.
        name: Bytes,
        /// Where it points to, not empty.
        target: Bytes,
    },
    /// Make a file, pipe, socket or device. → `Entry`
    Mknod {
        /// Its name.
        name: Bytes,
        /// Type and permission bits, umask not applied.
        mode: u32,
        /// The caller's umask, to be applied unless a default ACL is.
        umask: u32,
        /// Device number (`makedev`), of a device.
        rdev: u64,
    },
    /// Make a directory. → `Entry`
    Mkdir {
        /// Its name.
        name: Bytes,
        /// Permission bits, umask not applied.
        mode: u32,
        /// The caller's umask, to be applied unless a default ACL is.
        umask: u32,
    },
    /// Remove a name that is no directory. → `Done`
    Unlink {
        /// The name.
        name: Bytes,
    },
    /// Remove an empty directory. → `Done`
    Rmdir {
        /// The name.
        name: Bytes,
    },
    /// Rename. → `Done`
    Rename {
        /// The old name.
        name: Bytes,
        /// The new directory.
        new_parent: u64,
        /// The new name.
        new_name: Bytes,
        /// `RENAME_NOREPLACE` (1), `RENAME_EXCHANGE` (2), `RENAME_WHITEOUT` (4).
        flags: u32,
    },
    /// Another name for inode `target`, in the request's directory. → `Entry`
    Link {
        /// What gets the name.
        target: u64,
        /// The name.
        name: Bytes,
    },
    /// Open a file. → `Open`
    Open {
        /// `open(2)` flags without those that concern the name (O_CREAT, O_EXCL); O_TRUNC means: truncate it now.
        flags: u32,
        /// Clear setuid and setgid while truncating: the caller has no right to keep them.
        kill_suid_sgid: bool,
    },
    /// Read. → `Data`, shorter only at the end of the file.
    Read {
        /// The open file.
        handle: u64,
        /// From where.
        offset: u64,
        /// How much; at most what was negotiated.
        len: u32,
        /// `open(2)` flags of the open file as they are now (O_DIRECT may change).
        flags: u32,
        /// Owner of the caller's locks, if sent.
        lock_owner: Option<u64>,
    },
    /// Write. → `Written`
    Write {
        /// The open file; of a write-back from the kernel's cache, any that is open for writing.
        handle: u64,
        /// Where.
        offset: u64,
        /// The bytes.
        data: Bytes,
        /// `open(2)` flags of the open file as they are now (O_APPEND, O_SYNC, O_DIRECT).
        flags: u32,
        /// It comes out of the kernel's cache (a shared mapping), not from a call: the caller is unknown.
        from_cache: bool,
        /// Clear setuid and setgid: the caller has no right to keep them.
        kill_suid_sgid: bool,
        /// Owner of the caller's locks, if sent.
        lock_owner: Option<u64>,
    },
    /// Space and inodes of the filesystem. → `Statfs`
    Statfs,
    /// The last reference to an open file is gone. → `Done`; nobody hears of an error.
    Release {
        /// The open file, invalid from now on.
        handle: u64,
        /// `open(2)` flags.
        flags: u32,
        /// Owner of `flock` locks that end with it, if there may be any.
        flock_owner: Option<u64>,
        /// The owner whose locks the last close gives back.
        lock_owner: u64,
    },
    /// Make durable. → `Done`
    Fsync {
        /// The open file.
        handle: u64,
        /// Contents are enough (`fdatasync`).
        data_only: bool,
    },
    /// Set an extended attribute. → `Done`
    SetXattr {
        /// Its name, with the namespace (`user.x`).
        name: Bytes,
        /// Its value.
        value: Bytes,
        /// What if it exists or does not.
        mode: XattrMode,
        /// The value is an access ACL and the caller has no right to keep setgid: clear it.
        acl_kill_sgid: bool,
    },
    /// Value of an extended attribute. → `Xattr`
    GetXattr {
        /// Its name.
        name: Bytes,
        /// Room of the caller; 0 asks for the size alone. The transport sees to ERANGE.
        room: u32,
    },
    /// Names of all extended attributes, each ended by NUL. → `Xattr`
    ListXattr {
        /// Room of the caller; 0 asks for the size alone. The transport sees to ERANGE.
        room: u32,
    },
    /// Remove an extended attribute. → `Done`
    RemoveXattr {
        /// Its name.
        name: Bytes,
    },
    /// A `close(2)` of one descriptor of the open file: report errors of earlier writes, give back the locks of
    /// `lock_owner`. → `Done`
    Flush {
        /// The open file.
        handle: u64,
        /// The owner whose `fcntl` locks end.
        lock_owner: u64,
    },
    /// Open a directory. → `Open`
    Opendir {
        /// `open(2)` flags.
        flags: u32,
    },
    /// A page of a directory. → `Directory`, empty at the end.
    Readdir {
        /// The open directory.
        handle: u64,
        /// Cookie of the last entry seen; 0 from the start.
        offset: u64,
        /// Room for the page: give it to [`super::DirPage::new`].
        room: u32,
        /// With attributes ([`super::DirPage::push_plus`]): every entry but `.` and `..` counts as a lookup.
        plus: bool,
    },
    /// The last reference to an open directory is gone. → `Done`
    Releasedir {
        /// The open directory, invalid from now on.
        handle: u64,
    },
    /// Make a directory durable. → `Done`
    Fsyncdir {
        /// The open directory.
        handle: u64,
        /// Entries are enough (`fdatasync`).
        data_only: bool,
    },
    /// Which lock is in the way? → `Lock`, with `Unlock` if none.
    Getlk(LockCall),
    /// Take or give back a lock. → `Done`, EAGAIN if another is in the way.
    Setlk(LockCall),
    /// Take a lock, waiting for it. → `Done`; EINTR once [interrupted](super::Interrupt::interrupted).
    SetlkWait(LockCall),
    /// May the caller do this (`access(2)`)? → `Done`
    Access {
        /// R_OK, W_OK, X_OK as bits; 0 for existence.
        mask: u32,
    },
    /// Make a file and open it, or open the one that is there. → `Create`
    Create {
        /// Its name.
        name: Bytes,
        /// Type and permission bits, umask not applied.
        mode: u32,
        /// The caller's umask, to be applied unless a default ACL is.
        umask: u32,
        /// `open(2)` flags; O_EXCL refuses one that is there.
        flags: u32,
        /// Clear setuid and setgid while truncating.
        kill_suid_sgid: bool,
    },
    /// Make a file without a name in the request's directory and open it (`O_TMPFILE`). → `Create`
    Tmpfile {
        /// Type and permission bits, umask not applied.
        mode: u32,
        /// The caller's umask, to be applied unless a default ACL is.
        umask: u32,
        /// `open(2)` flags.
        flags: u32,
    },
    /// `fallocate(2)`. → `Done`
    Fallocate {
        /// The open file.
        handle: u64,
        /// From where.
        offset: u64,
        /// How much; not 0.
        len: u64,
        /// `FALLOC_FL_*`.
        mode: u32,
    },
    /// Find data or a hole. → `Position`, ENXIO beyond the end.
    Lseek {
        /// The open file.
        handle: u64,
        /// From where.
        offset: u64,
        /// What to find.
        seek: Seek,
    },
    /// Copy within the mount; the request's inode is the source. → `Copied`
    CopyFileRange {
        /// The open source.
        handle: u64,
        /// From where.
        offset: u64,
        /// The inode to copy to.
        to_inode: u64,
        /// The open file to copy to.
        to_handle: u64,
        /// Where to.
        to_offset: u64,
        /// How much.
        len: u64,
    },
    /// `syncfs(2)`: make everything durable. → `Done`
    Syncfs,
    /// The mount is gone; nothing follows. → `Done`
    Destroy,
}
