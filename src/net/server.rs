//! [`Server`]: a listener whose connections hand requests to a [`Handler`].
//!
//! Bound by each role of a server; `serve` has the life of one connection. Holds: connections and requests are
//! bounded, and who comes above the bound is told so; a stop lets handlers finish for a moment, then ends all.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::runtime::{Instant, Tasks, sleep};
use crate::types::{ClusterId, NodeAddress, NodeId};
use crate::wire::frame::{FrameLimit, WAITS_MAX, widest};
use crate::wire::{Class, Hello, Program, Role, RpcError};

use super::origin::{Origins, Seat};
use super::stream::Listener;
use super::{Reply, serve, socket};

/// A client that acknowledges nothing for this long is gone: its locks and leases wait for nobody.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are told at a time that they are one too many: each takes a second and some memory.
const REFUSED_MAX: usize = 64;
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who called, as its hello said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Where the connection comes from.
    pub remote: SocketAddr,
    /// What it is.
    pub role: Role,
    /// What the connection carries.
    pub class: Class,
    /// Its cluster, if it knows one; equal to ours then.
    pub cluster: Option<ClusterId>,
    /// Its node id, if it has one.
    pub node: Option<NodeId>,
    /// Its name, for logs.
    pub name: String,
    /// Which program it is.
    pub program: Program,
    /// The protocol version agreed with it: nothing is sent to it that came later.
    pub version: u16,
}

/// A request as it arrived. `meta` and `payload` share the buffer they were read into: what is kept for long
/// should be copied out.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which message `meta` is.
    pub kind: u16,
    /// Encoded message.
    pub meta: Bytes,
    /// Raw bytes beside it.
    pub payload: Bytes,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// What a server does with requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Runs beside others of the same connection; replies go out as they come.
    ///
    /// It is polled once on the task of the connection, so it must not compute for long nor block before its
    /// first await. It is dropped at an await when the caller cancels or its connection breaks: what must be
    /// finished belongs into a task of its own.
    fn handle(
        &self,
        from: &PeerInfo,
        request: Request,
    ) -> impl Future<Output = Result<Reply, RpcError>> + Send;

    /// True for a request that must not wait for a bounded rate: one that keeps something alive.
    fn is_urgent(&self, _request: &Request) -> bool {
        false
    }
}

/// Bounds of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more are answered with Busy and closed. No address has more than three quarters of them.
    pub connections_max: usize,
    /// Requests that clients of one address may begin in a second, on the average; more of them wait their turn. 0: as many as come.
    pub rate_max: u32,
    /// Requests in flight over all connections; more are answered with Busy. The last quarter is for connections that hold few.
    pub in_flight_max: usize,
    /// Bytes of meta of those; likewise.
    pub in_flight_bytes_max: usize,
    /// Requests that wait for something to happen, over all connections; more are answered with Busy, and asked again by who sent
    /// them. They count nowhere else, so that waiting does not keep anybody from working.
    pub waits_max: usize,
    /// Requests in flight granted to a connection for consensus or metadata.
    pub credits_small: u32,
    /// Requests in flight granted to a connection for bulk: each may hold a block in memory.
    pub credits_bulk: u32,
    /// A connection that stops in the middle of a frame or of its hello for this long is closed.
    pub stall_timeout: Duration,
    /// Largest meta and payload of a request kind, in bytes. The protocol's own bounds hold besides.
    pub frame_limit: FrameLimit,
    /// The handler verifies every payload by a checksum that meta carries, so that the frame's own is not compared: a
    /// second pass over blocks costs as much as the first.
    pub payload_verified_by_handler: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            rate_max: 0,
            in_flight_max: 16 << 10,
            in_flight_bytes_max: usize::MAX,
            // Of four mounts that wait for as many locks as one may; each takes some KiB.
            waits_max: 4 * WAITS_MAX as usize,
            credits_small: 1024,
            credits_bulk: 64,
            stall_timeout: Duration::from_secs(10),
            frame_limit: widest,
            payload_verified_by_handler: false,
        }
    }
}

/// A bound listener. Its tasks belong to the [`Tasks`] it was bound with and end with them.
#[derive(Clone, Debug)]
pub struct Server {
    local: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) hello: Mutex<Hello>,
    pub(super) limits: Limits,
    /// How this server calls itself in errors.
    pub(super) address: NodeAddress,
    /// Requests whose handler runs, but for those that wait; on connections for bulk also those whose reply has not left yet.
    pub(super) in_flight: AtomicUsize,
    /// Their meta, in bytes.
    pub(super) in_flight_bytes: AtomicUsize,
    /// Those that wait.
    pub(super) waits: AtomicUsize,
    pub(super) connections: AtomicUsize,
    /// Connections that are only told that they are one too many.
    pub(super) refused: AtomicUsize,
    pub(super) origins: Origins,
}

/// Counts up while it lives.
pub(super) struct Counted {
    shared: Arc<Shared>,
    of: fn(&Shared) -> &AtomicUsize,
}

impl Counted {
    /// None when there are `max` already.
    pub(super) fn below(max: usize, shared: &Arc<Shared>, of: fn(&Shared) -> &AtomicUsize) -> Option<Self> {
        let counter = of(shared);
        if counter.fetch_add(1, Ordering::Relaxed) >= max {
            counter.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self { shared: shared.clone(), of })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.of)(&self.shared).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// Listens on `address` and serves with `handler` until `tasks` stop. Port 0 takes any free port.
    ///
    /// # Errors
    /// When the address cannot be resolved or bound; the text names it.
    pub async fn bind<H: Handler>(
        address: &NodeAddress,
        hello: Hello,
        handler: H,
        limits: Limits,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let listener = socket::listen(address).await?;
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared {
            hello: Mutex::new(hello),
            limits,
            address: NodeAddress(local.to_string()),
            in_flight: AtomicUsize::new(0),
            in_flight_bytes: AtomicUsize::new(0),
            waits: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            origins: Origins::default(),
        });
        tasks.spawn("net-listener", accept(listener, shared.clone(), Arc::new(handler), tasks.clone()));
        Ok(Self { local, shared })
    }

    /// The address that was bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sets the cluster that hellos name and are checked against, once it is known.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.shared.hello.lock().cluster = Some(cluster);
    }

    /// Sets the node id that hellos name, once it is known.
    pub fn set_node(&self, node: NodeId) {
        self.shared.hello.lock().node = Some(node);
    }

    /// Connections that stand now.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Requests that are being handled now, beyond those answered at once.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }
}

async fn accept<H: Handler>(listener: Listener, shared: Arc<Shared>, handler: Arc<H>, tasks: Tasks) {
    let stopping = tasks.stopping();
    loop {
        // A connection accepted by the kernel and not by us is reset when the listener is dropped: nobody waits.
        let accepted = tokio::select! {
            () = stopping.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer left already: neither is mended by asking at once.
                tracing::warn!(local = %shared.address, %error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = socket::configure(&stream, SILENCE_TIMEOUT) {
            tracing::debug!(%remote, %error, "the connection was gone before it began");
            continue;
        }
        let Some(seat) = Seat::take(&shared, remote.ip()) else {
            // Above this many at once they learn it from the end of the connection alone.
            if let Some(place) = Counted::below(REFUSED_MAX, &shared, |s| &s.refused) {
                tasks.spawn("net-refusal", serve::refuse(stream, shared.clone(), place));
            }
            continue;
        };
        let connection =
            serve::connection(stream, remote, shared.clone(), handler.clone(), tasks.stopping(), seat);
        tasks.spawn("net-connection", connection);
    }
}
