//! [`ClientError`]: what a call of the library ends with when it does not end well.
//!
//! Holds: every error has an errno for a mount, and a text that says what happened, to what, and what to do next.
//! Not here: retries. When an error comes out of the library, all that could be tried has been tried.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::types::{BlockId, FsError, NodeAddress, NodeId, SessionId};
use crate::wire::{Applied, RpcError};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The namespace said no: a definite answer.
    #[error("{0}")]
    Fs(#[from] FsError),
    /// No server gave an answer before the deadline, or one gave an error that no resend mends.
    #[error("{last} (tried {attempts} times in {after:.1?}{})", match .applied {
        Applied::No => "; nothing was changed",
        Applied::Maybe => "; it may have taken effect: look before you repeat it",
    })]
    Rpc {
        /// The last error of the exchange.
        last: Box<RpcError>,
        /// How often the request was sent.
        attempts: u32,
        /// Since the call began.
        after: Duration,
        /// Whether it may have taken effect.
        applied: Applied,
    },
    /// The session this call or handle belongs to is over. The next call opens a new one.
    #[error(
        "session {session} has expired: files opened in it must be opened again, and what they had not flushed is lost; new calls get a new session"
    )]
    SessionExpired {
        /// Which session.
        session: SessionId,
    },
    /// The client was closed.
    #[error("this client was closed: connect again")]
    Closed,
    /// No address was given, or none can be used.
    #[error("no metadata server address: name at least one, for instance --cluster meta-1:7000,meta-2:7000")]
    NoServers,
    /// A block could not be made durable on as many replicas as the write rule asks.
    #[error(
        "no group of data servers took the block within {after:.1?} ({last}): nothing of the file changed; see `pohmelfs status` for servers that are down or full"
    )]
    NotDurable {
        /// Since the upload began.
        after: Duration,
        /// The last failure.
        last: String,
    },
    /// An update of an open file has not been answered yet; later ones wait for it.
    #[error(
        "no metadata server has confirmed the write for {after:.1?}: what was written is kept; flush again once `pohmelfs status` shows a leader"
    )]
    Unsettled {
        /// How long was waited.
        after: Duration,
    },
    /// No replica of a block could be read.
    #[error(
        "block {block} cannot be read from any of its servers ({}): bring one of them back, or restore the file; `pohmelfs check --deep` lists what else is affected",
        list(.tried)
    )]
    BlockLost {
        /// Which block.
        block: BlockId,
        /// Each server asked and what it said.
        tried: Vec<(NodeId, NodeAddress, String)>,
    },
    /// The source or target on this side failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A path that cannot be one.
    #[error("{0}")]
    BadName(#[from] crate::types::NameError),
    /// A server answered something that does not belong to the question.
    #[error("unexpected answer ({0}): this is a defect or a mix of versions; please report it")]
    Protocol(String),
    /// An error with the path it is about.
    #[error("{}: {source}", path.display())]
    At {
        /// The path.
        path: PathBuf,
        /// What happened there.
        source: Box<ClientError>,
    },
    /// A transfer failed after it had changed something.
    #[error("{source}; {left}")]
    Partial {
        /// What is left, and what to do about it.
        left: String,
        /// What happened.
        source: Box<ClientError>,
    },
}

fn list(tried: &[(NodeId, NodeAddress, String)]) -> String {
    if tried.is_empty() {
        return "its group is not in the cluster map".into();
    }
    let each: Vec<String> =
        tried.iter().map(|(node, address, said)| format!("node {node} at {address}: {said}")).collect();
    each.join("; ")
}

impl ClientError {
    /// The same error with the path it is about; a path already there is kept.
    #[must_use]
    pub fn at(self, path: impl AsRef<Path>) -> Self {
        match self {
            Self::At { .. } => self,
            other => Self::At { path: path.as_ref().to_owned(), source: Box::new(other) },
        }
    }

    /// The definite answer of the namespace, if that is what it is.
    #[must_use]
    pub fn fs(&self) -> Option<FsError> {
        match self {
            Self::Fs(e) => Some(*e),
            Self::BadName(crate::types::NameError::TooLong(_)) => Some(FsError::NameTooLong),
            Self::BadName(_) => Some(FsError::Invalid),
            Self::At { source, .. } | Self::Partial { source, .. } => source.fs(),
            _ => None,
        }
    }

    /// The errno of Linux for it.
    #[must_use]
    pub fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        const ETIMEDOUT: i32 = 110;
        const ENOTCONN: i32 = 107;
        const EOPNOTSUPP: i32 = 95;
        match self {
            Self::Rpc { last, .. } if matches!(**last, RpcError::Refused { .. }) => EIO,
            Self::Rpc { last, .. } if matches!(**last, RpcError::LevelTooLow { .. }) => EOPNOTSUPP,
            Self::Rpc { .. } | Self::Unsettled { .. } => ETIMEDOUT,
            Self::Closed | Self::NoServers => ENOTCONN,
            Self::Io(e) => e.raw_os_error().unwrap_or(EIO),
            Self::At { source, .. } | Self::Partial { source, .. } => source.errno(),
            other => other.fs().map_or(EIO, FsError::errno),
        }
    }

    /// True if the namespace said that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.fs() == Some(FsError::NotFound)
    }

    /// True if the namespace said that it exists already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.fs() == Some(FsError::Exists)
    }
}

/// Adds the path to the error of a result.
pub(crate) trait At<T> {
    /// The same result; its error names `path`.
    fn at(self, path: impl AsRef<Path>) -> Result<T, ClientError>;
}

impl<T> At<T> for Result<T, ClientError> {
    fn at(self, path: impl AsRef<Path>) -> Self {
        self.map_err(|e| e.at(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_errno_and_first_path_on_the_way_up() {
        let e = ClientError::from(FsError::NotFound).at("/a/b").at("/a");
        assert_eq!(e.errno(), 2);
        assert!(e.is_not_found());
        assert!(e.to_string().starts_with("/a/b: "), "{e}");
    }

    #[test]
    fn an_unknown_outcome_is_said() {
        let last = Box::new(RpcError::NoLeader);
        let e =
            ClientError::Rpc { last, attempts: 3, after: Duration::from_secs(30), applied: Applied::Maybe };
        assert!(e.to_string().contains("may have taken effect"), "{e}");
        assert_eq!(e.errno(), 110);
    }
}
