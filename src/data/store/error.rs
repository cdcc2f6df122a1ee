//! What the block store answers when it cannot do what was asked.
//!
//! Returned by every method of `BlockStore`. Holds: each error names the block or the directory it is about, and
//! says whether asking again may help ([`StoreError::retry`]). A failed `put` may still have left a whole copy
//! behind; sending it again is harmless, because ids are never reused and the same block is stored once.

use std::io;
use std::path::PathBuf;

use crate::types::{BLOCK_LEN_MAX, BlockId, Checksum, RetryClass};

/// Why one copy of a block is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFault {
    /// The file is gone, though its name was listed when the store was opened.
    Missing,
    /// The head of the file is damaged, or belongs to another block.
    Head,
    /// Bytes of a sector differ from their checksum.
    Checksum,
    /// The file ends too early.
    Short,
    /// The disk refused to read it.
    Io,
}

impl CopyFault {
    /// One word for logs and status: the value of `reason=`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Head => "head",
            Self::Checksum => "checksum",
            Self::Short => "short",
            Self::Io => "io",
        }
    }
}

impl std::fmt::Display for CopyFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The disk of a data server, or what was asked of it, is not as it should be. Codes are in band 4xxx.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such block here.
    #[error("block {0} is not stored here")]
    NotFound(BlockId),
    /// Every copy here is damaged: never answered with bytes.
    #[error(
        "block {block} is damaged in every directory of this data server ({fault}): read another replica"
    )]
    BlockCorrupt {
        /// Which block.
        block: BlockId,
        /// What is wrong with the copy that was tried last.
        fault: CopyFault,
    },
    /// The id is taken by other bytes. Ids are never reused, so one of the two writers is wrong.
    #[error(
        "block {block} is stored with len={have_len} checksum={have}; refused other bytes with checksum={sent}"
    )]
    Conflict {
        /// Which block.
        block: BlockId,
        /// Length of what is stored, in bytes.
        have_len: u32,
        /// Checksum of what is stored.
        have: Checksum,
        /// Checksum of what was sent.
        sent: Checksum,
    },
    /// The bytes are not those that the checksum was made of: damaged on the way.
    #[error("block {block} arrived damaged: checksum={computed}, announced {sent}; send it again")]
    BadChecksum {
        /// Which block.
        block: BlockId,
        /// What the sender announced.
        sent: Checksum,
        /// What arrived.
        computed: Checksum,
    },
    /// No block has this length.
    #[error("a block has 1 to {BLOCK_LEN_MAX} bytes, block {block} came with {len}")]
    BadLen {
        /// Which block.
        block: BlockId,
        /// The length, in bytes.
        len: usize,
    },
    /// The range is not within the block.
    #[error("bytes {start}..{end} are not within block {block} of {len} bytes")]
    BadRange {
        /// Which block.
        block: BlockId,
        /// First byte asked for.
        start: u32,
        /// The byte behind the last one asked for.
        end: u32,
        /// Length of the block, in bytes.
        len: u32,
    },
    /// No directory has room besides its reserve.
    #[error("no directory of this data server has room for {len} bytes besides its reserve")]
    NoSpace {
        /// The length that was wanted, in bytes.
        len: u32,
    },
    /// As many blocks as the configured bound of the index.
    #[error("this data server holds {0} blocks, its bound (block_count_max)")]
    TooManyBlocks(usize),
    /// No directory takes writes: each has failed, is read-only or missing.
    #[error("no directory of this data server takes writes; its status page says why")]
    NoDirectory,
    /// The disk failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory cannot be used as it is: the store does not start.
    #[error("data directory {}: {problem}", dir.display())]
    Directory {
        /// Which directory.
        dir: PathBuf,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// The configuration cannot be followed.
    #[error("data directories: {0}")]
    Config(String),
}

impl StoreError {
    /// Error code on the wire and in JSON: band 4xxx.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::NotFound(_) => 4001,
            Self::BlockCorrupt { .. } => 4002,
            Self::Conflict { .. } => 4003,
            Self::BadChecksum { .. } => 4004,
            Self::BadLen { .. } => 4005,
            Self::BadRange { .. } => 4006,
            Self::NoSpace { .. } => 4007,
            Self::TooManyBlocks(_) => 4008,
            Self::NoDirectory => 4009,
            Self::Io { .. } => 4010,
            Self::Directory { .. } => 4011,
            Self::Config(_) => 4012,
        }
    }

    /// May the caller try again, and where?
    #[must_use]
    pub const fn retry(&self) -> RetryClass {
        match self {
            Self::NotFound(_)
            | Self::BlockCorrupt { .. }
            | Self::NoSpace { .. }
            | Self::TooManyBlocks(_)
            | Self::NoDirectory
            | Self::Io { .. } => RetryClass::OtherNode,
            Self::BadChecksum { .. } => RetryClass::SameNode,
            Self::Conflict { .. }
            | Self::BadLen { .. }
            | Self::BadRange { .. }
            | Self::Directory { .. }
            | Self::Config(_) => RetryClass::Never,
        }
    }
}
