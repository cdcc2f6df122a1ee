//! Snapshot files and records of the view as a fuzzer writes them. See `crate::fuzz`.

use std::path::Path;

use super::packing::Packing;
use super::page;
use super::record::{Stamp, Tally, seal, unseal};
use super::snapshot::{SnapshotWriter, reseal, verify};
use crate::runtime::disk::{Disk, MemoryDisk};
use crate::types::codec;

/// Where a snapshot is, on a disk of its own.
const SNAPSHOT: &str = "/snapshot";

/// Bytes as a snapshot file, as they are, and with all checksums set right.
pub(crate) fn snapshot(input: &[u8]) {
    for bytes in [input.to_vec(), reseal(input)] {
        let (disk, path) = (MemoryDisk::new(), Path::new(SNAPSHOT));
        let file = disk.create(path).expect("an empty disk takes a file");
        file.write_at(&bytes, 0).expect("it is not full");
        drop(verify(&disk, path));
    }
}

/// Bytes as sled may give them back: one byte tells the length of the key.
pub(crate) fn record(input: &[u8]) {
    let Some((&len, rest)) = input.split_first() else { return };
    let (key, stored) = rest.split_at(usize::from(len).min(rest.len()));
    if let Some(value) = unseal(key, stored) {
        assert_eq!(seal(key, value), stored, "one value has one form");
    }
    assert_eq!(unseal(key, &seal(key, stored)), Some(stored));
    if let Some(same) = page::changed(stored, []) {
        assert_eq!(same, stored, "one page has one form");
    }
    drop(codec::decode::<Stamp>(stored));
}

/// Valid inputs of [`snapshot`].
pub(crate) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let (disk, path) = (MemoryDisk::new(), Path::new(SNAPSHOT));
    let records: [(&[u8], &[u8]); 3] = [(b"a", b"one"), (b"b", b""), (b"bc", b"three")];
    let packings = [Packing::Plain, Packing::Lz4];
    let made =
        packings.into_iter().flat_map(|packing| (0..=records.len()).map(move |count| (packing, count)));
    let made = made.map(|(packing, count)| {
        let mut tally = Tally::default();
        records[..count].iter().for_each(|(key, value)| tally.add(key, value));
        let mut writer =
            SnapshotWriter::create(&disk, path, &Stamp { tally, ..Stamp::default() }, packing).ok()?;
        for (key, value) in &records[..count] {
            writer.add(key, value).ok()?;
        }
        writer.finish().ok()?;
        disk.read(path).ok()
    });
    made.flatten().collect()
}

/// Valid inputs of [`record`].
pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let sealed = |key: &[u8], value: &[u8]| {
        let len = u8::try_from(key.len()).unwrap_or(u8::MAX);
        [&[len][..], key, &seal(key, value)].concat()
    };
    let stamp = codec::encode(&Stamp::default()).unwrap_or_default();
    let page = page::changed(&[], [(0, Some(&b"first"[..])), (7, Some(b"eighth"))]).unwrap_or_default();
    vec![sealed(b"key", b"value"), sealed(b"", &stamp), sealed(&[2; 9], &page), [&[0][..], &page].concat()]
}
