//! What becomes of the records of a dump when a cluster is restored from it, and what is remembered of that.
//!
//! `ops/restore` puts records into place; `cli/dump` asks the same questions before it sends them. Holds: every record of a dump is of a
//! table and a version that this program knows, or the dump is refused as a whole.
//!
//! ```text
//! the dump's, as they are      inodes, dentries, attributes, extents, blocks, orphans, groups, blocks that wait for reclaim
//! the dump's, changed          superblock (identity, counters, time), data servers (down until they register), lineage (grows)
//! this cluster's own           metadata servers
//! nobody's any more            sessions, remembered replies, bitmaps of sessions, locks; the list of whole groups is made anew
//! ```

use std::ops::ControlFlow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::inspect::{SuperblockInfo, info};
use super::ops::level;
use super::records::{Block, Inode, Label, Orphan, Reclaim, Record, Slot, Superblock};
use super::txn::{corrupt, read};
use super::{View, ViewError, extents, keys};
use crate::types::{
    ClusterId, DataNode, DumpStamp, Group, InodeId, Level, LogIndex, ROOT_INODE, StateHash, Tally, Timestamp,
};

/// Lives that a cluster remembers: data servers that were away for more of them are not taken back.
pub(super) const LIVES_MAX: usize = 16;

/// How far a restore has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restoring {
    pub(super) dump: DumpStamp,
    pub(super) floor: u64,
    /// Blocks of the dump that have come.
    pub(super) next: u32,
    /// Records that have come.
    pub(super) tally: Tally,
    /// The last of them.
    pub(super) last_key: Bytes,
    /// The dump's own, once it has come.
    pub(super) superblock: Option<Superblock>,
}

impl Restoring {
    pub(super) fn info(&self) -> RestoringInfo {
        RestoringInfo { dump: self.dump, floor: self.floor, next: self.next, records: self.tally.records }
    }
}

/// A restore that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoringInfo {
    /// From which dump.
    pub dump: DumpStamp,
    /// Where ids begin behind it.
    pub floor: u64,
    /// Blocks of the dump that have come.
    pub next: u32,
    /// Records that have come.
    pub records: u64,
}

/// A restore that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Whose state it was: data servers of that cluster belong to this one now.
    pub cluster: ClusterId,
    /// Hash of that state.
    pub dump: StateHash,
    /// Its log index in that cluster.
    pub index: LogIndex,
    /// Where ids began behind it.
    pub floor: u64,
    /// When.
    pub at: Timestamp,
}

/// The restores that led to this state, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lineage {
    pub(super) restored: Vec<Restored>,
}

impl Record for Lineage {
    const NAME: &'static str = "lineage";
}

/// The restores that led to this state, the newest last.
///
/// # Errors
/// When the view cannot be read.
pub fn lineage(view: &dyn View) -> Result<Vec<Restored>, ViewError> {
    Ok(read::<Lineage>(view, keys::LINEAGE)?.unwrap_or_default().restored)
}

/// What stands in the way of a restore into this namespace, in words; none in that of a cluster that was founded and never used.
///
/// # Errors
/// When the view cannot be read.
pub fn why_not_empty(view: &dyn View) -> Result<Option<String>, ViewError> {
    let superblock = read::<Superblock>(view, keys::SUPERBLOCK)?;
    superblock.map_or(Ok(None), |superblock| obstacles(view, superblock.inode_count))
}

/// As [`why_not_empty`], of a namespace with so many inodes.
pub(super) fn obstacles(view: &dyn View, inode_count: u64) -> Result<Option<String>, ViewError> {
    let mut found = Vec::new();
    let mut note = |count: usize, what: &str| {
        if count > 0 {
            found.push(format!("{count} {what}"));
        }
    };
    let inodes = usize::try_from(inode_count.saturating_sub(1)).unwrap_or(usize::MAX);
    note(inodes, "files and directories");
    for (tag, what) in [(keys::DATA_NODE, "data servers"), (keys::SESSION, "open sessions")] {
        let mut count = 0;
        view.scan(&[tag], &[tag + 1], &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        note(count, what);
    }
    if found.is_empty() {
        // Whatever else there is would stay behind and fit nothing.
        let behind_root = [&keys::inode(ROOT_INODE)[..], &[0]].concat();
        let own = [(behind_root, vec![keys::META_NODE]), (vec![keys::META_NODE + 1], keys::HEALTHY.to_vec())];
        // The level is that of the programs, not of what they keep.
        let behind = [
            ([keys::HEALTHY, &[0]].concat(), keys::LEVEL.to_vec()),
            ([keys::LEVEL, &[0]].concat(), vec![u8::MAX]),
        ];
        for (from, to) in own.into_iter().chain(behind) {
            view.scan(&from, &to, &mut |key, _| {
                found.push(format!("records of table {:#04x}", key.first().copied().unwrap_or_default()));
                ControlFlow::Break(())
            })?;
        }
    }
    Ok((!found.is_empty()).then(|| found.join(", ")))
}

/// What a record of a dump is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpRecord {
    /// The first one.
    Superblock(SuperblockInfo),
    /// A file, directory or other inode.
    Inode,
    /// A block that extents refer to.
    Block,
    /// A data server.
    DataNode(DataNode),
    /// A session, which ends.
    Session,
    /// Any other.
    Other,
}

