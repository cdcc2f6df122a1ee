//! The machine stops after any call to the disk. What was acknowledged is there; nothing else is served wrong.

use std::collections::BTreeMap;

use super::*;
use crate::data::store::{CrashKeeps, DirectoryState, Put};

/// Puts, deletes and an adoption; says which blocks were acknowledged and which are gone.
fn story(store: &BlockStore, acked: &mut BTreeMap<BlockId, Bytes>, touched: &mut BTreeMap<BlockId, Bytes>) {
    let _ = store.adopt(crate::types::ClusterId(9));
    for (index, len) in (0..).zip([1, 700, 65_536, 70_000]) {
        let block = id(1 + index % 2, index);
        let data = bytes_of(block, len);
        touched.insert(block, data.clone());
        if put(store, block, &data).is_ok() {
            acked.insert(block, data);
        }
    }
    acked.remove(&id(1, 0));
    let _ = store.delete(id(1, 0));
    // A resend is acknowledged only if it holds.
    let block = id(2, 1);
    if put(store, block, &touched[&block]).is_ok() {
        acked.insert(block, touched[&block].clone());
    }
}

fn check(
    store: &BlockStore,
    acked: &BTreeMap<BlockId, Bytes>,
    touched: &BTreeMap<BlockId, Bytes>,
    what: &str,
) {
    for (block, data) in acked {
        let (_, found) =
            store.get_all(*block).unwrap_or_else(|e| panic!("{what}: acknowledged block {block}: {e}"));
        assert_eq!(&found, data, "{what}: block {block}");
    }
    for listed in store.list(None, 100) {
        let data =
            touched.get(&listed.id).unwrap_or_else(|| panic!("{what}: block {} from nowhere", listed.id));
        let (_, found) = store.get_all(listed.id).unwrap_or_else(|e| panic!("{what}: listed block: {e}"));
        assert_eq!(&found, data, "{what}: block {}", listed.id);
    }
    // Whatever happened, every block can be stored now.
    for (block, data) in touched {
        put(store, *block, data).unwrap_or_else(|e| panic!("{what}: put again: {e}"));
    }
}

fn crash_everywhere(mode: Spread, count: u8) {
    // How many calls the story makes after the store was opened.
    let calls = {
        let disk = Arc::new(MemoryDisk::new());
        let store = open(&disk, config(mode, count)).unwrap();
        let before = disk.calls();
        story(&store, &mut BTreeMap::new(), &mut BTreeMap::new());
        disk.calls() - before
    };
    assert!(calls > 30, "{calls} calls");
    let keeps = [CrashKeeps::Nothing, CrashKeeps::All].into_iter().chain((0..6).map(CrashKeeps::Some));
    for keep in keeps {
        for stop in 0..=calls {
            let what = format!("{mode:?}, {keep:?}, stopped after {stop} calls");
            let disk = Arc::new(MemoryDisk::new());
            let (mut acked, mut touched) = (BTreeMap::new(), BTreeMap::new());
            let store = open(&disk, config(mode, count)).unwrap();
            disk.stop_after(stop);
            story(&store, &mut acked, &mut touched);
            drop(store);
            disk.crash(keep);

            let again = StoreConfig { create: false, ..config(mode, count) };
            let store = open(&disk, again).unwrap_or_else(|e| panic!("{what}: {e}"));
            let leftovers = disk.files_below(Path::new("/a/blocks"));
            assert!(leftovers.iter().all(|f| f.extension().is_none()), "{what}: {leftovers:?}");
            check(&store, &acked, &touched, &what);
        }
    }
}

#[test]
fn a_crash_anywhere_loses_no_acknowledged_block() {
    crash_everywhere(Spread::Spread, 1);
    crash_everywhere(Spread::Spread, 2);
}

#[test]
fn a_crash_anywhere_loses_no_mirrored_block() {
    crash_everywhere(Spread::Mirror(2), 2);
}

#[test]
fn a_crash_while_a_store_is_made_leaves_one_that_can_be_made() {
    let calls = {
        let disk = Arc::new(MemoryDisk::new());
        open(&disk, config(Spread::Spread, 2)).unwrap();
        disk.calls()
    };
    for keep in [CrashKeeps::Nothing, CrashKeeps::All, CrashKeeps::Some(1), CrashKeeps::Some(2)] {
        // Each directory makes 256 alike folders: most of these calls need not be tried one by one.
        for stop in (0..calls).filter(|n| n % 256 < 30 || n % 37 == 0 || n + 40 > calls) {
            let disk = Arc::new(MemoryDisk::new());
            disk.stop_after(stop);
            drop(open(&disk, config(Spread::Spread, 2)));
            disk.crash(keep);
            let store = open(&disk, config(Spread::Spread, 2))
                .unwrap_or_else(|e| panic!("{keep:?}, stopped after {stop} calls: {e}"));
            let usage = store.usage();
            assert!(
                usage.iter().all(|u| u.state == DirectoryState::Healthy),
                "stopped after {stop}: {usage:?}"
            );
            let block = id(1, 1);
            put(&store, block, &bytes_of(block, 10)).unwrap();
        }
    }
}

/// A process that was killed between rename and fsync left a block that the next process lists. If it then answers
/// a resend without having synced the folder, a power cut loses an acknowledged block.
#[test]
fn a_block_found_at_open_is_durable_before_a_resend_is_answered() {
    let block = id(1, 1);
    let data = bytes_of(block, 5000);
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    // create, write, fsync, rename; the machine does not reach the fsync of the folder. One call (statvfs)
    // comes before.
    let (calls, renames) = (disk.calls(), disk.renames());
    disk.stop_after(5);
    put(&store, block, &data).unwrap_err();
    assert_eq!((disk.renames(), disk.calls() > calls + 5), (renames + 1, true));
    drop(store);
    disk.crash(CrashKeeps::All);
    let disk_state = open(&disk, config(Spread::Spread, 1)).unwrap();
    assert_eq!(put(&disk_state, block, &data).unwrap(), Put::AlreadyStored);
    drop(disk_state);
    disk.crash(CrashKeeps::Nothing);
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    assert_eq!(store.get_all(block).unwrap().1, data);
}
