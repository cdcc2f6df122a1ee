//! What the state of a metadata server costs: `cargo bench --bench view [records [MiB of cache]]`.
//!
//! Prints rates of apply and of hot, cold and absent lookups, time to open, to snapshot and to install, and memory.
//! The figures in docs/decisions/0005-view.md and in comments of `src/meta/state` come from here.

use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use pohmelfs::meta::state::{State, StateConfig};
use pohmelfs::meta::{Machine, Position};
use pohmelfs::namespace::{Change, ChangeSet, Key};
use pohmelfs::types::LogIndex;

type Failure = Box<dyn std::error::Error>;

/// Changes in one set: what raft hands over at some tens of concurrent creates.
const SET: usize = 64;

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Like an inode or a dentry: a short key with a common head, about 120 bytes of value.
fn key(n: u64) -> Bytes {
    Bytes::from(
        [b"d", &(n / 1000).to_be_bytes()[..], &n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()].concat(),
    )
}

fn value(n: u64) -> Bytes {
    Bytes::from(vec![n.to_le_bytes()[0]; 120])
}

fn rate<R>(what: &str, count: u64, run: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    let start = Instant::now();
    let result = run()?;
    let took = start.elapsed().as_secs_f64();
    let (each, per_second) = (took * 1e9 / count as f64, count as f64 / took);
    println!(
        "{what:<46} {took:8.3} s {each:10.0} ns each {per_second:12.0} /s   RSS {:5} MiB",
        resident_mib()
    );
    Ok(result)
}

fn main() -> Result<(), Failure> {
    let mut numbers = std::env::args().filter_map(|arg| arg.parse().ok());
    let (count, cache) = (numbers.next().unwrap_or(1_000_000u64), numbers.next().unwrap_or(64u64));
    let dir = tempfile::tempdir()?;
    let config = StateConfig { cache_bytes: cache << 20, ..StateConfig::new(dir.path()) };
    let state = State::open(config.clone())?;
    let mut index = 0;
    let mut apply = |state: &State, changes: ChangeSet| {
        index += 1;
        state.apply_changes(Position { index: LogIndex(index), raft: Bytes::new() }, changes)
    };
    println!("{count} records, cache {} MiB, RSS {} MiB", config.cache_bytes >> 20, resident_mib());

    rate("apply new records into memory", count, || {
        for first in (0..count).step_by(SET) {
            let range = first..(first + SET as u64).min(count);
            let mut changes: ChangeSet = range
                .map(|n| Change { key: Key::from(&key(n)[..]), old: None, new: Some(value(n)) })
                .collect();
            changes.sort_by(|a, b| a.key.cmp(&b.key));
            apply(&state, changes)?;
        }
        Ok(())
    })?;
    println!("  overlay {} MiB, waits {}", state.status().overlay_bytes >> 20, state.status().overlay_waits);
    rate("until all of it is in sled, and a snapshot", count, || Ok(state.build_snapshot()?))?;
    rate("a snapshot", count, || {
        apply(&state, vec![Change { key: "x".into(), old: None, new: Some("y".into()) }])?;
        let snapshot = state.build_snapshot()?;
        println!("  snapshot {} MiB, sled {} MiB", snapshot.len >> 20, state.status().sled_disk_bytes >> 20);
        Ok(())
    })?;
    rate("verify the snapshot", count, || Ok(state.current_snapshot()?))?;

    let lookups = 1_000_000;
    let get = |state: &State, n: u64| state.read(|view| view.get(&key(n)));
    let hot = 10_000.min(count);
    for n in 0..hot {
        get(&state, n)?;
    }
    rate("get, hot (cache)", lookups, || {
        (0..lookups).try_for_each(|n| get(&state, n % hot).map(drop).map_err(Failure::from))
    })?;
    for n in 0..hot {
        get(&state, count + n)?;
    }
    rate("get, hot and absent", lookups, || {
        (0..lookups).try_for_each(|n| get(&state, count + n % hot).map(drop).map_err(Failure::from))
    })?;
    let spread = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count;
    rate("get, cold (all records at random)", lookups, || {
        (0..lookups).try_for_each(|n| get(&state, spread(n)).map(drop).map_err(Failure::from))
    })?;
    rate("get, cold and absent", lookups, || {
        (0..lookups).try_for_each(|n| get(&state, 2 * count + spread(n)).map(drop).map_err(Failure::from))
    })?;
    rate("list pages of 1000", 1000 * 100, || {
        for page in 0..100 {
            let mut seen = 0;
            let from = [b"d", &(spread(page) / 1000).to_be_bytes()[..]].concat();
            state.read(|view| {
                view.scan(&from, b"e", &mut |_, _| {
                    seen += 1;
                    if seen < 1000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })
            })?;
        }
        Ok(())
    })?;
    let updates = count / 4;
    rate("apply updates, with cold reads meanwhile", updates, || {
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| -> Result<(u128, u64), String> {
                let (mut worst, mut slow) = (0, 0);
                for n in 0..200_000 {
                    let start = Instant::now();
                    get(&state, spread(n)).map_err(|e| e.to_string())?;
                    let took = start.elapsed().as_micros();
                    worst = worst.max(took);
                    slow += u64::from(took > 5000);
                }
                Ok((worst, slow))
            });
            for first in (0..updates).step_by(SET) {
                let mut changes: ChangeSet = (first..first + SET as u64)
                    .map(|n| n * 3 % count)
                    .map(|n| Change { key: Key::from(&key(n)[..]), old: Some(value(n)), new: Some(value(n)) })
                    .collect();
                changes.sort_by(|a, b| a.key.cmp(&b.key));
                apply(&state, changes)?;
            }
            let (worst, slow) = reader.join().map_err(|_| "the reader panicked")??;
            println!("  200000 cold reads meanwhile: the longest {worst} us, {slow} above 5 ms");
            Ok(())
        })
    })?;
    rate("get, in the overlay or not", lookups, || {
        (0..lookups).try_for_each(|n| get(&state, n % hot).map(drop).map_err(Failure::from))
    })?;
    rate("shut down", 1, || {
        state.shutdown();
        drop(state);
        Ok(())
    })?;
    let state = rate("open and verify", count, || Ok(State::open(config.clone())?))?;
    println!("  rebuilt: {:?}", state.status().rebuilt);
    let incoming = state.incoming_path("bench")?;
    std::fs::copy(state.current_snapshot()?.ok_or("no snapshot")?.path, &incoming)?;
    rate("install a snapshot", count, || Ok(state.install_snapshot(&incoming)?))?;
    Ok(())
}
