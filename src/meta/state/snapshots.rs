//! The directory of snapshot files: names, order, which are kept, what is left over.
//!
//! Holds: a file called `<index>-<hash>.snap` was complete and durable when it got that name; everything else in the
//! directory is a left-over and is removed at open. Two are kept, so that damage to the newest is survived.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{SnapshotFile, StoreError};
use super::record::Stamp;
use super::snapshot::{Fault, SnapshotReader, verify};
use crate::runtime::disk::Disk;

/// Snapshots kept.
const KEPT: usize = 2;
const SUFFIX: &str = ".snap";
/// A snapshot found damaged keeps its bytes under this suffix, for whoever wants to know why.
const DAMAGED: &str = ".damaged";
const TEMPORARY: &str = ".tmp";

/// The snapshot directory of one state.
pub(super) struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Snapshots {
    /// Makes the directory when missing, and removes what a crash left in it.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, StoreError> {
        let failed = |e: std::io::Error| StoreError::new(format!("opening {}", dir.display()), e);
        disk.make_dirs(&dir).map_err(failed)?;
        for entry in disk.list(&dir).map_err(failed)? {
            if entry.name.to_string_lossy().ends_with(TEMPORARY) {
                disk.unlink(&dir.join(entry.name)).map_err(failed)?;
            }
        }
        Ok(Self { disk, dir })
    }

    /// The id of the snapshot of a state: sorts by index.
    pub(super) fn id(stamp: &Stamp) -> String {
        format!("{:020}-{}", stamp.position.index.0, stamp.tally.hash)
    }

    /// Where a snapshot is built.
    pub(super) fn building_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("building-{id}{TEMPORARY}"))
    }

    /// Where a copy of the state is written that is read at once and not kept.
    pub(super) fn frozen_path(&self) -> PathBuf {
        self.dir.join(format!("frozen{TEMPORARY}"))
    }

    /// Where a snapshot arrives. The id comes from another node: it must not name another place.
    pub(super) fn incoming_path(&self, id: &str) -> Result<PathBuf, StoreError> {
        if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(StoreError::new(format!("receiving snapshot {id:?}"), "not an id of a snapshot"));
        }
        let path = self.dir.join(format!("incoming-{id}{TEMPORARY}"));
        match self.disk.unlink(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::new(format!("removing {}", path.display()), e))
            }
            _ => Ok(path),
        }
    }

    /// Gives a complete, durable file its name, and removes what is too old.
    pub(super) fn adopt(&self, from: &Path, stamp: &Stamp) -> Result<SnapshotFile, StoreError> {
        let path = self.dir.join(Self::id(stamp) + SUFFIX);
        let failed = |e: std::io::Error| StoreError::new(format!("naming {}", path.display()), e);
        if from != path {
            self.disk.rename(from, &path).map_err(failed)?;
            self.disk.sync_parent(&path).map_err(failed)?;
        }
        let file = self.describe(&path, stamp)?;
        for old in self.files()?.into_iter().skip(KEPT).filter(|old| *old != path) {
            self.disk.unlink(&old).map_err(|e| StoreError::new(format!("removing {}", old.display()), e))?;
        }
        Ok(file)
    }

    fn describe(&self, path: &Path, stamp: &Stamp) -> Result<SnapshotFile, StoreError> {
        let len = self.disk.open(path).and_then(|file| file.length());
        let len = len.map_err(|e| StoreError::new(format!("reading {}", path.display()), e))?;
        Ok(SnapshotFile {
            id: Self::id(stamp),
            position: stamp.position.clone(),
            hash: stamp.tally.hash,
            len,
            path: path.to_owned(),
        })
    }

    /// Paths of the snapshots, newest first.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut paths = self.named(SUFFIX)?;
        paths.sort_by(|a, b| b.cmp(a));
        Ok(paths)
    }

    fn named(&self, suffix: &str) -> Result<Vec<PathBuf>, StoreError> {
        let failed = |e: std::io::Error| StoreError::new(format!("reading {}", self.dir.display()), e);
        let mut paths = Vec::new();
        for entry in self.disk.list(&self.dir).map_err(failed)? {
            if entry.name.to_string_lossy().ends_with(suffix) {
                paths.push(self.dir.join(entry.name));
            }
        }
        Ok(paths)
    }

    /// The newest snapshot that verifies, read whole for that. Damaged ones are put aside.
    pub(super) fn newest(&self) -> Result<Option<SnapshotFile>, StoreError> {
        for path in self.files()? {
            match verify(&*self.disk, &path) {
                Ok((stamp, _)) => return self.describe(&path, &stamp).map(Some),
                Err(fault) => self.put_aside(&path, fault)?,
            }
        }
        Ok(None)
    }

    /// Stamp of the newest snapshot whose header is right, without reading the rest.
    pub(super) fn newest_header(&self) -> Result<Option<Stamp>, StoreError> {
        for path in self.files()? {
            match SnapshotReader::open(&*self.disk, &path) {
                Ok(reader) => return Ok(Some(reader.stamp)),
                Err(fault) => self.put_aside(&path, fault)?,
            }
        }
        Ok(None)
    }

    /// Takes a damaged snapshot out of the way. One that merely cannot be read now stays, and is an error.
    pub(super) fn put_aside(&self, path: &Path, fault: Fault) -> Result<(), StoreError> {
        let Fault::Damaged(reason) = fault else { return Err(fault.into_error("reading", path)) };
        tracing::error!(path = %path.display(), reason, "a snapshot is damaged; an older one or the leader's serves");
        let failed = |e: std::io::Error| StoreError::new(format!("putting aside {}", path.display()), e);
        // One is enough to look at: damage that comes back must not fill the disk.
        for earlier in self.named(DAMAGED)? {
            self.disk.unlink(&earlier).map_err(failed)?;
        }
        let mut aside = path.as_os_str().to_owned();
        aside.push(DAMAGED);
        let renamed = self.disk.rename(path, Path::new(&aside));
        renamed.and_then(|()| self.disk.sync_parent(path)).map_err(failed)
    }
}
