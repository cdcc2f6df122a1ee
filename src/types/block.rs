//! Blocks: immutable bytes on data servers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GroupId, SessionId};

/// Longest block, in bytes: 4 MiB. Large enough that a disk streams, small enough that a repair is short.
pub const BLOCK_LEN_MAX: u32 = 4 << 20;
/// Bytes of a stored block under one checksum: 64 KiB. A small random read verifies this much.
pub const SECTOR_LEN: u32 = 64 << 10;

/// Identity of a block: drawn by its writer from the range of its session, so that uploading needs no metadata
/// round trip. Never reused, because session ids are not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockId {
    /// The session that wrote it.
    pub session: SessionId,
    /// Counts the blocks of that session.
    pub index: u64,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.session, self.index)
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for BlockId {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "a block id is written SESSION:INDEX, for instance 42:7";
        let (session, index) = s.split_once(':').ok_or(WANTED)?;
        let number = |s: &str| s.parse::<u64>().map_err(|_| WANTED);
        Ok(Self { session: SessionId(number(session)?), index: number(index)? })
    }
}

/// crc32c (Castagnoli, RFC 3720 appendix B.4) of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checksum(pub u32);

impl Checksum {
    /// The checksum of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32c::crc32c(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// All that is needed to read a block: who holds it and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    /// Which block.
    pub id: BlockId,
    /// The group whose members hold it.
    pub group: GroupId,
    /// Its length in bytes, 1 to [`BLOCK_LEN_MAX`].
    pub len: u32,
    /// Checksum of the whole block.
    pub checksum: Checksum,
}
