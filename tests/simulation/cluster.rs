//! Three metadata servers, three data servers and some clients, each on a host of its own, and the clock that moves them all.
//!
//! More metadata servers may come ([`Cluster::enlist`]) and some may go for ever ([`Cluster::dismiss`]); `roll` says who is what.
//! Holds: the servers are those that ship, started as `cli` starts them; a server that gives up is started again after a moment, as
//! a supervisor would; nothing happens to a host that is not in service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pohmelfs::config::{DataConfig, MetaConfig, MetaLimits, Peer};
use pohmelfs::data::DataServer;
use pohmelfs::meta::MetaServer;
use pohmelfs::net::simulated::{HostId, Network};
use pohmelfs::types::{NodeAddress, NodeId};
use pohmelfs::wire::status::{MetaStatus, StatusSource};
use tokio::sync::Notify;

use super::host::{Host, Program, TICK};
use super::roll::Roll;

/// Metadata servers that make the cluster.
pub const META: usize = 3;
pub const DATA: usize = 3;
/// After which a server that gave up is started again.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// What all of a run share: the time since the begin, in nanoseconds, and why servers gave up.
#[derive(Clone, Default)]
pub struct Shared {
    pub clock: Arc<AtomicU64>,
    /// Host name and reason, newest last.
    pub gave_up: Arc<Mutex<Vec<(String, String)>>>,
    /// What the metadata servers tell of themselves, by host.
    pub sources: Arc<Mutex<BTreeMap<HostId, Arc<dyn StatusSource>>>>,
    /// Tells a server to stop in order, by host.
    stops: Arc<Mutex<BTreeMap<HostId, Arc<Notify>>>>,
}

impl Shared {
    /// What tells the server that is about to start on this host to stop.
    fn stop_of(&self, host: HostId) -> Arc<Notify> {
        let stop = Arc::<Notify>::default();
        self.stops.lock().insert(host, stop.clone());
        stop
    }
}

/// What a metadata server that runs tells of itself.
pub struct Look {
    pub host: HostId,
    pub node: NodeId,
    pub name: String,
    pub meta: MetaStatus,
}

/// All hosts; metadata servers first, then data servers, then whatever was added.
pub struct Cluster {
    pub network: Network,
    pub hosts: Vec<Host>,
    pub at: Duration,
    pub shared: Shared,
    /// Who of the metadata servers is what.
    pub roll: Roll,
    /// Hosts of metadata servers that may come.
    newcomers: Vec<HostId>,
    /// Hosts that are not yet in service, or not any more.
    idle: BTreeSet<HostId>,
    /// Leaders that were struck, by the number of the blow.
    pub struck: BTreeMap<u32, HostId>,
    /// Servers that gave up, and when they are to be started again.
    restarts: BTreeMap<HostId, Duration>,
    /// Hosts that are to stay down until they are started.
    down: Vec<HostId>,
}

impl Cluster {
    pub fn new() -> Self {
        let network = Network::install();
        let shared = Shared::default();
        let mut hosts = Vec::new();
        for i in 0..META {
            let program = meta_program(i, node_of(i), shared.clone());
            hosts.push(Host::new(&network, &name_of(node_of(i)), program));
        }
        for i in 0..DATA {
            hosts.push(Host::new(&network, &format!("data-{}", i + 1), data_program(i, shared.clone())));
        }
        Self {
            network,
            hosts,
            at: Duration::ZERO,
            shared,
            roll: Roll::new((0..META).map(|i| (node_of(i), i))),
            newcomers: Vec::new(),
            idle: BTreeSet::new(),
            struck: BTreeMap::new(),
            restarts: BTreeMap::new(),
            down: Vec::new(),
        }
    }

