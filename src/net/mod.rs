//! Connections between the parts: addresses, a listener, and many requests in flight over one connection.
//!
//! The only door to sockets. Callers hold a [`Channel`] for each peer and class; servers bind a [`Server`] with a
//! [`Handler`]. Holds: every call ends by its deadline; every queue has a bound; what a peer sends can end its
//! own connection and nothing else.

mod calls;
mod channel;
mod connector;
mod link;
mod origin;
mod serve;
mod server;
#[cfg(feature = "simulation")]
pub mod simulated;
mod socket;
mod stream;

pub use channel::{Channel, ChannelOptions};
pub use server::{Handler, Limits, PeerInfo, Request, Server};

use bytes::Bytes;

/// What a call comes back with, and what a handler answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Encoded message.
    pub meta: Bytes,
    /// Raw bytes beside it, never copied through the codec; empty for most.
    pub payload: Bytes,
    /// crc32c of the payload. Always there in what a call comes back with; a handler that knows it saves a pass over
    /// the bytes. A wrong one breaks the connection.
    pub payload_crc: Option<u32>,
}
