//! Reading directories: one query for many entries, kept with the handle until they are read; the next is asked for meanwhile.
//!
//! Holds: an entry has the same cookie every time, so a reader may go on anywhere; a reader that goes back to the start sees
//! the directory as it is then. What it may keep of what it reads is for `listing` to say.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::super::fuse::{Answer, Caller, DirPage, Entry, Errno, Opened};
use super::MountFs;
use super::convert::errno;
use super::listing::{Listing, Read};
use crate::client::{Client, ClientError};
use crate::runtime::{self, Task};
use crate::types::{Access, Cookie, FileKind, InodeId, Name, Seen};

/// Entries asked for at a time: some 150 KiB with their attributes.
const PAGE: u32 = 1000;
/// When so many are left, the next page is asked for.
const LEFT: usize = 500;
/// Cookies of `.` and `..`, which no name has.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// An open directory.
#[derive(Debug)]
pub(super) struct OpenDir {
    inode: InodeId,
    listing: Option<Arc<Listing>>,
    ahead: Mutex<Ahead>,
}

/// An entry.
#[derive(Debug)]
struct Line {
    cookie: Cookie,
    name: Name,
    inode: InodeId,
    kind: FileKind,
    /// With attributes.
    seen: Option<Seen>,
}

/// Entries that follow each other.
#[derive(Debug)]
struct Page {
    read: Read,
    lines: VecDeque<Line>,
    /// Nothing follows them.
    end: bool,
}

/// Entries that were asked for and not read yet.
#[derive(Debug, Default)]
struct Ahead {
    /// Behind this cookie.
    after: u64,
    with_attrs: bool,
    page: Option<Page>,
    /// The page behind that one, on its way, and behind which cookie it begins.
    next: Option<(u64, Task<Result<Page, ClientError>>)>,
}

async fn read_page(
    client: Client,
    inode: InodeId,
    after: u64,
    with_attrs: bool,
    read: Read,
) -> Result<Page, ClientError> {
    let page = if with_attrs {
        client.list_page(inode, Cookie(after), PAGE).await.map(|(entries, end)| {
            let line = |entry: crate::types::Listed| Line {
                cookie: entry.cookie,
                name: entry.name,
                inode: entry.seen.attr.inode,
                kind: entry.seen.attr.kind,
                seen: Some(entry.seen),
            };
            (entries.into_iter().map(line).collect::<VecDeque<_>>(), end)
        })
    } else {
        client.readdir_page(inode, Cookie(after), PAGE, false).await.map(|(entries, end)| {
            let line = |entry: crate::types::DirEntry| Line {
                cookie: entry.cookie,
                name: entry.name,
                inode: entry.inode,
                kind: entry.kind,
                seen: None,
            };
            (entries.into_iter().map(line).collect(), end)
        })
    };
    match page {
        // Removed while it is open: nothing is in it any more.
        Err(e) if e.is_not_found() => Ok(Page { read, lines: VecDeque::new(), end: true }),
        page => page.map(|(lines, end)| Page { read, end: end || lines.is_empty(), lines }),
    }
}

impl MountFs {
    pub(super) async fn opendir(&self, caller: Caller, inode: InodeId) -> Result<Answer, Errno> {
        let way = self.shared.walks.way_to(&caller, inode);
        let attr = self.client_of(&caller).access(inode, Access::READ).await.map_err(|e| errno(&e))?;
        if attr.kind != FileKind::Dir {
            return Err(Errno::NOTDIR);
        }
        let listing = self.shared.listings.begin(&caller, way);
        let handle = self.shared.dirs.insert(OpenDir { inode, listing, ahead: Mutex::new(Ahead::default()) });
        Ok(Answer::Open(Opened { handle, ..Opened::default() }))
    }

    pub(super) fn releasedir(&self, handle: u64) {
        if let Some(listing) = self.shared.dirs.remove(handle).and_then(|dir| dir.listing.clone()) {
            self.shared.listings.end(&listing);
        }
    }

