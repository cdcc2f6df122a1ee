//! Set, remove and show access control lists: the extended attributes `system.posix_acl_access` and `_default`.
//!
//! Called by `xattr`. As Linux (`posix_acl_xattr_set`): a value without entries removes the list, and removing what is not
//! there is no error. Removing an access list leaves the mode as it is.

use bytes::Bytes;

use super::super::acl::{self, Acl};
use super::super::apply::Caller;
use super::super::records::Inode;
use super::super::txn::{Step, corrupt};
use super::super::{Txn, View, ViewError, access, keys};
use super::xattr;
use crate::types::{FileKind, FsError, InodeId, UpdateReply, XattrMode};

/// Which list of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Access,
    Default,
}

/// The default list of a directory.
pub(super) fn default_of(view: &dyn View, id: InodeId, inode: &Inode) -> Result<Option<Acl>, ViewError> {
    if inode.xattr_count == 0 {
        return Ok(None);
    }
    let Some(record) = view.get(&keys::xattr(id, acl::DEFAULT))? else { return Ok(None) };
    let parsed = Acl::parse(&xattr::value_of(&record));
    parsed.map_err(|e| corrupt(format!("the default list of directory {id} is not one: {e}")))
}

/// Sets a list, or removes it where `value` has no entry.
pub(super) fn set(
    txn: &mut Txn<'_>,
    caller: &Caller<'_>,
    id: InodeId,
    which: Which,
    value: &[u8],
    mode: XattrMode,
) -> Step<UpdateReply> {
    let inode = txn.inode(id)?;
    if inode.kind == FileKind::Symlink {
        return Err(FsError::Unsupported.into());
    }
    let list = Acl::parse(value)?;
    if which == Which::Default && !inode.is_dir() {
        return if list.is_some() { Err(FsError::Denied.into()) } else { Ok(UpdateReply::Done) };
    }
    access::require_owner(&inode, caller.cred)?;
    let exists = match which {
        Which::Access => inode.acl.is_some(),
        Which::Default => default_of(&txn.records, id, &inode)?.is_some(),
    };
    match (mode, exists) {
        (XattrMode::Create, true) => return Err(FsError::Exists.into()),
        (XattrMode::Replace, false) => return Err(FsError::NoXattr.into()),
        _ if list.is_none() && !exists => return Ok(UpdateReply::Done),
        _ => {}
    }
    match which {
        Which::Access => set_access(txn, caller, id, list),
        Which::Default => set_default(txn, caller, id, &inode, exists, list),
    }
}

fn set_access(txn: &mut Txn<'_>, caller: &Caller<'_>, id: InodeId, list: Option<Acl>) -> Step<UpdateReply> {
    txn.with_inode(id, |inode| {
        if let Some(list) = list {
            let (bits, extended) = list.into_mode();
            let mode = inode.mode & !0o777 | bits;
            inode.mode = access::mode_after_chmod(mode, inode.gid, caller.cred);
            inode.acl = extended;
        } else {
            inode.acl = None;
        }
        inode.changed(caller.at);
    })?;
    Ok(UpdateReply::Done)
}

fn set_default(
    txn: &mut Txn<'_>,
    caller: &Caller<'_>,
    id: InodeId,
    inode: &Inode,
    exists: bool,
    list: Option<Acl>,
) -> Step<UpdateReply> {
    let key = keys::xattr(id, acl::DEFAULT);
    let count = match (&list, exists) {
        (Some(_), false) if inode.xattr_count >= xattr::XATTR_COUNT_MAX => {
            return Err(FsError::NoSpace.into());
        }
        (Some(_), false) => inode.xattr_count + 1,
        // A list without a count is damage, which `check` reports.
        (None, true) => inode.xattr_count.saturating_sub(1),
        _ => inode.xattr_count,
    };
    match list {
        Some(list) => txn.records.put_bytes(&key, xattr::record_of(&list.encode()))?,
        None => txn.records.delete(&key)?,
    }
    txn.with_inode(id, |inode| {
        inode.xattr_count = count;
        inode.changed(caller.at);
    })?;
    Ok(UpdateReply::Done)
}

