//! Answers as the kernel wants them.
//!
//! Called by both transports once a handler is done. Holds: an answer that does not belong to its request, or is
//! longer than the kernel has room for, becomes an error; the kernel never sees one half.

use std::time::Duration;

use bytes::Bytes;
use zerocopy::IntoBytes;

use super::abi::{self, open};
use super::answer::{Answer, Attr, Entry, OpenFlags, Opened};
use super::filesystem::Errno;
use super::op::{Lock, LockKind};
use super::parse::Expected;
use crate::types::{FileKind, Timestamp};

/// Bytes of an answer behind its header: a short head, then data that is not copied.
#[derive(Debug, Default)]
pub struct Encoded {
    head: Vec<u8>,
    data: Vec<Bytes>,
}

impl Encoded {
    /// One structure.
    pub fn head(layout: &(impl IntoBytes + zerocopy::Immutable)) -> Self {
        Self { head: layout.as_bytes().to_vec(), data: Vec::new() }
    }

    fn data(data: Vec<Bytes>) -> Self {
        Self { head: Vec::new(), data }
    }

    /// How many bytes it is.
    pub fn len(&self) -> usize {
        self.head.len() + self.data.iter().map(Bytes::len).sum::<usize>()
    }

    /// Its pieces in order, none empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.head[..])
            .chain(self.data.iter().map(|piece| &piece[..]))
            .filter(|piece| !piece.is_empty())
    }
}

/// The bytes of `answer` to a request that expects `expected`.
///
/// # Errors
/// EIO if the answer is of another kind or too long; ERANGE if the caller has less room than an attribute needs.
pub fn encode(answer: Answer, expected: Expected) -> Result<Encoded, Errno> {
    Ok(match (expected, answer) {
        (Expected::Done, Answer::Done) => Encoded::default(),
        (Expected::Entry, Answer::Entry(entry)) => Encoded::head(&entry_out(&entry)),
        (Expected::Attr, Answer::Attr { attr, ttl }) => {
            let (ttl, ttl_nanos) = (ttl.as_secs(), ttl.subsec_nanos());
            Encoded::head(&abi::AttrOut { ttl, ttl_nanos, padding: 0, attr: attr_out(&attr) })
        }
        (Expected::Statx, Answer::Attr { attr, ttl }) => Encoded::head(&statx_out(&attr, ttl)),
        (Expected::Open, Answer::Open(opened)) => Encoded::head(&open_out(opened)),
        (Expected::Create, Answer::Create(entry, opened)) => {
            let mut encoded = Encoded::head(&entry_out(&entry));
            encoded.head.extend_from_slice(open_out(opened).as_bytes());
            encoded
        }
        (Expected::Data { len_max }, Answer::Data(data)) => fitting(Encoded::data(data), len_max)?,
        (Expected::Written { len }, Answer::Written(size)) if size <= len => {
            Encoded::head(&abi::WriteOut { size, padding: 0 })
        }
        (Expected::Statfs, Answer::Statfs(s)) => Encoded::head(&abi::StatfsOut {
            blocks: s.blocks,
            blocks_free: s.blocks_free,
            blocks_available: s.blocks_available,
            files: s.files,
            files_free: s.files_free,
            block_size: s.block_size,
            name_len: s.name_len_max,
            fragment_size: s.fragment_size,
            padding: 0,
            spare: [0; 6],
        }),
        (Expected::Xattr { room: 0 }, Answer::Xattr(value)) => {
            let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
            Encoded::head(&abi::XattrOut { size, padding: 0 })
        }
        (Expected::Xattr { room }, Answer::Xattr(value)) => {
            if value.len() > room as usize {
                return Err(Errno::RANGE);
            }
            Encoded::data(vec![value])
        }
        (Expected::Lock, Answer::Lock(lock)) => Encoded::head(&lock_out(lock)),
        (Expected::Position, Answer::Position(position)) => Encoded::head(&abi::PositionOut { position }),
        (Expected::Copied, Answer::Copied(count)) => {
            // The kernel was promised no more than it asked for, which fits.
            let size = u32::try_from(count).map_err(|_| Errno::IO)?;
            Encoded::head(&abi::WriteOut { size, padding: 0 })
        }
        (Expected::Copied64, Answer::Copied(position)) => Encoded::head(&abi::PositionOut { position }),
        (Expected::Directory { room, plus }, Answer::Directory(page)) if page.is_plus() == plus => {
            fitting(Encoded::data(vec![page.into_bytes().into()]), room)?
        }
        (expected, answer) => {
            let answer = format!("{answer:?}");
            let answer = answer.split(['(', ' ']).next().unwrap_or_default();
            tracing::error!(?expected, answer, "answer does not belong to its request");
            return Err(Errno::IO);
        }
    })
}

fn fitting(encoded: Encoded, len_max: u32) -> Result<Encoded, Errno> {
    if encoded.len() > len_max as usize {
        tracing::error!(len = encoded.len(), len_max, "answer is longer than was asked for");
        return Err(Errno::IO);
    }
    Ok(encoded)
}

/// An inode under a name.
pub fn entry_out(entry: &Entry) -> abi::EntryOut {
    abi::EntryOut {
        inode: entry.inode,
        generation: entry.generation,
        entry_ttl: entry.entry_ttl.as_secs(),
        attr_ttl: entry.attr_ttl.as_secs(),
        entry_ttl_nanos: entry.entry_ttl.subsec_nanos(),
        attr_ttl_nanos: entry.attr_ttl.subsec_nanos(),
        attr: attr_out(&entry.attr),
    }
}

