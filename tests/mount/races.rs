//! Many processes' worth of threads on two mounts at once: who may win, and what may not be lost.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};

use crate::common::Cluster;
use crate::mounts::{Mount, blocking, possible};

fn race<T: Send + 'static>(
    roots: &[PathBuf; 2],
    threads: usize,
    body: impl Fn(usize, PathBuf) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let body = Arc::new(body);
    let barrier = Arc::new(Barrier::new(threads));
    let running: Vec<_> = (0..threads)
        .map(|i| {
            let (body, barrier, root) = (body.clone(), barrier.clone(), roots[i % 2].clone());
            std::thread::spawn(move || {
                barrier.wait();
                body(i, root)
            })
        })
        .collect();
    running.into_iter().map(|t| t.join().unwrap()).collect()
}

fn exclusive_creates(roots: &[PathBuf; 2]) {
    const FILES: usize = 60;
    let wins = race(roots, 6, |_, root| {
        let mut wins = Vec::new();
        for i in 0..FILES {
            match OpenOptions::new().write(true).create_new(true).open(root.join(format!("x{i}"))) {
                Ok(_) => wins.push(i),
                Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}"),
            }
        }
        wins
    });
    let all: Vec<usize> = wins.concat();
    assert_eq!(all.len(), FILES, "each name is won once: {wins:?}");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), FILES);
}

fn appends(roots: &[PathBuf; 2]) {
    const RECORDS: usize = 80;
    fs::write(roots[0].join("log"), b"").unwrap();
    race(roots, 6, |who, root| {
        let mut file = OpenOptions::new().append(true).open(root.join("log")).unwrap();
        for i in 0..RECORDS {
            // Some ride in the command, some need blocks.
            let fill = "x".repeat(if i % 8 == 0 { 5000 } else { 20 });
            file.write_all(format!("<{who} {i} {fill}>\n").as_bytes()).unwrap();
        }
    });
    for root in roots {
        let text = fs::read_to_string(root.join("log")).unwrap();
        let mut seen = BTreeSet::new();
        let mut last = [None; 6];
        for line in text.lines() {
            let words: Vec<&str> =
                line.strip_prefix('<').unwrap().strip_suffix('>').unwrap().split(' ').collect();
            let (who, i): (usize, usize) = (words[0].parse().unwrap(), words[1].parse().unwrap());
            assert_eq!(words[2].len(), if i.is_multiple_of(8) { 5000 } else { 20 });
            assert!(seen.insert((who, i)), "twice: {who} {i}");
            assert!(last[who].is_none_or(|l| l < i), "out of order: {who} {i}");
            last[who] = Some(i);
        }
        assert_eq!(seen.len(), 6 * RECORDS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wins_and_none_overwrites() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let (a, b) = (Mount::start(&cluster, "a", &[]).await, Mount::start(&cluster, "b", &[]).await);
    let roots = [a.dir.clone(), b.dir.clone()];
    blocking(move || {
        exclusive_creates(&roots);
        appends(&roots);
    })
    .await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
