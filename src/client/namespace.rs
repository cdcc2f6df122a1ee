//! The namespace by inode: one method a question or update, for the mount and for `path`.
//!
//! Holds: each method is one request (`readdir` one a page). Names are checked by their type; permissions by the cluster, with the
//! rights of [`Client::with_cred`]. Not here: paths (`path`), file data (`file`).

use bytes::Bytes;

use crate::types::{
    Access, Attr, Cookie, DirEntry, Extent, FileKind, Found, FsTotals, InodeId, Link, Listed, MakeNode, Name,
    Query, QueryReply, RangeChange, RemoveXattr, Rename, Seen, SetAttr, SetAttrs, SetLabel, SetXattr, Unlink,
    Update, UpdateReply, XattrMode,
};

use super::{Client, ClientError};

/// A page of the extents of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentPage {
    /// Attributes of the file at the same moment.
    pub attr: Attr,
    /// Extents that touch the range, in order, each whole.
    pub extents: Vec<Extent>,
    /// True if no more follow within the range.
    pub end: bool,
}

fn wrong<T>(reply: &QueryReply) -> Result<T, ClientError> {
    let mut text = format!("{reply:?}");
    text.truncate(text.char_indices().nth(200).map_or(text.len(), |(i, _)| i));
    Err(ClientError::Protocol(text))
}

fn wrong_update<T>(reply: &UpdateReply) -> Result<T, ClientError> {
    Err(ClientError::Protocol(format!("{reply:?}")))
}

impl Client {
    async fn ask(&self, query: Query) -> Result<QueryReply, ClientError> {
        self.core.query(&self.cred, query).await
    }

    async fn change(&self, update: Update) -> Result<UpdateReply, ClientError> {
        self.core.update(&self.cred, update).await
    }

    async fn change_attr(&self, update: Update) -> Result<Attr, ClientError> {
        match self.change(update).await? {
            UpdateReply::Attr(attr) => Ok(attr),
            other => wrong_update(&other),
        }
    }

    async fn found(&self, query: Query) -> Result<Found, ClientError> {
        match self.ask(query).await? {
            QueryReply::Found(found) => Ok(found),
            other => wrong(&other),
        }
    }

    /// Calls the cluster by a name, for people; an empty one takes the name away. Needs format level 2.
    ///
    /// # Errors
    /// EPERM but for root; EINVAL for more than [`SetLabel::LEN_MAX`] bytes or control characters; EOPNOTSUPP while the cluster
    /// works at an older level, with who keeps it there.
    pub async fn set_label(&self, label: &str) -> Result<(), ClientError> {
        match self.change(Update::SetLabel(SetLabel { label: label.to_owned() })).await? {
            UpdateReply::Done => Ok(()),
            other => wrong_update(&other),
        }
    }

