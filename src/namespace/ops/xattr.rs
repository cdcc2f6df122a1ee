//! Extended attributes: who may see and change which, and their bounds.
//!
//! `user.` follows the permission bits, on files and directories only; `trusted.` is root's; `security.` is read by
//! everyone and written by root; of `system.` there are access control lists alone (`acl`). As Linux (`xattr_permission`).

use std::ops::ControlFlow;

use bytes::Bytes;

use super::super::acl;
use super::super::apply::Caller;
use super::super::records::Inode;
use super::super::txn::{Step, scan};
use super::super::{Txn, View, ViewError, access, keys};
use super::acl::Which;
use crate::types::{
    Access, Cred, FileKind, FsError, InodeId, RemoveXattr, SetXattr, UpdateReply, XATTR_NAME_LEN_MAX,
    XATTR_VALUE_LEN_MAX, XattrMode,
};

/// Attributes of one inode, its access list apart: with names of 255 bytes their list fits into the 64 KiB that `listxattr(2)`
/// can answer.
pub(crate) const XATTR_COUNT_MAX: u16 = 255;

/// The version byte in front of each stored value.
const VERSION: u8 = 1;

/// What a name begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    User,
    Trusted,
    Security,
    Acl(Which),
}

/// Where a name belongs; the order of the refusals is Linux's.
fn space(name: &[u8]) -> Result<Space, FsError> {
    if name.is_empty() || name.len() > XATTR_NAME_LEN_MAX {
        return Err(FsError::XattrName);
    }
    if name.contains(&0) {
        return Err(FsError::Invalid);
    }
    match name {
        acl::ACCESS => return Ok(Space::Acl(Which::Access)),
        acl::DEFAULT => return Ok(Space::Acl(Which::Default)),
        _ => {}
    }
    for (prefix, space) in
        [(&b"user."[..], Space::User), (b"trusted.", Space::Trusted), (b"security.", Space::Security)]
    {
        if let Some(rest) = name.strip_prefix(prefix) {
            return if rest.is_empty() { Err(FsError::Invalid) } else { Ok(space) };
        }
    }
    Err(FsError::Unsupported)
}

fn may_write(inode: &Inode, cred: &Cred, name: &[u8]) -> Result<(), FsError> {
    match space(name)? {
        Space::Trusted | Space::Security => {
            if cred.is_root() {
                Ok(())
            } else {
                Err(FsError::NotOwner)
            }
        }
        Space::User if !matches!(inode.kind, FileKind::File | FileKind::Dir) => Err(FsError::NotOwner),
        Space::User if access::is_sticky_dir(inode) && !access::owns(inode, cred) => Err(FsError::NotOwner),
        Space::User => access::require(inode, cred, Access::WRITE),
        // Not by this way.
        Space::Acl(_) => Err(FsError::Unsupported),
    }
}

/// Whether `cred` may read the attribute: an error for a good reason, ENODATA for what it must not know of.
fn may_read(inode: &Inode, cred: &Cred, name: &[u8]) -> Result<(), FsError> {
    match space(name)? {
        Space::Trusted if !cred.is_root() => Err(FsError::NoXattr),
        Space::User if !matches!(inode.kind, FileKind::File | FileKind::Dir) => Err(FsError::NoXattr),
        Space::User => access::require(inode, cred, Access::READ),
        Space::Trusted | Space::Security | Space::Acl(_) => Ok(()),
    }
}

/// The value of an attribute, if `cred` may read it.
pub(crate) fn get(view: &dyn View, id: InodeId, inode: &Inode, cred: &Cred, name: &[u8]) -> Step<Bytes> {
    if let Ok(Space::Acl(which)) = space(name) {
        return super::acl::get(view, id, inode, which);
    }
    may_read(inode, cred, name)?;
    let record = if inode.xattr_count > 0 { view.get(&keys::xattr(id, name))? } else { None };
    Ok(value_of(&record.ok_or(FsError::NoXattr)?))
}

