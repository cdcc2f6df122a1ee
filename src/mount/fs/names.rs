//! Operations on names: lookup, and all that makes, moves and removes them.

use bytes::Bytes;

use super::super::fuse::{Answer, Caller, Entry, Errno};
use super::convert::errno;
use super::walks::Step;
use super::{MountFs, caller, name};
use crate::client::Client;
use crate::types::{Attr, FileKind, InodeId, MakeNode, Rename, RenameMode, Seen};

const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;

/// `S_IFMT` of a mode as a kind; without any it is a file.
fn kind_of(mode: u32) -> Result<FileKind, Errno> {
    const S_IFMT: u32 = 0o170_000;
    let kinds = [FileKind::File, FileKind::Fifo, FileKind::Socket, FileKind::CharDev, FileKind::BlockDev];
    match mode & S_IFMT {
        0 => Ok(FileKind::File),
        bits => kinds.into_iter().find(|k| k.mode_type() == bits).ok_or(Errno::INVAL),
    }
}

impl MountFs {
    /// The client with the rights of a caller.
    pub(super) fn client_of(&self, caller: &Caller) -> Client {
        self.shared.client.with_cred(caller::cred(caller))
    }

    pub(super) async fn lookup(&self, caller: Caller, parent: InodeId, of: Bytes) -> Result<Answer, Errno> {
        let attr = match &of[..] {
            b"." => self.client_of(&caller).getattr(parent).await,
            b".." if parent == self.shared.options.root => self.client_of(&caller).getattr(parent).await,
            b".." => self.client_of(&caller).parent_of(parent).await.map(|found| found.attr),
            _ => {
                let step = (parent, name(&of)?);
                let seen = self.step(&caller, &step).await?;
                let listings = &self.shared.listings;
                let entry_ttl = listings.keep_step(&caller, &step, &seen, self.number(parent));
                let entry = self.entry(&self.with_own_writes(seen.attr).await?);
                return Ok(Answer::Entry(Entry { entry_ttl, ..entry }));
            }
        };
        let attr = attr.map_err(|e| errno(&e))?;
        Ok(Answer::Entry(self.entry(&self.with_own_writes(attr).await?)))
    }

    /// What is under a name: read ahead by the call that asks, or asked for, together with what it may want next.
    async fn step(&self, caller: &Caller, step: &Step) -> Result<Seen, Errno> {
        let (walks, changes) = (&self.shared.walks, &self.shared.changes);
        if let Some(seen) = walks.take(caller, step, changes) {
            return Ok(seen);
        }
        let plan = walks.plan(caller, step.clone(), changes);
        match self.client_of(caller).steps_at(step.0, plan.names()).await {
            Ok(steps) => walks.found(caller, plan, steps).ok_or(Errno::IO),
            Err(e) => {
                walks.leave(caller);
                Err(errno(&e))
            }
        }
    }

    /// Attributes that a question by name has brought, with what this mount has written and not published.
    pub(super) async fn with_own_writes(&self, attr: Attr) -> Result<Attr, Errno> {
        let Some(file) = self.shared.inodes.written(attr.inode) else { return Ok(attr) };
        // Asked again: what was written may have been published between the answer and here.
        file.attr().await.map_err(|e| errno(&e))
    }

    pub(super) async fn make(&self, caller: &Caller, make: MakeNode) -> Result<(Attr, bool), Errno> {
        self.client_of(caller).make(make).await.map_err(|e| errno(&e))
    }

    pub(super) async fn mkdir(
        &self,
        caller: Caller,
        parent: InodeId,
        of: Bytes,
        mode: u32,
        umask: u32,
    ) -> Result<Answer, Errno> {
        let make = node(parent, &of, FileKind::Dir, mode, umask)?;
        let (attr, _) = self.make(&caller, make).await?;
        Ok(Answer::Entry(self.entry(&attr)))
    }

    pub(super) async fn mknod(
        &self,
        caller: Caller,
        parent: InodeId,
        of: Bytes,
        mode: u32,
        umask: u32,
        rdev: u64,
    ) -> Result<Answer, Errno> {
        let make = MakeNode { rdev, ..node(parent, &of, kind_of(mode)?, mode, umask)? };
        let (attr, _) = self.make(&caller, make).await?;
        Ok(Answer::Entry(self.entry(&attr)))
    }

    pub(super) async fn symlink(
        &self,
        caller: Caller,
        parent: InodeId,
        of: Bytes,
        target: Bytes,
    ) -> Result<Answer, Errno> {
        let make = MakeNode { content: target, ..node(parent, &of, FileKind::Symlink, 0o777, 0)? };
        let (attr, _) = self.make(&caller, make).await?;
        Ok(Answer::Entry(self.entry(&attr)))
    }

    pub(super) async fn readlink(&self, inode: InodeId) -> Result<Answer, Errno> {
        let target = self.shared.client.readlink_at(inode).await.map_err(|e| errno(&e))?;
        Ok(Answer::data(target))
    }

    pub(super) async fn link(
        &self,
        caller: Caller,
        inode: InodeId,
        parent: InodeId,
        of: Bytes,
    ) -> Result<Answer, Errno> {
        let linked = self.client_of(&caller).link_at(inode, parent, name(&of)?).await;
        let attr = linked.map_err(|e| errno(&e))?;
        Ok(Answer::Entry(self.entry(&self.with_own_writes(attr).await?)))
    }

    pub(super) async fn unlink(&self, caller: Caller, parent: InodeId, of: Bytes) -> Result<Answer, Errno> {
        let removed = self.client_of(&caller).unlink_at(parent, name(&of)?).await;
        removed.map(|_| Answer::Done).map_err(|e| errno(&e))
    }

    pub(super) async fn rmdir(&self, caller: Caller, parent: InodeId, of: Bytes) -> Result<Answer, Errno> {
        let removed = self.client_of(&caller).rmdir_at(parent, name(&of)?).await;
        removed.map(|()| Answer::Done).map_err(|e| errno(&e))
    }

    pub(super) async fn rename(
        &self,
        caller: Caller,
        from_parent: InodeId,
        of: Bytes,
        to_parent: InodeId,
        to: Bytes,
        flags: u32,
    ) -> Result<Answer, Errno> {
        let mode = match flags {
            0 => RenameMode::Replace,
            RENAME_NOREPLACE => RenameMode::NoReplace,
            RENAME_EXCHANGE => RenameMode::Exchange,
            // A whiteout is a device of an overlay, which keeps none here.
            _ => return Err(Errno::INVAL),
        };
        let rename = Rename { from_parent, from_name: name(&of)?, to_parent, to_name: name(&to)?, mode };
        let renamed = self.client_of(&caller).rename_at(rename).await;
        renamed.map(|_| Answer::Done).map_err(|e| errno(&e))
    }
}

/// What makes an empty node.
pub(super) fn node(
    parent: InodeId,
    of: &[u8],
    kind: FileKind,
    mode: u32,
    umask: u32,
) -> Result<MakeNode, Errno> {
    Ok(MakeNode {
        parent,
        name: name(of)?,
        kind,
        mode: mode & crate::types::MODE_BITS,
        umask,
        rdev: 0,
        content: Bytes::new(),
        exclusive: true,
    })
}
