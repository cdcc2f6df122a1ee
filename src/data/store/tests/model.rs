//! Random puts, gets, deletes, damage, crashes and reopenings, against a map in memory.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::data::store::CrashKeeps;

#[derive(Clone, Debug)]
enum Step {
    Put(u64, usize),
    Get(u64, u32, u32),
    Delete(u64),
    Flip(usize, usize),
    Verify(u64),
    List(Option<u64>, usize),
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12_u64, prop_oneof![1..300_usize, 65_000..140_000_usize]).prop_map(|(i, len)| Step::Put(i, len)),
        4 => (0..12_u64, 0..140_000_u32, 0..140_000_u32).prop_map(|(i, a, b)| Step::Get(i, a.min(b), a.max(b))),
        1 => (0..12_u64).prop_map(Step::Delete),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(f, at)| Step::Flip(f, at)),
        1 => (0..12_u64).prop_map(Step::Verify),
        1 => (proptest::option::of(0..12_u64), 0..5_usize).prop_map(|(after, limit)| Step::List(after, limit)),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// Blocks of three sessions, so that ids of one session are not all neighbours.
fn block(n: u64) -> BlockId {
    id(n % 3, n)
}

fn run(mode: Spread, steps: Vec<Step>) {
    let disk = Arc::new(MemoryDisk::new());
    let config = config(mode, 3);
    let mut store = open(&disk, config.clone()).unwrap();
    let mut model: BTreeMap<BlockId, Bytes> = BTreeMap::new();
    let mut deleted: BTreeMap<BlockId, Bytes> = BTreeMap::new();
    // At most one damaged file at a time, so that a mirror always has a good copy.
    let mut damaged: Option<BlockId> = None;
    // Of a deleted block a crash may bring back one copy alone, and a damaged one.
    let mut doubtful: BTreeSet<BlockId> = BTreeSet::new();
    for step in steps {
        match step {
            Step::Put(n, len) => {
                let id = block(n);
                let data = model.get(&id).or(deleted.get(&id)).cloned().unwrap_or_else(|| bytes_of(id, len));
                put(&store, id, &data).unwrap();
                damaged = damaged.filter(|&d| d != id || mode != Spread::Spread);
                deleted.remove(&id);
                doubtful.remove(&id);
                model.insert(id, data);
            }
            Step::Get(n, start, end) => {
                let wanted = model.get(&block(n));
                let len = wanted.map_or(0, |d| u32::try_from(d.len()).unwrap());
                let (start, end) = if len == 0 { (start, end) } else { (start % len, end % len + 1) };
                match (store.get(block(n), start..end), wanted) {
                    (Ok(found), Some(data)) => assert_eq!(found, data[start as usize..end as usize]),
                    (Err(StoreError::BadRange { .. }), Some(_)) => assert!(start > end),
                    (Err(StoreError::NotFound(_)), None) => {}
                    (Err(StoreError::BlockCorrupt { .. }), Some(_)) => {
                        let is_damaged = damaged == Some(block(n)) && mode == Spread::Spread;
                        assert!(is_damaged || doubtful.contains(&block(n)), "block {n} is not damaged");
                    }
                    (found, _) => panic!("block {n}: {found:?}"),
                }
            }
            Step::Delete(n) => {
                assert_eq!(store.delete(block(n)).unwrap(), model.contains_key(&block(n)));
                deleted.extend(model.remove_entry(&block(n)));
                doubtful.insert(block(n));
                damaged = damaged.filter(|&d| d != block(n));
            }
            Step::Flip(file, at) => {
                let files = disk.files_below(Path::new("/"));
                let files: Vec<_> =
                    files.iter().filter(|f| f.to_string_lossy().contains("/blocks/")).collect();
                if damaged.is_none() && !files.is_empty() {
                    let file = files[file % files.len()];
                    let name = file.file_name().unwrap().to_string_lossy().into_owned();
                    disk.flip(file, at % disk.file_len(file).unwrap(), 0x40);
                    damaged = super::super::format::parse_name(&name).map(|b| b.id);
                }
            }
            Step::Verify(n) => match store.verify(block(n)) {
                Ok(verified) => {
                    // One more where a crash brought back a stale copy, which was mended then.
                    assert!(verified.copy_count >= u32::from(mode.copy_count()));
                    damaged = damaged.filter(|&d| d != block(n));
                }
                Err(StoreError::NotFound(_)) => assert!(!model.contains_key(&block(n))),
                Err(error) => {
                    let is_damaged = damaged == Some(block(n)) && mode == Spread::Spread;
                    assert!(is_damaged || doubtful.contains(&block(n)), "{error}");
                }
            },
            Step::List(after, limit) => {
                let after = after.map(block);
                let found: Vec<_> = store.list(after, limit).iter().map(|b| b.id).collect();
                let wanted: Vec<_> =
                    model.keys().copied().filter(|id| after.is_none_or(|a| *id > a)).take(limit).collect();
                assert_eq!(found, wanted);
            }
            Step::Crash(seed) => {
                drop(store);
                disk.crash(CrashKeeps::Some(seed));
                store = open(&disk, config.clone()).unwrap();
                // An unlink is not synced: a deleted block may be back, with its own bytes.
                for found in store.list(None, 100) {
                    if let Some((id, data)) = deleted.remove_entry(&found.id) {
                        model.insert(id, data);
                    }
                }
                let ids: Vec<_> = store.list(None, 100).iter().map(|b| b.id).collect();
                assert_eq!(ids, model.keys().copied().collect::<Vec<_>>());
            }
        }
    }
    let listed = store.list(None, 100);
    assert_eq!(listed.len(), model.len());
    for (found, (id, data)) in listed.iter().zip(&model) {
        assert_eq!((found.id, found.len as usize, found.checksum), (*id, data.len(), Checksum::of(data)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    #[test]
    fn a_spread_store_does_as_the_model(steps in prop::collection::vec(step(), 1..60)) {
        run(Spread::Spread, steps);
    }

    #[test]
    fn a_mirrored_store_does_as_the_model(steps in prop::collection::vec(step(), 1..60)) {
        run(Spread::Mirror(2), steps);
    }
}
