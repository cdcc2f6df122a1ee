//! What `apply` and queries read, and what `apply` leaves behind: bytes under ordered keys.
//!
//! Implemented by `meta/state` over memory and sled, and by a `BTreeMap` in tests. Holds: a view does not change
//! while one query or one run of commands reads it. Keys and records are made in `keys.rs` and `records.rs` only.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::Key;

/// The stored state could not be read. Under apply this stops the node: a silent difference between voters is worse
/// than a missing voter.
#[derive(Debug, thiserror::Error)]
#[error("the view cannot be read: {reason}")]
pub struct ViewError {
    /// What failed, with the key and the file where known.
    pub reason: String,
}

/// Reads of the replicated state.
pub trait View {
    /// The value under `key`.
    ///
    /// # Errors
    /// When the disk or the database behind it fails or is corrupt.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;

    /// Calls `each(key, value)` for the records with `from <= key < to` in key order, until it breaks.
    ///
    /// # Errors
    /// When the disk or the database behind it fails or is corrupt.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError>;
}

/// One record that a run of commands changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its key.
    pub key: Key,
    /// What was stored before; the state hash takes it out.
    pub old: Option<Bytes>,
    /// What is stored now; none: deleted.
    pub new: Option<Bytes>,
}

/// The puts and deletes of a run of commands: one [`Change`] a key, in key order, none where old and new are equal.
pub type ChangeSet = Vec<Change>;
