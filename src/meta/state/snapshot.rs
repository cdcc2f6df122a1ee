//! The format of a snapshot file, and reading and writing one.
//!
//! `snapshots` decides where the files are and which are kept. Holds: a reader returns records only from blocks whose
//! checksum is right, in strictly ascending order, and says "complete" only when count and state hash are those of the
//! header, so that a flipped, missing, repeated or added byte anywhere is an error and never another state.
//!
//! ```text
//! header   "PHMLSNAP" | version u32 | len u32 | Stamp (bincode) | crc32c of all before
//! block*   len u32 (> 0) | number u32 | crc32c(len, number, payload) | payload: records, packed as the version says (`packing`)
//! records  (key len u32, value len u32, key, value)*
//! trailer  0 u32 | blocks u32 | records u64 | hash u128 | crc32c of all before, from the 0 on
//! ```
//!
//! All numbers little-endian.

use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::{StateHash, StoreError};
use super::packing::Packing;
use super::record::{KEY_LEN_MAX, Stamp, Tally, VALUE_LEN_MAX, show};
use crate::namespace;
use crate::runtime::disk::{Disk, DiskFile, FileStream};
use crate::types::{Level, codec, unpack_records};

const MAGIC: &[u8; 8] = b"PHMLSNAP";
/// A block is written when it is this long: large enough that its 12 bytes of frame do not count, small enough to hold.
const BLOCK_LEN: usize = 256 << 10;
/// Longest block before it is packed: one full of records, and one record of the longest kind.
pub(super) const BLOCK_LEN_MAX: usize = BLOCK_LEN + KEY_LEN_MAX + VALUE_LEN_MAX + 8;
/// Longest header: a position is at most 64 KiB.
const HEADER_LEN_MAX: usize = 128 << 10;
/// Buffer of reads and writes.
const BUFFER_LEN: usize = 1 << 20;

/// Why a file is not usable.
pub(super) enum Fault {
    /// It could not be read or written; another try may succeed.
    Io(std::io::Error),
    /// Its bytes are not those that were written.
    Damaged(String),
}

impl From<std::io::Error> for Fault {
    fn from(e: std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Damaged("it ends too early".into()),
            _ => Self::Io(e),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Damaged(what) => write!(f, "the snapshot is damaged: {what}"),
        }
    }
}

impl Fault {
    /// As an error about a file.
    pub(super) fn into_error(self, doing: &str, path: &Path) -> StoreError {
        StoreError::new(format!("{doing} {}", path.display()), self)
    }
}

/// Writes one snapshot file; the caller names and renames it.
pub(super) struct SnapshotWriter {
    path: PathBuf,
    file: BufWriter<FileStream>,
    stamp: Stamp,
    tally: Tally,
    packing: Packing,
    block: Vec<u8>,
    blocks: u32,
}

impl SnapshotWriter {
    /// Starts a file for the state with this stamp.
    pub(super) fn create(
        disk: &dyn Disk,
        path: &Path,
        stamp: &Stamp,
        packing: Packing,
    ) -> Result<Self, StoreError> {
        let failed = |e: &dyn std::fmt::Display| StoreError::new(format!("writing {}", path.display()), e);
        let file = FileStream::new(disk.create(path).map_err(|e| failed(&e))?);
        let body = codec::encode(stamp).map_err(|e| failed(&e))?;
        let mut header = Vec::with_capacity(body.len() + 20);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&packing.version().to_le_bytes());
        header.extend_from_slice(&u32::try_from(body.len()).map_err(|e| failed(&e))?.to_le_bytes());
        header.extend_from_slice(&body);
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        let mut out = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(BUFFER_LEN, file),
            stamp: stamp.clone(),
            tally: Tally::default(),
            packing,
            block: Vec::with_capacity(BLOCK_LEN + 4096),
            blocks: 0,
        };
        out.put(&header)?;
        Ok(out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|e| Fault::Io(e).into_error("writing", &self.path))
    }

    /// Adds a record; keys come in ascending order.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.tally.add(key, value);
        for len in [key.len(), value.len()] {
            // Lengths were bounded when the record was applied.
            self.block.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        if self.block.len() >= BLOCK_LEN { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), StoreError> {
        let block = self.packing.pack(&mut self.block);
        let mut head = [0; 12];
        head[..4].copy_from_slice(&u32::try_from(block.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[4..8].copy_from_slice(&self.blocks.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..8]), &block);
        head[8..].copy_from_slice(&crc.to_le_bytes());
        self.put(&head)?;
        self.put(&block)?;
        self.blocks += 1;
        Ok(())
    }

    /// Whether the records so far are those of the stamp.
    pub(super) fn complete(&self) -> bool {
        self.tally == self.stamp.tally
    }

    /// Ends the file and makes its bytes durable.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let file = self.finish_for_now()?;
        file.sync().map_err(|e| Fault::Io(e).into_error("syncing", &path))
    }

    /// Ends a file that need not survive a crash.
    pub(super) fn finish_for_now(mut self) -> Result<Box<dyn DiskFile>, StoreError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let mut trailer = Vec::with_capacity(36);
        trailer.extend_from_slice(&0u32.to_le_bytes());
        trailer.extend_from_slice(&self.blocks.to_le_bytes());
        trailer.extend_from_slice(&self.tally.records.to_le_bytes());
        trailer.extend_from_slice(&self.tally.hash.0.to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
        self.put(&trailer)?;
        let path = self.path;
        let file = self.file.into_inner();
        file.map(FileStream::into_file).map_err(|e| Fault::Io(e.into_error()).into_error("writing", &path))
    }
}

