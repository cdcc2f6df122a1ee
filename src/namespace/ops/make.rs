//! Make a file, directory, symlink or special file and its first dentry.

use bytes::Bytes;

use super::super::access;
use super::super::apply::Caller;
use super::super::dentry;
use super::super::records::{Entry, Inode, StoredExtent};
use super::super::txn::Step;
use super::super::{Txn, ViewError, keys};
use super::acl;
use crate::types::{
    Access, ExtentSource, FileKind, FsError, INLINE_LEN_MAX, InodeId, MODE_BITS, MakeNode, SYMLINK_LEN_MAX,
    UpdateReply, Version,
};

pub(crate) fn make(txn: &mut Txn<'_>, caller: &Caller<'_>, make: &MakeNode) -> Step<UpdateReply> {
    let cred = caller.cred;
    let parent = txn.dir(make.parent)?;
    access::require(&parent, cred, Access::EXEC)?;
    if let Some((_, entry)) = txn.child(make.parent, &make.name)? {
        // Only open(O_CREAT) takes what is there. Symlinks and special files are answered too: the caller follows or opens them.
        return match entry.kind {
            _ if make.exclusive || make.kind != FileKind::File => Err(FsError::Exists.into()),
            FileKind::Dir => Err(FsError::IsDir.into()),
            _ => Ok(UpdateReply::Made { attr: txn.named(entry.inode)?.attr(entry.inode), created: false }),
        };
    }
    access::require_change(&parent, cred)?;
    check_content(make)?;
    let is_device = matches!(make.kind, FileKind::CharDev | FileKind::BlockDev);
    if is_device && !cred.is_root() {
        return Err(FsError::NotOwner.into());
    }
    let is_dir = make.kind == FileKind::Dir;
    if is_dir && parent.nlink == u32::MAX {
        return Err(FsError::TooManyLinks.into());
    }

    let len = make.content.len() as u64;
    let used = if make.kind == FileKind::File { len } else { 0 };
    let (id, born) = born(txn, caller, make.parent, &parent, make.kind, make.mode, make.umask)?;
    let inode = Inode {
        rdev: if is_device { make.rdev } else { 0 },
        size: len,
        used,
        target: if make.kind == FileKind::Symlink { make.content.clone() } else { Bytes::new() },
        ..born
    };
    txn.founded()?.used += u128::from(used);
    let attr = inode.attr(id);
    let rule = txn.hash_rule()?;
    dentry::insert(
        &txn.records,
        rule,
        make.parent,
        Entry { inode: id, kind: make.kind, name: make.name.clone() },
    )?;
    txn.new_inode(inode)?;
    if used > 0 {
        let source = ExtentSource::Inline(make.content.clone());
        txn.records.put_fresh(&keys::extent(id, len), &StoredExtent { len, source });
    }
    txn.with_inode(make.parent, |parent| {
        parent.modified(caller.at);
        parent.count_dentries(1, i32::from(is_dir))
    })??;
    Ok(UpdateReply::Made { attr, created: true })
}

/// An inode that is about to be made in the directory `parent_id`, with its first link, the group and permissions it
/// inherits, and no content; and the id it will get. Nothing may be refused from here on: its inherited default list is stored.
pub(super) fn born(
    txn: &mut Txn<'_>,
    caller: &Caller<'_>,
    parent_id: InodeId,
    parent: &Inode,
    kind: FileKind,
    mode: u32,
    umask: u32,
) -> Result<(InodeId, Inode), ViewError> {
    let is_dir = kind == FileKind::Dir;
    let default = match kind {
        FileKind::Symlink => None,
        _ => acl::default_of(&txn.records, parent_id, parent)?,
    };
    let mode = match (kind, &default) {
        (FileKind::Symlink, _) => 0o777,
        (_, Some(_)) => mode & MODE_BITS,
        (_, None) => mode & MODE_BITS & !(umask & 0o777),
    };
    let (gid, mode) = access::group_and_mode_of_new(parent, caller.cred, mode, is_dir);
    let mut inode = Inode {
        kind,
        mode,
        nlink: if is_dir { 2 } else { 1 },
        uid: caller.cred.uid,
        gid,
        rdev: 0,
        size: 0,
        used: 0,
        atime: caller.at,
        mtime: caller.at,
        ctime: caller.at,
        btime: caller.at,
        version: Version(1),
        parent: if is_dir { parent_id } else { InodeId(0) },
        target: Bytes::new(),
        home: None,
        xattr_count: 0,
        acl: None,
        freeing: false,
    };
    let id = txn.founded()?.next_inode;
    if let Some(default) = default {
        acl::inherit(&mut inode, default, txn, id);
    }
    Ok((id, inode))
}

fn check_content(make: &MakeNode) -> Result<(), FsError> {
    match make.kind {
        FileKind::Symlink if make.content.is_empty() => Err(FsError::NotFound),
        FileKind::Symlink if make.content.len() > SYMLINK_LEN_MAX => Err(FsError::NameTooLong),
        FileKind::Symlink if make.content.contains(&0) => Err(FsError::Invalid),
        FileKind::File if make.content.len() > INLINE_LEN_MAX => Err(FsError::Invalid),
        FileKind::File | FileKind::Symlink => Ok(()),
        _ if make.content.is_empty() => Ok(()),
        _ => Err(FsError::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, name};
    use super::*;
    use crate::types::{ROOT_INODE, Update};

    #[test]
    fn create_with_content_is_one_command() {
        let mut bench = Bench::new();
        let file = MakeNode { content: Bytes::from_static(b"hello"), ..bench.file("a") };
        let Ok(UpdateReply::Made { attr, created: true }) = bench.update(Update::Make(file.clone())) else {
            panic!("not made")
        };
        assert_eq!((attr.size, attr.used, attr.nlink), (5, 5, 1));
        assert_eq!(bench.bytes(attr.inode), b"hello");
        let again = MakeNode { exclusive: false, content: Bytes::from_static(b"other"), ..file };
        let reply = bench.update(Update::Make(again));
        assert_eq!(reply, Ok(UpdateReply::Made { attr: attr.clone(), created: false }));
        assert_eq!(bench.bytes(attr.inode), b"hello");
    }

    #[test]
    fn content_has_bounds() {
        let mut bench = Bench::new();
        let make = |kind, content: Vec<u8>| {
            Update::Make(MakeNode { kind, content: content.into(), ..Bench::new().file("a") })
        };
        assert_eq!(bench.update(make(FileKind::Symlink, vec![])), Err(FsError::NotFound));
        assert_eq!(bench.update(make(FileKind::Symlink, vec![b'x'; 4096])), Err(FsError::NameTooLong));
        assert_eq!(bench.update(make(FileKind::Symlink, vec![0])), Err(FsError::Invalid));
        assert_eq!(bench.update(make(FileKind::File, vec![b'x'; 4097])), Err(FsError::Invalid));
        assert_eq!(bench.update(make(FileKind::Dir, vec![b'x'])), Err(FsError::Invalid));
        assert!(bench.update(make(FileKind::Symlink, vec![b'x'; 4095])).is_ok());
        assert_eq!(bench.attr(ROOT_INODE).size, 1);
        assert_eq!(bench.lookup("a").map(|f| f.attr.size), Ok(4095));
        assert_eq!(name("a").as_bytes(), b"a");
    }
}
