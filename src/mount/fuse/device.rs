//! `/dev/fuse`: reading requests, writing answers and notifications.
//!
//! Each reader thread has a descriptor of its own (the kernel keeps a list of requests in flight for each, so they do
//! not meet at one lock) and a buffer that it uses again and again. It serves whatever comes: with rings in place
//! that is FORGET and INTERRUPT.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{self, notify};
use super::encode::Encoded;
use super::filesystem::{Errno, Filesystem};
use super::notify::Notification;
use super::serve::{Server, Sink};

/// Where the kernel offers the protocol.
pub const DEVICE: &str = "/dev/fuse";

/// Room for a request beside the data of a write. The kernel refuses to read into less than its headers need, and
/// two names and an ACL fit as well.
const HEADERS_LEN: usize = 16 << 10;

/// Pieces in one `writev(2)`: what Linux takes (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

/// An open `/dev/fuse`. Clones are the same descriptor.
#[derive(Clone, Debug)]
pub struct Device(Arc<OwnedFd>);

impl Device {
    /// Opens it; to be handed to `mount(2)`.
    pub fn open() -> Result<Self, Errno> {
        let fd = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(Arc::new(fd)))
    }

    /// One that was opened by somebody else.
    pub fn of(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// A descriptor of its own for the same mount. Answers go where their requests came from.
    pub fn another(&self) -> Result<Self, Errno> {
        let device = Self::open()?;
        super::sys::clone_device(&device.0, &self.0)?;
        Ok(device)
    }

    /// The next request as bytes appended to `buffer`, which is empty; waits for it. `None`: the mount is gone.
    pub fn read(&self, buffer: &mut Vec<u8>) -> Result<Option<()>, Errno> {
        loop {
            match rustix::io::read(&*self.0, spare_capacity(buffer)) {
                Ok(_) => return Ok(Some(())),
                // ENOENT: the request was taken back (its caller died) while it was being copied.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(Errno::NODEV | Errno::CONNABORTED | Errno::NOTCONN) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Answers a request.
    pub fn answer(&self, unique: u64, answer: Result<Encoded, Errno>) {
        let (error, encoded) = match answer {
            Ok(encoded) => (0, encoded),
            Err(errno) => (-errno.raw_os_error(), Encoded::default()),
        };
        match self.write(unique, error, encoded.pieces()) {
            // The caller has gone and its request with it, or the mount is gone.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED | Errno::NOTCONN) => {}
            Err(e) if error == 0 => {
                // The kernel would wait for ever.
                tracing::error!(unique, len = encoded.len(), error = %e, "the kernel refused an answer");
                let _ = self.write(unique, -Errno::IO.raw_os_error(), std::iter::empty());
            }
            Err(e) => tracing::error!(unique, error = %e, "the kernel refused an answer"),
        }
    }

    /// Sends a notification.
    pub fn notify(&self, notification: &Notification) -> Result<(), Errno> {
        let name_len = |name: &Bytes| u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG);
        match notification {
            Notification::Inode { inode, pages } => {
                // A negative offset leaves pages alone.
                let (offset, len) = pages.map_or((-1, 0), |(offset, len)| {
                    (i64::try_from(offset).unwrap_or(i64::MAX), i64::try_from(len).unwrap_or(0))
                });
                let head = abi::InvalInodeOut { inode: *inode, offset, len };
                self.write(0, notify::INVAL_INODE, [head.as_bytes()].into_iter())
            }
            Notification::Entry { parent, name } => {
                let head = abi::InvalEntryOut { parent: *parent, name_len: name_len(name)?, flags: 0 };
                self.write(0, notify::INVAL_ENTRY, [head.as_bytes(), name, b"\0"].into_iter())
            }
            Notification::Expired { parent, name } => {
                let flags = notify::EXPIRE_ONLY;
                let head = abi::InvalEntryOut { parent: *parent, name_len: name_len(name)?, flags };
                self.write(0, notify::INVAL_ENTRY, [head.as_bytes(), name, b"\0"].into_iter())
            }
            Notification::Deleted { parent, inode, name } => {
                let name_len = name_len(name)?;
                let head = abi::DeleteOut { parent: *parent, child: *inode, name_len, padding: 0 };
                self.write(0, notify::DELETE, [head.as_bytes(), name, b"\0"].into_iter())
            }
        }
    }

    fn write<'a>(
        &self,
        unique: u64,
        error: i32,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Errno> {
        let mut header = abi::OutHeader { len: 0, error, unique };
        let pieces: Vec<&[u8]> = pieces.collect();
        let len = size_of_val(&header) + pieces.iter().map(|piece| piece.len()).sum::<usize>();
        header.len = u32::try_from(len).map_err(|_| Errno::INVAL)?;
        // More pieces than the call takes are made one.
        let joined = if pieces.len() < PIECES_MAX { Vec::new() } else { pieces.concat() };
        let mut slices = vec![IoSlice::new(header.as_bytes())];
        if joined.is_empty() {
            slices.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
        } else {
            slices.push(IoSlice::new(&joined));
        }
        rustix::io::writev(self.0.as_fd(), &slices)?;
        Ok(())
    }

    /// The descriptor, for `mount(2)` and for rings.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// The answer goes back through the descriptor that the request came from.
impl Sink for Device {
    fn send(self, unique: u64, answer: Result<Encoded, Errno>) {
        self.answer(unique, answer);
    }

    /// A waiting request takes nothing but memory.
    fn may_wait(&mut self) -> bool {
        true
    }
}

/// A buffer that takes the longest request.
pub fn buffer(io_len_max: u32) -> Vec<u8> {
    Vec::with_capacity(io_len_max as usize + HEADERS_LEN)
}

/// Reads and serves requests until the mount is gone.
pub fn serve_all<F: Filesystem>(device: &Device, server: &Server<F>) {
    let mut requests = buffer(server.limits.io_len_max);
    loop {
        requests.clear();
        match device.read(&mut requests) {
            Ok(Some(())) => {}
            Ok(None) => return,
            Err(e) => {
                tracing::error!(error = %e, "reading /dev/fuse failed: this reader ends");
                return;
            }
        }
        let Ok((header, body)) = abi::InHeader::read_from_prefix(&requests) else {
            tracing::error!(len = requests.len(), "the kernel sent less than a header");
            continue;
        };
        if server.control(&header, body) {
            continue;
        }
        let body = if requests.len() > requests.capacity() / 2 {
            // A large write: its bytes go on as they are, and the next request gets a new buffer.
            let whole = std::mem::replace(&mut requests, buffer(server.limits.io_len_max));
            Bytes::from(whole).slice(size_of::<abi::InHeader>()..)
        } else {
            Bytes::copy_from_slice(body)
        };
        server.serve(&header, body, device.clone());
    }
}
