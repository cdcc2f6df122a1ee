//! Two mounts of one cluster at random against each other and against a model.
//!
//! One step after the other, each on either mount: what has returned there, the other sees.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use crate::common::{Cluster, seed};
use crate::lock_model::Locks;
use crate::mounts::{Mount, blocking, possible};

/// Names that are in play: few, so that they meet.
const NAMES: u32 = 12;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Inode {
    bytes: Vec<u8>,
    mode: u32,
}

#[derive(Default)]
struct Model {
    names: BTreeMap<String, u64>,
    inodes: BTreeMap<u64, Inode>,
    next: u64,
}

fn steps() -> u32 {
    std::env::var("POHMELFS_STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(500)
}

struct World {
    roots: [PathBuf; 2],
    model: Model,
    locks: Locks,
    rng: StdRng,
}

impl World {
    fn any_name(&mut self) -> String {
        format!("n{}", self.rng.random_range(0..NAMES))
    }

    fn file(&self, name: &str) -> Option<u64> {
        self.model.names.get(name).copied()
    }

    fn step(&mut self) -> String {
        let side = self.rng.random_range(0..2);
        let root = self.roots[side].clone();
        let name = self.any_name();
        let path = root.join(&name);
        let existing = self.file(&name);
        let what = self.rng.random_range(0..14);
        match what {
            0 | 1 => {
                let made = OpenOptions::new().write(true).create_new(true).open(&path);
                match existing {
                    Some(_) => assert_eq!(made.unwrap_err().kind(), ErrorKind::AlreadyExists),
                    None => {
                        let mut file = made.unwrap();
                        file.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
                        let bytes = self.bytes(6000);
                        file.write_all(&bytes).unwrap();
                        drop(file);
                        self.model.next += 1;
                        let id = self.model.next;
                        self.model.inodes.insert(id, Inode { bytes, mode: 0o644 });
                        self.model.names.insert(name.clone(), id);
                    }
                }
            }
            2 => match (existing, fs::remove_file(&path)) {
                (Some(_), removed) => {
                    removed.unwrap();
                    self.model.names.remove(&name);
                }
                (None, removed) => assert_eq!(removed.unwrap_err().kind(), ErrorKind::NotFound),
            },
            3 => {
                let to = self.any_name();
                let moved = fs::rename(&path, root.join(&to));
                match existing {
                    None => assert_eq!(moved.unwrap_err().kind(), ErrorKind::NotFound),
                    Some(id) => {
                        moved.unwrap();
                        // Two names of the same inode: nothing happens.
                        if self.file(&to) != Some(id) {
                            self.model.names.remove(&name);
                            self.model.names.insert(to, id);
                        }
                    }
                }
            }
            4 => {
                let to = self.any_name();
                let linked = fs::hard_link(&path, root.join(&to));
                match (existing, self.file(&to)) {
                    (None, _) => assert_eq!(linked.unwrap_err().kind(), ErrorKind::NotFound),
                    (Some(_), Some(_)) => assert_eq!(linked.unwrap_err().kind(), ErrorKind::AlreadyExists),
                    (Some(id), None) => {
                        linked.unwrap();
                        self.model.names.insert(to, id);
                    }
                }
            }
            5 => {
                let mode = 0o600 | self.rng.random_range(0..0o100);
                let changed = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
                assert_eq!(changed.is_ok(), existing.is_some());
                if let Some(id) = existing {
                    self.model.inodes.get_mut(&id).unwrap().mode = mode;
                }
            }
            6 => {
                let len = self.rng.random_range(0..200_000);
                let opened = OpenOptions::new().write(true).open(&path);
                assert_eq!(opened.is_ok(), existing.is_some());
                if let (Some(id), Ok(file)) = (existing, opened) {
                    file.set_len(len).unwrap();
                    drop(file);
                    self.locks.closed(side, id);
                    let len = usize::try_from(len).unwrap();
                    self.model.inodes.get_mut(&id).unwrap().bytes.resize(len, 0);
                }
            }
            7 => {
                let bytes = self.bytes(3000);
                let opened = OpenOptions::new().append(true).open(&path);
                assert_eq!(opened.is_ok(), existing.is_some());
                if let (Some(id), Ok(mut file)) = (existing, opened) {
                    file.write_all(&bytes).unwrap();
                    self.model.inodes.get_mut(&id).unwrap().bytes.extend_from_slice(&bytes);
                    // Seen at once, not only after the close.
                    self.compare(1 - side, &name);
                    drop(file);
                    self.locks.closed(side, id);
                }
            }
            8 | 9 => {
                let bytes = self.bytes(100_000);
                let at = self.rng.random_range(0..100_000_u64);
                let opened = OpenOptions::new().write(true).open(&path);
                assert_eq!(opened.is_ok(), existing.is_some());
                if let (Some(id), Ok(file)) = (existing, opened) {
                    file.write_all_at(&bytes, at).unwrap();
                    let at = usize::try_from(at).unwrap();
                    let inode = self.model.inodes.get_mut(&id).unwrap();
                    if !bytes.is_empty() {
                        let len = inode.bytes.len().max(at + bytes.len());
                        inode.bytes.resize(len, 0);
                        inode.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
                    }
                    self.compare(side, &name);
                    if self.rng.random_bool(0.5) {
                        file.sync_data().unwrap();
                        self.compare(1 - side, &name);
                    }
                    drop(file);
                    self.locks.closed(side, id);
                }
            }
            10 => match existing {
                Some(id) => self.locks.open(&mut self.rng, side, id, &path),
                None => self.locks.close(&mut self.rng),
            },
            _ => return self.locks.step(&mut self.rng),
        }
        self.compare(1 - side, &name);
        format!("{what} on {name} through {side}")
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.rng.random_range(0..max)];
        self.rng.fill(&mut bytes[..]);
        bytes
    }

    /// What one mount shows of a name.
    fn compare(&mut self, side: usize, name: &str) {
        let path = self.roots[side].join(name);
        let Some(id) = self.file(name) else {
            assert_eq!(fs::symlink_metadata(&path).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
            return;
        };
        let inode = &self.model.inodes[&id];
        let meta = fs::symlink_metadata(&path).unwrap();
        let nlink = self.model.names.values().filter(|i| **i == id).count() as u64;
        assert_eq!(
            (meta.len(), meta.mode() & 0o7777, meta.nlink()),
            (inode.bytes.len() as u64, inode.mode, nlink),
            "{name}"
        );
        let bytes = fs::read(&path).unwrap();
        self.locks.closed(side, id);
        if bytes != inode.bytes {
            let at = bytes.iter().zip(&inode.bytes).position(|(a, b)| a != b);
            panic!("{name}: {} bytes, wanted {}, first difference at {at:?}", bytes.len(), inode.bytes.len());
        }
    }

    fn compare_all(&mut self) {
        for (side, root) in self.roots.clone().iter().enumerate() {
            let mut names: Vec<_> =
                fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names, self.model.names.keys().cloned().collect::<Vec<_>>());
            names.iter().for_each(|name| self.compare(side, name));
        }
    }
}

