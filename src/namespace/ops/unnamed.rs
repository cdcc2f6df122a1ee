//! Make a regular file without a dentry (`O_TMPFILE`).
//!
//! It is an orphan from the start, which only the session that made it may hold; `link` may give it its first dentry, on
//! behalf of that session, and from then on it is a file like all others.

use super::super::access;
use super::super::apply::Caller;
use super::super::records::{Born, Inode, Orphan};
use super::super::txn::Step;
use super::super::{Txn, keys};
use super::make::born;
use crate::types::{FileKind, MakeUnnamed, UpdateReply};

pub(crate) fn make(txn: &mut Txn<'_>, caller: &Caller<'_>, make: &MakeUnnamed) -> Step<UpdateReply> {
    let parent = txn.dir(make.parent)?;
    access::require_change(&parent, caller.cred)?;

    let (id, born) = born(txn, caller, make.parent, &parent, FileKind::File, make.mode, make.umask)?;
    let inode = Inode { nlink: 0, ..born };
    let attr = inode.attr(id);
    txn.new_inode(inode)?;
    let sessions_below = txn.founded()?.next_session;
    let born = Some(Born { session: caller.session, linkable: make.linkable });
    txn.records.put_fresh(&keys::orphan(id), &Orphan { at: caller.at, sessions_below, freeing: false, born });
    Ok(UpdateReply::Made { attr, created: true })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, name};
    use super::*;
    use crate::namespace::{Op, check, orphans};
    use crate::types::{
        Cred, FsError, InodeId, Link, OpenSession, ROOT_INODE, RequestId, SessionId, Unlink, Update,
    };

    fn unnamed(bench: &mut Bench, linkable: bool) -> InodeId {
        let make = MakeUnnamed { parent: ROOT_INODE, mode: 0o666, umask: 0o022, linkable };
        match bench.update(Update::MakeUnnamed(make)) {
            Ok(UpdateReply::Made { attr, created: true }) => {
                assert_eq!((attr.mode, attr.nlink, attr.kind), (0o644, 0, FileKind::File));
                attr.inode
            }
            other => panic!("not made: {other:?}"),
        }
    }

    fn link(inode: InodeId) -> Update {
        Update::Link(Link { inode, parent: ROOT_INODE, name: name("a") })
    }

    #[test]
    fn it_has_no_name_until_it_is_linked_and_is_like_all_others_then() {
        let mut bench = Bench::new();
        let inode = unnamed(&mut bench, true);
        bench.write(inode, 0, b"some bytes");
        assert_eq!(bench.attr(ROOT_INODE).size, 0);
        assert_eq!(orphans(&bench.view, None, 9).unwrap()[0].holder, Some(bench.session));
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
        assert!(bench.update(link(inode)).is_ok());
        assert!(orphans(&bench.view, None, 9).unwrap().is_empty());
        assert_eq!((bench.attr(inode).nlink, bench.lookup("a").unwrap().attr.inode), (1, inode));
        assert!(bench.command(Op::FreeOrphans(vec![inode])).is_ok(), "decided before the link");
        assert_eq!(bench.bytes(inode), b"some bytes");
        let unlink = Update::Unlink(Unlink { parent: ROOT_INODE, name: name("a"), dir: false });
        assert!(bench.update(unlink).is_ok());
        assert_eq!(orphans(&bench.view, None, 9).unwrap()[0].holder, None, "anyone may have opened it");
        assert_eq!(bench.update(link(inode)), Err(FsError::NotFound));
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn only_its_session_links_it_and_nobody_what_was_made_for_good_without_a_name() {
        let mut bench = Bench::new();
        let (open_to_all, sealed) = (unnamed(&mut bench, true), unnamed(&mut bench, false));
        assert_eq!(bench.update(link(sealed)), Err(FsError::NotFound));
        let open = Update::OpenSession(OpenSession { ttl_ms: 9_000, label: "other".into() });
        let Ok(UpdateReply::Session { session, .. }) = bench.update(open) else { panic!("no session") };
        let of_other = Op::Client {
            session,
            request: RequestId(1),
            lowest_unanswered: RequestId(1),
            cred: Cred::root(),
            update: link(open_to_all),
        };
        assert_ne!(session, SessionId(1));
        assert_eq!(bench.command(of_other), Err(FsError::NotFound));
        assert!(bench.command(Op::FreeOrphans(vec![open_to_all, sealed])).is_ok());
        assert_eq!(bench.update(link(open_to_all)), Err(FsError::Stale));
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn its_directory_must_be_writable() {
        let mut bench = Bench::new();
        bench.request = bench.request.next();
        let make = MakeUnnamed { parent: ROOT_INODE, mode: 0o666, umask: 0, linkable: true };
        let of_other = Op::Client {
            session: bench.session,
            request: bench.request,
            lowest_unanswered: RequestId(0),
            cred: Cred { uid: 5, gid: 5, groups: vec![] },
            update: Update::MakeUnnamed(make),
        };
        assert_eq!(bench.command(of_other), Err(FsError::Denied));
        let file = bench.make_file("f");
        let within = MakeUnnamed { parent: file, ..make };
        assert_eq!(bench.update(Update::MakeUnnamed(within)), Err(FsError::NotDir));
    }
}
