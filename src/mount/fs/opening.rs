//! Opening, creating (with and without a name), closing and flushing files.
//!
//! Opening an existing file is one question to the cluster and no command; closing one that was not written is nothing at all.

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::fuse::{Answer, Caller, Errno, OpenFlags, Opened};
use super::convert::errno;
use super::names::node;
use super::open_files::OpenFile;
use super::{MountFs, caller};
use crate::client::{File, Reader};
use crate::types::{
    Access, Cred, FileKind, InodeId, MODE_BITS, MakeNode, MakeUnnamed, SetAttr, SetAttrs, Update,
};

/// Flags of `open(2)` on every architecture this is built for.
pub(super) mod flag {
    pub(in super::super) const ACCESS_MODE: u32 = 0o3;
    pub(in super::super) const WRITE_ONLY: u32 = 0o1;
    pub(in super::super) const EXCLUSIVE: u32 = 0o200;
    pub(in super::super) const TRUNCATE: u32 = 0o1000;
    pub(in super::super) const APPEND: u32 = 0o2000;
    /// `O_DSYNC`; `O_SYNC` has this bit too.
    pub(in super::super) const DATA_SYNC: u32 = 0o10_000;
    pub(in super::super) const DIRECT: u32 = 0o40_000;
    /// Not for programs: the kernel opens to execute.
    pub(in super::super) const EXEC: u32 = 0o40;
}

/// Reads and writes come here rather than to the kernel's cache, which would ask for the attributes before each read and
/// could not see what other mounts publish. Mappings work all the same.
const FLAGS: OpenFlags = OpenFlags {
    direct_io: true,
    keep_cache: false,
    cache_dir: false,
    nonseekable: false,
    no_flush: false,
    parallel_direct_writes: true,
};

fn is_readable(flags: u32) -> bool {
    flags & flag::ACCESS_MODE != flag::WRITE_ONLY
}

fn is_writable(flags: u32) -> bool {
    flags & flag::ACCESS_MODE != 0
}

/// What the opener must be allowed to do.
fn wanted(flags: u32) -> Access {
    let mut access = match flags & flag::ACCESS_MODE {
        0 if flags & flag::EXEC != 0 => Access::EXEC,
        0 => Access::READ,
        flag::WRITE_ONLY => Access::WRITE,
        _ => Access::READ.and(Access::WRITE),
    };
    if flags & flag::TRUNCATE != 0 {
        access = access.and(Access::WRITE);
    }
    access
}

/// An opener's share in a file, given back unless the open succeeds.
struct Opening<'a> {
    fs: &'a MountFs,
    file: File,
    done: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.fs.close(self.file.inode());
        }
    }
}

impl Opening<'_> {
    fn finish(mut self, cred: Cred, flags: u32) -> Opened {
        self.done = true;
        let file = self.file.clone();
        let open = OpenFile {
            reader: Reader::new(file.clone()),
            file,
            cred,
            readable: is_readable(flags),
            writable: is_writable(flags),
            lockers: Mutex::default(),
        };
        Opened { handle: self.fs.shared.files.insert(open), flags: FLAGS }
    }

    async fn truncate(&self, cred: &Cred) -> Result<crate::types::Attr, Errno> {
        let set = SetAttr { size: Some(0), ..SetAttr::default() };
        let update = Update::SetAttrs(SetAttrs { inode: self.file.inode(), set, by_handle: true });
        self.file.change_as(cred, update).await.map_err(|e| errno(&e))
    }
}

