//! Status: what a server knows of itself and of the cluster, as JSON, for people and programs alike.
//!
//! `meta` and `data` fill these in and implement [`StatusSource`]; `http` serves them, `cli` prints them, and
//! `MetaRequest::Status` and `DataRequest::Status` carry them as JSON. Holds: reads both ways, so that an old reader takes
//! a newer answer (unknown keys are ignored, new ones have defaults). Not here: how the values are gathered, or shown.

use std::fmt;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::message::Kept;
use crate::types::{ClusterId, LevelRange, NodeId, NodeState, RetryClass};

mod path;

pub use path::{AttrStatus, ExtentStatus, PathStatus, ServerAddress, kind_word, percent_encode};

/// What a server does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServerRole {
    /// Holds the namespace.
    #[default]
    Meta,
    /// Holds blocks.
    Data,
}

impl fmt::Display for ServerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Meta => "meta",
            Self::Data => "data",
        })
    }
}

/// One server about itself: `GET /status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ServerStatus {
    /// Version of the program.
    pub version: String,
    /// Format levels that the program knows; of one that does not say so, the first.
    pub levels: LevelsStatus,
    /// What it does.
    pub role: ServerRole,
    /// Its id.
    #[schema(value_type = u64)]
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// The cluster it belongs to, 32 hexadecimal digits; absent until it knows.
    pub cluster: Option<String>,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// True if it can do its work now.
    pub ready: bool,
    /// Why it is not ready and what it waits for; empty when it is.
    pub reason: String,
    /// Where it serves clients and other servers.
    pub address: String,
    /// Where it serves HTTP.
    pub http: String,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
    /// Background tasks.
    pub workers: Vec<WorkerStatus>,
    /// Of a metadata server: the rest.
    pub meta: Option<MetaStatus>,
    /// Of a data server: the rest.
    pub data: Option<DataStatus>,
}

/// The format levels that a program knows, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LevelsStatus {
    /// Oldest.
    pub first: u16,
    /// Newest.
    pub last: u16,
}

impl Default for LevelsStatus {
    fn default() -> Self {
        LevelRange::BEFORE.into()
    }
}

impl From<LevelRange> for LevelsStatus {
    fn from(range: LevelRange) -> Self {
        Self { first: range.first.0, last: range.last.0 }
    }
}

/// The program of a server, as its own hello says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProgramStatus {
    /// The id of the server.
    #[schema(value_type = u64)]
    pub node: NodeId,
    /// Version of its program; empty: it does not say.
    pub version: String,
    /// Format levels that it knows.
    pub levels: LevelsStatus,
}

/// A metadata server about its raft and its state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MetaStatus {
    /// Raft's word for what it is: `leader`, `follower`, `candidate`, `learner`, `stopped`; or `blank`, `stranger`, `joining`,
    /// `removed`.
    pub raft_state: String,
    /// Raft term.
    pub term: u64,
    /// Who leads, if known.
    #[schema(value_type = Option<u64>)]
    pub leader: Option<NodeId>,
    /// Index of the last entry in its log.
    pub last_log: u64,
    /// Index up to which entries are committed, as far as it knows.
    pub committed: u64,
    /// Index up to which its state has applied them.
    pub applied: u64,
    /// Index up to which its log has been purged.
    pub purged: u64,
    /// Index that its newest snapshot ends at; 0: none yet.
    pub snapshot: u64,
    /// Hash of the state, hexadecimal: equal on all servers at the same index. Empty: not computed.
    pub state_hash: String,
    /// Index of the state that `state_hash` belongs to.
    pub state_hash_at: u64,
    /// Bytes in memory that the database does not hold yet.
    pub overlay_bytes: u64,
    /// Bytes of the cache in front of the database.
    pub cache_bytes: u64,
    /// Bytes of the database on disk.
    pub sled_bytes: u64,
    /// Voters and learners.
    pub members: Vec<MemberStatus>,
    /// Ids of metadata servers that were removed, as far as its state has applied; not used again.
    #[schema(value_type = Vec<u64>)]
    pub removed: Vec<NodeId>,
    /// Live sessions.
    pub session_count: u64,
    /// Inodes.
    pub inode_count: u64,
    /// Epoch of the cluster map.
    pub epoch: u64,
    /// Format level that the cluster works at, as far as this server has applied.
    pub level: u16,
    /// Since when: seconds since 1970, a dot, nanoseconds; absent at the first level.
    pub level_since: Option<String>,
    /// What people call the cluster; empty: nothing.
    pub label: String,
    /// Programs of the data servers that called this server.
    pub programs: Vec<ProgramStatus>,
    /// Requests answered since the start.
    pub request_count: u64,
    /// Requests a second, over the last few seconds.
    pub request_rate: f64,
    /// Of the leader: the newest heartbeat of each data server.
    pub heard: Vec<HeardStatus>,
}

