//! Makes a namespace large: empty files in directories of 10,000, for `scripts/bench-memory`.
//!
//! ```text
//! fill --cluster 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 --from 0 --to 100000
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool for developers: a panic says what is wrong"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pohmelfs::client::{Client, ClientOptions, Spread};
use pohmelfs::types::{InodeId, Name, NodeAddress};

/// As many as keep three servers busy.
const CALLERS: u64 = 128;
/// A directory of a size that people make.
const DIR_LEN: u64 = 10_000;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut cluster, mut from, mut to) = (String::new(), 0_u64, 0_u64);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--cluster" => cluster = value(),
            "--from" => from = value().parse().unwrap(),
            "--to" => to = value().parse().unwrap(),
            // `cargo bench` and `cargo test --benches` say so to every target.
            "--bench" | "--test" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    if cluster.is_empty() {
        println!("nothing to fill: give --cluster (see scripts/bench-memory)");
        return;
    }
    let servers: Vec<NodeAddress> = cluster.split(',').map(|a| NodeAddress(a.to_owned())).collect();
    let options = ClientOptions { label: "fill".into(), spread: Spread::Even, ..ClientOptions::default() };
    let client = Client::connect(&servers, options).await.unwrap();
    let mut dirs: Vec<InodeId> = Vec::new();
    for dir in from / DIR_LEN..to.div_ceil(DIR_LEN) {
        dirs.push(client.mkdir_all(format!("/fill-{dir}"), 0o755).await.unwrap().inode);
    }
    let (dirs, next, began) = (Arc::new(dirs), Arc::new(AtomicU64::new(from)), Instant::now());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, dirs, next) = (client.clone(), dirs.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= to {
                        return;
                    }
                    let dir = dirs[usize::try_from(number / DIR_LEN - from / DIR_LEN).unwrap()];
                    let name = Name::new(format!("file-{number:08}.dat")).unwrap();
                    client.create_at(dir, name, 0o644, true).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    println!("{} inodes in {:.1?}", to - from, began.elapsed());
    client.close().await;
}
