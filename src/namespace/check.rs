//! Whole-namespace invariants.
//!
//! Run by tests after every command and by an operator over a frozen copy of the state. Reads every record once and holds a
//! summary of the inodes, dentries and blocks in memory, some hundred bytes for each.
//!
//! What must hold: every dentry names an inode of its kind, under a cookie that its name leads to; link counts and
//! directory sizes are exact; every directory hangs in the tree below the root, by one dentry, and knows its parent; what
//! has no dentry is an orphan; extents do not overlap, lie within their file and agree with their block; reference
//! counts and totals are exact; locks that are held do not conflict, and who waits has somebody in the way; nothing belongs to an inode or session that is gone; no id is above its counter.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::dentry::{self, HashRule};
use super::locks::{LOCKS_MAX, LockCount, StoredLock, Table};
use super::ops::{nodes, session, xattr};
use super::records::{
    Block, Healthy, Inode, Orphan, Reclaim, Record, Session, Slot, StoredReply, Superblock,
};
use super::txn::{corrupt, read, scan};
use super::{View, ViewError, extents, keys};
use crate::types::{
    BlockId, BlockRef, Cookie, ExtentSource, FileKind, GroupId, InodeId, Name, ROOT_INODE, SessionId,
};

/// Tests every invariant of the namespace; one line for each that does not hold.
///
/// # Errors
/// When the view cannot be read or a record cannot be decoded.
pub fn check(view: &dyn View) -> Result<Vec<String>, ViewError> {
    let Some(superblock) = read::<Superblock>(view, keys::SUPERBLOCK)? else {
        return Ok(vec!["the superblock is missing".into()]);
    };
    if superblock.restoring.is_some() {
        return Ok(vec!["the namespace is being restored from a dump".into()]);
    }
    let mut check = Check {
        view,
        superblock,
        bad: Vec::new(),
        inodes: BTreeMap::new(),
        sessions: BTreeSet::new(),
        groups: nodes::groups(view)?.into_iter().map(|g| g.group).collect(),
    };
    check.inodes()?;
    check.dentries()?;
    check.tree();
    check.orphans()?;
    check.xattrs()?;
    check.extents()?;
    check.sessions()?;
    check.reclaimed()?;
    check.healthy()?;
    check.locks()?;
    Ok(check.bad)
}

/// An inode and what was found to belong to it.
struct Counted {
    inode: Inode,
    /// Dentries that name it.
    links: u32,
    /// Of a directory: its dentries, and those that name directories.
    entries: u64,
    subdirs: u32,
    /// Where a dentry for it was found.
    parent: Option<InodeId>,
    used: u64,
    xattrs: u16,
}

struct Check<'v> {
    view: &'v dyn View,
    superblock: Superblock,
    bad: Vec<String>,
    inodes: BTreeMap<InodeId, Counted>,
    sessions: BTreeSet<SessionId>,
    groups: BTreeSet<GroupId>,
}

macro_rules! hold {
    ($self:ident, $condition:expr, $($text:tt)*) => {
        if !$condition {
            $self.bad.push(format!($($text)*));
        }
    };
}

/// The two numbers of a key.
fn two(key: &[u8]) -> Result<(u64, u64), ViewError> {
    keys::first(key)
        .zip(keys::second(key))
        .ok_or_else(|| corrupt(format!("key {key:02x?} has a wrong length")))
}

fn one(key: &[u8]) -> Result<u64, ViewError> {
    keys::first(key).ok_or_else(|| corrupt(format!("key {key:02x?} has a wrong length")))
}

