//! A state machine for tests: a list of what was applied, in memory, with snapshots in files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::meta::{Entry, Machine, Position, SnapshotFile, StateHash, StoreError};
use crate::namespace::Reply;
use crate::types::{SessionId, UpdateReply, codec};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Mem {
    position: Position,
    applied: Vec<Bytes>,
}

pub(super) struct MemMachine {
    dir: PathBuf,
    mem: Mutex<Mem>,
    /// The next apply fails, as with a broken disk.
    pub(super) breaks: AtomicBool,
}

fn failed(e: impl ToString) -> StoreError {
    StoreError::new("test machine", e)
}

impl MemMachine {
    /// Empty: what was applied comes from the newest snapshot and the log.
    pub(super) fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_path_buf(), mem: Mutex::default(), breaks: AtomicBool::new(false) }
    }

    pub(super) fn applied(&self) -> Vec<Bytes> {
        self.mem.lock().applied.clone()
    }

    fn load(path: &Path) -> Result<Mem, StoreError> {
        let bytes = fs::read(path).map_err(failed)?;
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| failed("short"))?;
        if crc32c::crc32c(body).to_le_bytes() != *crc {
            return Err(failed("damaged"));
        }
        codec::decode(body).map_err(failed)
    }

    fn file(&self, mem: &Mem, path: PathBuf) -> Result<SnapshotFile, StoreError> {
        let id = format!("{:016x}", mem.position.index.0);
        let len = fs::metadata(&path).map_err(failed)?.len();
        Ok(SnapshotFile { id, position: mem.position.clone(), hash: StateHash(0), len, path })
    }

    fn newest(&self) -> Option<PathBuf> {
        let paths = fs::read_dir(&self.dir).unwrap().map(|item| item.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "snap")).max()
    }

    fn store(&self, mem: &Mem) -> Result<SnapshotFile, StoreError> {
        let path = self.dir.join(format!("{:016x}.snap", mem.position.index.0));
        let mut bytes = codec::encode(mem).map_err(failed)?;
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let making = path.with_extension("new");
        fs::write(&making, bytes).map_err(failed)?;
        fs::rename(making, &path).map_err(failed)?;
        self.file(mem, path)
    }
}

impl Machine for MemMachine {
    fn position(&self) -> Position {
        self.mem.lock().position.clone()
    }

    fn apply(&self, entries: &[Entry]) -> Result<Vec<Vec<Reply>>, StoreError> {
        if self.breaks.load(Ordering::Relaxed) {
            return Err(failed("the disk is broken"));
        }
        let mut mem = self.mem.lock();
        let mut replies = Vec::new();
        for entry in entries {
            assert!(entry.position.index > mem.position.index, "applied in order, once");
            mem.position = entry.position.clone();
            replies.push(match &entry.commands {
                None => vec![],
                Some(commands) => {
                    mem.applied.push(Bytes::copy_from_slice(commands));
                    let count = mem.applied.len() as u64;
                    vec![Ok(UpdateReply::Session { session: SessionId(count), ttl_ms: 0 })]
                }
            });
        }
        Ok(replies)
    }

    fn build_snapshot(&self) -> Result<SnapshotFile, StoreError> {
        let mem = self.mem.lock().clone();
        self.store(&mem)
    }

    fn current_snapshot(&self) -> Result<Option<SnapshotFile>, StoreError> {
        self.newest().map(|path| self.file(&Self::load(&path)?, path)).transpose()
    }

    fn incoming_path(&self, id: &str) -> Result<PathBuf, StoreError> {
        Ok(self.dir.join(format!("{id}.incoming")))
    }

    fn install_snapshot(&self, received: &Path) -> Result<SnapshotFile, StoreError> {
        let mem = Self::load(received)?;
        let file = self.store(&mem)?;
        *self.mem.lock() = mem;
        Ok(file)
    }
}
