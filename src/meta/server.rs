//! [`MetaServer`]: all parts of a metadata server put together, started in order and stopped in order.
//!
//! Called by `cli` and by tests. Start: state, log, socket, then bootstrap. Stop: hand over, close the socket, then
//! the log, then the state; a kill at any point loses nothing that was acknowledged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::identity::Identity;
use super::leader::NodeTimes;
use super::levels;
use super::peers::Peers as PeerChannels;
use super::proposer::Proposer;
use super::raft::{Consensus, Peers, RaftConfig, Timers};
use super::service::{Bounds, Entrance, Service};
use super::state::{State, StateConfig};
use super::status::MetaStatusSource;
use super::worker::{self, LeaderConfig};
use super::{Machine, StoreError};
use crate::config::MetaConfig;
use crate::net::{Limits, Server};
use crate::runtime::disk::{Disk, RealDisk};
use crate::runtime::{self, Tasks};
use crate::types::{ClusterId, Level, NodeAddress, NodeId};
use crate::wire::status::{ServerStatus, StatusSource};
use crate::wire::{Hello, Role, RpcError};

/// Largest meta of a request to a metadata server: a publish of a thousand extents or a page of blocks.
const REQUEST_META_MAX: u32 = 1 << 20;

/// How long a start waits for what the peers say of their cluster. One that runs answers in a moment.
const STRANGER_PATIENCE: Duration = Duration::from_millis(500);

/// A running metadata server.
pub struct MetaServer {
    service: Arc<Service>,
    source: Arc<MetaStatusSource>,
    local: SocketAddr,
    tasks: Tasks,
}

impl MetaServer {
    /// Opens the directory, listens, and joins or founds the cluster. Returns once it listens; it is ready when its
    /// status says so.
    ///
    /// # Errors
    /// The directory or the address cannot be used; the text says which and the way out.
    pub async fn start(config: MetaConfig) -> Result<Self, StoreError> {
        Self::start_on(Arc::new(RealDisk), config).await
    }

    /// As [`MetaServer::start`], with the directory on `disk`.
    ///
    /// # Errors
    /// As [`MetaServer::start`].
    pub async fn start_on(disk: Arc<dyn Disk>, config: MetaConfig) -> Result<Self, StoreError> {
        let tasks = Tasks::new();
        match Self::start_in(disk, config, &tasks).await {
            Ok(server) => Ok(server),
            Err(e) => {
                tasks.stop().await;
                Err(e)
            }
        }
    }

