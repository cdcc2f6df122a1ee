//! Random commands on the namespace and on a naive tree in memory: both must answer the same and hold the same, and every
//! invariant must hold after each command.
//!
//! `SEED=7 STEPS=5000 cargo test --test namespace_model` repeats a run.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod namespace_support;
#[path = "namespace_support/restored.rs"]
mod restored;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use namespace_support::{World, check, name};
use pohmelfs::namespace::{
    BlockUse, Command, Key, MemoryView, Op, Txn, apply, block_refs, orphans, query, reclaim_queue,
};
use pohmelfs::types::*;

/// xorshift64*: the same numbers for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// The naive tree: no cookies, no extents, no counters.
#[derive(Clone, Debug)]
enum Node {
    Dir(BTreeMap<String, InodeId>),
    File(Vec<u8>),
    Link(String),
}

struct Model {
    nodes: BTreeMap<InodeId, Node>,
    /// Files made without a name that have none yet and may get one.
    unnamed: BTreeSet<InodeId>,
}

impl Model {
    fn dir(&self, id: InodeId) -> Result<&BTreeMap<String, InodeId>, FsError> {
        match self.nodes.get(&id) {
            None => Err(FsError::Stale),
            Some(Node::Dir(_)) if id != ROOT_INODE && self.links(id) == 0 => Err(FsError::NotFound),
            Some(Node::Dir(entries)) => Ok(entries),
            Some(_) => Err(FsError::NotDir),
        }
    }

    fn dir_mut(&mut self, id: InodeId) -> &mut BTreeMap<String, InodeId> {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(entries)) => entries,
            _ => panic!("{id} is no directory of the model"),
        }
    }

    fn is_dir(&self, id: InodeId) -> bool {
        matches!(self.nodes[&id], Node::Dir(_))
    }

    /// Dentries that name an inode, counted by looking at all of them.
    fn links(&self, id: InodeId) -> u32 {
        let named = |n: &Node| match n {
            Node::Dir(entries) => entries.values().filter(|i| **i == id).count(),
            _ => 0,
        };
        u32::try_from(self.nodes.values().map(named).sum::<usize>()).unwrap()
    }

    fn below(&self, inside: InodeId, outer: InodeId) -> bool {
        inside == outer
            || matches!(&self.nodes[&outer], Node::Dir(entries) if entries.values().any(|i| self.is_dir(*i) && self.below(inside, *i)))
    }

    fn make(&mut self, parent: InodeId, text: &str, node: Node, id: InodeId) -> Result<(), FsError> {
        if self.dir(parent)?.contains_key(text) {
            return Err(FsError::Exists);
        }
        self.dir_mut(parent).insert(text.into(), id);
        self.nodes.insert(id, node);
        Ok(())
    }

    fn unlink(&mut self, parent: InodeId, text: &str, dir: bool) -> Result<(), FsError> {
        let id = *self.dir(parent)?.get(text).ok_or(FsError::NotFound)?;
        match (&self.nodes[&id], dir) {
            (Node::Dir(entries), true) if !entries.is_empty() => return Err(FsError::NotEmpty),
            (Node::Dir(_), false) => return Err(FsError::IsDir),
            (Node::File(_) | Node::Link(_), true) => return Err(FsError::NotDir),
            _ => {}
        }
        self.dir_mut(parent).remove(text);
        Ok(())
    }

    fn link(&mut self, id: InodeId, parent: InodeId, text: &str) -> Result<(), FsError> {
        if !self.nodes.contains_key(&id) {
            return Err(FsError::Stale);
        }
        if self.dir(parent)?.contains_key(text) {
            return Err(FsError::Exists);
        }
        if self.is_dir(id) {
            return Err(FsError::NotOwner);
        }
        if self.links(id) == 0 && !self.unnamed.remove(&id) {
            return Err(FsError::NotFound);
        }
        self.dir_mut(parent).insert(text.into(), id);
        Ok(())
    }

    fn rename(
        &mut self,
        from: (InodeId, &str),
        to: (InodeId, &str),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.dir(from.0)?;
        self.dir(to.0)?;
        let moved = *self.dir(from.0)?.get(from.1).ok_or(FsError::NotFound)?;
        let target = self.dir(to.0)?.get(to.1).copied();
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(FsError::Exists);
        }
        if mode == RenameMode::Exchange && target.is_none() {
            return Err(FsError::NotFound);
        }
        if self.is_dir(moved) && self.below(to.0, moved) {
            return Err(FsError::Invalid);
        }
        if let Some(target) = target {
            if self.is_dir(target) && self.below(from.0, target) {
                return Err(if mode == RenameMode::Exchange { FsError::Invalid } else { FsError::NotEmpty });
            }
            if target == moved {
                return Ok(());
            }
            if mode == RenameMode::Exchange {
                self.dir_mut(from.0).insert(from.1.into(), target);
                self.dir_mut(to.0).insert(to.1.into(), moved);
                return Ok(());
            }
            match (self.is_dir(moved), self.is_dir(target)) {
                (true, false) => return Err(FsError::NotDir),
                (false, true) => return Err(FsError::IsDir),
                _ => {}
            }
            if matches!(&self.nodes[&target], Node::Dir(entries) if !entries.is_empty()) {
                return Err(FsError::NotEmpty);
            }
        }
        self.dir_mut(from.0).remove(from.1);
        self.dir_mut(to.0).insert(to.1.into(), moved);
        Ok(())
    }

    fn file(&mut self, id: InodeId) -> Result<&mut Vec<u8>, FsError> {
        match self.nodes.get_mut(&id) {
            None => Err(FsError::Stale),
            Some(Node::File(bytes)) => Ok(bytes),
            Some(Node::Dir(_)) => Err(FsError::IsDir),
            Some(Node::Link(_)) => Err(FsError::Invalid),
        }
    }
}

