//! The cache of records in front of sled: what a key holds, or that it holds nothing.
//!
//! `engine` asks it before sled. A record of the usual size lies within the table itself, so that a hit in a cache of gigabytes waits
//! for two places in memory, the mark of the record and the record; with an index, a list and a value of its own it was for five, and
//! a lookup among ten million inodes took twice as long (decision 0005). Holds: its bound counts what records take with all that
//! is around them; what was read since the last sweep stays when others go.
//! Not here: when a record may be remembered (`engine`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use hashbrown::HashTable;
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64;

use crate::namespace::Key;

/// Bytes that a record takes with its key, its short value and its place in a full table.
const RECORD: u64 = 128;
/// Bytes of a long value beside itself: counters, and what the allocator rounds up.
const LONG_OVERHEAD: u64 = 32;
/// Longest value that lies within the table: an inode, a dentry with a name of some forty bytes.
const SHORT_LEN_MAX: usize = 62;
/// Places in the table of a part of the cache at most: so few that nobody notices when one is built anew.
const PART_PLACES: u64 = 1 << 14;
/// Parts at least, unless they were of no size at all.
const PARTS: u64 = 8;
/// Of what a full part holds, one in so many goes at a time.
const SWEEP: u64 = 8;

/// What sled has under a key.
#[derive(Clone)]
enum Known {
    /// Nothing.
    Absent,
    /// A value that lies here: as many bytes as `len` says.
    Short { len: u8, bytes: [u8; SHORT_LEN_MAX] },
    /// A longer one.
    Long(Arc<[u8]>),
}

impl Known {
    fn of(value: Option<&[u8]>) -> Self {
        let Some(value) = value else { return Self::Absent };
        match u8::try_from(value.len()) {
            Ok(len) if value.len() <= SHORT_LEN_MAX => {
                let mut bytes = [0; SHORT_LEN_MAX];
                bytes[..value.len()].copy_from_slice(value);
                Self::Short { len, bytes }
            }
            _ => Self::Long(value.into()),
        }
    }

    fn value(&self) -> Option<Bytes> {
        match self {
            Self::Absent => None,
            Self::Short { len, bytes } => {
                Some(Bytes::copy_from_slice(&bytes[..usize::from(*len).min(SHORT_LEN_MAX)]))
            }
            Self::Long(value) => Some(Bytes::copy_from_slice(value)),
        }
    }
}

struct Record {
    key: Key,
    known: Known,
    /// Read since the last sweep.
    used: AtomicBool,
}

impl Record {
    fn weight(&self) -> u64 {
        let long = match &self.known {
            Known::Absent | Known::Short { .. } => 0,
            Known::Long(value) => LONG_OVERHEAD + value.len() as u64,
        };
        RECORD + self.key.heap_len() as u64 + long
    }

    fn hash(&self) -> u64 {
        xxh3_64(&self.key)
    }
}

/// A part of the cache, by the hash of its keys.
#[derive(Default)]
struct Part {
    table: HashTable<Record>,
    /// Weight of its records.
    bytes: u64,
    /// Times that it was swept.
    sweeps: u64,
}

impl Part {
    fn find(&self, hash: u64, key: &[u8]) -> Option<&Record> {
        self.table.find(hash, |record| record.key[..] == *key)
    }

    fn remove(&mut self, hash: u64, key: &[u8]) {
        if let Ok(entry) = self.table.find_entry(hash, |record| record.key[..] == *key) {
            let (record, _) = entry.remove();
            self.bytes -= record.weight();
        }
    }

    /// Puts a record in that is not there. The caller has made room: it is one of `records_max` at most.
    fn add(&mut self, hash: u64, record: Record, records_max: usize) {
        let len = self.table.len();
        if len == self.table.capacity() {
            // A table would grow by itself when it is full of the marks of what was removed; here it grows by what it holds.
            let mut table = HashTable::with_capacity((len + len / 2 + 1).min(records_max));
            for record in self.table.drain() {
                table.insert_unique(record.hash(), record, Record::hash);
            }
            self.table = table;
        }
        self.bytes += record.weight();
        self.table.insert_unique(hash, record, Record::hash);
    }

