//! One call of a program is many requests of the kernel: `stat("a/b/c")` asks for a, for b in it, for c in that, and for the
//! attributes of c, one after the other. Here the later ones are answered with what was read for the first.
//!
//! ```text
//!   LOOKUP a ──> nothing ahead: ask for a, and for b in it, as the last walk through a went on  ──> one query
//!   LOOKUP b ──> ahead: no query            (c is asked for: no walk has gone on behind it)
//!   GETATTR c ─> what the lookup of c has read: no query
//! ```
//!
//! Holds: an answer is given once, to the thread that asked, as its very next request, within the window after its last
//! answer, and never after a change of this mount. Such a request belongs to the same call, so the answer was read within the
//! call; the exception, a descriptor without an open, stands in docs/consistency.md.
//! Not here: what a program may rely on that lists a directory (`listing`).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::fuse::Caller;
use super::changes::{Changes, Mark};
use crate::runtime::{self, Instant};
use crate::types::{Attr, InodeId, Name, Seen};

/// Threads are spread over so many locks.
const SHARDS: usize = 16;
/// Threads remembered by a shard; when there are more, all of it is forgotten: it is a matter of one call each.
const THREADS_MAX: usize = 512;
/// Directories remembered with the next step behind each; when there are more, all are forgotten, and learned again.
const ONWARD_MAX: usize = 4096;
/// Names asked for at once: deeper paths go on with another question.
const STEPS_MAX: usize = 16;

/// A step: a directory, a name in it.
pub(super) type Step = (InodeId, Name);

/// A question for the first name, and for those that may follow.
#[derive(Debug)]
pub(super) struct Plan {
    parent: InodeId,
    names: Vec<Name>,
    mark: Mark,
}

impl Plan {
    /// What to ask for.
    pub(super) fn names(&self) -> Vec<Name> {
        self.names.clone()
    }
}

/// What was read ahead of its question.
#[derive(Debug)]
struct Ahead {
    step: Step,
    seen: Seen,
    mark: Mark,
}

/// Where a thread is.
#[derive(Debug)]
struct Thread {
    uid: u32,
    gid: u32,
    answered: Instant,
    /// The steps of its walk, and where each led.
    trail: Vec<(Step, InodeId)>,
    ahead: VecDeque<Ahead>,
    /// What its last lookup has read.
    here: Option<(Attr, Mark)>,
}

/// The walks of all threads.
#[derive(Debug)]
pub(super) struct Walks {
    window: Duration,
    threads: [Mutex<HashMap<u32, Thread>>; SHARDS],
    /// Behind a step: the directory it led to, and the next name that a walk went through.
    onward: Mutex<HashMap<Step, Step>>,
}

