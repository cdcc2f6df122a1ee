//! What a mount asks: the inodes along a path, and the pages of a directory, each with what decides whether a kernel may keep it.
//!
//! Permissions are those of a walk and of a listing (`query`). Holds: a directory is *open* only when whoever asks may search it,
//! so that a kernel which keeps a name of it lets nobody in whom the namespace would not.

use super::View;
use super::query::{dentries, hash_rule, named, step, usable, usable_dir};
use super::records::Inode;
use super::txn::{Step, Stop};
use crate::types::{Cookie, Cred, FsError, InodeId, Listed, Name, Query, QueryReply, Seen};

/// Search permission for owner, group and others.
const SEARCH_ALL: u32 = 0o111;

fn is_open(dir: &Inode) -> bool {
    dir.mode & SEARCH_ALL == SEARCH_ALL && dir.acl.is_none()
}

fn seen(id: InodeId, inode: &Inode, open: bool) -> Seen {
    Seen { attr: inode.attr(id), bare: inode.xattr_count == 0 && inode.acl.is_none(), open }
}

/// The inodes of `names`, each looked up in the one before, up to the first that leads nowhere.
pub(super) fn steps(view: &dyn View, cred: &Cred, start: InodeId, names: &[Name]) -> Step<Vec<Seen>> {
    if names.len() > Query::WALK_MAX {
        return Err(FsError::NameTooLong.into());
    }
    let rule = hash_rule(view)?;
    let mut steps = Vec::with_capacity(names.len());
    usable(view, start)?;
    let mut at = start;
    for name in names {
        match step(view, rule, cred, at, name) {
            Ok((dir, id, inode)) => {
                steps.push(seen(id, &inode, is_open(&dir)));
                at = id;
            }
            // The answer to a question that may never come.
            Err(Stop::Fs(_)) if !steps.is_empty() => break,
            Err(stop) => return Err(stop),
        }
    }
    Ok(steps)
}

/// A page of a directory with attributes.
pub(super) fn list(view: &dyn View, id: InodeId, after: Cookie, limit: u32) -> Step<QueryReply> {
    let open = is_open(&usable_dir(view, id)?);
    let (page, end) = dentries(view, id, after, limit)?;
    let mut entries = Vec::with_capacity(page.len());
    for entry in page {
        let seen = seen(entry.inode, &named(view, entry.inode)?, open);
        entries.push(Listed { cookie: entry.cookie, name: entry.name, seen });
    }
    Ok(QueryReply::Listed { entries, end })
}

#[cfg(test)]
mod tests {
    use super::super::ops::fixture::{Bench, name};
    use super::*;
    use crate::types::{FileKind, MakeNode, ROOT_INODE, SetAttr, SetAttrs, Update};

    fn steps_of(bench: &Bench, names: &[&str]) -> Result<Vec<Seen>, FsError> {
        let names = names.iter().map(|n| name(n)).collect();
        match bench.ask(&Query::Steps { start: ROOT_INODE, names })? {
            QueryReply::Steps(steps) => Ok(steps),
            other => panic!("{other:?}"),
        }
    }

    fn chmod(bench: &mut Bench, inode: InodeId, mode: u32) {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        assert!(bench.update(Update::SetAttrs(SetAttrs { inode, set, by_handle: false })).is_ok());
    }

    #[test]
    fn steps_end_at_the_first_that_leads_nowhere() {
        let mut bench = Bench::new();
        let dir = bench.made(MakeNode { kind: FileKind::Dir, ..bench.file("d") });
        let file = bench.made(MakeNode { parent: dir, ..bench.file("f") });
        let inodes = |names: &[&str]| {
            steps_of(&bench, names).map(|steps| steps.iter().map(|s| s.attr.inode).collect::<Vec<_>>())
        };
        assert_eq!(inodes(&["d", "f"]), Ok(vec![dir, file]));
        assert_eq!(inodes(&["d", "none", "x"]), Ok(vec![dir]));
        assert_eq!(inodes(&["d", "f", "x"]), Ok(vec![dir, file]));
        assert_eq!(inodes(&["none", "f"]), Err(FsError::NotFound));
        assert_eq!(inodes(&["a"; 257]), Err(FsError::NameTooLong));
    }

    #[test]
    fn a_directory_is_open_when_everybody_may_search_it() {
        let mut bench = Bench::new();
        let dir = bench.made(MakeNode { kind: FileKind::Dir, mode: 0o755, ..bench.file("d") });
        bench.made(MakeNode { parent: dir, ..bench.file("f") });
        let open = |bench: &Bench| {
            let Ok(QueryReply::Listed { entries, end: true }) =
                bench.ask(&Query::List { inode: dir, after: Cookie(0), limit: 9 })
            else {
                panic!("no page")
            };
            let by_name = steps_of(bench, &["d", "f"]).unwrap()[1].open;
            assert_eq!((entries.len(), entries[0].seen.open), (1, by_name));
            by_name
        };
        assert!(open(&bench));
        for closed in [0o754, 0o745, 0o655] {
            chmod(&mut bench, dir, closed);
            assert!(!open(&bench), "{closed:o}");
        }
    }
}
