//! Who judges what a cluster did: histories of calls, a model of the filesystem, linearizability, contents of files.
//!
//! Used by `tests/simulation` and by `tests/siege` through `mod judges`. Clients (`workload`) call a cluster, be it simulated or made of
//! processes, and record what they asked for and what they were told; the judges know nothing of either.
//! Holds: what a judge says is final, whoever ran the clients. Not here: what goes wrong meanwhile.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod content;
pub mod contents;
pub mod explanation;
pub mod files;
pub mod footprint;
pub mod history;
pub mod identities;
pub mod invariants;
pub mod linearizability;
pub mod model;
pub mod overwrites;
pub mod records;
pub mod stories;
pub mod workload;

use std::sync::Arc;

use history::History;

/// Mode of the directory that is the root of a history.
pub const ROOT_MODE: u32 = 0o755;

/// Tells the nanoseconds since the begin of a run: virtual ones, or real ones.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> u64 {
        (self.0)()
    }
}

/// What the history of all calls says: one order explains them, and no identity names two nodes.
pub fn judge(history: &History) -> Vec<String> {
    let mut broken: Vec<String> = Vec::new();
    match linearizability::check(history, &linearizability::empty_root(history, ROOT_MODE)) {
        linearizability::Verdict::Linearizable { .. } => {}
        linearizability::Verdict::NotLinearizable(why) => {
            broken.push(format!("the history is not linearizable\n{why}"));
        }
        linearizability::Verdict::GaveUp(why) => {
            broken.push(format!("undecided after {} calls of the model\n{why}", why.work));
        }
    }
    broken.extend(identities::contradictions(history));
    broken
}
