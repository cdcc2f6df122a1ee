//! What a caller may choose about a client, with defaults that suit a tool and a mount alike.

use std::time::Duration;

use crate::types::Cred;

/// How calls are shared out over the metadata servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// One server, drawn at random at the start and changed when it fails: its caches stay warm.
    Pin,
    /// Over all that answer, so that many callers in one process load all servers alike. Queries about one inode go to one
    /// server, which answers those that come together in one go, and has that inode in its cache; updates go round.
    Even,
}

/// Times and bounds of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Who this is, for people: program and host, at most 128 bytes. It labels the session and the connections.
    pub label: String,
    /// With whose rights calls are made; [`super::Client::with_cred`] gives a clone with others.
    pub cred: Cred,
    /// Longest time of a call, over all its resends.
    pub call_timeout: Duration,
    /// Longest time of `connect`.
    pub connect_timeout: Duration,
    /// Life of the session without a keep-alive; the cluster clamps it to its limits. What a dead client had locked is free
    /// after it, or after an election and it; a client that stands still for so long loses its locks.
    pub session_ttl: Duration,
    /// How calls are shared out over the metadata servers.
    pub spread: Spread,
    /// Connections to each metadata server, used in turn. More than one helps only many callers in one process.
    pub channel_count: usize,
    /// Bytes of blocks in flight in all uploads and downloads of this client. At least one block is always let through.
    pub memory_max: usize,
    /// Bytes written and not on their way to data servers, of all files together; above it they go at once. (Each file
    /// may hold less than 64 KiB beyond it.)
    pub dirty_max: usize,
    /// Bytes read ahead of sequential readers, of all of them together. At least one block is always let through.
    pub read_ahead_max: usize,
    /// Bytes of blocks kept for who reads them again; 0: none.
    pub cache_max: usize,
    /// Blocks of one stream or file in flight at a time. With eight, the fsyncs of a data server cover several blocks each, and the queue of
    /// a disk of 100 MB/s stays below half a second.
    pub blocks_in_flight: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            label: "pohmelfs client".into(),
            cred: Cred::root(),
            call_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            session_ttl: Duration::from_secs(10),
            spread: Spread::Pin,
            channel_count: 1,
            memory_max: 64 << 20,
            dirty_max: 64 << 20,
            read_ahead_max: 32 << 20,
            cache_max: 0,
            blocks_in_flight: 8,
        }
    }
}