/// One random step on both; what each answered.
fn step(
    world: &mut World,
    model: &mut Model,
    dice: &mut Dice,
) -> (String, Result<(), FsError>, Result<(), FsError>) {
    let ids: Vec<InodeId> = model.nodes.keys().copied().collect();
    let dirs: Vec<InodeId> = ids.iter().copied().filter(|i| model.is_dir(*i)).collect();
    let files: Vec<InodeId> =
        ids.iter().copied().filter(|i| matches!(model.nodes[i], Node::File(_))).collect();
    let texts: Vec<String> = (0..7).map(|i| format!("n{i}")).collect();
    let a_dir = |dice: &mut Dice| if dice.below(20) == 0 { *dice.pick(&ids) } else { *dice.pick(&dirs) };
    let a_file = |dice: &mut Dice| {
        if files.is_empty() || dice.below(20) == 0 { *dice.pick(&ids) } else { *dice.pick(&files) }
    };
    let parent = a_dir(dice);
    let text = dice.pick(&texts).clone();
    let root = Cred::root();
    let next = pohmelfs::namespace::superblock(&world.view).unwrap().unwrap().next_inode;
    let (what, update, expected) = match dice.below(19) {
        17.. => {
            let (from, to) = (a_file(dice), a_file(dice));
            clone(model, dice, from, to)
        }
        16 => {
            let linkable = dice.below(4) > 0;
            let make = MakeUnnamed { parent, mode: 0o755, umask: 0, linkable };
            let expected = model.dir(parent).map(|_| ()).map(|()| {
                model.nodes.insert(next, Node::File(vec![]));
                if linkable {
                    model.unnamed.insert(next);
                }
            });
            ("unnamed", Update::MakeUnnamed(make), expected)
        }
        0..3 => {
            let content =
                vec![b'a' + u8::try_from(dice.below(26)).unwrap(); usize::try_from(dice.below(30)).unwrap()];
            let (kind, content, node) = match dice.below(4) {
                0 => (FileKind::Symlink, b"somewhere".to_vec(), Node::Link("somewhere".into())),
                1 => (FileKind::Dir, vec![], Node::Dir(BTreeMap::new())),
                _ => (FileKind::File, content.clone(), Node::File(content)),
            };
            let make = MakeNode {
                parent,
                name: name(&text),
                kind,
                mode: 0o755,
                umask: 0,
                rdev: 0,
                content: content.into(),
                exclusive: true,
            };
            ("make", Update::Make(make), model.make(parent, &text, node, next))
        }
        3..5 => {
            let dir = dice.below(2) == 0;
            (
                "unlink",
                Update::Unlink(Unlink { parent, name: name(&text), dir }),
                model.unlink(parent, &text, dir),
            )
        }
        5 => {
            let inode = a_file(dice);
            (
                "link",
                Update::Link(Link { inode, parent, name: name(&text) }),
                model.link(inode, parent, &text),
            )
        }
        6..9 => {
            let (to_parent, to_text) = (a_dir(dice), dice.pick(&texts).clone());
            let mode = *dice.pick(&[
                RenameMode::Replace,
                RenameMode::Replace,
                RenameMode::NoReplace,
                RenameMode::Exchange,
            ]);
            let rename = Rename {
                from_parent: parent,
                from_name: name(&text),
                to_parent,
                to_name: name(&to_text),
                mode,
            };
            ("rename", Update::Rename(rename), model.rename((parent, &text), (to_parent, &to_text), mode))
        }
        9..13 => {
            let inode = a_file(dice);
            publish(world, model, dice, inode)
        }
        13 => {
            let inode = a_file(dice);
            let size = dice.below(200);
            let set = SetAttr { size: Some(size), ..SetAttr::default() };
            let expected = model.file(inode).map(|bytes| bytes.resize(usize::try_from(size).unwrap(), 0));
            ("truncate", Update::SetAttrs(SetAttrs { inode, set, by_handle: false }), expected)
        }
        _ => {
            let inode = a_file(dice);
            range(model, dice, inode)
        }
    };
    let told = format!("{what}: {update:?}");
    let reply = world.update(&root, update);
    (told, reply.map(|_| ()), expected)
}

