//! The few things that the servers ask of a disk.
//!
//! The raft log, the state and the block store call it, and whoever keeps a small file beside them. [`RealDisk`] is the
//! system's; the tests and a simulation put [`MemoryDisk`] in its place, which can forget what was not synced. Holds: no
//! call here retries or hides an error; what a call promises about a crash is said at the call; where
//! [`Disk::has_threads`] says no, its users start no thread. Not here: which call follows which. That order is the
//! business of who calls.
//!
//! Files: this one (what is asked), `real`, `direct` (large writes and reads), `through` (small durable writes), `stream` (a file from
//! its start to its end), `memory_disk` and `memory_files`.

mod direct;
mod memory_disk;
mod memory_files;
mod real;
mod stream;
#[cfg(test)]
mod tests;
mod through;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use memory_disk::{CrashKeeps, MemoryDisk};
pub use real::RealDisk;
pub use stream::FileStream;

/// One open file. It stays readable when its name is gone.
pub trait DiskFile: Send + Sync + fmt::Debug {
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
    fn sync(&self) -> io::Result<()>;

    /// Writes `bytes` from `offset` on, over what is there, in one call of the system if it takes them all. The file grows
    /// as needed. A crash before [`DiskFile::sync`] leaves any part of it.
    ///
    /// # Errors
    /// What the system says; part of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes `bytes` from `offset` on, as [`DiskFile::write_at`], and makes *them* durable; what was written before and not synced need
    /// not be. The file must be that long already. What stands behind them, up to 4 KiB, may become zeros.
    ///
    /// # Errors
    /// As both; the contents are then unknown.
    fn write_through(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)?;
        self.sync()
    }

    /// Cuts the file, or fills it with zeros, to `len` bytes. A crash before [`DiskFile::sync`] may undo it.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Bytes in the file.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;

    /// Exactly `room.len()` bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; else what the system says.
    fn read_exact_at(&self, room: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.read_into(room, offset, Way::Cached)?;
        if read < room.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

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

    /// Opens a file that exists, to read and to write.
    ///
    /// # Errors
    /// What the system says.
    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

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

    /// Makes a directory and those it lies in, as far as they are missing; its name and theirs are durable then.
    ///
    /// # Errors
    /// What the system says.
    fn make_dirs(&self, path: &Path) -> io::Result<()> {
        if self.canonical(path).is_err() {
            // First, and durably: so a directory that exists never lies in one whose name may be lost.
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                self.make_dirs(parent)?;
            }
            self.make_dir(path)?;
        }
        // Of one that exists as well: who made it may have ended before it could.
        match self.sync_parent(path) {
            // Then it was made by somebody else.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        }
    }

    /// Removes a directory with all in it; a crash may bring it back, or a part of it.
    ///
    /// # Errors
    /// What the system says; part of it may be gone.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;

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

    /// Names the time from one start of the machine to the next: what was written in this boot is as it was written,
    /// synced or not. Empty where it is not known.
    fn boot_id(&self) -> String;

    /// True if who keeps files here may have threads for it. Where not, everything is done by tasks and by the callers
    /// themselves, in an order that is the same every time.
    fn has_threads(&self) -> bool {
        true
    }

    /// True if its files are those of the system, where a library that opens files by itself finds them.
    fn is_the_systems(&self) -> bool {
        false
    }

    /// How long the next write and its sync, or the next read, are to take where there are no threads: a task sleeps so long
    /// before. The system's disks take the time they take.
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    /// All bytes of a file.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let len = usize::try_from(file.length()?).map_err(io::Error::other)?;
        file.read_at(0, len)
    }

    /// Puts `bytes` under the name `path`, durably: after a crash there is what was there before, or all of them. They are
    /// written to `temporary`, in the same directory, which a crash may leave behind.
    ///
    /// # Errors
    /// What the system says; the old bytes or the new ones are there.
    fn replace(&self, path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.create(temporary)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        drop(file);
        self.rename(temporary, path)?;
        self.sync_parent(path)
    }

    /// Makes the name of `path` durable, or its absence.
    ///
    /// # Errors
    /// What the system says.
    fn sync_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => self.sync_dir(Path::new(".")),
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }
}
