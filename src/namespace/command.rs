//! What enters the log: every choice already made, so that each voter computes the same bytes.

use serde::{Deserialize, Serialize};

use crate::types::{
    BlockId, ClusterId, Cred, Group, InodeId, Layout, Level, MetaNode, NodeId, NodeReport, NodeSpec,
    NodeState, RequestId, RestoreStep, SessionId, Timestamp, Update, UpdateResult,
};

/// One decided change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The leader's clock when it prepared the command. Never earlier than in the command before it: `apply` takes the
    /// later of this and the newest time it has seen.
    pub at: Timestamp,
    /// What to do.
    pub op: Op,
}

/// What a command does. New variants go to the end: the position is the encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A client's update, done once per (session, request).
    Client {
        /// Who asks; for OpenSession, ignored.
        session: SessionId,
        /// Its number within the session.
        request: RequestId,
        /// Replies below this number are no longer waited for and are forgotten.
        lowest_unanswered: RequestId,
        /// With whose rights.
        cred: Cred,
        /// What.
        update: Update,
    },
    /// First command of a cluster: its identity, the hash seed of directory cookies, the root directory.
    Found {
        /// Identity, drawn at random by the first leader.
        cluster: ClusterId,
        /// Seed of the name hash, drawn at random.
        hash_seed: u64,
        /// How new files are kept.
        layout: Layout,
    },
    /// A metadata server tells where it answers (on start and after a change of address).
    PutMeta(MetaNode),
    /// A data server registers: new, or back again (Up from now on).
    RegisterData(NodeSpec),
    /// Heartbeats whose figures moved enough to commit.
    Report(Vec<NodeReport>),
    /// What the cluster believes of a data server.
    SetNodeState {
        /// Which.
        node: NodeId,
        /// What.
        state: NodeState,
    },
    /// New groups, chosen by `placement`.
    PutGroups(Vec<Group>),
    /// Sessions whose keep-alives stopped: they end, their handles and remembered replies are gone.
    ExpireSessions(Vec<SessionId>),
    /// Orphans that no session holds: their extents are freed, at most [`Op::FREE_EXTENTS_MAX`] in one command; those not
    /// finished stay in the orphan table, marked, and a later command goes on.
    FreeOrphans(Vec<InodeId>),
    /// Blocks whose replicas every member of their group has deleted (or that were given up): leave the reclaim queue.
    Reclaimed(Vec<BlockId>),
    /// A metadata server is none any more: it leaves the cluster map.
    RemoveMeta(NodeId),
    /// From here on commands of this level may follow: every member knows it. Needs itself a program that does.
    RaiseLevel(Level),
    /// A step on the way from an empty cluster to the state of a dump.
    Restore(RestoreStep),
}

impl Op {
    /// The level that a program must know to apply it. A new variant belongs to the newest one.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self {
            Self::Client { update, .. } => update.level(),
            Self::Found { .. }
            | Self::PutMeta(_)
            | Self::RegisterData(_)
            | Self::Report(_)
            | Self::SetNodeState { .. }
            | Self::PutGroups(_)
            | Self::ExpireSessions(_)
            | Self::FreeOrphans(_)
            | Self::Reclaimed(_)
            | Self::RemoveMeta(_) => Level(1),
            Self::Restore(_) => Level(2),
            Self::RaiseLevel(level) => *level,
        }
    }

    /// Most extents that one command frees: keeps the time under apply below some milliseconds.
    pub const FREE_EXTENTS_MAX: usize = 1024;
}

/// Answer of `apply`: what the caller of the request gets.
pub type Reply = UpdateResult;
