//! A mount in a process of its own.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::common::node::program;
use crate::common::{Cluster, until};

/// True if this machine can mount; says why not.
pub fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    let device = Path::new("/dev/fuse").exists();
    if !root || !device {
        eprintln!("skipped: mounting needs root ({root}) and /dev/fuse ({device})");
    }
    root && device
}

/// A mounted directory and the process behind it. Dropped, both are gone.
pub struct Mount {
    /// Where.
    pub dir: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Mount {
    /// Mounts the cluster on a new directory called `name`; more flags in `flags`.
    pub async fn start(cluster: &Cluster, name: &str, flags: &[&str]) -> Self {
        let dir = cluster.root().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let log = cluster.root().join(format!("{name}.log"));
        let out = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let servers: Vec<&str> = cluster.meta().iter().map(|m| m.address.as_str()).collect();
        let mut child = program()
            .env("POHMELFS_CLUSTER", servers.join(","))
            .args(["mount", "--foreground"])
            .args(flags)
            .arg(&dir)
            .stdout(Stdio::null())
            .stderr(out)
            .spawn()
            .unwrap();
        let text = || std::fs::read_to_string(&log).unwrap_or_default();
        until(&format!("{name} to be mounted"), async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{name}: {status}\n{}", text());
            }
            if is_mounted(&dir) { Ok(()) } else { Err(text()) }
        })
        .await;
        // The table has it before it answers; a call waits until it does.
        std::fs::metadata(&dir).unwrap();
        Self { dir, log, child }
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// kill -9 of the process; what is left of the mount is taken away.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        detach(&self.dir);
    }

    /// SIGTERM, and its end.
    pub async fn terminate(&mut self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let log = self.log.clone();
        let status = until("the end of the mount", async || {
            self.child.try_wait().unwrap().ok_or_else(|| std::fs::read_to_string(&log).unwrap_or_default())
        })
        .await;
        assert!(status.success(), "{status}");
        assert!(!is_mounted(&self.dir));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!(
                "=== {}:\n{}\n",
                self.dir.display(),
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
        self.kill();
    }
}

/// True if the table of mounts has it.
pub fn is_mounted(dir: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_str().unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == Some(dir))
}

fn detach(dir: &Path) {
    if is_mounted(dir) {
        let _ = Command::new("umount").arg("-l").arg(dir).stderr(Stdio::null()).status();
    }
}

/// Runs something that blocks on a mount, away from the threads of the test's runtime.
pub async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
