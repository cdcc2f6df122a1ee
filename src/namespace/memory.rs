//! A view in memory, for tests, benches and simulations.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::records::{Record, Superblock};
use super::{Change, View, ViewError, keys};

/// Records in a `BTreeMap`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryView {
    /// Key and value of every record.
    pub records: BTreeMap<Vec<u8>, Bytes>,
}

impl MemoryView {
    /// Stores what a run of commands changed.
    ///
    /// # Panics
    /// When a change's old value is not what is stored: the run had another view.
    pub fn store(&mut self, changes: &[Change]) {
        for Change { key, old, new } in changes {
            let was = match new {
                Some(value) => self.records.insert(key.to_vec(), value.clone()),
                None => self.records.remove(key.as_ref()),
            };
            assert_eq!(was.as_ref(), old.as_ref(), "key {key:02x?}: the change was made for another view");
        }
    }

    /// For tests that want names to collide: only `bits` bits (1 to 63) of the name hash count from now on. The namespace must be
    /// founded and without names.
    ///
    /// # Errors
    /// When there is no superblock.
    #[doc(hidden)]
    pub fn weaken_hash(&mut self, bits: u8) -> Result<(), ViewError> {
        let stored = self.records.get(keys::SUPERBLOCK).map_or(&[][..], |bytes| bytes);
        let superblock = Superblock { hash_bits: bits, ..Superblock::decode(stored)? };
        self.records.insert(keys::SUPERBLOCK.to_vec(), superblock.encode());
        Ok(())
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.records.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        if from < to {
            for (key, value) in self.records.range::<[u8], _>((Included(from), Excluded(to))) {
                if each(key, value).is_break() {
                    break;
                }
            }
        }
        Ok(())
    }
}
