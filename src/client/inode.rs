//! Open files by inode and by (parent, name): what a mount opens, makes, holds and seeks in.
//!
//! Holds: a handle is taken before the question that permits the open, so that an inode unlinked in between stays; opening
//! what exists is a query and no update (but for a truncate). Not here: the bytes (`file`), names alone (`namespace`).

use crate::types::{
    Access, Attr, ExtentSource, FileKind, FsError, InodeId, MakeNode, MakeUnnamed, Name, Query, QueryReply,
    SetAttr, Update, UpdateReply,
};

use super::session::Handle;
use super::{Client, ClientError, File, OpenOptions};

/// An inode that stays while this lives, whatever becomes of its names: an open directory, an `O_PATH` handle.
#[derive(Debug)]
pub struct Held {
    attr: Attr,
    _handle: Handle,
}

impl Held {
    /// Its inode.
    #[must_use]
    pub const fn inode(&self) -> InodeId {
        self.attr.inode
    }

    /// Its attributes when it was opened.
    #[must_use]
    pub const fn attr(&self) -> &Attr {
        &self.attr
    }
}

/// A file that was opened by name.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The open file.
    pub file: File,
    /// Its attributes.
    pub attr: Attr,
    /// False if it existed already.
    pub created: bool,
}

/// What a seek looks for (`lseek(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekFor {
    /// Bytes that were written (`SEEK_DATA`).
    Data,
    /// Bytes that were not: a hole, what `fallocate(2)` reserved, the end of the file (`SEEK_HOLE`).
    Hole,
}

impl OpenOptions {
    fn access(&self) -> Access {
        let mut access = Access(0);
        if self.execute {
            access = access.and(Access::EXEC);
        } else if self.read || !self.write {
            access = access.and(Access::READ);
        }
        if self.write { access.and(Access::WRITE) } else { access }
    }
}

impl Client {
    /// Takes a handle, then asks with `query`, which answers the attributes.
    async fn hold_and(&self, inode: InodeId, query: Query) -> Result<(Handle, Attr), ClientError> {
        let session = self.core.session(self.core.deadline()).await?;
        let handle = session.hold(inode);
        let attr = match self.core.query(&self.cred, query).await? {
            QueryReply::Found(found) => found.attr,
            other => return Err(ClientError::Protocol(format!("{:?} to an open", other))),
        };
        if attr.nlink == 0 && handle.is_late() {
            // An orphan that this session may have said it does not hold: it may be freed at any moment.
            return Err(FsError::Stale.into());
        }
        Ok((handle, attr))
    }

    /// Holds an inode of any kind (`opendir(3)`, `O_PATH`), with the permissions that `access` asks for.
    ///
    /// # Errors
    /// [`ClientError::Fs`]: EACCES; ESTALE when it is gone, or an orphan of which this client may have said that it does not hold it.
    pub async fn hold(&self, inode: InodeId, access: Access) -> Result<Held, ClientError> {
        let query = if access.0 == 0 { Query::GetAttr { inode } } else { Query::Access { inode, access } };
        let (handle, attr) = self.hold_and(inode, query).await?;
        Ok(Held { attr, _handle: handle })
    }

    /// Opens a regular file by inode, with the permissions that `options` need. No update, unless it truncates.
    ///
    /// # Errors
    /// As `open(2)`; `create` and `create_new` mean nothing here.
    pub async fn open_inode(&self, inode: InodeId, options: OpenOptions) -> Result<File, ClientError> {
        Ok(self.open_existing(inode, options).await?.0)
    }

    async fn open_existing(&self, inode: InodeId, options: OpenOptions) -> Result<(File, Attr), ClientError> {
        let access = options.access();
        let (handle, mut attr) = self.hold_and(inode, Query::Access { inode, access }).await?;
        match attr.kind {
            FileKind::File => {}
            FileKind::Dir => return Err(FsError::IsDir.into()),
            FileKind::Symlink => return Err(FsError::Loop.into()),
            _ => return Err(FsError::Invalid.into()),
        }
        if options.truncate && options.write {
            // Of an empty file too: `open(2)` changes its timestamps.
            let set = SetAttr { size: Some(0), ..SetAttr::default() };
            attr = self.setattr_at(inode, set, true).await?;
        }
        Ok((self.file(handle, options), attr))
    }

