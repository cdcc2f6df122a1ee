//! A filesystem in memory, for tests and measurements of the transport: everything behind one lock, no permissions.
//!
//! A name that begins with `wait` opens as a file whose reads last until their caller gets a signal; looking up
//! `panic` panics, and `nonsense` gets an answer that makes none.

#![allow(dead_code, reason = "the benchmark uses less of it than the tests")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pohmelfs::mount::fuse::{
    Answer, Attr, DirPage, Entry, Errno, Filesystem, Interrupt, Lock, LockCall, LockKind, Notification,
    Notifier, Op, OpenFlags, Opened, Request, Seek, SetAttr, Statfs, XattrMode,
};
use pohmelfs::types::{FileKind, SetTime, Timestamp};
use tokio::sync::{Notify, watch};

/// The filesystem.
pub struct Memory {
    /// Everything there is.
    pub state: Mutex<State>,
    /// A lock was given back.
    pub locks_changed: Notify,
    /// Requests that wait: for a lock, or in a read of a `wait` file.
    pub waiting: watch::Sender<usize>,
    /// References that the kernel gave back.
    pub forgotten: AtomicU64,
    /// Bytes come from the kernel's cache only if it asks for none: around it.
    pub direct_io: bool,
    /// How long the kernel may rely on names and attributes.
    pub ttl: Duration,
    /// Tells the kernel of every change of a name if set.
    pub notifier: Option<Notifier>,
}

/// Everything there is.
#[derive(Default)]
pub struct State {
    inodes: HashMap<u64, Inode>,
    last: u64,
    locks: Vec<(u64, LockCall)>,
}

struct Inode {
    attr: Attr,
    data: Vec<u8>,
    entries: BTreeMap<Bytes, u64>,
    parent: u64,
    target: Bytes,
    xattrs: BTreeMap<Bytes, Bytes>,
    waits: bool,
}

/// Counts a request that waits.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

fn now() -> Timestamp {
    pohmelfs::runtime::wall_clock()
}

impl Inode {
    fn new(inode: u64, parent: u64, kind: FileKind, mode: u32, uid: u32, gid: u32) -> Self {
        let (nlink, now) = (if kind == FileKind::Dir { 2 } else { 1 }, now());
        let attr = Attr {
            inode,
            kind,
            mode: mode & 0o7777,
            nlink,
            uid,
            gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        Self {
            attr,
            data: Vec::new(),
            entries: BTreeMap::new(),
            parent,
            target: Bytes::new(),
            xattrs: BTreeMap::new(),
            waits: false,
        }
    }

    fn resize(&mut self, size: u64) {
        self.data.resize(usize::try_from(size).unwrap(), 0);
        self.touched();
    }

    fn touched(&mut self) {
        self.attr.size = self.data.len() as u64;
        self.attr.blocks = self.attr.size.div_ceil(512);
        self.attr.mtime = now();
        self.attr.ctime = self.attr.mtime;
    }
}

impl State {
    fn get(&mut self, inode: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&inode).ok_or(Errno::STALE)
    }

    fn child(&mut self, parent: u64, name: &Bytes) -> Result<u64, Errno> {
        let dir = self.get(parent)?;
        match &name[..] {
            b"." => Ok(parent),
            b".." => Ok(dir.parent),
            _ => dir.entries.get(name).copied().ok_or(Errno::NOENT),
        }
    }

    fn add(&mut self, request: &Request, name: &Bytes, kind: FileKind, mode: u32) -> Result<u64, Errno> {
        self.last += 1;
        let id = self.last;
        let dir = self.get(request.inode)?;
        if dir.entries.contains_key(name) {
            return Err(Errno::EXIST);
        }
        dir.entries.insert(name.clone(), id);
        dir.attr.nlink += u32::from(kind == FileKind::Dir);
        let mut inode = Inode::new(id, request.inode, kind, mode, request.caller.uid, request.caller.gid);
        inode.waits = name.starts_with(b"wait");
        self.inodes.insert(id, inode);
        Ok(id)
    }

