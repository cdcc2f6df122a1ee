//! The format of a dump's file, and reading and writing one.
//!
//! `cli/dump` writes, `cli/restore` and `pohmelfs dump --verify` read. Holds: a reader gives records only from blocks whose checksum is
//! right, in ascending order of their keys, and comes to an end only when count and state hash are those of the header: a flipped, missing,
//! repeated or added byte anywhere is an error and never another state.
//!
//! ```text
//! header   "PHMLDUMP" | version u32, 1 | len u32 | Header (bincode) | crc32c of all before
//! block*   len u32 (> 0) | number u32, from 0 | records_len u32 | crc32c of the three and what follows | lz4 block, len bytes
//! trailer  0 u32 | blocks u32 | records u64 | state hash u128 | crc32c of the trailer before
//! ```
//!
//! All numbers little-endian. A block is `records_len` bytes of packed records (`types/dump.rs`) when it is decompressed.

use std::fmt;
use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{DUMP_BLOCK_LEN_MAX, DumpStamp, StateHash, Tally, codec, unpack_records};

const MAGIC: &[u8; 8] = b"PHMLDUMP";
const VERSION: u32 = 1;
/// Longest header: a stamp and the words of a program about itself.
const HEADER_LEN_MAX: usize = 64 << 10;
/// Bytes of a block's head behind its length, and of the trailer behind its 0.
const HEAD_REST: usize = 12;
const TRAILER_REST: usize = 32;

/// What stands in front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Which state.
    pub(crate) stamp: DumpStamp,
    /// Version of the program that wrote it, for people.
    pub(crate) program: String,
}

/// Why a file is not usable.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It could not be read; another try may succeed.
    Io(io::Error),
    /// Its bytes are not those that were written.
    Damaged(String),
    /// Its format is not known to this program.
    Version(u32),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it ends too early".into()),
            _ => Self::Io(e),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Damaged(what) => {
                write!(
                    f,
                    "the dump is damaged: {what}; copy the file again from where it was kept, or take an older one"
                )
            }
            Self::Version(version) => write!(
                f,
                "the dump has version {version} of the format, this program reads {VERSION}: use the program that wrote it, or a later one"
            ),
        }
    }
}

/// Writes a dump.
pub(crate) struct DumpWriter<W> {
    out: W,
    stamp: DumpStamp,
    tally: Tally,
    blocks: u32,
    last_key: Bytes,
    /// Bytes written.
    pub(crate) len: u64,
}

