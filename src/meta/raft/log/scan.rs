//! Opening: reads every segment from the oldest to the newest, verifies all of it, and says what the log holds.
//!
//! Called once by [`super::Log::open`]. Holds: what is not whole is an error that names the file, with one exception:
//! the end of the newest segment, where a write may have stopped. It is cut there if bytes are missing, or are the zeros that
//! stood there before, or if the machine has rebooted since and nothing shows that the damaged bytes had ever been synced.
//! Zeros up to the end of a file are room for what comes (`writer`).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::super::super::StoreError;
use super::super::types::WAY_OUT;
use super::record::{self, Bad, Behind, EntryId, HardState, Record, SEGMENT_HEADER_LEN};
use crate::runtime::disk::{Disk, DiskFile};

/// One file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// Set once the file is there.
    pub(super) file: OnceLock<Box<dyn DiskFile>>,
    /// Its bytes, those queued included, without the zeros behind them; for the status.
    pub(super) len: AtomicU32,
    pub(super) behind: Behind,
    /// Bytes that the file has, with the zeros. The writer's.
    pub(super) room: AtomicU32,
}

impl Segment {
    pub(super) fn new(dir: &Path, number: u64, behind: Behind) -> Self {
        let (path, none) = (path(dir, number), || AtomicU32::new(0));
        Self { number, path, file: OnceLock::new(), len: none(), behind, room: none() }
    }

    pub(super) fn file(&self) -> std::io::Result<&dyn DiskFile> {
        self.file
            .get()
            .map(|file| &**file)
            .ok_or_else(|| std::io::Error::other(format!("{} is not open", self.path.display())))
    }
}

/// Where segment `number` is.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SUFFIX}"))
}

const SUFFIX: &str = "raftlog";
/// Suffix of a segment that is being made.
pub(super) const SUFFIX_NEW: &str = "new";

/// Where the record of an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) term: u64,
    pub(super) segment: u64,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) hard: HardState,
    /// Index of the first slot.
    pub(super) first: u64,
    pub(super) slots: VecDeque<Slot>,
    /// Oldest first; the last one is written to.
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// Length of the last segment.
    pub(super) tail_len: u32,
    /// What stands behind its records.
    pub(super) behind: Behind,
}

/// An error about a file of the log.
pub(super) fn damaged(path: &Path, offset: usize, reason: &str) -> StoreError {
    StoreError::new(
        format!("raft log {}", path.display()),
        format!("damaged at byte {offset}: {reason}; {WAY_OUT}"),
    )
}

pub(super) fn io_error<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> StoreError + 'a {
    move |e| StoreError::new(format!("{what} {}", path.display()), e)
}

/// Next index behind `id`. None lies behind the largest, which `record` refuses to read.
pub(super) fn next(id: Option<EntryId>) -> u64 {
    id.map_or(0, |id| id.index.saturating_add(1))
}

