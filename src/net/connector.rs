//! The task behind a channel: connects, greets, drives the connection, and begins again when it breaks.
//!
//! ```text
//!            a call               hello answered                 it breaks
//!    Idle ----------> Connecting ----------------> Up(connection) ---------> Connecting
//!      ^                  | it fails                   ^
//!      |   nobody called  v                            | an attempt succeeds
//!      +---------------- Down(error): calls fail at once, attempts go on while calls come
//! ```
//!
//! Holds: while the peer is known to be unreachable nobody waits for it; when a connection breaks all its calls
//! fail at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use crate::runtime::{Instant, now, random_below, sleep, sleep_until, timeout};
use crate::types::{ClusterId, NodeAddress, NodeId, codec};
use crate::wire::frame::{Decoder, Flags, Frame, FrameError, Header, KIND_HELLO, WAITS_MAX, widest};
use crate::wire::{Applied, Class, Greeting, Hello, PROTOCOL_VERSION, Program, Role, RpcError};

use super::calls::{Answer, Calls};
use super::link::{Broken, Link, Outbox, Side};
use super::{ChannelOptions, Reply, socket};

/// A connection that makes no progress within a frame for this long is broken. Far above any pause of a living
/// peer's network, far below what an operator calls hanging.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// First time between attempts; doubles up to the option's maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The sweeper looks at most this often. Deadlines are seconds; a caller cannot tell a few milliseconds.
const SWEEP_GAP: Duration = Duration::from_millis(5);

/// Where a channel stands.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Not connected, and not tried lately.
    Idle,
    /// An attempt runs: calls wait for it.
    Connecting,
    /// Connected.
    Up(Arc<Connection>),
    /// Known to be unreachable.
    Down(RpcError),
}

/// What a channel and its task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) address: NodeAddress,
    pub(super) class: Class,
    pub(super) options: ChannelOptions,
    pub(super) hello: Mutex<Hello>,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) wanted: AtomicBool,
    pub(super) wake: Notify,
    pub(super) peer: Mutex<(Option<ClusterId>, Option<NodeId>, Option<Program>)>,
    /// Moving average, in nanoseconds; 0 before the first reply.
    pub(super) latency_nanos: AtomicU64,
}

/// A connection that stands, as callers see it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) outbox: Outbox,
    pub(super) calls: Calls,
    credits: Semaphore,
    /// For requests that wait.
    waits: Semaphore,
    pub(super) rearm: Notify,
    pub(super) version: u16,
}

impl Connection {
    /// What a request takes a place in.
    pub(super) fn window(&self, waits: bool) -> &Semaphore {
        if waits { &self.waits } else { &self.credits }
    }

    /// Tells the peer that the answer to `id` is no longer wanted.
    pub(super) fn push_cancel(&self, id: u64) {
        let flags = Flags::CANCEL.and(Flags::ONE_WAY);
        if let Some(header) = Header::over(self.version, 0, flags, id, &[], &[]) {
            self.outbox.push(&header, Bytes::new(), Bytes::new());
        }
    }
}

/// Runs for the life of the channel.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut backoff = BACKOFF_MIN;
    loop {
        if matches!(*shared.standing.borrow(), Standing::Idle) {
            // A permit is kept for us if the call came before we wait.
            shared.wake.notified().await;
            shared.standing.send_if_modified(|standing| {
                let idle = matches!(standing, Standing::Idle);
                if idle {
                    *standing = Standing::Connecting;
                }
                idle
            });
        }
        match attempt(&shared).await {
            Ok((mut link, connection)) => {
                let since = now();
                tracing::debug!(peer = %shared.address, class = ?shared.class, "connected");
                shared.standing.send_replace(Standing::Up(connection.clone()));
                let broken = drive(&shared, &mut link, &connection).await;
                // First the standing, then the calls: who is woken finds no trace of the broken connection.
                shared.standing.send_replace(Standing::Connecting);
                connection.credits.close();
                connection.waits.close();
                connection
                    .calls
                    .close(&RpcError::Disconnected { peer: shared.address.clone(), applied: Applied::Maybe });
                tracing::info!(peer = %shared.address, class = ?shared.class, reason = %broken, "connection broke");
                // A peer that accepts and breaks at once would otherwise be called in a tight loop.
                if now() - since > shared.options.backoff_max {
                    backoff = BACKOFF_MIN;
                } else {
                    pause(&shared, &mut backoff).await;
                }
            }
            Err(error) => {
                if !matches!(*shared.standing.borrow(), Standing::Down(_)) {
                    tracing::info!(peer = %shared.address, class = ?shared.class, %error, "cannot connect");
                }
                shared.wanted.store(false, Ordering::Relaxed);
                shared.standing.send_replace(Standing::Down(error));
                pause(&shared, &mut backoff).await;
                // Consensus keeps trying: its peers are few, and it wants them the moment they are back.
                if !shared.wanted.swap(false, Ordering::Relaxed) && shared.class != Class::Consensus {
                    shared.standing.send_replace(Standing::Idle);
                }
            }
        }
    }
}

