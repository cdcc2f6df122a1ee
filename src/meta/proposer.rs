//! The leader's queue of operations on their way into the log.
//!
//! `service` and `worker` submit; one task prepares what has queued up as one entry, when `pace` says so, and keeps several entries in
//! flight. So many callers share one fsync. Holds: operations enter the log in the order they were submitted.
//! Not here: finding the leader (`service`), resending (clients do, with the same request id).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use super::pace::{ENTRY_OPS_MAX, Next, Pace};
use super::prepare::Prepare;
use super::raft::{Consensus, ConsensusError};
use crate::namespace::{Command, Op, Reply};
use crate::runtime::{self, Instant, Tasks};
use crate::types::{NodeAddress, RestoreStep, Update, codec};
use crate::wire::RpcError;

/// Operations that wait for a place in an entry. More than all clients of a busy cluster have in flight; above it the
/// answer is Busy, and clients slow down.
const QUEUE_MAX: usize = 8192;
/// Bytes in one entry at most, roughly: followers must fsync it within a heartbeat or two.
const ENTRY_BYTES_MAX: usize = 512 << 10;

struct Item {
    op: Op,
    reply: oneshot::Sender<Result<Reply, RpcError>>,
}

/// The queue. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Item>,
    own_address: NodeAddress,
    counts: Arc<Counts>,
}

/// What has passed through, since the start.
#[derive(Default)]
pub struct Counts {
    /// Operations proposed.
    pub ops: AtomicU64,
    /// Entries they made.
    pub entries: AtomicU64,
}

impl Proposer {
    /// Starts the task behind the queue.
    #[must_use]
    pub fn start(consensus: Consensus, own_address: NodeAddress, tasks: &Tasks) -> Self {
        let (queue, items) = mpsc::channel(QUEUE_MAX);
        let counts = Arc::new(Counts::default());
        let stop = tasks.stopping();
        let task = run(consensus, items, counts.clone());
        tasks.spawn("proposer", async move {
            // Dropped at a stop: entries in flight may still commit, and their callers ask again elsewhere.
            tokio::select! {
                () = task => {}
                () = stop.stopped() => {}
            }
        });
        Self { queue, own_address, counts }
    }

    /// Proposes `op` and awaits the reply of the namespace: a majority has it on disk then.
    ///
    /// # Errors
    /// Not the leader (any more), or too much is queued. What may have been applied says the error.
    pub async fn submit(&self, op: Op) -> Result<Reply, RpcError> {
        let (reply, answered) = oneshot::channel();
        self.queue.try_send(Item { op, reply }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => RpcError::Busy { peer: self.own_address.clone() },
            mpsc::error::TrySendError::Closed(_) => RpcError::Stopping,
        })?;
        answered.await.unwrap_or(Err(RpcError::LeaderLost))
    }

    /// What has passed through.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

type Waiters = Vec<oneshot::Sender<Result<Reply, RpcError>>>;

async fn run(consensus: Consensus, mut items: mpsc::Receiver<Item>, counts: Arc<Counts>) {
    let mut prepare = Prepare::default();
    let mut in_flight = FuturesUnordered::new();
    let mut pace = Pace::default();
    let mut next = Next::Stays;
    let mut queued: Vec<Item> = Vec::with_capacity(ENTRY_OPS_MAX);
    loop {
        let room = ENTRY_OPS_MAX - queued.len();
        tokio::select! {
            biased;
            // All branches are safe to drop: a received item is in `queued` at once, a future stays in its set.
            Some((outcome, waiters, left)) = in_flight.next(), if !in_flight.is_empty() => {
                let waiters: Waiters = waiters;
                pace.done(waiters.len(), runtime::now() - left);
                settle(outcome, waiters);
            }
            count = items.recv_many(&mut queued, room), if room > 0 => {
                if count == 0 {
                    return;
                }
            }
            () = moment(next) => {}
        }
        loop {
            next = pace.next(queued.len(), runtime::now());
            if next != Next::Leaves {
                break;
            }
            let (commands, waiters) = fill(&mut prepare, &mut queued);
            counts.ops.fetch_add(waiters.len() as u64, Ordering::Relaxed);
            counts.entries.fetch_add(1, Ordering::Relaxed);
            match codec::encode(&commands) {
                Ok(bytes) => {
                    pace.left(waiters.len());
                    in_flight.push(propose(consensus.clone(), Bytes::from(bytes), waiters));
                }
                Err(e) => refuse(waiters, &e),
            }
        }
    }
}

/// Returns when it is time to look again, though nothing came.
async fn moment(next: Next) {
    match next {
        Next::StaysUntil(until) => runtime::sleep_until(until).await,
        Next::Leaves | Next::Stays => std::future::pending().await,
    }
}

/// Takes operations from the front until an entry is full.
fn fill(prepare: &mut Prepare, queued: &mut Vec<Item>) -> (Vec<Command>, Waiters) {
    let mut bytes = 0;
    let fit = queued.iter().take_while(|item| {
        let fits = bytes < ENTRY_BYTES_MAX;
        bytes += weight(&item.op);
        fits
    });
    let count = fit.count();
    let clock = runtime::wall_clock();
    queued.drain(..count).map(|Item { op, reply }| (prepare.command(op, clock), reply)).unzip()
}

/// About how many bytes an operation takes in the log.
fn weight(op: &Op) -> usize {
    128 + match op {
        Op::Client { update: Update::Make(make), .. } => make.content.len(),
        Op::Client { update: Update::Publish(publish), .. } => publish
            .extents
            .iter()
            .map(|e| match &e.source {
                crate::types::ExtentSource::Inline(bytes) => bytes.len() + 16,
                _ => 48,
            })
            .sum(),
        Op::Client { update: Update::SetXattr(set), .. } => set.value.len() + set.name.len(),
        Op::Restore(RestoreStep::Part { records, .. }) => records.len(),
        _ => 0,
    }
}

async fn propose(
    consensus: Consensus,
    commands: Bytes,
    waiters: Waiters,
) -> (Result<Vec<Reply>, ConsensusError>, Waiters, Instant) {
    let left = runtime::now();
    (consensus.propose(commands).await, waiters, left)
}

fn settle(outcome: Result<Vec<Reply>, ConsensusError>, waiters: Waiters) {
    match outcome {
        // A waiter that has gone away (its connection broke) asks again elsewhere, by its request id.
        Ok(replies) if replies.len() == waiters.len() => {
            for (reply, waiter) in replies.into_iter().zip(waiters) {
                let _ = waiter.send(Ok(reply));
            }
        }
        Ok(replies) => {
            let reason = format!("{} replies to {} commands", replies.len(), waiters.len());
            tracing::error!(%reason, "an entry was not answered as it was asked");
            answer_all(waiters, &RpcError::Internal { reason });
        }
        Err(e) => answer_all(waiters, &e.into()),
    }
}

fn refuse(waiters: Waiters, error: &codec::CodecError) {
    answer_all(waiters, &RpcError::Refused { reason: error.to_string() });
}

fn answer_all(waiters: Waiters, error: &RpcError) {
    for waiter in waiters {
        let _ = waiter.send(Err(error.clone()));
    }
}