impl<W: Write> DumpWriter<W> {
    /// Begins one.
    pub(crate) fn new(out: W, header: &Header) -> io::Result<Self> {
        let body = codec::encode(header).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(body.len() + 20);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let tally = Tally::default();
        let mut writer = Self { out, stamp: header.stamp, tally, blocks: 0, last_key: Bytes::new(), len: 0 };
        writer.put(&bytes)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Adds a block of packed records, which follow those before; gives them.
    pub(crate) fn block(&mut self, packed: &Bytes) -> io::Result<Vec<(Bytes, Bytes)>> {
        let wrong = || io::Error::other("the server sent records that do not follow each other");
        let records =
            unpack_records(packed).filter(|_| packed.len() <= DUMP_BLOCK_LEN_MAX).ok_or_else(wrong)?;
        for (key, value) in &records {
            if *key <= self.last_key {
                return Err(wrong());
            }
            self.last_key = key.clone();
            self.tally.add(key, value);
        }
        let compressed = lz4_flex::block::compress(packed);
        let mut head = Vec::with_capacity(16);
        for number in [compressed.len(), self.blocks as usize, packed.len()] {
            head.extend_from_slice(&u32::try_from(number).map_err(io::Error::other)?.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &compressed);
        head.extend_from_slice(&crc.to_le_bytes());
        self.put(&head)?;
        self.put(&compressed)?;
        self.blocks += 1;
        Ok(records)
    }

    /// Ends it, if its records are those of the stamp. Makes nothing durable.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64)> {
        if self.tally != self.stamp.tally {
            return Err(io::Error::other(format!(
                "{} records have come and do not add up to the {} of the server's state",
                self.tally.records, self.stamp.tally.records
            )));
        }
        let mut trailer = Vec::with_capacity(4 + TRAILER_REST);
        trailer.extend_from_slice(&0u32.to_le_bytes());
        trailer.extend_from_slice(&self.blocks.to_le_bytes());
        trailer.extend_from_slice(&self.tally.records.to_le_bytes());
        trailer.extend_from_slice(&self.tally.hash.0.to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
        self.put(&trailer)?;
        self.out.flush()?;
        Ok((self.out, self.len))
    }
}

/// A block of a dump.
#[derive(Debug)]
pub(crate) struct Block {
    /// From 0.
    pub(crate) number: u32,
    /// Its records as they travel.
    pub(crate) packed: Bytes,
    /// The same, one by one.
    pub(crate) records: Vec<(Bytes, Bytes)>,
}

/// Reads a dump from the start.
pub(crate) struct DumpReader<R> {
    input: R,
    /// What it says of itself.
    pub(crate) header: Header,
    tally: Tally,
    blocks: u32,
    last_key: Bytes,
}

impl<R: Read> DumpReader<R> {
    /// Reads the header.
    pub(crate) fn new(mut input: R) -> Result<Self, Fault> {
        let no_dump =
            || Fault::Damaged("it does not begin like a dump (`pohmelfs dump FILE` makes one)".into());
        let mut head = [0; 16];
        match input.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(no_dump()),
            other => other?,
        }
        if !head.starts_with(MAGIC) {
            return Err(no_dump());
        }
        // Magic, version and length stand where they are in every version there will be.
        let (version, len) = (u32_at(&head, 8), u32_at(&head, 12) as usize);
        if len > HEADER_LEN_MAX {
            return Err(Fault::Damaged("its header is too long".into()));
        }
        let body = read(&mut input, len)?;
        if u32_at(&read(&mut input, 4)?, 0) != crc32c::crc32c_append(crc32c::crc32c(&head), &body) {
            return Err(Fault::Damaged("wrong checksum of the header".into()));
        }
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        let header = codec::decode(&body).map_err(|e| Fault::Damaged(e.to_string()))?;
        Ok(Self { input, header, tally: Tally::default(), blocks: 0, last_key: Bytes::new() })
    }

    /// The next block; none when the dump is complete and adds up.
    pub(crate) fn block(&mut self) -> Result<Option<Block>, Fault> {
        let number = self.blocks;
        let damaged = |what: &str| Fault::Damaged(format!("block {number} {what}"));
        let len_bytes = read(&mut self.input, 4)?;
        let len = u32_at(&len_bytes, 0) as usize;
        if len == 0 {
            return self.trailer(&len_bytes).map(|()| None);
        }
        let head = read(&mut self.input, HEAD_REST)?;
        let (found, records_len) = (u32_at(&head, 0), u32_at(&head, 4) as usize);
        let longest = lz4_flex::block::get_maximum_output_size(DUMP_BLOCK_LEN_MAX);
        if found != number || len > longest || records_len > DUMP_BLOCK_LEN_MAX {
            return Err(damaged("has a wrong head"));
        }
        let compressed = read(&mut self.input, len)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&len_bytes), &head[..8]);
        if u32_at(&head, 8) != crc32c::crc32c_append(crc, &compressed) {
            return Err(damaged("has a wrong checksum"));
        }
        let packed = lz4_flex::block::decompress(&compressed, records_len)
            .ok()
            .filter(|packed| packed.len() == records_len)
            .ok_or_else(|| damaged("cannot be decompressed"))?;
        let packed = Bytes::from(packed);
        let records = unpack_records(&packed).ok_or_else(|| damaged("has records that do not fit it"))?;
        for (key, value) in &records {
            if *key <= self.last_key {
                return Err(damaged("has records out of order"));
            }
            self.tally.add(key, value);
            self.last_key = key.clone();
        }
        self.blocks += 1;
        Ok(Some(Block { number, packed, records }))
    }

    fn trailer(&mut self, zero: &[u8]) -> Result<(), Fault> {
        let rest = read(&mut self.input, TRAILER_REST)?;
        if u32_at(&rest, 28) != crc32c::crc32c_append(crc32c::crc32c(zero), &rest[..28]) {
            return Err(Fault::Damaged("wrong checksum of the trailer".into()));
        }
        let (mut records, mut hash) = ([0; 8], [0; 16]);
        records.copy_from_slice(&rest[4..12]);
        hash.copy_from_slice(&rest[12..28]);
        let promised =
            Tally { hash: StateHash(u128::from_le_bytes(hash)), records: u64::from_le_bytes(records) };
        let adds_up =
            u32_at(&rest, 0) == self.blocks && promised == self.tally && promised == self.header.stamp.tally;
        if !adds_up {
            return Err(Fault::Damaged("its records do not add up".into()));
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(Fault::Damaged("bytes follow its end".into()));
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// Exactly `len` bytes; `len` is bounded by the caller.
fn read(input: &mut impl Read, len: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; len];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Bytes as a dump, as they are and with every checksum set right as far as lengths make sense: for a fuzzer, which cannot guess them.
pub(crate) fn fuzz(input: &[u8]) {
    for bytes in [input.to_vec(), reseal(input)] {
        let Ok(mut reader) = DumpReader::new(&bytes[..]) else { continue };
        while let Ok(Some(block)) = reader.block() {
            for (key, value) in &block.records {
                drop(crate::namespace::dump_record(key, value));
            }
        }
    }
}

fn reseal(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 16_usize;
    if let Some(len) = out.get(12..16).map(|four| u32_at(four, 0) as usize)
        && let Some(end) = at.checked_add(len).filter(|end| end.saturating_add(4) <= out.len())
    {
        let crc = crc32c::crc32c(&out[..end]).to_le_bytes();
        out[end..end + 4].copy_from_slice(&crc);
        at = end + 4;
    }
    while at + 16 <= out.len() {
        let len = u32_at(&out, at) as usize;
        if len == 0 {
            if at + 4 + TRAILER_REST <= out.len() {
                let crc = crc32c::crc32c(&out[at..at + 32]).to_le_bytes();
                out[at + 32..at + 36].copy_from_slice(&crc);
            }
            break;
        }
        let Some(end) = (at + 16).checked_add(len).filter(|end| *end <= out.len()) else { break };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[at..at + 12]), &out[at + 16..end]).to_le_bytes();
        out[at + 12..at + 16].copy_from_slice(&crc);
        at = end;
    }
    out
}

