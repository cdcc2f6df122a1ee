//! All inodes, dentries and extents, and the pure state machine that owns them.
//!
//! `meta` feeds it commands and queries. Holds: no clock, randomness, socket, disk, task or thread in here; the same
//! commands in the same order leave the same bytes on every voter. Not here: who leads, what is durable, who waits.

mod access;
mod acl;
mod apply;
mod check;
mod command;
mod dentry;
mod extents;
#[cfg(test)]
mod golden;
mod inspect;
mod key;
mod keys;
mod locks;
mod memory;
mod ops;
mod query;
mod records;
mod restore;
mod seen;
mod txn;
mod view;

pub use apply::apply;
pub use check::check;
pub use command::{Command, Op, Reply};
pub use inspect::{
    BlockUse, OrphanInfo, SessionInfo, SuperblockInfo, block_refs, blocks, label, level, level_in, map,
    orphans, reclaim_queue, remembered, session_alive, sessions, superblock,
};
pub use key::Key;
pub use keys::counting_key_len;
pub use locks::{lock_place, still_waits_at, waiting_at};
pub use memory::MemoryView;
pub use query::query;
pub use restore::{DumpRecord, Restored, RestoringInfo, dump_record, lineage, why_not_empty};
pub use txn::{Memo, Txn};
pub use view::{Change, ChangeSet, View, ViewError};
