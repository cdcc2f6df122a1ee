//! Questions to the namespace.
//!
//! `meta/service` asks them of any view that is recent enough. Permissions: names cost search permission on each
//! directory they are looked up in, extended attributes follow their own rules. What a handle reads (attributes,
//! extents, the pages of a directory) is not asked for again: POSIX asks when the handle is opened, and the client does so
//! with [`Query::Access`]. Holds: an answer is bounded, whatever the question says.

use std::ops::ControlFlow;

use super::dentry::{self, HashRule};
use super::locks::{self, Table};
use super::ops::{nodes, xattr};
use super::records::{Healthy, Inode, Record, Slot, Superblock};
use super::txn::{Step, Stop, corrupt, read, scan};
use super::{View, ViewError, access, extents, inspect, keys, seen};
use crate::types::{
    Access, Cookie, Cred, DirEntry, FileKind, Found, FsError, FsTotals, Group, GroupId, InodeId, Name,
    NodeId, NodeState, Query, QueryReply,
};

/// Answers one question with the rights of `cred`.
///
/// # Errors
/// When the view cannot be read.
pub fn query(view: &dyn View, cred: &Cred, query: &Query) -> Result<Result<QueryReply, FsError>, ViewError> {
    match answer(view, cred, query) {
        Ok(reply) => Ok(Ok(reply)),
        Err(Stop::Fs(e)) => Ok(Err(e)),
        Err(Stop::View(e)) => Err(e),
    }
}

fn answer(view: &dyn View, cred: &Cred, query: &Query) -> Step<QueryReply> {
    if cred.groups.len() > Cred::GROUPS_MAX {
        return Err(FsError::Invalid.into());
    }
    match query {
        Query::Lookup { parent, name } => {
            let (id, inode) = lookup(view, hash_rule(view)?, cred, *parent, name)?;
            found(view, id, &inode).map(QueryReply::Found)
        }
        Query::Walk { start, names } => walk(view, cred, *start, names),
        Query::GetAttr { inode } => found(view, *inode, &usable(view, *inode)?).map(QueryReply::Found),
        Query::Access { inode: id, access } => {
            let inode = usable(view, *id)?;
            access::require(&inode, cred, *access)?;
            found(view, *id, &inode).map(QueryReply::Found)
        }
        Query::ReadLink { inode } => {
            let inode = usable(view, *inode)?;
            if inode.kind == FileKind::Symlink {
                Ok(QueryReply::Target(inode.target))
            } else {
                Err(FsError::Invalid.into())
            }
        }
        Query::ReadDir { inode, after, limit, with_attrs } => {
            read_dir(view, *inode, *after, (*limit).clamp(1, Query::READDIR_MAX), *with_attrs)
        }
        Query::GetXattr { inode: id, name } => {
            let inode = usable(view, *id)?;
            xattr::get(view, *id, &inode, cred, name).map(QueryReply::Xattr)
        }
        Query::ListXattr { inode: id } => {
            let inode = usable(view, *id)?;
            Ok(QueryReply::Xattrs(xattr::list(view, *id, &inode, cred)?))
        }
        Query::Extents { inode: id, offset, len, limit } => {
            let inode = usable(view, *id)?;
            ops_file(&inode)?;
            let limit = (*limit).clamp(1, Query::EXTENTS_MAX) as usize;
            let end = offset.saturating_add(*len);
            let (extents, more) = extents::touching(view, *id, *offset, end, limit)?;
            Ok(QueryReply::Extents { attr: inode.attr(*id), extents, end: !more })
        }
        Query::StatFs => totals(view).map(QueryReply::Totals),
        Query::Map { newer_than } => {
            let newer = superblock(view)?.epoch > *newer_than;
            Ok(QueryReply::Map(if newer { Some(Box::new(inspect::map(view)?)) } else { None }))
        }
        Query::Parent { inode } => {
            let dir = usable_dir(view, *inode)?;
            access::require(&dir, cred, Access::EXEC)?;
            found(view, dir.parent, &named(view, dir.parent)?).map(QueryReply::Found)
        }
        Query::TestLock { session, lock } => {
            usable(view, lock.inode)?;
            let wanted = locks::wanted(*session, lock)?;
            Ok(QueryReply::Conflict(Table::load(view, lock.inode)?.conflict(&wanted)))
        }
        Query::LockWaits { inode, session, request } => {
            if view.get(&keys::session(*session))?.is_none() {
                return Err(FsError::SessionExpired.into());
            }
            let place = locks::waiting_at(view, *inode, *session, *request)?;
            Ok(QueryReply::Waits(place.is_some()))
        }
        Query::Steps { start, names } => seen::steps(view, cred, *start, names).map(QueryReply::Steps),
        Query::List { inode, after, limit } => {
            seen::list(view, *inode, *after, (*limit).clamp(1, Query::READDIR_MAX))
        }
    }
}

fn superblock(view: &dyn View) -> Step<Superblock> {
    Ok(read::<Superblock>(view, keys::SUPERBLOCK)?.ok_or(FsError::Stale)?)
}

pub(super) fn hash_rule(view: &dyn View) -> Step<HashRule> {
    Ok(HashRule::of(&superblock(view)?))
}

