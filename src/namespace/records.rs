//! The stored records: what each means, and its bytes.
//!
//! Every record is a version byte and the fields in the encoding of `types::codec`. A change of a record's fields takes
//! a new version and a line in its `decode` that reads the older one: records of both versions stand side by side until
//! they are rewritten.
//!
//! Holds: a record is below 4.5 KiB (the longest are an inline extent and a symlink), which the database wants.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ViewError;
use super::acl::Extended;
use super::restore::Restoring;
use super::txn::corrupt;
use crate::types::{
    Attr, BlockId, BlockRef, Checksum, ClusterId, DataNode, Epoch, ExtentSource, FileKind, Group, GroupId,
    InodeId, Layout, MetaNode, Name, RequestId, SessionId, Timestamp, UpdateResult, Version, codec,
};

/// A type that is stored under a key.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// What `encode` writes in front.
    const VERSION: u8 = 1;
    /// For errors.
    const NAME: &'static str;

    /// The record's bytes.
    fn encode(&self) -> Bytes {
        encode(Self::VERSION, self)
    }

    /// The record whose bytes these are.
    fn decode(bytes: &[u8]) -> Result<Self, ViewError> {
        decode(Self::VERSION, Self::NAME, bytes)
    }
}

fn encode<T: Serialize>(version: u8, record: &T) -> Bytes {
    let mut out = Vec::with_capacity(96);
    out.push(version);
    codec::encode_into(record, &mut out).expect("a record of ours is far below the codec's limit");
    Bytes::from(out)
}

fn decode<T: DeserializeOwned>(known: u8, name: &str, bytes: &[u8]) -> Result<T, ViewError> {
    let bad = |reason: String| ViewError { reason: format!("{name} record: {reason}") };
    match bytes.split_first() {
        Some((&version, rest)) if version == known => codec::decode(rest).map_err(|e| bad(e.to_string())),
        Some((version, _)) => Err(bad(format!("version {version} is not known to this program"))),
        None => Err(bad("empty".into())),
    }
}

macro_rules! records {
    ($($record:ty = $name:literal;)*) => {
        $(impl Record for $record { const NAME: &'static str = $name; })*
    };
}

records! {
    StoredInode = "inode";
    StoredExtent = "extent";
    Block = "block";
    Orphan = "orphan";
    Session = "session";
    StoredReply = "reply";
    DataNode = "data node";
    MetaNode = "meta node";
    Group = "group";
    Reclaim = "reclaim";
    Label = "label";
}

/// Identity and counters: written once for a run of commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Superblock {
    pub(super) cluster: ClusterId,
    pub(super) hash_seed: u64,
    /// Bits of the name hash that count: 63, fewer only in tests that want collisions.
    pub(super) hash_bits: u8,
    pub(super) layout: Layout,
    pub(super) epoch: Epoch,
    /// The newest time that a command has had.
    pub(super) newest: Timestamp,
    pub(super) next_inode: InodeId,
    pub(super) next_session: SessionId,
    pub(super) inode_count: u64,
    /// Bytes that extents cover, reserved ones among them: a few sparse files may have more than a u64 counts.
    pub(super) used: u128,
    /// The namespace is being restored from a dump, and is of no use meanwhile: then it is version 2 of its record.
    #[serde(skip)]
    pub(super) restoring: Option<Box<Restoring>>,
}

/// A superblock while its namespace is being restored.
#[derive(Serialize, Deserialize)]
struct SuperblockRestoring {
    superblock: Superblock,
    restoring: Box<Restoring>,
}

impl Record for SuperblockRestoring {
    const VERSION: u8 = 2;
    const NAME: &'static str = "superblock";
}

impl Record for Superblock {
    const NAME: &'static str = "superblock";

    fn encode(&self) -> Bytes {
        match &self.restoring {
            None => encode(Self::VERSION, self),
            Some(restoring) => {
                SuperblockRestoring { superblock: self.clone(), restoring: restoring.clone() }.encode()
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, ViewError> {
        if bytes.first() == Some(&SuperblockRestoring::VERSION) {
            let SuperblockRestoring { superblock, restoring } = SuperblockRestoring::decode(bytes)?;
            return Self { restoring: Some(restoring), ..superblock }.checked();
        }
        decode::<Self>(Self::VERSION, Self::NAME, bytes)?.checked()
    }
}

impl Superblock {
    /// This one, if its counters can be added to: no cluster lives long enough to bring one near its end, damage does.
    fn checked(self) -> Result<Self, ViewError> {
        const ROOM: u64 = 1 << 32;
        let numbers = [self.epoch.0, self.next_inode.0, self.next_session.0, self.inode_count];
        if numbers.iter().any(|n| *n > u64::MAX - ROOM) || self.used > u128::MAX >> 1 {
            return Err(corrupt(format!(
                "superblock record: a counter of {numbers:?}, {} is at its end",
                self.used
            )));
        }
        Ok(self)
    }
}

/// Identity and attributes of an inode, as the code handles it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    /// Of a directory: its dentries.
    pub(super) size: u64,
    /// Bytes that its extents cover.
    pub(super) used: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) btime: Timestamp,
    pub(super) version: Version,
    /// Of a directory: the one that holds its dentry; the root's is itself.
    pub(super) parent: InodeId,
    /// Of a symlink.
    pub(super) target: Bytes,
    /// Of a file: the group where its first block went, a hint for the servers of a lookup.
    pub(super) home: Option<GroupId>,
    /// Extended attributes it has: most have none, and are spared the look.
    pub(super) xattr_count: u16,
    /// What its access list says beyond `mode`.
    pub(super) acl: Option<Box<Extended>>,
    /// An orphan whose extents are going: nobody can use it any more.
    pub(super) freeing: bool,
}

/// An inode as it is stored: timestamps as distances from the creation, most of them 0 in an inode that was never touched.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredInode {
    kind: FileKind,
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    rdev: u64,
    size: u64,
    used: u64,
    btime: i64,
    atime: i64,
    mtime: i64,
    ctime: i64,
    version: u64,
    parent: u64,
    target: Bytes,
    home: Option<GroupId>,
    xattr_count: u16,
    freeing: bool,
}

/// An inode with an access list: version 2 of its record. Without one it is version 1, as most are.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredInodeAcl {
    inode: StoredInode,
    acl: Box<Extended>,
}

