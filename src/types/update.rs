//! What can be asked of the namespace to change, and the answer that is remembered.

use serde::{Deserialize, Serialize};

use super::{
    Attr, BlockId, CancelLock, CloneRange, ClusterMap, Extent, FsError, HeldLock, InodeId, Level, Link, Lock,
    MakeNode, MakeUnnamed, NodeId, OpenSession, Publish, RangeChange, RemoveXattr, Rename, RequestId,
    SessionId, SetAttrs, SetLabel, SetXattr, Unlink, Unlock,
};

/// A change that a client asks for. New variants go to the end: the position is the encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// create, mkdir, mknod, symlink
    Make(MakeNode),
    /// chmod, chown, utimens, truncate
    SetAttrs(SetAttrs),
    /// link
    Link(Link),
    /// unlink, rmdir
    Unlink(Unlink),
    /// rename, renameat2
    Rename(Rename),
    /// setxattr
    SetXattr(SetXattr),
    /// removexattr
    RemoveXattr(RemoveXattr),
    /// Commit written extents and size.
    Publish(Publish),
    /// fallocate
    Range(RangeChange),
    /// Begin a session: the only update sent outside one.
    OpenSession(OpenSession),
    /// End the session that sends it: handles are gone, remembered replies are forgotten.
    CloseSession,
    /// flock, fcntl: take a lock or wait for it.
    Lock(Lock),
    /// flock, fcntl: give up a lock.
    Unlock(Unlock),
    /// Wait for a lock no longer.
    CancelLock(CancelLock),
    /// open with O_TMPFILE
    MakeUnnamed(MakeUnnamed),
    /// FICLONERANGE, copy_file_range
    Clone(CloneRange),
    /// Call the cluster by a name.
    SetLabel(SetLabel),
}

impl Update {
    /// The level that a program must know to apply it. A new variant belongs to the newest one.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self {
            Self::Make(_)
            | Self::SetAttrs(_)
            | Self::Link(_)
            | Self::Unlink(_)
            | Self::Rename(_)
            | Self::SetXattr(_)
            | Self::RemoveXattr(_)
            | Self::Publish(_)
            | Self::Range(_)
            | Self::OpenSession(_)
            | Self::CloseSession
            | Self::Lock(_)
            | Self::Unlock(_)
            | Self::CancelLock(_)
            | Self::MakeUnnamed(_)
            | Self::Clone(_) => Level(1),
            Self::SetLabel(_) => Level(2),
        }
    }
}

/// Answer to an [`Update`] that took effect. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateReply {
    /// Nothing to tell.
    Done,
    /// Make, MakeUnnamed: the new (`created`) or existing inode.
    Made {
        /// Its attributes after the update.
        attr: Attr,
        /// False if it existed already.
        created: bool,
    },
    /// SetAttrs, Link, Publish, Range: attributes after the update.
    Attr(Attr),
    /// Unlink, Rename: what lost a dentry. Its `nlink` is 0 if it has become an orphan.
    Removed(Option<Attr>),
    /// OpenSession.
    Session {
        /// The new session.
        session: SessionId,
        /// The ttl granted, in milliseconds.
        ttl_ms: u32,
    },
    /// Lock: it is held. CancelLock: nobody waits under this request, so it was granted.
    Locked,
    /// Lock: others are in the way; ask with [`Query::LockWaits`].
    LockQueued {
        /// The number of the request that waits.
        request: RequestId,
    },
    /// Clone: how far it came.
    Cloned {
        /// Attributes of the changed file after the update.
        attr: Attr,
        /// Bytes done, from the start of the range on.
        len: u64,
        /// Bytes of the range that are left, for another update.
        rest: u64,
    },
}

/// What the cluster remembers per (session, request id).
pub type UpdateResult = Result<UpdateReply, FsError>;

