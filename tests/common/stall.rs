//! Notices when the whole machine stands still (a virtual machine that is paused, a starved one).
//!
//! Deadlines pass meanwhile though nobody had a chance to answer, so calls that fail then prove nothing. Losing or doubling
//! something is never excused.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(100);
/// Standing still this long costs sessions and deadlines: half the life of a session.
const EXCUSE: Duration = Duration::from_secs(7);

static LONGEST_MS: AtomicU64 = AtomicU64::new(0);
static WATCH: Once = Once::new();

/// Begins to watch; once in a process.
pub fn watch() {
    WATCH.call_once(|| {
        std::thread::spawn(|| {
            let mut last = Instant::now();
            loop {
                std::thread::sleep(TICK);
                let gap = last.elapsed().saturating_sub(TICK);
                LONGEST_MS.fetch_max(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                last = Instant::now();
            }
        });
    });
}

/// How long this process was not run at all, if that excuses calls that failed.
pub fn excuse() -> Option<Duration> {
    let longest = Duration::from_millis(LONGEST_MS.load(Ordering::Relaxed));
    (longest >= EXCUSE).then_some(longest)
}