/// Reads one snapshot file from the start.
pub(super) struct SnapshotReader {
    file: BufReader<FileStream>,
    /// What the header promises.
    pub stamp: Stamp,
    packing: Packing,
    /// Format level of the state, as far as it was read.
    level: Level,
    tally: Tally,
    blocks: u32,
    last_key: Bytes,
    /// Bytes read so far.
    at: u64,
    /// Bytes of the file.
    len: u64,
}

impl SnapshotReader {
    /// Opens a file and checks its header.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, Fault> {
        let opened = disk.open(path)?;
        let file_len = opened.length()?;
        let mut file = BufReader::with_capacity(BUFFER_LEN, FileStream::new(opened));
        let mut header = [0; 16];
        file.read_exact(&mut header)?;
        if &header[..8] != MAGIC {
            return Err(Fault::Damaged("it does not begin like a snapshot".into()));
        }
        let packing = Packing::of_version(u32_at(&header, 8))?;
        let len = u32_at(&header, 12) as usize;
        if len > HEADER_LEN_MAX {
            return Err(Fault::Damaged("its header is too long".into()));
        }
        let body = read(&mut file, len)?;
        let crc = u32_at(&read(&mut file, 4)?, 0);
        if crc != crc32c::crc32c_append(crc32c::crc32c(&header), &body) {
            return Err(Fault::Damaged("wrong checksum of the header".into()));
        }
        let stamp = codec::decode(&body).map_err(|e| Fault::Damaged(e.to_string()))?;
        let at = (header.len() + body.len() + 4) as u64;
        let (level, tally) = (Level::FIRST, Tally::default());
        Ok(Self { file, stamp, packing, level, tally, blocks: 0, last_key: Bytes::new(), at, len: file_len })
    }

    /// Records that it holds if its header is right, and at most as many as can be in so long a file.
    pub(super) fn record_count(&self) -> u64 {
        self.stamp.tally.records.min(self.len)
    }

    /// How its blocks are packed.
    pub(super) fn packing(&self) -> Packing {
        self.packing
    }

    /// Where the next block begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The records of the next block; none when the file is complete and adds up.
    pub(super) fn block(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, Fault> {
        let head = read(&mut self.file, 8)?;
        let Some(payload) = payload(&mut self.file, &head, self.blocks, self.packing)? else {
            return self.trailer(&head).map(|()| None);
        };
        self.at += 12 + payload.len() as u64;
        let records = records(&self.packing.unpack(payload)?, self.blocks)?;
        for (key, value) in &records {
            if *key <= self.last_key {
                return Err(Fault::Damaged(format!("key {} is out of order", show(key))));
            }
            let level = namespace::level_in(key, value).map_err(|e| Fault::Damaged(e.to_string()))?;
            self.level = level.unwrap_or(self.level);
            self.tally.add(key, value);
            self.last_key = key.clone();
        }
        self.blocks += 1;
        Ok(Some(records))
    }

    fn trailer(&mut self, head: &[u8]) -> Result<(), Fault> {
        let rest = read(&mut self.file, 28)?;
        if u32_at(&rest, 24) != crc32c::crc32c_append(crc32c::crc32c(head), &rest[..24]) {
            return Err(Fault::Damaged("wrong checksum of the trailer".into()));
        }
        let mut records = [0; 8];
        records.copy_from_slice(&rest[..8]);
        let mut hash = [0; 16];
        hash.copy_from_slice(&rest[8..24]);
        let promised =
            Tally { hash: StateHash(u128::from_le_bytes(hash)), records: u64::from_le_bytes(records) };
        if promised != self.tally || promised != self.stamp.tally {
            return Err(Fault::Damaged("its records do not add up".into()));
        }
        if self.file.read(&mut [0])? != 0 {
            return Err(Fault::Damaged("bytes follow its end".into()));
        }
        Ok(())
    }
}

