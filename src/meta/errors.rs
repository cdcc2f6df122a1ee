//! How failures of consensus look to a caller over the wire.

use super::raft::ConsensusError;
use crate::wire::{Applied, RpcError};

impl From<ConsensusError> for RpcError {
    fn from(e: ConsensusError) -> Self {
        match e {
            ConsensusError::NotLeader { .. } => Self::NoLeader,
            ConsensusError::LeaderLost { .. } => Self::LeaderLost,
            ConsensusError::NoQuorum
            | ConsensusError::NotReady
            | ConsensusError::Changing
            | ConsensusError::Behind { .. } => Self::NotReady { reason: e.to_string() },
            ConsensusError::TooLong { .. } => Self::Refused { reason: e.to_string() },
            ConsensusError::Stopped { applied: Applied::No, .. } => Self::Stopping,
            ConsensusError::Stopped { applied: Applied::Maybe, .. } => Self::LeaderLost,
        }
    }
}
