//! From an empty cluster to the state of a dump, block after block.
//!
//! ```text
//! founded, empty --Begin--> restoring --Part 0..n--> restoring --End--> whole again
//!                              |  anything else is refused: FsError::Restoring
//! ```
//!
//! Holds: a step that was done is not done again, so whoever sends them may send them again or come back after a crash; parts are taken
//! in their order and summed; the end comes only when the sum is that of the dump; no id that the dump's cluster gave out before or
//! after the dump is given out again.
//! Not here: what becomes of each record (`namespace/restore.rs`).

use super::super::records::{Healthy, Superblock};
use super::super::restore::{Fate, LIVES_MAX, Lineage, Restored, Restoring, obstacles};
use super::super::txn::{Step, read};
use super::super::{Txn, keys};
use super::{level, nodes};
use crate::types::{
    DataNode, DumpStamp, FLOOR_MAX, FsError, InodeId, NodeState, RestoreStep, SessionId, StateHash, Tally,
    Timestamp, UpdateReply, first_inode, unpack_records,
};

pub(crate) fn restore(txn: &mut Txn<'_>, at: Timestamp, step: &RestoreStep) -> Step<UpdateReply> {
    match step {
        RestoreStep::Begin { dump, floor } => begin(txn, *dump, *floor),
        RestoreStep::Part { dump, number, records } => part(txn, at, *dump, *number, records),
        RestoreStep::End { dump, floor } => end(txn, at, *dump, *floor),
    }
}

/// ENOTEMPTY if the cluster is not empty, EBUSY if it is being restored from another dump.
fn begin(txn: &mut Txn<'_>, dump: DumpStamp, floor: u64) -> Step<UpdateReply> {
    if let Some(restoring) = &txn.founded()?.restoring {
        // The same state may have been dumped twice.
        let same = DumpStamp { taken: restoring.dump.taken, ..dump } == restoring.dump;
        return if same { Ok(UpdateReply::Done) } else { Err(FsError::Busy.into()) };
    }
    let inode_count = txn.founded()?.inode_count;
    if obstacles(&txn.records, inode_count)?.is_some() {
        return Err(FsError::NotEmpty.into());
    }
    if floor > FLOOR_MAX {
        return Err(FsError::Invalid.into());
    }
    txn.founded()?.restoring = Some(Box::new(Restoring {
        dump,
        floor,
        next: 0,
        tally: Tally::default(),
        last_key: bytes::Bytes::new(),
        superblock: None,
    }));
    Ok(UpdateReply::Done)
}

/// The restore that is under way; none if this one has ended.
fn under_way(txn: &mut Txn<'_>, dump: StateHash) -> Step<Option<Restoring>> {
    if let Some(restoring) = &txn.founded()?.restoring {
        let same = restoring.dump.tally.hash == dump;
        return if same { Ok(Some(Restoring::clone(restoring))) } else { Err(FsError::Busy.into()) };
    }
    let lineage = read::<Lineage>(&txn.records, keys::LINEAGE)?.unwrap_or_default();
    let ended = lineage.restored.last().is_some_and(|last| last.dump == dump);
    if ended { Ok(None) } else { Err(FsError::Invalid.into()) }
}

