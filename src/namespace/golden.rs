//! Frozen bytes of the keys and records of the namespace. See `crate::golden`.
//!
//! Holds: every table that `keys.rs` names has a key and a value here.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;

use super::acl::{Extended, Named};
use super::dentry::HashRule;
use super::locks::{LockCount, StoredLock, Waiting};
use super::ops::fixture::Bench;
use super::records::tests::sample_inode;
use super::records::*;
use super::restore::{Lineage, Restored, Restoring};
use super::{BlockUse, Op, View, acl, block_refs, keys};
use crate::golden::{self, Sample};
use crate::types::*;

fn of<T: Record + PartialEq + std::fmt::Debug>(what: &str, record: &T) -> Sample {
    let bytes = record.encode();
    assert_eq!(T::decode(&bytes).unwrap(), *record);
    (if what.is_empty() { T::NAME.to_owned() } else { format!("{} ({what})", T::NAME) }, bytes.to_vec())
}

fn of_inode(what: &str, inode: &Inode) -> Sample {
    let bytes = inode.encode();
    assert_eq!(Inode::decode(&bytes).unwrap(), *inode);
    (format!("inode ({what})"), bytes.to_vec())
}

fn block() -> BlockRef {
    let id = BlockId { session: SessionId(1), index: 2 };
    BlockRef { id, group: GroupId(3), len: 1000, checksum: Checksum(0xdead_beef) }
}

fn superblock() -> Superblock {
    Superblock {
        cluster: ClusterId(0x0102),
        hash_seed: 3,
        hash_bits: 63,
        layout: Layout::default(),
        epoch: Epoch(4),
        newest: Timestamp(5),
        next_inode: InodeId(6),
        next_session: SessionId(7),
        inode_count: 8,
        used: 9,
        restoring: None,
    }
}

/// Of restores: one that is under way, before and behind the dump's own superblock, and one that has ended.
fn restores() -> Vec<Sample> {
    let tally = Tally { records: 70_000, hash: StateHash(0xabcd) };
    let dump = DumpStamp { cluster: ClusterId(0x0304), index: LogIndex(300), taken: Timestamp(5), tally };
    let restoring = Restoring {
        dump,
        floor: 1 << 50,
        next: 7,
        tally: Tally { records: 300, hash: StateHash(0xef) },
        last_key: Bytes::from_static(&[2, 0, 9]),
        superblock: None,
    };
    let with = |restoring| Superblock { restoring: Some(Box::new(restoring)), ..superblock() };
    let restored = Restored {
        cluster: ClusterId(0x0304),
        dump: StateHash(0xabcd),
        index: LogIndex(300),
        floor: 1 << 50,
        at: Timestamp(6),
    };
    vec![
        of("a restore has begun", &with(restoring.clone())),
        of("while it is restored", &with(Restoring { superblock: Some(superblock()), ..restoring })),
        of("", &Lineage { restored: vec![restored] }),
    ]
}

