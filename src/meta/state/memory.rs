//! What is applied but not yet in sled, and the two ways of reading through it.
//!
//! ```text
//! apply ──> overlay ──(writer, in batches)──> sled + cache
//! read  ──> overlay, else cache, else sled
//! ```
//!
//! Holds: a key is in the overlay from the moment its change is applied until sled and the cache have that change or a
//! later one. So a key that is *not* in the overlay is not being written by anybody, and what sled says about it counts.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::core::Core;
use super::engines::Engine;
use super::record::Stamp;
use crate::namespace::{Change, Key, View, ViewError};

/// Entries that the applier copies from the overlay at a time while it scans: bounds how long it holds the lock.
const SCAN_CHUNK: usize = 256;

/// The part of the state that readers lock.
pub(super) struct Memory {
    /// None after shutdown.
    pub engine: Option<Arc<Engine>>,
    /// Newest value (none: deleted) of each key that sled does not have yet.
    pub overlay: BTreeMap<Key, Slot>,
    /// The state that readers see.
    pub stamp: Stamp,
}

/// A value and the number of the change set that brought it.
pub(super) struct Slot {
    /// None: deleted.
    pub value: Option<Bytes>,
    /// Number of the change set.
    pub set: u64,
}

impl Memory {
    /// Puts the changes of set number `set` into the overlay.
    pub(super) fn merge(&mut self, set: u64, stamp: Stamp, changes: &[Change]) {
        for Change { key, new, .. } in changes {
            self.overlay.insert(key.clone(), Slot { value: new.clone(), set });
        }
        self.stamp = stamp;
    }

    /// Forgets `keys`, which sled now has as of set number `set`, but for those changed again since.
    pub(super) fn retire<'a>(&mut self, set: u64, keys: impl Iterator<Item = &'a Key>) {
        for key in keys {
            if self.overlay.get(key).is_some_and(|slot| slot.set <= set) {
                self.overlay.remove(key);
            }
        }
    }

    fn engine(&self) -> Result<&Arc<Engine>, ViewError> {
        self.engine.as_ref().ok_or_else(|| ViewError { reason: "the state is shut down".into() })
    }
}

/// The state as a reader sees it, under the read lock: at one position, whatever the applier and the writer do.
pub(super) struct ReadView<'a> {
    /// Locked by the caller.
    pub memory: &'a Memory,
    /// To report damage to.
    pub core: &'a Core,
}

impl View for ReadView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if let Some(slot) = self.memory.overlay.get(&Key::from(key)) {
            return Ok(slot.value.clone());
        }
        self.memory.engine()?.get(key).inspect_err(|e| self.core.damaged(&e.reason))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        let Some(bounds) = bounds(from, to) else { return Ok(()) };
        let overlay = self.memory.overlay.range(held(bounds)).map(|(k, slot)| (k, &slot.value));
        merge_scan(overlay, self.memory.engine()?, bounds, each)
            .map(|_| ())
            .inspect_err(|e| self.core.damaged(&e.reason))
    }
}

/// The state as the one applier sees it. Takes the lock only for single looks into the overlay: nobody but the
/// applier changes records, and the writer only moves them, so what it reads in between is still the same state.
pub(super) struct ApplyView<'a> {
    /// Whose applier lock the caller holds.
    pub core: &'a Core,
    /// The engine of the whole run: only the holder of the applier lock replaces it.
    pub engine: Arc<Engine>,
}

impl View for ApplyView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        if let Some(slot) = self.core.memory.read().overlay.get(&Key::from(key)) {
            return Ok(slot.value.clone());
        }
        self.engine.get(key).inspect_err(|e| self.core.damaged(&e.reason))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        let Some((start, end)) = bounds(from, to) else { return Ok(()) };
        let mut done: Option<Key> = None;
        loop {
            let start = done.as_ref().map_or(start, |key| Bound::Excluded(key.as_ref()));
            // The overlay first, then sled: a record that moves in between is then seen twice, never missed.
            let chunk: Vec<(Key, Option<Bytes>)> = {
                let memory = self.core.memory.read();
                let range = memory.overlay.range(held((start, end)));
                range.take(SCAN_CHUNK).map(|(key, slot)| (key.clone(), slot.value.clone())).collect()
            };
            let more =
                if chunk.len() == SCAN_CHUNK { chunk.last().map(|(key, _)| key.clone()) } else { None };
            let chunk_end = more.as_ref().map_or(end, |key| Bound::Included(key.as_ref()));
            let entries = chunk.iter().map(|(key, value)| (key, value));
            let flow = merge_scan(entries, &self.engine, (start, chunk_end), each)
                .inspect_err(|e| self.core.damaged(&e.reason))?;
            if more.is_none() || flow.is_break() {
                return Ok(());
            }
            done = more;
        }
    }
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Bounds as the overlay compares them.
fn held((from, to): Bounds<'_>) -> (Bound<Key>, Bound<Key>) {
    (from.map(Key::from), to.map(Key::from))
}

/// `from <= key < to` without the empty key, which is not a record; none when nothing can be in it.
fn bounds<'a>(from: &'a [u8], to: &'a [u8]) -> Option<Bounds<'a>> {
    let start = if from.is_empty() { Bound::Excluded(from) } else { Bound::Included(from) };
    (from < to).then_some((start, Bound::Excluded(to)))
}

/// Calls `each` for the records of the overlay and of sled in key order; under equal keys the overlay counts.
fn merge_scan<'a>(
    overlay: impl Iterator<Item = (&'a Key, &'a Option<Bytes>)>,
    engine: &Engine,
    (start, end): Bounds<'_>,
    each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ViewError> {
    let mut overlay = overlay.peekable();
    for record in engine.range(start, end) {
        let (key, value) = record?;
        let mut replaced = false;
        while let Some((newer_key, newer)) = overlay.next_if(|(k, _)| k[..] <= key[..]) {
            replaced = newer_key[..] == key[..];
            if let Some(newer) = newer
                && each(newer_key, newer).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        if !replaced && each(&key, &value).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    for (key, value) in overlay {
        if let Some(value) = value
            && each(key, value).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}
