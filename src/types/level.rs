//! Format levels: which commands and records the servers of a cluster can all deal with.
//!
//! A program says which levels it knows ([`LevelRange::OURS`]); the level that a cluster works at is a record of the namespace, so every
//! voter has it at the same index of the log. Holds: a command of a level above it is not proposed (`meta/levels`), and what `apply`
//! makes of an older command does not change without a look at it.
//!
//! ```text
//! level 1    what there was before levels were known
//! level 2    the level can be raised; the cluster has a label, or is restored from a dump; snapshots are packed, logs have room ahead
//! ```
//!
//! Not here: versions of the protocol between two ends, which `wire/hello` settles for each connection.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A format level, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub u16);

impl Level {
    /// What every program knows, and every cluster begins with.
    pub const FIRST: Self = Self(1);
    /// From here on blocks of snapshots are packed, and segments of the raft log have room ahead.
    pub const PACKED: Self = Self(2);
    /// The newest level that this program knows.
    pub const NEWEST: Self = Self(2);
}

impl Default for Level {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The levels that a program knows, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelRange {
    /// Oldest.
    pub first: Level,
    /// Newest.
    pub last: Level,
}

impl LevelRange {
    /// What this program knows.
    pub const OURS: Self = Self { first: Level::FIRST, last: Level::NEWEST };
    /// What a program knows that says nothing of levels.
    pub const BEFORE: Self = Self { first: Level::FIRST, last: Level::FIRST };

    /// True if it knows this one.
    #[must_use]
    pub fn has(self, level: Level) -> bool {
        (self.first..=self.last).contains(&level)
    }
}

/// Of a program that says nothing of levels.
impl Default for LevelRange {
    fn default() -> Self {
        Self::BEFORE
    }
}

impl fmt::Display for LevelRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.last)
        } else {
            write!(f, "{} to {}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_knows_what_lies_between_its_ends() {
        let range = LevelRange { first: Level(2), last: Level(3) };
        assert_eq!([1, 2, 3, 4].map(|level| range.has(Level(level))), [false, true, true, false]);
        assert!(LevelRange::OURS.has(Level::FIRST) && LevelRange::OURS.has(Level::NEWEST));
        assert_eq!((range.to_string(), LevelRange::BEFORE.to_string()), ("2 to 3".into(), "1".into()));
    }
}
