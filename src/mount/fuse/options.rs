//! What a mount may choose, and what the kernel agreed to.

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// io_uring where the kernel has it (6.14 on), else `/dev/fuse`.
    #[default]
    Auto,
    /// io_uring, or fail.
    Uring,
    /// `/dev/fuse`.
    Dev,
}

impl Transport {
    /// The word for it, as options and status have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Dev => "dev",
        }
    }
}

impl std::str::FromStr for Transport {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Auto, Self::Uring, Self::Dev]
            .into_iter()
            .find(|transport| transport.name() == word)
            .ok_or_else(|| format!("no transport {word:?}: it is auto, uring or dev"))
    }
}

/// Choices of a mount.
///
/// Not among them: the kernel never checks permissions by itself (`default_permissions`), because the cluster does,
/// with its own ACLs. That is also why ACLs are passed through as extended attributes instead of being handed to the
/// kernel (`FUSE_POSIX_ACL` would turn its checks on).
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent options of mount(8)")]
pub struct Options {
    /// How requests travel. Default: io_uring where possible.
    pub transport: Transport,
    /// What `df` and `/proc/mounts` name as source. Default: `pohmelfs`.
    pub source: String,
    /// Refuse changes. Default: no.
    pub read_only: bool,
    /// Other users than the one who mounts may use it. Default: yes (needs root, or `user_allow_other` in
    /// `/etc/fuse.conf`).
    pub allow_other: bool,
    /// setuid and setgid mean something on it. Default: no.
    pub suid: bool,
    /// Device files mean something on it. Default: no.
    pub dev: bool,
    /// Programs on it can be run. Default: yes.
    pub exec: bool,
    /// Longest read and write in bytes. Default: 1 MiB, the most that a kernel allows unless told otherwise.
    pub io_len_max: u32,
    /// Requests that nobody waits for (read-ahead, write-back) in flight. Default: 64, which keeps 64 MiB of
    /// read-ahead busy.
    pub background_max: u16,
    /// How far the kernel reads ahead in a file that is read in sequence, in KiB. Default: 4096; the kernel's own 128
    /// keeps one data server at work (set by root only).
    pub read_ahead_kb: u32,
    /// The kernel may gather writes and own size and times meanwhile. Default: no: other mounts are to see an
    /// append when the call returns.
    pub writeback_cache: bool,
    /// Threads that read `/dev/fuse`. Default: one a processor, 2 to 8.
    pub reader_count: usize,
    /// Entries of one processor's ring, at most: each request in flight takes one. A ring starts small and grows.
    /// Default: 1024. All but [`Options::RING_RESERVE`] may wait for locks.
    pub ring_depth_max: u16,
}

impl Options {
    /// Entries of a ring that no waiting lock takes, so that what would free it finds room.
    pub const RING_RESERVE: u16 = 64;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            transport: Transport::Auto,
            source: "pohmelfs".to_owned(),
            read_only: false,
            allow_other: true,
            suid: false,
            dev: false,
            exec: true,
            io_len_max: 1 << 20,
            background_max: 64,
            read_ahead_kb: 4096,
            writeback_cache: false,
            reader_count: crate::runtime::processor_count().clamp(2, 8),
            ring_depth_max: 1024,
        }
    }
}

/// What the kernel agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// How requests travel: never `Auto`.
    pub transport: Transport,
    /// Minor version of the protocol.
    pub minor: u32,
    /// Longest read and write in bytes.
    pub io_len_max: u32,
    /// Requests that nobody waits for, in flight.
    pub background_max: u16,
    /// Capabilities in use, as bits of `fuse.h`.
    pub capabilities: u64,
}

impl Negotiated {
    /// True if the kernel can be told to ask for a name again ([`super::Notification::Expired`]).
    #[must_use]
    pub const fn expires_names(&self) -> bool {
        self.capabilities & super::abi::cap::HAS_EXPIRE_ONLY != 0
    }
}
