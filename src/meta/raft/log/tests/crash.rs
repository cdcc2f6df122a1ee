//! The log on a disk that forgets: whenever the machine stops, what was acknowledged is there afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;

use super::*;
use crate::runtime::disk::CrashKeeps;

const DIR: &str = "/made/for/log";

fn disk() -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    disk.set_threads(false);
    Arc::new(disk)
}

/// What the log owes to who used it.
#[derive(Default)]
struct Owed {
    vote: Option<StoredVote>,
    /// Acknowledged and not cut off or purged since.
    entries: BTreeMap<u64, StoredEntry>,
    /// All that were ever given to it.
    given: Vec<StoredEntry>,
}

impl Owed {
    async fn vote(&mut self, log: &Log, term: u64) -> io::Result<()> {
        let vote = StoredVote { term, node: 2, committed: false };
        log.update_durably(|hard| hard.vote = Some(vote)).await?;
        self.vote = Some(vote);
        Ok(())
    }

    /// Appends them in two halves that wait for the disk together.
    async fn append(&mut self, log: &Log, mut entries: Vec<StoredEntry>) -> io::Result<()> {
        let later = entries.split_off(entries.len() / 2);
        let mut waits = Vec::new();
        for half in [entries, later] {
            self.given.extend(half.iter().cloned());
            let (tx, rx) = tokio::sync::oneshot::channel();
            log.append(half.clone(), Box::new(move |result| tx.send(result).unwrap()))?;
            waits.push((half, rx));
        }
        for (half, rx) in waits {
            rx.await.unwrap()?;
            self.entries.extend(half.into_iter().map(|entry| (entry.id.index, entry)));
        }
        Ok(())
    }

    async fn check(&self, log: &Log, what: &str) {
        let hard = log.hard();
        assert!(hard.vote.map(|v| v.term) >= self.vote.map(|v| v.term), "{what}: a vote was taken back");
        let found = all(log).await;
        assert!(found.windows(2).all(|pair| pair[0].id.index + 1 == pair[1].id.index), "{what}");
        for entry in &found {
            assert!(self.given.contains(entry), "{what}: {:?} was never written", entry.id);
        }
        let found: BTreeMap<u64, &StoredEntry> = found.iter().map(|e| (e.id.index, e)).collect();
        for (index, entry) in &self.entries {
            assert_eq!(found.get(index), Some(&entry), "{what}: entry {index} was acknowledged");
        }
    }
}

/// All that a log is used for, over several segments, until something fails.
async fn story(disk: &Arc<MemoryDisk>, owed: &mut Owed) -> io::Result<()> {
    let open = || Log::open(disk.clone(), Path::new(DIR), SMALL).map_err(io::Error::other);
    let log = open()?;
    owed.vote(&log, 1).await?;
    owed.append(&log, entries(0..1)).await?;
    owed.append(&log, entries(1..14)).await?;
    log.update(|hard| hard.committed = Some(EntryId { term: 1, index: 5 }), None)?;
    // From here on nobody can count on what is cut off.
    owed.entries.split_off(&11);
    log.truncate_after(Some(EntryId { term: 1, index: 10 }))?;
    owed.vote(&log, 2).await?;
    owed.append(&log, (11..20).map(|index| entry(2, index, "again")).collect()).await?;
    owed.entries = owed.entries.split_off(&13);
    log.purge(EntryId { term: 2, index: 12 })?;
    owed.append(&log, (20..22).map(|index| entry(2, index, "after the purge")).collect()).await?;
    log.close();
    drop(log);
    let log = open()?;
    owed.append(&log, (22..30).map(|index| entry(2, index, "after a restart")).collect()).await
}

