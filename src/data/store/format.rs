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

use xxhash_rust::xxh3::xxh3_64;

use super::StoredBlock;
use super::error::CopyFault;
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

/// Sectors of a block of `len` bytes.
pub(super) const fn sector_count(len: u32) -> u32 {
    len.div_ceil(SECTOR_LEN)
}

/// The checksums of `data`, sector by sector, and of the whole, in one pass.
pub(super) fn checksums(data: &[u8]) -> (Vec<u32>, Checksum) {
    let sectors: Vec<u32> = data.chunks(SECTOR_LEN as usize).map(crc32c::crc32c).collect();
    let whole = data
        .chunks(SECTOR_LEN as usize)
        .zip(&sectors)
        .fold(0, |whole, (bytes, &sector)| crc32c::crc32c_combine(whole, sector, bytes.len()));
    (sectors, Checksum(whole))
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
}
