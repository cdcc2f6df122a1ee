//! openraft's state machine over [`Machine`]: batches entries, answers their proposers, builds and installs snapshots.
//!
//! Holds: every responder is answered; the applied index is announced after the state shows it; what blocks
//! on the disk for long runs on a thread for blocking work, snapshots beside applies. An error stops openraft on this node.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use super::super::{Entry, Machine, SnapshotFile, StoreError};
use super::types::{
    LogId, MembersCell, PositionWriter, Replies, SnapshotMeta, StoredMembership, TypeConfig, log_index_of,
    read_position,
};
use crate::runtime;
use crate::types::LogIndex;

/// Entries applied in one call at most: a proposer at the front waits for those behind it.
const BATCH_MAX: usize = 512;
/// Bytes of commands applied in one call at most.
const BATCH_LEN_MAX: usize = 4 << 20;

pub(super) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFileRef>;

/// A snapshot file on this node.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFileRef {
    pub(super) id: String,
    pub(super) path: PathBuf,
    pub(super) len: u64,
}

/// The state machine as openraft wants it.
pub(super) struct StateMachine {
    machine: Arc<dyn Machine>,
    writer: PositionWriter,
    applied: watch::Sender<LogIndex>,
    members: MembersCell,
}

fn stop(error: StoreError) -> io::Error {
    io::Error::other(error.to_string())
}

impl StateMachine {
    /// `applied` is told each index that the state has come to, `members` before that who they are as of it.
    pub(super) fn new(
        machine: Arc<dyn Machine>,
        applied: watch::Sender<LogIndex>,
        members: MembersCell,
    ) -> Result<Self, StoreError> {
        let position = machine.position();
        let writer = PositionWriter::new(&position, members.clone())?;
        applied.send_replace(position.index);
        Ok(Self { machine, writer, applied, members })
    }

    fn apply_batch(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        let Batch { entries, responders, .. } = std::mem::take(batch);
        let Some(index) = entries.last().map(|entry| entry.position.index) else { return Ok(()) };
        // Here, not on a thread for blocking work: it is memory but for a cold read now and then, and two hops between
        // threads would cost a lonely caller more than the apply itself.
        let count = entries.len();
        let replies = self.machine.apply(&entries)?;
        if replies.len() != count {
            return Err(StoreError::new(
                format!("applying {count} entries up to {index}"),
                format!("the state answered {}", replies.len()),
            ));
        }
        self.applied.send_replace(index);
        for (responder, replies) in responders.into_iter().zip(replies) {
            if let Some(responder) = responder {
                responder.send(Replies(replies));
            }
        }
        Ok(())
    }
}

/// Entries gathered for one call.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    responders: Vec<Option<ApplyResponder<TypeConfig>>>,
    len: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_MAX || self.len >= BATCH_LEN_MAX
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFileRef;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.writer.current())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Batch::default();
        loop {
            // As many as are there; while the log is being read, what has come is applied.
            let next = match entries.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.apply_batch(&mut batch).map_err(stop)?;
                    entries.next().await
                }
            };
            let Some(item) = next else { break };
            let (entry, responder) = item?;
            let position = self.writer.step(&entry).map_err(stop)?;
            let commands = match entry.payload {
                EntryPayload::Normal(commands) => Some(commands.0),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            };
            batch.len += commands.as_ref().map_or(0, bytes::Bytes::len);
            batch.entries.push(Entry { position, commands });
            batch.responders.push(responder);
            if batch.is_full() {
                self.apply_batch(&mut batch).map_err(stop)?;
            }
        }
        self.apply_batch(&mut batch).map_err(stop)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder(self.machine.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: SnapshotFileRef,
    ) -> Result<(), io::Error> {
        let machine = self.machine.clone();
        let path = file.path.clone();
        let installed = runtime::blocking("install snapshot", move || machine.install_snapshot(&path))
            .await
            .map_err(stop)?;
        let writer = PositionWriter::new(&installed.position, self.members.clone()).map_err(stop)?;
        let (last, _) = writer.current();
        if last != meta.last_log_id {
            return Err(io::Error::other(format!(
                "snapshot {}: it ends at entry {}, {} was announced",
                file.path.display(),
                log_index_of(last.as_ref()),
                log_index_of(meta.last_log_id.as_ref())
            )));
        }
        self.writer = writer;
        self.applied.send_replace(installed.position.index);
        tracing::info!(snapshot = %installed.id, index = %installed.position.index, "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let machine = self.machine.clone();
        let file =
            runtime::blocking("find snapshot", move || machine.current_snapshot()).await.map_err(stop)?;
        file.map(snapshot).transpose().map_err(stop)
    }
}

fn snapshot(file: SnapshotFile) -> Result<Snapshot, StoreError> {
    let (last_log_id, last_membership) = read_position(&file.position)?;
    Ok(Snapshot {
        meta: SnapshotMeta { last_log_id, last_membership },
        snapshot: SnapshotFileRef { id: file.id, path: file.path, len: file.len },
    })
}

/// Builds one snapshot, beside applies.
pub(super) struct Builder(Arc<dyn Machine>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFileRef;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (machine, began) = (self.0.clone(), runtime::now());
        let file =
            runtime::blocking("build snapshot", move || machine.build_snapshot()).await.map_err(stop)?;
        let took_ms = (runtime::now() - began).as_millis();
        tracing::info!(snapshot = %file.id, index = %file.position.index, bytes = file.len, took_ms, "snapshot built");
        snapshot(file).map_err(stop)
    }
}
