//! The log's decoders as a fuzzer calls them. See `crate::fuzz`.

use std::path::Path;

use bytes::Bytes;

use super::record::{self, Behind, EntryId, EntryKind, HardState, Place, StoredEntry};
use super::scan::{FIRST_SEGMENT, path, scan};
use crate::runtime::disk::{Disk, MemoryDisk};

/// Boots that a segment may have been written and be read in.
const BOOTS: [u128; 2] = [1, 2];

/// Bytes as one record, wherever it stands, and as the head of a segment.
pub(crate) fn one_record(input: &[u8]) {
    drop(record::check_segment_header(input, FIRST_SEGMENT));
    let bytes = Bytes::copy_from_slice(input);
    drop(record::record(&bytes, FIRST_SEGMENT, 0));
    record::durable_behind(&bytes, FIRST_SEGMENT, 0);
}

/// A segment file in an empty directory: its header, a state, and records whose checksums are right, whatever is
/// in them; then a few bytes that may be changed. What is accepted once must be accepted again, and be the same: a
/// start that cuts a torn tail leaves a whole log.
pub(crate) fn segment(input: &[u8]) {
    let Some((&[damage_at, damage], mut rest)) = input.split_first_chunk::<2>() else { return };
    let mut out = record::segment_header(FIRST_SEGMENT, Behind::Room);
    let state = HardState { boot: BOOTS[0], ..HardState::default() };
    let offset = place(&out);
    record::put_state(&mut out, &state, at(offset), 0);
    while let Some((&[kind, len], tail)) = rest.split_first_chunk::<2>() {
        let (body, tail) = tail.split_at(usize::from(len).min(tail.len()));
        let offset = place(&out);
        record::put_body(&mut out, kind, body, at(offset));
        rest = tail;
    }
    let from_end = usize::from(damage_at);
    if from_end > 0 && from_end <= out.len() {
        let at = out.len() - from_end;
        if damage == 0 { out.truncate(at) } else { out[at] ^= damage }
    }
    let (disk, dir) = (MemoryDisk::new(), Path::new("/"));
    let file = disk.create(&path(dir, FIRST_SEGMENT)).expect("an empty disk takes a file");
    file.write_at(&out, 0).expect("it is not full");
    for boot in BOOTS {
        if let Ok(found) = scan(&disk, dir, boot) {
            let again = scan(&disk, dir, boot).expect("a log that was opened can be opened again");
            assert_eq!((&again.hard, again.first, &again.slots), (&found.hard, found.first, &found.slots));
        }
    }
}

fn at(offset: u32) -> Place {
    Place { number: FIRST_SEGMENT, behind: Behind::Room, offset }
}

fn place(out: &[u8]) -> u32 {
    u32::try_from(out.len()).unwrap_or(u32::MAX)
}

/// Valid inputs of [`one_record`].
pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let entry = StoredEntry {
        id: EntryId { term: 3, index: 7 },
        kind: EntryKind::Normal,
        data: Bytes::from_static(b"some commands"),
    };
    let (mut one, mut other) = (Vec::new(), Vec::new());
    record::put_entry(&mut one, &entry, at(0), 0);
    record::put_state(&mut other, &HardState::default(), at(0), 0);
    vec![one, other, record::segment_header(FIRST_SEGMENT, Behind::Room)]
}

/// Valid inputs of [`segment`]: two entries and a state that cuts one of them off.
pub(crate) fn segment_seeds() -> Vec<Vec<u8>> {
    let body = |bytes: &[u8]| {
        let kind = bytes[record::KIND_AT];
        let body = &bytes[record::HEADER_LEN..];
        let len = u8::try_from(body.len()).unwrap_or(u8::MAX);
        [&[kind, len][..], body].concat()
    };
    let entry = |index| {
        let id = EntryId { term: 1, index };
        let entry = StoredEntry { id, kind: EntryKind::Normal, data: Bytes::from_static(b"data") };
        let mut out = Vec::new();
        record::put_entry(&mut out, &entry, at(0), 0);
        body(&out)
    };
    let mut out = Vec::new();
    let cut = HardState { last: Some(EntryId { term: 1, index: 0 }), boot: BOOTS[0], ..HardState::default() };
    record::put_state(&mut out, &cut, at(0), 0);
    let cut = body(&out);
    let head = |at, damage| vec![at, damage];
    vec![
        [head(0, 0), entry(0), entry(1)].concat(),
        [head(0, 0), entry(0), entry(1), cut, entry(1)].concat(),
        [head(5, 0), entry(0), entry(1)].concat(),
        [head(5, 1), entry(0), entry(1)].concat(),
    ]
}
