//! Which sessions may still hold a handle on an orphan.
//!
//! Opening a file is no command, so nobody knows who holds what until he is asked: with its keep-alive each session that lived
//! when the inode lost its last dentry says whether it holds it. An orphan that nobody holds is freed. What was made without a
//! dentry is asked of its maker alone; with a dentry it leaves the table, and it may come back later as any other orphan.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::namespace::OrphanInfo;
use crate::types::{InodeId, SessionId};

/// Orphans asked about in one answer to a keep-alive: the next one follows at once.
const QUESTIONS_MAX: usize = 1024;
/// Orphans freed by one command at most. Small files are freed whole; large ones in steps.
const FREED_MAX: usize = 256;

/// What is waited for before an orphan is freed.
struct Waiting {
    /// Whom alone it was asked of. An inode without a dentry may become an orphan a second time, and then it is asked anew.
    holder: Option<SessionId>,
    /// Sessions that have not yet said that they do not hold it.
    sessions: BTreeSet<SessionId>,
}

/// The table.
#[derive(Default)]
pub(super) struct OrphanTable {
    waiting: BTreeMap<InodeId, Waiting>,
    /// The same the other way round, to find a session's questions without a look at every orphan.
    asked: BTreeMap<SessionId, BTreeSet<InodeId>>,
    cursor: Option<InodeId>,
}

impl OrphanTable {
    /// Where the next page of orphans begins.
    pub(super) fn cursor(&self) -> Option<InodeId> {
        self.cursor
    }

    /// Takes note of a page of orphans, all there are behind the cursor up to `page_max`; gives those that nobody holds. One that lost its
    /// last dentry before there was a session `kept_below` stays: behind a restore a newer dump may know a name for it.
    pub(super) fn observe(
        &mut self,
        page: &[OrphanInfo],
        page_max: usize,
        alive: &[SessionId],
        kept_below: SessionId,
    ) -> Vec<InodeId> {
        let (behind, end) = (self.cursor, page.last().filter(|_| page.len() >= page_max).map(|o| o.inode));
        self.cursor = end;
        self.forget_linked(page, behind, end);
        let alive: BTreeSet<SessionId> = alive.iter().copied().collect();
        let ended: Vec<SessionId> = self.asked.keys().filter(|s| !alive.contains(s)).copied().collect();
        for session in ended {
            self.session_ended(session);
        }
        let mut free = Vec::new();
        for orphan in page {
            if orphan.sessions_below < kept_below && !orphan.freeing {
                continue;
            }
            let known = self.waiting.get(&orphan.inode).is_some_and(|w| w.holder == orphan.holder);
            if !known && !orphan.freeing {
                self.forget(orphan.inode);
                let may_hold =
                    |s: &SessionId| *s < orphan.sessions_below && orphan.holder.is_none_or(|h| h == *s);
                let sessions: BTreeSet<SessionId> = alive.iter().copied().filter(may_hold).collect();
                for session in &sessions {
                    self.asked.entry(*session).or_default().insert(orphan.inode);
                }
                self.waiting.insert(orphan.inode, Waiting { holder: orphan.holder, sessions });
            }
            let held = self.waiting.get(&orphan.inode).is_some_and(|w| !w.sessions.is_empty());
            if !held && free.len() < FREED_MAX {
                // Forgotten here: if the command is lost, the orphan is met again and everybody is asked again.
                self.waiting.remove(&orphan.inode);
                free.push(orphan.inode);
            }
        }
        free
    }

    /// Forgets what stood between `behind` and `end` and is no orphan any more.
    fn forget_linked(&mut self, page: &[OrphanInfo], behind: Option<InodeId>, end: Option<InodeId>) {
        let from = behind.map_or(Unbounded, Excluded);
        let to = end.map_or(Unbounded, Included);
        if matches!((behind, end), (Some(behind), Some(end)) if behind >= end) {
            return;
        }
        let there: BTreeSet<InodeId> = page.iter().map(|o| o.inode).collect();
        let linked: Vec<InodeId> =
            self.waiting.range((from, to)).map(|(id, _)| *id).filter(|id| !there.contains(id)).collect();
        for inode in linked {
            self.forget(inode);
        }
    }

    /// Waits for nobody's word on an inode any more.
    fn forget(&mut self, inode: InodeId) {
        for session in self.waiting.remove(&inode).map(|w| w.sessions).unwrap_or_default() {
            if let Some(inodes) = self.asked.get_mut(&session) {
                inodes.remove(&inode);
            }
        }
    }

    /// What a session said. An orphan that it holds stays on its list and is asked about again.
    pub(super) fn answered(&mut self, session: SessionId, handles: &[(InodeId, bool)]) {
        for (inode, _) in handles.iter().filter(|(_, held)| !held) {
            self.settle(session, *inode);
        }
    }

