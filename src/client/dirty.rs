//! Written bytes of one file that are not on their way yet: runs that neither touch nor overlap.
//!
//! `file` writes here and takes blocks out. Holds: a byte written later replaces the one written before.
//! Not here: uploading, and what was uploaded but not published.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

/// Most parts of one block, and most runs held: each part is an extent of its own, and one publish carries 1,000.
pub(super) const PARTS_MAX: usize = 1000;

/// Runs by their first byte.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    runs: BTreeMap<u64, BytesMut>,
    len: usize,
}

/// Bytes for one block: where its parts belong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// The block.
    pub(super) bytes: Bytes,
    /// (file offset, first byte in the block, length), in order of both.
    pub(super) parts: Vec<(u64, u32, u32)>,
}

impl Dirty {
    /// Bytes held.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// True if a block's worth should go: enough bytes, or enough runs.
    pub(super) fn is_full(&self, block_len: usize) -> bool {
        self.len >= block_len || self.runs.len() >= PARTS_MAX
    }

    /// The end of the last run; 0 without any.
    pub(super) fn end(&self) -> u64 {
        self.runs.last_key_value().map_or(0, |(offset, run)| offset + run.len() as u64)
    }

    /// Takes in `data` at `offset`.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        // The common case: it goes on where a run ends, and nothing follows.
        let mut start = offset;
        let mut run = BytesMut::new();
        if let Some((&first, before)) = self.runs.range_mut(..=offset).next_back()
            && first + before.len() as u64 >= offset
        {
            run = std::mem::take(before);
            self.runs.remove(&first);
            self.len -= run.len();
            start = first;
        }
        let at = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let overlap = (run.len() - at).min(data.len());
        run[at..at + overlap].copy_from_slice(&data[..overlap]);
        run.extend_from_slice(&data[overlap..]);
        // Later runs that are covered or touched.
        while let Some((&next, _)) = self.runs.range(start..=end).next() {
            let Some(later) = self.runs.remove(&next) else { break };
            self.len -= later.len();
            let skip = usize::try_from((start + run.len() as u64).saturating_sub(next)).unwrap_or(usize::MAX);
            if skip < later.len() {
                run.extend_from_slice(&later[skip..]);
            }
        }
        self.len += run.len();
        self.runs.insert(start, run);
    }

    /// Forgets what lies from `size` on.
    pub(super) fn cut(&mut self, size: u64) {
        for (_, run) in self.runs.split_off(&size) {
            self.len -= run.len();
        }
        if let Some((&offset, run)) = self.runs.last_key_value()
            && offset + run.len() as u64 > size
            && let Some(run) = self.runs.get_mut(&offset)
        {
            let kept = usize::try_from(size - offset).unwrap_or(usize::MAX).min(run.len());
            self.len -= run.len() - kept;
            run.truncate(kept);
        }
    }

    /// Copies of what it has of `from..to`, with where each begins.
    pub(super) fn pieces(&self, from: u64, to: u64) -> Vec<(u64, Bytes)> {
        let mut pieces = Vec::new();
        for (&first, run) in self.runs.range(..to).rev() {
            let last = first + run.len() as u64;
            if last <= from {
                // Runs do not overlap, so those before this one end earlier still.
                break;
            }
            let index = |n: u64| usize::try_from(n - first).unwrap_or(usize::MAX);
            let (from, to) = (first.max(from), last.min(to));
            pieces.push((from, Bytes::copy_from_slice(&run[index(from)..index(to)])));
        }
        pieces
    }

    /// Takes out a block's worth, or what there is; none when there is nothing.
    pub(super) fn take_block(&mut self, block_len: usize) -> Option<Packed> {
        if self.len == 0 {
            return None;
        }
        let want = block_len.min(self.len);
        let mut parts = Vec::new();
        let mut bytes = BytesMut::new();
        while bytes.len() < want && parts.len() < PARTS_MAX {
            let Some((offset, mut run)) = self.runs.pop_first() else { break };
            let room = want - bytes.len();
            if run.len() > room {
                let rest = run.split_off(room);
                self.runs.insert(offset + room as u64, rest);
            }
            self.len -= run.len();
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            parts.push((offset, number(bytes.len()), number(run.len())));
            if bytes.is_empty() {
                bytes = run;
            } else {
                bytes.extend_from_slice(&run);
            }
        }
        Some(Packed { bytes: bytes.freeze(), parts })
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "numbers below 300, and letters")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stream_of_writes_is_one_run() {
        let mut dirty = Dirty::default();
        for i in 0..10 {
            dirty.write(i * 10, &[i as u8; 10]);
        }
        assert!(dirty.is_full(100) && !dirty.is_full(101));
        let block = dirty.take_block(40).unwrap();
        assert_eq!(block.parts, [(0, 0, 40)]);
        assert_eq!(dirty.len(), 60);
        assert_eq!(dirty.take_block(100).unwrap().parts, [(40, 0, 60)]);
        assert!(dirty.take_block(100).is_none());
    }

    #[test]
    fn what_is_cut_off_is_gone() {
        let mut dirty = Dirty::default();
        dirty.write(0, &[1; 10]);
        dirty.write(20, &[2; 10]);
        dirty.write(40, &[3; 10]);
        dirty.cut(25);
        assert_eq!((dirty.len(), dirty.end()), (15, 25));
        dirty.cut(20);
        assert_eq!((dirty.len(), dirty.end()), (10, 10));
        dirty.cut(0);
        assert_eq!((dirty.len(), dirty.end()), (0, 0));
    }

    #[test]
    fn many_small_runs_are_bounded_too() {
        let mut dirty = Dirty::default();
        for i in 0..PARTS_MAX as u64 + 5 {
            dirty.write(i * 10, b"x");
        }
        assert!(dirty.is_full(1 << 20));
        assert_eq!(dirty.take_block(1 << 20).unwrap().parts.len(), PARTS_MAX);
        assert_eq!(dirty.take_block(1 << 20).unwrap().parts.len(), 5);
    }

    proptest! {
        /// Against a plain array: the same bytes, whatever is written over what, read or packed.
        #[test]
        fn it_holds_what_an_array_would_hold(
            writes in prop::collection::vec((0u64..200, 1usize..60), 1..40),
            block_len in 1usize..100,
        ) {
            let mut dirty = Dirty::default();
            let mut model: Vec<Option<u8>> = vec![None; 300];
            for (i, (offset, len)) in writes.into_iter().enumerate() {
                let byte = i as u8 + 1;
                dirty.write(offset, &vec![byte; len]);
                model[offset as usize..offset as usize + len].fill(Some(byte));
            }
            let read_range = |from: u64, to: u64| {
                let mut read = vec![0u8; (to - from) as usize];
                for (offset, bytes) in dirty.pieces(from, to) {
                    let at = (offset - from) as usize;
                    read[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                read
            };
            let read = read_range(0, 300);
            let plain: Vec<u8> = model.iter().map(|b| b.unwrap_or(0)).collect();
            prop_assert_eq!(&read, &plain);
            prop_assert_eq!(dirty.len(), model.iter().flatten().count());
            prop_assert_eq!(&read_range(77, 127)[..], &plain[77..127]);
            let mut packed = vec![0u8; 300];
            while let Some(block) = dirty.take_block(block_len) {
                prop_assert!(block.bytes.len() <= block_len);
                for (offset, from, len) in block.parts {
                    packed[offset as usize..(offset + u64::from(len)) as usize]
                        .copy_from_slice(&block.bytes[from as usize..(from + len) as usize]);
                }
            }
            prop_assert_eq!(&packed, &plain);
        }
    }
}
