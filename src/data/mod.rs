//! The data server: keeps blocks in its directories and serves them.
//!
//! `store` is the block store, synchronous code over a disk.
//! Not here: which blocks there ought to be. The metadata servers know that, and `wire` is how it is asked.

pub mod store;