impl MountFs {
    async fn begin(&self, inode: InodeId) -> Result<Opening<'_>, Errno> {
        let file = self.shared.inodes.open(&self.shared.client, inode).await.map_err(|e| errno(&e))?;
        Ok(Opening { fs: self, file, done: false })
    }

    pub(super) async fn open(&self, caller: Caller, inode: InodeId, flags: u32) -> Result<Answer, Errno> {
        let cred = caller::cred(&caller);
        // Held before it is asked for: what another mount unlinks from here on stays.
        let opening = self.begin(inode).await?;
        self.permit(&opening, &cred, flags).await?;
        if flags & flag::TRUNCATE != 0 {
            opening.truncate(&cred).await?;
        }
        Ok(Answer::Open(opening.finish(cred, flags)))
    }

    async fn permit(&self, opening: &Opening<'_>, cred: &Cred, flags: u32) -> Result<(), Errno> {
        let client = self.shared.client.with_cred(cred.clone());
        let attr = client.access(opening.file.inode(), wanted(flags)).await.map_err(|e| errno(&e))?;
        match attr.kind {
            FileKind::File if attr.nlink == 0 && opening.file.is_late() => Err(Errno::STALE),
            FileKind::File => Ok(()),
            FileKind::Dir => Err(Errno::ISDIR),
            FileKind::Symlink => Err(Errno::LOOP),
            // The kernel opens these itself.
            _ => Err(Errno::NXIO),
        }
    }

    pub(super) async fn create(
        &self,
        caller: Caller,
        parent: InodeId,
        of: Bytes,
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> Result<Answer, Errno> {
        let exclusive = flags & flag::EXCLUSIVE != 0;
        let make = MakeNode { exclusive, ..node(parent, &of, FileKind::File, mode, umask)? };
        let cred = caller::cred(&caller);
        let made = self.shared.client.with_cred(cred.clone()).make_shared(make).await;
        let (mut attr, file) = made.map_err(|e| errno(&e))?;
        let created = file.is_some();
        let opening = match file {
            Some(file) => Opening { file: self.shared.inodes.adopt(file), fs: self, done: false },
            None => self.begin(attr.inode).await?,
        };
        if !created {
            // Another mount was faster: this is an open of what it has made.
            self.permit(&opening, &cred, flags).await?;
            if flags & flag::TRUNCATE != 0 {
                attr = opening.truncate(&cred).await?;
            }
            attr = self.with_own_writes(attr).await?;
        }
        let opened = opening.finish(cred, flags);
        Ok(Answer::Create(self.entry(&attr), opened))
    }

    /// A file without a name. It goes with its last close unless it is linked before, which `O_EXCL` forbids.
    pub(super) async fn tmpfile(
        &self,
        caller: Caller,
        parent: InodeId,
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> Result<Answer, Errno> {
        let linkable = flags & flag::EXCLUSIVE == 0;
        let make = MakeUnnamed { parent, mode: mode & MODE_BITS, umask, linkable };
        let cred = caller::cred(&caller);
        let made = self.shared.client.with_cred(cred.clone()).make_unnamed_shared(make).await;
        let (attr, file) = made.map_err(|e| errno(&e))?;
        let opening = Opening { file: self.shared.inodes.adopt(file), fs: self, done: false };
        Ok(Answer::Create(self.entry(&attr), opening.finish(cred, flags)))
    }

    /// One opener less; what is not published yet is, behind the caller's back.
    pub(super) fn close(&self, inode: InodeId) {
        if let Some(file) = self.shared.inodes.close(inode) {
            let fs = self.clone();
            let _home = self.shared.home.enter();
            // It ends by the deadline of a flush.
            crate::runtime::spawn("mount-release", async move {
                if let Err(error) = file.flush().await {
                    tracing::error!(inode = inode.0, %error, "written bytes are lost: the file is closed");
                }
                fs.shared.inodes.settle(inode);
            })
            .detach();
        }
    }

    pub(super) async fn release(&self, handle: u64, flock_owner: Option<u64>) -> Result<Answer, Errno> {
        if let Some(open) = self.shared.files.remove(handle) {
            let _ending = self.shared.endings.begin().await;
            self.close(open.file.inode());
            self.unlock_all(&open, flock_owner).await;
        }
        Ok(Answer::Done)
    }

    /// `close(2)` of a descriptor: publishes, and tells of what failed since the last time.
    pub(super) async fn flush(&self, handle: u64, lock_owner: u64) -> Result<Answer, Errno> {
        let open = self.shared.files.get(handle).ok_or(Errno::BADF)?;
        let flushed = if open.writable { open.file.flush_and_report().await } else { Ok(()) };
        // After the flush: who waits for the lock is to see what was written under it.
        let unlocked = self.closed_by(&open, lock_owner).await;
        flushed.map_err(|e| errno(&e))?;
        unlocked?;
        Ok(Answer::Done)
    }

    pub(super) async fn fsync(&self, handle: u64) -> Result<Answer, Errno> {
        let open = self.shared.files.get(handle).ok_or(Errno::BADF)?;
        open.file.flush_and_report().await.map_err(|e| errno(&e))?;
        Ok(Answer::Done)
    }
}
