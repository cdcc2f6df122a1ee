//! The leader's queue of operations on their way into the log.
//!
//! `service` and `worker` submit; one task prepares what has queued up as one entry and keeps several entries in flight.
//! So many callers share one fsync, and one caller waits for nobody: an entry leaves at once when nothing is on its way, and
//! beside others as soon as it carries as much as they do. Holds: operations enter the log in the order they were submitted.
//! Not here: finding the leader (`service`), resending (clients do, with the same request id).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use super::prepare::Prepare;
use super::raft::{Consensus, ConsensusError};
use crate::namespace::{Command, Op, Reply};
use crate::runtime::{self, Tasks};
use crate::types::{NodeAddress, Update, codec};
use crate::wire::RpcError;

/// Operations that wait for a place in an entry. More than all clients of a busy cluster have in flight; above it the
/// answer is Busy, and clients slow down.
const QUEUE_MAX: usize = 8192;
/// Operations in one entry at most.
const ENTRY_OPS_MAX: usize = 512;
/// Bytes in one entry at most, roughly: followers must fsync it within a heartbeat or two.
const ENTRY_BYTES_MAX: usize = 512 << 10;
/// Entries in flight. Two keep the disk busy while the network works, the rest absorbs a burst.
const IN_FLIGHT_MAX: usize = 4;

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
    let mut ops_in_flight = 0;
    let mut queued: Vec<Item> = Vec::with_capacity(ENTRY_OPS_MAX);
    loop {
        let room = ENTRY_OPS_MAX - queued.len();
        tokio::select! {
            biased;
            // Both branches are safe to drop: a received item is in `queued` at once, a future stays in its set.
            Some((outcome, waiters)) = in_flight.next(), if !in_flight.is_empty() => {
                let waiters: Waiters = waiters;
                ops_in_flight -= waiters.len();
                settle(outcome, waiters);
            }
            count = items.recv_many(&mut queued, room), if room > 0 => {
                if count == 0 {
                    return;
                }
            }
        }
        if !leaves(queued.len(), in_flight.len(), ops_in_flight) {
            continue;
        }
        let mut rest = queued.drain(..).peekable();
        while rest.peek().is_some() {
            let (commands, waiters) = fill(&mut prepare, &mut rest);
            counts.ops.fetch_add(waiters.len() as u64, Ordering::Relaxed);
            counts.entries.fetch_add(1, Ordering::Relaxed);
            match codec::encode(&commands) {
                Ok(bytes) => {
                    ops_in_flight += waiters.len();
                    in_flight.push(propose(consensus.clone(), Bytes::from(bytes), waiters));
                }
                Err(e) => refuse(waiters, &e),
            }
        }
    }
}

/// Whether what has queued up leaves now, as one entry. At once when nothing is on its way; else when at least as much has
/// queued as is: callers that come again and again then share two entries that take turns, and not many small ones.
fn leaves(queued: usize, entries_in_flight: usize, ops_in_flight: usize) -> bool {
    queued > 0 && entries_in_flight < IN_FLIGHT_MAX && queued >= ops_in_flight.min(ENTRY_OPS_MAX)
}

/// Takes operations until an entry is full.
fn fill(
    prepare: &mut Prepare,
    rest: &mut std::iter::Peekable<impl Iterator<Item = Item>>,
) -> (Vec<Command>, Waiters) {
    let (mut commands, mut waiters, mut bytes) = (Vec::new(), Vec::new(), 0);
    let clock = runtime::wall_clock();
    while bytes < ENTRY_BYTES_MAX
        && let Some(Item { op, reply }) = rest.next()
    {
        bytes += weight(&op);
        commands.push(prepare.command(op, clock));
        waiters.push(reply);
    }
    (commands, waiters)
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
        _ => 0,
    }
}

async fn propose(
    consensus: Consensus,
    commands: Bytes,
    waiters: Waiters,
) -> (Result<Vec<Reply>, ConsensusError>, Waiters) {
    (consensus.propose(commands).await, waiters)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_leaves_alone_at_once_and_beside_others_when_it_is_worth_it() {
        assert!(!leaves(0, 0, 0), "nothing to propose");
        assert!(leaves(1, 0, 0), "one caller waits for nobody");
        assert!(leaves(1, 1, 1) && leaves(8, 1, 8));
        assert!(!leaves(7, 1, 8), "more gathers meanwhile");
        assert!(leaves(ENTRY_OPS_MAX, 2, 2 * ENTRY_OPS_MAX), "a full one has nothing to wait for");
        assert!(!leaves(ENTRY_OPS_MAX, IN_FLIGHT_MAX, 1));
    }
}
