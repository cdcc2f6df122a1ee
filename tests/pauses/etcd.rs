//! Three members of etcd as it comes, and clients that write to them.
//!
//! Holds: a client that gets no answer within a second, or an error, sends the same put to the next member; a put took as long as from its
//! first sending to its acknowledgement. Not here: what happens to the members when.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::common::{grpc, until};

const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const MOVE_LEADER: &str = "/etcdserverpb.Maintenance/MoveLeader";
/// Without an answer for so long a client asks another member.
const TRY: Duration = Duration::from_secs(1);
const VALUE_LEN: usize = 128;

/// The version that is installed.
pub fn version() -> Option<String> {
    let output = Command::new("etcd").arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// The members.
pub struct Etcd {
    dir: TempDir,
    clients: Vec<u16>,
    peers: Vec<u16>,
    members: Vec<Option<Child>>,
}

impl Etcd {
    /// Three members, ready.
    pub async fn start() -> Self {
        let ports = super::common::cluster::free_ports(6);
        let mut etcd = Self {
            dir: tempfile::tempdir().unwrap(),
            clients: ports[..3].to_vec(),
            peers: ports[3..].to_vec(),
            members: vec![None, None, None],
        };
        (0..3).for_each(|member| etcd.run(member));
        etcd.ready().await;
        etcd
    }

    /// Starts a member.
    pub fn run(&mut self, member: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> = (0..3).map(|m| format!("m{m}={}", url(self.peers[m]))).collect();
        let dir: PathBuf = self.dir.path().join(format!("m{member}"));
        let child = Command::new("etcd")
            .args(["--name", &format!("m{member}"), "--log-level", "error"])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-token", "pauses"])
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen-client-urls", &url(self.clients[member])])
            .args(["--advertise-client-urls", &url(self.clients[member])])
            .args(["--listen-peer-urls", &url(self.peers[member])])
            .args(["--initial-advertise-peer-urls", &url(self.peers[member])])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.members[member] = Some(child.unwrap());
    }

    fn signal(&self, member: usize, signal: Signal) {
        let child = self.members[member].as_ref().unwrap();
        rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub fn kill(&mut self, member: usize) {
        self.signal(member, Signal::KILL);
        self.members[member].take().unwrap().wait().unwrap();
    }

    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&mut self, member: usize) {
        self.signal(member, Signal::TERM);
        let mut child = self.members[member].take().unwrap();
        until("the end of a member", async || child.try_wait().unwrap().ok_or("it runs".into())).await;
    }

    /// Leadership goes to another member.
    pub async fn transfer(&self, leader: usize) {
        let (_, target) = self.status((leader + 1) % 3).await.unwrap();
        let send = grpc::connect(&self.address(leader)).await.unwrap();
        grpc::call(&send, MOVE_LEADER, &grpc::with_number(1, target)).await.unwrap();
    }

    fn address(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.clients[member])
    }

    /// Ids of the leader as a member sees it, and of the member.
    async fn status(&self, member: usize) -> Result<(u64, u64), String> {
        let ask = async {
            let send = grpc::connect(&self.address(member)).await?;
            let answer = grpc::call(&send, STATUS, &[]).await?;
            let header = grpc::inner(&answer, 1).ok_or("no header")?;
            let id = grpc::number(header, 2).ok_or("no id")?;
            // A field that is 0 is not sent: there is no leader.
            Ok((grpc::number(&answer, 4).unwrap_or(0), id))
        };
        tokio::time::timeout(TRY, ask).await.map_err(|_| "no answer".to_owned())?
    }

    /// The member that leads.
    pub async fn leader(&self) -> usize {
        until("a leader of etcd", async || {
            for member in 0..3 {
                if let Ok((leader, id)) = self.status(member).await
                    && leader == id
                {
                    return Ok(member);
                }
            }
            Err("none".into())
        })
        .await
    }

    /// Waits until all follow one leader.
    pub async fn ready(&self) {
        until("etcd to be ready", async || {
            let mut leaders = Vec::new();
            for member in 0..3 {
                leaders.push(self.status(member).await?.0);
            }
            let same = leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]);
            if same { Ok(()) } else { Err(format!("{leaders:?}")) }
        })
        .await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acked: Vec<AtomicU64>,
    longest: Mutex<Duration>,
}

/// Clients, each with one put after the other.
pub struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    pub fn start(etcd: &Etcd, count: usize) -> Self {
        let acked = (0..count).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { acked, ..Shared::default() });
        let addresses: Vec<String> = (0..3).map(|member| etcd.address(member)).collect();
        let task = |writer| tokio::spawn(write(shared.clone(), addresses.clone(), writer));
        let tasks = (0..count).map(task).collect();
        Self { shared, tasks }
    }

    /// Waits until every client has had `more` puts acknowledged that began after now.
    pub async fn progress(&self, more: u64) {
        let now: Vec<u64> = self.shared.acked.iter().map(|a| a.load(Ordering::Relaxed)).collect();
        until("progress of every client", async || {
            let done =
                self.shared.acked.iter().zip(&now).map(|(a, before)| a.load(Ordering::Relaxed) - before);
            let slowest = done.min().unwrap_or(0);
            // One may have been in flight.
            if slowest > more { Ok(()) } else { Err(format!("the slowest has {slowest} of {more}")) }
        })
        .await;
    }

    pub fn begin_round(&self) {
        *self.shared.longest.lock() = Duration::ZERO;
    }

    pub fn longest(&self) -> Duration {
        *self.shared.longest.lock()
    }

    pub async fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn write(shared: Arc<Shared>, addresses: Vec<String>, writer: usize) {
    let mut link = None;
    let mut turn = writer;
    let mut count = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        count += 1;
        let mut message = BytesMut::new();
        grpc::field(&mut message, 1, format!("put-{writer}-{count}").as_bytes());
        grpc::field(&mut message, 2, &[b'v'; VALUE_LEN]);
        let began = Instant::now();
        loop {
            let put = async {
                if link.is_none() {
                    link = Some(grpc::connect(&addresses[turn % addresses.len()]).await?);
                }
                grpc::call(link.as_ref().unwrap(), grpc::PUT, &message).await
            };
            if matches!(tokio::time::timeout(TRY, put).await, Ok(Ok(_))) {
                break;
            }
            assert!(began.elapsed() < super::common::LONG, "etcd does not come back");
            link = None;
            turn += 1;
            // A member that refuses at once is not asked in a circle without end.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut longest = shared.longest.lock();
        *longest = began.elapsed().max(*longest);
        shared.acked[writer].fetch_add(1, Ordering::Relaxed);
    }
}