impl Record for StoredInodeAcl {
    const VERSION: u8 = 2;
    const NAME: &'static str = "inode";
}

impl Inode {
    /// Its stored bytes.
    pub(super) fn encode(&self) -> Bytes {
        let since = |t: Timestamp| t.0.wrapping_sub(self.btime.0);
        let inode = StoredInode {
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            used: self.used,
            btime: self.btime.0,
            atime: since(self.atime),
            mtime: since(self.mtime),
            ctime: since(self.ctime),
            version: self.version.0,
            parent: self.parent.0,
            target: self.target.clone(),
            home: self.home,
            xattr_count: self.xattr_count,
            freeing: self.freeing,
        };
        match &self.acl {
            None => inode.encode(),
            Some(acl) => StoredInodeAcl { inode, acl: acl.clone() }.encode(),
        }
    }

    /// The inode whose stored bytes these are.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ViewError> {
        let (s, acl) = if bytes.first() == Some(&StoredInodeAcl::VERSION) {
            let StoredInodeAcl { inode, acl } = StoredInodeAcl::decode(bytes)?;
            (inode, Some(acl))
        } else {
            (StoredInode::decode(bytes)?, None)
        };
        let time = |since: i64| Timestamp(s.btime.wrapping_add(since));
        Ok(Self {
            kind: s.kind,
            mode: s.mode,
            nlink: s.nlink,
            uid: s.uid,
            gid: s.gid,
            rdev: s.rdev,
            size: s.size,
            used: s.used,
            atime: time(s.atime),
            mtime: time(s.mtime),
            ctime: time(s.ctime),
            btime: Timestamp(s.btime),
            version: Version(s.version),
            parent: InodeId(s.parent),
            target: s.target,
            home: s.home,
            xattr_count: s.xattr_count,
            acl,
            freeing: s.freeing,
        })
    }

    /// What `stat` shows of it.
    pub(super) fn attr(&self, inode: InodeId) -> Attr {
        Attr {
            inode,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            used: self.used,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            version: self.version,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }

    /// A directory: `dentries` more and, among them, `dirs` more of directories.
    pub(super) fn count_dentries(&mut self, dentries: i64, dirs: i32) -> Result<(), ViewError> {
        match (self.size.checked_add_signed(dentries), self.nlink.checked_add_signed(dirs)) {
            (Some(size), Some(nlink)) => (self.size, self.nlink) = (size, nlink),
            _ => {
                let Self { size, nlink, .. } = self;
                return Err(corrupt(format!(
                    "a directory of {size} dentries and {nlink} links cannot have {dentries} and {dirs} more"
                )));
            }
        }
        Ok(())
    }

    /// Its contents changed at `at` (and so its attributes).
    pub(super) fn modified(&mut self, at: Timestamp) {
        self.mtime = at;
        self.changed(at);
    }

    /// Its attributes changed at `at`.
    pub(super) fn changed(&mut self, at: Timestamp) {
        self.ctime = at;
        self.version = Version(self.version.0.wrapping_add(1));
    }
}

