//! [`DataServer`]: all parts of a data server put together, started in order and stopped in order.
//!
//! Called by `cli` and by tests. Start: store, socket, then registration and workers, which wait for nobody. A kill at
//! any point loses nothing that was acknowledged.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use super::core::Core;
use super::meta_servers::MetaServers;
use super::service::{Entrance, LateEntrance, frame_limit};
use super::status::{DataStatusSource, spread};
use super::store::{BlockStore, Identity, StoreConfig, StoreError};
use super::{catch_up, membership, reclaim, scrub};
use crate::config::DataConfig;
use crate::net::{Limits, Server};
use crate::runtime::disk::{Disk, RealDisk};
use crate::runtime::{self, Tasks};
use crate::types::NodeAddress;
use crate::wire::status::StatusSource;
use crate::wire::{Hello, Role};

/// Why a data server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directories cannot be used; the text names one and the way out.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its address cannot be bound.
    #[error("cannot listen on {address}: {reason}; is another server using the address?")]
    Listen {
        /// As configured.
        address: NodeAddress,
        /// What the system said.
        reason: String,
    },
}

/// A running data server.
pub struct DataServer {
    core: Arc<Core>,
    local: SocketAddr,
    tasks: Tasks,
}

impl DataServer {
    /// Opens the directories, listens, and begins to register. Returns once it listens and serves what it has, whether
    /// or not a metadata server can be reached.
    ///
    /// # Errors
    /// The directories or the address cannot be used; the text says which and the way out.
    pub async fn start(config: DataConfig) -> Result<Self, StartError> {
        Self::start_on(Arc::new(RealDisk), config).await
    }

    /// As [`DataServer::start`], with the directories on `disk`.
    ///
    /// # Errors
    /// As [`DataServer::start`].
    pub async fn start_on(disk: Arc<dyn Disk>, config: DataConfig) -> Result<Self, StartError> {
        let tasks = Tasks::new();
        match Self::start_in(disk, config, &tasks).await {
            Ok(server) => Ok(server),
            Err(error) => {
                tasks.stop().await;
                Err(error)
            }
        }
    }

    async fn start_in(
        disk: Arc<dyn Disk>,
        mut config: DataConfig,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let store_config = StoreConfig {
            mode: spread(&config),
            reserve_bytes: config.reserve_bytes,
            create: true,
            ..StoreConfig::new(config.directories.clone())
        };
        let who = Identity { cluster: None, node: Some(config.node_id()), random: runtime::random_u128() };
        let open = move || BlockStore::open_on(disk, store_config, who);
        let store = Arc::new(runtime::blocking("open-store", open).await?);
        let cluster = store.cluster();

        let mut hello = Hello::new(Role::Data, config.name.clone());
        (hello.node, hello.cluster) = (Some(store.node()), cluster);
        let limits = Limits {
            connections_max: usize::try_from(config.limits.connection_count).unwrap_or(usize::MAX),
            in_flight_max: usize::try_from(config.limits.in_flight).unwrap_or(usize::MAX),
            rate_max: config.limits.requests_per_second,
            frame_limit,
            // Only a put carries bytes, and the store sums them sector by sector.
            payload_verified_by_handler: true,
            ..Limits::default()
        };
        // The core wants the address that was bound, and requests want the core: they wait for it a moment.
        let late = Arc::new(OnceLock::new());
        let listen = NodeAddress(config.listen.clone());
        let server = Server::bind(&listen, hello, LateEntrance(late.clone()), limits, tasks)
            .await
            .map_err(|e| StartError::Listen { address: listen, reason: e.to_string() })?;
        let local = server.local_addr();
        if config.advertise.is_empty() {
            config.advertise = local.to_string();
        }
        let given = config.meta_servers.iter().cloned().map(NodeAddress).collect();
        let meta = MetaServers::new(given, store.node(), &config.name, cluster);
        let address = config.address();
        let core = Arc::new(Core::new(config, address, store, server, meta));
        if late.set(Entrance(core.clone())).is_err() {
            unreachable!("the entrance is set once, here");
        }

        let stop = || tasks.stopping();
        tasks.spawn("membership", membership::run(core.clone(), stop()));
        tasks.spawn("reclaim", reclaim::run(core.clone(), stop()));
        tasks.spawn("catch-up", catch_up::run(core.clone(), stop()));
        tasks.spawn("scrub", scrub::run(core.clone(), stop()));
        tracing::info!(node = %core.node, name = %core.config.name, address = %core.address,
            block_count = core.store.block_count(), "data server listens");
        Ok(Self { core, local, tasks: tasks.clone() })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What it tells of itself and of the cluster.
    #[must_use]
    pub fn status_source(&self) -> Arc<dyn StatusSource> {
        Arc::new(DataStatusSource(self.core.clone()))
    }

    /// Stops all tasks. Puts that are on their way to the disk come to their end or are not acknowledged.
    pub async fn stop(self) {
        self.tasks.stop().await;
    }
}

#[cfg(test)]
impl DataServer {
    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    pub(super) fn config(&self) -> DataConfig {
        self.core.config.clone()
    }

    pub(super) fn stored(&self) -> Vec<crate::types::BlockId> {
        self.core.store.list(None, usize::MAX).into_iter().map(|b| b.id).collect()
    }

    /// Waits until `found` finds something; a server changes this without telling anybody.
    async fn wait_for<T>(&self, what: &str, found: impl Fn(&Core) -> Option<T>) -> T {
        let poll = async {
            loop {
                if let Some(found) = found(&self.core) {
                    return found;
                }
                runtime::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let patience = std::time::Duration::from_secs(30);
        runtime::timeout(patience, poll).await.unwrap_or_else(|_| panic!("{what} did not come"))
    }

    pub(super) async fn registered(&self) {
        self.wait_for("registration", |c| c.standing.lock().registered_with.clone()).await;
    }

    /// Waits until it is registered, has had a heartbeat answered and has caught up.
    pub(super) async fn settled(&self) {
        let settled = |c: &Core| c.standing.lock().state.is_some() && c.catch_up.is_idle();
        self.wait_for("rest", |c| settled(c).then_some(())).await;
    }

    pub(super) async fn problem(&self) -> String {
        self.wait_for("a problem", |c| c.standing.lock().problem.clone()).await
    }

    pub(super) async fn fetched(&self, count: u64) {
        let fetched = |c: &Core| c.fetched.load(std::sync::atomic::Ordering::Relaxed);
        self.wait_for("a fetched block", |c| (fetched(c) >= count).then_some(())).await;
    }
}
