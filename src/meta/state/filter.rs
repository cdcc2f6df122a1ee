//! Which keys sled may hold: Bloom filters (B. H. Bloom, 1970), so that asking for what is not there costs no look into sled.
//!
//! Most commands ask for such keys: the name that a create is about to take, the reply that a first sending has not got.
//! The filter grows with the keys, in layers each four times as large as the one before (P. S. Almeida et al., 2007), and a
//! question waits for one line of memory a layer (F. Putze, P. Sanders and J. Singler, 2007). Holds: a key that was ever added is never
//! denied. Removed keys stay in until the next start, which fills it anew; they cost a look into sled, as before.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_128;

/// Keys that the first layer is made for, unless more are expected: 2 MiB.
const FIRST_KEYS: u64 = 1 << 20;
/// A layer is made for this many times as many keys as the one before.
const GROWTH: u64 = 4;
/// Layers at most: the last is made for more keys than there can be.
const LAYERS_MAX: usize = 12;
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
            #[expect(clippy::cast_possible_truncation, reason = "below 8")]
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

/// The filter. Added to by the writer, asked by everybody, without a lock.
pub(super) struct KeyFilter {
    /// Made one after the other; only the newest is added to.
    layers: [OnceLock<Layer>; LAYERS_MAX],
}

impl KeyFilter {
    /// Knows no key.
    pub(super) fn new() -> Self {
        Self { layers: Default::default() }
    }

    /// So many keys are about to be added: one layer has room for them and half as many. Heard only before the first key.
    pub(super) fn expect(&self, keys: u64) {
        let keys_max = FIRST_KEYS.max(keys.saturating_add(keys / 2));
        self.layers[0].get_or_init(|| Layer::new(keys_max));
    }

    /// From now on `key` may be there.
    pub(super) fn add(&self, key: &[u8]) {
        let hashed = Hashed::of(key);
        let first = self.layers[0].get_or_init(|| Layer::new(FIRST_KEYS));
        let mut newest = (0, first);
        for (i, layer) in self.made().enumerate() {
            if layer.may_hold(&hashed) {
                return;
            }
            newest = (i, layer);
        }
        let (i, layer) = newest;
        layer.add(&hashed);
        if layer.is_full()
            && let Some(next) = self.layers.get(i + 1)
        {
            next.get_or_init(|| Layer::new(layer.keys_max.saturating_mul(GROWTH)));
        }
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

    #[test]
    fn a_filter_grows_with_its_keys() {
        let filter = KeyFilter::new();
        let keys = FIRST_KEYS * 2;
        (0..keys).for_each(|i| filter.add(&key(i)));
        assert_eq!(filter.made().count(), 2);
        assert!((0..keys).all(|i| filter.may_hold(&key(i))));
        assert!(passed(&filter, 100_000) < 500, "{} of 100,000 absent keys pass", passed(&filter, 100_000));
        // Keys that it knows do not fill it.
        let held =
            |filter: &KeyFilter| filter.made().map(|layer| layer.keys.load(Ordering::Relaxed)).sum::<u64>();
        let before = held(&filter);
        (0..keys).for_each(|i| filter.add(&key(i)));
        assert_eq!(held(&filter), before);
    }

    #[test]
    fn keys_that_are_expected_have_one_layer() {
        let filter = KeyFilter::new();
        filter.expect(FIRST_KEYS * 2);
        (0..FIRST_KEYS * 2).for_each(|i| filter.add(&key(i)));
        filter.expect(1);
        assert_eq!(filter.made().count(), 1);
        assert!(passed(&filter, 100_000) < 500, "{} of 100,000 absent keys pass", passed(&filter, 100_000));
    }

    #[test]
    fn a_question_waits_for_one_line_of_memory_a_layer() {
        assert_eq!((size_of::<Block>(), align_of::<Block>()), (64, 64));
    }
}
