//! How what a file's openers have written and not published yet shows in its attributes.
//!
//! `file` keeps one; whoever answers a `stat` lays it over what the cluster says. Holds: the writer sees its own size, times
//! and lost setuid at once. Not here: the bytes (`file`).

use std::time::Duration;

use crate::runtime::{self, Instant};
use crate::types::{Attr, Timestamp};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;

/// Writes that are not published. The default: there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    end: u64,
    written_at: Option<Timestamp>,
    since: Option<Instant>,
    unprivileged: bool,
}

impl Overlay {
    /// Notes a write up to `end`; one without a superuser's rights takes setuid and setgid.
    pub(super) fn wrote(&mut self, end: u64, unprivileged: bool) {
        self.end = self.end.max(end);
        self.written_at = Some(runtime::wall_clock());
        self.since.get_or_insert_with(runtime::now);
        self.unprivileged |= unprivileged;
    }

    /// True if the oldest of them is older than `age`.
    #[must_use]
    pub fn is_older_than(&self, age: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= age)
    }

    /// What is left of them ends here; 0: nothing is.
    pub(super) fn cut(&mut self, end: u64) {
        if end == 0 {
            *self = Self::default();
        }
        self.end = end;
    }

    /// True without any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.written_at.is_none()
    }

    /// Lays the writes over what the cluster says.
    pub fn apply(&self, attr: &mut Attr) {
        let Some(at) = self.written_at else { return };
        attr.size = attr.size.max(self.end);
        // The clock of the cluster may be ahead of ours: time does not go back here.
        attr.mtime = attr.mtime.max(at);
        attr.ctime = attr.ctime.max(at);
        if self.unprivileged {
            attr.mode &= !S_ISUID;
            if attr.mode & S_IXGRP != 0 {
                attr.mode &= !S_ISGID;
            }
        }
    }
}
