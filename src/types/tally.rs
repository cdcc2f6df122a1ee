//! How records add up to the state hash.
//!
//! The state of a metadata server, its snapshots and dumps are summed with it. Holds: equal sets of records have equal tallies,
//! whatever way they came; the hash covers the key as well as the value, and the border between them.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// Records up to this long are hashed from the stack.
const STACK_LEN: usize = 1024;

/// Sum over all records of a hash of key and value: equal states have equal hashes, whatever way they came.
/// Order does not matter, so each change updates it in constant time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateHash(pub u128);

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// State hash and count of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Wrapping sum of the hashes of all records.
    pub hash: StateHash,
    /// How many.
    pub records: u64,
}

impl Tally {
    /// Counts one more record.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.hash.0 = self.hash.0.wrapping_add(record_hash(key, value));
        self.records = self.records.wrapping_add(1);
    }

    /// Counts those of another part as well.
    pub const fn join(&mut self, part: Self) {
        self.hash.0 = self.hash.0.wrapping_add(part.hash.0);
        self.records = self.records.wrapping_add(part.records);
    }

    /// Counts one record less.
    pub fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.hash.0 = self.hash.0.wrapping_sub(record_hash(key, value));
        self.records = self.records.wrapping_sub(1);
    }
}

/// xxh3 of key length, key and value, in one run: the streaming form costs more than copying a short record.
fn record_hash(key: &[u8], value: &[u8]) -> u128 {
    let len = 8 + key.len() + value.len();
    let fill = |out: &mut [u8]| {
        out[..8].copy_from_slice(&(key.len() as u64).to_le_bytes());
        out[8..8 + key.len()].copy_from_slice(key);
        out[8 + key.len()..].copy_from_slice(value);
        xxh3_128(out)
    };
    if len <= STACK_LEN { fill(&mut [0; STACK_LEN][..len]) } else { fill(&mut vec![0; len]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tally_depends_on_the_records_only_not_on_the_way() {
        let mut direct = Tally::default();
        direct.add(b"a", b"2");
        let mut around = Tally::default();
        around.add(b"b", b"x");
        around.add(b"a", b"1");
        around.subtract(b"a", b"1");
        around.add(b"a", b"2");
        around.subtract(b"b", b"x");
        assert_eq!(direct, around);
        let mut moved = Tally::default();
        moved.add(b"a2", b"");
        assert_ne!(direct, moved, "the border between key and value counts");
        let long = vec![7; 5000];
        let mut longer = direct;
        longer.add(b"l", &long);
        longer.subtract(b"l", &long);
        assert_eq!(direct, longer);
    }
}
