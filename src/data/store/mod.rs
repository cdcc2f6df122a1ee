//! The block store of a data server: immutable blocks in one or several directories.
//!
//! The data server calls it from threads that may block; a put or get takes as long as the disk. Everything is
//! synchronous, and any number of threads may call at once.
//!
//! Holds:
//! - A put that returned is durable: file fsynced, renamed to its name, folder fsynced (steps in `directory`).
//! - Bytes that are returned were verified against the checksum of each sector they come from.
//! - A block never changes; the same id with other bytes is refused.
//! - With `Mirror(n)` each block is kept in n directories; a bad copy is written anew from a good one.
//! - A directory whose writes fail takes no more; the others go on.
//!
//! Files in reading order: `format` (bytes of a block's file), `directory` (one directory: write, read, shared fsync),
//! `identity` and `open` (whose directories they are), `index` (which blocks), `lately` (which of them were read), this
//! file (open, adopt, list, usage), `put` (put, delete), `read` (get, verify, mend). What is asked of a disk:
//! `crate::runtime::disk`.
//! Not here: sockets, which blocks ought to be here, and when to scrub.

mod directory;
mod error;
mod format;
pub(crate) mod fuzz;
mod identity;
mod index;
mod lately;
mod open;
mod put;
mod read;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

pub use error::{CopyFault, StoreError};
pub use index::INDEX_BYTES_PER_BLOCK;
pub use read::Verified;
pub use status::{DirectoryState, DirectoryUsage, StoreCounters};

pub use crate::runtime::disk::{
    CrashKeeps, Disk, DiskEntry, DiskFile, DiskLock, DiskSpace, MemoryDisk, RealDisk, Way,
};
use crate::types::{BlockId, Capacity, Checksum, ClusterId, NodeId};
use directory::Directory;
use identity::Record;
use index::{DirectorySet, Entry, Index};
use lately::Lately;
use status::Counters;

/// How blocks are shared out among the directories of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spread {
    /// Each block in one directory, in proportion to free space.
    #[default]
    Spread,
    /// Each block in this many directories, at least 1. Slow ones (remote mounts) belong at the end of the list:
    /// reads take the first that has the block.
    Mirror(u8),
}

impl Spread {
    /// Copies of each block.
    #[must_use]
    pub const fn copy_count(self) -> u8 {
        match self {
            Self::Spread => 1,
            Self::Mirror(count) => count,
        }
    }
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Its directories, 1 to 16.
    pub directories: Vec<PathBuf>,
    /// How blocks are shared out among them.
    pub mode: Spread,
    /// Bytes that stay free on each filesystem, so that its other users and our own renames never meet a full disk.
    pub reserve_bytes: u64,
    /// Makes data directories of paths that do not exist or are empty. Without it they are refused: an empty
    /// directory is often the mount point of a disk that is not mounted.
    pub create: bool,
    /// Gives up members of the set that are not there: they are lost for ever.
    pub forget_missing: bool,
    /// Most blocks; bounds the index at [`INDEX_BYTES_PER_BLOCK`] times this.
    pub block_count_max: usize,
}

impl StoreConfig {
    /// The defaults for `directories`: spread, 1 GiB of reserve, 16 Mi blocks (1 GiB of index, up to 64 TiB).
    #[must_use]
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            mode: Spread::Spread,
            reserve_bytes: 1 << 30,
            create: false,
            forget_missing: false,
            block_count_max: 16 << 20,
        }
    }
}

/// Who opens the store.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The cluster, if known; directories of another are refused.
    pub cluster: Option<ClusterId>,
    /// The node id, if configured; `None` takes what the directories say, or draws one for a new set.
    pub node: Option<NodeId>,
    /// 128 random bits: ids of new directories and of a new node are made from them.
    pub random: u128,
}

/// A block as the store knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoredBlock {
    /// Which block.
    pub id: BlockId,
    /// Its length, in bytes.
    pub len: u32,
    /// Checksum of the whole block.
    pub checksum: Checksum,
}

/// What a put found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The block is durable now.
    Stored,
    /// It was durable already: a resend.
    AlreadyStored,
}

/// What `work` gives for each of `items`, all at the same time where the disk has threads.
fn each_at_once<T: Sync, R: Send>(disk: &dyn Disk, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() < 2 || !disk.has_threads() {
        return items.iter().map(work).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    })
}

/// The block store. See the head of the module.
#[derive(Debug)]
pub struct BlockStore {
    config: StoreConfig,
    disk: Arc<dyn Disk>,
    directories: Vec<Directory>,
    /// Identities as they are on disk, in the order of `directories`.
    records: Mutex<Vec<Record>>,
    node: NodeId,
    missing: Vec<(String, String)>,
    index: Mutex<Index>,
    lately: Mutex<Lately>,
    busy: Busy,
    counters: Counters,
}

