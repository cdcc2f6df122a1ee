//! The cluster of `docker-compose.yml`, under load, while containers are killed, paused and cut off.
//!
//! Runs where a Docker engine answers and says why it skips elsewhere. Holds: whatever a `put` acknowledged reads back
//! byte for byte at the end. It has its own project name and ports, and takes everything down again, volumes too.
//!
//! The image: `POHMELFS_TEST_IMAGE` where that names one; else `scripts/image --debug` makes one for this run, of the
//! static binary that `POHMELFS_STATIC_BIN` names or of a debug build of these sources. Its files are those of a release
//! image; the debug build takes a fraction of the time and panics where an invariant of ours or a number overflows.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything here: several times what a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(180);
const NODES: [&str; 6] = ["meta-1", "meta-2", "meta-3", "data-1", "data-2", "data-3"];

/// Tells what happens, past the harness: what it keeps back is lost when a run that hangs is killed.
fn tell(what: &str) {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let _ = writeln!(std::io::stderr(), "{:7.1} s  {what}", BEGAN.elapsed().as_secs_f64());
}

/// Runs `command` with `input` to its end. One that takes longer than anything here may is killed, and that is a failure
/// which tells what the command had said.
fn bounded(command: &mut Command, input: &[u8]) -> Output {
    let shown = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
    let mut child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let until = Instant::now() + 2 * PATIENCE;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that failed has closed its end; its exit code tells.
            let _ = stdin.write_all(input);
        });
        let stdout = scope.spawn(move || read_all(stdout));
        let stderr = scope.spawn(move || read_all(stderr));
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() > until => {
                    // All of its group: a plug-in of docker's would hold the pipes open.
                    let group = rustix::process::Pid::from_child(&child);
                    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
                    child.wait().unwrap();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        let Some(status) = status else {
            let containers = Command::new("docker").args(["ps", "-a"]).output().map(|o| o.stdout);
            let story = format!(
                "{shown} did not end; it said:\n{}\n{}\n{}",
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr),
                String::from_utf8_lossy(&containers.unwrap_or_default())
            );
            tell(&story);
            panic!("{story}");
        };
        Output { status, stdout, stderr }
    })
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    all
}

fn run(program: &str, args: &[&str]) -> Output {
    bounded(Command::new(program).args(args), b"")
}

