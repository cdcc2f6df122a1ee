//! What one stored record looks like, and how the state hash follows changes.
//!
//! `engine` and `snapshot` use it. Holds: the hash and the checksum cover the key as well as the value, so that a
//! value that turns up under another key is noticed.
//!
//! ```text
//! value in sled:  value bytes | crc32c(key, value) u32 le   (of a page: its bytes, under its key)
//! stamp in sled:  the same, under the empty key, which no record has
//! ```

use serde::{Deserialize, Serialize};

use super::super::Position;
use crate::namespace::Change;
pub(super) use crate::types::Tally;

/// Longest key: names are at most 255 bytes, so this leaves room and still bounds what a damaged length can claim.
pub(super) const KEY_LEN_MAX: usize = 4 << 10;
/// Longest value: what the codec can encode.
pub(super) const VALUE_LEN_MAX: usize = 16 << 20;
/// Bytes of the checksum behind each value.
const CRC_LEN: usize = 4;

/// Which state: position, hash and count of records, stored in the same batch as the records themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// How far.
    pub position: Position,
    /// Over which records.
    pub tally: Tally,
}

/// Follows one change.
pub(super) fn follow(tally: &mut Tally, change: &Change) {
    if let Some(old) = &change.old {
        tally.subtract(&change.key, old);
    }
    if let Some(new) = &change.new {
        tally.add(&change.key, new);
    }
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
    fn the_tally_follows_changes() {
        let mut direct = Tally::default();
        direct.add(b"a", b"2");
        let mut around = Tally::default();
        around.add(b"b", b"x");
        around.add(b"a", b"1");
        follow(&mut around, &Change { key: "a".into(), old: Some("1".into()), new: Some("2".into()) });
        follow(&mut around, &Change { key: "b".into(), old: Some("x".into()), new: None });
        assert_eq!(direct, around);
    }
}
