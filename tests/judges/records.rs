//! Bytes that say who wrote them: what the writers of a simulation put into files.
//!
//! Clients write what `record` makes; `contents` and `overwrites` recognise it in what was read.
//! Holds: no two records have eight bytes in common at any place that are equal, but for their headers; so any piece of a record
//! shows which one it is from, and a record that is cut, mixed or moved is none.
//!
//! ```text
//!  magic 8 | writer 4 | sequence 4 | len 4 | seal 4 | random bytes of (writer, sequence) ... up to len
//! ```

use std::fmt;

use super::linearizability::splitmix64;

/// The shortest record: its header.
pub const HEADER_LEN: usize = 24;

const MAGIC: [u8; 8] = *b"\nrecord:";

/// Who wrote it, and which of his it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    pub writer: u32,
    pub sequence: u32,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.writer, self.sequence)
    }
}

/// The record, `len` bytes long.
pub fn record(id: RecordId, len: usize) -> Vec<u8> {
    assert!(len >= HEADER_LEN, "a record of {len} bytes has no room for its header");
    let short = u32::try_from(len).unwrap_or_else(|_| panic!("a record of {len} bytes is too long"));
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend(MAGIC);
    for number in [id.writer, id.sequence, short, seal(id, short)] {
        bytes.extend(number.to_le_bytes());
    }
    let mut state = u64::from(id.writer) << 32 | u64::from(id.sequence);
    // One step first: the states of neighbours are next to each other.
    state = splitmix64(&mut state);
    while bytes.len() < len {
        bytes.extend(splitmix64(&mut state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The whole record that the bytes begin with, and its length; or what is wrong.
pub fn recognise(bytes: &[u8]) -> Result<(RecordId, usize), String> {
    let (id, len) = header(bytes)?;
    let whole = record(id, len);
    if let Some(at) = (0..len).find(|at| bytes.get(*at) != Some(&whole[*at])) {
        let what = if at < bytes.len() { "differs from" } else { "ends at" };
        return Err(format!("record {id} of {len} bytes {what} its byte {at}"));
    }
    Ok((id, len))
}

fn header(bytes: &[u8]) -> Result<(RecordId, usize), String> {
    if bytes.len() < HEADER_LEN || bytes[..8] != MAGIC {
        let front = &bytes[..bytes.len().min(16)];
        return Err(format!("no record begins with \"{}\"", front.escape_ascii()));
    }
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (id, len) = (RecordId { writer: number(8), sequence: number(12) }, number(16));
    match usize::try_from(len) {
        Ok(whole) if number(20) == seal(id, len) && whole >= HEADER_LEN => Ok((id, whole)),
        _ => Err(format!("the header of record {id} is damaged")),
    }
}

/// Where the next record may begin.
pub fn next_magic(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(MAGIC.len()).position(|window| window == MAGIC).map_or(bytes.len(), |at| from + at)
}

fn seal(id: RecordId, len: u32) -> u32 {
    let mut state = (u64::from(id.writer) << 32 | u64::from(id.sequence)) ^ (u64::from(len) << 16);
    u32::try_from(splitmix64(&mut state) >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: RecordId = RecordId { writer: 3, sequence: 9 };

    #[test]
    fn a_record_is_recognised_and_nothing_else() {
        let bytes = record(ONE, 100);
        assert_eq!(recognise(&[bytes.clone(), vec![1, 2]].concat()), Ok((ONE, 100)));
        assert_eq!(recognise(&record(ONE, HEADER_LEN)), Ok((ONE, HEADER_LEN)));
        assert!(recognise(&bytes[..99]).unwrap_err().contains("ends at its byte 99"));
        assert!(recognise(&bytes[1..]).unwrap_err().contains("no record"));
        assert!(recognise(&[0; 100]).unwrap_err().contains("no record"));
        for at in [9, 13, 17, 21] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(recognise(&damaged).unwrap_err().contains("damaged"), "{at}");
        }
        let mut damaged = bytes;
        damaged[60] ^= 1;
        assert!(recognise(&damaged).unwrap_err().contains("differs from its byte 60"));
    }

    #[test]
    fn records_have_nothing_in_common() {
        let mut words = std::collections::HashSet::new();
        for writer in 0..4 {
            for sequence in 0..50 {
                let bytes = record(RecordId { writer, sequence }, 4096);
                assert!(bytes[HEADER_LEN..].chunks_exact(8).all(|word| words.insert(word.to_vec())));
            }
        }
    }
}
