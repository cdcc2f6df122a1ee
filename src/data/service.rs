//! Answers requests: puts, reads, questions about blocks.
//!
//! `net` calls [`Entrance`] for each request. Holds: bytes that leave were verified; a reader names what the block must
//! be, and gets nothing else under its id; a put is answered when it is durable, its bytes verified by the store alone. A request holds at most one block in
//! memory, and `net` bounds the requests in flight, which bounds the memory: in-flight limit times 4 MiB.
//! Not here: deleting. No request can; `reclaim` asks the metadata servers what may go.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::core::{Core, rpc_error};
use super::store::{BlockStore, StoreError, StoredBlock};
use crate::net::{Handler, PeerInfo, Reply, Request};
use crate::types::{BLOCK_LEN_MAX, BlockRef, codec};
use crate::wire::RpcError;
use crate::wire::message::{BLOCKS_MAX, DataReply, DataRequest, ReplicaState, kind};

/// Largest meta of a request: a question about [`BLOCKS_MAX`] blocks, each of at most 40 bytes.
const REQUEST_META_MAX: u32 = 256 << 10;
/// Blocks that one turn on a thread verifies to their last byte: a question about many lets others have their turn.
const DEEP_BATCH: usize = 8;

/// Bounds of what a request may carry, by kind.
pub(super) fn frame_limit(kind: u16) -> (u32, u32) {
    match kind {
        kind::DATA => (REQUEST_META_MAX, BLOCK_LEN_MAX),
        _ => (0, 0),
    }
}

/// The door for requests.
pub(super) struct Entrance(pub(super) Arc<Core>);

impl Handler for Entrance {
    async fn handle(&self, _from: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        if request.kind != kind::DATA {
            return Err(RpcError::Refused {
                reason: format!("a data server takes no kind {:#x}", request.kind),
            });
        }
        let asked: DataRequest =
            codec::decode(&request.meta).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
        // The checksum of a whole block is that of the frame it travels in; the store has just verified it.
        let payload_crc = match &asked {
            DataRequest::Get { block, offset: 0, len } if *len == block.len => Some(block.checksum.0),
            _ => None,
        };
        let (reply, payload) = answer(&self.0, asked, request.payload).await?;
        let meta = codec::encode(&reply).map_err(|e| RpcError::Internal { reason: e.to_string() })?;
        Ok(Reply { meta: meta.into(), payload, payload_crc })
    }
}

/// The door while the server starts: it listens a moment before all behind it is there.
pub(super) struct LateEntrance(pub(super) Arc<OnceLock<Entrance>>);

impl Handler for LateEntrance {
    async fn handle(&self, from: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        match self.0.get() {
            Some(entrance) => entrance.handle(from, request).await,
            None => Err(RpcError::NotReady { reason: "it is starting".into() }),
        }
    }
}

async fn answer(core: &Core, asked: DataRequest, payload: Bytes) -> Result<(DataReply, Bytes), RpcError> {
    if !payload.is_empty() && !matches!(asked, DataRequest::Put { .. }) {
        return Err(RpcError::Refused { reason: "only a put carries bytes".into() });
    }
    let refused = |error| rpc_error(error, &core.address);
    let reply = match asked {
        DataRequest::Put { id, checksum } => {
            core.with_store("put", move |store| store.put(id, checksum, &payload)).await.map_err(refused)?;
            DataReply::Stored
        }
        DataRequest::Get { block, offset, len } => {
            let end = offset.checked_add(len).filter(|_| len > 0);
            let Some(end) = end else {
                return Err(RpcError::Refused { reason: format!("{len} bytes at {offset} are no range") });
            };
            let bytes = core.with_store("get", move |store| read(store, block, offset, end)).await;
            if matches!(bytes, Err(StoreError::BlockCorrupt { .. })) {
                core.catch_up.call();
            }
            return Ok((DataReply::Bytes, bytes.map_err(refused)?));
        }
        DataRequest::Stat { id } => match core.store.stat(id) {
            Ok(block) => DataReply::Stat(Some((block.len, block.checksum))),
            Err(_) => DataReply::Stat(None),
        },
        DataRequest::Verify { blocks, deep } => DataReply::Verified(verify(core, blocks, deep).await?),
        DataRequest::List { after, limit } => {
            let limit = usize::try_from(limit).unwrap_or(BLOCKS_MAX).clamp(1, BLOCKS_MAX);
            let (blocks, capacity) =
                core.with_store("list", move |store| (store.list(after, limit), store.capacity())).await;
            let blocks = blocks.into_iter().map(|b| (b.id, b.len, b.checksum)).collect();
            DataReply::List { blocks, capacity }
        }
        DataRequest::Status => {
            let json = serde_json::to_string(&super::status::server_now(core).await);
            DataReply::Status(json.map_err(|e| RpcError::Internal { reason: e.to_string() })?)
        }
    };
    Ok((reply, Bytes::new()))
}

/// True if the store holds the block that the reference means.
pub(super) fn is_meant(stored: &StoredBlock, wanted: &BlockRef) -> bool {
    (stored.len, stored.checksum) == (wanted.len, wanted.checksum)
}

fn read(store: &BlockStore, wanted: BlockRef, start: u32, end: u32) -> Result<Bytes, StoreError> {
    let stored = store.stat(wanted.id)?;
    if !is_meant(&stored, &wanted) {
        tracing::error!(block = %wanted.id, len = stored.len, checksum = %stored.checksum,
            wanted_len = wanted.len, wanted_checksum = %wanted.checksum, "stored block is not the one that is referred to");
        return Err(StoreError::BlockCorrupt { block: wanted.id, fault: super::store::CopyFault::Head });
    }
    store.get(wanted.id, start..end)
}

async fn verify(core: &Core, blocks: Vec<BlockRef>, deep: bool) -> Result<Vec<ReplicaState>, RpcError> {
    if blocks.len() > BLOCKS_MAX {
        return Err(RpcError::Refused { reason: format!("more than {BLOCKS_MAX} blocks in one request") });
    }
    let mut states = Vec::with_capacity(blocks.len());
    let batch_len = if deep { DEEP_BATCH } else { BLOCKS_MAX };
    for batch in blocks.chunks(batch_len) {
        let batch = batch.to_vec();
        let found = core
            .with_store("verify", move |store| {
                batch.iter().map(|block| replica_state(store, block, deep)).collect::<Vec<_>>()
            })
            .await;
        // Missing, too: a writer may have left this server behind and nobody noticed.
        if found.iter().any(|state| *state != ReplicaState::Good) {
            core.catch_up.call();
        }
        states.extend(found);
    }
    Ok(states)
}

/// State of the replica of `wanted` here.
pub(super) fn replica_state(store: &BlockStore, wanted: &BlockRef, deep: bool) -> ReplicaState {
    match store.stat(wanted.id) {
        Err(_) => ReplicaState::Missing,
        Ok(stored) if !is_meant(&stored, wanted) => ReplicaState::Corrupt,
        Ok(_) if !deep => ReplicaState::Good,
        Ok(_) => match store.verify(wanted.id) {
            Ok(_) => ReplicaState::Good,
            Err(StoreError::NotFound(_)) => ReplicaState::Missing,
            Err(_) => ReplicaState::Corrupt,
        },
    }
}
