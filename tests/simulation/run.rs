//! One run: a cluster, clients, what goes wrong, and the verdict.
//!
//! ```text
//! start ──> clients call, faults strike ──> all is mended ──> the last calls return ──> the judge looks ──> verdict
//! ```
//!
//! Holds: the same seed with the same plan gives the same run, which the trace shows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use pohmelfs::types::ROOT_INODE;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::{Cluster, META, meta_addresses};
use super::faults::{self, Disturbance, Fault, Timed};
use super::host::Program;
use super::judges::invariants::{Watch, whole_namespace, whole_replicas};
use super::judges::{Clock, judge};
use super::workload::{self, Work};

/// Between two looks at the servers.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Longest time, after everything is mended, until all calls have returned: calls and connects may wait for half a minute.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// Who reads the files at the end.
const JUDGE: u32 = 1_000;
/// When the faults begin, and when they end.
const FAULTS_FROM: Duration = Duration::from_millis(300);
const FAULTS_UNTIL: Duration = Duration::from_secs(12);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub clients: u32,
    pub calls: usize,
    pub disturbances: Vec<Disturbance>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let clients = dice.random_range(2..=5);
        let calls = dice.random_range(100..=700);
        let disturbances = faults::plan(&mut dice, clients, FAULTS_FROM, FAULTS_UNTIL);
        Self { seed, clients, calls, disturbances }
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Rules that were broken; empty: all is well.
    pub broken: Vec<String>,
    /// Calls recorded, and those whose outcome is unknown.
    pub calls: usize,
    pub unknown: usize,
    /// Records put into files, and reads of them.
    pub records: usize,
    pub reads: usize,
    /// Virtual time that it took.
    pub took: Duration,
    /// Looks at servers.
    pub looks: u64,
    /// Times that a server gave up and was started again.
    pub gave_up: Vec<(String, String)>,
    /// Hash of everything that was seen: equal for equal runs.
    pub trace: u64,
}

/// Runs `plan` in this thread.
pub fn run(plan: &Plan) -> Verdict {
    super::seeded::hold(plan.seed);
    pohmelfs::runtime::simulated::simulate(plan.seed);
    let mut running = Running {
        cluster: Cluster::new(),
        watch: Watch::default(),
        verdict: Verdict::default(),
        trace: DefaultHasher::new(),
        looked: Duration::ZERO,
    };
    let clock = running.cluster.shared.clock.clone();
    let clock = Clock::new(move || clock.load(Ordering::Relaxed));
    let work = Work::new(clock, meta_addresses(), ROOT_INODE, plan.clients, plan.calls, FAULTS_UNTIL);
    for host in 0..running.cluster.hosts.len() {
        running.cluster.start(host);
    }
    for number in 0..plan.clients {
        running.cluster.add(&format!("client-{number}"), client(number, plan.seed, work.clone()));
    }
    let mut faults: Vec<Timed> = plan.disturbances.iter().flatten().cloned().collect();
    faults.sort_by_key(|timed| timed.at);
    for Timed { at, fault } in faults {
        let wait = at.saturating_sub(running.cluster.at);
        running.go_on(wait, || false);
        if let Fault::KillClient(number) = fault {
            work.ended.lock().insert(number);
        }
        faults::strike(&mut running.cluster, &fault);
    }
    running.go_on(Duration::from_secs(1), || all_ended(&work, plan));
    faults::mend_all(&mut running.cluster);
    if !running.go_on(QUIET_WITHIN, || all_ended(&work, plan)) {
        running
            .verdict
            .broken
            .push(format!("clients hang: calls are still open {QUIET_WITHIN:?} after all was mended"));
    }
    running.judge(&work);
    running.end(&work)
}

/// The program of client `number`.
fn client(number: u32, seed: u64, work: Work) -> Program {
    Box::new(move |_disk| Box::pin(workload::run(number, seed, work.clone())))
}

fn all_ended(work: &Work, plan: &Plan) -> bool {
    work.ended.lock().len() == plan.clients as usize
}