    fn remove(&mut self, parent: u64, name: &Bytes, dir: bool) -> Result<u64, Errno> {
        let id = self.child(parent, name)?;
        let inode = self.get(id)?;
        match (inode.attr.kind == FileKind::Dir, dir) {
            (true, false) => return Err(Errno::ISDIR),
            (false, true) => return Err(Errno::NOTDIR),
            (true, true) if !inode.entries.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        // Open ones live on: nothing is ever dropped from this memory.
        inode.attr.nlink -= 1 + u32::from(dir);
        let parent = self.get(parent)?;
        parent.entries.remove(name);
        parent.attr.nlink -= u32::from(dir);
        Ok(id)
    }

    fn conflict(&self, inode: u64, call: &LockCall) -> Option<Lock> {
        let overlap = |a: &Lock, b: &Lock| a.start <= b.end && b.start <= a.end;
        let exclusive = |a: &Lock, b: &Lock| a.kind == LockKind::Exclusive || b.kind == LockKind::Exclusive;
        self.locks.iter().find_map(|(of, held)| {
            let other = *of == inode && held.flock == call.flock && held.owner != call.owner;
            (other && overlap(&held.lock, &call.lock) && exclusive(&held.lock, &call.lock))
                .then_some(held.lock)
        })
    }

    /// Whole locks only: the tests take no part of one back.
    fn lock(&mut self, inode: u64, call: LockCall) -> Result<(), Errno> {
        if call.lock.kind != LockKind::Unlock && self.conflict(inode, &call).is_some() {
            return Err(Errno::AGAIN);
        }
        self.locks.retain(|(of, held)| {
            *of != inode
                || held.owner != call.owner
                || held.flock != call.flock
                || held.lock.end < call.lock.start
                || held.lock.start > call.lock.end
        });
        if call.lock.kind != LockKind::Unlock {
            self.locks.push((inode, call));
        }
        Ok(())
    }
}

impl Default for Memory {
    fn default() -> Self {
        let root = Inode::new(Request::ROOT, Request::ROOT, FileKind::Dir, 0o755, 0, 0);
        let state = State { inodes: HashMap::from([(Request::ROOT, root)]), last: 1000, locks: Vec::new() };
        Self {
            state: Mutex::new(state),
            locks_changed: Notify::new(),
            waiting: watch::channel(0).0,
            forgotten: AtomicU64::new(0),
            direct_io: false,
            ttl: Duration::ZERO,
            notifier: None,
        }
    }
}

impl Memory {
    fn opened(&self, handle: u64) -> Opened {
        let flags = OpenFlags {
            direct_io: self.direct_io,
            parallel_direct_writes: self.direct_io,
            ..OpenFlags::default()
        };
        Opened { handle, flags }
    }

    fn entry(&self, state: &mut State, id: u64) -> Result<Entry, Errno> {
        let attr = state.get(id)?.attr.clone();
        Ok(Entry { inode: id, generation: 0, attr, entry_ttl: self.ttl, attr_ttl: self.ttl })
    }

    fn changed(&self, parent: u64, name: &Bytes, inode: Option<u64>) {
        if let Some(notifier) = &self.notifier {
            let name = name.clone();
            let sent = notifier.send(match inode {
                Some(inode) => Notification::Deleted { parent, inode, name },
                None => Notification::Entry { parent, name },
            }) && notifier.send(Notification::Inode { inode: parent, pages: Some((0, 0)) });
            assert!(sent, "the queue of notifications is full");
        }
    }

    async fn wait_for_lock(&self, inode: u64, call: LockCall, interrupt: Interrupt) -> Result<Answer, Errno> {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let changed = self.locks_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.state.lock().lock(inode, call) {
                Err(Errno::AGAIN) => {}
                taken => return taken.map(|()| Answer::Done),
            }
            tokio::select! {
                () = changed => {}
                () = interrupt.interrupted() => return Err(Errno::INTR),
            }
        }
    }