/// EINVAL if the part does not follow the one before, or has a record that cannot be; EOPNOTSUPP if the dump's cluster worked at a
/// higher format level than this one.
fn part(
    txn: &mut Txn<'_>,
    at: Timestamp,
    dump: StateHash,
    number: u32,
    packed: &bytes::Bytes,
) -> Step<UpdateReply> {
    let Some(mut restoring) = under_way(txn, dump)? else { return Ok(UpdateReply::Done) };
    if number < restoring.next {
        return Ok(UpdateReply::Done);
    }
    if number > restoring.next {
        return Err(FsError::Invalid.into());
    }
    let records = unpack_records(packed).ok_or(FsError::Invalid)?;
    let mut fates = Vec::with_capacity(records.len());
    for (key, value) in &records {
        if *key <= restoring.last_key {
            return Err(FsError::Invalid.into());
        }
        restoring.last_key = key.clone();
        restoring.tally.add(key, value);
        let fate = Fate::of(key, value).map_err(|_| FsError::Invalid)?;
        if let Fate::Level(theirs) = fate
            && theirs > level::level(&txn.records)?.0
        {
            return Err(FsError::Unsupported.into());
        }
        if let Fate::Superblock(superblock) = &fate {
            if !is_above(restoring.floor, superblock) {
                return Err(FsError::Invalid.into());
            }
            restoring.superblock = Some(Superblock::clone(superblock));
        }
        fates.push(fate);
    }
    restoring.next = number.saturating_add(1);
    // The keys share the memory of the whole part.
    restoring.last_key = bytes::Bytes::copy_from_slice(&restoring.last_key);
    for ((key, value), fate) in records.into_iter().zip(fates) {
        match fate {
            Fate::Superblock(_) | Fate::Level(_) | Fate::Dropped => {}
            Fate::Inode(id, inode) => txn.restore_inode(id, *inode)?,
            Fate::DataNode(node) => {
                let gone = matches!(node.state, NodeState::Draining | NodeState::Removed);
                let (state, since) = if gone { (node.state, node.since) } else { (NodeState::Down, at) };
                txn.records.put(&key, &DataNode { state, since, ..node })?;
            }
            Fate::Lineage(lineage) => txn.records.put(&key, &lineage)?,
            // A copy: the part's memory goes with the part.
            Fate::Kept => txn.records.put_bytes(&key, bytes::Bytes::copy_from_slice(&value))?,
        }
    }
    txn.founded()?.restoring = Some(Box::new(restoring));
    Ok(UpdateReply::Done)
}

/// All that the dump's cluster gave out lies below the floor.
fn is_above(floor: u64, dump: &Superblock) -> bool {
    floor > dump.next_session.0 && first_inode(floor) > dump.next_inode.0
}

/// EINVAL if not all records have come, EEXIST if a data server of the dump has the id or the name of a metadata server.
fn end(txn: &mut Txn<'_>, at: Timestamp, dump: StateHash, floor: u64) -> Step<UpdateReply> {
    let Some(restoring) = under_way(txn, dump)? else { return Ok(UpdateReply::Done) };
    if restoring.floor != floor || restoring.tally != restoring.dump.tally {
        return Err(FsError::Invalid.into());
    }
    let theirs = restoring.superblock.ok_or(FsError::Invalid)?;
    let meta = nodes::meta_nodes(&txn.records)?;
    for data in nodes::data_nodes(&txn.records)? {
        if meta.iter().any(|m| m.node == data.node || m.name == data.name) {
            return Err(FsError::NodeConflict.into());
        }
    }
    let mut lineage = read::<Lineage>(&txn.records, keys::LINEAGE)?.unwrap_or_default();
    let too_many = (lineage.restored.len() + 1).saturating_sub(LIVES_MAX);
    lineage.restored.drain(..too_many);
    lineage.restored.push(Restored { cluster: theirs.cluster, dump, index: restoring.dump.index, floor, at });
    txn.records.put(keys::LINEAGE, &lineage)?;
    let healthy = nodes::healthy_groups(&txn.records)?;
    txn.records.put_bytes(keys::HEALTHY, Healthy::encode(&healthy))?;
    let ours = txn.founded()?;
    *ours = Superblock {
        cluster: ours.cluster,
        // Above both: whoever holds a map of either fetches this one.
        epoch: ours.epoch.max(theirs.epoch).next(),
        newest: ours.newest.max(theirs.newest),
        next_inode: InodeId(first_inode(floor)),
        next_session: SessionId(floor),
        restoring: None,
        ..theirs
    };
    Ok(UpdateReply::Done)
}
