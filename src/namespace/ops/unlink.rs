//! Remove a dentry, and what follows when it was the last one.

use super::super::access;
use super::super::apply::Caller;
use super::super::records::{Inode, Orphan};
use super::super::txn::Step;
use super::super::{Txn, ViewError, dentry, keys};
use crate::types::{Access, Attr, FsError, InodeId, Timestamp, Unlink, UpdateReply};

pub(crate) fn unlink(txn: &mut Txn<'_>, caller: &Caller<'_>, unlink: &Unlink) -> Step<UpdateReply> {
    let parent = txn.dir(unlink.parent)?;
    access::require(&parent, caller.cred, Access::EXEC)?;
    let (cookie, entry) = txn.child(unlink.parent, &unlink.name)?.ok_or(FsError::NotFound)?;
    let child = txn.named(entry.inode)?;
    access::require_remove(&parent, &child, caller.cred)?;
    match (unlink.dir, child.is_dir()) {
        (true, false) => return Err(FsError::NotDir.into()),
        (false, true) => return Err(FsError::IsDir.into()),
        (true, true) if child.size > 0 => return Err(FsError::NotEmpty.into()),
        _ => {}
    }

    dentry::remove(&txn.records, unlink.parent, cookie)?;
    txn.with_inode(unlink.parent, |parent| {
        parent.modified(caller.at);
        parent.count_dentries(-1, -i32::from(child.is_dir()))
    })??;
    Ok(UpdateReply::Removed(Some(drop_dentry(txn, entry.inode, &child, caller.at)?)))
}

/// An inode has lost a dentry (a directory: its only one, and it is empty). Without any it becomes an orphan: a client
/// may hold it open.
pub(super) fn drop_dentry(
    txn: &mut Txn<'_>,
    id: InodeId,
    inode: &Inode,
    at: Timestamp,
) -> Result<Attr, ViewError> {
    let nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
    if nlink == 0 {
        let sessions_below = txn.founded()?.next_session;
        txn.records.put(&keys::orphan(id), &Orphan { at, sessions_below, freeing: false, born: None })?;
    }
    txn.with_inode(id, |inode| {
        inode.nlink = nlink;
        inode.changed(at);
        inode.attr(id)
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, name};
    use super::*;
    use crate::namespace::orphans;
    use crate::types::{FileKind, MakeNode, ROOT_INODE, SessionId, Update};

    #[test]
    fn the_last_dentry_leaves_an_orphan_that_older_sessions_may_hold() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        let removed =
            bench.update(Update::Unlink(Unlink { parent: ROOT_INODE, name: name("a"), dir: false }));
        let Ok(UpdateReply::Removed(Some(attr))) = removed else { panic!("{removed:?}") };
        assert_eq!((attr.inode, attr.nlink), (inode, 0));
        let orphan = orphans(&bench.view, None, 9).unwrap()[0];
        assert_eq!((orphan.inode, orphan.at, orphan.freeing), (inode, attr.ctime, false));
        assert_eq!(orphan.sessions_below, SessionId(bench.session.0 + 1));
    }

    #[test]
    fn nothing_can_be_made_in_a_removed_directory() {
        let mut bench = Bench::new();
        let dir = MakeNode { kind: FileKind::Dir, ..bench.file("d") };
        let inode = bench.made(dir);
        assert!(
            bench.update(Update::Unlink(Unlink { parent: ROOT_INODE, name: name("d"), dir: true })).is_ok()
        );
        let inside = MakeNode { parent: inode, ..bench.file("x") };
        assert_eq!(bench.update(Update::Make(inside)), Err(FsError::NotFound));
        assert_eq!(bench.attr(ROOT_INODE).nlink, 2);
    }
}
