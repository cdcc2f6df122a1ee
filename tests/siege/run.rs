//! A siege from its begin to its verdict: windows of load and faults, each of which ends in quiet and is judged by itself.
//!
//! ```text
//! window: clients call, servers are hurt ──> all is mended ──> the last calls return ──> judged ──> its files are removed
//! at the end: every byte of every replica, what each window left to be kept, memory
//! ```
//!
//! A history is judged for each directory of a window, so that the search for an order ends. Holds: the verdict is about answers and
//! bytes, never about how long something took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pohmelfs::client::{Client, ClientOptions};
use pohmelfs::types::NodeAddress;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::common::load::{read_all, write_file};
use super::common::{Cluster, Load, content_of, until};
use super::hosts::Hosts;
use super::judges::invariants::{whole_namespace, whole_replicas};
use super::judges::workload::{self, Work};
use super::judges::{Clock, judge};
use super::nemesis::Nemesis;
use super::watch::{Memory, Seen};

/// Who reads the files at the end of a window.
const JUDGE: u32 = 1_000;
/// After all is mended, calls and connects may still wait for half a minute.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// What is written reaches a disk by itself after so long: kernels do so.
const WRITE_BACK_EVERY: Duration = Duration::from_secs(10);
/// Lengths of the files that each window leaves: inline, one block, several.
const KEPT_LENS: [usize; 3] = [300, 9_000, 400_000];

/// How long and how much.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub length: Duration,
    /// Of load and faults, until it is judged.
    pub window: Duration,
    /// Directories of a window, each with a history of its own.
    pub dirs: u32,
    /// Clients of each.
    pub clients: u32,
    /// Calls of each directory.
    pub calls: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Promises that were broken; empty: all is well.
    pub broken: Vec<String>,
    pub windows: u64,
    /// Of the histories: calls, those whose outcome is unknown, clients that were killed.
    pub calls: u64,
    pub unknown: u64,
    pub killed_clients: u64,
    /// Records put into files, and reads of them.
    pub records: u64,
    pub reads: u64,
    /// Of the load beside: calls acknowledged, failed, and files compared.
    pub acked: u64,
    pub failed: u64,
    pub compared: u64,
    /// Files that were kept and read again at the end.
    pub kept: u64,
    /// Blocks and good replicas at the end.
    pub blocks: u64,
    pub replicas: u64,
    pub gave_up: u64,
    pub looks: u64,
    /// Kind of fault, whom it hit, how often.
    pub faults: Vec<(&'static str, &'static str, u64)>,
    pub events: Vec<(f64, String)>,
    pub memory: Vec<Memory>,
    pub took: Duration,
}

/// Runs it.
pub async fn run(plan: &Plan, cluster: Cluster, hosts: Hosts) -> Verdict {
    let began = Instant::now();
    let seen = Seen::default();
    let mut nemesis = Nemesis::new(cluster, hosts, seen.clone(), plan.seed);
    let watching = seen.begin();
    let write_back = begin_write_back(&nemesis.hosts);
    let mut verdict = Verdict::default();
    while began.elapsed() < plan.length {
        window(plan, &mut nemesis, &mut verdict).await;
        if !verdict.broken.is_empty() || !nemesis.broken.is_empty() || !seen.broken().is_empty() {
            // What follows would only hide what led to it.
            break;
        }
    }
    verdict.took = began.elapsed();
    verdict.memory = seen.memory(verdict.took);
    at_the_end(&mut nemesis, &mut verdict).await;
    watching.abort();
    write_back.abort();
    verdict.looks = seen.looks();
    verdict.gave_up = nemesis.gave_up;
    verdict.faults =
        nemesis.counts.iter().map(|((kind, whom), count)| (kind.name(), *whom, *count)).collect();
    verdict.events = std::mem::take(&mut nemesis.events);
    verdict.broken.extend(seen.broken());
    verdict.broken.append(&mut nemesis.broken);
    for node in &nemesis.cluster.nodes {
        if node.log_text().contains("panicked at") {
            verdict.broken.push(format!("{} panicked: see its log", node.name));
        }
    }
    if !verdict.broken.is_empty() {
        nemesis.cluster.show_logs();
    }
    let Nemesis { mut cluster, hosts, .. } = nemesis;
    cluster.kill_all();
    hosts.end().await;
    drop(cluster);
    verdict
}

