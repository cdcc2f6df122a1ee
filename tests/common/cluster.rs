//! Metadata and data servers on free ports of 127.0.0.1, with everything in one temporary directory.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use pohmelfs::client::{Client, ClientOptions};
use pohmelfs::types::NodeAddress;
use pohmelfs::wire::message::{MetaReply, MetaRequest};
use pohmelfs::wire::status::{ClusterStatus, MetaStatus, ServerRole, ServerStatus};
use rand::RngExt;
use tempfile::TempDir;

use super::node::{Node, Place};
use super::wait::until;
use super::{LONG, http};

/// Ports are taken from below the range that the kernel draws outgoing ports from, so that the port of a killed server is
/// still free when it comes back.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Metadata servers: 1, 3 or 5.
    pub meta: usize,
    /// Data servers.
    pub data: usize,
    /// Lines of TOML at the top of each metadata server's configuration.
    pub meta_keys: String,
    /// Its `[limits]`.
    pub meta_limits: String,
    /// Its `[timers]`.
    pub meta_timers: String,
    /// Lines of TOML at the top of each data server's configuration.
    pub data_keys: String,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            meta: 3,
            data: 3,
            meta_keys: String::new(),
            // Servers share a small machine here.
            meta_limits: "cache_bytes = 33554432\nsled_cache_bytes = 16777216\n".into(),
            meta_timers: String::new(),
            data_keys: String::new(),
        }
    }
}

impl Shape {
    /// Metadata servers only.
    pub fn meta_only(mut self) -> Self {
        self.data = 0;
        self
    }

    /// A snapshot every `every` entries, `keep` of them kept behind it: so that a server that was away needs one.
    pub fn with_snapshots(mut self, every: u64, keep: u64) -> Self {
        self.meta_limits += &format!("snapshot_entries = {every}\nkeep_entries = {keep}\n");
        self
    }
}

/// A running cluster. Dropped, its processes are killed and its directory removed (kept with `POHMELFS_KEEP`).
pub struct Cluster {
    /// Metadata servers first.
    pub nodes: Vec<Node>,
    meta_count: usize,
    shape: Shape,
    /// Ids of metadata servers that came later.
    strangers: BTreeSet<u64>,
    root: Option<TempDir>,
    _turn: Turn,
}

/// The right to run a cluster on this machine: tests of other processes wait for theirs.
pub struct Turn(#[allow(dead_code, reason = "held for its lock")] File);

impl Turn {
    pub async fn take() -> Self {
        let path = std::env::temp_dir().join("pohmelfs-proof.lock");
        let file = File::options().create(true).append(true).open(&path).unwrap();
        loop {
            match file.try_lock() {
                Ok(()) => return Self(file),
                // Whoever runs the tests bounds this wait: the others' tests are bounded themselves.
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(TryLockError::Error(e)) => panic!("{}: {e}", path.display()),
            }
        }
    }
}

fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Ports that nobody listens on.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut ports = BTreeSet::new();
    while ports.len() < count {
        ports.insert(free_port());
    }
    ports.into_iter().collect()
}

impl Cluster {
    /// Three metadata and three data servers, ready to serve.
    pub async fn start(meta: usize, data: usize) -> Self {
        Self::of(Shape { meta, data, ..Shape::default() }).await
    }

    /// As `shape` says, ready to serve.
    pub async fn of(shape: Shape) -> Self {
        let mut cluster = Self::prepare(shape).await;
        cluster.start_all();
        cluster.ready().await;
        cluster
    }

    /// Configurations are written, nothing runs.
    pub async fn prepare(shape: Shape) -> Self {
        let turn = Turn::take().await;
        let root = tempfile::Builder::new().prefix("pohmelfs-proof-").tempdir().unwrap();
        let places = vec![Place::default(); shape.meta + shape.data];
        Self::prepare_at(shape, root, turn, &places)
    }

