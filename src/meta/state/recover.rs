//! Opening a directory: trust the view that is there, or make it anew from a snapshot.
//!
//! `State::open` calls it. Holds: the engine that comes out is the state of its stamp, every record of it read and
//! summed; whatever was not so is gone. The log replays what follows the stamp.
//!
//! ```text
//! manifest good, not marked bad, same boot or closed in order,
//! view opens, adds up, not older than the newest snapshot ──> keep it
//! otherwise: remove it, load the newest snapshot that verifies ──> or an older one ──> or start empty
//! ```
//!
//! A view older than the newest snapshot means that a crash came between receiving a snapshot and loading it, or that
//! sled lost its tail: it takes a damaged stretch of its log for the end, and is then a whole but older state. The
//! log may begin where the newest snapshot ends, so an older view would be of no use.

use std::path::{Path, PathBuf};

use super::super::StoreError;
use super::StateConfig;
use super::engines::Engine;
use super::manifest::Manifest;
use super::record::Stamp;
use super::snapshot::{Fault, SnapshotReader};
use super::snapshots::Snapshots;
use crate::runtime::disk::Disk;
use crate::types::LogIndex;

/// Times that removing a view is tried.
const REMOVE_TRIES: u32 = 10;
/// Wait between those tries.
const REMOVE_RETRY: std::time::Duration = std::time::Duration::from_millis(50);

/// A usable engine and how it came to be.
pub(super) struct Opened {
    /// The engine.
    pub engine: Engine,
    /// Its state.
    pub stamp: Stamp,
    /// The manifest now on disk.
    pub manifest: Manifest,
    /// Why the view was rebuilt, if so.
    pub rebuilt: Option<String>,
}

/// Opens the state in `config.dir`, which is locked by the caller.
pub(super) fn open(config: &StateConfig, boot: &str, snapshots: &Snapshots) -> Result<Opened, StoreError> {
    let (disk, dir) = (&*config.disk, &*config.dir);
    let found = Manifest::read(disk, dir);
    let number = found.as_ref().map_or(0, |m| m.view);
    // An empty view may be made where nothing was before; that is no rebuild.
    let fresh = found.is_none() && views(disk, dir)?.is_empty() && snapshots.files()?.is_empty();
    let mut manifest = Manifest::new(number, boot);
    let why = if fresh {
        manifest.write(disk, dir)?;
        None
    } else {
        distrust(disk, dir, found.as_ref(), boot)
    };
    let reason = match why {
        Some(reason) => reason,
        None => {
            // From here on the view changes: it is no longer what was fsynced at the orderly end.
            manifest.write(disk, dir)?;
            match keep(config, number, snapshots) {
                Ok((engine, stamp)) => {
                    remove_views(disk, dir, Some(number))?;
                    return Ok(Opened { engine, stamp, manifest, rebuilt: None });
                }
                Err(e) => e.to_string(),
            }
        }
    };
    tracing::warn!(reason, "the view is made anew from a snapshot");
    let newest = views(disk, dir)?.into_iter().map(|(number, _)| number).max();
    manifest.view = newest.unwrap_or(number).max(number) + 1;
    remove_views(disk, dir, None)?;
    let (engine, stamp) = rebuild(config, manifest.view, snapshots)?;
    manifest.write(disk, dir)?;
    Ok(Opened { engine, stamp, manifest, rebuilt: Some(reason) })
}

/// Why the view on disk must not even be opened.
fn distrust(disk: &dyn Disk, dir: &Path, manifest: Option<&Manifest>, boot: &str) -> Option<String> {
    let Some(manifest) = manifest else {
        return Some("its manifest is missing, damaged or of another version".into());
    };
    if let Some(bad) = &manifest.bad {
        return Some(format!("it was found damaged: {bad}"));
    }
    if !manifest.clean && (boot.is_empty() || manifest.boot != boot) {
        return Some("the machine went down without closing it, and sled does not survive that".into());
    }
    disk.list(&view_dir(dir, manifest.view)).is_err().then(|| "its directory is missing".into())
}