fn inode_of(view: &dyn View, id: InodeId) -> Result<Option<Inode>, ViewError> {
    view.get(&keys::inode(id))?.map(|bytes| Inode::decode(&bytes)).transpose()
}

/// An inode that can be used: ESTALE if it is gone or going.
pub(super) fn usable(view: &dyn View, id: InodeId) -> Step<Inode> {
    Ok(inode_of(view, id)?.filter(|inode| !inode.freeing).ok_or(FsError::Stale)?)
}

/// A directory that can be used: ENOENT if it was removed while someone is still in it.
pub(super) fn usable_dir(view: &dyn View, id: InodeId) -> Step<Inode> {
    let inode = usable(view, id)?;
    match () {
        () if !inode.is_dir() => Err(FsError::NotDir.into()),
        () if inode.nlink == 0 => Err(FsError::NotFound.into()),
        () => Ok(inode),
    }
}

pub(super) fn named(view: &dyn View, id: InodeId) -> Result<Inode, ViewError> {
    inode_of(view, id)?.ok_or_else(|| corrupt(format!("inode {id} is named but missing")))
}

fn ops_file(inode: &Inode) -> Result<(), FsError> {
    match inode.kind {
        FileKind::File => Ok(()),
        FileKind::Dir => Err(FsError::IsDir),
        _ => Err(FsError::Invalid),
    }
}

fn lookup(
    view: &dyn View,
    rule: HashRule,
    cred: &Cred,
    parent: InodeId,
    name: &Name,
) -> Step<(InodeId, Inode)> {
    let (_, id, inode) = step(view, rule, cred, parent, name)?;
    Ok((id, inode))
}

/// One step of a path: the directory, and what it has under a name.
pub(super) fn step(
    view: &dyn View,
    rule: HashRule,
    cred: &Cred,
    parent: InodeId,
    name: &Name,
) -> Step<(Inode, InodeId, Inode)> {
    let dir = usable_dir(view, parent)?;
    access::require(&dir, cred, Access::EXEC)?;
    let (_, entry) = dentry::find(view, rule, parent, name)?.ok_or(FsError::NotFound)?;
    Ok((dir, entry.inode, named(view, entry.inode)?))
}

fn walk(view: &dyn View, cred: &Cred, start: InodeId, names: &[Name]) -> Step<QueryReply> {
    if names.len() > Query::WALK_MAX {
        return Err(FsError::NameTooLong.into());
    }
    let rule = hash_rule(view)?;
    let (mut id, mut inode, mut parent) = (start, usable(view, start)?, start);
    let mut rest = names;
    while let Some((name, behind)) = rest.split_first() {
        if inode.kind == FileKind::Symlink {
            break;
        }
        parent = id;
        (id, inode) = lookup(view, rule, cred, id, name)?;
        rest = behind;
    }
    let rest = u32::try_from(rest.len()).expect("at most 256 names");
    Ok(QueryReply::Walked { found: found(view, id, &inode)?, rest, parent })
}

/// Attributes, and for a file the servers of its home group, or of the group that its id falls on.
fn found(view: &dyn View, id: InodeId, inode: &Inode) -> Step<Found> {
    let mut servers = Vec::new();
    if inode.kind == FileKind::File {
        let group = match inode.home {
            Some(home) => Some(home),
            None => proposed_group(view, id)?,
        };
        if let Some(group) = group {
            servers = members(view, group)?;
        }
    }
    Ok(Found { attr: inode.attr(id), servers })
}

/// The group proposed for a file without blocks: any of the whole ones, the same for the same file as long as they last.
fn proposed_group(view: &dyn View, id: InodeId) -> Result<Option<GroupId>, ViewError> {
    let Some(record) = view.get(keys::HEALTHY)? else { return Ok(None) };
    Healthy::pick(&record, xxhash_rust::xxh3::xxh3_64(&id.0.to_le_bytes()))
}

fn members(view: &dyn View, group: GroupId) -> Result<Vec<NodeId>, ViewError> {
    Ok(read::<Group>(view, &keys::group(group))?.map_or_else(Vec::new, |g| g.members))
}

fn read_dir(view: &dyn View, id: InodeId, after: Cookie, limit: u32, with_attrs: bool) -> Step<QueryReply> {
    usable_dir(view, id)?;
    let (mut entries, end) = dentries(view, id, after, limit)?;
    if with_attrs {
        for entry in &mut entries {
            entry.found = Some(found(view, entry.inode, &named(view, entry.inode)?)?);
        }
    }
    Ok(QueryReply::Page { entries, end })
}

