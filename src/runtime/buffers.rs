//! Large buffers that are used again: the memory of blocks on their way.
//!
//! `net` receives blocks into them, the block store and the command line read files into them. Memory that is given back to the
//! system comes back page by page, each one zeroed at its first touch: for blocks that cost as much as copying them
//! (decision 0012). So what is dropped here is kept for the next one who asks.
//! Holds: at most [`KEPT_MAX`] bytes are kept for nobody, and none longer than [`IDLE_MAX`] once others are given back;
//! who takes a buffer sees what it filled itself: [`Buffer::freeze`] gives out no more; whole huge pages within a buffer are asked
//! for as such, and what is left over is pages of the usual size, so that none takes more than its length.
//! Not here: how many buffers are in use. That is bounded by who takes them: requests in flight, budgets of a client.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytes::Bytes;
use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;

use super::{Instant, now};

/// Shortest buffer that is kept: below it the allocator is as good.
pub const BUFFER_KEPT_MIN: usize = 256 << 10;
/// Most bytes that are kept for nobody, in one process: sixteen blocks are what four clients of a data server have in flight.
pub const KEPT_MAX: usize = 64 << 20;
/// A buffer that nobody asked for this long goes when the next one is given back.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// A page: what is written past the page cache wants memory at such an address, and a disk's own sector is no larger.
const ALIGN: usize = 4096;
/// A huge page of most processors. Elsewhere the advice is for nothing and does no harm.
const HUGE: usize = 2 << 20;
/// Where in a page a block begins that is received to be stored: behind the head that its file has, so that whole pages of
/// the file are whole pages of memory.
pub const HEAD_ROOM: usize = 512;
/// Buffers differ by this much or are of the same length, so that one serves for the next.
const STEP: usize = 256 << 10;
/// What a block brings along: its head on disk and the padding behind it, or the message beside it on the wire.
const BESIDE_MAX: usize = 16 << 10;

static KEPT: Mutex<Kept> = Mutex::new(Kept { unused: Vec::new(), byte_count: 0 });

/// Memory that nobody uses, the oldest first.
struct Kept {
    unused: Vec<(Memory, Instant)>,
    byte_count: usize,
}

impl Kept {
    /// The youngest of exactly this length: most likely the processor's cache still has some of it.
    fn take(&mut self, len: usize) -> Option<Memory> {
        let at = self.unused.iter().rposition(|(memory, _)| memory.len() == len)?;
        self.byte_count -= len;
        Some(self.unused.remove(at).0)
    }

    /// Keeps one more; gives back what is too much or too old, to be freed outside the lock.
    fn keep(&mut self, memory: Memory, at: Instant) -> Vec<(Memory, Instant)> {
        self.byte_count += memory.len();
        self.unused.push((memory, at));
        let mut gone = 0;
        for (memory, since) in &self.unused {
            if self.byte_count <= KEPT_MAX && at.saturating_duration_since(*since) <= IDLE_MAX {
                break;
            }
            self.byte_count -= memory.len();
            gone += 1;
        }
        self.unused.drain(..gone).collect()
    }
}

/// Some bytes of memory.
#[derive(Debug)]
enum Memory {
    /// As the allocator gives it.
    Heap(Vec<u8>),
    /// `len` bytes from `begin` on, the begin of a huge page.
    Huge { map: MmapMut, begin: usize, len: usize },
}

impl Memory {
    /// `len` bytes, zeroed. Where a huge page fits in, in huge pages if the system has some: a disk takes a piece of memory
    /// at a time, and 512 pieces cost more than one (decision 0012).
    fn new(len: usize) -> Self {
        if len >= HUGE
            // Only what is touched takes memory, so the way to the begin of a huge page is for nothing.
            && let Ok(map) = MmapMut::map_anon(len + HUGE)
        {
            let begin = map.as_ptr().align_offset(HUGE).min(HUGE);
            if let Err(error) = map.advise_range(Advice::HugePage, begin, len - len % HUGE) {
                tracing::trace!(%error, "no huge pages");
            }
            return Self::Huge { map, begin, len };
        }
        Self::Heap(vec![0; len])
    }

    fn len(&self) -> usize {
        match self {
            Self::Heap(memory) => memory.len(),
            Self::Huge { len, .. } => *len,
        }
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(memory) => memory,
            Self::Huge { map, begin, len } => &map[*begin..*begin + *len],
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(memory) => memory,
            Self::Huge { map, begin, len } => &mut map[*begin..*begin + *len],
        }
    }
}