/// What the leader last heard of a data server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HeardStatus {
    /// Its id.
    #[schema(value_type = u64)]
    pub node: NodeId,
    /// Requests in flight.
    pub in_flight: u32,
    /// Bytes read a second.
    pub read_rate: u64,
    /// Bytes written a second.
    pub write_rate: u64,
    /// It has compared all blocks that it ought to hold with what it holds, since it was last away.
    pub compared: bool,
    /// Blocks that it is known to lack; while it has not compared all, those found so far.
    pub lacking: u64,
    /// What it keeps for the grace behind a restore; absent while there is none, or it has not looked.
    pub kept: Option<KeptStatus>,
}

/// What a data server keeps for the grace behind a restore alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct KeptStatus {
    /// Replicas of blocks that nothing refers to.
    pub replicas: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<Kept> for KeptStatus {
    fn from(kept: Kept) -> Self {
        Self { replicas: kept.block_count, bytes: kept.len }
    }
}

/// The grace behind a restore, while it lasts: blocks from before it are kept, though nothing refers to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GraceStatus {
    /// When the restore ended: seconds since 1970.
    pub restored: i64,
    /// When the grace ends: seconds since 1970.
    pub until: i64,
    /// What the data servers keep for it, of those that have looked.
    pub kept: KeptStatus,
    /// Data servers that have looked.
    pub looked: u64,
}

/// A member of the raft group, as this server sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MemberStatus {
    /// Its id.
    #[schema(value_type = u64)]
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Where it serves.
    pub address: String,
    /// True if it counts in majorities.
    pub voter: bool,
    /// Index up to which its log is known to match the leader's (only the leader knows).
    pub matched: Option<u64>,
}

/// A data server about its directories and its work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DataStatus {
    /// Its directories, in the order of the configuration.
    pub directories: Vec<DirectoryStatus>,
    /// How they are used: `spread`, or `mirror` with the number of copies.
    pub mode: String,
    /// Blocks stored, each counted once.
    pub block_count: u64,
    /// What was done since the start.
    pub counters: DataCounters,
    /// Address of the metadata server it registered with; absent: with none yet.
    pub registered_with: Option<String>,
    /// What the cluster believes of it: `up`, `suspect`, `down`, `draining`, `removed`; absent until it has been told.
    pub state: Option<String>,
    /// Requests in flight.
    pub in_flight: u64,
    /// Bytes read a second, over the last few seconds.
    pub read_rate: u64,
    /// Bytes written a second, over the last few seconds.
    pub write_rate: u64,
    /// It has compared all blocks that it ought to hold with what it holds, since it was last away.
    pub compared: bool,
    /// Blocks that it is known to lack; while it has not compared all, those found so far.
    pub lacking: u64,
    /// What it keeps for the grace behind a restore; absent while there is none, or it has not looked.
    pub kept: Option<KeptStatus>,
}

/// One directory of a data server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DirectoryStatus {
    /// Where it is.
    pub path: String,
    /// `ok`, `full`, `read-only`, `failed`, with the reason behind a colon.
    pub state: String,
    /// Bytes of its filesystem.
    pub total: u64,
    /// Bytes that new blocks may still take.
    pub free: u64,
    /// Blocks in it.
    pub block_count: u64,
}

/// What a data server did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DataCounters {
    /// Read requests answered.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Blocks written.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Bad copies found: wrong checksum, length or header.
    pub corrupt: u64,
    /// Bad copies replaced by good ones.
    pub mended: u64,
    /// Blocks deleted because nothing refers to them.
    pub reclaimed: u64,
}

/// A background task with its status line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WorkerStatus {
    /// Its name, unique in its server.
    pub name: String,
    /// What it does now, for people.
    pub line: String,
    /// Errors since the start.
    pub error_count: u64,
}

