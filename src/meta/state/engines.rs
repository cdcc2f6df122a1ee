//! The database behind the view: sled, or a journal where the disk is not the system's.
//!
//! Everything in `state` but `engine` and `journal` knows this one only. Holds: both keep what `engine` promises; which of
//! them a view is made of depends on nothing but the disk.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::path::Path;

use bytes::Bytes;
use sled::IVec;

use super::super::StoreError;
use super::StateConfig;
use super::engine::{SledEngine, SledRecords};
use super::journal::{JournalEngine, JournalRecords};
use super::record::Stamp;
use super::writer::Merged;
use crate::namespace::{Key, ViewError};

/// A change: a key and its new value; none: deleted.
pub(super) type Put<'a> = (&'a [u8], Option<&'a Bytes>);

/// One view.
pub(super) enum Engine {
    /// On the system's disks.
    Sled(Box<SledEngine>),
    /// On any other.
    Journal(Box<JournalEngine>),
}

impl Engine {
    /// Opens or makes the view in `dir`.
    pub(super) fn open(config: &StateConfig, dir: &Path) -> Result<Self, StoreError> {
        if config.disk.is_the_systems() {
            let engine = SledEngine::open(dir, config.sled_cache_bytes, config.cache_bytes)?;
            return Ok(Self::Sled(Box::new(engine)));
        }
        Ok(Self::Journal(Box::new(JournalEngine::open(config.disk.clone(), dir)?)))
    }

    /// So many records are about to be written.
    pub(super) fn expect(&self, records: u64) {
        match self {
            Self::Sled(engine) => engine.expect(records),
            Self::Journal(_) => {}
        }
    }

    /// Bytes of the read cache.
    pub(super) fn cache_bytes(&self) -> u64 {
        match self {
            Self::Sled(engine) => engine.cache_bytes(),
            Self::Journal(_) => 0,
        }
    }

    /// Bytes of its files.
    pub(super) fn disk_bytes(&self) -> u64 {
        match self {
            Self::Sled(engine) => engine.disk_bytes(),
            Self::Journal(engine) => engine.disk_bytes(),
        }
    }

    /// The value under `key`, which is not being changed meanwhile.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self {
            Self::Sled(engine) => engine.get(key),
            Self::Journal(engine) => Ok(engine.get(key)),
        }
    }

    /// Records between two bounds in key order.
    pub(super) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Records<'_> {
        match self {
            Self::Sled(engine) => Records::Sled(engine.range(from, to)),
            Self::Journal(engine) => Records::Journal(engine.range(from, to)),
        }
    }

    /// Writes changes and the stamp of the state that they lead to, all or nothing.
    pub(super) fn write<'a>(
        &self,
        changes: impl Iterator<Item = Put<'a>>,
        stamp: Option<&Stamp>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Sled(engine) => engine.write(changes, stamp),
            Self::Journal(engine) => engine.write(changes, stamp),
        }
    }

    /// Remembers what was just written, before the overlay forgets it.
    pub(super) fn remember(&self, changes: &BTreeMap<Key, Merged>) {
        match self {
            Self::Sled(engine) => engine.remember(changes),
            Self::Journal(_) => {}
        }
    }

    /// The stamp, with which all records were found to agree. To be called once, before the first read.
    pub(super) fn verify(&self) -> Result<Stamp, StoreError> {
        match self {
            Self::Sled(engine) => engine.verify(),
            Self::Journal(engine) => engine.verify(),
        }
    }

    /// Closes it so that it survives a reboot.
    pub(super) fn close(self) -> Result<(), StoreError> {
        match self {
            Self::Sled(engine) => engine.close(),
            Self::Journal(engine) => engine.close(),
        }
    }
}

#[cfg(test)]
impl Engine {
    /// sled's, for tests of what only sled can do.
    pub(super) fn sled(&self) -> &SledEngine {
        match self {
            Self::Sled(engine) => engine,
            Self::Journal(_) => panic!("the view is not in sled"),
        }
    }
}

/// Records in key order, each checked.
#[expect(clippy::large_enum_variant, reason = "sled's is the one that counts, and it stays on the stack")]
pub(super) enum Records<'a> {
    /// Of sled.
    Sled(SledRecords<'a>),
    /// Of a journal.
    Journal(JournalRecords<'a>),
}

impl Iterator for Records<'_> {
    type Item = Result<(RecordKey, Bytes), ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Sled(records) => {
                records.next().map(|record| record.map(|(key, value)| (RecordKey::Sled(key), value)))
            }
            Self::Journal(records) => records.next().map(|(key, value)| Ok((RecordKey::Journal(key), value))),
        }
    }
}

/// A key as the engine has it, without another copy.
pub(super) enum RecordKey {
    /// Of sled.
    Sled(IVec),
    /// Of a journal.
    Journal(Key),
}

impl Deref for RecordKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Sled(key) => key,
            Self::Journal(key) => key,
        }
    }
}
