//! What bytes from a client, a log or the view lead to in a namespace.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;

use super::wire::{again, encoded};
use crate::namespace::{self, Command, MemoryView, Op, Reply, Txn};
use crate::types::*;
use crate::wire::message::{KeepAlive, MetaRequest, PeerRequest, Reading, UpdateRequest};

/// When the namespace was founded.
const T0: i64 = 1_700_000_000_000_000_000;
/// The session that is open in it.
const SESSION: SessionId = SessionId(1);

fn do_all(view: &mut MemoryView, commands: &[Command]) -> Vec<Reply> {
    let mut txn = Txn::new(&*view);
    let run = |command| namespace::apply(&mut txn, command).expect("a view in memory can be read");
    let replies = commands.iter().map(run).collect();
    let changes = txn.finish();
    view.store(&changes);
    replies
}

fn command(number: u64, op: Op) -> Command {
    Command { at: Timestamp(T0 + i64::try_from(number).unwrap_or(0)), op }
}

fn update(request: u64, cred: &Cred, update: Update) -> Command {
    let (request, lowest_unanswered) = (RequestId(request), RequestId(request.saturating_sub(3)));
    command(
        request.0,
        Op::Client { session: SESSION, request, lowest_unanswered, cred: cred.clone(), update },
    )
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn make(parent: InodeId, of: &str, kind: FileKind, content: &'static [u8]) -> Update {
    Update::Make(MakeNode {
        parent,
        name: name(of),
        kind,
        umask: 0,
        mode: 0o755,
        rdev: 0,
        content: Bytes::from_static(content),
        exclusive: true,
    })
}

fn block(index: u64, len: u32) -> ExtentSource {
    let id = BlockId { session: SESSION, index };
    ExtentSource::Block {
        block: BlockRef { id, group: GroupId(1), len, checksum: Checksum(9) },
        block_offset: 0,
    }
}

fn publish(inode: u64, offset: u64, len: u64, source: ExtentSource) -> Update {
    Update::Publish(Publish {
        inode: InodeId(inode),
        extents: vec![Extent { offset, len, source }],
        grow_to: None,
        append: false,
        mtime: None,
    })
}

/// Updates of every sort, in an order in which they make sense: inodes are 2, 3, ...
fn story() -> Vec<(Cred, Update)> {
    let root = Cred::root();
    let other = Cred { uid: 5, gid: 6, groups: vec![7] };
    let range = |offset, len, mode| Update::Range(RangeChange { inode: InodeId(2), offset, len, mode });
    let rename = |from: &str, to: &str, mode| {
        Update::Rename(Rename {
            from_parent: ROOT_INODE,
            from_name: name(from),
            to_parent: ROOT_INODE,
            to_name: name(to),
            mode,
        })
    };
    let set = SetAttr { size: Some(5000), ..SetAttr::default() };
    let of_root = [
        make(ROOT_INODE, "file", FileKind::File, b"first bytes"),
        make(ROOT_INODE, "dir", FileKind::Dir, b""),
        make(InodeId(3), "link", FileKind::Symlink, b"../file"),
        publish(2, 0, 4096, block(1, 4096)),
        publish(2, 100, 7, ExtentSource::Inline(Bytes::from_static(b"7 bytes"))),
        publish(2, 1 << 20, 4096, block(2, 4096)),
        range(0, 8192, FallocateMode::Allocate),
        range(4096, 4096, FallocateMode::Collapse),
        range(4096, 8192, FallocateMode::Insert),
        range(10, 20, FallocateMode::Punch),
        range(0, 30, FallocateMode::ZeroKeepSize),
        Update::SetAttrs(SetAttrs { inode: InodeId(2), set, by_handle: false }),
        Update::Link(Link { inode: InodeId(2), parent: InodeId(3), name: name("hard") }),
        Update::SetXattr(SetXattr {
            inode: InodeId(2),
            name: Bytes::from_static(b"user.a"),
            value: Bytes::from_static(b"value"),
            mode: XattrMode::Any,
        }),
        Update::Clone(CloneRange {
            from: InodeId(2),
            from_offset: 90,
            to: InodeId(2),
            to_offset: 3 << 20,
            len: 1000,
        }),
        Update::MakeUnnamed(MakeUnnamed { parent: InodeId(3), mode: 0o600, umask: 0o022, linkable: true }),
        rename("dir", "other", RenameMode::NoReplace),
        rename("other", "file", RenameMode::Exchange),
        Update::Unlink(Unlink { parent: ROOT_INODE, name: name("other"), dir: false }),
        Update::RemoveXattr(RemoveXattr { inode: InodeId(2), name: Bytes::from_static(b"user.a") }),
    ];
    let mut all: Vec<_> = of_root.into_iter().map(|update| (root.clone(), update)).collect();
    all.push((other, make(ROOT_INODE, "theirs", FileKind::Fifo, b"")));
    all
}

fn founding() -> Vec<Command> {
    let spec = |id: u64| NodeSpec {
        node: NodeId(id),
        name: format!("data-{id}"),
        address: NodeAddress(format!("d{id}:1")),
        http: NodeAddress(format!("d{id}:2")),
        domain: DomainLabel(format!("host-{id}")),
        capacity: Capacity { total: 3 << 40, free: 3 << 40, block_count: 0 },
    };
    let group = Group { group: GroupId(1), members: vec![NodeId(11), NodeId(12)] };
    let open = OpenSession { ttl_ms: 9000, label: "fuzz".into() };
    let ops = [
        Op::Found { cluster: ClusterId(1), hash_seed: 42, layout: Layout::default() },
        Op::RegisterData(spec(11)),
        Op::RegisterData(spec(12)),
        Op::PutGroups(vec![group]),
        Op::Client {
            session: SessionId(0),
            request: RequestId(0),
            lowest_unanswered: RequestId(0),
            cred: Cred::root(),
            update: Update::OpenSession(open),
        },
    ];
    ops.into_iter().map(|op| command(0, op)).collect()
}

/// A founded namespace with a session, and one in which the story happened.
fn worlds() -> &'static [MemoryView; 2] {
    static WORLDS: OnceLock<[MemoryView; 2]> = OnceLock::new();
    WORLDS.get_or_init(|| {
        let mut empty = MemoryView::default();
        do_all(&mut empty, &founding());
        let mut full = empty.clone();
        let commands = (1..).zip(story()).map(|(number, (cred, what))| update(number, &cred, what));
        let replies = do_all(&mut full, &commands.collect::<Vec<_>>());
        // The last one is by somebody who may not.
        let refused: Vec<_> = replies.iter().enumerate().filter(|(_, reply)| reply.is_err()).collect();
        assert_eq!(refused, [(replies.len() - 1, &Err(FsError::Denied))], "the story makes sense");
        [empty, full]
    })
}

