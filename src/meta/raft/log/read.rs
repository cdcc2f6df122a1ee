//! Reading entries: the newest from memory, the others from the segment files.
//!
//! Holds: what is given begins with the entry that was asked for and follows without a gap. Where that one is purged the answer is an
//! error, for whoever took what comes behind it for an answer would skip commands.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::super::types::WAY_OUT;
use super::record::{self, EntryId, Record, StoredEntry};
use super::scan::{Segment, Slot, next};
use super::{Log, READ_LEN_MAX, State};
use crate::runtime;

/// Bytes of other records between two entries that are read along with them rather than around.
const GAP_MAX: u32 = 4096;

/// Why entries were not read.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum ReadError {
    /// The first one asked for is purged.
    #[error("entry {from} is purged from the raft log, which begins with {first}")]
    Purged {
        /// Asked for.
        from: u64,
        /// The oldest one there is.
        first: u64,
    },
    /// The files cannot be read, or are damaged, or the log is closed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Purged { .. } => Self::other(error),
            ReadError::Io(error) => error,
        }
    }
}

impl Log {
    /// The entries from `from` on that stand before `to`, in order: as many as fit into `len_max` bytes but at least one,
    /// or none if the log ends before `from`.
    pub(in super::super) async fn read(
        &self,
        from: u64,
        to: u64,
        len_max: usize,
    ) -> Result<Vec<StoredEntry>, ReadError> {
        let (mut entries, plan) = {
            let state = self.shared().state.lock();
            state.check()?;
            if from < to && from < state.first {
                return Err(ReadError::Purged { from, first: state.first });
            }
            state.plan(from, to, len_max)
        };
        if plan.is_empty() {
            return Ok(entries);
        }
        let mut read = runtime::blocking("raft log read", move || read_runs(&plan)).await?;
        read.append(&mut entries);
        Ok(read)
    }

    /// Whether what follows `prev` can be read, now or once it is there.
    pub(in super::super) fn check_follows(&self, prev: Option<EntryId>) -> Result<(), ReadError> {
        let (from, first) = (next(prev), self.shared().state.lock().first);
        if from < first { Err(ReadError::Purged { from, first }) } else { Ok(()) }
    }
}

impl State {
    /// What to read of `from..to`: from the disk first, then the entries given.
    fn plan(&self, from: u64, to: u64, len_max: usize) -> (Vec<StoredEntry>, Vec<Run>) {
        let to = to.min(self.first + self.slots.len() as u64);
        let cached_from = self.first + (self.slots.len() - self.cache.len()) as u64;
        let (mut entries, mut runs) = (Vec::new(), Vec::<Run>::new());
        let mut len = 0;
        for index in from..to {
            let slot = self.slots[position(index, self.first)];
            len += slot.len as usize;
            if len > len_max && index > from {
                break;
            }
            if index >= cached_from {
                entries.push(self.cache[position(index, cached_from)].clone());
                continue;
            }
            let id = EntryId { term: slot.term, index };
            match runs.last_mut() {
                Some(run)
                    if run.segment.number == slot.segment
                        && slot.offset - run.end() <= GAP_MAX
                        && run.len as usize <= READ_LEN_MAX =>
                {
                    run.len = slot.offset + slot.len - run.offset;
                    run.wanted.push((id, slot));
                }
                _ => {
                    let segment = &self.segments[position(slot.segment, self.segments[0].number)];
                    runs.push(Run {
                        segment: segment.clone(),
                        offset: slot.offset,
                        len: slot.len,
                        wanted: vec![(id, slot)],
                    });
                }
            }
        }
        (entries, runs)
    }
}

fn position(index: u64, first: u64) -> usize {
    usize::try_from(index - first).expect("what is in memory can be counted")
}

/// A stretch of one segment to be read at once.
struct Run {
    segment: Arc<Segment>,
    offset: u32,
    len: u32,
    wanted: Vec<(EntryId, Slot)>,
}

impl Run {
    fn end(&self) -> u32 {
        self.offset + self.len
    }
}

fn read_runs(runs: &[Run]) -> io::Result<Vec<StoredEntry>> {
    let mut entries = Vec::new();
    for run in runs {
        let path = &run.segment.path;
        let wrong = |reason: &str| {
            let text =
                format!("raft log {}: damaged at byte {}: {reason}; {WAY_OUT}", path.display(), run.offset);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let mut bytes = vec![0; run.len as usize];
        run.segment.file()?.read_exact_at(&mut bytes, u64::from(run.offset)).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
                wrong("it ends too early")
            } else {
                io::Error::new(e.kind(), format!("raft log {}: {e}", path.display()))
            }
        })?;
        let bytes = Bytes::from(bytes);
        for (id, slot) in &run.wanted {
            let at = (slot.offset - run.offset) as usize;
            match record::record(&bytes.slice(at..), slot.segment, slot.offset) {
                Ok((Record::Entry(entry), _)) if entry.id == *id => entries.push(entry),
                Ok(_) => return Err(wrong("another record than was written there")),
                Err(record::Bad::Short) => return Err(wrong("a record is cut")),
                Err(record::Bad::Damaged(reason)) => return Err(wrong(reason)),
            }
        }
    }
    Ok(entries)
}
