//! When what has queued up leaves as an entry of the log.
//!
//! An entry costs three servers a write, an fsync and some messages each, whatever it holds. `proposer` asks here before it makes one. A
//! lonely caller waits for nobody. Callers that come again and again, each as soon as it is answered, come back together when an entry
//! is done: where that takes long (a busy machine, a slow disk), the next entry waits for most of them, instead of leaving with the
//! first and letting the rest follow in another.
//! Holds: while anything is queued, either something is in flight or a time is named; so nothing waits for ever.

use std::time::Duration;

use crate::runtime::Instant;

/// Operations in one entry at most.
pub(super) const ENTRY_OPS_MAX: usize = 512;
/// Entries in flight. Two keep the disk busy while the network works, the rest absorbs a burst.
const IN_FLIGHT_MAX: usize = 4;
/// Part of those around that an entry waits for: all but an eighth.
const COMPANY: (usize, usize) = (7, 8);
/// Longest wait for them. The runtime's clock makes it up to a millisecond more.
const PATIENCE: Duration = Duration::from_millis(1);
/// Where an entry is done in less time than this, none waits for company: there is little to win, and the clock is too coarse.
const ROUND_MIN: Duration = Duration::from_millis(1);

/// What to do with what is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It leaves, as far as it fits into one entry.
    Leaves,
    /// It stays until more comes or something comes back.
    Stays,
    /// The same, but no longer than until then.
    StaysUntil(Instant),
}

/// The pace of one proposer.
#[derive(Default)]
pub(super) struct Pace {
    entries_in_flight: usize,
    ops_in_flight: usize,
    /// Operations that were on their way at a time, lately.
    around: usize,
    /// How long the last entry took.
    round: Duration,
    /// Since when the queue waits for company.
    since: Option<Instant>,
}

impl Pace {
    /// What to do with `queued` operations at `now`.
    pub(super) fn next(&mut self, queued: usize, now: Instant) -> Next {
        if queued == 0 || self.entries_in_flight >= IN_FLIGHT_MAX {
            return Next::Stays;
        }
        if self.entries_in_flight > 0 {
            // Worth an entry of its own when it carries as much as is on its way.
            return if queued >= self.ops_in_flight.min(ENTRY_OPS_MAX) { Next::Leaves } else { Next::Stays };
        }
        let (part, whole) = COMPANY;
        let is_most = queued >= ENTRY_OPS_MAX || queued * whole >= self.around * part;
        if is_most || self.round < ROUND_MIN {
            return Next::Leaves;
        }
        let until = *self.since.get_or_insert(now) + PATIENCE;
        if now < until {
            return Next::StaysUntil(until);
        }
        // They are not coming.
        self.around = queued;
        Next::Leaves
    }

    /// An entry with `ops` operations has left.
    pub(super) fn left(&mut self, ops: usize) {
        self.entries_in_flight += 1;
        self.ops_in_flight += ops;
        // Who is late once is waited for the next time.
        self.around = self.ops_in_flight.max(self.around - self.around / 16);
        self.since = None;
    }

    /// An entry with `ops` operations is done, or has failed, `took` after it left.
    pub(super) fn done(&mut self, ops: usize, took: Duration) {
        self.entries_in_flight -= 1;
        self.ops_in_flight -= ops;
        self.round = took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;

    const SLOW: Duration = Duration::from_millis(3);

    #[test]
    fn an_entry_leaves_alone_at_once_and_beside_others_when_it_is_worth_it() {
        let now = runtime::now();
        let mut pace = Pace::default();
        assert_eq!(pace.next(0, now), Next::Stays, "nothing to propose");
        assert_eq!(pace.next(1, now), Next::Leaves, "one caller waits for nobody");
        pace.left(8);
        assert_eq!(pace.next(7, now), Next::Stays, "more gathers meanwhile");
        assert_eq!(pace.next(8, now), Next::Leaves);
        pace.left(2 * ENTRY_OPS_MAX);
        assert_eq!(pace.next(ENTRY_OPS_MAX, now), Next::Leaves, "a full one has nothing to wait for");
        pace.left(1);
        pace.left(1);
        assert_eq!(pace.next(ENTRY_OPS_MAX, now), Next::Stays);
    }

    #[test]
    fn where_entries_take_long_the_next_waits_for_those_who_come_back() {
        let now = runtime::now();
        let mut pace = Pace::default();
        pace.left(16);
        pace.done(16, SLOW);
        assert_eq!(pace.next(1, now), Next::StaysUntil(now + PATIENCE));
        assert_eq!(pace.next(12, now + PATIENCE / 2), Next::StaysUntil(now + PATIENCE), "the wait is one");
        assert_eq!(pace.next(14, now + PATIENCE / 2), Next::Leaves);
        pace.left(14);
        pace.done(14, Duration::from_micros(300));
        assert_eq!(pace.next(1, now), Next::Leaves, "a fast round is not worth a wait");
    }

    /// One wait in vain is all that callers who went away cost those who stay.
    #[test]
    fn who_does_not_come_is_waited_for_once() {
        let now = runtime::now();
        let mut pace = Pace::default();
        pace.left(16);
        pace.done(16, SLOW);
        assert_eq!(pace.next(3, now), Next::StaysUntil(now + PATIENCE));
        assert_eq!(pace.next(3, now + PATIENCE), Next::Leaves);
        pace.left(3);
        pace.done(3, SLOW);
        assert_eq!(pace.next(3, now + SLOW), Next::Leaves);
    }

    /// Whatever comes and goes: something is queued, and neither is anything in flight nor is a time named? Never.
    #[test]
    fn nothing_waits_for_ever() {
        let (mut pace, mut now, mut state) = (Pace::default(), runtime::now(), 1_u64);
        let (mut queued, mut flying) = (0, Vec::new());
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % bound
        };
        for _ in 0..20_000 {
            now += Duration::from_micros(below(900) as u64);
            queued += if below(3) == 0 { below(40) } else { 0 };
            if below(3) == 0 && !flying.is_empty() {
                let ops = flying.swap_remove(below(flying.len()));
                pace.done(ops, Duration::from_micros(below(4000) as u64));
            }
            match pace.next(queued, now) {
                Next::Leaves => {
                    pace.left(queued);
                    flying.push(std::mem::take(&mut queued));
                }
                Next::Stays => assert!(queued == 0 || !flying.is_empty()),
                Next::StaysUntil(until) => {
                    assert!(until > now);
                    assert_eq!(pace.next(queued, until), Next::Leaves);
                    pace.left(queued);
                    flying.push(std::mem::take(&mut queued));
                }
            }
        }
    }
}