    /// Opens the regular file of a name, and makes it first if `options` say so and it is missing.
    ///
    /// # Errors
    /// As `open(2)` with `O_NOFOLLOW`: ELOOP for a symlink, which the caller follows.
    pub async fn open_at(
        &self,
        parent: InodeId,
        name: &Name,
        options: OpenOptions,
    ) -> Result<Opened, ClientError> {
        if options.create_new {
            return self.create_open_at(parent, name.clone(), options).await;
        }
        match self.lookup(parent, name).await {
            Ok(found) => {
                let (file, attr) = self.open_existing(found.attr.inode, options).await?;
                Ok(Opened { file, attr, created: false })
            }
            Err(e) if e.is_not_found() && options.create => {
                self.create_open_at(parent, name.clone(), options).await
            }
            Err(e) => Err(e),
        }
    }

    /// Makes a regular file and opens it, whatever its mode permits, in one update; for callers that know no file of that
    /// name. Should there be one, it is opened with its permissions, and truncated if `options` say so; with
    /// `options.create_new` it is an error.
    ///
    /// # Errors
    /// As `open(2)` with `O_CREAT`.
    pub async fn create_open_at(
        &self,
        parent: InodeId,
        name: Name,
        options: OpenOptions,
    ) -> Result<Opened, ClientError> {
        let deadline = self.core.deadline();
        let session = self.core.session(deadline).await?;
        // Until what was made is held, the session does not deny that it holds it.
        let making = session.making();
        let make = Update::Make(MakeNode {
            parent,
            name,
            kind: FileKind::File,
            mode: options.mode,
            umask: self.umask,
            rdev: 0,
            content: bytes::Bytes::new(),
            exclusive: options.create_new,
        });
        match self.core.update_in(&session, &self.cred, make, deadline).await? {
            UpdateReply::Made { attr, created: true } => {
                let handle = session.hold(attr.inode);
                drop(making);
                Ok(Opened { file: self.file(handle, options), attr, created: true })
            }
            UpdateReply::Made { attr, created: false } => {
                let (file, attr) = self.open_existing(attr.inode, options).await?;
                Ok(Opened { file, attr, created: false })
            }
            other => Err(ClientError::Protocol(format!("{other:?} to Make"))),
        }
    }

    /// Makes a node; of a regular file that is new, with the file, shared as [`Client::share`] has it. One update.
    ///
    /// # Errors
    /// As [`Client::make`].
    pub async fn make_shared(&self, make: MakeNode) -> Result<(Attr, Option<File>), ClientError> {
        let deadline = self.core.deadline();
        let session = self.core.session(deadline).await?;
        // Until what was made is held, the session does not deny that it holds it.
        let making = session.making();
        match self.core.update_in(&session, &self.cred, Update::Make(make), deadline).await? {
            UpdateReply::Made { attr, created } => {
                let file = (created && attr.kind == FileKind::File)
                    .then(|| self.shared_file(session.hold(attr.inode)));
                drop(making);
                Ok((attr, file))
            }
            other => Err(ClientError::Protocol(format!("{other:?} to Make"))),
        }
    }

    /// Makes a regular file without a name in a directory and opens it, whatever its mode permits (`open(2)` with
    /// `O_TMPFILE`). It is gone once this client has closed it, unless [`Client::link_at`] gives it a name before; with
    /// `options.create_new` (`O_EXCL`) it cannot.
    ///
    /// # Errors
    /// [`ClientError::Fs`]: EACCES, ENOTDIR, ENOENT.
    pub async fn tmpfile_open_at(
        &self,
        parent: InodeId,
        options: OpenOptions,
    ) -> Result<Opened, ClientError> {
        let linkable = !options.create_new;
        let make = MakeUnnamed { parent, mode: options.mode, umask: self.umask, linkable };
        let (attr, handle) = self.make_unnamed(make).await?;
        Ok(Opened { file: self.file(handle, options), attr, created: true })
    }

    /// As [`Client::tmpfile_open_at`], the file shared as [`Client::share`] has it.
    ///
    /// # Errors
    /// As there.
    pub async fn make_unnamed_shared(&self, make: MakeUnnamed) -> Result<(Attr, File), ClientError> {
        let (attr, handle) = self.make_unnamed(make).await?;
        Ok((attr, self.shared_file(handle)))
    }

