//! What the block store tells about itself: to heartbeats, the status page and metrics.
//!
//! Plain values, taken at one moment. Holds: counters only grow, from 0 at open.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// What may be done with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum DirectoryState {
    /// Read and written.
    Healthy,
    /// The system lets nothing be written; still read from.
    ReadOnly,
    /// A write failed: nothing more is written there until the server is started again; still read from.
    Failed,
    /// Known to belong to this server, and not there.
    Missing,
}

/// One directory of a data server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DirectoryUsage {
    /// Where it is, or was last seen.
    pub path: String,
    /// What may be done with it.
    pub state: DirectoryState,
    /// Why it is not healthy.
    pub error: Option<String>,
    /// Bytes of its filesystem.
    pub total: u64,
    /// Bytes that blocks may still take: free space less the reserve.
    pub free: u64,
    /// Copies of blocks in it.
    pub block_count: u64,
    /// Bytes of these blocks, without the heads of their files.
    pub block_bytes: u64,
}

/// What was done since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreCounters {
    /// Blocks stored.
    pub put_count: u64,
    /// Their bytes.
    pub put_bytes: u64,
    /// Puts of blocks that were here already.
    pub put_again_count: u64,
    /// Reads answered.
    pub get_count: u64,
    /// Bytes in these answers.
    pub get_bytes: u64,
    /// Blocks deleted.
    pub delete_count: u64,
    /// Blocks verified as a whole.
    pub verify_count: u64,
    /// Damaged copies met.
    pub bad_copy_count: u64,
    /// Copies written anew from a good one.
    pub mended_count: u64,
    /// fsyncs of a directory; several puts share one.
    pub directory_sync_count: u64,
}

/// The counters while the store runs.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub put_count: AtomicU64,
    pub put_bytes: AtomicU64,
    pub put_again_count: AtomicU64,
    pub get_count: AtomicU64,
    pub get_bytes: AtomicU64,
    pub delete_count: AtomicU64,
    pub verify_count: AtomicU64,
    pub bad_copy_count: AtomicU64,
    pub mended_count: AtomicU64,
}

/// Adds to a counter: each is a number of its own, so no order among them is needed.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

impl Counters {
    /// The values now; `directory_sync_count` is counted by the directories.
    pub(super) fn read(&self, directory_sync_count: u64) -> StoreCounters {
        StoreCounters {
            put_count: self.put_count.load(Relaxed),
            put_bytes: self.put_bytes.load(Relaxed),
            put_again_count: self.put_again_count.load(Relaxed),
            get_count: self.get_count.load(Relaxed),
            get_bytes: self.get_bytes.load(Relaxed),
            delete_count: self.delete_count.load(Relaxed),
            verify_count: self.verify_count.load(Relaxed),
            bad_copy_count: self.bad_copy_count.load(Relaxed),
            mended_count: self.mended_count.load(Relaxed),
            directory_sync_count,
        }
    }
}
