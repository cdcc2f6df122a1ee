//! The filesystem behind the kernel: each operation becomes calls of the client library.
//!
//! The transport calls [`MountFs::call`]. Reading order: `caller`, `convert`, `open_files`, then a family of operations a file:
//! `names`, `attrs`, `opening`, `data`, `dirs`, `locks`; `behind` is what runs without being asked. `changes`, `walks` and `listing`
//! are what is remembered of names and attributes, and for how long.
//!
//! Holds: no lease is given yet, so each question about names and attributes goes to the cluster, with two exceptions: what one call
//! has read answers the rest of that call (`walks`), and what a program reads of a directory with attributes it may rely on for
//! a moment (`listing`). Data follows close-to-open; the openers on this mount see each other's
//! writes at once. No operation outlives its deadline, save a lock that waits.
//! Not here: permissions, which the cluster decides with the rights of the caller.

mod attrs;
mod behind;
mod caller;
mod changes;
mod convert;
mod data;
mod dirs;
mod listing;
mod locks;
mod names;
mod open_files;
mod opening;
#[cfg(test)]
mod tests;
mod walks;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::client::Client;
use crate::runtime::{self, Handle};
use crate::types::{InodeId, Name};

use super::fuse::{Answer, Errno, Filesystem, Interrupt, Notifier, Op, Request};

use self::changes::{Changes, Changing};
use self::dirs::OpenDir;
use self::listing::Listings;
use self::locks::Endings;
use self::open_files::{Handles, OpenFile, OpenInodes};
use self::walks::Walks;

/// What the kernel may keep of names and attributes, but for those of a listing: nothing.
const TTL: Duration = Duration::ZERO;

/// After a signal that does not kill, an operation gets this long to end by itself: programs get signals all the time (timers,
/// children) and do not expect `mkdir` to fail for it. Longer than the cluster takes to replace a leader or to leave out a
/// data server, 3 s at worst as measured, so that such a program notices neither; one that hangs can be left by then.
const SIGNAL_GRACE: Duration = Duration::from_secs(5);

/// Over the deadline of the client's calls: an operation of several calls ends by then as well.
const DEADLINE_SLACK: Duration = Duration::from_secs(1);

/// How the filesystem behaves.
#[derive(Clone, Debug)]
pub struct FsOptions {
    /// The directory that is the root of the mount.
    pub root: InodeId,
    /// Longest time of an operation.
    pub timeout: Duration,
    /// How old written bytes become before they are sent.
    pub flush_age: Duration,
    /// How long names and attributes may be relied on by who reads a directory with attributes; zero: not at all.
    pub list_ttl: Duration,
    /// The time between two requests of a thread that may belong to one call; zero: none do.
    pub call_window: Duration,
}

/// The filesystem of one mount. Clones are the same one.
#[derive(Clone, Debug)]
pub struct MountFs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    /// Where runs what outlives its request.
    home: Handle,
    options: FsOptions,
    inodes: OpenInodes,
    files: Handles<OpenFile>,
    endings: Endings,
    dirs: Handles<OpenDir>,
    changes: Changes,
    walks: Walks,
    listings: Listings,
}

