//! One server process: started, killed, stopped, wiped.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use pohmelfs::types::NodeAddress;
use pohmelfs::wire::status::{ServerRole, ServerStatus};
use rustix::process::{Pid, Signal};

use super::http;

/// Lines of a log shown when a test fails.
const TAIL_LINES: usize = 60;

/// The program under test.
pub fn program() -> Command {
    program_at(&Place::default())
}

/// Where a server runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address that it listens on.
    pub ip: String,
    /// The directory that has its own one; none: that of the cluster.
    pub parent: Option<PathBuf>,
    /// What starts it there: a program and its arguments, which ends by executing those behind them; empty: nothing.
    pub launcher: Vec<OsString>,
    /// Variables of its environment.
    pub variables: Vec<(OsString, OsString)>,
}

impl Default for Place {
    fn default() -> Self {
        Self { ip: "127.0.0.1".into(), parent: None, launcher: Vec::new(), variables: Vec::new() }
    }
}

/// The program under test, at a place.
pub fn program_at(place: &Place) -> Command {
    let program = OsString::from(env!("CARGO_BIN_EXE_pohmelfs"));
    let words: Vec<OsString> = place.launcher.iter().cloned().chain([program]).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    // A variable of whoever runs the tests is no configuration of the servers.
    for (name, _) in std::env::vars_os() {
        let known = name.to_string_lossy();
        if known.starts_with("POHMELFS_") && known != "POHMELFS_LOG" {
            command.env_remove(&name);
        }
    }
    command.envs(place.variables.iter().cloned());
    command.stdin(Stdio::null());
    command
}

/// A server and everything it has on this machine.
pub struct Node {
    /// `meta-1`, `data-3`.
    pub name: String,
    /// What it does.
    pub role: ServerRole,
    /// Its id.
    pub id: u64,
    /// Where it serves.
    pub address: String,
    /// Where it serves HTTP.
    pub http: String,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its data directory.
    pub dir: PathBuf,
    /// Its standard output and error, of all its lives.
    pub log: PathBuf,
    /// Where it runs.
    pub place: Place,
    /// Which program it says it is (`POHMELFS_PRETEND`); none: the one under test.
    pub pretend: Option<String>,
    child: Option<Child>,
    paused: bool,
}

impl Node {
    /// A server that is not running yet. `config` has been written.
    pub fn new(
        root: &Path,
        role: ServerRole,
        id: u64,
        name: String,
        ports: (u16, u16),
        place: Place,
    ) -> Self {
        Self {
            role,
            id,
            address: format!("{}:{}", place.ip, ports.0),
            http: format!("{}:{}", place.ip, ports.1),
            config: root.join(format!("{name}.toml")),
            dir: place.parent.as_deref().unwrap_or(root).join(&name),
            log: root.join(format!("{name}.log")),
            name,
            place,
            pretend: None,
            child: None,
            paused: false,
        }
    }

    /// Where clients reach it.
    pub fn node_address(&self) -> NodeAddress {
        NodeAddress(self.address.clone())
    }

    /// Starts it; its output is appended to its log.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let pretend = self.pretend.as_ref().map(|program| ("POHMELFS_PRETEND", program));
        let child = program_at(&self.place)
            .envs(pretend)
            .arg(self.role.to_string())
            .arg("--config")
            .arg(&self.config)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        Pid::from_child(child)
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// True between `start` and whatever ended it.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// True while it is stopped by [`Node::pause`].
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        self.kill_without_waiting();
        self.reap();
    }

    /// Only the signal, so that several can go at the same moment; [`Node::reap`] follows.
    pub fn kill_without_waiting(&mut self) {
        rustix::process::kill_process(self.pid(), Signal::KILL).unwrap();
    }

    /// Takes the end of a killed process.
    pub fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
        self.paused = false;
    }

    /// SIGSTOP: it is silent, and its connections stay.
    pub fn pause(&mut self) {
        rustix::process::kill_process(self.pid(), Signal::STOP).unwrap();
        self.paused = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        rustix::process::kill_process(self.pid(), Signal::CONT).unwrap();
        self.paused = false;
    }

    /// SIGTERM, as an orderly shutdown; the end is to be awaited with [`Node::ended`].
    pub fn terminate(&mut self) {
        rustix::process::kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// How it ended, if it has; after that it can be started again.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// Removes everything it keeps on disk. It must not run.
    pub fn wipe(&self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        std::fs::remove_dir_all(&self.dir).unwrap();
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<ServerStatus, String> {
        if self.child.is_none() || self.paused {
            return Err(format!("{} does not run", self.name));
        }
        http::get_json(&self.http, "/status").await
    }

    /// Its whole log.
    pub fn log_text(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            file.read_to_end(&mut text).unwrap();
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The end of its log, for a failure's report.
    pub fn tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // A stopped process takes SIGKILL too. It may have ended by itself: nothing is left to kill then.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
