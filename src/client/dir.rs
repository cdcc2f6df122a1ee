//! Whole directories: a listing as a stream of pages, and removing a tree.
//!
//! Holds: a listing never misses an entry that was there all the time, whatever is made and removed meanwhile (cookies);
//! removing keeps a bounded number of requests in flight however wide or deep the tree is.

use std::collections::VecDeque;
use std::path::Path;

use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};

use crate::types::{Cookie, DirEntry, FileKind, FsError, InodeId, Name};

use super::error::At;
use super::{Client, ClientError};

/// Entries of a page: some hundred KiB with attributes.
const PAGE: u32 = 1024;
/// Directories worked on at a time by [`Client::remove_tree`].
const DIRS_IN_FLIGHT: usize = 16;
/// Removals in flight in each of them.
const REMOVALS_IN_FLIGHT: usize = 16;

/// The entries of a directory, fetched page by page.
#[derive(Debug)]
pub struct DirStream {
    client: Client,
    inode: InodeId,
    with_attrs: bool,
    after: Cookie,
    page: VecDeque<DirEntry>,
    end: bool,
}

impl DirStream {
    /// The next entry; none behind the last.
    ///
    /// # Errors
    /// As [`Client::readdir_page`]; a later call tries the page again.
    pub async fn next(&mut self) -> Result<Option<DirEntry>, ClientError> {
        while self.page.is_empty() && !self.end {
            let (entries, end) =
                self.client.readdir_page(self.inode, self.after, PAGE, self.with_attrs).await?;
            self.end = end || entries.is_empty();
            self.after = entries.last().map_or(self.after, |e| e.cookie);
            self.page = entries.into();
        }
        Ok(self.page.pop_front())
    }

    /// All that follow. For directories that are known to be small.
    ///
    /// # Errors
    /// As [`DirStream::next`].
    pub async fn all(mut self) -> Result<Vec<DirEntry>, ClientError> {
        let mut all = Vec::new();
        while let Some(entry) = self.next().await? {
            all.push(entry);
        }
        Ok(all)
    }
}

/// What [`Client::remove_tree`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedTree {
    /// Anything but directories.
    pub file_count: u64,
    /// Directories, the root of the tree included.
    pub dir_count: u64,
}

/// One directory of a tree on its way out.
#[derive(Debug)]
struct Doomed {
    inode: InodeId,
    parent: InodeId,
    name: Name,
    depth: usize,
}

impl Client {
    /// The entries of a directory in cookie order, with attributes if asked for.
    #[must_use]
    pub fn readdir_at(&self, inode: InodeId, with_attrs: bool) -> DirStream {
        DirStream {
            client: self.clone(),
            inode,
            with_attrs,
            after: Cookie(0),
            page: VecDeque::new(),
            end: false,
        }
    }

    /// The entries of the directory at `path`.
    ///
    /// # Errors
    /// As [`Client::resolve`]; ENOTDIR when it is none.
    pub async fn readdir(&self, path: impl AsRef<Path>, with_attrs: bool) -> Result<DirStream, ClientError> {
        let path = path.as_ref();
        let attr = self.stat(path).await?;
        if attr.kind != FileKind::Dir {
            return Err(ClientError::from(FsError::NotDir).at(path));
        }
        Ok(self.readdir_at(attr.inode, with_attrs))
    }

    /// Removes what is at `path`, a directory with all that is in it. Symlinks are removed, not followed. What
    /// cannot be removed stays, the rest goes on.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub async fn remove_tree(&self, path: impl AsRef<Path>) -> Result<RemovedTree, ClientError> {
        let path = path.as_ref();
        let spot = self.spot(path).await?;
        let found = self.lookup(spot.parent, &spot.name).await.at(path)?;
        let mut removed = RemovedTree::default();
        if found.attr.kind != FileKind::Dir {
            if spot.must_be_dir {
                return Err(ClientError::from(FsError::NotDir).at(path));
            }
            self.unlink_at(spot.parent, spot.name).await.at(path)?;
            removed.file_count = 1;
            return Ok(removed);
        }
        let mut first_error = None;
        // First all that is not a directory, from the top down; then the directories, deepest first.
        let root = Doomed { inode: found.attr.inode, parent: spot.parent, name: spot.name, depth: 0 };
        let mut queue = VecDeque::from([root]);
        let mut running = FuturesUnordered::new();
        let mut by_depth: Vec<Vec<Doomed>> = Vec::new();
        loop {
            while running.len() < DIRS_IN_FLIGHT
                && let Some(dir) = queue.pop_front()
            {
                running.push(self.empty_of_files(dir));
            }
            let Some((dir, subdirs, file_count, error)) = running.next().await else { break };
            removed.file_count += file_count;
            first_error = first_error.or(error);
            queue.extend(subdirs);
            if by_depth.len() <= dir.depth {
                by_depth.resize_with(dir.depth + 1, Vec::new);
            }
            by_depth[dir.depth].push(dir);
        }
        drop(running);
        for dirs in by_depth.into_iter().rev() {
            let mut removals = stream::iter(dirs)
                .map(|dir| async move {
                    let name = dir.name.clone();
                    (name, self.rmdir_at(dir.parent, dir.name).await)
                })
                .buffer_unordered(DIRS_IN_FLIGHT * REMOVALS_IN_FLIGHT);
            while let Some((name, result)) = removals.next().await {
                match result {
                    Ok(()) => removed.dir_count += 1,
                    Err(e) => first_error = first_error.or(Some(e.at(path.join(name.to_string())))),
                }
            }
        }
        match first_error {
            Some(e) => Err(e.at(path)),
            None => Ok(removed),
        }
    }

    /// Removes all of a directory that is not a directory; answers the directory itself and those in it.
    async fn empty_of_files(&self, dir: Doomed) -> (Doomed, Vec<Doomed>, u64, Option<ClientError>) {
        let (mut subdirs, mut file_count, mut error) = (Vec::new(), 0, None);
        let mut after = Cookie(0);
        loop {
            let (entries, end) = match self.readdir_page(dir.inode, after, PAGE, false).await {
                Ok(page) => page,
                Err(e) => return (dir, subdirs, file_count, error.or(Some(e))),
            };
            after = entries.last().map_or(after, |e| e.cookie);
            let end = end || entries.is_empty();
            let (dirs, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.kind == FileKind::Dir);
            subdirs.extend(dirs.into_iter().map(|e| Doomed {
                inode: e.inode,
                parent: dir.inode,
                name: e.name,
                depth: dir.depth + 1,
            }));
            let mut removals = stream::iter(files)
                .map(|e| async move { (e.name.to_string(), self.unlink_at(dir.inode, e.name).await) })
                .buffer_unordered(REMOVALS_IN_FLIGHT);
            while let Some((name, result)) = removals.next().await {
                match result {
                    Ok(_) => file_count += 1,
                    // Somebody else was faster: it is gone all the same.
                    Err(e) if e.is_not_found() => {}
                    Err(e) => error = error.or(Some(e.at(name))),
                }
            }
            drop(removals);
            if end {
                return (dir, subdirs, file_count, error);
            }
        }
    }
}
