//! Identities. Each is a number with a type of its own, so that an inode cannot stand where a block is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The id after this one. Ids are never reused, and 2^64 of them outlast the hardware.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

id! {
    /// Identity of a file, directory, symlink or special file. Never reused.
    ///
    /// The upper 16 bits name the raft group that owns the inode (0 today), so that one namespace can span
    /// groups one day without renumbering.
    InodeId(u64)
}
id! {
    /// A client's registered life with the cluster; owns handles, leases, request ids and block ids. Never reused.
    SessionId(u64)
}
id! {
    /// Number of a request within its session; sent again with the same number, a request takes effect once.
    RequestId(u64)
}
id! {
    /// Any server process known to the cluster, metadata or data. Never reused.
    NodeId(u64)
}
id! {
    /// Set of data servers that hold the blocks of that group.
    GroupId(u32)
}
id! {
    /// Number of the cluster map: grows by one with every change of it.
    Epoch(u64)
}
id! {
    /// Per-inode change counter.
    Version(u64)
}
id! {
    /// Position in the raft log.
    LogIndex(u64)
}
id! {
    /// Fencing token: a number carried by writes under an exclusive lease; an older one is refused.
    Fence(u64)
}
id! {
    /// Position of a dentry in the order of its directory, 63 bits, made from the name. 0 is "from the start";
    /// 1 and 2 are kept for `.` and `..`. A listing resumed at a cookie goes on behind it, whatever was
    /// inserted or removed meanwhile.
    Cookie(u64)
}

/// The root directory of every namespace.
pub const ROOT_INODE: InodeId = InodeId(1);

/// Identity of a cluster, drawn at random when it is first started, written into every directory of every node.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for ClusterId {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(s, 16).map(Self)
    }
}
