//! [`Channel`]: one persistent connection to one peer, shared by many callers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::types::{ClusterId, NodeAddress, NodeId};
use crate::wire::{Class, Hello, RpcError};

use super::Reply;

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
    address: Arc<NodeAddress>,
}

impl Channel {
    /// A channel to `address`; connects at the first call. To be called inside a runtime.
    #[must_use]
    pub fn new(address: NodeAddress, _hello: Hello, _class: Class, _options: ChannelOptions) -> Self {
        Self { address: Arc::new(address) }
    }

    /// Sends a request and awaits its reply for at most `deadline`. Dropping the future cancels the request.
    ///
    /// # Errors
    /// What the peer answered, or how the exchange failed; see [`RpcError::applied`] before sending it again.
    pub async fn call(
        &self,
        _kind: u16,
        _meta: Vec<u8>,
        _payload: Bytes,
        _deadline: Duration,
    ) -> Result<Reply, RpcError> {
        Err(RpcError::Unreachable { peer: self.address().clone(), reason: "not connected".into() })
    }

    /// Who is called.
    #[must_use]
    pub fn address(&self) -> &NodeAddress {
        &self.address
    }

    /// The cluster the peer said it belongs to, at the latest hello.
    #[must_use]
    pub fn peer_cluster(&self) -> Option<ClusterId> {
        None
    }

    /// The node the peer said it is, at the latest hello.
    #[must_use]
    pub fn peer_node(&self) -> Option<NodeId> {
        None
    }

    /// True while a connection stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        false
    }

    /// Moving average of the time from a request to its reply; None before the first. For choosing among peers.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        None
    }
}
