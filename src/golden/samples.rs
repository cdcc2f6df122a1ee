//! One value of everything public that is stored or sent.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::namespace::{Command, Op};
use crate::types::*;

pub(super) const ADDRESS: &str = "host:7001";

pub(super) fn block() -> BlockRef {
    let id = BlockId { session: SessionId(300), index: 7 };
    BlockRef { id, group: GroupId(2), len: 70_000, checksum: Checksum(0xdead_beef) }
}

pub(super) fn extents() -> Vec<Extent> {
    let source = |source| Extent { offset: 1 << 20, len: 900, source };
    vec![
        source(ExtentSource::Block { block: block(), block_offset: 5 }),
        source(ExtentSource::Inline(Bytes::from_static(b"xyz"))),
        source(ExtentSource::Zero),
    ]
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn attr() -> Attr {
    Attr {
        inode: InodeId(300),
        kind: FileKind::File,
        mode: 0o644,
        nlink: 1,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 5_000_000_000,
        used: 4096,
        atime: Timestamp(1_700_000_000_000_000_001),
        mtime: Timestamp(1_700_000_000_000_000_002),
        ctime: Timestamp(1_700_000_000_000_000_003),
        btime: Timestamp(-4),
        version: Version(9),
    }
}

pub(super) fn cred() -> Cred {
    Cred { uid: 1000, gid: 100, groups: vec![4, 27] }
}

fn owner() -> LockOwner {
    LockOwner { kind: LockKind::Posix, id: 0x1234_5678_9abc }
}

fn lock() -> Lock {
    Lock {
        inode: InodeId(300),
        owner: owner(),
        pid: 77,
        range: LockRange { first: 3, last: 300 },
        write: true,
        wait: true,
    }
}

pub(super) fn kinds() -> Vec<FileKind> {
    use FileKind::*;
    vec![File, Dir, Symlink, Fifo, Socket, CharDev, BlockDev]
}

pub(super) fn updates() -> Vec<Update> {
    let make = |kind| MakeNode {
        parent: InodeId(1),
        name: name("a"),
        kind,
        mode: 0o755,
        umask: 0o22,
        rdev: 0x0103,
        content: Bytes::from_static(b"hi"),
        exclusive: true,
    };
    let rename = |mode| Rename {
        from_parent: InodeId(1),
        from_name: name("a"),
        to_parent: InodeId(2),
        to_name: name("b"),
        mode,
    };
    let set_xattr = |mode| SetXattr {
        inode: InodeId(3),
        name: Bytes::from_static(b"user.a"),
        value: Bytes::from_static(b"v"),
        mode,
    };
    let range = |mode| RangeChange { inode: InodeId(3), offset: 4096, len: 70_000, mode };
    let set = SetAttr {
        mode: Some(0o600),
        uid: Some(7),
        gid: Some(8),
        size: Some(1 << 40),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(Timestamp(-5))),
    };
    let publish = Publish {
        inode: InodeId(3),
        extents: extents(),
        grow_to: Some(1 << 33),
        append: true,
        mtime: Some(Timestamp(6)),
    };
    let mut all: Vec<Update> = kinds().into_iter().map(|kind| Update::Make(make(kind))).collect();
    all.push(Update::SetAttrs(SetAttrs { inode: InodeId(3), set, by_handle: true }));
    all.push(Update::SetAttrs(SetAttrs { inode: InodeId(3), set: SetAttr::default(), by_handle: false }));
    all.push(Update::Link(Link { inode: InodeId(3), parent: InodeId(1), name: name("b") }));
    all.push(Update::Unlink(Unlink { parent: InodeId(1), name: name("b"), dir: true }));
    all.extend(
        [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange].map(|m| Update::Rename(rename(m))),
    );
    all.extend(
        [XattrMode::Any, XattrMode::Create, XattrMode::Replace].map(|m| Update::SetXattr(set_xattr(m))),
    );
    all.push(Update::RemoveXattr(RemoveXattr { inode: InodeId(3), name: Bytes::from_static(b"user.a") }));
    all.push(Update::Publish(publish));
    use FallocateMode::*;
    all.extend(
        [Allocate, AllocateKeepSize, Punch, Zero, ZeroKeepSize, Collapse, Insert]
            .map(|m| Update::Range(range(m))),
    );
    all.push(Update::OpenSession(OpenSession { ttl_ms: 9_000, label: "mount".into() }));
    all.push(Update::CloseSession);
    for kind in [LockKind::Flock, LockKind::Posix, LockKind::Ofd] {
        all.push(Update::Lock(Lock { owner: LockOwner { kind, ..owner() }, ..lock() }));
    }
    all.push(Update::Unlock(Unlock { inode: InodeId(300), owner: owner(), range: LockRange::WHOLE }));
    all.push(Update::CancelLock(CancelLock { inode: InodeId(300), request: RequestId(5) }));
    all.push(Update::MakeUnnamed(MakeUnnamed {
        parent: InodeId(1),
        mode: 0o600,
        umask: 0o77,
        linkable: true,
    }));
    all.push(Update::Clone(CloneRange {
        from: InodeId(3),
        from_offset: 1,
        to: InodeId(4),
        to_offset: 70_000,
        len: 300,
    }));
    all.push(Update::SetLabel(SetLabel { label: "lab".into() }));
    all
}