fn must_be_whole(view: &MemoryView) {
    let violations = namespace::check(view).expect("a view in memory can be read");
    assert!(violations.is_empty(), "{violations:?}");
}

/// A request as it arrives: a query is answered, an update applied.
pub(super) fn request(input: &[u8]) {
    if let Some(PeerRequest::Forward(inner)) = again::<PeerRequest>(input) {
        drop(again::<MetaRequest>(&inner));
    }
    match again::<MetaRequest>(input) {
        Some(MetaRequest::Query { cred, query, .. }) => {
            let answer = namespace::query(&worlds()[1], &cred, &query).expect("a view in memory can be read");
            codec::encode(&answer).expect("an answer can be sent");
        }
        Some(MetaRequest::Update(UpdateRequest { cred, update, .. })) => one_update(&cred, update),
        Some(MetaRequest::Fates { blocks }) => {
            namespace::block_refs(&worlds()[1], &blocks).expect("a view in memory can be read");
        }
        _ => {}
    }
}

fn one_update(cred: &Cred, what: Update) {
    let mut view = worlds()[1].clone();
    do_all(&mut view, &[update(1000, cred, what)]);
    must_be_whole(&view);
}

pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    let queries = [
        Query::Lookup { parent: ROOT_INODE, name: name("file") },
        Query::Walk { start: ROOT_INODE, names: vec![name("file"), name("link")] },
        Query::Steps { start: ROOT_INODE, names: vec![name("dir"), name("file")] },
        Query::ReadDir { inode: ROOT_INODE, after: Cookie(0), limit: 9, with_attrs: true },
        Query::List { inode: ROOT_INODE, after: Cookie(0), limit: 9 },
        Query::Extents { inode: InodeId(2), offset: 5, len: u64::MAX, limit: 9 },
        Query::ListXattr { inode: InodeId(2) },
        Query::ReadLink { inode: InodeId(4) },
        Query::StatFs,
        Query::Map { newer_than: Epoch(0) },
    ];
    let queries = queries.map(|query| MetaRequest::Query {
        cred: Cred::root(),
        query,
        epoch: Epoch(1),
        reading: Reading::Exact,
    });
    let updates = (1..).zip(story()).map(|(number, (cred, update))| {
        let (request, lowest_unanswered) = (RequestId(number), RequestId(1));
        MetaRequest::Update(UpdateRequest { session: SESSION, request, lowest_unanswered, cred, update })
    });
    let id = BlockId { session: SESSION, index: 1 };
    let others = [
        MetaRequest::KeepAlive(KeepAlive { session: SESSION, handles: vec![(InodeId(2), true)] }),
        MetaRequest::Fates { blocks: vec![id] },
        MetaRequest::Blocks { node: Some(NodeId(11)), after: Some(id), limit: 3 },
    ];
    let mut seeds = encoded(queries.into_iter().chain(updates).chain(others));
    let inner = seeds.first().cloned().unwrap_or_default();
    seeds.extend(encoded([PeerRequest::Forward(inner.into())]));
    seeds
}

