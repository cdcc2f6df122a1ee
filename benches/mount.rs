//! Load for a mount beside a passthrough: metadata calls, small files, large files, and what people do with a tree.
//!
//! Every figure is taken on both directories, one right after the other, in each of several runs; medians are printed
//! as Markdown. Caches of the whole machine are dropped before what is called cold, so it needs root. Plain threads
//! and plain calls, of the standard library alone: the compiler builds it in seconds. Not here: the cluster and both
//! mounts (`scripts/bench-mount`).
//!
//! ```text
//! mount --here DIR --passthrough DIR --scratch DIR [--quick] [--runs N]
//! ```
#![allow(clippy::unwrap_used, reason = "a measurement that fails is no measurement")]

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WORKERS: [usize; 3] = [1, 4, 16];
/// What is listed, and what is stat'ed.
const LISTED: usize = 10_000;
/// Files of the tree that is unpacked and searched, and how many a directory has.
const TREE: usize = 5_000;
const TREE_WIDTH: usize = 100;
const MIB: usize = 1 << 20;

/// How much is done.
struct Plan {
    /// Of a figure that counts calls.
    time: Duration,
    /// Of the large file.
    mebibytes: usize,
    /// How many of the listed files are stat'ed by `workers`.
    stats: fn(workers: usize) -> usize,
    runs: usize,
}

/// One line of the table: both sides' figures of all runs.
struct Row {
    what: String,
    workers: usize,
    unit: &'static str,
    /// The least ratio that is promised.
    floor: Option<f64>,
    here: Vec<f64>,
    passthrough: Vec<f64>,
}

/// Both directories, and the table as it grows.
struct Bench {
    sides: [PathBuf; 2],
    rows: RefCell<Vec<Row>>,
}

impl Bench {
    /// Takes one figure on both sides. Higher is better, always.
    fn figure(
        &self,
        what: &str,
        workers: usize,
        unit: &'static str,
        floor: Option<f64>,
        measure: impl Fn(&Path) -> f64,
    ) {
        let [here, passthrough] = [0, 1].map(|side| measure(&self.sides[side]));
        eprintln!("{what}, {workers}: {here:.1} here, {passthrough:.1} passthrough ({unit})");
        let mut rows = self.rows.borrow_mut();
        match rows.iter_mut().find(|row| row.what == what && row.workers == workers) {
            Some(row) => {
                row.here.push(here);
                row.passthrough.push(passthrough);
            }
            None => rows.push(Row {
                what: what.to_owned(),
                workers,
                unit,
                floor,
                here: vec![here],
                passthrough: vec![passthrough],
            }),
        }
    }

    fn print(&self) {
        println!("| what | workers | passthrough | here | unit | ratio | floor |");
        println!("|---|---|---|---|---|---|---|");
        for row in self.rows.borrow_mut().iter_mut() {
            let (here, passthrough) = (median(&mut row.here), median(&mut row.passthrough));
            let floor = row.floor.map_or(String::new(), |floor| format!("{floor:.2} x"));
            println!(
                "| {} | {} | {passthrough:.0} | {here:.0} | {} | {:.2} x | {floor} |",
                row.what,
                row.workers,
                row.unit,
                here / passthrough
            );
        }
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut here, mut passthrough, mut scratch) = (None, None, None);
    let mut plan = Plan { time: Duration::from_secs(3), mebibytes: 1024, stats: |_| LISTED, runs: 3 };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--here" => here = Some(PathBuf::from(value())),
            "--passthrough" => passthrough = Some(PathBuf::from(value())),
            "--scratch" => scratch = Some(PathBuf::from(value())),
            "--runs" => plan.runs = value().parse().unwrap(),
            "--quick" => {
                plan = Plan {
                    time: Duration::from_millis(400),
                    mebibytes: 256,
                    stats: |workers| if workers == 1 { 2_000 } else { 5_000 },
                    runs: 1,
                };
            }
            // `cargo bench` and `cargo test --benches` say so to every target.
            "--bench" | "--test" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let (Some(here), Some(passthrough), Some(scratch)) = (here, passthrough, scratch) else {
        println!("nothing to measure: see scripts/bench-mount");
        return;
    };
    let archive = archive(&scratch);
    let bench = Bench { sides: [here, passthrough], rows: RefCell::default() };
    for run in 0..plan.runs {
        eprintln!("run {} of {}", run + 1, plan.runs);
        // Every run has directories of its own, that are empty.
        let root = format!("run-{run}");
        for side in &bench.sides {
            fs::create_dir(side.join(&root)).unwrap();
        }
        metadata(&bench, &plan, &root);
        listing(&bench, &plan, &root);
        small_files(&bench, &plan, &root);
        large_file(&bench, &plan, &root);
        tree(&bench, &root, &archive);
        // What the last run leaves goes with the cluster.
        if run + 1 < plan.runs {
            for side in &bench.sides {
                fs::remove_dir_all(side.join(&root)).unwrap();
            }
        }
    }
    bench.print();
}