/// A question to the namespace; changes nothing. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The inode behind a name: needs search permission on the parent. `..` and `.` are for the client.
    Lookup {
        /// Directory.
        parent: InodeId,
        /// Name within it.
        name: super::Name,
    },
    /// The inode at the end of a path below `start`, one search permission a step. Symlinks are not followed:
    /// the answer tells how far it came.
    Walk {
        /// Where the path begins.
        start: InodeId,
        /// Its names in order, at most [`Query::WALK_MAX`].
        names: Vec<super::Name>,
    },
    /// Attributes of an inode.
    GetAttr {
        /// Which.
        inode: InodeId,
    },
    /// May the caller do this (`access(2)`)? Answered with the attributes.
    Access {
        /// To which inode.
        inode: InodeId,
        /// What.
        access: super::Access,
    },
    /// Target of a symlink.
    ReadLink {
        /// Which.
        inode: InodeId,
    },
    /// A page of a directory, in cookie order.
    ReadDir {
        /// Which directory.
        inode: InodeId,
        /// Behind this cookie; 0 from the start.
        after: super::Cookie,
        /// At most this many entries (the server has its own bound as well).
        limit: u32,
        /// With attributes and servers of each entry; without, only names, inodes and kinds.
        with_attrs: bool,
    },
    /// Value of an extended attribute.
    GetXattr {
        /// Of which inode.
        inode: InodeId,
        /// Name with its prefix.
        name: bytes::Bytes,
    },
    /// Names of all extended attributes that the caller may see.
    ListXattr {
        /// Of which inode.
        inode: InodeId,
    },
    /// Extents of a file in order, those that touch a range.
    Extents {
        /// Which file.
        inode: InodeId,
        /// First byte.
        offset: u64,
        /// Bytes; `u64::MAX` to the end.
        len: u64,
        /// At most this many.
        limit: u32,
    },
    /// Totals of the filesystem.
    StatFs,
    /// The cluster map, if its epoch is above this one.
    Map {
        /// The epoch the caller has; 0: none.
        newer_than: super::Epoch,
    },
    /// The parent of a directory (for `..` and for paths of open directories).
    Parent {
        /// Which directory.
        inode: InodeId,
    },
    /// The first lock in the way of this one (`F_GETLK`).
    TestLock {
        /// Whose locks are not in the way, if the owner is the same.
        session: SessionId,
        /// The lock.
        lock: Lock,
    },
    /// Whether a request for a lock still waits. A server answers when it does not any more, or after a while.
    LockWaits {
        /// Of which file.
        inode: InodeId,
        /// Whose request.
        session: SessionId,
        /// Which.
        request: RequestId,
    },
    /// As [`Query::Walk`], answered with every inode on the way: for a mount, whose kernel asks for one name after the other.
    Steps {
        /// Where the path begins.
        start: InodeId,
        /// Its names in order, at most [`Query::WALK_MAX`].
        names: Vec<super::Name>,
    },
    /// As [`Query::ReadDir`] with attributes, with what a mount needs to know besides, and without servers.
    List {
        /// Which directory.
        inode: InodeId,
        /// Behind this cookie; 0 from the start.
        after: super::Cookie,
        /// At most this many entries (the server has its own bound as well).
        limit: u32,
    },
}

impl Query {
    /// Most names of one [`Query::Walk`] or [`Query::Steps`].
    pub const WALK_MAX: usize = 256;
    /// Most entries of one page of a directory.
    pub const READDIR_MAX: u32 = 4096;
    /// Most extents of one answer.
    pub const EXTENTS_MAX: u32 = 4096;
}

/// An inode as a lookup answers it: attributes, and data servers to read it from or write it to in parallel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Attributes.
    pub attr: Attr,
    /// Of a regular file: the members of the group of its first block, or, without blocks, of the group proposed for them.
    /// Their addresses are in the map of the `epoch` that comes with the answer.
    pub servers: Vec<NodeId>,
}

