//! Dump and restore of random namespaces: all is as it was but for what belonged to sessions and servers.

use pohmelfs::namespace::{SuperblockInfo, check, lineage, map, superblock};

use super::namespace_support::{T0, name, open_session};
use super::*;

/// Where ids begin behind a restore here.
const FLOOR: u64 = 1_800_000_000 << 24;

/// What a dump of this namespace says of itself.
fn stamp_of(view: &MemoryView) -> DumpStamp {
    let superblock = superblock(view).unwrap().unwrap();
    let mut tally = Tally::default();
    view.records.iter().for_each(|(key, value)| tally.add(key, value));
    DumpStamp { cluster: superblock.cluster, index: LogIndex(9), taken: superblock.newest, tally }
}

/// Its records, packed, so many a part.
fn parts_of(view: &MemoryView, records: usize) -> Vec<Bytes> {
    let all: Vec<_> = view.records.iter().collect();
    let pack = |part: &[(&Vec<u8>, &Bytes)]| {
        let mut packed = bytes::BytesMut::new();
        part.iter().for_each(|(key, value)| pack_record(&mut packed, key, value));
        packed.freeze()
    };
    all.chunks(records).map(pack).collect()
}

/// Applies a command and stores what it changes.
fn apply_to(view: &mut MemoryView, at: i64, op: Op) -> Result<UpdateReply, FsError> {
    let mut txn = Txn::new(&*view);
    let reply = apply(&mut txn, &Command { at: Timestamp(at), op }).unwrap();
    let changes = txn.finish();
    view.store(&changes);
    reply
}

/// A namespace that was just founded, of another cluster, with a metadata server.
fn empty_cluster() -> MemoryView {
    let mut view = MemoryView::default();
    let found = Op::Found { cluster: ClusterId(2), hash_seed: 7, layout: Layout::default() };
    apply_to(&mut view, T0 + 1, found).unwrap();
    let address = NodeAddress("m4:1".into());
    let meta = MetaNode { node: NodeId(4), name: "meta-4".into(), address: address.clone(), http: address };
    apply_to(&mut view, T0 + 2, Op::PutMeta(meta)).unwrap();
    view
}

fn steps_of(dump: &MemoryView, records: usize, floor: u64) -> Vec<RestoreStep> {
    let stamp = stamp_of(dump);
    let hash = stamp.tally.hash;
    let begin = RestoreStep::Begin { dump: stamp, floor };
    let parts = (0..).zip(parts_of(dump, records));
    let parts = parts.map(|(number, records)| RestoreStep::Part { dump: hash, number, records });
    [begin].into_iter().chain(parts).chain([RestoreStep::End { dump: hash, floor }]).collect()
}

/// An empty cluster into which `dump` was restored, so many records a part. Every step is sent twice.
fn restored(dump: &MemoryView, records: usize, floor: u64) -> MemoryView {
    let mut view = empty_cluster();
    for (at, step) in (T0 + 3..).zip(steps_of(dump, records, floor)) {
        assert_eq!(apply_to(&mut view, at, Op::Restore(step.clone())), Ok(UpdateReply::Done), "{step:?}");
        let before = view.clone();
        assert_eq!(apply_to(&mut view, at, Op::Restore(step)), Ok(UpdateReply::Done));
        assert_eq!(view, before, "a resend changes nothing");
    }
    view
}

/// Of the dump as they are: inodes, dentries, attributes, extents, blocks, orphans, groups, the reclaim queue.
fn kept(view: &MemoryView) -> Vec<(&Vec<u8>, &Bytes)> {
    view.records.iter().filter(|(key, _)| matches!(key[0], 2..=7 | 12 | 13)).collect()
}

