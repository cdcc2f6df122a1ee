//! What is said inside frames: requests to metadata servers, among them, and to data servers.
//!
//! Encoded by `types::codec` into the meta part of a frame; the bytes of blocks travel beside it as payload.
//! Holds: new variants go to the end, the position is the encoding; a change of a struct takes a new protocol version.
//! A request says what is wanted; what was decided is a command, and unknown here.

use serde::{Deserialize, Serialize};

use crate::types::{
    BlockId, BlockRef, Capacity, Checksum, ClusterId, ClusterMap, Cred, Epoch, FsError, FsResult, InodeId,
    LogIndex, MetaNode, NodeAddress, NodeId, NodeReport, NodeSpec, NodeState, Query, QueryReply, RequestId,
    RestoreStep, SessionId, Timestamp, Unreferenced, Update, UpdateResult,
};

use super::dump::{DumpReply, DumpRequest, RestoreProgress, RestoreRefusal};
use super::members::{MembersOutcome, MembersRequest, Refusal};

/// Kinds of frames. The band says who may send them.
pub mod kind {
    /// A [`super::MetaRequest`] to any metadata server.
    pub const META: u16 = 0x100;
    /// First kind of consensus between metadata servers; numbers up to [`RAFT_LAST`] belong to it.
    pub const RAFT_FIRST: u16 = 0x200;
    /// Last kind of consensus.
    pub const RAFT_LAST: u16 = 0x27f;
    /// A [`super::PeerRequest`] from one metadata server to another.
    pub const PEER: u16 = 0x280;
    /// A [`super::DataRequest`] to a data server.
    pub const DATA: u16 = 0x300;
}

/// An update with what makes a resend harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRequest {
    /// Who asks; 0 for [`Update::OpenSession`].
    pub session: SessionId,
    /// Number within the session, from 1.
    pub request: RequestId,
    /// Replies to requests below this number have all been received.
    pub lowest_unanswered: RequestId,
    /// With whose rights.
    pub cred: Cred,
    /// What.
    pub update: Update,
}

/// Asked of any metadata server. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaRequest {
    /// Change the namespace. Answered by [`MetaReply::Updated`] once a majority has it on disk.
    Update(UpdateRequest),
    /// Ask the namespace. Answered by [`MetaReply::Answered`].
    Query {
        /// With whose rights.
        cred: Cred,
        /// What.
        query: Query,
        /// Epoch of the cluster map the caller holds; with another one the answer carries addresses.
        epoch: Epoch,
        /// How new the answer has to be.
        reading: Reading,
    },
    /// The session goes on. Answered by [`MetaReply::KeptAlive`].
    KeepAlive(KeepAlive),
    /// A data server introduces itself. Answered by [`MetaReply::Registered`].
    Register {
        /// Who it is.
        spec: NodeSpec,
        /// The cluster written into its directories, if any yet.
        cluster: Option<ClusterId>,
    },
    /// A data server is alive. Answered by [`MetaReply::Heartbeat`].
    Heartbeat(NodeReport),
    /// The reclaim queue of the groups of one data server, from the leader. Answered by [`MetaReply::ReclaimList`].
    ReclaimList {
        /// Which data server.
        node: NodeId,
        /// Behind this block.
        after: Option<BlockId>,
        /// At most this many.
        limit: u32,
    },
    /// One data server has deleted its replicas of these (or never had them). Answered by [`MetaReply::Done`].
    Reclaimed {
        /// Which data server.
        node: NodeId,
        /// Which blocks, at most [`BLOCKS_MAX`].
        blocks: Vec<BlockId>,
    },
    /// What is to become of blocks that a data server found in its directories. Answered by [`MetaReply::Fates`].
    Fates {
        /// Which blocks, at most [`BLOCKS_MAX`].
        blocks: Vec<BlockId>,
    },
    /// Blocks that extents refer to, in order of their ids. Answered by [`MetaReply::Blocks`].
    Blocks {
        /// Only those of groups with this member; none: all.
        node: Option<NodeId>,
        /// Behind this block.
        after: Option<BlockId>,
        /// At most this many scanned (fewer may be answered).
        limit: u32,
    },
    /// Test the invariants of the whole namespace. Answered by [`MetaReply::Checked`].
    Check,
    /// Status of the cluster as JSON, as the HTTP endpoint gives it. Answered by [`MetaReply::Status`].
    Status,
    /// How far the log of the asked server goes, for [`Reading::Beside`]. Answered by [`MetaReply::Accepted`], and refused
    /// (`NotReady`) by a server that does not remember all it has ever accepted.
    Accepted,
    /// Change the metadata servers that there are, or who leads. Answered by [`MetaReply::Members`].
    Members(MembersRequest),
    /// The whole state, block by block. Answered by [`MetaReply::Dump`].
    Dump(DumpRequest),
    /// The state of a dump is to become that of this cluster. Answered by [`MetaReply::Restore`].
    Restore(RestoreStep),
    /// A data server says what it keeps for the grace behind a restore, and asks for that. Answered by [`MetaReply::Grace`].
    Grace {
        /// Which data server.
        node: NodeId,
        /// What it keeps; none: it has not looked yet.
        kept: Option<Kept>,
    },
}

