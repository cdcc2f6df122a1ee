//! The cache of records in front of sled: what a key holds, or that it holds nothing.
//!
//! `engine` asks it before sled. A record of the usual size lies within the table itself, so that a hit in a cache of gigabytes waits
//! for two places in memory, the mark of the record and the record; with an index, a list and a value of its own it was for five, and
//! a lookup among ten million inodes took twice as long (decision 0005). Holds: tables and long values together keep within the bound;
//! what was read since the last sweep stays when others go.
//! Not here: when a record may be remembered (`engine`).

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use hashbrown::HashTable;
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64;

use crate::namespace::Key;

/// Bytes of a place in a table: a record and its mark.
const PLACE: u64 = size_of::<Record>() as u64 + 1;
/// Bytes of something on the heap beside what it holds: counters, and what the allocator rounds up.
const HEAP_OVERHEAD: u64 = 32;
/// Longest value that lies within the table: an inode, a dentry with a name of some forty bytes.
const SHORT_LEN_MAX: usize = 62;
/// Bytes of a part of the cache, or some more: a table of 2^14 places and a little for long values. Small enough that nobody notices
/// when a table is built anew.
const PART_BYTES: u64 = 7 << 18;
/// Parts at least.
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
    Long(Bytes),
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
            // A copy: it must not keep the memory of what it came with.
            _ => Self::Long(Bytes::copy_from_slice(value)),
        }
    }

    fn value(&self) -> Option<Bytes> {
        match self {
            Self::Absent => None,
            Self::Short { len, bytes } => {
                Some(Bytes::copy_from_slice(&bytes[..usize::from(*len).min(SHORT_LEN_MAX)]))
            }
            Self::Long(value) => Some(value.clone()),
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
    /// Bytes on the heap.
    fn heap(&self) -> u64 {
        let taken = |len: usize| if len == 0 { 0 } else { HEAP_OVERHEAD + (len + len / 8) as u64 };
        let long = match &self.known {
            Known::Absent | Known::Short { .. } => 0,
            Known::Long(value) => value.len(),
        };
        taken(self.key.heap_len()) + taken(long)
    }

    fn hash(&self) -> u64 {
        xxh3_64(&self.key)
    }
}

/// A part of the cache, by the hash of its keys.
#[derive(Default)]
struct Part {
    table: HashTable<Record>,
    /// Records for which the table was made.
    table_len: usize,
    /// Bytes of its records on the heap.
    heap: u64,
    /// Times that it was swept.
    sweeps: u64,
}

impl Part {
    /// Bytes that it takes.
    fn bytes(&self) -> u64 {
        self.table.allocation_size() as u64 + self.heap
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<&Record> {
        self.table.find(hash, |record| record.key[..] == *key)
    }

    fn remove(&mut self, hash: u64, key: &[u8]) {
        if let Ok(entry) = self.table.find_entry(hash, |record| record.key[..] == *key) {
            let (record, _) = entry.remove();
            self.heap -= record.heap();
        }
    }

    /// Puts `known` in the place of what is known of `key`. Gives it back if nothing is known, or there is no room for it.
    fn replace(&mut self, hash: u64, key: &[u8], known: Known, bytes_max: u64) -> Result<(), Known> {
        let (table, heap) = (self.table.allocation_size() as u64, self.heap);
        let Some(record) = self.table.find_mut(hash, |record| record.key[..] == *key) else {
            return Err(known);
        };
        let before = record.heap();
        let earlier = std::mem::replace(&mut record.known, known);
        let heap = heap - before + record.heap();
        if table + heap > bytes_max {
            return Err(std::mem::replace(&mut record.known, earlier));
        }
        self.heap = heap;
        Ok(())
    }

    /// Makes room for one more record with so much on the heap, within the bound, in a new table if need be. False: something must go.
    fn make_room(&mut self, heap: u64, bytes_max: u64) -> bool {
        let (len, heap) = (self.table.len(), self.heap + heap);
        if len < self.table.capacity() {
            return self.table.allocation_size() as u64 + heap <= bytes_max;
        }
        // A table would grow by itself when it is full of the marks of what was removed; here it grows by what it holds, and where it
        // cannot grow, one of the same size without such marks takes its place, if that is worth it.
        let larger = len + len / 2 + 1;
        if table_bytes(larger) + heap <= bytes_max {
            self.rebuild(larger);
            true
        } else if len <= self.table_len / 16 * 15 && table_bytes(self.table_len) + heap <= bytes_max {
            self.rebuild(self.table_len);
            true
        } else {
            false
        }
    }

    /// Puts a record in that is not there and for which room was made.
    fn add(&mut self, hash: u64, record: Record) {
        self.heap += record.heap();
        self.table.insert_unique(hash, record, Record::hash);
    }

    fn rebuild(&mut self, len: usize) {
        let mut table = HashTable::with_capacity(len);
        self.table_len = table.capacity();
        for record in self.table.drain() {
            table.insert_unique(record.hash(), record, Record::hash);
        }
        self.table = table;
    }

    /// Drops as many records as are an eighth of all, by chance, out of those that were not read since the last sweep; out of all if
    /// everything was read. A table that is less than half full after it gets smaller.
    fn sweep(&mut self) {
        self.sweeps += 1;
        let sweeps = self.sweeps;
        let quota = (self.table.len() as u64).div_ceil(SWEEP);
        let unused = self.table.iter().filter(|record| !record.used.load(Ordering::Relaxed)).count() as u64;
        let all = unused == 0;
        let of = if all { self.table.len() as u64 } else { unused };
        // Where few were not read, those go, and the others have not been tried.
        let forget = all || unused >= quota;
        let heap = &mut self.heap;
        self.table.retain(|record| {
            let used = *record.used.get_mut();
            if forget {
                *record.used.get_mut() = false;
            }
            if used && !all {
                return true;
            }
            // A dice that falls in the same way in every run.
            let stays = xxh3_64(&(record.hash() ^ sweeps).to_le_bytes()) % of >= quota;
            if !stays {
                *heap -= record.heap();
            }
            stays
        });
        let len = self.table.len();
        if len < self.table_len / 2 {
            self.rebuild(len + len / 2 + 1);
        }
    }
}

/// Bytes of a table made for `len` records: seven in eight places, as many places as a power of two.
fn table_bytes(len: usize) -> u64 {
    let places = if len < 8 { 8 } else { (len * 8 / 7).next_power_of_two() };
    places as u64 * PLACE + 16
}

/// Key -> what it holds.
pub(super) struct ReadCache {
    parts: Box<[RwLock<Part>]>,
    /// Bytes that a part may take.
    part_bytes: u64,
}

impl ReadCache {
    /// One that takes `bytes` at most.
    pub(super) fn new(bytes: u64) -> Self {
        let count = (bytes / PART_BYTES).max(PARTS);
        Self { parts: (0..count).map(|_| RwLock::default()).collect(), part_bytes: bytes / count }
    }

    /// Bytes that it takes. Looks at every part.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.read().bytes()).sum()
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
        let hash = xxh3_64(&key);
        let mut part = self.part(hash).write();
        let Err(known) = part.replace(hash, &key, Known::of(value), self.part_bytes) else { return };
        part.remove(hash, &key);
        let record = Record { key, known, used: AtomicBool::new(false) };
        while !part.make_room(record.heap(), self.part_bytes) {
            if part.table.is_empty() {
                return;
            }
            part.sweep();
        }
        part.add(hash, record);
    }

    /// Remembers what `key` holds if nothing is known of it, and nothing has to go for it.
    pub(super) fn fill(&self, key: Key, value: &[u8]) {
        let hash = xxh3_64(&key);
        let record = Record { key, known: Known::of(Some(value)), used: AtomicBool::new(false) };
        let mut part = self.part(hash).write();
        if part.find(hash, &record.key).is_none() && part.make_room(record.heap(), self.part_bytes) {
            part.add(hash, record);
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

    /// Bound of the caches below, unless they say another.
    const BOUND: u64 = PARTS * PART_BYTES;

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
        assert!(cache.parts.iter().all(|part| part.read().heap == 0 && part.read().table.is_empty()));
    }

    #[test]
    fn what_a_table_will_take_is_known_before() {
        for len in (1..70).chain([447, 448, 449, 14_335, 14_336, 14_337]) {
            let table: HashTable<Record> = HashTable::with_capacity(len);
            let taken = table.allocation_size() as u64;
            assert!(taken <= table_bytes(len), "{len} records: {taken} bytes, not {}", table_bytes(len));
        }
        assert!(table_bytes(14_336) <= PART_BYTES, "a part has room for its largest table");
        assert!(size_of::<Known>() == 64);
    }

    /// Whatever comes in whatever order: tables and heap keep within the bound, and the sum is kept right.
    #[test]
    fn it_keeps_within_its_bound() {
        for bound in [64 << 10, 1 << 20, BOUND] {
            let cache = ReadCache::new(bound);
            let check = |what: &str| {
                assert!(cache.bytes() <= bound, "{what}: {} of {bound}", cache.bytes());
                for part in &cache.parts {
                    let part = part.read();
                    assert_eq!(part.heap, part.table.iter().map(Record::heap).sum::<u64>(), "{what}");
                }
            };
            let value = [1; 4096];
            (0..200_000).for_each(|i| cache.insert(key(i), Some(&value[..40])));
            check("short values");
            assert!(bound < 1 << 20 || cache.bytes() > bound / 3, "{} of {bound}", cache.bytes());
            (200_000..204_000).for_each(|i| cache.insert(key(i), Some(&value)));
            check("long values after them");
            assert!(cache.parts.iter().all(|part| part.read().sweeps > 0));
            (0..20_000)
                .for_each(|i| cache.insert(key(i % 1000), Some(&value[..usize::try_from(i % 300).unwrap()])));
            check("values that change their length");
            (0..20_000_u64).for_each(|i| cache.insert(Key::from(&[i.to_be_bytes(); 30].concat()[..]), None));
            check("long keys");
            (300_000..500_000).for_each(|i| cache.insert(key(i), Some(&value[..40])));
            check("short values again");
        }
    }

    /// Marks of what went do not fill a table: it stays as full as one without them.
    #[test]
    fn a_cache_that_turns_over_all_the_time_stays_nearly_full() {
        let cache = ReadCache::new(BOUND);
        let full: usize = cache.parts.len() * 14_336;
        for i in 0..1_000_000 {
            cache.insert(key(i), Some(b"passes"));
            if i > 200_000 && i % 10_000 == 0 {
                let len: usize = cache.parts.iter().map(|part| part.read().table.len()).sum();
                assert!(len > full / 8 * 7, "{len} of {full} records after {i}");
            }
        }
        let sweeps: u64 = cache.parts.iter().map(|part| part.read().sweeps).sum();
        assert!(sweeps < 1_000_000 / (14_336 / SWEEP) * 5 / 4, "{sweeps} sweeps");
    }

    #[test]
    fn what_is_read_again_and_again_stays() {
        let cache = ReadCache::new(BOUND);
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
    fn where_all_was_read_some_go_by_chance() {
        let cache = ReadCache::new(1 << 20);
        for i in 0..50_000 {
            cache.insert(key(i), Some(b"read at once"));
            assert!(cache.get(&key(i)).is_some(), "{i}");
        }
        assert!(cache.bytes() <= 1 << 20);
        let there = (0..50_000).filter(|i| cache.get(&key(*i)).is_some()).count();
        assert!(there > 3000, "{there}");
    }

    #[test]
    fn what_comes_and_goes_all_the_time_does_not_make_it_grow() {
        let cache = ReadCache::new(BOUND);
        for i in 0..500_000 {
            cache.insert(key(i), Some(b"new"));
            if i >= 1000 {
                cache.remove(&key(i - 1000));
            }
        }
        assert_eq!(cache.parts.iter().map(|part| part.read().table.len()).sum::<usize>(), 1000);
        assert!(cache.bytes() < 1 << 20, "{} bytes for a thousand records", cache.bytes());
    }

    /// A known record gets its new value where it is: no other goes for it, and that it was read is not forgotten.
    #[test]
    fn a_change_of_what_is_known_moves_nothing() {
        let cache = ReadCache::new(1 << 20);
        (0..100_000).for_each(|i| cache.insert(key(i), Some(b"first")));
        let known: Vec<u64> = (0..100_000).filter(|i| cache.get(&key(*i)).is_some()).collect();
        let sweeps = || cache.parts.iter().map(|part| part.read().sweeps).sum::<u64>();
        let before = sweeps();
        (0..10).for_each(|_| known.iter().for_each(|i| cache.insert(key(*i), Some(b"second"))));
        assert_eq!(sweeps(), before);
        for i in known {
            assert_eq!(cache.get(&key(i)), Some(Some(Bytes::from("second"))));
            let hash = xxh3_64(&key(i));
            assert!(cache.part(hash).read().find(hash, &key(i)).unwrap().used.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn filling_drives_nothing_out() {
        let cache = ReadCache::new(BOUND);
        (0..10).for_each(|i| cache.insert(key(i), Some(b"was there")));
        (0..500_000).for_each(|i| cache.fill(key(i), b"read at start"));
        assert!((0..10).all(|i| cache.get(&key(i)) == Some(Some(Bytes::from("was there")))));
        assert!(BOUND / 4 * 3 < cache.bytes() && cache.bytes() <= BOUND, "{} of {BOUND}", cache.bytes());
        assert!(cache.parts.iter().all(|part| part.read().sweeps == 0));
    }

    #[test]
    fn what_can_never_fit_is_not_remembered_and_what_was_is_forgotten() {
        for bound in [0, 100, 4096, 64 << 10] {
            let cache = ReadCache::new(bound);
            cache.insert(key(1), Some(b"small"));
            cache.insert(key(1), Some(&[0; 65_536]));
            assert_eq!(cache.get(&key(1)), None);
            assert!(cache.bytes() <= bound);
        }
    }
}