fn attr_out(attr: &Attr) -> abi::Attr {
    // The kernel reads the seconds back as a signed number.
    let secs = |time: Timestamp| time.secs().cast_unsigned();
    abi::Attr {
        inode: attr.inode,
        size: attr.size,
        blocks: attr.blocks,
        atime: secs(attr.atime),
        mtime: secs(attr.mtime),
        ctime: secs(attr.ctime),
        atime_nanos: attr.atime.nanos(),
        mtime_nanos: attr.mtime.nanos(),
        ctime_nanos: attr.ctime.nanos(),
        mode: mode_out(attr.kind, attr.mode),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: rdev_out(attr.rdev),
        block_size: attr.block_size,
        flags: 0,
    }
}

fn mode_out(kind: FileKind, mode: u32) -> u32 {
    kind.mode_type() | mode & crate::types::MODE_BITS
}

/// The kernel's 32 bits of a device number: minor 8, major 12, minor 12.
fn rdev_out(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The other way: what `makedev` makes of them.
pub fn rdev_in(rdev: u32) -> u64 {
    rustix::fs::makedev((rdev >> 8) & 0xfff, rdev & 0xff | (rdev >> 12) & !0xff)
}

fn statx_out(attr: &Attr, ttl: Duration) -> abi::StatxOut {
    let time = |t: Timestamp| abi::StatxTime { secs: t.secs(), nanos: t.nanos(), padding: 0 };
    /// All that `stat` shows (`STATX_BASIC_STATS`), and `STATX_BTIME`.
    const MASK: u32 = 0xfff;
    let mode = mode_out(attr.kind, attr.mode);
    let stat = abi::Statx {
        mask: MASK,
        block_size: attr.block_size,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: u16::try_from(mode).unwrap_or(0),
        inode: attr.inode,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        btime: time(attr.btime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: rustix::fs::major(attr.rdev),
        rdev_minor: rustix::fs::minor(attr.rdev),
        ..abi::Statx::default()
    };
    abi::StatxOut { ttl: ttl.as_secs(), ttl_nanos: ttl.subsec_nanos(), flags: 0, spare: [0; 2], stat }
}

fn open_out(opened: Opened) -> abi::OpenOut {
    let OpenFlags { direct_io, keep_cache, cache_dir, nonseekable, no_flush, parallel_direct_writes } =
        opened.flags;
    let bits = [
        (direct_io, open::DIRECT_IO),
        (keep_cache, open::KEEP_CACHE),
        (cache_dir, open::CACHE_DIR),
        (nonseekable, open::NONSEEKABLE),
        (no_flush, open::NO_FLUSH),
        (parallel_direct_writes, open::PARALLEL_DIRECT_WRITES),
    ];
    let flags = bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum();
    abi::OpenOut { handle: opened.handle, flags, backing: 0 }
}

fn lock_out(lock: Lock) -> abi::FileLock {
    let kind = match lock.kind {
        LockKind::Shared => 0,
        LockKind::Exclusive => 1,
        LockKind::Unlock => 2,
    };
    abi::FileLock { start: lock.start, end: lock.end, kind, pid: lock.pid }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(answer: Answer, expected: Expected) -> Result<Vec<u8>, Errno> {
        encode(answer, expected).map(|encoded| {
            let bytes = encoded.pieces().collect::<Vec<_>>().concat();
            assert_eq!(bytes.len(), encoded.len());
            bytes
        })
    }

    #[test]
    fn an_attribute_answers_with_its_size_its_value_or_not_at_all() {
        let value = || Answer::Xattr(Bytes::from_static(b"value"));
        assert_eq!(bytes(value(), Expected::Xattr { room: 0 }), Ok(vec![5, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(bytes(value(), Expected::Xattr { room: 5 }), Ok(b"value".to_vec()));
        assert_eq!(bytes(value(), Expected::Xattr { room: 4 }), Err(Errno::RANGE));
    }

    #[test]
    fn an_answer_to_another_question_or_one_too_long_is_an_error() {
        let data =
            || Answer::Data(vec![Bytes::from_static(b"two"), Bytes::new(), Bytes::from_static(b"pieces")]);
        assert_eq!(bytes(data(), Expected::Data { len_max: 9 }), Ok(b"twopieces".to_vec()));
        assert_eq!(bytes(data(), Expected::Data { len_max: 8 }), Err(Errno::IO));
        assert_eq!(bytes(data(), Expected::Done), Err(Errno::IO));
        assert_eq!(bytes(Answer::Written(5), Expected::Written { len: 4 }), Err(Errno::IO));
        assert_eq!(bytes(Answer::Copied(1 << 32), Expected::Copied), Err(Errno::IO));
        assert_eq!(bytes(Answer::Copied(1 << 32), Expected::Copied64).map(|b| b.len()), Ok(8));
    }

    #[test]
    fn device_numbers_and_times_before_1970_survive() {
        for (major, minor) in [(1, 3), (4095, 0), (8, 0xfffff)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(rdev_in(rdev_out(device)), device);
        }
        let time = Timestamp::from_parts(-2, 5);
        let attr = Attr {
            inode: 1,
            kind: FileKind::Dir,
            mode: 0o1777,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        };
        let out = attr_out(&attr);
        assert_eq!((out.mtime.cast_signed(), out.mtime_nanos, out.mode), (-2, 5, 0o41777));
        assert_eq!(statx_out(&attr, Duration::ZERO).stat.btime.secs, -2);
    }
}