/// The payload behind the head of block `number`, verified; none behind the head of the trailer.
fn payload(file: &mut impl Read, head: &[u8], number: u32, packing: Packing) -> Result<Option<Bytes>, Fault> {
    let (len, found) = (u32_at(head, 0) as usize, u32_at(head, 4));
    if found != number {
        return Err(Fault::Damaged(format!("block {number} is called {found}")));
    }
    if len == 0 {
        return Ok(None);
    }
    if len > packing.len_max() {
        return Err(Fault::Damaged(format!("block {number} is too long")));
    }
    let crc = u32_at(&read(file, 4)?, 0);
    let payload = Bytes::from(read(file, len)?);
    if crc != crc32c::crc32c_append(crc32c::crc32c(head), &payload) {
        return Err(Fault::Damaged(format!("wrong checksum of block {number}")));
    }
    Ok(Some(payload))
}

/// The records in a payload.
fn records(payload: &Bytes, number: u32) -> Result<Vec<(Bytes, Bytes)>, Fault> {
    unpack_records(payload).ok_or_else(|| Fault::Damaged(format!("a record does not fit block {number}")))
}

/// Block `number`, which stands at `at` of a file that was verified.
pub(super) fn block_at(
    file: &dyn DiskFile,
    packing: Packing,
    at: u64,
    number: usize,
) -> Result<Vec<(Bytes, Bytes)>, Fault> {
    let payload = payload_at(file, packing, at, number)?;
    records(&payload, u32::try_from(number).unwrap_or(u32::MAX))
}

/// The same, verified and unpacked: records one after the other, as a dump packs them.
pub(super) fn payload_at(
    file: &dyn DiskFile,
    packing: Packing,
    at: u64,
    number: usize,
) -> Result<Bytes, Fault> {
    let mut head = [0; 12];
    file.read_exact_at(&mut head, at)?;
    let mut bytes = vec![0; (u32_at(&head, 0) as usize).min(packing.len_max())];
    file.read_exact_at(&mut bytes, at + 12)?;
    let number = u32::try_from(number).map_err(|e| Fault::Damaged(e.to_string()))?;
    let mut rest = head[8..].chain(&bytes[..]);
    match payload(&mut rest, &head[..8], number, packing)? {
        Some(payload) => packing.unpack(payload),
        None => Ok(Bytes::new()),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// Exactly `len` bytes; `len` is bounded by the caller.
fn read(file: &mut impl Read, len: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads a whole file and checks everything in it; which state it is, and of which format level.
pub(super) fn verify(disk: &dyn Disk, path: &Path) -> Result<(Stamp, Level), Fault> {
    let mut reader = SnapshotReader::open(disk, path)?;
    while reader.block()?.is_some() {}
    Ok((reader.stamp, reader.level))
}

/// The same bytes with every checksum set right as far as their lengths make sense: for a fuzzer, which cannot guess them.
pub(super) fn reseal(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let set = |out: &mut [u8], range: std::ops::Range<usize>, crc: u32| {
        out[range].copy_from_slice(&crc.to_le_bytes());
    };
    if out.len() < 16 {
        return out;
    }
    let mut at = 16_usize.saturating_add(u32_at(&out, 12) as usize);
    if at.saturating_add(4) > out.len() {
        return out;
    }
    let crc = crc32c::crc32c(&out[..at]);
    set(&mut out, at..at + 4, crc);
    at += 4;
    while at + 12 <= out.len() {
        let len = u32_at(&out, at) as usize;
        if len == 0 {
            if at + 36 <= out.len() {
                let crc = crc32c::crc32c(&out[at..at + 32]);
                set(&mut out, at + 32..at + 36, crc);
            }
            break;
        }
        let Some(end) = (at + 12).checked_add(len).filter(|end| *end <= out.len()) else { break };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[at..at + 8]), &out[at + 12..end]);
        set(&mut out, at + 8..at + 12, crc);
        at = end;
    }
    out
}
