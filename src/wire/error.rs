//! [`RpcError`]: the exchange failed. What happened, where to try again, and whether it may have taken effect.
//!
//! Made by `net` and by handlers of both roles, read by the retry loop of the client. Holds: each variant answers
//! the three questions; codes never change their meaning; an error of a newer peer is understood as far as a
//! caller needs it. Not here: answers about the namespace, which are `FsError` and travel inside a reply.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::{BlockId, ClusterId, Level, NodeAddress, NodeId, RetryClass, codec};

use super::VersionRange;

/// Whether a request that failed may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Applied {
    /// Certainly not.
    No,
    /// Possibly: send it again with the same request id, or look first.
    Maybe,
}

/// The exchange failed. New variants go to the end: the position is part of the encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(remote = "Self")]
pub enum RpcError {
    /// No connection could be made.
    #[error(
        "{peer} is unreachable ({reason}): check that it runs and that its address is right; others are tried"
    )]
    Unreachable {
        /// Who was called.
        peer: NodeAddress,
        /// What the system said.
        reason: String,
    },
    /// No reply before the deadline.
    #[error(
        "{peer} gave no reply within {after:?}: it may be overloaded or cut off; ask again with the same request id"
    )]
    TimedOut {
        /// Who was called.
        peer: NodeAddress,
        /// How long was waited.
        after: Duration,
        /// No, while the request had not left yet.
        applied: Applied,
    },
    /// The connection broke while the request was in flight.
    #[error("the connection to {peer} broke before its reply: ask again with the same request id")]
    Disconnected {
        /// Who was called.
        peer: NodeAddress,
        /// No, while the request had not left yet.
        applied: Applied,
    },
    /// Bytes that are no frame, or a frame that breaks a rule.
    #[error(
        "bad frame from {peer} ({reason}): the connection was closed; if it repeats, check the network and the versions of both ends"
    )]
    BadFrame {
        /// Who sent it.
        peer: NodeAddress,
        /// Which rule it breaks.
        reason: String,
    },
    /// The two ends belong to different clusters.
    #[error(
        "the caller belongs to cluster {caller}, the server to cluster {server}: check the addresses in the configuration; what was mounted before \
         a cluster was restored from a dump is mounted again"
    )]
    WrongCluster {
        /// Of the caller.
        caller: ClusterId,
        /// Of the server.
        server: ClusterId,
    },
    /// The two ends share no protocol version.
    #[error("the caller speaks protocol version {caller}, the server {server}: upgrade the older one")]
    WrongVersion {
        /// Of the caller.
        caller: VersionRange,
        /// Of the server.
        server: VersionRange,
    },
    /// The peer has as many requests as it takes.
    #[error("{peer} is busy: ask again in a moment")]
    Busy {
        /// Who is busy.
        peer: NodeAddress,
    },
    /// The request makes no sense to the peer.
    #[error(
        "the request was refused ({reason}): this is a mistake of the caller, or the ends differ in version"
    )]
    Refused {
        /// Why.
        reason: String,
    },
    /// The peer is being shut down.
    #[error("the server is stopping: ask another")]
    Stopping,
    /// Another node answers at this address than the one that was meant.
    #[error(
        "node {expected} was called, node {found} answered: the cluster map is old; fetch it and ask again"
    )]
    WrongNode {
        /// Who was meant.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// The peer failed inside, for a reason that is in its log.
    #[error("the server failed inside ({reason}): see its log; ask again with the same request id")]
    Internal {
        /// In short.
        reason: String,
    },
    /// No metadata leader is known to the server that was asked.
    #[error("no metadata leader is known: a majority of metadata servers must run; see `pohmelfs status`")]
    NoLeader,
    /// The server is up but may not answer yet.
    #[error("the server is not ready ({reason}): ask another or wait")]
    NotReady {
        /// What it waits for.
        reason: String,
    },
    /// The leader changed while the request was on its way into the log.
    #[error("the metadata leader changed meanwhile: ask again with the same request id")]
    LeaderLost,
    /// A disk or database of the server failed.
    #[error("storage of the server failed ({reason}): see its log and its disks; another replica is asked")]
    StoreFailed {
        /// What it said.
        reason: String,
    },
    /// This data server does not have the block.
    #[error("block {block} is not on this data server: fetch the cluster map or ask another replica")]
    BlockNotFound {
        /// Which block.
        block: BlockId,
    },
    /// This data server has the block, and its bytes fail their checksum.
    #[error("block {block} is corrupt on this data server: another replica is read and this one repaired")]
    BlockCorrupt {
        /// Which block.
        block: BlockId,
    },
    /// No directory of this data server has room.
    #[error("no space left on this data server: write to another group; add space or a data server")]
    NoSpace,
    /// The cluster works at a format level below the one that the request needs.
    #[error("the cluster works at format level {active}, and this needs level {needed}: {reason}")]
    LevelTooLow {
        /// The level it works at.
        active: Level,
        /// The level needed.
        needed: Level,
        /// Why it is not higher, and the way out.
        reason: String,
    },
    /// More than a server does for one caller, or keeps at all.
    #[error("{peer} does no more of this now ({reason}): ask less often, or again later")]
    TooMany {
        /// Who refuses.
        peer: NodeAddress,
        /// Of what there is too much.
        reason: String,
    },
    /// An error of a newer version than ours.
    #[error("error {code}: {text}")]
    Other {
        /// Its number.
        code: u16,
        /// What it says of itself.
        text: String,
        /// Where to try again.
        retry: RetryClass,
        /// Whether the request may have taken effect.
        applied: Applied,
    },
}

