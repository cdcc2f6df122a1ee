//! Cuts the keys of a view into parts that several threads read at a time.
//!
//! `engine` verifies a view in parts when it opens one. Holds: the parts together are all records, each in one of them. How even they are
//! is a guess: keys of one kind begin with a number, and the numbers between the first and the last are taken to be as frequent as
//! those in the middle.

use std::ops::Bound;

use sled::{IVec, Tree};

/// Parts of the records of one kind.
const PARTS: u64 = 32;
/// Records of a view for which several threads are worth their start.
const PARTS_FROM: u64 = 50_000;

/// From one bound to the other.
pub(super) type Part = (Bound<IVec>, Bound<IVec>);

/// All of `tree` behind the key `after`, which holds about `records`, in parts.
pub(super) fn parts(tree: &Tree, after: &[u8], records: u64) -> sled::Result<Vec<Part>> {
    let cuts = if records < PARTS_FROM { Vec::new() } else { cuts(tree, after)? };
    let begins =
        std::iter::once(Bound::Excluded(after.into())).chain(cuts.iter().cloned().map(Bound::Included));
    let ends = cuts.iter().cloned().map(Bound::Excluded).chain(std::iter::once(Bound::Unbounded));
    Ok(begins.zip(ends).collect())
}

/// Where each kind of records behind `after` is cut, in order.
fn cuts(tree: &Tree, after: &[u8]) -> sled::Result<Vec<IVec>> {
    let mut cuts = Vec::new();
    let mut from = Bound::Excluded(IVec::from(after));
    while let Some((first, _)) = tree.range::<IVec, _>((from, Bound::Unbounded)).next().transpose()? {
        let kind = first.first().copied().unwrap_or(u8::MAX);
        let next_kind = kind.checked_add(1).map(|next| IVec::from(&[next]));
        let end = next_kind.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let last = tree.range::<IVec, _>((Bound::Included(first.clone()), end)).next_back().transpose()?;
        cuts.extend(last.into_iter().flat_map(|(last, _)| between(kind, number(&first), number(&last))));
        let Some(next) = next_kind else { break };
        from = Bound::Included(next);
    }
    Ok(cuts)
}

/// The number that a key begins with, behind its kind.
fn number(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(key.iter().skip(1)) {
        *to = *from;
    }
    u64::from_be_bytes(bytes)
}

/// Keys at equal distances, above the first and not above the last.
fn between(kind: u8, first: u64, last: u64) -> impl Iterator<Item = IVec> {
    let step = last.saturating_sub(first) / PARTS;
    let cuts = if step == 0 { 1..1 } else { 1..PARTS };
    cuts.map(move |i| {
        let mut key = [kind; 9];
        key[1..].copy_from_slice(&(first + i * step).to_be_bytes());
        IVec::from(&key)
    })
}

#[cfg(test)]
mod tests {
    use super::super::engine::SledEngine;
    use super::super::record::Stamp;
    use super::*;

    /// Records of kinds with and without pages, of one and of many, up to the last kind that there is.
    #[test]
    fn each_record_is_in_one_part() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(dir.path(), 1 << 20, 1 << 20).unwrap();
        let mut keys: Vec<Vec<u8>> = vec![vec![0], vec![255; 3], vec![255; 9]];
        for kind in [1, 2, 3, 4, 5, 9, 200] {
            for number in (0..700_u64).map(|i| 5 + i * i) {
                let mut key = vec![kind];
                key.extend_from_slice(&number.to_be_bytes());
                if kind != 2 {
                    key.extend_from_slice(&(number % 40).to_be_bytes());
                }
                keys.push(key);
            }
        }
        keys.sort();
        let value = bytes::Bytes::from_static(b"value");
        for some in keys.chunks(500) {
            engine.write(some.iter().map(|key| (&key[..], Some(&value))), None).unwrap();
        }
        for records in [0, PARTS_FROM] {
            let parts = parts(engine.tree(), b"", records).unwrap();
            assert_eq!(parts.len() > 100, records > 0, "{} parts", parts.len());
            let mut read: Vec<Vec<u8>> = Vec::new();
            let mut largest = 0;
            for (from, to) in &parts {
                let before = read.len();
                let records = engine.range(from.as_ref().map(|key| &**key), to.as_ref().map(|key| &**key));
                read.extend(records.map(|record| record.unwrap().0.to_vec()));
                largest = largest.max(read.len() - before);
            }
            assert!(read == keys, "{} of {} records", read.len(), keys.len());
            assert!(records == 0 || largest < keys.len() / 10, "a part has {largest}");
        }
    }

    /// Several threads read a view of this size: the sum must be that of one.
    #[test]
    fn a_record_that_a_large_view_lost_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(dir.path(), 16 << 20, 1 << 20).unwrap();
        let value = bytes::Bytes::from_static(b"value");
        let mut stamp = Stamp::default();
        let keys: Vec<Vec<u8>> = (0..PARTS_FROM)
            .map(|i| match i % 2 {
                0 => [&[2][..], &i.to_be_bytes()].concat(),
                _ => [&[3][..], &i.to_be_bytes(), b"name"].concat(),
            })
            .collect();
        for some in keys.chunks(1000) {
            some.iter().for_each(|key| stamp.tally.add(key, &value));
            engine.write(some.iter().map(|key| (&key[..], Some(&value))), Some(&stamp)).unwrap();
        }
        assert_eq!(engine.verify().unwrap(), stamp);
        assert!(engine.cache_bytes() > 0, "what was read is remembered");
        assert_eq!(engine.get(&keys[77]).unwrap().as_ref(), Some(&value));
        engine.lose_raw(&keys[keys.len() / 2]);
        assert!(engine.verify().is_err());
    }
}
