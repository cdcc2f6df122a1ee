//! Tells who waits for a lock that something became of its request.
//!
//! `core` says what was applied, `service` waits. Holds: what changed can be read before anybody is told. A request that waits has a place
//! among the locks of its file; only a change of that place wakes who waits for it. So when one of a thousand is granted the lock, one
//! looks, not a thousand.
//! Not here: who waits, and whether he still does (`namespace`).

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::namespace::{Change, lock_place};
use crate::types::{InodeId, RequestId, SessionId};

/// Places and requests remembered before those that nobody waits for any more are looked for.
const KEPT_MIN: usize = 1024;

/// A file, and a place among its locks.
type LockPlace = (InodeId, u64);
/// A request that waits for a lock of a file.
pub type LockRequest = (InodeId, SessionId, RequestId);

/// Where somebody waits for a lock.
#[derive(Default)]
pub struct LockWatch {
    state: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    places: HashMap<LockPlace, watch::Sender<()>>,
    /// Where requests were found, so that who asks again is not searched for.
    found: HashMap<LockRequest, u64>,
    /// How many of either were left by the last search for those that nobody waits for.
    kept: usize,
}

impl Watched {
    fn len(&self) -> usize {
        self.places.len().max(self.found.len())
    }

    fn tidy(&mut self) {
        if self.len() < KEPT_MIN.max(self.kept.saturating_mul(2)) {
            return;
        }
        self.places.retain(|_, place| place.receiver_count() > 0);
        let places = &self.places;
        self.found.retain(|(inode, ..), place| places.contains_key(&(*inode, *place)));
        self.kept = self.len();
    }
}

impl LockWatch {
    /// Where a request was found to wait, the last time. It may wait no more.
    pub fn place(&self, request: LockRequest) -> Option<u64> {
        self.state.lock().found.get(&request).copied()
    }

    /// Changes when what is at the place does, from now on. The place is remembered as that of `request`.
    pub fn watch(&self, request: LockRequest, place: u64) -> watch::Receiver<()> {
        let mut state = self.state.lock();
        state.tidy();
        state.found.insert(request, place);
        state.places.entry((request.0, place)).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// These changes can be read now.
    pub(super) fn changed(&self, changes: &[Change]) {
        let mut state = self.state.lock();
        if state.places.is_empty() {
            return;
        }
        for place in changes.iter().filter_map(|change| lock_place(&change.key)) {
            if state.places.get(&place).is_some_and(|watched| watched.send(()).is_err()) {
                state.places.remove(&place);
            }
        }
    }

    /// A request waits no more where it did.
    pub fn forget(&self, request: LockRequest) {
        self.state.lock().found.remove(&request);
    }

    /// Everything may have changed.
    pub(super) fn all_changed(&self) {
        let mut state = self.state.lock();
        state.found.clear();
        state.places.retain(|_, place| place.send(()).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Key;

    fn change(table: u8, inode: u64, place: u64) -> Change {
        let key = [&[table][..], &inode.to_be_bytes(), &place.to_be_bytes()].concat();
        Change { key: Key::from(&key[..]), old: None, new: None }
    }

    fn request(inode: u64, number: u64) -> LockRequest {
        (InodeId(inode), SessionId(1), RequestId(number))
    }

    #[test]
    fn those_who_wait_hear_of_their_own_place_and_of_nothing_else() {
        let locks = LockWatch::default();
        let watch = |inode, place| locks.watch(request(inode, place), place);
        let mut waiters = [watch(5, 1), watch(5, 2), watch(6, 1)];
        let mut heard = || {
            waiters.each_mut().map(|w| {
                let heard = w.has_changed().unwrap();
                w.mark_unchanged();
                heard
            })
        };
        locks.changed(&[change(0x02, 5, 1), change(0x11, 5, 1), change(0x10, 5, 7)]);
        assert_eq!(heard(), [false, false, false]);
        locks.changed(&[change(0x10, 4, 1), change(0x10, 5, 1), change(0x10, 5, 1)]);
        assert_eq!(heard(), [true, false, false]);
        locks.all_changed();
        assert_eq!(heard(), [true, true, true]);
        drop(waiters);
        locks.changed(&[change(0x10, 5, 1), change(0x10, 5, 2)]);
        let places: Vec<_> = locks.state.lock().places.keys().copied().collect();
        assert_eq!(places, [(InodeId(6), 1)], "nobody waits for the others");
    }

    #[test]
    fn a_request_is_remembered_as_long_as_somebody_may_ask_for_it() {
        let locks = LockWatch::default();
        assert_eq!(locks.place(request(5, 9)), None);
        let waiting = locks.watch(request(5, 9), 3);
        assert_eq!(locks.place(request(5, 9)), Some(3));
        locks.forget(request(5, 9));
        assert_eq!(locks.place(request(5, 9)), None);
        drop(locks.watch(request(5, 9), 3));

        // Many come and go: what is remembered of them does not grow without an end.
        for number in 0..5 * KEPT_MIN as u64 {
            drop(locks.watch(request(7, number), number));
            // Of every other one it is heard that it went.
            if number % 2 == 0 {
                locks.changed(&[change(0x10, 7, number)]);
            }
        }
        let state = locks.state.lock();
        assert!(state.places.len() <= KEPT_MIN + 1 && state.found.len() <= KEPT_MIN + 1);
        assert!(state.places.contains_key(&(InodeId(5), 3)) && waiting.has_changed().is_ok());
    }
}