/// Reads the log in `dir` of `disk`; `boot` is the machine's present boot. No segment at all: a new log.
pub(super) fn scan(disk: &dyn Disk, dir: &Path, boot: u128) -> Result<Found, StoreError> {
    let mut numbers = Vec::new();
    for item in disk.list(dir).map_err(io_error("reading", dir))? {
        let path = dir.join(&item.name);
        let Some((stem, suffix)) = item.name.to_str().and_then(|n| n.rsplit_once('.')) else { continue };
        if suffix == SUFFIX_NEW {
            disk.unlink(&path).map_err(io_error("removing", &path))?;
        } else if suffix == SUFFIX {
            let number = u64::from_str_radix(stem, 16)
                .map_err(|_| damaged(&path, 0, "its name is no segment number"))?;
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    // Purged segments are unlinked oldest first, but a power cut may undo some of it and not all: what stands before
    // a gap is a left-over. If it was not, the check at the end finds entries missing.
    let run = (1..numbers.len()).rev().find(|&i| numbers[i - 1] + 1 != numbers[i]).unwrap_or(0);
    for &number in &numbers[..run] {
        let path = path(dir, number);
        disk.unlink(&path).map_err(io_error("removing", &path))?;
    }

    let mut found = Found::default();
    let numbers = &numbers[run..];
    for &number in numbers {
        let is_last = Some(&number) == numbers.last();
        scan_segment(&mut found, disk, dir, number, boot, is_last)?;
    }
    check_whole(dir, &found)?;
    Ok(found)
}

fn scan_segment(
    found: &mut Found,
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    boot: u128,
    is_last: bool,
) -> Result<(), StoreError> {
    let path = path(dir, number);
    let bytes = Bytes::from(disk.read(&path).map_err(io_error("reading", &path))?);
    let behind = record::check_segment_header(&bytes, number).map_err(|e| damaged(&path, 0, &e))?;
    let segment = Segment::new(dir, number, behind);
    let file = disk.open_to_write(&path).map_err(io_error("opening", &path))?;

    let is_first = found.segments.is_empty();
    let mut at = SEGMENT_HEADER_LEN;
    let mut end = bytes.len();
    let mut room = end;
    while at < end {
        if record::is_blank(&bytes[at..]) {
            end = at;
            break;
        }
        let offset = u32::try_from(at).map_err(|_| damaged(&path, at, "it is longer than 4 GiB"))?;
        let (record, len) = match record::record(&bytes.slice(at..), number, offset) {
            Ok(found) => found,
            Err(bad) => {
                let torn = match bad {
                    Bad::Short => true,
                    // Bytes that were written in this boot are in the page cache as they were written.
                    Bad::Damaged(_) => {
                        record::unfinished(&bytes[at..], number, offset)
                            || found.hard.boot != boot && !record::durable_behind(&bytes, number, at)
                    }
                };
                if !is_last || !torn || at == SEGMENT_HEADER_LEN {
                    let reason = match bad {
                        Bad::Short => "it ends within a record",
                        Bad::Damaged(reason) => reason,
                    };
                    return Err(damaged(&path, at, reason));
                }
                tracing::warn!(
                    segment = %path.display(), offset = at, cut = end - at,
                    "the last write to the raft log did not finish: what was not synced is cut off"
                );
                file.set_len(at as u64).map_err(io_error("cutting", &path))?;
                file.sync().map_err(io_error("syncing", &path))?;
                (end, room) = (at, at);
                break;
            }
        };
        let opens = at == SEGMENT_HEADER_LEN;
        take(found, record, Slot { term: 0, segment: number, offset, len: 0 }, len, opens, is_first)
            .map_err(|reason| damaged(&path, at, &reason))?;
        at += len;
    }
    if end == SEGMENT_HEADER_LEN {
        return Err(damaged(&path, end, "it holds no state"));
    }
    if segment.file.set(file).is_err() {
        return Err(damaged(&path, 0, "it was opened twice"));
    }
    found.tail_len = u32::try_from(end).map_err(|_| damaged(&path, end, "it is longer than 4 GiB"))?;
    segment.len.store(found.tail_len, Ordering::Relaxed);
    let room = u32::try_from(room).map_err(|_| damaged(&path, end, "it is longer than 4 GiB"))?;
    segment.room.store(room, Ordering::Relaxed);
    found.behind = segment.behind;
    found.segments.push_back(Arc::new(segment));
    Ok(())
}

/// Replays one record.
fn take(
    found: &mut Found,
    record: Record,
    slot: Slot,
    len: usize,
    opens_segment: bool,
    opens_log: bool,
) -> Result<(), String> {
    match record {
        Record::State(state) if opens_segment && opens_log => {
            // What stood before is purged and gone.
            found.first = next(state.last);
            found.hard = state;
        }
        Record::State(state) if opens_segment => {
            if (state.last, state.vote) != (found.hard.last, found.hard.vote) {
                return Err("it does not go on where the segment before it ends".into());
            }
            found.hard = state;
        }
        Record::State(state) => {
            let jumped = state.last == state.purged && state.last > found.hard.last;
            if state.last > found.hard.last && !jumped {
                return Err("a state record names entries that are not there".into());
            }
            found.hard = state;
            trim(&found.hard, &mut found.first, &mut found.slots);
        }
        Record::Entry(_) if opens_segment => return Err("it does not begin with a state".into()),
        Record::Entry(entry) => {
            let expected = next(found.hard.last);
            if entry.id.index != expected {
                return Err(format!("entry {} stands where {expected} is next", entry.id.index));
            }
            found.hard.last = Some(entry.id);
            let len = u32::try_from(len).map_err(|_| String::from("an entry is too long"))?;
            found.slots.push_back(Slot { term: entry.id.term, len, ..slot });
        }
    }
    Ok(())
}

/// Drops slots behind the last entry and those that are purged.
pub(super) fn trim(hard: &HardState, first: &mut u64, slots: &mut VecDeque<Slot>) {
    let end = next(hard.last);
    while !slots.is_empty() && *first + slots.len() as u64 > end {
        slots.pop_back();
    }
    while !slots.is_empty() && *first < next(hard.purged) {
        slots.pop_front();
        *first += 1;
    }
    if slots.is_empty() {
        *first = end.max(next(hard.purged));
    }
}

/// All entries from the purged one to the last one are there.
fn check_whole(dir: &Path, found: &Found) -> Result<(), StoreError> {
    let from = next(found.hard.purged);
    let whole = found.slots.is_empty() && found.hard.last == found.hard.purged || found.first == from;
    if whole {
        return Ok(());
    }
    Err(StoreError::new(
        format!("raft log {}", dir.display()),
        format!("entries {from} to {} are missing: a segment file is gone; {WAY_OUT}", found.first),
    ))
}

/// Number of the first segment of a log.
pub(super) const FIRST_SEGMENT: u64 = 1;
