//! Times of single operations, and what is said of them.

use std::time::Duration;

use serde::Serialize;

/// Times of one run, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Samples {
    micros: Vec<u32>,
}

/// One line of a result.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    /// What was done.
    pub(super) what: &'static str,
    /// Callers, or files, at a time.
    pub(super) callers: usize,
    /// Operations acknowledged.
    pub(super) count: usize,
    /// Seconds they took together.
    pub(super) seconds: f64,
    /// Operations a second.
    pub(super) rate: f64,
    /// Half were faster than this, in milliseconds.
    pub(super) p50_ms: f64,
    /// 99 of 100 were faster than this, in milliseconds.
    pub(super) p99_ms: f64,
}

impl Samples {
    /// One more operation.
    pub(super) fn push(&mut self, took: Duration) {
        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Those of another caller too.
    pub(super) fn extend(&mut self, other: Self) {
        self.micros.extend(other.micros);
    }

    /// What they say.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn line(mut self, what: &'static str, callers: usize, took: Duration) -> Line {
        self.micros.sort_unstable();
        let at = |percent: usize| {
            let index = (self.micros.len() * percent / 100).min(self.micros.len().saturating_sub(1));
            self.micros.get(index).map_or(0.0, |m| f64::from(*m) / 1000.0)
        };
        let seconds = took.as_secs_f64();
        let count = self.micros.len();
        Line { what, callers, count, seconds, rate: count as f64 / seconds, p50_ms: at(50), p99_ms: at(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut samples = Samples::default();
        for ms in (1..=100).rev() {
            samples.push(Duration::from_millis(ms));
        }
        let line = samples.line("create", 4, Duration::from_secs(2));
        assert_eq!((line.count, line.p50_ms, line.p99_ms), (100, 51.0, 100.0));
        assert!((line.rate - 50.0).abs() < 1e-9);
        let none = Samples::default().line("create", 1, Duration::from_secs(1));
        assert!(none.count == 0 && none.p99_ms == 0.0);
    }
}
