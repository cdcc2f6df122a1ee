//! openraft's log traits over [`Log`].
//!
//! Holds: only the vote is awaited on openraft's core task; everything else is queued. Not here: the log itself.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use futures::{Stream, TryStreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend};

use super::log::{EntryId, EntryKind, Log, READ_LEN_MAX, ReadError, StoredEntry, StoredVote};
use super::types::{Commands, LogId, Membership, Payload, RaftEntryOf, TypeConfig, Vote};
use crate::types::codec;

/// The log as openraft wants it.
#[derive(Clone)]
pub(super) struct LogStore(pub(super) Log);

pub(super) fn entry_id(id: LogId) -> EntryId {
    EntryId { term: id.leader_id.term, index: id.index }
}

pub(super) fn log_id(id: EntryId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

fn stored_vote(vote: &Vote) -> StoredVote {
    StoredVote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

fn vote(stored: StoredVote) -> Vote {
    if stored.committed {
        Vote::new_committed(stored.term, stored.node)
    } else {
        Vote::new(stored.term, stored.node)
    }
}

/// An entry of openraft as the log and the wire carry it.
pub(super) fn stored_entry(entry: RaftEntryOf) -> io::Result<StoredEntry> {
    let id = entry_id(entry.log_id());
    Ok(match entry.payload {
        EntryPayload::Blank => StoredEntry { id, kind: EntryKind::Blank, data: bytes::Bytes::new() },
        EntryPayload::Normal(commands) => StoredEntry { id, kind: EntryKind::Normal, data: commands.0 },
        EntryPayload::Membership(membership) => {
            let data = codec::encode(&membership).map_err(io::Error::other)?.into();
            StoredEntry { id, kind: EntryKind::Membership, data }
        }
    })
}

/// The entry of openraft that was made into this.
pub(super) fn raft_entry(stored: StoredEntry) -> io::Result<RaftEntryOf> {
    let payload: Payload = match stored.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Normal => EntryPayload::Normal(Commands(stored.data)),
        EntryKind::Membership => {
            let membership: Membership = codec::decode(&stored.data)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            EntryPayload::Membership(membership)
        }
    };
    Ok(RaftEntryOf::new(log_id(stored.id), payload))
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&from) => from,
        Bound::Excluded(&from) => from + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&to) => to + 1,
        Bound::Excluded(&to) => to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl LogStore {
    async fn read(&self, from: u64, to: u64, len_max: usize) -> io::Result<Vec<RaftEntryOf>> {
        self.0.read(from, to, len_max).await?.into_iter().map(raft_entry).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntryOf>, io::Error> {
        let (from, to) = bounds(&range);
        match self.0.read(from, to, usize::MAX).await {
            // As the trait has it: what is purged is left out.
            Err(ReadError::Purged { first, .. }) => self.read(first.min(to), to, usize::MAX).await,
            read => read?.into_iter().map(raft_entry).collect(),
        }
    }

    /// For sending to a peer. None where the first one was purged meanwhile: openraft makes requests without entries of
    /// that, and `network` ends the stream that they come from.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntryOf>, io::Error> {
        match self.0.read(start, end, READ_LEN_MAX).await {
            Ok(entries) => entries.into_iter().map(raft_entry).collect(),
            Err(ReadError::Purged { .. }) => Ok(Vec::new()),
            Err(ReadError::Io(error)) => Err(error),
        }
    }

    /// Reads as it goes: after a restart the range is the whole log.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<RaftEntryOf, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let store = self.clone();
        futures::stream::try_unfold(from, move |from| {
            let store = store.clone();
            async move {
                if from >= to {
                    return Ok(None);
                }
                let entries = store.read(from, to, READ_LEN_MAX).await?;
                let Some(last) = entries.last() else { return Ok(None) };
                let next = last.log_id.index + 1;
                Ok::<_, io::Error>(Some((futures::stream::iter(entries.into_iter().map(Ok)), next)))
            }
        })
        .try_flatten()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.hard().vote.map(vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let hard = self.0.hard();
        Ok(LogState { last_purged_log_id: hard.purged.map(log_id), last_log_id: hard.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = stored_vote(vote);
        self.0.update_durably(|hard| hard.vote = Some(vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.0.update(|hard| hard.committed = committed.map(entry_id), None)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.hard().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntryOf> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(stored_entry).collect::<io::Result<Vec<_>>>()?;
        self.0.room().await;
        self.0.append(entries, Box::new(|result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.0.truncate_after(last_log_id.map(entry_id))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.0.purge(entry_id(log_id))
    }
}
