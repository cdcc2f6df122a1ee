//! How the records of a snapshot's block are packed.
//!
//! `snapshot` frames what comes out of here. Holds: what was packed comes back as it was, or is an error; no length is
//! believed before it is bounded. Not here: checksums.

use bytes::Bytes;

use super::snapshot::{BLOCK_LEN_MAX, Fault};

/// How the blocks of a snapshot are packed: its version says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Packing {
    /// As they are (version 1).
    #[default]
    Plain,
    /// `records len u32 | LZ4 block` (version 2).
    Lz4,
}

/// Bytes of the length in front of an LZ4 block.
const HEAD_LEN: usize = 4;

impl Packing {
    /// The version of a snapshot that is packed so.
    pub(super) const fn version(self) -> u32 {
        match self {
            Self::Plain => 1,
            Self::Lz4 => 2,
        }
    }

    /// How a snapshot of this version is packed.
    pub(super) fn of_version(version: u32) -> Result<Self, Fault> {
        [Self::Plain, Self::Lz4].into_iter().find(|packing| packing.version() == version).ok_or_else(|| {
            Fault::Damaged(format!(
                "version {version}, but this program knows 1 to {}: it comes from a newer one",
                Self::Lz4.version()
            ))
        })
    }

    /// Longest packed block, in bytes.
    pub(super) fn len_max(self) -> usize {
        match self {
            Self::Plain => BLOCK_LEN_MAX,
            Self::Lz4 => HEAD_LEN + lz4_flex::block::get_maximum_output_size(BLOCK_LEN_MAX),
        }
    }

    /// Packs what is in `records`, and leaves it empty.
    pub(super) fn pack(self, records: &mut Vec<u8>) -> Vec<u8> {
        match self {
            Self::Plain => std::mem::take(records),
            Self::Lz4 => {
                // A block is some hundred KiB.
                let len = u32::try_from(records.len()).unwrap_or(u32::MAX);
                let mut packed = len.to_le_bytes().to_vec();
                packed.extend_from_slice(&lz4_flex::block::compress(records));
                records.clear();
                packed
            }
        }
    }

    /// The records of a packed block.
    pub(super) fn unpack(self, packed: Bytes) -> Result<Bytes, Fault> {
        if self == Self::Plain {
            return Ok(packed);
        }
        let short = || Fault::Damaged("a packed block is too short".into());
        let (len, rest) = packed.split_first_chunk::<HEAD_LEN>().ok_or_else(short)?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > BLOCK_LEN_MAX {
            return Err(Fault::Damaged("a packed block holds too much".into()));
        }
        let records = lz4_flex::block::decompress(rest, len)
            .map_err(|e| Fault::Damaged(format!("a packed block cannot be unpacked: {e}")))?;
        if records.len() != len {
            return Err(Fault::Damaged("a packed block holds less than it says".into()));
        }
        Ok(records.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_back_or_is_refused() {
        let records: Vec<u8> = (0..100_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for packing in [Packing::Plain, Packing::Lz4] {
            for len in [0, 1, 5, 4096, BLOCK_LEN_MAX.min(records.len())] {
                let mut given = records[..len].to_vec();
                let packed = packing.pack(&mut given);
                assert!(packed.len() <= packing.len_max());
                assert!(given.is_empty());
                assert_eq!(packing.unpack(packed.into()).ok().unwrap(), records[..len]);
            }
            assert!(Packing::of_version(packing.version()).is_ok_and(|found| found == packing));
        }
        assert!(Packing::of_version(3).is_err());

        let packed = Packing::Lz4.pack(&mut records.clone());
        assert!(packed.len() < records.len() / 2, "{} bytes of {}", packed.len(), records.len());
        for cut in [0, 3, packed.len() / 2, packed.len() - 1] {
            assert!(Packing::Lz4.unpack(packed[..cut].to_vec().into()).is_err(), "cut at {cut}");
        }
        let mut long = packed.clone();
        long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Packing::Lz4.unpack(long.into()).is_err());
        let mut other = packed;
        other[0] += 1;
        assert!(Packing::Lz4.unpack(other.into()).is_err(), "a byte less than it says");
    }
}
