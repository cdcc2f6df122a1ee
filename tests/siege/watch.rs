//! Looks at every server several times a second: rules that always hold, who leads, how much memory each takes.
//!
//! `siege` starts it; `nemesis` reads what it saw last, so that it never waits for a server that is silent itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pohmelfs::wire::status::{ServerRole, ServerStatus};
use tokio::task::JoinHandle;

use super::common::Cluster;
use super::common::http;
use super::judges::invariants::Watch;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A look that is older says nothing of now.
const FRESH: Duration = Duration::from_secs(2);
/// A process that is younger than this has not taken the memory yet that it works with.
const GROWN_UP: Duration = Duration::from_secs(15);

/// What was seen.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Where to look: names and addresses of HTTP.
    targets: Vec<(String, String)>,
    last: BTreeMap<String, (Instant, ServerStatus)>,
    watch: Watch,
    broken: Vec<String>,
    /// Name, seconds since the begin, resident bytes.
    memory: Vec<(String, f64, u64)>,
}

impl Seen {
    /// Looks at the servers of the cluster from now on.
    pub fn aim(&self, cluster: &Cluster) {
        let targets = cluster.nodes.iter().map(|node| (node.name.clone(), node.http.clone())).collect();
        self.0.lock().targets = targets;
    }

    /// Begins to look, until the task is aborted.
    pub fn begin(&self) -> JoinHandle<()> {
        let (seen, began) = (self.clone(), Instant::now());
        tokio::spawn(async move {
            loop {
                let targets = seen.0.lock().targets.clone();
                let looks = targets.into_iter().map(|(name, address)| {
                    let seen = seen.clone();
                    // Each by itself: one that is silent keeps nobody else from being seen.
                    async move {
                        let look = http::get_json::<ServerStatus>(&address, "/status");
                        if let Ok(Ok(status)) = tokio::time::timeout(FRESH, look).await {
                            seen.take(name, status, began.elapsed());
                        }
                    }
                });
                let all = futures::future::join_all(looks);
                drop(tokio::time::timeout(LOOK_EVERY * 2, all).await);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }

    fn take(&self, name: String, status: ServerStatus, at: Duration) {
        let mut state = self.0.lock();
        if let Some(meta) = &status.meta
            && let Some(broken) = state.watch.look(&name, meta)
            && !state.broken.contains(&broken)
        {
            state.broken.push(broken);
        }
        if Duration::from_millis(status.uptime_ms) > GROWN_UP {
            state.memory.push((name.clone(), at.as_secs_f64(), status.resident_bytes));
        }
        state.last.insert(name, (Instant::now(), status));
    }

    /// What the server said of itself within the last seconds.
    pub fn of(&self, name: &str) -> Option<ServerStatus> {
        let state = self.0.lock();
        state.last.get(name).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, status)| status.clone())
    }

    /// The name of the newest leader that was seen within the last seconds.
    pub fn leader(&self) -> Option<String> {
        let state = self.0.lock();
        let fresh = state.last.iter().filter(|(_, (at, _))| at.elapsed() < FRESH);
        let leaders = fresh.filter_map(|(name, (_, status))| {
            let meta = status.meta.as_ref().filter(|meta| meta.raft_state == "leader")?;
            Some((meta.term, name.clone()))
        });
        leaders.max().map(|(_, name)| name)
    }

    /// Forgets what a server said: it is another process from now on.
    pub fn forget(&self, name: &str) {
        self.0.lock().last.remove(name);
    }

    /// Looks at metadata servers so far.
    pub fn looks(&self) -> u64 {
        self.0.lock().watch.looks
    }

    /// Rules that were broken.
    pub fn broken(&self) -> Vec<String> {
        self.0.lock().broken.clone()
    }

    /// Resident memory of each role over the time.
    pub fn memory(&self, length: Duration) -> Vec<Memory> {
        let state = self.0.lock();
        let roles = [ServerRole::Meta, ServerRole::Data];
        let of = |role: ServerRole| {
            let quarter = |number: u32| {
                let (from, to) = (length.as_secs_f64() * f64::from(number) / 4.0, f64::from(number + 1));
                let to = length.as_secs_f64() * to / 4.0;
                let mut bytes: Vec<u64> = state
                    .memory
                    .iter()
                    .filter(|(name, at, _)| name.starts_with(&role.to_string()) && *at >= from && *at < to)
                    .map(|(_, _, bytes)| *bytes)
                    .collect();
                bytes.sort_unstable();
                bytes
            };
            let median = |bytes: &[u64]| bytes.get(bytes.len() / 2).copied();
            let quarters: Vec<Vec<u64>> = (0..4).map(quarter).collect();
            Memory {
                role: role.to_string(),
                second: median(&quarters[1]),
                last: median(&quarters[3]),
                most: quarters.iter().flatten().copied().max().unwrap_or(0),
                samples: quarters.iter().map(Vec::len).sum(),
            }
        };
        roles.into_iter().map(of).collect()
    }
}

/// Resident bytes of the servers of a role: medians of the second and the last quarter of a run, and the most of all.
#[derive(Clone, Debug)]
pub struct Memory {
    pub role: String,
    pub second: Option<u64>,
    pub last: Option<u64>,
    pub most: u64,
    pub samples: usize,
}

impl Memory {
    /// What the last quarter may take: a quarter more than the second one, and the memory of one more batch of blocks.
    pub fn allowed(&self) -> Option<u64> {
        self.second.map(|second| second + second / 4 + (16 << 20))
    }

    /// It did not grow. None: too few looks.
    pub fn is_flat(&self) -> Option<bool> {
        Some(self.last? <= self.allowed()?)
    }
}
