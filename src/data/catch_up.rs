//! The worker that fetches blocks which this server ought to hold and does not, or holds damaged.
//!
//! ```text
//! ask, page by page: blocks that extents refer to, of groups with this server
//!   compare with the store -> fetch what lacks from another member -> verify -> put
//! ```
//!
//! Runs after registration, after the server was away, when it joined a group, when damage was found, and every ten
//! minutes for writers that left it behind unnoticed.
//! Holds: only bytes with the length and checksum that the namespace says are stored; a damaged block keeps its place
//! until good bytes are at hand; few fetches at once and a bounded rate, so that clients hardly notice.
//! Not here: which servers form a group.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use super::core::{Core, rpc_error};
use super::meta_servers::unexpected;
use super::service::replica_state;
use super::store::StoreError;
use super::worker::Woken;
use crate::runtime::{self, StopSignal};
use crate::types::{BlockRef, Checksum, DataNode, NodeState, codec};
use crate::wire::RpcError;
use crate::wire::message::{DataReply, DataRequest, MetaReply, MetaRequest, ReplicaState, kind};

/// Blocks that a page scans.
const PAGE: u32 = 1024;
/// Time for one page: the metadata server scans the extents of as many blocks.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Fetches at once: enough to hide the latency of the other server, 16 MiB of memory.
const FETCHES_MAX: usize = 4;
/// Bytes a second that fetches take at most: a quarter of a disk's sequential rate, a tenth of a 10 Gbit link.
const RATE_MAX: u64 = 128 << 20;
/// All is compared this often without a call.
const PERIOD: Duration = Duration::from_secs(600);
/// Pause after a pass that left something undone, and between two calls.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Calls that come in a burst are one: a scrub or a reader that finds damage finds more of it.
const GATHER: Duration = Duration::from_millis(100);

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pass {
    pub compared: u64,
    pub fetched: u64,
    pub failed: u64,
}

/// The task.
pub(super) async fn run(core: Arc<Core>, stop: StopSignal) {
    let worker = &core.catch_up;
    let mut pause = PERIOD;
    loop {
        if worker.pause(pause, &stop).await == Woken::Stop {
            return;
        }
        if core.standing.lock().registered_with.is_none() {
            continue;
        }
        let work = async {
            runtime::sleep(GATHER).await;
            pass(&core).await
        };
        let outcome = tokio::select! {
            () = stop.stopped() => return,
            // A fetch that is cut off was not stored, or is whole; the next pass sees which.
            outcome = work => outcome,
        };
        pause = match outcome {
            Ok(Pass { compared, fetched, failed }) => {
                if fetched + failed > 0 {
                    tracing::info!(compared, fetched, failed, "catch-up pass ended");
                }
                worker.say(format!(
                    "waits; last pass compared {compared} blocks, fetched {fetched}, {failed} failed"
                ));
                if failed > 0 { RETRY_PAUSE } else { PERIOD }
            }
            Err(error) => {
                worker.failed(&error);
                RETRY_PAUSE
            }
        };
    }
}