/// Blocks that a put, delete or mend is working on: one at a time for each block.
#[derive(Debug, Default)]
struct Busy {
    blocks: Mutex<HashSet<BlockId>>,
    changed: Condvar,
}

struct BusyGuard<'a>(&'a Busy, BlockId);

impl Busy {
    fn enter(&self, id: BlockId) -> BusyGuard<'_> {
        let mut blocks = self.blocks.lock();
        while !blocks.insert(id) {
            self.changed.wait(&mut blocks);
        }
        BusyGuard(self, id)
    }
}

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.blocks.lock().remove(&self.1);
        self.0.changed.notify_all();
    }
}

impl BlockStore {
    /// Opens the store on the disks of this machine. Reads the names in its directories, not the blocks.
    ///
    /// # Errors
    /// [`StoreError::Directory`] names the directory that cannot be used, and the way out;
    /// [`StoreError::Config`] what of the configuration makes no sense; else the disk failed.
    pub fn open(config: StoreConfig, identity: Identity) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(RealDisk), config, identity)
    }

    /// Opens the store on `disk`.
    ///
    /// # Errors
    /// As [`BlockStore::open`].
    pub fn open_on(disk: Arc<dyn Disk>, config: StoreConfig, identity: Identity) -> Result<Self, StoreError> {
        let opened = open::open(&disk, &config, &identity)?;
        let scans = each_at_once(&*disk, &opened.directories, Directory::scan);
        let store = Self {
            config,
            disk,
            directories: opened.directories,
            records: Mutex::new(opened.records),
            node: opened.node,
            missing: opened.missing,
            index: Mutex::default(),
            lately: Mutex::default(),
            busy: Busy::default(),
            counters: Counters::default(),
        };
        for (index, scan) in scans.into_iter().enumerate() {
            match scan {
                Ok(blocks) => store.add_scanned(index, blocks)?,
                // What was listed before the error is not used: without its fsync it is not known to be durable.
                Err(error) => store.directories[index].condemn("scan", &error),
            }
        }
        if !store.directories.iter().any(Directory::takes_writes) {
            return Err(StoreError::NoDirectory);
        }
        Ok(store)
    }

    fn add_scanned(&self, directory_index: usize, blocks: Vec<StoredBlock>) -> Result<(), StoreError> {
        let bit: DirectorySet = 1 << directory_index;
        let mut index = self.index.lock();
        for block in blocks {
            let mut entry = Entry { len: block.len, checksum: block.checksum, copies: bit, bad: 0 };
            if let Some(known) = index.get(block.id) {
                let same = known.block(block.id) == block;
                let known_is_whole =
                    || self.holders(known.copies).any(|(_, d)| d.head_is_whole(&known.block(block.id)));
                if same {
                    entry.copies |= known.copies;
                } else {
                    // Two files claim one id. The one whose head agrees with its name is the block.
                    tracing::error!(block = %block.id, dir = %self.directories[directory_index].path.display(),
                        "two files with different lengths or checksums carry the same block id");
                    if known_is_whole() || !self.directories[directory_index].head_is_whole(&block) {
                        continue;
                    }
                }
            } else if index.len() >= self.config.block_count_max {
                return Err(StoreError::TooManyBlocks(self.config.block_count_max));
            }
            index.set(block.id, entry);
        }
        Ok(())
    }

    /// How long to wait before the next call, where the disk says how long it is to take; see [`Disk::latency`].
    #[must_use]
    pub fn latency(&self) -> std::time::Duration {
        self.disk.latency()
    }

    /// The data server these directories belong to.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The cluster they belong to, once it is known.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        let records = self.records.lock();
        // One that could not be written when the server moved is behind the others.
        let moved = records.iter().filter(|record| !record.formerly.is_empty());
        let furthest = moved.max_by_key(|record| record.formerly.len()).and_then(|record| record.cluster);
        furthest.or_else(|| records.iter().find_map(|record| record.cluster))
    }

    /// Clusters that they belonged to before, the newest first.
    #[must_use]
    pub fn formerly(&self) -> Vec<ClusterId> {
        let records = self.records.lock();
        let furthest = records.iter().max_by_key(|record| record.formerly.len());
        furthest.map_or_else(Vec::new, |record| record.formerly.iter().rev().copied().collect())
    }

    /// Learns the cluster at registration, durably and once.
    ///
    /// # Errors
    /// When the directories belong to another cluster, or no directory could be written.
    pub fn adopt(&self, cluster: ClusterId) -> Result<(), StoreError> {
        self.change_records(|record, directory| match record.cluster {
            Some(theirs) if theirs == cluster => Ok(None),
            Some(theirs) => Err(StoreError::Directory {
                dir: directory.path.clone(),
                problem: format!(
                    "belongs to cluster {theirs}; the metadata servers are of cluster {cluster}: correct \
                     their addresses, or give this server empty directories"
                ),
            }),
            None => Ok(Some(Record { cluster: Some(cluster), ..record.clone() })),
        })
    }

    /// Moves from the cluster of its directories, whose state was restored into `cluster`, durably. Stopped half way it is ended by the
    /// next open, or by doing it again.
    ///
    /// # Errors
    /// They were of that cluster before, or no directory could be written.
    pub fn move_to(&self, cluster: ClusterId) -> Result<(), StoreError> {
        self.change_records(|record, directory| {
            if record.formerly.contains(&cluster) {
                return Err(StoreError::Directory {
                    dir: directory.path.clone(),
                    problem: format!(
                        "has left cluster {cluster}, and there is no way back: correct the addresses"
                    ),
                });
            }
            Ok((record.cluster != Some(cluster)).then(|| record.moved(cluster)))
        })
    }

    /// Writes the identities that `change` gives. One directory that takes it is enough: the others have failed, and say so.
    fn change_records(
        &self,
        change: impl Fn(&Record, &Directory) -> Result<Option<Record>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut records = self.records.lock();
        let mut written = Err(StoreError::NoDirectory);
        for (record, directory) in records.iter_mut().zip(&self.directories) {
            let Some(changed) = change(record, directory)? else {
                written = Ok(());
                continue;
            };
            match identity::write(&*self.disk, &directory.path, &changed) {
                Ok(()) => {
                    *record = changed;
                    written = Ok(());
                }
                Err(error) => {
                    if let StoreError::Io { what, source, .. } = &error {
                        directory.note_error(what, source);
                    }
                    written = written.or(Err(error));
                }
            }
        }
        written
    }

    /// The directories of a set that were opened, in order.
    fn holders(&self, copies: DirectorySet) -> impl Iterator<Item = (usize, &Directory)> {
        self.directories.iter().enumerate().filter(move |(index, _)| copies & 1 << index != 0)
    }

    /// Up to `limit` blocks behind `after`, in the order of ids.
    #[must_use]
    pub fn list(&self, after: Option<BlockId>, limit: usize) -> Vec<StoredBlock> {
        self.index.lock().list(after, limit)
    }

    /// What is known about a block, without reading it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn stat(&self, id: BlockId) -> Result<StoredBlock, StoreError> {
        self.index.lock().get(id).map(|entry| entry.block(id)).ok_or(StoreError::NotFound(id))
    }

    /// Blocks stored, each counted once.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.index.lock().len() as u64
    }

    /// Up to `limit` blocks of which every copy here was found damaged: to be fetched from another data server.
    #[must_use]
    pub fn corrupt(&self, limit: usize) -> Vec<BlockId> {
        self.index.lock().corrupt(limit)
    }

    /// Space over all directories: each filesystem once, mirrors divided out. Directories that take no writes count
    /// as full.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let mut devices: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for directory in &self.directories {
            let Ok(space) = directory.space() else { continue };
            let total = space.total.saturating_sub(self.config.reserve_bytes);
            let free = if directory.takes_writes() {
                space.free.saturating_sub(self.config.reserve_bytes)
            } else {
                0
            };
            let device = devices.entry(space.device).or_default();
            *device = (device.0.max(total), device.1.max(free));
        }
        let copies = u64::from(self.config.mode.copy_count());
        let (total, free) = devices.values().fold((0, 0), |(t, f), &(total, free)| (t + total, f + free));
        Capacity { total: total / copies, free: free / copies, block_count: self.index.lock().len() as u64 }
    }

    /// Each directory and how it is, those that are missing last.
    #[must_use]
    pub fn usage(&self) -> Vec<DirectoryUsage> {
        let mut all = Vec::new();
        for (index, directory) in self.directories.iter().enumerate() {
            let (state, error) = directory.state();
            let (block_count, block_bytes) = self.index.lock().usage(index);
            let (total, free) = directory.space().map_or((0, 0), |space| (space.total, space.free));
            let free = free.saturating_sub(self.config.reserve_bytes);
            let path = directory.path.display().to_string();
            all.push(DirectoryUsage { path, state, error, total, free, block_count, block_bytes });
        }
        all.extend(self.missing.iter().map(|(path, reason)| DirectoryUsage {
            path: path.clone(),
            state: DirectoryState::Missing,
            error: Some(reason.clone()),
            total: 0,
            free: 0,
            block_count: 0,
            block_bytes: 0,
        }));
        all
    }

    /// What was done since the store was opened.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        self.counters.read(self.directories.iter().map(Directory::sync_count).sum())
    }
}
