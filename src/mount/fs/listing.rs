//! What a program may rely on that reads a directory with attributes, as `ls -l` does: what the page of the directory said.
//!
//! Without it the kernel asks for each name again, and for each directory on the way to it, with every call: a dozen questions a
//! name. So names and attributes of such a page go to the kernel with a short time to live, which ends with the close of the
//! directory: the kernel is told then to ask again.
//!
//! ```text
//!   OPENDIR ── READDIRPLUS: names that may be kept ── stat, getxattr: answered by the kernel, or from `bare` ── RELEASEDIR
//!                                                                                                  expired, one by one <─┘
//! ```
//!
//! Holds: only names of directories that anyone may search are kept, because the kernel checks no permission; no inode that is
//! open here; nothing older than the time to live. What it means for a reader stands in docs/consistency.md and decision 0011.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::fuse::{Caller, Notification, Notifier};
use super::changes::{Changes, Mark};
use super::walks::Step;
use crate::runtime::{self, Instant};
use crate::types::{InodeId, Seen};

/// Names of one directory that the kernel may keep at a time; what is read beyond them it may not. Their notifications take half
/// of the queue.
const NAMES_MAX: usize = super::super::fuse::QUEUE_MAX / 4;

/// Where a page of a directory comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    /// When it was asked for.
    pub(super) at: Instant,
    /// Before it was asked for.
    pub(super) mark: Mark,
}

/// A directory that a thread has open.
#[derive(Debug)]
pub(super) struct Listing {
    pid: u32,
    /// The steps that the thread took to it.
    way: Vec<Step>,
    given: Mutex<Given>,
}

#[derive(Debug, Default)]
struct Given {
    /// Attributes were read until then.
    active_until: Option<Instant>,
    /// What the kernel keeps, in the order in which it ends.
    kept: VecDeque<Kept>,
    /// Inodes without extended attributes.
    bare: HashMap<InodeId, (Instant, Mark)>,
}

#[derive(Debug)]
struct Kept {
    until: Instant,
    parent: u64,
    name: Bytes,
    /// With attributes, of this inode.
    inode: Option<u64>,
}

impl Given {
    /// Notes what the kernel is about to keep; false if it is too much.
    fn note(&mut self, kept: Kept, now: Instant) -> bool {
        while self.kept.front().is_some_and(|first| first.until < now) {
            self.kept.pop_front();
        }
        let room = self.kept.len() < NAMES_MAX;
        if room {
            self.kept.push_back(kept);
        }
        room
    }
}

/// All listings of a mount.
#[derive(Debug, Default)]
pub(super) struct Listings {
    ttl: Duration,
    /// The way to the kernel, once it is known that it takes back what it keeps.
    notifier: OnceLock<Notifier>,
    by_thread: Mutex<HashMap<u32, Vec<Arc<Listing>>>>,
}