    fn give_back(&self, inode: u64, owner: u64, flock: bool) {
        let mut state = self.state.lock();
        state.locks.retain(|(of, held)| *of != inode || held.owner != owner || held.flock != flock);
        drop(state);
        self.locks_changed.notify_waiters();
    }

    fn setattr(&self, inode: u64, change: &SetAttr) -> Result<Answer, Errno> {
        let mut state = self.state.lock();
        let inode = state.get(inode)?;
        let time = |time: SetTime| match time {
            SetTime::Now => now(),
            SetTime::At(time) => time,
        };
        if let Some(size) = change.size {
            inode.resize(size);
        }
        let attr = &mut inode.attr;
        attr.mode = change.mode.map_or(attr.mode, |mode| mode & 0o7777);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        attr.atime = change.atime.map_or(attr.atime, time);
        attr.mtime = change.mtime.map_or(attr.mtime, time);
        Ok(Answer::Attr { attr: attr.clone(), ttl: self.ttl })
    }

    fn readdir(&self, inode: u64, offset: u64, mut page: DirPage) -> Result<Answer, Errno> {
        let mut state = self.state.lock();
        let dir = state.get(inode)?;
        let mut entries = vec![(Bytes::from_static(b"."), inode), (Bytes::from_static(b".."), dir.parent)];
        entries.extend(dir.entries.iter().map(|(name, id)| (name.clone(), *id)));
        for (index, (name, id)) in entries.into_iter().enumerate().skip(usize::try_from(offset).unwrap()) {
            let cookie = index as u64 + 1;
            let fits = if page.is_plus() && index > 1 {
                page.push_plus(&self.entry(&mut state, id)?, cookie, &name)
            } else {
                page.push(id, cookie, state.get(id)?.attr.kind, &name)
            };
            if !fits {
                break;
            }
        }
        Ok(Answer::Directory(page))
    }

