//! A whole cluster of real processes, for tests that break it.
//!
//! Used by `tests/proof/` through `mod common`. Holds: every process is killed when its [`Cluster`] is dropped; every wait is
//! for a condition, with a deadline that only something broken can miss; one cluster runs at a time on a machine,
//! whatever runs the tests. Not here: what is promised (the tests say so).
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

pub mod cluster;
pub mod grpc;
pub mod http;
pub mod load;
pub mod node;
pub mod raw;
pub mod stall;
pub mod wait;

pub use cluster::{Cluster, Shape};
pub use load::{Load, content_of};
pub use wait::{LONG, until};

/// Rounds of a test that repeats an event: `POHMELFS_ROUNDS`, else `short`, so that the usual run is brief.
pub fn rounds(short: usize) -> usize {
    std::env::var("POHMELFS_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(short)
}

/// A seed for random choices, printed so that a failure can be repeated with `POHMELFS_SEED`.
pub fn seed() -> u64 {
    let given = std::env::var("POHMELFS_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed: {seed} (repeat with POHMELFS_SEED={seed})");
    seed
}
