//! The first frame each way on every connection: who speaks, for which cluster, in which protocol versions.
//!
//! Sent by `net` on both sides; judged by the server with [`Hello::admit`].
//! Holds: nothing but a hello is answered before the hellos agree. A hello is laid out by hand, not by the codec
//! of the messages, because it must be understood by every version there will ever be:
//!
//! ```text
//!    0      1       2       4      6       8         12         14   16        24        40
//!    | role | class | first | last | flags | credits | name len | 0  | node id | cluster | name ...
//!    | u8   | u8    | u16   | u16  | u16   | u32     | u16      |    | u64     | u128    | UTF-8
//!
//!    behind the name:  | first level | last level | version len | version of the program ...
//!                      | u16         | u16        | u8          | UTF-8
//!
//!    flags: 1 a cluster is given, 2 a node id is given     first, last: protocol versions
//! ```
//!
//! Who says nothing behind the name is a program from before format levels. Bytes behind what is drawn here are ignored: a
//! newer version may append.

use std::fmt;

use bytes::Buf;

use crate::types::{ClusterId, Level, LevelRange, NodeId};

use super::{PROGRAM_VERSION_LEN_MAX, Program, RpcError};

/// The newest protocol version this build speaks.
pub const PROTOCOL_VERSION: u16 = 2;
/// The oldest: with a peer that agreed on it, nothing is sent that came later.
pub const PROTOCOL_VERSION_FIRST: u16 = 1;
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
    pub const OURS: Self = Self { first: PROTOCOL_VERSION_FIRST, last: PROTOCOL_VERSION };

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
    /// Which program it is.
    pub program: Program,
}

impl Hello {
    /// A hello of this build, of no cluster and no node yet.
    #[must_use]
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        let (versions, program) = (VersionRange::OURS, Program::this());
        Self { role, versions, cluster: None, node: None, name: name.into(), program }
    }

    /// Judges a caller: the protocol version both will speak.
    ///
    /// # Errors
    /// [`RpcError::WrongVersion`] and [`RpcError::WrongCluster`], which name both sides.
    pub fn admit(&self, caller: &Self) -> Result<u16, RpcError> {
        let wrong_version = RpcError::WrongVersion { caller: caller.versions, server: self.versions };
        let version = self.versions.common(caller.versions).ok_or(wrong_version)?;
        match (caller.cluster, self.cluster) {
            (Some(caller), Some(server)) if caller != server => {
                Err(RpcError::WrongCluster { caller, server })
            }
            _ => Ok(version),
        }
    }
}

/// A hello as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Who speaks.
    pub hello: Hello,
    /// What the connection carries.
    pub class: Class,
    /// From a server: requests the caller may have in flight. From a caller: how many it would like.
    pub credits: u32,
}

const FIXED_LEN: usize = 40;
const HAS_CLUSTER: u16 = 1;
const HAS_NODE: u16 = 2;

impl Greeting {
    /// Longest greeting, in bytes. A newer version may append, so a reader allows more than it writes.
    pub const LEN_MAX: u32 = 4096;

    /// Its bytes: the meta of a hello frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Hello { role, versions, cluster, node, name, program: Program { version, levels } } = &self.hello;
        let name = &name.as_bytes()[..name.floor_char_boundary(HELLO_NAME_LEN_MAX)];
        let name_len = u16::try_from(name.len()).unwrap_or_default();
        let flags =
            if cluster.is_some() { HAS_CLUSTER } else { 0 } | if node.is_some() { HAS_NODE } else { 0 };
        let mut out = vec![role.code(), self.class.code()];
        out.extend_from_slice(&versions.first.to_le_bytes());
        out.extend_from_slice(&versions.last.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.credits.to_le_bytes());
        out.extend_from_slice(&name_len.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&node.unwrap_or_default().0.to_le_bytes());
        out.extend_from_slice(&cluster.unwrap_or_default().0.to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(&levels.first.0.to_le_bytes());
        out.extend_from_slice(&levels.last.0.to_le_bytes());
        let version = &version.as_bytes()[..version.floor_char_boundary(PROGRAM_VERSION_LEN_MAX)];
        out.push(u8::try_from(version.len()).unwrap_or_default());
        out.extend_from_slice(version);
        out
    }

    /// The greeting in these bytes.
    ///
    /// # Errors
    /// A text that says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (mut fixed, rest) = bytes.split_at_checked(FIXED_LEN).ok_or("a hello of less than 40 bytes")?;
        let role = Role::from_code(fixed.get_u8()).ok_or("a hello of an unknown role")?;
        let class = Class::from_code(fixed.get_u8()).ok_or("a hello of an unknown class")?;
        let versions = VersionRange { first: fixed.get_u16_le(), last: fixed.get_u16_le() };
        let flags = fixed.get_u16_le();
        let credits = fixed.get_u32_le();
        let name_len = usize::from(fixed.get_u16_le());
        fixed.advance(2);
        let node = NodeId(fixed.get_u64_le());
        let cluster = ClusterId(fixed.get_u128_le());
        let name = rest.get(..name_len).ok_or("a hello that ends within its name")?;
        if name_len > HELLO_NAME_LEN_MAX {
            return Err("a hello whose name is longer than 128 bytes");
        }
        let name = std::str::from_utf8(name).map_err(|_| "a hello whose name is not UTF-8")?.to_owned();
        let program = program(&rest[name_len..])?;
        let cluster = (flags & HAS_CLUSTER != 0).then_some(cluster);
        let node = (flags & HAS_NODE != 0).then_some(node);
        Ok(Self { hello: Hello { role, versions, cluster, node, name, program }, class, credits })
    }
}

