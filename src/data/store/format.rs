//! The bytes of a stored block and the name of its file.
//!
//! `directory` writes and reads them. Holds: what [`Head::decode`] accepts was written by [`Head::encode`], whole;
//! a name that [`parse_name`] accepts is the one name that [`block_name`] gives that block.
//!
//! ```text
//! DIR/pohmelfs-data            identity of the directory (see identity.rs)
//! DIR/pohmelfs-data.lock       held while a process uses the directory
//! DIR/blocks/00 .. ff          fan-out
//! DIR/blocks/XX/SESSION-INDEX-LEN-CHECKSUM        a block, four numbers in hexadecimal
//! DIR/blocks/XX/SESSION-INDEX-LEN-CHECKSUM.tmp    being written; removed when the store opens
//!
//! a block's file, numbers little-endian
//!      0   8  magic "PMFSBLK\n"
//!      8   4  version, 1
//!     12   4  len: bytes of data, 1 to 4 MiB
//!     16   8  session of the id
//!     24   8  index of the id
//!     32   4  checksum: crc32c of the data
//!     36   4  sector_count: len / 64 KiB, rounded up
//!     40 4*n  crc32c of each sector, at most 64
//!      .   .  zeros
//!    508   4  crc32c of bytes 0..508
//!    512 len  data; sector i is data[i * 64 KiB ..][.. 64 KiB], the last one may be shorter
//!      .   .  from PADDED_LEN_MIN bytes of data on: zeros up to a multiple of 4 KiB, checked by nobody
//! ```
//!
//! One checksum covers header, table and padding, so no byte of the head can change unseen. The head takes 512
//! bytes, not a page: the blocks of small files are a few KiB, where one page more would be a third more disk.
//!
//! The name carries all that the index needs, so opening a store reads directories and no files.
//!
//! The fan-out directory is a hash of the session and the index divided by 1024: what one writer uploads at the
//! same time lands in the same directory, so that its writers share one directory fsync; 1024 blocks later it
//! moves on, so that no directory grows with one large file. ext4 puts the inodes of a directory's files near the
//! directory, and looks for a free inode past each one that was unlinked in the last seconds: with 256 directories
//! the blocks that a reclaim unlinks and those that are being written seldom meet in one place.

use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64;

use super::StoredBlock;
use super::error::CopyFault;
use crate::runtime::HEAD_ROOM;
use crate::types::{BLOCK_LEN_MAX, BlockId, Checksum, SECTOR_LEN, SessionId};

/// Name of the folder of blocks in a directory.
pub(super) const BLOCKS: &str = "blocks";
/// What the name of a file that is being written ends with.
pub(super) const TEMP_SUFFIX: &str = ".tmp";
/// Folders in [`BLOCKS`].
pub(super) const FANOUT_COUNT: usize = 1 << u8::BITS;
/// Blocks of one session, one after the other, that share a folder.
const FANOUT_RUN: u64 = 1024;

/// Length of the head of a block's file, in bytes; the data follows.
pub(super) const HEAD_LEN: usize = 512;
const CRC_AT: usize = HEAD_LEN - 4;
const TABLE_AT: usize = 40;
const MAGIC: [u8; 8] = *b"PMFSBLK\n";
const VERSION: u32 = 1;
const SECTOR_COUNT_MAX: usize = (BLOCK_LEN_MAX / SECTOR_LEN) as usize;
const _: () = assert!(BLOCK_LEN_MAX.is_multiple_of(SECTOR_LEN));
const _: () =
    assert!(TABLE_AT + 4 * SECTOR_COUNT_MAX <= CRC_AT, "the table of the longest block fits the head");

const _: () =
    assert!(HEAD_LEN == HEAD_ROOM, "what is received to be stored leaves room for the head in its page");

/// Data of this length or more is followed by zeros that fill the last page of its file: whole pages can be written past
/// the cache (`direct`), and take no more room than a part of one.
const PADDED_LEN_MIN: usize = 256 << 10;
/// A page: contents of whole pages go to the disk and come from it past the cache.
pub(super) const PAGE_LEN: usize = 4096;

/// What follows `len` bytes of data in the file of a block.
pub(super) fn padding(len: usize) -> &'static [u8] {
    let total = HEAD_LEN + len;
    if len < PADDED_LEN_MIN { &[] } else { &[0; PAGE_LEN][..total.next_multiple_of(PAGE_LEN) - total] }
}

/// Sectors of a block of `len` bytes.
pub(super) const fn sector_count(len: u32) -> u32 {
    len.div_ceil(SECTOR_LEN)
}

