//! Small files beside the view: which view counts, whether it may be trusted, and the lock of the directory.
//!
//! `recover` reads the manifest at open; installing, shutting down and finding damage replace it. Holds: it is replaced
//! whole (temporary file, fsync, rename, fsync of the directory), and one that does not verify counts as absent.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::StoreError;

const MANIFEST: &str = "view.json";
/// Version of the view's format: manifest, stamp and records. A view of another version is made anew.
const VERSION: u32 = 2;
const LOCK: &str = "lock";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

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
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(MANIFEST)).ok()?;
        let (json, crc) = text.trim_end().rsplit_once('\n')?;
        (u32::from_str_radix(crc, 16).ok()? == crc32c::crc32c(json.as_bytes())).then_some(())?;
        serde_json::from_str::<Self>(json).ok().filter(|manifest| manifest.version == VERSION)
    }

    /// Replaces the manifest of `dir`, durably.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(MANIFEST);
        let failed = |e: String| StoreError::new(format!("writing {}", path.display()), e);
        let json = serde_json::to_string(self).map_err(|e| failed(e.to_string()))?;
        let text = format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()));
        replace_file(&path, text.as_bytes()).map_err(|e| failed(e.to_string()))
    }
}

fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// fsyncs the directory that holds `path`, so that a rename or unlink in it stays.
pub(super) fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The boot id of this machine; empty when the kernel does not tell, and then no view is trusted across a restart.
pub(super) fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The lock of a directory, held while it lives.
pub(super) struct DirLock {
    _file: fs::File,
}

impl DirLock {
    /// Takes the lock: two processes on one directory would rebuild the view under each other.
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(LOCK);
        let failed = |reason: String| StoreError::new(format!("locking {}", path.display()), reason);
        let file = fs::File::create(&path).map_err(|e| failed(e.to_string()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| match e {
                rustix::io::Errno::WOULDBLOCK => failed(
                    "it is used by another process; stop that one, or give this server a directory of its own".into(),
                ),
                e => failed(e.to_string()),
            })?;
        Ok(Self { _file: file })
    }
}
