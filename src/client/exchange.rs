//! One request to the metadata servers until one answers: attempts, failover, backoff, deadline.
//!
//! `session` (updates) and `core` (queries) call [`exchange`] with a request that may be sent any number of times: a query
//! changes nothing, an update carries its request id. Holds: no attempt and no pause goes beyond the deadline; the
//! outcome is `Maybe` exactly when an attempt may have taken effect.
//! Not here: what the answer means.

use std::time::Duration;

use bytes::Bytes;

use crate::runtime::{self, Instant};
use crate::types::{RetryClass, codec};
use crate::wire::message::{MetaReply, kind};
use crate::wire::{Applied, RpcError};

use super::error::ClientError;
use super::servers::MetaServers;
use super::silence::unless_silent;

/// Longest wait for the first servers asked, if they are not found silent before (`silence`). Long enough for a group commit on a
/// busy disk and most elections.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait of any attempt: under overload attempts grow up to here instead of multiplying the load.
const ATTEMPT_TIMEOUT_MAX: Duration = Duration::from_secs(8);
/// First pause once all servers have been tried, doubled each round.
const BACKOFF: Duration = Duration::from_millis(10);
/// Longest pause: an election takes about this long.
const BACKOFF_MAX: Duration = Duration::from_millis(400);

/// How long an attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Short attempts: the server answers at once or another one does.
    Short,
    /// The whole time that is left: the server computes (`check`).
    Whole,
}

/// What an exchange that failed has to say.
#[derive(Debug)]
pub(super) struct Failure {
    /// The last error.
    pub(super) last: RpcError,
    /// Attempts made.
    pub(super) attempts: u32,
    /// Since the exchange began.
    pub(super) after: Duration,
    /// Whether any attempt may have taken effect.
    pub(super) applied: Applied,
}

impl From<Failure> for ClientError {
    fn from(f: Failure) -> Self {
        Self::Rpc { last: Box::new(f.last), attempts: f.attempts, after: f.after, applied: f.applied }
    }
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    GiveUp,
    /// After this pause, at the next server.
    Again(Duration),
}

/// Decides from the error, the attempts made so far (at least 1), how many of them in a row met a stranger, the servers there are
/// and `jitter` (0 to 1023).
fn next(error: &RpcError, attempts: u32, strangers: u32, server_count: u32, jitter: u32) -> Step {
    // A server of another cluster at one of our addresses is no reason to ask nobody else.
    let may_be_known_elsewhere = is_stranger(error) && strangers < server_count;
    if error.retry() == RetryClass::Never && !may_be_known_elsewhere {
        return Step::GiveUp;
    }
    let round = attempts / server_count.max(1);
    if round == 0 && !error.is_busy() {
        return Step::Again(Duration::ZERO);
    }
    let full = BACKOFF.saturating_mul(1 << round.min(8)).min(BACKOFF_MAX);
    // Half fixed, half random: callers that failed together do not come back together.
    Step::Again(full / 2 + full / 2 * jitter / 1024)
}

fn attempt_timeout(attempt: u32, server_count: u32, patience: Patience, left: Duration) -> Duration {
    match patience {
        Patience::Whole => left,
        Patience::Short => {
            let round = (attempt / server_count.max(1)).min(3);
            ATTEMPT_TIMEOUT.saturating_mul(1 << round).min(ATTEMPT_TIMEOUT_MAX).min(left)
        }
    }
}

/// What tells the caller of [`exchange`] about attempts as they happen, so that a dropped call knows its outcome.
pub(super) trait Watch {
    /// The request, encoded for this attempt.
    ///
    /// # Errors
    /// When it is too long to be sent.
    fn encode(&self) -> Result<Vec<u8>, codec::CodecError>;
    /// True for a request whose answer waits for something to happen.
    fn waits(&self) -> bool {
        false
    }
    /// True for a request that changes the namespace.
    fn is_update(&self) -> bool {
        false
    }
    /// An attempt is about to leave: from now on it may take effect.
    fn sending(&mut self) {}
    /// An attempt failed, and certainly had no effect.
    fn not_applied(&mut self) {}
}

