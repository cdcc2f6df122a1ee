//! Records that share one entry of sled: those whose keys count up, sixteen at a time.
//!
//! sled takes as long for a record of some bytes as for one of a kilobyte. Inodes, blocks and remembered replies are
//! numbered one after the other, so what one batch writes of them stands side by side:
//!
//! ```text
//! records   02 ..1230 -> a    02 ..1231 -> b    02 ..1235 -> c
//! in sled   02 ..1230 -> [0 len a | 1 len b | 5 len c]
//! ```
//!
//! A page stands under the key of the first record that it could hold, so pages and single records are in the order of their
//! records. `engine` reads and writes them. Holds: numbers in a page go up; a page without records is not stored.
//! Not here: checksums (`record`), which cover a page as a whole.

use crate::namespace;

/// The bits of a key's last byte that tell the records of a page apart.
const NUMBER_BITS: u8 = 0x0f;
/// Bytes before each value: its number, its length.
const HEAD_LEN: usize = 5;
/// Longest key of a record in a page.
const KEY_LEN_MAX: usize = 17;

/// The key of a page, or the place of a record in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PageKey {
    bytes: [u8; KEY_LEN_MAX],
    len: u8,
}

impl PageKey {
    /// As sled has it.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Key of record `number` of the page.
    pub(super) fn record(mut self, number: u8) -> Self {
        if let Some(last) = self.bytes[..usize::from(self.len)].last_mut() {
            *last |= number & NUMBER_BITS;
        }
        self
    }
}

/// The first `len` bytes of a key, and its number among those that share a page.
fn split(key: &[u8], len: usize) -> Option<(PageKey, u8)> {
    let mut page = PageKey { bytes: [0; KEY_LEN_MAX], len: u8::try_from(len).ok()? };
    page.bytes.get_mut(..len)?.copy_from_slice(key.get(..len)?);
    let last = page.bytes[..len].last_mut()?;
    let number = *last & NUMBER_BITS;
    *last &= !NUMBER_BITS;
    Some((page, number))
}

/// Where a record stands; none: by itself, under its own key.
pub(super) fn place(key: &[u8]) -> Option<(PageKey, u8)> {
    let len = namespace::counting_key_len(*key.first()?)?;
    if key.len() == len { split(key, len) } else { None }
}

/// The first entry of sled that may hold a record at or behind `key`, if that is not `key` itself.
pub(super) fn first_page(key: &[u8]) -> Option<PageKey> {
    let len = namespace::counting_key_len(*key.first()?)?;
    split(key, len).map(|(page, _)| page)
}

/// The records of a page; none where it makes no sense.
pub(super) struct Records<'a> {
    rest: &'a [u8],
    next: u8,
}

/// Reads a page.
pub(super) fn records(page: &[u8]) -> Records<'_> {
    Records { rest: page, next: 0 }
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<(u8, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.take();
        if record.is_none() {
            self.rest = &[];
        }
        Some(record)
    }
}

impl<'a> Records<'a> {
    fn take(&mut self) -> Option<(u8, &'a [u8])> {
        let (head, rest) = self.rest.split_at_checked(HEAD_LEN)?;
        let (number, len) = head.split_first()?;
        let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
        let (value, rest) = rest.split_at_checked(len)?;
        if *number < self.next || *number > NUMBER_BITS {
            return None;
        }
        self.next = number + 1;
        self.rest = rest;
        Some((*number, value))
    }
}

/// The page with some of its records changed (none: removed); `changes` are in the order of their numbers. None: it makes no sense.
pub(super) fn changed<'a>(
    page: &'a [u8],
    changes: impl IntoIterator<Item = (u8, Option<&'a [u8]>)>,
) -> Option<Vec<u8>> {
    let mut values: [Option<&[u8]>; NUMBER_BITS as usize + 1] = [None; NUMBER_BITS as usize + 1];
    for record in records(page) {
        let (number, value) = record?;
        values[usize::from(number)] = Some(value);
    }
    for (number, value) in changes {
        values[usize::from(number & NUMBER_BITS)] = value;
    }
    let len = values.iter().flatten().map(|value| HEAD_LEN + value.len()).sum();
    let mut out = Vec::with_capacity(len);
    for (number, value) in (0..).zip(values) {
        if let Some(value) = value {
            out.push(number);
            out.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
            out.extend_from_slice(value);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(number: u64) -> Vec<u8> {
        let mut key = vec![2];
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn neighbours_share_a_page_and_others_stand_alone() {
        let (page, number) = place(&inode(0x1235)).unwrap();
        assert_eq!((page.as_bytes(), number), (&inode(0x1230)[..], 5));
        assert_eq!(page.record(5).as_bytes(), inode(0x1235));
        assert_eq!(place(&inode(0x1230)).unwrap().0, page);
        assert_ne!(place(&inode(0x1240)).unwrap().0, page);
        assert_eq!(place(page.as_bytes()), Some((page, 0)));
        let mut longer = inode(7);
        longer.push(0);
        for alone in [&[][..], &[2], &longer, &[3; 17], b"dense"] {
            assert_eq!(place(alone), None);
        }
        assert_eq!(first_page(&longer).unwrap().as_bytes(), inode(0));
        assert_eq!(first_page(&[2, 1]), None, "every page of it begins with those bytes");
    }

    #[test]
    fn a_page_is_what_was_put_into_it() {
        let page = changed(&[], [(3, Some(&b"c"[..])), (1, Some(b"")), (15, Some(b"last"))]).unwrap();
        let page = changed(&page, [(3, None), (0, Some(&b"first"[..]))]).unwrap();
        let read: Vec<_> = records(&page).map(Option::unwrap).collect();
        assert_eq!(read, [(0, &b"first"[..]), (1, b""), (15, b"last")]);
        assert_eq!(changed(&page, [(0, None), (1, None), (15, None)]), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let page = changed(&[], [(1, Some(&b"ab"[..])), (2, Some(b"c"))]).unwrap();
        for len in 1..page.len() {
            if len != HEAD_LEN + 2 {
                assert!(records(&page[..len]).any(|record| record.is_none()), "cut at {len}");
            }
        }
        let swapped = [&page[HEAD_LEN + 2..], &page[..HEAD_LEN + 2]].concat();
        assert_eq!(changed(&swapped, []), None);
        let mut beyond = page;
        beyond[0] = 16;
        assert_eq!(changed(&beyond, []), None);
    }
}