fn done(program: &str, args: &[&str]) -> String {
    let out = run(program, args);
    assert!(out.status.success(), "{program} {args:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// The command that reads compose files here, or why there is none.
fn compose_command() -> Result<Vec<&'static str>, &'static str> {
    let answers = |args: &[&str]| {
        let (program, rest) = args.split_first().unwrap();
        let out = Command::new(program).args(rest).stdin(Stdio::null()).output();
        out.is_ok_and(|o| o.status.success())
    };
    if !answers(&["docker", "version"]) {
        return Err("no Docker engine answers");
    }
    if answers(&["docker", "compose", "version"]) {
        return Ok(vec!["docker", "compose"]);
    }
    if answers(&["docker-compose", "version"]) {
        return Ok(vec!["docker-compose"]);
    }
    Err("neither `docker compose` nor docker-compose is installed")
}

/// A running project; dropping it removes all of it.
struct Project {
    compose: Vec<&'static str>,
    name: String,
    image: String,
    own_image: bool,
    ports: BTreeMap<&'static str, u16>,
}

impl Project {
    fn up(compose: Vec<&'static str>) -> Self {
        let name = format!("pohmelfstest{}", std::process::id());
        let given = std::env::var("POHMELFS_TEST_IMAGE").ok();
        let own_image = given.is_none();
        let image = given.unwrap_or_else(|| format!("pohmelfs:{name}"));
        if own_image {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/image");
            let built = Command::new(script).args(["--debug", &image]).status().unwrap();
            assert!(built.success(), "scripts/image failed");
        }
        // Held open together, so that all are different; free again before the containers take them.
        let held: Vec<TcpListener> =
            NODES.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = NODES.iter().zip(&held).map(|(n, l)| (*n, l.local_addr().unwrap().port())).collect();
        drop(held);
        let project = Self { compose, name, image, own_image, ports };
        tell("bringing it up");
        project.compose(&["up", "-d"]);
        project
    }

    fn compose(&self, args: &[&str]) {
        let out = self.compose_output(args);
        assert!(out.status.success(), "compose {args:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn compose_output(&self, args: &[&str]) -> Output {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml");
        let mut command = Command::new(self.compose[0]);
        command.args(&self.compose[1..]).arg("-p").arg(&self.name).arg("-f").arg(file).args(args);
        command.env("POHMELFS_IMAGE", &self.image);
        for (node, port) in &self.ports {
            command.env(format!("POHMELFS_{}_HTTP", node.to_uppercase().replace('-', "_")), port.to_string());
        }
        bounded(&mut command, b"")
    }

    fn container(&self, node: &str) -> String {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={node}");
        done("docker", &["ps", "-aq", "--filter", &project, "--filter", &service])
    }

    fn network(&self) -> String {
        format!("{}_default", self.name)
    }

    /// Status code and body of a page of a node.
    fn http(&self, node: &str, target: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[node])).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn cluster(&self, node: &str) -> Option<Value> {
        let (status, body) = self.http(node, "/cluster")?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// Waits until `good` holds for what some metadata server tells of the cluster.
    fn await_cluster(&self, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            for node in &NODES[..3] {
                if let Some(status) = self.cluster(node) {
                    if good(&status) {
                        return status;
                    }
                    last = Some(status);
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let logs = self.compose_output(&["logs", "--no-color", "--tail=15"]);
        panic!("waited for: {what}\nlast: {last:#?}\n{}", String::from_utf8_lossy(&logs.stdout));
    }

    fn await_all_well(&self) {
        self.await_cluster("every server up", |s| {
            let meta = s["meta"].as_array().unwrap();
            let data = s["data"].as_array().unwrap();
            meta.len() == 3
                && meta.iter().all(|m| m["reachable"] == true)
                && data.len() == 3
                && data.iter().all(|d| d["state"] == "up")
                && s["leader"].is_u64()
        });
    }

    fn leader(&self) -> String {
        let status = self.await_cluster("a leader", |s| s["leader"].is_u64());
        format!("meta-{}", status["leader"])
    }

    /// Runs `pohmelfs` in a container of its own, which no fault of this test touches.
    fn tool(&self, args: &[&str], input: &[u8]) -> Output {
        let network = self.network();
        let mut all = vec!["run", "--rm", "-i", "--network", &network, &self.image];
        all.extend(["--cluster", "meta-1:7000,meta-2:7000,meta-3:7000"]);
        all.extend(args);
        bounded(Command::new("docker").args(all), input)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // A paused container cannot be stopped.
        for node in NODES {
            run("docker", &["unpause", &self.container(node)]);
        }
        self.compose_output(&["down", "-v", "--remove-orphans", "-t", "5"]);
        if self.own_image {
            run("docker", &["rmi", "-f", &self.image]);
        }
    }
}

/// Contents of file `index`: of sizes that go inline, into one block, into several.
fn contents(index: u64) -> Vec<u8> {
    const SIZES: [u64; 5] = [1, 4096, 70_000, 1 << 20, (4 << 20) + 1];
    let size = SIZES[usize::try_from(index % 5).unwrap()];
    let mut x = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..size)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[0]
        })
        .collect()
}

/// What the load has done.
#[derive(Default)]
struct Progress {
    acknowledged: Vec<u64>,
    failures: Vec<String>,
}

#[test]
fn compose_cluster_survives_kill_pause_and_disconnect_under_load() {
    let compose = match compose_command() {
        Ok(compose) => compose,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    let project = Project::up(compose);
    project.await_all_well();
    for node in NODES {
        assert_eq!(project.http(node, "/readyz").unwrap().0, 200, "{node} is not ready");
        assert_eq!(project.http(node, "/healthz").unwrap().0, 200);
    }
    assert!(project.tool(&["fs", "mkdir", "/load"], b"").status.success());

    let progress = Arc::new((Mutex::new(Progress::default()), Condvar::new()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            for index in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let path = format!("/load/{index}");
                let put = project.tool(&["fs", "put", "-", &path], &contents(index));
                let (state, changed) = &*progress;
                let mut state = state.lock().unwrap();
                if put.status.success() {
                    state.acknowledged.push(index);
                } else {
                    state.failures.push(format!("{path}: {}", String::from_utf8_lossy(&put.stderr)));
                }
                changed.notify_all();
            }
        });
        // Whatever fails below, the load has to end, or the scope would wait for ever.
        let story = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| faults(&project, &progress)));
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
        if let Err(panic) = story {
            std::panic::resume_unwind(panic);
        }
    });

    let state = progress.0.lock().unwrap();
    assert!(
        state.failures.is_empty(),
        "a single failure at a time is survived, yet:\n{}",
        state.failures.join("\n")
    );
    assert!(state.acknowledged.len() >= 20, "only {} files", state.acknowledged.len());
    for &index in &state.acknowledged {
        let read = project.tool(&["fs", "cat", &format!("/load/{index}")], b"");
        assert!(read.status.success(), "/load/{index}: {}", String::from_utf8_lossy(&read.stderr));
        assert!(read.stdout == contents(index), "/load/{index} reads back as something else");
    }
    let (status, body) = project.http("meta-1", "/lookup?path=/load/4").unwrap();
    let found: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(found["size"], (4 << 20) + 1);
    assert!(found["extents"][0]["servers"].as_array().unwrap().len() >= 2, "{found:#}");
}

/// One fault after the other, each under load, each healed before the next.
fn faults(project: &Project, progress: &(Mutex<Progress>, Condvar)) {
    let go_on = |what: &str| {
        tell(what);
        let (state, changed) = progress;
        let state = state.lock().unwrap();
        let goal = state.acknowledged.len() + 3;
        let (_state, waited) =
            changed.wait_timeout_while(state, PATIENCE, |s| s.acknowledged.len() < goal).unwrap();
        assert!(!waited.timed_out(), "the load does not go on: {what}");
    };
    go_on("all well");

    let leader = project.leader();
    done("docker", &["kill", &project.container(&leader)]);
    go_on("leader killed");
    done("docker", &["start", &project.container(&leader)]);
    project.await_all_well();

    done("docker", &["kill", &project.container("data-1")]);
    go_on("data-1 killed");
    done("docker", &["start", &project.container("data-1")]);
    project.await_all_well();

    done("docker", &["pause", &project.container("data-2")]);
    go_on("data-2 paused");
    done("docker", &["unpause", &project.container("data-2")]);
    project.await_all_well();

    let leader = project.leader();
    done("docker", &["pause", &project.container(&leader)]);
    go_on("leader paused");
    done("docker", &["unpause", &project.container(&leader)]);
    project.await_all_well();

    for node in [project.leader(), "data-3".to_owned()] {
        let (network, container) = (project.network(), project.container(&node));
        done("docker", &["network", "disconnect", &network, &container]);
        go_on(&format!("{node} disconnected"));
        // It may come back with another address; its name is what the others know.
        done("docker", &["network", "connect", "--alias", &node, &network, &container]);
        project.await_all_well();
    }
    go_on("all healed");
}
