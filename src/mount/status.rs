//! What a mount tells of itself, and the socket through which it does.
//!
//! A mount listens on a unix socket in a runtime directory, named after the device number of the mount; whoever connects gets
//! one JSON document. Holds: asking never touches the mount itself, so a mount that hangs can still be asked; a socket left
//! behind by a mount that was killed is told from one that answers.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::table::Mounted;
use crate::runtime::{self, StopSignal};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpStatus {
    /// Its name.
    pub name: String,
    /// How often it was answered.
    pub count: u64,
    /// Of these, with an errno.
    pub errors: u64,
    /// Time from request to answer, all together, in microseconds.
    pub total_us: u64,
    /// Half of the answers came within this many microseconds (to the next power of two).
    pub p50_us: u64,
    /// 99 of 100 did.
    pub p99_us: u64,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MountStatus {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Where it is mounted.
    pub dir: String,
    /// The metadata servers it was given.
    pub cluster: Vec<String>,
    /// Its session with the cluster; 0 while it has none.
    pub session: u64,
    /// Since it was mounted, in seconds.
    pub uptime_s: u64,
    /// How requests come from the kernel: `uring` or `dev`.
    pub transport: String,
    /// Longest read and write, in bytes.
    pub io_len_max: u32,
    /// Requests that are being answered.
    pub in_flight: u64,
    /// Signals to callers of requests.
    pub interrupts: u64,
    /// Waits for locks that were refused because there were too many.
    pub lock_waits_refused: u64,
    /// Open files.
    pub open_files: u64,
    /// Open directories.
    pub open_dirs: u64,
    /// Bytes written and not on their way to data servers.
    pub dirty_bytes: u64,
    /// Bytes of blocks kept for who reads them again.
    pub cache_bytes: u64,
    /// Sectors that were read from there.
    pub cache_hits: u64,
    /// Sectors that were not there.
    pub cache_misses: u64,
    /// Bound of all buffers, in bytes.
    pub memory_max: u64,
    /// Memory of the process, in bytes.
    pub resident_bytes: u64,
    /// Operations that occurred, most frequent first.
    pub ops: Vec<OpStatus>,
}

/// Where sockets of mounts are.
fn runtime_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/pohmelfs");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("pohmelfs"),
        _ => std::env::temp_dir().join(format!("pohmelfs-{}", rustix::process::geteuid().as_raw())),
    }
}

/// The socket of a mount.
#[must_use]
pub fn socket_of(mounted: &Mounted) -> PathBuf {
    runtime_dir().join(format!("{}.sock", mounted.device.replace(':', "-")))
}

/// Answers at the socket.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    /// Listens for a mount. What a mount before left there is replaced: its device number is ours now.
    ///
    /// # Errors
    /// When the runtime directory cannot be made or written to.
    pub fn listen(mounted: &Mounted) -> std::io::Result<Self> {
        let path = socket_of(mounted);
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // Nothing secret is told.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self { listener, path })
    }

    /// Answers until the stop signal.
    pub async fn serve(self, status: impl Fn() -> MountStatus + Send, stop: StopSignal) {
        loop {
            let accepted = tokio::select! {
                () = stop.stopped() => return,
                // One that is dropped here sees the socket closed.
                accepted = self.listener.accept() => accepted,
            };
            let Ok((mut stream, _)) = accepted else {
                // Out of descriptors, most likely: others come free.
                runtime::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let text = serde_json::to_vec(&status()).unwrap_or_default();
            let sent = runtime::timeout(TIMEOUT, async {
                stream.write_all(&text).await?;
                stream.shutdown().await
            });
            if !matches!(sent.await, Ok(Ok(()))) {
                tracing::debug!("whoever asked for the status did not take it");
            }
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // Gone already: the directory was cleaned.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// True if somebody listens at a socket.
pub async fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).await.is_ok()
}

/// Asks a mount.
///
/// # Errors
/// What is wrong and what to do.
pub async fn ask(mounted: &Mounted) -> Result<MountStatus, String> {
    let dir = mounted.dir.display();
    let stale = |path: &Path| {
        format!(
            "{dir}: its program does not answer at {}: if it is gone, run `umount -l {dir}`",
            path.display()
        )
    };
    let path = socket_of(mounted);
    let mut stream = UnixStream::connect(&path).await.map_err(|_| stale(&path))?;
    let mut text = Vec::new();
    match runtime::timeout(TIMEOUT, stream.read_to_end(&mut text)).await {
        Ok(Ok(_)) => {}
        _ => return Err(stale(&path)),
    }
    serde_json::from_slice(&text)
        .map_err(|e| format!("{dir}: its status cannot be read ({e}): another version?"))
}
