//! A page of a directory, built entry by entry up to the room that the kernel has.
//!
//! ```text
//! plain: | inode 8 | cookie 8 | name len 4 | type 4 | name, padded to 8 |
//! plus:  | entry with attributes 128 | a plain one |
//! ```

use super::abi;
use super::answer::Entry;
use super::encode::entry_out;
use crate::types::FileKind;

/// A page of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirPage {
    bytes: Vec<u8>,
    room: usize,
    plus: bool,
}

impl DirPage {
    /// An empty page of at most `room` bytes; `room` and `plus` are those of the request.
    #[must_use]
    pub fn new(room: u32, plus: bool) -> Self {
        let room = room as usize;
        // A page of the kernel is one or a few memory pages; a larger room is filled as needed.
        Self { bytes: Vec::with_capacity(room.min(64 << 10)), room, plus }
    }

    /// Adds an entry without attributes. `cookie` is where a reader goes on behind it: not 0, and the same every
    /// time. False: the page is full and the entry is not in it. In a page with attributes it tells the kernel
    /// name, number and type alone, and counts no lookup: right for `.` and `..`.
    #[must_use]
    pub fn push(&mut self, inode: u64, cookie: u64, kind: FileKind, name: &[u8]) -> bool {
        if !self.fits(name) {
            return false;
        }
        if self.plus {
            self.bytes.extend_from_slice(&[0; size_of::<abi::EntryOut>()]);
        }
        self.push_dirent(inode, cookie, kind, name);
        true
    }

    /// Adds an entry with attributes, which counts as a lookup of `entry.inode`. Only for a page with attributes
    /// (of another it drops them). False: the page is full, the entry is not in it and counts nothing.
    #[must_use]
    pub fn push_plus(&mut self, entry: &Entry, cookie: u64, name: &[u8]) -> bool {
        if !self.fits(name) {
            return false;
        }
        if self.plus {
            self.bytes.extend_from_slice(zerocopy::IntoBytes::as_bytes(&entry_out(entry)));
        }
        self.push_dirent(entry.attr.inode, cookie, entry.attr.kind, name);
        true
    }

    /// True while nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// True if it wants attributes.
    #[must_use]
    pub fn is_plus(&self) -> bool {
        self.plus
    }

    /// The bytes for the kernel.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// True if there is room for an entry of this name.
    #[must_use]
    pub fn fits(&self, name: &[u8]) -> bool {
        let head = if self.plus { size_of::<abi::EntryOut>() } else { 0 };
        let len = head + size_of::<abi::Dirent>() + name.len().next_multiple_of(8);
        self.bytes.len() + len <= self.room
    }

    fn push_dirent(&mut self, inode: u64, cookie: u64, kind: FileKind, name: &[u8]) {
        let head = abi::Dirent {
            inode,
            cookie,
            // A name that fits into the room fits into 32 bits.
            name_len: u32::try_from(name.len()).unwrap_or(u32::MAX),
            kind: kind.mode_type() >> 12,
        };
        self.bytes.extend_from_slice(zerocopy::IntoBytes::as_bytes(&head));
        self.bytes.extend_from_slice(name);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_its_room_ends() {
        let mut page = DirPage::new(100, false);
        assert!(page.push(7, 1, FileKind::Dir, b"."));
        assert!(page.push(8, 2, FileKind::File, b"twelve bytes"));
        assert!(!page.push(9, 3, FileKind::File, b"these seventeen b"), "32 + 40 + 48 are too many");
        assert_eq!(page.into_bytes().len(), 32 + 40);
        assert!(!DirPage::new(23, false).push(1, 1, FileKind::File, b"x"));
        assert!(!DirPage::new(159, true).push(1, 1, FileKind::File, b"x"));
        assert!(DirPage::new(160, true).push(1, 1, FileKind::File, b"x"));
    }
}