struct Running {
    cluster: Cluster,
    watch: Watch,
    verdict: Verdict,
    trace: DefaultHasher,
    looked: Duration,
}

impl Running {
    /// Goes on for `limit` or until `is_done`, and looks at the servers meanwhile; whether it came to that.
    fn go_on(&mut self, limit: Duration, is_done: impl Fn() -> bool) -> bool {
        let until = self.cluster.at + limit;
        while self.cluster.at < until && !is_done() {
            self.cluster.tick();
            if self.cluster.at >= self.looked + LOOK_EVERY {
                self.looked = self.cluster.at;
                self.look();
            }
        }
        is_done()
    }

    fn look(&mut self) {
        for (name, status) in self.cluster.statuses() {
            (&name, status.term, &status.raft_state, status.applied, &status.state_hash)
                .hash(&mut self.trace);
            if let Some(broken) = self.watch.look(&name, &status)
                && !self.verdict.broken.contains(&broken)
            {
                self.verdict.broken.push(broken);
            }
        }
    }

    /// Everything is mended: asks each metadata server for what it sees.
    fn judge(&mut self, work: &Work) {
        let found: Arc<Mutex<Option<Vec<String>>>> = Arc::default();
        let (told, work) = (found.clone(), work.clone());
        self.cluster.add(
            "judge",
            Box::new(move |_disk| {
                let (told, work) = (told.clone(), work.clone());
                Box::pin(async move {
                    let mut broken = Vec::new();
                    for address in meta_addresses() {
                        let client = workload::connect("judge", std::slice::from_ref(&address)).await;
                        broken.extend(whole_namespace::broken(&client).await);
                        for file in work.files.all() {
                            if let Err(error) = file.read(&client, &work.clock, JUDGE).await {
                                broken.push(format!(
                                    "file {} cannot be read through {address}: {error}",
                                    file.name
                                ));
                            }
                        }
                        client.close().await;
                    }
                    let client = workload::connect("judge", &meta_addresses()).await;
                    broken.extend(whole_replicas::broken(&client).await);
                    client.close().await;
                    *told.lock() = Some(broken);
                })
            }),
        );
        if !self.go_on(QUIET_WITHIN, || found.lock().is_some()) {
            self.verdict.broken.push("the servers do not answer the judge".into());
        }
        self.verdict.broken.extend(found.lock().take().unwrap_or_default());
        // With nobody calling, all come to the same index.
        let mut same = false;
        for _ in 0..200 {
            self.go_on(Duration::from_millis(100), || false);
            let statuses = self.cluster.statuses();
            same = statuses.len() == META
                && statuses.iter().all(|(_, s)| {
                    (s.applied, &s.state_hash) == (statuses[0].1.applied, &statuses[0].1.state_hash)
                });
            if same {
                break;
            }
        }
        if !same {
            let at: Vec<_> = self
                .cluster
                .statuses()
                .into_iter()
                .map(|(n, s)| (n, s.raft_state, s.term, s.applied))
                .collect();
            self.verdict.broken.push(format!("the metadata servers do not come to the same state: {at:?}"));
        }
    }

    fn end(mut self, work: &Work) -> Verdict {
        let history = std::mem::take(&mut *work.history.lock());
        self.verdict.broken.extend(judge(&history));
        self.verdict.broken.extend(work.files.broken());
        (self.verdict.records, self.verdict.reads) = work.files.counts();
        (self.verdict.records, self.verdict.reads).hash(&mut self.trace);
        for call in history.calls() {
            call.to_string().hash(&mut self.trace);
        }
        self.verdict.calls = history.calls().len();
        self.verdict.unknown = history.calls().iter().filter(|call| call.outcome().is_none()).count();
        self.verdict.took = self.cluster.at;
        self.verdict.looks = self.watch.looks;
        self.verdict.gave_up = self.cluster.shared.gave_up.lock().clone();
        format!("{:?}", self.cluster.network.counts()).hash(&mut self.trace);
        self.verdict.trace = self.trace.finish();
        self.verdict
    }
}
