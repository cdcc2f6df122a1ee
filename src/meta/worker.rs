//! The task that makes a leader of this server when consensus elects it, and ticks while it leads.
//!
//! Holds: the leader's tables exist only after everything committed in earlier terms is applied here, and are dropped
//! with the term; so no decision rests on an old state. Proposals of a lost term fail, and the next leader decides anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::dumps;
use super::identity::Identity;
use super::leader::{Leader, NodeTimes};
use super::raft::Members;
use super::service::Service;
use crate::namespace::{self, Op};
use crate::net::Server;
use crate::runtime::{self, StopSignal, Tasks};
use crate::types::{ClusterId, Layout, Level, MetaNode, NodeId, SessionId};
use crate::wire::RpcError;
use crate::wire::members::{MembersRequest, Refusal};

/// Between two looks at the tables. A tenth of the shortest thing that is measured (a suspect data server).
const TICK: Duration = Duration::from_millis(150);
/// Between two looks at the format level, which is raised once in a program's life.
const LEVEL_LOOK: Duration = Duration::from_millis(500);
/// Ticks in which the founder of a cluster tries to raise the level: until the others have been started, but not for ever.
const RAISES_MAX: u32 = 40;
/// Longest wait of a new leader for its own first entry to be applied; then it tries again.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// What a leader is told by the configuration.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// How long data servers may be silent.
    pub times: NodeTimes,
    /// How files are kept, for the founder of the cluster.
    pub layout: Layout,
    /// The metadata servers that the configuration describes, which may know better than the log where they are.
    pub configured: Vec<MetaNode>,
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
    tasks.spawn("forget-dumps", dumps::forget_idle(service.clone(), tasks.stopping()));
    tasks.spawn("follow-members", follow_members(service.clone(), tasks.stopping()));
    tasks.spawn("leader-worker", run(service, config, tasks.stopping()));
}