pub(super) fn update_replies() -> Vec<UpdateReply> {
    vec![
        UpdateReply::Done,
        UpdateReply::Made { attr: attr(), created: true },
        UpdateReply::Attr(attr()),
        UpdateReply::Removed(Some(attr())),
        UpdateReply::Removed(None),
        UpdateReply::Session { session: SessionId(300), ttl_ms: 9_000 },
        UpdateReply::Locked,
        UpdateReply::LockQueued { request: RequestId(5) },
        UpdateReply::Cloned { attr: attr(), len: 300, rest: 70_000 },
    ]
}

pub(super) fn queries() -> Vec<Query> {
    let inode = InodeId(300);
    let names = || vec![name("a"), name("b")];
    vec![
        Query::Lookup { parent: inode, name: name("a") },
        Query::Walk { start: inode, names: names() },
        Query::GetAttr { inode },
        Query::Access { inode, access: Access::READ.and(Access::EXEC) },
        Query::ReadLink { inode },
        Query::ReadDir { inode, after: Cookie(1 << 62), limit: 256, with_attrs: true },
        Query::GetXattr { inode, name: Bytes::from_static(b"user.a") },
        Query::ListXattr { inode },
        Query::Extents { inode, offset: 1, len: u64::MAX, limit: 64 },
        Query::StatFs,
        Query::Map { newer_than: Epoch(4) },
        Query::Parent { inode },
        Query::TestLock { session: SessionId(2), lock: lock() },
        Query::LockWaits { inode, session: SessionId(2), request: RequestId(5) },
        Query::Steps { start: inode, names: names() },
        Query::List { inode, after: Cookie(1 << 62), limit: 256 },
    ]
}

pub(super) fn found() -> Found {
    Found { attr: attr(), servers: vec![NodeId(101), NodeId(102)] }
}

pub(super) fn query_replies() -> Vec<QueryReply> {
    let seen = Seen { attr: attr(), bare: true, open: false };
    let entry = |found| DirEntry {
        cookie: Cookie(1 << 62),
        name: name("a"),
        inode: InodeId(300),
        kind: FileKind::Dir,
        found,
    };
    let held =
        HeldLock { session: SessionId(2), owner: owner(), pid: 77, range: LockRange::WHOLE, write: true };
    vec![
        QueryReply::Found(found()),
        QueryReply::Walked { found: found(), rest: 2, parent: InodeId(1) },
        QueryReply::Target(Bytes::from_static(b"../b")),
        QueryReply::Page { entries: vec![entry(Some(found())), entry(None)], end: true },
        QueryReply::Xattr(Bytes::from_static(b"v")),
        QueryReply::Xattrs(vec![Bytes::from_static(b"user.a")]),
        QueryReply::Extents { attr: attr(), extents: extents(), end: false },
        QueryReply::Totals(FsTotals { total: 1 << 40, free: 1 << 39, used: 300, inode_count: 7 }),
        QueryReply::Map(Some(Box::new(map()))),
        QueryReply::Map(None),
        QueryReply::Conflict(Some(held)),
        QueryReply::Waits(true),
        QueryReply::Steps(vec![seen.clone()]),
        QueryReply::Listed { entries: vec![Listed { cookie: Cookie(3), name: name("a"), seen }], end: true },
    ]
}

