//! A server as an operator meets it: exit codes, messages, signals, health.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Several times what a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

fn pohmelfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pohmelfs"));
    command.env_remove("POHMELFS_CLUSTER").env_remove("POHMELFS_LOG").stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    pohmelfs().args(args).output().unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A metadata server alone, with ports nobody else has.
struct Server {
    folder: tempfile::TempDir,
    http: String,
}

impl Server {
    fn new() -> Self {
        let held: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let at = |i: usize| held[i].local_addr().unwrap().to_string();
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "node = 1\nname = \"meta-1\"\nlisten = \"{}\"\nhttp_listen = \"{}\"\ndirectory = \"{}\"\n\
             replicas = 1\ndurable_min = 1\n[[peers]]\nnode = 1\nname = \"meta-1\"\naddress = \"{}\"\n",
            at(0),
            at(1),
            folder.path().join("meta-1").display(),
            at(0)
        );
        std::fs::write(folder.path().join("meta.toml"), text).unwrap();
        Self { http: at(1), folder }
    }

    fn config(&self) -> String {
        self.folder.path().join("meta.toml").display().to_string()
    }

    fn start(&self, extra: &[&str]) -> Child {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        pohmelfs().args(["meta", "--config", &self.config()]).args(extra).stderr(log).spawn().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn await_ready(&self, child: &mut Child) {
        let until = Instant::now() + PATIENCE;
        while !output(&["health", &self.http]).status.success() {
            assert!(child.try_wait().unwrap().is_none(), "the server has ended:\n{}", self.log());
            assert!(Instant::now() < until, "not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_configuration_that_cannot_be_is_exit_code_2_and_says_why() {
    let server = Server::new();
    let out = output(&["meta", "--config", "/no/such/file"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(stderr(&out).contains("/no/such/file"), "{}", stderr(&out));
    let out = output(&["meta", "--config", &server.config(), "--set", "timers.hartbeat_ms=5"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(stderr(&out).contains("did you mean `timers.heartbeat_ms`"), "{}", stderr(&out));
    let out = output(&["meta", "--config", &server.config(), "--set", "node=7"]);
    assert!(stderr(&out).contains("node = 7: must be one of the ids in peers (1)"), "{}", stderr(&out));
    let out = output(&["meta", "--config", &server.config(), "--check"]);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
}

#[test]
fn a_server_becomes_ready_and_stops_at_a_signal() {
    let server = Server::new();
    for signal_sent in [Signal::TERM, Signal::INT] {
        let mut child = server.start(&["--log-format", "json"]);
        server.await_ready(&mut child);
        signal(&child, signal_sent);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{}", server.log());
        for line in server.log().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        }
    }
    let out = output(&["health", &server.http]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("cannot connect"), "{}", stderr(&out));
    let out = output(&["health", "--json", &server.http]);
    assert_eq!(out.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    assert!(answer["reason"].as_str().unwrap().contains("cannot connect"), "{answer}");
}

#[test]
fn a_port_in_use_is_exit_code_1_and_names_it() {
    let server = Server::new();
    let taken = TcpListener::bind(&server.http).unwrap();
    let out = output(&["meta", "--config", &server.config()]);
    drop(taken);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains(&server.http), "{}", stderr(&out));
}

#[test]
fn status_asks_over_the_wire_and_without_servers_says_so() {
    let out = output(&["status"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(stderr(&out).contains("POHMELFS_CLUSTER"), "{}", stderr(&out));
    let server = Server::new();
    let mut child = server.start(&[]);
    server.await_ready(&mut child);
    let config = std::fs::read_to_string(Path::new(&server.config())).unwrap();
    let address =
        config.lines().find_map(|l| l.strip_prefix("listen = ")).unwrap().trim_matches('"').to_owned();
    let out = output(&["status", "--json", "--cluster", &address]);
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(status["leader"], 1, "{status:#}");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut nobody =
        pohmelfs().args(["status", "--cluster", &address]).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    nobody.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(nobody.wait().unwrap().code(), Some(1));
    assert!(told.contains("no metadata server answers"), "{told}");
}
