//! One run: a cluster, clients, what goes wrong, and the verdict.
//!
//! ```text
//! start ──> clients call, faults strike ──> all is mended ──> the last calls return ──> the judge looks ──> verdict
//! ```
//!
//! Holds: the same seed with the same plan gives the same run, which the trace shows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pohmelfs::types::{Name, ROOT_INODE};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::{Cluster, META, address_of, meta_addresses};
use super::faults::{self, Disturbance, Fault, Timed};
use super::host::Program;
use super::judges::invariants::{
    Watch, map_names_the_voters, removed_serve_nobody, whole_namespace, whole_replicas, whole_roll,
};
use super::judges::{Clock, judge};
use super::members;
use super::roll::Standing;
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
    /// Metadata servers may come and go.
    pub has_newcomers: bool,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let clients = dice.random_range(2..=5);
        let calls = dice.random_range(100..=700);
        let mut disturbances = faults::plan(&mut dice, clients, FAULTS_FROM, FAULTS_UNTIL);
        let changes = members::plan(seed, clients, FAULTS_FROM, FAULTS_UNTIL);
        let has_newcomers = !changes.is_empty();
        disturbances.extend(changes);
        Self { seed, clients, calls, disturbances, has_newcomers }
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
    /// What operators were asked for, and what came of it.
    pub orders: Vec<String>,
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
    if plan.has_newcomers {
        for _ in 0..members::NEWCOMERS {
            running.cluster.newcomer();
        }
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
    let roll = running.cluster.roll.clone();
    running.go_on(QUIET_WITHIN, || roll.open().is_empty());
    running
        .verdict
        .broken
        .extend(roll.open().iter().map(|order| format!("all is mended, and it is not done: {order}")));
    running.judge(&work);
    if plan.has_newcomers {
        running.judge_removed();
        running.judge_clients();
    }
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
        let looks = self.cluster.looks();
        self.cluster.roll.look(&looks);
        for look in looks {
            let (name, meta) = (&look.name, &look.meta);
            (name, meta.term, &meta.raft_state, meta.applied, &meta.state_hash).hash(&mut self.trace);
            if let Some(broken) = self.watch.look(name, meta)
                && !self.verdict.broken.contains(&broken)
            {
                self.verdict.broken.push(broken);
            }
        }
    }

    /// Runs `program` on a host of its own and waits for what it finds.
    fn ask<P>(&mut self, name: &str, program: impl Fn() -> P + 'static)
    where
        P: Future<Output = Vec<String>> + Send + 'static,
    {
        let found: Arc<Mutex<Option<Vec<String>>>> = Arc::default();
        let told = found.clone();
        self.cluster.add(
            name,
            Box::new(move |_disk| {
                let (told, program) = (told.clone(), program());
                Box::pin(async move {
                    let found = program.await;
                    *told.lock() = Some(found);
                })
            }),
        );
        if !self.go_on(QUIET_WITHIN, || found.lock().is_some()) {
            self.verdict.broken.push(format!("the servers do not answer the {name}"));
        }
        self.verdict.broken.extend(found.lock().take().unwrap_or_default());
    }

    /// Everything is mended: asks each voter for what it sees.
    fn judge(&mut self, work: &Work) {
        let voters = self.cluster.roll.all(Standing::Voter);
        let asked = work.clone();
        self.ask("judge", move || {
            let (work, voters) = (asked.clone(), voters.clone());
            async move {
                let mut broken = Vec::new();
                for address in voters.iter().map(|node| address_of(*node)) {
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
                let voters = voters.iter().map(|node| (*node, address_of(*node))).collect();
                broken.extend(map_names_the_voters::broken(&client, &voters).await);
                client.close().await;
                broken
            }
        });
        // With nobody calling, all come to the same index, and to know what they are.
        let mut broken = Vec::new();
        for _ in 0..200 {
            self.go_on(Duration::from_millis(100), || false);
            let looks = self.cluster.looks();
            let statuses: Vec<_> = looks.iter().map(|look| (look.node, &look.meta)).collect();
            broken = whole_roll::broken(&self.cluster.roll.all(Standing::Voter), &statuses);
            if broken.is_empty() {
                break;
            }
        }
        self.verdict.broken.extend(broken);
        self.verdict.broken.extend(self.cluster.roll.broken());
    }

    /// Asks those that were removed and still run for what only a member knows.
    fn judge_removed(&mut self) {
        let removed = self.cluster.roll.all(Standing::Removed).into_iter();
        let up = removed.filter(|node| self.cluster.is_in_service(self.cluster.roll.host(*node)));
        let addresses: Vec<_> = up.map(|node| (node, address_of(node))).collect();
        self.ask("judge of the removed", move || {
            let addresses = addresses.clone();
            async move { removed_serve_nobody::broken(&addresses).await }
        });
    }

    /// A client that knows only those that made the cluster goes on without as many of them as may be away.
    fn judge_clients(&mut self) {
        let voters = self.cluster.roll.all(Standing::Voter);
        let is_connected = Arc::new(AtomicBool::new(false));
        let may_go_on = Arc::new(AtomicBool::new(false));
        let (connected, go_on) = (is_connected.clone(), may_go_on.clone());
        let done = Arc::new(AtomicBool::new(false));
        let does = done.clone();
        self.cluster.add(
            "finder",
            Box::new(move |_disk| {
                let (connected, go_on, does) = (connected.clone(), go_on.clone(), does.clone());
                Box::pin(async move {
                    let client = workload::connect("finder", &meta_addresses()).await;
                    connected.store(true, Ordering::Relaxed);
                    while !go_on.load(Ordering::Relaxed) {
                        pohmelfs::runtime::sleep(LOOK_EVERY).await;
                    }
                    let name = Name::new(b"finder").unwrap();
                    let made = client.mkdir_at(ROOT_INODE, name, 0o755).await;
                    does.store(made.is_ok(), Ordering::Relaxed);
                })
            }),
        );
        self.go_on(QUIET_WITHIN, || is_connected.load(Ordering::Relaxed));
        let spare = voters.len().saturating_sub(1) / 2;
        let hosts = voters.iter().map(|node| self.cluster.roll.host(*node));
        let known: Vec<_> = hosts.filter(|host| *host < META).take(spare).collect();
        known.into_iter().for_each(|host| self.cluster.kill(host));
        may_go_on.store(true, Ordering::Relaxed);
        if !self.go_on(QUIET_WITHIN, || done.load(Ordering::Relaxed)) {
            self.verdict.broken.push(format!("a client does not find the voters, now {voters:?}"));
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
        self.verdict.orders = self.cluster.roll.orders();
        self.verdict.gave_up = self.cluster.shared.gave_up.lock().clone();
        format!("{:?}", self.cluster.network.counts()).hash(&mut self.trace);
        self.verdict.trace = self.trace.finish();
        self.verdict
    }
}