    pub(super) async fn readdir(
        &self,
        handle: u64,
        offset: u64,
        room: u32,
        plus: bool,
    ) -> Result<Answer, Errno> {
        let dir = self.shared.dirs.get(handle).ok_or(Errno::BADF)?;
        let mut page = DirPage::new(room, plus);
        let number = self.number(dir.inode);
        if offset < DOT && !page.push(number, DOT, FileKind::Dir, b".") {
            return Ok(Answer::Directory(page));
        }
        if offset < DOT_DOT {
            // A removed directory has no parent and no entries.
            let parent = match self.parent_number(dir.inode).await {
                Err(e) if e == Errno::NOENT => return Ok(Answer::Directory(DirPage::new(room, plus))),
                other => other?,
            };
            if !page.push(parent, DOT_DOT, FileKind::Dir, b"..") {
                return Ok(Answer::Directory(page));
            }
        }
        let after = offset.max(DOT_DOT);
        let mut ahead = dir.ahead.lock().await;
        // Older attributes would be asked for again, name by name.
        let ttl = self.shared.listings.ttl();
        let is_old = |page: &Page| plus && !ttl.is_zero() && page.read.at.elapsed() > ttl / 2;
        if ahead.after != after
            || offset == 0
            || ahead.with_attrs != plus
            || ahead.page.as_ref().is_some_and(is_old)
        {
            *ahead = Ahead { after, with_attrs: plus, ..Ahead::default() };
        }
        loop {
            let mut current = match ahead.page.take() {
                Some(current) => current,
                None => self.page_behind(&dir, &mut ahead).await.map_err(|e| errno(&e))?,
            };
            self.read_ahead(&dir, &mut ahead, &current);
            while let Some(line) = current.lines.front() {
                if !self.push(&mut page, &dir, current.read, line).await? {
                    ahead.page = Some(current);
                    return Ok(Answer::Directory(page));
                }
                ahead.after = line.cookie.0;
                current.lines.pop_front();
            }
            if current.end {
                ahead.page = Some(current);
                return Ok(Answer::Directory(page));
            }
        }
    }

    /// The page behind what was read so far.
    async fn page_behind(&self, dir: &OpenDir, ahead: &mut Ahead) -> Result<Page, ClientError> {
        match ahead.next.take() {
            // None: the runtime is being taken down.
            Some((after, next)) if after == ahead.after => next.await.unwrap_or(Err(ClientError::Closed)),
            _ => self.read_behind(dir, ahead.after, ahead.with_attrs).await,
        }
    }

    /// Asks for the next page while this one is read.
    fn read_ahead(&self, dir: &OpenDir, ahead: &mut Ahead, current: &Page) {
        if let Some(last) = current.lines.back()
            && !current.end
            && current.lines.len() <= LEFT
            && ahead.next.is_none()
        {
            let after = last.cookie.0;
            let next = self.read_behind(dir, after, ahead.with_attrs);
            ahead.next = Some((after, runtime::spawn("mount-list-ahead", next)));
        }
    }

    fn read_behind(
        &self,
        dir: &OpenDir,
        after: u64,
        with_attrs: bool,
    ) -> impl Future<Output = Result<Page, ClientError>> + Send + 'static {
        let read = Read { at: runtime::now(), mark: self.shared.changes.mark() };
        read_page(self.shared.client.clone(), dir.inode, after, with_attrs, read)
    }

    async fn push(&self, page: &mut DirPage, dir: &OpenDir, read: Read, line: &Line) -> Result<bool, Errno> {
        let Some(seen) = line.seen.as_ref().filter(|_| page.is_plus()) else {
            return Ok(page.push(self.number(line.inode), line.cookie.0, line.kind, line.name.as_bytes()));
        };
        let name = line.name.as_bytes();
        let entry = self.entry(&self.with_own_writes(seen.attr.clone()).await?);
        if !page.fits(name) {
            return Ok(false);
        }
        let ttl = match &dir.listing {
            // Of what is open here, attributes change with every write.
            Some(listing) if self.shared.inodes.get(line.inode).is_none() => {
                let (parent, inode) = (self.number(dir.inode), entry.inode);
                self.shared.listings.keep(listing, read, seen, parent, name, inode)
            }
            _ => super::TTL,
        };
        let entry = Entry { entry_ttl: ttl, attr_ttl: ttl, ..entry };
        Ok(page.push_plus(&entry, line.cookie.0, name))
    }

    async fn parent_number(&self, inode: InodeId) -> Result<u64, Errno> {
        if inode == self.shared.options.root {
            return Ok(self.number(inode));
        }
        let parent = self.shared.client.parent_of(inode).await.map_err(|e| errno(&e))?;
        Ok(self.number(parent.attr.inode))
    }
}