/// How the cluster is, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything is whole.
    Ok,
    /// It serves; one more failure may stop something.
    Degraded,
    /// Something that users ask for fails now.
    #[default]
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
        })
    }
}

/// Why the health is not `ok`, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HealthReason {
    /// How bad it is.
    pub health: Health,
    /// What is the matter.
    pub what: String,
    /// What a person can do.
    pub hint: String,
}

/// The whole cluster: `GET /cluster`, `pohmelfs status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ClusterStatus {
    /// Its id, 32 hexadecimal digits.
    pub cluster: String,
    /// Worst of the reasons, or `ok`.
    pub health: Health,
    /// Everything that is not as it should be, worst first.
    pub reasons: Vec<HealthReason>,
    /// What people call it; empty: nothing.
    pub label: String,
    /// Format level that it works at; 0: the asked server does not say.
    pub level: u16,
    /// Newest level that every metadata server knows; absent while one of them is silent.
    pub level_possible: Option<u16>,
    /// What to know of programs and levels.
    pub level_note: Option<String>,
    /// Epoch of the cluster map.
    pub epoch: u64,
    /// Who leads, if anybody.
    #[schema(value_type = Option<u64>)]
    pub leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Which server gathered this.
    pub answered_by: String,
    /// Metadata servers in order of their ids.
    pub meta: Vec<MetaNodeStatus>,
    /// A change of the voters is under way.
    pub is_changing: bool,
    /// Ids of metadata servers that were removed, and are not used again.
    #[schema(value_type = Vec<u64>)]
    pub removed: Vec<NodeId>,
    /// What to know of the number of voters.
    pub warning: Option<String>,
    /// Data servers in order of their ids.
    pub data: Vec<DataNodeStatus>,
    /// Groups, counted.
    pub groups: GroupTotals,
    /// Sums over the filesystem.
    pub totals: Totals,
    /// Behind a restore: what is kept, and how long.
    pub grace: Option<GraceStatus>,
}

/// A metadata server as the cluster sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MetaNodeStatus {
    /// Its id.
    #[schema(value_type = u64)]
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Where it serves clients.
    pub address: String,
    /// Where it serves HTTP.
    pub http: String,
    /// False: it did not answer, and the numbers below are the last known or absent.
    pub reachable: bool,
    /// Why it is not reachable; empty when it is.
    pub reason: String,
    /// `voter`, `learner`, `leaving` (a voter until a change is done); empty while the answering server is no member itself.
    pub role: String,
    /// Log entries of the leader that it is not known to have, if a leader answered.
    pub lag: Option<u64>,
    /// Raft's word for what it is; empty when it is not reachable.
    pub raft_state: String,
    /// Raft term, if known.
    pub term: Option<u64>,
    /// Index of the last entry in its log (of an unreachable one: up to which it matched the leader).
    pub last_log: Option<u64>,
    /// Index up to which its state has applied entries.
    pub applied: Option<u64>,
    /// Index that its newest snapshot ends at.
    pub snapshot: Option<u64>,
    /// Requests a second.
    pub request_rate: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// Version of its program; empty when it is not reachable.
    pub version: String,
    /// Format levels that its program knows.
    pub levels: Option<LevelsStatus>,
}

/// A data server as the cluster sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DataNodeStatus {
    /// Its id.
    #[schema(value_type = u64)]
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Where it serves blocks.
    pub address: String,
    /// Where it serves HTTP.
    pub http: String,
    /// Failure domain.
    pub domain: String,
    /// `up`, `suspect`, `down`, `draining`, `removed`.
    pub state: String,
    /// Seconds since 1970 at which `state` last changed.
    pub since: i64,
    /// Bytes that it could hold.
    pub total: u64,
    /// Bytes that new blocks may still take.
    pub free: u64,
    /// Blocks stored.
    pub block_count: u64,
    /// Requests in flight at its last heartbeat.
    pub in_flight: u32,
    /// Bytes read a second at its last heartbeat.
    pub read_rate: u64,
    /// Bytes written a second at its last heartbeat.
    pub write_rate: u64,
    /// It has compared all blocks that it ought to hold with what it holds, since it was last away; absent while the leader
    /// has not heard of it.
    pub compared: Option<bool>,
    /// Blocks that it was known to lack at its last heartbeat; while it has not compared all, those found so far.
    pub lacking: u64,
    /// Version of its program, as it said when it last connected to a metadata server; empty: not known.
    pub version: String,
    /// What it keeps for the grace behind a restore; absent while there is none, or it has not looked.
    pub kept: Option<KeptStatus>,
}

