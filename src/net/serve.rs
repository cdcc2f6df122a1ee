//! One connection of a server: the hello, then requests to the handler and replies back, in any order.
//!
//! Holds: requests in flight are bounded here and over the whole server, above it the answer is Busy; a handler
//! that panics costs its request and nothing else; a bad frame ends its own connection, told why where possible;
//! no handler outlives the connection.
//!
//! A handler is polled once where the frame was read: most questions are answered from memory. One that has to wait goes on
//! in the task of its connection, so that the replies to all requests that one event answers leave with one wake-up and one
//! write. Handlers of blocks compute checksums of megabytes: on connections for bulk each has a task of its own.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, Aborted};
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;

use crate::runtime::{HEAD_ROOM, Instant, StopSignal, Task, now, sleep, spawn, timeout};
use crate::types::{NodeAddress, codec};
use crate::wire::frame::{Decoder, Flags, Frame, FrameError, Header, KIND_HELLO, WAITS_MAX};
use crate::wire::{Class, Greeting, PROTOCOL_VERSION, Role, RpcError};

use super::Reply;
use super::channel::WAITS_SINCE;
use super::link::{Broken, Link, Outbox, Side};
use super::origin::{Place, Seat};
use super::server::{Counted, Handler, PeerInfo, Request, Shared};
use super::stream::Stream;

/// How long a stopping server lets the handlers of a connection finish.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a last word (an error before closing) may take to be sent.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);
/// Replies that wait to be sent, in bytes, above which no further request is read: four blocks keep a link busy.
const BACKLOG_MAX: usize = 16 << 20;

/// Tells a connection that it is one too many.
pub(super) async fn refuse(stream: Stream, shared: Arc<Shared>, _place: Counted) {
    let stall = shared.limits.stall_timeout;
    let mut link = Link::new(stream, Decoder::new(|_| (Greeting::LEN_MAX, 0)), BACKLOG_MAX, stall, HEAD_ROOM);
    let busy = RpcError::Busy { peer: shared.address.clone() };
    farewell(&mut link, &Outbox::default(), PROTOCOL_VERSION, 0, &busy).await;
}

/// Serves one accepted connection to its end.
pub(super) async fn connection<H: Handler>(
    stream: Stream,
    remote: SocketAddr,
    shared: Arc<Shared>,
    handler: Arc<H>,
    stopping: StopSignal,
    _seat: Seat,
) {
    let stall = shared.limits.stall_timeout;
    let mut link = Link::new(stream, Decoder::new(|_| (Greeting::LEN_MAX, 0)), BACKLOG_MAX, stall, HEAD_ROOM);
    let outbox = Arc::new(Outbox::default());
    let welcomed = tokio::select! {
        () = stopping.stopped() => return,
        welcomed = timeout(stall, welcome(&mut link, &outbox, remote, &shared)) => welcomed,
    };
    let (peer, credits, version) = match welcomed {
        Ok(Ok(welcomed)) => welcomed,
        Ok(Err(None)) => return,
        Ok(Err(Some(error))) => {
            tracing::warn!(%remote, local = %shared.address, %error, "connection refused");
            return farewell(&mut link, &outbox, PROTOCOL_VERSION, 0, &error).await;
        }
        Err(_) => {
            tracing::debug!(%remote, local = %shared.address, "no hello in time");
            return;
        }
    };
    link.decoder().set_limit(shared.limits.frame_limit);
    if shared.limits.payload_verified_by_handler {
        link.decoder().leave_payloads();
    }
    let mut side = Callee {
        handler,
        peer: Arc::new(peer),
        outbox: outbox.clone(),
        running: Arc::default(),
        waiting: FuturesUnordered::new(),
        open: HashMap::new(),
        waits: 0,
        held: Arc::default(),
        shared: shared.clone(),
        credits: credits as usize,
        version,
        read_at: None,
    };
    // Dropping the run at its await loses nothing: the link keeps all state.
    let broken = tokio::select! {
        outcome = link.run(&outbox, &mut side) => outcome.err(),
        () = stopping.stopped() => None,
    };
    match broken {
        None => {
            link.stop_reading();
            if timeout(DRAIN_TIMEOUT, link.run(&outbox, &mut side)).await.is_err() {
                let left = side.in_flight();
                tracing::info!(%remote, left, "handlers did not finish before the stop");
            }
        }
        Some(Broken::Frame { error, id }) => {
            tracing::warn!(%remote, local = %shared.address, %error, "bad frame: connection closed");
            let error = bad_frame(remote, error.to_string());
            farewell(&mut link, &outbox, version, id.unwrap_or(0), &error).await;
        }
        Some(broken) => {
            tracing::debug!(%remote, local = %shared.address, reason = %broken, "connection ended");
        }
    }
}

