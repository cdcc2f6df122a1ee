//! Bytes of the raft log: segment header, record header, bodies.
//!
//! ```text
//! segment: | "PMRAFTLG" | version u32 | 0 u32 | number u64 | crc32c u32 of bytes 0..24 | records... | zeros
//! record:  | magic u32 | body len u32 | synced u32 | crc32c u32 of the body | kind u8, zeros u24 |
//!          | crc32c u32 of (segment number, offset, bytes 0..20) | body
//! entry:   | term u64 | index u64 | data
//! ```
//!
//! All numbers are little-endian. Holds: every byte is under a checksum; the header's covers where the record stands,
//! so that an older record left over in reused disk space is none. `synced` is how many bytes of the segment were
//! known to be on the disk when the record was made: damage below it is no torn tail. `zeros` is how many zero bytes end
//! the body, so that the zeros that were there before a write that did not finish are told from those of a body. Version 1 has no
//! zeros behind the records, and 0 in place of how many end a body.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::codec;

pub(super) const SEGMENT_HEADER_LEN: usize = 28;
pub(super) const HEADER_LEN: usize = 24;
/// Where a header says of which kind its record is.
pub(super) const KIND_AT: usize = 16;
const SEGMENT_MAGIC: &[u8; 8] = b"PMRAFTLG";
const MAGIC: u32 = 0x474f_4c52;
/// Bytes that a write puts into the page cache at a time, at least, on every machine there is.
const PAGE_LEN: usize = 4096;
/// Bytes of term and index before the data of an entry.
const ID_LEN: usize = 16;
/// Longest body that is believed: an entry with room for what goes with it.
pub(super) const BODY_LEN_MAX: usize = super::super::ENTRY_LEN_MAX + (1 << 20);

/// Largest index that is believed: no log comes near it, and indexes below can be counted on from.
pub(crate) const INDEX_MAX: u64 = u64::MAX >> 1;

/// Where an entry stands: `index` counts as openraft does, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct EntryId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// What an entry carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Blank,
    Normal,
    Membership,
}

/// An entry as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEntry {
    pub(crate) id: EntryId,
    pub(crate) kind: EntryKind,
    pub(crate) data: Bytes,
}

impl StoredEntry {
    /// Bytes of its record.
    pub(super) fn record_len(&self) -> usize {
        HEADER_LEN + ID_LEN + self.data.len()
    }
}

/// A vote as it is promised: to whom, in which term, and whether a majority did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredVote {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

/// What this node is to its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// Not known yet: neither votes nor stores.
    #[default]
    Blank,
    /// Came with an empty disk into an existing cluster: stores, does not vote.
    Joining,
    /// Takes part.
    Member,
}

/// Everything but the entries. Each change is written whole; the newest record counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HardState {
    pub(crate) standing: Standing,
    pub(crate) vote: Option<StoredVote>,
    pub(crate) committed: Option<EntryId>,
    /// Entries up to this one are gone; the next one follows it.
    pub(crate) purged: Option<EntryId>,
    /// Last entry at this place of the log. A lower one than before cuts the log.
    pub(crate) last: Option<EntryId>,
    /// Boot of the machine that wrote from here on.
    pub(crate) boot: u128,
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(StoredEntry),
    State(HardState),
}

const KIND_STATE: u8 = 1;
const KIND_BLANK: u8 = 2;
const KIND_NORMAL: u8 = 3;
const KIND_MEMBERSHIP: u8 = 4;

/// What stands behind the records of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Behind {
    /// The end of the file (version 1).
    #[default]
    End,
    /// Zeros, which are room for more (version 2).
    Room,
}

impl Behind {
    const fn version(self) -> u32 {
        match self {
            Self::End => 1,
            Self::Room => 2,
        }
    }
}

