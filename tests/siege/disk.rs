//! A disk that forgets, fails, fills up and is slow when told to: a filesystem of this process, mounted where a server keeps its files.
//!
//! `hosts` mounts one for each server. What the server wrote is kept by `runtime::disk::MemoryDisk`, whose power cut leaves what was synced
//! and any part of the rest; the way there is the kernel's own, so that the program under test is the one that ships.
//! Holds: nothing is cached by the kernel, so that what was forgotten or damaged here is forgotten or damaged there; a number of an
//! inode is never used again. Not here: permissions, times, links.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pohmelfs::mount::fuse::{
    Answer, Attr, DirPage, Entry, Errno, Filesystem, Interrupt, Lock, LockKind, Mount, Notifier, Op,
    OpenFlags, Opened, Options, Request, SetAttr, Statfs, Transport,
};
use pohmelfs::runtime::disk::{CrashKeeps, Disk, DiskFile, MemoryDisk};
use pohmelfs::types::FileKind;

const BLOCK_LEN: u32 = 4096;
/// Of `open(2)`.
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;

/// What is wrong with it at the moment.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// Reads, writes, and syncs of files fail with this.
    pub reads: Option<Errno>,
    pub writes: Option<Errno>,
    pub syncs: Option<Errno>,
    /// A sync says that it is done, and nothing is durable.
    pub forgets: bool,
    /// How long each sync and write takes.
    pub delay: Duration,
}

/// One disk.
pub struct FailingDisk {
    disk: MemoryDisk,
    trouble: Mutex<Trouble>,
    names: Mutex<Names>,
}

/// What the kernel knows of it.
#[derive(Default)]
struct Names {
    paths: HashMap<u64, PathBuf>,
    inodes: HashMap<PathBuf, u64>,
    handles: HashMap<u64, (u64, Arc<dyn DiskFile>)>,
    /// The owner of the `flock` of an inode.
    locks: HashMap<u64, u64>,
    last: u64,
}

impl Names {
    fn path(&self, inode: u64) -> Result<PathBuf, Errno> {
        self.paths.get(&inode).cloned().ok_or(Errno::STALE)
    }

    fn inode(&mut self, path: &Path) -> u64 {
        if let Some(inode) = self.inodes.get(path) {
            return *inode;
        }
        self.last += 1;
        self.inodes.insert(path.to_owned(), self.last);
        self.paths.insert(self.last, path.to_owned());
        self.last
    }

    /// The name leads nowhere any more; who has the file open keeps it.
    fn forget(&mut self, path: &Path) {
        if let Some(inode) = self.inodes.remove(path) {
            self.paths.remove(&inode);
        }
    }

    fn open(&mut self, inode: u64, file: Box<dyn DiskFile>) -> Opened {
        self.last += 1;
        self.handles.insert(self.last, (inode, Arc::from(file)));
        // Around the kernel's cache.
        Opened { handle: self.last, flags: OpenFlags { direct_io: true, ..OpenFlags::default() } }
    }

    fn file(&self, handle: u64) -> Result<Arc<dyn DiskFile>, Errno> {
        self.handles.get(&handle).map(|(_, file)| file.clone()).ok_or(Errno::STALE)
    }