/// The checksums of `data`, sector by sector, and of the whole, in one pass.
pub(super) fn checksums(data: &[u8]) -> (Vec<u32>, Checksum) {
    let (whole, rest) = data.as_chunks::<{ SECTOR_LEN as usize }>();
    let mut sectors: Vec<u32> = whole.iter().map(|sector| crc32c::crc32c(sector)).collect();
    if !rest.is_empty() {
        sectors.push(crc32c::crc32c(rest));
    }
    let checksum = whole_checksum(&sectors, data.len());
    (sectors, checksum)
}

/// The checksum of `len` bytes, from those of their sectors.
pub(super) fn whole_checksum(sectors: &[u32], len: usize) -> Checksum {
    let (whole, last) = sectors.split_at(len / SECTOR_LEN as usize);
    let checksum = whole.iter().fold(0, |checksum, &sector| SHIFT.apply(checksum) ^ sector);
    let last_len = len % SECTOR_LEN as usize;
    Checksum(
        last.iter().fold(checksum, |checksum, &sector| crc32c::crc32c_combine(checksum, sector, last_len)),
    )
}

/// What a whole sector behind some bytes does to their checksum, ready for [`whole_checksum`].
static SHIFT: LazyLock<SectorShift> = LazyLock::new(SectorShift::new);

/// A checksum is linear: that of two parts is the first one's, moved on by the length of the second, XOR the second's.
/// Moving on by a sector is looked up byte by byte; to compute it for each sector took as long as the checksum itself.
struct SectorShift([[u32; 256]; 4]);

impl SectorShift {
    fn new() -> Self {
        let shift = |checksum| crc32c::crc32c_combine(checksum, 0, SECTOR_LEN as usize);
        let bits: [u32; 32] = std::array::from_fn(|bit| shift(1 << bit));
        let entry = |at: usize, byte: usize| {
            (0..8).filter(|bit| byte >> bit & 1 == 1).fold(0, |sum, bit| sum ^ bits[at * 8 + bit])
        };
        Self(std::array::from_fn(|at| std::array::from_fn(|byte| entry(at, byte))))
    }

    fn apply(&self, checksum: u32) -> u32 {
        self.0.iter().zip(checksum.to_le_bytes()).fold(0, |sum, (table, byte)| sum ^ table[usize::from(byte)])
    }
}

/// What stands before the data of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The block it belongs to.
    pub block: StoredBlock,
    /// crc32c of each sector.
    pub sectors: Vec<u32>,
}

impl Head {
    /// The bytes of the head.
    pub(super) fn encode(&self) -> [u8; HEAD_LEN] {
        let StoredBlock { id, len, checksum } = self.block;
        let count = sector_count(len);
        assert_eq!(self.sectors.len(), count as usize, "block {id}: as many checksums as sectors");
        let mut head = [0; HEAD_LEN];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &len.to_le_bytes());
        put(16, &id.session.0.to_le_bytes());
        put(24, &id.index.to_le_bytes());
        put(32, &checksum.0.to_le_bytes());
        put(36, &count.to_le_bytes());
        for (index, sector) in self.sectors.iter().enumerate() {
            put(TABLE_AT + 4 * index, &sector.to_le_bytes());
        }
        let crc = crc32c::crc32c(&head[..CRC_AT]);
        head[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// The head in front of a file, if it is whole and that of `block`.
    pub(super) fn decode(bytes: &[u8], block: &StoredBlock) -> Result<Self, CopyFault> {
        let Some(head) = bytes.first_chunk::<HEAD_LEN>() else { return Err(CopyFault::Short) };
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let found = StoredBlock {
            id: BlockId { session: SessionId(u64_at(16)), index: u64_at(24) },
            len: u32_at(12),
            checksum: Checksum(u32_at(32)),
        };
        let count = sector_count(block.len);
        let whole = crc32c::crc32c(&head[..CRC_AT]) == u32_at(CRC_AT);
        if !whole || head[..8] != MAGIC || u32_at(8) != VERSION || found != *block || u32_at(36) != count {
            return Err(CopyFault::Head);
        }
        let sectors = (0..count as usize).map(|index| u32_at(TABLE_AT + 4 * index)).collect();
        Ok(Self { block: found, sectors })
    }
}

/// The folder of a block: 0 to 255.
pub(super) fn fanout(id: BlockId) -> usize {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.session.0.to_le_bytes());
    key[8..].copy_from_slice(&(id.index / FANOUT_RUN).to_le_bytes());
    usize::from(xxh3_64(&key).to_le_bytes()[0])
}

/// The name of that folder.
pub(super) fn fanout_name(fanout: usize) -> String {
    format!("{fanout:02x}")
}

/// The name of a block's file.
pub(super) fn block_name(block: &StoredBlock) -> String {
    let StoredBlock { id, len, checksum } = block;
    format!("{:016x}-{:016x}-{len:06x}-{checksum}", id.session.0, id.index)
}

