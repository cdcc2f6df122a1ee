//! More wait for the locks of one file than it may have waiters: nobody else is harmed, and in the end everybody has had it.

use std::fs::{self, File, OpenOptions};
use std::io::Result;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::common::{Cluster, until};
use crate::locks::{flock_process, in_flight, waiting};
use crate::mounts::{Mount, blocking, possible};
use crate::record_lock::{Family, Want, is_free, set, set_waiting};

/// Threads that want the lock, each through an open file of its own: half of them by `flock`, half a range of bytes.
const CROWD: usize = 1100;
/// Waiters that a file takes: there may be 1,024 locks and waiters (docs/operating.md, "What is bounded"). One place is for a lock that is
/// split, and two locks are held.
const ROOM: usize = 1021;
/// The bytes that are locked.
const BYTES: std::ops::Range<u64> = 3..300;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// What the crowd has in common.
#[derive(Default)]
struct Crowd {
    /// Threads that were told ENOLCK when they came.
    refused: AtomicUsize,
    /// They may try again.
    again: AtomicBool,
    /// Threads that hold the lock now, by either means.
    holding: [AtomicUsize; 2],
    served: AtomicUsize,
}

impl Crowd {
    /// One of them, from its coming until it has had the lock.
    fn member(&self, number: usize, file: &File) {
        let means = number / 2 % 2;
        let lock = || -> Result<()> {
            match means {
                0 => file.lock(),
                _ => set_waiting(file, Family::OpenFile, Want::Write, &BYTES),
            }
        };
        let mut told = false;
        while let Err(error) = lock() {
            assert_eq!(error.raw_os_error(), Some(libc::ENOLCK), "{number}: {error}");
            if !told {
                told = true;
                self.refused.fetch_add(1, SeqCst);
            }
            // The others would be asked for room all the time.
            while !self.again.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.holding[means].fetch_add(1, SeqCst), 0, "two have the lock");
        self.served.fetch_add(1, SeqCst);
        self.holding[means].fetch_sub(1, SeqCst);
        match means {
            0 => file.unlock().unwrap(),
            _ => set(file, Family::OpenFile, Want::Unlock, &BYTES).unwrap(),
        }
    }
}

/// Names, contents and other locks, from one mount to the other.
fn others_go_on(dirs: &[std::path::PathBuf; 2]) {
    for round in 0..10 {
        let (one, other) = (&dirs[round % 2], &dirs[1 - round % 2]);
        let name = format!("f{round}");
        let bytes = vec![u8::try_from(round).unwrap(); 3000];
        fs::write(one.join(&name), &bytes).unwrap();
        assert!(fs::read(other.join(&name)).unwrap() == bytes);
        let mine = open(&other.join(&name));
        mine.lock().unwrap();
        set(&mine, Family::OpenFile, Want::Write, &BYTES).unwrap();
        let theirs = open(&one.join(&name));
        assert!(theirs.try_lock().is_err(), "locked by the other mount");
        assert!(!is_free(&theirs, Family::OpenFile, Want::Read, &BYTES).unwrap());
        drop(mine);
        fs::rename(other.join(&name), other.join("same")).unwrap();
        assert!(fs::read_dir(one).unwrap().any(|e| e.unwrap().file_name() == "same"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_file_takes_wait_for_its_lock() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 0).await;
    let (a, b) = (Mount::start(&cluster, "a", &[]).await, Mount::start(&cluster, "b", &[]).await);
    fs::write(a.path("lock"), b"").unwrap();
    let held = open(&a.path("lock"));
    held.lock().unwrap();
    set(&held, Family::OpenFile, Want::Write, &BYTES).unwrap();
    let mut process = flock_process(&b.path("lock"));
    waiting(&cluster, &b, 1).await;

    let crowd = Arc::new(Crowd::default());
    let paths = [a.path("lock"), b.path("lock")];
    // All open it before anybody asks: a machine that is busy with a thousand requests may be late with an open.
    let files: Vec<File> = (0..CROWD).map(|number| open(&paths[number % 2])).collect();
    let members: Vec<_> = (0..CROWD)
        .zip(files)
        .map(|(number, file)| {
            let crowd = crowd.clone();
            let thread = std::thread::Builder::new().stack_size(256 << 10);
            thread.spawn(move || crowd.member(number, &file)).unwrap()
        })
        .collect();
    until("all to wait or to be refused", async || {
        let (waiting, refused) =
            (in_flight(&cluster, &a) + in_flight(&cluster, &b), crowd.refused.load(SeqCst));
        if (waiting, refused) == (ROOM, CROWD + 1 - ROOM) {
            Ok(())
        } else {
            Err(format!("{waiting} wait, {refused} are refused"))
        }
    })
    .await;
    let full = open(&paths[1]);
    let told = set(&full, Family::OpenFile, Want::Write, &(1000..1001)).unwrap_err();
    assert_eq!(told.raw_os_error(), Some(libc::ENOLCK), "nor is there room for other bytes: {told}");
    let dirs = [a.dir.clone(), b.dir.clone()];
    blocking(move || others_go_on(&dirs)).await;

    // One of them is killed: it is gone at once, and leaves its place.
    process.kill().unwrap();
    until("the waiter to be gone", async || {
        process.try_wait().unwrap().map(drop).ok_or_else(|| "it still waits".to_owned())
    })
    .await;
    until("its place to be free", async || match in_flight(&cluster, &a) + in_flight(&cluster, &b) {
        now if now == ROOM - 1 => Ok(()),
        now => Err(format!("{now} wait")),
    })
    .await;
    set(&full, Family::OpenFile, Want::Write, &(1000..1001)).unwrap();
    assert_eq!(crowd.served.load(SeqCst), 0, "nobody has got past the holder");

    crowd.again.store(true, SeqCst);
    let began = std::time::Instant::now();
    drop((held, full));
    blocking(move || members.into_iter().for_each(|member| member.join().unwrap())).await;
    println!("{CROWD} had the lock within {:?}", began.elapsed());
    assert_eq!(crowd.served.load(SeqCst), CROWD);
    let last = open(&paths[0]);
    until("the lock", async || last.try_lock().map_err(|e| e.to_string())).await;
    set(&last, Family::OpenFile, Want::Write, &BYTES).unwrap();
    drop(last);
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