impl Walks {
    /// With a window of zero, every request is a question of its own.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, threads: std::array::from_fn(|_| Mutex::default()), onward: Mutex::default() }
    }

    fn shard(&self, pid: u32) -> &Mutex<HashMap<u32, Thread>> {
        &self.threads[pid as usize % SHARDS]
    }

    /// True for a thread that can be told from others.
    fn follows(&self, caller: &Caller) -> bool {
        !self.window.is_zero() && caller.pid != 0
    }

    /// What was read ahead for this lookup.
    pub(super) fn take(&self, caller: &Caller, step: &Step, changes: &Changes) -> Option<Seen> {
        if !self.follows(caller) {
            return None;
        }
        let now = runtime::now();
        let mut threads = self.shard(caller.pid).lock();
        let thread = threads.get_mut(&caller.pid)?;
        let next = std::mem::take(&mut thread.ahead);
        let mut next = next.into_iter();
        let ahead = next.next()?;
        let right = ahead.step == *step
            && (thread.uid, thread.gid) == (caller.uid, caller.gid)
            && now.saturating_duration_since(thread.answered) <= self.window
            && changes.is_unchanged(step.0, ahead.mark)
            && changes.is_unchanged(ahead.seen.attr.inode, ahead.mark);
        if !right {
            return None;
        }
        thread.ahead = next.collect();
        thread.answered = now;
        thread.here = Some((ahead.seen.attr.clone(), ahead.mark));
        thread.trail.push((ahead.step, ahead.seen.attr.inode));
        let learned = passed(&thread.trail);
        drop(threads);
        self.learn(learned);
        Some(ahead.seen)
    }

    /// The question for a step that was not read ahead.
    pub(super) fn plan(&self, caller: &Caller, step: Step, changes: &Changes) -> Plan {
        let mark = changes.mark();
        let parent = step.0;
        let mut names = vec![step.1.clone()];
        if self.follows(caller) {
            let onward = self.onward.lock();
            let mut at = &step;
            while names.len() < STEPS_MAX
                && let Some(next) = onward.get(at)
            {
                names.push(next.1.clone());
                at = next;
            }
        }
        Plan { parent, names, mark }
    }

    /// Takes the answers to a plan, one at least; answers the first.
    pub(super) fn found(&self, caller: &Caller, plan: Plan, steps: Vec<Seen>) -> Option<Seen> {
        let mut parent = plan.parent;
        let mut found = plan.names.into_iter().zip(steps).map(|(name, seen)| {
            let step = (std::mem::replace(&mut parent, seen.attr.inode), name);
            Ahead { step, seen, mark: plan.mark }
        });
        let Ahead { step, seen, mark } = found.next()?;
        if !self.follows(caller) {
            return Some(seen);
        }
        let ahead = found.collect();
        let mut threads = self.shard(caller.pid).lock();
        if threads.len() >= THREADS_MAX && !threads.contains_key(&caller.pid) {
            threads.clear();
        }
        let thread = threads.entry(caller.pid).or_insert_with(|| Thread {
            uid: caller.uid,
            gid: caller.gid,
            answered: runtime::now(),
            trail: Vec::new(),
            ahead: VecDeque::new(),
            here: None,
        });
        if thread.trail.len() >= STEPS_MAX || thread.trail.last().is_none_or(|(_, inode)| *inode != step.0) {
            thread.trail.clear();
        }
        (thread.uid, thread.gid) = (caller.uid, caller.gid);
        thread.trail.push((step, seen.attr.inode));
        thread.ahead = ahead;
        thread.here = Some((seen.attr.clone(), mark));
        thread.answered = runtime::now();
        let learned = passed(&thread.trail);
        drop(threads);
        self.learn(learned);
        Some(seen)
    }

    fn learn(&self, learned: Option<(Step, Step)>) {
        let Some((step, next)) = learned else { return };
        let mut onward = self.onward.lock();
        if onward.get(&step) == Some(&next) {
            return;
        }
        if onward.len() >= ONWARD_MAX {
            onward.clear();
        }
        onward.insert(step, next);
    }

    /// The attributes of an inode, if the thread's last request was the lookup that found it.
    pub(super) fn take_attr(&self, caller: &Caller, inode: InodeId, changes: &Changes) -> Option<Attr> {
        if !self.follows(caller) {
            return None;
        }
        let now = runtime::now();
        let mut threads = self.shard(caller.pid).lock();
        let thread = threads.get_mut(&caller.pid)?;
        thread.ahead.clear();
        let (attr, mark) = thread.here.take()?;
        let right = attr.inode == inode
            && (thread.uid, thread.gid) == (caller.uid, caller.gid)
            && now.saturating_duration_since(thread.answered) <= self.window
            && changes.is_unchanged(inode, mark);
        right.then_some(attr)
    }

    /// The thread asks for something else: nothing that was read is answered any more. Its trail stays.
    pub(super) fn leave(&self, caller: &Caller) {
        if let Some(thread) = self.shard(caller.pid).lock().get_mut(&caller.pid) {
            thread.ahead.clear();
            thread.here = None;
        }
    }

    /// What the last lookup of the thread found, if it was this one.
    pub(super) fn last(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Option<InodeId> {
        let threads = self.shard(caller.pid).lock();
        let ((at, last), inode) = threads.get(&caller.pid)?.trail.last()?;
        (*at == parent && last.as_bytes() == name).then_some(*inode)
    }

    /// The steps by which the thread has just come to an inode.
    pub(super) fn way_to(&self, caller: &Caller, inode: InodeId) -> Vec<Step> {
        let threads = self.shard(caller.pid).lock();
        let trail = threads.get(&caller.pid).map_or(&[][..], |thread| &thread.trail);
        match trail.last() {
            Some((_, last)) if *last == inode => trail.iter().map(|(step, _)| step.clone()).collect(),
            _ => Vec::new(),
        }
    }
}

