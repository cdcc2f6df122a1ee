//! A cluster for tests: metadata servers over one namespace in memory, data servers over maps, and faults on demand.
//!
//! Tests of `client` and `cli` start one. Real sockets on the loopback, the real namespace; only consensus and disks are
//! missing. Holds: an update is applied at once and before its reply, whatever becomes of the reply.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::namespace::{self, Command, MemoryView, Op, Txn};
use crate::net::{Handler, Limits, PeerInfo, Reply, Request, Server};
use crate::placement::form_groups;
use crate::runtime::{self, Tasks};
use crate::types::{
    BlockId, Capacity, Checksum, ClusterId, DomainLabel, InodeId, Layout, LogIndex, MetaNode, NodeAddress,
    NodeId, NodeSpec, Timestamp, UpdateReply, UpdateResult, codec,
};
use crate::wire::message::{
    BlockFate, DataReply, DataRequest, MetaReply, MetaRequest, Reading, ReplicaState, UpdateRequest,
};
use crate::wire::{Hello, Role, RpcError};

const CLUSTER: ClusterId = ClusterId(7);

/// What a server does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// It takes requests and never answers.
    Silent,
    /// It refuses before anything is done.
    Refuses,
    /// It does what it is asked and then says that it does not know.
    Forgetful,
    /// It answers this much too late, in milliseconds.
    Late(u64),
    /// An update takes it so long, in milliseconds, and nothing else.
    Waits(u64),
    /// Its blocks have a wrong byte.
    Corrupts,
    /// It does not have its blocks.
    Loses,
    /// It answers `Reading::Beside` as of the moment when it was first asked so.
    Lags,
}

/// Faults at random, from a seed: for exactly-once.
pub(crate) type Dice = Box<dyn FnMut() -> Fault + Send>;

/// The namespace that all metadata servers share.
pub(crate) struct World {
    view: Mutex<MemoryView>,
    clock: AtomicU64,
    /// What the next keep-alive asks about.
    pub(crate) ask: Mutex<Vec<InodeId>>,
    /// What keep-alives answered.
    pub(crate) told: Mutex<Vec<(InodeId, bool)>>,
    /// Rolled for each update.
    pub(crate) dice: Mutex<Option<Dice>>,
    /// Updates that came, resends included.
    pub(crate) update_count: AtomicU64,
    /// Who leads, as all servers say.
    pub(crate) leader: Mutex<Option<NodeId>>,
}

impl World {
    /// Applies a command.
    pub(crate) fn apply(&self, op: Op) -> UpdateResult {
        let at = Timestamp(self.clock.fetch_add(1_000_000, Ordering::Relaxed).cast_signed());
        let mut view = self.view.lock();
        let mut txn = Txn::new(&*view);
        let reply = namespace::apply(&mut txn, &Command { at, op }).unwrap();
        let changes = txn.finish();
        view.store(&changes);
        reply
    }

    /// The namespace as it is now.
    pub(crate) fn view(&self) -> MemoryView {
        self.view.lock().clone()
    }

    fn update(&self, request: &UpdateRequest) -> MetaReply {
        self.update_count.fetch_add(1, Ordering::Relaxed);
        let UpdateRequest { session, request, lowest_unanswered, cred, update } = request.clone();
        let result = self.apply(Op::Client { session, request, lowest_unanswered, cred, update });
        MetaReply::Updated { result, epoch: self.epoch() }
    }

    fn epoch(&self) -> crate::types::Epoch {
        namespace::superblock(&*self.view.lock()).unwrap().unwrap().epoch
    }

    /// Where a log of this world ends.
    fn index(&self) -> LogIndex {
        LogIndex(self.clock.load(Ordering::Relaxed))
    }

