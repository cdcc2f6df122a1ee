//! Tells who waits for a lock that the locks of its file have changed.
//!
//! `core` says what was applied, `service` waits. Holds: what changed can be read before anybody is told. A file with a thousand waiters is
//! looked at a thousand times when its locks change; nothing else that is applied, and there is much of it, costs them a look.
//! Not here: who waits, and whether he still does (`namespace`).

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::namespace::{Change, locked_file};
use crate::types::InodeId;

/// Files remembered before those that nobody waits for any more are looked for.
const FILES_KEPT: usize = 1024;

/// The files whose locks somebody waits for.
#[derive(Default)]
pub(super) struct LockWatch {
    files: Mutex<HashMap<InodeId, watch::Sender<()>>>,
}

impl LockWatch {
    /// Changes when locks of the file do, from now on.
    pub(super) fn watch(&self, inode: InodeId) -> watch::Receiver<()> {
        let mut files = self.files.lock();
        if files.len() >= FILES_KEPT && !files.contains_key(&inode) {
            files.retain(|_, file| file.receiver_count() > 0);
        }
        files.entry(inode).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// These changes can be read now.
    pub(super) fn changed(&self, changes: &[Change]) {
        let mut files = self.files.lock();
        if files.is_empty() {
            return;
        }
        let mut last = None;
        // In the order of their keys: those of one file stand together.
        for inode in changes.iter().filter_map(|change| locked_file(&change.key)) {
            if last.replace(inode) == Some(inode) {
                continue;
            }
            if files.get(&inode).is_some_and(|file| file.send(()).is_err()) {
                files.remove(&inode);
            }
        }
    }

    /// Everything may have changed.
    pub(super) fn all_changed(&self) {
        self.files.lock().retain(|_, file| file.send(()).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Key;

    fn change(table: u8, inode: u64) -> Change {
        let key = [&[table][..], &inode.to_be_bytes(), &7_u64.to_be_bytes()].concat();
        Change { key: Key::from(&key[..]), old: None, new: None }
    }

    #[test]
    fn those_who_wait_for_a_file_hear_of_its_locks_and_of_nothing_else() {
        let locks = LockWatch::default();
        let mut waiters = [locks.watch(InodeId(5)), locks.watch(InodeId(5)), locks.watch(InodeId(6))];
        let mut heard = || {
            waiters.each_mut().map(|w| {
                let heard = w.has_changed().unwrap();
                w.mark_unchanged();
                heard
            })
        };
        locks.changed(&[change(0x02, 5), change(0x11, 5)]);
        assert_eq!(heard(), [false, false, false]);
        locks.changed(&[change(0x10, 4), change(0x10, 5), change(0x10, 5)]);
        assert_eq!(heard(), [true, true, false]);
        locks.all_changed();
        assert_eq!(heard(), [true, true, true]);
        drop(waiters);
        locks.changed(&[change(0x10, 5)]);
        assert_eq!(
            locks.files.lock().keys().collect::<Vec<_>>(),
            [&InodeId(6)],
            "nobody waits for the other"
        );
    }
}