/// An entry of the log.
pub(super) fn commands(input: &[u8]) {
    drop(again::<Vec<Command>>(input));
}

pub(super) fn commands_seeds() -> Vec<Vec<u8>> {
    encoded([founding()])
}

/// What clients may ask for, in any order and with any values: it is answered, and all invariants hold after it.
pub(super) fn updates(input: &[u8]) {
    let Some(updates) = again::<Vec<(Cred, Update)>>(input) else { return };
    for world in worlds() {
        let mut view = world.clone();
        let commands: Vec<Command> = (100..)
            .zip(&updates)
            .filter(|(_, (_, what))| !matches!(what, Update::CloseSession))
            .map(|(number, (cred, what))| update(number, cred, what.clone()))
            .collect();
        do_all(&mut view, &commands);
        must_be_whole(&view);
    }
}

pub(super) fn updates_seeds() -> Vec<Vec<u8>> {
    let story = story();
    let windows = story.windows(3).map(<[_]>::to_vec).collect::<Vec<_>>();
    encoded([story]).into_iter().chain(encoded(windows)).collect()
}

/// Records as a damaged or foreign view may hold them: every reader says so, and none panics.
pub(super) fn records(input: &[u8]) {
    let Ok(records) = codec::decode::<BTreeMap<Vec<u8>, Bytes>>(input) else { return };
    let mut view = worlds()[1].clone();
    view.records.extend(records);
    drop(namespace::check(&view));
    drop(namespace::map(&view));
    drop(namespace::superblock(&view));
    drop(namespace::sessions(&view));
    drop(namespace::orphans(&view, None, 100));
    drop(namespace::blocks(&view, None, 100));
    drop(namespace::reclaim_queue(&view, None, 100));
    let root = Cred::root();
    for inode in [ROOT_INODE, InodeId(2), InodeId(3), InodeId(4)] {
        for query in [
            Query::GetAttr { inode },
            Query::ReadDir { inode, after: Cookie(0), limit: 100, with_attrs: true },
            Query::Extents { inode, offset: 0, len: u64::MAX, limit: 100 },
            Query::ReadLink { inode },
            Query::ListXattr { inode },
            Query::Parent { inode },
        ] {
            drop(namespace::query(&view, &root, &query));
        }
    }
}

pub(super) fn records_seeds() -> Vec<Vec<u8>> {
    let all = worlds()[1].records.iter().map(|(key, value)| BTreeMap::from([(key, value)]));
    let mut seeds = encoded(all);
    seeds.extend(encoded([&worlds()[1].records]));
    seeds
}