async fn pause(shared: &Shared, backoff: &mut Duration) {
    // Half fixed, half drawn: the clients of a server that died do not come back in step.
    let half = backoff.as_nanos() / 2;
    let jitter = random_below(u64::try_from(half).unwrap_or(u64::MAX));
    sleep(*backoff / 2 + Duration::from_nanos(jitter)).await;
    *backoff = (*backoff * 2).min(shared.options.backoff_max);
}

async fn attempt(shared: &Shared) -> Result<(Link, Arc<Connection>), RpcError> {
    let bound = shared.options.connect_timeout;
    let unreachable = |reason: String| RpcError::Unreachable { peer: shared.address.clone(), reason };
    match timeout(bound, greet(shared)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unreachable(format!("no connection and hello within {bound:?}"))),
    }
}

/// Connects and exchanges hellos.
async fn greet(shared: &Shared) -> Result<(Link, Arc<Connection>), RpcError> {
    let peer = || shared.address.clone();
    let unreachable = |e: std::io::Error| RpcError::Unreachable { peer: peer(), reason: e.to_string() };
    let bad = |reason: String| RpcError::BadFrame { peer: peer(), reason };
    let stream =
        socket::connect(&shared.address, shared.options.silence_timeout).await.map_err(unreachable)?;
    let decoder = Decoder::new(|_| (Greeting::LEN_MAX, 0));
    let mut link = Link::new(stream, decoder, usize::MAX, STALL_TIMEOUT, 0);
    let outbox = Outbox::default();
    let hello = shared.hello.lock().clone();
    let greeting = Greeting { hello, class: shared.class, credits: shared.options.in_flight_max }.encode();
    let header = Header::over(PROTOCOL_VERSION, KIND_HELLO, Flags::REQUEST, 0, &greeting, &[])
        .expect("a greeting is shorter than any meta may be");
    outbox.push(&header, greeting, Bytes::new());
    link.flush(&outbox).await.map_err(unreachable)?;
    let frame = link.read_frame().await.map_err(|broken| match broken {
        Broken::Frame { error, .. } => bad(error.to_string()),
        other => RpcError::Unreachable { peer: peer(), reason: other.to_string() },
    })?;
    if frame.header.flags.has(Flags::ERROR) {
        return Err(codec::decode::<RpcError>(&frame.meta).unwrap_or_else(|e| bad(e.to_string())));
    }
    if frame.header.kind != KIND_HELLO || !frame.header.flags.has(Flags::RESPONSE) {
        return Err(bad("the first frame is no hello".into()));
    }
    let answer = Greeting::decode(&frame.meta).map_err(|e| bad(e.into()))?;
    let version = admit(shared, &answer.hello)?;
    link.decoder().set_limit(widest);
    let credits = answer.credits.clamp(1, shared.options.in_flight_max.max(1));
    let connection = Connection {
        outbox,
        calls: Calls::default(),
        credits: Semaphore::new(credits as usize),
        waits: Semaphore::new(WAITS_MAX as usize),
        rearm: Notify::new(),
        version,
    };
    Ok((link, Arc::new(connection)))
}

/// Judges the server as it judged us, and keeps who it is.
fn admit(shared: &Shared, server: &Hello) -> Result<u16, RpcError> {
    let mut hello = shared.hello.lock();
    let version = server.admit(&hello)?;
    if let (Some(expected), Some(found)) = (shared.options.node, server.node)
        && expected != found
    {
        return Err(RpcError::WrongNode { expected, found });
    }
    // Else the first request would break the connection, with words about frames.
    if shared.class == Class::Metadata && server.role == Role::Data {
        let reason = "a data server answers there, and a metadata server was called".to_owned();
        return Err(RpcError::Unreachable { peer: shared.address.clone(), reason });
    }
    // Who came without a cluster stays with the first one it met.
    hello.cluster = hello.cluster.or(server.cluster);
    *shared.peer.lock() = (server.cluster, server.node, Some(server.program.clone()));
    Ok(version)
}