#[test]
fn a_restored_namespace_is_the_one_that_was_dumped() {
    for (records, hash_bits) in [(1, 2), (17, 63), (usize::MAX, 63)] {
        let mut world = run(seed() ^ 0xd00d, 400, hash_bits);
        let view = restored(&world.view, records.min(world.view.records.len()), FLOOR);
        assert_eq!(check(&view).unwrap(), Vec::<String>::new());
        assert_eq!(kept(&view), kept(&world.view));
        assert!(
            view.records.keys().all(|key| !matches!(key[0], 8 | 9 | 14 | 16 | 17)),
            "nothing of a session"
        );
        let (old, new) = (superblock(&world.view).unwrap().unwrap(), superblock(&view).unwrap().unwrap());
        assert_eq!((new.cluster, new.restoring), (ClusterId(2), None));
        assert_eq!((new.inode_count, new.used, new.hash_seed), (old.inode_count, old.used, old.hash_seed));
        assert!(new.epoch > old.epoch && new.newest >= old.newest);
        assert_eq!((new.next_session.0, new.next_inode.0), (FLOOR, first_inode(FLOOR)));
        let (theirs, ours) = (map(&world.view).unwrap(), map(&view).unwrap());
        assert!(ours.data.keys().eq(theirs.data.keys()) && ours.groups == theirs.groups);
        assert!(ours.data.values().all(|n| matches!(n.state, NodeState::Down)), "until they register");
        assert!(ours.meta.keys().eq(&[NodeId(4)]) && ours.layout == theirs.layout);
        assert_eq!(lineage(&view).unwrap()[0].cluster, ClusterId(1));
        lives(&mut world, view);
        // The restored one is dumped and restored in its turn: what it was before is remembered.
        let again = restored(&world.view, 50, FLOOR + (1 << 24));
        let lives: Vec<ClusterId> = lineage(&again).unwrap().into_iter().map(|life| life.cluster).collect();
        assert_eq!(lives, [ClusterId(1), ClusterId(2)]);
    }
}

/// It goes on: with a session of its own, the old one's are unknown, and ids that nobody has had.
fn lives(world: &mut World, view: MemoryView) {
    let old = world.session;
    world.view = view;
    let listed = world.list(ROOT_INODE).unwrap().len();
    let make = MakeNode {
        parent: ROOT_INODE,
        name: name("behind the restore"),
        kind: FileKind::File,
        mode: 0o644,
        umask: 0,
        rdev: 0,
        content: Bytes::new(),
        exclusive: true,
    };
    let make = Update::Make(make);
    assert_eq!(world.update(&Cred::root(), make.clone()), Err(FsError::SessionExpired), "session {old}");
    let opened = world.command(open_session());
    assert!(matches!(opened, Ok(UpdateReply::Session { session: SessionId(FLOOR), .. })), "{opened:?}");
    world.session = SessionId(FLOOR);
    let made = world.update(&Cred::root(), make);
    let first = InodeId(first_inode(FLOOR));
    assert!(matches!(&made, Ok(UpdateReply::Made { attr, .. }) if attr.inode == first), "{made:?}");
    assert_eq!(world.list(ROOT_INODE).unwrap().len(), listed + 1);
    assert_eq!(check(&world.view).unwrap(), Vec::<String>::new());
}