/// Asks until one answers or `deadline` comes. `suspected` is called when a server is newly found to fail.
///
/// # Errors
/// [`Failure`] with the last error.
pub(super) async fn exchange(
    servers: &MetaServers,
    deadline: Instant,
    patience: Patience,
    suspected: impl Fn(),
    watch: &mut impl Watch,
) -> Result<MetaReply, Failure> {
    let began = runtime::now();
    let start = if watch.is_update() { servers.start_of_update() } else { servers.start() };
    let mut attempts: u32 = 0;
    let mut strangers: u32 = 0;
    let mut applied = Applied::No;
    loop {
        let now = runtime::now();
        let server = servers.pick(start, attempts as usize);
        let server_count = u32::try_from(servers.list().len()).unwrap_or(u32::MAX);
        let left = deadline.saturating_duration_since(now);
        let timeout = attempt_timeout(attempts, server_count, patience, left);
        let error = match watch.encode() {
            Err(e) => RpcError::Refused { reason: e.to_string() },
            Ok(meta) => {
                watch.sending();
                let channel = server.channel();
                let answer = if watch.waits() {
                    channel.call_waiting(kind::META, meta, timeout).await
                } else {
                    let call = channel.call(kind::META, meta, Bytes::new(), timeout);
                    if attempts < server_count {
                        unless_silent(servers, &server, &suspected, call).await
                    } else {
                        // Under overload even a sign of life takes long: attempts grow then, and are not cut short.
                        call.await
                    }
                };
                match answer {
                    Ok(reply) => match codec::decode::<MetaReply>(&reply.meta) {
                        Ok(reply) => {
                            server.answered();
                            if watch.is_update() {
                                servers.note_update();
                            }
                            return Ok(reply);
                        }
                        Err(e) => {
                            RpcError::BadFrame { peer: server.address().clone(), reason: e.to_string() }
                        }
                    },
                    Err(e) => e,
                }
            }
        };
        attempts += 1;
        strangers = if is_stranger(&error) { strangers + 1 } else { 0 };
        match error.applied() {
            Applied::No if applied == Applied::No => watch.not_applied(),
            Applied::No => {}
            Applied::Maybe => applied = Applied::Maybe,
        }
        if blames_server(&error) {
            if server.failed() {
                tracing::debug!(server = %server.address(), %error, "metadata server is avoided");
                suspected();
            }
            servers.leave(start);
        }
        let jitter = u32::try_from(runtime::random_below(1024)).unwrap_or(0);
        let failure = |last| Failure { last, attempts, after: began.elapsed(), applied };
        let Step::Again(pause) = next(&error, attempts, strangers, server_count, jitter) else {
            return Err(failure(error));
        };
        if runtime::now() + pause >= deadline {
            return Err(failure(error));
        }
        if !pause.is_zero() {
            runtime::sleep(pause).await;
        }
    }
}

/// Whoever answered belongs to another cluster, or passed the request on to one that says so.
fn is_stranger(error: &RpcError) -> bool {
    matches!(error, RpcError::WrongCluster { .. })
}

/// True if another server is the better choice for a while.
pub(super) fn blames_server(error: &RpcError) -> bool {
    !error.is_busy()
        && !matches!(error, RpcError::LeaderLost | RpcError::Refused { .. } | RpcError::LevelTooLow { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;

    #[test]
    fn other_servers_are_asked_at_once_and_then_with_growing_pauses() {
        let error = RpcError::NoLeader;
        assert_eq!(next(&error, 1, 0, 3, 0), Step::Again(Duration::ZERO));
        assert_eq!(next(&error, 2, 0, 3, 0), Step::Again(Duration::ZERO));
        let pauses: Vec<_> = (1..20)
            .map(|round| match next(&error, round * 3, 0, 3, 1023) {
                Step::Again(pause) => pause,
                Step::GiveUp => panic!("gave up"),
            })
            .collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!(pauses[0] >= BACKOFF && *pauses.last().unwrap() <= BACKOFF_MAX);
    }

    #[test]
    fn what_no_resend_mends_is_not_resent() {
        let error = RpcError::Refused { reason: String::new() };
        assert_eq!(next(&error, 1, 0, 3, 0), Step::GiveUp);
    }

    #[test]
    fn a_stranger_among_the_servers_is_passed_by_and_strangers_alone_are_an_error() {
        let error = RpcError::WrongCluster { caller: ClusterId(1), server: ClusterId(2) };
        assert_eq!(next(&error, 1, 1, 3, 0), Step::Again(Duration::ZERO));
        assert!(matches!(next(&error, 9, 1, 3, 0), Step::Again(_)), "the others have no leader yet");
        assert_eq!(next(&error, 3, 3, 3, 0), Step::GiveUp);
        assert_eq!(next(&error, 1, 1, 1, 0), Step::GiveUp);
    }

    #[test]
    fn attempts_are_short_first_and_never_outlast_the_deadline() {
        let long = Duration::from_secs(30);
        assert_eq!(attempt_timeout(0, 3, Patience::Short, long), ATTEMPT_TIMEOUT);
        assert_eq!(attempt_timeout(2, 3, Patience::Short, long), ATTEMPT_TIMEOUT);
        assert!(attempt_timeout(3, 3, Patience::Short, long) > ATTEMPT_TIMEOUT);
        assert_eq!(attempt_timeout(300, 3, Patience::Short, long), ATTEMPT_TIMEOUT_MAX);
        let short = Duration::from_millis(5);
        assert_eq!(attempt_timeout(0, 3, Patience::Short, short), short);
        assert_eq!(attempt_timeout(0, 3, Patience::Whole, long), long);
    }
}