    fn answer(&self, request: MetaRequest) -> MetaReply {
        match request {
            MetaRequest::Update(update) => self.update(&update),
            MetaRequest::Query { cred, query, .. } => {
                let result = namespace::query(&*self.view.lock(), &cred, &query).unwrap();
                MetaReply::Answered { result, epoch: self.epoch(), addresses: Vec::new(), as_of: None }
            }
            MetaRequest::KeepAlive(keep) => {
                self.told.lock().extend(&keep.handles);
                let sessions = namespace::sessions(&*self.view.lock()).unwrap();
                if !sessions.iter().any(|s| s.session == keep.session) {
                    return MetaReply::SessionGone;
                }
                MetaReply::KeptAlive { ask: std::mem::take(&mut self.ask.lock()), epoch: self.epoch() }
            }
            MetaRequest::Blocks { after, limit, .. } => {
                let blocks = namespace::blocks(&*self.view.lock(), after, limit as usize).unwrap();
                let next = if blocks.len() < limit as usize { None } else { blocks.last().map(|b| b.id) };
                MetaReply::Blocks { blocks, next }
            }
            MetaRequest::Fates { blocks } => {
                let referenced = namespace::blocks(&*self.view.lock(), None, usize::MAX).unwrap();
                let fate = |id: &BlockId| match referenced.iter().any(|b| b.id == *id) {
                    true => BlockFate::Referenced,
                    false => BlockFate::Queued,
                };
                MetaReply::Fates(blocks.iter().map(fate).collect())
            }
            MetaRequest::Check => {
                let view = self.view.lock();
                let violations = namespace::check(&*view).unwrap();
                let inode_count = namespace::superblock(&*view).unwrap().unwrap().inode_count;
                let block_count = namespace::blocks(&*view, None, usize::MAX).unwrap().len() as u64;
                MetaReply::Checked { violations, at: LogIndex(1), inode_count, block_count }
            }
            other => panic!("the fake does not answer {other:?}"),
        }
    }
}

struct MetaHandler {
    world: Arc<World>,
    node: NodeId,
    fault: Arc<Mutex<Fault>>,
    /// Of a server that lags: its state, and as of which index.
    lagging: Mutex<Option<(MemoryView, LogIndex)>>,
}

impl MetaHandler {
    fn answer(&self, request: MetaRequest) -> MetaReply {
        match request {
            MetaRequest::Accepted => MetaReply::Accepted {
                node: self.node,
                index: self.world.index(),
                leader: *self.world.leader.lock(),
            },
            MetaRequest::Query { cred, query, reading: Reading::Beside(_), .. } => {
                let now = || (self.world.view(), self.world.index());
                let (view, index) = match *self.fault.lock() {
                    Fault::Lags => self.lagging.lock().get_or_insert_with(now).clone(),
                    _ => now(),
                };
                let result = namespace::query(&view, &cred, &query).unwrap();
                MetaReply::Answered {
                    result,
                    epoch: self.world.epoch(),
                    addresses: Vec::new(),
                    as_of: Some(index),
                }
            }
            other => self.world.answer(other),
        }
    }
}

fn reply(meta: &impl serde::Serialize, payload: Bytes) -> Reply {
    Reply { meta: codec::encode(meta).unwrap().into(), payload, payload_crc: None }
}

impl Handler for MetaHandler {
    async fn handle(&self, _: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        let request: MetaRequest = codec::decode(&request.meta).unwrap();
        let mut fault = *self.fault.lock();
        if let (Fault::None, MetaRequest::Update(update)) = (fault, &request) {
            if let Some(dice) = &mut *self.world.dice.lock() {
                fault = dice();
            }
            if let Fault::Late(ms) = fault {
                // A copy that the network kept back: it arrives when the original is long answered.
                let (world, update) = (self.world.clone(), update.clone());
                runtime::spawn("fake-duplicate", async move {
                    runtime::sleep(Duration::from_millis(ms)).await;
                    world.update(&update);
                })
                .detach();
            }
        }
        match fault {
            Fault::Silent => std::future::pending().await,
            Fault::Refuses => Err(RpcError::NoLeader),
            Fault::Forgetful => {
                self.answer(request);
                Err(RpcError::LeaderLost)
            }
            Fault::Late(ms) => {
                let answer = self.answer(request);
                runtime::sleep(Duration::from_millis(ms)).await;
                Ok(reply(&answer, Bytes::new()))
            }
            Fault::Waits(ms) if matches!(request, MetaRequest::Update(_)) => {
                runtime::sleep(Duration::from_millis(ms)).await;
                Ok(reply(&self.answer(request), Bytes::new()))
            }
            _ => Ok(reply(&self.answer(request), Bytes::new())),
        }
    }
}