/// Looks at a record of a dump.
///
/// # Errors
/// It is of a table or version that this program does not know, or damaged.
pub fn dump_record(key: &[u8], value: &Bytes) -> Result<DumpRecord, ViewError> {
    Ok(match Fate::of(key, value)? {
        Fate::Superblock(superblock) => DumpRecord::Superblock(info(&superblock)),
        Fate::Inode(..) => DumpRecord::Inode,
        Fate::DataNode(node) => DumpRecord::DataNode(node),
        Fate::Kept if key.first() == Some(&keys::BLOCK) => DumpRecord::Block,
        Fate::Dropped if key.first() == Some(&keys::SESSION) => DumpRecord::Session,
        Fate::Kept | Fate::Lineage(_) | Fate::Level(_) | Fate::Dropped => DumpRecord::Other,
    })
}

/// What becomes of a record of a dump.
pub(super) enum Fate {
    /// Parts of it become the cluster's.
    Superblock(Box<Superblock>),
    /// It is put into its place.
    Inode(InodeId, Box<Inode>),
    /// It is put into its place, as down.
    DataNode(DataNode),
    /// It grows.
    Lineage(Lineage),
    /// It must be one that the cluster works at, whose own stays.
    Level(Level),
    /// It is put into its place as it is.
    Kept,
    /// It belonged to the life that is over.
    Dropped,
}

impl Fate {
    /// Judges a record. What it accepts can be read by everybody who reads that table.
    pub(super) fn of(key: &[u8], value: &Bytes) -> Result<Self, ViewError> {
        let wrong_key = || corrupt(format!("key {key:02x?} is of no table that this program knows"));
        let one = || keys::first(key).filter(|_| key.len() == 9).ok_or_else(wrong_key);
        let two = || keys::second(key).map(drop).ok_or_else(wrong_key);
        match key.first().copied() {
            _ if key == keys::SUPERBLOCK => {
                let superblock = Superblock::decode(value)?;
                if superblock.restoring.is_some() {
                    return Err(corrupt("the dump is of a cluster that was being restored itself".into()));
                }
                Ok(Self::Superblock(Box::new(superblock)))
            }
            Some(keys::INODE) => Ok(Self::Inode(InodeId(one()?), Box::new(Inode::decode(value)?))),
            Some(keys::DENTRY) => two().and_then(|()| Slot::decode(value)).map(|_| Self::Kept),
            Some(keys::XATTR) if (10..=9 + 255).contains(&key.len()) => Ok(Self::Kept),
            Some(keys::EXTENT) => two().and_then(|()| extents::from_record(key, value)).map(|_| Self::Kept),
            Some(keys::BLOCK) => two().and_then(|()| Block::decode(value)).map(|_| Self::Kept),
            Some(keys::ORPHAN) => one().and_then(|_| Orphan::decode(value)).map(|_| Self::Kept),
            Some(keys::RECLAIM) => two().and_then(|()| Reclaim::decode(value)).map(|_| Self::Kept),
            Some(keys::GROUP) => {
                let group = Group::decode(value)?;
                if *key == keys::group(group.group) { Ok(Self::Kept) } else { Err(wrong_key()) }
            }
            Some(keys::DATA_NODE) => {
                let node = DataNode::decode(value)?;
                if *key == keys::data_node(node.node) { Ok(Self::DataNode(node)) } else { Err(wrong_key()) }
            }
            Some(
                keys::SESSION
                | keys::REPLY
                | keys::META_NODE
                | keys::RECLAIMED
                | keys::LOCK
                | keys::LOCK_COUNT,
            ) => Ok(Self::Dropped),
            _ if key == keys::HEALTHY => Ok(Self::Dropped),
            _ if key == keys::LEVEL => match level::decode(value)?.0 {
                level if level > Level::NEWEST => Err(corrupt(format!(
                    "the dump is of format level {level}, and this program knows up to {}: use a later program",
                    Level::NEWEST
                ))),
                level => Ok(Self::Level(level)),
            },
            _ if key == keys::LABEL => Label::decode(value).map(|_| Self::Kept),
            _ if key == keys::LINEAGE => Ok(Self::Lineage(Lineage::decode(value)?)),
            _ => Err(wrong_key()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::frozen;
    use super::*;

    /// What is stored on disks of clusters that run: a difference here needs a new version, not a new expectation.
    #[test]
    fn record_bytes_are_frozen() {
        let restored = Restored {
            cluster: ClusterId(1),
            dump: StateHash(2),
            index: LogIndex(3),
            floor: 4,
            at: Timestamp(5),
        };
        frozen(&Lineage { restored: vec![restored] }, "0101010203040a");
    }

    #[test]
    fn a_record_of_an_unknown_table_or_version_is_refused() {
        let told = |key: &[u8], value: &'static [u8]| {
            dump_record(key, &Bytes::from_static(value)).unwrap_err().to_string()
        };
        assert!(told(&[0x70, 1], b"").contains("of no table"));
        assert!(told(&[], b"").contains("of no table"));
        assert!(told(&keys::inode(InodeId(4)), &[9, 9]).contains("version 9"));
        assert!(told(&[keys::INODE, 1], &[1]).contains("of no table"));
        assert!(told(&keys::group(crate::types::GroupId(4)), &[1, 5, 0]).contains("of no table"));
    }
}