/// The block whose file has this name.
pub(super) fn parse_name(name: &str) -> Option<StoredBlock> {
    let mut parts = name.split('-');
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let block = StoredBlock {
        id: BlockId { session: SessionId(number()?), index: number()? },
        len: u32::try_from(number()?).ok().filter(|len| (1..=BLOCK_LEN_MAX).contains(len))?,
        checksum: Checksum(u32::try_from(number()?).ok()?),
    };
    // Only the exact spelling: a sign, a capital or a fifth part is no file of ours.
    (block_name(&block) == name).then_some(block)
}

/// The head in these bytes, cut or filled up, with its magic, version and checksum set right, and the block it claims to
/// be of: for a fuzzer, which cannot guess them.
pub(super) fn reseal(bytes: &[u8]) -> ([u8; HEAD_LEN], StoredBlock) {
    let mut head = [0; HEAD_LEN];
    let len = bytes.len().min(HEAD_LEN);
    head[..len].copy_from_slice(&bytes[..len]);
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&head[..CRC_AT]);
    head[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let block = StoredBlock {
        id: BlockId { session: SessionId(u64_at(16)), index: u64_at(24) },
        // A store knows the length from the name of the file, which has bounded it.
        len: u32_at(12).clamp(1, BLOCK_LEN_MAX),
        checksum: Checksum(u32_at(32)),
    };
    (head, block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(data: &[u8]) -> Head {
        let (sectors, checksum) = checksums(data);
        let id = BlockId { session: SessionId(0xfeed_0000_0000_0001), index: 7 };
        Head { block: StoredBlock { id, len: u32::try_from(data.len()).unwrap(), checksum }, sectors }
    }

    #[test]
    fn one_pass_gives_the_checksum_of_the_whole() {
        for len in [1_usize, 2, 65_535, 65_536, 65_537, 200_000, BLOCK_LEN_MAX as usize] {
            let data: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256).to_le_bytes()[0]).collect();
            let (sectors, whole) = checksums(&data);
            assert_eq!(whole, Checksum::of(&data), "len={len}");
            assert_eq!(sectors.len(), len.div_ceil(65_536));
        }
    }

    #[test]
    fn a_head_is_read_as_written_and_no_changed_bit_passes() {
        let head = block(&[3; 70_000]);
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes, &head.block), Ok(head.clone()));
        for at in 0..HEAD_LEN {
            let mut damaged = bytes;
            damaged[at] ^= 1 << (at % 8);
            assert_eq!(Head::decode(&damaged, &head.block), Err(CopyFault::Head), "byte {at}");
        }
        assert_eq!(Head::decode(&bytes[..511], &head.block), Err(CopyFault::Short));
        let other = StoredBlock { id: BlockId { index: 8, ..head.block.id }, ..head.block };
        assert_eq!(Head::decode(&bytes, &other), Err(CopyFault::Head));
    }

    #[test]
    fn a_name_says_all_about_its_block() {
        let block = block(&[3; 70_000]).block;
        let name = block_name(&block);
        assert_eq!(name.len(), 16 + 1 + 16 + 1 + 6 + 1 + 8);
        assert_eq!(parse_name(&name), Some(block));
        for bad in
            ["", "lost+found", &name.to_uppercase(), &format!("{name}.tmp"), &format!("{name}-0"), &name[1..]]
        {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
        assert_eq!(parse_name(&name.replace("-011170-", "-400001-")), None, "longer than a block can be");
        assert_eq!(parse_name(&name.replace("-011170-", "-000000-")), None, "empty");
    }

    #[test]
    fn neighbours_share_a_folder_and_sessions_spread() {
        let at = |session, index| fanout(BlockId { session: SessionId(session), index });
        assert_eq!(at(5, 0), at(5, 1023));
        let used: std::collections::BTreeSet<usize> = (0..2000).map(|session| at(session, 0)).collect();
        assert!(used.len() > 240, "{} of 256 folders used", used.len());
    }

    #[test]
    fn golden_blocks() {
        let mut samples = Vec::new();
        for (name, len) in [("one sector", 5), ("two sectors", 70_000)] {
            let head = block(&vec![3; len]);
            let bytes = head.encode();
            assert_eq!(Head::decode(&bytes, &head.block), Ok(head.clone()));
            samples.push((format!("head of a block of {name}"), bytes.to_vec()));
            let name_of = block_name(&head.block);
            assert_eq!(parse_name(&name_of), Some(head.block));
            let path = format!("{BLOCKS}/{}/{name_of}", fanout_name(fanout(head.block.id)));
            samples.push((format!("path of a block of {name}"), path.into_bytes()));
        }
        crate::golden::check("block", samples);
    }
}