impl MountFs {
    /// Over a client that is connected with a superuser's rights. To be called in the runtime that the client was made in.
    #[must_use]
    pub fn new(client: Client, options: FsOptions) -> Self {
        let (walks, listings) = (Walks::new(options.call_window), Listings::new(options.list_ttl));
        let shared = Shared {
            client,
            home: Handle::current(),
            options,
            changes: Changes::default(),
            walks,
            listings,
            inodes: OpenInodes::default(),
            files: Handles::default(),
            endings: Endings::default(),
            dirs: Handles::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Names may be kept while a directory is listed: the kernel can be told through `notifier` when that ends.
    pub fn keep_listings(&self, notifier: Notifier) {
        self.shared.listings.enable(notifier);
    }

    /// Its client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Open files and directories.
    #[must_use]
    pub fn open_counts(&self) -> (usize, usize) {
        (self.shared.files.len(), self.shared.dirs.len())
    }

    /// The inode behind a number of the kernel.
    fn inode(&self, number: u64) -> InodeId {
        if number == Request::ROOT { self.shared.options.root } else { InodeId(number) }
    }

    /// The number by which the kernel knows an inode.
    fn number(&self, inode: InodeId) -> u64 {
        if inode == self.shared.options.root { Request::ROOT } else { inode.0 }
    }

    fn dispatch(&self, request: Request) -> BoxFuture<'_, Result<Answer, Errno>> {
        let Request { inode: number, caller, op, .. } = request;
        let inode = self.inode(number);
        match op {
            Op::Lookup { name } => Box::pin(self.lookup(caller, inode, name)),
            Op::Getattr { .. } => Box::pin(self.getattr(caller, inode)),
            Op::Setattr(set) => Box::pin(self.setattr(caller, inode, set)),
            Op::Readlink => Box::pin(self.readlink(inode)),
            Op::Symlink { name, target } => Box::pin(self.symlink(caller, inode, name, target)),
            Op::Mknod { name, mode, umask, rdev } => {
                Box::pin(self.mknod(caller, inode, name, mode, umask, rdev))
            }
            Op::Mkdir { name, mode, umask } => Box::pin(self.mkdir(caller, inode, name, mode, umask)),
            Op::Unlink { name } => Box::pin(self.unlink(caller, inode, name)),
            Op::Rmdir { name } => Box::pin(self.rmdir(caller, inode, name)),
            Op::Rename { name, new_parent, new_name, flags } => {
                Box::pin(self.rename(caller, inode, name, self.inode(new_parent), new_name, flags))
            }
            Op::Link { target, name } => Box::pin(self.link(caller, self.inode(target), inode, name)),
            Op::Open { flags, .. } => Box::pin(self.open(caller, inode, flags)),
            Op::Create { name, mode, umask, flags, .. } => {
                Box::pin(self.create(caller, inode, name, mode, umask, flags))
            }
            Op::Tmpfile { mode, umask, flags } => Box::pin(self.tmpfile(caller, inode, mode, umask, flags)),
            Op::Read { handle, offset, len, .. } => Box::pin(self.read(handle, offset, len)),
            Op::Write { handle, offset, data, flags, from_cache, .. } => {
                Box::pin(self.write(caller, handle, offset, data, flags, from_cache))
            }
            Op::Statfs => Box::pin(self.statfs()),
            Op::Release { handle, flock_owner, .. } => Box::pin(self.release(handle, flock_owner)),
            Op::Fsync { handle, .. } => Box::pin(self.fsync(handle)),
            Op::SetXattr { name, value, mode, .. } => {
                Box::pin(self.setxattr(caller, inode, name, value, mode))
            }
            Op::GetXattr { name, .. } => Box::pin(self.getxattr(caller, inode, name)),
            Op::ListXattr { .. } => Box::pin(self.listxattr(caller, inode)),
            Op::RemoveXattr { name } => Box::pin(self.removexattr(caller, inode, name)),
            Op::Flush { handle, lock_owner } => Box::pin(self.flush(handle, lock_owner)),
            Op::Opendir { .. } => Box::pin(self.opendir(caller, inode)),
            Op::Readdir { handle, offset, room, plus } => Box::pin(self.readdir(handle, offset, room, plus)),
            Op::Releasedir { handle } => {
                self.releasedir(handle);
                Box::pin(std::future::ready(Ok(Answer::Done)))
            }
            // Every change of a directory is durable before it is answered.
            Op::Fsyncdir { .. } | Op::Destroy => Box::pin(std::future::ready(Ok(Answer::Done))),
            Op::Access { mask } => Box::pin(self.access(caller, inode, mask)),
            Op::Fallocate { handle, offset, len, mode } => {
                Box::pin(self.fallocate(handle, offset, len, mode))
            }
            Op::Lseek { handle, offset, seek } => Box::pin(self.lseek(handle, offset, seek)),
            Op::Syncfs => Box::pin(self.syncfs()),
            Op::CopyFileRange { handle, offset, to_handle, to_offset, len, .. } => {
                Box::pin(self.copy_range(caller, (handle, offset), (to_handle, to_offset), len))
            }
            Op::Getlk(call) => Box::pin(self.getlk(call)),
            // One that waits has its own way, without a deadline.
            Op::Setlk(call) | Op::SetlkWait(call) => Box::pin(self.setlk(call)),
        }
    }
}

impl MountFs {
    /// What a request is about to change, noted as changed when it is over.
    fn changing(&self, request: &Request) -> Changing<'_> {
        let inode = self.inode(request.inode);
        let (mut inodes, mut any) = (Vec::new(), false);
        match &request.op {
            Op::Setattr(_)
            | Op::Symlink { .. }
            | Op::Mknod { .. }
            | Op::Mkdir { .. }
            | Op::Create { .. }
            | Op::Tmpfile { .. }
            | Op::Write { .. }
            | Op::Fsync { .. }
            | Op::Flush { .. }
            | Op::Fallocate { .. }
            | Op::SetXattr { .. }
            | Op::RemoveXattr { .. } => inodes.push(inode),
            // It may truncate.
            Op::Open { flags, .. } if flags & opening::flag::TRUNCATE != 0 => inodes.push(inode),
            Op::Link { target, .. } => inodes.extend([inode, self.inode(*target)]),
            Op::Unlink { name } | Op::Rmdir { name } => {
                inodes.push(inode);
                let removed = self.shared.walks.last(&request.caller, inode, name);
                any = removed.is_none();
                inodes.extend(removed);
            }
            // Nobody here knows what was moved and what was replaced.
            Op::Rename { .. } | Op::CopyFileRange { .. } => any = true,
            _ => {}
        }
        Changing { changes: &self.shared.changes, inodes, any }
    }
}

