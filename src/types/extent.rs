//! Extents: which bytes of a file are where.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::BlockRef;

/// Longest inline extent, in bytes: the commonest small write, one page. It keeps a view record near 4 KiB, far
/// below the size where the database would move the value to a file of its own.
pub const INLINE_LEN_MAX: usize = 4096;

/// A range of a file and where its bytes are. The extents of a file never overlap; what none covers is a hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte of the file that it covers.
    pub offset: u64,
    /// Bytes covered, at least 1.
    pub len: u64,
    /// Where they are.
    pub source: ExtentSource,
}

impl Extent {
    /// First byte of the file behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// Where the bytes of an extent are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExtentSource {
    /// In a block, from `block_offset` on.
    Block {
        /// The block.
        block: BlockRef,
        /// First byte of the block that is meant.
        block_offset: u32,
    },
    /// Here: as many bytes as the extent is long.
    Inline(Bytes),
    /// Reserved by fallocate and never written: reads as zeros, counts as used.
    Zero,
}
