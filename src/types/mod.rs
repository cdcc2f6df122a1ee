//! The words of the project as types: ids, names, attributes, extents, the cluster map, errors.
//!
//! Every other folder uses these; this one uses none of them.
//! Holds: ids, indexes, counts and lengths that could be confused have types of their own.
//! Not here: behaviour. A type checks its own shape (a [`Name`] cannot hold `/`) and nothing more.

mod attr;
mod block;
mod cluster;
pub mod codec;
mod cred;
mod dump;
mod error;
mod extent;
mod ids;
mod level;
mod lock;
mod name;
mod params;
mod tally;
mod time;
mod update;

pub use attr::{Attr, FileKind, MODE_BITS, SetAttr, SetTime};
pub use block::{BLOCK_LEN_MAX, BlockId, BlockRef, Checksum, SECTOR_LEN};
pub use cluster::{
    Capacity, ClusterMap, DataNode, DomainLabel, Group, Layout, MetaNode, NodeAddress, NodeLoad, NodeState,
};
pub use cred::{Access, Cred};
pub use dump::{
    DUMP_BLOCK_LEN_MAX, DumpStamp, FLOOR_MAX, RestoreStep, first_inode, floor_at, pack_record, unpack_records,
};
pub use error::{FsError, FsResult, RetryClass};
pub use extent::{Extent, ExtentSource, INLINE_LEN_MAX};
pub use ids::{
    ClusterId, Cookie, Epoch, Fence, GroupId, InodeId, LogIndex, NodeId, ROOT_INODE, RequestId, SessionId,
    Version,
};
pub use level::{Level, LevelRange};
pub use lock::{CancelLock, HeldLock, Lock, LockKind, LockOwner, LockRange, Unlock};
pub use name::{NAME_LEN_MAX, Name, NameError, SYMLINK_LEN_MAX, XATTR_NAME_LEN_MAX, XATTR_VALUE_LEN_MAX};
pub use params::{
    CloneRange, FallocateMode, Link, MakeNode, MakeUnnamed, NodeReport, NodeSpec, OpenSession, Publish,
    RangeChange, RemoveXattr, Rename, RenameMode, SetAttrs, SetLabel, SetXattr, Unlink, XattrMode,
};
pub use tally::{StateHash, Tally};
pub use time::Timestamp;
pub use update::{
    DirEntry, Found, FsTotals, Listed, Query, QueryReply, Seen, Unreferenced, Update, UpdateReply,
    UpdateResult,
};
