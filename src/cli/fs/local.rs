//! Local files as `put` reads and `get` writes them: whole blocks from where they are and to where they belong.
//!
//! Threads for blocking work do it. Holds: bytes are read and written in order, none twice; what is written is durable at its end.
//! Not here: names and attributes (`get`, `put`).
//!
//! The disk begins with each block when it is written, while others are still on their way, and not with all of them at the fsync
//! (decision 0012).

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use indicatif::ProgressBar;
use rustix::fs::Advice;

use crate::client::{BlockReader, BlockWriter};
use crate::runtime::{self, Buffer};

/// Shortest bytes that the disk is told to begin with at once.
const BEGIN_MIN: usize = 256 << 10;

/// A local file, read or written from its begin.
#[derive(Debug)]
pub(super) struct LocalFile {
    file: Arc<File>,
    at: u64,
    bar: ProgressBar,
}

impl LocalFile {
    /// Opens a file to read; its bytes move a bar.
    pub(super) async fn open(path: &Path, bar: &ProgressBar) -> io::Result<Self> {
        let path = path.to_owned();
        let file = runtime::blocking("open local file", move || File::open(path)).await?;
        Ok(Self { file: Arc::new(file), at: 0, bar: bar.clone() })
    }

    /// Makes a file to write; one of that name is an error. Its bytes move a bar.
    pub(super) async fn create(path: &Path, bar: &ProgressBar) -> io::Result<Self> {
        let path = path.to_owned();
        let file = runtime::blocking("create local file", move || File::create_new(path)).await?;
        Ok(Self { file: Arc::new(file), at: 0, bar: bar.clone() })
    }
}

impl BlockReader for LocalFile {
    async fn fill(&mut self, mut room: Buffer, from: usize) -> io::Result<(Buffer, usize)> {
        let (file, at) = (self.file.clone(), self.at);
        let (room, filled) = runtime::blocking("read local file", move || {
            let mut filled = from;
            while filled < room.len() {
                match file.read_at(&mut room[filled..], at + (filled - from) as u64) {
                    Ok(0) => break,
                    Ok(len) => filled += len,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            Ok((room, filled))
        })
        .await?;
        self.at += (filled - from) as u64;
        self.bar.inc((filled - from) as u64);
        Ok((room, filled))
    }
}

impl BlockWriter for LocalFile {
    async fn take(&mut self, bytes: Bytes) -> io::Result<()> {
        let (file, at, len) = (self.file.clone(), self.at, bytes.len() as u64);
        runtime::blocking("write local file", move || write(&file, &bytes, at)).await?;
        self.at += len;
        self.bar.inc(len);
        Ok(())
    }

    /// Makes all that was written durable.
    async fn end(&mut self) -> io::Result<()> {
        let file = self.file.clone();
        runtime::blocking("sync local file", move || file.sync_all()).await
    }
}

/// Writes `bytes` at `at`, and lets the disk begin with them.
fn write(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)?;
    if bytes.len() >= BEGIN_MIN {
        // What is not needed in memory any more is written first, without waiting. Advice only.
        let len = NonZeroU64::new(bytes.len() as u64);
        if let Err(error) = rustix::fs::fadvise(file, at, len, Advice::DontNeed) {
            tracing::debug!(%error, "the system writes when it likes");
        }
    }
    Ok(())
}

/// Standard output, which may be anything: bytes go where it stands.
#[derive(Debug)]
pub(super) struct Output(Arc<File>);

impl Output {
    /// A second handle of it.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(File::from(io::stdout().as_fd().try_clone_to_owned()?))))
    }
}

impl BlockWriter for Output {
    async fn take(&mut self, bytes: Bytes) -> io::Result<()> {
        let file = self.0.clone();
        runtime::blocking("write standard output", move || (&*file).write_all(&bytes)).await
    }

    async fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_in_parts_is_read_back_in_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bar = ProgressBar::hidden();
        let mut room = Buffer::new(3_000_000, 0, 0);
        room.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7 + i / 251).to_le_bytes()[0]);
        let bytes = room.freeze(3_000_000);
        let mut file = LocalFile::create(&path, &bar).await.unwrap();
        // Whole pages, a tail, what begins within a page, and what lies within one.
        let mut at = 0;
        for to in [1 << 20, (1 << 20) + 300_001, 2_000_000, 2_000_001, 3_000_000] {
            file.take(bytes.slice(at..to)).await.unwrap();
            at = to;
        }
        file.end().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(bar.position(), 3_000_000);
        assert_eq!(LocalFile::create(&path, &bar).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);

        let mut file = LocalFile::open(&path, &bar).await.unwrap();
        let mut found = Vec::new();
        loop {
            let (room, filled) = file.fill(Buffer::new(700_000, 0, 0), 100).await.unwrap();
            found.extend_from_slice(&room[100..filled]);
            if filled < room.len() {
                break;
            }
        }
        assert_eq!(found, bytes);
    }
}