fn bad_frame(remote: SocketAddr, reason: String) -> RpcError {
    RpcError::BadFrame { peer: NodeAddress(remote.to_string()), reason }
}

/// Sends one last error.
async fn farewell(link: &mut Link, outbox: &Outbox, version: u16, id: u64, error: &RpcError) {
    push_error(outbox, version, KIND_HELLO, id, error);
    match timeout(FAREWELL_TIMEOUT, link.flush(outbox)).await {
        // The peer is about to learn that the connection is over from its end alone; that is enough.
        Ok(Err(_)) | Err(_) => {}
        Ok(Ok(())) => link.linger(FAREWELL_TIMEOUT).await,
    }
}

/// Exchanges hellos. None: the peer left before it said anything of use.
async fn welcome(
    link: &mut Link,
    outbox: &Outbox,
    remote: SocketAddr,
    shared: &Shared,
) -> Result<(PeerInfo, u32, u16), Option<RpcError>> {
    let bad = |reason: String| Some(bad_frame(remote, reason));
    let frame = link.read_frame().await.map_err(|broken| match broken {
        Broken::Frame { error, .. } => bad(error.to_string()),
        _ => None,
    })?;
    if frame.header.kind != KIND_HELLO || frame.header.flags != Flags::REQUEST {
        return Err(bad("the first frame is no hello".into()));
    }
    let greeting = Greeting::decode(&frame.meta).map_err(|e| bad(e.into()))?;
    let ours = shared.hello.lock().clone();
    let version = ours.admit(&greeting.hello)?;
    let granted = match greeting.class {
        Class::Bulk => shared.limits.credits_bulk,
        Class::Consensus | Class::Metadata => shared.limits.credits_small,
    };
    let credits = granted.min(greeting.credits).max(1);
    let answer = Greeting { hello: ours, class: greeting.class, credits }.encode();
    let header = Header::over(version, KIND_HELLO, Flags::RESPONSE, 0, &answer, &[])
        .expect("a greeting is shorter than any meta may be");
    outbox.push(&header, answer, Bytes::new());
    let hello = greeting.hello;
    let peer = PeerInfo {
        remote,
        role: hello.role,
        class: greeting.class,
        cluster: hello.cluster,
        node: hello.node,
        name: hello.name,
        program: hello.program,
        version,
    };
    Ok((peer, credits, version))
}

fn push_error(outbox: &Outbox, version: u16, kind: u16, id: u64, error: &RpcError) {
    let meta = codec::encode(error).unwrap_or_else(|e| {
        // Only an error text of megabytes comes here.
        tracing::error!(reason = %e, code = error.code(), "an error was too long to be sent");
        Vec::new()
    });
    let flags = Flags::RESPONSE.and(Flags::ERROR);
    if let Some(header) = Header::over(version, kind, flags, id, &meta, &[]) {
        outbox.push(&header, meta, Bytes::new());
    }
}

/// Queues the answer to request `id`.
fn push_answer(outbox: &Outbox, version: u16, kind: u16, id: u64, answer: Result<Reply, RpcError>) {
    match answer {
        Ok(Reply { meta, payload, payload_crc }) => {
            match Header::knowing(version, kind, Flags::RESPONSE, id, &meta, &payload, payload_crc) {
                Some(header) => outbox.push(&header, meta, payload),
                None => {
                    let reason = format!("a reply of {} + {} bytes is too long", meta.len(), payload.len());
                    tracing::error!(kind, reason, "reply cannot be sent");
                    push_error(outbox, version, kind, id, &RpcError::Internal { reason });
                }
            }
        }
        Err(error) => push_error(outbox, version, kind, id, &error),
    }
}