/// Creates, renames, removals and directories, each worker in a directory of its own.
fn metadata(bench: &Bench, plan: &Plan, root: &str) {
    for workers in WORKERS {
        let name = format!("{root}/meta-{workers}");
        let place = |dir: &Path, worker: usize| dir.join(&name).join(worker.to_string());
        for side in &bench.sides {
            for worker in 0..workers {
                fs::create_dir_all(place(side, worker)).unwrap();
            }
        }
        let floor = match workers {
            1 => Some(0.2),
            16 => Some(0.15),
            _ => None,
        };
        bench.figure("create", workers, "1/s", floor, |dir| {
            rate(workers, plan.time, |worker, call| {
                drop(File::create_new(place(dir, worker).join(format!("f{call}"))).unwrap());
                true
            })
        });
        bench.figure("rename", workers, "1/s", None, |dir| {
            rate(workers, plan.time, |worker, call| {
                let name = |call: u64| match call {
                    0 => place(dir, worker).join("f0"),
                    call => place(dir, worker).join(format!("r{}", call % 2)),
                };
                fs::rename(name(call), name(call + 1)).unwrap();
                true
            })
        });
        // What create made, save the one that was renamed; it may be done before the time is.
        bench.figure("unlink", workers, "1/s", None, |dir| {
            rate(workers, plan.time, |worker, call| {
                match fs::remove_file(place(dir, worker).join(format!("f{}", call + 1))) {
                    Ok(()) => true,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
                    Err(e) => panic!("{e}"),
                }
            })
        });
        bench.figure("mkdir", workers, "1/s", None, |dir| {
            rate(workers, plan.time, |worker, call| {
                fs::create_dir(place(dir, worker).join(format!("d{call}"))).unwrap();
                true
            })
        });
    }
}

/// A directory of many files, seen cold: one by one, and as `ls -l` does.
fn listing(bench: &Bench, plan: &Plan, root: &str) {
    let name = format!("{root}/listed");
    let file = |dir: &Path, index: usize| dir.join(&name).join(format!("file-{index}"));
    for side in &bench.sides {
        fs::create_dir(side.join(&name)).unwrap();
        share(16, LISTED, |index| drop(File::create_new(file(side, index)).unwrap()));
    }
    for workers in WORKERS {
        let floor = match workers {
            1 => Some(0.4),
            16 => Some(0.2),
            _ => None,
        };
        let count = (plan.stats)(workers);
        bench.figure("stat, cold", workers, "1/s", floor, |dir| {
            drop_caches();
            share(workers, count, |index| assert!(fs::metadata(file(dir, index)).unwrap().is_file()))
        });
    }
    // Half the time: twice as many names a second.
    bench.figure("`ls -l` of 10,000, cold", 1, "names/s", Some(2.0), |dir| {
        drop_caches();
        let began = Instant::now();
        run(Command::new("ls").arg("-l").arg(dir.join(&name)));
        per_second(LISTED, began)
    });
}

fn small_files(bench: &Bench, plan: &Plan, root: &str) {
    let bytes = noise(4096, 1);
    for workers in [1, 16] {
        let name = format!("{root}/small-{workers}");
        for side in &bench.sides {
            fs::create_dir(side.join(&name)).unwrap();
        }
        bench.figure("create + 4 KiB + fsync", workers, "1/s", None, |dir| {
            rate(workers, plan.time, |worker, call| {
                let path = dir.join(&name).join(format!("{worker}-{call}"));
                let mut file = File::create_new(path).unwrap();
                file.write_all(&bytes).unwrap();
                file.sync_all().unwrap();
                true
            })
        });
    }
}

