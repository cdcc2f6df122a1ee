//! Parts of blocks that were read, for who reads them again: all files of a client together.
//!
//! `reader` asks it for small reads. Holds: bounded in bytes; never stale, because a block never changes and which blocks a
//! file has is asked anew. Not here: what is read ahead of a sequential reader, which is read once (`reader`).

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::types::{BlockId, SECTOR_LEN};

/// Which block, and which sector of it.
type Key = (BlockId, u32);

#[derive(Clone, Debug)]
struct ByLength;

impl Weighter<Key, Bytes> for ByLength {
    fn weight(&self, _: &Key, bytes: &Bytes) -> u64 {
        bytes.len() as u64
    }
}

/// Sectors by block and index.
pub(super) struct SectorCache {
    kept: Cache<Key, Bytes, ByLength>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl SectorCache {
    /// Keeps at most `len_max` bytes.
    pub(super) fn new(len_max: usize) -> Self {
        let items = (len_max / SECTOR_LEN as usize).max(16);
        let kept = Cache::with_weighter(items, len_max as u64, ByLength);
        Self { kept, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The sector, if it is here.
    pub(super) fn get(&self, block: BlockId, index: u32) -> Option<Bytes> {
        let found = self.kept.get(&(block, index));
        if found.is_some() { &self.hits } else { &self.misses }.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a sector. It should not be a part of something longer, which would stay with it.
    pub(super) fn put(&self, block: BlockId, index: u32, bytes: Bytes) {
        self.kept.insert((block, index), bytes);
    }

    /// Bytes kept, reads served, reads not served.
    pub(super) fn usage(&self) -> (u64, u64, u64) {
        (self.kept.weight(), self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}
