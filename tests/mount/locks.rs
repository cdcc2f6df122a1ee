//! Advisory locks of two mounts: many waiters harm nobody, a waiter dies when it is killed, a dead mount holds nothing.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::common::{Cluster, until};
use crate::mounts::{Mount, blocking, possible};
use crate::record_lock::{Family, Want, set};

/// Waiters on each of two mounts.
const WAITERS: usize = 100;

/// Requests that a mount has taken and not answered.
pub fn in_flight(cluster: &Cluster, mount: &Mount) -> usize {
    let stats = cluster.command(&["stats", "--json", mount.dir.to_str().unwrap()]);
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    usize::try_from(stats["in_flight"].as_u64().unwrap()).unwrap()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Waits until so many of its requests are in flight: calls that wait for locks.
pub async fn waiting(cluster: &Cluster, mount: &Mount, count: usize) {
    until(&format!("{count} to wait"), async || match in_flight(cluster, mount) {
        now if now == count => Ok(()),
        now => Err(format!("{now} requests in flight")),
    })
    .await;
}

/// The kernel tells of a closed file after `close(2)` has returned: what it had locked is free all the same, for the next call.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_a_closed_file_is_free() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let mount = Mount::start(&cluster, "mount", &[]).await;
    let path = mount.path("lock");
    fs::write(&path, b"").unwrap();
    blocking(move || {
        for turn in 0..60 {
            let (first, second) = (open(&path), open(&path));
            if turn % 2 == 0 {
                first.lock().unwrap();
                drop(first);
                second.try_lock().unwrap_or_else(|e| panic!("turn {turn}: {e}"));
            } else {
                set(&first, Family::OpenFile, Want::Write, &(0..10)).unwrap();
                drop(first);
                let got = set(&second, Family::OpenFile, Want::Write, &(0..10));
                got.unwrap_or_else(|e| panic!("turn {turn}: {e}"));
            }
        }
    })
    .await;
}

/// 200 waits are pending: every other call goes on, through both mounts; then each waiter gets the lock.
#[tokio::test(flavor = "multi_thread")]
async fn waiters_harm_nobody() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let (a, b) = (Mount::start(&cluster, "a", &[]).await, Mount::start(&cluster, "b", &[]).await);
    fs::write(a.path("lock"), b"").unwrap();
    fs::write(a.path("count"), b"0").unwrap();
    let held = open(&a.path("lock"));
    held.lock().unwrap();
    let waiters: Vec<_> = (0..2 * WAITERS)
        .map(|i| {
            let dir = [&a, &b][i % 2].dir.clone();
            std::thread::spawn(move || {
                let file = open(&dir.join("lock"));
                file.lock().unwrap();
                // Read, add one, write: none is lost if one holds the lock at a time.
                let count: usize = fs::read_to_string(dir.join("count")).unwrap().parse().unwrap();
                fs::write(dir.join("count"), (count + 1).to_string()).unwrap();
                file.unlock().unwrap();
            })
        })
        .collect();
    for mount in [&a, &b] {
        waiting(&cluster, mount, WAITERS).await;
    }
    let dirs = [a.dir.clone(), b.dir.clone()];
    blocking(move || {
        for round in 0..30 {
            let (one, other) = (&dirs[round % 2], &dirs[1 - round % 2]);
            let name = format!("f{round}");
            let bytes = vec![u8::try_from(round).unwrap(); 50_000];
            fs::write(one.join(&name), &bytes).unwrap();
            assert!(fs::read(other.join(&name)).unwrap() == bytes);
            let mine = open(&other.join(&name));
            mine.lock().unwrap();
            assert!(open(&one.join(&name)).try_lock().is_err(), "locked by the other mount");
            drop(mine);
            fs::rename(other.join(&name), other.join("same")).unwrap();
            assert!(fs::read_dir(one).unwrap().any(|e| e.unwrap().file_name() == "same"));
        }
    })
    .await;
    for mount in [&a, &b] {
        waiting(&cluster, mount, WAITERS).await;
    }
    assert_eq!(fs::read_to_string(a.path("count")).unwrap(), "0", "nobody has got past the holder");
    drop(held);
    blocking(move || waiters.into_iter().for_each(|w| w.join().unwrap())).await;
    assert_eq!(fs::read_to_string(b.path("count")).unwrap(), (2 * WAITERS).to_string());
}

/// A process that takes the lock of a file as soon as it can, and keeps it.
pub fn flock_process(path: &Path) -> Child {
    Command::new("flock").arg(path).args(["sleep", "1000"]).stdout(Stdio::null()).spawn().unwrap()
}

/// A process that waits for a lock is killed: it is gone, though the lock is held on, and leaves no claim behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_can_be_killed() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let (a, b) = (Mount::start(&cluster, "a", &[]).await, Mount::start(&cluster, "b", &[]).await);
    fs::write(a.path("lock"), b"").unwrap();
    let held = open(&a.path("lock"));
    held.lock().unwrap();
    let mut waiter = flock_process(&b.path("lock"));
    waiting(&cluster, &b, 1).await;
    waiter.kill().unwrap();
    until("the waiter to be gone", async || {
        waiter.try_wait().unwrap().map(drop).ok_or_else(|| "it still waits".to_owned())
    })
    .await;
    waiting(&cluster, &b, 0).await;
    drop(held);
    // Had the dead waiter been given the lock, nobody would get it again.
    let path = a.path("lock");
    until("the lock", async || open(&path).try_lock().map_err(|e| e.to_string())).await;
}

/// kill -9 of a mount: what it held, `flock` and record locks, goes to those who wait on the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_mount_holds_nothing() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let mut a = Mount::start(&cluster, "a", &[]).await;
    let b = Mount::start(&cluster, "b", &[]).await;
    fs::write(a.path("flock"), b"").unwrap();
    fs::write(a.path("record"), b"").unwrap();
    let (whole, record) = (open(&a.path("flock")), open(&a.path("record")));
    whole.lock().unwrap();
    fcntl_lock(&record, FlockOperation::LockExclusive).unwrap();
    let waiters = ["flock", "record"].map(|name| {
        let path = b.path(name);
        std::thread::spawn(move || {
            let file = open(&path);
            match name {
                "flock" => file.lock().unwrap(),
                _ => fcntl_lock(&file, FlockOperation::LockExclusive).unwrap(),
            }
        })
    });
    waiting(&cluster, &b, 2).await;
    let killed = std::time::Instant::now();
    a.kill();
    drop((whole, record));
    blocking(move || waiters.into_iter().for_each(|w| w.join().unwrap())).await;
    println!("both locks are given after {:?}", killed.elapsed());
}
