//! Randomness: ids, jitter, the order in which peers are tried. Seeded from the system, fit for identities.
//!
//! Everything that draws does it with [`Dice`], so that a simulation can hold them.

use std::convert::Infallible;

use rand::rngs::ThreadRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, TryRng};

/// The generator of this thread, or of the simulation that runs in it. Not to be held over an await.
#[derive(Clone, Debug)]
pub struct Dice(ThreadRng);

impl TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        #[cfg(feature = "simulation")]
        if let Some(drawn) = super::simulated::draw(RngExt::random) {
            return Ok(drawn);
        }
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        #[cfg(feature = "simulation")]
        if let Some(drawn) = super::simulated::draw(RngExt::random) {
            return Ok(drawn);
        }
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, room: &mut [u8]) -> Result<(), Infallible> {
        #[cfg(feature = "simulation")]
        if super::simulated::draw(|dice| dice.fill_bytes(room)).is_some() {
            return Ok(());
        }
        self.0.fill_bytes(room);
        Ok(())
    }
}

/// The generator of this thread. Not to be held over an await.
#[must_use]
pub fn rng() -> Dice {
    Dice(rand::rng())
}

/// 64 random bits.
#[must_use]
pub fn random_u64() -> u64 {
    rng().random()
}

/// 128 random bits: enough for an identity that nobody hands out.
#[must_use]
pub fn random_u128() -> u128 {
    rng().random()
}

/// A random number below `bound`; 0 when `bound` is 0.
#[must_use]
pub fn random_below(bound: u64) -> u64 {
    if bound == 0 { 0 } else { rng().random_range(0..bound) }
}

/// Puts `items` into a random order.
pub fn shuffle<T>(items: &mut [T]) {
    items.shuffle(&mut rng());
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
