//! State of a metadata server: an ordered overlay in memory, a bounded cache, sled behind it, snapshots, a hash.
//! On a disk that is not the system's, a journal stands in sled's place.
//!
//! `raft` applies entries and installs snapshots, `service` reads. Holds: a reader sees one applied position; what is
//! in sled is always the state at one log index; every value read from a file is checked before it is used.
//! Not here: what the records mean (`namespace`), when to take a snapshot or purge the log (`raft`).
//!
//! Reading order: `record`, `memory` (how reads find a record), `writer`, `engines`, `engine`, `cache`, `filter`, `parts`, `journal`, `cut` and `snapshot`, `recover`, `core`.

mod cache;
mod core;
mod cut;
mod engine;
mod engines;
mod filter;
mod frozen;
pub(crate) mod fuzz;
mod journal;
mod lock_watch;
mod manifest;
mod memory;
mod packing;
mod page;
mod parts;
mod record;
mod recover;
mod snapshot;
mod snapshots;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use serde::Serialize;

use self::core::Core;
pub use self::frozen::Frozen;
pub use self::lock_watch::LockWatch;
use self::manifest::DirLock;
use self::memory::ReadView;
use self::packing::Packing;
use self::snapshots::Snapshots;
use super::{Entry, Machine, Position, SnapshotFile, StateHash, StoreError, levels};
use crate::namespace::{self, ChangeSet, Command, Memo, Reply, Txn, View, ViewError};
use crate::runtime::disk::{Disk, RealDisk};
use crate::runtime::{self, Task};
use crate::types::{Level, LevelRange, LogIndex, codec};

/// Where the state lives and how much memory it may take.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// The disk that has it.
    pub disk: Arc<dyn Disk>,
    /// Directory of this node's state; made when missing. One process at a time.
    pub dir: PathBuf,
    /// Bound of the read cache, in bytes with overhead.
    pub cache_bytes: u64,
    /// Bound of what is applied but not yet in sled, in bytes with overhead; apply waits above it. One run of entries
    /// may go beyond it. The records put aside while a snapshot is written take at most half of it again.
    pub overlay_bytes_max: u64,
    /// Bound of sled's own page cache, in bytes (sled takes more than this: benches/view.rs).
    pub sled_cache_bytes: u64,
    /// Format levels that this program knows. A state of another one is neither opened nor received, and no command of another one
    /// applied.
    pub levels: LevelRange,
    /// Identity of this boot of the machine; none: ask the disk. A view that was open in another boot is rebuilt.
    pub boot_id: Option<String>,
}

impl StateConfig {
    /// The defaults for a directory of this machine.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            disk: Arc::new(RealDisk),
            dir: dir.into(),
            cache_bytes: 256 << 20,
            overlay_bytes_max: 512 << 20,
            sled_cache_bytes: 256 << 20,
            levels: LevelRange::OURS,
            boot_id: None,
        }
    }
}

/// How the state is doing, for the status page.
#[derive(Clone, Debug, Serialize)]
pub struct StateStatus {
    /// Last log index applied in memory.
    pub applied_index: LogIndex,
    /// Log index of the state in sled.
    pub sled_index: LogIndex,
    /// State hash at the applied index, in hex.
    pub hash: String,
    /// Records in the state.
    pub record_count: u64,
    /// Bytes applied but not yet in sled, with overhead.
    pub overlay_bytes: u64,
    /// Bound of the former; apply waits above it.
    pub overlay_bytes_max: u64,
    /// Changes applied but not yet in sled.
    pub overlay_records: u64,
    /// Times that apply waited for room in the overlay.
    pub overlay_waits: u64,
    /// Bytes in the read cache, with overhead.
    pub cache_bytes: u64,
    /// Bytes of sled's files.
    pub sled_disk_bytes: u64,
    /// Names of the snapshots, newest first.
    pub snapshots: Vec<String>,
    /// Why the view was rebuilt when this process opened it, if it was.
    pub rebuilt: Option<String>,
    /// Why nothing can be applied any more, if so: the node must be restarted.
    pub failure: Option<String>,
}

/// The state of this metadata server. Cheap to clone: all clones are the same state. When the last one goes without
/// [`State::shutdown`], what sled lacks is left to the log, as after a crash of the process.
#[derive(Clone)]
pub struct State {
    owner: Arc<Owner>,
}

/// Ends the writer with the last handle.
struct Owner {
    core: Arc<Core>,
    writer: Mutex<Option<Writer>>,
}

