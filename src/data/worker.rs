//! The status line of a worker: what it does now, for people, and how often it failed.
//!
//! Each worker owns one; `status` reads them. Holds: a line is replaced whole.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::runtime::{self, StopSignal};
use crate::wire::status::WorkerStatus;

/// A worker as others see it.
#[derive(Debug)]
pub(super) struct Worker {
    name: &'static str,
    line: Mutex<String>,
    error_count: AtomicU64,
    wake: Notify,
    /// A call was made and not yet heard.
    called: AtomicBool,
    resting: AtomicBool,
}

/// Why a worker's pause ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Stop,
    Called,
    Time,
}

impl Worker {
    pub(super) fn new(name: &'static str) -> Self {
        let line = Mutex::new("waits until the server is registered".to_owned());
        Self {
            name,
            line,
            error_count: AtomicU64::new(0),
            wake: Notify::new(),
            called: AtomicBool::new(false),
            resting: AtomicBool::new(false),
        }
    }

    /// Says what it does now.
    pub(super) fn say(&self, line: impl Into<String>) {
        *self.line.lock() = line.into();
    }

    /// Counts a failure and says what it was.
    pub(super) fn failed(&self, what: impl std::fmt::Display) {
        self.error_count.fetch_add(1, Relaxed);
        tracing::warn!(worker = self.name, reason = %what, "worker met an error");
        self.say(format!("last error: {what}"));
    }

    /// Ends its pause, or skips the next one.
    pub(super) fn call(&self) {
        self.called.store(true, SeqCst);
        self.wake.notify_one();
    }

    /// Waits for a call, at most for `pause`.
    pub(super) async fn pause(&self, pause: Duration, stop: &StopSignal) -> Woken {
        // Nothing is lost when a branch is dropped: a call that comes meanwhile is kept for the next pause.
        self.resting.store(true, SeqCst);
        let woken = tokio::select! {
            () = stop.stopped() => Woken::Stop,
            () = self.wake.notified() => Woken::Called,
            () = runtime::sleep(pause) => Woken::Time,
        };
        self.resting.store(false, SeqCst);
        if woken == Woken::Called {
            self.called.store(false, SeqCst);
        }
        woken
    }

    /// True while it pauses and nobody has called.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.resting.load(SeqCst) && !self.called.load(SeqCst)
    }

    pub(super) fn status(&self) -> WorkerStatus {
        WorkerStatus {
            name: self.name.to_owned(),
            line: self.line.lock().clone(),
            error_count: self.error_count.load(Relaxed),
        }
    }
}