impl RpcError {
    /// Error code on the wire and in JSON: 2xxx exchange, 3xxx metadata server, 4xxx data server.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Unreachable { .. } => 2001,
            Self::TimedOut { .. } => 2002,
            Self::Disconnected { .. } => 2003,
            Self::BadFrame { .. } => 2004,
            Self::WrongCluster { .. } => 2005,
            Self::WrongVersion { .. } => 2006,
            Self::Busy { .. } => 2007,
            Self::Refused { .. } => 2008,
            Self::Stopping => 2009,
            Self::WrongNode { .. } => 2010,
            Self::Internal { .. } => 2011,
            Self::TooMany { .. } => 2012,
            Self::NoLeader => 3001,
            Self::NotReady { .. } => 3002,
            Self::LeaderLost => 3003,
            Self::LevelTooLow { .. } => 3004,
            Self::StoreFailed { .. } => 4001,
            Self::BlockNotFound { .. } => 4002,
            Self::BlockCorrupt { .. } => 4003,
            Self::NoSpace => 4004,
            Self::Other { code, .. } => *code,
        }
    }

    /// It is no fault of the server, which has enough to do: no reason to avoid it.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::TooMany { .. })
    }

    /// Where to try again.
    #[must_use]
    pub const fn retry(&self) -> RetryClass {
        match self {
            Self::WrongCluster { .. } | Self::Refused { .. } | Self::LevelTooLow { .. } => RetryClass::Never,
            Self::Busy { .. } | Self::BadFrame { .. } | Self::TooMany { .. } => RetryClass::SameNode,
            Self::WrongNode { .. } | Self::NoSpace => RetryClass::RefreshMap,
            Self::Other { retry, .. } => *retry,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Disconnected { .. }
            | Self::WrongVersion { .. }
            | Self::Stopping
            | Self::Internal { .. }
            | Self::NoLeader
            | Self::NotReady { .. }
            | Self::LeaderLost
            | Self::StoreFailed { .. }
            | Self::BlockNotFound { .. }
            | Self::BlockCorrupt { .. } => RetryClass::OtherNode,
        }
    }

    /// Whether the request may have taken effect.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        match self {
            Self::TimedOut { applied, .. }
            | Self::Disconnected { applied, .. }
            | Self::Other { applied, .. } => *applied,
            Self::BadFrame { .. } | Self::Internal { .. } | Self::LeaderLost | Self::StoreFailed { .. } => {
                Applied::Maybe
            }
            Self::Unreachable { .. }
            | Self::WrongCluster { .. }
            | Self::WrongVersion { .. }
            | Self::Busy { .. }
            | Self::Refused { .. }
            | Self::Stopping
            | Self::WrongNode { .. }
            | Self::NoLeader
            | Self::NotReady { .. }
            | Self::BlockNotFound { .. }
            | Self::BlockCorrupt { .. }
            | Self::NoSpace
            | Self::LevelTooLow { .. }
            | Self::TooMany { .. } => Applied::No,
        }
    }
}

