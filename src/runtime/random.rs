//! Randomness: ids, jitter, the order in which peers are tried. Seeded from the system, fit for identities.

use rand::RngExt;
use rand::seq::SliceRandom;

/// The generator of this thread. Not to be held over an await.
#[must_use]
pub fn rng() -> impl rand::Rng {
    rand::rng()
}

/// 64 random bits.
#[must_use]
pub fn random_u64() -> u64 {
    rand::random()
}

/// 128 random bits: enough for an identity that nobody hands out.
#[must_use]
pub fn random_u128() -> u128 {
    rand::random()
}

/// A random number below `bound`; 0 when `bound` is 0.
#[must_use]
pub fn random_below(bound: u64) -> u64 {
    if bound == 0 { 0 } else { rand::rng().random_range(0..bound) }
}

/// Puts `items` into a random order.
pub fn shuffle<T>(items: &mut [T]) {
    items.shuffle(&mut rand::rng());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_every_item_and_a_bound_is_kept() {
        let mut items: Vec<u32> = (0..100).collect();
        let sorted = items.clone();
        shuffle(&mut items);
        assert!(items != sorted);
        items.sort_unstable();
        assert_eq!(items, sorted);
        assert!((0..1000).all(|_| random_below(3) < 3));
        assert_eq!(random_below(0), 0);
    }
}
