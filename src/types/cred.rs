//! Who asks: user, group and supplementary groups of the calling process.

use serde::{Deserialize, Serialize};

/// Credentials of a request, as the client states them (the cluster trusts its clients as NFS with `sec=sys` does).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cred {
    /// Effective user id; 0 passes every permission check save those POSIX keeps for root too.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups, at most [`Cred::GROUPS_MAX`].
    pub groups: Vec<u32>,
}

impl Cred {
    /// Most supplementary groups a request carries; more are refused. (Linux allows 65,536 to a process, the
    /// NFS protocol 16; a list of 256 keeps a request small.)
    pub const GROUPS_MAX: usize = 256;

    /// The superuser.
    #[must_use]
    pub const fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new() }
    }

    /// True for the superuser.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// True if `gid` is the effective group or one of the supplementary ones.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// What a permission check asks for: any of read, write, execute/search (`access(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Access(pub u8);

impl Access {
    /// Execute a file, search a directory.
    pub const EXEC: Self = Self(1);
    /// Write.
    pub const WRITE: Self = Self(2);
    /// Read.
    pub const READ: Self = Self(4);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
