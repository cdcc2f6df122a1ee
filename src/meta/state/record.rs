//! What one stored record looks like, and how records add up to the state hash.
//!
//! `engine` and `snapshot` use it. Holds: the hash and the checksum cover the key as well as the value, so that a
//! value that turns up under another key is noticed.
//!
//! ```text
//! value in sled:  value bytes | crc32c(key, value) u32 le   (of a page: its bytes, under its key)
//! stamp in sled:  the same, under the empty key, which no record has
//! ```

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::super::{Position, StateHash};
use crate::namespace::Change;

/// Longest key: names are at most 255 bytes, so this leaves room and still bounds what a damaged length can claim.
pub(super) const KEY_LEN_MAX: usize = 4 << 10;
/// Longest value: what the codec can encode.
pub(super) const VALUE_LEN_MAX: usize = 16 << 20;
/// Bytes of the checksum behind each value.
const CRC_LEN: usize = 4;
/// Records up to this long are hashed from the stack.
const STACK_LEN: usize = 1024;

/// Which state: position, hash and count of records, stored in the same batch as the records themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// How far.
    pub position: Position,
    /// Over which records.
    pub tally: Tally,
}

/// State hash and count of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Wrapping sum of the hashes of all records.
    pub hash: StateHash,
    /// How many.
    pub records: u64,
}

impl Tally {
    /// Counts one more record.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.hash.0 = self.hash.0.wrapping_add(record_hash(key, value));
        self.records = self.records.wrapping_add(1);
    }

    /// Counts one record less.
    pub(super) fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.hash.0 = self.hash.0.wrapping_sub(record_hash(key, value));
        self.records = self.records.wrapping_sub(1);
    }

    /// Follows one change.
    pub(super) fn follow(&mut self, change: &Change) {
        if let Some(old) = &change.old {
            self.subtract(&change.key, old);
        }
        if let Some(new) = &change.new {
            self.add(&change.key, new);
        }
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

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

/// Value with its checksum, as sled keeps it.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + CRC_LEN);
    out.extend_from_slice(value);
    out.extend_from_slice(&checksum(key, value).to_le_bytes());
    out
}

/// The value in what sled gave back for `key`; none when the checksum says otherwise.
pub(super) fn unseal<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (value, crc) = stored.split_last_chunk::<CRC_LEN>()?;
    (checksum(key, value) == u32::from_le_bytes(*crc)).then_some(value)
}

/// A key as messages show it.
pub(super) fn show(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_accepted_only_under_its_key_and_unchanged() {
        let stored = seal(b"key", b"value");
        assert_eq!(unseal(b"key", &stored), Some(&b"value"[..]));
        assert_eq!(unseal(b"kez", &stored), None);
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 1;
            assert_eq!(unseal(b"key", &flipped), None, "byte {at}");
        }
        assert_eq!(unseal(b"key", b"abc"), None);
    }

    #[test]
    fn the_tally_depends_on_the_records_only_not_on_the_way() {
        let mut direct = Tally::default();
        direct.add(b"a", b"2");
        let mut around = Tally::default();
        around.add(b"b", b"x");
        around.add(b"a", b"1");
        around.follow(&Change { key: "a".into(), old: Some("1".into()), new: Some("2".into()) });
        around.follow(&Change { key: "b".into(), old: Some("x".into()), new: None });
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
