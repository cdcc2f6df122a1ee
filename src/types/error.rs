//! Deterministic answers about the namespace, and what a caller may do after any error.

use serde::{Deserialize, Serialize};

/// What a caller may do with a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RetryClass {
    /// It would fail again.
    Never,
    /// The same node may answer later.
    SameNode,
    /// Another node may answer now.
    OtherNode,
    /// Fetch the cluster map first.
    RefreshMap,
}

/// Result of a question to the namespace.
pub type FsResult<T> = Result<T, FsError>;

macro_rules! fs_errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $errno:literal, $text:literal;)*) => {
        /// A deterministic answer about the namespace: one errno each, part of the replicated reply.
        ///
        /// New variants go to the end: the position is the encoding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
        pub enum FsError {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl FsError {
            /// Every variant, in the order of the encoding.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Error code on the wire and in JSON: band 1xxx.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            /// The errno of Linux.
            #[must_use]
            pub const fn errno(self) -> i32 {
                match self { $(Self::$name => $errno,)* }
            }
        }
    };
}

fs_errors! {
    /// EPERM: only the owner or root may.
    NotOwner = 1001, 1, "operation not permitted (EPERM): only the owner or root may";
    /// ENOENT.
    NotFound = 1002, 2, "no such file or directory (ENOENT)";
    /// EACCES: the permission bits forbid it.
    Denied = 1003, 13, "permission denied (EACCES)";
    /// EEXIST.
    Exists = 1004, 17, "file exists (EEXIST)";
    /// ENOTDIR.
    NotDir = 1005, 20, "not a directory (ENOTDIR)";
    /// EISDIR.
    IsDir = 1006, 21, "is a directory (EISDIR)";
    /// EINVAL: the arguments make no sense together.
    Invalid = 1007, 22, "invalid argument (EINVAL)";
    /// EFBIG: behind the largest size.
    TooBig = 1008, 27, "file too large (EFBIG): the largest size is 2^63 - 1 bytes";
    /// ENOSPC.
    NoSpace = 1009, 28, "no space left on the data servers (ENOSPC)";
    /// EMLINK.
    TooManyLinks = 1010, 31, "too many links (EMLINK)";
    /// ENAMETOOLONG.
    NameTooLong = 1011, 36, "file name too long (ENAMETOOLONG): a name has at most 255 bytes";
    /// ENOTEMPTY.
    NotEmpty = 1012, 39, "directory not empty (ENOTEMPTY)";
    /// ELOOP.
    Loop = 1013, 40, "too many levels of symbolic links (ELOOP)";
    /// ENODATA: no such extended attribute.
    NoXattr = 1014, 61, "no such extended attribute (ENODATA)";
    /// ESTALE: the inode is gone.
    Stale = 1015, 116, "stale file handle (ESTALE): the inode is gone";
    /// EDQUOT.
    Quota = 1016, 122, "quota exceeded (EDQUOT)";
    /// EOPNOTSUPP.
    Unsupported = 1017, 95, "operation not supported (EOPNOTSUPP)";
    /// E2BIG: an extended attribute is too long.
    XattrTooBig = 1018, 7, "extended attribute too big (E2BIG): a value has at most 3840 bytes";
    /// ERANGE: a name of an extended attribute is too long or empty.
    XattrName = 1019, 34, "name of an extended attribute out of range (ERANGE): 1 to 255 bytes";
    /// The session is unknown or has expired: open a new one. What it held is lost.
    SessionExpired = 1020, 5, "the session has expired (EIO): handles and locks of this client are gone";
    /// The request id is below what the session said it no longer waits for: its reply is forgotten.
    ReplyForgotten = 1021, 5, "the reply to this request was already taken and forgotten (EIO)";
    /// The session has more unanswered requests than are remembered.
    TooManyInFlight = 1022, 11, "too many unanswered requests of this session (EAGAIN)";
    /// An extent names a block or group that cannot be.
    BadExtent = 1023, 5, "the extents of this publish are not valid (EIO)";
    /// A fence older than the current one.
    Fenced = 1024, 5, "the lease this write belongs to has ended (EIO)";
    /// EBUSY.
    Busy = 1025, 16, "device or resource busy (EBUSY)";
    /// ETXTBSY is not kept by this filesystem; EXDEV is for links across mounts.
    CrossDevice = 1026, 18, "not on the same filesystem (EXDEV)";
    /// No data server may take blocks.
    NoGroup = 1027, 28, "not enough data servers are up to keep this data (ENOSPC): see `pohmelfs status`";
    /// A node name or id that belongs to another node.
    NodeConflict = 1028, 17, "this node id or name belongs to another data server (EEXIST)";
    /// ENXIO: a seek for data or a hole finds none.
    NoSuchRange = 1029, 6, "no data and no hole at or behind this offset (ENXIO)";
    /// EAGAIN: another owner holds a lock that is in the way.
    WouldBlock = 1030, 11, "another owner holds a lock on this range (EAGAIN)";
    /// EDEADLK.
    Deadlock = 1031, 35, "waiting for this lock would never end (EDEADLK): its holders wait for the caller";
    /// ENOLCK: too many locks on this file, or of this client.
    TooManyLocks = 1032, 37, "no locks available (ENOLCK): too many on this file or of this client";
    /// EINTR: the caller did not want to wait for a lock any longer.
    Interrupted = 1033, 4, "interrupted while waiting for a lock (EINTR)";
    /// EAGAIN: the namespace is being restored from a dump.
    Restoring = 1034, 11, "the cluster is being restored from a dump (EAGAIN): wait until `pohmelfs restore` has ended";
}

impl FsError {
    /// A deterministic answer stays the same: never worth a retry, except where the session may go on later.
    #[must_use]
    pub const fn retry(self) -> RetryClass {
        match self {
            Self::TooManyInFlight | Self::Restoring => RetryClass::SameNode,
            Self::NoGroup => RetryClass::RefreshMap,
            _ => RetryClass::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_their_band() {
        let mut codes: Vec<u16> = FsError::ALL.iter().map(|e| e.code()).collect();
        assert!(codes.iter().all(|c| (1001..2000).contains(c)));
        codes.dedup();
        assert_eq!(codes.len(), FsError::ALL.len());
    }
}
