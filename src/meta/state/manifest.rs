//! Small files beside the view: which view counts, whether it may be trusted, and the lock of the directory.
//!
//! `recover` reads the manifest at open; installing, shutting down and finding damage replace it. Holds: it is replaced
//! whole (temporary file, fsync, rename, fsync of the directory), and one that does not verify counts as absent.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use crate::runtime::disk::{Disk, DiskLock};

const MANIFEST: &str = "view.json";
/// Version of the view's format: manifest, stamp and records. A view of another version is made anew.
const VERSION: u32 = 2;
const LOCK: &str = "lock";

/// What is known of the view in this directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// The view lives in `view-<number>`.
    pub view: u64,
    /// Boot id of the machine when the view was last opened; empty when unknown.
    pub boot: String,
    /// The view was closed in order and fsynced: it survives a reboot.
    pub clean: bool,
    /// Damage was found in it: it must not be used again.
    pub bad: Option<String>,
}

impl Manifest {
    /// The manifest of a view that is being opened.
    pub(super) fn new(view: u64, boot: &str) -> Self {
        Self { version: VERSION, view, boot: boot.to_owned(), clean: false, bad: None }
    }

    /// The manifest of `dir`; none when missing, damaged or of another version.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Option<Self> {
        let text = String::from_utf8(disk.read(&dir.join(MANIFEST)).ok()?).ok()?;
        let (json, crc) = text.trim_end().rsplit_once('\n')?;
        (u32::from_str_radix(crc, 16).ok()? == crc32c::crc32c(json.as_bytes())).then_some(())?;
        serde_json::from_str::<Self>(json).ok().filter(|manifest| manifest.version == VERSION)
    }

    /// Replaces the manifest of `dir`, durably.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(MANIFEST);
        let failed = |e: String| StoreError::new(format!("writing {}", path.display()), e);
        let json = serde_json::to_string(self).map_err(|e| failed(e.to_string()))?;
        let text = format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()));
        let temporary = path.with_extension("tmp");
        disk.replace(&path, &temporary, text.as_bytes()).map_err(|e| failed(e.to_string()))
    }
}

/// The lock of a directory, held while it lives.
pub(super) struct DirLock {
    _lock: Box<dyn DiskLock>,
}

impl DirLock {
    /// Takes the lock: two processes on one directory would rebuild the view under each other.
    pub(super) fn take(disk: &dyn Disk, dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(LOCK);
        let failed = |reason: String| StoreError::new(format!("locking {}", path.display()), reason);
        let lock = disk.lock(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => failed(
                "it is used by another process; stop that one, or give this server a directory of its own"
                    .into(),
            ),
            _ => failed(e.to_string()),
        })?;
        Ok(Self { _lock: lock })
    }
}