/// Keeps the channels to the others where the members are.
async fn follow_members(service: Arc<Service>, stop: StopSignal) {
    let mut changes = service.consensus.watch_members();
    loop {
        let members = changes.borrow_and_update().clone();
        // Before the first entry the configuration is all there is; whoever was removed stays with those it knew.
        if members.addresses.contains_key(&service.node) {
            service.peers.follow(&members.addresses);
        }
        // Nothing is lost: the newest members are looked at again.
        tokio::select! {
            () = stop.stopped() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Tells the listener, the channels and the directory which cluster this is, once that is known, and the directory which format
/// level. A task of its own: the founder leads from the first moment on, and must refuse strangers all the same.
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
    let keep = move || identity.adopt(cluster).map(|()| identity);
    match runtime::blocking("keep-cluster", keep).await {
        Ok(identity) => keep_level(&service, identity, &stop).await,
        Err(error) => tracing::error!(%error, "the directory does not keep the cluster"),
    }
}

/// Lets the log have room ahead, once a program that does not know such a log would not touch this directory.
fn make_room(service: &Service, identity: &Identity) {
    if identity.level() >= Level::PACKED
        && let Err(error) = service.consensus.room_ahead()
    {
        tracing::warn!(%error, "the raft log has no room ahead");
    }
}

/// Writes the format level into the directory, so that a program which does not know it leaves all that is in it alone.
async fn keep_level(service: &Service, mut identity: Identity, stop: &StopSignal) {
    make_room(service, &identity);
    while identity.level() < service.program.levels.last {
        match service.level() {
            Ok(level) if level > identity.level() => {
                tracing::info!(%level, "the cluster works at a new format level");
                let keep = move || identity.keep_level(level).map(|()| identity);
                identity = match runtime::blocking("keep-level", keep).await {
                    Ok(identity) => identity,
                    Err(error) => {
                        return tracing::error!(%error, "the directory does not keep the format level");
                    }
                };
                make_room(service, &identity);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the format level cannot be read now"),
        }
        tokio::select! {
            () = stop.stopped() => return,
            () = runtime::sleep(LEVEL_LOOK) => {}
        }
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
        match service.proposer.submit(op).await? {
            // Nothing is in it yet that an older program would have to read.
            Ok(_) => service.changes.raises.store(RAISES_MAX, Ordering::Relaxed),
            // Another leader was faster: its cluster it is then.
            Err(refused) => tracing::debug!(%refused, "founded already"),
        }
    }
    service.finish_change().await;
    raise_after_founding(service).await?;
    let members = service.consensus.members();
    let now = runtime::now();
    let known = known(&service.own, &config.configured, &service.changes.introduced.lock(), &members);
    let mut nameless = Vec::new();
    let ops = service.state.read(|view| {
        let map = namespace::map(view)?;
        let (mut ops, unknown) = of_members(&map.meta, &members, &known);
        nameless = unknown;
        // Half of a dump is no reason to do anything.
        if namespace::superblock(view)?.is_some_and(|s| s.restoring.is_none()) {
            let kept_below = service.grace(view)?.map_or(SessionId(0), |grace| grace.below);
            ops.extend(leader.decide(view, &map, kept_below, now)?);
        }
        Ok(ops)
    });
    let ops = ops.map_err(|e: namespace::ViewError| RpcError::StoreFailed { reason: e.to_string() })?;
    if !nameless.is_empty() {
        service.introduce(&nameless).await;
    }
    for outcome in futures::future::join_all(ops.into_iter().map(|op| service.proposer.submit(op))).await {
        if let Err(refused) = outcome? {
            tracing::warn!(%refused, "the namespace refused a decision of the leader");
        }
    }
    Ok(())
}

/// A cluster begins at the newest level that its servers know; later an operator raises it.
async fn raise_after_founding(service: &Service) -> Result<(), RpcError> {
    let left = service.changes.raises.load(Ordering::Relaxed);
    if left == 0 {
        return Ok(());
    }
    let tried = service.change_members(&MembersRequest::RaiseLevel).await?;
    let left = match tried {
        Err(Refusal::Unreachable { .. } | Refusal::Changing { .. }) => left - 1,
        Err(refusal) => {
            tracing::warn!(%refusal, "the new cluster works at an older format level");
            0
        }
        Ok(_) => 0,
    };
    service.changes.raises.store(left, Ordering::Relaxed);
    Ok(())
}

/// What is known of metadata servers: from the configuration, else as they said, at the address that the operator gave. A leader that
/// was added knows itself, whom it cannot ask.
fn known(
    own: &MetaNode,
    configured: &[MetaNode],
    introduced: &BTreeMap<NodeId, MetaNode>,
    members: &Members,
) -> BTreeMap<NodeId, MetaNode> {
    let mut known = introduced.clone();
    known.insert(own.node, own.clone());
    for (node, server) in &mut known {
        server.address = members.addresses.get(node).unwrap_or(&server.address).clone();
    }
    known.extend(configured.iter().map(|server| (server.node, server.clone())));
    known
}

/// What brings the map in line with the members, and the voters that it lacks and of whom nothing is known. Whoever leaves goes first, so
/// that another may have the name.
fn of_members(
    map: &BTreeMap<NodeId, MetaNode>,
    members: &Members,
    known: &BTreeMap<NodeId, MetaNode>,
) -> (Vec<Op>, Vec<NodeId>) {
    // While they change, and before the first entry: what is not known to be so is left alone.
    if members.is_changing || members.voters.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let gone = map.keys().filter(|node| !members.voters.contains(node));
    let mut ops: Vec<Op> = gone.map(|node| Op::RemoveMeta(*node)).collect();
    let mut nameless = Vec::new();
    for node in &members.voters {
        match known.get(node) {
            Some(server) if map.get(node) != Some(server) => ops.push(Op::PutMeta(server.clone())),
            None if !map.contains_key(node) => nameless.push(*node),
            _ => {}
        }
    }
    (ops, nameless)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeAddress;

    #[test]
    fn the_map_has_the_voters() {
        let server = |node: u64, at: &str| MetaNode {
            node: NodeId(node),
            name: format!("meta-{node}"),
            address: NodeAddress(at.into()),
            http: NodeAddress::default(),
        };
        let of = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect();
        let map: BTreeMap<_, _> = [1, 2, 3].map(|id| (NodeId(id), server(id, "a:1"))).into();
        let given = NodeAddress("d:1".into());
        let addresses = [(NodeId(4), given)].into();
        let members = Members { voters: of(&[1, 2, 4, 5]), addresses, ..Members::default() };
        let moved = server(2, "b:1");
        let introduced = [(NodeId(4), server(4, "0.0.0.0:1"))].into();
        let configured = [moved.clone()];
        let known_to = |own: u64| known(&server(own, "a:1"), &configured, &introduced, &members);
        let known = known_to(1);
        let (ops, nameless) = of_members(&map, &members, &known);
        assert_eq!(ops, [Op::RemoveMeta(NodeId(3)), Op::PutMeta(moved), Op::PutMeta(server(4, "d:1"))]);
        assert_eq!(nameless, [NodeId(5)]);
        // Nobody would tell it (seed 708200553).
        assert!(of_members(&map, &members, &known_to(5)).1.is_empty());
        let changing = Members { is_changing: true, ..members.clone() };
        assert_eq!(of_members(&map, &changing, &known), (Vec::new(), Vec::new()));
    }
}
