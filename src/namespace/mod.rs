//! All inodes, dentries and extents, and the pure state machine that owns them.
//!
//! `meta` feeds it commands and queries. Holds: no clock, randomness, socket, disk, task or thread in here; the same
//! commands in the same order leave the same bytes on every voter. Not here: who leads, what is durable, who waits.

mod command;
mod view;

pub use command::{Command, Op, Reply};
pub use view::{Change, ChangeSet, View, ViewError};
