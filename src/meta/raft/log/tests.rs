//! The log alone: what it keeps through restarts, what it notices, what it forgives.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::runtime::disk::{MemoryDisk, RealDisk};

mod crash;

const OPTIONS: LogOptions = LogOptions { cache_len: 1 << 20, segment_len: 128 << 10 };
const SMALL: LogOptions = LogOptions { cache_len: 100, segment_len: 600 };

fn entry(term: u64, index: u64, data: &str) -> StoredEntry {
    StoredEntry {
        id: EntryId { term, index },
        kind: EntryKind::Normal,
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

fn entries(range: std::ops::Range<u64>) -> Vec<StoredEntry> {
    range.map(|index| entry(1, index, &format!("entry number {index}"))).collect()
}

fn open(dir: &Path, options: LogOptions) -> Result<Log, StoreError> {
    open_in_boot(dir, options, boot_id())
}

/// With room ahead, as all but the very first start of a server has it.
fn open_in_boot(dir: &Path, options: LogOptions, boot: u128) -> Result<Log, StoreError> {
    let log = Log::open_in_boot(Arc::new(RealDisk), dir, options, boot)?;
    log.room_ahead().unwrap();
    Ok(log)
}

fn boot_id() -> u128 {
    boot_of(&RealDisk)
}

/// Appends and waits for the disk.
async fn append(log: &Log, entries: Vec<StoredEntry>) {
    let (tx, rx) = tokio::sync::oneshot::channel();
    log.append(entries, Box::new(|result| tx.send(result).unwrap())).unwrap();
    rx.await.unwrap().unwrap();
}

async fn all(log: &Log) -> Vec<StoredEntry> {
    let from = next(log.hard().purged);
    log.read(from, u64::MAX, usize::MAX).await.unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "raftlog"))
        .collect();
    paths.sort();
    paths
}

/// The segment that is written to.
fn tail(dir: &Path) -> PathBuf {
    segments(dir).pop().unwrap()
}

/// Bytes of the records of the last segment.
fn last_len(log: &Log) -> u64 {
    log.shared().state.lock().tail_len.into()
}

/// A copy of the log's files as they are now: what a crash leaves.
fn image(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for path in segments(dir) {
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// The same in memory: of the files in `dir`, with one byte changed.
fn flipped(dir: &Path, victim: &Path, at: usize) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    disk.set_threads(false);
    disk.make_dirs(dir).unwrap();
    for path in segments(dir) {
        let mut bytes = fs::read(&path).unwrap();
        if path == victim {
            bytes[at] ^= 0x10;
        }
        disk.create(&path).unwrap().write_at(&bytes, 0).unwrap();
    }
    Arc::new(disk)
}

#[tokio::test]
async fn what_was_synced_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let vote = StoredVote { term: 2, node: 3, committed: true };
    {
        let log = open(dir.path(), SMALL).unwrap();
        log.update_durably(|hard| hard.vote = Some(vote)).await.unwrap();
        append(&log, entries(0..40)).await;
        log.truncate_after(Some(EntryId { term: 1, index: 30 })).unwrap();
        append(&log, vec![entry(2, 31, "another 31")]).await;
        log.update(|hard| hard.committed = Some(EntryId { term: 1, index: 20 }), None).unwrap();
        assert!(segments(dir.path()).len() > 2, "several segments");
        log.close();
    }
    let log = open(dir.path(), SMALL).unwrap();
    let mut expected = entries(0..31);
    expected.push(entry(2, 31, "another 31"));
    assert_eq!(all(&log).await, expected);
    assert_eq!(log.hard().vote, Some(vote));
    assert_eq!(log.hard().committed, Some(EntryId { term: 1, index: 20 }));
    assert_eq!(log.hard().last, Some(EntryId { term: 2, index: 31 }));
    append(&log, vec![entry(2, 32, "goes on")]).await;
    assert_eq!(log.read(30, 33, usize::MAX).await.unwrap().len(), 3);
}