/// One dentry of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// Where a listing goes on behind this entry.
    pub cookie: super::Cookie,
    /// Name.
    pub name: super::Name,
    /// Inode.
    pub inode: InodeId,
    /// What it is.
    pub kind: super::FileKind,
    /// With `with_attrs`: the rest.
    pub found: Option<Found>,
}

/// An inode under a name, as a mount wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Attributes.
    pub attr: Attr,
    /// It has neither extended attributes nor an access list.
    pub bare: bool,
    /// Anyone may search the directory that has the name: the mode says so to all, and no access list says otherwise.
    pub open: bool,
}

/// One dentry of a page of [`Query::List`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Where a listing goes on behind this entry.
    pub cookie: super::Cookie,
    /// Name.
    pub name: super::Name,
    /// What it names.
    pub seen: Seen,
}

/// Totals of the filesystem (`statvfs(3)`), of groups that may take blocks, replicas divided out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsTotals {
    /// Bytes that files could use in all.
    pub total: u64,
    /// Bytes that are still free.
    pub free: u64,
    /// Bytes that extents cover.
    pub used: u64,
    /// Inodes there are.
    pub inode_count: u64,
}

impl Query {
    /// The inode it is about; none if it is about the whole cluster.
    #[must_use]
    pub const fn subject(&self) -> Option<InodeId> {
        match self {
            Self::Lookup { parent: inode, .. }
            | Self::Walk { start: inode, .. }
            | Self::Steps { start: inode, .. }
            | Self::List { inode, .. }
            | Self::GetAttr { inode }
            | Self::Access { inode, .. }
            | Self::ReadLink { inode }
            | Self::ReadDir { inode, .. }
            | Self::GetXattr { inode, .. }
            | Self::ListXattr { inode }
            | Self::Extents { inode, .. }
            | Self::Parent { inode }
            | Self::LockWaits { inode, .. } => Some(*inode),
            Self::TestLock { lock, .. } => Some(lock.inode),
            Self::StatFs | Self::Map { .. } => None,
        }
    }
}

/// Answer to a [`Query`]. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryReply {
    /// Lookup, GetAttr, Access, Parent.
    Found(Found),
    /// Walk: the last inode reached; `rest` names are left because it is a symlink.
    Walked {
        /// Where the walk ended.
        found: Found,
        /// How many names it did not consume (0: it came to the end).
        rest: u32,
        /// The directory in which the last consumed name stands (the start itself if none was consumed).
        parent: InodeId,
    },
    /// ReadLink.
    Target(bytes::Bytes),
    /// ReadDir.
    Page {
        /// Entries in cookie order.
        entries: Vec<DirEntry>,
        /// True if nothing follows.
        end: bool,
    },
    /// GetXattr.
    Xattr(bytes::Bytes),
    /// ListXattr.
    Xattrs(Vec<bytes::Bytes>),
    /// Extents, in order, trimmed to nothing: each is whole even where it reaches out of the range.
    Extents {
        /// Attributes of the file at the same moment.
        attr: Attr,
        /// Extents that touch the range.
        extents: Vec<Extent>,
        /// True if no more follow within the range.
        end: bool,
    },
    /// StatFs.
    Totals(FsTotals),
    /// Map: none if the caller's is the newest.
    Map(Option<Box<ClusterMap>>),
    /// TestLock.
    Conflict(Option<HeldLock>),
    /// LockWaits: false once it is granted or cancelled.
    Waits(bool),
    /// Steps: an inode for each name, up to the first that leads nowhere (of the first name that is the answer, as an error).
    Steps(Vec<Seen>),
    /// List.
    Listed {
        /// Entries in cookie order.
        entries: Vec<Listed>,
        /// True if nothing follows.
        end: bool,
    },
}

/// A block no extent refers to any more, waiting for its replicas to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreferenced {
    /// Which block.
    pub block: BlockId,
    /// The group whose members hold it.
    pub group: super::GroupId,
}
