//! Reading directories: one query for many entries, kept with the handle until they are read.
//!
//! Holds: an entry has the same cookie every time, so a reader may go on anywhere; a reader that goes back to the start sees
//! the directory as it is then.

use std::collections::VecDeque;

use tokio::sync::Mutex;

use super::super::fuse::{Answer, Caller, DirPage, Errno, Opened};
use super::MountFs;
use super::convert::errno;
use crate::types::{Access, Cookie, DirEntry, FileKind, InodeId};

/// Entries asked for at a time: some 200 KiB with their attributes.
const PAGE: u32 = 1000;
/// Cookies of `.` and `..`, which no name has.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// An open directory.
#[derive(Debug)]
pub(super) struct OpenDir {
    inode: InodeId,
    ahead: Mutex<Ahead>,
}

/// Entries that were asked for and not read yet.
#[derive(Debug, Default)]
struct Ahead {
    /// Behind this cookie.
    after: u64,
    with_attrs: bool,
    entries: VecDeque<DirEntry>,
    /// Nothing follows them.
    end: bool,
}

impl MountFs {
    pub(super) async fn opendir(&self, caller: Caller, inode: InodeId) -> Result<Answer, Errno> {
        let attr = self.client_of(&caller).access(inode, Access::READ).await.map_err(|e| errno(&e))?;
        if attr.kind != FileKind::Dir {
            return Err(Errno::NOTDIR);
        }
        let handle = self.shared.dirs.insert(OpenDir { inode, ahead: Mutex::new(Ahead::default()) });
        Ok(Answer::Open(Opened { handle, ..Opened::default() }))
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
        let mut after = offset.max(DOT_DOT);
        let mut ahead = dir.ahead.lock().await;
        if ahead.after != after || offset == 0 || ahead.with_attrs != plus {
            *ahead = Ahead { after, with_attrs: plus, ..Ahead::default() };
        }
        loop {
            while let Some(entry) = ahead.entries.front() {
                if !self.push(&mut page, entry).await? {
                    return Ok(Answer::Directory(page));
                }
                after = entry.cookie.0;
                ahead.after = after;
                ahead.entries.pop_front();
            }
            if ahead.end {
                return Ok(Answer::Directory(page));
            }
            let read = self.shared.client.readdir_page(dir.inode, Cookie(after), PAGE, plus).await;
            let (entries, end) = match read {
                Err(e) if e.is_not_found() => (Vec::new(), true),
                other => other.map_err(|e| errno(&e))?,
            };
            ahead.end = end || entries.is_empty();
            ahead.entries = entries.into();
        }
    }

    async fn push(&self, page: &mut DirPage, entry: &DirEntry) -> Result<bool, Errno> {
        Ok(match &entry.found {
            Some(found) if page.is_plus() => {
                let attr = self.with_own_writes(found.attr.clone()).await?;
                page.push_plus(&self.entry(&attr), entry.cookie.0, entry.name.as_bytes())
            }
            _ => page.push(self.number(entry.inode), entry.cookie.0, entry.kind, entry.name.as_bytes()),
        })
    }

    async fn parent_number(&self, inode: InodeId) -> Result<u64, Errno> {
        if inode == self.shared.options.root {
            return Ok(self.number(inode));
        }
        let parent = self.shared.client.parent_of(inode).await.map_err(|e| errno(&e))?;
        Ok(self.number(parent.attr.inode))
    }
}
