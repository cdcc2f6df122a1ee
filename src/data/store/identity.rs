//! The identity file of a data directory: whose it is, written once and never guessed.
//!
//! `open` reads it before anything else is touched, and `BlockStore::adopt` adds the cluster. Holds: the file is
//! replaced whole (temporary file, fsync, rename, fsync of the directory), so after a crash it says the old or the
//! new; a damaged one is an error, never a new identity.
//!
//! ```text
//! DIR/pohmelfs-data
//!      0   8  magic "PMFSDATA"
//!      8   4  version, 1 or 2          (little-endian)
//!     12   4  len of the record
//!     16 len  record, bincode
//!      .   4  crc32c of all before
//! ```
//!
//! Version 2, of a directory that came into its cluster by a restore from a dump, has behind the record the clusters it was of before.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use crate::runtime::disk::Disk;
use crate::types::{ClusterId, NodeId, codec};

/// Name of the identity file.
pub(super) const FILE: &str = "pohmelfs-data";
/// Name of the lock file.
pub(super) const LOCK: &str = "pohmelfs-data.lock";
/// The identity file while it is written.
pub(super) const TEMP: &str = "pohmelfs-data.tmp";

const MAGIC: [u8; 8] = *b"PMFSDATA";
const VERSION: u32 = 1;
const VERSION_MOVED: u32 = 2;
const RECORD_AT: usize = 16;
/// Longest identity file: 16 members with paths of 4 KiB fit.
const LEN_MAX: usize = 128 << 10;
/// Earlier clusters that are remembered.
const LIVES_MAX: usize = 16;

/// One directory of the set that makes up a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// Its id, drawn at random when it was made.
    pub directory: u128,
    /// Where it was then; for messages only.
    pub path: String,
}

/// Whose directory it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The cluster, once it is known.
    pub cluster: Option<ClusterId>,
    /// The data server.
    pub node: NodeId,
    /// This directory.
    pub directory: u128,
    /// All directories of the store, this one among them, in the order in which they joined.
    pub members: Vec<Member>,
    /// Clusters that it belonged to before the state of one was restored into the other, the newest last. A directory that still says one
    /// of them, because the machine stopped while the others were written or because it was away, belongs to the same server.
    #[serde(skip)]
    pub formerly: Vec<ClusterId>,
}

impl Record {
    /// The same in the cluster into which its own was restored.
    pub(super) fn moved(&self, to: ClusterId) -> Self {
        let mut formerly = self.formerly.clone();
        formerly.extend(self.cluster);
        let too_many = formerly.len().saturating_sub(LIVES_MAX);
        formerly.drain(..too_many);
        Self { cluster: Some(to), formerly, ..self.clone() }
    }

    /// The whole file.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        if self.formerly.is_empty() {
            return seal(VERSION, &codec::encode(self).ok()?);
        }
        seal(VERSION_MOVED, &codec::encode(&(self, &self.formerly)).ok()?)
    }
}

/// The identity of `dir`; `None` if it has none.
///
/// # Errors
/// When the file cannot be read, is damaged, or was written by a later version.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Record>, StoreError> {
    let path = dir.join(FILE);
    let bytes = match disk.open(&path).and_then(|file| file.read_at(0, LEN_MAX + 1)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Io { what: "read", path, source }),
    };
    decode(&bytes).map(Some).map_err(|problem| StoreError::Directory {
        dir: dir.to_owned(),
        problem: format!("{FILE}: {problem}"),
    })
}

/// The identity in the bytes of its file.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, String> {
    const DAMAGED: &str = "is damaged; copy it from a backup, or empty the directory and let the other data \
                           servers fill it again";
    let u32_at = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    if bytes.first_chunk() != Some(&MAGIC) {
        return Err(DAMAGED.into());
    }
    let version = u32_at(8).ok_or(DAMAGED)?;
    match version {
        VERSION | VERSION_MOVED => {}
        later if later > VERSION_MOVED => {
            return Err(format!(
                "has version {later}; this program knows up to {VERSION_MOVED}: start a later one"
            ));
        }
        _ => return Err(DAMAGED.into()),
    }
    let record_len = u32_at(12).ok_or(DAMAGED)? as usize;
    let crc_at = RECORD_AT.saturating_add(record_len);
    let record = bytes.get(RECORD_AT..crc_at).ok_or(DAMAGED)?;
    if bytes.len() != crc_at + 4 || u32_at(crc_at) != Some(crc32c::crc32c(&bytes[..crc_at])) {
        return Err(DAMAGED.into());
    }
    let bad = |e: codec::CodecError| format!("{DAMAGED} ({e})");
    if version == VERSION {
        return codec::decode(record).map_err(bad);
    }
    let (record, formerly): (Record, Vec<ClusterId>) = codec::decode(record).map_err(bad)?;
    Ok(Record { formerly, ..record })
}