/// The value that shows a list.
pub(super) fn get(view: &dyn View, id: InodeId, inode: &Inode, which: Which) -> Step<Bytes> {
    if inode.kind == FileKind::Symlink {
        return Err(FsError::Unsupported.into());
    }
    let list = match which {
        Which::Access => inode.acl.as_ref().map(|extended| Acl::of(inode.mode, extended)),
        Which::Default => default_of(view, id, inode)?,
    };
    Ok(list.ok_or(FsError::NoXattr)?.encode())
}

/// Gives something new in a directory what it inherits: the permission bits for `inode`, its access list, and a
/// subdirectory the default list itself. With a default list the umask counts for nothing.
pub(super) fn inherit(inode: &mut Inode, default: Acl, txn: &Txn<'_>, id: InodeId) {
    if inode.is_dir() {
        txn.records.put_bytes_fresh(&keys::xattr(id, acl::DEFAULT), xattr::record_of(&default.encode()));
        inode.xattr_count = 1;
    }
    let (bits, extended) = default.inherited(inode.mode);
    inode.mode = inode.mode & !0o777 | bits;
    inode.acl = extended;
}

#[cfg(test)]
mod tests {
    use super::super::super::acl::tests::value;
    use super::super::fixture::Bench;
    use super::*;
    use crate::namespace::check;
    use crate::types::{
        Access, Cred, MakeNode, Query, QueryReply, RemoveXattr, SetAttr, SetAttrs, SetXattr, Update,
    };

    const NO_ID: u32 = u32::MAX;

    fn set(inode: InodeId, name: &'static [u8], value: Bytes) -> Update {
        let name = Bytes::from_static(name);
        Update::SetXattr(SetXattr { inode, name, value, mode: XattrMode::Any })
    }

    fn remove(inode: InodeId, name: &'static [u8]) -> Update {
        Update::RemoveXattr(RemoveXattr { inode, name: Bytes::from_static(name) })
    }

    fn get(bench: &Bench, inode: InodeId, name: &'static [u8]) -> Result<Bytes, FsError> {
        match bench.ask(&Query::GetXattr { inode, name: Bytes::from_static(name) })? {
            QueryReply::Xattr(value) => Ok(value),
            other => panic!("{other:?}"),
        }
    }

    /// Owner rwx, user 10 `user`, group r--, mask `mask`, others none.
    fn list(user: u16, mask: u16) -> Bytes {
        value(&[(1, 7, NO_ID), (2, user, 10), (4, 4, NO_ID), (16, mask, NO_ID), (32, 0, NO_ID)])
    }