fn samples() -> Vec<Sample> {
    let address = NodeAddress("a:1".into());
    let acl = Extended {
        users: vec![Named { id: 300, perm: 6 }],
        group: 5,
        groups: vec![Named { id: 7, perm: 4 }],
    };
    let entry = Entry { inode: InodeId(300), kind: FileKind::Symlink, name: Name::new("ab").unwrap() };
    let orphan = Orphan { at: Timestamp(-1), sessions_below: SessionId(9), freeing: true, born: None };
    let born = Some(Born { session: SessionId(8), linkable: true });
    let attr = sample_inode(FileKind::File).attr(InodeId(4));
    let held = StoredLock {
        session: SessionId(1),
        owner: LockOwner { kind: LockKind::Posix, id: 9 },
        pid: 300,
        range: LockRange { first: 2, last: u64::MAX },
        write: true,
        waiting: None,
    };
    let waiting = Some(Waiting { request: RequestId(5), heeds_waiters: true });
    let node = |state| DataNode {
        node: NodeId(1),
        name: "d".into(),
        address: address.clone(),
        http: address.clone(),
        domain: DomainLabel("h".into()),
        capacity: Capacity { total: 3, free: 2, block_count: 1 },
        state,
        since: Timestamp(4),
    };
    let mut all = vec![
        of("", &superblock()),
        of_inode("untouched", &sample_inode(FileKind::File)),
        of_inode(
            "of a directory",
            &Inode { mode: 0o755, nlink: 3, size: 2, parent: InodeId(9), ..sample_inode(FileKind::Dir) },
        ),
        of_inode(
            "of a file",
            &Inode {
                uid: 1000,
                gid: 100,
                size: 1 << 40,
                used: 70_000,
                mtime: Timestamp(1_700_000_000_000_000_001),
                version: Version(300),
                home: Some(GroupId(5)),
                xattr_count: 2,
                freeing: true,
                ..sample_inode(FileKind::File)
            },
        ),
        of_inode(
            "of a symlink",
            &Inode { target: Bytes::from_static(b"to"), ..sample_inode(FileKind::Symlink) },
        ),
        of_inode("of a device", &Inode { rdev: 0x0103, ..sample_inode(FileKind::CharDev) }),
        of_inode("with an access list", &Inode { acl: Some(Box::new(acl)), ..sample_inode(FileKind::File) }),
        of("", &Slot { chain: 1, entry: Some(entry) }),
        of("tombstone", &Slot { chain: 2, entry: None }),
        of(
            "block",
            &StoredExtent { len: 900, source: ExtentSource::Block { block: block(), block_offset: 7 } },
        ),
        of("inline", &StoredExtent { len: 3, source: ExtentSource::Inline(Bytes::from_static(b"xyz")) }),
        of("zero", &StoredExtent { len: 70_000, source: ExtentSource::Zero }),
        of("", &Block { refs: 2, len: 1000, checksum: Checksum(0xdead_beef), group: GroupId(3) }),
        of("", &orphan),
        of("born without a dentry", &Orphan { born, ..orphan }),
        of("not yet freeing", &Orphan { freeing: false, ..orphan }),
        of("", &Session { ttl_ms: 9000, label: "me".into(), opened: Timestamp(5), oldest: RequestId(6) }),
        of("done", &StoredReply { behind: 1, reply: Ok(UpdateReply::Done) }),
        of("error", &StoredReply { behind: 0, reply: Err(FsError::Exists) }),
        of("made", &StoredReply { behind: 0, reply: Ok(UpdateReply::Made { attr, created: true }) }),
        of(
            "",
            &MetaNode { node: NodeId(1), name: "m".into(), address: address.clone(), http: address.clone() },
        ),
        of("", &Group { group: GroupId(1), members: vec![NodeId(2), NodeId(3)] }),
        of("", &Reclaim { group: GroupId(1) }),
        of("", &Label { label: "lab".into() }),
        of("held", &held),
        of("waiting", &StoredLock { waiting, ..held }),
        of("", &LockCount { count: 251 }),
        ("healthy groups".into(), Healthy::encode(&[GroupId(1), GroupId(258)]).to_vec()),
    ];
    for state in [NodeState::Up, NodeState::Suspect, NodeState::Down, NodeState::Draining, NodeState::Removed]
    {
        all.push(of(&format!("{state:?}"), &node(state)));
    }
    all.extend(restores());
    all
}