fn publish(
    world: &mut World,
    model: &mut Model,
    dice: &mut Dice,
    inode: InodeId,
) -> (&'static str, Update, Result<(), FsError>) {
    let append = dice.below(4) == 0;
    let mut extents = Vec::new();
    let mut writes = Vec::new();
    for _ in 0..=dice.below(3) {
        let offset = if append { 0 } else { dice.below(150) };
        let len = 1 + dice.below(60);
        let fill: Vec<u8> = (0..len).map(|_| b'A' + u8::try_from(dice.below(26)).unwrap()).collect();
        let source = match dice.below(6) {
            0 => ExtentSource::Zero,
            1..3 => ExtentSource::Inline(Bytes::from(fill.clone())),
            _ => {
                let front = dice.below(5);
                let mut whole = vec![b'?'; usize::try_from(front).unwrap()];
                whole.extend_from_slice(&fill);
                whole.extend_from_slice(b"??");
                let block = world.block(&whole);
                ExtentSource::Block { block, block_offset: u32::try_from(front).unwrap() }
            }
        };
        let written = if source == ExtentSource::Zero { vec![0; fill.len()] } else { fill };
        extents.push(Extent { offset, len, source });
        writes.push((usize::try_from(offset).unwrap(), written));
    }
    let grow_to = if dice.below(4) == 0 { Some(dice.below(200)) } else { None };
    let expected = model.file(inode).map(|bytes| {
        let base = if append { bytes.len() } else { 0 };
        for (at, written) in writes {
            let end = base + at + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[base + at..end].copy_from_slice(&written);
        }
        let grown = usize::try_from(grow_to.unwrap_or(0)).unwrap();
        if bytes.len() < grown {
            bytes.resize(grown, 0);
        }
    });
    ("publish", Update::Publish(Publish { inode, extents, grow_to, append, mtime: None }), expected)
}

fn clone(
    model: &mut Model,
    dice: &mut Dice,
    from: InodeId,
    to: InodeId,
) -> (&'static str, Update, Result<(), FsError>) {
    let (from_offset, to_offset, len) = (dice.below(60), dice.below(150), dice.below(60));
    let mut expected = || {
        let source = model.file(from)?.clone();
        let target = model.file(to)?;
        let at = usize::try_from(from_offset).unwrap();
        let end = if len == 0 { source.len() } else { at + usize::try_from(len).unwrap() };
        let to_at = usize::try_from(to_offset).unwrap();
        let Some(bytes) = source.get(at..end) else { return Err(FsError::Invalid) };
        let to_end = to_at + bytes.len();
        if from == to && at < to_end && to_at < end {
            return Err(FsError::Invalid);
        }
        if !bytes.is_empty() {
            target.resize(target.len().max(to_end), 0);
            target[to_at..to_end].copy_from_slice(bytes);
        }
        Ok(())
    };
    ("clone", Update::Clone(CloneRange { from, from_offset, to, to_offset, len }), expected())
}