#[tokio::test]
async fn entries_are_read_before_they_are_on_the_disk_and_reads_are_bounded() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    log.append(entries(0..50), Box::new(|_| ())).unwrap();
    assert_eq!(all(&log).await, entries(0..50));
    // Through the cache and through the files alike.
    append(&log, entries(50..60)).await;
    assert!(log.shared().state.lock().cache_len <= SMALL.cache_len, "the cache keeps its bound");
    assert_eq!(all(&log).await, entries(0..60));
    let some = log.read(10, 60, 200).await.unwrap();
    assert!(some.len() > 1 && some.len() < 6, "{} entries in 200 bytes", some.len());
    assert_eq!(some[0], entry(1, 10, "entry number 10"));
    assert_eq!(log.read(10, 60, 1).await.unwrap().len(), 1, "at least one");
}

#[tokio::test]
async fn purging_removes_files_and_survives_a_restart() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    append(&log, entries(0..60)).await;
    let before = (segments(dir.path()).len(), log.len());
    log.purge(EntryId { term: 1, index: 49 }).unwrap();
    append(&log, entries(60..61)).await;
    log.close();
    assert!(segments(dir.path()).len() < before.0 && log.len() < before.1);
    drop(log);
    let log = open(dir.path(), SMALL).unwrap();
    assert_eq!(all(&log).await, entries(50..61));
    // A snapshot was installed: the log begins anew behind it.
    log.purge(EntryId { term: 4, index: 1000 }).unwrap();
    append(&log, vec![entry(5, 1001, "behind the snapshot")]).await;
    log.close();
    drop(log);
    let log = open(dir.path(), SMALL).unwrap();
    assert_eq!(all(&log).await, [entry(5, 1001, "behind the snapshot")]);
    assert_eq!(log.hard().purged, Some(EntryId { term: 4, index: 1000 }));
}

/// Whoever sends or applies entries takes the first one it is given for the one it asked for.
#[tokio::test]
async fn a_read_never_begins_behind_what_is_purged() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    append(&log, entries(0..60)).await;
    log.purge(EntryId { term: 1, index: 49 }).unwrap();
    for (from, to) in [(0, 60), (0, 1), (49, 60)] {
        let error = log.read(from, to, usize::MAX).await.unwrap_err();
        assert!(matches!(error, ReadError::Purged { first: 50, .. }), "{from}..{to}: {error}");
    }
    assert_eq!(log.read(50, 60, usize::MAX).await.unwrap(), entries(50..60));
    assert_eq!(log.read(7, 7, usize::MAX).await.unwrap(), [], "nothing was asked for");
    assert_eq!(log.read(60, 70, usize::MAX).await.unwrap(), [], "the log ends before");

    let before = |index| Some(EntryId { term: 1, index });
    assert!(log.check_follows(before(49)).is_ok() && log.check_follows(before(59)).is_ok());
    assert!(log.check_follows(before(48)).is_err() && log.check_follows(None).is_err());
}

#[tokio::test]
async fn an_entry_is_refused_that_does_not_follow() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    let refused = |index| {
        let error = log.append(vec![entry(1, index, "too far")], Box::new(|_| ())).unwrap_err();
        assert!(error.to_string().contains(&format!("entry {index} cannot stand")), "{error}");
    };
    refused(110);
    append(&log, entries(0..88)).await;
    refused(110);
    refused(87);
    assert_eq!(all(&log).await, entries(0..88));
}

/// A power cut between the unlinks may leave old segments behind a gap; entries that are needed must not be missed.
#[tokio::test]
async fn a_gap_is_forgiven_where_it_is_purged_and_noticed_where_it_is_not() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    append(&log, entries(0..60)).await;
    let whole = image(dir.path());
    log.purge(EntryId { term: 1, index: 55 }).unwrap();
    append(&log, entries(60..61)).await;
    log.close();
    drop(log);
    let first = segments(whole.path())[0].clone();
    fs::copy(&first, dir.path().join(first.file_name().unwrap())).unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    assert_eq!(all(&log).await, entries(56..61));

    fs::remove_file(&segments(whole.path())[1]).unwrap();
    let error = open(whole.path(), SMALL).err().unwrap().to_string();
    assert!(error.contains("missing") && error.contains("rejoin by snapshot"), "{error}");
}

