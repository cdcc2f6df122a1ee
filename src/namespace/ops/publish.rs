//! Commit written extents and size.
//!
//! Permission was asked when the file was opened, as POSIX has it: a publish is done by a handle.

use std::collections::BTreeMap;

use super::super::apply::Caller;
use super::super::extents::{self, Edit, SIZE_MAX};
use super::super::records::Inode;
use super::super::txn::Step;
use super::super::{Txn, access};
use crate::types::{BlockId, BlockRef, Extent, ExtentSource, FileKind, FsError, Publish, UpdateReply};

/// EISDIR or EINVAL for what has no bytes.
pub(super) fn require_file(inode: &Inode) -> Result<(), FsError> {
    match inode.kind {
        FileKind::File => Ok(()),
        FileKind::Dir => Err(FsError::IsDir),
        _ => Err(FsError::Invalid),
    }
}

pub(crate) fn publish(txn: &mut Txn<'_>, caller: &Caller<'_>, publish: &Publish) -> Step<UpdateReply> {
    let id = publish.inode;
    let inode = txn.inode(id)?;
    require_file(&inode)?;
    let base = if publish.append { inode.size } else { 0 };
    let mut pieces: Vec<Extent> = Vec::with_capacity(publish.extents.len());
    let mut blocks: BTreeMap<BlockId, BlockRef> = BTreeMap::new();
    for extent in &publish.extents {
        let piece = extents::checked(extent, base)?;
        if let ExtentSource::Block { block, .. } = piece.source {
            // The same block twice in one publish must be the same block.
            if *blocks.entry(block.id).or_insert(block) != block {
                return Err(FsError::BadExtent.into());
            }
        }
        pieces.push(piece);
    }
    for block in blocks.values() {
        extents::admit(&txn.records, caller.session, block)?;
    }
    let size = pieces.iter().map(Extent::end).chain(publish.grow_to).fold(inode.size, u64::max);
    if size > SIZE_MAX {
        return Err(FsError::TooBig.into());
    }

    let wrote = !pieces.is_empty();
    let changes = wrote || size != inode.size;
    let first_block = |at_start: bool| {
        pieces.iter().find_map(|piece| match piece.source {
            ExtentSource::Block { block, .. } if !at_start || piece.offset == 0 => Some(block.group),
            _ => None,
        })
    };
    let home = first_block(true).or(inode.home).or_else(|| first_block(false));
    let mut edit = Edit::new(&txn.records, id);
    for piece in pieces {
        edit.insert(piece)?;
    }
    let used = edit.settle()?;
    let superblock = txn.founded()?;
    superblock.used = used.of_all(superblock.used);
    let attr = txn.with_inode(id, |inode| {
        if changes {
            inode.size = size;
            inode.used = used.of(inode.used);
            inode.home = home;
            inode.mode = access::mode_after_write(inode, caller.cred);
            inode.modified(caller.at);
        }
        if let Some(mtime) = publish.mtime {
            inode.mtime = mtime;
            inode.changed(caller.at);
        }
        inode.attr(id)
    })?;
    Ok(UpdateReply::Attr(attr))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Bench;
    use super::*;
    use crate::namespace::{BlockUse, Op, block_refs, check, reclaim_queue};
    use crate::types::{Checksum, GroupId, InodeId, SessionId, Update};

    fn of(inode: InodeId, extents: Vec<Extent>) -> Update {
        Update::Publish(Publish { inode, extents, grow_to: None, append: false, mtime: None })
    }

    fn block(session: SessionId, index: u64) -> BlockRef {
        BlockRef { id: BlockId { session, index }, group: GroupId(1), len: 100, checksum: Checksum(4) }
    }

    fn whole(block: BlockRef, offset: u64) -> Extent {
        let len = u64::from(block.len);
        Extent { offset, len, source: ExtentSource::Block { block, block_offset: 0 } }
    }

    #[test]
    fn an_overwritten_block_cannot_come_back() {
        let mut bench = Bench::new();
        bench.with_groups();
        let inode = bench.make_file("a");
        let (old, new) = (block(bench.session, 1), block(bench.session, 2));
        assert!(bench.update(of(inode, vec![whole(old, 0)])).is_ok());
        assert!(bench.update(of(inode, vec![whole(new, 0)])).is_ok());
        assert_eq!(bench.update(of(inode, vec![whole(old, 0)])), Err(FsError::BadExtent), "it is queued");
        assert_eq!(reclaim_queue(&bench.view, None, 9).unwrap().len(), 1);
        assert!(bench.command(Op::Reclaimed(vec![old.id, old.id, new.id])).is_ok());
        assert!(reclaim_queue(&bench.view, None, 9).unwrap().is_empty());
        assert_eq!(bench.update(of(inode, vec![whole(old, 0)])), Err(FsError::BadExtent), "it is gone");
        let uses = block_refs(&bench.view, &[old.id, new.id, block(bench.session, 3).id]).unwrap();
        assert_eq!(
            uses,
            [BlockUse::Reclaimed, BlockUse::Referenced(new), BlockUse::Unknown { session_alive: true }]
        );
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn only_known_blocks_and_new_ones_of_the_session_are_taken() {
        let mut bench = Bench::new();
        bench.with_groups();
        let inode = bench.make_file("a");
        let mine = block(bench.session, 1);
        let before = bench.view.clone();
        let stranger = block(SessionId(77), 1);
        let elsewhere = BlockRef { group: GroupId(99), ..block(bench.session, 2) };
        for bad in [stranger, elsewhere] {
            let reply = bench.update(of(inode, vec![whole(mine, 0), whole(bad, 100)]));
            assert_eq!(reply, Err(FsError::BadExtent));
        }
        assert_eq!(bench.without_replies(), Bench::strip(&before));
        assert!(bench.update(of(inode, vec![whole(mine, 0)])).is_ok());
        let lies = BlockRef { checksum: Checksum(5), ..mine };
        assert_eq!(bench.update(of(inode, vec![whole(lies, 0)])), Err(FsError::BadExtent));
        let twice = vec![
            whole(block(bench.session, 3), 0),
            whole(BlockRef { len: 99, ..block(bench.session, 3) }, 0),
        ];
        assert_eq!(bench.update(of(inode, twice)), Err(FsError::BadExtent));
    }

    #[test]
    fn appends_go_behind_each_other() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        let text = |text: &'static str| Extent {
            offset: 0,
            len: text.len() as u64,
            source: ExtentSource::Inline(bytes::Bytes::from_static(text.as_bytes())),
        };
        for t in ["one ", "two ", "three"] {
            let extents = vec![text(t)];
            let append = Publish { inode, extents, grow_to: None, append: true, mtime: None };
            assert!(bench.update(Update::Publish(append)).is_ok());
        }
        assert_eq!(bench.bytes(inode), b"one two three");
        assert_eq!(bench.view.records.keys().filter(|k| k[0] == 5).count(), 1, "they are merged");
    }

    #[test]
    fn a_publish_grows_a_file_and_never_shrinks_it() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        let grow = |to| {
            Update::Publish(Publish { inode, extents: vec![], grow_to: Some(to), append: false, mtime: None })
        };
        assert!(bench.update(grow(10)).is_ok());
        let version = bench.attr(inode).version;
        assert!(bench.update(grow(5)).is_ok());
        assert_eq!((bench.attr(inode).size, bench.attr(inode).version), (10, version));
        assert_eq!(bench.update(grow(SIZE_MAX + 1)), Err(FsError::TooBig));
    }
}
