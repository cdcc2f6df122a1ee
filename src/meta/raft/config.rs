//! What consensus is started with: timers, snapshot thresholds, and who the peers are.
//!
//! Made by `cli` from the configuration file. Holds: [`RaftConfig::openraft`] refuses values that cannot work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::disk::{Disk, RealDisk};
use crate::types::{NodeAddress, NodeId};
use crate::wire::Hello;

use super::super::StoreError;
use super::log::LogOptions;

/// Longest encoded entry: what one `propose` may carry. A frame holds it with room.
pub const ENTRY_LEN_MAX: usize = 4 << 20;

/// Times of consensus. Eight heartbeats fit into the lease of a leader, so one lost packet or one slow fsync elects nobody.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timers {
    /// Between two heartbeats of the leader.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower asks for votes.
    pub election_min: Duration,
    /// Longest; also the lease of a leader, within which its followers grant nobody else a vote.
    pub election_max: Duration,
    /// Longest time for one append to be answered, fsync included. Far above the election timeout: a slow disk of
    /// a follower is no reason to send everything again.
    pub append: Duration,
    /// Longest time for one part of a snapshot to be answered, and for the install at its end.
    pub snapshot: Duration,
}

impl Default for Timers {
    /// Measured: a leader killed with -9 is replaced in about 0.8 s (the lease adds to the election timeout). A leader is deposed when a
    /// majority has not heard of it for 600 ms, twelve heartbeats.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(400),
            append: Duration::from_secs(10),
            snapshot: Duration::from_secs(600),
        }
    }
}

/// Everything consensus on this node is started with.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This node.
    pub node: NodeId,
    /// Directory of the raft log; made if missing. Nothing else lives in it.
    pub dir: PathBuf,
    /// The disk that has it.
    pub disk: Arc<dyn Disk>,
    /// Times.
    pub timers: Timers,
    /// A snapshot is built after this many entries.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, so that a peer that was away for a while needs no snapshot.
    pub log_keep: u64,
    /// Bytes of recent entries kept in memory for replication and apply.
    pub cache_len: usize,
    /// Bytes after which the log goes on in a new segment file.
    pub segment_len: u32,
}

impl RaftConfig {
    /// Defaults for `node` with its log in `dir` of this machine.
    #[must_use]
    pub fn new(node: NodeId, dir: impl Into<PathBuf>) -> Self {
        Self {
            node,
            dir: dir.into(),
            disk: Arc::new(RealDisk),
            timers: Timers::default(),
            // An entry carries a batch of commands: 20,000 of them are some 100 MB, or a minute under full load.
            snapshot_every: 20_000,
            log_keep: 20_000,
            cache_len: 64 << 20,
            segment_len: 64 << 20,
        }
    }

    pub(super) fn log_options(&self) -> LogOptions {
        LogOptions { cache_len: self.cache_len, segment_len: self.segment_len }
    }

    /// The same in openraft's words.
    pub(super) fn openraft(&self) -> Result<Arc<openraft::Config>, StoreError> {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let lease = millis(self.timers.election_max);
        openraft::Config {
            cluster_name: "pohmelfs".into(),
            heartbeat_interval: millis(self.timers.heartbeat),
            election_timeout_min: millis(self.timers.election_min),
            election_timeout_max: lease,
            install_snapshot_timeout: millis(self.timers.snapshot),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.log_keep,
            // Purging entry by entry would write a record for each.
            purge_batch_size: (self.log_keep / 16).max(1),
            // Entries are bounded by bytes when they are read (`log::READ_LEN_MAX`).
            max_payload_entries: 4096,
            replication_lag_threshold: self.snapshot_every + self.log_keep,
            // Without it a leader cut off from its majority keeps a connected one from electing another.
            quorum_loss_probe_interval: Some(lease.saturating_mul(2)),
            enable_pre_vote: Some(true),
            // A wiped server comes back with an empty log under the same id (`join`).
            allow_log_reversion: Some(true),
            // A leader sends entries to its followers while it still writes them itself, and two followers may commit one
            // that this node had not written when it was killed. Leading on in the same term it would give that index
            // to another command, under the same log id, and nobody could tell the two apart. A new term does.
            enable_leader_restore: Some(false),
            // The first one is as short as a connection to a server that is just back takes.
            backoff: "20ms 40ms ...1s".into(),
            ..openraft::Config::default()
        }
        .validate()
        .map(Arc::new)
        .map_err(|e| StoreError::new("the raft section of the configuration", e))
    }
}

/// The servers known at the start and how to introduce oneself to them.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Where the servers of the configuration answer (this node too, or not: it is not called). They go before the addresses that
    /// were written into the log, so a server may move.
    pub addresses: BTreeMap<NodeId, NodeAddress>,
    /// Said on each connection.
    pub hello: Hello,
}
