//! The state against a `BTreeMap` and the list of everything that was applied to it.
//!
//! The list plays the raft log: after a crash it is replayed from the position that came back.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tempfile::TempDir;

mod crash;
mod dumps;
mod golden;
mod places;

use self::places::{Place, on_both};
use super::manifest::Manifest;
use super::record::Tally;
use super::snapshots::Snapshots;
use super::*;
use crate::namespace::{Change, Key};

/// SplitMix64: tests name their seed and repeat exactly.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is at most what an index can be.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }
}

type Records = BTreeMap<Bytes, Bytes>;

/// What the state must be, and how it came to be.
#[derive(Default)]
struct Model {
    records: Records,
    /// The change set of index 1, 2, ...
    log: Vec<ChangeSet>,
    /// Tally after each index; of index 0 first.
    tallies: Vec<Tally>,
}

impl Model {
    fn new() -> Self {
        Self { tallies: vec![Tally::default()], ..Self::default() }
    }

    /// Some puts and deletes among `space` keys.
    fn grow(&mut self, rng: &mut Rng, count: usize, space: usize) {
        let mut new = BTreeMap::new();
        for _ in 0..count {
            let n = rng.below(space);
            // Names of any length, and two tables whose records share entries of sled.
            let key = match n % 4 {
                0 | 1 => Bytes::from(format!("{:x<width$}{n}", n % 7, width = n % 5 + 1)),
                2 => [&[2][..], &(n as u64 / 4).to_be_bytes()].concat().into(),
                _ => [&[9][..], &7_u64.to_be_bytes(), &(n as u64 / 4).to_be_bytes()].concat().into(),
            };
            let value = (rng.below(10) < 7)
                .then(|| Bytes::from(vec![b'a' + rng.next().to_le_bytes()[0] % 26; rng.below(200)]));
            new.insert(key, value);
        }
        let mut tally = *self.tallies.last().unwrap();
        let mut changes = ChangeSet::new();
        for (key, new) in new {
            let old = match &new {
                Some(value) => self.records.insert(key.clone(), value.clone()),
                None => self.records.remove(&key),
            };
            if old != new {
                let change = Change { key: Key::from(&key[..]), old, new };
                super::record::follow(&mut tally, &change);
                changes.push(change);
            }
        }
        self.log.push(changes);
        self.tallies.push(tally);
    }

    fn index(&self) -> u64 {
        self.log.len() as u64
    }

    /// Applies what `state` lacks, having checked that it is exactly what the model was at its position.
    fn replay(&self, state: &State) {
        let (index, hash) = state.hash();
        assert_eq!(
            hash,
            self.tallies[usize::try_from(index.0).unwrap()].hash,
            "the state came back as it was at {}",
            index.0
        );
        for (at, changes) in (1..).zip(&self.log).filter(|(at, _)| *at > index.0) {
            state.apply_changes(position(at), changes.clone()).unwrap();
        }
    }

    fn assert_equals(&self, state: &State) {
        assert_eq!(state.hash(), (LogIndex(self.index()), self.tallies.last().unwrap().hash));
        assert_eq!(state.status().record_count, self.records.len() as u64);
        assert!(records(state).eq(&self.records), "content differs");
        for key in self.records.keys() {
            assert_eq!(state.read(|v| v.get(key)).unwrap().as_ref(), self.records.get(key));
        }
        assert_eq!(state.read(|v| v.get(b"absent")).unwrap(), None);
    }
}

/// Tells the other threads to end, also when this one panics.
struct Finished<'a>(&'a AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn position(index: u64) -> Position {
    Position { index: LogIndex(index), raft: Bytes::from(format!("raft-{index}")) }
}

