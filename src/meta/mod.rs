//! The metadata server: a raft voter that holds the namespace.
//!
//! A request enters by `service`; an update goes through `proposer` (which prepares it, at its `pace`) into `raft`, and comes out by
//! `machine` into `state`; a query waits in `reads` and asks `state`. `leader` and `worker` watch over sessions and data
//! servers; `changes` and `members` see to it that metadata servers come and go, `dumps` and `restore` that their state goes out and comes back, `grace` that a wrong restore
//! can be mended. Not here: namespace rules (`namespace`), blocks (`data`), who joins roles in one process (`cli`).

mod blocks;
mod changes;
mod dumps;
mod errors;
mod grace;
pub(crate) mod identity;
mod leader;
mod levels;
mod machine;
mod members;
mod pace;
mod peers;
pub mod prepare;
mod proposer;
mod quorum;
pub mod raft;
mod restore;
mod server;
mod service;
pub mod state;
mod status;
mod walk;
mod worker;

pub use machine::{Entry, Machine, Position, SnapshotFile, StateHash, StoreError};
pub use server::MetaServer;