/// Blocks of a data server.
pub(crate) type Blocks = Arc<Mutex<BTreeMap<BlockId, Bytes>>>;

struct DataHandler {
    blocks: Blocks,
    fault: Arc<Mutex<Fault>>,
}

impl Handler for DataHandler {
    async fn handle(&self, _: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        let fault = *self.fault.lock();
        match fault {
            Fault::Silent => std::future::pending::<()>().await,
            Fault::Refuses => return Err(RpcError::NoSpace),
            Fault::Late(ms) => runtime::sleep(Duration::from_millis(ms)).await,
            _ => {}
        }
        match codec::decode(&request.meta).unwrap() {
            DataRequest::Put { id, checksum } => {
                assert_eq!(Checksum::of(&request.payload), checksum);
                let bytes = Bytes::copy_from_slice(&request.payload);
                let old = self.blocks.lock().insert(id, bytes);
                assert!(old.is_none(), "block id {id} was used twice");
                Ok(reply(&DataReply::Stored, Bytes::new()))
            }
            DataRequest::Get { block, offset, len } => {
                let found = self.blocks.lock().get(&block.id).cloned();
                let Some(bytes) = found.filter(|_| fault != Fault::Loses) else {
                    return Err(RpcError::BlockNotFound { block: block.id });
                };
                let mut part = bytes.slice(offset as usize..(offset + len) as usize).to_vec();
                if fault == Fault::Corrupts {
                    part[0] ^= 1;
                }
                Ok(reply(&DataReply::Bytes, part.into()))
            }
            DataRequest::Verify { blocks, .. } => {
                let mine = self.blocks.lock();
                let state = |b: &crate::types::BlockRef| match mine.get(&b.id) {
                    Some(_) if fault == Fault::Loses => ReplicaState::Missing,
                    Some(bytes) if Checksum::of(bytes) == b.checksum && fault != Fault::Corrupts => {
                        ReplicaState::Good
                    }
                    Some(_) => ReplicaState::Corrupt,
                    None => ReplicaState::Missing,
                };
                Ok(reply(&DataReply::Verified(blocks.iter().map(state).collect()), Bytes::new()))
            }
            other => panic!("the fake does not answer {other:?}"),
        }
    }
}

/// A server of the fake.
pub(crate) struct FakeServer {
    pub(crate) address: NodeAddress,
    fault: Arc<Mutex<Fault>>,
    /// Of a data server.
    pub(crate) blocks: Blocks,
    tasks: Tasks,
}

impl FakeServer {
    /// From now on.
    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock() = fault;
    }

    /// Breaks its connections and listens no more.
    pub(crate) async fn die(&self) {
        self.tasks.stop_within(Duration::ZERO).await;
    }
}

/// The whole.
pub(crate) struct Fake {
    pub(crate) world: Arc<World>,
    pub(crate) meta: Vec<FakeServer>,
    /// By node.
    pub(crate) data: HashMap<NodeId, FakeServer>,
}

async fn bind<H: Handler>(role: Role, node: NodeId, handler: H) -> (NodeAddress, Tasks) {
    let tasks = Tasks::new();
    let hello = Hello { cluster: Some(CLUSTER), node: Some(node), ..Hello::new(role, "fake") };
    let any = NodeAddress("127.0.0.1:0".into());
    let server = Server::bind(&any, hello, handler, Limits::default(), &tasks).await.unwrap();
    (NodeAddress(server.local_addr().to_string()), tasks)
}