fn collect(view: &dyn View, from: &[u8], to: &[u8]) -> Result<Records, ViewError> {
    let mut found = Records::new();
    view.scan(from, to, &mut |key, value| {
        assert!(found.last_key_value().is_none_or(|(last, _)| last[..] < *key), "in order");
        found.insert(Bytes::copy_from_slice(key), value.clone());
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn records(state: &State) -> Records {
    state.read(|view| collect(view, b"", b"\xff")).unwrap()
}

fn config(dir: &Path) -> StateConfig {
    StateConfig {
        cache_bytes: 64 << 10,
        sled_cache_bytes: 1 << 20,
        boot_id: Some("boot-1".into()),
        ..StateConfig::new(dir)
    }
}

fn open(dir: &Path) -> State {
    State::open(config(dir)).unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if let Err(e) = fs::copy(entry.path(), target) {
            // The database renames its files while it runs.
            assert_eq!(e.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

/// A state with a model of `steps` sets in `dir`, everything in sled, closed in order.
fn closed_state(dir: &Path, seed: u64, steps: u64) -> Model {
    let (mut model, mut rng) = (Model::new(), Rng(seed));
    let state = open(dir);
    for step in 0..steps {
        model.grow(&mut rng, 20, 500);
        model.replay(&state);
        if step == steps / 2 {
            state.build_snapshot().unwrap();
        }
    }
    state.shutdown();
    model
}

#[test]
fn whatever_happens_to_the_process_the_content_is_that_of_the_log() {
    for seed in 0..4 {
        let dir = TempDir::new().unwrap();
        let (mut rng, mut model) = (Rng(seed), Model::new());
        let mut state = open(dir.path());
        for step in 0..120 {
            let count = 1 + rng.below(40);
            model.grow(&mut rng, count, 400);
            model.replay(&state);
            let what = rng.below(24);
            match what {
                0 => {
                    drop(state);
                    state = open(dir.path());
                }
                1 => {
                    state.shutdown();
                    drop(state);
                    // Closed in order, it survives a reboot.
                    state =
                        State::open(StateConfig { boot_id: Some("2".into()), ..config(dir.path()) }).unwrap();
                    assert_eq!(state.status().rebuilt, None);
                    assert_eq!(state.hash().0.0, model.index());
                    drop(state);
                    state = open(dir.path());
                    assert!(state.status().rebuilt.is_some(), "not closed, and another boot");
                }
                2 | 3 => {
                    // The files as they are while everything runs, as kill -9 leaves them, and torn as well.
                    let copy = TempDir::new().unwrap();
                    copy_dir(dir.path(), copy.path());
                    let other = open(copy.path());
                    model.replay(&other);
                    model.assert_equals(&other);
                }
                4 => {
                    let snapshot = state.build_snapshot().unwrap();
                    assert_eq!(snapshot.position, position(model.index()));
                    assert_eq!(state.current_snapshot().unwrap(), Some(snapshot));
                }
                5 => model.assert_equals(&state),
                _ => {}
            }
            model.replay(&state);
            assert_eq!(state.position(), position(model.index()), "seed {seed} step {step} what {what}");
        }
        model.assert_equals(&state);
    }
}

#[test]
fn a_scan_joins_memory_and_disk_for_readers_and_for_the_applier() {
    on_both(|new_place| {
        let place = new_place();
        let (mut rng, mut model) = (Rng(7), Model::new());
        let state = place.open();
        model.grow(&mut rng, 3000, 4000);
        model.replay(&state);
        state.build_snapshot().unwrap();
        // Held, so that what follows stays in memory.
        let disk = state.core().disk.lock();
        model.grow(&mut rng, 2000, 4000);
        model.replay(&state);
        let compare = |view: &dyn View, rng: &mut Rng| {
            for _ in 0..200 {
                let bounds: Vec<Bytes> = (0..2)
                    .map(|_| model.records.keys().nth(rng.below(model.records.len())).unwrap().clone())
                    .collect();
                let (from, to) = (bounds[0].clone(), bounds[1].clone());
                let range = (from < to).then(|| (Bound::Included(from.clone()), Bound::Excluded(to.clone())));
                let expected: Records = range
                    .map(|r| model.records.range(r).map(|(k, v)| (k.clone(), v.clone())).collect())
                    .unwrap_or_default();
                assert!(collect(view, &from, &to).unwrap() == expected, "{from:?} to {to:?}");
                // A page: the first few, then no more calls.
                let mut page = Vec::new();
                view.scan(&from, &to, &mut |key, _| {
                    page.push(Bytes::copy_from_slice(key));
                    if page.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .unwrap();
                assert!(page.iter().eq(expected.keys().take(3)));
            }
        };
        state.read(|view| compare(view, &mut rng));
        let decided = state.core().apply(position(model.index() + 1), |view, _| {
            compare(view, &mut rng);
            for key in model.records.keys() {
                assert_eq!(view.get(key).unwrap().as_ref(), model.records.get(key));
            }
            Ok(((), Vec::new(), crate::namespace::Memo::default()))
        });
        decided.unwrap();
        drop(disk);
    });
}

#[test]
fn a_snapshot_taken_while_changes_go_on_is_the_state_at_its_position() {
    on_both(|new_place| {
        let place = new_place();
        let mut rng = Rng(11);
        let mut model = Model::new();
        model.grow(&mut rng, 30_000, 40_000);
        for _ in 0..2000 {
            model.grow(&mut rng, 50, 40_000);
        }
        let state = State::open(StateConfig { overlay_bytes_max: 1 << 20, ..place.config() }).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _finished = Finished(&done);
                model.replay(&state);
            });
            let mut built = Vec::new();
            while !done.load(Ordering::Acquire) {
                built.push(state.build_snapshot().unwrap());
                let snapshot = built.last().unwrap();
                let (index, other_place) = (usize::try_from(snapshot.position.index.0).unwrap(), new_place());
                assert_eq!(snapshot.hash, model.tallies[index].hash);
                let other = other_place.open();
                let incoming = other.incoming_path(&snapshot.id).unwrap();
                place.copy(&snapshot.path, &other_place, &incoming);
                assert_eq!(other.install_snapshot(&incoming).unwrap().id, snapshot.id);
                assert_eq!(other.position(), snapshot.position);
                let mut sum = Tally::default();
                records(&other).iter().for_each(|(key, value)| sum.add(key, value));
                assert_eq!(sum, model.tallies[index]);
            }
            assert!(built.iter().any(|s| s.position.index.0 < model.index()), "one was taken in between");
        });
        model.assert_equals(&state);
        assert!(state.status().snapshots.len() <= 2);
    });
}

/// `check` once held the read lock while it went through the whole namespace: every apply of that server, and so every
/// query, waited until it was done.
#[test]
fn a_frozen_copy_stays_as_it_is_while_the_state_goes_on() {
    on_both(|new_place| {
        let mut rng = Rng(0xf0);
        let mut model = Model::new();
        let place = new_place();
        let state = State::open(place.config()).unwrap();
        // Values of up to 200 bytes: the copy has several blocks.
        (0..300).for_each(|_| model.grow(&mut rng, 100, 20_000));
        model.replay(&state);
        let (before, at) = (model.records.clone(), model.index());
        state
            .frozen(|index, view| {
                assert_eq!(index, LogIndex(at));
                // A lock that was held would stop these for ever.
                (0..10).for_each(|_| model.grow(&mut rng, 100, 20_000));
                model.replay(&state);
                state.build_snapshot().unwrap();
                assert_eq!(collect(view, b"", b"\xff").unwrap(), before);
                for key in before.keys().chain([&Bytes::from_static(b"absent"), &Bytes::from_static(b"\xfe")])
                {
                    assert_eq!(view.get(key).unwrap().as_ref(), before.get(key));
                }
                let keys: Vec<_> = before.keys().collect();
                for _ in 0..200 {
                    let (a, b) = (keys[rng.below(keys.len())], keys[rng.below(keys.len())]);
                    let expected: Records = match a < b {
                        true => {
                            before.range(a.clone()..b.clone()).map(|(k, v)| (k.clone(), v.clone())).collect()
                        }
                        false => Records::new(),
                    };
                    assert_eq!(collect(view, a, b).unwrap(), expected);
                }
            })
            .unwrap();
        model.assert_equals(&state);
        let left = place.names("snapshots").into_iter();
        let left: Vec<_> = left.filter(|name| name.contains("frozen")).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn a_reader_sees_one_position_while_all_else_goes_on() {
    on_both(|new_place| {
        let place = new_place();
        let state = place.open();
        let value = |n: u64| Some(Bytes::from(n.to_be_bytes().to_vec()));
        let set = |n: u64| -> ChangeSet {
            let old = if n == 1 { None } else { value(n - 1) };
            ["a", "k", "z"].map(|key| Change { key: key.into(), old: old.clone(), new: value(n) }).into()
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !done.load(Ordering::Acquire) {
                        let (index, all) =
                            state.read_at(|index, view| (index.0, collect(view, b"a", b"~").unwrap()));
                        let one = state.read(|view| view.get(b"k")).unwrap();
                        assert!(index >= last, "never back");
                        last = index;
                        assert_eq!(all.len(), if index == 0 { 0 } else { 3 });
                        assert!(
                            all.values().all(|found| Some(found) == value(index).as_ref()),
                            "{index}: {all:?}"
                        );
                        assert!(one.is_none() || one >= value(index));
                    }
                });
            }
            let _finished = Finished(&done);
            for n in 1..=3000 {
                state.apply_changes(position(n), set(n)).unwrap();
                if n % 1000 == 0 {
                    let snapshot = state.build_snapshot().unwrap();
                    let incoming = state.incoming_path("again").unwrap();
                    place.copy(&snapshot.path, &place, &incoming);
                    state.install_snapshot(&incoming).unwrap();
                }
            }
        });
        assert_eq!(state.hash().0.0, 3000);
    });
}

#[test]
fn memory_before_the_disk_is_bounded() {
    on_both(|new_place| {
        let place = new_place();
        let bound = 64 << 10;
        let state = State::open(StateConfig { overlay_bytes_max: bound, ..place.config() }).unwrap();
        let (mut rng, mut model) = (Rng(3), Model::new());
        for _ in 0..400 {
            model.grow(&mut rng, 30, 100_000);
            model.replay(&state);
            assert!(state.status().overlay_bytes < bound + 30 * 1024, "one set above the bound at most");
        }
        assert!(state.status().overlay_waits > 0, "the writer is slower than memory");
        model.assert_equals(&state);
    });
}

#[test]
fn any_flipped_missing_or_added_byte_of_a_snapshot_is_noticed() {
    let dir = TempDir::new().unwrap();
    let state = open(dir.path());
    let (mut rng, mut model) = (Rng(5), Model::new());
    model.grow(&mut rng, 20, 500);
    model.replay(&state);
    let good = state.build_snapshot().unwrap();
    let bytes = fs::read(&good.path).unwrap();
    let (before, broken) = (state.hash(), state.incoming_path("broken").unwrap());
    let refuse = |bytes: &[u8], what: &str| {
        fs::write(&broken, bytes).unwrap();
        assert!(snapshot::verify(&RealDisk, &broken).is_err(), "{what}");
    };
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (rng.next() % 8);
        refuse(&flipped, &format!("flipped byte {at}"));
        refuse(&bytes[..at], &format!("cut at {at}"));
    }
    refuse(&[&bytes[..], b"x"].concat(), "longer");
    assert!(state.install_snapshot(&broken).is_err());
    assert_eq!(state.hash(), before, "a refused snapshot changes nothing");
    assert!(state.incoming_path("../x").is_err());

    // A damaged newest snapshot gives way to the one before it.
    model.grow(&mut rng, 20, 500);
    model.replay(&state);
    let newest = state.build_snapshot().unwrap();
    let mut damaged = fs::read(&newest.path).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 4;
    fs::write(&newest.path, damaged).unwrap();
    assert_eq!(state.current_snapshot().unwrap().unwrap().id, good.id);
    drop(state);
    let state = State::open(StateConfig { boot_id: Some("another".into()), ..config(dir.path()) }).unwrap();
    assert_eq!(state.position(), good.position);
    model.replay(&state);
    model.assert_equals(&state);
}

fn flip_somewhere(dir: &Path, rng: &mut Rng) -> String {
    let files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.metadata().unwrap().len() > 0 && path.is_file())
        .collect();
    let path = &files[rng.below(files.len())];
    let mut bytes = fs::read(path).unwrap();
    // sled's file is mostly zeroes behind what is used.
    let used = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
    let at = rng.below(used);
    bytes[at] ^= 1 << rng.below(8);
    fs::write(path, bytes).unwrap();
    format!("{} at {at}", path.display())
}

#[test]
fn a_flipped_byte_in_the_database_is_noticed_and_the_view_rebuilt() {
    let origin = TempDir::new().unwrap();
    let model = closed_state(origin.path(), 21, 60);
    let mut rebuilt = 0;
    for seed in 0..60 {
        let dir = TempDir::new().unwrap();
        copy_dir(origin.path(), dir.path());
        let mut rng = Rng(seed);
        let what = flip_somewhere(&dir.path().join("view-0"), &mut rng);
        let state = open(dir.path());
        rebuilt += u32::from(state.status().rebuilt.is_some());
        eprintln!("seed {seed}: {what}: {:?}", state.status().rebuilt);
        model.replay(&state);
        model.assert_equals(&state);
    }
    assert!(rebuilt > 0, "some of them hit what counts");
}

#[test]
fn a_record_that_sled_lost_is_missed_at_open() {
    let dir = TempDir::new().unwrap();
    let model = closed_state(dir.path(), 23, 40);
    let engine = engine::SledEngine::open(&recover::view_dir(dir.path(), 0), 1 << 20, 1 << 10).unwrap();
    engine.lose_raw(model.records.keys().nth(5).unwrap());
    engine.close().unwrap();
    let state = open(dir.path());
    assert!(state.status().rebuilt.unwrap().contains("not those of its stamp"));
    model.replay(&state);
    model.assert_equals(&state);
}

#[test]
fn an_installed_snapshot_replaces_what_was_still_in_memory() {
    on_both(|new_place| {
        let (leader_place, place) = (new_place(), new_place());
        let (mut rng, mut model, mut other) = (Rng(41), Model::new(), Model::new());
        let (leader, state) = (leader_place.open(), place.open());
        for _ in 0..9 {
            model.grow(&mut rng, 50, 500);
        }
        model.replay(&leader);
        let snapshot = leader.build_snapshot().unwrap();
        // Without a writer all of it stays in memory.
        state.owner.end_writer(false);
        other.grow(&mut rng, 200, 500);
        other.replay(&state);
        let incoming = state.incoming_path(&snapshot.id).unwrap();
        leader_place.copy(&snapshot.path, &place, &incoming);
        state.install_snapshot(&incoming).unwrap();
        model.assert_equals(&state);
        assert_eq!((state.status().overlay_bytes, state.status().overlay_records), (0, 0));
    });
}

#[test]
fn damage_under_a_running_state_is_an_error_and_cured_by_the_next_start() {
    let dir = TempDir::new().unwrap();
    let model = closed_state(dir.path(), 22, 40);
    let state = open(dir.path());
    let engine = state.core().memory.read().engine.clone().unwrap();
    let key = model.records.keys().next().unwrap();
    engine.sled().overwrite_raw(key, b"these four bytes are no checksum");
    drop(engine);
    let error = state.read(|view| view.get(key)).unwrap_err();
    assert!(error.reason.contains("checksum"), "{error}");
    let refused = state.apply_changes(position(model.index() + 1), Vec::new()).unwrap_err();
    assert!(refused.reason.contains("restart"), "{refused}");
    assert!(state.status().failure.is_some());
    drop(state);
    let state = open(dir.path());
    assert!(state.status().rebuilt.unwrap().contains("checksum"));
    model.replay(&state);
    model.assert_equals(&state);
}

#[test]
fn a_crash_at_any_step_of_an_install_leaves_the_old_or_the_new_state() {
    let leader_dir = TempDir::new().unwrap();
    let leader = open(leader_dir.path());
    let (mut rng, mut model) = (Rng(31), Model::new());
    for _ in 0..50 {
        model.grow(&mut rng, 30, 500);
    }
    model.replay(&leader);
    let snapshot = leader.build_snapshot().unwrap();

    let behind = TempDir::new().unwrap();
    let old = closed_state(behind.path(), 32, 5);
    let follower = |prepare: &dyn Fn(&Path)| {
        let dir = TempDir::new().unwrap();
        copy_dir(behind.path(), dir.path());
        prepare(dir.path());
        let state = open(dir.path());
        (dir, state)
    };
    let place = |dir: &Path| {
        fs::copy(&snapshot.path, dir.join("snapshots").join(snapshot.path.file_name().unwrap())).unwrap();
    };
    let half_view = |dir: &Path, number: u64| {
        let whole = snapshot::SnapshotReader::open(&RealDisk, &snapshot.path)
            .ok()
            .unwrap()
            .block()
            .ok()
            .unwrap()
            .unwrap();
        let engine = engine::SledEngine::open(&recover::view_dir(dir, number), 1 << 20, 1 << 10).unwrap();
        engine.write(whole[..whole.len() / 2].iter().map(|(k, v)| (&k[..], Some(v))), None).unwrap();
    };

    // While parts arrive, and before the rename: the old state, and the parts are gone.
    let (dir, state) = follower(&|dir| {
        fs::write(dir.join("snapshots/incoming-x.tmp"), b"half").unwrap();
    });
    old.assert_equals(&state);
    assert!(!dir.path().join("snapshots/incoming-x.tmp").exists());

    // After the rename: the new state. So too with a half-made view beside it, or when the manifest names it already.
    let new = |(dir, state): (TempDir, State)| {
        model.assert_equals(&state);
        let views = fs::read_dir(dir.path()).unwrap();
        let views = views.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("view-"));
        assert_eq!(views.count(), 1, "nothing is left over");
        assert!(state.status().rebuilt.is_some());
    };
    new(follower(&place));
    new(follower(&|dir| {
        place(dir);
        half_view(dir, 1);
    }));
    new(follower(&|dir| {
        place(dir);
        half_view(dir, 1);
        Manifest::new(1, "boot-1").write(&RealDisk, dir).unwrap();
    }));
    new(follower(&|dir| {
        place(dir);
        fs::write(dir.join("view.json"), b"{}").unwrap();
    }));

    // A newer snapshot that does not verify costs neither the view nor, after a reboot, the older snapshot.
    let (dir, state) = follower(&|dir| {
        place(dir);
        let path = dir.join("snapshots").join(snapshot.path.file_name().unwrap());
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    assert_eq!(state.status().rebuilt, None);
    old.assert_equals(&state);
    assert_eq!(
        fs::read_dir(dir.path().join("snapshots")).unwrap().count(),
        2,
        "the good one, the damaged one aside"
    );

    // Without a crash.
    let (dir, state) = follower(&|_| {});
    let incoming = state.incoming_path(&snapshot.id).unwrap();
    fs::copy(&snapshot.path, &incoming).unwrap();
    let installed = state.install_snapshot(&incoming).unwrap();
    assert_eq!(installed.path.parent(), Some(dir.path().join("snapshots").as_path()));
    model.assert_equals(&state);
    drop(state);
    let state = open(dir.path());
    assert_eq!(state.status().rebuilt, None);
    model.assert_equals(&state);
}

#[test]
fn a_directory_belongs_to_one_state_and_a_closed_state_answers_nothing() {
    on_both(|new_place| {
        let place = new_place();
        let state = place.open();
        assert!(State::open(place.config()).is_err());
        state.shutdown();
        assert!(state.read(|view| view.get(b"a")).is_err());
        assert!(state.apply_changes(position(1), Vec::new()).is_err());
        assert!(state.build_snapshot().is_err());
        drop(state);
        place.open();
    });
}

#[test]
fn entries_without_commands_move_the_position_and_garbage_stops_the_node() {
    on_both(|new_place| {
        let place = new_place();
        let state = place.open();
        let entry = |index, commands| Entry { position: position(index), commands };
        assert_eq!(state.apply(&[entry(1, None), entry(2, None)]).unwrap(), vec![vec![], vec![]]);
        assert_eq!(state.position(), position(2));
        assert!(state.apply(&[entry(3, Some(Bytes::from_static(b"\xff\xff")))]).is_err());
        assert!(state.apply(&[entry(2, None)]).is_err(), "not twice");
        assert_eq!(state.position(), position(2), "nothing happened");
        assert_eq!(Snapshots::id(&state.core().disk.lock().stamp).len(), 53);
    });
}
