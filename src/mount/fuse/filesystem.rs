//! The boundary to the filesystem behind the transport.
//!
//! Implemented by the mount, and by small filesystems in tests; called by both transports.
//! Holds: every request gets exactly one answer, and a handler that waits keeps no other request from being served.

use std::future::Future;

use super::answer::Answer;
use super::interrupt::Interrupt;
use super::op::{Op, Request};

/// A number of errno.h: what a call fails with.
pub type Errno = rustix::io::Errno;

/// A filesystem behind the kernel.
///
/// The first steps of a handler, up to its first wait, may run on a thread of the transport: they must not block.
/// After that it runs on the tokio runtime that the mount was started in, or, where [`Filesystem::is_brief`] says so, on one of
/// that thread alone.
pub trait Filesystem: Send + Sync + 'static {
    /// Answers one request. `interrupt` tells when the caller has been sent a signal; most operations ignore it,
    /// those that wait for others (a lock, a server that is away) should end with EINTR.
    fn call(
        &self,
        request: Request,
        interrupt: Interrupt,
    ) -> impl Future<Output = Result<Answer, Errno>> + Send;

    /// True if the handler of `op` computes no more than it takes to wake another thread, however long it may wait: then the
    /// thread that took the request goes on with it. What it leaves running must not count on that thread, which ends with the
    /// mount.
    fn is_brief(&self, op: &Op) -> bool {
        let _ = op;
        false
    }

    /// The kernel drops `count` of the references that lookups, creates and directory pages gave it to `inode`.
    /// At 0 it knows the inode no more. Not called for what is left at the unmount. Must not block.
    fn forget(&self, inode: u64, count: u64);
}
