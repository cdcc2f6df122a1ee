//! Telling the kernel to drop what it has cached.
//!
//! Anybody may call a [`Notifier`], a handler included: it only queues. One thread of the mount writes the
//! notifications, because the kernel may take a lock for one that is held by a call which waits for a handler.
//! Holds: the queue is bounded; no caller ever waits for the kernel.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

/// Notifications that may wait. A full queue means that the kernel cannot keep up with what it has cached:
/// [`Notifier::send`] says so, and the caller falls back to times to live or waits.
pub const QUEUE_MAX: usize = 64 << 10;

/// What the kernel is to drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// The attributes of an inode, and the pages from `offset` on: `len` bytes, or all of them if `len` is 0.
    Inode {
        /// Which.
        inode: u64,
        /// From where; `None` drops attributes alone.
        pages: Option<(u64, u64)>,
    },
    /// What it knows of a name, or that there is none.
    Entry {
        /// The directory.
        parent: u64,
        /// The name.
        name: Bytes,
    },
    /// The same, but nothing of the name is taken apart: at its next use the kernel asks for it again. Only where it was agreed
    /// on (`HAS_EXPIRE_ONLY`, Linux 6.2 and newer).
    Expired {
        /// The directory.
        parent: u64,
        /// The name.
        name: Bytes,
    },
    /// As `Entry` for a name that was removed; whoever watches the directory hears of it.
    Deleted {
        /// The directory.
        parent: u64,
        /// What had the name.
        inode: u64,
        /// The name.
        name: Bytes,
    },
}

/// The way to the kernel for notifications. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: std::collections::VecDeque<Notification>,
    closed: bool,
}

impl Notifier {
    /// Queues a notification. False: the queue is full and it is lost. One for a mount that is gone is dropped.
    #[must_use]
    pub fn send(&self, notification: Notification) -> bool {
        let mut state = self.queue.state.lock();
        if state.closed {
            return true;
        }
        if state.waiting.len() >= QUEUE_MAX {
            return false;
        }
        state.waiting.push_back(notification);
        self.queue.changed.notify_one();
        true
    }

    /// Queues many at once, as far as there is room: the rest is lost, and so are those for a mount that is gone.
    pub fn send_all(&self, notifications: impl IntoIterator<Item = Notification>) {
        let mut state = self.queue.state.lock();
        if !state.closed {
            let room = QUEUE_MAX.saturating_sub(state.waiting.len());
            state.waiting.extend(notifications.into_iter().take(room));
            self.queue.changed.notify_one();
        }
    }

    /// The next one, for the thread that writes them; waits for it. `None` once closed.
    pub fn next(&self) -> Option<Notification> {
        let mut state = self.queue.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(notification) = state.waiting.pop_front() {
                return Some(notification);
            }
            self.queue.changed.wait(&mut state);
        }
    }

    /// The next one, if one waits.
    #[cfg(test)]
    pub fn try_next(&self) -> Option<Notification> {
        self.queue.state.lock().waiting.pop_front()
    }

    /// The mount is gone: what waits is dropped.
    pub fn close(&self) {
        let mut state = self.queue.state.lock();
        state.closed = true;
        state.waiting.clear();
        self.queue.changed.notify_all();
    }
}
