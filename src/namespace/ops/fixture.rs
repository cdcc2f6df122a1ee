//! A founded namespace in memory with one session of root, for the tests beside the operations.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::{Command, Memo, MemoryView, Op, Reply, Txn, apply, query};
use crate::types::{
    Attr, Capacity, ClusterId, Cred, DomainLabel, Extent, ExtentSource, FileKind, Found, FsError, Group,
    GroupId, InodeId, Layout, MakeNode, Name, NodeAddress, NodeId, NodeSpec, OpenSession, Publish, Query,
    QueryReply, ROOT_INODE, RequestId, SessionId, Timestamp, Update, UpdateReply,
};

/// When the cluster of a test is founded, in nanoseconds.
pub(crate) const T0: i64 = 1_700_000_000_000_000_000;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn node_spec(id: u64) -> NodeSpec {
    NodeSpec {
        node: NodeId(id),
        name: format!("data-{id}"),
        address: NodeAddress(format!("d{id}:1")),
        http: NodeAddress(format!("d{id}:2")),
        domain: DomainLabel(format!("host-{id}")),
        capacity: Capacity { total: 1000, free: 900, block_count: 0 },
    }
}

pub(crate) struct Bench {
    pub(crate) view: MemoryView,
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
    pub(crate) now: Timestamp,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let mut bench = Self {
            view: MemoryView::default(),
            session: SessionId(1),
            request: RequestId(0),
            now: Timestamp(T0),
        };
        let layout = Layout::default();
        bench.command(Op::Found { cluster: ClusterId(1), hash_seed: 42, layout }).unwrap();
        let open = Update::OpenSession(OpenSession { ttl_ms: 9_000, label: "test".into() });
        assert!(matches!(
            bench.update(open),
            Ok(UpdateReply::Session { session: SessionId(1), ttl_ms: 9_000 })
        ));
        bench
    }

    /// Applies commands as one run and stores the changes.
    pub(crate) fn commands(&mut self, ops: &[Op]) -> Vec<Reply> {
        self.commands_knowing(ops, &mut Memo::default())
    }

    /// As [`Bench::commands`], with what earlier runs have learnt.
    pub(crate) fn commands_knowing(&mut self, ops: &[Op], memo: &mut Memo) -> Vec<Reply> {
        let mut txn = Txn::knowing(&self.view, std::mem::take(memo));
        let mut replies = Vec::new();
        for op in ops {
            replies.push(apply(&mut txn, &Command { at: self.now, op: op.clone() }).unwrap());
            self.now = Timestamp(self.now.0 + 1_000);
        }
        let (changes, learnt) = txn.finish_knowing();
        assert!(changes.is_sorted_by(|a, b| a.key < b.key));
        self.view.store(&changes);
        *memo = learnt;
        replies
    }

    pub(crate) fn command(&mut self, op: Op) -> Reply {
        self.commands(&[op]).remove(0)
    }

    /// An update of root in the bench's session, with the next request id.
    pub(crate) fn update(&mut self, update: Update) -> Reply {
        self.request = self.request.next();
        let (session, request) = (self.session, self.request);
        self.command(Op::Client {
            session,
            request,
            lowest_unanswered: RequestId(0),
            cred: Cred::root(),
            update,
        })
    }

    /// How to make an empty file in the root directory.
    pub(crate) fn file(&self, text: &str) -> MakeNode {
        MakeNode {
            parent: ROOT_INODE,
            name: name(text),
            kind: FileKind::File,
            mode: 0o644,
            umask: 0,
            rdev: 0,
            content: Bytes::new(),
            exclusive: true,
        }
    }

    pub(crate) fn made(&mut self, make: MakeNode) -> InodeId {
        match self.update(Update::Make(make)) {
            Ok(UpdateReply::Made { attr, created: true }) => attr.inode,
            other => panic!("not made: {other:?}"),
        }
    }

    pub(crate) fn make_file(&mut self, text: &str) -> InodeId {
        let make = self.file(text);
        self.made(make)
    }

    /// Publishes some bytes inline.
    pub(crate) fn write(&mut self, inode: InodeId, offset: u64, bytes: &'static [u8]) {
        let extent = Extent {
            offset,
            len: bytes.len() as u64,
            source: ExtentSource::Inline(Bytes::from_static(bytes)),
        };
        let publish = Publish { inode, extents: vec![extent], grow_to: None, append: false, mtime: None };
        self.update(Update::Publish(publish)).unwrap();
    }

    /// Three data servers and one group of them.
    pub(crate) fn with_groups(&mut self) {
        for id in [11, 12, 13] {
            self.command(Op::RegisterData(node_spec(id))).unwrap();
        }
        let members = vec![NodeId(11), NodeId(12), NodeId(13)];
        self.command(Op::PutGroups(vec![Group { group: GroupId(1), members }])).unwrap();
    }

    pub(crate) fn ask(&self, question: &Query) -> Result<QueryReply, FsError> {
        query(&self.view, &Cred::root(), question).unwrap()
    }

    pub(crate) fn attr(&self, inode: InodeId) -> Attr {
        match self.ask(&Query::GetAttr { inode }) {
            Ok(QueryReply::Found(found)) => found.attr,
            other => panic!("no attributes: {other:?}"),
        }
    }

    pub(crate) fn lookup(&self, text: &str) -> Result<Found, FsError> {
        match self.ask(&Query::Lookup { parent: ROOT_INODE, name: name(text) })? {
            QueryReply::Found(found) => Ok(found),
            other => panic!("{other:?}"),
        }
    }

    /// The bytes of a file that has none in blocks.
    pub(crate) fn bytes(&self, inode: InodeId) -> Vec<u8> {
        let all = Query::Extents { inode, offset: 0, len: u64::MAX, limit: u32::MAX };
        let Ok(QueryReply::Extents { attr, extents, end: true }) = self.ask(&all) else {
            panic!("no extents")
        };
        let mut bytes = vec![0; usize::try_from(attr.size).unwrap()];
        for extent in extents {
            if let ExtentSource::Inline(b) = &extent.source {
                let at = usize::try_from(extent.offset).unwrap();
                bytes[at..at + b.len()].copy_from_slice(b);
            }
        }
        bytes
    }

    /// The records but for the superblock, sessions and remembered replies.
    pub(crate) fn strip(view: &MemoryView) -> BTreeMap<Vec<u8>, Bytes> {
        let kept = |k: &[u8]| !matches!(k[0], 1 | 8 | 9);
        view.records.iter().filter(|(k, _)| kept(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    pub(crate) fn without_replies(&self) -> BTreeMap<Vec<u8>, Bytes> {
        Self::strip(&self.view)
    }
}