/// What stands behind the name.
fn program(mut bytes: &[u8]) -> Result<Program, &'static str> {
    const SHORT: &str = "a hello that ends within the version of its program";
    if bytes.is_empty() {
        return Ok(Program::default());
    }
    if bytes.len() < 5 {
        return Err(SHORT);
    }
    let levels = LevelRange { first: Level(bytes.get_u16_le()), last: Level(bytes.get_u16_le()) };
    let len = usize::from(bytes.get_u8());
    if len > PROGRAM_VERSION_LEN_MAX {
        return Err("a hello whose program has a version longer than 64 bytes");
    }
    let version = bytes.get(..len).ok_or(SHORT)?;
    let version = std::str::from_utf8(version).map_err(|_| "a hello whose program's version is not UTF-8")?;
    Ok(Program { version: version.to_owned(), levels })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Greeting {
        let hello = Hello {
            cluster: Some(ClusterId(0xabcd)),
            node: Some(NodeId(3)),
            program: Program {
                version: "1.2".into(),
                levels: LevelRange { first: Level(1), last: Level(3) },
            },
            ..Hello::new(Role::Data, "data-3")
        };
        Greeting { hello, class: Class::Bulk, credits: 64 }
    }

    #[test]
    fn the_bytes_of_a_hello_never_change() {
        let hex: String = sample().encode().iter().map(|b| format!("{b:02x}")).collect();
        let expected = concat!(
            "03",
            "03",
            "0100",
            "0200",
            "0300",
            "40000000",
            "0600",
            "0000",
            "0300000000000000",
            "cdab0000000000000000000000000000",
            "646174612d33",
            "01000300",
            "03",
            "312e32",
        );
        assert_eq!(hex, expected);
    }

    #[test]
    fn a_hello_comes_back_and_may_be_longer_in_a_newer_version() {
        let mut bytes = sample().encode();
        bytes.extend_from_slice(b"what a newer version appends");
        assert_eq!(Greeting::decode(&bytes), Ok(sample()));
        let nobody = Greeting { hello: Hello::new(Role::Client, ""), class: Class::Metadata, credits: 0 };
        assert_eq!(Greeting::decode(&nobody.encode()), Ok(nobody));
        let old = 40 + sample().hello.name.len();
        let told = Greeting::decode(&sample().encode()[..old]).unwrap();
        assert_eq!(told.hello.program, Program::default(), "it is from before levels");
        for cut in 1..=7 {
            assert!(Greeting::decode(&sample().encode()[..old + cut]).is_err(), "{cut} bytes of it");
        }
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let long = Greeting { hello: Hello::new(Role::Tool, "\u{e9}".repeat(100) + "x"), ..sample() };
        assert_eq!(Greeting::decode(&long.encode()).unwrap().hello.name, "\u{e9}".repeat(64));
    }

    #[test]
    fn only_the_same_cluster_and_a_common_version_are_admitted() {
        let server = sample().hello;
        let of = |cluster, first, last| Hello {
            cluster,
            versions: VersionRange { first, last },
            ..Hello::new(Role::Client, "c")
        };
        assert_eq!(server.admit(&of(server.cluster, 1, 1)), Ok(1), "the older of two is spoken");
        assert_eq!(server.admit(&of(server.cluster, 1, 2)), Ok(2));
        assert_eq!(server.admit(&of(None, 0, 7)), Ok(2));
        assert_eq!(Hello::new(Role::Meta, "new").admit(&of(Some(ClusterId(5)), 1, 1)), Ok(1));
        assert_eq!(
            server.admit(&of(Some(ClusterId(5)), 1, 1)),
            Err(RpcError::WrongCluster { caller: ClusterId(5), server: ClusterId(0xabcd) })
        );
        for (first, last) in [(0, 0), (3, 9), (1, 0)] {
            assert!(matches!(server.admit(&of(None, first, last)), Err(RpcError::WrongVersion { .. })));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_an_error(bytes: Vec<u8>, seed in 0usize..60) {
            let _ = Greeting::decode(&bytes);
            let mut near = sample().encode();
            if let (Some(byte), Some(&new)) = (near.get_mut(seed), bytes.first()) {
                *byte = new;
            }
            let _ = Greeting::decode(&near);
        }
    }
}
