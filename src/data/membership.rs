//! Keeps the server registered and its heartbeats going, for ever.
//!
//! One task. Holds: the server never gives up, whoever is unreachable; it writes the cluster it is admitted to into its
//! directories once, durably, before it counts as registered, and is refused by any other but one into which the state of its
//! own was restored, where it moves; after it was away it catches up. Not here: what the cluster makes of a heartbeat.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::meta_servers::unexpected;
use super::store::StoreError;
use crate::runtime::{self, StopSignal};
use crate::types::{Cred, Epoch, NodeReport, NodeSpec, NodeState, Query, QueryReply};
use crate::wire::RpcError;
use crate::wire::message::{MetaReply, MetaRequest, Reading};

/// Longest pause between two attempts to register: a cluster that comes back has its data servers within this time.
const REGISTER_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why the server is not registered.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("the cluster refuses this server: {0}")]
    Refused(crate::types::FsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The task.
pub(super) async fn run(core: Arc<Core>, stop: StopSignal) {
    let period = Duration::from_millis(core.config.timers.heartbeat_ms);
    let mut pause = period;
    loop {
        let registered = core.standing.lock().registered_with.is_some();
        let work = async { if registered { heartbeat(&core).await } else { register(&core).await } };
        let outcome = tokio::select! {
            () = stop.stopped() => return,
            // A heartbeat or registration that is cut off is sent again by the next start.
            outcome = work => outcome,
        };
        pause = match outcome {
            Ok(()) => period,
            Err(problem) => {
                note(&core, &problem);
                // Nobody of its cluster is there, and others are: they are asked whether they have become its cluster.
                if registered && matches!(problem, Problem::Rpc(RpcError::WrongCluster { .. })) {
                    core.standing.lock().registered_with = None;
                }
                if registered { period } else { (pause * 2).min(REGISTER_PAUSE_MAX) }
            }
        };
        tokio::select! {
            () = stop.stopped() => return,
            () = runtime::sleep(pause) => {}
        }
    }
}

/// Keeps the problem for the status, and logs it when it is a new one.
fn note(core: &Core, problem: &Problem) {
    let text = problem.to_string();
    let mut standing = core.standing.lock();
    if standing.problem.as_ref() != Some(&text) {
        tracing::warn!(reason = %text, "metadata servers cannot be reached, or refuse this server; trying on");
        standing.problem = Some(text);
    }
}

async fn register(core: &Core) -> Result<(), Problem> {
    let capacity = core.with_store("capacity", |store| store.capacity()).await;
    let spec = NodeSpec {
        node: core.node,
        name: core.config.name.clone(),
        address: core.address.clone(),
        http: core.config.http_address(),
        domain: core.config.domain_label(),
        capacity,
    };
    let cluster = core.store.cluster();
    match core.meta.register(&spec, cluster, &core.store.formerly()).await? {
        (MetaReply::Registered { cluster: theirs, map }, with) => {
            if cluster.is_some_and(|ours| ours != theirs) {
                tracing::warn!(from = ?cluster, to = %theirs, "the state of this server's cluster was restored into another one: moves there");
                core.with_store("move", move |store| store.move_to(theirs)).await?;
                core.forget_peers();
                *core.kept.lock() = None;
            } else {
                core.with_store("adopt", move |store| store.adopt(theirs)).await?;
            }
            let cluster = theirs;
            core.meta.set_cluster(cluster);
            core.server.set_cluster(cluster);
            core.learn(*map);
            tracing::info!(%cluster, %with, "registered");
            core.whole.lock().was_away();
            core.standing.lock().registered(with);
            for worker in [&core.catch_up, &core.reclaim, &core.scrub] {
                worker.call();
            }
            Ok(())
        }
        (MetaReply::Refused(error), _) => Err(Problem::Refused(error)),
        (other, _) => Err(unexpected(&other).into()),
    }
}

async fn heartbeat(core: &Core) -> Result<(), Problem> {
    let capacity = core.with_store("capacity", |store| store.capacity()).await;
    let load = core.load();
    let report = NodeReport { node: core.node, capacity, load };
    let (reply, _) = core.meta.ask(&MetaRequest::Heartbeat(report)).await?;
    let (state, epoch, reclaimable) = match reply {
        MetaReply::Heartbeat { state, epoch, reclaimable } => (state, epoch, reclaimable),
        MetaReply::Refused(error) => return Err(Problem::Refused(error)),
        other => return Err(unexpected(&other).into()),
    };
    if state.is_none() {
        tracing::warn!("the cluster does not know this server any more; registering again");
    }
    let before = core.standing.lock().heard(state);
    let was_away = |state| matches!(state, Some(NodeState::Suspect | NodeState::Down));
    if before != state {
        tracing::info!(from = ?before, to = ?state, "the cluster changed its belief about this server");
        // Writers went on without it.
        if was_away(before) || was_away(state) {
            core.whole.lock().was_away();
            core.catch_up.call();
        }
    }
    if reclaimable {
        core.reclaim.call();
    }
    if epoch > core.map().epoch {
        fetch_map(core, core.map().epoch).await?;
    }
    Ok(())
}

async fn fetch_map(core: &Core, epoch: Epoch) -> Result<(), Problem> {
    let query = MetaRequest::Query {
        cred: Cred::root(),
        query: Query::Map { newer_than: epoch },
        epoch,
        reading: Reading::Exact,
    };
    match core.meta.ask(&query).await? {
        (MetaReply::Answered { result: Ok(QueryReply::Map(map)), .. }, _) => {
            if let Some(map) = map {
                core.learn(*map);
            }
            Ok(())
        }
        (MetaReply::Answered { result: Err(error), .. }, _) => Err(Problem::Refused(error)),
        (other, _) => Err(unexpected(&other).into()),
    }
}
