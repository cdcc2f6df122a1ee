//! The data server: keeps blocks in its directories and serves them.
//!
//! [`DataServer`] is started by `cli` and by tests. `store` is the block store, synchronous code over a disk; `service`
//! answers requests; `membership` keeps the server registered and its heartbeats going; `reclaim`, `catch_up` and `scrub`
//! are its workers.
//! Holds: the server starts, and serves what it has, whichever other servers answer; a block is deleted only after
//! the metadata servers said that nothing refers to it.
//! Not here: which blocks there ought to be. The metadata servers know that, and `wire` is how they are asked.

mod catch_up;
mod core;
mod membership;
mod meta_servers;
mod reclaim;
mod scrub;
mod server;
mod service;
mod status;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod worker;

pub use server::{DataServer, StartError};