fn begin_write_back(hosts: &Hosts) -> tokio::task::JoinHandle<()> {
    let disks: Vec<_> = hosts.all.iter().filter_map(|host| host.disk.clone()).collect();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(WRITE_BACK_EVERY).await;
            for disk in disks.clone() {
                let done = tokio::task::spawn_blocking(move || disk.write_back()).await;
                if let Ok(Err(e)) = done {
                    eprintln!("siege: a disk could not be written back: {e}");
                }
            }
        }
    })
}

async fn client(addresses: &[NodeAddress]) -> Client {
    let options = ClientOptions { label: "siege".into(), ..ClientOptions::default() };
    until("a session", async || Client::connect(addresses, options.clone()).await.map_err(|e| e.to_string()))
        .await
}

/// Load, faults, quiet, judgement.
async fn window(plan: &Plan, nemesis: &mut Nemesis, verdict: &mut Verdict) {
    let number = verdict.windows;
    verdict.windows += 1;
    let began = Instant::now();
    let clock = Clock::new(move || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let mut dice = StdRng::seed_from_u64(plan.seed ^ (number << 48));
    let addresses = nemesis.cluster.addresses();
    let top = format!("/window-{number}");
    let owner = client(&addresses).await;
    for (at, len) in KEPT_LENS.into_iter().enumerate() {
        owner.mkdir_all("/kept", 0o755).await.unwrap();
        let name = kept_name(number, at);
        write_file(&owner, &format!("/kept/{name}"), content_of(&name, len).into()).await.unwrap();
    }
    let mut works = Vec::new();
    let mut tasks = Vec::new();
    for dir in 0..plan.dirs {
        let root = owner.mkdir_all(format!("{top}/{dir}"), 0o755).await.unwrap().inode;
        let work = Work::new(clock.clone(), addresses.clone(), root, plan.clients, plan.calls, plan.window);
        for number in 0..plan.clients {
            tasks.push((dir, number, tokio::spawn(workload::run(number, dice.random(), work.clone()))));
        }
        works.push(work);
    }
    owner.close().await;
    let names = Load::creators(&nemesis.cluster, &format!("{top}/names"), 2).await;
    let files = Load::writers(&nemesis.cluster, &format!("{top}/files"), 2, 600_000).await;
    names.set_rest(Duration::from_millis(40));
    files.set_rest(Duration::from_millis(400));

    // Some clients die amid their calls. The first of each directory makes its files: it stays.
    let dying: Vec<usize> =
        (0..tasks.len()).filter(|t| tasks[*t].1 > 0 && dice.random_range(0..8) == 0).collect();
    let deaths: Vec<_> = dying
        .into_iter()
        .map(|task| {
            let after = dice.random_range(Duration::ZERO..plan.window);
            let (dir, number, handle) = (tasks[task].0, tasks[task].1, tasks[task].2.abort_handle());
            let ended = works[dir as usize].ended.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let dies = ended.lock().insert(number);
                handle.abort();
                dies
            })
        })
        .collect();

    nemesis.rage(plan.window).await;
    nemesis.calm().await;
    works.iter().for_each(Work::stop);
    for death in deaths {
        verdict.killed_clients += u64::from(death.await.unwrap());
    }
    let quiet = Instant::now();
    while works.iter().any(|work| work.ended.lock().len() < plan.clients as usize) {
        if quiet.elapsed() > QUIET_WITHIN {
            verdict
                .broken
                .push(format!("clients hang: calls are open {QUIET_WITHIN:?} after all was mended"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (_, _, task) in tasks {
        // Of one that was killed: that it was.
        if task.await.is_err_and(|e| e.is_panic()) {
            verdict.broken.push("a client panicked".into());
        }
    }

    for (what, load) in [("names", names), ("files", files)] {
        let (stopped, failed) = load.stop().await.forgive_failed();
        let found = stopped.compare(&nemesis.cluster).await;
        verdict.failed += failed as u64;
        verdict.acked += found.acked;
        verdict.compared += found.file_count as u64;
        let lines = found.lost.iter().map(|l| format!("lost: {l}"));
        let lines = lines.chain(found.doubled.iter().map(|l| format!("doubled: {l}")));
        verdict.broken.extend(lines.map(|line| format!("window {number}, {what}: {line}")));
    }
    judge_window(number, &works, &nemesis.cluster, verdict).await;
    nemesis.cluster.same_state().await;
    eprintln!(
        "window {number}: {} calls ({} unknown), {} records, {} reads, {} files compared, {} broken so far",
        verdict.calls,
        verdict.unknown,
        verdict.records,
        verdict.reads,
        verdict.compared,
        verdict.broken.len() + nemesis.broken.len()
    );
    if verdict.broken.is_empty() {
        let owner = client(&nemesis.cluster.addresses()).await;
        owner.remove_tree(&top).await.unwrap();
        owner.close().await;
    }
}

/// What all calls of the window say, and what each metadata server shows now.
async fn judge_window(number: u64, works: &[Work], cluster: &Cluster, verdict: &mut Verdict) {
    let mut broken = Vec::new();
    for address in cluster.addresses() {
        let client = client(std::slice::from_ref(&address)).await;
        broken.extend(whole_namespace::broken(&client).await);
        for file in works.iter().flat_map(|work| work.files.all()) {
            if let Err(error) = file.read(&client, &works[0].clock, JUDGE).await {
                broken.push(format!("file {} cannot be read through {address}: {error}", file.name));
            }
        }
        client.close().await;
    }
    let client = client(&cluster.addresses()).await;
    broken.extend(whole_replicas::broken(&client).await);
    client.close().await;
    let mut judged = Vec::new();
    for work in works {
        let history = Arc::new(std::mem::take(&mut *work.history.lock()));
        verdict.calls += history.calls().len() as u64;
        verdict.unknown += history.calls().iter().filter(|call| call.outcome().is_none()).count() as u64;
        let (puts, gots) = work.files.counts();
        verdict.records += puts as u64;
        verdict.reads += gots as u64;
        let files = work.files.clone();
        judged.push(tokio::task::spawn_blocking(move || {
            let mut broken = judge(&history);
            broken.extend(files.broken());
            broken
        }));
    }
    for found in judged {
        broken.extend(found.await.unwrap());
    }
    verdict.broken.extend(broken.into_iter().map(|line| format!("window {number}: {line}")));
}

fn kept_name(window: u64, at: usize) -> String {
    format!("kept-{window}-{at}")
}

/// Everything that was kept is there, and every byte of every replica is right.
async fn at_the_end(nemesis: &mut Nemesis, verdict: &mut Verdict) {
    nemesis.calm().await;
    for host in &mut nemesis.hosts.all {
        if host.skew() != 0 {
            host.set_skew(0);
        }
    }
    let owner = client(&nemesis.cluster.addresses()).await;
    for number in 0..verdict.windows {
        for (at, len) in KEPT_LENS.into_iter().enumerate() {
            let name = kept_name(number, at);
            match read_all(&owner, &format!("/kept/{name}")).await {
                Ok(bytes) if bytes == content_of(&name, len) => verdict.kept += 1,
                Ok(bytes) => {
                    verdict.broken.push(format!("{name} has other bytes ({} of {len})", bytes.len()))
                }
                Err(e) => verdict.broken.push(format!("{name} cannot be read: {e}")),
            }
        }
    }
    owner.close().await;
    // Replicas that a writer left behind are fetched when the check misses them.
    let began = Instant::now();
    loop {
        let report = nemesis.check_deep();
        let problems = match &report {
            Ok(report) if report["problem_count"] == 0 => {
                verdict.blocks = report["blocks"].as_u64().unwrap_or(0);
                verdict.replicas = report["replicas"]["good"].as_u64().unwrap_or(0);
                break;
            }
            Ok(report) => report["problems"].to_string(),
            Err(why) => why.clone(),
        };
        let lost = report.is_ok_and(|report| report["blocks_lost"] != 0);
        if lost || began.elapsed() > QUIET_WITHIN {
            verdict.broken.push(format!("`pohmelfs check --deep` is not clean: {problems}"));
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    nemesis.cluster.same_state().await;
}