    /// The inode behind a name, with data servers to read it from or write it to.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `stat(2)` has it.
    pub async fn lookup(&self, parent: InodeId, name: &Name) -> Result<Found, ClientError> {
        self.found(Query::Lookup { parent, name: name.clone() }).await
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// [`ClientError::Fs`]: ESTALE when it is gone.
    pub async fn getattr(&self, inode: InodeId) -> Result<Attr, ClientError> {
        Ok(self.found(Query::GetAttr { inode }).await?.attr)
    }

    /// May the caller do this? Answered with the attributes.
    ///
    /// # Errors
    /// [`ClientError::Fs`]: EACCES when not.
    pub async fn access(&self, inode: InodeId, access: Access) -> Result<Attr, ClientError> {
        Ok(self.found(Query::Access { inode, access }).await?.attr)
    }

    /// The parent of a directory.
    ///
    /// # Errors
    /// [`ClientError::Fs`]: ENOTDIR, ESTALE.
    pub async fn parent_of(&self, inode: InodeId) -> Result<Found, ClientError> {
        self.found(Query::Parent { inode }).await
    }

    /// Changes attributes; `by_handle` says that a handle opened for writing is held.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `chmod(2)`, `chown(2)`, `truncate(2)` and `utimensat(2)` have it.
    pub async fn setattr_at(
        &self,
        inode: InodeId,
        set: SetAttr,
        by_handle: bool,
    ) -> Result<Attr, ClientError> {
        self.change_attr(Update::SetAttrs(SetAttrs { inode, set, by_handle })).await
    }

    /// Makes a node; with `exclusive` false an existing regular file is answered, and false with it.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `open(2)`, `mkdir(2)`, `mknod(2)` and `symlink(2)` have it.
    pub async fn make(&self, make: MakeNode) -> Result<(Attr, bool), ClientError> {
        match self.change(Update::Make(make)).await? {
            UpdateReply::Made { attr, created } => Ok((attr, created)),
            other => wrong_update(&other),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn mkdir_at(&self, parent: InodeId, name: Name, mode: u32) -> Result<Attr, ClientError> {
        let make = MakeNode {
            parent,
            name,
            kind: FileKind::Dir,
            mode,
            umask: self.umask,
            rdev: 0,
            content: Bytes::new(),
            exclusive: true,
        };
        Ok(self.make(make).await?.0)
    }

    /// Makes an empty regular file; an existing one is an error if `exclusive`, else the answer.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn create_at(
        &self,
        parent: InodeId,
        name: Name,
        mode: u32,
        exclusive: bool,
    ) -> Result<(Attr, bool), ClientError> {
        let content = Bytes::new();
        self.make(MakeNode {
            parent,
            name,
            kind: FileKind::File,
            mode,
            umask: self.umask,
            rdev: 0,
            content,
            exclusive,
        })
        .await
    }

    /// Makes a special file (`kind` a pipe, socket or device).
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn mknod_at(
        &self,
        parent: InodeId,
        name: Name,
        kind: FileKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Attr, ClientError> {
        let content = Bytes::new();
        Ok(self
            .make(MakeNode { parent, name, kind, mode, umask: self.umask, rdev, content, exclusive: true })
            .await?
            .0)
    }

    /// Makes a symlink to `target`, any bytes.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn symlink_at(
        &self,
        parent: InodeId,
        name: Name,
        target: impl Into<Bytes>,
    ) -> Result<Attr, ClientError> {
        let make = MakeNode {
            parent,
            name,
            kind: FileKind::Symlink,
            mode: 0o777,
            umask: 0,
            rdev: 0,
            content: target.into(),
            exclusive: true,
        };
        Ok(self.make(make).await?.0)
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// [`ClientError::Fs`]: EINVAL when it is none.
    pub async fn readlink_at(&self, inode: InodeId) -> Result<Bytes, ClientError> {
        match self.ask(Query::ReadLink { inode }).await? {
            QueryReply::Target(target) => Ok(target),
            other => wrong(&other),
        }
    }

    /// Gives an inode one more dentry.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `link(2)` has it.
    pub async fn link_at(&self, inode: InodeId, parent: InodeId, name: Name) -> Result<Attr, ClientError> {
        self.change_attr(Update::Link(Link { inode, parent, name })).await
    }

    async fn removed(&self, update: Update) -> Result<Option<Attr>, ClientError> {
        match self.change(update).await? {
            UpdateReply::Removed(attr) => Ok(attr),
            UpdateReply::Done => Ok(None),
            other => wrong_update(&other),
        }
    }

    /// Removes the dentry of anything but a directory; tells what lost it.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `unlink(2)` has it.
    pub async fn unlink_at(&self, parent: InodeId, name: Name) -> Result<Option<Attr>, ClientError> {
        self.removed(Update::Unlink(Unlink { parent, name, dir: false })).await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `rmdir(2)` has it.
    pub async fn rmdir_at(&self, parent: InodeId, name: Name) -> Result<(), ClientError> {
        self.removed(Update::Unlink(Unlink { parent, name, dir: true })).await.map(drop)
    }

    /// Moves a dentry; tells what the target replaced, if anything.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `renameat2(2)` has it.
    pub async fn rename_at(&self, rename: Rename) -> Result<Option<Attr>, ClientError> {
        self.removed(Update::Rename(rename)).await
    }

    /// Changes a range of a file (`fallocate(2)`).
    ///
    /// # Errors
    /// [`ClientError::Fs`] as there.
    pub async fn change_range(&self, change: RangeChange) -> Result<Attr, ClientError> {
        self.change_attr(Update::Range(change)).await
    }

    /// A page of a directory behind `after`; true with the last one. `limit` is clamped to [`Query::READDIR_MAX`].
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `getdents(2)` has it.
    pub async fn readdir_page(
        &self,
        inode: InodeId,
        after: Cookie,
        limit: u32,
        with_attrs: bool,
    ) -> Result<(Vec<DirEntry>, bool), ClientError> {
        let limit = limit.clamp(1, Query::READDIR_MAX);
        match self.ask(Query::ReadDir { inode, after, limit, with_attrs }).await? {
            QueryReply::Page { entries, end } => Ok((entries, end)),
            other => wrong(&other),
        }
    }

    /// A page of the extents that touch `len` bytes from `offset` on (`u64::MAX`: to the end).
    ///
    /// # Errors
    /// [`ClientError::Fs`].
    pub async fn extents_page(
        &self,
        inode: InodeId,
        offset: u64,
        len: u64,
    ) -> Result<ExtentPage, ClientError> {
        /// A reader rarely needs more at a time, and 1,000 references are some tens of KiB.
        const PAGE: u32 = 1000;
        match self.ask(Query::Extents { inode, offset, len, limit: PAGE }).await? {
            QueryReply::Extents { attr, extents, end } => Ok(ExtentPage { attr, extents, end }),
            other => wrong(&other),
        }
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `getxattr(2)` has it.
    pub async fn getxattr_at(&self, inode: InodeId, name: impl Into<Bytes>) -> Result<Bytes, ClientError> {
        match self.ask(Query::GetXattr { inode, name: name.into() }).await? {
            QueryReply::Xattr(value) => Ok(value),
            other => wrong(&other),
        }
    }

    /// Names of all extended attributes that the caller may see.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `listxattr(2)` has it.
    pub async fn listxattr_at(&self, inode: InodeId) -> Result<Vec<Bytes>, ClientError> {
        match self.ask(Query::ListXattr { inode }).await? {
            QueryReply::Xattrs(names) => Ok(names),
            other => wrong(&other),
        }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `setxattr(2)` has it.
    pub async fn setxattr_at(
        &self,
        inode: InodeId,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
        mode: XattrMode,
    ) -> Result<(), ClientError> {
        let set = SetXattr { inode, name: name.into(), value: value.into(), mode };
        self.change(Update::SetXattr(set)).await.map(drop)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `removexattr(2)` has it.
    pub async fn removexattr_at(&self, inode: InodeId, name: impl Into<Bytes>) -> Result<(), ClientError> {
        self.change(Update::RemoveXattr(RemoveXattr { inode, name: name.into() })).await.map(drop)
    }

    /// Totals of the filesystem.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn statfs(&self) -> Result<FsTotals, ClientError> {
        match self.ask(Query::StatFs).await? {
            QueryReply::Totals(totals) => Ok(totals),
            other => wrong(&other),
        }
    }

    /// The inodes of `names`, each in the one before, from `start` on: up to the first that leads nowhere, which is an error
    /// if it is the first of all.
    ///
    /// # Errors
    /// As [`Client::lookup`], of the first name.
    pub async fn steps_at(&self, start: InodeId, names: Vec<Name>) -> Result<Vec<Seen>, ClientError> {
        match self.ask(Query::Steps { start, names }).await? {
            QueryReply::Steps(steps) => Ok(steps),
            other => wrong(&other),
        }
    }

    /// A page of a directory with attributes, as [`Client::readdir_page`], with what a mount needs to know besides; true if
    /// nothing follows.
    ///
    /// # Errors
    /// As there.
    pub async fn list_page(
        &self,
        inode: InodeId,
        after: Cookie,
        limit: u32,
    ) -> Result<(Vec<Listed>, bool), ClientError> {
        match self.ask(Query::List { inode, after, limit }).await? {
            QueryReply::Listed { entries, end } => Ok((entries, end)),
            other => wrong(&other),
        }
    }

    pub(super) async fn walk_query(&self, start: InodeId, names: Vec<Name>) -> Result<Walked, ClientError> {
        match self.ask(Query::Walk { start, names }).await? {
            QueryReply::Walked { found, rest, parent } => Ok(Walked { found, rest, parent }),
            other => wrong(&other),
        }
    }
}

/// Answer to [`Query::Walk`].
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) found: Found,
    pub(super) rest: u32,
    pub(super) parent: InodeId,
}
