//! [`Channel`]: one persistent connection to one peer, shared by many callers.
//!
//! Held by whoever calls that peer; `connector` keeps the connection. Holds: a call ends by its deadline, whatever
//! the peer does; a call that is dropped gives its slot back; calls above the window wait in order.
//! Not here: retries and the choice among peers, which belong to the caller.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, TryAcquireError, watch};

use crate::runtime::{Instant, Task, now, spawn, timeout_at};
use crate::types::{ClusterId, NodeAddress, NodeId};
use crate::wire::frame::{Flags, Header};
use crate::wire::{Applied, Class, Hello, Program, RpcError};

use super::Reply;
use super::calls::Answer;
use super::connector::{self, Connection, Shared, Standing};

/// The protocol version that requests which wait came with. A peer that agreed on an older one would break the connection over
/// their flag, so to it they go as any other request does.
pub(super) const WAITS_SINCE: u16 = 2;

/// Times and bounds of a channel.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// Longest wait for a connection and its hello.
    pub connect_timeout: Duration,
    /// A peer that acknowledges nothing for this long is taken for dead, and the connection broken.
    pub silence_timeout: Duration,
    /// Longest time between two attempts to connect.
    pub backoff_max: Duration,
    /// Requests in flight at most; the peer may grant fewer.
    pub in_flight_max: u32,
    /// The node that must answer; None takes any.
    pub node: Option<NodeId>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            silence_timeout: Duration::from_secs(2),
            backoff_max: Duration::from_millis(200),
            in_flight_max: 1024,
            node: None,
        }
    }
}

/// A connection to one peer that mends itself, with many requests in flight. Cheap to clone; closed when the
/// last clone is dropped.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Ends with the last clone, and the connection with it.
    connector: Task<()>,
}

impl Channel {
    /// A channel to `address`; connects at the first call, one for consensus at once. To be called inside a
    /// runtime.
    #[must_use]
    pub fn new(address: NodeAddress, hello: Hello, class: Class, options: ChannelOptions) -> Self {
        let standing = if class == Class::Consensus { Standing::Connecting } else { Standing::Idle };
        let shared = Arc::new(Shared {
            address,
            class,
            options,
            hello: Mutex::new(hello),
            standing: watch::Sender::new(standing),
            wanted: AtomicBool::new(false),
            wake: Notify::new(),
            peer: Mutex::default(),
            latency_nanos: AtomicU64::new(0),
        });
        let connector = spawn("net-connector", connector::run(shared.clone()));
        Self { inner: Arc::new(Inner { shared, connector }) }
    }