impl Listings {
    /// With a ttl of zero, nothing is kept.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, ..Self::default() }
    }

    /// From now on names may be kept.
    pub(super) fn enable(&self, notifier: Notifier) {
        // Once a mount; a second time would change nothing.
        let _ = self.notifier.set(notifier);
    }

    /// How long names may be kept; zero: not at all.
    pub(super) fn ttl(&self) -> Duration {
        if self.notifier.get().is_some() { self.ttl } else { Duration::ZERO }
    }

    /// A thread opens a directory.
    pub(super) fn begin(&self, caller: &Caller, way: Vec<Step>) -> Option<Arc<Listing>> {
        if self.ttl().is_zero() || caller.pid == 0 {
            return None;
        }
        let listing = Arc::new(Listing { pid: caller.pid, way, given: Mutex::default() });
        self.by_thread.lock().entry(caller.pid).or_default().push(listing.clone());
        Some(listing)
    }

    /// The directory is closed: what the kernel keeps of it ends.
    pub(super) fn end(&self, listing: &Arc<Listing>) {
        let mut by_thread = self.by_thread.lock();
        if let Some(listings) = by_thread.get_mut(&listing.pid) {
            listings.retain(|other| !Arc::ptr_eq(other, listing));
            if listings.is_empty() {
                by_thread.remove(&listing.pid);
            }
        }
        drop(by_thread);
        let kept = std::mem::take(&mut *listing.given.lock()).kept;
        let Some(notifier) = self.notifier.get() else { return };
        let now = runtime::now();
        let ends = kept.into_iter().filter(|kept| kept.until >= now);
        // Where the queue is full, its own time ends it.
        notifier.send_all(ends.flat_map(|Kept { parent, name, inode, .. }| {
            let attributes = inode.map(|inode| Notification::Inode { inode, pages: None });
            std::iter::once(Notification::Expired { parent, name }).chain(attributes)
        }));
    }

    fn of(&self, caller: &Caller) -> Vec<Arc<Listing>> {
        self.by_thread.lock().get(&caller.pid).cloned().unwrap_or_default()
    }

    /// How long the kernel may keep an entry of a page; it is about to be told. `parent` and `inode` as it knows them.
    pub(super) fn keep(
        &self,
        listing: &Listing,
        read: Read,
        seen: &Seen,
        parent: u64,
        name: &[u8],
        inode: u64,
    ) -> Duration {
        let now = runtime::now();
        let left = (read.at + self.ttl()).saturating_duration_since(now);
        let mut given = listing.given.lock();
        given.active_until = Some(now + self.ttl());
        if left.is_zero() {
            return left;
        }
        if seen.bare {
            if given.bare.len() >= NAMES_MAX {
                given.bare.retain(|_, (until, _)| *until >= now);
            }
            if given.bare.len() < NAMES_MAX {
                given.bare.insert(seen.attr.inode, (now + left, read.mark));
            }
        }
        let name = Bytes::copy_from_slice(name);
        let kept = Kept { until: now + left, parent, name, inode: Some(inode) };
        if seen.open && given.note(kept, now) { left } else { Duration::ZERO }
    }

    /// How long the kernel may keep a name that its caller has just looked up: a directory on the way to one that it lists.
    pub(super) fn keep_step(&self, caller: &Caller, step: &Step, seen: &Seen, parent: u64) -> Duration {
        let ttl = self.ttl();
        if ttl.is_zero() || !seen.open {
            return Duration::ZERO;
        }
        let now = runtime::now();
        for listing in self.of(caller) {
            let mut given = listing.given.lock();
            if given.active_until.is_none_or(|until| until < now) || !listing.way.contains(step) {
                continue;
            }
            let name = Bytes::copy_from_slice(step.1.as_bytes());
            let kept = Kept { until: now + ttl, parent, name, inode: None };
            return if given.note(kept, now) { ttl } else { Duration::ZERO };
        }
        Duration::ZERO
    }

    /// True if its caller is listing a directory in which the inode had no extended attributes.
    pub(super) fn is_bare(&self, caller: &Caller, inode: InodeId, changes: &Changes) -> bool {
        if self.ttl().is_zero() {
            return false;
        }
        let now = runtime::now();
        self.of(caller).iter().any(|listing| {
            let bare = listing.given.lock().bare.get(&inode).copied();
            bare.is_some_and(|(until, mark)| until >= now && changes.is_unchanged(inode, mark))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::changes::Changing;
    use super::super::walks::tests::{caller, seen, step};
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    struct World {
        listings: Listings,
        notifier: Notifier,
        changes: Changes,
    }

    impl World {
        fn new(ttl: Duration) -> Self {
            let (listings, notifier) = (Listings::new(ttl), Notifier::default());
            listings.enable(notifier.clone());
            Self { listings, notifier, changes: Changes::default() }
        }

        fn read(&self) -> Read {
            Read { at: runtime::now(), mark: self.changes.mark() }
        }

        fn told(&self) -> Vec<Notification> {
            std::iter::from_fn(|| self.notifier.try_next()).collect()
        }
    }

    #[test]
    fn what_was_kept_ends_with_the_close() {
        let world = World::new(TTL);
        let listing = world.listings.begin(&caller(1), vec![step(1, "dir")]).unwrap();
        let keep = |read, seen: &Seen| world.listings.keep(&listing, read, seen, 2, b"file", 9);
        assert!(keep(world.read(), &seen(9)) > TTL / 2);
        let old = Read { at: runtime::now() - TTL, ..world.read() };
        assert_eq!(keep(old, &seen(9)), Duration::ZERO, "as old as it may become");
        assert_eq!(keep(world.read(), &Seen { open: false, ..seen(9) }), Duration::ZERO, "not for everybody");
        assert_eq!(world.listings.keep_step(&caller(1), &step(1, "dir"), &seen(2), 1), TTL);
        assert_eq!(world.told(), []);
        world.listings.end(&listing);
        let told = world.told();
        let expired = |parent, name| Notification::Expired { parent, name: Bytes::from_static(name) };
        let attributes = Notification::Inode { inode: 9, pages: None };
        assert_eq!(told, [expired(2, b"file"), attributes, expired(1, b"dir")]);
    }

    #[test]
    fn steps_are_kept_for_who_lists_what_is_behind_them() {
        let world = World::new(TTL);
        let step = step(1, "dir");
        let kept = |pid, seen: &Seen| world.listings.keep_step(&caller(pid), &step, seen, 1);
        assert_eq!(kept(1, &seen(2)), Duration::ZERO, "nothing is listed");
        let listing = world.listings.begin(&caller(1), vec![step.clone()]).unwrap();
        assert_eq!(kept(1, &seen(2)), Duration::ZERO, "nor read");
        let _ = world.listings.keep(&listing, world.read(), &seen(9), 2, b"file", 9);
        assert_eq!(kept(1, &seen(2)), TTL);
        assert_eq!(kept(1, &Seen { open: false, ..seen(2) }), Duration::ZERO);
        assert_eq!(kept(2, &seen(2)), Duration::ZERO, "by somebody else");
        world.listings.end(&listing);
        assert_eq!(kept(1, &seen(2)), Duration::ZERO, "any more");
    }

    #[test]
    fn who_lists_need_not_ask_for_attributes_that_are_not_there() {
        let world = World::new(TTL);
        let listing = world.listings.begin(&caller(1), vec![]).unwrap();
        let _ = world.listings.keep(&listing, world.read(), &seen(9), 2, b"bare", 9);
        let _ = world.listings.keep(&listing, world.read(), &Seen { bare: false, ..seen(8) }, 2, b"other", 8);
        let bare = |pid, inode| world.listings.is_bare(&caller(pid), InodeId(inode), &world.changes);
        assert!(bare(1, 9) && !bare(1, 8) && !bare(2, 9));
        drop(Changing { changes: &world.changes, inodes: vec![InodeId(9)], any: false });
        assert!(!bare(1, 9), "this mount has changed it");
        let never = World::new(Duration::ZERO);
        assert!(never.listings.begin(&caller(1), vec![]).is_none());
    }
}
