//! Three metadata servers, three data servers and some clients, each on a host of its own, and the clock that moves them all.
//!
//! Holds: the servers are those that ship, started as `cli` starts them; a server that gives up is started again after a moment, as
//! a supervisor would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pohmelfs::config::{DataConfig, MetaConfig, MetaLimits, Peer};
use pohmelfs::data::DataServer;
use pohmelfs::meta::MetaServer;
use pohmelfs::net::simulated::{HostId, Network};
use pohmelfs::types::NodeAddress;
use pohmelfs::wire::status::{MetaStatus, StatusSource};
use tokio::sync::Notify;

use super::host::{Host, Program, TICK};

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

/// All hosts; metadata servers first, then data servers, then whatever was added.
pub struct Cluster {
    pub network: Network,
    pub hosts: Vec<Host>,
    pub at: Duration,
    pub shared: Shared,
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
            hosts.push(Host::new(&network, &format!("meta-{}", i + 1), meta_program(i, shared.clone())));
        }
        for i in 0..DATA {
            hosts.push(Host::new(&network, &format!("data-{}", i + 1), data_program(i, shared.clone())));
        }
        Self { network, hosts, at: Duration::ZERO, shared, restarts: BTreeMap::new(), down: Vec::new() }
    }

    /// Adds a host that runs `program`, started at once.
    pub fn add(&mut self, name: &str, program: Program) -> HostId {
        let mut host = Host::new(&self.network, name, program);
        host.start();
        self.hosts.push(host);
        self.hosts.len() - 1
    }

    pub fn start(&mut self, host: HostId) {
        self.down.retain(|h| *h != host);
        self.hosts[host].start();
    }

    pub fn kill(&mut self, host: HostId) {
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
        self.go_down(host);
        self.hosts[host].power_off(seed);
    }

    /// The machine goes down, and its disk is replaced by an empty one.
    pub fn wipe(&mut self, host: HostId) {
        self.power_off(host, 0);
        self.hosts[host].new_disk();
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
    pub fn statuses(&self) -> Vec<(String, MetaStatus)> {
        let sources = self.shared.sources.lock().clone();
        let running = sources.into_iter().filter(|(host, _)| self.hosts[*host].is_running());
        let asked = running.filter_map(|(host, source)| {
            let status = self.hosts[host].ask(async move { source.server().await })?;
            Some((self.hosts[host].name.clone(), status.meta?))
        });
        asked.collect()
    }

    /// Starts what has given up again.
    fn supervise(&mut self) {
        for id in 0..META + DATA {
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

fn meta_host(i: usize) -> String {
    format!("meta-{}", i + 1)
}

/// Where the metadata servers are reached.
pub fn meta_addresses() -> Vec<NodeAddress> {
    (0..META).map(|i| NodeAddress(format!("{}:7000", meta_host(i)))).collect()
}

fn ip_of(host: usize) -> String {
    format!("10.0.0.{}", host + 1)
}

fn meta_program(i: usize, shared: Shared) -> Program {
    let peers = (0..META).map(|p| Peer {
        node: p as u64 + 1,
        name: meta_host(p),
        address: format!("{}:7000", meta_host(p)),
        http: String::new(),
    });
    let config = MetaConfig {
        node: i as u64 + 1,
        name: meta_host(i),
        listen: format!("{}:7000", ip_of(i)),
        advertise: format!("{}:7000", meta_host(i)),
        http_listen: String::new(),
        http_advertise: String::new(),
        directory: "/meta".into(),
        peers: peers.collect(),
        // Small, so that snapshots are built, sent and installed within a run.
        limits: MetaLimits { snapshot_entries: 150, keep_entries: 40, ..MetaLimits::default() },
        ..MetaConfig::example()
    };
    Box::new(move |disk| {
        let (config, shared) = (config.clone(), shared.clone());
        Box::pin(async move {
            let (name, stop) = (config.name.clone(), shared.stop_of(i));
            let error = match MetaServer::start_on(disk, config).await {
                Ok(server) => {
                    shared.sources.lock().insert(i, server.status_source());
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