    /// Adds a host for a metadata server that is to join, with an empty disk; [`Cluster::enlist`] starts it.
    pub fn newcomer(&mut self) -> HostId {
        let (host, node) = (self.hosts.len(), node_of(META + self.newcomers.len()));
        let program = meta_program(host, node, self.shared.clone());
        self.hosts.push(Host::new(&self.network, &name_of(node), program));
        self.roll.newcomer(node, host);
        self.newcomers.push(host);
        self.idle.insert(host);
        host
    }

    /// Hosts of servers, whether in service or not.
    pub fn servers(&self) -> Vec<HostId> {
        (0..META + DATA).chain(self.newcomers.iter().copied()).collect()
    }

    /// Puts a host into service and starts it.
    pub fn enlist(&mut self, host: HostId) {
        self.idle.remove(&host);
        self.start(host);
    }

    /// Ends a host for ever, unless it is enlisted again.
    pub fn dismiss(&mut self, host: HostId) {
        self.kill(host);
        self.idle.insert(host);
    }

    /// A machine burns down.
    pub fn lose(&mut self, host: HostId) {
        self.power_off(host, 0);
        self.idle.insert(host);
    }

    pub fn is_in_service(&self, host: HostId) -> bool {
        !self.idle.contains(&host)
    }

    /// Adds a host that runs `program`, started at once.
    pub fn add(&mut self, name: &str, program: Program) -> HostId {
        let mut host = Host::new(&self.network, name, program);
        host.start();
        self.hosts.push(host);
        self.hosts.len() - 1
    }

    pub fn start(&mut self, host: HostId) {
        if !self.is_in_service(host) {
            return;
        }
        self.down.retain(|h| *h != host);
        self.hosts[host].start();
    }

    pub fn kill(&mut self, host: HostId) {
        if !self.is_in_service(host) {
            return;
        }
        self.go_down(host);
        self.hosts[host].kill();
    }

    /// SIGTERM: the server stops in order, and is started again after a moment.
    pub fn stop(&mut self, host: HostId) {
        if let Some(stop) = self.shared.stops.lock().get(&host) {
            stop.notify_one();
        }
    }

    pub fn power_off(&mut self, host: HostId, seed: u64) {
        if !self.is_in_service(host) {
            return;
        }
        self.go_down(host);
        self.hosts[host].power_off(seed);
    }

    /// The machine goes down, and its disk is replaced by an empty one.
    pub fn wipe(&mut self, host: HostId) {
        self.power_off(host, 0);
        self.hosts[host].new_disk();
    }

    /// Cuts a host off from all other servers, one way or both, or mends it.
    pub fn cut_off(&mut self, host: HostId, out: bool, back: bool, is_cut: bool) {
        for other in self.servers().into_iter().filter(|other| *other != host) {
            if out {
                self.network.cut(host, other, is_cut);
            }
            if back {
                self.network.cut(other, host, is_cut);
            }
        }
    }

    fn go_down(&mut self, host: HostId) {
        self.restarts.remove(&host);
        self.shared.sources.lock().remove(&host);
        if !self.down.contains(&host) {
            self.down.push(host);
        }
    }

    /// Moves everything on by one tick.
    pub fn tick(&mut self) {
        self.at += TICK;
        let at = u64::try_from(self.at.as_nanos()).unwrap();
        self.shared.clock.store(at, Ordering::Relaxed);
        self.network.advance(self.at);
        for host in &mut self.hosts {
            host.tick(self.at);
        }
        self.supervise();
    }

    /// What the metadata servers that run tell of themselves.
    pub fn looks(&self) -> Vec<Look> {
        let sources = self.shared.sources.lock().clone();
        let running = sources.into_iter().filter(|(host, _)| self.hosts[*host].is_running());
        let asked = running.filter_map(|(host, source)| {
            let status = self.hosts[host].ask(async move { source.server().await })?;
            Some(Look { host, node: status.node, name: self.hosts[host].name.clone(), meta: status.meta? })
        });
        asked.collect()
    }

    /// Whoever leads in the newest term.
    pub fn leader(&self) -> Option<Look> {
        let leading = self.looks().into_iter().filter(|look| look.meta.raft_state == "leader");
        leading.max_by_key(|look| look.meta.term)
    }