/// Memory of a known length, to be filled and then frozen into [`Bytes`]; comes back to be used again with the last of them.
#[derive(Debug)]
pub struct Buffer {
    memory: Memory,
    begin: usize,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes with anything in them, of which the one at `at` lies `page_offset` bytes behind the begin of a page.
    #[must_use]
    pub fn new(len: usize, at: usize, page_offset: usize) -> Self {
        let steps = len.saturating_sub(BESIDE_MAX).div_ceil(STEP);
        let room = if len < BUFFER_KEPT_MIN { len } else { steps * STEP + BESIDE_MAX } + ALIGN;
        let kept = if room < BUFFER_KEPT_MIN { None } else { KEPT.lock().take(room) };
        let memory = kept.unwrap_or_else(|| Memory::new(room));
        let begin = (memory.as_ptr() as usize + at).wrapping_neg().wrapping_add(page_offset) % ALIGN;
        Self { memory, begin, len }
    }

    /// Its first `len` bytes, which were filled.
    #[must_use]
    pub fn freeze(mut self, len: usize) -> Bytes {
        self.len = self.len.min(len);
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Heap(Vec::new()));
        if memory.len() >= BUFFER_KEPT_MIN && memory.len() <= KEPT_MAX {
            let gone = KEPT.lock().keep(memory, now());
            drop(gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_byte_lies_in_its_page_as_asked_whatever_the_length() {
        for len in [1, 100_000, BUFFER_KEPT_MIN, 4 << 20, (4 << 20) + BESIDE_MAX, 5_000_001] {
            for (at, offset) in [(0, 0), (1, 0), (40, 512), (511, 0), (512, 512), (4096, 4095), (5000, 512)] {
                let buffer = Buffer::new(len, at, offset);
                assert_eq!(buffer.len(), len, "at={at}");
                assert_eq!((buffer.as_ptr() as usize + at) % ALIGN, offset, "len={len} at={at}");
            }
        }
    }

    #[test]
    fn nothing_is_given_out_that_was_not_filled() {
        let mut buffer = Buffer::new(1 << 20, 0, 0);
        buffer[..5].copy_from_slice(b"block");
        let bytes = buffer.freeze(5);
        assert_eq!(bytes, "block");
        assert_eq!(Buffer::new(3, 0, 0).freeze(7).len(), 3);
    }

    #[test]
    fn memory_is_kept_for_the_next_of_its_length_up_to_the_bound() {
        let mut kept = Kept { unused: Vec::new(), byte_count: 0 };
        let at = now();
        let mib = 1 << 20;
        let filled = |with, len| Memory::Heap(vec![with; len]);
        assert!(kept.keep(filled(1, mib), at).is_empty());
        assert!(kept.keep(filled(2, 2 * mib), at).is_empty());
        assert!(kept.take(3 * mib).is_none());
        assert_eq!(kept.take(mib).unwrap()[..], vec![1; mib]);
        assert!(kept.take(mib).is_none());
        // Sixty-four fit; the oldest goes for one more.
        assert!((0..62).all(|_| kept.keep(filled(3, mib), at).is_empty()));
        assert_eq!(kept.byte_count, KEPT_MAX);
        let gone = kept.keep(filled(4, mib), at);
        assert_eq!(gone.iter().map(|(memory, _)| memory.len()).collect::<Vec<_>>(), [2 * mib]);
        assert_eq!(kept.byte_count, KEPT_MAX - mib);
        // Long after that nobody has wanted them.
        let later = at + IDLE_MAX + Duration::from_secs(1);
        assert_eq!(kept.keep(filled(5, mib), later).len(), 63);
        assert_eq!((kept.byte_count, kept.unused.len()), (mib, 1));
    }

    #[test]
    fn memory_of_a_huge_page_and_more_begins_with_one_and_is_all_there() {
        for len in [HUGE, HUGE + 1, 2 * HUGE - 1, 2 * HUGE + BESIDE_MAX + ALIGN] {
            let mut memory = Memory::new(len);
            assert_eq!(memory.as_ptr() as usize % HUGE, 0, "{len}");
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|byte| *byte == 0), "{len}");
            memory.fill(7);
            assert!(memory[..len].iter().all(|byte| *byte == 7), "{len}");
        }
        assert!(matches!(Memory::new(HUGE - 1), Memory::Heap(_)), "it holds none");
    }

    #[test]
    fn the_last_part_of_a_block_gives_its_memory_back() {
        // Of a length that no other test asks for.
        let len = 37 * STEP;
        let mut buffer = Buffer::new(len, 0, 0);
        buffer[0] = 7;
        let address = buffer.as_ptr();
        let bytes = buffer.freeze(len);
        let part = bytes.slice(..1);
        drop(bytes);
        assert_ne!(Buffer::new(len, 0, 0).as_ptr(), address, "it is in use");
        drop(part);
        assert!([Buffer::new(len, 0, 0), Buffer::new(len, 0, 0)].iter().any(|b| b.as_ptr() == address));
    }
}