/// Names of all attributes that `cred` may see.
pub(crate) fn list(
    view: &dyn View,
    id: InodeId,
    inode: &Inode,
    cred: &Cred,
) -> Result<Vec<Bytes>, ViewError> {
    let mut names = Vec::new();
    if inode.acl.is_some() {
        names.push(Bytes::from_static(acl::ACCESS));
    }
    if inode.xattr_count > 0 {
        scan(view, &keys::xattrs(id), |key, _| {
            let name = keys::xattr_name(key);
            if is_listed(cred, name) {
                names.push(Bytes::copy_from_slice(name));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(names)
}

/// Whether a listing for `cred` shows the name.
fn is_listed(cred: &Cred, name: &[u8]) -> bool {
    cred.is_root() || !name.starts_with(b"trusted.")
}

/// The value of a stored record.
pub(super) fn value_of(record: &Bytes) -> Bytes {
    if record.is_empty() { Bytes::new() } else { record.slice(1..) }
}

/// The record of a value.
pub(super) fn record_of(value: &[u8]) -> Bytes {
    let mut record = Vec::with_capacity(1 + value.len());
    record.push(VERSION);
    record.extend_from_slice(value);
    record.into()
}

pub(crate) fn set(txn: &mut Txn<'_>, caller: &Caller<'_>, set: &SetXattr) -> Step<UpdateReply> {
    let inode = txn.inode(set.inode)?;
    space_or_length(&set.name)?;
    if set.value.len() > XATTR_VALUE_LEN_MAX {
        return Err(FsError::XattrTooBig.into());
    }
    if let Ok(Space::Acl(which)) = space(&set.name) {
        return super::acl::set(txn, caller, set.inode, which, &set.value, set.mode);
    }
    may_write(&inode, caller.cred, &set.name)?;
    let key = keys::xattr(set.inode, &set.name);
    let exists = inode.xattr_count > 0 && txn.records.get(&key)?.is_some();
    match (set.mode, exists) {
        (XattrMode::Create, true) => return Err(FsError::Exists.into()),
        (XattrMode::Replace, false) => return Err(FsError::NoXattr.into()),
        (_, false) if inode.xattr_count >= XATTR_COUNT_MAX => return Err(FsError::NoSpace.into()),
        _ => {}
    }

    txn.records.put_bytes(&key, record_of(&set.value))?;
    txn.with_inode(set.inode, |inode| {
        inode.xattr_count += u16::from(!exists);
        inode.changed(caller.at);
    })?;
    Ok(UpdateReply::Done)
}

/// ERANGE comes before everything else about an attribute.
fn space_or_length(name: &[u8]) -> Result<(), FsError> {
    match space(name) {
        Err(FsError::XattrName) => Err(FsError::XattrName),
        _ => Ok(()),
    }
}

pub(crate) fn remove(txn: &mut Txn<'_>, caller: &Caller<'_>, remove: &RemoveXattr) -> Step<UpdateReply> {
    let inode = txn.inode(remove.inode)?;
    if let Ok(Space::Acl(which)) = space(&remove.name) {
        return super::acl::set(txn, caller, remove.inode, which, &[], XattrMode::Any);
    }
    may_write(&inode, caller.cred, &remove.name)?;
    let key = keys::xattr(remove.inode, &remove.name);
    if inode.xattr_count == 0 || txn.records.get(&key)?.is_none() {
        return Err(FsError::NoXattr.into());
    }

    txn.records.delete(&key)?;
    txn.with_inode(remove.inode, |inode| {
        inode.xattr_count -= 1;
        inode.changed(caller.at);
    })?;
    Ok(UpdateReply::Done)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Bench;
    use super::*;
    use crate::types::Update;

    fn set(inode: InodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Update {
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        Update::SetXattr(SetXattr { inode, name, value, mode })
    }

    #[test]
    fn names_and_values_have_bounds() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        let mut any = |name: &[u8], len: usize| bench.update(set(inode, name, &vec![7; len], XattrMode::Any));
        assert_eq!(any(b"", 1), Err(FsError::XattrName));
        assert_eq!(any(&[b'x'; 256], 1), Err(FsError::XattrName));
        assert_eq!(any(b"user.", 1), Err(FsError::Invalid));
        assert_eq!(any(b"user.a\0", 1), Err(FsError::Invalid));
        assert_eq!(any(b"system.posix_acl_access", 1), Err(FsError::Invalid));
        assert_eq!(any(b"system.posix_acl", 1), Err(FsError::Unsupported));
        assert_eq!(any(b"user.a", XATTR_VALUE_LEN_MAX + 1), Err(FsError::XattrTooBig));
        for i in 0..XATTR_COUNT_MAX {
            assert_eq!(any(format!("user.{i}").as_bytes(), 0), Ok(UpdateReply::Done));
        }
        assert_eq!(any(b"user.one_more", 1), Err(FsError::NoSpace));
        assert_eq!(any(b"user.3", XATTR_VALUE_LEN_MAX), Ok(UpdateReply::Done));
    }

    #[test]
    fn create_and_replace_say_what_must_be() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        assert_eq!(bench.update(set(inode, b"user.a", b"1", XattrMode::Replace)), Err(FsError::NoXattr));
        assert!(bench.update(set(inode, b"user.a", b"1", XattrMode::Create)).is_ok());
        assert_eq!(bench.update(set(inode, b"user.a", b"2", XattrMode::Create)), Err(FsError::Exists));
        assert!(bench.update(set(inode, b"user.a", b"3", XattrMode::Replace)).is_ok());
        let remove = RemoveXattr { inode, name: Bytes::from_static(b"user.a") };
        assert!(bench.update(Update::RemoveXattr(remove.clone())).is_ok());
        assert_eq!(bench.update(Update::RemoveXattr(remove)), Err(FsError::NoXattr));
    }
}