    async fn start_in(disk: Arc<dyn Disk>, config: MetaConfig, tasks: &Tasks) -> Result<Self, StoreError> {
        let node = config.node_id();
        let configured = config.servers();
        let addresses: BTreeMap<NodeId, NodeAddress> =
            configured.iter().map(|v| (v.node, v.address.clone())).collect();

        let (claimed, directory) = (disk.clone(), config.directory.clone());
        let levels = config.program.levels;
        let claim = move || Identity::claim(claimed, &directory, node, levels);
        let mut identity = runtime::blocking("claim-directory", claim).await?;
        let mut hello = Hello::new(Role::Meta, config.name.clone());
        hello.node = Some(node);
        hello.program = config.program.clone();
        hello.versions = config.versions;
        // From the first moment on: a peer of another cluster neither takes our log nor gives us its own.
        hello.cluster = identity.cluster();
        let channels = PeerChannels::new(node, &addresses, &hello);
        refuse_misfits(&config, identity.cluster(), &channels).await?;

        let state_config = StateConfig {
            disk: disk.clone(),
            cache_bytes: config.limits.cache_bytes,
            overlay_bytes_max: config.limits.overlay_bytes,
            sled_cache_bytes: config.limits.sled_cache_bytes,
            levels,
            ..StateConfig::new(config.directory.join("state"))
        };
        let state = runtime::blocking("open-state", move || State::open(state_config)).await?;

        let millis = Duration::from_millis;
        let raft_config = RaftConfig {
            timers: Timers {
                heartbeat: millis(config.timers.heartbeat_ms),
                election_min: millis(config.timers.election_ms_min),
                election_max: millis(config.timers.election_ms_max),
                ..Timers::default()
            },
            snapshot_every: config.limits.snapshot_entries,
            log_keep: config.limits.keep_entries,
            disk,
            ..RaftConfig::new(node, config.directory.join("log"))
        };
        let peers = Peers { addresses: addresses.clone(), hello: hello.clone() };
        let machine: Arc<dyn Machine> = Arc::new(state.clone());
        let consensus = Consensus::start(raft_config, machine, peers, tasks).await?;

        let proposer = Proposer::start(consensus.clone(), config.address(), tasks);
        let bounds = Bounds {
            ttl_ms_max: u32::try_from(config.timers.session_ttl_ms).unwrap_or(u32::MAX),
            sessions_max: usize::try_from(config.limits.sessions).unwrap_or(usize::MAX),
            reclaim_grace_ms: config.timers.reclaim_grace_ms,
        };
        let service = Arc::new(Service::new(
            config.own(),
            config.program.clone(),
            bounds,
            consensus.clone(),
            state,
            proposer,
            channels,
        ));
        let source = Arc::new(MetaStatusSource::new(service.clone(), &config));
        service.set_status(source.clone());

        let limits = Limits {
            connections_max: usize::try_from(config.limits.connection_count).unwrap_or(usize::MAX),
            in_flight_max: usize::try_from(config.limits.in_flight).unwrap_or(usize::MAX),
            in_flight_bytes_max: usize::try_from(config.limits.request_bytes).unwrap_or(usize::MAX),
            rate_max: config.limits.requests_per_second,
            frame_limit,
            ..Limits::default()
        };
        let listen = NodeAddress(config.listen.clone());
        if let Some(cluster) = service.cluster() {
            identity.adopt(cluster)?;
        }
        hello.cluster = identity.cluster();
        let server =
            Server::bind(&listen, hello, Entrance(service.clone()), limits, tasks).await.map_err(|e| {
                StoreError::new(
                    format!("cannot listen on {listen}"),
                    format!("{e}: is another server using the address?"),
                )
            })?;
        let local = server.local_addr();

        let leader = LeaderConfig {
            times: NodeTimes {
                suspect_after: millis(config.timers.suspect_ms),
                down_after: millis(config.timers.down_ms),
            },
            layout: config.layout(),
            // To a server that was added later the configuration only says whom to ask.
            configured: if config.join { Vec::new() } else { configured },
        };
        worker::start(service.clone(), server, identity, leader, tasks);
        let (stop, founds) = (tasks.stopping(), !config.join);
        tasks.spawn("bootstrap", async move {
            tokio::select! {
                joined = consensus.bootstrap(addresses, founds) => {
                    if let Err(error) = joined {
                        tracing::error!(%error, "cannot join the cluster");
                    }
                }
                () = stop.stopped() => {}
            }
        });
        tracing::info!(%node, name = %config.name, address = %local, "metadata server listens");
        Ok(Self { service, source, local, tasks: tasks.clone() })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What it tells of itself and of the cluster.
    #[must_use]
    pub fn status_source(&self) -> Arc<dyn StatusSource> {
        self.source.clone()
    }

    /// Returns when the server cannot go on: a disk failed, or the state cannot follow. The process should end then.
    pub async fn failed(&self) -> StoreError {
        let mut failure = self.service.consensus.watch_failure();
        loop {
            if let Some(error) = failure.borrow_and_update().clone() {
                return error;
            }
            if failure.changed().await.is_err() {
                return StoreError::new("consensus", "ended without a word: see the log above");
            }
        }
    }

    /// Hands leadership over, stops all tasks, closes log and state.
    pub async fn stop(self) {
        self.service.consensus.transfer_leader().await;
        self.tasks.signal_stop();
        self.service.consensus.shutdown().await;
        self.tasks.stop().await;
        let state = self.service.state.clone();
        runtime::blocking("close-state", move || state.shutdown()).await;
    }
}

/// Refuses to serve when the others do not fit. Those that do not answer do not count.
///
/// - Most metadata servers say they belong to another cluster: then this directory is the one that is out of place, and its server, alone,
///   would lead and hand out another namespace. A single one that says so does not count for more than this one.
/// - The cluster works at a format level that this program does not know: it could not apply what it would be sent.
async fn refuse_misfits(
    config: &MetaConfig,
    ours: Option<ClusterId>,
    peers: &PeerChannels,
) -> Result<(), StoreError> {
    let told = peers.statuses(STRANGER_PATIENCE).await;
    let status = |json: &String| serde_json::from_str::<ServerStatus>(json).ok();
    let statuses = told.iter().filter_map(|(_, told)| told.as_ref().ok().and_then(status));
    let level =
        statuses.filter_map(|status| status.meta).map(|meta| Level(meta.level)).max().unwrap_or_default();
    if level > config.program.levels.last {
        let reason = levels::unknown(level, config.program.levels);
        return Err(StoreError::new("the cluster that the servers in `peers` form", reason));
    }
    let Some(ours) = ours else { return Ok(()) };
    let strangers: Vec<(NodeId, ClusterId)> = told
        .into_iter()
        .filter_map(|(node, told)| match told {
            Err(RpcError::WrongCluster { server, .. }) => Some((node, server)),
            _ => None,
        })
        .collect();
    let list: Vec<String> = strangers.iter().map(|(node, theirs)| format!("{node} to {theirs}")).collect();
    if strangers.len() * 2 > config.peers.len() {
        return Err(StoreError::new(
            format!("directory {}", config.directory.display()),
            format!(
                "belongs to cluster {ours}, but of the metadata servers in `peers` {}: give this server the directory \
                 that belongs there, or an empty one, or correct the addresses",
                list.join(", ")
            ),
        ));
    }
    if !strangers.is_empty() {
        tracing::error!(cluster = %ours, others = list.join(", "), "metadata servers of another cluster in `peers`");
    }
    Ok(())
}

/// Bounds of what a request may carry, by kind.
fn frame_limit(kind: u16) -> (u32, u32) {
    use crate::wire::message::kind as kinds;
    match kind {
        kinds::META | kinds::PEER => (REQUEST_META_MAX, 0),
        _ => (u32::MAX, u32::MAX),
    }
}