    /// What to ask a session next, but for what it has just answered: those wait for its next keep-alive.
    pub(super) fn questions(&self, session: SessionId, just_answered: &[(InodeId, bool)]) -> Vec<InodeId> {
        let known: BTreeSet<InodeId> = just_answered.iter().map(|(inode, _)| *inode).collect();
        let asked = self.asked.get(&session).into_iter().flatten();
        asked.filter(|inode| !known.contains(inode)).take(QUESTIONS_MAX).copied().collect()
    }

    /// A session that has ended holds nothing.
    pub(super) fn session_ended(&mut self, session: SessionId) {
        for inode in self.asked.remove(&session).unwrap_or_default() {
            if let Some(waiting) = self.waiting.get_mut(&inode) {
                waiting.sessions.remove(&session);
            }
        }
    }

    fn settle(&mut self, session: SessionId, inode: InodeId) {
        if let Some(waiting) = self.waiting.get_mut(&inode) {
            waiting.sessions.remove(&session);
        }
        if let Some(inodes) = self.asked.get_mut(&session) {
            inodes.remove(&inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    /// Nothing is kept behind a restore.
    const NOBODY: SessionId = SessionId(0);

    fn orphan(inode: u64, sessions_below: u64) -> OrphanInfo {
        OrphanInfo {
            inode: InodeId(inode),
            at: Timestamp(0),
            sessions_below: SessionId(sessions_below),
            holder: None,
            freeing: false,
        }
    }

    #[test]
    fn an_orphan_is_freed_once_everybody_who_lived_then_has_let_go() {
        let mut table = OrphanTable::default();
        let alive = [SessionId(1), SessionId(2), SessionId(9)];
        let page = [orphan(70, 5)];
        assert!(table.observe(&page, 8, &alive, NOBODY).is_empty());
        assert_eq!(table.questions(SessionId(1), &[]), [InodeId(70)]);
        assert!(table.questions(SessionId(9), &[]).is_empty(), "a later session cannot hold it");

        let held = [(InodeId(70), true)];
        table.answered(SessionId(1), &held);
        assert!(table.questions(SessionId(1), &held).is_empty(), "not at once again");
        assert_eq!(table.questions(SessionId(1), &[]), [InodeId(70)], "but with the next keep-alive");

        table.answered(SessionId(2), &[(InodeId(70), false)]);
        assert!(table.observe(&page, 8, &alive, NOBODY).is_empty());
        table.answered(SessionId(1), &[(InodeId(70), false)]);
        assert_eq!(table.observe(&page, 8, &alive, NOBODY), [InodeId(70)]);
    }

    /// A file made without a dentry is linked, opened by others and unlinked: what was said when it had no dentry must
    /// not count, or it would be freed under those who hold it.
    #[test]
    fn an_orphan_that_was_linked_is_asked_about_anew() {
        let alive = [SessionId(1), SessionId(2)];
        let unnamed = [OrphanInfo { holder: Some(SessionId(1)), ..orphan(70, 5) }];
        let no = [(InodeId(70), false)];
        for seen_while_linked in [true, false] {
            let mut table = OrphanTable::default();
            assert!(table.observe(&unnamed, 8, &alive, NOBODY).is_empty());
            assert!(table.questions(SessionId(2), &[]).is_empty(), "its maker alone may hold it");
            if seen_while_linked {
                assert!(table.observe(&[], 8, &alive, NOBODY).is_empty());
                assert!(table.waiting.is_empty() && table.questions(SessionId(1), &[]).is_empty());
            }
            assert!(table.observe(&[orphan(70, 5)], 8, &alive, NOBODY).is_empty());
            table.answered(SessionId(1), &no);
            assert!(
                table.observe(&[orphan(70, 5)], 8, &alive, NOBODY).is_empty(),
                "the other may hold it now"
            );
            table.answered(SessionId(2), &no);
            assert_eq!(table.observe(&[orphan(70, 5)], 8, &alive, NOBODY), [InodeId(70)]);
        }
    }

    #[test]
    fn a_session_that_ended_holds_nothing() {
        let mut table = OrphanTable::default();
        let page = [orphan(70, 5)];
        assert!(table.observe(&page, 8, &[SessionId(1), SessionId(2)], NOBODY).is_empty());
        table.session_ended(SessionId(1));
        assert_eq!(table.observe(&page, 8, &[], NOBODY), [InodeId(70)], "closed without an expiry");
    }

    /// A file without a name had got one behind the dump that was restored. Its blocks were freed with the orphan, and the newer dump that
    /// knew the name came too late.
    #[test]
    fn orphans_of_before_a_restore_are_kept_for_its_grace() {
        let mut table = OrphanTable::default();
        let floor = SessionId(1 << 40);
        let begun = OrphanInfo { freeing: true, ..orphan(72, 5) };
        let page = [orphan(70, 5), orphan(71, floor.0), begun];
        let free = table.observe(&page, 8, &[], floor);
        assert_eq!(free, [InodeId(71), InodeId(72)], "those of this life go, and what had begun ends");
        assert_eq!(table.observe(&[orphan(70, 5)], 8, &[], NOBODY), [InodeId(70)], "the grace is over");
    }
}
