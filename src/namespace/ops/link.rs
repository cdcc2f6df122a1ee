//! Give an inode one more dentry.

use super::super::access;
use super::super::apply::Caller;
use super::super::dentry;
use super::super::records::{Entry, Orphan};
use super::super::txn::{Step, read};
use super::super::{Txn, keys};
use crate::types::{Access, FsError, Link, UpdateReply};

pub(crate) fn link(txn: &mut Txn<'_>, caller: &Caller<'_>, link: &Link) -> Step<UpdateReply> {
    let inode = txn.inode(link.inode)?;
    let parent = txn.dir(link.parent)?;
    access::require(&parent, caller.cred, Access::EXEC)?;
    if txn.child(link.parent, &link.name)?.is_some() {
        return Err(FsError::Exists.into());
    }
    access::require_change(&parent, caller.cred)?;
    match inode.nlink {
        _ if inode.is_dir() => return Err(FsError::NotOwner.into()),
        0 => {
            // An orphan stays one: whoever asked the sessions about it must not be surprised. Of what began as one only its
            // session was asked, which holds it while it links it.
            let orphan = read::<Orphan>(&txn.records, &keys::orphan(link.inode))?;
            if !orphan.and_then(|o| o.born).is_some_and(|b| b.linkable && b.session == caller.session) {
                return Err(FsError::NotFound.into());
            }
        }
        u32::MAX => return Err(FsError::TooManyLinks.into()),
        _ => {}
    }

    let rule = txn.hash_rule()?;
    let entry = Entry { inode: link.inode, kind: inode.kind, name: link.name.clone() };
    dentry::insert(&txn.records, rule, link.parent, entry)?;
    txn.with_inode(link.parent, |parent| {
        parent.modified(caller.at);
        parent.count_dentries(1, 0)
    })??;
    if inode.nlink == 0 {
        txn.records.delete(&keys::orphan(link.inode))?;
    }
    let attr = txn.with_inode(link.inode, |inode| {
        inode.nlink += 1;
        inode.changed(caller.at);
        inode.attr(link.inode)
    })?;
    Ok(UpdateReply::Attr(attr))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, name};
    use super::*;
    use crate::types::{ROOT_INODE, Unlink, Update};

    #[test]
    fn a_link_counts_and_an_orphan_gets_none() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        let to = |n: &str| Update::Link(Link { inode, parent: ROOT_INODE, name: name(n) });
        let unlink = |n: &str| Update::Unlink(Unlink { parent: ROOT_INODE, name: name(n), dir: false });
        assert!(bench.update(to("b")).is_ok());
        assert_eq!(bench.attr(inode).nlink, 2);
        assert_eq!(bench.update(to("b")), Err(FsError::Exists));
        assert!(bench.update(unlink("a")).is_ok());
        assert!(bench.update(unlink("b")).is_ok());
        assert_eq!(bench.attr(inode).nlink, 0);
        assert_eq!(bench.update(to("c")), Err(FsError::NotFound));
    }
}
