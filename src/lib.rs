//! POHMELFS: a distributed, parallel, highly available filesystem.
//!
//! Folders in reading order, which is the order of dependency; each uses only those above it:
//!
//! ```text
//! types  →  namespace, placement (pure)  →  wire  →  runtime, net, config  →  meta, data, client
//!        →  mount  →  http  →  cli (joins everything)
//! ```
//!
//! `ARCHITECTURE.md` walks one create, one lookup, one write and one read through them;
//! `tests/tidy.rs` keeps the order true.

pub mod types;

pub mod namespace;
pub mod placement;

pub mod wire;

pub mod config;
pub mod net;
pub mod runtime;

pub mod client;
pub mod data;
pub mod meta;

pub mod mount;

pub mod http;

pub mod cli;

#[doc(hidden)]
pub mod fuzz;

#[cfg(test)]
mod golden;
