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
//! there, and stays, and so does one from before a restore as long as the grace behind that lasts; those are counted. No answer means no
//! deletion, and neither does one of a cluster that this server has left meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::core::Core;
use super::meta_servers::unexpected;
use super::worker::Woken;
use crate::runtime::{self, Instant, StopSignal};
use crate::types::{BlockId, ClusterId};
use crate::wire::RpcError;
use crate::wire::message::{BlockFate, Grace, Kept, MetaReply, MetaRequest};

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
    let mut swept = None;
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
            // A leader is told again and again, for the next one knows nothing of it.
            let keeps = core.kept.lock().is_some();
            let is_over = keeps && grace(&core).await?.is_none();
            let cluster = core.store.cluster();
            if is_over || swept != cluster || next_sweep.is_none_or(|at| began >= at) {
                deleted += sweep(&core).await?;
                swept = cluster;
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
                let kept = core.kept.lock().map_or_else(String::new, |kept| {
                    format!("; keeps {} blocks for the grace behind a restore", kept.block_count)
                });
                worker.say(format!(
                    "waits; deleted {deleted} blocks in the last pass, {} since the start{kept}",
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

/// Tells the leader what is kept for the grace behind a restore, and asks for that. None: there is none now, or the metadata servers'
/// program knows of none.
async fn grace(core: &Core) -> Result<Option<Grace>, RpcError> {
    let kept = *core.kept.lock();
    match core.meta.ask(&MetaRequest::Grace { node: core.node, kept }).await {
        Ok((MetaReply::Grace(grace), _)) => Ok(grace),
        Ok((other, _)) => Err(unexpected(&other)),
        Err(RpcError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks about every block that is stored here, deletes garbage, and counts what stays for the grace behind a restore; says how many were
/// deleted.
pub(super) async fn sweep(core: &Core) -> Result<u64, RpcError> {
    let mut after = None;
    let (mut count, mut seen) = (0, 0_u64);
    let cluster = core.store.cluster();
    let in_grace = grace(core).await?;
    let mut kept = Kept::default();
    loop {
        let page = core.store.list(after, PAGE);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen += page.len() as u64;
        core.reclaim.say(format!("asks what is to become of stored blocks: {seen} so far"));
        let blocks: Vec<BlockId> = page.iter().map(|block| block.id).collect();
        let fates = match core.meta.ask(&MetaRequest::Fates { blocks }).await?.0 {
            MetaReply::Fates(fates) if fates.len() == page.len() => fates,
            other => return Err(unexpected(&other)),
        };
        let mut garbage = Vec::new();
        for (block, fate) in page.into_iter().zip(fates) {
            match fate {
                BlockFate::Garbage => garbage.push(block.id),
                // Its writer's session ended with the life before.
                BlockFate::Pending if in_grace.is_some_and(|grace| grace.covers(block.id)) => {
                    kept.block_count += 1;
                    kept.len += u64::from(block.len);
                }
                BlockFate::Pending | BlockFate::Queued | BlockFate::Referenced => {}
            }
        }
        count += delete(core, cluster, garbage).await.1;
    }
    if core.store.cluster() == cluster {
        *core.kept.lock() = in_grace.map(|_| kept);
    }
    if in_grace.is_some() {
        grace(core).await?;
    }
    Ok(count)
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
