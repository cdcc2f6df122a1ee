//! Names in the order of their directory.
//!
//! A dentry stands in the slot (parent, cookie). Its home cookie is a hash of the name; when that slot is taken it stands in
//! the next free one. So that a miss costs one read, the slot at a home says in `chain` how far names of that home may
//! stand behind it:
//!
//! ```text
//! cookie      h          h+1         h+2        h+3
//! slot     [a chain 2] [c chain 0]  [b]         (none)      home(a) = home(b) = h, home(c) = h+1
//! ```
//!
//! Removing the dentry of a slot with `chain > 0` leaves a tombstone, since names behind it are found through it. A
//! listing skips tombstones; they go when their directory is freed. Dentries never move, so a listing resumed behind a
//! cookie survives inserts and removes. With 63 bits of hash, collisions are one in a directory of billions; the
//! tests run with a handful of bits.
//!
//! The hash is seeded at random per cluster: nobody can make up names that collide.

use super::keys;
use super::records::{Entry, Slot, Superblock};
use super::txn::{Overlay, Step, read};
use super::{View, ViewError};
use crate::types::{Cookie, FileKind, FsError, InodeId, Name};

/// Cookies below this mean the start, `.` and `..`.
const COOKIE_MIN: u64 = 3;
/// Cookies there are: 63 bits, as the kernel and NFS want, less the reserved ones.
const COOKIE_COUNT: u64 = (1 << 63) - COOKIE_MIN;

/// How names become home cookies.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashRule {
    seed: u64,
    bits: u8,
}

impl HashRule {
    pub(super) fn of(superblock: &Superblock) -> Self {
        Self { seed: superblock.hash_seed, bits: superblock.hash_bits.clamp(1, 63) }
    }

    /// Where a name wants to stand.
    pub(super) fn home(self, name: &Name) -> Cookie {
        let hash =
            xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), self.seed) >> (64 - u32::from(self.bits));
        Cookie(COOKIE_MIN + hash % COOKIE_COUNT)
    }
}

/// The cookie `steps` places behind `home`, round the end.
pub(super) fn behind(home: Cookie, steps: u32) -> Cookie {
    Cookie(COOKIE_MIN + (home.0 - COOKIE_MIN + u64::from(steps)) % COOKIE_COUNT)
}

/// The dentry of `name` and its cookie.
pub(super) fn find(
    view: &dyn View,
    rule: HashRule,
    parent: InodeId,
    name: &Name,
) -> Result<Option<(Cookie, Entry)>, ViewError> {
    let home = rule.home(name);
    let Some(slot) = read::<Slot>(view, &keys::dentry(parent, home))? else { return Ok(None) };
    let is_it = |slot: Slot| slot.entry.filter(|e| e.name == *name);
    let chain = slot.chain;
    if let Some(entry) = is_it(slot) {
        return Ok(Some((home, entry)));
    }
    for steps in 1..=chain {
        let cookie = behind(home, steps);
        if let Some(entry) = read::<Slot>(view, &keys::dentry(parent, cookie))?.and_then(is_it) {
            return Ok(Some((cookie, entry)));
        }
    }
    Ok(None)
}

/// Adds a dentry; its name must not be there.
pub(super) fn insert(records: &Overlay<'_>, rule: HashRule, parent: InodeId, entry: Entry) -> Step<()> {
    let home = rule.home(&entry.name);
    let home_key = keys::dentry(parent, home);
    let home_slot = match read::<Slot>(records, &home_key)? {
        Some(slot) if slot.entry.is_some() => slot,
        free => {
            let chain = free.map_or(0, |tombstone| tombstone.chain);
            return Ok(records.put(&home_key, &Slot { chain, entry: Some(entry) })?);
        }
    };
    for steps in 1..=Slot::CHAIN_MAX {
        let key = keys::dentry(parent, behind(home, steps));
        let chain = match read::<Slot>(records, &key)? {
            Some(slot) if slot.entry.is_some() => continue,
            free => free.map_or(0, |tombstone| tombstone.chain),
        };
        records.put(&key, &Slot { chain, entry: Some(entry) })?;
        if steps > home_slot.chain {
            records.put(&home_key, &Slot { chain: steps, ..home_slot })?;
        }
        return Ok(());
    }
    Err(FsError::NoSpace.into())
}

/// Removes the dentry at `cookie`.
pub(super) fn remove(records: &Overlay<'_>, parent: InodeId, cookie: Cookie) -> Result<(), ViewError> {
    let key = keys::dentry(parent, cookie);
    match read::<Slot>(records, &key)? {
        Some(slot) if slot.chain > 0 => records.put(&key, &Slot { chain: slot.chain, entry: None }),
        _ => records.delete(&key),
    }
}

/// Lets the dentry at `cookie` name another inode.
pub(super) fn point(
    records: &Overlay<'_>,
    parent: InodeId,
    cookie: Cookie,
    inode: InodeId,
    kind: FileKind,
) -> Result<(), ViewError> {
    let key = keys::dentry(parent, cookie);
    if let Some(mut slot) = read::<Slot>(records, &key)?
        && let Some(entry) = &mut slot.entry
    {
        entry.inode = inode;
        entry.kind = kind;
        records.put(&key, &slot)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Txn;
    use super::super::memory::MemoryView;
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn probing_goes_round_the_end_and_spares_the_reserved_cookies() {
        let last = Cookie(COOKIE_MIN + COOKIE_COUNT - 1);
        assert_eq!(last.0, i64::MAX.unsigned_abs());
        assert_eq!(behind(last, 0), last);
        assert_eq!(behind(last, 1), Cookie(COOKIE_MIN));
        assert_eq!(behind(Cookie(COOKIE_MIN), 2), Cookie(COOKIE_MIN + 2));
        assert!(HashRule { seed: 7, bits: 63 }.home(&name("a")).0 >= COOKIE_MIN);
    }

    /// Every name collides with half of the others; whatever was removed before, each is found or missed as it should.
    #[test]
    fn names_are_found_through_tombstones() {
        let rule = HashRule { seed: 3, bits: 1 };
        let view = MemoryView::default();
        let txn = Txn::new(&view);
        let records = &txn.records;
        let parent = InodeId(1);
        let names: Vec<Name> = (0..12).map(|i| name(&format!("n{i}"))).collect();
        let mut there = std::collections::BTreeSet::new();
        // A fixed shuffle: 5 is prime to 12 and 7 is prime to 12.
        for round in 0..200usize {
            let n = &names[(round * 5 + round / 12 * 7 + round / 31) % 12];
            match find(records, rule, parent, n).unwrap() {
                Some((cookie, entry)) => {
                    assert!(there.remove(n));
                    assert_eq!(entry.name, *n);
                    remove(records, parent, cookie).unwrap();
                }
                None => {
                    let entry = Entry { inode: InodeId(9), kind: FileKind::File, name: n.clone() };
                    assert!(insert(records, rule, parent, entry).is_ok());
                    assert!(there.insert(n.clone()));
                }
            }
            for n in &names {
                assert_eq!(
                    find(records, rule, parent, n).unwrap().is_some(),
                    there.contains(n),
                    "{n} in {round}"
                );
            }
        }
    }
}
