//! fallocate: reserve, punch, zero, collapse, insert. Done by a handle that writes, like a publish.
//!
//! Collapse and insert need no alignment: extents have none. They rewrite the records behind the range, so they cost
//! as many writes as the file has extents there.

use super::super::apply::Caller;
use super::super::extents::{Edit, SIZE_MAX};
use super::super::txn::Step;
use super::super::{Txn, access};
use super::publish::require_file;
use crate::types::{Extent, ExtentSource, FallocateMode, FsError, RangeChange, UpdateReply};

pub(crate) fn range(txn: &mut Txn<'_>, caller: &Caller<'_>, range: &RangeChange) -> Step<UpdateReply> {
    let RangeChange { inode: id, offset, len, mode } = *range;
    let inode = txn.inode(id)?;
    if len == 0 {
        return Err(FsError::Invalid.into());
    }
    require_file(&inode)?;
    let end = offset.checked_add(len).filter(|end| *end <= SIZE_MAX).ok_or(FsError::TooBig)?;
    match mode {
        // A range that reaches the end is for truncate, one behind the end for nothing.
        FallocateMode::Collapse if end >= inode.size => return Err(FsError::Invalid.into()),
        FallocateMode::Insert if offset >= inode.size => return Err(FsError::Invalid.into()),
        _ => {}
    }
    let size = match mode {
        FallocateMode::Allocate | FallocateMode::Zero => inode.size.max(end),
        FallocateMode::Collapse => inode.size - len,
        FallocateMode::Insert => inode.size + len,
        FallocateMode::AllocateKeepSize | FallocateMode::Punch | FallocateMode::ZeroKeepSize => inode.size,
    };
    if size > SIZE_MAX {
        return Err(FsError::TooBig.into());
    }

    let mut edit = Edit::new(&txn.records, id);
    match mode {
        FallocateMode::Allocate | FallocateMode::AllocateKeepSize => edit.fill(offset, end)?,
        FallocateMode::Punch => edit.cut(offset, end)?,
        FallocateMode::Zero | FallocateMode::ZeroKeepSize => {
            edit.insert(Extent { offset, len, source: ExtentSource::Zero })?;
        }
        FallocateMode::Collapse => {
            edit.cut(offset, end)?;
            edit.split(end)?;
            edit.shift(end, offset)?;
        }
        FallocateMode::Insert => {
            // What is reserved behind the end would be pushed out of the largest size.
            edit.cut(inode.size, u64::MAX)?;
            edit.split(offset)?;
            edit.shift(offset, end)?;
        }
    }
    let used = edit.settle()?;
    let superblock = txn.founded()?;
    superblock.used = used.of_all(superblock.used);
    let attr = txn.with_inode(id, |inode| {
        let reserves = matches!(mode, FallocateMode::Allocate | FallocateMode::AllocateKeepSize);
        if !reserves || size != inode.size {
            inode.mtime = caller.at;
        }
        inode.size = size;
        inode.used = used.of(inode.used);
        inode.mode = access::mode_after_write(inode, caller.cred);
        inode.changed(caller.at);
        inode.attr(id)
    })?;
    Ok(UpdateReply::Attr(attr))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Bench;
    use super::*;
    use crate::types::Update;

    #[test]
    fn each_mode_does_what_fallocate_says() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        bench.write(inode, 0, b"0123456789");
        let mut change = |offset, len, mode| {
            let reply = bench.update(Update::Range(RangeChange { inode, offset, len, mode }));
            (reply.map(|_| ()), String::from_utf8(bench.bytes(inode)).unwrap(), bench.attr(inode).used)
        };
        let told = |text: &str, used| (Ok(()), text.to_string(), used);
        assert_eq!(change(2, 3, FallocateMode::Punch), told("01\0\0\x0056789", 7));
        assert_eq!(change(3, 9, FallocateMode::AllocateKeepSize), told("01\0\0\x0056789", 11));
        assert_eq!(change(2, 10, FallocateMode::Allocate), told("01\0\0\x0056789\0\0", 12));
        assert_eq!(change(2, 3, FallocateMode::Collapse), told("0156789\0\0", 9));
        assert_eq!(change(1, 2, FallocateMode::Insert), told("0\0\x00156789\0\0", 9));
        assert_eq!(change(9, 4, FallocateMode::Zero), told("0\0\x00156789\0\0\0\0", 11));
        let refused = |e| (Err(e), "0\0\x00156789\0\0\0\0".to_string(), 11);
        assert_eq!(change(9, 4, FallocateMode::Collapse), refused(FsError::Invalid));
        assert_eq!(change(13, 4, FallocateMode::Insert), refused(FsError::Invalid));
        assert_eq!(change(1, 0, FallocateMode::Punch), refused(FsError::Invalid));
        assert_eq!(change(1, SIZE_MAX, FallocateMode::Punch), refused(FsError::TooBig));
        assert_eq!(change(1, u64::MAX, FallocateMode::Punch), refused(FsError::TooBig));
        assert_eq!(change(1, SIZE_MAX - 5, FallocateMode::Insert), refused(FsError::TooBig));
    }

    /// Files that reserve all that a file can have made the sum of the filesystem stop at 2^64, and moving such an extent,
    /// which takes it out and puts it in again, stopped the file's own: `check` found both wrong for ever after.
    #[test]
    fn the_largest_reservations_are_counted_right() {
        let mut bench = Bench::new();
        let names = ["a", "b", "c", "d"];
        let files = names.map(|name| bench.make_file(name));
        let mut change = |inode, offset, len, mode| {
            bench.update(Update::Range(RangeChange { inode, offset, len, mode })).unwrap();
            let violations = crate::namespace::check(&bench.view).unwrap();
            assert!(violations.is_empty(), "{violations:?}");
        };
        for inode in files {
            change(inode, 0, SIZE_MAX, FallocateMode::Allocate);
            change(inode, 4096, 4096, FallocateMode::Collapse);
            change(inode, 4096, 4096, FallocateMode::Insert);
            change(inode, 0, SIZE_MAX, FallocateMode::Punch);
            change(inode, 0, SIZE_MAX, FallocateMode::Zero);
        }
    }
}
