//! A whole cluster in one thread, under a seed: metadata servers, data servers and clients as they ship, on a network, disks and
//! clocks that are simulated, with faults and changes of the members drawn from the seed. Every run prints its seed and can be repeated
//! to the same trace.
//!
//! Each run is a process of its own (`a_run`, started by the other tests), so that nothing that one leaves behind, not even a counter
//! of the standard library, changes the next.
//!
//! `scripts/simulate` runs many seeds, repeats one, or makes it smaller. `RUST_LOG` shows what the servers say.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

#[path = "../judges/mod.rs"]
mod judges;

mod cluster;
mod faults;
mod host;
mod members;
mod model_rules;
mod random_histories;
mod roll;
mod run;
mod seeded;
mod shrink;

use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use judges::{history, linearizability, model, stories, workload};
use rand::RngExt;

/// Seeds that every test run repeats.
const FIXED: std::ops::Range<u64> = 1..9;
/// Seeds that once broke a rule: half of a write was read; a leader that had been added was missing from the map; a server that had
/// been removed was told so by nobody it knew; a judge that was wrong about a taken name; entries were sent to a server that had been
/// wiped, which followed what was purged meanwhile; a leader that had proposed its own removal and was cut off led nobody for ever; and
/// one that was removed before it had heard of any member asked nobody.
const BROKE_ONCE: [u64; 7] =
    [708_199_578, 708_200_553, 708_200_639, 708_199_805, 2_043_032_593, 2_575_048_814, 2_575_049_385];
/// Fresh seeds of a test run, unless the environment says otherwise.
const FRESH: u64 = 8;
/// Runs that making a failing one smaller may take.
const SHRINK_RUNS_MAX: usize = 60;

/// What panicked in a run.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: must be a number")))
}

/// Runs a seed in a process of its own; of its disturbances only those in `keep`, if given.
fn child(seed: u64, keep: Option<&[usize]>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["a_run", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("POHMELFS_SEED", seed.to_string());
    if let Some(keep) = keep {
        let list: Vec<String> = keep.iter().map(usize::to_string).collect();
        command.env("POHMELFS_KEEP_FAULTS", list.join(","));
    }
    command.output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn line<'a>(output: &'a str, begin: &str) -> &'a str {
    output.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or("did not come to its end")
}

/// Runs seeds beside each other, as many as there are processors, until `is_enough`; gives how many ran, and those that broke a rule
/// with what they printed.
fn run_all(
    seeds: impl Iterator<Item = u64> + Send,
    is_enough: impl Fn(usize) -> bool + Sync,
) -> (u64, Vec<(u64, String)>) {
    let left = Mutex::new(seeds);
    let failed = Mutex::new(Vec::new());
    let ran = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while !is_enough(failed.lock().unwrap().len()) {
                    let Some(seed) = left.lock().unwrap().next() else { return };
                    let output = child(seed, None);
                    let text = printed(&output);
                    println!("seed {seed}: {}", line(&text, "RUN "));
                    ran.fetch_add(1, Ordering::Relaxed);
                    if !output.status.success() {
                        failed.lock().unwrap().push((seed, text));
                    }
                }
            });
        }
    });
    (ran.into_inner(), failed.into_inner().unwrap())
}

fn assert_none_failed((ran, failed): (u64, Vec<(u64, String)>)) {
    for (seed, text) in &failed {
        println!("==== seed {seed}\n{text}");
    }
    let seeds: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    println!("SUMMARY {ran} runs, {} broke a rule: {seeds:?}", seeds.len());
    assert!(seeds.is_empty(), "seeds {seeds:?} broke a rule; scripts/simulate --replay SEED shows how");
}

fn show_what_servers_say() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_ansi(false)
        .without_time()
        .init();
}