/// Valid inputs of [`fuzz`].
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let blocks: [&[(&[u8], &[u8])]; 2] = [&[(b"a", b"one"), (b"b", b"")], &[(b"bc", b"three")]];
    (0..=blocks.len()).filter_map(|count| sample(&blocks[..count]).ok()).collect()
}

/// A small dump.
fn sample(blocks: &[&[(&[u8], &[u8])]]) -> io::Result<Vec<u8>> {
    let mut stamp = DumpStamp::default();
    for (key, value) in blocks.iter().copied().flatten() {
        stamp.tally.add(key, value);
    }
    let mut writer = DumpWriter::new(Vec::new(), &Header { stamp, program: "0.1.0".into() })?;
    for block in blocks {
        let mut packed = bytes::BytesMut::new();
        block.iter().for_each(|(key, value)| crate::types::pack_record(&mut packed, key, value));
        writer.block(&packed.freeze())?;
    }
    writer.finish().map(|(bytes, _)| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let mut reader = DumpReader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(block) = reader.block()? {
            all.extend(block.records);
        }
        Ok(all)
    }

    fn whole() -> Vec<u8> {
        let long = vec![7; 3000];
        sample(&[&[(b"a", b"one"), (b"b", &long)], &[(b"bc", b"three")], &[(b"c", b""), (b"d", b"x")]])
            .unwrap()
    }

    #[test]
    fn a_dump_is_read_as_it_was_written() {
        let bytes = whole();
        let keys: Vec<Bytes> = read_all(&bytes).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a", "b", "bc", "c", "d"]);
        assert!(bytes.len() < 1000, "it is compressed: {} bytes", bytes.len());
        for seed in fuzz_seeds() {
            read_all(&seed).unwrap();
            assert_eq!(reseal(&seed), seed, "what is whole stays as it is");
        }
    }

    #[test]
    fn cut_at_any_length_it_is_refused() {
        let bytes = whole();
        for len in 0..bytes.len() {
            let told = read_all(&bytes[..len]).unwrap_err().to_string();
            assert!(told.contains("damaged") && told.contains("copy the file again"), "{len} bytes: {told}");
        }
        let longer = [&bytes[..], b"\0"].concat();
        assert!(read_all(&longer).unwrap_err().to_string().contains("bytes follow its end"));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = whole();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(matches!(read_all(&flipped), Err(Fault::Damaged(_))), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn blocks_that_are_missing_or_repeated_or_of_another_dump_are_noticed() {
        let (bytes, other) = (whole(), sample(&[&[(b"a", b"two")]]).unwrap());
        let block = |bytes: &[u8], from: usize| from + 16 + u32_at(bytes, from) as usize;
        let first = 16 + u32_at(&bytes, 12) as usize + 4;
        let (second, third) = (block(&bytes, first), block(&bytes, block(&bytes, first)));
        let without = [&bytes[..second], &bytes[third..]].concat();
        let twice = [&bytes[..third], &bytes[second..]].concat();
        let swapped = [&bytes[..first], &other[first..block(&other, first)], &bytes[second..]].concat();
        for wrong in [without, twice, swapped] {
            assert!(matches!(read_all(&wrong), Err(Fault::Damaged(_))));
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = whole();
        bytes[8] = 9;
        let told = read_all(&reseal(&bytes)).unwrap_err().to_string();
        assert!(told.contains("version 9") && told.contains("a later one"), "{told}");
        let told = read_all(b"a letter to a friend, of more than 16 bytes").unwrap_err().to_string();
        assert!(told.contains("does not begin like a dump"), "{told}");
    }

    #[test]
    fn what_does_not_add_up_is_not_written() {
        let stamp = DumpStamp::default();
        let header = Header { stamp, program: String::new() };
        let mut writer = DumpWriter::new(Vec::new(), &header).unwrap();
        let mut packed = bytes::BytesMut::new();
        crate::types::pack_record(&mut packed, b"k", b"v");
        let packed = packed.freeze();
        writer.block(&packed).unwrap();
        assert!(writer.block(&packed).is_err(), "out of order");
        assert!(writer.finish().is_err());
    }
}