    /// Sends a request and awaits its reply for at most `deadline`. Dropping the future cancels the request.
    ///
    /// # Errors
    /// What the peer answered, or how the exchange failed; see [`RpcError::applied`] before sending it again.
    pub async fn call(
        &self,
        kind: u16,
        meta: Vec<u8>,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Reply, RpcError> {
        self.call_knowing(kind, meta, payload, None, deadline).await
    }

    /// As [`Channel::call`], for a request whose answer waits for something to happen: it takes no place from other calls, where
    /// the peer speaks a protocol version that has such requests.
    ///
    /// # Errors
    /// As there.
    pub async fn call_waiting(
        &self,
        kind: u16,
        meta: Vec<u8>,
        deadline: Duration,
    ) -> Result<Reply, RpcError> {
        self.send(kind, meta, Bytes::new(), None, deadline, true).await
    }

    /// As [`Channel::call`]; with a crc32c of the payload that is known already, the bytes are not passed over again: what
    /// goes to several peers is summed once. A wrong one breaks the connection.
    ///
    /// # Errors
    /// As there.
    pub async fn call_knowing(
        &self,
        kind: u16,
        meta: Vec<u8>,
        payload: Bytes,
        payload_crc: Option<u32>,
        deadline: Duration,
    ) -> Result<Reply, RpcError> {
        self.send(kind, meta, payload, payload_crc, deadline, false).await
    }

    async fn send(
        &self,
        kind: u16,
        meta: Vec<u8>,
        payload: Bytes,
        payload_crc: Option<u32>,
        deadline: Duration,
        waits: bool,
    ) -> Result<Reply, RpcError> {
        let Some(header) = Header::knowing(0, kind, Flags::REQUEST, 0, &meta, &payload, payload_crc) else {
            return Err(RpcError::Refused {
                reason: format!("{} bytes of meta and {} of payload are too long", meta.len(), payload.len()),
            });
        };
        let started = now();
        let until = started + deadline;
        loop {
            let connection = match self.connection() {
                Some(outcome) => outcome?,
                None => self.in_time(until, started, self.connected()).await??,
            };
            let waits = waits && connection.version >= WAITS_SINCE;
            match connection.window(waits).try_acquire() {
                Ok(credit) => credit.forget(),
                Err(TryAcquireError::NoPermits) => {
                    match self.in_time(until, started, connection.window(waits).acquire()).await? {
                        Ok(credit) => credit.forget(),
                        Err(_) => continue,
                    }
                }
                // It broke meanwhile, and nothing has been sent: the next connection will do.
                Err(TryAcquireError::Closed) => continue,
            }
            let credit = Credit { connection, waits };
            let Some(begun) = credit.connection.calls.begin(started, until) else { continue };
            if begun.arm {
                credit.connection.rearm.notify_one();
            }
            let left = until.saturating_duration_since(now()).as_millis();
            let header = Header {
                version: credit.connection.version,
                flags: if waits { Flags::WAITS } else { Flags::REQUEST },
                id: begun.id,
                deadline_ms: u32::try_from(left).unwrap_or(u32::MAX).max(1),
                ..header
            };
            credit.connection.outbox.push(&header, meta, payload);
            return InFlight { credit, id: begun.id, taken: false }.await;
        }
    }

    /// The connection, or why there is none; None while an attempt is to be awaited.
    fn connection(&self) -> Option<Result<Arc<Connection>, RpcError>> {
        let shared = &self.inner.shared;
        let outcome = match &*shared.standing.borrow() {
            Standing::Up(connection) => return Some(Ok(connection.clone())),
            Standing::Connecting => return None,
            Standing::Down(error) => Some(Err(error.clone())),
            Standing::Idle => None,
        };
        shared.wanted.store(true, Ordering::Relaxed);
        if outcome.is_none() {
            shared.wake.notify_one();
        }
        outcome
    }

    async fn connected(&self) -> Result<Arc<Connection>, RpcError> {
        let mut standing = self.inner.shared.standing.subscribe();
        loop {
            standing.borrow_and_update();
            if let Some(outcome) = self.connection() {
                return outcome;
            }
            if standing.changed().await.is_err() {
                return Err(RpcError::Stopping);
            }
        }
    }

    /// Awaits what comes before the sending.
    async fn in_time<F: Future>(
        &self,
        until: Instant,
        started: Instant,
        future: F,
    ) -> Result<F::Output, RpcError> {
        timeout_at(until, future).await.map_err(|_| RpcError::TimedOut {
            peer: self.address().clone(),
            after: now() - started,
            applied: Applied::No,
        })
    }

    /// Who is called.
    #[must_use]
    pub fn address(&self) -> &NodeAddress {
        &self.inner.shared.address
    }

    /// From now on only a peer of this cluster is connected to, whichever was met first.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.inner.shared.hello.lock().cluster = Some(cluster);
    }

    /// The cluster the peer said it belongs to, at the latest hello.
    #[must_use]
    pub fn peer_cluster(&self) -> Option<ClusterId> {
        self.inner.shared.peer.lock().0
    }

    /// The node the peer said it is, at the latest hello.
    #[must_use]
    pub fn peer_node(&self) -> Option<NodeId> {
        self.inner.shared.peer.lock().1
    }

    /// The program that the peer is, as it said at the latest hello; none before the first.
    #[must_use]
    pub fn peer_program(&self) -> Option<Program> {
        self.inner.shared.peer.lock().2.clone()
    }

    /// True while a connection stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(*self.inner.shared.standing.borrow(), Standing::Up(_))
    }

    /// False once the runtime has ended that it was made in, which kept the connection.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.inner.connector.is_finished()
    }

    /// Moving average of the time from a request to its reply; None before the first. For choosing among peers.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        match self.inner.shared.latency_nanos.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Requests that wait for their reply.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &*self.inner.shared.standing.borrow() {
            Standing::Up(connection) => connection.calls.count(),
            _ => 0,
        }
    }
}

/// One place in the window, given back when dropped.
struct Credit {
    connection: Arc<Connection>,
    waits: bool,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.connection.window(self.waits).add_permits(1);
    }
}

/// A request that was sent. Dropped early, it is cancelled.
struct InFlight {
    credit: Credit,
    id: u64,
    taken: bool,
}

impl Future for InFlight {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = self.credit.connection.calls.poll(self.id, cx);
        self.taken = answer.is_ready();
        answer
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let connection = &self.credit.connection;
        if !self.taken && connection.calls.forget(self.id) {
            connection.push_cancel(self.id);
        }
    }
}
