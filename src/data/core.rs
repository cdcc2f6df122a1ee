//! What the parts of a data server share: the store and the threads in front of it, the newest map, the peers, counters.
//!
//! Holds: at most `threads` calls into the store run at once; a call that began runs to its end even if its caller is
//! gone, and keeps its thread counted until then. Not here: anything that decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use super::meta_servers::MetaServers;
use super::store::{BlockStore, StoreError};
use super::worker::Worker;
use crate::config::DataConfig;
use crate::net::{Channel, ChannelOptions, Server};
use crate::runtime::{self, Instant};
use crate::types::{ClusterMap, DataNode, NodeAddress, NodeId, NodeState};
use crate::wire::message::Kept;
use crate::wire::{Class, Hello, Role, RpcError};

/// Shared by all parts.
#[derive(Debug)]
pub(super) struct Core {
    pub config: DataConfig,
    pub node: NodeId,
    /// Where others reach it.
    pub address: NodeAddress,
    pub store: Arc<BlockStore>,
    pub server: Server,
    /// Threads that calls into the store may take.
    threads: Arc<Semaphore>,
    pub meta: MetaServers,
    map: RwLock<Arc<ClusterMap>>,
    pub standing: Mutex<Standing>,
    peers: Mutex<HashMap<NodeId, Channel>>,
    pub catch_up: Worker,
    pub reclaim: Worker,
    pub scrub: Worker,
    pub reclaimed: AtomicU64,
    /// What is kept for the grace behind a restore; none: there is none, or the blocks were not looked at since.
    pub kept: Mutex<Option<Kept>>,
    pub fetched: AtomicU64,
    pub whole: Mutex<Whole>,
    pub started: Instant,
    pub rates: Mutex<Rates>,
}

/// How the server stands with the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// The metadata server that took the registration.
    pub registered_with: Option<NodeAddress>,
    /// What the cluster believes of this server.
    pub state: Option<NodeState>,
    /// Why it is not registered.
    pub problem: Option<String>,
}

impl Standing {
    /// A metadata server took the registration.
    pub(super) fn registered(&mut self, with: NodeAddress) {
        self.registered_with = Some(with);
        self.problem = None;
    }

    /// A heartbeat was answered with `state`; gives the one before. None: register again.
    pub(super) fn heard(&mut self, state: Option<NodeState>) -> Option<NodeState> {
        self.problem = None;
        if state.is_none() {
            self.registered_with = None;
        }
        std::mem::replace(&mut self.state, state)
    }
}

/// Whether the server holds what it ought to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whole {
    /// How often it was away: what a pass that began before the last time found is not the answer.
    pub absences: u64,
    /// A pass has compared all blocks since.
    pub compared: bool,
    /// Blocks that it lacks, as far as it has compared.
    pub lacking: u64,
}

impl Whole {
    /// Writers may have gone on without this server.
    pub(super) fn was_away(&mut self) {
        *self = Self { absences: self.absences + 1, compared: false, lacking: 0 };
    }

    /// A pass that began when the server had been away `absences` times lacks so much now, and has compared all or not.
    pub(super) fn found(&mut self, absences: u64, lacking: u64, all: bool) {
        if self.absences == absences && (all || !self.compared || lacking > self.lacking) {
            self.lacking = lacking;
            self.compared |= all;
        }
    }
}

/// Bytes a second, over the time between two looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub at: Instant,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub read: u64,
    pub write: u64,
}

impl Core {
    pub(super) fn new(
        config: DataConfig,
        address: NodeAddress,
        store: Arc<BlockStore>,
        server: Server,
        meta: MetaServers,
    ) -> Self {
        let threads = usize::from(config.limits.threads) * config.directories.len();
        let at = runtime::now();
        Self {
            node: store.node(),
            config,
            address,
            store,
            server,
            threads: Arc::new(Semaphore::new(threads)),
            meta,
            map: RwLock::default(),
            standing: Mutex::default(),
            peers: Mutex::default(),
            catch_up: Worker::new("catch_up"),
            reclaim: Worker::new("reclaim"),
            scrub: Worker::new("scrub"),
            reclaimed: AtomicU64::new(0),
            kept: Mutex::new(None),
            fetched: AtomicU64::new(0),
            whole: Mutex::default(),
            started: at,
            rates: Mutex::new(Rates { at, read_bytes: 0, write_bytes: 0, read: 0, write: 0 }),
        }
    }