    /// Any open file of the inode.
    fn open_one(&self, inode: u64) -> Option<Arc<dyn DiskFile>> {
        self.handles.values().find(|(of, _)| *of == inode).map(|(_, file)| file.clone())
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn attr(inode: u64, kind: FileKind, size: u64) -> Attr {
    let now = pohmelfs::runtime::wall_clock();
    Attr {
        inode,
        kind,
        mode: if kind == FileKind::Dir { 0o755 } else { 0o644 },
        nlink: if kind == FileKind::Dir { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        blocks: size.div_ceil(512),
        block_size: BLOCK_LEN,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    }
}

impl FailingDisk {
    /// An empty disk of `total` bytes.
    pub fn new(total: u64) -> Self {
        let disk = MemoryDisk::new();
        disk.set_total(total);
        let this = Self { disk, trouble: Mutex::default(), names: Mutex::default() };
        this.forget_names();
        this
    }

    /// Mounts it.
    pub async fn mount(self: &Arc<Self>, dir: &Path) -> Result<Mount, String> {
        let options = Options {
            // Through one device file and without threads of its own on each processor: there are many of these.
            transport: Transport::Dev,
            source: "failing-disk".into(),
            reader_count: 2,
            ..Options::default()
        };
        let mounted = Mount::start(self.clone(), Notifier::default(), dir, options).await;
        mounted.map_err(|e| format!("{}: {e}", dir.display()))
    }

    /// What is wrong with it from now on.
    pub fn set_trouble(&self, trouble: Trouble) {
        *self.trouble.lock() = trouble;
    }

    /// There is no room for one more byte; or as much again as there was.
    pub fn set_total(&self, total: u64) {
        self.disk.set_total(total);
    }

    /// The power fails. The server must be dead.
    pub fn cut_power(&self, keeps: CrashKeeps) {
        self.forget_names();
        self.disk.crash(keeps);
    }

    /// What the kernel of a machine does by itself every half a minute: all that was written reaches the disk.
    pub fn write_back(&self) -> io::Result<()> {
        if self.trouble.lock().forgets {
            return Ok(());
        }
        for path in self.disk.files_below(Path::new("/")) {
            match self.disk.open(&path).and_then(|file| file.sync()) {
                Ok(()) => {}
                // Removed meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Flips a bit of byte `at` of a file, without a word to anybody.
    pub fn flip(&self, path: &Path, at: usize) {
        self.disk.flip(path, at, 0x10);
    }

    /// Files below a directory, and how long they are.
    pub fn files_below(&self, dir: &Path) -> Vec<(PathBuf, usize)> {
        let files = self.disk.files_below(dir);
        files
            .into_iter()
            .filter_map(|file| Some((self.disk.file_len(&file)?, file)))
            .map(|(l, f)| (f, l))
            .collect()
    }

    fn forget_names(&self) {
        let mut names = self.names.lock();
        // The kernel may still ask for numbers of before: those lead nowhere.
        let last = names.last.max(Request::ROOT);
        *names = Names { last, ..Names::default() };
        names.paths.insert(Request::ROOT, PathBuf::from("/"));
        names.inodes.insert(PathBuf::from("/"), Request::ROOT);
    }

    fn attr_of(&self, inode: u64, path: &Path) -> Result<Attr, Errno> {
        if self.disk.canonical(path).is_ok() {
            return Ok(attr(inode, FileKind::Dir, 0));
        }
        let len = self.disk.file_len(path).ok_or(Errno::NOENT)?;
        Ok(attr(inode, FileKind::File, len as u64))
    }

    fn entry(&self, path: &Path) -> Result<Entry, Errno> {
        // First whether it is there: a name that is not gets no number.
        self.attr_of(0, path)?;
        let inode = self.names.lock().inode(path);
        let ttl = Duration::ZERO;
        let attr = self.attr_of(inode, path)?;
        Ok(Entry { inode, generation: 0, attr, entry_ttl: ttl, attr_ttl: ttl })
    }

    fn child(&self, parent: u64, name: &Bytes) -> Result<PathBuf, Errno> {
        Ok(self.names.lock().path(parent)?.join(OsStr::from_bytes(name)))
    }

    fn getattr(&self, inode: u64) -> Result<Answer, Errno> {
        let (path, open) = {
            let names = self.names.lock();
            (names.path(inode), names.open_one(inode))
        };
        let attr = match (path, open) {
            (Ok(path), _) => self.attr_of(inode, &path)?,
            // Its name is gone.
            (Err(_), Some(file)) => attr(inode, FileKind::File, file.length().map_err(|e| errno(&e))?),
            (Err(e), None) => return Err(e),
        };
        Ok(Answer::Attr { attr, ttl: Duration::ZERO })
    }

    fn setattr(&self, inode: u64, change: &SetAttr) -> Result<Answer, Errno> {
        if let Some(size) = change.size {
            if let Some(error) = self.trouble.lock().writes {
                return Err(error);
            }
            let open = {
                let names = self.names.lock();
                match change.handle {
                    Some(handle) => Some(names.file(handle)?),
                    None => names.open_one(inode),
                }
            };
            let done = match open {
                Some(file) => file.set_len(size),
                None => {
                    let path = self.names.lock().path(inode)?;
                    self.disk.open_to_write(&path).and_then(|file| file.set_len(size))
                }
            };
            done.map_err(|e| errno(&e))?;
        }
        self.getattr(inode)
    }

    fn open(&self, inode: u64, flags: u32) -> Result<Opened, Errno> {
        let path = self.names.lock().path(inode)?;
        let file = if flags & O_TRUNC != 0 { self.disk.create(&path) } else { self.disk.open(&path) };
        let file = file.map_err(|e| errno(&e))?;
        Ok(self.names.lock().open(inode, file))
    }

    fn create(&self, parent: u64, name: &Bytes, flags: u32) -> Result<Answer, Errno> {
        let path = self.child(parent, name)?;
        match self.disk.file_len(&path) {
            Some(_) if flags & O_EXCL != 0 => return Err(Errno::EXIST),
            Some(_) => {}
            None => {
                if let Some(error) = self.trouble.lock().writes {
                    return Err(error);
                }
                drop(self.disk.create(&path).map_err(|e| errno(&e))?);
            }
        }
        let entry = self.entry(&path)?;
        let opened = self.open(entry.inode, flags)?;
        Ok(Answer::Create(entry, opened))
    }

    fn readdir(&self, inode: u64, offset: u64, mut page: DirPage) -> Result<Answer, Errno> {
        let path = self.names.lock().path(inode)?;
        let list = self.disk.list(&path).map_err(|e| errno(&e))?;
        let dots = [".", ".."].map(|name| (Bytes::from_static(name.as_bytes()), true));
        let entries = list.into_iter().map(|e| (Bytes::copy_from_slice(e.name.as_bytes()), e.is_dir));
        let all = dots.into_iter().chain(entries).enumerate();
        for (index, (name, is_dir)) in all.skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let cookie = index as u64 + 1;
            let fits = if index < 2 {
                page.push(inode, cookie, FileKind::Dir, &name)
            } else {
                let path = path.join(OsStr::from_bytes(&name));
                if page.is_plus() {
                    match self.entry(&path) {
                        Ok(entry) => page.push_plus(&entry, cookie, &name),
                        Err(_) => continue,
                    }
                } else {
                    let number = self.names.lock().inode(&path);
                    page.push(number, cookie, if is_dir { FileKind::Dir } else { FileKind::File }, &name)
                }
            };
            if !fits {
                break;
            }
        }
        Ok(Answer::Directory(page))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<Answer, Errno> {
        self.disk.rename(from, to).map_err(|e| errno(&e))?;
        let mut names = self.names.lock();
        names.forget(to);
        if let Some(inode) = names.inodes.remove(from) {
            names.inodes.insert(to.to_owned(), inode);
            names.paths.insert(inode, to.to_owned());
        }
        Ok(Answer::Done)
    }

    fn statfs(&self) -> Result<Answer, Errno> {
        let space = self.disk.space(Path::new("/")).map_err(|e| errno(&e))?;
        let free = space.free / u64::from(BLOCK_LEN);
        Ok(Answer::Statfs(Statfs {
            blocks: space.total / u64::from(BLOCK_LEN),
            blocks_free: free,
            blocks_available: free,
            files: 1 << 20,
            files_free: 1 << 19,
            block_size: BLOCK_LEN,
            fragment_size: BLOCK_LEN,
            name_len_max: 255,
        }))
    }

    fn write(&self, handle: u64, offset: u64, data: &Bytes, flags: u32) -> Result<Answer, Errno> {
        if let Some(error) = self.trouble.lock().writes {
            return Err(error);
        }
        let file = self.names.lock().file(handle)?;
        let offset = if flags & O_APPEND == 0 { offset } else { file.length().map_err(|e| errno(&e))? };
        file.write_at(data, offset).map_err(|e| errno(&e))?;
        Ok(Answer::Written(u32::try_from(data.len()).map_err(|_| Errno::FBIG)?))
    }

    fn sync(&self, handle: u64) -> Result<Answer, Errno> {
        let trouble = self.trouble.lock().clone();
        match trouble.syncs {
            Some(error) => Err(error),
            None if trouble.forgets => Ok(Answer::Done),
            None => {
                let file = self.names.lock().file(handle)?;
                file.sync().map(|()| Answer::Done).map_err(|e| errno(&e))
            }
        }
    }

    fn sync_dir(&self, inode: u64) -> Result<Answer, Errno> {
        let trouble = self.trouble.lock().clone();
        if let Some(error) = trouble.syncs {
            return Err(error);
        }
        if trouble.forgets {
            return Ok(Answer::Done);
        }
        let path = self.names.lock().path(inode)?;
        self.disk.sync_dir(&path).map(|()| Answer::Done).map_err(|e| errno(&e))
    }

    /// One lock a file, of whole files: what servers take to keep others out.
    fn lock(&self, inode: u64, owner: u64, kind: LockKind) -> Result<Answer, Errno> {
        let mut names = self.names.lock();
        match (kind, names.locks.get(&inode)) {
            (LockKind::Unlock, Some(held)) if *held == owner => {
                names.locks.remove(&inode);
            }
            (LockKind::Unlock, _) => {}
            (_, Some(held)) if *held != owner => return Err(Errno::AGAIN),
            _ => {
                names.locks.insert(inode, owner);
            }
        }
        Ok(Answer::Done)
    }

    fn call_at_once(&self, request: &Request) -> Result<Answer, Errno> {
        let inode = request.inode;
        match &request.op {
            Op::Lookup { name } => self.entry(&self.child(inode, name)?).map(Answer::Entry),
            Op::Getattr { .. } => self.getattr(inode),
            Op::Setattr(change) => self.setattr(inode, change),
            Op::Mkdir { name, .. } => {
                let path = self.child(inode, name)?;
                self.disk.make_dir(&path).map_err(|e| errno(&e))?;
                self.entry(&path).map(Answer::Entry)
            }
            Op::Unlink { name } => {
                let path = self.child(inode, name)?;
                self.disk.unlink(&path).map_err(|e| errno(&e))?;
                self.names.lock().forget(&path);
                Ok(Answer::Done)
            }
            Op::Rmdir { name } => {
                let path = self.child(inode, name)?;
                if !self.disk.list(&path).map_err(|e| errno(&e))?.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                self.disk.remove_tree(&path).map_err(|e| errno(&e))?;
                self.names.lock().forget(&path);
                Ok(Answer::Done)
            }
            Op::Rename { name, new_parent, new_name, .. } => {
                self.rename(&self.child(inode, name)?, &self.child(*new_parent, new_name)?)
            }
            Op::Open { flags, .. } => self.open(inode, *flags).map(Answer::Open),
            Op::Create { name, flags, .. } => self.create(inode, name, *flags),
            Op::Read { handle, offset, len, .. } => {
                if let Some(error) = self.trouble.lock().reads {
                    return Err(error);
                }
                let file = self.names.lock().file(*handle)?;
                let bytes = file.read_at(*offset, *len as usize).map_err(|e| errno(&e))?;
                Ok(Answer::data(bytes.into()))
            }
            Op::Write { handle, offset, data, flags, .. } => self.write(*handle, *offset, data, *flags),
            Op::Fsync { handle, .. } => self.sync(*handle),
            Op::Fsyncdir { .. } => self.sync_dir(inode),
            Op::Opendir { .. } => Ok(Answer::Open(Opened { handle: inode, flags: OpenFlags::default() })),
            Op::Readdir { offset, room, plus, .. } => {
                self.readdir(inode, *offset, DirPage::new(*room, *plus))
            }
            Op::Statfs => self.statfs(),
            Op::Release { handle, flock_owner, .. } => {
                let mut names = self.names.lock();
                names.handles.remove(handle);
                if let Some(owner) = flock_owner
                    && names.locks.get(&inode) == Some(owner)
                {
                    names.locks.remove(&inode);
                }
                Ok(Answer::Done)
            }
            Op::Setlk(call) | Op::SetlkWait(call) => self.lock(inode, call.owner, call.lock.kind),
            Op::Getlk(call) => Ok(Answer::Lock(Lock { kind: LockKind::Unlock, ..call.lock })),
            Op::Flush { .. } | Op::Releasedir { .. } | Op::Access { .. } | Op::Destroy => Ok(Answer::Done),
            // The kernel and its callers go on without these.
            _ => Err(Errno::OPNOTSUPP),
        }
    }
}

impl Filesystem for FailingDisk {
    async fn call(&self, request: Request, _interrupt: Interrupt) -> Result<Answer, Errno> {
        if matches!(request.op, Op::Write { .. } | Op::Fsync { .. } | Op::Fsyncdir { .. }) {
            let delay = self.trouble.lock().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
        }
        self.call_at_once(&request)
    }

    fn is_brief(&self, _op: &Op) -> bool {
        self.trouble.lock().delay.is_zero()
    }

    fn forget(&self, _inode: u64, _count: u64) {}
}