/// Groups, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GroupTotals {
    /// All groups.
    pub count: u64,
    /// Groups whose members are all up.
    pub whole: u64,
    /// Groups with some members up, but not all.
    pub not_whole: u64,
    /// Groups with no member up: their blocks cannot be read now.
    pub lost: u64,
}

/// Sums over the filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Totals {
    /// Bytes that files could use in all, replicas divided out.
    pub total: u64,
    /// Bytes that are still free, replicas divided out.
    pub free: u64,
    /// Bytes that extents cover.
    pub used: u64,
    /// Inodes.
    pub inode_count: u64,
    /// Live sessions.
    pub session_count: u64,
}

/// The word for the state of a data server in JSON.
#[must_use]
pub const fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Suspect => "suspect",
        NodeState::Down => "down",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
    }
}

/// A cluster id in JSON: none while it is unknown (0).
#[must_use]
pub fn cluster_word(cluster: ClusterId) -> Option<String> {
    (cluster != ClusterId::default()).then(|| cluster.to_string())
}

/// Why a status cannot be given: as JSON, `{"code":..,"error":..,"hint":..}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{error} ({hint})")]
pub struct StatusError {
    /// Error code: 1xxx namespace, 2xxx exchange, 3xxx metadata server, 4xxx data server.
    pub code: u16,
    /// What happened.
    pub error: String,
    /// What the caller can do.
    pub hint: String,
    /// The HTTP status that fits.
    #[serde(skip, default = "StatusError::default_http")]
    pub http: u16,
}

impl StatusError {
    const fn default_http() -> u16 {
        503
    }

    /// The answer is not to be had now; another server or a later attempt may have it (HTTP 503).
    #[must_use]
    pub fn unavailable(code: u16, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, error: error.into(), hint: hint.into(), http: 503 }
    }

    /// The question itself is wrong (HTTP 400).
    #[must_use]
    pub fn bad_request(code: u16, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, error: error.into(), hint: hint.into(), http: 400 }
    }
}

impl From<crate::types::FsError> for StatusError {
    fn from(e: crate::types::FsError) -> Self {
        use crate::types::FsError;
        let http = match e {
            FsError::NotFound | FsError::Stale | FsError::NotDir => 404,
            FsError::Denied | FsError::NotOwner => 403,
            _ => 400,
        };
        let hint = match e.retry() {
            RetryClass::Never => "see the path and its parents",
            RetryClass::SameNode => "try again later",
            RetryClass::OtherNode => "try another server",
            RetryClass::RefreshMap => "see /cluster",
        };
        Self { code: e.code(), error: e.to_string(), hint: hint.to_owned(), http }
    }
}

/// What a server of either role shows of itself. `http` sees the roles through this alone.
pub trait StatusSource: Send + Sync + 'static {
    /// This server. Cheap enough to ask each second; never waits for another server.
    fn server(&self) -> BoxFuture<'_, ServerStatus>;

    /// The cluster, as far as this server can find out within a bounded time.
    ///
    /// # Errors
    /// When not even a partial picture is to be had.
    fn cluster(&self) -> BoxFuture<'_, Result<ClusterStatus, StatusError>>;

    /// What an absolute path leads to, asked as root. The path is bytes as POSIX has it, not yet split.
    ///
    /// # Errors
    /// What the namespace says, or that nobody can be asked now.
    fn lookup(&self, path: Vec<u8>) -> BoxFuture<'_, Result<PathStatus, StatusError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_reader_takes_a_newer_answer_and_the_other_way_round() {
        let newer = r#"{"name":"meta-1","ready":true,"some_future_key":[1,2]}"#;
        let status: ServerStatus = serde_json::from_str(newer).unwrap();
        assert_eq!(status.name, "meta-1");
        assert!(status.ready && status.meta.is_none());
        let back: ServerStatus = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
        assert_eq!(back, status);
    }

    #[test]
    fn an_unknown_path_is_404() {
        assert_eq!(StatusError::from(crate::types::FsError::NotFound).http, 404);
        assert_eq!(StatusError::from(crate::types::FsError::Denied).http, 403);
    }
}
