//! One directory of a block store: writing, reading and unlinking the files of blocks.
//!
//! `BlockStore` decides which directories a block belongs to and calls this. Writing takes five steps; a crash
//! between any two leaves what the right column says:
//!
//! ```text
//! create NAME.tmp        nothing, or a leftover that the next open removes
//! write head and data    the same
//! fdatasync              the same; from here on the contents are durable
//! rename to NAME         nothing, the leftover, or the whole block: never part of it
//! fsync the folder       the whole block; only now is the put answered
//! ```
//!
//! Holds: a file with the name of a block was whole and durable when it got that name. Writers that wait for the
//! fsync of the same folder share one: who comes while it runs waits for the next. Unlinking is not synced: a block
//! that a crash brings back is unreferenced still, and is deleted again.
//! Not here: which blocks there are (`index`), and what becomes of a put when this directory fails.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, FairMutex, Mutex};
use rustix::io::Errno;

use super::StoredBlock;
use super::error::CopyFault;
use super::format::{
    BLOCKS, FANOUT_COUNT, HEAD_LEN, Head, PAGE_LEN, TEMP_SUFFIX, block_name, fanout, fanout_name, padding,
    parse_name, whole_checksum,
};
use super::status::{DirectoryState, count};
use crate::runtime::disk::{Disk, DiskFile, DiskLock, DiskSpace, Way};
use crate::runtime::{BUFFER_KEPT_MIN, Buffer};
use crate::types::SECTOR_LEN;

/// The step that makes a name durable.
const SYNC_FOLDER: &str = "fsync of the folder";
/// How long a reader of a whole block waits for those before it. Blocks that are read side by side are all there at the same time,
/// and are then all checked and sent while the disk has nothing to do; one after the other, the first is sent while the next
/// is read. A disk that takes longer for a block is the slower part, or is better asked for several at a time.
const TURN_PATIENCE: Duration = Duration::from_millis(10);

/// One directory that is in use.
#[derive(Debug)]
pub(super) struct Directory {
    pub path: PathBuf,
    disk: Arc<dyn Disk>,
    reserve_bytes: u64,
    state: Mutex<(DirectoryState, Option<String>)>,
    folders: Vec<Folder>,
    sync_count: AtomicU64,
    /// Bytes of puts that were given this directory and are not finished: they count against its free space.
    pending_bytes: AtomicU64,
    /// Bytes that were ever given to it, to share new blocks out in proportion to free space.
    given_bytes: AtomicU64,
    /// Whose turn it is to read a large part past the page cache.
    pub(super) turn: FairMutex<()>,
    _lock: Box<dyn DiskLock>,
}

/// The fsync that the writers of one folder share.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    state: Mutex<FolderState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct FolderState {
    /// Renames done in this folder.
    renamed: u64,
    /// As many of them are durable.
    synced: u64,
    running: bool,
    /// An fsync failed. What it covered is unknown for ever, so no later one makes up for it.
    failed: Option<i32>,
}

impl Folder {
    /// Makes a rename that was just done durable, together with those of other writers.
    fn sync(&self, disk: &dyn Disk, sync_count: &AtomicU64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.renamed += 1;
        let mine = state.renamed;
        loop {
            if let Some(errno) = state.failed {
                return Err(io::Error::from_raw_os_error(errno));
            }
            if state.synced >= mine {
                return Ok(());
            }
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state.running = true;
            let covered = state.renamed;
            drop(state);
            count(sync_count, 1);
            let result = disk.sync_dir(&self.path);
            state = self.state.lock();
            state.running = false;
            match result {
                Ok(()) => state.synced = covered,
                Err(e) => state.failed = Some(e.raw_os_error().unwrap_or(Errno::IO.raw_os_error())),
            }
            self.changed.notify_all();
        }
    }
}

/// Up to `len` bytes of a file, many of them in memory that is used again.
fn read_bytes(file: &dyn DiskFile, offset: u64, len: usize, way: Way) -> io::Result<Bytes> {
    if len < BUFFER_KEPT_MIN {
        return Ok(file.read_at(offset, len)?.into());
    }
    // Whole pages, as the direct way wants them; what is padding at the end of the file is cut off.
    let mut room = Buffer::new(len.next_multiple_of(PAGE_LEN), 0, 0);
    let read = file.read_into(&mut room, offset, way)?;
    Ok(room.freeze(read.min(len)))
}

