//! Three nodes in one process, each in a runtime of its own so that it can be killed without a word.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::machine::MemMachine;
use crate::meta::raft::{Consensus, ConsensusError, Peers, RaftConfig, RaftState, RaftStatus};
use crate::net::{Handler, Limits, PeerInfo, Reply, Request, Server};
use crate::runtime::{self, Tasks};
use crate::types::{LogIndex, NodeAddress, NodeId};
use crate::wire::{Applied, Hello, Role, RpcError};

/// Only a bug reaches it.
const DEADLINE: Duration = Duration::from_secs(120);

struct Entrance(Consensus);

impl Handler for Entrance {
    async fn handle(&self, _from: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        self.0.handle_peer(request.kind, request.meta, request.payload).await
    }
}

/// A node that runs.
pub(super) struct Node {
    pub(super) consensus: Consensus,
    pub(super) machine: Arc<MemMachine>,
    runtime: tokio::runtime::Runtime,
}

/// Three addresses and directories, and the nodes of them that run.
pub(super) struct Cluster {
    dir: TempDir,
    addresses: BTreeMap<NodeId, NodeAddress>,
    nodes: Mutex<BTreeMap<u64, Node>>,
    pub(super) configure: fn(&mut RaftConfig),
}

/// Waits until `condition` gives something.
pub(super) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = runtime::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(runtime::now() < deadline, "waited in vain: {what}");
        runtime::sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    /// None of them runs yet.
    pub(super) fn new(configure: fn(&mut RaftConfig)) -> Self {
        let ports: Vec<_> = (1..=3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = (1..)
            .zip(&ports)
            .map(|(id, port)| (NodeId(id), NodeAddress(port.local_addr().unwrap().to_string())))
            .collect();
        Self { dir: TempDir::new().unwrap(), addresses, nodes: Mutex::default(), configure }
    }

    /// All of them run, and one leads.
    pub(super) async fn running(configure: fn(&mut RaftConfig)) -> Self {
        let cluster = Self::new(configure);
        for id in 1..=3 {
            cluster.start(id).await;
        }
        cluster.leader().await;
        cluster
    }

    pub(super) fn dir(&self, id: u64) -> std::path::PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Starts node `id` and lets it join by itself.
    pub(super) async fn start(&self, id: u64) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (addresses, dir, configure) = (self.addresses.clone(), self.dir(id), self.configure);
        let tasks = Tasks::new();
        let (consensus, machine) =
            runtime.spawn(async move { start(id, &addresses, &dir, configure, &tasks).await }).await.unwrap();
        let node = Node { consensus, machine, runtime };
        assert!(self.nodes.lock().insert(id, node).is_none(), "it runs already");
    }

    /// Takes a node away in the middle of whatever it does.
    pub(super) fn kill(&self, id: u64) {
        let node = self.nodes.lock().remove(&id).expect("it runs");
        node.runtime.shutdown_background();
    }

    pub(super) fn with<T>(&self, id: u64, f: impl FnOnce(&Node) -> T) -> T {
        f(&self.nodes.lock()[&id])
    }

    pub(super) fn try_with<T>(&self, id: u64, f: impl FnOnce(&Node) -> T) -> Option<T> {
        self.nodes.lock().get(&id).map(f)
    }

    pub(super) fn consensus(&self, id: u64) -> Consensus {
        self.with(id, |node| node.consensus.clone())
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.nodes.lock().keys().copied().collect()
    }

    pub(super) fn address(&self, id: u64) -> NodeAddress {
        self.addresses[&NodeId(id)].clone()
    }

    pub(super) fn statuses(&self) -> Vec<RaftStatus> {
        self.nodes.lock().values().map(|node| node.consensus.status()).collect()
    }

    pub(super) fn applied(&self, id: u64) -> Vec<Bytes> {
        self.with(id, |node| node.machine.applied())
    }

    /// The node that leads in the highest term, once there is one.
    pub(super) async fn leader(&self) -> u64 {
        until("a leader", || {
            let statuses = self.statuses();
            let leader =
                statuses.iter().max_by_key(|status| (status.term, status.state == RaftState::Leader))?;
            (leader.state == RaftState::Leader).then_some(leader.node.0)
        })
        .await
    }

    /// Proposes to whoever leads until it is acknowledged. False: it may or may not have been applied.
    pub(super) async fn propose(&self, command: &str) -> bool {
        let deadline = runtime::now() + DEADLINE;
        loop {
            assert!(runtime::now() < deadline, "{command} is never acknowledged");
            let leader = self.leader().await;
            let Some(consensus) = self.nodes.lock().get(&leader).map(|node| node.consensus.clone()) else {
                continue;
            };
            let proposed = consensus.propose(Bytes::copy_from_slice(command.as_bytes()));
            // A node that was killed never answers.
            match runtime::timeout(Duration::from_secs(5), proposed).await {
                Ok(Ok(replies)) => {
                    assert_eq!(replies.len(), 1);
                    return true;
                }
                Ok(Err(e)) if e.applied() == Applied::No => runtime::sleep(Duration::from_millis(20)).await,
                Ok(Err(ConsensusError::LeaderLost { .. } | ConsensusError::Stopped { .. })) | Err(_) => {
                    return false;
                }
                Ok(Err(e)) => panic!("{command}: {e}"),
            }
        }
    }

    /// Waits until all that run have applied the same, and gives it.
    pub(super) async fn agreed(&self) -> Vec<Bytes> {
        while !self.propose("agree").await {}
        until("all nodes to have applied the same", || {
            let all: Vec<_> = self.ids().into_iter().map(|id| self.applied(id)).collect();
            (all.windows(2).all(|pair| pair[0] == pair[1])).then(|| all[0].clone())
        })
        .await
    }

    pub(super) async fn until_state(&self, id: u64, state: RaftState) {
        until(&format!("node {id} to be {state:?}"), || {
            (self.consensus(id).status().state == state).then_some(())
        })
        .await;
    }

    /// Waits until a snapshot covers most of the log of every node and the entries it covers are purged.
    pub(super) async fn until_purged(&self, behind: LogIndex) {
        until("logs to be purged", || {
            self.statuses().iter().all(|status| status.purged >= behind).then_some(())
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for id in self.ids() {
            self.kill(id);
        }
    }
}

async fn start(
    id: u64,
    addresses: &BTreeMap<NodeId, NodeAddress>,
    dir: &Path,
    configure: fn(&mut RaftConfig),
    tasks: &Tasks,
) -> (Consensus, Arc<MemMachine>) {
    let mut config = RaftConfig::new(NodeId(id), dir.join("log"));
    configure(&mut config);
    let hello = Hello { node: Some(NodeId(id)), ..Hello::new(Role::Meta, format!("meta-{id}")) };
    let deadline = runtime::now() + DEADLINE;
    let (consensus, machine) = loop {
        let machine = Arc::new(MemMachine::new(&dir.join("state")));
        let peers = Peers { addresses: addresses.clone(), hello: hello.clone() };
        match Consensus::start(config.clone(), machine.clone(), peers, tasks).await {
            Ok(consensus) => break (consensus, machine),
            // The one that was killed has not let go of its log yet.
            Err(e) if e.reason.contains("another process") => {
                assert!(runtime::now() < deadline, "{e}");
                runtime::sleep(Duration::from_millis(10)).await;
            }
            Err(e) => panic!("node {id}: {e}"),
        }
    };
    let address = &addresses[&NodeId(id)];
    loop {
        let entrance = Entrance(consensus.clone());
        match Server::bind(address, hello.clone(), entrance, Limits::default(), tasks).await {
            Ok(_) => break,
            Err(e) => assert!(runtime::now() < deadline, "node {id} cannot listen: {e}"),
        }
        runtime::sleep(Duration::from_millis(10)).await;
    }
    let (joining, voters) = (consensus.clone(), addresses.clone());
    tasks.spawn("bootstrap", async move {
        if let Err(e) = joining.bootstrap(voters, true).await {
            tracing::error!(error = %e, "bootstrap");
        }
    });
    (consensus, machine)
}
