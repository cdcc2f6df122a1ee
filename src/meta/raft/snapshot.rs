//! Moving a snapshot file from the leader to a follower, in checksummed parts, resumable where it broke off.
//!
//! `network` sends, `peer` receives. Holds: a part is written where it belongs or not at all; a file is handed to the
//! state only when all its bytes are there and synced; the state verifies the whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::{Machine, StoreError};
use super::config::Timers;
use super::machine::{Snapshot, SnapshotFileRef};
use super::messages::{PART_LEN, SnapshotBegin, SnapshotEnd, SnapshotPart, SnapshotTurn, kind, pack, unpack};
use super::types::{TypeConfig, Vote};
use crate::net::Channel;
use crate::runtime;
use crate::runtime::disk::{Disk, DiskFile};
use crate::wire::RpcError;

type Response = openraft::raft::SnapshotResponse<TypeConfig>;

fn store_failed(reason: impl ToString) -> RpcError {
    RpcError::StoreFailed { reason: reason.to_string() }
}

/// Sends `snapshot`, a file of `disk`, over `channel`, and returns when the peer has installed it or has seen a higher vote.
pub(super) async fn send(
    disk: Arc<dyn Disk>,
    channel: &Channel,
    timers: &Timers,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<Response, RpcError> {
    let Snapshot { meta, snapshot: SnapshotFileRef { id, path, len } } = snapshot;
    // Open from the first part to the last: the file may be replaced by a newer one meanwhile.
    let file = runtime::blocking("open snapshot", move || disk.open(&path)).await.map_err(store_failed)?;
    let file: Arc<dyn DiskFile> = file.into();
    let begin = pack(&SnapshotBegin { vote, id: id.clone(), len })?;
    let mut turn = ask(channel, kind::SNAPSHOT_BEGIN, begin, Bytes::new(), timers.append).await?;
    loop {
        let offset = match turn {
            SnapshotTurn::Outvoted(vote) => return Ok(Response::new(vote)),
            SnapshotTurn::From(offset) if offset >= len => break,
            SnapshotTurn::From(offset) => offset,
        };
        let part_len = usize::try_from(len - offset).unwrap_or(PART_LEN).min(PART_LEN);
        let file = file.clone();
        let part = runtime::blocking("read snapshot", move || {
            let mut part = vec![0; part_len];
            file.read_exact_at(&mut part, offset).map(|()| Bytes::from(part))
        })
        .await
        .map_err(store_failed)?;
        let head = pack(&SnapshotPart { id: id.clone(), offset, crc: crc32c::crc32c(&part) })?;
        turn = ask(channel, kind::SNAPSHOT_PART, head, part, timers.snapshot).await?;
    }
    let end = pack(&SnapshotEnd { vote, id, meta })?;
    let reply = channel.call(kind::SNAPSHOT_END, end, Bytes::new(), timers.snapshot).await?;
    unpack(&reply.meta)
}

async fn ask(
    channel: &Channel,
    kind: u16,
    meta: Vec<u8>,
    payload: Bytes,
    deadline: Duration,
) -> Result<SnapshotTurn, RpcError> {
    unpack(&channel.call(kind, meta, payload, deadline).await?.meta)
}

/// The one snapshot that is being received. Clones are the same.
#[derive(Clone)]
pub(super) struct Receiver {
    machine: Arc<dyn Machine>,
    disk: Arc<dyn Disk>,
    /// Locked on threads for blocking work only, for the length of one write.
    incoming: Arc<Mutex<Option<Incoming>>>,
}

struct Incoming {
    id: String,
    len: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Bytes that have come.
    have: u64,
}

impl Receiver {
    pub(super) fn new(machine: Arc<dyn Machine>, disk: Arc<dyn Disk>) -> Self {
        Self { machine, disk, incoming: Arc::default() }
    }

    /// Where to go on with snapshot `id`. Another one that was half here is forgotten.
    pub(super) async fn begin(&self, begin: SnapshotBegin) -> Result<SnapshotTurn, RpcError> {
        let (machine, disk, incoming) = (self.machine.clone(), self.disk.clone(), self.incoming.clone());
        runtime::blocking("begin snapshot", move || {
            let mut incoming = incoming.lock();
            if let Some(half) = incoming.as_ref().filter(|half| half.id == begin.id && half.len == begin.len) {
                return Ok(SnapshotTurn::From(half.have));
            }
            if let Some(old) = incoming.take()
                && let Err(e) = disk.unlink(&old.path)
            {
                tracing::warn!(path = %old.path.display(), error = %e, "cannot remove a snapshot that came half");
            }
            let path = machine.incoming_path(&begin.id).map_err(store_failed)?;
            let file = disk.create(&path).map_err(store_failed)?;
            tracing::info!(snapshot = %begin.id, bytes = begin.len, "receiving a snapshot");
            *incoming = Some(Incoming { id: begin.id, len: begin.len, path, file, have: 0 });
            Ok(SnapshotTurn::From(0))
        })
        .await
    }

    /// Takes one part; says where the next one begins.
    pub(super) async fn part(&self, part: SnapshotPart, bytes: Bytes) -> Result<SnapshotTurn, RpcError> {
        if crc32c::crc32c(&bytes) != part.crc {
            return Err(RpcError::Refused { reason: "a part of a snapshot fails its checksum".into() });
        }
        let incoming = self.incoming.clone();
        runtime::blocking("write snapshot", move || {
            let mut incoming = incoming.lock();
            let half = incoming.as_mut().filter(|half| half.id == part.id).ok_or_else(unknown)?;
            if part.offset == half.have && bytes.len() as u64 <= half.len - half.have {
                half.file.write_at(&bytes, part.offset).map_err(store_failed)?;
                half.have += bytes.len() as u64;
            }
            Ok(SnapshotTurn::From(half.have))
        })
        .await
    }

    /// All parts are here: the file, synced, to be installed.
    pub(super) async fn end(&self, id: String) -> Result<SnapshotFileRef, RpcError> {
        let incoming = self.incoming.clone();
        runtime::blocking("sync snapshot", move || {
            let mut incoming = incoming.lock();
            let whole =
                incoming.take_if(|half| half.id == id && half.have == half.len).ok_or_else(unknown)?;
            whole.file.sync().map_err(store_failed)?;
            Ok(SnapshotFileRef { id: whole.id, path: whole.path, len: whole.len })
        })
        .await
    }
}

fn unknown() -> RpcError {
    RpcError::Refused { reason: "no such snapshot is being received: begin again".into() }
}

/// As [`StoreError`] for what this node could not do about its own files.
impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        Self::StoreFailed { reason: error.to_string() }
    }
}
