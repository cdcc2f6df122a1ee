//! Full, failing and read-only disks: clean errors, no debris, and the other directories go on.

use rustix::io::Errno;

use super::*;
use crate::data::store::{DirectoryState, Put};

#[test]
fn bytes_that_do_not_match_are_refused_and_leave_nothing() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    let data = bytes_of(id(1, 1), 100);
    assert!(matches!(store.put(id(1, 1), Checksum(7), &data), Err(StoreError::BadChecksum { .. })));
    for len in [0, crate::types::BLOCK_LEN_MAX as usize + 1] {
        let data = Bytes::from(vec![0; len]);
        assert!(matches!(put(&store, id(1, 1), &data), Err(StoreError::BadLen { .. })), "{len} bytes");
    }
    assert!(disk.files_below(Path::new("/a/blocks")).is_empty());
    put(&store, id(1, 1), &data).unwrap();
    assert_eq!(put(&store, id(1, 1), &data).unwrap(), Put::AlreadyStored);
    let other = bytes_of(id(1, 2), 100);
    assert!(matches!(put(&store, id(1, 1), &other), Err(StoreError::Conflict { .. })));
    assert!(matches!(store.get(id(1, 1), 0..101), Err(StoreError::BadRange { .. })));
    assert!(matches!(store.get(id(9, 9), 0..1), Err(StoreError::NotFound(_))));
    assert_eq!(store.get(id(1, 1), 5..5).unwrap(), Bytes::new());
}

/// Each call of a put fails once, with each error; the store stays whole and holds no leftovers.
#[test]
fn a_failed_call_fails_the_put_and_leaves_no_debris() {
    let block = id(1, 2);
    let data = bytes_of(block, 1000);
    for error in [Errno::NOSPC, Errno::IO, Errno::ROFS, Errno::MFILE] {
        for n in 0..6 {
            let what = format!("{error:?} at call {n}");
            let disk = Arc::new(MemoryDisk::new());
            let store = open(&disk, config(Spread::Spread, 1)).unwrap();
            put(&store, id(1, 1), &bytes_of(id(1, 1), 10)).unwrap();
            disk.fail_call(n, error);
            let result = put(&store, block, &data);
            assert!(result.is_err(), "{what}: {result:?}");
            assert_eq!(disk.files_below(Path::new("/a/blocks")).len(), 1, "{what}: debris");
            assert!(matches!(store.stat(block), Err(StoreError::NotFound(_))), "{what}");
            assert_eq!(store.get_all(id(1, 1)).unwrap().1, bytes_of(id(1, 1), 10), "{what}: the other block");
            let state = store.usage()[0].state;
            let folder_sync = n == 5;
            let wanted = match error {
                Errno::ROFS => DirectoryState::ReadOnly,
                Errno::IO => DirectoryState::Failed,
                _ if folder_sync => DirectoryState::Failed,
                _ => DirectoryState::Healthy,
            };
            assert_eq!(state, wanted, "{what}");
            assert_eq!(
                put(&store, block, &data).is_ok(),
                wanted == DirectoryState::Healthy,
                "{what}: put again"
            );
        }
    }
}

#[test]
fn the_reserve_stays_free() {
    let disk = Arc::new(MemoryDisk::new());
    disk.set_total(1 << 20);
    let store = open(&disk, StoreConfig { reserve_bytes: 512 << 10, ..config(Spread::Spread, 1) }).unwrap();
    let mut stored = 0;
    let full = loop {
        match put(&store, id(1, stored), &bytes_of(id(1, stored), 100_000)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::NoSpace { .. }), "{full}");
    assert_eq!(stored, 5);
    assert!(store.capacity().free < 100_512 && store.capacity().block_count == 5, "{:?}", store.capacity());
    assert_eq!(store.usage()[0].state, DirectoryState::Healthy);
    store.delete(id(1, 0)).unwrap();
    disk.crash(crate::data::store::CrashKeeps::All);
    put(&store, id(1, 9), &bytes_of(id(1, 9), 1000)).unwrap();
}

#[test]
fn a_directory_that_fails_takes_no_more_and_the_others_go_on() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 3)).unwrap();
    for index in 0..9 {
        put(&store, id(1, index), &bytes_of(id(1, index), 1000)).unwrap();
    }
    assert_eq!(
        store.usage().iter().map(|u| u.block_count).collect::<Vec<_>>(),
        [3, 3, 3],
        "shared out evenly"
    );
    disk.fail_below(Path::new("/b"), Some(Errno::IO));
    for index in 10..20 {
        put(&store, id(1, index), &bytes_of(id(1, index), 1000)).unwrap();
    }
    let states: Vec<_> = store.usage().iter().map(|u| u.state).collect();
    assert_eq!(states, [DirectoryState::Healthy, DirectoryState::Failed, DirectoryState::Healthy]);
    assert!(
        store.usage()[1].error.as_ref().unwrap().contains("Input/output"),
        "{:?}",
        store.usage()[1].error
    );
    disk.fail_below(Path::new("/a"), Some(Errno::IO));
    disk.fail_below(Path::new("/c"), Some(Errno::IO));
    assert!(put(&store, id(1, 30), &bytes_of(id(1, 30), 1000)).is_err());
    assert!(matches!(put(&store, id(1, 31), &bytes_of(id(1, 31), 1000)), Err(StoreError::NoDirectory)));
    disk.fail_below(Path::new("/b"), None);
    let still_read = (0..9).filter(|&index| store.get_all(id(1, index)).is_ok()).count();
    assert_eq!(still_read, 3, "a failed directory is still read from");
}

#[test]
fn a_mirrored_put_needs_one_good_copy_and_a_verify_adds_the_others() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Mirror(2), 2)).unwrap();
    disk.fail_below(Path::new("/b"), Some(Errno::IO));
    let block = id(1, 1);
    let data = bytes_of(block, 1000);
    put(&store, block, &data).unwrap();
    assert_eq!(store.verify(block).unwrap().copy_count, 1);
    drop(store);
    disk.fail_below(Path::new("/b"), None);
    let store = open(&disk, config(Spread::Mirror(2), 2)).unwrap();
    let verified = store.verify(block).unwrap();
    assert_eq!((verified.copy_count, verified.mended_count), (2, 1));
    disk.flip(&block_file(&disk, "/a"), 3, 3);
    assert_eq!(store.get_all(block).unwrap().1, data);
}

#[test]
fn the_index_has_a_bound() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, StoreConfig { block_count_max: 2, ..config(Spread::Spread, 1) }).unwrap();
    for index in 0..2 {
        put(&store, id(1, index), &bytes_of(id(1, index), 10)).unwrap();
    }
    assert!(matches!(put(&store, id(1, 2), &bytes_of(id(1, 2), 10)), Err(StoreError::TooManyBlocks(2))));
    assert_eq!(put(&store, id(1, 1), &bytes_of(id(1, 1), 10)).unwrap(), Put::AlreadyStored);
    drop(store);
    let opened = open(&disk, StoreConfig { block_count_max: 1, ..config(Spread::Spread, 1) });
    assert!(matches!(opened, Err(StoreError::TooManyBlocks(1))));
}
