//! A metadata server for the tests of this folder: a real socket, and a namespace that is a table of blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::DataServer;
use crate::config::DataConfig;
use crate::net::{Channel, ChannelOptions, Handler, Limits, PeerInfo, Reply, Request, Server};
use crate::runtime::{Tasks, timeout};
use crate::types::{
    BlockId, BlockRef, Checksum, ClusterId, ClusterMap, DataNode, Epoch, Group, GroupId, NodeAddress, NodeId,
    NodeState, QueryReply, SessionId, Timestamp, Unreferenced, codec,
};
use crate::wire::message::{BlockFate, DataReply, DataRequest, Grace, Kept, MetaReply, MetaRequest, kind};
use crate::wire::{Class, Hello, Role, RpcError};

/// The group that all servers of a test are members of.
pub(super) const GROUP: GroupId = GroupId(1);
/// Longer than anything takes here: reached only when something hangs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Namespace {
    pub(super) map: ClusterMap,
    pub(super) referenced: BTreeMap<BlockId, BlockRef>,
    pub(super) queue: BTreeSet<BlockId>,
    pub(super) pending: BTreeSet<BlockId>,
    pub(super) reclaimed: Vec<BlockId>,
    /// The grace behind a restore, and the last that a data server said it keeps for it.
    pub(super) grace: Option<Grace>,
    pub(super) kept: Option<Kept>,
    /// Clusters whose state was restored into this one.
    pub(super) formerly: Vec<ClusterId>,
    /// True: nothing but an error is answered.
    pub(super) down: bool,
}

/// The fake.
pub(super) struct Fake {
    pub(super) namespace: Arc<Mutex<Namespace>>,
    pub(super) address: String,
    /// Heartbeats answered with a state.
    heartbeats: watch::Receiver<u64>,
    pub(super) tasks: Tasks,
}

struct Door {
    namespace: Arc<Mutex<Namespace>>,
    heartbeats: watch::Sender<u64>,
}

impl Fake {
    pub(super) async fn start(cluster: u128) -> Self {
        let tasks = Tasks::new();
        let map = ClusterMap { cluster: ClusterId(cluster), epoch: Epoch(1), ..ClusterMap::default() };
        let namespace = Arc::new(Mutex::new(Namespace { map, ..Namespace::default() }));
        let (sender, heartbeats) = watch::channel(0);
        let door = Door { namespace: namespace.clone(), heartbeats: sender };
        let hello = Hello { cluster: Some(ClusterId(cluster)), ..Hello::new(Role::Meta, "fake") };
        let listen = NodeAddress("127.0.0.1:0".into());
        let server = Server::bind(&listen, hello, door, Limits::default(), &tasks).await.unwrap();
        Self { namespace, address: server.local_addr().to_string(), heartbeats, tasks }
    }

    /// Waits until a heartbeat of a registered server has come and was answered, from now on.
    pub(super) async fn heartbeat(&mut self) {
        self.heartbeats.borrow_and_update();
        timeout(PATIENCE, self.heartbeats.changed()).await.expect("no heartbeat comes").unwrap();
    }

    pub(super) fn refer(&self, block: BlockRef) {
        self.namespace.lock().referenced.insert(block.id, block);
    }
}

