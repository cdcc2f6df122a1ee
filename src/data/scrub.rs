//! The worker that re-reads every stored block within the configured time and compares checksums.
//!
//! Holds: it reads one block at a time, spread evenly over the time; copies that are bad are mended from mirrors, and
//! blocks without a good copy are left to `catch_up`. A pass begins anew when the server starts.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::store::StoreError;
use super::worker::Woken;
use crate::runtime::StopSignal;

/// Ids taken from the index at once.
const PAGE: usize = 256;
/// Longest pause between two blocks: with few of them, a pass ends before its time.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Shortest: half of a thread at most, with the smallest blocks.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The pause before each block, so that `count` of them take `period`.
fn pace(period: Duration, count: u64) -> Duration {
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    (period / count).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// The task.
pub(super) async fn run(core: Arc<Core>, stop: StopSignal) {
    let worker = &core.scrub;
    let period = Duration::from_millis(core.config.timers.scrub_ms);
    if period.is_zero() {
        worker.say("switched off");
        return stop.stopped().await;
    }
    loop {
        let (mut after, mut seen, mut bad) = (None, 0_u64, 0_u64);
        loop {
            let page = core.store.list(after, PAGE);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let count = core.store.block_count();
            for block in page {
                if worker.pause(pace(period, count), &stop).await == Woken::Stop {
                    return;
                }
                let id = block.id;
                match core.with_store("scrub", move |store| store.verify(id)).await {
                    // Deleted meanwhile is fine.
                    Ok(_) | Err(StoreError::NotFound(_)) => {}
                    Err(error) => {
                        bad += 1;
                        worker.failed(&error);
                        core.catch_up.call();
                    }
                }
                seen += 1;
                worker.say(format!("verified {seen} of about {count} blocks, {bad} damaged"));
            }
        }
        if seen == 0 {
            worker.say("waits for blocks");
        }
        if worker.pause(PAUSE_MAX, &stop).await == Woken::Stop {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_spread_over_the_time_within_bounds() {
        let week = Duration::from_secs(7 * 24 * 3600);
        assert_eq!(pace(week, 1_000_000), week / 1_000_000);
        assert_eq!(pace(week, 10), PAUSE_MAX);
        assert_eq!(pace(week, 0), PAUSE_MAX);
        assert_eq!(pace(Duration::from_secs(1), u64::MAX), PAUSE_MIN);
    }
}
