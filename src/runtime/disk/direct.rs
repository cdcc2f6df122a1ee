//! Writing and reading large files past the page cache.
//!
//! `real` writes the files of large blocks through here. A block is written once and read, if ever, much later: its
//! pages in the cache would cost a copy and a page each, push out what is being read, and be written back all at once by
//! the fsync. Holds: what is written is the same bytes at the same offsets whether or not the filesystem can do it;
//! where it cannot, they go through the cache. Not here: durability. The caller syncs the file as ever.
//!
//! The system wants file offsets, lengths and memory in multiples of a device's sector; a page of the file in two pieces of
//! memory may be taken, and cost three times the time (decision 0012). `net` receives blocks so that the pages of their files are
//! pages of memory, and they are written from there, but for the first page and the last. What lies elsewhere is staged in memory of
//! the right alignment: one stage a thread that needs one, kept as long as the thread lives. Threads of the store are
//! bounded, and end when they have been idle for some seconds.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Multiple of the sector of any device there is.
pub(super) const ALIGN: usize = 4096;
/// Parts of this length or more are not copied if they need not be.
const IN_PLACE_MIN: usize = 64 << 10;
/// Bytes staged at a time. A disk gives its full rate to requests of this size from two or three threads, and what was
/// copied is still in the processor's cache.
const STAGE_LEN: usize = 1 << 20;
/// Bytes read at a time. Many disks, networked ones above all, answer one request of megabytes slower than several smaller ones, and
/// readers of other blocks keep them busy.
const READ_LEN: usize = 1 << 20;
/// Shortest contents that go past the cache. Below it the wait for the disk costs more than the copy.
pub(super) const LEN_MIN: usize = 256 << 10;

thread_local! {
    static STAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes `parts`, one after the other, as the first bytes of an empty file; past the cache as far as they fill whole
/// pages.
///
/// # Errors
/// What the system says; part of the bytes may have been written.
pub(super) fn write(file: &File, parts: &[&[u8]]) -> io::Result<()> {
    let mut out = Out { file, offset: 0, direct: set_direct(file, true) };
    STAGE.with_borrow_mut(|memory| {
        if out.direct && write_in_place(file, parts, memory)? {
            out.leave_direct();
            return Ok(());
        }
        let stage = aligned(memory, STAGE_LEN);
        let mut staged = 0;
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let len = rest.len().min(STAGE_LEN - staged);
                stage[staged..staged + len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                staged += len;
                if staged == STAGE_LEN {
                    out.write(stage)?;
                    staged = 0;
                }
            }
        }
        let whole = staged - staged % ALIGN;
        out.write(&stage[..whole])?;
        out.leave_direct();
        out.write(&stage[whole..staged])
    })
}

/// Fills `room` from `offset` on, past the cache; less than all only where the file ends. None if this file cannot be read so,
/// or no room so placed.
///
/// # Errors
/// What the system says.
pub(super) fn read(file: &File, room: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    let whole_pages = (room.as_ptr() as usize).is_multiple_of(ALIGN)
        && room.len().is_multiple_of(ALIGN)
        && offset.is_multiple_of(ALIGN as u64);
    if !whole_pages || !set_direct(file, true) {
        return Ok(None);
    }
    let mut done = 0;
    let read = loop {
        let end = room.len().min(done + READ_LEN);
        match rustix::io::pread(file, &mut room[done..end], offset + done as u64) {
            Ok(0) => break Ok(Some(done)),
            Ok(len) => {
                done += len;
                // A part of a page is all that is left of the file, and nothing could be read behind it.
                if done == room.len() || !done.is_multiple_of(ALIGN) {
                    break Ok(Some(done));
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::INVAL | Errno::OPNOTSUPP) => break Ok(None),
            Err(error) => break Err(error.into()),
        }
    };
    // Should it stay set, reads that follow are slower and the same.
    set_direct(file, false);
    read
}

/// The first `len` bytes of `memory` at an aligned address; it grows as needed.
pub(super) fn aligned(memory: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if memory.len() < len + ALIGN {
        memory.resize(len + ALIGN, 0);
    }
    let skip = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
    &mut memory[skip..skip + len]
}

/// Writes the parts in one call, long ones from where they are. False if they do not fill whole pages, most would have to be copied, or
/// the system took only some: then they are to be written again.
fn write_in_place(file: &File, parts: &[&[u8]], memory: &mut Vec<u8>) -> io::Result<bool> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let runs = runs(parts);
    let copied_len = runs.iter().filter(|run| !run.in_place).map(|run| run.bytes.len()).sum();
    if !total.is_multiple_of(ALIGN) || copied_len > STAGE_LEN {
        return Ok(false);
    }
    // What is copied fills whole pages between what is not, so each copy begins a page as well.
    let mut rest = aligned(memory, copied_len);
    let mut slices = Vec::with_capacity(runs.len());
    for run in &runs {
        if run.in_place {
            slices.push(IoSlice::new(run.bytes));
        } else {
            let (copy, behind) = rest.split_at_mut(run.bytes.len());
            copy.copy_from_slice(run.bytes);
            slices.push(IoSlice::new(copy));
            rest = behind;
        }
    }
    match rustix::io::pwritev(file, &slices, 0) {
        Ok(len) if len == total => Ok(true),
        // Less is written, or nothing: the staged way writes all of it, from the start.
        Ok(_) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that are written from where they are, or copied before.
struct Run<'a> {
    bytes: &'a [u8],
    in_place: bool,
}

/// The parts, cut so that what stays in place is whole pages of memory and of the file.
fn runs<'a>(parts: &[&'a [u8]]) -> Vec<Run<'a>> {
    let mut runs = Vec::new();
    let mut offset = 0_usize;
    for part in parts {
        let to_page = offset.next_multiple_of(ALIGN) - offset;
        let fits = part.len() >= IN_PLACE_MIN && (part.as_ptr() as usize + to_page).is_multiple_of(ALIGN);
        let (before, rest) = part.split_at(if fits { to_page } else { 0 });
        let (pages, behind) = rest.split_at(if fits { rest.len() - rest.len() % ALIGN } else { 0 });
        for (bytes, in_place) in [(before, false), (pages, true), (behind, false)] {
            if !bytes.is_empty() {
                runs.push(Run { bytes, in_place });
            }
        }
        offset += part.len();
    }
    runs
}