impl Fake {
    /// Starts servers, each data server in a failure domain of its own, in groups of three (or of all, if fewer).
    pub(crate) async fn start(meta_count: u64, data_count: u64) -> Self {
        let world = Arc::new(World {
            view: Mutex::default(),
            clock: AtomicU64::new(1_000_000_000),
            ask: Mutex::default(),
            told: Mutex::default(),
            dice: Mutex::default(),
            update_count: AtomicU64::new(0),
            leader: Mutex::default(),
        });
        let replica_count = u8::try_from(data_count.clamp(1, 3)).unwrap();
        let layout = Layout { replica_count, durable_min: replica_count.min(2), block_len: 64 << 10 };
        world.apply(Op::Found { cluster: CLUSTER, hash_seed: 1, layout }).unwrap();
        let (mut meta, mut data) = (Vec::new(), HashMap::new());
        for node in (1..=meta_count).map(NodeId) {
            let fault = Arc::<Mutex<Fault>>::default();
            let handler =
                MetaHandler { world: world.clone(), node, fault: fault.clone(), lagging: Mutex::default() };
            let (address, tasks) = bind(Role::Meta, node, handler).await;
            let put = MetaNode {
                node,
                name: format!("meta-{node}"),
                address: address.clone(),
                http: address.clone(),
            };
            world.apply(Op::PutMeta(put)).unwrap();
            meta.push(FakeServer { address, fault, blocks: Blocks::default(), tasks });
        }
        for node in (101..101 + data_count).map(NodeId) {
            let (fault, blocks) = (Arc::<Mutex<Fault>>::default(), Blocks::default());
            let handler = DataHandler { blocks: blocks.clone(), fault: fault.clone() };
            let (address, tasks) = bind(Role::Data, node, handler).await;
            let spec = NodeSpec {
                node,
                name: format!("data-{node}"),
                address: address.clone(),
                http: address.clone(),
                domain: DomainLabel(format!("host-{node}")),
                capacity: Capacity { total: 1 << 40, free: 1 << 40, block_count: 0 },
            };
            world.apply(Op::RegisterData(spec)).unwrap();
            data.insert(node, FakeServer { address, fault, blocks, tasks });
        }
        let groups = form_groups(&namespace::map(&world.view()).unwrap());
        if !groups.is_empty() {
            world.apply(Op::PutGroups(groups)).unwrap();
        }
        Self { world, meta, data }
    }

    /// Addresses of the metadata servers.
    pub(crate) fn addresses(&self) -> Vec<NodeAddress> {
        self.meta.iter().map(|m| m.address.clone()).collect()
    }

    /// A client with `options`.
    pub(crate) async fn connect(&self, options: super::ClientOptions) -> super::Client {
        super::Client::connect(&self.addresses(), options).await.unwrap()
    }

    /// A client that spreads its calls and waits for at most ten seconds.
    pub(crate) async fn client(&self) -> super::Client {
        let options = super::ClientOptions {
            spread: super::Spread::Even,
            call_timeout: Duration::from_secs(10),
            ..super::ClientOptions::default()
        };
        self.connect(options).await
    }

    /// Ends all sessions, as if their keep-alives had stopped.
    pub(crate) fn expire_sessions(&self) {
        let sessions = namespace::sessions(&self.world.view()).unwrap();
        let done = self.world.apply(Op::ExpireSessions(sessions.into_iter().map(|s| s.session).collect()));
        assert_eq!(done, Ok(UpdateReply::Done));
    }

    /// What `check` has to say.
    pub(crate) fn violations(&self) -> Vec<String> {
        namespace::check(&self.world.view()).unwrap()
    }
}