/// The header of segment `number`.
pub(super) fn segment_header(number: u64, behind: Behind) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
    out.extend_from_slice(SEGMENT_MAGIC);
    out.extend_from_slice(&behind.version().to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// What stands behind the records of segment `number`, which begins with these bytes.
pub(super) fn check_segment_header(bytes: &[u8], number: u64) -> Result<Behind, String> {
    let found = bytes.get(..SEGMENT_HEADER_LEN).ok_or("it is shorter than its header")?;
    let known = [Behind::End, Behind::Room];
    if let Some(behind) = known.into_iter().find(|behind| found == segment_header(number, *behind)) {
        return Ok(behind);
    }
    let version = u32_at(found, 8);
    if found[..8] == *SEGMENT_MAGIC && known.iter().all(|behind| behind.version() != version) && sealed(found)
    {
        return Err("it was written by another version of this program".into());
    }
    Err("its header is damaged".into())
}

fn sealed(header: &[u8]) -> bool {
    crc32c::crc32c(&header[..24]).to_le_bytes() == header[24..28]
}

fn put_header(out: &mut [u8], place: Place, synced: u32, kind: u8) {
    let (header, body) = out.split_at_mut(HEADER_LEN);
    let len = u32::try_from(body.len()).expect("a body is at most BODY_LEN_MAX");
    header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..12].copy_from_slice(&synced.to_le_bytes());
    header[12..16].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let zeros = if place.behind == Behind::Room { zeros_at_end(body) } else { 0 };
    let [zeros @ .., _] = zeros.to_le_bytes();
    header[KIND_AT] = kind;
    header[KIND_AT + 1..KIND_AT + 4].copy_from_slice(&zeros);
    let crc = header_crc(header, place.number, place.offset);
    header[20..24].copy_from_slice(&crc.to_le_bytes());
}

fn zeros_at_end(body: &[u8]) -> u32 {
    let zeros = body.iter().rev().take_while(|byte| **byte == 0).count();
    u32::try_from(zeros).expect("a body is at most BODY_LEN_MAX, which three bytes can count")
}

fn header_crc(header: &[u8], number: u64, offset: u32) -> u32 {
    let crc = crc32c::crc32c(&number.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, &header[..20])
}

/// Where a record is to stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// In which segment.
    pub(super) number: u64,
    pub(super) behind: Behind,
    pub(super) offset: u32,
}

/// Appends the record of `entry`, which will stand at `place`.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &StoredEntry, place: Place, synced: u32) {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    out.extend_from_slice(&entry.id.term.to_le_bytes());
    out.extend_from_slice(&entry.id.index.to_le_bytes());
    out.extend_from_slice(&entry.data);
    let kind = match entry.kind {
        EntryKind::Blank => KIND_BLANK,
        EntryKind::Normal => KIND_NORMAL,
        EntryKind::Membership => KIND_MEMBERSHIP,
    };
    put_header(&mut out[start..], place, synced, kind);
}

/// Appends the record of `state`, which will stand at `place`.
pub(super) fn put_state(out: &mut Vec<u8>, state: &HardState, place: Place, synced: u32) {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    codec::encode_into(state, out).expect("a state is some hundred bytes");
    put_header(&mut out[start..], place, synced, KIND_STATE);
}

/// Appends a record of any kind and body: for a fuzzer, which cannot guess checksums.
pub(super) fn put_body(out: &mut Vec<u8>, kind: u8, body: &[u8], place: Place) {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    out.extend_from_slice(body);
    put_header(&mut out[start..], place, 0, kind);
}

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// They end before the record does: a write that did not finish.
    Short,
    /// They are all there, and wrong.
    Damaged(&'static str),
}

