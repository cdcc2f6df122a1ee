//! The first frame each way on every connection: who speaks, for which cluster, in which protocol versions.
//!
//! Sent by `net` on both sides; judged by [`Hello::check`], which is the same for both.
//! Holds: nothing but a hello is answered before the hellos agree. A hello is laid out by hand, not by the codec
//! of the messages, because it must be understood by every version there will ever be:
//!
//! ```text
//!   0      1      2       4       6       8          12       16        24       28      40        56      64   66
//!   | role | class| first | last  | flags | credits  | 0      | node id | 0      | 0     | cluster | 0     | len | name...
//!   | u8   | u8   | u16   | u16   | u16   | u32      | u32    | u64     | ...    |       | u128    |       | u16 | UTF-8
//! ```
//!
//! Bytes behind the name are ignored: a newer version may append.

use std::fmt;

use crate::types::{ClusterId, NodeId};

use super::RpcError;

/// The protocol version this build speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// Longest name in a hello, in bytes.
pub const HELLO_NAME_LEN_MAX: usize = 128;

/// What the speaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A client of the filesystem.
    Client,
    /// A metadata server.
    Meta,
    /// A data server.
    Data,
    /// A command of an operator.
    Tool,
}

impl Role {
    const fn code(self) -> u8 {
        match self {
            Self::Client => 1,
            Self::Meta => 2,
            Self::Data => 3,
            Self::Tool => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Client, Self::Meta, Self::Data, Self::Tool].into_iter().find(|role| role.code() == code)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Meta => "metadata server",
            Self::Data => "data server",
            Self::Tool => "tool",
        })
    }
}

/// What a connection carries. One connection for each, so that bulk cannot delay a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Raft: votes, appended entries, heartbeats.
    Consensus,
    /// Requests about the namespace and the cluster: small and many.
    Metadata,
    /// Blocks: few and large.
    Bulk,
}

impl Class {
    const fn code(self) -> u8 {
        match self {
            Self::Consensus => 1,
            Self::Metadata => 2,
            Self::Bulk => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Consensus, Self::Metadata, Self::Bulk].into_iter().find(|class| class.code() == code)
    }
}

/// Protocol versions a speaker understands, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VersionRange {
    /// Oldest.
    pub first: u16,
    /// Newest.
    pub last: u16,
}

impl VersionRange {
    /// What this build speaks.
    pub const OURS: Self = Self { first: PROTOCOL_VERSION, last: PROTOCOL_VERSION };

    /// The newest version both understand.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.last.min(other.last);
        (newest >= self.first.max(other.first)).then_some(newest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.last)
        } else {
            write!(f, "{} to {}", self.first, self.last)
        }
    }
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the speaker is.
    pub role: Role,
    /// Protocol versions it understands.
    pub versions: VersionRange,
    /// Its cluster; None while it knows none (a new client, a data server before it registered).
    pub cluster: Option<ClusterId>,
    /// Its node id, for servers that have one.
    pub node: Option<NodeId>,
    /// Name for people and logs, cut to [`HELLO_NAME_LEN_MAX`] bytes on the wire.
    pub name: String,
}

impl Hello {
    /// A hello of this build, of no cluster and no node yet.
    #[must_use]
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        Self { role, versions: VersionRange::OURS, cluster: None, node: None, name: name.into() }
    }
}