/// Many callers share one fsync, in the order in which they came.
#[tokio::test]
async fn appends_that_wait_together_are_reported_in_order() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), OPTIONS).unwrap();
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    for index in 0..1000 {
        let tx = tx.clone();
        log.append(entries(index..index + 1), Box::new(move |result| tx.send((index, result)).unwrap()))
            .unwrap();
    }
    for index in 0..1000 {
        let (reported, result) = rx.recv().await.unwrap();
        result.unwrap();
        assert_eq!(reported, index);
    }
}

#[tokio::test]
async fn two_processes_cannot_share_a_log() {
    let dir = TempDir::new().unwrap();
    let _log = open(dir.path(), OPTIONS).unwrap();
    let error = open(dir.path(), OPTIONS).err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
}

/// One that was killed in the middle of a write leaves a prefix of it. All that was reported before must be there.
#[tokio::test]
async fn cut_at_every_byte_it_opens_with_the_records_before_the_cut() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), OPTIONS).unwrap();
    let mut ends = vec![];
    let opened = last_len(&log);
    for index in 0..6 {
        append(&log, entries(index..index + 1)).await;
        ends.push(last_len(&log));
    }
    for boot in [boot_id(), boot_id() ^ 1] {
        for cut in opened..=*ends.last().unwrap() {
            let copy = image(dir.path());
            fs::File::options().write(true).open(tail(copy.path())).unwrap().set_len(cut).unwrap();
            let log = open_in_boot(copy.path(), OPTIONS, boot).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
            assert_eq!(all(&log).await, entries(0..whole), "cut at {cut}");
            append(&log, entries(whole..whole + 1)).await;
            log.close();
            drop(log);
            let log = open_in_boot(copy.path(), OPTIONS, boot).unwrap();
            assert_eq!(all(&log).await, entries(0..whole + 1), "appended after a cut at {cut}");
        }
    }
}

/// A flipped bit is noticed, whichever it is: in the boot that wrote it always; after a reboot unless it is in the last
/// write, where it cannot be told from a torn tail and is cut.
#[tokio::test]
async fn a_flip_of_any_byte_is_noticed() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    log.update_durably(|hard| hard.vote = Some(StoredVote { term: 1, node: 1, committed: false }))
        .await
        .unwrap();
    for index in 0..20 {
        append(&log, entries(index..index + 1)).await;
    }
    let files = segments(dir.path());
    assert!(files.len() > 1);
    let last = files.last().unwrap().clone();
    let before_last = last_len(&log);
    append(&log, entries(20..21)).await;
    assert_eq!(segments(dir.path()).len(), files.len(), "the last write went to the last file");
    let after_last = last_len(&log);

    for path in &files {
        let name = path.file_name().unwrap();
        for at in 0..fs::metadata(path).unwrap().len() {
            let disk = flipped(dir.path(), path, usize::try_from(at).unwrap());
            let error = Log::open_in_boot(disk.clone(), dir.path(), SMALL, boot_id());
            let error = error.err().unwrap_or_else(|| panic!("{name:?} byte {at}")).to_string();
            assert!(
                error.contains(name.to_str().unwrap()) && error.contains("rejoin by snapshot"),
                "{error}"
            );

            let rebooted = Log::open_in_boot(disk, dir.path(), SMALL, boot_id() ^ 1);
            if *path == last && at >= before_last {
                // Behind the last write is room, and what stands there is nobody's.
                let whole = if at < after_last { 20 } else { 21 };
                assert_eq!(all(&rebooted.unwrap()).await, entries(0..whole));
            } else {
                assert!(rebooted.is_err(), "{name:?} byte {at} after a reboot");
            }
        }
    }
}

/// Damage that comes while the server runs is met by a read from the file.
#[tokio::test]
async fn a_flip_under_a_running_server_is_an_error_of_the_read() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    append(&log, entries(0..60)).await;
    let path = segments(dir.path())[1].clone();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.iter().rposition(|byte| *byte != 0).unwrap() - 5;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = log.read(0, 60, usize::MAX).await.unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("rejoin by snapshot"), "{error}");
    assert_eq!(log.read(50, 60, usize::MAX).await.unwrap(), entries(50..60), "others are still there");
}

