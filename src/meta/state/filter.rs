//! Which keys sled may hold: Bloom filters (B. H. Bloom, 1970), so that asking for what is not there costs no look into sled.
//!
//! Most commands ask for such keys: the name that a create is about to take, the reply that a first sending has not got.
//! The filter grows with the records, in layers (P. S. Almeida et al., 2007), and a question waits for one line of memory a layer
//! (F. Putze, P. Sanders and J. Singler, 2007). Holds: a key that was ever added is never denied; layers are for at most four times as many
//! keys as there are records. Removed keys stay in until the next start, which fills it anew: where very many came and went,
//! questions for absent keys go on to sled more often, and the filter stays as large as it is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_128;

/// Keys that the first layer is made for, unless more are expected: 2 MiB.
const FIRST_KEYS: u64 = 1 << 20;
/// Layers at most: each but the first makes the filter three times as large, so the last is made for more keys than there can be.
const LAYERS_MAX: usize = 24;
/// Words of a block: one line of the processor's cache.
const BLOCK_WORDS: usize = 8;
/// Bits of a block.
const BLOCK_BITS: u64 = 64 * BLOCK_WORDS as u64;
/// Keys of a block in a full layer: 16 bits for each.
const BLOCK_KEYS: u64 = 32;
/// Bits set for each key, all in one block. In a full layer one question in some five hundred for an absent key goes on to sled.
const PROBES: u64 = 5;
/// Bits of a hash that say one bit of a block.
const PROBE_BITS: u64 = BLOCK_BITS.trailing_zeros() as u64;

/// Bits that lie in one line of the processor's cache.
#[derive(Default)]
#[repr(align(64))]
struct Block([AtomicU64; BLOCK_WORDS]);

/// A filter for so many keys.
struct Layer {
    blocks: Box<[Block]>,
    /// Keys added, but for those that looked as if they were in it.
    keys: AtomicU64,
    /// Keys that it is made for.
    keys_max: u64,
}

/// A hash, as a layer takes it.
struct Hashed {
    block: u64,
    bits: u64,
}

impl Hashed {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a hash")]
    fn of(key: &[u8]) -> Self {
        let hash = xxh3_128(key);
        Self { block: hash as u64, bits: (hash >> 64) as u64 }
    }

