//! Frozen bytes of snapshots and of the view. See `crate::golden`.

use std::path::Path;

use super::super::journal::golden_batch;
use super::super::manifest::Manifest;
use super::super::packing::Packing;
use super::super::record::{Stamp, Tally, seal, unseal};
use super::super::snapshot::{SnapshotReader, SnapshotWriter};
use super::super::{page, snapshot};
use super::position;
use crate::golden::check;
use crate::runtime::disk::{Disk, MemoryDisk};
use crate::types::{Level, codec};

const RECORDS: [(&[u8], &[u8]); 2] = [(b"a", b"one"), (b"bc", b"")];

fn stamp() -> Stamp {
    let mut tally = Tally::default();
    RECORDS.iter().for_each(|(key, value)| tally.add(key, value));
    Stamp { position: position(7), tally }
}

#[test]
fn golden_snapshot() {
    let (disk, path) = (MemoryDisk::new(), Path::new("/snapshot"));
    let sample = |name: &str, packing| {
        let mut writer = SnapshotWriter::create(&disk, path, &stamp(), packing).unwrap();
        RECORDS.iter().for_each(|(key, value)| writer.add(key, value).unwrap());
        writer.finish().unwrap();
        assert_eq!(snapshot::verify(&disk, path).ok(), Some((stamp(), Level::FIRST)));
        let mut reader = SnapshotReader::open(&disk, path).ok().unwrap();
        assert_eq!(reader.block().ok().flatten().map(|records| records.len()), Some(2));
        (name.to_owned(), disk.read(path).unwrap())
    };
    let samples =
        [("a snapshot of two records", Packing::Plain), ("a snapshot of two records, packed", Packing::Lz4)];
    check("snapshot", samples.map(|(name, packing)| sample(name, packing)).to_vec());
}

#[test]
fn golden_view() {
    let bytes = codec::encode(&stamp()).unwrap();
    assert_eq!(codec::decode::<Stamp>(&bytes).unwrap(), stamp());
    let sealed = seal(b"key", b"value");
    assert_eq!(unseal(b"key", &sealed), Some(&b"value"[..]));
    let shared = page::changed(&[], [(0, Some(&b"first"[..])), (7, Some(b"eighth"))]).unwrap();
    assert_eq!(page::records(&shared).count(), 2);
    let disk = MemoryDisk::new();
    let mut manifest = Manifest::new(3, "boot");
    manifest.clean = true;
    manifest.bad = Some("why".into());
    manifest.write(&disk, Path::new("/")).unwrap();
    assert_eq!(Manifest::read(&disk, Path::new("/")), Some(manifest));
    let manifest = disk.read(Path::new("/view.json")).unwrap();
    check(
        "view",
        vec![
            ("stamp".into(), bytes),
            ("record of key `key`".into(), sealed),
            ("page".into(), shared),
            ("batch of the journal".into(), golden_batch(&stamp())),
            ("manifest".into(), manifest),
        ],
    );
}

/// A program of before must not take in a state that it could not read, nor lose its own over it.
#[test]
fn a_snapshot_of_a_level_that_is_not_known_is_refused() {
    use super::super::{Machine, State};
    use crate::namespace::{Command, Op};
    use crate::types::{ClusterId, Layout, LevelRange, Timestamp};

    let (newer, older) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
    let entry = |index, op| {
        let commands = vec![Command { at: Timestamp(5), op }];
        super::super::super::Entry {
            position: position(index),
            commands: Some(codec::encode(&commands).unwrap().into()),
        }
    };
    let found = Op::Found { cluster: ClusterId(1), hash_seed: 2, layout: Layout::default() };
    let state = State::open(super::config(newer.path())).unwrap();
    state.apply(&[entry(1, found.clone()), entry(2, Op::RaiseLevel(Level(2)))]).unwrap();
    let built = state.build_snapshot().unwrap();

    let before = super::super::StateConfig { levels: LevelRange::BEFORE, ..super::config(older.path()) };
    let old = State::open(before.clone()).unwrap();
    old.apply(&[entry(1, found)]).unwrap();
    let hash = old.hash();
    let told = old.apply(&[entry(2, Op::RaiseLevel(Level(2)))]).unwrap_err().to_string();
    assert!(
        told.contains("entry 2") && told.contains("format level 2") && told.contains("start the program"),
        "{told}"
    );
    let received = old.incoming_path("some-id").unwrap();
    std::fs::copy(&built.path, &received).unwrap();
    let told = old.install_snapshot(&received).unwrap_err().to_string();
    assert!(told.contains("format level 2") && told.contains("knows level 1"), "{told}");
    assert_eq!(old.hash(), hash, "it stays what it was");
    for state in [old, state] {
        state.shutdown();
        drop(state);
    }

    // And at the start, of a directory that a newer program has used.
    let before = super::super::StateConfig { dir: newer.path().to_owned(), ..before };
    let told = State::open(before).err().unwrap().to_string();
    assert!(told.contains("the state in") && told.contains("format level 2"), "{told}");
    let again = State::open(super::config(newer.path())).unwrap();
    assert_eq!(again.read(crate::namespace::level).unwrap().0, Level(2));
    again.shutdown();
}