/// Compares all that this server ought to hold with what it holds, and fetches the difference.
pub(super) async fn pass(core: &Core) -> Result<Pass, RpcError> {
    let mut total = Pass::default();
    let mut after = None;
    let absences = core.whole.lock().absences;
    loop {
        let ask = MetaRequest::Blocks { node: Some(core.node), after, limit: PAGE };
        let (blocks, next) = match core.meta.ask_within(&ask, PAGE_TIMEOUT).await?.0 {
            MetaReply::Blocks { blocks, next } => (blocks, next),
            other => return Err(unexpected(&other)),
        };
        total.compared += blocks.len() as u64;
        core.catch_up.say(format!("compared {} blocks, fetched {}", total.compared, total.fetched));
        let wanted = core.with_store("compare", move |store| {
            let corrupt = store.corrupt(usize::MAX);
            let lacks = |block: &BlockRef| {
                replica_state(store, block, false) != ReplicaState::Good
                    || corrupt.binary_search(&block.id).is_ok()
            };
            blocks.into_iter().filter(lacks).collect::<Vec<_>>()
        });
        let wanted = wanted.await;
        let mut missing = wanted.len() as u64;
        core.whole.lock().found(absences, total.failed + missing, false);
        let mut fetches =
            futures::stream::iter(wanted).map(|block| fetch(core, block)).buffer_unordered(FETCHES_MAX);
        while let Some(result) = fetches.next().await {
            missing -= 1;
            match result {
                Ok(()) => {
                    total.fetched += 1;
                    core.fetched.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    total.failed += 1;
                    core.catch_up.failed(error);
                }
            }
            core.whole.lock().found(absences, total.failed + missing, false);
        }
        match next {
            Some(block) => after = Some(block),
            None => {
                core.whole.lock().found(absences, total.failed, true);
                return Ok(total);
            }
        }
    }
}

/// Fetches one block from another member of its group, and stores it.
async fn fetch(core: &Core, block: BlockRef) -> Result<(), String> {
    let map = core.map();
    let mut members: Vec<DataNode> =
        map.members(block.group).filter(|m| m.node != core.node).cloned().collect();
    runtime::shuffle(&mut members);
    members.sort_by_key(|m| match m.state {
        NodeState::Up | NodeState::Draining => 0,
        NodeState::Suspect => 1,
        NodeState::Down | NodeState::Removed => 2,
    });
    let mut last =
        format!("block={} step=fetch reason=no other member of group {} is known", block.id, block.group);
    for member in members {
        let data = match get(core, &member, block).await {
            Ok(data) => data,
            Err(error) => {
                last = format!("block={} replica={} step=fetch reason={error}", block.id, member.name);
                continue;
            }
        };
        // The throttle: a fetch keeps its place among the few for as long as its bytes may take.
        let share = RATE_MAX / FETCHES_MAX as u64;
        let cost = Duration::from_nanos(u64::from(block.len).saturating_mul(1_000_000_000) / share);
        let stored =
            core.with_store("catch-up", move |store| match store.put(block.id, block.checksum, &data) {
                Err(StoreError::Conflict { .. }) => {
                    // What lies here under this id is not what the namespace refers to, and good bytes are at hand.
                    store.delete(block.id)?;
                    store.put(block.id, block.checksum, &data)
                }
                other => other,
            });
        let (stored, ()) = futures::join!(stored, runtime::sleep(cost));
        return match stored {
            Ok(_) => {
                tracing::info!(block = %block.id, replica = %member.name, step = "catch_up", "block fetched");
                Ok(())
            }
            Err(error) => Err(format!("block={} step=store reason={error}", block.id)),
        };
    }
    Err(last)
}

/// The whole block from `member`, verified.
async fn get(core: &Core, member: &DataNode, block: BlockRef) -> Result<Bytes, RpcError> {
    let request = DataRequest::Get { block, offset: 0, len: block.len };
    let meta = codec::encode(&request).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
    let timeout = Duration::from_millis(core.config.timers.request_ms);
    let reply = core.peer(member).call(kind::DATA, meta, Bytes::new(), timeout).await?;
    let bad = |reason: String| RpcError::BadFrame { peer: member.address.clone(), reason };
    match codec::decode(&reply.meta) {
        Ok(DataReply::Bytes) => {}
        Ok(other) => return Err(bad(format!("unexpected answer {other:?}"))),
        Err(e) => return Err(bad(e.to_string())),
    }
    let found = Checksum::of(&reply.payload);
    if reply.payload.len() != block.len as usize || found != block.checksum {
        let wrong = StoreError::BadChecksum { block: block.id, sent: block.checksum, computed: found };
        return Err(rpc_error(wrong, &member.address));
    }
    Ok(reply.payload)
}