impl Check<'_> {
    fn inodes(&mut self) -> Result<(), ViewError> {
        let mut inodes = BTreeMap::new();
        scan(self.view, &keys::all_inodes(), |key, value| {
            let inode = Inode::decode(value)?;
            let id = InodeId(one(key)?);
            let counted =
                Counted { inode, links: 0, entries: 0, subdirs: 0, parent: None, used: 0, xattrs: 0 };
            inodes.insert(id, counted);
            Ok(ControlFlow::Continue(()))
        })?;
        let count = self.superblock.inode_count;
        hold!(self, inodes.len() as u64 == count, "the superblock counts {count} inodes of {}", inodes.len());
        if let Some((id, _)) = inodes.last_key_value() {
            hold!(self, *id < self.superblock.next_inode, "inode {id} is above the counter");
        }
        self.inodes = inodes;
        Ok(())
    }

    fn dentries(&mut self) -> Result<(), ViewError> {
        let mut slots: BTreeMap<(InodeId, Cookie), Slot> = BTreeMap::new();
        scan(self.view, &keys::all_dentries(), |key, value| {
            let (parent, cookie) = two(key)?;
            slots.insert((InodeId(parent), Cookie(cookie)), Slot::decode(value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        let rule = HashRule::of(&self.superblock);
        let mut names: BTreeSet<(InodeId, &Name)> = BTreeSet::new();
        for ((parent, cookie), slot) in &slots {
            let Some(directory) = self.inodes.get_mut(parent) else {
                self.bad.push(format!("a dentry stands in directory {parent}, which is missing"));
                continue;
            };
            hold!(self, directory.inode.is_dir(), "a dentry stands in {parent}, which is no directory");
            let Some(entry) = &slot.entry else {
                hold!(self, slot.chain > 0, "a tombstone at {parent}/{cookie} keeps nothing");
                continue;
            };
            directory.entries += 1;
            directory.subdirs += u32::from(entry.kind == FileKind::Dir);
            let at = format!("dentry {parent}/{}", entry.name);
            hold!(self, names.insert((*parent, &entry.name)), "{at} is there twice");
            let home = rule.home(&entry.name);
            let chain = slots.get(&(*parent, home)).map_or(0, |s| s.chain);
            let reached = (0..=chain).any(|steps| dentry::behind(home, steps) == *cookie);
            hold!(self, reached, "{at} cannot be found from its home");
            let Some(child) = self.inodes.get_mut(&entry.inode) else {
                self.bad.push(format!("{at} names inode {}, which is missing", entry.inode));
                continue;
            };
            child.links += 1;
            child.parent = Some(*parent);
            hold!(self, child.inode.kind == entry.kind, "{at} has another kind than inode {}", entry.inode);
        }
        Ok(())
    }

    fn tree(&mut self) {
        let mut reaches_root = BTreeSet::from([ROOT_INODE]);
        hold!(self, self.inodes.contains_key(&ROOT_INODE), "the root is missing");
        for (id, counted) in &self.inodes {
            let Counted { inode, links, entries, subdirs, parent, .. } = counted;
            if inode.freeing {
                continue;
            }
            if !inode.is_dir() {
                hold!(
                    self,
                    inode.nlink == *links,
                    "inode {id} has {links} dentries and nlink {}",
                    inode.nlink
                );
                continue;
            }
            let is_root = *id == ROOT_INODE;
            let nlink = if *links == 0 && !is_root { 0 } else { 2 + subdirs };
            hold!(self, inode.nlink == nlink, "directory {id} has nlink {} instead of {nlink}", inode.nlink);
            hold!(
                self,
                inode.size == *entries,
                "directory {id} has {entries} dentries and size {}",
                inode.size
            );
            hold!(self, *links == u32::from(!is_root) || nlink == 0, "directory {id} has {links} dentries");
            hold!(self, nlink > 0 || *entries == 0, "removed directory {id} is not empty");
            if let Some(parent) = parent {
                hold!(self, inode.parent == *parent, "directory {id} in {parent} says {}", inode.parent);
            }
            let mut path = BTreeSet::new();
            let mut at = *id;
            while nlink > 0 && !reaches_root.contains(&at) {
                if !path.insert(at) {
                    self.bad.push(format!("directory {id} is in a cycle"));
                    break;
                }
                match self.inodes.get(&at) {
                    Some(directory) if directory.inode.is_dir() => at = directory.inode.parent,
                    _ => {
                        self.bad.push(format!("directory {id} hangs below {at}, which is no directory"));
                        break;
                    }
                }
            }
            if reaches_root.contains(&at) {
                reaches_root.extend(path);
            }
        }
    }

    fn orphans(&mut self) -> Result<(), ViewError> {
        let mut orphans = BTreeMap::new();
        scan(self.view, &keys::all_orphans(), |key, value| {
            orphans.insert(InodeId(one(key)?), Orphan::decode(value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        for (id, counted) in &self.inodes {
            let orphan = orphans.get(id);
            let is_orphan = counted.inode.nlink == 0;
            hold!(
                self,
                orphan.is_some() == is_orphan,
                "inode {id} has nlink {}, and an orphan record or none",
                counted.inode.nlink
            );
            let marked = orphan.is_some_and(|o| o.freeing);
            hold!(
                self,
                marked == counted.inode.freeing,
                "inode {id} and its orphan record do not agree on freeing"
            );
        }
        for id in orphans.keys() {
            hold!(self, self.inodes.contains_key(id), "orphan {id} is missing");
        }
        Ok(())
    }

    fn xattrs(&mut self) -> Result<(), ViewError> {
        scan(self.view, &keys::all_xattrs(), |key, _| {
            let id = InodeId(one(key)?);
            match self.inodes.get_mut(&id) {
                Some(counted) => counted.xattrs += 1,
                None => self.bad.push(format!("an extended attribute belongs to {id}, which is missing")),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for (id, Counted { inode, xattrs, .. }) in &self.inodes {
            let exact = inode.freeing || inode.xattr_count == *xattrs;
            hold!(self, exact, "inode {id} counts {} extended attributes of {xattrs}", inode.xattr_count);
            hold!(self, *xattrs <= xattr::XATTR_COUNT_MAX, "inode {id} has {xattrs} extended attributes");
            let possible =
                inode.acl.as_ref().is_none_or(|acl| acl.is_possible() && inode.kind != FileKind::Symlink);
            hold!(self, possible, "the access list of inode {id} is not possible");
        }
        Ok(())
    }

    fn extents(&mut self) -> Result<(), ViewError> {
        let mut refs: BTreeMap<BlockId, (BlockRef, u64)> = BTreeMap::new();
        let mut before = (InodeId(0), 0);
        let mut total = 0;
        scan(self.view, &keys::all_extents(), |key, value| {
            let id = InodeId(two(key)?.0);
            let extent = extents::from_record(key, value)?;
            let at = format!("extent {}+{} of inode {id}", extent.offset, extent.len);
            let start = if before.0 == id { before.1 } else { 0 };
            hold!(self, extent.offset >= start, "{at} overlaps the one before");
            before = (id, extent.end());
            total += u128::from(extent.len);
            hold!(self, extents::checked(&extent, 0).is_ok(), "{at} is not possible");
            if let ExtentSource::Block { block, .. } = extent.source {
                let (known, count) = refs.entry(block.id).or_insert((block, 0));
                *count += 1;
                hold!(self, *known == block, "{at} does not agree with another one on block {}", block.id);
            }
            let Some(counted) = self.inodes.get_mut(&id) else {
                self.bad.push(format!("{at}: the inode is missing"));
                return Ok(ControlFlow::Continue(()));
            };
            counted.used = counted.used.saturating_add(extent.len);
            hold!(self, counted.inode.kind == FileKind::File, "{at}: it is no file");
            let reserved = extent.source == ExtentSource::Zero;
            hold!(self, reserved || extent.end() <= counted.inode.size, "{at} reaches behind the end");
            Ok(ControlFlow::Continue(()))
        })?;
        for (id, Counted { inode, used, .. }) in &self.inodes {
            hold!(self, inode.used == *used, "inode {id} says that {} bytes of {used} are used", inode.used);
        }
        let said = self.superblock.used;
        hold!(self, said == total, "the superblock says that {said} bytes of {total} are used");
        self.blocks(refs)
    }

    fn blocks(&mut self, mut refs: BTreeMap<BlockId, (BlockRef, u64)>) -> Result<(), ViewError> {
        scan(self.view, &keys::all_blocks(), |key, value| {
            let (session, index) = two(key)?;
            let id = BlockId { session: SessionId(session), index };
            let block = Block::decode(value)?;
            match refs.remove(&id) {
                Some((seen, count)) => {
                    hold!(
                        self,
                        count == block.refs,
                        "block {id} has {count} references and counts {}",
                        block.refs
                    );
                    hold!(self, block.agrees(&seen), "block {id} is not what its extents say");
                }
                None => self.bad.push(format!("block {id} has no reference")),
            }
            hold!(
                self,
                self.groups.contains(&block.group),
                "block {id} is in group {}, which is missing",
                block.group
            );
            Ok(ControlFlow::Continue(()))
        })?;
        for id in refs.keys() {
            self.bad.push(format!("block {id} has references and no record"));
        }
        Ok(())
    }

    fn sessions(&mut self) -> Result<(), ViewError> {
        let mut oldest = BTreeMap::new();
        scan(self.view, &keys::all_sessions(), |key, value| {
            oldest.insert(SessionId(one(key)?), Session::decode(value)?.oldest);
            Ok(ControlFlow::Continue(()))
        })?;
        let mut counts: BTreeMap<SessionId, u64> = BTreeMap::new();
        scan(self.view, &keys::all_replies(), |key, value| {
            let (session, request) = two(key)?;
            let session = SessionId(session);
            StoredReply::decode(value)?;
            *counts.entry(session).or_default() += 1;
            let kept = oldest.get(&session).is_some_and(|oldest| request >= oldest.0);
            hold!(self, kept, "the reply to {session}/{request} belongs to no session, or should be pruned");
            Ok(ControlFlow::Continue(()))
        })?;
        for (session, count) in counts {
            hold!(self, count <= session::KEPT_MAX, "session {session} keeps {count} replies");
        }
        if let Some((last, _)) = oldest.last_key_value() {
            hold!(self, *last < self.superblock.next_session, "session {last} is above the counter");
        }
        self.sessions = oldest.into_keys().collect();
        Ok(())
    }

    fn reclaimed(&mut self) -> Result<(), ViewError> {
        scan(self.view, &keys::all_reclaims(), |key, value| {
            let (session, index) = two(key)?;
            Reclaim::decode(value)?;
            let id = BlockId { session: SessionId(session), index };
            let referenced = self.view.get(&keys::block(id))?.is_some();
            hold!(self, !referenced, "block {id} waits for reclaim and has references");
            Ok(ControlFlow::Continue(()))
        })?;
        scan(self.view, &keys::all_reclaimed(), |key, value| {
            let (session, page) = two(key)?;
            let session = SessionId(session);
            hold!(self, self.sessions.contains(&session), "session {session} is gone and has a bitmap");
            for within in 0..keys::BITMAP_BITS {
                let id =
                    BlockId { session, index: page.saturating_mul(keys::BITMAP_BITS).saturating_add(within) };
                if extents::bit_is_set(value, id) {
                    let used = self.view.get(&keys::block(id))?.is_some()
                        || self.view.get(&keys::reclaim(id))?.is_some();
                    hold!(self, !used, "block {id} was reclaimed and is back");
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn locks(&mut self) -> Result<(), ViewError> {
        let mut files = BTreeSet::new();
        scan(self.view, &keys::all_locks(), |key, _| {
            files.insert(InodeId(two(key)?.0));
            Ok(ControlFlow::Continue(()))
        })?;
        let mut counts: BTreeMap<(SessionId, InodeId), u64> = BTreeMap::new();
        for file in files {
            let usable = self.inodes.get(&file).is_some_and(|c| !c.inode.freeing);
            hold!(self, usable, "inode {file} is gone and has locks");
            let table = Table::load(self.view, file)?;
            hold!(self, table.len() <= 2 * LOCKS_MAX, "inode {file} has {} locks", table.len());
            let holders: Vec<&StoredLock> = table.holders().collect();
            for (index, lock) in holders.iter().enumerate() {
                let conflict = holders[..index].iter().any(|other| {
                    lock.conflicts(other)
                        || (lock.locker() == other.locker() && lock.range.overlaps(other.range))
                });
                hold!(self, !conflict, "two locks on inode {file} conflict: {lock:?}");
            }
            hold!(self, table.next().is_none(), "a waiter for a lock on inode {file} has nobody in its way");
            for lock in holders.into_iter().chain(table.waiters().map(|(_, waiter)| waiter)) {
                let alive = self.sessions.contains(&lock.session);
                hold!(self, alive, "session {} is gone and has a lock on inode {file}", lock.session);
                let count = counts.entry((lock.session, file)).or_insert(0);
                if *count == 0 {
                    *count = 1;
                    *counts.entry((lock.session, InodeId(0))).or_insert(0) += 1;
                } else {
                    *count += 1;
                }
            }
        }
        let mut stored = BTreeMap::new();
        scan(self.view, &keys::all_lock_counts(), |key, value| {
            let (session, inode) = two(key)?;
            stored.insert((SessionId(session), InodeId(inode)), LockCount::decode(value)?.count);
            Ok(ControlFlow::Continue(()))
        })?;
        hold!(self, stored == counts, "locks are counted as {stored:?} instead of {counts:?}");
        Ok(())
    }

    fn healthy(&mut self) -> Result<(), ViewError> {
        let expected = Healthy::encode(&nodes::healthy_groups(self.view)?);
        let stored = self.view.get(keys::HEALTHY)?;
        hold!(self, stored == Some(expected), "the list of whole groups is not up to date");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ops::fixture::Bench;
    use super::*;
    use crate::types::{GroupId, Version};

    /// Breaks one thing, and expects to be told.
    fn finds(break_it: impl FnOnce(&mut Bench), expected: &str) {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        bench.write(inode, 0, b"some bytes");
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
        break_it(&mut bench);
        let found = check(&bench.view).unwrap();
        assert!(found.iter().any(|line| line.contains(expected)), "{expected:?} is not in {found:?}");
    }

    fn change_inode(bench: &mut Bench, id: InodeId, change: impl FnOnce(&mut Inode)) {
        let key = keys::inode(id).to_vec();
        let mut inode = Inode::decode(&bench.view.records[&key]).unwrap();
        change(&mut inode);
        inode.version = Version(9);
        bench.view.records.insert(key, inode.encode());
    }

    #[test]
    fn each_kind_of_damage_is_found() {
        let file = InodeId(2);
        finds(|b| change_inode(b, file, |i| i.nlink = 2), "dentries and nlink 2");
        finds(|b| change_inode(b, ROOT_INODE, |i| i.nlink = 3), "has nlink 3 instead of 2");
        finds(|b| change_inode(b, ROOT_INODE, |i| i.size = 0), "dentries and size 0");
        finds(|b| change_inode(b, file, |i| i.used = 1), "are used");
        finds(|b| change_inode(b, file, |i| i.size = 3), "reaches behind the end");
        finds(|b| change_inode(b, file, |i| i.xattr_count = 1), "extended attributes");
        finds(|b| change_inode(b, file, |i| i.kind = FileKind::Fifo), "another kind");
        finds(|b| drop(b.view.records.remove(keys::inode(file).as_slice())), "is missing");
        finds(
            |b| drop(b.view.records.remove(keys::session(SessionId(1)).as_slice())),
            "belongs to no session",
        );
        finds(
            |b| {
                let id = BlockId { session: SessionId(1), index: 1 };
                b.view.records.insert(keys::reclaim(id).to_vec(), Reclaim { group: GroupId(1) }.encode());
                let block = Block { refs: 1, len: 1, checksum: crate::types::Checksum(0), group: GroupId(1) };
                b.view.records.insert(keys::block(id).to_vec(), block.encode());
            },
            "waits for reclaim and has references",
        );
        finds(
            |b| {
                let range = keys::all_dentries();
                let (key, value) = b.view.records.range(range.from..range.to).next().unwrap();
                let (mut key, value) = (key.clone(), value.clone());
                b.view.records.remove(&key);
                *key.last_mut().unwrap() ^= 1;
                b.view.records.insert(key, value);
            },
            "cannot be found from its home",
        );
    }
}