/// Who moves what is applied into the view.
enum Writer {
    Thread(JoinHandle<()>),
    /// Where the disk has no threads. Ends when it is dropped.
    Task(Task<()>),
}

impl Owner {
    fn end_writer(&self, drain: bool) {
        self.core.queue.stop(drain);
        match self.writer.lock().take() {
            Some(Writer::Thread(thread)) => {
                let ended = thread.join();
                if ended.is_err() {
                    self.core.damaged("the writer of the view panicked");
                }
            }
            Some(Writer::Task(task)) => {
                drop(task);
                writer::finish(&self.core);
            }
            None => {}
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.end_writer(false);
    }
}

impl State {
    /// Opens the state, rebuilding sled from the newest good snapshot when it cannot be trusted. Reads the whole view to
    /// verify it: about two seconds for a million records.
    ///
    /// # Errors
    /// The directory is in use by another process, or cannot be read or written.
    pub fn open(config: StateConfig) -> Result<Self, StoreError> {
        let dir = &config.dir;
        let disk = &config.disk;
        disk.make_dirs(dir).map_err(|e| StoreError::new(format!("making {}", dir.display()), e))?;
        let lock = DirLock::take(&**disk, dir)?;
        let snapshots = Snapshots::open(disk.clone(), dir.join("snapshots"))?;
        let boot = config.boot_id.clone().unwrap_or_else(|| disk.boot_id());
        let opened = recover::open(&config, &boot, &snapshots)?;
        let core = Arc::new(Core::new(config, opened, snapshots, lock));
        let writer = match core.queue.woken() {
            Some(woken) => {
                Writer::Task(runtime::spawn("view-writer", writer::run_as_task(Arc::downgrade(&core), woken)))
            }
            None => {
                let core = Arc::clone(&core);
                let thread = std::thread::Builder::new().name("view-writer".into());
                let thread = thread.spawn(move || writer::run(&core));
                Writer::Thread(thread.map_err(|e| StoreError::new("starting the writer of the view", e))?)
            }
        };
        let state = Self { owner: Arc::new(Owner { core, writer: Mutex::new(Some(writer)) }) };
        let (levels, dir) = (state.core().config.levels, &state.core().config.dir);
        let of_state = || format!("the state in {}", dir.display());
        match state.read(namespace::level) {
            Ok((level, _)) if levels.has(level) => {}
            Ok((level, _)) => return Err(StoreError::new(of_state(), levels::unknown(level, levels))),
            Err(e) => return Err(StoreError::new(of_state(), e)),
        }
        Ok(state)
    }

    fn core(&self) -> &Core {
        &self.owner.core
    }

    /// Runs `f` on the state at one applied position. Holds a read lock meanwhile: `f` must be short (a lookup, a page
    /// of a listing) and must not call `read` again, or both wait for ever behind a waiting apply.
    pub fn read<R>(&self, f: impl FnOnce(&dyn View) -> R) -> R {
        self.read_at(|_, view| f(view))
    }

    /// [`State::read`], told the position too.
    pub fn read_at<R>(&self, f: impl FnOnce(LogIndex, &dyn View) -> R) -> R {
        let memory = self.core().memory.read();
        f(memory.stamp.position.index, &ReadView { memory: &memory, core: self.core() })
    }

    /// Runs `f` on a copy of what is applied now, or of a little more, for as long as it takes: entries are applied and
    /// snapshots built meanwhile. The copy takes disk space like a snapshot, until `f` returns. Waits for a snapshot
    /// that is being built.
    ///
    /// # Errors
    /// The copy cannot be written, or the state is damaged.
    pub fn frozen<R>(&self, f: impl FnOnce(LogIndex, &dyn View) -> R) -> Result<R, StoreError> {
        let frozen = self.core().freeze()?;
        Ok(f(frozen.stamp.position.index, &frozen))
    }

    /// Such a copy, to be read block by block; it takes its disk space until it is dropped.
    ///
    /// # Errors
    /// As [`State::frozen`].
    pub fn freeze(&self) -> Result<Frozen, StoreError> {
        self.core().freeze()
    }

    /// Who waits for locks, and where.
    pub fn locks(&self) -> &LockWatch {
        &self.core().locks
    }

    /// Hash of the state in memory, and the index it belongs to.
    pub fn hash(&self) -> (LogIndex, StateHash) {
        let memory = self.core().memory.read();
        (memory.stamp.position.index, memory.stamp.tally.hash)
    }

