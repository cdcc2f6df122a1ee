//! Which way blocks come from the disk.

use std::sync::Arc;

use super::{bytes_of, config, id, open, put};
use crate::data::store::{MemoryDisk, Spread};

/// A pass over a large file pushed what is read often out of the page cache of its data servers.
#[test]
fn a_whole_block_goes_through_the_page_cache_from_the_second_time_on() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    let (block, other) = (id(1, 1), id(1, 2));
    let data = bytes_of(block, 300_000);
    put(&store, block, &data).unwrap();
    put(&store, other, &bytes_of(other, 300_000)).unwrap();

    assert_eq!(store.get(block, 0..200_000).unwrap(), data.slice(..200_000));
    assert_eq!(disk.direct_reads(), 0, "a part of it");
    for (round, direct) in [1, 1, 1].into_iter().enumerate() {
        assert_eq!(store.get(block, 0..300_000).unwrap(), data);
        assert_eq!(disk.direct_reads(), direct, "round {round}");
    }
    store.get_all(other).unwrap();
    assert_eq!(disk.direct_reads(), 2, "each block for itself");
    // Whoever only looks whether it is whole leaves no trace.
    store.verify(block).unwrap();
    assert_eq!(disk.direct_reads(), 3);
}

/// A disk that hangs in one read would keep all others waiting, though it may still answer them.
#[test]
fn a_reader_of_a_whole_block_does_not_wait_for_ever_for_those_before_it() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    let block = id(1, 1);
    let data = bytes_of(block, 300_000);
    put(&store, block, &data).unwrap();

    let hanging = store.directories[0].turn.lock();
    assert_eq!(store.get_all(block).unwrap().1, data);
    assert_eq!(disk.direct_reads(), 1);
    drop(hanging);
    assert!(store.directories[0].turn.try_lock().is_some(), "who reads gives the turn back");
}
