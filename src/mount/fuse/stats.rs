//! Counts and latencies of a mount, for `pohmelfs stats` and for tests.
//!
//! Written by every thread that answers, read by anybody. Holds: nothing here takes a lock. A reader may see one
//! number of a pair before the other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::abi::opcode;
use super::options::Negotiated;

/// Buckets of a histogram: bucket `i` counts what took less than 2^i µs, the last everything else (9 minutes on).
pub const BUCKETS: usize = 30;

/// One operation after the other, by number; the last counts those without a place of their own.
const OPCODES: usize = 56;

/// What a mount has done.
#[derive(Debug)]
pub struct Stats {
    ops: [OpStats; OPCODES],
    in_flight: AtomicU64,
    forgets: AtomicU64,
    interrupts: AtomicU64,
    notifications: AtomicU64,
    lock_waits_refused: AtomicU64,
    negotiated: OnceLock<Negotiated>,
}

#[derive(Debug, Default)]
struct OpStats {
    errors: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// What it has done of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpSnapshot {
    /// Its name.
    pub name: &'static str,
    /// How often.
    pub count: u64,
    /// Of these, with an errno as answer.
    pub errors: u64,
    /// From request to answer, all together.
    pub total: Duration,
    /// Histogram: entry `i` counts those below 2^i µs.
    pub buckets: [u64; BUCKETS],
}

impl OpSnapshot {
    /// The latency below which `quantile` (0 to 1) of the answers came, to the next power of two.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let wanted = ((self.count as f64) * quantile.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(1 << bucket);
            }
        }
        Duration::ZERO
    }
}

/// What it has done, altogether.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Operations that occurred, most frequent first.
    pub ops: Vec<OpSnapshot>,
    /// Requests that are being answered.
    pub in_flight: u64,
    /// References to inodes that the kernel dropped.
    pub forgets: u64,
    /// Signals to callers.
    pub interrupts: u64,
    /// Notifications to the kernel.
    pub notifications: u64,
    /// Waits for locks that were refused because a ring had no room for more.
    pub lock_waits_refused: u64,
    /// Transport and limits; `None` before the kernel agreed.
    pub negotiated: Option<Negotiated>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            ops: std::array::from_fn(|_| OpStats::default()),
            in_flight: AtomicU64::new(0),
            forgets: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            notifications: AtomicU64::new(0),
            lock_waits_refused: AtomicU64::new(0),
            negotiated: OnceLock::new(),
        }
    }
}

impl Stats {
    /// What has been counted so far.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        let snapshot = |(opcode, op): (usize, &OpStats)| {
            let buckets = std::array::from_fn(|bucket| op.buckets[bucket].load(Relaxed));
            OpSnapshot {
                name: u32::try_from(opcode).map_or("other", name),
                count: buckets.iter().sum(),
                errors: op.errors.load(Relaxed),
                total: Duration::from_nanos(op.nanos.load(Relaxed)),
                buckets,
            }
        };
        let mut ops: Vec<_> = self.ops.iter().enumerate().map(snapshot).filter(|op| op.count > 0).collect();
        ops.sort_by_key(|op| std::cmp::Reverse(op.count));
        StatsSnapshot {
            ops,
            in_flight: self.in_flight(),
            forgets: self.forgets.load(Relaxed),
            interrupts: self.interrupts.load(Relaxed),
            notifications: self.notifications.load(Relaxed),
            lock_waits_refused: self.lock_waits_refused.load(Relaxed),
            negotiated: self.negotiated.get().copied(),
        }
    }

    /// Requests that are being answered.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    pub(super) fn began(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn ended(&self, opcode: u32, took: Duration, error: bool) {
        self.in_flight.fetch_sub(1, Relaxed);
        let op = &self.ops[(opcode as usize).min(OPCODES - 1)];
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        op.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
        op.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if error {
            op.errors.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn forgot(&self, count: u64) {
        self.forgets.fetch_add(count, Relaxed);
    }

    pub(super) fn interrupted(&self) {
        self.interrupts.fetch_add(1, Relaxed);
    }

    pub(super) fn notified(&self) {
        self.notifications.fetch_add(1, Relaxed);
    }

    pub(super) fn lock_wait_refused(&self) {
        self.lock_waits_refused.fetch_add(1, Relaxed);
    }

    pub(super) fn agreed(&self, negotiated: Negotiated) {
        // Once a mount; a second time would change nothing.
        let _ = self.negotiated.set(negotiated);
    }
}

fn name(opcode: u32) -> &'static str {
    match opcode {
        opcode::LOOKUP => "lookup",
        opcode::GETATTR => "getattr",
        opcode::SETATTR => "setattr",
        opcode::READLINK => "readlink",
        opcode::SYMLINK => "symlink",
        opcode::MKNOD => "mknod",
        opcode::MKDIR => "mkdir",
        opcode::UNLINK => "unlink",
        opcode::RMDIR => "rmdir",
        opcode::RENAME | opcode::RENAME2 => "rename",
        opcode::LINK => "link",
        opcode::OPEN => "open",
        opcode::READ => "read",
        opcode::WRITE => "write",
        opcode::STATFS => "statfs",
        opcode::RELEASE => "release",
        opcode::FSYNC => "fsync",
        opcode::SETXATTR => "setxattr",
        opcode::GETXATTR => "getxattr",
        opcode::LISTXATTR => "listxattr",
        opcode::REMOVEXATTR => "removexattr",
        opcode::FLUSH => "flush",
        opcode::OPENDIR => "opendir",
        opcode::READDIR => "readdir",
        opcode::RELEASEDIR => "releasedir",
        opcode::FSYNCDIR => "fsyncdir",
        opcode::GETLK => "getlk",
        opcode::SETLK => "setlk",
        opcode::SETLKW => "setlkw",
        opcode::ACCESS => "access",
        opcode::CREATE => "create",
        opcode::DESTROY => "destroy",
        opcode::IOCTL => "ioctl",
        opcode::FALLOCATE => "fallocate",
        opcode::READDIRPLUS => "readdirplus",
        opcode::LSEEK => "lseek",
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => "copy_file_range",
        opcode::SYNCFS => "syncfs",
        opcode::TMPFILE => "tmpfile",
        opcode::STATX => "statx",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_with_their_latency() {
        let stats = Stats::default();
        (0..100).for_each(|_| stats.began());
        (0..99).for_each(|_| stats.ended(opcode::LOOKUP, Duration::from_micros(3), false));
        assert_eq!(stats.in_flight(), 1);
        stats.ended(opcode::LOOKUP, Duration::from_millis(1), true);
        let lookup = &stats.snapshot().ops[0];
        assert_eq!((lookup.name, lookup.count, lookup.errors), ("lookup", 100, 1));
        assert_eq!(lookup.quantile(0.5), Duration::from_micros(4));
        assert_eq!(lookup.quantile(0.999), Duration::from_micros(1024));
        stats.began();
        stats.ended(12_345, Duration::from_secs(1 << 40), false);
        assert!(stats.snapshot().ops.iter().any(|op| op.name == "other" && op.buckets[BUCKETS - 1] == 1));
    }
}
