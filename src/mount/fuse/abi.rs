//! The kernel's layouts: `fuse.h` of Linux, protocol 7.31 to 7.45, as far as they are used.
//!
//! Read by `parse`, `init` and the transports, written by `encode`. Numbers are in the machine's own order.
//! Holds: every structure has the size that the kernel has for it (checked when compiled).

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The protocol spoken here.
pub const MAJOR: u32 = 7;
/// The newest minor version known here: Linux 6.18.
pub const MINOR: u32 = 45;
/// The oldest that is served: Linux 5.4.
pub const MINOR_MIN: u32 = 31;

/// Defines structures that are bytes and nothing but bytes, and checks their size.
macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident = $size:literal { $($field:ident: $type:ty),* $(,)? })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[allow(missing_docs, reason = "fields are named as the manual of the kernel explains them")]
        pub struct $name { $(pub $field: $type),* }
        impl Default for $name {
            fn default() -> Self {
                FromZeros::new_zeroed()
            }
        }
        const _: () = assert!(size_of::<$name>() == $size);
    )* };
}

layouts! {
    /// Before every request.
    InHeader = 40 {
        len: u32, opcode: u32, unique: u64, inode: u64, uid: u32, gid: u32, pid: u32,
        extensions_len: u16, padding: u16,
    }
    /// Before every answer; `error` is 0 or a negative errno, or the code of a notification.
    OutHeader = 16 { len: u32, error: i32, unique: u64 }
    /// Attributes in answers.
    Attr = 88 {
        inode: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64,
        atime_nanos: u32, mtime_nanos: u32, ctime_nanos: u32, mode: u32, nlink: u32, uid: u32, gid: u32,
        rdev: u32, block_size: u32, flags: u32,
    }
    /// Answer of everything that finds or makes a name.
    EntryOut = 128 {
        inode: u64, generation: u64, entry_ttl: u64, attr_ttl: u64, entry_ttl_nanos: u32,
        attr_ttl_nanos: u32, attr: Attr,
    }
    /// Answer of getattr and setattr.
    AttrOut = 104 { ttl: u64, ttl_nanos: u32, padding: u32, attr: Attr }
    /// A moment in statx.
    StatxTime = 16 { secs: i64, nanos: u32, padding: u32 }
    /// What statx wants.
    StatxIn = 24 { flags: u32, reserved: u32, handle: u64, statx_flags: u32, mask: u32 }
    /// Attributes in the answer of statx.
    Statx = 256 {
        mask: u32, block_size: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare: u16,
        inode: u64, size: u64, blocks: u64, attributes_mask: u64, atime: StatxTime, btime: StatxTime,
        ctime: StatxTime, mtime: StatxTime, rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32,
        spare2: [u64; 14],
    }
    /// Answer of statx.
    StatxOut = 288 { ttl: u64, ttl_nanos: u32, flags: u32, spare: [u64; 2], stat: Statx }
    /// Answer of open; of create behind an [`EntryOut`].
    OpenOut = 16 { handle: u64, flags: u32, backing: i32 }
    /// Answer of write, and of the older copy_file_range.
    WriteOut = 8 { size: u32, padding: u32 }
    /// Answer of statfs.
    StatfsOut = 80 {
        blocks: u64, blocks_free: u64, blocks_available: u64, files: u64, files_free: u64,
        block_size: u32, name_len: u32, fragment_size: u32, padding: u32, spare: [u32; 6],
    }
    /// Answer of getxattr and listxattr that ask for a size.
    XattrOut = 8 { size: u32, padding: u32 }
    /// A lock, both ways.
    FileLock = 24 { start: u64, end: u64, kind: u32, pid: u32 }
    /// Answer of lseek, and of copy_file_range_64.
    PositionOut = 8 { position: u64 }
    /// Before the name in a page of a directory.
    Dirent = 24 { inode: u64, cookie: u64, name_len: u32, kind: u32 }

    /// forget
    ForgetIn = 8 { count: u64 }
    /// Before the items of batch_forget.
    BatchForgetIn = 8 { count: u32, padding: u32 }
    /// One of them.
    ForgetOne = 16 { inode: u64, count: u64 }
    /// getattr
    GetattrIn = 16 { flags: u32, padding: u32, handle: u64 }
    /// setattr
    SetattrIn = 88 {
        valid: u32, padding: u32, handle: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atime_nanos: u32, mtime_nanos: u32, ctime_nanos: u32, mode: u32, unused: u32, uid: u32, gid: u32,
        unused2: u32,
    }
    /// mknod
    MknodIn = 16 { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// mkdir
    MkdirIn = 8 { mode: u32, umask: u32 }
    /// rename
    RenameIn = 8 { new_parent: u64 }
    /// rename2
    Rename2In = 16 { new_parent: u64, flags: u32, padding: u32 }
    /// link
    LinkIn = 8 { target: u64 }
    /// open and opendir
    OpenIn = 8 { flags: u32, open_flags: u32 }
    /// create and tmpfile
    CreateIn = 16 { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    /// read, readdir and readdirplus
    ReadIn = 40 {
        handle: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    /// write
    WriteIn = 40 {
        handle: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    /// release and releasedir
    ReleaseIn = 24 { handle: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    /// flush
    FlushIn = 24 { handle: u64, unused: u32, padding: u32, lock_owner: u64 }
    /// fsync and fsyncdir
    FsyncIn = 16 { handle: u64, flags: u32, padding: u32 }
    /// setxattr, with the extension that INIT asks for
    SetxattrIn = 16 { size: u32, flags: u32, setxattr_flags: u32, padding: u32 }
    /// setxattr without it
    SetxattrShortIn = 8 { size: u32, flags: u32 }
    /// getxattr and listxattr
    GetxattrIn = 8 { size: u32, padding: u32 }
    /// getlk, setlk and setlkw
    LockIn = 48 { handle: u64, owner: u64, lock: FileLock, flags: u32, padding: u32 }
    /// access
    AccessIn = 8 { mask: u32, padding: u32 }
    /// interrupt
    InterruptIn = 8 { unique: u64 }
    /// fallocate
    FallocateIn = 32 { handle: u64, offset: u64, len: u64, mode: u32, padding: u32 }
    /// lseek
    LseekIn = 24 { handle: u64, offset: u64, whence: u32, padding: u32 }
    /// copy_file_range, both of them
    CopyIn = 56 {
        handle: u64, offset: u64, to_inode: u64, to_handle: u64, to_offset: u64, len: u64, flags: u64,
    }
    /// The first part of init, which every kernel sends.
    InitIn = 16 { major: u32, minor: u32, readahead: u32, flags: u32 }
    /// The second part, of newer kernels.
    InitMoreIn = 48 { flags2: u32, unused: [u32; 11] }
    /// Answer of init.
    InitOut = 64 {
        major: u32, minor: u32, readahead: u32, flags: u32, background: u16, congestion: u16, write: u32,
        time_gran: u32, pages: u16, map_alignment: u16, flags2: u32, stack_depth: u32, request_timeout: u16,
        unused: [u16; 11],
    }
    /// Before each extension of a request.
    ExtensionHeader = 8 { size: u32, kind: u32 }

    /// Notification: drop what is cached of a file.
    InvalInodeOut = 24 { inode: u64, offset: i64, len: i64 }
    /// Notification: drop a name.
    InvalEntryOut = 16 { parent: u64, name_len: u32, flags: u32 }
    /// Notification: a name is gone, and this is what it named.
    DeleteOut = 24 { parent: u64, child: u64, name_len: u32, padding: u32 }

    /// Before each entry of a ring: the header of request or answer, that of the operation, and the rest.
    RingHeader = 288 { in_out: [u8; 128], op: [u8; 128], entry: RingEntry }
    /// What the kernel says of the payload of a ring's entry, and is told.
    RingEntry = 32 { flags: u64, commit_id: u64, payload_len: u32, padding: u32, reserved: u64 }
    /// The command in a submission of a ring.
    RingCommand = 80 { flags: u64, commit_id: u64, queue: u16, padding: [u8; 6], rest: [u64; 7] }
}

/// Numbers of operations.
#[allow(missing_docs, reason = "named as in the manual of the kernel")]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const GETLK: u32 = 31;
    pub const SETLK: u32 = 32;
    pub const SETLKW: u32 = 33;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const STATX: u32 = 52;
    pub const COPY_FILE_RANGE_64: u32 = 53;
}

/// Capabilities, negotiated by INIT.
#[allow(missing_docs, reason = "named as in the manual of the kernel")]
pub mod cap {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const POSIX_LOCKS: u64 = 1 << 1;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const CREATE_SUPP_GROUP: u64 = 1 << 34;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const OVER_IO_URING: u64 = 1 << 41;
}

/// Bits of [`SetattrIn::valid`].
#[allow(missing_docs, reason = "named as in the manual of the kernel")]
pub mod set {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const HANDLE: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const LOCK_OWNER: u32 = 1 << 9;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUID_SGID: u32 = 1 << 11;
}

/// Flags in the answer of open.
#[allow(missing_docs, reason = "named as in the manual of the kernel")]
pub mod open {
    pub const DIRECT_IO: u32 = 1 << 0;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const NONSEEKABLE: u32 = 1 << 2;
    pub const CACHE_DIR: u32 = 1 << 3;
    pub const NO_FLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// Flags of requests, each beside the field that it stands in.
#[allow(missing_docs, reason = "named as in the manual of the kernel")]
pub mod flag {
    pub const GETATTR_HANDLE: u32 = 1 << 0;
    pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
    pub const READ_LOCK_OWNER: u32 = 1 << 1;
    pub const WRITE_CACHE: u32 = 1 << 0;
    pub const WRITE_LOCK_OWNER: u32 = 1 << 1;
    pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
    pub const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
    pub const FSYNC_DATA_ONLY: u32 = 1 << 0;
    pub const LOCK_FLOCK: u32 = 1 << 0;
    pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
    pub const EXTENSION_GROUPS: u32 = 32;
}

/// Codes of notifications.
#[allow(missing_docs, reason = "named as in the manual of the kernel")]
pub mod notify {
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    pub const DELETE: i32 = 6;
    /// Flag of `INVAL_ENTRY`.
    pub const EXPIRE_ONLY: u32 = 1;
}

/// Commands to a ring.
#[allow(missing_docs, reason = "named as in the manual of the kernel")]
pub mod ring {
    pub const REGISTER: u32 = 1;
    pub const COMMIT_AND_FETCH: u32 = 2;
}
