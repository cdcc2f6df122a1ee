//! Wall-clock time as data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A moment in nanoseconds since 1970-01-01 UTC, negative before it. What `stat` shows in its timestamps.
///
/// Time as data only: the leader settles it in `prepare`, and no decision of the namespace waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Nanoseconds in a second.
    pub const NANOS: i64 = 1_000_000_000;

    /// The moment `secs` seconds and `nanos` (0 to 999,999,999) nanoseconds after the epoch; clamped to what
    /// 64 bits of nanoseconds hold (years 1677 to 2262).
    #[must_use]
    pub fn from_parts(secs: i64, nanos: u32) -> Self {
        Self(secs.saturating_mul(Self::NANOS).saturating_add(i64::from(nanos)))
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub fn secs(self) -> i64 {
        self.0.div_euclid(Self::NANOS)
    }

    /// Nanoseconds within the second, 0 to 999,999,999.
    #[must_use]
    pub fn nanos(self) -> u32 {
        u32::try_from(self.0.rem_euclid(Self::NANOS)).unwrap_or(0)
    }

    /// This moment plus `millis` milliseconds.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add_unsigned(millis.saturating_mul(1_000_000)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.secs(), self.nanos())
    }
}
