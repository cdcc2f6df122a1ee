//! Move a dentry.
//!
//! The order of the questions is that of Linux (`do_renameat2`, then `vfs_rename`), because programs see it in errno.

use super::super::access;
use super::super::apply::Caller;
use super::super::records::{Entry, Inode};
use super::super::txn::{Step, corrupt};
use super::super::{Txn, ViewError, dentry};
use super::unlink::drop_dentry;
use crate::types::{Access, Cookie, FsError, InodeId, ROOT_INODE, Rename, RenameMode, UpdateReply};

/// A dentry, where it stands and what it names.
struct End {
    cookie: Cookie,
    entry: Entry,
    inode: Inode,
}

pub(crate) fn rename(txn: &mut Txn<'_>, caller: &Caller<'_>, rename: &Rename) -> Step<UpdateReply> {
    let cred = caller.cred;
    let from_parent = txn.dir(rename.from_parent)?;
    let to_parent = txn.dir(rename.to_parent)?;
    let moves = rename.from_parent != rename.to_parent;
    let exchange = rename.mode == RenameMode::Exchange;
    access::require(&from_parent, cred, Access::EXEC)?;
    access::require(&to_parent, cred, Access::EXEC)?;
    let from = end(txn, rename.from_parent, &rename.from_name)?.ok_or(FsError::NotFound)?;
    let to = end(txn, rename.to_parent, &rename.to_name)?;
    match (&to, rename.mode) {
        (Some(_), RenameMode::NoReplace) => return Err(FsError::Exists.into()),
        (None, RenameMode::Exchange) => return Err(FsError::NotFound.into()),
        _ => {}
    }
    if moves && from.inode.is_dir() && is_within(txn, rename.to_parent, from.entry.inode)? {
        return Err(FsError::Invalid.into());
    }
    if let Some(to) = &to
        && moves
        && to.inode.is_dir()
        && is_within(txn, rename.from_parent, to.entry.inode)?
    {
        return Err(if exchange { FsError::Invalid } else { FsError::NotEmpty }.into());
    }
    if to.as_ref().is_some_and(|to| to.entry.inode == from.entry.inode) {
        return Ok(UpdateReply::Removed(None));
    }

    access::require_remove(&from_parent, &from.inode, cred)?;
    match &to {
        None => access::require_change(&to_parent, cred)?,
        Some(to) => {
            access::require_remove(&to_parent, &to.inode, cred)?;
            match (from.inode.is_dir(), to.inode.is_dir()) {
                _ if exchange => {}
                (true, false) => return Err(FsError::NotDir.into()),
                (false, true) => return Err(FsError::IsDir.into()),
                _ => {}
            }
        }
    }
    // A directory that gets another parent is changed itself: its `..`.
    if moves && from.inode.is_dir() {
        access::require(&from.inode, cred, Access::WRITE)?;
    }
    if let Some(to) = &to {
        if exchange && moves && to.inode.is_dir() {
            access::require(&to.inode, cred, Access::WRITE)?;
        }
        if !exchange && to.inode.is_dir() && to.inode.size > 0 {
            return Err(FsError::NotEmpty.into());
        }
    }
    let from_dir = u32::from(from.inode.is_dir());
    let to_dir = to.as_ref().map_or(0, |to| u32::from(to.inode.is_dir()));
    let gains = |dirs_in: u32, dirs_out: u32, parent: &Inode| {
        if moves && dirs_in > dirs_out && parent.nlink == u32::MAX {
            Err(FsError::TooManyLinks)
        } else {
            Ok(())
        }
    };
    gains(from_dir, to_dir, &to_parent)?;
    if exchange {
        gains(to_dir, from_dir, &from_parent)?;
    }

    if exchange { swap(txn, caller, rename, from, to) } else { replace(txn, caller, rename, from, to) }
}

fn end(txn: &mut Txn<'_>, parent: InodeId, name: &crate::types::Name) -> Result<Option<End>, ViewError> {
    let Some((cookie, entry)) = txn.child(parent, name)? else { return Ok(None) };
    let inode = txn.named(entry.inode)?;
    Ok(Some(End { cookie, entry, inode }))
}

/// True if the directory `inside` is `outer` or stands below it.
fn is_within(txn: &mut Txn<'_>, inside: InodeId, outer: InodeId) -> Result<bool, ViewError> {
    let mut at = inside;
    while at != outer {
        if at == ROOT_INODE {
            return Ok(false);
        }
        let parent = txn.named(at)?.parent;
        if parent == at {
            return Err(corrupt(format!("directory {at} is its own parent")));
        }
        at = parent;
    }
    Ok(true)
}