#[test]
fn half_of_a_dump_is_of_no_use_to_anybody() {
    let world = run(seed() ^ 0xd11d, 200, 63);
    let mut steps = steps_of(&world.view, 40, FLOOR);
    let last_part = steps.len() - 2;
    let mut view = empty_cluster();
    let refused = |view: &mut MemoryView, step: &RestoreStep, error: FsError| {
        let before = view.clone();
        assert_eq!(apply_to(view, T0 + 9, Op::Restore(step.clone())), Err(error), "{step:?}");
        let but_for_the_clock = |view: &MemoryView| {
            let superblock = superblock(view).unwrap().unwrap();
            let rest = view.records.iter().filter(|(key, _)| key[..] != [1]);
            let rest: Vec<_> = rest.map(|(key, value)| (key.clone(), value.clone())).collect();
            (SuperblockInfo { newest: Timestamp(0), ..superblock }, rest)
        };
        assert_eq!(but_for_the_clock(view), but_for_the_clock(&before), "what is refused changes nothing");
    };
    refused(&mut view, &steps[1], FsError::Invalid);
    refused(&mut view, steps.last().unwrap(), FsError::Invalid);
    apply_to(&mut view, T0 + 3, Op::Restore(steps[0].clone())).unwrap();
    refused(&mut view, &steps[2], FsError::Invalid);
    apply_to(&mut view, T0 + 4, Op::Restore(steps[1].clone())).unwrap();

    // Everything else waits, and `check` says why.
    assert_eq!(apply_to(&mut view, T0 + 5, open_session()), Err(FsError::Restoring));
    assert_eq!(apply_to(&mut view, T0 + 5, Op::FreeOrphans(vec![ROOT_INODE])), Err(FsError::Restoring));
    let found = Op::Found { cluster: ClusterId(3), hash_seed: 7, layout: Layout::default() };
    assert_eq!(apply_to(&mut view, T0 + 5, found), Err(FsError::Exists));
    assert!(check(&view).unwrap()[0].contains("being restored"));
    assert!(superblock(&view).unwrap().unwrap().restoring.is_some());

    // Another dump, a part that is not the next, a record that cannot be, an end before the end.
    let other = steps_of(&run(seed() ^ 0xd22d, 50, 63).view, 40, FLOOR);
    for step in &other {
        refused(&mut view, step, FsError::Busy);
    }
    refused(&mut view, &steps[last_part], FsError::Invalid);
    refused(&mut view, steps.last().unwrap(), FsError::Invalid);
    let RestoreStep::Part { dump, number, records: whole } = steps[2].clone() else { panic!("a part") };
    let no_table = Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0, 99]);
    for records in [whole.slice(1..), [&whole[..], &whole[..]].concat().into(), no_table] {
        refused(&mut view, &RestoreStep::Part { dump, number, records }, FsError::Invalid);
    }
    // A floor that the dump's cluster has reached already would give ids out twice.
    let mut low = empty_cluster();
    steps[0] = RestoreStep::Begin { dump: stamp_of(&world.view), floor: 1 };
    apply_to(&mut low, T0 + 3, Op::Restore(steps[0].clone())).unwrap();
    refused(&mut low, &steps[1], FsError::Invalid);
}

#[test]
fn only_an_empty_cluster_is_restored() {
    let world = run(seed() ^ 0xd33d, 100, 63);
    let begin = Op::Restore(steps_of(&world.view, 40, FLOOR)[0].clone());
    let mut used = run(seed() ^ 0xd44d, 20, 63).view;
    let before = used.clone();
    assert_eq!(apply_to(&mut used, T0 + 9, begin.clone()), Err(FsError::NotEmpty));
    assert_eq!(used, before);
    let told = pohmelfs::namespace::why_not_empty(&used).unwrap().unwrap();
    assert!(told.contains("files and directories") && told.contains("3 data servers"), "{told}");
    let mut view = empty_cluster();
    apply_to(&mut view, T0 + 3, open_session()).unwrap();
    assert_eq!(apply_to(&mut view, T0 + 9, begin.clone()), Err(FsError::NotEmpty));
    let restored = restored(&world.view, 40, FLOOR);
    assert_eq!(apply_to(&mut restored.clone(), T0 + 9, begin), Err(FsError::NotEmpty), "nor a second time");
}

/// A data server of the dump may have the id that a metadata server of the new cluster has.
#[test]
fn ids_of_servers_do_not_meet() {
    let world = run(seed() ^ 0xd55d, 30, 63);
    let mut view = empty_cluster();
    let address = NodeAddress("m11:1".into());
    let meta = MetaNode { node: NodeId(11), name: "meta-11".into(), address: address.clone(), http: address };
    apply_to(&mut view, T0 + 3, Op::PutMeta(meta)).unwrap();
    let steps = steps_of(&world.view, 40, FLOOR);
    let (end, before) = steps.split_last().unwrap();
    for step in before {
        apply_to(&mut view, T0 + 4, Op::Restore(step.clone())).unwrap();
    }
    assert_eq!(apply_to(&mut view, T0 + 5, Op::Restore(end.clone())), Err(FsError::NodeConflict));
    apply_to(&mut view, T0 + 6, Op::RemoveMeta(NodeId(11))).unwrap();
    assert_eq!(apply_to(&mut view, T0 + 7, Op::Restore(end.clone())), Ok(UpdateReply::Done));
    assert_eq!(check(&view).unwrap(), Vec::<String>::new());
}
