//! Why a history cannot be explained, for a person with a minute of time.
//!
//! `linearizability` makes it of the order that came furthest: the call that cannot be next, what else was under way, and the state there.
//! Holds: it needs nothing of the search; it may be kept and printed later.
//! Not here: a proof. That no other order comes further was found out by trying.

use std::fmt;

use super::history::{Call, Op, Path, Shown};
use super::model::Model;

/// Calls that were placed, from the last one back, that are shown.
const PLACED_SHOWN_MAX: usize = 12;
/// Names of the state that are shown.
const NAMES_SHOWN_MAX: usize = 40;

/// The end of the longest order.
#[derive(Debug)]
pub struct Explanation {
    /// How many calls of those that returned are placed without a gap.
    pub position: usize,
    /// How many calls are placed in all, and of how many.
    pub placed: usize,
    pub calls: usize,
    /// How often the model was asked.
    pub work: u64,
    /// The call that can be placed nowhere before its return, as its number in the history, and what the model says here.
    pub next: usize,
    pub says: String,
    next_text: String,
    last: Vec<String>,
    pending: Vec<String>,
    state: String,
}

impl Explanation {
    pub(super) fn new(
        calls: &[Call],
        position: usize,
        path: &[usize],
        next: usize,
        pending: Vec<usize>,
        state: &Model,
    ) -> Self {
        let says = |call: usize| {
            let answer = state.clone().apply(&calls[call].op);
            Shown(&answer).to_string()
        };
        let text = |call: &usize| format!("call {call} of {}", calls[*call]);
        let related = |call: &&usize| meet(&calls[**call].op, &calls[next].op);
        let mut last: Vec<String> =
            path.iter().rev().filter(related).take(PLACED_SHOWN_MAX).map(text).collect();
        last.reverse();
        // Those that have nothing to do with it would only be in a reader's way.
        let pending: Vec<String> = pending
            .iter()
            .filter(related)
            .map(|call| format!("{}; here it would be {}", text(call), says(*call)))
            .collect();
        Self {
            position,
            placed: path.len(),
            calls: calls.len(),
            work: 0,
            next,
            says: says(next),
            next_text: text(&next),
            last,
            pending,
            state: state.to_string(),
        }
    }
}

/// The paths of the two begin alike.
fn meet(a: &Op, b: &Op) -> bool {
    let begins = |a: &Path, b: &Path| {
        a.start != b.start || a.names.starts_with(&b.names) || b.names.starts_with(&a.names)
    };
    let (paths, others) = (a.paths(), b.paths());
    [Some(paths.0), paths.1]
        .into_iter()
        .flatten()
        .any(|a| [Some(others.0), others.1].into_iter().flatten().any(|b| begins(a, b)))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} calls have an order; then no call can be next that lets this one return:",
            self.placed, self.calls
        )?;
        writeln!(f, "  {}", self.next_text)?;
        writeln!(f, "  here it would be {}", self.says)?;
        let list = |f: &mut fmt::Formatter<'_>, title: &str, lines: &[String]| {
            writeln!(f, "{title}{}", if lines.is_empty() { " none" } else { "" })?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
        };
        list(f, "under way, about the same names:", &self.pending)?;
        list(f, "placed last, about the same names:", &self.last)?;
        let lines: Vec<&str> = self.state.lines().collect();
        writeln!(f, "the state there:")?;
        lines.iter().take(NAMES_SHOWN_MAX).try_for_each(|line| writeln!(f, "  {line}"))?;
        if lines.len() > NAMES_SHOWN_MAX {
            writeln!(f, "  and {} names more", lines.len() - NAMES_SHOWN_MAX)?;
        }
        write!(f, "{} calls of the model", self.work)
    }
}
