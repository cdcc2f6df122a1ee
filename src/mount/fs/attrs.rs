//! Operations on attributes: stat, chmod, chown, utimens, truncate, access, extended attributes, statfs.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::fuse::{Answer, Caller, Errno, SetAttr as KernelSet, Statfs, XattrMode as KernelMode};
use super::convert::errno;
use super::{MountFs, TTL, caller};
use crate::types::{
    Access, Attr, InodeId, MODE_BITS, SetAttr, SetAttrs, SetTime, Timestamp, Update, XattrMode,
};

/// The unit of statfs.
const STATFS_UNIT: u64 = 4096;
/// Inodes that can still be made: as many as ids last for, told as a number that programs can add to.
const FILES_FREE: u64 = 1 << 48;

/// The moment that becomes the modification time, if nothing else is set.
fn only_mtime(set: &SetAttr) -> Option<Timestamp> {
    match set.mtime {
        Some(SetTime::At(at)) if *set == (SetAttr { mtime: set.mtime, ..SetAttr::default() }) => Some(at),
        _ => None,
    }
}

impl MountFs {
    fn attr_answer(&self, attr: &Attr) -> Answer {
        Answer::Attr { attr: self.attr_out(attr), ttl: TTL }
    }

    pub(super) async fn getattr(&self, caller: Caller, inode: InodeId) -> Result<Answer, Errno> {
        let (walks, changes) = (&self.shared.walks, &self.shared.changes);
        let looked_up = walks.take_attr(&caller, inode, changes);
        let attr = match (self.shared.inodes.get(inode), looked_up) {
            // What was written and is not published shows.
            (Some(file), _) => file.attr().await,
            (None, Some(attr)) => Ok(attr),
            (None, None) => self.shared.client.getattr(inode).await,
        };
        Ok(self.attr_answer(&attr.map_err(|e| errno(&e))?))
    }

    pub(super) async fn setattr(
        &self,
        caller: Caller,
        inode: InodeId,
        set: KernelSet,
    ) -> Result<Answer, Errno> {
        let handle = set.handle.and_then(|h| self.shared.files.get(h));
        let by_handle = handle.is_some_and(|h| h.writable);
        let set = SetAttr {
            mode: set.mode.map(|mode| mode & MODE_BITS),
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime: set.atime,
            mtime: set.mtime,
        };
        if set == SetAttr::default() {
            return self.getattr(caller, inode).await;
        }
        let cred = caller::cred(&caller);
        let changed = match self.shared.inodes.get(inode) {
            // Behind what was written before: otherwise a later flush would undo it.
            Some(file) => {
                if let Some(mtime) = only_mtime(&set).filter(|_| cred.is_root())
                    && let Some(attr) = file.flush_stamped(mtime).await.map_err(|e| errno(&e))?
                {
                    return Ok(self.attr_answer(&attr));
                }
                let update = Update::SetAttrs(SetAttrs { inode, set, by_handle });
                file.change_as(&cred, update).await
            }
            None => self.shared.client.with_cred(cred).setattr_at(inode, set, by_handle).await,
        };
        Ok(self.attr_answer(&changed.map_err(|e| errno(&e))?))
    }

    pub(super) async fn access(&self, caller: Caller, inode: InodeId, mask: u32) -> Result<Answer, Errno> {
        let access = Access(u8::try_from(mask & 7).unwrap_or(7));
        let may = self.client_of(&caller).access(inode, access).await;
        may.map(|_| Answer::Done).map_err(|e| errno(&e))
    }

    pub(super) async fn statfs(&self) -> Result<Answer, Errno> {
        let totals = self.shared.client.statfs().await.map_err(|e| errno(&e))?;
        let free = totals.free / STATFS_UNIT;
        Ok(Answer::Statfs(Statfs {
            blocks: totals.total / STATFS_UNIT,
            blocks_free: free,
            blocks_available: free,
            files: totals.inode_count.saturating_add(FILES_FREE),
            files_free: FILES_FREE,
            block_size: u32::try_from(STATFS_UNIT).unwrap_or(u32::MAX),
            fragment_size: u32::try_from(STATFS_UNIT).unwrap_or(u32::MAX),
            name_len_max: u32::try_from(crate::types::NAME_LEN_MAX).unwrap_or(u32::MAX),
        }))
    }

    pub(super) async fn getxattr(
        &self,
        caller: Caller,
        inode: InodeId,
        name: Bytes,
    ) -> Result<Answer, Errno> {
        // Names that everybody may ask for, of any kind of inode.
        let plain = name.strip_prefix(b"security.").is_some_and(|rest| !rest.is_empty())
            || name == b"system.posix_acl_access"[..];
        if plain && self.shared.listings.is_bare(&caller, inode, &self.shared.changes) {
            return Err(Errno::NODATA);
        }
        let value = self.client_of(&caller).getxattr_at(inode, name).await;
        value.map(Answer::Xattr).map_err(|e| errno(&e))
    }

    pub(super) async fn listxattr(&self, caller: Caller, inode: InodeId) -> Result<Answer, Errno> {
        let names = self.client_of(&caller).listxattr_at(inode).await.map_err(|e| errno(&e))?;
        let mut list = BytesMut::with_capacity(names.iter().map(|n| n.len() + 1).sum());
        for name in names {
            list.extend_from_slice(&name);
            list.put_u8(0);
        }
        Ok(Answer::Xattr(list.freeze()))
    }

    pub(super) async fn setxattr(
        &self,
        caller: Caller,
        inode: InodeId,
        name: Bytes,
        value: Bytes,
        mode: KernelMode,
    ) -> Result<Answer, Errno> {
        let mode = match mode {
            KernelMode::Any => XattrMode::Any,
            KernelMode::Create => XattrMode::Create,
            KernelMode::Replace => XattrMode::Replace,
        };
        let set = self.client_of(&caller).setxattr_at(inode, name, value, mode).await;
        set.map(|()| Answer::Done).map_err(|e| errno(&e))
    }

    pub(super) async fn removexattr(
        &self,
        caller: Caller,
        inode: InodeId,
        name: Bytes,
    ) -> Result<Answer, Errno> {
        let removed = self.client_of(&caller).removexattr_at(inode, name).await;
        removed.map(|()| Answer::Done).map_err(|e| errno(&e))
    }
}
