//! The calls of [`MemoryDisk`] as a [`Disk`]: files, names, locks.
//!
//! Each call first passes [`State::call`], which counts it and fails it when that was planned.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::disk::{Disk, DiskEntry, DiskFile, DiskLock, DiskSpace, Way};
use super::memory_disk::{Change, Dir, File, MemoryDisk, Node, State, errno};

#[derive(Debug)]
struct MemoryFile {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    id: u64,
}

impl DiskFile for MemoryFile {
    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = &parts.concat()[..];
        let mut state = self.state.lock();
        let result = state.call(&self.path);
        let full = state.used() + bytes.len() as u64 > state.total;
        let result = result.and(if full { Err(errno(Errno::NOSPC)) } else { Ok(()) });
        // A write that fails has often begun.
        let written = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let gone = state.crashed || full;
        let file = state.files.get_mut(&self.id).ok_or_else(|| errno(Errno::IO))?;
        if !gone {
            file.live.extend_from_slice(written);
        }
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(&self.path)?;
        let file = state.files.get_mut(&self.id).ok_or_else(|| errno(Errno::IO))?;
        file.durable = file.live.clone();
        Ok(())
    }

    fn read_into(&self, room: &mut [u8], offset: u64, way: Way) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.call(&self.path)?;
        state.direct_reads += u64::from(way == Way::Direct);
        let file = state.files.get(&self.id).ok_or_else(|| errno(Errno::IO))?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.live.len());
        let read = room.len().min(file.live.len() - from);
        room[..read].copy_from_slice(&file.live[from..from + read]);
        Ok(read)
    }
}

#[derive(Debug)]
struct MemoryLock(#[expect(dead_code, reason = "its life is the lock")] Arc<()>);

impl DiskLock for MemoryLock {}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.call(path)?;
        let id = match state.file(path) {
            Ok(id) => id,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                state.next_file += 1;
                let id = state.next_file;
                state.parent(path)?;
                state.files.insert(id, File::default());
                let name = path.file_name().map(OsString::from).unwrap_or_default();
                state.change(path, Change::Add(name, Node::File(id)))?;
                id
            }
            Err(e) => return Err(e),
        };
        if let Some(file) = state.files.get_mut(&id) {
            file.live.clear();
        }
        Ok(Box::new(MemoryFile { state: self.state.clone(), path: path.to_owned(), id }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.call(path)?;
        let id = state.file(path)?;
        Ok(Box::new(MemoryFile { state: self.state.clone(), path: path.to_owned(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(from)?;
        state.file(from)?;
        if from.parent() != to.parent() {
            return Err(errno(Errno::XDEV));
        }
        let name = |path: &Path| path.file_name().map(OsString::from).unwrap_or_default();
        state.change(from, Change::Rename(name(from), name(to)))?;
        state.renames += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(path)?;
        state.file(path)?;
        let name = path.file_name().map(OsString::from).unwrap_or_default();
        state.change(path, Change::Remove(name))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(path)?;
        let (parent, name) = state.parent(path)?;
        if parent.live.contains_key(&name) {
            return Err(errno(Errno::EXIST));
        }
        state.change(path, Change::Add(name, Node::Dir))?;
        state.dirs.insert(path.to_owned(), Dir::default());
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(path)?;
        state.dir_syncs += 1;
        self.changed.notify_all();
        // What was renamed before the call began is covered, even if the call takes long.
        let dir = state.dir(path)?;
        let (durable, covered) = (dir.live.clone(), dir.synced + dir.pending.len());
        while state.hold_dir_syncs {
            self.changed.wait(&mut state);
        }
        let dir = state.dir(path)?;
        if covered > dir.synced {
            dir.durable = durable;
            dir.pending.drain(..covered - dir.synced);
            dir.synced = covered;
        }
        state.drop_unnamed();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let mut state = self.state.lock();
        state.call(path)?;
        if state.file(path).is_ok() {
            return Err(errno(Errno::NOTDIR));
        }
        let dir = state.dir(path)?;
        Ok(dir
            .live
            .iter()
            .map(|(name, node)| DiskEntry { name: name.clone(), is_dir: *node == Node::Dir })
            .collect())
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let mut state = self.state.lock();
        state.call(path)?;
        let (total, used) = (state.total, state.used());
        Ok(DiskSpace { total, free: total.saturating_sub(used), device: 0 })
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let state = self.state.lock();
        if state.dirs.contains_key(path) { Ok(path.to_owned()) } else { Err(errno(Errno::NOENT)) }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        drop(self.create(path)?);
        let mut state = self.state.lock();
        if state.locks.get(path).is_some_and(|held| held.strong_count() > 0) {
            return Err(errno(Errno::WOULDBLOCK));
        }
        let held = Arc::new(());
        state.locks.insert(path.to_owned(), Arc::downgrade(&held));
        Ok(Box::new(MemoryLock(held)))
    }
}