    /// As [`Cluster::prepare`], each server at its place: those of metadata servers first.
    pub fn prepare_at(shape: Shape, root: TempDir, turn: Turn, places: &[Place]) -> Self {
        super::stall::watch();
        let count = shape.meta + shape.data;
        assert_eq!(count, places.len(), "a place for each server");
        let ports = free_ports(2 * count);
        let nodes: Vec<Node> = (0..count)
            .map(|i| {
                let (role, number) = if i < shape.meta {
                    (ServerRole::Meta, i + 1)
                } else {
                    (ServerRole::Data, i - shape.meta + 1)
                };
                let id = if role == ServerRole::Meta { number } else { 100 + number } as u64;
                let (name, place) = (format!("{role}-{number}"), places[i].clone());
                Node::new(root.path(), role, id, name, (ports[2 * i], ports[2 * i + 1]), place)
            })
            .collect();
        let strangers = BTreeSet::new();
        let cluster = Self { nodes, meta_count: shape.meta, shape, strangers, root: Some(root), _turn: turn };
        cluster.write_configs();
        cluster
    }

    /// Changes what the configurations of all servers say; each reads its own at its next start.
    pub fn reshape(&mut self, change: impl FnOnce(&mut Shape)) {
        change(&mut self.shape);
        self.write_configs();
    }

    /// Writes the configuration of every server, with the members that there are now.
    pub fn write_configs(&self) {
        for node in &self.nodes {
            std::fs::write(&node.config, self.config_of(node)).unwrap();
        }
    }

    /// Starts a metadata server that waits to be added: its configuration names those that are there now. Gives its index; those of
    /// data servers move by one.
    pub fn start_stranger(&mut self, id: u64) -> usize {
        self.start_stranger_at(id, Place::default())
    }

    /// The same, at a place.
    pub fn start_stranger_at(&mut self, id: u64, place: Place) -> usize {
        let index = self.prepare_stranger_at(id, place);
        self.nodes[index].start();
        index
    }

    /// As [`Cluster::start_stranger`], and does not start it yet.
    pub fn prepare_stranger(&mut self, id: u64) -> usize {
        self.prepare_stranger_at(id, Place::default())
    }

    fn prepare_stranger_at(&mut self, id: u64, place: Place) -> usize {
        let ports = free_ports(2);
        let root = self.root.as_ref().unwrap().path();
        let name = format!("meta-{id}");
        let node = Node::new(root, ServerRole::Meta, id, name, (ports[0], ports[1]), place);
        self.strangers.insert(id);
        std::fs::write(&node.config, self.config_of(&node)).unwrap();
        self.nodes.insert(self.meta_count, node);
        self.meta_count += 1;
        self.meta_count - 1
    }

    /// A metadata server that is a member no more: it is none of the cluster's nodes from now on.
    pub fn dismiss(&mut self, index: usize) -> Node {
        assert!(index < self.meta_count, "a metadata server");
        self.meta_count -= 1;
        self.nodes.remove(index)
    }

    fn config_of(&self, node: &Node) -> String {
        let shape = &self.shape;
        let head = format!(
            "node = {}\nname = {:?}\nlisten = {:?}\nhttp_listen = {:?}\n",
            node.id, node.name, node.address, node.http
        );
        match node.role {
            ServerRole::Meta => {
                let joins = self.strangers.contains(&node.id);
                let join = if joins { "join = true\n" } else { "" };
                let peers: String = self
                    .meta()
                    .iter()
                    // Whoever joins asks the others.
                    .filter(|p| !joins || p.id != node.id)
                    .map(|p| {
                        format!(
                            "\n[[peers]]\nnode = {}\nname = {:?}\naddress = {:?}\nhttp = {:?}\n",
                            p.id, p.name, p.address, p.http
                        )
                    })
                    .collect();
                let replicas = shape.data.clamp(1, 3);
                let durable_min = replicas.min(2);
                format!(
                    "{head}{join}replicas = {replicas}\ndurable_min = {durable_min}\ndirectory = {:?}\n{}\n[limits]\n{}\n[timers]\n{}\n{peers}",
                    node.dir, shape.meta_keys, shape.meta_limits, shape.meta_timers
                )
            }
            ServerRole::Data => {
                let servers: Vec<&str> = self.meta().iter().map(|m| m.address.as_str()).collect();
                format!(
                    "{head}directories = [{:?}]\nmeta_servers = {servers:?}\nreserve_bytes = 0\n{}\n",
                    node.dir, shape.data_keys
                )
            }
        }
    }

