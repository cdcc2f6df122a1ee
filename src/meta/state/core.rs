//! What all parts of the state share, and the paths through them: apply, build, install, end.
//!
//! Locks, in the order in which they may be taken together (a reader takes only `memory`):
//!
//! ```text
//! snapshot_work   one build, install or end at a time
//! applier         one run of entries, or the swap to an installed snapshot, at a time; holds what runs have learnt
//! disk            one batch of the writer or one chunk of a cut at a time; sled stands still for who holds it
//! memory          overlay, stamp, engine; held for writing only over a merge, a retire or a swap
//! queue, locks, manifest, failure   leaves
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use super::super::{Position, SnapshotFile, StoreError, levels};
use super::StateConfig;
use super::cut::{Cut, Disk};
use super::engines::Engine;
use super::frozen::Frozen;
use super::lock_watch::LockWatch;
use super::manifest::{DirLock, Manifest};
use super::memory::{ApplyView, Memory};
use super::packing::Packing;
use super::record::{self, KEY_LEN_MAX, Stamp, VALUE_LEN_MAX, show};
use super::recover::{self, Opened};
use super::snapshot::{SnapshotWriter, verify};
use super::snapshots::Snapshots;
use super::writer::{self, Ended, Queue};
use crate::namespace::{ChangeSet, Memo, ViewError};

/// Shared by all clones of the state and its writer.
pub(super) struct Core {
    pub config: StateConfig,
    pub snapshots: Snapshots,
    pub snapshot_work: Mutex<()>,
    pub applier: Mutex<Memo>,
    pub disk: Mutex<Disk>,
    /// The cut moved on or ended; waited for under `disk`.
    pub cut_progress: Condvar,
    pub memory: RwLock<Memory>,
    /// Who waits for locks.
    pub locks: LockWatch,
    pub queue: Queue,
    pub manifest: Mutex<Manifest>,
    /// Why nothing can be applied any more.
    pub failure: Mutex<Option<String>>,
    /// Times that apply had to wait for the writer.
    pub waits: AtomicU64,
    /// Why the view was rebuilt at open.
    pub rebuilt: Option<String>,
    // Last: the directory is released when everything in it is closed.
    _lock: DirLock,
}

impl Core {
    /// Wraps what recovery found.
    pub(super) fn new(config: StateConfig, opened: Opened, snapshots: Snapshots, lock: DirLock) -> Self {
        let Opened { engine, stamp, manifest, rebuilt } = opened;
        let memory =
            Memory { engine: Some(Arc::new(engine)), overlay: Default::default(), stamp: stamp.clone() };
        let queue = Queue::new(config.overlay_bytes_max, config.disk.has_threads());
        Self {
            config,
            snapshots,
            snapshot_work: Mutex::default(),
            applier: Mutex::default(),
            disk: Mutex::new(Disk { stamp, cut: None }),
            cut_progress: Condvar::new(),
            memory: RwLock::new(memory),
            locks: LockWatch::default(),
            queue,
            manifest: Mutex::new(manifest),
            failure: Mutex::default(),
            waits: AtomicU64::new(0),
            rebuilt,
            _lock: lock,
        }
    }

    /// True while nothing has failed and nothing is shut down.
    pub(super) fn is_usable(&self) -> bool {
        self.failure.lock().is_none()
    }

    /// Notes that the view is damaged or cannot be written: nothing more is applied, and the next start rebuilds it.
    pub(super) fn damaged(&self, reason: &str) {
        if !self.fail(reason) {
            return;
        }
        tracing::error!(
            reason,
            "the view is damaged: restart this node, it will rebuild the view from snapshot and log"
        );
        let mut manifest = self.manifest.lock();
        manifest.bad = Some(reason.to_owned());
        if let Err(e) = manifest.write(&*self.config.disk, &self.config.dir) {
            tracing::error!(error = %e, "the damage could not be noted; the next start will find it again");
        }
    }

    /// Lets nothing more be applied; false when that was so before.
    fn fail(&self, reason: &str) -> bool {
        let mut failure = self.failure.lock();
        let first = failure.is_none();
        failure.get_or_insert_with(|| reason.to_owned());
        first
    }