/// What a request that is being handled is counted by.
enum Admitted {
    Works(Place),
    Waits(#[expect(dead_code, reason = "counts while it lives")] Counted),
}

/// A payload that keeps the place of its request until it has left: a caller that takes its blocks slowly gets no more of them meanwhile.
struct Held {
    payload: Bytes,
    _place: Place,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

fn hold(answer: Result<Reply, RpcError>, place: Admitted) -> Result<Reply, RpcError> {
    answer.map(|reply| match place {
        Admitted::Works(place) if !reply.payload.is_empty() => {
            Reply { payload: Bytes::from_owner(Held { payload: reply.payload, _place: place }), ..reply }
        }
        _ => reply,
    })
}

/// Handlers that did not answer at once.
#[derive(Default)]
struct Running {
    tasks: Mutex<HashMap<u64, Task<()>>>,
}

impl Running {
    /// Drops all handlers, each at its await.
    fn abort_all(&self) {
        // Taken out first: a task that ends meanwhile wants the lock.
        let tasks = std::mem::take(&mut *self.tasks.lock());
        drop(tasks);
    }
}

/// What a handler came to; none if it panicked.
type Outcome = Result<Result<Reply, RpcError>, Box<dyn std::any::Any + Send>>;

/// A handler that waits in the task of its connection. Ends with its request and, unless it was cancelled, its outcome.
type Waiting = Pin<Box<dyn Future<Output = (Answered, Result<Outcome, Aborted>)> + Send>>;

/// A request that is being answered.
#[derive(Clone, Copy)]
struct Answered {
    id: u64,
    kind: u16,
    /// Its caller wants to know.
    answered: bool,
    /// It waits for something to happen.
    waits: bool,
}

/// The serving end of a connection.
struct Callee<H> {
    handler: Arc<H>,
    peer: Arc<PeerInfo>,
    outbox: Arc<Outbox>,
    /// Handlers with tasks of their own.
    running: Arc<Running>,
    /// Handlers in the task of the connection, and how to cancel each.
    waiting: FuturesUnordered<Waiting>,
    open: HashMap<u64, AbortHandle>,
    /// Of those in the task of the connection: how many wait for something to happen.
    waits: usize,
    /// Requests that have a place, those whose reply is held by it among them.
    held: Arc<AtomicUsize>,
    shared: Arc<Shared>,
    credits: usize,
    version: u16,
    /// The moment of this batch: one look at the clock for all of its frames.
    read_at: Option<Instant>,
}

/// However the connection ends, its handlers end with it.
impl<H> Drop for Callee<H> {
    fn drop(&mut self) {
        self.running.abort_all();
    }
}

impl<H: Handler> Side for Callee<H> {
    fn frame(&mut self, frame: Frame) -> Result<(), FrameError> {
        let Frame { header, meta, payload } = frame;
        if header.version != self.version {
            return Err(FrameError::OutOfPlace("another protocol version than agreed"));
        }
        if header.flags.has(Flags::CANCEL) {
            // Aborted outside the lock, which its end takes too.
            let cancelled = self.running.tasks.lock().remove(&header.id);
            drop(cancelled);
            if let Some(handler) = self.open.remove(&header.id) {
                handler.abort();
            }
            return Ok(());
        }
        if header.flags.has(Flags::RESPONSE) {
            return Err(FrameError::OutOfPlace("a client sends requests only"));
        }
        if header.kind == KIND_HELLO {
            return Err(FrameError::OutOfPlace("a second hello"));
        }
        let read_at = *self.read_at.get_or_insert_with(now);
        let deadline = read_at + Duration::from_millis(header.deadline_ms.into());
        self.start(header, Request { kind: header.kind, meta, payload, deadline })
    }

    fn batch_end(&mut self) {
        self.read_at = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pushed = Poll::Pending;
        // Who takes no replies gets none made: the rest goes on when these have left.
        while self.outbox.byte_count() <= BACKLOG_MAX
            && let Poll::Ready(Some((request, outcome))) = self.waiting.poll_next_unpin(cx)
        {
            let Answered { id, kind, answered, waits } = request;
            self.open.remove(&id);
            self.waits -= usize::from(waits);
            if let Ok(outcome) = outcome
                && answered
            {
                push_answer(&self.outbox, self.version, kind, id, survive(outcome, kind));
                pushed = Poll::Ready(());
            }
        }
        pushed
    }

    fn expects_more(&self) -> bool {
        self.in_flight() > 1
    }

    fn is_done(&self) -> bool {
        self.in_flight() == 0
    }
}

impl<H: Handler> Callee<H> {
    /// Handlers that have not ended.
    fn in_flight(&self) -> usize {
        self.waiting.len() + self.running.tasks.lock().len()
    }

