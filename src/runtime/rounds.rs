//! One answer for all who ask at about the same time.
//!
//! What is true of a moment (how far a log goes, who leads) can be asked once for many callers. Holds: a caller gets the
//! answer of a round that began *after* its own call, never of one that was on its way already: only that one proves
//! something about the time after the call began (the read-index method, Ongaro's thesis, 6.4). A caller that goes away
//! costs the others nothing but a new round.
//! Not here: what is asked.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{spawn, yield_now};

/// Callers that share rounds. Clones share them too.
///
/// Who finds nobody else asks in its own task. All others are served by tasks of their own: a caller that is not polled for a
/// while, or dropped, keeps nobody waiting.
pub struct Rounds<T> {
    state: Arc<Mutex<RoundState<T>>>,
    max: usize,
}

struct RoundState<T> {
    /// A caller asks for itself alone, or is about to.
    alone: bool,
    /// Tasks that ask for others.
    running: usize,
    /// Callers of the next round.
    next: Vec<oneshot::Sender<T>>,
}

impl<T> Clone for Rounds<T> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), max: self.max }
    }
}

impl<T: Clone + Send + 'static> Rounds<T> {
    /// With at most `max` shared rounds on their way at a time. With one, a caller waits for half of somebody else's round
    /// before its own; with many, each round carries few callers.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let state = RoundState { alone: false, running: 0, next: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)), max }
    }

    /// The answer of a round that begins after this call. `ask` runs a round; those of few callers are called.
    pub async fn join<F, R>(&self, ask: F) -> T
    where
        F: Fn() -> R + Clone + Send + 'static,
        R: Future<Output = T> + Send + 'static,
    {
        if let Some(turn) = self.begin_alone() {
            // Those who come in the same moment do so now, and are better company than none.
            yield_now().await;
            if !self.has_company() {
                return ask().await;
            }
            drop(turn);
        }
        let answer = self.wait(&ask);
        match answer.await {
            Ok(answer) => answer,
            // The task that asked has panicked, or the runtime stops.
            Err(_) => ask().await,
        }
    }

    fn begin_alone(&self) -> Option<Alone<'_, T>> {
        let mut state = self.state.lock();
        if state.alone || state.running > 0 {
            return None;
        }
        state.alone = true;
        Some(Alone(self))
    }

    fn has_company(&self) -> bool {
        let state = self.state.lock();
        state.running > 0 || !state.next.is_empty()
    }

    fn wait<F, R>(&self, ask: &F) -> oneshot::Receiver<T>
    where
        F: Fn() -> R + Clone + Send + 'static,
        R: Future<Output = T> + Send + 'static,
    {
        let (waiter, answer) = oneshot::channel();
        let mut state = self.state.lock();
        state.next.push(waiter);
        let begin = state.running < self.max;
        state.running += usize::from(begin);
        drop(state);
        if begin {
            spawn("rounds", run(self.clone(), ask.clone())).detach();
        }
        answer
    }
}

struct Alone<'r, T>(&'r Rounds<T>);

impl<T> Drop for Alone<'_, T> {
    fn drop(&mut self) {
        self.0.state.lock().alone = false;
    }
}

/// Asks for all who wait until nobody does.
async fn run<T: Clone, F: Fn() -> R, R: Future<Output = T>>(rounds: Rounds<T>, ask: F) {
    // Should a round panic, those of it ask for themselves, and so do those of the next if nobody else serves them.
    let mut running = Running { rounds: &rounds, armed: true };
    loop {
        // Those who come in the same moment join.
        yield_now().await;
        let waiting = {
            let mut state = rounds.state.lock();
            if state.next.is_empty() {
                state.running -= 1;
                running.armed = false;
                return;
            }
            std::mem::take(&mut state.next)
        };
        let answer = ask().await;
        for waiter in waiting {
            // Who has gone away needs no answer.
            let _ = waiter.send(answer.clone());
        }
    }
}

struct Running<'r, T> {
    rounds: &'r Rounds<T>,
    armed: bool,
}

impl<T> Drop for Running<'_, T> {
    fn drop(&mut self) {
        if self.armed {
            let mut state = self.rounds.state.lock();
            state.running -= 1;
            if state.running == 0 {
                state.next.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A reader that arrives in the middle of a round must not get that round's answer: it could miss a write acknowledged
    /// after the round began and before the reader did.
    #[tokio::test]
    async fn a_caller_never_joins_a_round_that_began_before_it() {
        let rounds = Rounds::new(1);
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let begun = Arc::new(AtomicU64::new(0));
        let ask = {
            let (gate, begun) = (gate.clone(), begun.clone());
            move || {
                let (gate, number) = (gate.clone(), begun.fetch_add(1, Ordering::SeqCst) + 1);
                async move {
                    gate.acquire().await.unwrap().forget();
                    number
                }
            }
        };
        let call = || {
            let (rounds, ask) = (rounds.clone(), ask.clone());
            tokio::spawn(async move { rounds.join(ask).await })
        };
        let first = call();
        while begun.load(Ordering::SeqCst) == 0 {
            yield_now().await;
        }
        let late: Vec<_> = (0..100).map(|_| call()).collect();
        while rounds.state.lock().next.len() < 100 {
            yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), 1);
        for caller in late {
            assert_eq!(caller.await.unwrap(), 2, "one round for all who waited");
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        assert_eq!(rounds.state.lock().running, 0);
    }

    /// A caller whose future nobody polls, and one that is dropped, must not keep others waiting.
    #[tokio::test]
    async fn callers_do_not_depend_on_each_other() {
        let rounds = Rounds::new(1);
        let begun = Arc::new(AtomicU64::new(0));
        let ask = {
            let begun = begun.clone();
            move || {
                let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                async move { number }
            }
        };
        let mut alone = Box::pin(rounds.join(ask.clone()));
        assert!(futures::poll!(alone.as_mut()).is_pending());
        let mut waiting = Box::pin(rounds.join(ask.clone()));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        // Neither is polled from here on.
        assert!(rounds.join(ask.clone()).await >= 1);
        drop(alone);
        assert!(rounds.join(ask.clone()).await >= 2);
        drop(waiting);
        assert!(rounds.join(ask.clone()).await >= 3);
        while rounds.state.lock().running > 0 {
            yield_now().await;
        }
        assert!(!rounds.state.lock().alone);
    }

    #[tokio::test]
    async fn a_round_that_panics_costs_nobody_an_answer() {
        let rounds = Rounds::new(1);
        let begun = Arc::new(AtomicU64::new(0));
        let ask = {
            let begun = begun.clone();
            move || {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                async move {
                    assert!(number > 0, "the first round fails");
                    number
                }
            }
        };
        let callers = (0..3).map(|_| rounds.join(ask.clone()));
        let answers = futures::future::join_all(callers).await;
        assert!(answers.iter().all(|answer| *answer > 0), "{answers:?}");
        assert_eq!(rounds.state.lock().running, 0);
    }
}
