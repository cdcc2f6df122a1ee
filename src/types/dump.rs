//! A dump: what it says of itself, how its records are packed, and the steps by which a cluster is restored from one.
//!
//! `cli/dump` writes and reads the files, `meta` sends the records and takes them back, `namespace` puts them into place.
//!
//! ```text
//! packed records   (key len u32 | value len u32 | key | value)*, little-endian; keys ascending over the whole dump
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{ClusterId, LogIndex, StateHash, Tally, Timestamp};

/// Most bytes of packed records in one block of a dump, which travels as a whole. A block of a snapshot, which becomes one of a dump,
/// ends with the first record that reaches 256 KiB, and no record comes near the rest.
pub const DUMP_BLOCK_LEN_MAX: usize = 512 << 10;

/// Which state a dump is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpStamp {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// As of which log index.
    pub index: LogIndex,
    /// When it was begun, by the clock of the server that made it.
    pub taken: Timestamp,
    /// Its records, and the state hash of that index.
    pub tally: Tally,
}

/// A step of a restore. Each may be sent any number of times: what is done is not done again. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreStep {
    /// The cluster, which is empty, is to become what the dump says; or the same restore goes on.
    Begin {
        /// Which dump.
        dump: DumpStamp,
        /// Sessions begin here from now on, and inodes at [`first_inode`] of it: above all that any life of the cluster gave out.
        floor: u64,
    },
    /// The next block of the dump.
    Part {
        /// Hash of the dump's state.
        dump: StateHash,
        /// From 0.
        number: u32,
        /// Packed records.
        records: Bytes,
    },
    /// All blocks have come.
    End {
        /// Hash of the dump's state.
        dump: StateHash,
        /// That of the restore which is ended.
        floor: u64,
    },
}

/// The first inode id that is given out after a restore with this floor.
#[must_use]
pub const fn first_inode(floor: u64) -> u64 {
    floor >> 8
}

/// The highest floor: inode ids have 48 bits, and a few trillion are left above.
pub const FLOOR_MAX: u64 = 0xff << 48;

/// A floor that no other restore has: the seconds of the clock, in units of sixteen million sessions and 65,536 inodes, and `dice` within
/// the second. A cluster does not give out so many ids for as long as it lives on average, and a clock shows each second once.
///
/// None when the clock stands before 1970 or behind the year 2100.
#[must_use]
pub fn floor_at(clock: Timestamp, dice: u64) -> Option<u64> {
    let secs = u64::try_from(clock.secs()).ok()?;
    let floor = secs.checked_mul(1 << 24)?.checked_add(dice & 0xff_ffff)?;
    (floor <= FLOOR_MAX).then_some(floor)
}

/// Appends a record to packed ones.
pub fn pack_record(out: &mut BytesMut, key: &[u8], value: &[u8]) {
    for len in [key.len(), value.len()] {
        // Records are far below this.
        out.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
    }
    out.put_slice(key);
    out.put_slice(value);
}

/// The records in packed bytes, in their order; none when they do not add up.
#[must_use]
pub fn unpack_records(packed: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut records = Vec::new();
    let mut at = 0;
    let len_at = |at: usize| {
        let four = packed.get(at..at.checked_add(4)?)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    while at < packed.len() {
        let (key_len, value_len) = (len_at(at)?, len_at(at + 4)?);
        let key_at = at + 8;
        let value_at = key_at.checked_add(key_len)?;
        let end = value_at.checked_add(value_len).filter(|end| *end <= packed.len())?;
        records.push((packed.slice(key_at..value_at), packed.slice(value_at..end)));
        at = end;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_lengths_that_do_not_add_up_are_refused() {
        let mut packed = BytesMut::new();
        let records: [(&[u8], &[u8]); 3] = [(b"a", b"one"), (b"b", b""), (b"bc", b"three")];
        records.iter().for_each(|(key, value)| pack_record(&mut packed, key, value));
        let packed = packed.freeze();
        let back = unpack_records(&packed).unwrap();
        assert!(back.iter().map(|(k, v)| (&k[..], &v[..])).eq(records));
        let whole = [0, 12, 21, packed.len()];
        for len in 0..=packed.len() {
            assert_eq!(unpack_records(&packed.slice(..len)).is_some(), whole.contains(&len), "{len} bytes");
        }
        assert_eq!(unpack_records(&Bytes::from_static(&[0xff; 20])), None);
    }

    #[test]
    fn floors_of_two_seconds_are_far_apart_and_inodes_stay_in_their_48_bits() {
        let at = |secs| floor_at(Timestamp::from_parts(secs, 0), u64::MAX).unwrap();
        assert!(at(1_800_000_000) < at(1_800_000_001));
        assert!(first_inode(at(1_800_000_001)) - first_inode(at(1_800_000_000)) == 1 << 16);
        assert!(first_inode(FLOOR_MAX) < 1 << 48);
        assert_eq!(floor_at(Timestamp::from_parts(-1, 0), 0), None);
        assert_eq!(floor_at(Timestamp::from_parts(9_000_000_000, 0), 0), None);
    }
}
