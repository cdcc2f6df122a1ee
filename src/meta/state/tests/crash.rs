//! A state on a disk that forgets: whenever the machine stops, the next start has what is in snapshot and log.

use super::places::without_threads;
use super::*;
use crate::runtime::disk::{CrashKeeps, Disk, MemoryDisk};

/// Opens, applies, builds, closes, opens again, installs, until something fails; the index that the log may begin behind.
fn story(place: &Place, model: &mut Model, received: &[u8], kept: &mut u64) -> Result<(), StoreError> {
    let mut rng = Rng(77);
    let run = |state: &State, model: &mut Model, rng: &mut Rng, sets: usize| {
        (0..sets).try_for_each(|_| {
            model.grow(rng, 12, 300);
            state.apply_changes(position(model.index()), model.log.last().unwrap().clone())
        })
    };
    let state = State::open(StateConfig { overlay_bytes_max: 20 << 10, ..place.config() })?;
    run(&state, model, &mut rng, 8)?;
    *kept = state.build_snapshot()?.position.index.0;
    run(&state, model, &mut rng, 8)?;
    state.shutdown();
    drop(state);
    let state = State::open(place.config())?;
    run(&state, model, &mut rng, 3)?;
    *kept = state.build_snapshot()?.position.index.0;
    run(&state, model, &mut rng, 3)?;
    *kept = state.build_snapshot()?.position.index.0;
    state
        .frozen(|_, view| collect(view, b"", b"\xff").map(drop))?
        .map_err(|e| StoreError::new("frozen", e))?;
    run(&state, model, &mut rng, 2)?;
    // What the leader has is the same log.
    let incoming = state.incoming_path("other")?;
    let write = || place.disk.create(&incoming)?.write_at(received, 0);
    write().map_err(|e| StoreError::new("receiving", e))?;
    (0..5).for_each(|_| model.grow(&mut rng, 12, 300));
    *kept = state.install_snapshot(&incoming)?.position.index.0;
    run(&state, model, &mut rng, 2)
}

/// The snapshot that the story installs.
fn leaders_snapshot() -> Vec<u8> {
    let place = Place::on(Arc::new(MemoryDisk::new()));
    let (mut model, mut rng) = (Model::new(), Rng(77));
    (0..8 + 8 + 3 + 3 + 2 + 5).for_each(|_| model.grow(&mut rng, 12, 300));
    let state = place.open();
    model.replay(&state);
    let snapshot = state.build_snapshot().unwrap();
    place.disk.read(&snapshot.path).unwrap()
}

fn come_back(place: &Place, model: &Model, kept: u64, what: &str) {
    let state = State::open(place.config()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(state.hash().0.0 >= kept, "{what}: at {}, but the log begins behind {kept}", state.hash().0.0);
    model.replay(&state);
    model.assert_equals(&state);
    state.build_snapshot().unwrap();
    state.shutdown();
}

#[test]
fn whenever_the_machine_stops_the_next_start_has_what_is_in_snapshot_and_log() {
    without_threads(|| {
        let received = leaders_snapshot();
        let calls = {
            let disk = Arc::new(MemoryDisk::new());
            story(&Place::on(disk.clone()), &mut Model::new(), &received, &mut 0).unwrap();
            disk.calls()
        };
        assert!(calls > 100, "{calls} calls");
        for stop in 0..=calls {
            for keeps in [CrashKeeps::Nothing, CrashKeeps::All, CrashKeeps::Some(stop)] {
                let what = format!("{keeps:?}, stopped after {stop} calls");
                let disk = Arc::new(MemoryDisk::new());
                let place = Place::on(disk.clone());
                let (mut model, mut kept) = (Model::new(), 0);
                disk.stop_after(stop);
                let ended = story(&place, &mut model, &received, &mut kept);
                assert_eq!(ended.is_ok(), stop == calls, "{what}: {ended:?}");
                disk.crash(keeps);
                come_back(&place, &model, kept, &what);
                // Closed in order, it needs no rebuild.
                disk.crash(CrashKeeps::Nothing);
                let state = place.open();
                assert_eq!(state.status().rebuilt, None, "{what}");
                model.assert_equals(&state);
            }
        }
    });
}

#[test]
fn another_boot_means_another_view_and_a_killed_process_keeps_its_own() {
    without_threads(|| {
        let disk = Arc::new(MemoryDisk::new());
        let place = Place::on(disk.clone());
        let (mut model, mut rng) = (Model::new(), Rng(5));
        model.grow(&mut rng, 50, 300);
        let state = place.open();
        model.replay(&state);
        let built = state.build_snapshot().unwrap().position;
        model.grow(&mut rng, 50, 300);
        model.replay(&state);
        // The writer would have come to it by now.
        writer::wait_until_written(state.core()).unwrap_or_else(|_| panic!("it has not ended"));
        let calls = disk.calls();
        drop(state);
        assert_eq!(disk.calls(), calls, "what is dropped writes nothing");
        disk.crash(CrashKeeps::All);
        let state = place.open();
        assert_eq!((state.status().rebuilt, state.position()), (None, position(2)));
        drop(state);
        disk.crash(CrashKeeps::Nothing);
        let state = place.open();
        assert!(state.status().rebuilt.unwrap().contains("went down"));
        assert_eq!(state.position(), built);
        model.replay(&state);
        model.assert_equals(&state);
    });
}

#[test]
fn a_journal_that_is_cut_anywhere_is_the_state_of_its_whole_batches() {
    without_threads(|| {
        let disk = Arc::new(MemoryDisk::new());
        let place = Place::on(disk.clone());
        let (mut model, mut rng) = (Model::new(), Rng(6));
        let state = place.open();
        for _ in 0..4 {
            model.grow(&mut rng, 5, 300);
            model.replay(&state);
            writer::wait_until_written(state.core()).unwrap_or_else(|_| panic!("it has not ended"));
        }
        drop(state);
        let path = recover::view_dir(&place.dir, 0).join("journal");
        let whole = disk.read(&path).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for len in 0..=whole.len() {
            disk.create(&path).unwrap().write_at(&whole[..len], 0).unwrap();
            let state = place.open();
            assert_eq!(state.status().rebuilt, None);
            seen.insert(state.position().index.0);
            model.replay(&state);
            model.assert_equals(&state);
        }
        assert_eq!(seen.len(), 5);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << rng.below(8);
            disk.create(&path).unwrap().write_at(&bytes, 0).unwrap();
            let state = place.open();
            model.replay(&state);
            model.assert_equals(&state);
        }
    });
}

/// Alone in its thread, as in a simulation: the task writes what the thread would.
#[tokio::test]
async fn the_task_writes_what_is_due() {
    let place = Place::on(Arc::new(MemoryDisk::new()));
    let (mut model, mut rng) = (Model::new(), Rng(8));
    let state = State::open(StateConfig { overlay_bytes_max: 64 << 10, ..place.config() }).unwrap();
    while state.status().overlay_bytes < 40 << 10 {
        model.grow(&mut rng, 5, 300);
        model.replay(&state);
    }
    // More than half of what may wait: the task takes it at once.
    while state.status().overlay_bytes >= 32 << 10 {
        crate::runtime::yield_now().await;
    }
    assert!(state.status().sled_index.0 > 0);
    model.assert_equals(&state);
}
