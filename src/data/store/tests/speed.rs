//! How fast puts are on the disk under the temporary directory. Run by hand, in release:
//! `cargo test --release --lib data::store::tests::speed -- --ignored --nocapture`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;

/// Puts `count` blocks of `len` bytes from `writers` threads, and prints the rates.
fn measure(writers: u64, count: u64, len: usize) {
    let temp = tempfile::tempdir().unwrap();
    let config =
        StoreConfig { create: true, reserve_bytes: 0, ..StoreConfig::new(vec![temp.path().join("store")]) };
    let store = BlockStore::open(config, WHO).unwrap();
    let data = bytes_of(id(1, 1), len);
    let next = AtomicU64::new(0);
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    if index >= count {
                        break;
                    }
                    put(&store, id(1, index), &data).unwrap();
                }
            });
        }
    });
    let secs = start.elapsed().as_secs_f64();
    let start = std::time::Instant::now();
    for index in 0..count {
        store.get_all(id(1, index)).unwrap();
    }
    let read_secs = start.elapsed().as_secs_f64();
    let rate = |secs: f64| count as f64 * len as f64 / 1e6 / secs;
    println!(
        "{writers} writers, {count} x {len} bytes: {:.0} puts/s, {:.0} MB/s, {} directory fsyncs; read back by one \
         thread {:.0} MB/s",
        count as f64 / secs,
        rate(secs),
        store.counters().directory_sync_count,
        rate(read_secs),
    );
}

#[test]
#[ignore = "a measurement"]
fn puts() {
    for writers in [1, 4, 16] {
        measure(writers, 64, 4 << 20);
    }
    for writers in [1, 4, 16, 64] {
        measure(writers, 400 * writers.min(8), 16 << 10);
    }
}
