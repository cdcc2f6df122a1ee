//! Real mounts of a real cluster: what programs see, what other mounts see, and what remains when something dies.
//!
//! `docs/consistency.md` says what mounts see; each file here tries to break a part of it. They need root and `/dev/fuse` and
//! say so, and pass, where there is none. `POHMELFS_STEPS=10000` makes the random ones longer. Holds: no test asserts how long
//! something takes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

#[path = "../common/mod.rs"]
mod common;
mod mounts;

mod bad_input;
mod copies;
mod crash;
mod listing;
mod lock_crowd;
mod lock_model;
mod locks;
mod outage;
mod programs;
mod races;
mod record_lock;
mod tour;
mod two_mounts;
mod unnamed;