fn replace(
    txn: &mut Txn<'_>,
    caller: &Caller<'_>,
    rename: &Rename,
    from: End,
    to: Option<End>,
) -> Step<UpdateReply> {
    let id = from.entry.inode;
    let dir = i32::from(from.inode.is_dir());
    let replaced_dir = to.as_ref().map_or(0, |to| i32::from(to.inode.is_dir()));
    dentry::remove(&txn.records, rename.from_parent, from.cookie)?;
    if let Some(to) = &to {
        // The target's place in the listing stays.
        dentry::point(&txn.records, rename.to_parent, to.cookie, id, from.inode.kind)?;
    } else {
        let rule = txn.hash_rule()?;
        let entry = Entry { name: rename.to_name.clone(), ..from.entry };
        dentry::insert(&txn.records, rule, rename.to_parent, entry)?;
    }
    txn.with_inode(rename.from_parent, |parent| {
        parent.modified(caller.at);
        parent.count_dentries(-1, -dir)
    })??;
    txn.with_inode(rename.to_parent, |parent| {
        parent.modified(caller.at);
        parent.count_dentries(i64::from(to.is_none()), dir - replaced_dir)
    })??;
    txn.with_inode(id, |inode| {
        if inode.is_dir() {
            inode.parent = rename.to_parent;
        }
        inode.changed(caller.at);
    })?;
    Ok(UpdateReply::Removed(match to {
        Some(to) => Some(drop_dentry(txn, to.entry.inode, &to.inode, caller.at)?),
        None => None,
    }))
}

fn swap(
    txn: &mut Txn<'_>,
    caller: &Caller<'_>,
    rename: &Rename,
    from: End,
    to: Option<End>,
) -> Step<UpdateReply> {
    let to = to.ok_or(FsError::NotFound)?;
    dentry::point(&txn.records, rename.from_parent, from.cookie, to.entry.inode, to.inode.kind)?;
    dentry::point(&txn.records, rename.to_parent, to.cookie, from.entry.inode, from.inode.kind)?;
    for (parent, comes, goes) in
        [(rename.from_parent, &to.inode, &from.inode), (rename.to_parent, &from.inode, &to.inode)]
    {
        txn.with_inode(parent, |parent| {
            parent.modified(caller.at);
            parent.count_dentries(0, i32::from(comes.is_dir()) - i32::from(goes.is_dir()))
        })??;
    }
    for (end, parent) in [(&from, rename.to_parent), (&to, rename.from_parent)] {
        txn.with_inode(end.entry.inode, |inode| {
            if inode.is_dir() {
                inode.parent = parent;
            }
            inode.changed(caller.at);
        })?;
    }
    Ok(UpdateReply::Removed(None))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, name};
    use super::*;
    use crate::types::{FileKind, MakeNode, Update};

    fn dir(bench: &mut Bench, parent: InodeId, text: &str) -> InodeId {
        let make = MakeNode { parent, kind: FileKind::Dir, ..bench.file(text) };
        bench.made(make)
    }

    fn to(from: (InodeId, &str), to: (InodeId, &str), mode: RenameMode) -> Update {
        Update::Rename(Rename {
            from_parent: from.0,
            from_name: name(from.1),
            to_parent: to.0,
            to_name: name(to.1),
            mode,
        })
    }

    #[test]
    fn a_directory_cannot_go_below_itself() {
        let mut bench = Bench::new();
        let a = dir(&mut bench, ROOT_INODE, "a");
        let b = dir(&mut bench, a, "b");
        let into = |mode| to((ROOT_INODE, "a"), (b, "x"), mode);
        assert_eq!(bench.update(into(RenameMode::Replace)), Err(FsError::Invalid));
        let itself = to((ROOT_INODE, "a"), (a, "x"), RenameMode::Replace);
        assert_eq!(bench.update(itself), Err(FsError::Invalid));
        let above = to((a, "b"), (ROOT_INODE, "a"), RenameMode::Replace);
        assert_eq!(bench.update(above), Err(FsError::NotEmpty));
        let above = to((a, "b"), (ROOT_INODE, "a"), RenameMode::Exchange);
        assert_eq!(bench.update(above), Err(FsError::Invalid));
    }

    #[test]
    fn an_exchange_swaps_parents_and_link_counts() {
        let mut bench = Bench::new();
        let a = dir(&mut bench, ROOT_INODE, "a");
        let inner = dir(&mut bench, a, "inner");
        bench.make_file("f");
        let swap = to((a, "inner"), (ROOT_INODE, "f"), RenameMode::Exchange);
        assert_eq!(bench.update(swap), Ok(UpdateReply::Removed(None)));
        assert_eq!(bench.attr(a).nlink, 2);
        assert_eq!(bench.attr(ROOT_INODE).nlink, 4);
        assert_eq!(bench.lookup("f").map(|f| f.attr.inode), Ok(inner));
        assert_eq!(crate::namespace::check(&bench.view).unwrap(), Vec::<String>::new());
    }
}