    /// Drops an eighth, by chance, of what was not read since the last sweep; of everything, if everything was.
    fn sweep(&mut self) {
        self.sweeps += 1;
        let sweeps = self.sweeps;
        let quota = (self.table.len() as u64).div_ceil(SWEEP);
        let unused = self.table.iter().filter(|record| !record.used.load(Ordering::Relaxed)).count() as u64;
        let (all, of) = if unused == 0 { (true, self.table.len() as u64) } else { (false, unused) };
        let bytes = &mut self.bytes;
        self.table.retain(|record| {
            let used = std::mem::take(record.used.get_mut());
            // A dice that falls in the same way in every run.
            let dice = xxh3_64(&(record.hash() ^ sweeps).to_le_bytes()) % of;
            let goes = (all || !used) && dice < quota;
            if goes {
                *bytes -= record.weight();
            }
            !goes
        });
    }
}

/// Key -> what it holds.
pub(super) struct ReadCache {
    parts: Box<[RwLock<Part>]>,
    /// Records that a part may have, if they are all short: its table has eight places for each seven.
    part_records: usize,
    /// Weight that a part may have.
    part_bytes: u64,
}

impl ReadCache {
    /// One that takes `bytes` at most.
    pub(super) fn new(bytes: u64) -> Self {
        let places = (bytes / RECORD / PARTS).clamp(8, PART_PLACES);
        let part_records = 7 << (places.ilog2() - 3);
        let part_bytes = part_records as u64 * RECORD;
        let count = (bytes / part_bytes).max(1);
        Self { parts: (0..count).map(|_| RwLock::default()).collect(), part_records, part_bytes }
    }

