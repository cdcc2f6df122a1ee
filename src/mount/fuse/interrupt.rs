//! Interrupts: the caller of a request got a signal.
//!
//! The kernel names the request by its number, on `/dev/fuse` whatever the transport, and perhaps before the request
//! itself was seen here. [`Interrupts`] keeps who waits and what came too early.
//! Holds: a request that never asks costs nothing; what is kept is bounded.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Interrupts that came before (or after) their requests. Each costs 8 bytes and is gone with its request; those of
/// requests that are over already stay until newer ones push them out. More than requests are ever in flight.
const EARLY_MAX: usize = 16 << 10;

/// Tells a handler that the caller of its request got a signal.
#[derive(Clone, Debug)]
pub struct Interrupt {
    unique: u64,
    table: Arc<Interrupts>,
}

impl Interrupt {
    /// Returns when the caller has been sent a signal; at once if it was already. It never returns otherwise: select
    /// it against what is waited for. Nothing is lost when it is dropped.
    pub async fn interrupted(&self) {
        let _listed = Listed { unique: self.unique, table: &self.table };
        if let Some(interrupt) = self.table.wait(self.unique) {
            interrupt.await;
        }
    }

    /// True if the caller has been sent a signal.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.table.is_interrupted(self.unique)
    }
}

/// Takes a waiter off the list, however its wait ends.
struct Listed<'a> {
    unique: u64,
    table: &'a Interrupts,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.table.leave(self.unique);
    }
}

/// The interrupts of one mount.
#[derive(Debug, Default)]
pub struct Interrupts {
    state: Mutex<State>,
    /// Number of early ones, so that the end of a request need not take the lock.
    early_count: AtomicUsize,
    all: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, (Arc<Notify>, usize)>,
    /// Numbers grow, so the first is the oldest.
    early: BTreeSet<u64>,
}

impl Interrupts {
    /// What the handler of request `unique` gets.
    #[must_use]
    pub fn of(self: &Arc<Self>, unique: u64) -> Interrupt {
        Interrupt { unique, table: self.clone() }
    }

    /// The kernel says: the caller of `unique` got a signal.
    pub fn interrupt(&self, unique: u64) {
        let mut state = self.state.lock();
        if let Some((notify, _)) = state.waiting.get(&unique) {
            notify.notify_waiters();
        }
        state.early.insert(unique);
        if state.early.len() > EARLY_MAX {
            state.early.pop_first();
        }
        self.early_count.store(state.early.len(), Ordering::Release);
    }

    /// The mount is gone: everybody who waits may stop.
    pub fn interrupt_all(&self) {
        self.all.store(true, Ordering::SeqCst);
        for (interrupt, _) in self.state.lock().waiting.values() {
            interrupt.notify_waiters();
        }
    }

    /// Request `unique` has been answered: forget about it.
    pub fn answered(&self, unique: u64) {
        if self.early_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.early.remove(&unique);
        self.early_count.store(state.early.len(), Ordering::Release);
    }

    fn is_interrupted(&self, unique: u64) -> bool {
        self.all.load(Ordering::SeqCst)
            || self.early_count.load(Ordering::Acquire) != 0 && self.state.lock().early.contains(&unique)
    }

    /// None: interrupted already.
    fn wait(&self, unique: u64) -> Option<tokio::sync::futures::OwnedNotified> {
        let mut state = self.state.lock();
        let interrupted = state.early.contains(&unique) || self.all.load(Ordering::SeqCst);
        let (notify, count) = state.waiting.entry(unique).or_default();
        *count += 1;
        // Made under the lock: it hears every `notify_waiters` from here on, polled or not.
        (!interrupted).then(|| notify.clone().notified_owned())
    }

    fn leave(&self, unique: u64) {
        let mut state = self.state.lock();
        if let Some((_, count)) = state.waiting.get_mut(&unique) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                state.waiting.remove(&unique);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn an_interrupt_is_heard_whether_it_comes_before_or_during_the_wait() {
        let table = Arc::new(Interrupts::default());
        let (early, late, never) = (table.of(2), table.of(4), table.of(6));
        table.interrupt(2);
        assert!(early.is_interrupted() && !late.is_interrupted());
        assert!(early.interrupted().now_or_never().is_some());
        let mut waits = Box::pin(late.interrupted());
        assert!((&mut waits).now_or_never().is_none());
        assert!(never.interrupted().now_or_never().is_none());
        table.interrupt(4);
        assert!(waits.now_or_never().is_some());
        assert_eq!(table.state.lock().waiting.len(), 0);
        table.interrupt_all();
        assert!(never.is_interrupted() && never.interrupted().now_or_never().is_some());
        for unique in [2, 4] {
            table.answered(unique);
        }
        assert_eq!(table.early_count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn interrupts_of_requests_that_are_over_do_not_pile_up() {
        let table = Arc::new(Interrupts::default());
        (0..3 * EARLY_MAX as u64).for_each(|unique| table.interrupt(unique));
        assert_eq!(table.state.lock().early.len(), EARLY_MAX);
    }
}