impl Filesystem for MountFs {
    async fn call(&self, request: Request, interrupt: Interrupt) -> Result<Answer, Errno> {
        let pid = request.caller.pid;
        let _changing = self.changing(&request);
        // Those that go on with a walk look at it; any other ends it.
        if !matches!(
            request.op,
            Op::Lookup { .. } | Op::Getattr { .. } | Op::Release { .. } | Op::Releasedir { .. }
        ) {
            self.shared.walks.leave(&request.caller);
        }
        if let Op::SetlkWait(call) = request.op {
            return self.setlk_wait(call, pid, interrupt).await;
        }
        let deadline = runtime::now() + self.shared.options.timeout + DEADLINE_SLACK;
        let mut running = self.dispatch(request);
        // What is dropped here was sent or not; the client sees to it that it takes effect at most once.
        tokio::select! {
            biased;
            answer = &mut running => return answer,
            () = runtime::sleep_until(deadline) => return Err(Errno::TIMEDOUT),
            () = interrupt.interrupted() => {}
        }
        if caller::is_dying(pid) {
            return Err(Errno::INTR);
        }
        tokio::select! {
            biased;
            answer = &mut running => answer,
            () = runtime::sleep_until(deadline.min(runtime::now() + SIGNAL_GRACE)) => Err(Errno::INTR),
            () = caller::dying(pid) => Err(Errno::INTR),
        }
    }

    fn is_brief(&self, op: &Op) -> bool {
        match op {
            Op::Setattr(set) => set.size.is_none(),
            Op::Lookup { .. }
            | Op::Getattr { .. }
            | Op::Readlink
            | Op::Symlink { .. }
            | Op::Mknod { .. }
            | Op::Mkdir { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. }
            | Op::Link { .. }
            | Op::Open { .. }
            | Op::Create { .. }
            | Op::Tmpfile { .. }
            | Op::Statfs
            | Op::SetXattr { .. }
            | Op::GetXattr { .. }
            | Op::ListXattr { .. }
            | Op::RemoveXattr { .. }
            | Op::Access { .. } => true,
            // Blocks, pages of directories and locks.
            _ => false,
        }
    }

    fn forget(&self, _inode: u64, _count: u64) {
        // Inode numbers are never used again, and nothing is kept for those that the kernel knows.
    }
}

/// A name as the namespace has it.
fn name(bytes: &[u8]) -> Result<Name, Errno> {
    Name::new(bytes).map_err(|e| convert::errno(&e.into()))
}
