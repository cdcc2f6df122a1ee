//! What is open: handles that the kernel holds, and for each open inode the one file that all its openers share.
//!
//! Holds: an inode has at most one [`File`] on this mount from its first open until its last byte is published, so writes of
//! all openers have one order.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::client::{Client, ClientError, File, Reader};
use crate::types::{Cred, InodeId};

/// Open things by the number that the kernel has for them.
#[derive(Debug)]
pub(super) struct Handles<T> {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: Mutex::new(HashMap::new()) }
    }
}

impl<T> Handles<T> {
    /// A number for it.
    pub(super) fn insert(&self, item: T) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(handle, Arc::new(item));
        handle
    }

    /// What has this number.
    pub(super) fn get(&self, handle: u64) -> Option<Arc<T>> {
        self.open.lock().get(&handle).cloned()
    }

    /// Takes it out.
    pub(super) fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.open.lock().remove(&handle)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.open.lock().len()
    }
}

/// One open of a file.
#[derive(Debug)]
pub(super) struct OpenFile {
    /// The file, shared with the other openers of the inode.
    pub(super) file: File,
    /// Where this opener reads.
    pub(super) reader: Reader,
    /// Who opened it.
    pub(super) cred: Cred,
    /// Opened for reading.
    pub(super) readable: bool,
    /// Opened for writing.
    pub(super) writable: bool,
    /// Owners of record locks that were taken through it, less those that have closed it since.
    pub(super) lockers: Mutex<BTreeSet<u64>>,
}

#[derive(Debug)]
struct Slot {
    file: File,
    opens: usize,
    /// Something was written through this mount since the first open.
    written: bool,
}

/// The files of open inodes.
#[derive(Debug, Default)]
pub(super) struct OpenInodes(Mutex<HashMap<InodeId, Slot>>);

impl OpenInodes {
    /// The file of an inode, for one more opener.
    pub(super) async fn open(&self, client: &Client, inode: InodeId) -> Result<File, ClientError> {
        if let Some(slot) = self.0.lock().get_mut(&inode) {
            slot.opens += 1;
            return Ok(slot.file.clone());
        }
        Ok(self.adopt(client.share(inode).await?))
    }

    /// The file of an inode for one more opener: this one, unless there is one.
    pub(super) fn adopt(&self, file: File) -> File {
        let mut inodes = self.0.lock();
        let slot = inodes.entry(file.inode()).or_insert(Slot { file, opens: 0, written: false });
        slot.opens += 1;
        slot.file.clone()
    }

    /// One opener less. Answers the file if it was the last and something is not published yet: it is to be flushed, and
    /// then [settled](Self::settle).
    pub(super) fn close(&self, inode: InodeId) -> Option<File> {
        let mut inodes = self.0.lock();
        let slot = inodes.get_mut(&inode)?;
        slot.opens = slot.opens.saturating_sub(1);
        if slot.opens > 0 {
            return None;
        }
        if slot.file.overlay().is_empty() {
            inodes.remove(&inode);
            return None;
        }
        Some(slot.file.clone())
    }

    /// Forgets a file that nobody has opened again meanwhile.
    pub(super) fn settle(&self, inode: InodeId) {
        let mut inodes = self.0.lock();
        if inodes.get(&inode).is_some_and(|slot| slot.opens == 0) {
            inodes.remove(&inode);
        }
    }

    /// Notes that something is written.
    pub(super) fn wrote(&self, inode: InodeId) {
        if let Some(slot) = self.0.lock().get_mut(&inode) {
            slot.written = true;
        }
    }

    /// The file of an inode that is open.
    pub(super) fn get(&self, inode: InodeId) -> Option<File> {
        self.0.lock().get(&inode).map(|slot| slot.file.clone())
    }

    /// The same, if something was written through this mount.
    pub(super) fn written(&self, inode: InodeId) -> Option<File> {
        self.0.lock().get(&inode).filter(|slot| slot.written).map(|slot| slot.file.clone())
    }

    /// All files with something that is not published.
    pub(super) fn unpublished(&self) -> Vec<File> {
        let inodes = self.0.lock();
        inodes.values().map(|slot| &slot.file).filter(|f| !f.overlay().is_empty()).cloned().collect()
    }
}
