//! Small writes that are on the disk when the call returns, one behind the other in room that the file already has.
//!
//! `real` writes the raft log through here. A write and an fsync are two requests to the disk with the page cache between
//! them, and the second waits for the first; a write past the cache that is told to be durable (`O_DIRECT | O_DSYNC`) saves the
//! cache, and what else waits to be written back does not get in its way. Holds: where the system cannot do it nothing is
//! written, and the caller is told so. Not here: room in the file.
//!
//! A disk takes whole sectors. The bytes before the first one of a write are remembered from the write before it, or read; what
//! stands behind the last one, up to the end of its block, becomes zeros. A block that is written over keeps its old
//! bytes as they were, so that a power cut that leaves any mixture of its sectors leaves those.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::direct::{ALIGN, aligned};

/// Longest write that goes this way: above it an fsync more is nothing.
const LEN_MAX: usize = 256 << 10;

/// A way past the page cache into one file.
#[derive(Debug, Default)]
pub(super) enum Through {
    /// Not tried yet.
    #[default]
    Closed,
    Open(Blocks),
    /// The system cannot.
    Unable,
}

/// Blocks on their way.
#[derive(Debug)]
pub(super) struct Blocks {
    file: File,
    stage: Vec<u8>,
    /// The last block written, as far as it was filled, and where it begins.
    last: Vec<u8>,
    last_at: u64,
}

impl Through {
    /// Writes `bytes` at `offset` of `file`, durably. False: nothing is written, the file cannot be written so.
    ///
    /// # Errors
    /// What the system says; part of the bytes may have been written.
    pub(super) fn write(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<bool> {
        if bytes.len() > LEN_MAX {
            return Ok(false);
        }
        if matches!(self, Self::Closed) {
            *self = open(file).map_or_else(
                |error| {
                    tracing::debug!(%error, "no writes past the page cache");
                    Self::Unable
                },
                |file| Self::Open(Blocks { file, stage: Vec::new(), last: Vec::new(), last_at: 0 }),
            );
        }
        let Self::Open(blocks) = self else { return Ok(false) };
        let written = blocks.write(file, bytes, offset)?;
        if !written {
            *self = Self::Unable;
        }
        Ok(written)
    }

    /// The file was changed another way.
    pub(super) fn forget(&mut self) {
        if let Self::Open(blocks) = self {
            blocks.last.clear();
        }
    }
}

/// The same file once more, with flags that readers of the first do not want.
fn open(file: &File) -> io::Result<File> {
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
    let flags = i32::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
    OpenOptions::new().write(true).custom_flags(flags).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

impl Blocks {
    fn write(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let start = offset - offset % ALIGN as u64;
        let head = usize::try_from(offset - start).expect("less than a block");
        let end = head + bytes.len();
        let stage = aligned(&mut self.stage, end.next_multiple_of(ALIGN));
        if self.last_at == start && self.last.len() == head {
            stage[..head].copy_from_slice(&self.last);
        } else {
            file.read_exact_at(&mut stage[..head], start)?;
        }
        stage[head..end].copy_from_slice(bytes);
        stage[end..].fill(0);
        self.last.clear();
        let mut done = 0;
        while done < stage.len() {
            match rustix::io::pwrite(&self.file, &stage[done..], start + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                Err(Errno::INVAL | Errno::OPNOTSUPP) if done == 0 => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let last = end - end % ALIGN;
        self.last.extend_from_slice(&stage[last..end]);
        self.last_at = start + last as u64;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of every length, one behind the other, and what another way of writing put between them.
    #[test]
    fn what_is_written_through_stands_in_the_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let room = 1 << 20;
        file.set_len(room).unwrap();
        let mut through = Through::default();
        let mut expected = Vec::new();
        for (turn, len) in [1, 500, 4096, 4095, 1, 8192, 12_000, 100, 3, 4096 * 3 + 7].into_iter().enumerate()
        {
            let bytes: Vec<u8> = (0..len).map(|i| u8::try_from((i * 7 + turn) % 251).unwrap() + 1).collect();
            if turn == 4 {
                file.write_all_at(&bytes, expected.len() as u64).unwrap();
                through.forget();
            } else if !through.write(&file, &bytes, expected.len() as u64).unwrap() {
                eprintln!("not tested: this filesystem does not write past its cache");
                return;
            }
            expected.extend(bytes);
            let mut found = std::fs::read(&path).unwrap();
            assert_eq!(found.len() as u64, room, "it stays as long as it was");
            let behind = found.split_off(expected.len());
            assert!(found == expected, "after write {turn}");
            assert!(behind.iter().all(|byte| *byte == 0), "zeros behind write {turn}");
        }
        assert!(!through.write(&file, &vec![1; LEN_MAX + 1], 0).unwrap(), "too long for this way");
        assert!(through.write(&file, b"and on", expected.len() as u64).unwrap());
    }
}
