//! Linearizable reads on every server: the index a read must wait for, asked once for many readers.
//!
//! A read that arrives waits for the *next* round, never for one that had begun before it came: only a round begun later
//! proves that the leader was the leader at a moment after the read began (the read-index method, Ongaro's thesis, 6.4).
//! On a follower a round is one question to the leader; the leader's own rounds are in `raft`.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::runtime;
use crate::types::LogIndex;
use crate::wire::RpcError;

/// Rounds that may be on their way to the leader at a time. With one, a reader waits for half of somebody else's round
/// before its own; with many, each round carries few readers.
const ROUNDS_MAX: usize = 3;

type Waiter = oneshot::Sender<Result<LogIndex, RpcError>>;

/// Readers that share rounds.
#[derive(Clone)]
pub struct Rounds {
    state: Arc<Mutex<RoundState>>,
    max: usize,
}

#[derive(Default)]
struct RoundState {
    /// Rounds on their way.
    running: usize,
    /// Readers of the next one.
    next: Vec<Waiter>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self::new(ROUNDS_MAX)
    }
}

impl Rounds {
    /// With at most `max` rounds on their way at a time.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { state: Arc::default(), max }
    }

    /// The index of a round that begins after this call. `ask` runs a round: it is called by whoever finds none running,
    /// for all who come while it runs.
    ///
    /// # Errors
    /// What the round failed with.
    pub async fn index<F, R>(&self, ask: F) -> Result<LogIndex, RpcError>
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Result<LogIndex, RpcError>> + Send + 'static,
    {
        let (waiter, answer) = oneshot::channel();
        let begin = {
            let mut state = self.state.lock();
            state.next.push(waiter);
            let begin = state.running < self.max;
            state.running += usize::from(begin);
            begin
        };
        if begin {
            // A task of its own: the reader that began the rounds may be cancelled, the others may not suffer.
            runtime::spawn("read-rounds", drive(self.state.clone(), ask)).detach();
        }
        answer.await.unwrap_or(Err(RpcError::Stopping))
    }
}

async fn drive<F, R>(state: Arc<Mutex<RoundState>>, ask: F)
where
    F: Fn() -> R,
    R: Future<Output = Result<LogIndex, RpcError>>,
{
    // Should a round panic, its waiters get an error and the next reader begins anew.
    let mut abandoned = Abandoned { state: &state, armed: true };
    loop {
        let waiting = {
            let mut state = state.lock();
            if state.next.is_empty() {
                state.running -= 1;
                abandoned.armed = false;
                return;
            }
            std::mem::take(&mut state.next)
        };
        let answer = ask().await;
        for waiter in waiting {
            // A reader that has gone away needs no answer.
            let _ = waiter.send(answer.clone());
        }
    }
}

struct Abandoned<'s> {
    state: &'s Mutex<RoundState>,
    armed: bool,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if self.armed {
            let mut state = self.state.lock();
            state.running -= 1;
            state.next.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A reader that arrives in the middle of a round must not get that round's index: it could miss a write
    /// acknowledged after the round began and before the reader did.
    #[tokio::test]
    async fn a_reader_never_joins_a_round_that_began_before_it() {
        let rounds = Rounds::new(1);
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let begun = Arc::new(AtomicU64::new(0));
        let ask = {
            let (gate, begun) = (gate.clone(), begun.clone());
            move || {
                let (gate, number) = (gate.clone(), begun.fetch_add(1, Ordering::SeqCst) + 1);
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok(LogIndex(number))
                }
            }
        };
        let first = tokio::spawn({
            let (rounds, ask) = (rounds.clone(), ask.clone());
            async move { rounds.index(ask).await }
        });
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let late: Vec<_> = (0..100)
            .map(|_| {
                let (rounds, ask) = (rounds.clone(), ask.clone());
                tokio::spawn(async move { rounds.index(ask).await })
            })
            .collect();
        while rounds.state.lock().next.len() < 100 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap().unwrap(), LogIndex(1));
        for reader in late {
            assert_eq!(reader.await.unwrap().unwrap(), LogIndex(2), "one round for all who waited");
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
