//! What this mount has changed itself, so that nothing is answered from memory that one of its own calls has made untrue.
//!
//! Every change takes a number when it is over, before its caller hears of it; whoever remembers an answer notes the number that
//! stood before it asked. Holds: an answer is still true of an inode, as far as this mount is concerned, if the last change of
//! that inode has no later number. Inodes share counters: one too many is thought changed, never one too few.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::InodeId;

/// Counters: so many that the calls of some dozen processes seldom meet in one.
const COUNTERS: usize = 1024;

/// A moment between two changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

/// The numbers of the last changes.
#[derive(Debug)]
pub(super) struct Changes {
    next: AtomicU64,
    /// By inode: the number of its last change.
    last: Box<[AtomicU64]>,
    /// The number of the last change that may have been one of any inode.
    last_of_any: AtomicU64,
}

impl Default for Changes {
    fn default() -> Self {
        let last = std::iter::repeat_with(AtomicU64::default).take(COUNTERS).collect();
        Self { next: AtomicU64::new(1), last, last_of_any: AtomicU64::new(0) }
    }
}

impl Changes {
    fn counter(&self, inode: InodeId) -> &AtomicU64 {
        // Numbers of inodes made one after the other fall on different counters.
        &self.last[usize::try_from(inode.0 % COUNTERS as u64).unwrap_or(0)]
    }

    /// Now: to be taken before the question whose answer is remembered.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.next.load(Ordering::SeqCst))
    }

    /// True if no change of the inode has ended since.
    pub(super) fn is_unchanged(&self, inode: InodeId, since: Mark) -> bool {
        let before = |last: &AtomicU64| last.load(Ordering::SeqCst) < since.0;
        before(self.counter(inode)) && before(&self.last_of_any)
    }

    fn end(&self, inodes: &[InodeId], any: bool) {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        for inode in inodes {
            self.counter(*inode).fetch_max(number, Ordering::SeqCst);
        }
        if any {
            self.last_of_any.fetch_max(number, Ordering::SeqCst);
        }
    }
}

/// A change on its way. Dropped when it is over, however it ended: what was given up may still take effect.
#[derive(Debug)]
pub(super) struct Changing<'a> {
    pub(super) changes: &'a Changes,
    /// Of what.
    pub(super) inodes: Vec<InodeId>,
    /// Perhaps of others as well, nobody here knows which.
    pub(super) any: bool,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if self.any || !self.inodes.is_empty() {
            self.changes.end(&self.inodes, self.any);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_until_a_change_of_its_inode_ends() {
        let changes = Changes::default();
        let (one, two) = (InodeId(1), InodeId(2));
        let change = |inodes: Vec<InodeId>, any| drop(Changing { changes: &changes, inodes, any });
        change(vec![one], false);
        let mark = changes.mark();
        assert!(changes.is_unchanged(one, mark));
        let running = Changing { changes: &changes, inodes: vec![one], any: false };
        assert!(changes.is_unchanged(one, mark));
        drop(running);
        assert!(!changes.is_unchanged(one, mark) && changes.is_unchanged(two, mark));
        assert!(changes.is_unchanged(one, changes.mark()));
        change(vec![], true);
        assert!(!changes.is_unchanged(two, mark));
        assert!(changes.is_unchanged(two, changes.mark()));
    }
}