/// The bytes of an identity file around an encoded record; none when it is too long.
pub(super) fn seal(version: u32, body: &[u8]) -> Option<Vec<u8>> {
    let record_len = u32::try_from(body.len()).ok().filter(|_| body.len() + RECORD_AT + 4 <= LEN_MAX)?;
    let mut bytes = Vec::with_capacity(RECORD_AT + body.len() + 4);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&record_len.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    Some(bytes)
}

/// Writes the identity of `dir`, durably.
///
/// # Errors
/// When the disk refuses; the old identity, if any, is then still there or the new one is.
pub(super) fn write(disk: &dyn Disk, dir: &Path, record: &Record) -> Result<(), StoreError> {
    let io_error = |what, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { what, path, source }
    };
    let bytes = record.encode().ok_or_else(|| StoreError::Config("paths too long to be kept".into()))?;

    let (path, temp) = (dir.join(FILE), dir.join(TEMP));
    let mut file = disk.create(&temp).map_err(io_error("create", &temp))?;
    file.write(&[&bytes]).map_err(io_error("write", &temp))?;
    file.sync().map_err(io_error("fsync", &temp))?;
    disk.rename(&temp, &path).map_err(io_error("rename", &temp))?;
    disk.sync_dir(dir).map_err(io_error("fsync", dir))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::disk::MemoryDisk;

    #[test]
    fn an_identity_is_read_as_written_and_damage_is_refused() {
        let disk = Arc::new(MemoryDisk::new());
        let dir = Path::new("/d");
        disk.make_dir(dir).unwrap();
        assert_eq!(read(&*disk, dir).unwrap(), None);
        let record = Record {
            cluster: Some(ClusterId(5)),
            node: NodeId(3),
            directory: 77,
            members: vec![Member { directory: 77, path: "/d".into() }],
            formerly: Vec::new(),
        };
        write(&*disk, dir, &record).unwrap();
        assert_eq!(read(&*disk, dir).unwrap(), Some(record.clone()));
        assert_eq!(disk.read(&dir.join(FILE)).unwrap()[8], 1, "what was never moved stays as it was");
        let moved = record.moved(ClusterId(6)).moved(ClusterId(7));
        assert_eq!(moved.formerly, [ClusterId(5), ClusterId(6)]);
        write(&*disk, dir, &moved).unwrap();
        assert_eq!(read(&*disk, dir).unwrap(), Some(moved));
        let len = disk.file_len(&dir.join(FILE)).unwrap();
        for at in 0..len {
            disk.flip(&dir.join(FILE), at, 0x10);
            let error = read(&*disk, dir).unwrap_err().to_string();
            assert!(error.contains("/d") && error.contains("pohmelfs-data"), "byte {at}: {error}");
            disk.flip(&dir.join(FILE), at, 0x10);
        }
    }

    #[test]
    fn golden_identity() {
        let member = |directory, path: &str| Member { directory, path: path.into() };
        let record = Record {
            cluster: Some(ClusterId(0x0102)),
            node: NodeId(101),
            directory: 1 << 100,
            members: vec![member(1 << 100, "/a"), member(7, "/b")],
            formerly: Vec::new(),
        };
        let moved = record.moved(ClusterId(0x0103));
        let none = Record { cluster: None, members: Vec::new(), ..record.clone() };
        let samples = [("of a cluster", record), ("of no cluster yet", none), ("that moved", moved)].map(
            |(name, record)| {
                let bytes = record.encode().unwrap();
                assert_eq!(decode(&bytes).unwrap(), record);
                (name.to_owned(), bytes)
            },
        );
        crate::golden::check("identity_data", samples.to_vec());
    }
}