impl Door {
    fn answer(&self, request: MetaRequest) -> Result<MetaReply, RpcError> {
        let mut n = self.namespace.lock();
        if n.down {
            return Err(RpcError::NoLeader);
        }
        Ok(match request {
            MetaRequest::Register { spec, cluster } => {
                if let Some(caller) = cluster.filter(|c| *c != n.map.cluster && !n.formerly.contains(c)) {
                    return Err(RpcError::WrongCluster { caller, server: n.map.cluster });
                }
                let data = DataNode {
                    node: spec.node,
                    name: spec.name,
                    address: spec.address,
                    http: spec.http,
                    domain: spec.domain,
                    capacity: spec.capacity,
                    state: NodeState::Up,
                    since: Timestamp(0),
                };
                n.map.data.insert(spec.node, data);
                let members = n.map.data.keys().copied().collect();
                n.map.groups.insert(GROUP, Group { group: GROUP, members });
                n.map.epoch = n.map.epoch.next();
                MetaReply::Registered { cluster: n.map.cluster, map: Box::new(n.map.clone()) }
            }
            MetaRequest::Heartbeat(report) => {
                let state = n.map.data.get(&report.node).map(|d| d.state);
                if state.is_some() {
                    self.heartbeats.send_modify(|count| *count += 1);
                }
                MetaReply::Heartbeat { state, epoch: n.map.epoch, reclaimable: !n.queue.is_empty() }
            }
            MetaRequest::Query { .. } => MetaReply::Answered {
                result: Ok(QueryReply::Map(Some(Box::new(n.map.clone())))),
                epoch: n.map.epoch,
                addresses: Vec::new(),
                as_of: None,
            },
            // Pages of two, so that every walk has several.
            MetaRequest::Blocks { after, .. } => {
                let behind = |id: &BlockId| after.is_none_or(|after| *id > after);
                let blocks: Vec<BlockRef> =
                    n.referenced.values().filter(|b| behind(&b.id)).take(2).copied().collect();
                let next = if blocks.len() < 2 { None } else { blocks.last().map(|b| b.id) };
                MetaReply::Blocks { blocks, next }
            }
            MetaRequest::ReclaimList { after, .. } => {
                let behind = |id: &&BlockId| after.is_none_or(|after| **id > after);
                let entry = |&block: &BlockId| Unreferenced { block, group: GROUP };
                MetaReply::ReclaimList(n.queue.iter().filter(behind).take(2).map(entry).collect())
            }
            MetaRequest::Reclaimed { blocks, .. } => {
                for block in blocks {
                    n.queue.remove(&block);
                    n.reclaimed.push(block);
                }
                MetaReply::Done
            }
            MetaRequest::Grace { kept, .. } => {
                n.kept = kept;
                MetaReply::Grace(n.grace)
            }
            MetaRequest::Fates { blocks } => MetaReply::Fates(
                blocks
                    .iter()
                    .map(|id| match () {
                        () if n.referenced.contains_key(id) => BlockFate::Referenced,
                        () if n.pending.contains(id) => BlockFate::Pending,
                        () if n.queue.contains(id) => BlockFate::Queued,
                        () => BlockFate::Garbage,
                    })
                    .collect(),
            ),
            other => return Err(RpcError::Refused { reason: format!("the fake does not know {other:?}") }),
        })
    }
}

impl Handler for Door {
    async fn handle(&self, _from: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        let reply = self.answer(codec::decode(&request.meta).unwrap())?;
        Ok(Reply { meta: codec::encode(&reply).unwrap().into(), ..Reply::default() })
    }
}

/// Configuration of server `node` with one directory below `place`.
pub(super) fn config(node: u64, place: &Path, meta_servers: &[&str]) -> DataConfig {
    let mut config = DataConfig::example();
    config.node = node;
    config.name = format!("data-{node}");
    config.listen = "127.0.0.1:0".into();
    config.advertise = String::new();
    config.http_listen = String::new();
    config.http_advertise = String::new();
    config.meta_servers = meta_servers.iter().map(|&a| a.to_owned()).collect();
    config.directories = vec![place.join(format!("data-{node}"))];
    config.reserve_bytes = 0;
    config.timers.heartbeat_ms = 50;
    config.timers.scrub_ms = 0;
    config
}

/// A client of one data server.
pub(super) struct Caller(Channel);

impl Caller {
    pub(super) fn new(server: &DataServer) -> Self {
        let address = NodeAddress(server.local_addr().to_string());
        Self(Channel::new(address, Hello::new(Role::Client, "test"), Class::Bulk, ChannelOptions::default()))
    }

    pub(super) async fn ask(
        &self,
        request: DataRequest,
        payload: Bytes,
    ) -> Result<(DataReply, Bytes), RpcError> {
        let reply = self.0.call(kind::DATA, codec::encode(&request).unwrap(), payload, PATIENCE).await?;
        Ok((codec::decode(&reply.meta).unwrap(), reply.payload))
    }

    pub(super) async fn put(&self, block: BlockRef, data: &Bytes) -> Result<DataReply, RpcError> {
        let request = DataRequest::Put { id: block.id, checksum: block.checksum };
        self.ask(request, data.clone()).await.map(|(reply, _)| reply)
    }

    pub(super) async fn get(&self, block: BlockRef, offset: u32, len: u32) -> Result<Bytes, RpcError> {
        let (reply, bytes) = self.ask(DataRequest::Get { block, offset, len }, Bytes::new()).await?;
        assert_eq!(reply, DataReply::Bytes);
        Ok(bytes)
    }
}

/// Block `index` of session 7, and its bytes.
pub(super) fn block(index: u64, len: usize) -> (BlockRef, Bytes) {
    let data: Bytes = (0..len).map(|i| ((i * 13 + i / 255) as u64 ^ index).to_le_bytes()[0]).collect();
    let id = BlockId { session: SessionId(7), index };
    let len = u32::try_from(data.len()).unwrap();
    (BlockRef { id, group: GROUP, len, checksum: Checksum::of(&data) }, data)
}

/// Flips one bit in the data of every block file of a server.
pub(super) fn damage(config: &DataConfig) -> usize {
    let mut count = 0;
    for folder in std::fs::read_dir(config.directories[0].join("blocks")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&path, bytes).unwrap();
            count += 1;
        }
    }
    count
}

/// The id of server `node`.
pub(super) fn node(node: u64) -> NodeId {
    NodeId(node)
}
