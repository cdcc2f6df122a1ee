//! The few things the block store asks of a disk, and their real implementation.
//!
//! `directory` and `identity` call it. The tests and the simulation put [`super::MemoryDisk`] in its place, which
//! can forget what was not synced. Holds: no call here retries or hides an error; what a call promises about a
//! crash is said at the call. Not here: which call follows which. That order is the business of `directory`.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use super::direct;

/// One open file.
pub trait DiskFile: Send + fmt::Debug {
    /// Writes `parts`, one after the other, as the contents of a file that was just created.
    ///
    /// # Errors
    /// What the system says; part of the bytes may have been written.
    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()>;

    /// Makes what was written durable (`fdatasync`): contents and length, not the name.
    ///
    /// # Errors
    /// What the system says. The contents are then unknown and must be thrown away: the kernel reports a failed
    /// write-back once, and a second fsync would succeed without the bytes.
    fn sync(&mut self) -> io::Result<()>;

    /// Up to `len` bytes from `offset` on; fewer only where the file ends.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.read_into(&mut bytes, offset, Way::Cached)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Fills `room` from `offset` on, and says how much of it: less than all only where the file ends.
    ///
    /// # Errors
    /// What the system says.
    fn read_into(&self, room: &mut [u8], offset: u64, way: Way) -> io::Result<usize>;
}

/// Which way bytes come from a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the page cache: who reads them again gets them from memory.
    Cached,
    /// Past the page cache where the disk can, and where offset, length and place of the room are whole pages.
    Direct,
}

/// Kept while a directory is in use; dropping it lets the next process in.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// Space of the filesystem under a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that a process without privileges may still take.
    pub free: u64,
    /// Which filesystem it is: directories with the same number share their space.
    pub device: u64,
}

/// What a directory lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskEntry {
    /// Its name there.
    pub name: OsString,
    /// True if it is a directory itself.
    pub is_dir: bool,
}

/// A disk, or several: paths are absolute.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Makes an empty file to write, or empties the one of that name. Neither name nor contents are durable.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to read.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what had that name: one or the other exists after a crash.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name; a crash may bring it back until its directory is synced.
    ///
    /// # Errors
    /// What the system says.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory; one that exists is an error.
    ///
    /// # Errors
    /// What the system says.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// What a directory holds, in no order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>>;

    /// Space of the filesystem under `path`.
    ///
    /// # Errors
    /// What the system says.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// The one path that leads to an existing file without symlinks.
    ///
    /// # Errors
    /// What the system says.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;

    /// Takes the lock file at `path`, making it if need be.
    ///
    /// # Errors
    /// `WouldBlock` if another holder has it; else what the system says.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// The disks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// A read of this length or more is asked of the disk as a whole before its first byte is waited for.
const READ_AHEAD_MIN: usize = 256 << 10;

#[derive(Debug)]
struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        if parts.iter().map(|part| part.len()).sum::<usize>() >= direct::LEN_MIN {
            return direct::write(&self.0, parts);
        }
        parts.iter().try_for_each(|part| self.0.write_all(part))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn read_into(&self, room: &mut [u8], offset: u64, way: Way) -> io::Result<usize> {
        if way == Way::Direct
            && let Some(read) = direct::read(&self.0, room, offset)?
        {
            return Ok(read);
        }
        if room.len() >= READ_AHEAD_MIN {
            // All of it at once: the window that the system itself reads ahead is a thirtieth of a block. Advice only.
            let len = NonZeroU64::new(room.len() as u64);
            if let Err(error) = rustix::fs::fadvise(&self.0, offset, len, Advice::WillNeed) {
                tracing::debug!(%error, "no read-ahead");
            }
        }
        let mut done = 0;
        while done < room.len() {
            match rustix::io::pread(&self.0, &mut room[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }
}

/// An advisory lock of the kernel: it ends with the process, however the process ends.
#[derive(Debug)]
struct RealLock(#[expect(dead_code, reason = "holding the file open is what holds the lock")] fs::File);

impl DiskLock for RealLock {}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(fs::File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                Ok(DiskEntry { name: entry.file_name(), is_dir: entry.file_type()?.is_dir() })
            })
            .collect()
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let vfs = rustix::fs::statvfs(path)?;
        let device = fs::metadata(path)?.dev();
        Ok(DiskSpace {
            total: vfs.f_blocks.saturating_mul(vfs.f_frsize),
            free: vfs.f_bavail.saturating_mul(vfs.f_frsize),
            device,
        })
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock(file)))
    }
}