fn keep(config: &StateConfig, number: u64, snapshots: &Snapshots) -> Result<(Engine, Stamp), StoreError> {
    let engine = open_engine(config, number)?;
    let stamp = engine.verify()?;
    let behind = |newest: LogIndex| newest > stamp.position.index;
    // Only if the header promises more is the whole snapshot read: the view goes for a good one, not for a damaged one.
    if snapshots.newest_header()?.is_some_and(|newest| behind(newest.position.index))
        && let Some(newest) = snapshots.newest()?
        && behind(newest.position.index)
    {
        let reason = format!(
            "it is at {}, the newest snapshot at {}",
            stamp.position.index.0, newest.position.index.0
        );
        return Err(StoreError::new("the view lacks what a snapshot has", reason));
    }
    Ok((engine, stamp))
}

/// Makes view `number` from the newest snapshot that verifies; an empty one if there is none.
fn rebuild(config: &StateConfig, number: u64, snapshots: &Snapshots) -> Result<(Engine, Stamp), StoreError> {
    for path in snapshots.files()? {
        match load(config, number, &path) {
            Ok(Ok(loaded)) => return Ok(loaded),
            Ok(Err(fault)) => snapshots.put_aside(&path, fault)?,
            Err(e) => return Err(e),
        }
        remove_views(&*config.disk, &config.dir, None)?;
    }
    Ok((open_engine(config, number)?, Stamp::default()))
}

/// Loads a snapshot into view `number`, which does not exist yet. The stamp is written last: half a load adds up to nothing.
pub(super) fn load(
    config: &StateConfig,
    number: u64,
    path: &Path,
) -> Result<Result<(Engine, Stamp), Fault>, StoreError> {
    let mut reader = match SnapshotReader::open(&*config.disk, path) {
        Ok(reader) => reader,
        Err(fault) => return Ok(Err(fault)),
    };
    let engine = open_engine(config, number)?;
    engine.expect(reader.record_count());
    loop {
        match reader.block() {
            Ok(Some(records)) => {
                engine.write(records.iter().map(|(key, value)| (&key[..], Some(value))), None)?
            }
            Ok(None) => break,
            Err(fault) => return Ok(Err(fault)),
        }
    }
    engine.write(std::iter::empty(), Some(&reader.stamp))?;
    Ok(Ok((engine, reader.stamp)))
}

fn open_engine(config: &StateConfig, number: u64) -> Result<Engine, StoreError> {
    Engine::open(config, &view_dir(&config.dir, number))
}

/// Directory of view `number`.
pub(super) fn view_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("view-{number}"))
}

/// All view directories with their numbers.
fn views(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let failed = |e: std::io::Error| StoreError::new(format!("reading {}", dir.display()), e);
    let mut views = Vec::new();
    for entry in disk.list(dir).map_err(failed)? {
        if let Some(number) = entry.name.to_string_lossy().strip_prefix("view-").and_then(|n| n.parse().ok())
        {
            views.push((number, dir.join(&entry.name)));
        }
    }
    Ok(views)
}

/// Removes all view directories but one.
pub(super) fn remove_views(disk: &dyn Disk, dir: &Path, but: Option<u64>) -> Result<(), StoreError> {
    for (number, path) in views(disk, dir)? {
        if Some(number) != but {
            remove_view(disk, &path)
                .map_err(|e| StoreError::new(format!("removing {}", path.display()), e))?;
        }
    }
    Ok(())
}

/// Removes a directory, again if sled's background threads put a last file into it meanwhile.
fn remove_view(disk: &dyn Disk, path: &Path) -> std::io::Result<()> {
    let mut removed = disk.remove_tree(path);
    for _ in 1..REMOVE_TRIES {
        match &removed {
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            _ => break,
        }
        std::thread::sleep(REMOVE_RETRY);
        removed = disk.remove_tree(path);
    }
    removed.and_then(|()| disk.sync_parent(path))
}