/// Header fields that have passed their checksum.
pub(super) struct Header {
    pub(super) body_len: usize,
    pub(super) synced: u32,
    body_crc: u32,
    kind: u8,
    /// Zero bytes at the end of the body.
    zeros: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The header at the beginning of `bytes`, which stand at `offset` of segment `number`.
pub(super) fn header(bytes: &[u8], number: u64, offset: u32) -> Result<Header, Bad> {
    let header = bytes.get(..HEADER_LEN).ok_or(Bad::Short)?;
    if u32_at(header, 0) != MAGIC || u32_at(header, 20) != header_crc(header, number, offset) {
        return Err(Bad::Damaged("a record header fails its checksum"));
    }
    let body_len = u32_at(header, 4) as usize;
    if body_len > BODY_LEN_MAX {
        return Err(Bad::Damaged("a record is longer than any can be"));
    }
    let zeros = (u32_at(header, KIND_AT) >> 8) as usize;
    if zeros > body_len {
        return Err(Bad::Damaged("a record ends in more zeros than it has bytes"));
    }
    Ok(Header {
        body_len,
        synced: u32_at(header, 8),
        body_crc: u32_at(header, 12),
        kind: header[KIND_AT],
        zeros,
    })
}

/// What stands at the beginning of `bytes`, which go on to the end of the file, where no whole record does: whether it is a
/// write that did not finish over the zeros that were there. Such a write has put down the beginning of its bytes, up to the end
/// of a page of the cache.
pub(super) fn unfinished(bytes: &[u8], number: u64, offset: u32) -> bool {
    let offset_in_page = offset as usize % PAGE_LEN;
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let stopped = (offset_in_page + written).next_multiple_of(PAGE_LEN) - offset_in_page;
    // The last byte that is not a zero in what was to be written; at least the header would be there.
    let whole = match header(bytes, number, offset) {
        Ok(header) => HEADER_LEN + header.body_len - header.zeros,
        Err(_) => HEADER_LEN,
    };
    stopped < whole && bytes.len() > whole
}

/// Whether nothing but zeros is there.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The record at the beginning of `bytes`, and its length. The data of an entry shares the buffer.
pub(super) fn record(bytes: &Bytes, number: u64, offset: u32) -> Result<(Record, usize), Bad> {
    let header = header(bytes, number, offset)?;
    let end = HEADER_LEN + header.body_len;
    if bytes.len() < end {
        return Err(Bad::Short);
    }
    let body = bytes.slice(HEADER_LEN..end);
    if crc32c::crc32c(&body) != header.body_crc {
        return Err(Bad::Damaged("a record fails its checksum"));
    }
    let kind = match header.kind {
        KIND_STATE => {
            let state: HardState =
                codec::decode(&body).map_err(|_| Bad::Damaged("a state record makes no sense"))?;
            if [state.committed, state.purged, state.last].iter().flatten().any(|id| id.index > INDEX_MAX) {
                return Err(Bad::Damaged("a state record names an index that cannot be"));
            }
            return Ok((Record::State(state), end));
        }
        KIND_BLANK => EntryKind::Blank,
        KIND_NORMAL => EntryKind::Normal,
        KIND_MEMBERSHIP => EntryKind::Membership,
        _ => return Err(Bad::Damaged("a record is of an unknown kind")),
    };
    if body.len() < ID_LEN {
        return Err(Bad::Damaged("an entry is too short"));
    }
    let id = EntryId { term: u64_at(&body, 0), index: u64_at(&body, 8) };
    if id.index > INDEX_MAX {
        return Err(Bad::Damaged("an entry has an index that cannot be"));
    }
    Ok((Record::Entry(StoredEntry { id, kind, data: body.slice(ID_LEN..) }), end))
}

/// Whether a whole record stands anywhere behind `from` that was made when more than `from` bytes were on the disk:
/// then what stands at `from` is not the tail of an unfinished write.
pub(super) fn durable_behind(bytes: &Bytes, number: u64, from: usize) -> bool {
    (from + 1..bytes.len().saturating_sub(HEADER_LEN - 1)).any(|at| {
        let offset = u32::try_from(at).unwrap_or(u32::MAX);
        u32_at(bytes, at) == MAGIC
            && header(&bytes[at..], number, offset).is_ok_and(|h| h.synced as usize > from)
    })
}
