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

use super::yield_now;

/// What a waiting caller is told.
enum Word<T> {
    Answer(T),
    /// A round may begin, and this caller asks, for all who wait.
    Ask,
}

/// Callers that share rounds. Clones share them too.
#[derive(Clone)]
pub struct Rounds<T> {
    state: Arc<Mutex<RoundState<T>>>,
    max: usize,
}

struct RoundState<T> {
    /// Rounds on their way.
    running: usize,
    /// Callers of the next one.
    next: Vec<oneshot::Sender<Word<T>>>,
}

impl<T: Clone> Rounds<T> {
    /// With at most `max` rounds on their way at a time. With one, a caller waits for half of somebody else's round before its
    /// own; with many, each round carries few callers.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { state: Arc::new(Mutex::new(RoundState { running: 0, next: Vec::new() })), max }
    }

    /// The answer of a round that begins after this call. `ask` runs a round; only one of the callers' is called.
    pub async fn join<R: Future<Output = T>>(&self, ask: impl Fn() -> R) -> T {
        loop {
            let waiting = {
                let mut state = self.state.lock();
                if state.running < self.max {
                    state.running += 1;
                    None
                } else {
                    let (waiter, word) = oneshot::channel();
                    state.next.push(waiter);
                    Some(word)
                }
            };
            // The turn is given on whichever way this call ends, also where it is dropped.
            let turn = match waiting {
                None => Turn { rounds: self },
                Some(word) => match word.await {
                    Ok(Word::Answer(answer)) => return answer,
                    Ok(Word::Ask) => Turn { rounds: self },
                    // Who asked for us has gone away in the middle.
                    Err(_) => continue,
                },
            };
            // Those who come in the same moment join.
            yield_now().await;
            let others = std::mem::take(&mut self.state.lock().next);
            let answer = ask().await;
            for other in others {
                // Who has gone away needs no answer.
                let _ = other.send(Word::Answer(answer.clone()));
            }
            drop(turn);
            return answer;
        }
    }
}

/// One of the rounds that may run at a time.
struct Turn<'r, T> {
    rounds: &'r Rounds<T>,
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        let mut state = self.rounds.state.lock();
        while let Some(next) = state.next.pop() {
            if next.send(Word::Ask).is_ok() {
                return;
            }
        }
        state.running -= 1;
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

    /// Whoever asks for others may be cancelled; they must get their answer all the same.
    #[tokio::test]
    async fn callers_outlive_the_one_that_asks_for_them() {
        let rounds = Rounds::new(1);
        let begun = Arc::new(AtomicU64::new(0));
        let ask = {
            let begun = begun.clone();
            move || {
                let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                async move {
                    if number <= 2 {
                        std::future::pending::<()>().await;
                    }
                    number
                }
            }
        };
        let call = || {
            let (rounds, ask) = (rounds.clone(), ask.clone());
            tokio::spawn(async move { rounds.join(ask).await })
        };
        // The first asks alone. Of those who come meanwhile one asks for the others, once the first is gone.
        let first = call();
        while begun.load(Ordering::SeqCst) < 1 {
            yield_now().await;
        }
        let late: Vec<_> = (0..3).map(|_| call()).collect();
        while rounds.state.lock().next.len() < 3 {
            yield_now().await;
        }
        first.abort();
        while begun.load(Ordering::SeqCst) < 2 {
            yield_now().await;
        }
        // The last that came was told to ask.
        late[2].abort();
        let mut answers = Vec::new();
        for caller in late {
            answers.push(caller.await.ok());
        }
        assert_eq!(answers, [Some(3), Some(3), None]);
    }
}
