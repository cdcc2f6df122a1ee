//! The worker that deletes blocks which nothing refers to, and never any other.
//!
//! ```text
//! queue:  ask for the reclaim queue of our groups   -> delete those here -> report them
//! sweep:  list what is stored here, ask their fates -> delete garbage
//! ```
//!
//! The queue has blocks whose last reference went; the sweep finds blocks that were uploaded and never published,
//! copies that a crash brought back, and leftovers of groups this server has left.
//! Holds: a block is deleted only after a metadata server answered, with a linearizable read made after the block was
//! listed here, that nothing refers to it and nothing ever will. A block whose writer's session lives is `Pending`
//! there, and stays. No answer means no deletion, and neither does one of a cluster that this server has left meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::core::Core;
use super::meta_servers::unexpected;
use super::worker::Woken;
use crate::runtime::{self, Instant, StopSignal};
use crate::types::{BlockId, ClusterId};
use crate::wire::RpcError;
use crate::wire::message::{BlockFate, MetaReply, MetaRequest};

/// Blocks asked about at once: a fraction of what a request may carry, so that one answer is quick.
const PAGE: usize = 1024;
/// Unlinks between two pauses. Long runs of them slow down whoever creates files in the same folders.
const UNLINK_BATCH: usize = 64;
/// That pause.
const UNLINK_PAUSE: Duration = Duration::from_millis(2);
/// The queue is looked at this often without a hint.
const QUEUE_PERIOD: Duration = Duration::from_secs(30);
/// Hints are not followed more often than this.
const HINT_PAUSE: Duration = Duration::from_secs(1);
/// A queue that had nothing for us waits for another server: hints are ignored for this long.
const IDLE_PAUSE: Duration = Duration::from_secs(15);
/// All stored blocks are asked about this often. What a sweep finds is rare and costs space only.
const SWEEP_PERIOD: Duration = Duration::from_secs(600);

/// The task.
pub(super) async fn run(core: Arc<Core>, stop: StopSignal) {
    let worker = &core.reclaim;
    let mut next_sweep: Option<Instant> = None;
    let mut pause = QUEUE_PERIOD;
    loop {
        if worker.pause(pause, &stop).await == Woken::Stop {
            return;
        }
        if core.standing.lock().registered_with.is_none() {
            pause = QUEUE_PERIOD;
            continue;
        }
        let began = runtime::now();
        let work = async {
            let mut deleted = queue(&core).await?;
            if next_sweep.is_none_or(|at| began >= at) {
                deleted += sweep(&core).await?;
                next_sweep = Some(runtime::now() + SWEEP_PERIOD);
            }
            Ok::<u64, RpcError>(deleted)
        };
        let outcome = tokio::select! {
            () = stop.stopped() => return,
            // What was deleted and not reported is in the queue still, and is reported as absent next time.
            outcome = work => outcome,
        };
        let quiet = match outcome {
            Ok(deleted) => {
                worker.say(format!(
                    "waits; deleted {deleted} blocks in the last pass, {} since the start",
                    core.reclaimed.load(Relaxed)
                ));
                if deleted == 0 { IDLE_PAUSE } else { HINT_PAUSE }
            }
            Err(error) => {
                worker.failed(&error);
                HINT_PAUSE
            }
        };
        tokio::select! {
            () = stop.stopped() => return,
            () = runtime::sleep(quiet) => {}
        }
        pause = QUEUE_PERIOD.saturating_sub(quiet);
    }
}

/// Works off the reclaim queue; says how many blocks were deleted.
pub(super) async fn queue(core: &Core) -> Result<u64, RpcError> {
    let mut after = None;
    let mut count = 0;
    let limit = u32::try_from(PAGE).unwrap_or(u32::MAX);
    let cluster = core.store.cluster();
    loop {
        let ask = MetaRequest::ReclaimList { node: core.node, after, limit };
        let blocks = match core.meta.ask(&ask).await?.0 {
            MetaReply::ReclaimList(blocks) => blocks,
            other => return Err(unexpected(&other)),
        };
        let Some(last) = blocks.last() else { return Ok(count) };
        after = Some(last.block);
        core.reclaim.say(format!("deletes {} blocks of the queue", blocks.len()));
        let (gone, deleted) = delete(core, cluster, blocks.into_iter().map(|b| b.block).collect()).await;
        count += deleted;
        if !gone.is_empty() {
            match core.meta.ask(&MetaRequest::Reclaimed { node: core.node, blocks: gone }).await?.0 {
                MetaReply::Done => {}
                other => return Err(unexpected(&other)),
            }
        }
    }
}

/// Asks about every block that is stored here and deletes garbage; says how many.
pub(super) async fn sweep(core: &Core) -> Result<u64, RpcError> {
    let mut after = None;
    let (mut count, mut seen) = (0, 0_u64);
    let cluster = core.store.cluster();
    loop {
        let page: Vec<BlockId> = core.store.list(after, PAGE).into_iter().map(|b| b.id).collect();
        let Some(&last) = page.last() else { return Ok(count) };
        after = Some(last);
        seen += page.len() as u64;
        core.reclaim.say(format!("asks what is to become of stored blocks: {seen} so far"));
        let fates = match core.meta.ask(&MetaRequest::Fates { blocks: page.clone() }).await?.0 {
            MetaReply::Fates(fates) if fates.len() == page.len() => fates,
            other => return Err(unexpected(&other)),
        };
        let is_garbage = |(id, fate): (BlockId, BlockFate)| (fate == BlockFate::Garbage).then_some(id);
        let garbage: Vec<BlockId> = page.into_iter().zip(fates).filter_map(is_garbage).collect();
        count += delete(core, cluster, garbage).await.1;
    }
}

/// Deletes blocks as `cluster` has said; gives those that are gone now, and how many of them were here.
pub(super) async fn delete(
    core: &Core,
    cluster: Option<ClusterId>,
    blocks: Vec<BlockId>,
) -> (Vec<BlockId>, u64) {
    let mut gone = Vec::with_capacity(blocks.len());
    let mut count = 0;
    for batch in blocks.chunks(UNLINK_BATCH) {
        let batch = batch.to_vec();
        let results = core
            .with_store("delete", move |store| {
                if store.cluster() != cluster {
                    return Vec::new();
                }
                batch.into_iter().map(|id| (id, store.delete(id))).collect::<Vec<_>>()
            })
            .await;
        for (id, result) in results {
            match result {
                Ok(was_here) => {
                    gone.push(id);
                    count += u64::from(was_here);
                    core.reclaimed.fetch_add(u64::from(was_here), Relaxed);
                }
                Err(error) => core.reclaim.failed(format_args!("block={id} step=delete reason={error}")),
            }
        }
        runtime::sleep(UNLINK_PAUSE).await;
    }
    (gone, count)
}