    fn usable(&self) -> Result<(), StoreError> {
        match &*self.failure.lock() {
            Some(reason) => Err(StoreError::new(
                format!("the state in {}", self.config.dir.display()),
                format!("{reason}; restart this node, it will rebuild the view from snapshot and log"),
            )),
            None => Ok(()),
        }
    }

    fn ended(&self, Ended: Ended) -> StoreError {
        self.usable()
            .err()
            .unwrap_or_else(|| StoreError::new("waiting for the writer of the view", "it has ended"))
    }

    /// Runs `decide` on the state and puts the changes it returns into it. One caller at a time.
    pub(super) fn apply<R>(
        &self,
        position: Position,
        decide: impl FnOnce(&ApplyView<'_>, Memo) -> Result<(R, ChangeSet, Memo), StoreError>,
    ) -> Result<R, StoreError> {
        let mut memo = self.applier.lock();
        self.usable()?;
        if writer::wait_for_room(self).map_err(|e| self.ended(e))? {
            self.waits.fetch_add(1, Ordering::Relaxed);
        }
        let (engine, mut stamp) = {
            let memory = self.memory.read();
            let engine =
                memory.engine.clone().ok_or_else(|| StoreError::new("applying", "the state is shut down"))?;
            (engine, memory.stamp.clone())
        };
        if position.index <= stamp.position.index {
            let reason = format!("index {} does not follow {}", position.index.0, stamp.position.index.0);
            return Err(StoreError::new("applying to the state", reason));
        }
        let (result, changes, learnt) = decide(&ApplyView { core: self, engine }, std::mem::take(&mut memo))?;
        // A read that failed under `decide` must not be taken for an answer, even if `decide` overlooked it.
        self.usable()?;
        for change in &changes {
            if change.key.is_empty()
                || change.key.len() > KEY_LEN_MAX
                || change.new.as_ref().is_some_and(|value| value.len() > VALUE_LEN_MAX)
            {
                let reason =
                    format!("the record under {} is outside the bounds of a record", show(&change.key));
                return Err(StoreError::new("applying to the state", reason));
            }
            record::follow(&mut stamp.tally, change);
        }
        stamp.position = position;
        self.memory.write().merge(self.queue.next_number(), stamp.clone(), &changes);
        self.locks.changed(&changes);
        self.queue.push(stamp, changes);
        *memo = learnt;
        Ok(result)
    }

    /// Builds a snapshot of what is applied now, or of a little more.
    pub(super) fn build_snapshot(&self, packing: Packing) -> Result<SnapshotFile, StoreError> {
        let _work = self.snapshot_work.lock();
        self.copy(
            packing,
            |stamp| self.snapshots.building_path(&Snapshots::id(stamp)),
            |out, stamp, path| {
                out.finish()?;
                self.snapshots.adopt(path, stamp)
            },
        )
    }

    /// A copy of what is applied now, or of a little more, to be read while the state goes on. Snapshots are built and
    /// installed before or after it is made, and while it is read.
    pub(super) fn freeze(&self) -> Result<Frozen, StoreError> {
        let _work = self.snapshot_work.lock();
        // It is read here, and soon.
        self.copy(
            Packing::Plain,
            |_| self.snapshots.frozen_path(),
            |out, _, path| {
                out.finish_for_now()?;
                Frozen::open(&*self.config.disk, path).map_err(|fault| fault.into_error("reading", path))
            },
        )
    }

    /// Writes a cut of the state to the file that `place` names; `end` makes of it what it is to be. The caller holds
    /// `snapshot_work`.
    fn copy<R>(
        &self,
        packing: Packing,
        place: impl FnOnce(&Stamp) -> PathBuf,
        end: impl FnOnce(SnapshotWriter, &Stamp, &Path) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.usable()?;
        writer::wait_until_written(self).map_err(|e| self.ended(e))?;
        let Some(engine) = self.memory.read().engine.clone() else {
            return Err(StoreError::new("building a snapshot", "the state is shut down"));
        };
        let stamp = {
            let mut disk = self.disk.lock();
            disk.cut = Some(Cut::default());
            disk.stamp.clone()
        };
        let path = place(&stamp);
        let written = {
            let _end = EndCut(self);
            self.write_cut(&engine, &stamp, &path, packing)
        };
        written.and_then(|out| end(out, &stamp, &path)).inspect_err(|_| {
            // What is left of it is in the way of nobody and is removed at the next open, should this fail too.
            let _left_over = self.config.disk.unlink(&path);
        })
    }

    fn write_cut(
        &self,
        engine: &Engine,
        stamp: &Stamp,
        path: &Path,
        packing: Packing,
    ) -> Result<SnapshotWriter, StoreError> {
        let unreadable = |e: ViewError| {
            self.damaged(&e.reason);
            StoreError::new("building a snapshot", e.reason)
        };
        let mut out = SnapshotWriter::create(&*self.config.disk, path, stamp, packing)?;
        loop {
            let chunk = match &mut self.disk.lock().cut {
                Some(cut) => cut.chunk(engine).map_err(unreadable)?,
                None => {
                    return Err(StoreError::new("building a snapshot", "the state was replaced meanwhile"));
                }
            };
            self.cut_progress.notify_all();
            let Some(records) = chunk else { break };
            for (key, value) in &records {
                out.add(key, value)?;
            }
        }
        if !out.complete() {
            let reason = "its records do not add up to its stamp";
            self.damaged(reason);
            return Err(StoreError::new("building a snapshot of the view", reason));
        }
        Ok(out)
    }

    /// Verifies a received snapshot and replaces the state by it.
    ///
    /// After a crash: before the rename, the old state; from the rename on, the newest snapshot is newer than the
    /// view, so the next open loads it; from the new manifest on, the new view counts and the old one is removed.
    pub(super) fn install_snapshot(&self, received: &Path) -> Result<SnapshotFile, StoreError> {
        let _work = self.snapshot_work.lock();
        self.usable()?;
        let disk = &*self.config.disk;
        let (stamp, level) =
            verify(disk, received).map_err(|fault| fault.into_error("verifying", received))?;
        let known = self.config.levels;
        if !known.has(level) {
            let doing = format!("installing snapshot {}", received.display());
            return Err(StoreError::new(doing, levels::unknown(level, known)));
        }
        disk.open(received)
            .and_then(|file| file.sync())
            .map_err(|e| StoreError::new(format!("syncing {}", received.display()), e))?;
        let mut memo = self.applier.lock();
        *memo = Memo::default();
        let file = self.snapshots.adopt(received, &stamp)?;
        self.replace_by(&file.path).inspect_err(|e| {
            self.fail(&e.to_string());
        })?;
        Ok(file)
    }

    /// Loads a snapshot beside the running view and swaps. The caller holds `applier`.
    fn replace_by(&self, path: &Path) -> Result<(), StoreError> {
        let mut manifest = self.manifest.lock().clone();
        recover::remove_views(&*self.config.disk, &self.config.dir, Some(manifest.view))?;
        manifest.view += 1;
        let (engine, stamp) = recover::load(&self.config, manifest.view, path)?
            .map_err(|fault| fault.into_error("loading", path))?;
        let mut disk = self.disk.lock();
        manifest.write(&*self.config.disk, &self.config.dir)?;
        *self.manifest.lock() = manifest.clone();
        self.queue.clear();
        disk.stamp = stamp.clone();
        let old = {
            let mut memory = self.memory.write();
            memory.overlay.clear();
            memory.stamp = stamp;
            memory.engine.replace(Arc::new(engine))
        };
        drop(disk);
        drop(old);
        self.locks.all_changed();
        recover::remove_views(&*self.config.disk, &self.config.dir, Some(manifest.view))
    }

    /// Closes sled in order and notes that it was so, unless something failed before. The writer has ended.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let _work = self.snapshot_work.lock();
        let _applier = self.applier.lock();
        let healthy = self.fail("the state is shut down");
        let (engine, stamp) = {
            let mut memory = self.memory.write();
            (memory.engine.take(), memory.stamp.clone())
        };
        let Some(engine) = engine.and_then(Arc::into_inner) else { return Ok(()) };
        engine.close()?;
        if healthy && self.disk.lock().stamp == stamp {
            let mut manifest = self.manifest.lock();
            manifest.clean = true;
            manifest.write(&*self.config.disk, &self.config.dir)?;
        }
        Ok(())
    }
}

/// Ends a cut whatever happens to who reads it: the writer may wait for it.
struct EndCut<'a>(&'a Core);

impl Drop for EndCut<'_> {
    fn drop(&mut self) {
        self.0.disk.lock().cut = None;
        self.0.cut_progress.notify_all();
    }
}
