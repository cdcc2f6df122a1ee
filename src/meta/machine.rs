//! The seam between consensus and state: what raft needs of a state machine, in words that know neither openraft
//! nor sled.
//!
//! `raft` calls it from one task at a time (apply, install) and from others (build, position). `state` implements it.

use std::path::PathBuf;

use bytes::Bytes;

use crate::namespace::Reply;
use crate::types::LogIndex;
pub use crate::types::StateHash;

/// This node's disk or database failed or is corrupt. Under apply it stops the node.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{context}: {reason}")]
pub struct StoreError {
    /// What was being done, to which file.
    pub context: String,
    /// What happened, and the way out.
    pub reason: String,
}

impl StoreError {
    /// An error from its two halves.
    pub fn new(context: impl Into<String>, reason: impl ToString) -> Self {
        Self { context: context.into(), reason: reason.to_string() }
    }
}

/// How far the state has come: stored in the same batch as the records of that index.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Last log index applied; 0: none yet.
    pub index: LogIndex,
    /// Consensus' own words for it (log id and membership), opaque to the state, encoded by `raft`. At most 64 KiB.
    pub raft: Bytes,
}

/// A committed log entry on its way into the state.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The position once it is applied.
    pub position: Position,
    /// Encoded commands (`Vec<Command>`), or none for entries that only move the position (blank, membership).
    pub commands: Option<Bytes>,
}

/// A complete, checksummed, durable snapshot file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotFile {
    /// Name unique among the snapshots of this cluster: index and hash.
    pub id: String,
    /// What it holds.
    pub position: Position,
    /// State hash at that position.
    pub hash: StateHash,
    /// Bytes of the file.
    pub len: u64,
    /// Where it is on this node.
    pub path: PathBuf,
}

/// The replicated state machine as consensus sees it. All methods may block on the disk: `raft` calls the slow ones
/// (`build_snapshot`, `install_snapshot`) from a blocking thread.
pub trait Machine: Send + Sync + 'static {
    /// Position of the state in memory.
    fn position(&self) -> Position;

    /// Applies entries in order; one list of replies for each (empty for entries without commands). When it returns,
    /// every query sees them. Memory only, but for cold reads; waits while too much memory is not yet in the database.
    ///
    /// # Errors
    /// The node must stop: its state can no longer follow.
    fn apply(&self, entries: &[Entry]) -> Result<Vec<Vec<Reply>>, StoreError>;

    /// Builds a snapshot of a consistent cut while applies go on, durable when it returns; older ones are removed but for
    /// the newest one before it.
    ///
    /// # Errors
    /// Disk full or failing: the previous snapshot stays.
    fn build_snapshot(&self) -> Result<SnapshotFile, StoreError>;

    /// The newest durable snapshot that verifies.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn current_snapshot(&self) -> Result<Option<SnapshotFile>, StoreError>;

    /// Path of a fresh file in the snapshot directory for parts that arrive from a leader. Left-overs of earlier
    /// ones are removed at open.
    ///
    /// # Errors
    /// The directory cannot be written.
    fn incoming_path(&self, id: &str) -> Result<PathBuf, StoreError>;

    /// Verifies the received file and replaces the whole state by it, durably; `position` moves to the snapshot's.
    ///
    /// # Errors
    /// The file is damaged (the state stays as it was) or the disk fails.
    fn install_snapshot(&self, received: &std::path::Path) -> Result<SnapshotFile, StoreError>;
}
