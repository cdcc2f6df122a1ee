//! The metadata server: a raft voter that holds the namespace.
//!
//! A request enters by `service`, is decided by `prepare`, agreed by `raft`, applied by `machine` into `state`.
//! Not here: namespace rules (`namespace`), blocks (`data`), who joins roles in one process (`cli`).

mod machine;
pub mod raft;
pub mod state;

pub use machine::{Entry, Machine, Position, SnapshotFile, StateHash, StoreError};
