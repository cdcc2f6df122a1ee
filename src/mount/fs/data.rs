//! Contents of open files: read, write, fallocate, seeking data and holes.

use std::sync::Arc;

use bytes::Bytes;

use super::super::fuse::{Answer, Caller, Errno, Seek};
use super::convert::errno;
use super::open_files::OpenFile;
use super::opening::flag;
use super::{MountFs, caller};
use crate::client::SeekFor;
use crate::types::{Cred, FallocateMode, RangeChange, Update};

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
        // Whose it is decides whether setuid stays; nobody knows who touched a mapped page.
        let cred: Cred = if from_cache || caller.uid == open.cred.uid {
            open.cred.clone()
        } else {
            caller::bare_cred(&caller)
        };
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