/// How new the answer to a query has to be. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// It shows every update acknowledged before the question; the asked server makes sure.
    Exact,
    /// From the server's own state, without proof that it is the newest (a stale read).
    Stale,
    /// As `Exact`, with the help of the caller, who asks these other servers meanwhile how far their logs go
    /// ([`MetaRequest::Accepted`]). If they and the asked server are a majority of the voters and it has applied its own log
    /// to the end, it answers from its own state at once, and says as of which index: the answer is exact if none of those
    /// logs reaches beyond it. Otherwise it makes sure itself.
    Beside(Vec<NodeId>),
}

/// Most blocks named by one request or reply.
pub const BLOCKS_MAX: usize = 4096;

/// A session's sign of life. The answer may ask about orphans; the client then sends another one at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAlive {
    /// Which session.
    pub session: SessionId,
    /// Orphans that the previous answer asked about, each with whether this session holds a handle on it.
    pub handles: Vec<(InodeId, bool)>,
}

/// Answers of a metadata server. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaReply {
    /// To Update.
    Updated {
        /// What came of it; the same for every resend.
        result: UpdateResult,
        /// Epoch of the cluster map now.
        epoch: Epoch,
    },
    /// To Query.
    Answered {
        /// The answer.
        result: FsResult<QueryReply>,
        /// Epoch of the cluster map now.
        epoch: Epoch,
        /// Addresses of the data servers named in the answer; empty if the caller's map is the newest.
        addresses: Vec<(NodeId, NodeAddress)>,
        /// Some, only to [`Reading::Beside`]: the caller has to compare. None: as new as it had to be.
        as_of: Option<LogIndex>,
    },
    /// To KeepAlive.
    KeptAlive {
        /// Orphans the session is asked about.
        ask: Vec<InodeId>,
        /// Epoch of the cluster map now.
        epoch: Epoch,
    },
    /// The session has expired or was never there.
    SessionGone,
    /// To Register.
    Registered {
        /// The cluster, to be written into the directories.
        cluster: ClusterId,
        /// The whole map.
        map: Box<ClusterMap>,
    },
    /// To Register and Heartbeat: why not.
    Refused(FsError),
    /// To Heartbeat.
    Heartbeat {
        /// What the cluster believes of the sender; none: it must register (again).
        state: Option<NodeState>,
        /// Epoch of the cluster map now.
        epoch: Epoch,
        /// Blocks in the reclaim queue of its groups (a hint to ask at once).
        reclaimable: bool,
    },
    /// To ReclaimList.
    ReclaimList(Vec<Unreferenced>),
    /// To Fates: in the order of the question.
    Fates(Vec<BlockFate>),
    /// To Blocks.
    Blocks {
        /// References of the blocks, in order.
        blocks: Vec<BlockRef>,
        /// Where to go on; none: that was the last page.
        next: Option<BlockId>,
    },
    /// To Check: what is broken, for people; empty when all is well.
    Checked {
        /// The broken invariants, at most 1,000.
        violations: Vec<String>,
        /// Log index of the state that was tested.
        at: LogIndex,
        /// Inodes seen.
        inode_count: u64,
        /// Blocks referenced.
        block_count: u64,
    },
    /// To Status.
    Status(String),
    /// To requests without an answer of their own.
    Done,
    /// To Accepted.
    Accepted {
        /// Who answers.
        node: NodeId,
        /// The end of its log, whether committed or not.
        index: LogIndex,
        /// Who leads, as far as it knows: a hint where updates take effect soonest.
        leader: Option<NodeId>,
    },
    /// To Members.
    Members(Result<MembersOutcome, Refusal>),
    /// To Dump.
    Dump(DumpReply),
    /// To Restore: how far it has come, or why not.
    Restore(Result<RestoreProgress, RestoreRefusal>),
    /// To Grace: the one that runs now, if any.
    Grace(Option<Grace>),
}

