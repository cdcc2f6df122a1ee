//! The proof of the guarantees: real processes under load, killed, stopped, wiped, damaged and lied to.
//!
//! `docs/consistency.md` says what is promised; each file here tries to break one promise. `POHMELFS_ROUNDS=20` repeats the
//! events as often as `scripts/faults` does. Holds: no test asserts how long something takes; it prints it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod damage;
mod exactly_once;
mod failover;
mod fresh_reads;
mod locks;
mod majority;
mod orphans;
mod power;
mod wipe;
