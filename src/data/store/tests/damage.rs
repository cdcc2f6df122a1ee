//! Bytes that changed on the disk are never served.

use super::*;
use crate::data::store::{CopyFault, DirectoryState, Disk};

#[test]
fn no_changed_byte_of_a_file_reaches_a_reader() {
    let block = id(1, 1);
    let data = bytes_of(block, 300);
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    put(&store, block, &data).unwrap();
    let file = block_file(&disk, "/a");
    for at in 0..disk.file_len(&file).unwrap() {
        for mask in [1, 0x80, 0xff] {
            disk.flip(&file, at, mask);
            for range in [0..300, 7..8, 299..300] {
                let error = store.get(block, range).unwrap_err();
                assert!(matches!(error, StoreError::BlockCorrupt { .. }), "byte {at}: {error}");
            }
            assert!(store.get_all(block).is_err(), "byte {at}");
            assert!(store.verify(block).is_err(), "byte {at}");
            disk.flip(&file, at, mask);
        }
    }
    assert_eq!(store.corrupt(10), [block], "it is known to be damaged until it is verified");
    store.verify(block).unwrap();
    assert!(store.corrupt(10).is_empty());
    assert_eq!(store.get_all(block).unwrap().1, data);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let block = id(1, 1);
    for len in [0, 1, 511, 512, 513, 811] {
        let disk = Arc::new(MemoryDisk::new());
        let store = open(&disk, config(Spread::Spread, 1)).unwrap();
        put(&store, block, &bytes_of(block, 300)).unwrap();
        disk.cut(&block_file(&disk, "/a"), len);
        match store.get(block, 0..300) {
            Err(StoreError::BlockCorrupt { fault: CopyFault::Short, .. }) => {}
            other => panic!("cut at {len}: {other:?}"),
        }
    }
}

#[test]
fn a_read_verifies_the_sectors_it_needs_and_no_others() {
    let block = id(1, 1);
    let data = bytes_of(block, 200_000);
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    put(&store, block, &data).unwrap();
    disk.flip(&block_file(&disk, "/a"), 512 + 65_536 + 5, 4);
    assert_eq!(store.get(block, 0..65_536).unwrap(), data[..65_536]);
    assert_eq!(store.get(block, 131_072..200_000).unwrap(), data[131_072..]);
    assert_eq!(store.get(block, 140_000..140_001).unwrap(), data[140_000..140_001]);
    for range in [65_535..65_537, 70_000..70_001, 131_071..131_073, 0..200_000] {
        let error = store.get(block, range.clone()).unwrap_err();
        assert!(
            matches!(error, StoreError::BlockCorrupt { fault: CopyFault::Checksum, .. }),
            "{range:?}: {error}"
        );
    }
}

#[test]
fn a_mirror_answers_for_every_damaged_byte_and_mends_it() {
    let block = id(1, 1);
    let data = bytes_of(block, 300);
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Mirror(2), 2)).unwrap();
    put(&store, block, &data).unwrap();
    let (first, second) = (block_file(&disk, "/a"), block_file(&disk, "/b"));
    let len = disk.file_len(&first).unwrap();
    for at in 0..len {
        disk.flip(&first, at, 0x20);
        assert_eq!(store.get(block, 0..300).unwrap(), data, "byte {at}");
    }
    let counters = store.counters();
    assert_eq!((counters.bad_copy_count, counters.mended_count), (len as u64, len as u64));
    // Each was mended at once: with the other copy gone, the mended one answers.
    disk.flip(&second, 600, 1);
    assert_eq!(store.get(block, 0..300).unwrap(), data);
    assert_eq!(store.verify(block).unwrap().mended_count, 1, "the reader asked the first copy only");
    disk.unlink(&first).unwrap();
    assert_eq!(store.get(block, 0..300).unwrap(), data, "a file that vanished is a bad copy too");
    assert_eq!(disk.file_len(&first), Some(len));
}

#[test]
fn a_block_damaged_everywhere_is_reported_and_replaced_by_a_put() {
    let block = id(1, 1);
    let data = bytes_of(block, 300);
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Mirror(2), 3)).unwrap();
    put(&store, block, &data).unwrap();
    for file in disk.files_below(Path::new("/")).iter().filter(|f| f.to_string_lossy().contains("/blocks/")) {
        disk.flip(file, 700, 1);
    }
    assert!(store.get_all(block).is_err());
    assert_eq!(store.corrupt(10), [block]);
    let other = bytes_of(id(1, 2), 300);
    assert!(
        matches!(put(&store, block, &other), Err(StoreError::Conflict { .. })),
        "damage makes no room for others"
    );
    assert_eq!(put(&store, block, &data).unwrap(), crate::data::store::Put::Stored);
    assert!(store.corrupt(10).is_empty());
    assert_eq!(store.verify(block).unwrap().copy_count, 2);
    let copies: u64 = store.usage().iter().map(|u| u.block_count).sum();
    assert_eq!(copies, 2, "no stale copy is counted");
    assert!(store.usage().iter().all(|u| u.state == DirectoryState::Healthy));
    drop(store);
    let store = open(&disk, config(Spread::Mirror(2), 3)).unwrap();
    assert_eq!(store.usage().iter().map(|u| u.block_count).sum::<u64>(), 2, "nor is one left on the disk");
    assert_eq!(store.get_all(block).unwrap().1, data);
}
