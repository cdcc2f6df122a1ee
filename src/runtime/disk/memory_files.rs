//! The calls of [`MemoryDisk`] as a [`Disk`]: files, names, locks.
//!
//! Each call first passes [`State::call`], which counts it and fails it when that was planned.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use super::memory_disk::{Change, Dir, File, MemoryDisk, Node, State, Write, draw, errno};
use super::{Disk, DiskEntry, DiskFile, DiskLock, DiskSpace, Way};

#[derive(Debug)]
struct MemoryFile {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    id: u64,
    /// The life of the process that opened it.
    life: u64,
    /// Where [`DiskFile::write`] goes on.
    written: usize,
    _open: Arc<()>,
}

impl MemoryFile {
    fn of(disk: &MemoryDisk, state: &State, path: &Path, id: u64) -> io::Result<Box<dyn DiskFile>> {
        let open = state.files.get(&id).ok_or_else(|| errno(Errno::IO))?.open.clone();
        Ok(Box::new(Self {
            state: disk.state.clone(),
            path: path.to_owned(),
            id,
            life: state.lives,
            written: 0,
            _open: open,
        }))
    }

    /// Counts a call on this file; an error if one was planned, or if the process that opened it is gone.
    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        if state.lives != self.life {
            return Err(errno(Errno::STALE));
        }
        state.call(&self.path).map(|()| state)
    }

    /// Writes `bytes` at `offset`; half of them if this call is to fail.
    fn put(&self, bytes: &[u8], offset: usize) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.lives != self.life {
            return Err(errno(Errno::STALE));
        }
        let result = state.call(&self.path);
        let len = state.files.get(&self.id).map_or(0, |file| file.live.len());
        let grows = (offset + bytes.len()).saturating_sub(len) as u64;
        let full = state.used() + grows > state.total;
        let result = result.and(if full { Err(errno(Errno::NOSPC)) } else { Ok(()) });
        // A write that fails has often begun.
        let written = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let gone = state.crashed || full;
        let file = state.files.get_mut(&self.id).ok_or_else(|| errno(Errno::IO))?;
        if !gone && !written.is_empty() {
            file.change(Write::At(offset, written.to_vec()));
        }
        result
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| errno(Errno::FBIG))
}

impl DiskFile for MemoryFile {
    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = parts.concat();
        self.put(&bytes, self.written)?;
        self.written += bytes.len();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.call()?;
        state.files.get_mut(&self.id).ok_or_else(|| errno(Errno::IO))?.sync();
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.put(bytes, place(offset)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.call()?;
        let file = state.files.get_mut(&self.id).ok_or_else(|| errno(Errno::IO))?;
        file.change(Write::SetLen(place(len)?));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.call()?;
        let file = state.files.get(&self.id).ok_or_else(|| errno(Errno::IO))?;
        Ok(file.live.len() as u64)
    }

    fn read_into(&self, room: &mut [u8], offset: u64, way: Way) -> io::Result<usize> {
        let mut state = self.call()?;
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
        if let Some(file) = state.files.get_mut(&id).filter(|file| !file.live.is_empty()) {
            file.change(Write::SetLen(0));
        }
        MemoryFile::of(self, &state, path, id)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.call(path)?;
        let id = state.file(path)?;
        MemoryFile::of(self, &state, path, id)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
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
        if path.parent().is_none() {
            return Err(errno(Errno::EXIST));
        }
        let (parent, name) = state.parent(path)?;
        if parent.live.contains_key(&name) {
            return Err(errno(Errno::EXIST));
        }
        state.change(path, Change::Add(name, Node::Dir))?;
        state.removed.remove(path);
        state.dirs.insert(path.to_owned(), Dir::default());
        Ok(())
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            let path = path.join(entry.name);
            if entry.is_dir { self.remove_tree(&path)? } else { self.unlink(&path)? }
        }
        let mut state = self.state.lock();
        state.call(path)?;
        let (_, name) = state.parent(path)?;
        state.change(path, Change::Remove(name))?;
        if let Some(dir) = state.dirs.remove(path) {
            state.removed.insert(path.to_owned(), dir);
        }
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
        let durable = dir.durable.clone();
        let is_gone = |removed: &Path| {
            let below = removed.strip_prefix(path).ok().and_then(|rest| rest.iter().next());
            below.is_some_and(|name| !durable.contains_key(name))
        };
        state.removed.retain(|removed, _| !is_gone(removed));
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

    fn boot_id(&self) -> String {
        format!("{:032x}", self.state.lock().boots)
    }

    fn has_threads(&self) -> bool {
        !self.state.lock().no_threads
    }

    fn latency(&self) -> Duration {
        let mut state = self.state.lock();
        let Some((range, seed)) = &mut state.latency else { return Duration::ZERO };
        let span = range.end().saturating_sub(*range.start());
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        *range.start() + Duration::from_nanos(draw(seed) % nanos.saturating_add(1).max(1))
    }
}