    /// Starts every server that does not run.
    pub fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| !n.is_started()) {
            node.start();
        }
    }

    /// Its temporary directory.
    pub fn root(&self) -> &Path {
        self.root.as_ref().unwrap().path()
    }

    /// The metadata servers.
    pub fn meta(&self) -> &[Node] {
        &self.nodes[..self.meta_count]
    }

    /// The data servers.
    pub fn data(&self) -> &[Node] {
        &self.nodes[self.meta_count..]
    }

    /// Indexes (into `nodes`) of the metadata servers.
    pub fn meta_indexes(&self) -> std::ops::Range<usize> {
        0..self.meta_count
    }

    /// Indexes (into `nodes`) of the data servers.
    pub fn data_indexes(&self) -> std::ops::Range<usize> {
        self.meta_count..self.nodes.len()
    }

    /// Addresses of the metadata servers.
    pub fn addresses(&self) -> Vec<NodeAddress> {
        self.meta().iter().map(Node::node_address).collect()
    }

    /// kill -9 of all servers at once.
    pub fn kill_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| n.is_started()) {
            node.kill_without_waiting();
        }
        for node in &mut self.nodes {
            node.reap();
        }
    }

    /// Stops all servers in order, and waits until they are gone.
    pub async fn stop_all(&mut self) {
        let all: Vec<usize> = (0..self.nodes.len()).filter(|&i| self.nodes[i].is_started()).collect();
        for &i in &all {
            self.nodes[i].terminate();
        }
        for i in all {
            let name = self.nodes[i].name.clone();
            let node = &mut self.nodes[i];
            let status =
                until(&format!("the end of {name}"), async || node.ended().ok_or("it runs".into())).await;
            assert!(status.success(), "{name} ended with {status} when it was told to stop");
        }
    }

    /// Status of a metadata server.
    pub async fn meta_status(&self, index: usize) -> Result<(ServerStatus, MetaStatus), String> {
        let mut status = self.nodes[index].status().await?;
        let meta =
            status.meta.take().ok_or_else(|| format!("{} tells nothing of raft", self.nodes[index].name))?;
        Ok((status, meta))
    }

    /// The cluster as one of the servers that run sees it.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, String> {
        let mut last = String::from("no metadata server runs");
        for node in self.meta().iter().filter(|n| n.is_started() && !n.is_paused()) {
            match http::get_json(&node.http, "/cluster").await {
                Ok(status) => return Ok(status),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Index (into `nodes`) of the leader; waits until there is one that a majority follows.
    pub async fn leader(&self) -> usize {
        until("a leader", async || {
            let mut votes = vec![0; self.meta_count];
            let mut seen = Vec::new();
            for i in self.meta_indexes() {
                match self.meta_status(i).await {
                    Ok((status, meta)) => {
                        seen.push(format!(
                            "{} is {} and follows {:?}",
                            status.name, meta.raft_state, meta.leader
                        ));
                        let of = |id| self.meta().iter().position(|n| Some(n.id) == id);
                        if let Some(leader) = of(meta.leader.map(|l| l.0)) {
                            votes[leader] += 1;
                        }
                    }
                    Err(e) => seen.push(e),
                }
            }
            let led = votes.iter().position(|&v| 2 * v > self.meta_count);
            led.filter(|&i| self.nodes[i].is_started() && !self.nodes[i].is_paused())
                .ok_or_else(|| seen.join("; "))
        })
        .await
    }

    /// Index of some metadata server that runs and does not lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let running = |&i: &usize| i != leader && self.nodes[i].is_started() && !self.nodes[i].is_paused();
        self.meta_indexes().find(running).expect("a follower runs")
    }

    /// Waits until every server that runs is ready, and the cluster sees every data server that runs as up.
    pub async fn ready(&self) {
        for node in self.nodes.iter().filter(|n| n.is_started() && !n.is_paused()) {
            until(&format!("{} to be ready", node.name), async || {
                let status = node.status().await?;
                if status.ready { Ok(()) } else { Err(status.reason) }
            })
            .await;
        }
        let up: Vec<&str> = self.data().iter().filter(|n| n.is_started()).map(|n| n.name.as_str()).collect();
        until("data servers to be up", async || {
            let cluster = self.cluster_status().await?;
            let missing: Vec<_> = up
                .iter()
                .filter(|name| {
                    !cluster.data.iter().any(|d| d.name == **name && d.state.eq_ignore_ascii_case("up"))
                })
                .collect();
            if missing.is_empty() && (up.is_empty() || cluster.groups.whole > 0) {
                Ok(())
            } else {
                Err(format!(
                    "missing {missing:?}, groups {:?}, reasons {:?}",
                    cluster.groups, cluster.reasons
                ))
            }
        })
        .await;
    }

    /// Waits until one data server is ready and seen as up, whatever becomes of the others.
    pub async fn ready_data(&self, index: usize) {
        let node = &self.nodes[index];
        until(&format!("{} to be up", node.name), async || {
            let cluster = self.cluster_status().await?;
            let state = cluster.data.iter().find(|d| d.name == node.name).map(|d| d.state.clone());
            if state.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("up")) {
                Ok(())
            } else {
                Err(format!("{state:?}"))
            }
        })
        .await;
    }

    /// Waits until all metadata servers have applied the same index with the same state. Nothing may be writing.
    ///
    /// # Panics
    /// When two differ at the same index: that is never right, not even for a moment.
    pub async fn same_state(&self) {
        let all = until("the same state everywhere", async || {
            let mut all = Vec::new();
            for i in self.meta_indexes() {
                let (status, meta) = self.meta_status(i).await?;
                all.push((status.name, meta.state_hash_at, meta.state_hash, meta.applied));
            }
            let index = all[0].1;
            let same = all.iter().all(|(_, at, hash, _)| *at == index && !hash.is_empty());
            if same { Ok(all) } else { Err(format!("{all:?}")) }
        })
        .await;
        assert!(
            all.iter().all(|(_, _, hash, _)| *hash == all[0].2),
            "states differ at the same index: {all:?}"
        );
    }

    /// Blocks that the data servers hold, replicas counted, as each tells itself. All must run.
    pub async fn block_count(&self) -> Result<u64, String> {
        let mut count = 0;
        for node in self.data() {
            let status = node.status().await?;
            count += status.data.ok_or_else(|| format!("{} tells nothing of blocks", node.name))?.block_count;
        }
        Ok(count)
    }

    /// A client that spreads its calls over all servers.
    pub async fn client(&self) -> Client {
        self.client_with(ClientOptions { label: "proof".into(), ..ClientOptions::default() }).await
    }

    /// A client with options of its own; tries until [`LONG`] has passed.
    pub async fn client_with(&self, options: ClientOptions) -> Client {
        let addresses = self.addresses();
        until("a session", async || {
            Client::connect(&addresses, options.clone()).await.map_err(|e| e.to_string())
        })
        .await
    }

    /// What the check of the whole namespace finds.
    pub async fn check(&self) -> Vec<String> {
        let client = self.client().await;
        let found = match client.request(&MetaRequest::Check, LONG).await.unwrap() {
            MetaReply::Checked { violations, .. } => violations,
            other => panic!("to a check: {other:?}"),
        };
        client.close().await;
        found
    }

    /// Prints the end of every server's log.
    pub fn show_logs(&self) {
        for node in &self.nodes {
            eprintln!("=== {} ({}), end of its log:\n{}\n", node.name, node.address, node.tail());
        }
    }

    /// Runs the program with `arguments` against this cluster.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        let servers: Vec<&str> = self.meta().iter().map(|m| m.address.as_str()).collect();
        super::node::program().env("POHMELFS_CLUSTER", servers.join(",")).args(arguments).output().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(stall) = super::stall::excuse() {
                eprintln!("the machine stood still for {stall:?} meanwhile");
            }
            self.show_logs();
        }
        self.nodes.clear();
        if std::env::var_os("POHMELFS_KEEP").is_some()
            && let Some(root) = self.root.take()
        {
            eprintln!("kept: {}", root.keep().display());
        }
    }
}
