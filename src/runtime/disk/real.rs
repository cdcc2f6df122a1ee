//! The disks of this machine.
//!
//! Holds: what goes through here costs the calls of the system and nothing more. Not here: what a call promises
//! (`super`), and how large writes and reads go past the page cache (`direct`).

use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::Advice;

use super::through::Through;
use super::{Disk, DiskEntry, DiskFile, DiskLock, DiskSpace, Way, direct};

/// The kernel's name of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The disks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// A read of this length or more is asked of the disk as a whole before its first byte is waited for.
const READ_AHEAD_MIN: usize = 256 << 10;

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    through: Mutex<Through>,
}

impl From<fs::File> for RealFile {
    fn from(file: fs::File) -> Self {
        Self { file, through: Mutex::default() }
    }
}

impl DiskFile for RealFile {
    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        if parts.iter().map(|part| part.len()).sum::<usize>() >= direct::LEN_MIN {
            return direct::write(&self.file, parts);
        }
        parts.iter().try_for_each(|part| self.file.write_all(part))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.through.lock().forget();
        self.file.write_all_at(bytes, offset)
    }

    fn write_through(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.through.lock().write(&self.file, bytes, offset)? {
            return Ok(());
        }
        self.write_at(bytes, offset)?;
        self.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.through.lock().forget();
        self.file.set_len(len)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_into(&self, room: &mut [u8], offset: u64, way: Way) -> io::Result<usize> {
        if way == Way::Direct
            && let Some(read) = direct::read(&self.file, room, offset)?
        {
            return Ok(read);
        }
        if room.len() >= READ_AHEAD_MIN {
            // All of it at once: the window that the system itself reads ahead is a thirtieth of a block. Advice only.
            let len = NonZeroU64::new(room.len() as u64);
            if let Err(error) = rustix::fs::fadvise(&self.file, offset, len, Advice::WillNeed) {
                tracing::debug!(%error, "no read-ahead");
            }
        }
        let mut done = 0;
        while done < room.len() {
            match rustix::io::pread(&self.file, &mut room[done..], offset + done as u64) {
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
        Ok(Box::new(RealFile::from(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile::from(fs::File::open(path)?)))
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile::from(fs::File::options().read(true).write(true).open(path)?)))
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

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
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

    fn boot_id(&self) -> String {
        fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default()
    }

    fn is_the_systems(&self) -> bool {
        true
    }
}
