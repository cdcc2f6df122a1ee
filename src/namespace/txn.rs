//! A run of commands over one view: reads what it wrote, caches what it read, ends as one change set.
//!
//! `meta` makes one for each batch of log entries, hands it to `apply` command by command and stores what `finish`
//! returns. Inodes and the superblock are kept decoded, so that a parent's attributes are encoded once for the run and
//! not once for each child. Holds: tables 01 and 02 live in the decoded halves only, all others in [`Overlay`] only.
//! Not here: rules. An operation that answers an error must not have written before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::ops::Bound::{Excluded, Included};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::dentry::{self, HashRule};
use super::keys;
use super::records::{Entry, Inode, Record, Superblock};
use super::{Change, ChangeSet, Key, View, ViewError};
use crate::types::{Cookie, FsError, InodeId, Name, RequestId, SessionId};

/// Why an operation ended early: an answer for the caller, or a view that cannot be read.
#[derive(Debug)]
pub(super) enum Stop {
    Fs(FsError),
    View(ViewError),
}

impl From<FsError> for Stop {
    fn from(e: FsError) -> Self {
        Self::Fs(e)
    }
}

impl From<ViewError> for Stop {
    fn from(e: ViewError) -> Self {
        Self::View(e)
    }
}

/// Result of a part of an operation.
pub(super) type Step<T> = Result<T, Stop>;

/// The state contradicts itself: as bad as a disk that cannot be read.
pub(super) fn corrupt(reason: String) -> ViewError {
    ViewError { reason }
}

/// The record of type `T` under `key`.
pub(super) fn read<T: Record>(view: &dyn View, key: &[u8]) -> Result<Option<T>, ViewError> {
    view.get(key)?.map(|bytes| T::decode(&bytes)).transpose()
}