/// What no type of a record lays out, as operations store it, and each read back.
fn values() -> Vec<Sample> {
    let mut bench = Bench::new();
    bench.with_groups();
    let dir = bench.made(MakeNode { kind: FileKind::Dir, ..bench.file("dir") });
    let file = bench.make_file("file");
    let mut all = Vec::new();

    const NO_ID: u32 = u32::MAX;
    let plain = [(1, 7, NO_ID), (4, 5, NO_ID), (0x20, 1, NO_ID)];
    let named =
        [(1, 7, NO_ID), (2, 6, 300), (4, 5, NO_ID), (8, 4, 70_000), (0x10, 6, NO_ID), (0x20, 1, NO_ID)];
    for (what, inode, name, value) in [
        ("extended attribute", file, &b"user.a"[..], Bytes::from_static(b"value")),
        ("extended attribute (empty)", file, &b"user.a"[..], Bytes::new()),
        ("default access list", dir, acl::DEFAULT, acl::tests::value(&plain)),
        ("default access list (of named ones)", dir, acl::DEFAULT, acl::tests::value(&named)),
    ] {
        let name = Bytes::from_static(name);
        let set = SetXattr { inode, name: name.clone(), value: value.clone(), mode: XattrMode::Any };
        assert_eq!(bench.update(Update::SetXattr(set)), Ok(UpdateReply::Done));
        let stored = bench.view.get(&keys::xattr(inode, &name)).unwrap().unwrap();
        assert_eq!(bench.ask(&Query::GetXattr { inode, name }), Ok(QueryReply::Xattr(value)));
        all.push((what.to_owned(), stored.to_vec()));
    }

    let blocks = |indexes: [u64; 2]| indexes.map(|index| BlockId { session: bench.session, index });
    let (gone, there) = (blocks([1, 1023]), blocks([2, 1024]));
    for ids in [gone, there] {
        let extent = |(id, offset)| {
            let block = BlockRef { id, group: GroupId(1), len: 100, checksum: Checksum(4) };
            Extent { offset, len: 100, source: ExtentSource::Block { block, block_offset: 0 } }
        };
        let extents = ids.into_iter().zip([0, 100]).map(extent).collect();
        let publish = Publish { inode: file, extents, grow_to: None, append: false, mtime: None };
        assert!(bench.update(Update::Publish(publish)).is_ok());
    }
    assert!(bench.command(Op::Reclaimed(gone.to_vec())).is_ok());
    assert_eq!(block_refs(&bench.view, &gone).unwrap(), [BlockUse::Reclaimed; 2]);
    let bitmap = bench.view.get(&keys::reclaimed(gone[0])).unwrap().unwrap();
    all.push(("bitmap of reclaimed blocks".to_owned(), bitmap.to_vec()));

    // Where names stand in their directories: the hash has a way of its own for each range of lengths.
    let rule = HashRule::of(&superblock());
    for len in [1, 3, 8, 16, 17, 128, 129, 240, 241, 255] {
        let home = rule.home(&Name::new("n".repeat(len)).unwrap());
        all.push((format!("cookie of a name of {len} bytes"), home.0.to_be_bytes().to_vec()));
    }
    all
}

/// Each table and the name of a sample of its values. The format level has a file of its own (`ops/level.rs`).
const TABLES: [(u8, &str); 19] = [
    (keys::SUPERBLOCK[0], "superblock"),
    (keys::INODE, "inode (untouched)"),
    (keys::DENTRY, "dentry"),
    (keys::XATTR, "extended attribute"),
    (keys::EXTENT, "extent (block)"),
    (keys::BLOCK, "block"),
    (keys::ORPHAN, "orphan"),
    (keys::SESSION, "session"),
    (keys::REPLY, "reply (done)"),
    (keys::DATA_NODE, "data node (Up)"),
    (keys::META_NODE, "meta node"),
    (keys::GROUP, "group"),
    (keys::RECLAIM, "reclaim"),
    (keys::RECLAIMED, "bitmap of reclaimed blocks"),
    (keys::HEALTHY[0], "healthy groups"),
    (keys::LOCK, "lock (held)"),
    (keys::LOCK_COUNT, "lock count"),
    (keys::LABEL[0], "label"),
    (keys::LINEAGE[0], "lineage"),
];

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/namespace").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

