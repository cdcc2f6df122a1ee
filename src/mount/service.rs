//! A mount as a whole: client, filesystem, transport, and what runs beside them.
//!
//! The command line calls [`Service::start`], waits for [`Service::gone`] and ends it with [`Service::stop`]. Holds: when it has
//! started, the directory answers; when it could not, nothing is mounted and no session is left open; at the end everything
//! that was written has been flushed, or its loss is in the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::fs::{FsOptions, MountFs};
use super::fuse::{self, Mount, MountError, Notifier, Stats};
use super::status::{MountStatus, OpStatus, StatusSocket};
use super::table;
use crate::client::{Client, ClientError, ClientOptions};
use crate::runtime::{self, Instant, Tasks};
use crate::types::{Cred, FileKind, NodeAddress};

/// How old written bytes become before they are sent.
const FLUSH_AGE: Duration = Duration::from_secs(5);
/// How long connecting may take: elections included, but no longer than somebody waits at a prompt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What to mount, and how.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Metadata servers.
    pub cluster: Vec<NodeAddress>,
    /// The directory of the cluster that becomes the root of the mount.
    pub subdir: PathBuf,
    /// Longest time of an operation.
    pub timeout: Duration,
    /// Bytes of all buffers together.
    pub memory_max: usize,
    /// How long names and attributes may be relied on by who reads a directory with attributes (docs/consistency.md); zero: not
    /// at all.
    pub list_ttl: Duration,
    /// The time between two requests of a thread that may belong to one call; zero: none do.
    pub call_window: Duration,
    /// Host name, for labels.
    pub host: String,
    /// Of the transport.
    pub fuse: fuse::Options,
}

/// Why it could not be mounted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum StartError {
    #[error("{0}")]
    Mount(#[from] MountError),
    #[error("cannot reach the cluster: {0}; check the addresses, and `pohmelfs status`")]
    Cluster(ClientError),
    #[error("{0}")]
    Subdir(ClientError),
    #[error("{} is not a directory of the cluster", .0.display())]
    NotDirectory(PathBuf),
}

/// A mount.
#[derive(Debug)]
pub struct Service {
    mount: Mount,
    fs: MountFs,
    tasks: Tasks,
}

impl Service {
    /// Connects and mounts.
    ///
    /// # Errors
    /// [`StartError`] says what is wrong and what to do; nothing is mounted then.
    pub async fn start(dir: &Path, options: MountOptions) -> Result<Self, StartError> {
        let memory = options.memory_max;
        let client_options = ClientOptions {
            label: format!("mount {} on {}", dir.display(), options.host),
            cred: Cred::root(),
            call_timeout: options.timeout,
            connect_timeout: CONNECT_TIMEOUT.min(options.timeout),
            channel_count: 2,
            // Half for what is on its way, an eighth for what is still gathered, the rest for readers.
            memory_max: memory / 2,
            dirty_max: memory / 8,
            read_ahead_max: memory / 4,
            cache_max: memory / 8,
            ..ClientOptions::default()
        };
        let client = Client::connect(&options.cluster, client_options).await.map_err(StartError::Cluster)?;
        match Self::mount(&client, dir, &options).await {
            Ok(service) => Ok(service),
            Err(error) => {
                client.close().await;
                Err(error)
            }
        }
    }

    async fn mount(client: &Client, dir: &Path, options: &MountOptions) -> Result<Self, StartError> {
        let resolved = client.resolve(&options.subdir, true).await.map_err(StartError::Subdir)?;
        let root = resolved.found.attr;
        if root.kind != FileKind::Dir {
            return Err(StartError::NotDirectory(options.subdir.clone()));
        }
        let fs_options = FsOptions {
            root: root.inode,
            timeout: options.timeout,
            flush_age: FLUSH_AGE,
            list_ttl: options.list_ttl,
            call_window: options.call_window,
        };
        let fs = MountFs::new(client.clone(), fs_options);
        let mount =
            Mount::start(Arc::new(fs.clone()), Notifier::default(), dir, options.fuse.clone()).await?;
        if mount.negotiated().expires_names() {
            fs.keep_listings(mount.notifier());
        }
        let tasks = Tasks::new();
        tasks.spawn("mount-flush", fs.clone().flush_behind(tasks.stopping()));
        let status = Status {
            stats: mount.stats(),
            fs: fs.clone(),
            dir: mount.dir().display().to_string(),
            cluster: options.cluster.iter().map(|a| a.0.clone()).collect(),
            memory_max: options.memory_max as u64,
            since: runtime::now(),
        };
        match table::find(mount.dir()).map(|mounted| StatusSocket::listen(&mounted)) {
            Some(Ok(socket)) => {
                tasks.spawn("mount-status", socket.serve(move || status.now(), tasks.stopping()));
            }
            Some(Err(error)) => tracing::warn!(%error, "no socket for `pohmelfs stats`"),
            None => tracing::warn!("the mount is not in the table of mounts: no `pohmelfs stats`"),
        }
        tracing::info!(
            dir = %mount.dir().display(),
            transport = mount.negotiated().transport.name(),
            io_len_max = mount.negotiated().io_len_max,
            "mounted"
        );
        Ok(Self { mount, fs, tasks })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.mount.dir()
    }

    /// Returns when somebody has unmounted it.
    pub async fn gone(&self) {
        self.mount.gone().await;
    }

    /// Unmounts, flushes what is left, ends the session.
    ///
    /// # Errors
    /// When it cannot be unmounted; everything else has ended all the same.
    pub async fn stop(self) -> Result<(), MountError> {
        let unmounted = self.mount.unmount().await;
        // The flusher flushes everything once it is told to stop.
        self.tasks.stop().await;
        let client = self.fs.client().clone();
        drop(self.fs);
        client.close().await;
        unmounted
    }
}

/// Gathers what a mount tells of itself.
struct Status {
    stats: Arc<Stats>,
    fs: MountFs,
    dir: String,
    cluster: Vec<String>,
    memory_max: u64,
    since: Instant,
}

impl Status {
    fn now(&self) -> MountStatus {
        let stats = self.stats.snapshot();
        let client = self.fs.client();
        let (open_files, open_dirs) = self.fs.open_counts();
        let (cache_bytes, cache_hits, cache_misses) = client.cache_use();
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let op = |op: &fuse::OpSnapshot| OpStatus {
            name: op.name.to_owned(),
            count: op.count,
            errors: op.errors,
            total_us: micros(op.total),
            p50_us: micros(op.quantile(0.5)),
            p99_us: micros(op.quantile(0.99)),
        };
        MountStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            dir: self.dir.clone(),
            cluster: self.cluster.clone(),
            session: client.session_id().map_or(0, |s| s.0),
            uptime_s: self.since.elapsed().as_secs(),
            transport: stats.negotiated.map_or_else(String::new, |n| n.transport.name().to_owned()),
            io_len_max: stats.negotiated.map_or(0, |n| n.io_len_max),
            in_flight: stats.in_flight,
            interrupts: stats.interrupts,
            lock_waits_refused: stats.lock_waits_refused,
            open_files: open_files as u64,
            open_dirs: open_dirs as u64,
            dirty_bytes: client.dirty_len() as u64,
            cache_bytes,
            cache_hits,
            cache_misses,
            memory_max: self.memory_max,
            resident_bytes: runtime::resident_bytes(),
            ops: stats.ops.iter().map(op).collect(),
        }
    }
}