    async fn make_unnamed(&self, make: MakeUnnamed) -> Result<(Attr, Handle), ClientError> {
        let deadline = self.core.deadline();
        let session = self.core.session(deadline).await?;
        // As for any create: the session must not deny that it holds what it is about to make.
        let making = session.making();
        match self.core.update_in(&session, &self.cred, Update::MakeUnnamed(make), deadline).await? {
            UpdateReply::Made { attr, .. } => {
                let handle = session.hold(attr.inode);
                drop(making);
                Ok((attr, handle))
            }
            other => Err(ClientError::Protocol(format!("{other:?} to MakeUnnamed"))),
        }
    }

    /// The offset of the next data or hole at or behind `offset`. What a handle has written and not flushed is not seen: see
    /// [`File::seek`].
    ///
    /// # Errors
    /// [`ClientError::Fs`]: ENXIO behind the end, and for data where only a hole is left.
    pub async fn seek_at(&self, inode: InodeId, offset: u64, what: SeekFor) -> Result<u64, ClientError> {
        let mut at = offset;
        loop {
            let page = self.extents_page(inode, at, u64::MAX).await?;
            if at >= page.attr.size {
                // A page may end where the file does: all of it was data.
                let found = what == SeekFor::Hole && at > offset;
                return if found { Ok(page.attr.size) } else { Err(FsError::NoSuchRange.into()) };
            }
            for extent in &page.extents {
                let is_data = !matches!(extent.source, ExtentSource::Zero);
                match what {
                    SeekFor::Data if is_data && extent.offset < page.attr.size => {
                        return Ok(extent.offset.max(at));
                    }
                    SeekFor::Data => {}
                    SeekFor::Hole if extent.offset > at || !is_data => return Ok(at),
                    SeekFor::Hole => {}
                }
                at = extent.end();
            }
            if page.end {
                return match what {
                    SeekFor::Data => Err(FsError::NoSuchRange.into()),
                    SeekFor::Hole => Ok(at.min(page.attr.size)),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::testing::Fake;
    use super::*;
    use crate::types::{Cred, FallocateMode, ROOT_INODE};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[tokio::test]
    async fn opening_what_exists_is_no_update_and_creating_is_one() {
        let fake = Fake::start(3, 0).await;
        let client = fake.client().await.with_umask(0o027);
        let updates = || fake.world.update_count.load(Ordering::Relaxed);
        let before = updates();
        let first = client.open_at(ROOT_INODE, &name("a"), OpenOptions::writing()).await.unwrap();
        assert!(first.created);
        assert_eq!((first.attr.mode, updates() - before), (0o640, 1));
        let again = client.open_at(ROOT_INODE, &name("a"), OpenOptions::writing()).await.unwrap();
        assert!(!again.created);
        let other = client.create_open_at(ROOT_INODE, name("b"), OpenOptions::writing()).await.unwrap();
        assert!(other.created);
        assert_eq!(updates() - before, 2);
        let new = OpenOptions { create_new: true, ..OpenOptions::writing() };
        assert!(client.open_at(ROOT_INODE, &name("a"), new).await.unwrap_err().is_exists());
        again.file.write_at(0, "text".into()).await.unwrap();
        again.file.close().await.unwrap();
        let cut = OpenOptions { truncate: true, ..OpenOptions::writing() };
        let cut = client.create_open_at(ROOT_INODE, name("a"), cut).await.unwrap();
        assert_eq!((cut.created, cut.attr.size), (false, 0));
        client.close().await;
    }

    #[tokio::test]
    async fn permissions_are_asked_for_at_the_open_of_what_exists_only() {
        let fake = Fake::start(1, 0).await;
        let root = fake.client().await;
        root.setattr_at(ROOT_INODE, SetAttr { mode: Some(0o777), ..SetAttr::default() }, false)
            .await
            .unwrap();
        let user = root.with_cred(Cred { uid: 7, gid: 7, groups: vec![] });
        let sealed = OpenOptions { mode: 0o111, ..OpenOptions::writing() };
        let made = user.create_open_at(ROOT_INODE, name("a"), sealed).await.unwrap();
        made.file.write_at(0, "x".into()).await.unwrap();
        made.file.flush().await.unwrap();
        let inode = made.attr.inode;
        let errno = |r: Result<File, ClientError>| r.map(drop).map_err(|e| e.errno());
        assert_eq!(errno(user.open_inode(inode, OpenOptions::reading()).await), Err(13));
        let run = OpenOptions { execute: true, ..OpenOptions::reading() };
        assert_eq!(errno(user.open_inode(inode, run).await), Ok(()));
        assert_eq!(user.hold(ROOT_INODE, Access::READ).await.unwrap().inode(), ROOT_INODE);
        root.close().await;
    }

    #[tokio::test]
    async fn an_orphan_is_opened_until_the_session_has_denied_it() {
        let fake = Fake::start(1, 0).await;
        let (one, two) = (fake.client().await, fake.client().await);
        let held = one.open_at(ROOT_INODE, &name("a"), OpenOptions::writing()).await.unwrap();
        two.unlink_at(ROOT_INODE, name("a")).await.unwrap();
        assert!(one.open_inode(held.attr.inode, OpenOptions::reading()).await.is_ok());
        // Looked up before it was unlinked, opened after: in time.
        assert!(two.open_inode(held.attr.inode, OpenOptions::reading()).await.is_ok());
        assert!(!two.core.live_session().unwrap().may_hold(held.attr.inode));
        let stale = two.open_inode(held.attr.inode, OpenOptions::reading()).await.unwrap_err();
        assert_eq!(stale.errno(), 116);
        assert_eq!(two.hold(held.attr.inode, Access(0)).await.unwrap_err().errno(), 116);
        one.close().await;
        two.close().await;
    }

    #[tokio::test]
    async fn a_file_without_a_name_is_written_and_linked() {
        let fake = Fake::start(1, 0).await;
        let client = fake.client().await.with_umask(0o027);
        let made = client.tmpfile_open_at(ROOT_INODE, OpenOptions::writing()).await.unwrap();
        assert_eq!((made.attr.nlink, made.attr.mode), (0, 0o640));
        made.file.write_at(0, "text".into()).await.unwrap();
        made.file.flush().await.unwrap();
        let inode = made.attr.inode;
        assert!(client.open_inode(inode, OpenOptions::reading()).await.is_ok(), "its maker may, as by /proc");
        let linked = client.link_at(inode, ROOT_INODE, name("a")).await.unwrap();
        assert_eq!((linked.nlink, linked.size), (1, 4));
        let sealed = OpenOptions { create_new: true, ..OpenOptions::writing() };
        let sealed = client.tmpfile_open_at(ROOT_INODE, sealed).await.unwrap();
        let refused = client.link_at(sealed.attr.inode, ROOT_INODE, name("b")).await.unwrap_err();
        assert_eq!(refused.errno(), 2);
        client.close().await;
    }

    #[tokio::test]
    async fn seeks_see_what_was_written_as_data_and_all_else_as_holes() {
        let fake = Fake::start(1, 0).await;
        let client = fake.client().await;
        let file = client.open_at(ROOT_INODE, &name("a"), OpenOptions::writing()).await.unwrap().file;
        file.write_at(100, "0123456789".into()).await.unwrap();
        file.change_range(110, 20, FallocateMode::Allocate).await.unwrap();
        file.write_at(140, "x".into()).await.unwrap();
        let seek = async |offset, what| file.seek(offset, what).await.map_err(|e| e.errno());
        assert_eq!(seek(0, SeekFor::Data).await, Ok(100));
        assert_eq!(seek(105, SeekFor::Data).await, Ok(105));
        assert_eq!(seek(0, SeekFor::Hole).await, Ok(0));
        assert_eq!(seek(100, SeekFor::Hole).await, Ok(110));
        assert_eq!(seek(110, SeekFor::Data).await, Ok(140));
        assert_eq!(seek(140, SeekFor::Hole).await, Ok(141));
        assert_eq!(seek(141, SeekFor::Hole).await, Err(6));
        assert_eq!(seek(141, SeekFor::Data).await, Err(6));
        file.truncate(150).await.unwrap();
        assert_eq!(seek(141, SeekFor::Data).await, Err(6));
        assert_eq!(seek(145, SeekFor::Hole).await, Ok(145));
        file.close().await.unwrap();
        client.close().await;
    }
}
