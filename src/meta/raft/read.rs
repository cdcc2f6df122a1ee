//! Read indexes: calls that come while a round is under way share the next one.
//!
//! Holds: the round that answers a call began after the call did, so its index covers all that was acknowledged before.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ConsensusError;
use crate::types::LogIndex;

type Answer = Result<LogIndex, ConsensusError>;

/// Calls in waiting. Clones share them.
#[derive(Clone, Default)]
pub(super) struct ReadIndexes {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// Some task takes rounds; it looks here again before it stops.
    is_running: bool,
    calls: Vec<oneshot::Sender<Answer>>,
}

impl ReadIndexes {
    /// Joins the next round. True: the caller has to see to it that [`ReadIndexes::run`] runs.
    pub(super) fn join(&self) -> (oneshot::Receiver<Answer>, bool) {
        let (tx, rx) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        waiting.calls.push(tx);
        (rx, !std::mem::replace(&mut waiting.is_running, true))
    }

    /// Takes rounds until no call waits.
    pub(super) async fn run<F: Future<Output = Answer>>(&self, round: impl Fn() -> F) {
        let mut running = Running { reads: self, is_over: false };
        loop {
            let calls = {
                let mut waiting = self.waiting.lock();
                if waiting.calls.is_empty() {
                    waiting.is_running = false;
                    running.is_over = true;
                    return;
                }
                std::mem::take(&mut waiting.calls)
            };
            let answer = round().await;
            for call in calls {
                // Who no longer waits needs no answer.
                drop(call.send(answer.clone()));
            }
        }
    }
}

/// Lets go of those who wait when the task is ended from outside.
struct Running<'a> {
    reads: &'a ReadIndexes,
    is_over: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            *self.reads.waiting.lock() = Waiting::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A read that joined a round already under way could miss what was acknowledged after the round began.
    #[tokio::test]
    async fn a_call_never_joins_a_round_that_has_begun() {
        let reads = ReadIndexes::default();
        let (first, must_run) = reads.join();
        assert!(must_run);
        let rounds = AtomicU64::new(0);
        let late = Mutex::new(Vec::new());
        reads
            .run(|| async {
                let round = rounds.fetch_add(1, Ordering::Relaxed) + 1;
                if round == 1 {
                    for _ in 0..3 {
                        let (rx, must_run) = reads.join();
                        assert!(!must_run);
                        late.lock().push(rx);
                    }
                }
                Ok(LogIndex(round))
            })
            .await;
        assert_eq!(first.await.unwrap(), Ok(LogIndex(1)));
        for rx in late.into_inner() {
            assert_eq!(rx.await.unwrap(), Ok(LogIndex(2)), "three late calls share the second round");
        }
        assert!(reads.join().1, "the next call starts anew");
    }
}