/// True if the disk is full, which is no fault of it.
pub(super) fn is_full(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

/// True if this process ran out of something, which says nothing about the disk.
fn is_ours(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN]
        .iter()
        .any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

impl Directory {
    /// A directory whose identity is known to be ours and whose lock is held.
    pub(super) fn new(
        path: PathBuf,
        disk: Arc<dyn Disk>,
        reserve_bytes: u64,
        lock: Box<dyn DiskLock>,
    ) -> Self {
        let folder = |index| Folder {
            path: path.join(BLOCKS).join(fanout_name(index)),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            folders: (0..FANOUT_COUNT).map(folder).collect(),
            path,
            disk,
            reserve_bytes,
            state: Mutex::new((DirectoryState::Healthy, None)),
            sync_count: AtomicU64::new(0),
            pending_bytes: AtomicU64::new(0),
            given_bytes: AtomicU64::new(0),
            turn: FairMutex::new(()),
            _lock: lock,
        }
    }

    pub(super) fn state(&self) -> (DirectoryState, Option<String>) {
        self.state.lock().clone()
    }

    pub(super) fn takes_writes(&self) -> bool {
        self.state.lock().0 == DirectoryState::Healthy
    }

    pub(super) fn sync_count(&self) -> u64 {
        self.sync_count.load(Relaxed)
    }

    pub(super) fn space(&self) -> io::Result<DiskSpace> {
        self.disk.space(&self.path)
    }

    /// Bytes that new blocks may take: free space less the reserve and what is being written.
    pub(super) fn room(&self) -> io::Result<u64> {
        let taken = self.reserve_bytes.saturating_add(self.pending_bytes.load(Relaxed));
        Ok(self.space()?.free.saturating_sub(taken))
    }

    /// Bytes ever given to it.
    pub(super) fn given_bytes(&self) -> u64 {
        self.given_bytes.load(Relaxed)
    }

    /// Notes what a failed write says about the directory: a full disk or a process out of handles say nothing.
    pub(super) fn note_error(&self, what: &str, error: &io::Error) {
        if !is_full(error) && !is_ours(error) {
            self.condemn(what, error);
        }
    }

    /// Writes nothing more here, whatever the error: what the directory holds is not known any more.
    pub(super) fn condemn(&self, what: &str, error: &io::Error) {
        let read_only = error.raw_os_error() == Some(Errno::ROFS.raw_os_error());
        let now = if read_only { DirectoryState::ReadOnly } else { DirectoryState::Failed };
        let mut state = self.state.lock();
        if state.0 != DirectoryState::Healthy {
            return;
        }
        *state = (now, Some(format!("{what}: {error}")));
        drop(state);
        tracing::error!(dir = %self.path.display(), state = ?now, step = what, reason = %error,
            "data directory takes no more writes; replace the disk or mount it again, then restart this server");
    }

    /// Stores a block, durably, replacing a copy of the same block. Nothing is left behind by a failure.
    pub(super) fn write(&self, head: &Head, data: &[u8]) -> io::Result<()> {
        let need = (HEAD_LEN + data.len()) as u64;
        self.pending_bytes.fetch_add(need, Relaxed);
        self.given_bytes.fetch_add(need, Relaxed);
        let result = self.write_steps(head, data);
        self.pending_bytes.fetch_sub(need, Relaxed);
        result.map_err(|(what, error)| {
            // Which names survive a failed fsync of a folder is unknown.
            if what == SYNC_FOLDER {
                self.condemn(what, &error)
            } else {
                self.note_error(what, &error)
            }
            error
        })
    }

    fn write_steps(&self, head: &Head, data: &[u8]) -> Result<(), (&'static str, io::Error)> {
        let folder = &self.folders[fanout(head.block.id)];
        let name = block_name(&head.block);
        let (path, temp) = (folder.path.join(&name), folder.path.join(name + TEMP_SUFFIX));
        let written = self.write_temp(&temp, &head.encode(), data);
        if let Err(error) = written {
            self.drop_debris(&temp);
            return Err(error);
        }
        if let Err(error) = self.disk.rename(&temp, &path) {
            self.drop_debris(&temp);
            return Err(("rename", error));
        }
        folder.sync(&*self.disk, &self.sync_count).map_err(|error| {
            self.drop_debris(&path);
            (SYNC_FOLDER, error)
        })
    }

    fn write_temp(&self, temp: &Path, head: &[u8], data: &[u8]) -> Result<(), (&'static str, io::Error)> {
        let mut file = self.disk.create(temp).map_err(|e| ("create", e))?;
        file.write(&[head, data, padding(data.len())]).map_err(|e| ("write", e))?;
        file.sync().map_err(|e| ("fsync", e))
    }

    /// Removes what a failed write left. If that fails too, the next open removes a temporary file, and a file that
    /// has its final name is whole.
    fn drop_debris(&self, path: &Path) {
        if let Err(error) = self.disk.unlink(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), reason = %error, "leftover of a failed write stays");
        }
    }

    fn block_path(&self, block: &StoredBlock) -> PathBuf {
        self.folders[fanout(block.id)].path.join(block_name(block))
    }

    /// Bytes `start..end` of a block, from sectors that were verified; all of them against the block's own checksum too.
    /// `start < end <= block.len`.
    pub(super) fn read(
        &self,
        block: &StoredBlock,
        start: u32,
        end: u32,
        way: Way,
    ) -> Result<(Head, Bytes), CopyFault> {
        let path = self.block_path(block);
        let fault = |error: io::Error| {
            if error.kind() == io::ErrorKind::NotFound {
                return CopyFault::Missing;
            }
            tracing::warn!(block = %block.id, file = %path.display(), reason = %error, "cannot read a block");
            CopyFault::Io
        };
        let file = self.disk.open(&path).map_err(fault)?;
        let first = start / SECTOR_LEN;
        let (from, to) = (first * SECTOR_LEN, end.next_multiple_of(SECTOR_LEN).min(block.len));
        let len = (to - from) as usize;
        let (head, sectors) = if first == 0 {
            // Head and data lie side by side: one read.
            let turn = if way == Way::Direct { self.turn.try_lock_for(TURN_PATIENCE) } else { None };
            let bytes = read_bytes(&*file, 0, HEAD_LEN + len, way).map_err(fault)?;
            drop(turn);
            let head = Head::decode(&bytes, block)?;
            (head, bytes.slice(HEAD_LEN..))
        } else {
            let head = Head::decode(&file.read_at(0, HEAD_LEN).map_err(fault)?, block)?;
            (head, read_bytes(&*file, HEAD_LEN as u64 + u64::from(from), len, way).map_err(fault)?)
        };
        if sectors.len() != len {
            return Err(CopyFault::Short);
        }
        let mut wanted = head.sectors.iter().skip(first as usize);
        for sector in sectors.chunks(SECTOR_LEN as usize) {
            if wanted.next() != Some(&crc32c::crc32c(sector)) {
                return Err(CopyFault::Checksum);
            }
        }
        if (start, end) == (0, block.len) && whole_checksum(&head.sectors, len) != block.checksum {
            return Err(CopyFault::Checksum);
        }
        Ok((head, sectors.slice((start - from) as usize..(end - from) as usize)))
    }

    /// Removes a block; one that is not there is fine.
    pub(super) fn unlink(&self, block: &StoredBlock) -> io::Result<()> {
        match self.disk.unlink(&self.block_path(block)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.note_error("unlink", &error);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// True if the head of this block's file is whole: tells two files that claim one id apart.
    pub(super) fn head_is_whole(&self, block: &StoredBlock) -> bool {
        let head = self.disk.open(&self.block_path(block)).and_then(|file| file.read_at(0, HEAD_LEN));
        head.is_ok_and(|bytes| Head::decode(&bytes, block).is_ok())
    }

    /// Names all blocks of the directory, removes leftovers, and makes what it names durable: a rename that an
    /// earlier process did not live to sync is seen now, and would be gone after a power cut.
    pub(super) fn scan(&self) -> io::Result<Vec<StoredBlock>> {
        let mut blocks = Vec::new();
        for (index, folder) in self.folders.iter().enumerate() {
            let entries = self.disk.list(&folder.path)?;
            for entry in &entries {
                let name = entry.name.to_string_lossy();
                match parse_name(&name) {
                    Some(block) if fanout(block.id) == index => blocks.push(block),
                    None if name.ends_with(TEMP_SUFFIX) => {
                        self.disk.unlink(&folder.path.join(&entry.name))?
                    }
                    _ => {
                        tracing::warn!(dir = %folder.path.display(), file = %name, "not a file of this store")
                    }
                }
            }
            if !entries.is_empty() {
                self.disk.sync_dir(&folder.path)?;
            }
        }
        Ok(blocks)
    }
}