/// A write that a kill stopped has put down some pages of its bytes; behind them are the zeros that were there before.
#[tokio::test]
async fn a_write_that_stopped_at_a_page_is_cut_in_the_boot_that_wrote_it() {
    const PAGE: usize = 4096;
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), OPTIONS).unwrap();
    append(&log, entries(0..5)).await;
    let start = usize::try_from(last_len(&log)).unwrap();
    // Zeros at the end of a body, and where a header lies across the end of a page.
    let zeros = "\0".repeat(3 * PAGE);
    let mut written = vec![entry(1, 5, &zeros), entry(1, 6, "x")];
    let len = written.iter().map(StoredEntry::record_len).sum::<usize>();
    let fill = (2 * PAGE - (start + len) % PAGE - HEADER_LEN - 16 - 10) % PAGE;
    written.push(entry(1, 7, &"f".repeat(fill)));
    written.extend([entry(1, 8, &format!("{}1", "y".repeat(2 * PAGE))), entry(1, 9, &zeros)]);
    let mut ends = vec![start];
    for entry in &written {
        ends.push(ends.last().unwrap() + entry.record_len());
    }
    assert!(ends.iter().any(|end| PAGE - end % PAGE < HEADER_LEN), "a header across the end of a page");
    append(&log, written.clone()).await;
    assert_eq!(last_len(&log), *ends.last().unwrap() as u64);

    let first_page = start.next_multiple_of(PAGE);
    for stop in (first_page..*ends.last().unwrap()).step_by(PAGE) {
        let copy = image(dir.path());
        let path = tail(copy.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes[stop..].fill(0);
        fs::write(&path, &bytes).unwrap();
        let log = open(copy.path(), OPTIONS).unwrap();
        let found = all(&log).await;
        // The zeros of the last body were there before they were written.
        let whole = ends[1..].iter().filter(|end| **end <= stop).count();
        let least = 5 + whole;
        assert!(
            found.len() == least || found.len() == least + 1,
            "{} entries at {stop}, not {least}",
            found.len()
        );
        assert_eq!(found[5..], written[..found.len() - 5], "stopped at {stop}");
        let next = found.len() as u64;
        append(&log, entries(next..next + 1)).await;
        log.close();
        drop(log);
        assert_eq!(
            all(&open(copy.path(), OPTIONS).unwrap()).await.len(),
            found.len() + 1,
            "stopped at {stop}"
        );
    }
}

/// Zeros at the end of a log that no stopped write explains: they do not begin where a page does.
#[tokio::test]
async fn zeros_that_begin_within_a_page_are_damage() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), OPTIONS).unwrap();
    append(&log, vec![entry(1, 0, &"x".repeat(200))]).await;
    let end = usize::try_from(last_len(&log)).unwrap();
    for zeros in 1..end - record::SEGMENT_HEADER_LEN {
        let copy = image(dir.path());
        let path = tail(copy.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes[end - zeros..].fill(0);
        fs::write(&path, &bytes).unwrap();
        // Where whole records end cannot be told from the end of the log.
        if zeros != 200 + HEADER_LEN + 16 {
            assert!(open(copy.path(), OPTIONS).is_err(), "{zeros} zeros");
        }
    }
}

/// Files are longer than what was written to them; what is written next goes into their room and not behind it.
#[tokio::test]
async fn a_file_grows_by_many_entries_at_a_time() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), OPTIONS).unwrap();
    let path = tail(dir.path());
    let opened = fs::metadata(&path).unwrap().len();
    append(&log, entries(0..500)).await;
    assert!(last_len(&log) > 10_000);
    assert_eq!(fs::metadata(&path).unwrap().len(), opened);
    log.close();
    drop(log);
    // Opening it keeps the room.
    let log = open(dir.path(), OPTIONS).unwrap();
    append(&log, entries(500..501)).await;
    assert_eq!(fs::metadata(&path).unwrap().len(), opened);
    assert_eq!(all(&log).await, entries(0..501));
    // And it ends where the segment does.
    append(&log, entries(501..40_000)).await;
    log.close();
    for path in segments(dir.path()) {
        assert!(fs::metadata(path).unwrap().len() <= u64::from(OPTIONS.segment_len));
    }
}

