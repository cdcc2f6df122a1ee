//! A file read or written from its start to its end.
//!
//! Snapshots put a buffer before it. Holds: it keeps its own place, so that the file may be read elsewhere as well.

use std::io::{self, Read, Write};

use super::{DiskFile, Way};

/// One file and the place in it.
#[derive(Debug)]
pub struct FileStream {
    file: Box<dyn DiskFile>,
    at: u64,
}

impl FileStream {
    /// The file from its start.
    #[must_use]
    pub fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, at: 0 }
    }

    /// The file itself.
    #[must_use]
    pub fn into_file(self) -> Box<dyn DiskFile> {
        self.file
    }
}

impl Read for FileStream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_into(room, self.at, Way::Cached)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for FileStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