/// A place in the order of a directory. See `dentry.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    /// Names whose home is here stand at most this many places further.
    pub(super) chain: u32,
    /// None: a tombstone that only keeps `chain`.
    pub(super) entry: Option<Entry>,
}

impl Slot {
    /// Places that a name may stand behind its home. Of 2^63 places, so many in a row are not taken by chance.
    pub(super) const CHAIN_MAX: u32 = 1 << 16;
}

impl Record for Slot {
    const NAME: &'static str = "dentry";

    fn decode(bytes: &[u8]) -> Result<Self, ViewError> {
        let slot: Self = decode(Self::VERSION, Self::NAME, bytes)?;
        // As many reads as it says follow.
        if slot.chain > Self::CHAIN_MAX {
            return Err(corrupt(format!("dentry record: a chain of {} places", slot.chain)));
        }
        Ok(slot)
    }
}

/// A dentry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) inode: InodeId,
    pub(super) kind: FileKind,
    pub(super) name: Name,
}

/// An extent without what its key tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredExtent {
    pub(super) len: u64,
    pub(super) source: ExtentSource,
}

/// A block that extents refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    /// Extents that refer to it, at least 1.
    pub(super) refs: u64,
    pub(super) len: u32,
    pub(super) checksum: Checksum,
    pub(super) group: GroupId,
}

impl Block {
    /// The whole reference.
    pub(super) fn block_ref(&self, id: BlockId) -> BlockRef {
        BlockRef { id, group: self.group, len: self.len, checksum: self.checksum }
    }

    /// True if `block` says the same of it.
    pub(super) fn agrees(&self, block: &BlockRef) -> bool {
        (self.len, self.checksum, self.group) == (block.len, block.checksum, block.group)
    }
}

/// An inode without a dentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Orphan {
    /// When it lost its last dentry, or began without one.
    pub(super) at: Timestamp,
    /// Sessions open then have ids below this.
    pub(super) sessions_below: SessionId,
    pub(super) freeing: bool,
    /// How it began, if it never had a dentry.
    pub(super) born: Option<Born>,
}

/// The beginning of an inode without a dentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Born {
    /// Who made it, and alone may hold it.
    pub(super) session: SessionId,
    /// That session may give it a dentry.
    pub(super) linkable: bool,
}

/// A client's registered life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) ttl_ms: u32,
    pub(super) label: String,
    pub(super) opened: Timestamp,
    /// Replies below this are gone.
    pub(super) oldest: RequestId,
}

/// A reply to be given again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredReply {
    /// How far below the request the lowest unanswered one was: what the session said with this request.
    pub(super) behind: u64,
    pub(super) reply: UpdateResult,
}

/// What the cluster is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    pub(super) label: String,
}

/// A block that waits for its replicas to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reclaim {
    pub(super) group: GroupId,
}

/// Groups whose members are all Up, as 4-byte ids behind the version byte: a lookup picks one without decoding the rest.
pub(super) struct Healthy;

impl Healthy {
    /// Groups kept: 4 KiB of ids. Of more, evenly spaced ones are kept, and the load is still spread over them.
    pub(super) const MAX: usize = 1024;

    /// The record of these groups, in order.
    pub(super) fn encode(groups: &[GroupId]) -> Bytes {
        let kept = groups.len().min(Self::MAX);
        let mut out = Vec::with_capacity(1 + 4 * kept);
        out.push(1);
        for i in 0..kept {
            out.extend_from_slice(&groups[i * groups.len() / kept].0.to_be_bytes());
        }
        Bytes::from(out)
    }

