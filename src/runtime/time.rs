//! Time: moments for waiting, and the wall clock as data.
//!
//! Holds: an [`Instant`] never goes back; the wall clock may, so nothing waits for it.

use std::future::Future;
use std::time::{Duration, SystemTime};

use crate::types::Timestamp;

pub use tokio::time::error::Elapsed;
pub use tokio::time::{Instant, Interval};

/// The present moment, for measuring and for deadlines.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, as data for timestamps. It may jump either way.
#[must_use]
pub fn wall_clock() -> Timestamp {
    #[cfg(feature = "simulation")]
    if let Some(at) = super::simulated::wall_clock() {
        return at;
    }
    let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    Timestamp(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => nanos(since),
        Err(before) => -nanos(before.duration()),
    })
}

/// Waits for `duration`.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Waits until `deadline`; not at all when it has passed.
pub async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(deadline).await;
}

/// Awaits `future` for at most `duration`; drops it then.
///
/// # Errors
/// [`Elapsed`] when the time is over first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(duration, future).await
}

/// Awaits `future` until `deadline` at the latest; drops it then.
///
/// # Errors
/// [`Elapsed`] when the deadline comes first.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout_at(deadline, future).await
}

/// Ticks every `period` (above zero), the first time at once. A tick that comes late moves those behind it, so
/// that a stalled process does not catch up in a burst.
#[must_use]
pub fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_in_this_century() {
        let year_2024 = 1_704_067_200;
        assert!((year_2024..year_2024 + 100 * 366 * 86_400).contains(&wall_clock().secs()));
    }

    #[tokio::test]
    async fn a_timeout_drops_what_it_waited_for() {
        let never = std::future::pending::<()>();
        assert!(timeout(Duration::from_millis(1), never).await.is_err());
        assert!(timeout(Duration::from_secs(60), async { 7 }).await.is_ok_and(|n| n == 7));
    }
}