fn run(roots: [PathBuf; 2], seed: u64, steps: u32, done: &AtomicU32) {
    let rng = StdRng::seed_from_u64(seed);
    let mut world = World { roots, model: Model::default(), locks: Locks::default(), rng };
    for number in 0..steps {
        let step = world.step();
        if std::env::var_os("POHMELFS_STEPS").is_some() {
            println!("{number}: {step}");
        }
        if number % 100 == 99 {
            world.compare_all();
        }
        done.store(number + 1, Relaxed);
    }
    world.compare_all();
    let (taken, refused) = world.locks.counts;
    println!("{steps} steps; {taken} times a lock was taken, changed or given up, {refused} times refused");
}

fn dirs(mounts: [&Mount; 2], name: &str) -> [PathBuf; 2] {
    let roots = mounts.map(|m| m.path(name));
    fs::create_dir(&roots[0]).unwrap();
    roots
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_has_done_the_other_sees() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let (a, b) = (Mount::start(&cluster, "a", &[]).await, Mount::start(&cluster, "b", &[]).await);
    let roots = dirs([&a, &b], "random");
    let seed = seed();
    blocking(move || run(roots, seed, steps(), &AtomicU32::new(0))).await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

/// The same while the leader of the metadata servers and then a data server are killed and started again, with others at work
/// beside.
#[tokio::test(flavor = "multi_thread")]
async fn though_servers_die_meanwhile() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::start(3, 3).await;
    let (a, b) = (Mount::start(&cluster, "a", &[]).await, Mount::start(&cluster, "b", &[]).await);
    let roots = dirs([&a, &b], "random");
    let seed = seed();
    let load = dirs([&a, &b], "load");
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = load
        .into_iter()
        .enumerate()
        .map(|(side, dir)| {
            let stop = stop.clone();
            tokio::task::spawn_blocking(move || work(&dir, side, &stop))
        })
        .collect();
    let done = Arc::new(AtomicU32::new(0));
    let random = tokio::task::spawn_blocking({
        let done = done.clone();
        move || run(roots, seed, steps(), &done)
    });
    past(steps() / 3, &done, &random).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill();
    cluster.leader().await;
    past(steps() / 2, &done, &random).await;
    cluster.nodes[leader].start();
    cluster.ready().await;
    past(steps() / 3 * 2, &done, &random).await;
    let data = cluster.data_indexes().start;
    cluster.nodes[data].kill();
    past(steps() / 6 * 5, &done, &random).await;
    cluster.nodes[data].start();
    random.await.unwrap();
    stop.store(true, Relaxed);
    for load in loads {
        let count = load.await.unwrap();
        println!("{count} files by the load");
        assert!(count > 0);
    }
    cluster.ready().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

/// Waits until so many steps are done, or the steps have ended, however they did.
async fn past(steps: u32, done: &AtomicU32, random: &JoinHandle<()>) {
    while done.load(Relaxed) < steps && !random.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes, reads and removes files until told to stop; nothing of that may fail.
fn work(dir: &Path, side: usize, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Relaxed) {
        let path = dir.join(format!("{side}-{}", count % 50));
        let bytes = vec![u8::try_from(count % 256).unwrap(); 20_000];
        fs::write(&path, &bytes).unwrap();
        assert!(fs::read(&path).unwrap() == bytes);
        if count % 3 == 0 {
            fs::remove_file(&path).unwrap();
        }
        count += 1;
    }
    count
}

/// A file that one mount removed while the other has it open: read and written on, and gone with the close.
#[tokio::test(flavor = "multi_thread")]
async fn removed_there_and_open_here() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let (a, b) = (Mount::start(&cluster, "a", &[]).await, Mount::start(&cluster, "b", &[]).await);
    fs::write(a.path("f"), vec![3; 100_000]).unwrap();
    let open = OpenOptions::new().read(true).write(true).open(a.path("f")).unwrap();
    fs::remove_file(b.path("f")).unwrap();
    assert_eq!(File::open(a.path("f")).unwrap_err().kind(), ErrorKind::NotFound);
    open.write_all_at(b"more", 100_000).unwrap();
    open.sync_all().unwrap();
    let meta = open.metadata().unwrap();
    assert_eq!((meta.len(), meta.nlink()), (100_004, 0));
    let mut end = [0; 8];
    open.read_exact_at(&mut end, 99_996).unwrap();
    assert_eq!(&end, b"\x03\x03\x03\x03more");
    drop(open);
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