    fn names(&self, request: &Request) -> Result<Answer, Errno> {
        let mut state = self.state.lock();
        let parent = request.inode;
        match &request.op {
            Op::Lookup { name } if name == "panic" => panic!("a test wants it"),
            Op::Lookup { name } if name == "nonsense" => Ok(Answer::Done),
            Op::Lookup { name } => {
                let id = state.child(parent, name)?;
                Ok(Answer::Entry(self.entry(&mut state, id)?))
            }
            Op::Symlink { name, target } => {
                let id = state.add(request, name, FileKind::Symlink, 0o777)?;
                let inode = state.get(id)?;
                inode.target = target.clone();
                inode.attr.size = target.len() as u64;
                Ok(Answer::Entry(self.entry(&mut state, id)?))
            }
            Op::Mknod { name, mode, umask, rdev } => {
                let kind = match mode & 0o170_000 {
                    0o010_000 => FileKind::Fifo,
                    0o020_000 => FileKind::CharDev,
                    0o060_000 => FileKind::BlockDev,
                    0o140_000 => FileKind::Socket,
                    _ => FileKind::File,
                };
                let id = state.add(request, name, kind, mode & !umask)?;
                state.get(id)?.attr.rdev = *rdev;
                Ok(Answer::Entry(self.entry(&mut state, id)?))
            }
            Op::Mkdir { name, mode, umask } => {
                let id = state.add(request, name, FileKind::Dir, mode & !umask)?;
                Ok(Answer::Entry(self.entry(&mut state, id)?))
            }
            Op::Create { name, mode, umask, flags, .. } => {
                let id = match state.child(parent, name) {
                    Ok(_) if flags & 0o200 != 0 => return Err(Errno::EXIST),
                    Ok(id) => id,
                    Err(_) => state.add(request, name, FileKind::File, mode & !umask)?,
                };
                Ok(Answer::Create(self.entry(&mut state, id)?, self.opened(id)))
            }
            Op::Tmpfile { mode, umask, .. } => {
                let name = Bytes::from(format!("tmp-{}", request.unique));
                let id = state.add(request, &name, FileKind::File, mode & !umask)?;
                state.remove(parent, &name, false)?;
                Ok(Answer::Create(self.entry(&mut state, id)?, self.opened(id)))
            }
            Op::Unlink { name } => {
                let id = state.remove(parent, name, false)?;
                self.changed(parent, name, Some(id));
                Ok(Answer::Done)
            }
            Op::Rmdir { name } => {
                let id = state.remove(parent, name, true)?;
                self.changed(parent, name, Some(id));
                Ok(Answer::Done)
            }
            Op::Rename { name, new_parent, new_name, flags } => {
                let id = state.child(parent, name)?;
                let dir = state.get(id)?.attr.kind == FileKind::Dir;
                if state.child(*new_parent, new_name).is_ok() {
                    if *flags & 1 != 0 {
                        return Err(Errno::EXIST);
                    }
                    state.remove(*new_parent, new_name, dir)?;
                }
                state.get(parent)?.entries.remove(name);
                state.get(*new_parent)?.entries.insert(new_name.clone(), id);
                state.get(id)?.parent = *new_parent;
                self.changed(parent, name, None);
                self.changed(*new_parent, new_name, None);
                Ok(Answer::Done)
            }
            Op::Link { target, name } => {
                state.get(parent)?.entries.insert(name.clone(), *target);
                state.get(*target)?.attr.nlink += 1;
                Ok(Answer::Entry(self.entry(&mut state, *target)?))
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn data(&self, request: &Request) -> Result<Answer, Errno> {
        let mut state = self.state.lock();
        let inode = state.get(request.inode)?;
        match &request.op {
            Op::Read { offset, len, .. } => {
                let from = usize::try_from(*offset).unwrap().min(inode.data.len());
                let to = (from + *len as usize).min(inode.data.len());
                Ok(Answer::data(Bytes::copy_from_slice(&inode.data[from..to])))
            }
            Op::Write { offset, data, flags, .. } => {
                let from =
                    if flags & 0o2000 != 0 { inode.data.len() } else { usize::try_from(*offset).unwrap() };
                if inode.data.len() < from + data.len() {
                    inode.data.resize(from + data.len(), 0);
                }
                inode.data[from..from + data.len()].copy_from_slice(data);
                inode.touched();
                Ok(Answer::Written(u32::try_from(data.len()).unwrap()))
            }
            Op::Fallocate { offset, len, mode: 0, .. } => {
                inode.resize(inode.attr.size.max(offset + len));
                Ok(Answer::Done)
            }
            Op::Lseek { offset, seek, .. } if *offset < inode.attr.size => {
                Ok(Answer::Position(if *seek == Seek::Data { *offset } else { inode.attr.size }))
            }
            Op::Lseek { .. } => Err(Errno::NXIO),
            Op::CopyFileRange { offset, to_inode, to_offset, len, .. } => {
                let from = usize::try_from(*offset).unwrap().min(inode.data.len());
                let to = (*offset + *len).min(inode.attr.size);
                let bytes = inode.data[from..usize::try_from(to).unwrap().max(from)].to_vec();
                let (target, at) = (state.get(*to_inode)?, usize::try_from(*to_offset).unwrap());
                target.data.resize(target.data.len().max(at + bytes.len()), 0);
                target.data[at..at + bytes.len()].copy_from_slice(&bytes);
                target.touched();
                Ok(Answer::Copied(bytes.len() as u64))
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn xattrs(&self, request: &Request) -> Result<Answer, Errno> {
        let mut state = self.state.lock();
        let xattrs = &mut state.get(request.inode)?.xattrs;
        match &request.op {
            Op::GetXattr { name, .. } => xattrs.get(name).cloned().map(Answer::Xattr).ok_or(Errno::NODATA),
            Op::ListXattr { .. } => {
                let names =
                    xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect::<Vec<u8>>();
                Ok(Answer::Xattr(names.into()))
            }
            Op::SetXattr { name, value, mode, .. } => match (mode, xattrs.contains_key(name)) {
                (XattrMode::Create, true) => Err(Errno::EXIST),
                (XattrMode::Replace, false) => Err(Errno::NODATA),
                _ => {
                    xattrs.insert(name.clone(), value.clone());
                    Ok(Answer::Done)
                }
            },
            Op::RemoveXattr { name } => xattrs.remove(name).map(|_| Answer::Done).ok_or(Errno::NODATA),
            _ => Err(Errno::NOSYS),
        }
    }
}

impl Filesystem for Memory {
    async fn call(&self, request: Request, interrupt: Interrupt) -> Result<Answer, Errno> {
        let inode = request.inode;
        match request.op {
            Op::Getattr { .. } => {
                let attr = self.state.lock().get(inode)?.attr.clone();
                Ok(Answer::Attr { attr, ttl: self.ttl })
            }
            Op::Setattr(change) => self.setattr(inode, &change),
            Op::Readlink => Ok(Answer::data(self.state.lock().get(inode)?.target.clone())),
            Op::Open { flags, .. } => {
                let mut state = self.state.lock();
                let file = state.get(inode)?;
                if flags & 0o1000 != 0 {
                    file.resize(0);
                }
                let waits = file.waits;
                let mut opened = self.opened(inode);
                opened.flags.direct_io |= waits;
                Ok(Answer::Open(opened))
            }
            Op::Opendir { .. } => Ok(Answer::Open(Opened { handle: inode, flags: OpenFlags::default() })),
            Op::Read { .. } if self.state.lock().get(inode)?.waits => {
                let _waiting = Waiting::new(&self.waiting);
                interrupt.interrupted().await;
                Err(Errno::INTR)
            }
            Op::Readdir { offset, room, plus, .. } => self.readdir(inode, offset, DirPage::new(room, plus)),
            Op::Statfs => Ok(Answer::Statfs(Statfs {
                blocks: 1 << 20,
                blocks_free: 1 << 19,
                blocks_available: 1 << 19,
                files: 1000,
                files_free: 500,
                block_size: 4096,
                fragment_size: 4096,
                name_len_max: 255,
            })),
            Op::Release { flock_owner, .. } => {
                if let Some(owner) = flock_owner {
                    self.give_back(inode, owner, true);
                }
                Ok(Answer::Done)
            }
            Op::Flush { lock_owner, .. } => {
                self.give_back(inode, lock_owner, false);
                Ok(Answer::Done)
            }
            Op::Fsync { .. }
            | Op::Releasedir { .. }
            | Op::Fsyncdir { .. }
            | Op::Access { .. }
            | Op::Destroy => Ok(Answer::Done),
            Op::Syncfs => Ok(Answer::Done),
            Op::Getlk(call) => {
                let held = self.state.lock().conflict(inode, &call);
                Ok(Answer::Lock(held.unwrap_or(Lock { kind: LockKind::Unlock, ..call.lock })))
            }
            Op::Setlk(call) => {
                let taken = self.state.lock().lock(inode, call);
                self.locks_changed.notify_waiters();
                taken.map(|()| Answer::Done)
            }
            Op::SetlkWait(call) => self.wait_for_lock(inode, call, interrupt).await,
            Op::GetXattr { .. } | Op::ListXattr { .. } | Op::SetXattr { .. } | Op::RemoveXattr { .. } => {
                self.xattrs(&request)
            }
            Op::Read { .. }
            | Op::Write { .. }
            | Op::Fallocate { .. }
            | Op::Lseek { .. }
            | Op::CopyFileRange { .. } => self.data(&request),
            _ => self.names(&request),
        }
    }

    fn forget(&self, _inode: u64, count: u64) {
        self.forgotten.fetch_add(count, Ordering::Relaxed);
    }
}

/// Waits until `count` requests wait.
pub async fn until_waiting(memory: &Arc<Memory>, count: usize) {
    let mut waiting = memory.waiting.subscribe();
    waiting.wait_for(|waiting| *waiting == count).await.expect("the sender lives as long as the filesystem");
}