fn large_file(bench: &Bench, plan: &Plan, root: &str) {
    let name = format!("{root}/large");
    let bytes = noise(MIB, 2);
    // Three replicas go to the disk that the passthrough writes once: 0.8 of a third.
    bench.figure("sequential write + fsync", 1, "MiB/s", Some(0.8 / 3.0), |dir| {
        let began = Instant::now();
        let mut file = File::create_new(dir.join(&name)).unwrap();
        for _ in 0..plan.mebibytes {
            file.write_all(&bytes).unwrap();
        }
        file.sync_all().unwrap();
        per_second(plan.mebibytes, began)
    });
    bench.figure("sequential read, cold", 1, "MiB/s", Some(0.8), |dir| {
        drop_caches();
        let began = Instant::now();
        let (mut file, mut buffer, mut seen) = (File::open(dir.join(&name)).unwrap(), vec![0; MIB], 0);
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => break,
                count => seen += count,
            }
        }
        assert_eq!(seen, plan.mebibytes * MIB, "the file is as long as it was written");
        per_second(plan.mebibytes, began)
    });
    for workers in [1, 16] {
        bench.figure("random read of 4 KiB, cold", workers, "1/s", None, |dir| {
            drop_caches();
            let file = OpenOptions::new().read(true).open(dir.join(&name)).unwrap();
            let pages = (plan.mebibytes * MIB / 4096) as u64;
            rate(workers, plan.time, |worker, call| {
                let mut page = [0; 4096];
                let index = mix(((worker as u64) << 40) + call) % pages;
                file.read_exact_at(&mut page, index * 4096).unwrap();
                true
            })
        });
    }
}

fn tree(bench: &Bench, root: &str, archive: &Path) {
    let name = format!("{root}/tree");
    for side in &bench.sides {
        fs::create_dir(side.join(&name)).unwrap();
    }
    bench.figure("untar of 5,000 files", 1, "files/s", None, |dir| {
        let began = Instant::now();
        run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir.join(&name)));
        per_second(TREE, began)
    });
    bench.figure("`grep -r` in 5,000 files, cold", 1, "files/s", None, |dir| {
        drop_caches();
        let began = Instant::now();
        // In no file: every one is read to its end, and grep ends with 1.
        let status = Command::new("grep")
            .args(["-r", "-q", "needle in a haystack"])
            .arg(dir.join(&name))
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(1), "grep reads all files and finds nothing");
        per_second(TREE, began)
    });
}

/// An archive of text files as sources are: most are small.
fn archive(scratch: &Path) -> PathBuf {
    let source = scratch.join("source");
    for index in 0..TREE {
        let dir = source.join(format!("dir-{}", index / TREE_WIDTH));
        if index % TREE_WIDTH == 0 {
            fs::create_dir_all(&dir).unwrap();
        }
        let len = 200 + usize::try_from(mix(index as u64) % 12_000).unwrap();
        let text: Vec<u8> = noise(len, index as u64).iter().map(|b| b'a' + b % 26).collect();
        fs::write(dir.join(format!("file-{index}.rs")), text).unwrap();
    }
    let archive = scratch.join("tree.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&source).arg("."));
    archive
}

/// Calls a second of so many workers. A call is told its worker and how many that made before; one that returns
/// false was not made, and the worker has nothing more to do.
fn rate(workers: usize, time: Duration, call: impl Fn(usize, u64) -> bool + Sync) -> f64 {
    let (stop, total, began) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
    let ended = std::thread::scope(|scope| {
        let all: Vec<_> = (0..workers)
            .map(|worker| {
                let (call, stop, total) = (&call, &stop, &total);
                scope.spawn(move || {
                    let mut calls = 0;
                    while began.elapsed() < time && !stop.load(Ordering::Relaxed) {
                        if !call(worker, calls) {
                            // The others would go on alone: that is no figure of so many workers.
                            stop.store(true, Ordering::Relaxed);
                            break;
                        }
                        calls += 1;
                    }
                    total.fetch_add(calls, Ordering::Relaxed);
                })
            })
            .collect();
        for worker in all {
            worker.join().expect("a worker panicked");
        }
        began.elapsed()
    });
    total.into_inner() as f64 / ended.as_secs_f64()
}

/// Calls a second of so many workers that share a number of calls among themselves.
fn share(workers: usize, count: usize, call: impl Fn(usize) + Sync) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let call = &call;
            scope.spawn(move || (worker..count).step_by(workers).for_each(call));
        }
    });
    per_second(count, began)
}

fn per_second(count: usize, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

/// Writes out what is dirty and drops names, attributes and pages, of the kernel's own filesystems too.
fn drop_caches() {
    run(&mut Command::new("sync"));
    fs::write("/proc/sys/vm/drop_caches", "3").expect("dropping caches needs root");
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// Bytes that do not compress, the same ones for the same seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    (0..len.div_ceil(8) as u64).flat_map(|index| mix((seed << 32) + index).to_le_bytes()).take(len).collect()
}

/// Splitmix64: spreads a counter over all numbers.
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
