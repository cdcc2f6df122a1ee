//! Writers at the same time share the fsync of a folder.

use super::*;

#[test]
fn writers_that_wait_share_one_directory_fsync() {
    const WRITERS: u64 = 8;
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    let (renames, syncs) = (disk.renames(), disk.dir_syncs());
    disk.hold_dir_syncs(true);
    std::thread::scope(|scope| {
        for index in 0..WRITERS {
            let store = &store;
            scope.spawn(move || put(store, id(1, index), &bytes_of(id(1, index), 100)).unwrap());
        }
        // All files have their names, one fsync of the folder runs and waits; the others can only share the next.
        disk.wait_until(|r, s| r == renames + WRITERS && s == syncs + 1);
        assert_eq!(store.list(None, 100), [], "nothing is acknowledged or listed before the fsync");
        disk.hold_dir_syncs(false);
    });
    assert_eq!(disk.dir_syncs() - syncs, store.counters().directory_sync_count);
    let shared = store.counters().directory_sync_count;
    assert!((2..WRITERS).contains(&shared), "{shared} directory fsyncs for {WRITERS} puts");
    assert_eq!(store.list(None, 100).len(), 8);
}

#[test]
fn the_same_block_sent_twice_at_once_is_written_once() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    let (renames, syncs) = (disk.renames(), disk.dir_syncs());
    let data = bytes_of(id(1, 1), 100);
    disk.hold_dir_syncs(true);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| put(&store, id(1, 1), &data).unwrap())).collect();
        disk.wait_until(|_, s| s == syncs + 1);
        disk.hold_dir_syncs(false);
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(disk.renames(), renames + 1);
    assert_eq!(answers.iter().filter(|&&a| a == crate::data::store::Put::Stored).count(), 1);
}