/// The tables that there are, as `keys.rs` gives their numbers.
fn tables() -> BTreeSet<u8> {
    let number = |line: &str| {
        let (name, value) = line.strip_prefix("pub(super) const ")?.strip_suffix(';')?.split_once(": ")?;
        let value =
            value.strip_prefix("u8 = ").or_else(|| value.strip_prefix("&[u8] = &[")?.strip_suffix(']'))?;
        Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value}")))
    };
    source("keys.rs").lines().filter_map(number).collect()
}

/// Names of the records, as the sources give them.
fn names() -> Vec<String> {
    let sources = ["records.rs", "locks.rs", "restore.rs"].map(source).concat();
    let lines = sources.lines().map(str::trim).filter(|line| line.ends_with("\";"));
    lines.filter_map(|line| Some(line.split_once(" = \"")?.1.trim_end_matches("\";").to_owned())).collect()
}

#[test]
fn golden_records() {
    let all = samples();
    let names = names();
    assert!(names.len() >= 17, "the records were not read: {names:?}");
    for name in names {
        let is_it = |(sample, _): &Sample| *sample == name || sample.starts_with(&format!("{name} ("));
        assert!(all.iter().any(is_it), "record {name} has no frozen bytes: add a sample of it");
    }
    golden::check("records", all);
}

#[test]
fn golden_values() {
    let values = values();
    let samples: BTreeSet<String> =
        samples().into_iter().chain(values.iter().cloned()).map(|(name, _)| name).collect();
    let mut tables = tables();
    assert!(tables.remove(&keys::LEVEL[0]) && tables.len() >= 19, "keys.rs was not read: {tables:?}");
    for (table, name) in TABLES {
        assert!(tables.remove(&table), "table {table:#04x} is none of keys.rs");
        assert!(samples.contains(name), "there is no sample {name}");
    }
    assert!(tables.is_empty(), "tables {tables:?} have no frozen value: add a sample of each");
    golden::check("values", values);
}

#[test]
fn golden_keys() {
    let id = BlockId { session: SessionId(7), index: 0x0102_0304 };
    let keys = [
        ("superblock", keys::SUPERBLOCK.to_vec()),
        ("inode", keys::inode(InodeId(1)).to_vec()),
        ("dentry", keys::dentry(InodeId(2), Cookie(0x7fff_ffff_ffff_ffff)).to_vec()),
        ("extended attribute", keys::xattr(InodeId(3), b"user.a")),
        ("extent", keys::extent(InodeId(4), 4096).to_vec()),
        ("block", keys::block(id).to_vec()),
        ("orphan", keys::orphan(InodeId(5)).to_vec()),
        ("session", keys::session(SessionId(6)).to_vec()),
        ("reply", keys::reply(SessionId(6), RequestId(9)).to_vec()),
        ("data node", keys::data_node(NodeId(10)).to_vec()),
        ("meta node", keys::meta_node(NodeId(11)).to_vec()),
        ("group", keys::group(GroupId(12)).to_vec()),
        ("reclaim", keys::reclaim(id).to_vec()),
        ("reclaimed", keys::reclaimed(id).to_vec()),
        ("healthy groups", keys::HEALTHY.to_vec()),
        ("lock", keys::lock(InodeId(14), 15).to_vec()),
        ("lock count", keys::lock_count(SessionId(16), InodeId(17)).to_vec()),
        ("level", keys::LEVEL.to_vec()),
        ("label", keys::LABEL.to_vec()),
        ("lineage", keys::LINEAGE.to_vec()),
    ];
    let tags: BTreeSet<u8> = keys.iter().map(|(_, key)| key[0]).collect();
    assert_eq!(tags.len(), keys.len(), "each table has a tag of its own");
    assert_eq!(tags, tables(), "each table has a frozen key");
    golden::check("keys", keys.map(|(name, key)| (name.to_owned(), key)).to_vec());
}