/// Calls `each` for the records of a range until it breaks or fails.
pub(super) fn scan(
    view: &dyn View,
    range: &keys::Range,
    mut each: impl FnMut(&[u8], &Bytes) -> Result<ControlFlow<()>, ViewError>,
) -> Result<(), ViewError> {
    let mut failed = None;
    view.scan(&range.from, &range.to, &mut |key, value| match each(key, value) {
        Ok(flow) => flow,
        Err(e) => {
            failed = Some(e);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

struct Held {
    old: Option<Bytes>,
    now: Option<Bytes>,
}

/// The records a run has read or written, over the view. Itself a view of the state as the run leaves it.
pub(super) struct Overlay<'v> {
    view: &'v dyn View,
    // Behind a RefCell so that a read can cache. Borrowed for a scan: callbacks of scans only collect.
    records: RefCell<BTreeMap<Key, Held>>,
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let held = Key::from(key);
        if let Some(record) = self.records.borrow().get(&held) {
            return Ok(record.now.clone());
        }
        let old = self.view.get(key)?;
        let record = Held { old: old.clone(), now: old.clone() };
        self.records.borrow_mut().insert(held, record);
        Ok(old)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        if from >= to {
            return Ok(());
        }
        let records = self.records.borrow();
        let mut ours = records.range((Included(Key::from(from)), Excluded(Key::from(to)))).peekable();
        let mut stopped = false;
        self.view.scan(from, to, &mut |key, value| {
            let mut give = |key: &[u8], value: &Bytes| {
                let flow = each(key, value);
                stopped = flow.is_break();
                flow
            };
            while let Some((our_key, record)) = ours.next_if(|(k, _)| k.as_ref() < key) {
                if let Some(now) = &record.now {
                    give(our_key, now)?;
                }
            }
            match ours.next_if(|(k, _)| k.as_ref() == key) {
                Some((_, Held { now: Some(now), .. })) => give(key, now),
                Some((_, Held { now: None, .. })) => ControlFlow::Continue(()),
                None => give(key, value),
            }
        })?;
        if !stopped {
            for (key, record) in ours {
                if let Some(now) = &record.now
                    && each(key, now).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Overlay<'_> {
    fn set(&self, key: &[u8], now: Option<Bytes>) -> Result<(), ViewError> {
        match self.records.borrow_mut().entry(Key::from(key)) {
            MapEntry::Occupied(record) => record.into_mut().now = now,
            MapEntry::Vacant(free) => {
                let old = self.view.get(key)?;
                free.insert(Held { old, now });
            }
        }
        Ok(())
    }

    pub(super) fn put(&self, key: &[u8], record: &impl Record) -> Result<(), ViewError> {
        self.set(key, Some(record.encode()))
    }

    pub(super) fn put_bytes(&self, key: &[u8], value: Bytes) -> Result<(), ViewError> {
        self.set(key, Some(value))
    }

    /// Like `put`, for a key that the view cannot hold (ids are never reused): saves the read of the old value.
    pub(super) fn put_fresh(&self, key: &[u8], record: &impl Record) {
        self.put_bytes_fresh(key, record.encode());
    }

    /// Like `put_bytes`, for a key that the view cannot hold.
    pub(super) fn put_bytes_fresh(&self, key: &[u8], value: Bytes) {
        self.records.borrow_mut().entry(Key::from(key)).or_insert(Held { old: None, now: None }).now =
            Some(value);
    }

    pub(super) fn delete(&self, key: &[u8]) -> Result<(), ViewError> {
        self.set(key, None)
    }

    /// Deletes at most `limit` records of a range; the number deleted.
    pub(super) fn delete_range(&self, range: &keys::Range, limit: usize) -> Result<usize, ViewError> {
        let mut found = Vec::new();
        if limit > 0 {
            scan(self, range, |key, _| {
                found.push(key.to_vec());
                Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
        }
        for key in &found {
            self.delete(key)?;
        }
        Ok(found.len())
    }
}

struct CachedInode {
    old: Option<Bytes>,
    now: Option<Inode>,
    dirty: bool,
}

struct CachedSuperblock {
    old: Option<Bytes>,
    now: Option<Superblock>,
}

/// What is known of a session beside its records; see `ops/session.rs`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    /// The lowest request id not announced as answered, as far as requests from `scanned_from` on tell.
    pub(super) lowest: RequestId,
    pub(super) scanned_from: RequestId,
    /// No request above it has a reply.
    pub(super) newest: RequestId,
    /// As the session's record has it.
    pub(super) oldest: RequestId,
}

/// What runs over one line of states have learnt and the next ones need not look up again. Nothing but time depends on it: a run
/// without it gives the same replies and changes. It belongs to the state that the last run led to; with any other one it is
/// wrong.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    pub(super) announced: BTreeMap<SessionId, Announced>,
}

/// A run of commands over one view: reads what it wrote, caches what it read, ends as one change set.
pub struct Txn<'v> {
    pub(super) records: Overlay<'v>,
    inodes: BTreeMap<InodeId, CachedInode>,
    superblock: Option<CachedSuperblock>,
    pub(super) memo: Memo,
}

impl<'v> Txn<'v> {
    /// A run that has changed nothing yet.
    pub fn new(view: &'v dyn View) -> Self {
        Self::knowing(view, Memo::default())
    }

    /// As [`Txn::new`], with what earlier runs have learnt on the way to the state of `view`.
    pub fn knowing(view: &'v dyn View, memo: Memo) -> Self {
        Self {
            records: Overlay { view, records: RefCell::default() },
            inodes: BTreeMap::new(),
            superblock: None,
            memo,
        }
    }

    /// All that the run changed; each change carries what the view held.
    pub fn finish(self) -> ChangeSet {
        self.finish_knowing().0
    }

    /// As [`Txn::finish`], and what is known of the state that the changes lead to.
    pub fn finish_knowing(self) -> (ChangeSet, Memo) {
        let room = self.inodes.len() + self.records.records.borrow().len() + 1;
        // The tables come in the order of their tags, so the changes come in the order of their keys.
        let superblock =
            self.superblock.map(|s| (Key::from(keys::SUPERBLOCK), s.old, s.now.map(|now| now.encode())));
        let inodes =
            self.inodes.into_iter().filter(|(_, i)| i.dirty).map(|(id, inode)| {
                (Key::from(keys::inode(id)), inode.old, inode.now.map(|now| now.encode()))
            });
        let records = self.records.records.into_inner().into_iter().map(|(key, r)| (key, r.old, r.now));
        let changed = superblock
            .into_iter()
            .chain(inodes)
            .chain(records)
            .filter(|(_, old, new)| old != new)
            .map(|(key, old, new)| Change { key, old, new });
        // Made in one piece: a set is kept until the view has it, and one that was grown keeps twice its room.
        let mut changes = Vec::with_capacity(room);
        changes.extend(changed);
        changes.shrink_to_fit();
        (changes, self.memo)
    }

    /// The superblock; none before the cluster is founded.
    pub(super) fn superblock(&mut self) -> Result<Option<&mut Superblock>, ViewError> {
        if self.superblock.is_none() {
            let old = self.records.view.get(keys::SUPERBLOCK)?;
            let now = old.as_deref().map(Superblock::decode).transpose()?;
            self.superblock = Some(CachedSuperblock { old, now });
        }
        Ok(self.superblock.as_mut().and_then(|s| s.now.as_mut()))
    }

    /// The superblock of a founded cluster.
    pub(super) fn founded(&mut self) -> Result<&mut Superblock, ViewError> {
        self.superblock()?.ok_or_else(|| corrupt("the superblock is missing".into()))
    }

    pub(super) fn put_superblock(&mut self, superblock: Superblock) -> Result<(), ViewError> {
        self.superblock()?;
        if let Some(cached) = &mut self.superblock {
            cached.now = Some(superblock);
        }
        Ok(())
    }

    fn cached(&mut self, id: InodeId) -> Result<&mut CachedInode, ViewError> {
        match self.inodes.entry(id) {
            MapEntry::Occupied(e) => Ok(e.into_mut()),
            MapEntry::Vacant(e) => {
                let old = self.records.view.get(&keys::inode(id))?;
                let now = old.as_deref().map(Inode::decode).transpose()?;
                Ok(e.insert(CachedInode { old, now, dirty: false }))
            }
        }
    }

    /// An inode, whatever became of it.
    pub(super) fn any_inode(&mut self, id: InodeId) -> Result<Option<&Inode>, ViewError> {
        Ok(self.cached(id)?.now.as_ref())
    }

    /// An inode that can be used: ESTALE if it is gone or going.
    pub(super) fn inode(&mut self, id: InodeId) -> Step<Inode> {
        match self.any_inode(id)? {
            Some(inode) if !inode.freeing => Ok(inode.clone()),
            _ => Err(FsError::Stale.into()),
        }
    }

    /// A directory that can be used: ENOENT if it was removed while someone is still in it.
    pub(super) fn dir(&mut self, id: InodeId) -> Step<Inode> {
        let inode = self.inode(id)?;
        match () {
            () if !inode.is_dir() => Err(FsError::NotDir.into()),
            () if inode.nlink == 0 => Err(FsError::NotFound.into()),
            () => Ok(inode),
        }
    }

    /// The inode that a dentry names: it is there, or the state is corrupt.
    pub(super) fn named(&mut self, id: InodeId) -> Result<Inode, ViewError> {
        match self.any_inode(id)? {
            Some(inode) => Ok(inode.clone()),
            None => Err(corrupt(format!("inode {id} is named but missing"))),
        }
    }

    /// Changes an inode in place.
    pub(super) fn with_inode<R>(
        &mut self,
        id: InodeId,
        change: impl FnOnce(&mut Inode) -> R,
    ) -> Result<R, ViewError> {
        let cached = self.cached(id)?;
        cached.dirty = true;
        match &mut cached.now {
            Some(inode) => Ok(change(inode)),
            None => Err(corrupt(format!("inode {id} is missing"))),
        }
    }

    /// Stores a new inode under the next id.
    pub(super) fn new_inode(&mut self, inode: Inode) -> Result<InodeId, ViewError> {
        let superblock = self.founded()?;
        let id = superblock.next_inode;
        superblock.next_inode = id.next();
        superblock.inode_count += 1;
        // The counter says that the view does not hold it: no need to look.
        self.inodes.insert(id, CachedInode { old: None, now: Some(inode), dirty: true });
        Ok(id)
    }

    /// Puts an inode of a dump into its place; the counters come with the dump's own.
    pub(super) fn restore_inode(&mut self, id: InodeId, inode: Inode) -> Result<(), ViewError> {
        let cached = self.cached(id)?;
        cached.now = Some(inode);
        cached.dirty = true;
        Ok(())
    }

    /// Forgets an inode for good.
    pub(super) fn remove_inode(&mut self, id: InodeId) -> Result<(), ViewError> {
        let cached = self.cached(id)?;
        cached.now = None;
        cached.dirty = true;
        let superblock = self.founded()?;
        superblock.inode_count = superblock.inode_count.saturating_sub(1);
        Ok(())
    }

    /// How names become cookies.
    pub(super) fn hash_rule(&mut self) -> Result<HashRule, ViewError> {
        Ok(HashRule::of(self.founded()?))
    }

    /// The dentry of a name and its cookie.
    pub(super) fn child(
        &mut self,
        parent: InodeId,
        name: &Name,
    ) -> Result<Option<(Cookie, Entry)>, ViewError> {
        let rule = self.hash_rule()?;
        dentry::find(&self.records, rule, parent, name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryView;
    use super::*;

    fn keys_of(view: &dyn View, from: &[u8], to: &[u8]) -> Vec<u8> {
        let mut seen = Vec::new();
        view.scan(from, to, &mut |key, _| {
            seen.push(key[0]);
            ControlFlow::Continue(())
        })
        .unwrap();
        seen
    }

    #[test]
    fn a_scan_merges_what_was_written_over_what_was_there() {
        let mut view = MemoryView::default();
        for k in [10u8, 20, 30, 40] {
            view.records.insert(vec![k], Bytes::from(vec![k]));
        }
        let txn = Txn::new(&view);
        txn.records.delete(&[20]).unwrap();
        txn.records.put_bytes(&[25], Bytes::from_static(b"x")).unwrap();
        txn.records.put_bytes(&[50], Bytes::from_static(b"x")).unwrap();
        txn.records.put_bytes(&[10], Bytes::from_static(b"y")).unwrap();
        assert_eq!(keys_of(&txn.records, &[0], &[99]), [10, 25, 30, 40, 50]);
        assert_eq!(keys_of(&txn.records, &[11], &[40]), [25, 30]);
        let mut first = Vec::new();
        txn.records
            .scan(&[0], &[99], &mut |key, value| {
                first.push((key.to_vec(), value.clone()));
                ControlFlow::Break(())
            })
            .unwrap();
        assert_eq!(first, [(vec![10], Bytes::from_static(b"y"))]);
    }

    #[test]
    fn a_change_carries_the_old_value_and_no_change_is_none() {
        let mut view = MemoryView::default();
        view.records.insert(vec![10], Bytes::from_static(b"a"));
        let txn = Txn::new(&view);
        txn.records.put_bytes(&[10], Bytes::from_static(b"b")).unwrap();
        txn.records.put_bytes(&[11], Bytes::from_static(b"c")).unwrap();
        txn.records.delete(&[11]).unwrap();
        txn.records.delete(&[12]).unwrap();
        let changes = txn.finish();
        assert_eq!(
            changes,
            [Change {
                key: Key::from([10]),
                old: Some(Bytes::from_static(b"a")),
                new: Some(Bytes::from_static(b"b")),
            }]
        );
    }
}
