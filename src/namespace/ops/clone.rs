//! Let a range of a file have the contents of another range: references to its blocks, copies of its inline bytes.
//!
//! Done by handles, like a publish. A command goes as far as its bound of extents lets it, from the front on, and says how
//! far that was. Holes are cloned as holes.

use super::super::apply::Caller;
use super::super::extents::{self, Edit, SIZE_MAX};
use super::super::txn::Step;
use super::super::{Txn, access};
use super::publish::require_file;
use crate::types::{CloneRange, Extent, ExtentSource, FsError, UpdateReply};

pub(crate) fn clone(txn: &mut Txn<'_>, caller: &Caller<'_>, clone: &CloneRange) -> Step<UpdateReply> {
    let CloneRange { from, from_offset, to, to_offset, len } = *clone;
    let source = txn.inode(from)?;
    require_file(&source)?;
    let target = txn.inode(to)?;
    require_file(&target)?;
    let from_end = match len {
        0 => source.size,
        _ => from_offset.checked_add(len).ok_or(FsError::Invalid)?,
    };
    if from_end > source.size || from_offset > from_end {
        return Err(FsError::Invalid.into());
    }
    let whole = from_end - from_offset;
    let to_end = to_offset.checked_add(whole).filter(|end| *end <= SIZE_MAX).ok_or(FsError::TooBig)?;
    if from == to && from_offset < to_end && to_offset < from_end {
        return Err(FsError::Invalid.into());
    }
    if whole == 0 {
        return Ok(UpdateReply::Cloned { attr: target.attr(to), len: 0, rest: 0 });
    }

    // As far as the extents taken and the extents replaced allow.
    let max = CloneRange::EXTENTS_MAX;
    let (taken, more) = extents::touching(&txn.records, from, from_offset, from_end, max)?;
    let mut done = whole;
    if let Some(last) = taken.last().filter(|_| more) {
        done = done.min(last.end() - from_offset);
    }
    let (replaced, more) = extents::touching(&txn.records, to, to_offset, to_offset + done, max)?;
    if let Some(last) = replaced.last().filter(|_| more) {
        done = done.min(last.end() - to_offset);
    }
    let pieces: Vec<Extent> = taken
        .iter()
        .filter(|extent| extent.offset < from_offset + done)
        .map(|extent| {
            let part = extents::part(extent, from_offset, from_offset + done);
            Extent { offset: part.offset - from_offset + to_offset, ..part }
        })
        .collect();
    let first_group = pieces.iter().find_map(|piece| match piece.source {
        ExtentSource::Block { block, .. } => Some(block.group),
        _ => None,
    });
    let mut edit = Edit::new(&txn.records, to);
    edit.cut(to_offset, to_offset + done)?;
    for piece in pieces {
        edit.insert(piece)?;
    }
    let used = edit.settle()?;
    let superblock = txn.founded()?;
    superblock.used = used.of_all(superblock.used);
    let attr = txn.with_inode(to, |inode| {
        inode.size = inode.size.max(to_offset + done);
        inode.used = used.of(inode.used);
        inode.home = inode.home.or(first_group);
        inode.mode = access::mode_after_write(inode, caller.cred);
        inode.modified(caller.at);
        inode.attr(to)
    })?;
    Ok(UpdateReply::Cloned { attr, len: done, rest: whole - done })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::fixture::Bench;
    use super::*;
    use crate::namespace::{BlockUse, block_refs, check, reclaim_queue};
    use crate::types::{
        BlockId, BlockRef, Checksum, FileKind, GroupId, InodeId, MakeNode, Publish, SetAttr, SetAttrs, Update,
    };

    fn publish(inode: InodeId, extents: Vec<Extent>) -> Update {
        Update::Publish(Publish { inode, extents, grow_to: None, append: false, mtime: None })
    }

    fn truncate(inode: InodeId, size: u64) -> Update {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        Update::SetAttrs(SetAttrs { inode, set, by_handle: true })
    }

    fn sound(bench: &Bench) {
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_block_stays_until_the_last_range_that_has_it_is_gone() {
        let mut bench = Bench::new();
        bench.with_groups();
        let (a, b) = (bench.make_file("a"), bench.make_file("b"));
        let id = BlockId { session: bench.session, index: 1 };
        let block = BlockRef { id, group: GroupId(1), len: 100, checksum: Checksum(4) };
        let whole = Extent { offset: 10, len: 100, source: ExtentSource::Block { block, block_offset: 0 } };
        assert!(bench.update(publish(a, vec![whole])).is_ok());
        let clone = |from, from_offset, to, to_offset, len| {
            Update::Clone(CloneRange { from, from_offset, to, to_offset, len })
        };
        // Into another file twice, then within that file.
        for update in [clone(a, 5, b, 0, 50), clone(a, 0, b, 200, 0), clone(b, 0, b, 50, 50)] {
            let done = bench.update(update);
            assert!(matches!(done, Ok(UpdateReply::Cloned { rest: 0, .. })), "{done:?}");
            sound(&bench);
        }
        assert_eq!((bench.attr(b).size, bench.attr(b).used), (310, 45 + 45 + 100));
        assert!(bench.update(truncate(a, 0)).is_ok());
        assert!(bench.update(truncate(b, 7)).is_ok());
        assert_eq!(block_refs(&bench.view, &[id]).unwrap(), [BlockUse::Referenced(block)]);
        // What replaces the last reference by the same block keeps it.
        assert!(bench.update(clone(b, 0, a, 0, 7)).is_ok());
        assert!(bench.update(clone(a, 0, b, 0, 7)).is_ok());
        sound(&bench);
        assert!(bench.update(truncate(a, 0)).is_ok());
        assert!(bench.update(truncate(b, 0)).is_ok());
        assert_eq!(reclaim_queue(&bench.view, None, 9).unwrap().len(), 1);
        sound(&bench);
    }

    #[test]
    fn bytes_and_holes_are_cloned_and_what_was_there_is_gone() {
        let mut bench = Bench::new();
        let (a, b) = (bench.make_file("a"), bench.make_file("b"));
        bench.write(a, 2, b"bytes");
        bench.write(a, 10, b"more");
        bench.write(b, 0, b"................");
        let clone = CloneRange { from: a, from_offset: 1, to: b, to_offset: 3, len: 11 };
        let Ok(UpdateReply::Cloned { attr, len: 11, rest: 0 }) = bench.update(Update::Clone(clone)) else {
            panic!("not cloned")
        };
        assert_eq!(bench.bytes(b), b"...\0bytes\0\0\0mo..");
        assert_eq!((attr.size, attr.used), (16, 12));
        bench.write(b, 4, b"other");
        assert_eq!(bench.bytes(a), b"\0\0bytes\0\0\0more", "the source is as it was");
        sound(&bench);
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        let mut bench = Bench::new();
        let (a, b) = (bench.make_file("a"), bench.make_file("b"));
        let dir = bench.made(MakeNode { kind: FileKind::Dir, ..bench.file("d") });
        bench.write(a, 0, b"0123456789");
        let before = bench.without_replies();
        let mut refused = |from, from_offset, to, to_offset, len| {
            bench.update(Update::Clone(CloneRange { from, from_offset, to, to_offset, len })).unwrap_err()
        };
        assert_eq!(refused(a, 0, a, 5, 6), FsError::Invalid, "they overlap");
        assert_eq!(refused(a, 3, a, 3, 0), FsError::Invalid, "they are the same");
        assert_eq!(refused(a, 5, b, 0, 6), FsError::Invalid, "behind the end");
        assert_eq!(refused(a, 11, b, 0, 0), FsError::Invalid);
        assert_eq!(refused(a, u64::MAX, b, 0, 2), FsError::Invalid);
        assert_eq!(refused(a, 0, b, SIZE_MAX - 4, 5), FsError::TooBig);
        assert_eq!(refused(a, 0, b, u64::MAX, 5), FsError::TooBig);
        assert_eq!(refused(dir, 0, b, 0, 0), FsError::IsDir);
        assert_eq!(refused(a, 0, dir, 0, 0), FsError::IsDir);
        assert_eq!(refused(InodeId(99), 0, b, 0, 0), FsError::Stale);
        let nothing = CloneRange { from: a, from_offset: 10, to: b, to_offset: 5, len: 0 };
        let done = bench.update(Update::Clone(nothing));
        assert!(matches!(done, Ok(UpdateReply::Cloned { len: 0, rest: 0, .. })), "{done:?}");
        assert_eq!(bench.without_replies(), before);
    }

    #[test]
    fn a_command_has_a_bound_and_says_how_far_it_came() {
        let count = CloneRange::EXTENTS_MAX as u64 * 2 + 100;
        let spotted = |inode: InodeId, first: u64| {
            let one = |i: u64| {
                let source = ExtentSource::Inline(Bytes::from_static(b"x"));
                Extent { offset: first + i * 3, len: 1, source }
            };
            publish(inode, (0..count).map(one).collect())
        };
        // Many extents to take, many to replace, both.
        for (of_source, of_target) in [(true, false), (false, true), (true, true)] {
            let mut bench = Bench::new();
            let (a, b) = (bench.make_file("a"), bench.make_file("b"));
            if of_source {
                assert!(bench.update(spotted(a, 0)).is_ok());
            }
            if of_target {
                assert!(bench.update(spotted(b, 1)).is_ok());
            }
            if bench.attr(a).size < count * 3 {
                assert!(bench.update(truncate(a, count * 3)).is_ok());
            }
            let mut clone = CloneRange { from: a, from_offset: 0, to: b, to_offset: 0, len: 0 };
            let mut commands = 0;
            loop {
                let Ok(UpdateReply::Cloned { len, rest, .. }) = bench.update(Update::Clone(clone)) else {
                    panic!("not cloned")
                };
                commands += 1;
                sound(&bench);
                if rest == 0 {
                    break;
                }
                assert!(len > 0, "it must come to an end");
                clone.from_offset += len;
                clone.to_offset += len;
                clone.len = rest;
            }
            assert_eq!(commands, 3);
            assert_eq!(bench.bytes(a), bench.bytes(b));
        }
    }
}
