//! Contents of open files: read, write, fallocate, copying within the mount, seeking data and holes.

use std::sync::Arc;

use bytes::Bytes;

use super::super::fuse::{Answer, Caller, Errno, Seek};
use super::convert::errno;
use super::open_files::OpenFile;
use super::opening::flag;
use super::{MountFs, caller};
use crate::client::SeekFor;
use crate::types::{Cred, FallocateMode, FsError, RangeChange, Update};

const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const COLLAPSE_RANGE: u32 = 8;
const ZERO_RANGE: u32 = 0x10;
const INSERT_RANGE: u32 = 0x20;

fn fallocate_mode(mode: u32) -> Result<FallocateMode, Errno> {
    const PUNCH: u32 = PUNCH_HOLE | KEEP_SIZE;
    const ZERO_KEEP: u32 = ZERO_RANGE | KEEP_SIZE;
    match mode {
        0 => Ok(FallocateMode::Allocate),
        KEEP_SIZE => Ok(FallocateMode::AllocateKeepSize),
        PUNCH => Ok(FallocateMode::Punch),
        ZERO_RANGE => Ok(FallocateMode::Zero),
        ZERO_KEEP => Ok(FallocateMode::ZeroKeepSize),
        COLLAPSE_RANGE => Ok(FallocateMode::Collapse),
        INSERT_RANGE => Ok(FallocateMode::Insert),
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// With whose rights a caller writes through an open file: they decide whether setuid stays.
fn writer(open: &OpenFile, caller: &Caller) -> Cred {
    if caller.uid == open.cred.uid { open.cred.clone() } else { caller::bare_cred(caller) }
}

impl MountFs {
    fn file(&self, handle: u64) -> Result<Arc<OpenFile>, Errno> {
        self.shared.files.get(handle).ok_or(Errno::BADF)
    }

    pub(super) async fn read(&self, handle: u64, offset: u64, len: u32) -> Result<Answer, Errno> {
        let open = self.file(handle)?;
        let bytes = open.reader.read(offset, u64::from(len)).await.map_err(|e| errno(&e))?;
        Ok(Answer::Data(bytes))
    }

    pub(super) async fn write(
        &self,
        caller: Caller,
        handle: u64,
        offset: u64,
        data: Bytes,
        flags: u32,
        from_cache: bool,
    ) -> Result<Answer, Errno> {
        let open = self.file(handle)?;
        let len = u32::try_from(data.len()).map_err(|_| Errno::INVAL)?;
        // Nobody knows who touched a mapped page.
        let cred = if from_cache { open.cred.clone() } else { writer(&open, &caller) };
        self.shared.inodes.wrote(open.file.inode());
        if flags & flag::APPEND != 0 && !from_cache {
            open.file.append_as(&cred, data).await.map_err(|e| errno(&e))?;
            return Ok(Answer::Written(len));
        }
        open.file.write_at_as(&cred, offset, data).await.map_err(|e| errno(&e))?;
        if flags & (flag::DATA_SYNC | flag::DIRECT) != 0 && !from_cache {
            open.file.flush_and_report().await.map_err(|e| errno(&e))?;
        }
        Ok(Answer::Written(len))
    }

    pub(super) async fn fallocate(
        &self,
        handle: u64,
        offset: u64,
        len: u64,
        mode: u32,
    ) -> Result<Answer, Errno> {
        let open = self.file(handle)?;
        let inode = open.file.inode();
        let change = RangeChange { inode, offset, len, mode: fallocate_mode(mode)? };
        let changed = open.file.change_as(&open.cred, Update::Range(change)).await;
        changed.map(|_| Answer::Done).map_err(|e| errno(&e))
    }

    /// `copy_file_range(2)`, handle and offset of either side: the target refers to the blocks of the source from then on. Answers how
    /// many bytes that were, fewer than asked for where the source ends before.
    pub(super) async fn copy_range(
        &self,
        caller: Caller,
        (from, from_offset): (u64, u64),
        (to, to_offset): (u64, u64),
        len: u64,
    ) -> Result<Answer, Errno> {
        let (from, to) = (self.file(from)?, self.file(to)?);
        if !from.readable || !to.writable {
            return Err(Errno::BADF);
        }
        let cred = writer(&to, &caller);
        loop {
            // With what was written through this mount, which is published before the clone.
            let size = from.file.attr().await.map_err(|e| errno(&e))?.size;
            let part = len.min(size.saturating_sub(from_offset));
            if part == 0 {
                // Not asked for: to the library, no length means to the end.
                return Ok(Answer::Copied(0));
            }
            let cloned = to.file.clone_range_as(&cred, to_offset, &from.file, from_offset, part).await;
            match cloned {
                Ok((_, copied)) => return Ok(Answer::Copied(copied)),
                Err(e) if e.fs() == Some(FsError::Invalid) => {
                    // The source may have been cut since it was asked for its size; anything else stays wrong.
                    let now = from.file.attr().await.map_err(|e| errno(&e))?.size;
                    if now >= from_offset + part {
                        return Err(Errno::INVAL);
                    }
                }
                Err(e) => return Err(errno(&e)),
            }
        }
    }

    pub(super) async fn lseek(&self, handle: u64, offset: u64, seek: Seek) -> Result<Answer, Errno> {
        let open = self.file(handle)?;
        let what = match seek {
            Seek::Data => SeekFor::Data,
            Seek::Hole => SeekFor::Hole,
        };
        open.file.seek(offset, what).await.map(Answer::Position).map_err(|e| errno(&e))
    }

    /// Everything that was written through this mount.
    pub(super) async fn syncfs(&self) -> Result<Answer, Errno> {
        let mut failed = None;
        for file in self.shared.inodes.unpublished() {
            if let Err(error) = file.flush_and_report().await {
                failed = Some(errno(&error));
            }
        }
        failed.map_or(Ok(Answer::Done), Err)
    }
}
