//! Makes a namespace large, and measures creates and lookups in one that is: for `scripts/bench-memory` and `scripts/bench-size`.
//!
//! ```text
//! fill --cluster 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 --from 0 --to 100000      # empty files, 1,000 in a directory
//! fill --cluster ... --creates 10 --to 100000    # ten seconds of creates in random ones of the directories that are there
//! fill --cluster ... --creates 10 --to 100000 --dirs 10    # the same in ten of them
//! fill --cluster ... --lookups 10 --to 100000    # ten seconds of lookups of random ones of the names that are there
//! ```
//!
//! `--creates` and `--lookups` print a line for each second, `SECOND CALLS` (seconds since the epoch), and then
//! `rate CALLS_PER_SECOND p50 MILLISECONDS p99 MILLISECONDS`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool for developers: a panic says what is wrong"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use pohmelfs::client::{Client, ClientOptions, Spread};
use pohmelfs::types::{InodeId, Name, NodeAddress};
use rand::RngExt as _;

/// As many as keep three servers busy.
const CALLERS: u64 = 128;
/// A directory of a size that people make.
const DIR_LEN: u64 = 1_000;

/// What the command line asked for.
#[derive(Default)]
struct Asked {
    cluster: String,
    from: u64,
    to: u64,
    creates: u64,
    lookups: u64,
    callers: u64,
    /// Directories that creates go to; 0: all.
    dirs: u64,
}

impl Asked {
    fn parse() -> Self {
        let mut arguments = std::env::args().skip(1);
        let mut asked = Self { callers: CALLERS, ..Self::default() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().expect("a value");
            match argument.as_str() {
                "--cluster" => asked.cluster = value(),
                "--from" => asked.from = value().parse().unwrap(),
                "--to" => asked.to = value().parse().unwrap(),
                "--creates" => asked.creates = value().parse().unwrap(),
                "--lookups" => asked.lookups = value().parse().unwrap(),
                "--dirs" => asked.dirs = value().parse().unwrap(),
                "--callers" => asked.callers = value().parse().unwrap(),
                // `cargo bench` and `cargo test --benches` say so to every target.
                "--bench" | "--test" => {}
                other => panic!("unknown argument {other}"),
            }
        }
        asked
    }
}

#[tokio::main]
async fn main() {
    let asked = Asked::parse();
    if asked.cluster.is_empty() {
        println!("nothing to fill: give --cluster (see scripts/bench-memory)");
        return;
    }
    let servers: Vec<NodeAddress> = asked.cluster.split(',').map(|a| NodeAddress(a.to_owned())).collect();
    let options = ClientOptions { label: "fill".into(), spread: Spread::Even, ..ClientOptions::default() };
    let client = Client::connect(&servers, options).await.unwrap();
    // A part that is measured begins where the tree does.
    let measured = asked.creates > 0 || asked.lookups > 0;
    let first = if measured { 0 } else { asked.from / DIR_LEN };
    let mut dirs: Vec<InodeId> = Vec::new();
    for dir in first..asked.to.div_ceil(DIR_LEN) {
        dirs.push(
            client
                .mkdir_all(format!("/fill-{}/{}", dir / DIR_LEN, dir % DIR_LEN), 0o755)
                .await
                .unwrap()
                .inode,
        );
    }
    let dirs = Arc::new(dirs);
    if measured {
        measure(&client, &dirs, &asked).await;
    } else {
        fill(&client, dirs, first, &asked).await;
    }
    client.close().await;
}

fn file(number: u64) -> Name {
    Name::new(format!("file-{number:08}.dat")).unwrap()
}

async fn fill(client: &Client, dirs: Arc<Vec<InodeId>>, first: u64, asked: &Asked) {
    let (next, to, began) = (Arc::new(AtomicU64::new(asked.from)), asked.to, Instant::now());
    let callers: Vec<_> = (0..asked.callers)
        .map(|_| {
            let (client, dirs, next) = (client.clone(), dirs.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= to {
                        return;
                    }
                    let dir = dirs[usize::try_from(number / DIR_LEN - first).unwrap()];
                    client.create_at(dir, file(number), 0o644, true).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    println!("{} inodes in {:.1?}", to - asked.from, began.elapsed());
}

async fn measure(client: &Client, dirs: &Arc<Vec<InodeId>>, asked: &Asked) {
    let epoch = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let (seconds, stamp) = (asked.creates.max(asked.lookups), epoch().as_nanos());
    let (began, first) = (Instant::now(), epoch().as_secs());
    let end = began + Duration::from_secs(seconds);
    let took = Arc::new(Mutex::new(Vec::<(u64, u32)>::new()));
    let callers: Vec<_> = (0..asked.callers)
        .map(|caller| {
            let (client, dirs, took) = (client.clone(), dirs.clone(), took.clone());
            let (creates, to) = (asked.creates > 0, asked.to);
            // Creates go to every so many-th directory.
            let every = (dirs.len() as u64).checked_div(asked.dirs).unwrap_or(1).max(1);
            tokio::spawn(async move {
                let (mut own, mut count) = (Vec::new(), 0_u64);
                loop {
                    let mut number = rand::rng().random_range(0..to);
                    if creates {
                        number -= number % (every * DIR_LEN);
                    }
                    let dir = dirs[usize::try_from(number / DIR_LEN).unwrap()];
                    let from = Instant::now();
                    if from >= end {
                        break;
                    }
                    if creates {
                        let name = Name::new(format!("new-{stamp}-{caller}-{count}")).unwrap();
                        client.create_at(dir, name, 0o644, true).await.unwrap();
                    } else {
                        client.lookup(dir, &file(number)).await.unwrap();
                    }
                    count += 1;
                    own.push((began.elapsed().as_secs(), u32::try_from(from.elapsed().as_micros()).unwrap()));
                }
                took.lock().unwrap().append(&mut own);
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let mut took = std::mem::take(&mut *took.lock().unwrap());
    for second in 0..seconds {
        println!("{} {}", first + second, took.iter().filter(|(at, _)| *at == second).count());
    }
    took.sort_unstable_by_key(|(_, micros)| *micros);
    let quantile = |part: usize| f64::from(took[(took.len() - 1) * part / 100].1) / 1000.0;
    println!("rate {} p50 {:.2} p99 {:.2}", took.len() as u64 / seconds, quantile(50), quantile(99));
}