async fn drive(shared: &Shared, link: &mut Link, connection: &Connection) -> Broken {
    let mut side = Caller {
        connection,
        shared,
        answers: Vec::new(),
        wakers: Vec::new(),
        heard: Arc::new(Mutex::new(now())),
    };
    let heard = side.heard.clone();
    // Dropping either half loses nothing: the connection ends with this function.
    tokio::select! {
        biased;
        outcome = link.run(&connection.outbox, &mut side) => outcome.err().unwrap_or(Broken::Closed),
        broken = sweep(shared, connection, &heard) => broken,
    }
}

/// Fails the calls whose deadline has passed. Ends when the peer has fallen silent altogether.
async fn sweep(shared: &Shared, connection: &Connection, heard: &Mutex<Instant>) -> Broken {
    let silence = shared.options.silence_timeout;
    let mut wakers = Vec::new();
    loop {
        // A permit is kept when a call arms between the look and the wait. Dropping the sleep loses nothing.
        match connection.calls.armed() {
            None => connection.rearm.notified().await,
            Some(at) => tokio::select! {
                () = connection.rearm.notified() => continue,
                () = sleep_until(at) => {}
            },
        }
        let at = now();
        let (expired, _) = connection.calls.sweep(at);
        let longest = expired.iter().map(|call| at - call.started).max();
        let mut answers: Vec<(u64, Answer)> = expired
            .into_iter()
            .map(|call| {
                connection.push_cancel(call.id);
                let after = at - call.started;
                let peer = shared.address.clone();
                (call.id, Err(RpcError::TimedOut { peer, after, applied: Applied::Maybe }))
            })
            .collect();
        let any = !answers.is_empty();
        connection.calls.answer(&mut answers, &mut wakers);
        // A call ran out, and not a single frame came for all its time: the peer hangs, so waiting calls fail now
        // and new ones see a fresh connection (or fail fast).
        if longest.is_some_and(|longest| longest >= silence) && at - *heard.lock() >= silence {
            return Broken::Stalled(silence);
        }
        if any {
            // Deadlines that fall close together share one look.
            sleep(SWEEP_GAP).await;
        }
    }
}

/// The calling end of a connection.
struct Caller<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    answers: Vec<(u64, Answer)>,
    wakers: Vec<Waker>,
    heard: Arc<Mutex<Instant>>,
}

impl Side for Caller<'_> {
    fn frame(&mut self, frame: Frame) -> Result<(), FrameError> {
        let Frame { header, meta, payload } = frame;
        if !header.flags.has(Flags::RESPONSE) {
            return Err(FrameError::OutOfPlace("a server sends replies only"));
        }
        if header.version != self.connection.version {
            return Err(FrameError::OutOfPlace("another protocol version than agreed"));
        }
        let answer = if header.flags.has(Flags::ERROR) {
            Err(codec::decode::<RpcError>(&meta).unwrap_or_else(|e| RpcError::BadFrame {
                peer: self.shared.address.clone(),
                reason: format!("an error that cannot be decoded: {e}"),
            }))
        } else {
            Ok(Reply { meta, payload, payload_crc: Some(header.payload_crc) })
        };
        if header.id == 0 {
            if let Err(error) = answer {
                tracing::warn!(peer = %self.shared.address, %error, "the peer gives the connection up");
            }
            return Ok(());
        }
        self.answers.push((header.id, answer));
        Ok(())
    }

    fn batch_end(&mut self) {
        let at = now();
        *self.heard.lock() = at;
        if let Some(started) = self.connection.calls.answer(&mut self.answers, &mut self.wakers) {
            let nanos = u64::try_from((at - started).as_nanos()).unwrap_or(u64::MAX).max(1);
            let old = self.shared.latency_nanos.load(Ordering::Relaxed);
            let new = if old == 0 { nanos } else { old - old / 8 + nanos / 8 };
            self.shared.latency_nanos.store(new.max(1), Ordering::Relaxed);
        }
    }

    fn expects_more(&self) -> bool {
        self.connection.calls.count() > 1
    }
}
