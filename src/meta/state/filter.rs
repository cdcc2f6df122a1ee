//! Which keys sled may hold: a Bloom filter (B. H. Bloom, 1970), so that asking for what is not there costs no look into sled.
//!
//! Most commands ask for such keys: the name that a create is about to take, the reply that a first sending has not got.
//! Holds: a key that was ever added is never denied. Removed keys stay in until the next start, which fills it anew; they
//! cost a look into sled, as before.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_128;

/// Bits: 16 MiB. With 13 million keys (ten bits each) one question in fifty for an absent key goes on to sled; with more, more do.
const BITS: u64 = 1 << 27;
/// Bits set for each key. The best number for ten bits a key is 7; four cost half the cache misses and answer nearly as well.
const PROBES: u64 = 4;

/// The filter. Added to by the writer, asked by everybody, without a lock.
pub(super) struct KeyFilter {
    words: Box<[AtomicU64]>,
}

impl KeyFilter {
    /// Knows no key.
    pub(super) fn new() -> Self {
        Self { words: (0..BITS / 64).map(|_| AtomicU64::new(0)).collect() }
    }

    /// From now on `key` may be there.
    pub(super) fn add(&self, key: &[u8]) {
        for (word, bit) in places(key) {
            // Release: whoever finds the bit finds nothing older than what was written before it was set. The record itself
            // is in the overlay until sled has it, so a reader that misses the bit has met the record before.
            self.words[word].fetch_or(bit, Ordering::Release);
        }
    }

    /// False only if `key` was never added.
    pub(super) fn may_hold(&self, key: &[u8]) -> bool {
        places(key).all(|(word, bit)| self.words[word].load(Ordering::Acquire) & bit != 0)
    }
}

/// Word and bit of each probe: the two halves of one hash, combined (Kirsch and Mitzenmacher, 2006).
#[expect(clippy::cast_possible_truncation, reason = "halves of a hash, and an index below 2^21")]
fn places(key: &[u8]) -> impl Iterator<Item = (usize, u64)> {
    let hash = xxh3_128(key);
    let (first, step) = (hash as u64, (hash >> 64) as u64 | 1);
    (0..PROBES).map(move |i| {
        let bit = first.wrapping_add(i.wrapping_mul(step)) % BITS;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_never_denied_and_little_else_is_let_through() {
        let filter = KeyFilter::new();
        let key = |i: u64| i.to_be_bytes();
        (0..100_000).for_each(|i| filter.add(&key(i)));
        assert!((0..100_000).all(|i| filter.may_hold(&key(i))));
        let passed = (100_000..200_000).filter(|i| filter.may_hold(&key(*i))).count();
        assert!(passed < 100, "{passed} of 100,000 absent keys pass");
    }
}