    /// Bytes that its records take.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.read().bytes).sum()
    }

    /// What is known of `key`: a value, or that there is none.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let hash = xxh3_64(key);
        let part = self.part(hash).read();
        let record = part.find(hash, key)?;
        // Others read it too: the line is written to once between two sweeps.
        if !record.used.load(Ordering::Relaxed) {
            record.used.store(true, Ordering::Relaxed);
        }
        Some(record.known.value())
    }

    /// Remembers what `key` holds. What does not fit at all is not remembered.
    pub(super) fn insert(&self, key: Key, value: Option<&[u8]>) {
        let (hash, record) = Self::record(key, value);
        let mut part = self.part(hash).write();
        part.remove(hash, &record.key);
        if record.weight() > self.part_bytes {
            return;
        }
        while part.bytes + record.weight() > self.part_bytes {
            part.sweep();
        }
        part.add(hash, record, self.part_records);
    }

    /// Remembers what `key` holds if nothing is known of it, and nothing has to go for it for some time.
    pub(super) fn fill(&self, key: Key, value: &[u8]) {
        let (hash, record) = Self::record(key, Some(value));
        let mut part = self.part(hash).write();
        let bound = self.part_bytes / SWEEP * (SWEEP - 1);
        if part.bytes + record.weight() <= bound && part.find(hash, &record.key).is_none() {
            part.add(hash, record, self.part_records);
        }
    }

    /// Forgets `key`.
    pub(super) fn remove(&self, key: &[u8]) {
        let hash = xxh3_64(key);
        self.part(hash).write().remove(hash, key);
    }

    /// Forgets everything.
    #[cfg(test)]
    pub(super) fn clear(&self) {
        self.parts.iter().for_each(|part| *part.write() = Part::default());
    }

    fn record(key: Key, value: Option<&[u8]>) -> (u64, Record) {
        (xxh3_64(&key), Record { key, known: Known::of(value), used: AtomicBool::new(false) })
    }

    /// A number that is even among all 64-bit numbers, scaled to one that is even among the parts. The table in it takes the low and
    /// the highest bits of the hash, so what says the part is mixed once more.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of parts")]
    fn part(&self, hash: u64) -> &RwLock<Part> {
        let mixed = hash.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.parts[((u128::from(mixed) * self.parts.len() as u128) >> 64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u64) -> Key {
        Key::from(i.to_be_bytes())
    }

    /// A cache of more than one part.
    fn of_some_parts() -> ReadCache {
        let cache = ReadCache::new(PARTS * PART_PLACES * RECORD);
        assert!(cache.parts.len() > 1);
        cache
    }

    /// Bytes of its tables.
    fn taken(cache: &ReadCache) -> u64 {
        cache.parts.iter().map(|part| part.read().table.allocation_size() as u64).sum()
    }

    #[test]
    fn a_value_of_any_length_comes_back() {
        let cache = ReadCache::new(1 << 20);
        for len in [0, 1, SHORT_LEN_MAX - 1, SHORT_LEN_MAX, SHORT_LEN_MAX + 1, 255, 256, 257, 4096] {
            let value: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            cache.insert(key(1), Some(&value));
            assert_eq!(cache.get(&key(1)), Some(Some(Bytes::from(value))), "{len}");
        }
        cache.insert(key(1), None);
        assert_eq!(cache.get(&key(1)), Some(None));
        cache.remove(&key(1));
        assert_eq!(cache.get(&key(1)), None);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_record_is_as_small_as_its_weight_says() {
        // A full table has seven records in eight places, and a mark for each place.
        assert!((size_of::<Record>() + 1) * 8 / 7 <= usize::try_from(RECORD).unwrap());
        let heavy = Record { key: key(1), known: Known::of(Some(&[7; 1000])), used: AtomicBool::new(false) };
        assert!(heavy.weight() >= 1000 + RECORD);
    }

    #[test]
    fn it_keeps_within_its_bound_and_is_nearly_full() {
        let cache = of_some_parts();
        let bound = PARTS * PART_PLACES * RECORD;
        let long = [1; 300];
        for i in 0..300_000 {
            let len = if i % 100 == 0 { 300 } else { 40 };
            cache.insert(key(i), Some(&long[..len]));
            if i % 1000 == 0 {
                assert!(cache.bytes() <= bound, "{} after {i}", cache.bytes());
            }
        }
        assert!(cache.bytes() > bound / 2, "{} of {bound}", cache.bytes());
        let counted: u64 =
            cache.parts.iter().map(|part| part.read().table.iter().map(Record::weight).sum::<u64>()).sum();
        assert_eq!(cache.bytes(), counted);
        assert!(taken(&cache) <= bound, "tables of {} bytes for {bound}", taken(&cache));
    }

    #[test]
    fn what_is_read_again_and_again_stays() {
        let cache = of_some_parts();
        (0..1000).for_each(|i| cache.insert(key(i), Some(b"hot")));
        for i in 1000..500_000 {
            cache.insert(key(i), Some(b"passes"));
            if i % 1000 == 0 {
                let there = (0..1000).filter(|hot| cache.get(&key(*hot)).is_some()).count();
                assert_eq!(there, 1000, "after {i}");
            }
        }
    }

    #[test]
    fn what_changes_all_the_time_does_not_make_it_grow() {
        let cache = of_some_parts();
        for i in 0..500_000 {
            cache.insert(key(i), Some(b"new"));
            if i >= 1000 {
                cache.remove(&key(i - 1000));
            }
        }
        assert_eq!(cache.bytes(), 1000 * RECORD);
        assert!(taken(&cache) < 1 << 20, "tables of {} bytes for a thousand records", taken(&cache));
    }

    #[test]
    fn filling_drives_nothing_out() {
        let cache = of_some_parts();
        (0..10).for_each(|i| cache.insert(key(i), Some(b"was there")));
        (0..500_000).for_each(|i| cache.fill(key(i), b"read at start"));
        assert!((0..10).all(|i| cache.get(&key(i)) == Some(Some(Bytes::from("was there")))));
        let (bytes, bound) = (cache.bytes(), PARTS * PART_PLACES * RECORD);
        assert!(bound / 4 * 3 < bytes && bytes <= bound / SWEEP * (SWEEP - 1), "{bytes} of {bound}");
        assert!(cache.parts.iter().all(|part| part.read().sweeps == 0));
    }

    #[test]
    fn what_can_never_fit_is_not_remembered_and_replaces_what_was() {
        let cache = ReadCache::new(4096);
        cache.insert(key(1), Some(b"small"));
        cache.insert(key(1), Some(&[0; 8192]));
        assert_eq!(cache.get(&key(1)), None);
        assert_eq!(cache.bytes(), 0);
    }
}
