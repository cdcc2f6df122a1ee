//! What the tests of the namespace share: a founded namespace in memory with sessions, paths and blocks that exist.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;

use bytes::Bytes;
use pohmelfs::namespace::{Command, MemoryView, Op, Reply, Txn, View, apply, query};
use pohmelfs::types::*;

/// When the cluster is founded, in nanoseconds.
pub const T0: i64 = 1_700_000_000_000_000_000;

/// A namespace and the log that made it.
pub struct World {
    pub view: MemoryView,
    pub log: Vec<Command>,
    pub now: i64,
    pub session: SessionId,
    pub request: u64,
    pub next_block: u64,
    /// The bytes of every block that was ever written.
    pub blocks: BTreeMap<BlockId, Vec<u8>>,
}

/// The commands before the first one of a test: found, three data servers, two groups, one session.
pub fn founding() -> Vec<Op> {
    let mut ops = vec![Op::Found { cluster: ClusterId(1), hash_seed: 42, layout: Layout::default() }];
    for id in [11u64, 12, 13] {
        ops.push(Op::RegisterData(NodeSpec {
            node: NodeId(id),
            name: format!("data-{id}"),
            address: NodeAddress(format!("d{id}:1")),
            http: NodeAddress(format!("d{id}:2")),
            domain: DomainLabel(format!("host-{id}")),
            capacity: Capacity { total: 3 << 40, free: 3 << 40, block_count: 0 },
        }));
    }
    let group = |id, members: [u64; 2]| Group { group: GroupId(id), members: members.map(NodeId).to_vec() };
    ops.push(Op::PutGroups(vec![group(1, [11, 12]), group(2, [12, 13])]));
    ops
}

pub fn open_session() -> Op {
    Op::Client {
        session: SessionId(0),
        request: RequestId(0),
        lowest_unanswered: RequestId(0),
        cred: Cred::root(),
        update: Update::OpenSession(OpenSession { ttl_ms: 9_000, label: "test".into() }),
    }
}

impl World {
    pub fn new(hash_bits: u8) -> Self {
        let mut world = Self {
            view: MemoryView::default(),
            log: Vec::new(),
            now: T0,
            session: SessionId(1),
            request: 0,
            next_block: 0,
            blocks: BTreeMap::new(),
        };
        for op in founding() {
            world.command(op).unwrap();
        }
        world.view.weaken_hash(hash_bits).unwrap();
        world.command(open_session()).unwrap();
        world
    }

    pub fn command(&mut self, op: Op) -> Reply {
        let command = Command { at: Timestamp(self.now), op };
        self.now += 1_000_000_000;
        let mut txn = Txn::new(&self.view);
        let reply = apply(&mut txn, &command).unwrap();
        let changes = txn.finish();
        self.view.store(&changes);
        self.log.push(command);
        reply
    }

    pub fn update(&mut self, cred: &Cred, update: Update) -> Reply {
        self.request += 1;
        self.command(Op::Client {
            session: self.session,
            request: RequestId(self.request),
            lowest_unanswered: RequestId(self.request.saturating_sub(3)),
            cred: cred.clone(),
            update,
        })
    }

    pub fn ask(&self, cred: &Cred, question: &Query) -> Result<QueryReply, FsError> {
        query(&self.view, cred, question).unwrap()
    }

    /// A new block with these bytes, as if it had been uploaded.
    pub fn block(&mut self, bytes: &[u8]) -> BlockRef {
        self.next_block += 1;
        let id = BlockId { session: self.session, index: self.next_block };
        self.blocks.insert(id, bytes.to_vec());
        BlockRef {
            id,
            group: GroupId(1 + u32::try_from(self.next_block % 2).unwrap()),
            len: u32::try_from(bytes.len()).unwrap(),
            checksum: Checksum::of(bytes),
        }
    }

    pub fn attr(&self, inode: InodeId) -> Result<Attr, FsError> {
        match self.ask(&Cred::root(), &Query::GetAttr { inode })? {
            QueryReply::Found(found) => Ok(found.attr),
            other => panic!("{other:?}"),
        }
    }

    /// The bytes of a file, put together from its extents.
    pub fn bytes(&self, inode: InodeId) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut offset = 0;
        loop {
            let question = Query::Extents { inode, offset, len: u64::MAX, limit: 3 };
            let Ok(QueryReply::Extents { attr, extents, end }) = self.ask(&Cred::root(), &question) else {
                panic!("inode {inode} has no extents")
            };
            bytes.resize(usize::try_from(attr.size).unwrap(), 0);
            for extent in extents {
                offset = extent.end();
                let at = usize::try_from(extent.offset).unwrap();
                let len = usize::try_from(extent.len).unwrap();
                match extent.source {
                    ExtentSource::Inline(b) => bytes[at..at + len].copy_from_slice(&b),
                    ExtentSource::Block { block, block_offset } => {
                        let from = block_offset as usize;
                        bytes[at..at + len].copy_from_slice(&self.blocks[&block.id][from..from + len]);
                    }
                    ExtentSource::Zero => {}
                }
            }
            if end {
                return bytes;
            }
        }
    }

    /// All dentries of a directory, read in small pages.
    pub fn list(&self, inode: InodeId) -> Result<Vec<DirEntry>, FsError> {
        let mut all = Vec::new();
        let mut after = Cookie(0);
        loop {
            let question = Query::ReadDir { inode, after, limit: 3, with_attrs: true };
            match self.ask(&Cred::root(), &question)? {
                QueryReply::Page { entries, end } => {
                    after = entries.last().map_or(after, |e| e.cookie);
                    all.extend(entries);
                    if end {
                        return Ok(all);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The records but for those that remember commands: superblock, sessions, replies.
    pub fn contents(&self) -> BTreeMap<Vec<u8>, Bytes> {
        let kept = |k: &[u8]| !matches!(k[0], 1 | 8 | 9);
        self.view.records.iter().filter(|(k, _)| kept(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// The violations of a view.
pub fn check(view: &dyn View) -> Vec<String> {
    pohmelfs::namespace::check(view).unwrap()
}
