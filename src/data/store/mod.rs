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
//! Files in reading order: `format` (bytes of a block's file), `disk` (what is asked of a disk), `directory` (one
//! directory: write, read, shared fsync), `identity` and `open` (whose directories they are), `index` (which blocks),
//! this file (open, put, delete, list), `read` (get, verify, mend), `memory_disk` (a disk for tests).
//! Not here: sockets, which blocks ought to be here, and when to scrub.

mod directory;
mod disk;
mod error;
mod format;
mod identity;
mod index;
mod memory_disk;
mod open;
mod read;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

pub use disk::{Disk, DiskEntry, DiskFile, DiskLock, DiskSpace, RealDisk};
pub use error::{CopyFault, StoreError};
pub use index::INDEX_BYTES_PER_BLOCK;
pub use memory_disk::{CrashKeeps, MemoryDisk};
pub use read::Verified;
pub use status::{DirectoryState, DirectoryUsage, StoreCounters};

use crate::types::{BLOCK_LEN_MAX, BlockId, Capacity, Checksum, ClusterId, NodeId};
use directory::{Directory, is_full};
use format::{HEAD_LEN, Head};
use identity::Record;
use index::{DirectorySet, Entry, Index};
use status::{Counters, count};

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
        let scans: Vec<io::Result<Vec<StoredBlock>>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                opened.directories.iter().map(|directory| scope.spawn(move || directory.scan())).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
        });
        let store = Self {
            config,
            disk,
            directories: opened.directories,
            records: Mutex::new(opened.records),
            node: opened.node,
            missing: opened.missing,
            index: Mutex::default(),
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

    /// The data server these directories belong to.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The cluster they belong to, once it is known.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.records.lock().iter().find_map(|record| record.cluster)
    }

    /// Learns the cluster at registration, durably and once.
    ///
    /// # Errors
    /// When the directories belong to another cluster, or no directory could be written.
    pub fn adopt(&self, cluster: ClusterId) -> Result<(), StoreError> {
        let mut records = self.records.lock();
        let mut written = Err(StoreError::NoDirectory);
        for (record, directory) in records.iter_mut().zip(&self.directories) {
            match record.cluster {
                Some(theirs) if theirs == cluster => written = Ok(()),
                Some(theirs) => {
                    return Err(StoreError::Directory {
                        dir: directory.path.clone(),
                        problem: format!(
                            "belongs to cluster {theirs}; the metadata servers are of cluster {cluster}: correct \
                             their addresses, or give this server empty directories"
                        ),
                    });
                }
                None => {
                    let adopted = Record { cluster: Some(cluster), ..record.clone() };
                    match identity::write(&*self.disk, &directory.path, &adopted) {
                        Ok(()) => {
                            *record = adopted;
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
            }
        }
        written
    }

    /// Stores a block, durably: in as many healthy directories as the mode asks, at least one.
    ///
    /// Sent again it is [`Put::AlreadyStored`], after a copy was read and found whole.
    ///
    /// # Errors
    /// See [`StoreError`]. After an error the block may nevertheless be stored; sending it again is harmless.
    pub fn put(&self, id: BlockId, checksum: Checksum, data: &Bytes) -> Result<Put, StoreError> {
        let bad_len = || StoreError::BadLen { block: id, len: data.len() };
        let len = u32::try_from(data.len()).map_err(|_| bad_len())?;
        if !(1..=BLOCK_LEN_MAX).contains(&len) {
            return Err(bad_len());
        }
        let (sectors, computed) = format::checksums(data);
        if computed != checksum {
            return Err(StoreError::BadChecksum { block: id, sent: checksum, computed });
        }
        let head = Head { block: StoredBlock { id, len, checksum }, sectors };

        let _guard = self.busy.enter(id);
        let known = self.index.lock().get(id);
        if let Some(entry) = known {
            if entry.block(id) != head.block {
                let (have_len, have) = (entry.len, entry.checksum);
                return Err(StoreError::Conflict { block: id, have_len, have, sent: checksum });
            }
            if self.has_whole_copy(id, entry) {
                count(&self.counters.put_again_count, 1);
                return Ok(Put::AlreadyStored);
            }
        } else if self.index.lock().len() >= self.config.block_count_max {
            return Err(StoreError::TooManyBlocks(self.config.block_count_max));
        }

        // Copies that are damaged beyond mending are replaced where they are, the rest goes by free space.
        let copies = self.write_copies(&head, data, usize::from(self.config.mode.copy_count()), 0)?;
        let stale = known.map_or(0, |entry| entry.copies & !copies);
        for (_, directory) in self.holders(stale) {
            if let Err(error) = directory.unlink(&head.block) {
                tracing::warn!(block = %id, dir = %directory.path.display(), reason = %error, "damaged copy stays");
            }
        }
        self.index.lock().set(id, Entry { len, checksum, copies, bad: 0 });
        count(&self.counters.put_count, 1);
        count(&self.counters.put_bytes, u64::from(len));
        Ok(Put::Stored)
    }

    /// Writes up to `wanted` copies into healthy directories outside `except`; says into which. Copies go to several
    /// directories at the same time; a directory that fails is replaced by another one.
    fn write_copies(
        &self,
        head: &Head,
        data: &[u8],
        wanted: usize,
        except: DirectorySet,
    ) -> Result<DirectorySet, StoreError> {
        let len = head.block.len;
        let mut failure = None;
        let mut candidates = self.candidates(len, except, &mut failure);
        candidates.reverse();
        let mut copies: DirectorySet = 0;
        while (copies.count_ones() as usize) < wanted && !candidates.is_empty() {
            let missing = wanted - copies.count_ones() as usize;
            let batch = candidates.split_off(candidates.len().saturating_sub(missing));
            let write = |index: usize| (index, self.directories[index].write(head, data));
            let results: Vec<(usize, io::Result<()>)> = match batch[..] {
                [only] => vec![write(only)],
                _ => std::thread::scope(|scope| {
                    let threads: Vec<_> =
                        batch.iter().map(|&index| scope.spawn(move || write(index))).collect();
                    threads
                        .into_iter()
                        .map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
                        .collect()
                }),
            };
            for (index, result) in results {
                match result {
                    Ok(()) => copies |= 1 << index,
                    Err(source) if is_full(&source) => failure = Some(StoreError::NoSpace { len }),
                    Err(source) => {
                        let path = self.directories[index].path.clone();
                        failure = Some(StoreError::Io { what: "store a block in", path, source });
                    }
                }
            }
        }
        if copies == 0 { Err(failure.unwrap_or(StoreError::NoDirectory)) } else { Ok(copies) }
    }

    /// Healthy directories with room for a block, best first: the one that was given least for the room it has, so
    /// that all fill in proportion and none takes every write only because it is a little emptier.
    fn candidates(&self, len: u32, except: DirectorySet, failure: &mut Option<StoreError>) -> Vec<usize> {
        let need = u64::from(len) + HEAD_LEN as u64;
        let mut ranked: Vec<(u128, usize)> = Vec::new();
        for (index, directory) in self.directories.iter().enumerate() {
            if except & 1 << index != 0 || !directory.takes_writes() {
                continue;
            }
            match directory.room() {
                Ok(room) if room >= need => {
                    let given = u128::from(directory.given_bytes() + need);
                    ranked.push(((given << 64) / u128::from(room), index));
                }
                Ok(_) => *failure = Some(StoreError::NoSpace { len }),
                Err(error) => directory.note_error("statvfs", &error),
            }
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, index)| index).collect()
    }

    /// The directories of a set that were opened, in order.
    fn holders(&self, copies: DirectorySet) -> impl Iterator<Item = (usize, &Directory)> {
        self.directories.iter().enumerate().filter(move |(index, _)| copies & 1 << index != 0)
    }

    /// Deletes a block; says whether it was here. A crash may bring it back: it is then listed again, and deleted
    /// again by who asked for it.
    ///
    /// # Errors
    /// When a directory refused; the block is served no more in any case.
    pub fn delete(&self, id: BlockId) -> Result<bool, StoreError> {
        let _guard = self.busy.enter(id);
        let Some(entry) = self.index.lock().remove(id) else { return Ok(false) };
        count(&self.counters.delete_count, 1);
        let mut result = Ok(true);
        for (_, directory) in self.holders(entry.copies) {
            if let Err(source) = directory.unlink(&entry.block(id)) {
                result =
                    Err(StoreError::Io { what: "delete a block in", path: directory.path.clone(), source });
            }
        }
        result
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