/// The time behind a restore in which blocks written before it are kept though nothing refers to them: a newer dump may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grace {
    /// Blocks of sessions below this one were written before the restore.
    pub below: SessionId,
    /// When it ends.
    pub until: Timestamp,
}

impl Grace {
    /// True if `block` was written before the restore.
    #[must_use]
    pub fn covers(&self, block: BlockId) -> bool {
        block.session < self.below
    }
}

/// What a data server keeps for the grace behind a restore alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Blocks.
    pub block_count: u64,
    /// Their bytes.
    pub len: u64,
}

/// What is to become of a stored block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockFate {
    /// An extent refers to it.
    Referenced,
    /// Nothing refers to it yet, but its writer's session lives and may still publish it; or it was written before a restore whose
    /// grace is not over.
    Pending,
    /// In the reclaim queue.
    Queued,
    /// Nothing refers to it and nothing ever will: delete it.
    Garbage,
}

/// From one metadata server to another. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// A [`MetaRequest`], encoded, that only the leader can answer; passed on as it came. Answered by the
    /// encoded [`MetaReply`].
    Forward(bytes::Bytes),
    /// The index a linearizable read must wait for. Answered by a [`LogIndex`].
    ReadIndex,
    /// Status of the asked server itself as JSON. Answered by [`MetaReply::Status`].
    Status,
    /// How far the log of the asked server goes, whether committed or not. Answered by a [`LogIndex`], and refused
    /// (`NotReady`) by a server that does not remember all it has ever accepted.
    Accepted,
    /// Who the asked server is. Answered by an [`Introduction`], also by one that belongs to no cluster yet.
    Introduce,
}

/// What a metadata server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Its id and name, and where it answers, as configured.
    pub server: MetaNode,
    /// The cluster it belongs to, once known.
    pub cluster: Option<ClusterId>,
    /// It has no log: it was never a member, or its disk is new.
    pub is_empty: bool,
}

/// Asked of a data server. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataRequest {
    /// Keep the payload as this block; answered by [`DataReply::Stored`] once it is durable.
    Put {
        /// Its id.
        id: BlockId,
        /// Checksum of the payload.
        checksum: Checksum,
    },
    /// Bytes of a block, verified; answered by [`DataReply::Bytes`] with the payload.
    Get {
        /// Which block, and what it must be.
        block: BlockRef,
        /// First byte wanted.
        offset: u32,
        /// Bytes wanted, at least 1, within the block.
        len: u32,
    },
    /// Length and checksum of a block as its header says; answered by [`DataReply::Stat`].
    Stat {
        /// Which block.
        id: BlockId,
    },
    /// Read and verify whole blocks; answered by [`DataReply::Verified`].
    Verify {
        /// Which blocks, at most [`BLOCKS_MAX`], and what they must be.
        blocks: Vec<BlockRef>,
        /// True: read every byte. False: look only whether it is there with the right length and checksum.
        deep: bool,
    },
    /// Blocks stored here, in order; answered by [`DataReply::List`].
    List {
        /// Behind this block.
        after: Option<BlockId>,
        /// At most this many.
        limit: u32,
    },
    /// Status of this server as JSON, as its HTTP endpoint gives it. Answered by [`DataReply::Status`].
    Status,
}

/// State of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaState {
    /// There, and what it must be.
    Good,
    /// Not there.
    Missing,
    /// There, but damaged or something else.
    Corrupt,
}

/// Answers of a data server. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataReply {
    /// To Put: durable.
    Stored,
    /// To Get: the payload holds the bytes.
    Bytes,
    /// To Stat: length and checksum, none if the block is not there.
    Stat(Option<(u32, Checksum)>),
    /// To Verify, in the order of the question.
    Verified(Vec<ReplicaState>),
    /// To List.
    List {
        /// Ids, lengths and checksums in order of the ids.
        blocks: Vec<(BlockId, u32, Checksum)>,
        /// Space now.
        capacity: Capacity,
    },
    /// To Status.
    Status(String),
}
