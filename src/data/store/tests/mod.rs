//! Stories about the block store: opening, crashes, damage, faults, sharing of fsyncs, and a random model.

mod crash;
mod damage;
mod faults;
mod group_commit;
mod model;
mod opening;
mod speed;
mod ways;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{BlockStore, Identity, MemoryDisk, Spread, StoreConfig, StoreError};
use crate::types::{BlockId, Checksum, NodeId, SessionId};

/// Node 3, no cluster yet.
pub(super) const WHO: Identity = Identity { cluster: None, node: Some(NodeId(3)), random: 0x1234 };

pub(super) fn id(session: u64, index: u64) -> BlockId {
    BlockId { session: SessionId(session), index }
}

/// `len` bytes that differ from block to block.
pub(super) fn bytes_of(id: BlockId, len: usize) -> Bytes {
    (0..len).map(|i| ((i * 31 + i / 251) as u64 ^ id.index ^ id.session.0 << 3).to_le_bytes()[0]).collect()
}

/// `/a`, `/b` and so on, as many as the mode needs and one more for spread.
pub(super) fn config(mode: Spread, count: u8) -> StoreConfig {
    let directories = (0..count).map(|i| PathBuf::from(format!("/{}", char::from(b'a' + i)))).collect();
    StoreConfig { mode, reserve_bytes: 0, create: true, ..StoreConfig::new(directories) }
}

pub(super) fn open(disk: &Arc<MemoryDisk>, config: StoreConfig) -> Result<BlockStore, StoreError> {
    BlockStore::open_on(disk.clone(), config, WHO)
}

pub(super) fn put(store: &BlockStore, id: BlockId, data: &Bytes) -> Result<super::Put, StoreError> {
    store.put(id, Checksum::of(data), data)
}

/// The one file of a block below `dir`.
pub(super) fn block_file(disk: &MemoryDisk, dir: &str) -> PathBuf {
    let files = disk.files_below(&Path::new(dir).join("blocks"));
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}
