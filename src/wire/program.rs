//! Which program an end of a connection is: its version, for people, and the format levels that it knows.
//!
//! Said in every hello, so whoever is connected to a server knows what that can do; a program of before says nothing, and knows the
//! first level only.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::LevelRange;

/// Longest version of a program in a hello, in bytes.
pub const PROGRAM_VERSION_LEN_MAX: usize = 64;

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version, for people; empty: it did not say.
    pub version: String,
    /// The format levels that it knows.
    pub levels: LevelRange,
}

impl Program {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), levels: LevelRange::OURS }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.version.is_empty() {
            f.write_str("a program from before format levels")?;
        } else {
            write!(f, "program {}", self.version)?;
        }
        write!(f, ", which knows level {}", self.levels)
    }
}