    #[test]
    fn a_chmod_changes_the_mask_and_a_minimal_list_is_only_a_mode() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        assert_eq!(get(&bench, inode, acl::ACCESS), Err(FsError::NoXattr));
        assert!(bench.update(set(inode, acl::ACCESS, list(6, 6))).is_ok());
        assert_eq!(bench.attr(inode).mode, 0o760);
        let set_mode = SetAttr { mode: Some(0o640), ..SetAttr::default() };
        assert!(bench.update(Update::SetAttrs(SetAttrs { inode, set: set_mode, by_handle: false })).is_ok());
        let after = value(&[(1, 6, NO_ID), (2, 6, 10), (4, 4, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID)]);
        assert_eq!(get(&bench, inode, acl::ACCESS), Ok(after));
        let minimal = value(&[(1, 6, NO_ID), (4, 2, NO_ID), (32, 1, NO_ID)]);
        assert!(bench.update(set(inode, acl::ACCESS, minimal)).is_ok());
        assert_eq!(bench.attr(inode).mode, 0o621);
        assert_eq!(get(&bench, inode, acl::ACCESS), Err(FsError::NoXattr));
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn lists_are_removed_by_name_and_by_a_value_without_entries() {
        let mut bench = Bench::new();
        let dir = bench.made(MakeNode { kind: FileKind::Dir, ..bench.file("d") });
        for name in [acl::ACCESS, acl::DEFAULT] {
            for emptied in [remove(dir, name), set(dir, name, Bytes::new()), set(dir, name, value(&[]))] {
                assert!(bench.update(set(dir, name, list(7, 7))).is_ok());
                assert_eq!(get(&bench, dir, name), Ok(list(7, 7)));
                assert!(bench.update(emptied.clone()).is_ok());
                assert_eq!(get(&bench, dir, name), Err(FsError::NoXattr));
                let before = bench.without_replies();
                assert!(bench.update(emptied).is_ok(), "as Linux has it");
                assert_eq!(bench.without_replies(), before);
                assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn what_is_made_below_a_default_list_inherits_it_in_place_of_the_umask() {
        let mut bench = Bench::new();
        let dir = bench.made(MakeNode { kind: FileKind::Dir, ..bench.file("d") });
        assert!(bench.update(set(dir, acl::DEFAULT, list(7, 6))).is_ok());
        let within = |bench: &Bench, name, kind, mode| MakeNode {
            parent: dir,
            kind,
            mode,
            umask: 0o777,
            ..bench.file(name)
        };
        let file = bench.made(within(&bench, "f", FileKind::File, 0o666));
        assert_eq!(bench.attr(file).mode, 0o660);
        let inherited = value(&[(1, 6, NO_ID), (2, 7, 10), (4, 4, NO_ID), (16, 6, NO_ID), (32, 0, NO_ID)]);
        assert_eq!(get(&bench, file, acl::ACCESS), Ok(inherited));
        assert_eq!(get(&bench, file, acl::DEFAULT), Err(FsError::NoXattr));
        let user = Cred { uid: 10, gid: 1, groups: vec![] };
        let may = |inode, access| {
            let asked = Query::Access { inode, access };
            crate::namespace::query(&bench.view, &user, &asked).unwrap().map(drop)
        };
        assert_eq!(may(file, Access::READ.and(Access::WRITE)), Ok(()));
        assert_eq!(may(file, Access::EXEC), Err(FsError::Denied), "the mask");
        let sub = bench.made(within(&bench, "s", FileKind::Dir, 0o755));
        assert_eq!(bench.attr(sub).mode, 0o740);
        assert_eq!(get(&bench, sub, acl::DEFAULT), Ok(list(7, 6)));
        let target = Bytes::from_static(b"x");
        let symlink = MakeNode { content: target, ..within(&bench, "l", FileKind::Symlink, 0) };
        let symlink = bench.made(symlink);
        assert_eq!(bench.attr(symlink).mode, 0o777);
        assert_eq!(get(&bench, symlink, acl::ACCESS), Err(FsError::Unsupported));
        assert_eq!(bench.update(set(symlink, acl::ACCESS, list(7, 7))), Err(FsError::Unsupported));
        assert_eq!(bench.update(set(file, acl::DEFAULT, list(7, 7))), Err(FsError::Denied));
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_longest_list_fits_into_its_record() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        let users = (0..475).map(|i| (2, 7, NO_ID - 1 - i));
        let mut entries = vec![(1, 7, NO_ID)];
        entries.extend(users);
        entries.extend([(4, 7, NO_ID), (16, 7, NO_ID), (32, 7, NO_ID)]);
        let longest = value(&entries);
        assert_eq!(longest.len(), crate::types::XATTR_VALUE_LEN_MAX - 4);
        assert!(bench.update(set(inode, acl::ACCESS, longest.clone())).is_ok());
        assert_eq!(get(&bench, inode, acl::ACCESS), Ok(longest));
        assert!(bench.view.records.values().all(|record| record.len() < 4096));
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }
}