fn range(model: &mut Model, dice: &mut Dice, inode: InodeId) -> (&'static str, Update, Result<(), FsError>) {
    let (offset, len) = (dice.below(150), dice.below(60));
    let modes = [
        FallocateMode::Allocate,
        FallocateMode::AllocateKeepSize,
        FallocateMode::Punch,
        FallocateMode::Zero,
        FallocateMode::ZeroKeepSize,
        FallocateMode::Collapse,
        FallocateMode::Insert,
    ];
    let mode = *dice.pick(&modes);
    let (from, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
    let expected = if len == 0 && model.nodes.contains_key(&inode) {
        Err(FsError::Invalid)
    } else {
        model.file(inode).and_then(|bytes| {
            let size = bytes.len();
            let zero = |bytes: &mut Vec<u8>| bytes[from.min(size)..end.min(size)].fill(0);
            match mode {
                FallocateMode::Allocate => bytes.resize(size.max(end), 0),
                FallocateMode::AllocateKeepSize => {}
                FallocateMode::Punch | FallocateMode::ZeroKeepSize => zero(bytes),
                FallocateMode::Zero => {
                    zero(bytes);
                    bytes.resize(size.max(end), 0);
                }
                FallocateMode::Collapse if end >= size => return Err(FsError::Invalid),
                FallocateMode::Collapse => drop(bytes.drain(from..end)),
                FallocateMode::Insert if from >= size => return Err(FsError::Invalid),
                FallocateMode::Insert => drop(bytes.splice(from..from, vec![0; end - from])),
            }
            Ok(())
        })
    };
    ("range", Update::Range(RangeChange { inode, offset, len, mode }), expected)
}

/// Everything that can be seen of both is the same.
fn compare(world: &World, model: &Model) {
    for (id, node) in &model.nodes {
        let attr = world.attr(*id).unwrap();
        match node {
            Node::Dir(entries) => {
                let links = model.links(*id);
                if links == 0 && *id != ROOT_INODE {
                    assert_eq!((attr.nlink, world.list(*id)), (0, Err(FsError::NotFound)));
                    continue;
                }
                let subdirs = entries.values().filter(|i| model.is_dir(**i)).count();
                assert_eq!(attr.nlink as usize, 2 + subdirs, "directory {id}");
                let listed: BTreeMap<String, InodeId> =
                    world.list(*id).unwrap().into_iter().map(|e| (e.name.to_string(), e.inode)).collect();
                assert_eq!(&listed, entries, "directory {id}");
                for (text, inode) in entries {
                    let lookup = Query::Lookup { parent: *id, name: name(text) };
                    let found = world.ask(&Cred::root(), &lookup);
                    assert!(matches!(found, Ok(QueryReply::Found(f)) if f.attr.inode == *inode));
                }
            }
            Node::File(bytes) => {
                assert_eq!(attr.nlink, model.links(*id));
                assert_eq!(attr.size, bytes.len() as u64);
                assert_eq!(
                    String::from_utf8_lossy(&world.bytes(*id)),
                    String::from_utf8_lossy(bytes),
                    "file {id}"
                );
            }
            Node::Link(target) => {
                let read = world.ask(&Cred::root(), &Query::ReadLink { inode: *id });
                assert_eq!(read, Ok(QueryReply::Target(Bytes::from(target.clone()))));
            }
        }
    }
}

/// Now and then what the leader's workers do: free orphans, reclaim blocks.
fn housekeeping(world: &mut World, model: &mut Model) {
    let mut gone: Vec<InodeId> = orphans(&world.view, None, 3).unwrap().iter().map(|o| o.inode).collect();
    gone.push(ROOT_INODE);
    world.command(Op::FreeOrphans(gone.clone())).unwrap();
    for id in gone.iter().filter(|id| **id != ROOT_INODE) {
        assert!(model.nodes.remove(id).is_some());
        model.unnamed.remove(id);
        assert_eq!(world.attr(*id), Err(FsError::Stale));
    }
    let queued: Vec<BlockId> = reclaim_queue(&world.view, None, 5).unwrap().iter().map(|u| u.block).collect();
    world.command(Op::Reclaimed(queued.clone())).unwrap();
    for block_use in block_refs(&world.view, &queued).unwrap() {
        assert_eq!(block_use, BlockUse::Reclaimed);
    }
}

fn seed() -> u64 {
    std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x5eed)
}