pub(super) fn meta_node() -> MetaNode {
    let address = || NodeAddress(ADDRESS.into());
    MetaNode { node: NodeId(1), name: "meta-1".into(), address: address(), http: address() }
}

pub(super) fn spec() -> NodeSpec {
    let MetaNode { address, http, .. } = meta_node();
    NodeSpec {
        node: NodeId(101),
        name: "data-1".into(),
        address,
        http,
        domain: DomainLabel("rack".into()),
        capacity: capacity(),
    }
}

pub(super) fn capacity() -> Capacity {
    Capacity { total: 1 << 40, free: 1 << 39, block_count: 300 }
}

pub(super) fn report() -> NodeReport {
    let load = NodeLoad { in_flight: 3, read_rate: 1 << 20, write_rate: 70_000, compared: true, lacking: 4 };
    NodeReport { node: NodeId(101), capacity: capacity(), load }
}

pub(super) fn states() -> Vec<NodeState> {
    use NodeState::*;
    vec![Up, Suspect, Down, Draining, Removed]
}

pub(super) fn map() -> ClusterMap {
    let NodeSpec { node, name, address, http, domain, capacity } = spec();
    let data =
        DataNode { node, name, address, http, domain, capacity, state: NodeState::Up, since: Timestamp(6) };
    let group = Group { group: GroupId(2), members: vec![NodeId(101), NodeId(102), NodeId(103)] };
    ClusterMap {
        cluster: ClusterId(0x0102_0304),
        epoch: Epoch(300),
        layout: Layout::default(),
        meta: BTreeMap::from([(NodeId(1), meta_node())]),
        data: BTreeMap::from([(NodeId(101), data)]),
        groups: BTreeMap::from([(GroupId(2), group)]),
    }
}

pub(super) fn ops() -> Vec<Op> {
    let client = |update| Op::Client {
        session: SessionId(300),
        request: RequestId(5),
        lowest_unanswered: RequestId(4),
        cred: cred(),
        update,
    };
    let id = block().id;
    let mut all = vec![
        client(Update::CloseSession),
        Op::Found { cluster: ClusterId(0x0102_0304), hash_seed: 1 << 60, layout: Layout::default() },
        Op::PutMeta(meta_node()),
        Op::RegisterData(spec()),
        Op::Report(vec![report()]),
    ];
    all.extend(states().into_iter().map(|state| Op::SetNodeState { node: NodeId(101), state }));
    all.extend([
        Op::PutGroups(vec![Group { group: GroupId(2), members: vec![NodeId(101), NodeId(102)] }]),
        Op::ExpireSessions(vec![SessionId(300)]),
        Op::FreeOrphans(vec![InodeId(300)]),
        Op::Reclaimed(vec![id]),
        Op::RemoveMeta(NodeId(3)),
        Op::RaiseLevel(Level(2)),
    ]);
    all.extend(restore_steps().into_iter().map(Op::Restore));
    all
}

pub(super) fn dump_stamp() -> DumpStamp {
    let tally = Tally { hash: StateHash(1 << 100), records: 300 };
    DumpStamp { cluster: ClusterId(5), index: LogIndex(300), taken: Timestamp(1 << 60), tally }
}

pub(super) fn restore_steps() -> Vec<RestoreStep> {
    let dump = StateHash(1 << 100);
    let records = bytes::Bytes::from_static(b"records");
    vec![
        RestoreStep::Begin { dump: dump_stamp(), floor: 1 << 50 },
        RestoreStep::Part { dump, number: 7, records },
        RestoreStep::End { dump, floor: 1 << 50 },
    ]
}

/// As an entry of the log has them.
pub(super) fn commands() -> Vec<Command> {
    let at = Timestamp(1_700_000_000_000_000_001);
    ops().into_iter().take(2).map(|op| Command { at, op }).collect()
}
