//! chmod, chown, utimens, truncate.

use super::super::access;
use super::super::apply::Caller;
use super::super::extents::{Edit, SIZE_MAX};
use super::super::records::Inode;
use super::super::txn::Step;
use super::super::{Txn, ViewError};
use crate::types::{Access, Cred, FileKind, FsError, InodeId, MODE_BITS, SetAttrs, SetTime, UpdateReply};

pub(crate) fn set_attrs(txn: &mut Txn<'_>, caller: &Caller<'_>, update: &SetAttrs) -> Step<UpdateReply> {
    let SetAttrs { inode: id, set, by_handle } = update;
    let inode = txn.inode(*id)?;
    let cred = caller.cred;
    if let Some(size) = set.size {
        check_size(&inode, cred, size, *by_handle)?;
    }
    check_owner(&inode, cred, set.uid, set.gid)?;
    if set.mode.is_some() {
        access::require_owner(&inode, cred)?;
    }
    check_times(&inode, cred, set.atime, set.mtime)?;
    if *set == crate::types::SetAttr::default() {
        return Ok(UpdateReply::Attr(inode.attr(*id)));
    }

    if let Some(size) = set.size {
        truncate(txn, *id, size)?;
    }
    let attr = txn.with_inode(*id, |inode| {
        if set.size.is_some() {
            inode.mode = access::mode_after_write(inode, cred);
            inode.mtime = caller.at;
        }
        if set.uid.is_some() || set.gid.is_some() {
            inode.mode = access::mode_after_chown(inode, cred);
            inode.uid = set.uid.unwrap_or(inode.uid);
            inode.gid = set.gid.unwrap_or(inode.gid);
        }
        if let Some(mode) = set.mode {
            inode.mode = access::mode_after_chmod(mode & MODE_BITS, inode.gid, cred);
        }
        let time = |set: SetTime| match set {
            SetTime::Now => caller.at,
            SetTime::At(at) => at,
        };
        inode.atime = set.atime.map_or(inode.atime, time);
        inode.mtime = set.mtime.map_or(inode.mtime, time);
        inode.changed(caller.at);
        inode.attr(*id)
    })?;
    Ok(UpdateReply::Attr(attr))
}

fn check_size(inode: &Inode, cred: &Cred, size: u64, by_handle: bool) -> Result<(), FsError> {
    match inode.kind {
        FileKind::File => {}
        FileKind::Dir => return Err(FsError::IsDir),
        _ => return Err(FsError::Invalid),
    }
    if !by_handle {
        access::require(inode, cred, Access::WRITE)?;
    }
    if size > SIZE_MAX { Err(FsError::TooBig) } else { Ok(()) }
}

/// Root gives a file to anyone. Its owner gives it to a group that he is in, and to himself.
fn check_owner(inode: &Inode, cred: &Cred, uid: Option<u32>, gid: Option<u32>) -> Result<(), FsError> {
    // -1 means "as it is" to chown(2), so that nothing can be given to it.
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(FsError::Invalid);
    }
    let owner = cred.uid == inode.uid;
    let may_uid = uid.is_none_or(|uid| owner && uid == inode.uid);
    let may_gid = gid.is_none_or(|gid| owner && (gid == inode.gid || cred.in_group(gid)));
    if cred.is_root() || (may_uid && may_gid) { Ok(()) } else { Err(FsError::NotOwner) }
}

/// Both times to now is what `touch` does, and write permission is enough; anything else is for the owner.
fn check_times(
    inode: &Inode,
    cred: &Cred,
    atime: Option<SetTime>,
    mtime: Option<SetTime>,
) -> Result<(), FsError> {
    match (atime, mtime) {
        (None, None) => Ok(()),
        (Some(SetTime::Now), Some(SetTime::Now)) => {
            if access::owns(inode, cred) {
                Ok(())
            } else {
                access::require(inode, cred, Access::WRITE)
            }
        }
        _ => access::require_owner(inode, cred),
    }
}

/// Sets the size; what is cut off is freed, what is added is a hole.
fn truncate(txn: &mut Txn<'_>, id: InodeId, size: u64) -> Result<(), ViewError> {
    let mut edit = Edit::new(&txn.records, id);
    edit.cut(size, u64::MAX)?;
    let used = edit.settle()?;
    let superblock = txn.founded()?;
    superblock.used = used.of_all(superblock.used);
    txn.with_inode(id, |inode| {
        inode.used = used.of(inode.used);
        inode.size = size;
        if inode.used == 0 {
            inode.home = None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, T0};
    use super::*;
    use crate::types::{SetAttr, Timestamp, Update};

    #[test]
    fn a_truncate_cuts_and_extends() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        bench.write(inode, 0, b"0123456789");
        let size = |inode, size| {
            let set = SetAttr { size: Some(size), ..SetAttr::default() };
            Update::SetAttrs(SetAttrs { inode, set, by_handle: false })
        };
        assert!(bench.update(size(inode, 4)).is_ok());
        assert!(bench.update(size(inode, 8)).is_ok());
        assert_eq!(bench.bytes(inode), b"0123\0\0\0\0");
        assert_eq!(bench.attr(inode).used, 4);
        assert_eq!(bench.update(size(inode, SIZE_MAX + 1)), Err(FsError::TooBig));
        assert!(bench.update(size(inode, SIZE_MAX)).is_ok());
    }

    #[test]
    fn times_are_set_and_time_never_goes_back() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        let set = SetAttr { mtime: Some(SetTime::At(Timestamp(-5))), ..SetAttr::default() };
        bench.now = Timestamp(T0 - 1_000_000);
        assert!(bench.update(Update::SetAttrs(SetAttrs { inode, set, by_handle: false })).is_ok());
        let attr = bench.attr(inode);
        assert_eq!(attr.mtime, Timestamp(-5));
        assert!(attr.ctime >= attr.btime, "an earlier clock does not turn time back");
    }
}