    /// Starts what has given up again.
    fn supervise(&mut self) {
        for id in self.servers() {
            if self.hosts[id].is_running() && self.hosts[id].has_ended() && !self.restarts.contains_key(&id) {
                self.shared.sources.lock().remove(&id);
                self.hosts[id].kill();
                self.restarts.insert(id, self.at + RESTART_AFTER);
            }
        }
        let due: Vec<HostId> =
            self.restarts.iter().filter(|(_, at)| **at <= self.at).map(|(id, _)| *id).collect();
        for id in due {
            self.restarts.remove(&id);
            if !self.down.contains(&id) {
                self.hosts[id].start();
            }
        }
    }
}

/// The id of the `i`th metadata server, counted from 0.
pub fn node_of(i: usize) -> NodeId {
    NodeId(i as u64 + 1)
}

fn name_of(node: NodeId) -> String {
    format!("meta-{}", node.0)
}

/// Where a metadata server is reached.
pub fn address_of(node: NodeId) -> NodeAddress {
    NodeAddress(format!("{}:7000", name_of(node)))
}

/// Where those that made the cluster are reached.
pub fn meta_addresses() -> Vec<NodeAddress> {
    (0..META).map(|i| address_of(node_of(i))).collect()
}

fn ip_of(host: usize) -> String {
    format!("10.0.0.{}", host + 1)
}

/// Metadata server `node` on `host`: one of those that make the cluster, or one that is to join it.
fn meta_program(host: HostId, node: NodeId, shared: Shared) -> Program {
    let peers = (0..META).map(node_of).map(|peer| Peer {
        node: peer.0,
        name: name_of(peer),
        address: address_of(peer).0,
        http: String::new(),
    });
    let config = MetaConfig {
        node: node.0,
        name: name_of(node),
        listen: format!("{}:7000", ip_of(host)),
        advertise: address_of(node).0,
        http_listen: String::new(),
        http_advertise: String::new(),
        directory: "/meta".into(),
        peers: peers.collect(),
        join: host >= META,
        // Small, so that snapshots are built, sent and installed within a run.
        limits: MetaLimits { snapshot_entries: 150, keep_entries: 40, ..MetaLimits::default() },
        ..MetaConfig::example()
    };
    Box::new(move |disk| {
        let (config, shared) = (config.clone(), shared.clone());
        Box::pin(async move {
            let (name, stop) = (config.name.clone(), shared.stop_of(host));
            let error = match MetaServer::start_on(disk, config).await {
                Ok(server) => {
                    shared.sources.lock().insert(host, server.status_source());
                    tokio::select! {
                        error = server.failed() => error,
                        () = stop.notified() => return server.stop().await,
                    }
                }
                Err(error) => error,
            };
            shared.gave_up.lock().push((name, error.to_string()));
        })
    })
}

fn data_program(i: usize, shared: Shared) -> Program {
    let config = DataConfig {
        node: i as u64 + 101,
        name: format!("data-{}", i + 1),
        listen: format!("{}:7000", ip_of(META + i)),
        advertise: format!("data-{}:7000", i + 1),
        http_listen: String::new(),
        http_advertise: String::new(),
        meta_servers: meta_addresses().into_iter().map(|a| a.0).collect(),
        directories: vec!["/data".into()],
        mode: Default::default(),
        mirror_count: 0,
        domain: String::new(),
        reserve_bytes: 1 << 20,
        ..DataConfig::example()
    };
    Box::new(move |disk| {
        let (config, shared) = (config.clone(), shared.clone());
        Box::pin(async move {
            let (name, stop) = (config.name.clone(), shared.stop_of(META + i));
            match DataServer::start_on(disk, config).await {
                Ok(server) => {
                    stop.notified().await;
                    server.stop().await;
                }
                Err(error) => shared.gave_up.lock().push((name, error.to_string())),
            }
        })
    })
}