    /// The group that `rank` falls on.
    pub(super) fn pick(record: &[u8], rank: u64) -> Result<Option<GroupId>, ViewError> {
        let bad = |reason| Err(ViewError { reason: format!("healthy groups record: {reason}") });
        match record.split_first() {
            Some((1, ids)) => {
                let (ids, rest) = ids.as_chunks::<4>();
                if !rest.is_empty() {
                    return bad("its length is wrong");
                }
                let index = usize::try_from(rank % (ids.len().max(1) as u64)).unwrap_or(0);
                Ok(ids.get(index).map(|id| GroupId(u32::from_be_bytes(*id))))
            }
            Some(_) => bad("version not known to this program"),
            None => bad("empty"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::acl::Named;
    use super::*;
    use crate::types::{Capacity, DomainLabel, FsError, NodeAddress, NodeId, NodeState, UpdateReply};

    /// An inode of root with mode 0 that was never touched.
    pub(in crate::namespace) fn sample_inode(kind: FileKind) -> Inode {
        let at = Timestamp(1_700_000_000_000_000_000);
        Inode {
            kind,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            used: 0,
            atime: at,
            mtime: at,
            ctime: at,
            btime: at,
            version: Version(1),
            parent: InodeId(0),
            target: Bytes::new(),
            home: None,
            xattr_count: 0,
            acl: None,
            freeing: false,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Fails unless `record` is stored as these bytes, in hexadecimal, and read back from them.
    pub(in crate::namespace) fn frozen<T: Record + PartialEq + std::fmt::Debug>(record: &T, bytes: &str) {
        assert_eq!(hex(&record.encode()), bytes, "{record:?}");
        assert_eq!(T::decode(&record.encode()).unwrap(), *record);
    }

    /// What is stored on disks of clusters that run: a difference here needs a new version, not a new expectation.
    #[test]
    fn record_bytes_are_frozen() {
        let layout = Layout::default();
        frozen(
            &Superblock {
                cluster: ClusterId(0x0102),
                hash_seed: 3,
                hash_bits: 63,
                layout,
                epoch: Epoch(4),
                newest: Timestamp(5),
                next_inode: InodeId(6),
                next_session: SessionId(7),
                inode_count: 8,
                used: 9,
                restoring: None,
            },
            "01fb0201033f0302fc00004000040a06070809",
        );
        let inode = Inode {
            mode: 0o755,
            nlink: 3,
            ctime: Timestamp(1_700_000_000_000_000_001),
            target: Bytes::from_static(b"to"),
            home: Some(GroupId(5)),
            ..sample_inode(FileKind::Dir)
        };
        assert_eq!(hex(&inode.encode()), "0101fbed01030000000000fd0000546cfc392f2f000002010002746f01050000");
        assert_eq!(Inode::decode(&inode.encode()).unwrap(), inode);
        let acl = Extended {
            users: vec![Named { id: 300, perm: 6 }],
            group: 5,
            groups: vec![Named { id: 7, perm: 4 }],
        };
        let inode = Inode { acl: Some(Box::new(acl)), ..sample_inode(FileKind::File) };
        assert_eq!(
            hex(&inode.encode()),
            "020000010000000000fd0000546cfc392f2f00000001000000000001fb2c010605010704"
        );
        assert_eq!(Inode::decode(&inode.encode()).unwrap(), inode);
        let name = Name::new("ab").unwrap();
        let entry = Some(Entry { inode: InodeId(300), kind: FileKind::Symlink, name });
        frozen(&Slot { chain: 1, entry }, "010101fb2c0102026162");
        let block = BlockRef {
            id: BlockId { session: SessionId(1), index: 2 },
            group: GroupId(3),
            len: 1000,
            checksum: Checksum(0xdead_beef),
        };
        let source = ExtentSource::Block { block, block_offset: 7 };
        frozen(&StoredExtent { len: 900, source }, "01fb840300010203fbe803fcefbeadde07");
        let source = ExtentSource::Inline(Bytes::from_static(b"xyz"));
        frozen(&StoredExtent { len: 3, source }, "0103010378797a");
        frozen(&StoredExtent { len: 70_000, source: ExtentSource::Zero }, "01fc7011010002");
        let block = Block { refs: 2, len: 1000, checksum: Checksum(0xdead_beef), group: GroupId(3) };
        frozen(&block, "0102fbe803fcefbeadde03");
        let orphan = Orphan { at: Timestamp(-1), sessions_below: SessionId(9), freeing: true, born: None };
        frozen(&orphan, "0101090100");
        let born = Some(Born { session: SessionId(8), linkable: true });
        frozen(&Orphan { born, ..orphan }, "01010901010801");
        let session =
            Session { ttl_ms: 9000, label: "me".into(), opened: Timestamp(5), oldest: RequestId(6) };
        frozen(&session, "01fb2823026d650a06");
        frozen(&StoredReply { behind: 1, reply: Ok(UpdateReply::Done) }, "01010000");
        frozen(&StoredReply { behind: 0, reply: Err(FsError::Exists) }, "01000103");
        let attr = sample_inode(FileKind::File).attr(InodeId(4));
        frozen(
            &StoredReply { behind: 0, reply: Ok(UpdateReply::Made { attr, created: true }) },
            "01000001040000010000000000fd0000546cfc392f2ffd0000546cfc392f2ffd0000546cfc392f2ffd0000546cfc392f2f0101",
        );
        let address = NodeAddress("a:1".into());
        frozen(
            &DataNode {
                node: NodeId(1),
                name: "d".into(),
                address: address.clone(),
                http: address.clone(),
                domain: DomainLabel("h".into()),
                capacity: Capacity { total: 3, free: 2, block_count: 1 },
                state: NodeState::Draining,
                since: Timestamp(4),
            },
            "0101016403613a3103613a3101680302010308",
        );
        frozen(
            &MetaNode { node: NodeId(1), name: "m".into(), address: address.clone(), http: address },
            "0101016d03613a3103613a31",
        );
        frozen(&Group { group: GroupId(1), members: vec![NodeId(2), NodeId(3)] }, "0101020203");
        frozen(&Reclaim { group: GroupId(1) }, "0101");
        assert_eq!(hex(&Healthy::encode(&[GroupId(1), GroupId(258)])), "010000000100000102");
    }

    /// A directory of no dentries loses one, a counter is at its end: damage, which is no reason to wrap round or to panic.
    #[test]
    fn counts_do_not_pass_their_ends() {
        let mut dir = Inode { nlink: 2, ..sample_inode(FileKind::Dir) };
        assert!(dir.count_dentries(1, 1).is_ok());
        assert_eq!((dir.size, dir.nlink), (1, 3));
        assert!(dir.count_dentries(-2, 0).is_err() && dir.count_dentries(-1, -4).is_err());
        assert_eq!((dir.size, dir.nlink), (1, 3));
        (dir.size, dir.nlink) = (u64::MAX, u32::MAX);
        assert!(dir.count_dentries(1, 0).is_err() && dir.count_dentries(0, 1).is_err());
        let superblock = |next_inode| Superblock {
            cluster: ClusterId(1),
            hash_seed: 0,
            hash_bits: 63,
            layout: Layout::default(),
            epoch: Epoch(1),
            newest: Timestamp(0),
            next_inode: InodeId(next_inode),
            next_session: SessionId(1),
            inode_count: 1,
            used: 0,
            restoring: None,
        };
        let slot = |chain| Slot { chain, entry: None };
        assert!(Slot::decode(&slot(Slot::CHAIN_MAX).encode()).is_ok());
        assert!(Slot::decode(&slot(Slot::CHAIN_MAX + 1).encode()).is_err());
        assert!(Superblock::decode(&superblock(u64::MAX >> 1).encode()).is_ok());
        assert!(Superblock::decode(&superblock(u64::MAX).encode()).is_err());
    }

    #[test]
    fn a_healthy_group_is_picked_by_rank() {
        let groups: Vec<GroupId> = (1..=5000).map(GroupId).collect();
        let few = Healthy::encode(&groups[..3]);
        assert_eq!(Healthy::pick(&few, 4).unwrap(), Some(GroupId(2)));
        assert_eq!(Healthy::pick(&Healthy::encode(&[]), 4).unwrap(), None);
        let many = Healthy::encode(&groups);
        assert_eq!(many.len(), 1 + 4 * Healthy::MAX);
        assert_eq!(Healthy::pick(&many, Healthy::MAX as u64 - 1).unwrap(), Some(GroupId(4996)));
        assert!(Healthy::pick(&[1, 2], 0).is_err());
        assert!(Healthy::pick(&[], 0).is_err());
    }
}