/// True if the file now goes past the cache.
fn set_direct(file: &File, direct: bool) -> bool {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    rustix::fs::fcntl_setfl(file, flags).is_ok() && direct
}

/// Where a file is being written.
struct Out<'a> {
    file: &'a File,
    offset: u64,
    direct: bool,
}

impl Out<'_> {
    fn leave_direct(&mut self) {
        if self.direct {
            self.direct = set_direct(self.file, false);
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(self.file, bytes, self.offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.offset += len as u64;
                    bytes = &bytes[len..];
                    if !len.is_multiple_of(ALIGN) {
                        self.leave_direct();
                    }
                }
                Err(Errno::INTR) => {}
                // The filesystem takes the flag and not the write: this one goes through the cache.
                Err(Errno::INVAL | Errno::OPNOTSUPP) if self.direct => self.leave_direct(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::runtime::{Buffer, HEAD_ROOM};

    #[test]
    fn any_parts_of_any_length_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 7 + i / 251).to_le_bytes()[0]).collect();
        for cuts in [
            [0, 0, 0],
            [0, 512, 4096],
            [512, 512 + STAGE_LEN, 512 + STAGE_LEN + 3584],
            [1, 1_048_577, 2_999_999],
        ] {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(dir.path().join("file"))
                .unwrap();
            let [a, b, c] = cuts;
            write(&file, &[&bytes[..a], &bytes[a..b], &bytes[b..c]]).unwrap();
            assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), bytes[..c], "{cuts:?}");
            // What follows may be of any length: the file takes the usual way again.
            let mut end = file.try_clone().unwrap();
            std::io::Seek::seek(&mut end, std::io::SeekFrom::End(0)).unwrap();
            end.write_all(b"x").unwrap();
        }
    }

    /// A head and a block that lies as `net` receives it: all of it goes in one call, and only the edges are copied.
    #[test]
    fn a_block_behind_its_head_is_written_from_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let head = [7; HEAD_ROOM];
        let mut block = Buffer::new(1 << 20, 0, HEAD_ROOM);
        block.iter_mut().zip(0_u32..).for_each(|(byte, i)| *byte = (i * 13 + i / 251).to_le_bytes()[0]);
        let parts = [&head[..], &block[..], &[0; ALIGN - HEAD_ROOM]];
        let copied =
            runs(&parts).iter().filter(|run| !run.in_place).map(|run| run.bytes.len()).sum::<usize>();
        assert_eq!(copied, 2 * ALIGN, "the first page and the last");
        let elsewhere = [&head[1..], &block[..], &[0; ALIGN - HEAD_ROOM + 1]];
        assert!(runs(&elsewhere).iter().all(|run| !run.in_place), "no page of the file is one of memory");
        for parts in [parts, elsewhere] {
            let file = File::create(dir.path().join("file")).unwrap();
            write(&file, &parts).unwrap();
            assert!(std::fs::read(dir.path().join("file")).unwrap() == parts.concat());
        }
    }

    #[test]
    fn what_is_read_past_the_cache_is_what_the_file_has() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 11 + i / 251).to_le_bytes()[0]).collect();
        std::fs::write(dir.path().join("file"), &bytes).unwrap();
        let file = File::open(dir.path().join("file")).unwrap();
        for (offset, len) in [(0, 1 << 20), (8192, 65_536), (983_040, 65_536), (1_048_576, 4096)] {
            let mut memory = Vec::new();
            let room = aligned(&mut memory, len);
            let read = read(&file, room, offset as u64).unwrap();
            let wanted = &bytes[offset.min(bytes.len())..(offset + len).min(bytes.len())];
            // A filesystem may not be able to.
            assert!(read.is_none_or(|read| room[..read] == *wanted), "{read:?} of {len} at {offset}");
            assert_eq!(super::read(&file, &mut room[1..], 0).unwrap(), None, "no page begins there");
        }
    }
}
