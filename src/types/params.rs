//! What an update asks for, field by field. The same struct is sent by a client (inside `wire::Update`) and
//! logged by the leader (inside `namespace::Op`), so that the one crossing between them cannot lose a field.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Capacity, DomainLabel, Extent, FileKind, InodeId, Name, NodeAddress, NodeId, NodeLoad, SetAttr, Timestamp,
};

/// Make a file, directory, symlink or special file and its first dentry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeNode {
    /// Directory that gets the dentry.
    pub parent: InodeId,
    /// Its name there.
    pub name: Name,
    /// What to make.
    pub kind: FileKind,
    /// Permission bits as the caller asks for them.
    pub mode: u32,
    /// Bits the caller's umask takes from `mode`.
    pub umask: u32,
    /// Device number, for devices.
    pub rdev: u64,
    /// Symlink: its target. File: its first bytes, at most [`super::INLINE_LEN_MAX`]. Else empty.
    pub content: Bytes,
    /// True: an existing dentry is an error (`O_EXCL`, mkdir, mknod, symlink). False: an existing regular file
    /// is answered as it is, and `content` is not written (open with `O_CREAT`).
    pub exclusive: bool,
}

/// Make a regular file without a dentry (`O_TMPFILE`): an orphan that the session which makes it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeUnnamed {
    /// Directory whose group and default access list it inherits, and whose permissions are asked.
    pub parent: InodeId,
    /// Permission bits as the caller asks for them.
    pub mode: u32,
    /// Bits the caller's umask takes from `mode`.
    pub umask: u32,
    /// A `Link` of the same session may give it a dentry (no `O_EXCL`).
    pub linkable: bool,
}

/// Change attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttrs {
    /// Of which inode.
    pub inode: InodeId,
    /// To what.
    pub set: SetAttr,
    /// The caller holds a handle opened for writing: a change of size needs no further permission
    /// (`ftruncate(2)`).
    pub by_handle: bool,
}

/// Give an inode one more dentry (`link(2)`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The inode; not a directory.
    pub inode: InodeId,
    /// Directory that gets the dentry.
    pub parent: InodeId,
    /// Its name there.
    pub name: Name,
}

/// Remove a dentry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlink {
    /// Directory that holds it.
    pub parent: InodeId,
    /// Its name there.
    pub name: Name,
    /// True for `rmdir(2)`, which takes empty directories only; false for `unlink(2)`, which takes none.
    pub dir: bool,
}

/// How a rename treats an existing target (`renameat2(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Refuse with EEXIST.
    NoReplace,
    /// Swap the two; both must exist.
    Exchange,
}

/// Move a dentry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// Directory it leaves.
    pub from_parent: InodeId,
    /// Its name there.
    pub from_name: Name,
    /// Directory it comes to.
    pub to_parent: InodeId,
    /// Its name there.
    pub to_name: Name,
    /// What becomes of an existing target.
    pub mode: RenameMode,
}

/// What `setxattr(2)` demands of an existing value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// Must not exist (`XATTR_CREATE`).
    Create,
    /// Must exist (`XATTR_REPLACE`).
    Replace,
}

/// Set an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetXattr {
    /// Of which inode.
    pub inode: InodeId,
    /// Name with its prefix (`user.`, `trusted.`, `security.`, `system.`), without a NUL.
    pub name: Bytes,
    /// Value.
    pub value: Bytes,
    /// What an existing value means.
    pub mode: XattrMode,
}

/// Remove an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveXattr {
    /// Of which inode.
    pub inode: InodeId,
    /// Name with its prefix.
    pub name: Bytes,
}

/// Commit extents and size so that other sessions see written bytes.
///
/// Every block named must be durable on its replicas already. The new extents trim and split older ones that
/// they overlap; of two that overlap in one publish, the later in the list wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The file.
    pub inode: InodeId,
    /// What was written. With `append`, offsets count from the size the file has when the command is applied.
    pub extents: Vec<Extent>,
    /// The file becomes at least this long (an extent that ends later makes it longer by itself). None: no more
    /// than the extents say.
    pub grow_to: Option<u64>,
    /// Extents go behind the end of the file (`O_APPEND`): writers never overwrite each other.
    pub append: bool,
    /// When the bytes were written, if the writer knows; else the time of the command.
    pub mtime: Option<Timestamp>,
}

/// What `fallocate(2)` does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FallocateMode {
    /// Reserve holes as zeros; the file grows to the end of the range.
    Allocate,
    /// Reserve holes as zeros; the size stays (`FALLOC_FL_KEEP_SIZE`).
    AllocateKeepSize,
    /// Make a hole; the size stays (`FALLOC_FL_PUNCH_HOLE`).
    Punch,
    /// Zeros; the file grows to the end of the range (`FALLOC_FL_ZERO_RANGE`).
    Zero,
    /// Zeros; the size stays.
    ZeroKeepSize,
    /// Cut the range out; what is behind it moves forward (`FALLOC_FL_COLLAPSE_RANGE`).
    Collapse,
    /// Insert a hole; what is behind its start moves back (`FALLOC_FL_INSERT_RANGE`).
    Insert,
}

/// Change a range of a file (`fallocate(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeChange {
    /// The file.
    pub inode: InodeId,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes in the range, at least 1.
    pub len: u64,
    /// What to do with it.
    pub mode: FallocateMode,
}

/// Let a range of a file have the contents of another range, without a copy (`FICLONERANGE`, `copy_file_range(2)`). The caller
/// holds a handle for reading the one and one for writing the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneRange {
    /// The file to take from.
    pub from: InodeId,
    /// First byte there.
    pub from_offset: u64,
    /// The file to change; the same if the ranges do not overlap.
    pub to: InodeId,
    /// First byte there.
    pub to_offset: u64,
    /// Bytes in the range, which ends within the file; 0: to the end of the file.
    pub len: u64,
}

impl CloneRange {
    /// Most extents that one command clones or replaces: keeps the time under apply below some milliseconds.
    pub const EXTENTS_MAX: usize = 1024;
}

/// Begin a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Life of the session without a keep-alive, in milliseconds; the namespace clamps it to its limits.
    pub ttl_ms: u32,
    /// Who it is, for people: program and host, at most 128 bytes.
    pub label: String,
}

/// Call the cluster by a name, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLabel {
    /// The name, at most [`SetLabel::LEN_MAX`] bytes without control characters; empty: none any more.
    pub label: String,
}

impl SetLabel {
    /// Longest label, in bytes: a word or two in front of every status page.
    pub const LEN_MAX: usize = 64;
}

/// A data server as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its id, written into its directories when it first started.
    pub node: NodeId,
    /// Name for people, unique in the cluster (`data-1`).
    pub name: String,
    /// Where it serves blocks.
    pub address: NodeAddress,
    /// Where it serves its status over HTTP.
    pub http: NodeAddress,
    /// Failure domain: two replicas of a block share none where the cluster has enough of them.
    pub domain: DomainLabel,
    /// Space now.
    pub capacity: Capacity,
}

/// What a data server's heartbeat says, as the leader commits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Which data server.
    pub node: NodeId,
    /// Space now.
    pub capacity: Capacity,
    /// Load now.
    pub load: NodeLoad,
}