/// Segments without room, until the cluster allows of others; then those that are there are read as they are.
#[tokio::test]
async fn without_leave_segments_end_where_their_records_do() {
    let dir = TempDir::new().unwrap();
    let plain = || Log::open(Arc::new(RealDisk), dir.path(), SMALL).unwrap();
    let log = plain();
    append(&log, entries(0..30)).await;
    let bytes = segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    assert_eq!(bytes, log.len());
    log.close();
    let log = plain();
    append(&log, entries(30..31)).await;
    log.room_ahead().unwrap();
    append(&log, entries(31..32)).await;
    log.close();
    let (last, before) =
        segments(dir.path()).split_last().map(|(last, rest)| (last.clone(), rest.to_vec())).unwrap();
    let versions = before.iter().map(|path| fs::read(path).unwrap()[8]);
    assert!(versions.into_iter().all(|version| version == 1));
    assert_eq!(fs::read(&last).unwrap()[8], 2);
    assert_eq!(fs::metadata(&last).unwrap().len(), u64::from(SMALL.segment_len).next_multiple_of(4096));
    // It stays so.
    let log = plain();
    append(&log, entries(32..60)).await;
    log.close();
    assert_eq!(fs::read(segments(dir.path()).last().unwrap()).unwrap()[8], 2);
    assert_eq!(all(&plain()).await, entries(0..60));
}

/// After a write that failed nothing may be reported as written, or an entry is acknowledged that is nowhere.
#[tokio::test]
async fn after_one_failed_write_all_fail() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), SMALL).unwrap();
    append(&log, entries(0..1)).await;
    // The next segment cannot be made.
    fs::remove_dir_all(dir.path()).unwrap();
    let (tx, rx) = tokio::sync::oneshot::channel();
    log.append(entries(1..60), Box::new(|result| tx.send(result).unwrap())).unwrap();
    assert!(rx.await.unwrap().is_err());
    assert!(log.append(entries(60..61), Box::new(|_| ())).is_err());
    assert!(log.update_durably(|hard| hard.vote = None).await.is_err());
    assert!(log.read(0, 1, 1).await.is_err());
}

#[test]
fn golden_segments() {
    use super::record::{HardState, put_entry, put_state, segment_header};

    let place = record::Place { number: 0x0102, behind: Behind::End, offset: 28 };
    let header = |behind| segment_header(0x0102, behind);
    let mut samples = vec![
        ("header of a segment".to_owned(), header(Behind::End)),
        ("header of a segment with room ahead".to_owned(), header(Behind::Room)),
    ];
    let id = EntryId { term: 3, index: 7 };
    for (name, kind, data) in [
        ("blank entry", EntryKind::Blank, &b""[..]),
        ("entry with commands", EntryKind::Normal, b"commands"),
        ("entry with a membership", EntryKind::Membership, b"membership"),
    ] {
        let entry = StoredEntry { id, kind, data: Bytes::from_static(data) };
        let mut bytes = Vec::new();
        put_entry(&mut bytes, &entry, place, 20);
        let read = record::record(&Bytes::from(bytes.clone()), 0x0102, 28).unwrap();
        assert_eq!(read, (super::record::Record::Entry(entry), bytes.len()));
        samples.push((name.to_owned(), bytes));
    }
    for standing in [Standing::Blank, Standing::Joining, Standing::Member] {
        let state = HardState {
            standing,
            vote: Some(StoredVote { term: 4, node: 2, committed: true }),
            committed: Some(id),
            purged: None,
            last: Some(id),
            boot: 1 << 100,
        };
        let mut bytes = Vec::new();
        put_state(&mut bytes, &state, place, 20);
        let read = record::record(&Bytes::from(bytes.clone()), 0x0102, 28).unwrap();
        assert_eq!(read, (super::record::Record::State(state), bytes.len()));
        samples.push((format!("state, {standing:?}"), bytes));
    }
    crate::golden::check("log", samples);
}