fn steps(default: u64) -> u64 {
    std::env::var("STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

fn run(seed: u64, steps: u64, hash_bits: u8) -> World {
    println!("SEED={seed} STEPS={steps} hash bits {hash_bits}");
    let mut world = World::new(hash_bits);
    let mut model =
        Model { nodes: BTreeMap::from([(ROOT_INODE, Node::Dir(BTreeMap::new()))]), unnamed: BTreeSet::new() };
    let mut dice = Dice(seed | 1);
    for n in 0..steps {
        let before = world.contents();
        let (told, got, expected) = step(&mut world, &mut model, &mut dice);
        assert_eq!(got, expected, "step {n}: {told}");
        if got.is_err() {
            assert_eq!(world.contents(), before, "step {n} failed and left something: {told}");
        }
        let bad = check(&world.view);
        assert!(bad.is_empty(), "step {n}: {told}: {bad:#?}");
        if n % 7 == 0 {
            compare(&world, &model);
        }
        // Whatever was sent before may arrive again.
        let back = usize::try_from(1 + dice.below(3)).unwrap().min(world.log.len());
        let again = world.log[world.log.len() - back].clone();
        if let Op::Client { update, .. } = &again.op
            && !matches!(update, Update::OpenSession(_))
        {
            let whole = world.view.clone();
            let mut txn = Txn::new(&world.view);
            apply(&mut txn, &again).unwrap().ok();
            assert_eq!(txn.finish(), [], "step {n}: a resend changed something: {again:?}");
            assert_eq!(world.view, whole);
        }
        if n % 31 == 30 {
            housekeeping(&mut world, &mut model);
        }
    }
    compare(&world, &model);
    world
}

#[test]
fn random_commands_agree_with_a_naive_tree() {
    run(seed(), steps(1500), 63);
}

#[test]
fn they_agree_when_all_names_collide() {
    run(seed() ^ 0xabcdef, steps(1500), 2);
}

/// Two voters get the same log in batches of different sizes: the same bytes, and the same changes in all.
#[test]
fn batches_do_not_matter() {
    let one = run(seed() ^ 0x77, 600, 63);
    for batch in [1, 3, 64, usize::MAX] {
        let mut view = MemoryView::default();
        let mut union: BTreeMap<Key, (Option<Bytes>, Option<Bytes>)> = BTreeMap::new();
        for commands in one.log.chunks(batch.min(one.log.len())) {
            let mut txn = Txn::new(&view);
            for command in commands {
                apply(&mut txn, command).unwrap().ok();
            }
            let changes = txn.finish();
            for change in &changes {
                let entry = union.entry(change.key.clone()).or_insert((change.old.clone(), None));
                entry.1 = change.new.clone();
            }
            view.store(&changes);
        }
        assert_eq!(view, one.view, "batches of {batch}");
        union.retain(|_, (old, new)| old != new);
        let all: BTreeMap<Key, (Option<Bytes>, Option<Bytes>)> =
            view.records.iter().map(|(k, v)| (Key::from(&k[..]), (None, Some(v.clone())))).collect();
        assert_eq!(union, all, "batches of {batch}");
    }
}

/// A listing goes on behind its cookie whatever is made and removed meanwhile: what stays is seen exactly once.
#[test]
fn a_listing_survives_inserts_and_removes() {
    for hash_bits in [63, 3] {
        let mut world = World::new(hash_bits);
        let mut dice = Dice(seed() | 1);
        let root = Cred::root();
        let make = |world: &mut World, text: &str| {
            let make = MakeNode {
                parent: ROOT_INODE,
                name: name(text),
                kind: FileKind::File,
                mode: 0o644,
                umask: 0,
                rdev: 0,
                content: Bytes::new(),
                exclusive: true,
            };
            world.update(&root, Update::Make(make)).unwrap();
        };
        for i in 0..40 {
            make(&mut world, &format!("stays{i}"));
            make(&mut world, &format!("goes{i}"));
        }
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let (mut after, mut fresh) = (Cookie(0), 0);
        loop {
            let page = Query::ReadDir { inode: ROOT_INODE, after, limit: 4, with_attrs: false };
            let Ok(QueryReply::Page { entries, end }) = world.ask(&root, &page) else { panic!("no page") };
            for entry in entries {
                after = entry.cookie;
                *seen.entry(entry.name.to_string()).or_default() += 1;
            }
            if end {
                break;
            }
            let gone = format!("goes{}", dice.below(40));
            world
                .update(&root, Update::Unlink(Unlink { parent: ROOT_INODE, name: name(&gone), dir: false }))
                .ok();
            fresh += 1;
            make(&mut world, &format!("fresh{fresh}"));
        }
        for i in 0..40 {
            assert_eq!(seen.get(&format!("stays{i}")), Some(&1));
        }
        assert!(seen.values().all(|n| *n == 1), "{seen:?}");
    }
}

mod random_bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").map_or(400, |n| n.parse().unwrap()), failure_persistence: None, ..ProptestConfig::default() })]

        /// A damaged record is an error, never a panic: of any table, read by any question, command or check.
        #[test]
        fn damaged_records_never_panic(at in any::<prop::sample::Index>(), value in prop::collection::vec(any::<u8>(), 0..80), keep_version in any::<bool>()) {
            let mut world = WORLD.with(|w| MemoryView { records: w.records.clone() });
            let key = at.get(&world.records.keys().cloned().collect::<Vec<_>>()).clone();
            let mut value = value;
            if keep_version && !value.is_empty() {
                value[0] = 1;
            }
            world.records.insert(key, value.into());
            use_all(&world);
        }

        /// Numbers of a record that were made as great as they can be are an error or are borne, never a panic: a sum may not pass its end.
        #[test]
        fn huge_numbers_in_records_never_panic(at in any::<prop::sample::Index>(), places in prop::collection::vec((any::<prop::sample::Index>(), 0..4usize), 1..3)) {
            let mut world = WORLD.with(|w| MemoryView { records: w.records.clone() });
            let (key, value) = at.get(&world.records.iter().map(|(k, v)| (k.clone(), v.to_vec())).collect::<Vec<_>>()).clone();
            let mut value = value;
            for (place, width) in places {
                let huge: &[u8] = [&[0xfd_u8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0xfc, 0xff, 0xff, 0xff, 0xff], &[0xfb, 0xff, 0xff], &[0]][width];
                let i = place.index(value.len());
                value.splice(i..=i, huge.iter().copied());
            }
            world.records.insert(key, value.into());
            use_all(&world);
        }

        /// Random bytes that happen to be a command are applied without a panic and without breaking anything.
        #[test]
        fn random_commands_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let commands = COMMANDS.with(Clone::clone);
            let mut mutated = codec::encode(at.get(&commands)).unwrap();
            for (index, byte) in flips {
                let i = index.index(mutated.len());
                mutated[i] = byte;
            }
            for bytes in [bytes, mutated] {
                let Ok(command) = codec::decode::<Command>(&bytes) else { continue };
                let mut view = WORLD.with(Clone::clone);
                let mut txn = Txn::new(&view);
                let _ = apply(&mut txn, &command);
                let changes = txn.finish();
                view.store(&changes);
                prop_assert_eq!(check(&view), Vec::<String>::new(), "{:?}", command);
            }
        }
    }

    /// Every check, question and command of the log on this state, whatever they answer.
    fn use_all(world: &MemoryView) {
        let _ = pohmelfs::namespace::check(world);
        let _ = pohmelfs::namespace::map(world);
        let _ = pohmelfs::namespace::sessions(world);
        let _ = query(
            world,
            &Cred::root(),
            &Query::ReadDir { inode: ROOT_INODE, after: Cookie(0), limit: 9, with_attrs: true },
        );
        for command in COMMANDS.with(Clone::clone) {
            let mut txn = Txn::new(world);
            let _ = apply(&mut txn, &command);
            txn.finish();
        }
    }

    thread_local! {
        static WORLD: MemoryView = run(1, 150, 4).view;
        static COMMANDS: Vec<Command> = {
            let mut log = run(1, 150, 4).log;
            // As new requests, or they would all be resends.
            for (i, command) in log.iter_mut().enumerate() {
                if let Op::Client { request, lowest_unanswered, .. } = &mut command.op {
                    *request = RequestId(1000 + i as u64);
                    *lowest_unanswered = RequestId(900);
                }
            }
            log.split_off(log.len() - 40)
        };
    }
}