    /// Word and bit of each probe.
    fn probes(&self) -> impl Iterator<Item = (usize, u64)> {
        let bits = self.bits;
        (0..PROBES).map(move |i| {
            let bit = (bits >> (PROBE_BITS * i)) % BLOCK_BITS;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }
}

impl Layer {
    fn new(keys_max: u64) -> Self {
        let blocks = (0..keys_max.div_ceil(BLOCK_KEYS)).map(|_| Block::default()).collect();
        Self { blocks, keys: AtomicU64::new(0), keys_max }
    }

    /// The block of a key: a number that is even among all 64-bit numbers, scaled to one that is even among the blocks.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of blocks")]
    fn block(&self, hashed: &Hashed) -> &[AtomicU64; BLOCK_WORDS] {
        let index = (u128::from(hashed.block) * self.blocks.len() as u128) >> 64;
        &self.blocks[index as usize].0
    }

    fn add(&self, hashed: &Hashed) {
        let block = self.block(hashed);
        let mut new = false;
        for (word, bit) in hashed.probes() {
            // Release: whoever finds the bit finds nothing older than what was written before it was set. The record itself
            // is in the overlay until sled has it, so a reader that misses the bit has met the record before.
            new |= block[word].fetch_or(bit, Ordering::Release) & bit == 0;
        }
        if new {
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn may_hold(&self, hashed: &Hashed) -> bool {
        let block = self.block(hashed);
        hashed.probes().all(|(word, bit)| block[word].load(Ordering::Acquire) & bit != 0)
    }

    fn is_full(&self) -> bool {
        self.keys.load(Ordering::Relaxed) >= self.keys_max
    }
}

/// The filter. Added to and asked without a lock.
pub(super) struct KeyFilter {
    /// Made one after the other; only the newest is added to.
    layers: [OnceLock<Layer>; LAYERS_MAX],
}

impl KeyFilter {
    /// Knows no key.
    pub(super) fn new() -> Self {
        Self { layers: Default::default() }
    }

    /// Makes room for as many keys as there are or will be records: at the start a layer for half as many more; later, when the
    /// newest is full, one for twice as many, unless there is room for twice as many already.
    pub(super) fn make_room(&self, records: u64) {
        let (mut made, mut keys_max, mut full) = (0, 0_u64, true);
        for layer in self.made() {
            (made, keys_max, full) = (made + 1, keys_max.saturating_add(layer.keys_max), layer.is_full());
        }
        let wanted = if made == 0 { records.saturating_add(records / 2) } else { records.saturating_mul(2) };
        if full
            && (made == 0 || keys_max < wanted)
            && let Some(next) = self.layers.get(made)
        {
            next.get_or_init(|| Layer::new(wanted.max(FIRST_KEYS)));
        }
    }

    /// From now on `key` may be there.
    pub(super) fn add(&self, key: &[u8]) {
        let hashed = Hashed::of(key);
        let mut newest = self.layers[0].get_or_init(|| Layer::new(FIRST_KEYS));
        for layer in self.made() {
            if layer.may_hold(&hashed) {
                return;
            }
            newest = layer;
        }
        newest.add(&hashed);
    }

    /// False only if `key` was never added.
    pub(super) fn may_hold(&self, key: &[u8]) -> bool {
        let hashed = Hashed::of(key);
        self.made().any(|layer| layer.may_hold(&hashed))
    }

    /// The layers that there are.
    fn made(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().map_while(OnceLock::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u64) -> [u8; 8] {
        i.to_be_bytes()
    }

    /// Of so many absent keys, how many are let through.
    fn passed(filter: &KeyFilter, of: u64) -> usize {
        (1 << 40..(1 << 40) + of).filter(|i| filter.may_hold(&key(*i))).count()
    }

    #[test]
    fn what_was_added_is_never_denied_and_little_else_is_let_through() {
        let filter = KeyFilter::new();
        assert!(!filter.may_hold(&key(0)));
        (0..100_000).for_each(|i| filter.add(&key(i)));
        assert!((0..100_000).all(|i| filter.may_hold(&key(i))));
        assert!(passed(&filter, 100_000) < 10, "{} of 100,000 absent keys pass", passed(&filter, 100_000));
    }

    /// Keys that its layers are made for.
    fn keys_max(filter: &KeyFilter) -> u64 {
        filter.made().map(|layer| layer.keys_max).sum()
    }

    #[test]
    fn a_filter_grows_with_the_records() {
        let filter = KeyFilter::new();
        let records = FIRST_KEYS * 4;
        for i in 0..records {
            filter.add(&key(i));
            if i % 1024 == 0 {
                filter.make_room(i);
            }
        }
        assert_eq!(filter.made().count(), 3);
        assert!(keys_max(&filter) < records * 4);
        assert!((0..records).all(|i| filter.may_hold(&key(i))));
        assert!(passed(&filter, 100_000) < 700, "{} of 100,000 absent keys pass", passed(&filter, 100_000));
        // Keys that it knows do not fill it.
        let held =
            |filter: &KeyFilter| filter.made().map(|layer| layer.keys.load(Ordering::Relaxed)).sum::<u64>();
        let before = held(&filter);
        (0..records).for_each(|i| filter.add(&key(i)));
        assert_eq!(held(&filter), before);
    }

    #[test]
    fn keys_that_come_and_go_do_not_make_it_grow_for_ever() {
        let filter = KeyFilter::new();
        for i in 0..FIRST_KEYS * 8 {
            filter.add(&key(i));
            if i % 1024 == 0 {
                filter.make_room(FIRST_KEYS);
            }
        }
        assert!(keys_max(&filter) <= FIRST_KEYS * 4, "{} keys", keys_max(&filter));
        assert!((0..FIRST_KEYS * 8).all(|i| filter.may_hold(&key(i))));
    }

    #[test]
    fn keys_that_are_expected_have_one_layer() {
        let filter = KeyFilter::new();
        filter.make_room(FIRST_KEYS * 2);
        (0..FIRST_KEYS * 2).for_each(|i| filter.add(&key(i)));
        filter.make_room(FIRST_KEYS * 2);
        assert_eq!(filter.made().count(), 1);
        assert!(passed(&filter, 100_000) < 500, "{} of 100,000 absent keys pass", passed(&filter, 100_000));
    }

    #[test]
    fn several_threads_may_add_while_it_grows() {
        let filter = KeyFilter::new();
        std::thread::scope(|scope| {
            for part in 0..4_u64 {
                let filter = &filter;
                scope.spawn(move || {
                    for i in (part..FIRST_KEYS * 2).step_by(4) {
                        filter.add(&key(i));
                        if i % 4096 == part {
                            filter.make_room(i);
                        }
                    }
                });
            }
        });
        assert!((0..FIRST_KEYS * 2).all(|i| filter.may_hold(&key(i))));
    }

    #[test]
    fn a_question_waits_for_one_line_of_memory_a_layer() {
        assert_eq!((size_of::<Block>(), align_of::<Block>()), (64, 64));
    }
}