    /// Runs `f` on the store, on a thread of its own, when one is free. Dropped before, `f` never runs; dropped after,
    /// it runs to its end.
    pub(super) async fn with_store<T: Send + 'static>(
        &self,
        name: &'static str,
        f: impl FnOnce(&BlockStore) -> T + Send + 'static,
    ) -> T {
        let permit =
            self.threads.clone().acquire_owned().await.expect("the semaphore of this struct is never closed");
        let latency = self.store.latency();
        if !latency.is_zero() {
            runtime::sleep(latency).await;
        }
        let store = self.store.clone();
        runtime::blocking(name, move || {
            let _permit = permit;
            f(&store)
        })
        .await
    }

    /// The newest map that is known here.
    pub(super) fn map(&self) -> Arc<ClusterMap> {
        self.map.read().clone()
    }

    /// Takes in a map, unless a newer one is known. Calls for a catch-up when this server joined a group.
    pub(super) fn learn(&self, map: ClusterMap) {
        let old = self.map();
        if map.cluster == old.cluster && map.epoch < old.epoch {
            return;
        }
        let mine = |map: &ClusterMap| {
            map.groups
                .values()
                .filter(|g| g.members.contains(&self.node))
                .map(|g| g.group)
                .collect::<Vec<_>>()
        };
        let (before, now) = (mine(&old), mine(&map));
        self.meta.learn(&map);
        let is_here =
            |node: &NodeId, c: &Channel| map.data.get(node).is_some_and(|n| n.address == *c.address());
        self.peers.lock().retain(|node, channel| is_here(node, channel));
        *self.map.write() = Arc::new(map);
        if now.iter().any(|group| !before.contains(group)) {
            self.catch_up.call();
        }
    }

    /// Lets go of the connections to other data servers: they know this one as a server of another cluster.
    pub(super) fn forget_peers(&self) {
        self.peers.lock().clear();
    }

    /// The connection to another data server.
    pub(super) fn peer(&self, peer: &DataNode) -> Channel {
        let mut peers = self.peers.lock();
        if let Some(channel) = peers.get(&peer.node).filter(|c| *c.address() == peer.address) {
            return channel.clone();
        }
        let hello = Hello {
            node: Some(self.node),
            cluster: self.store.cluster(),
            ..Hello::new(Role::Data, self.config.name.clone())
        };
        let options = ChannelOptions { node: Some(peer.node), ..ChannelOptions::default() };
        let channel = Channel::new(peer.address.clone(), hello, Class::Bulk, options);
        peers.insert(peer.node, channel.clone());
        channel
    }
}

/// What a failure of the store means to a caller over the network.
pub(super) fn rpc_error(error: StoreError, address: &NodeAddress) -> RpcError {
    let reason = error.to_string();
    match error {
        StoreError::NotFound(block) => RpcError::BlockNotFound { block },
        StoreError::BlockCorrupt { block, .. } => RpcError::BlockCorrupt { block },
        StoreError::BadChecksum { .. } => RpcError::BadFrame { peer: address.clone(), reason },
        StoreError::NoSpace { .. } | StoreError::TooManyBlocks(_) => RpcError::NoSpace,
        StoreError::Conflict { .. } | StoreError::BadLen { .. } | StoreError::BadRange { .. } => {
            RpcError::Refused { reason }
        }
        StoreError::NoDirectory
        | StoreError::Io { .. }
        | StoreError::Directory { .. }
        | StoreError::Config(_) => RpcError::StoreFailed { reason },
    }
}