    /// A place for a request, and how long it has to wait for its turn.
    fn admit(&self, request: &Request, waits: bool) -> Result<(Admitted, Duration), RpcError> {
        let (limits, role) = (&self.shared.limits, self.peer.role);
        let busy = || RpcError::Busy { peer: self.shared.address.clone() };
        if waits {
            let is_below = self.waits < WAITS_MAX as usize;
            let place =
                is_below.then(|| Counted::below(limits.waits_max, &self.shared, |s| &s.waits)).flatten();
            return place.map(|place| (Admitted::Waits(place), Duration::ZERO)).ok_or_else(busy);
        }
        let is_below = self.held.load(Ordering::Relaxed) < self.credits;
        let is_consensus = self.peer.class == Class::Consensus;
        let place = is_below
            .then(|| Place::take(&self.shared, &self.held, request.meta.len(), is_consensus))
            .flatten()
            .ok_or_else(busy)?;
        let is_bounded = limits.rate_max > 0 && matches!(role, Role::Client | Role::Tool);
        if !is_bounded || self.handler.is_urgent(request) {
            return Ok((Admitted::Works(place), Duration::ZERO));
        }
        let at = now();
        let patience = request.deadline.saturating_duration_since(at);
        match self.shared.origins.wait(self.peer.remote.ip(), limits.rate_max, at, patience) {
            Some(wait) => Ok((Admitted::Works(place), wait)),
            None => Err(RpcError::TooMany {
                peer: self.shared.address.clone(),
                reason: format!(
                    "the clients of {} ask for more than {} requests a second",
                    self.peer.remote.ip(),
                    limits.rate_max
                ),
            }),
        }
    }

    fn start(&mut self, header: Header, request: Request) -> Result<(), FrameError> {
        let (id, kind, version) = (header.id, header.kind, self.version);
        let answered = !header.flags.has(Flags::ONE_WAY);
        if self.open.contains_key(&id) || self.running.tasks.lock().contains_key(&id) {
            return Err(FrameError::OutOfPlace("a request id that is in flight"));
        }
        let waits = header.flags.has(Flags::WAITS);
        if waits && (version < WAITS_SINCE || self.peer.class == Class::Bulk) {
            return Err(FrameError::Flags(header.flags.0));
        }
        let (place, held_back) = match self.admit(&request, waits) {
            Ok(admitted) => admitted,
            Err(error) => {
                if answered {
                    push_error(&self.outbox, version, kind, id, &error);
                }
                return Ok(());
            }
        };
        let (handler, peer) = (self.handler.clone(), self.peer.clone());
        // Unwind safety: a handler shares its state behind locks of its own; the panic is logged below.
        let mut answer: Pin<Box<dyn Future<Output = Outcome> + Send>> = Box::pin(
            AssertUnwindSafe(async move {
                if !held_back.is_zero() {
                    sleep(held_back).await;
                }
                handler.handle(&peer, request).await
            })
            .catch_unwind(),
        );
        // Should it wait, it is polled again at once, with a waker that is worth something.
        if let Poll::Ready(outcome) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            if answered {
                push_answer(&self.outbox, version, kind, id, hold(survive(outcome, kind), place));
            }
            return Ok(());
        }
        if self.peer.class != Class::Bulk {
            let (cancel, cancelled) = AbortHandle::new_pair();
            self.open.insert(id, cancel);
            self.waits += usize::from(waits);
            self.waiting.push(Box::pin(async move {
                let outcome = Abortable::new(answer, cancelled).await;
                drop(place);
                (Answered { id, kind, answered, waits }, outcome)
            }));
            return Ok(());
        }
        let (running, outbox) = (self.running.clone(), self.outbox.clone());
        // The lock is held until the task is in the map: it may end before this line does.
        let mut tasks = self.running.tasks.lock();
        let task = spawn("net-handler", async move {
            let outcome = answer.await;
            // Who is no longer in the map was cancelled.
            let Some(this) = running.tasks.lock().remove(&id) else { return };
            this.detach();
            if answered {
                push_answer(&outbox, version, kind, id, hold(survive(outcome, kind), place));
            }
        });
        tasks.insert(id, task);
        Ok(())
    }
}

fn survive(outcome: Outcome, kind: u16) -> Result<Reply, RpcError> {
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        tracing::error!(kind, panic = text, "handler panicked");
        Err(RpcError::Internal { reason: "its handler panicked".into() })
    })
}