/// What the newest step of a walk shows: that the one before it was passed through, on from the one before that.
fn passed(trail: &[(Step, InodeId)]) -> Option<(Step, Step)> {
    let [.., (first, _), (second, _), _] = trail else { return None };
    Some((first.clone(), second.clone()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::changes::Changing;
    use super::*;
    use crate::types::{FileKind, Timestamp, Version};

    const WINDOW: Duration = Duration::from_secs(60);

    pub(in super::super) fn seen(inode: u64) -> Seen {
        let time = Timestamp::from_parts(1, 0);
        let attr = Attr {
            inode: InodeId(inode),
            kind: FileKind::Dir,
            mode: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            used: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            version: Version(1),
        };
        Seen { attr, bare: true, open: true }
    }

    pub(in super::super) fn step(parent: u64, name: &str) -> Step {
        (InodeId(parent), Name::new(name).unwrap())
    }

    pub(in super::super) fn caller(pid: u32) -> Caller {
        Caller { pid, ..Caller::default() }
    }

    struct World {
        walks: Walks,
        changes: Changes,
        queries: usize,
    }

    impl World {
        fn new(window: Duration) -> Self {
            Self { walks: Walks::new(window), changes: Changes::default(), queries: 0 }
        }

        /// A lookup in a world where `a`, `b`, `c` are 2, 3, 4, each in the one before.
        fn lookup(&mut self, pid: u32, parent: u64, name: &str) -> u64 {
            let (caller, step) = (caller(pid), step(parent, name));
            if let Some(seen) = self.walks.take(&caller, &step, &self.changes) {
                return seen.attr.inode.0;
            }
            self.queries += 1;
            let plan = self.walks.plan(&caller, step, &self.changes);
            let inode = |name: &Name| u64::from(name.as_bytes()[0] - b'a') + 2;
            let steps = plan.names().iter().map(|name| seen(inode(name))).collect();
            self.walks.found(&caller, plan, steps).unwrap().attr.inode.0
        }

        fn walk(&mut self, pid: u32) -> usize {
            let before = self.queries;
            assert_eq!(self.lookup(pid, 1, "a"), 2);
            assert_eq!(self.lookup(pid, 2, "b"), 3);
            assert_eq!(self.lookup(pid, 3, "c"), 4);
            self.queries - before
        }

        fn attr(&self, pid: u32, inode: u64) -> bool {
            self.walks.take_attr(&caller(pid), InodeId(inode), &self.changes).is_some()
        }

        fn change(&self, inode: u64) {
            drop(Changing { changes: &self.changes, inodes: vec![InodeId(inode)], any: false });
        }
    }

    #[test]
    fn a_walk_that_was_walked_before_asks_for_what_it_passes_through_at_once() {
        let mut world = World::new(WINDOW);
        assert_eq!(world.walk(1), 3);
        assert_eq!(world.walk(1), 2, "a and b at once, c alone: nobody went on behind it");
        assert_eq!(world.walk(2), 2, "another thread knows the way too");
        assert!(world.attr(2, 4));
        assert!(!world.attr(2, 4), "once");
        assert!(world.attr(1, 4), "each thread has its own");
    }

    #[test]
    fn only_the_very_next_request_of_the_thread_is_answered_so() {
        let mut world = World::new(WINDOW);
        world.walk(1);
        world.lookup(1, 1, "a");
        world.walks.leave(&caller(1));
        let before = world.queries;
        world.lookup(1, 2, "b");
        assert_eq!(world.queries - before, 1, "another request came in between");
        world.lookup(1, 1, "a");
        assert!(!world.attr(1, 3), "of what was looked up, not of what is ahead");
        world.lookup(1, 1, "a");
        assert!(world.attr(1, 2));
        let before = world.queries;
        world.lookup(1, 2, "b");
        assert_eq!(world.queries - before, 1, "the attributes were asked for: that call is over");
        world.lookup(1, 1, "a");
        let other = Caller { uid: 7, ..caller(1) };
        assert!(world.walks.take(&other, &step(2, "b"), &world.changes).is_none());
    }

    #[test]
    fn a_change_of_this_mount_and_time_end_it() {
        let mut world = World::new(WINDOW);
        world.walk(1);
        world.change(4);
        assert!(!world.attr(1, 4));
        world.walk(1);
        world.lookup(1, 1, "a");
        world.change(3);
        let before = world.queries;
        world.lookup(1, 2, "b");
        assert_eq!(world.queries - before, 1);
        let mut world = World::new(Duration::ZERO);
        world.walk(1);
        assert_eq!(world.walk(1), 3);
        assert!(!world.attr(1, 4));
        assert_eq!(world.walks.way_to(&caller(1), InodeId(4)), []);
    }

    #[test]
    fn the_way_to_a_directory_is_known() {
        let mut world = World::new(WINDOW);
        world.walk(1);
        assert_eq!(world.walks.way_to(&caller(1), InodeId(4)), [step(1, "a"), step(2, "b"), step(3, "c")]);
        assert_eq!(world.walks.way_to(&caller(1), InodeId(3)), []);
        assert_eq!(world.walks.last(&caller(1), InodeId(3), b"c"), Some(InodeId(4)));
        assert_eq!(world.walks.last(&caller(1), InodeId(3), b"d"), None);
    }
}