/// How an error travels: what every version understands first, the exact variant behind it.
#[derive(Serialize, Deserialize)]
struct Travelling {
    code: u16,
    retry: u8,
    applied: u8,
    text: String,
    exact: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Exact(#[serde(with = "RpcError")] RpcError);

impl Serialize for RpcError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Of another version's error only what we understood goes on.
        let exact = match self {
            Self::Other { .. } => Vec::new(),
            known => codec::encode(&Exact(known.clone())).map_err(serde::ser::Error::custom)?,
        };
        let retry = match self.retry() {
            RetryClass::Never => 0,
            RetryClass::SameNode => 1,
            RetryClass::OtherNode => 2,
            RetryClass::RefreshMap => 3,
        };
        let applied = u8::from(self.applied() == Applied::Maybe);
        let text = match self {
            Self::Other { text, .. } => text.clone(),
            known => known.to_string(),
        };
        Travelling { code: self.code(), retry, applied, text, exact }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RpcError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Travelling { code, retry, applied, text, exact } = Travelling::deserialize(deserializer)?;
        if let Ok(Exact(known)) = codec::decode::<Exact>(&exact)
            && known.code() == code
            && !matches!(known, Self::Other { .. })
        {
            return Ok(known);
        }
        let retry = match retry {
            0 => RetryClass::Never,
            1 => RetryClass::SameNode,
            3 => RetryClass::RefreshMap,
            // A class of a newer version: another node is the least harmful place to ask.
            _ => RetryClass::OtherNode,
        };
        let applied = if applied == 0 { Applied::No } else { Applied::Maybe };
        Ok(Self::Other { code, text, retry, applied })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn one_of_each() -> Vec<RpcError> {
        let peer = NodeAddress("meta-1:7000".into());
        let reason = String::from("because");
        let block = BlockId { session: crate::types::SessionId(4), index: 2 };
        let versions = VersionRange { first: 1, last: 3 };
        vec![
            RpcError::Unreachable { peer: peer.clone(), reason: reason.clone() },
            RpcError::TimedOut {
                peer: peer.clone(),
                after: Duration::from_millis(1500),
                applied: Applied::No,
            },
            RpcError::Disconnected { peer: peer.clone(), applied: Applied::Maybe },
            RpcError::BadFrame { peer: peer.clone(), reason: reason.clone() },
            RpcError::WrongCluster { caller: ClusterId(1), server: ClusterId(2) },
            RpcError::WrongVersion { caller: VersionRange::OURS, server: versions },
            RpcError::Busy { peer },
            RpcError::Refused { reason: reason.clone() },
            RpcError::Stopping,
            RpcError::WrongNode { expected: NodeId(1), found: NodeId(2) },
            RpcError::Internal { reason: reason.clone() },
            RpcError::NoLeader,
            RpcError::NotReady { reason: reason.clone() },
            RpcError::LeaderLost,
            RpcError::StoreFailed { reason },
            RpcError::BlockNotFound { block },
            RpcError::BlockCorrupt { block },
            RpcError::NoSpace,
            RpcError::LevelTooLow { active: Level(1), needed: Level(2), reason: "because".into() },
            RpcError::TooMany { peer: NodeAddress("meta-1:7000".into()), reason: "because".into() },
            RpcError::Other {
                code: 4999,
                text: "new".into(),
                retry: RetryClass::RefreshMap,
                applied: Applied::No,
            },
        ]
    }

    #[test]
    fn every_error_travels_unchanged_with_a_code_of_its_own() {
        let mut codes = std::collections::BTreeSet::new();
        for error in one_of_each() {
            let bytes = codec::encode(&error).unwrap();
            assert_eq!(codec::decode::<RpcError>(&bytes).unwrap(), error);
            assert!((2000..5000).contains(&error.code()));
            assert!(codes.insert(error.code()), "{error} shares its code");
            assert!(!error.to_string().is_empty());
        }
    }

    /// A peer of the next version answers with an error that this one does not have: the caller still learns
    /// where to go, and that its request may have been applied.
    #[test]
    fn an_error_of_a_newer_peer_keeps_its_meaning() {
        let travelling =
            |exact: Vec<u8>| Travelling { code: 4711, retry: 9, applied: 1, text: "new".into(), exact };
        let newer_variant = vec![200, 1, 2, 3];
        let not_its_code = codec::encode(&Exact(RpcError::NoLeader)).unwrap();
        for exact in [Vec::new(), newer_variant, not_its_code] {
            let bytes = codec::encode(&travelling(exact)).unwrap();
            let error: RpcError = codec::decode(&bytes).unwrap();
            assert_eq!(
                error,
                RpcError::Other {
                    code: 4711,
                    text: "new".into(),
                    retry: RetryClass::OtherNode,
                    applied: Applied::Maybe
                }
            );
        }
    }
}