/// A page of a directory, without attributes; true if nothing follows.
pub(super) fn dentries(
    view: &dyn View,
    id: InodeId,
    after: Cookie,
    limit: u32,
) -> Step<(Vec<DirEntry>, bool)> {
    let mut entries: Vec<DirEntry> = Vec::new();
    let mut end = true;
    let range = keys::dentries(id).behind(&keys::dentry(id, after));
    scan(view, &range, |key, value| {
        let Some(entry) = Slot::decode(value)?.entry else { return Ok(ControlFlow::Continue(())) };
        if entries.len() == limit as usize {
            end = false;
            return Ok(ControlFlow::Break(()));
        }
        let cookie = Cookie(keys::second(key).ok_or_else(|| corrupt(format!("dentry key {key:02x?}")))?);
        entries.push(DirEntry {
            cookie,
            name: entry.name,
            inode: entry.inode,
            kind: entry.kind,
            found: None,
        });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((entries, end))
}

fn totals(view: &dyn View) -> Step<FsTotals> {
    let superblock = superblock(view)?;
    let (mut total, mut free) = (0u64, 0u64);
    for node in nodes::data_nodes(view)?.iter().filter(|n| n.state == NodeState::Up) {
        total = total.saturating_add(node.capacity.total);
        free = free.saturating_add(node.capacity.free);
    }
    let replicas = u64::from(superblock.layout.replica_count.max(1));
    Ok(FsTotals {
        total: total / replicas,
        free: free / replicas,
        used: u64::try_from(superblock.used).unwrap_or(u64::MAX),
        inode_count: superblock.inode_count,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ops::fixture::{Bench, name};
    use super::super::{MemoryView, Op};
    use super::*;
    use crate::types::{Epoch, MakeNode, ROOT_INODE};

    #[test]
    fn before_the_cluster_is_founded_nothing_is_found() {
        let view = MemoryView::default();
        let root = Query::GetAttr { inode: ROOT_INODE };
        assert_eq!(query(&view, &Cred::root(), &root).unwrap(), Err(FsError::Stale));
        assert_eq!(query(&view, &Cred::root(), &Query::StatFs).unwrap(), Err(FsError::Stale));
    }

    #[test]
    fn a_lookup_names_servers() {
        let mut bench = Bench::new();
        bench.make_file("a");
        assert_eq!(bench.lookup("a").unwrap().servers, []);
        bench.with_groups();
        assert_eq!(bench.lookup("a").unwrap().servers, [NodeId(11), NodeId(12), NodeId(13)]);
        let group =
            |g: u32, m: &[u64]| Group { group: GroupId(g), members: m.iter().map(|m| NodeId(*m)).collect() };
        let groups = vec![group(2, &[11, 12]), group(3, &[12, 13])];
        assert!(bench.command(Op::PutGroups(groups)).is_ok());
        assert!(bench.command(Op::SetNodeState { node: NodeId(11), state: NodeState::Suspect }).is_ok());
        assert_eq!(bench.lookup("a").unwrap().servers, [NodeId(12), NodeId(13)], "the only whole group");
    }

    #[test]
    fn a_walk_stops_at_symlinks() {
        let mut bench = Bench::new();
        let dir = bench.made(MakeNode { kind: FileKind::Dir, ..bench.file("d") });
        let link = MakeNode { kind: FileKind::Symlink, parent: dir, content: "x".into(), ..bench.file("l") };
        let link = bench.made(link);
        let walk = |names: &[&str]| {
            let names = names.iter().map(|n| name(n)).collect();
            match bench.ask(&Query::Walk { start: ROOT_INODE, names }) {
                Ok(QueryReply::Walked { found, rest, parent }) => Ok((found.attr.inode, rest, parent)),
                Ok(other) => panic!("{other:?}"),
                Err(e) => Err(e),
            }
        };
        assert_eq!(walk(&[]), Ok((ROOT_INODE, 0, ROOT_INODE)));
        assert_eq!(walk(&["d", "l"]), Ok((link, 0, dir)));
        assert_eq!(walk(&["d", "l", "x", "y"]), Ok((link, 2, dir)));
        assert_eq!(walk(&["d", "none", "x"]), Err(FsError::NotFound));
        assert_eq!(walk(&["a"; 257]), Err(FsError::NameTooLong));
    }

    #[test]
    fn the_map_is_sent_when_it_is_newer() {
        let mut bench = Bench::new();
        bench.with_groups();
        let map = |newer_than| match bench.ask(&Query::Map { newer_than }) {
            Ok(QueryReply::Map(map)) => map.map(|m| m.epoch),
            other => panic!("{other:?}"),
        };
        assert_eq!(map(Epoch(0)), Some(Epoch(5)));
        assert_eq!(map(Epoch(5)), None);
        let Ok(QueryReply::Totals(totals)) = bench.ask(&Query::StatFs) else { panic!("no totals") };
        assert_eq!((totals.total, totals.free, totals.inode_count), (1000, 900, 1));
    }

    #[test]
    fn pages_of_a_directory_join() {
        let mut bench = Bench::new();
        for i in 0..25 {
            bench.make_file(&format!("f{i}"));
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut after = Cookie(0);
        loop {
            let ask = Query::ReadDir { inode: ROOT_INODE, after, limit: 10, with_attrs: true };
            let Ok(QueryReply::Page { entries, end }) = bench.ask(&ask) else { panic!("no page") };
            for e in &entries {
                assert_eq!(e.found.as_ref().unwrap().attr.inode, e.inode);
                assert!(seen.insert(e.name.clone()));
                after = e.cookie;
            }
            if end {
                break;
            }
        }
        assert_eq!(seen.len(), 25);
    }
}