#[test]
#[ignore = "one run, for the tests below and for people: POHMELFS_SEED names it"]
fn a_run() {
    let seed = number("POHMELFS_SEED").expect("POHMELFS_SEED=N");
    if std::env::var("RUST_LOG").is_ok() {
        // On a thread of its own: hash maps are keyed by thread, and those of this one are to be the seed's.
        std::thread::spawn(show_what_servers_say).join().unwrap();
    }
    let mut plan = run::Plan::of(seed);
    if let Ok(keep) = std::env::var("POHMELFS_KEEP_FAULTS") {
        let keep: Vec<usize> = keep.split(',').filter_map(|at| at.parse().ok()).collect();
        let all = std::mem::take(&mut plan.disturbances);
        plan.disturbances =
            all.into_iter().enumerate().filter(|(at, _)| keep.contains(at)).map(|(_, d)| d).collect();
    }
    println!("seed {seed}: {} clients, {} calls", plan.clients, plan.calls);
    for timed in plan.disturbances.iter().flatten() {
        println!("{timed}");
    }
    // The tasks of servers catch what panics in a request, and go on.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap().push(format!("something panicked: {panic}"));
        usual(panic);
    }));
    let mut verdict = run::run(&plan);
    verdict.broken.append(&mut PANICS.lock().unwrap());
    for order in &verdict.orders {
        println!("ordered {order}");
    }
    for (server, reason) in &verdict.gave_up {
        println!("{server} gave up: {reason}");
    }
    println!(
        "RUN {} calls ({} unknown), {} records, {} reads, {} faults, {} orders, {:.1} s, {} looks, trace {:016x}",
        verdict.calls,
        verdict.unknown,
        verdict.records,
        verdict.reads,
        plan.disturbances.iter().map(Vec::len).sum::<usize>(),
        verdict.orders.len(),
        verdict.took.as_secs_f64(),
        verdict.looks,
        verdict.trace,
    );
    assert!(verdict.broken.is_empty(), "seed {seed}:\n{}", verdict.broken.join("\n"));
}

#[test]
#[ignore = "makes a run that fails smaller, for people: POHMELFS_SEED names it"]
fn a_smaller_run() {
    let seed = number("POHMELFS_SEED").expect("POHMELFS_SEED=N");
    let all: Vec<usize> = (0..run::Plan::of(seed).disturbances.len()).collect();
    assert!(!child(seed, None).status.success(), "seed {seed} breaks no rule");
    let found = shrink::shrink(&all, SHRINK_RUNS_MAX, |keep| {
        let fails = !child(seed, Some(keep)).status.success();
        println!("with disturbances {keep:?}: {}", if fails { "broken" } else { "holds" });
        fails
    });
    println!("{}", printed(&child(seed, Some(&found.list))));
    println!("fewest disturbances, after {} runs: {:?}", found.runs, found.list);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 11, 18] {
        let [first, second] = [(); 2].map(|()| line(&printed(&child(seed, None)), "RUN ").to_owned());
        assert!(first.contains("trace"), "seed {seed}: {first}");
        assert_eq!(first, second, "seed {seed}");
    }
}

/// A patch that fits no more tells `scripts/simulate --broken` nothing.
#[test]
fn broken_builds_fit_the_sources() {
    let root = env!("CARGO_MANIFEST_DIR");
    let patches = std::fs::read_dir(format!("{root}/tests/simulation/broken")).unwrap();
    let mut count = 0;
    for patch in patches.map(|entry| entry.unwrap().path()) {
        let mut command = Command::new("patch");
        command.args(["--dry-run", "--force", "--strip=1", "--directory", root, "--input"]).arg(&patch);
        let Ok(output) = command.output() else {
            println!("there is no program `patch` here");
            return;
        };
        assert!(output.status.success(), "{} fits no more:\n{}", patch.display(), printed(&output));
        count += 1;
    }
    assert!(count > 10, "{count} patches");
}

#[test]
fn fixed_seeds_hold() {
    assert_none_failed(run_all(FIXED.chain(BROKE_ONCE), |_| false));
}

/// `POHMELFS_SEEDS` of them (or as many as there is time for in `POHMELFS_MINUTES`), from `POHMELFS_FROM` on; with
/// `POHMELFS_STOP_AT_FIRST` no more once one has failed.
#[test]
fn fresh_seeds_hold() {
    let from =
        number("POHMELFS_FROM").unwrap_or_else(|| rand::rng().random_range(1_000..u64::from(u32::MAX)));
    let until = number("POHMELFS_MINUTES")
        .map(|m| std::time::Instant::now() + std::time::Duration::from_secs(m * 60));
    let count = if until.is_some() { u64::MAX - from } else { number("POHMELFS_SEEDS").unwrap_or(FRESH) };
    let at_first = std::env::var("POHMELFS_STOP_AT_FIRST").is_ok();
    let is_enough = |failed: usize| {
        (at_first && failed > 0) || until.is_some_and(|until| std::time::Instant::now() >= until)
    };
    assert_none_failed(run_all(from..from + count, is_enough));
}
