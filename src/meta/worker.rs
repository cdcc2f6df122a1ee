//! The task that makes a leader of this server when consensus elects it, and ticks while it leads.
//!
//! Holds: the leader's tables exist only after everything committed in earlier terms is applied here, and are dropped
//! with the term; so no decision rests on an old state. Proposals of a lost term fail, and the next leader decides anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::identity::Identity;
use super::leader::{Leader, NodeTimes};
use super::service::Service;
use crate::namespace::{self, Op};
use crate::net::Server;
use crate::runtime::{self, StopSignal, Tasks};
use crate::types::{ClusterId, Layout, MetaNode, NodeId};
use crate::wire::RpcError;

/// Between two looks at the tables. A tenth of the shortest thing that is measured (a suspect data server).
const TICK: Duration = Duration::from_millis(150);
/// Longest wait of a new leader for its own first entry to be applied; then it tries again.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// What a leader is told by the configuration.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// How long data servers may be silent.
    pub times: NodeTimes,
    /// How files are kept, for the founder of the cluster.
    pub layout: Layout,
    /// All metadata servers.
    pub voters: Vec<MetaNode>,
}

/// Starts the tasks.
pub(super) fn start(
    service: Arc<Service>,
    server: Server,
    identity: Identity,
    config: LeaderConfig,
    tasks: &Tasks,
) {
    tasks.spawn("learn-cluster", learn_cluster(service.clone(), server, identity, tasks.stopping()));
    tasks.spawn("leader-worker", run(service, config, tasks.stopping()));
}

/// Tells the listener, the channels and the directory which cluster this is, once that is known. A task of its own: the
/// founder leads from the first moment on, and must refuse strangers all the same.
async fn learn_cluster(service: Arc<Service>, server: Server, mut identity: Identity, stop: StopSignal) {
    let cluster = loop {
        if let Some(cluster) = service.cluster() {
            break cluster;
        }
        tokio::select! {
            () = stop.stopped() => return,
            () = runtime::sleep(TICK) => {}
        }
    };
    tracing::info!(%cluster, "this server belongs to a cluster");
    server.set_cluster(cluster);
    service.peers.set_cluster(cluster);
    service.consensus.set_cluster(cluster);
    if let Err(error) = runtime::blocking("keep-cluster", move || identity.adopt(cluster)).await {
        tracing::error!(%error, "the directory does not keep the cluster");
    }
}

async fn run(service: Arc<Service>, config: LeaderConfig, stop: StopSignal) {
    let mut changes = service.consensus.watch_leader();
    while !stop.is_stopping() {
        let leads = service.consensus.leader().filter(|l| l.node == service.node);
        if let Some(leads) = leads {
            lead(&service, &config, leads.term, &stop).await;
        }
        // Nothing is lost when a branch is dropped: the state is looked at again.
        tokio::select! {
            () = stop.stopped() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = runtime::sleep(TICK) => {}
        }
    }
}

/// Leads until the term is over.
async fn lead(service: &Arc<Service>, config: &LeaderConfig, term: u64, stop: &StopSignal) {
    let is_ours = || service.consensus.leader().is_some_and(|l| l.node == service.node && l.term == term);
    // The read index of a leader covers its own first entry, and so all entries of earlier terms.
    if let Err(error) = service.linearize(runtime::now() + TAKE_OVER).await {
        tracing::warn!(term, %error, "cannot take over yet");
        return;
    }
    if !is_ours() {
        return;
    }
    let leader = Arc::new(Leader::begin(runtime::now(), config.times));
    *service.leader.write() = Some(leader.clone());
    tracing::info!(term, node = %service.node, "leads");
    let mut interval = runtime::interval(TICK);
    while is_ours() && !stop.is_stopping() {
        if let Err(error) = tick(service, config, &leader).await {
            tracing::warn!(term, %error, "a decision of the leader was not committed: taken again at the next tick");
        }
        tokio::select! {
            () = stop.stopped() => {}
            _ = interval.tick() => {}
        }
    }
    *service.leader.write() = None;
    tracing::info!(term, node = %service.node, "leads no more");
}

/// One look at everything; proposes what it decides and waits for it, so that nothing is decided twice.
async fn tick(service: &Arc<Service>, config: &LeaderConfig, leader: &Leader) -> Result<(), RpcError> {
    let founded = service.cluster().is_some();
    if !founded {
        let cluster = ClusterId(runtime::random_u128());
        tracing::info!(%cluster, "founds the cluster");
        let op = Op::Found { cluster, hash_seed: runtime::random_u64(), layout: config.layout };
        // Refused if another leader was faster: its cluster it is then.
        if let Err(refused) = service.proposer.submit(op).await? {
            tracing::debug!(%refused, "founded already");
        }
    }
    let now = runtime::now();
    let ops = service.state.read(|view| {
        let map = namespace::map(view)?;
        let mut ops = missing_meta(&map.meta, &config.voters);
        ops.extend(leader.decide(view, &map, now)?);
        Ok(ops)
    });
    let ops = ops.map_err(|e: namespace::ViewError| RpcError::StoreFailed { reason: e.to_string() })?;
    for outcome in futures::future::join_all(ops.into_iter().map(|op| service.proposer.submit(op))).await {
        if let Err(refused) = outcome? {
            tracing::warn!(%refused, "the namespace refused a decision of the leader");
        }
    }
    Ok(())
}

/// Metadata servers whose entry in the map is missing or old.
fn missing_meta(map: &BTreeMap<NodeId, MetaNode>, voters: &[MetaNode]) -> Vec<Op> {
    voters.iter().filter(|v| map.get(&v.node) != Some(v)).cloned().map(Op::PutMeta).collect()
}