/// The log opens, has what it owes, and goes on.
async fn come_back(disk: &Arc<MemoryDisk>, owed: &mut Owed, what: &str) {
    let open = || {
        let opened = Log::open(disk.clone(), Path::new(DIR), SMALL);
        opened.unwrap_or_else(|e| panic!("{what}: {e}"))
    };
    let log = open();
    owed.check(&log, what).await;
    let next = next(log.hard().last);
    owed.append(&log, (next..next + 5).map(|index| entry(9, index, "goes on")).collect()).await.unwrap();
    drop(log);
    disk.crash(CrashKeeps::Nothing);
    owed.check(&open(), &format!("{what}, and again")).await;
}

fn crashes() -> impl Iterator<Item = CrashKeeps> {
    [CrashKeeps::Nothing, CrashKeeps::All].into_iter().chain((0..6).map(CrashKeeps::Some))
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_machine_that_stops_at_any_call() {
    let healthy = disk();
    story(&healthy, &mut Owed::default()).await.unwrap();
    let calls = healthy.calls();
    assert!(calls > 40, "{calls} calls");
    for keeps in crashes() {
        for stop in 0..=calls {
            let (disk, mut owed) = (disk(), Owed::default());
            disk.stop_after(stop);
            let ended = story(&disk, &mut owed).await;
            assert_eq!(ended.is_ok(), stop == calls, "{stop}: {ended:?}");
            disk.crash(keeps);
            come_back(&disk, &mut owed, &format!("{keeps:?}, stopped after {stop} calls")).await;
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_any_call_that_fails() {
    let healthy = disk();
    story(&healthy, &mut Owed::default()).await.unwrap();
    for keeps in [CrashKeeps::Nothing, CrashKeeps::All, CrashKeeps::Some(1)] {
        for error in [Errno::NOSPC, Errno::IO] {
            for at in 0..healthy.calls() {
                let (disk, mut owed) = (disk(), Owed::default());
                disk.fail_call(at, error);
                // A purged file that cannot be removed is no failure.
                let _ended = story(&disk, &mut owed).await;
                disk.crash(keeps);
                come_back(&disk, &mut owed, &format!("{keeps:?}, {error:?} at call {at}")).await;
            }
        }
    }
}

/// A server whose tasks are dropped is a process that was killed: its log must write nothing afterwards, also not what
/// was queued.
#[tokio::test]
async fn a_log_that_is_dropped_writes_nothing_more() {
    let disk = disk();
    let log = Log::open(disk.clone(), Path::new(DIR), OPTIONS).unwrap();
    append(&log, entries(0..3)).await;
    let (tx, rx) = tokio::sync::oneshot::channel();
    log.append(entries(3..5), Box::new(|result| tx.send(result).unwrap())).unwrap();
    let calls = disk.calls();
    drop(log);
    assert!(rx.await.unwrap().is_err());
    tokio::task::yield_now().await;
    assert_eq!(disk.calls(), calls);
    let log = Log::open(disk.clone(), Path::new(DIR), OPTIONS).unwrap();
    assert_eq!(all(&log).await, entries(0..3));
}

/// What gathers while a batch is on its way shares the next one.
#[tokio::test]
async fn a_batch_takes_the_time_of_the_disk() {
    let disk = disk();
    let log = Log::open(disk.clone(), Path::new(DIR), OPTIONS).unwrap();
    let latency = Duration::from_millis(7);
    disk.set_latency(latency..=latency, 0);
    let began = runtime::now();
    append(&log, entries(0..1)).await;
    assert!(runtime::now() - began >= latency);
    let calls = disk.calls();
    log.append(entries(1..2), Box::new(|_| ())).unwrap();
    log.append(entries(2..3), Box::new(|_| ())).unwrap();
    append(&log, entries(3..4)).await;
    assert!(runtime::now() - began >= 2 * latency);
    assert_eq!(disk.calls() - calls, 2, "one write and one sync");
    // Who closes it writes what is left there and then.
    log.append(entries(4..5), Box::new(|result| result.unwrap())).unwrap();
    log.close();
    assert_eq!(disk.calls() - calls, 4);
    drop(log);
    let log = Log::open(disk, Path::new(DIR), OPTIONS).unwrap();
    assert_eq!(all(&log).await, entries(0..5));
}