    /// Puts a change set into memory and moves the position: the storage half of [`Machine::apply`].
    ///
    /// # Errors
    /// The node must stop: the view is damaged or cannot be written, or the position does not move forward.
    pub fn apply_changes(&self, position: Position, changes: ChangeSet) -> Result<(), StoreError> {
        // Whatever they are, nothing that was learnt before need be true of them.
        self.core().apply(position, |_, _| Ok(((), changes, Memo::default())))
    }

    /// How the state is doing.
    pub fn status(&self) -> StateStatus {
        let core = self.core();
        let (stamp, cache_bytes, sled_disk_bytes) = {
            let memory = core.memory.read();
            let engine = memory.engine.as_ref();
            (
                memory.stamp.clone(),
                engine.map_or(0, |e| e.cache_bytes()),
                engine.map_or(0, |e| e.disk_bytes()),
            )
        };
        let (overlay_bytes, overlay_records) = core.queue.size();
        let names = core.snapshots.files().unwrap_or_default();
        let name = |path: &PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
        StateStatus {
            applied_index: stamp.position.index,
            sled_index: core.disk.lock().stamp.position.index,
            hash: stamp.tally.hash.to_string(),
            record_count: stamp.tally.records,
            overlay_bytes,
            overlay_bytes_max: core.config.overlay_bytes_max,
            overlay_records,
            overlay_waits: core.waits.load(Ordering::Relaxed),
            cache_bytes,
            sled_disk_bytes,
            snapshots: names.iter().filter_map(name).collect(),
            rebuilt: core.rebuilt.clone(),
            failure: core.failure.lock().clone(),
        }
    }

    /// Drains memory into sled, makes it durable, so that even a reboot needs no rebuild, and closes it. What is called
    /// afterwards gets errors. May take seconds.
    pub fn shutdown(&self) {
        self.owner.end_writer(true);
        if let Err(e) = self.core().close() {
            tracing::error!(error = %e, "the view was not closed in order; the next start may rebuild it");
        }
    }
}

/// The commands of an entry, all of which a program that knows `levels` can apply.
fn commands(bytes: &[u8], levels: LevelRange) -> Result<Vec<Command>, String> {
    // A command that is not known at all is most likely one of a later program too.
    let commands: Vec<Command> = codec::decode(bytes)
        .map_err(|e| format!("{e}: if a later program wrote it, start that one again on this server"))?;
    match commands.iter().map(|command| command.op.level()).find(|level| *level > levels.last) {
        Some(level) => Err(levels::unknown(level, levels)),
        None => Ok(commands),
    }
}

impl Machine for State {
    fn position(&self) -> Position {
        self.core().memory.read().stamp.position.clone()
    }

    fn apply(&self, entries: &[Entry]) -> Result<Vec<Vec<Reply>>, StoreError> {
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        let unreadable = |e: ViewError| StoreError::new("applying entries", e);
        self.core().apply(last.position.clone(), |view, memo| {
            let mut txn = Txn::knowing(view, memo);
            let mut replies = Vec::with_capacity(entries.len());
            for entry in entries {
                let commands = match &entry.commands {
                    Some(bytes) => commands(bytes, self.core().config.levels).map_err(|e| {
                        StoreError::new(format!("applying entry {}", entry.position.index.0), e)
                    })?,
                    None => Vec::new(),
                };
                let run = commands.iter().map(|command| namespace::apply(&mut txn, command));
                replies.push(run.collect::<Result<_, _>>().map_err(unreadable)?);
            }
            let (changes, memo) = txn.finish_knowing();
            Ok((replies, changes, memo))
        })
    }

    fn build_snapshot(&self) -> Result<SnapshotFile, StoreError> {
        // So that every member can read it. The level only goes up.
        let level =
            self.read(namespace::level).map_err(|e| StoreError::new("building a snapshot", e.reason))?;
        let packing = if level.0 >= Level::PACKED { Packing::Lz4 } else { Packing::Plain };
        self.core().build_snapshot(packing)
    }

    fn current_snapshot(&self) -> Result<Option<SnapshotFile>, StoreError> {
        self.core().snapshots.newest()
    }

    fn incoming_path(&self, id: &str) -> Result<PathBuf, StoreError> {
        self.core().snapshots.incoming_path(id)
    }

    fn install_snapshot(&self, received: &Path) -> Result<SnapshotFile, StoreError> {
        self.core().install_snapshot(received)
    }
}
