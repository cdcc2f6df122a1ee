//! A client's registered life with the cluster: request ids, block ids, handles, and what was not answered yet.
//!
//! `core` sends every update through a [`Ticket`]. Holds: `lowest_unanswered` is exact: a request counts until its answer
//! was taken, or until it certainly had no effect; a call that is dropped while its outcome is unknown goes on
//! counting, and the settling worker resends it until it is answered. Otherwise the cluster would forget a reply that a
//! late resend still needs, and apply it twice.
//! Not here: sending (`exchange`), keep-alives (`workers`).

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::types::{BlockId, Cred, InodeId, LockOwner, RequestId, SessionId, Update, codec};
use crate::wire::message::{MetaRequest, UpdateRequest};

use super::exchange::Watch;

/// Updates in flight at most, those being settled included.
pub(super) const IN_FLIGHT_MAX: usize = 1024;
/// Most ids from the lowest unanswered to the newest. The namespace remembers 4096 replies of a session; the rest is
/// room for what is on its way.
const WINDOW_MAX: u64 = 4096 - IN_FLIGHT_MAX as u64;

/// Which requests were answered.
#[derive(Debug)]
struct Window {
    /// Lowest unanswered id; `answered[0]` stands for it.
    base: u64,
    /// By id from `base` on; the first is false unless empty.
    answered: VecDeque<bool>,
}

impl Window {
    const fn new() -> Self {
        Self { base: 1, answered: VecDeque::new() }
    }

    fn len(&self) -> u64 {
        self.answered.len() as u64
    }

    fn take(&mut self) -> u64 {
        let id = self.base + self.len();
        self.answered.push_back(false);
        id
    }

    /// True if the lowest unanswered id moved.
    fn finish(&mut self, id: u64) -> bool {
        let slot = id.checked_sub(self.base).and_then(|i| usize::try_from(i).ok());
        if let Some(answered) = slot.and_then(|i| self.answered.get_mut(i)) {
            *answered = true;
        }
        let before = self.base;
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
            self.base += 1;
        }
        self.base != before
    }
}

/// Inodes that a session remembers to have denied, the newest ones: 1 MiB. One that is opened was looked up a moment ago;
/// one denied before so many others is gone by then, or was opened through a descriptor (`O_PATH`) of long ago.
const DENIED_MAX: usize = 1 << 15;

/// Inodes of which the session has said that it does not hold them. A "no" is for good.
#[derive(Debug, Default)]
struct Denied {
    inodes: HashSet<InodeId>,
    order: VecDeque<InodeId>,
}

impl Denied {
    fn insert(&mut self, inode: InodeId) {
        if !self.inodes.insert(inode) {
            return;
        }
        self.order.push_back(inode);
        if self.order.len() > DENIED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.inodes.remove(&oldest);
        }
    }
}

/// What the session holds, and what it is about to.
#[derive(Debug, Default)]
struct Handles {
    denied: Denied,
    /// Handles by inode.
    held: HashMap<InodeId, u32>,
    /// Creates on their way: the inode that one answers is held from then on, and nobody knows yet which it is.
    making: BTreeSet<u64>,
    next_making: u64,
    /// Inodes asked about while creates were on their way, with the first create that began after the question.
    asked: HashMap<InodeId, u64>,
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
    ttl: Duration,
    window: Mutex<Window>,
    slots: Semaphore,
    moved: Notify,
    next_block: AtomicU64,
    handles: Mutex<Handles>,
    /// Who has asked for locks on what: all others need not release any.
    lockers: Mutex<HashSet<(InodeId, LockOwner)>>,
    gone: AtomicBool,
    /// The client had another one before.
    renewed: bool,
}

impl Session {
    /// As granted by the cluster, to a client that had none before, or (`renewed`) had.
    pub(super) fn new(id: SessionId, ttl: Duration, renewed: bool) -> Self {
        Self {
            id,
            ttl,
            window: Mutex::new(Window::new()),
            slots: Semaphore::new(IN_FLIGHT_MAX),
            moved: Notify::new(),
            next_block: AtomicU64::new(1),
            handles: Mutex::default(),
            lockers: Mutex::default(),
            gone: AtomicBool::new(false),
            renewed,
        }
    }

    /// Its id.
    pub(super) const fn id(&self) -> SessionId {
        self.id
    }

    /// The ttl granted.
    pub(super) const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The cluster said that it is over.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Notes that the cluster said so.
    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    /// A block id that was never used.
    pub(super) fn next_block(&self) -> BlockId {
        BlockId { session: self.id, index: self.next_block.fetch_add(1, Ordering::Relaxed) }
    }

    /// A handle on `inode`, until it is dropped.
    pub(super) fn hold(self: &Arc<Self>, inode: InodeId) -> Handle {
        let mut handles = self.handles.lock();
        let count = handles.held.entry(inode).or_insert(0);
        *count += 1;
        // Orphans from before a session are not its business: what the client knew then, it is not asked about now.
        let late = *count == 1 && (self.renewed || handles.denied.inodes.contains(&inode));
        drop(handles);
        Handle { session: self.clone(), inode, late }
    }

    /// Says that a create is on its way, until the guard is dropped: by then what it made is held.
    pub(super) fn making(self: &Arc<Self>) -> Making {
        let mut handles = self.handles.lock();
        let number = handles.next_making;
        handles.next_making += 1;
        handles.making.insert(number);
        drop(handles);
        Making { session: self.clone(), number }
    }

    /// Whether a handle is held on it.
    #[cfg(test)]
    pub(super) fn holds(&self, inode: InodeId) -> bool {
        self.handles.lock().held.contains_key(&inode)
    }

    /// The answer to the cluster's question whether this session holds an orphan. A "no" is for good, so what a create
    /// on its way may have made counts as held: until all creates have ended that had begun before the first question.
    pub(super) fn may_hold(&self, inode: InodeId) -> bool {
        let mut handles = self.handles.lock();
        if handles.held.contains_key(&inode) {
            handles.asked.remove(&inode);
            return true;
        }
        let Some(oldest) = handles.making.first().copied() else {
            handles.asked.remove(&inode);
            handles.denied.insert(inode);
            return false;
        };
        let next = handles.next_making;
        let first_after = *handles.asked.entry(inode).or_insert(next);
        if oldest >= first_after {
            handles.asked.remove(&inode);
            handles.denied.insert(inode);
            return false;
        }
        true
    }

    /// Notes that an owner asks for a lock.
    pub(super) fn note_locker(&self, inode: InodeId, owner: LockOwner) {
        self.lockers.lock().insert((inode, owner));
    }

    /// Whether an owner has asked for a lock on a file and not given up all.
    pub(super) fn has_locker(&self, inode: InodeId, owner: LockOwner) -> bool {
        self.lockers.lock().contains(&(inode, owner))
    }

    /// Notes that an owner has given up all locks on a file.
    pub(super) fn forget_locker(&self, inode: InodeId, owner: LockOwner) {
        self.lockers.lock().remove(&(inode, owner));
    }

    /// Takes the next request id once there is room; with it, the lowest unanswered one.
    async fn take(&self) -> (RequestId, RequestId) {
        let permit = self.slots.acquire().await;
        loop {
            // Registered before looking, so that a wake-up in between is not lost.
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let mut window = self.window.lock();
                if window.len() < WINDOW_MAX || self.is_gone() {
                    let id = RequestId(window.take());
                    // It comes back in `finish`. (The semaphore is never closed, so there is a permit.)
                    if let Ok(permit) = permit {
                        permit.forget();
                    }
                    return (id, RequestId(window.base));
                }
            }
            // Some old request is unanswered while thousands behind it were: `finish` wakes us.
            moved.await;
        }
    }

    /// Requests from the lowest unanswered one on.
    #[cfg(test)]
    pub(super) fn unanswered(&self) -> u64 {
        self.window.lock().len()
    }

    fn finish(&self, request: RequestId) {
        let moved = self.window.lock().finish(request.0);
        self.slots.add_permits(1);
        if moved {
            self.moved.notify_waiters();
        }
    }
}

/// One open of a file: while it lives, an unlinked inode stays.
#[derive(Debug)]
pub(super) struct Handle {
    session: Arc<Session>,
    inode: InodeId,
    late: bool,
}

impl Handle {
    /// The session that holds it.
    pub(super) const fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// On which inode.
    pub(super) const fn inode(&self) -> InodeId {
        self.inode
    }

    /// True if the session may have said that it does not hold the inode: should it be an orphan already, it may be freed.
    pub(super) const fn is_late(&self) -> bool {
        self.late
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut handles = self.session.handles.lock();
        if let Some(count) = handles.held.get_mut(&self.inode) {
            *count -= 1;
            if *count == 0 {
                handles.held.remove(&self.inode);
            }
        }
    }
}

/// A create on its way.
#[derive(Debug)]
pub(super) struct Making {
    session: Arc<Session>,
    number: u64,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.session.handles.lock().making.remove(&self.number);
    }
}

/// What became of a ticket's request so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It certainly had no effect.
    None,
    /// It may have.
    Unknown,
    /// Its answer was taken.
    Answered,
}

/// An update with its request id. However it ends, its id is accounted for.
#[derive(Debug)]
pub(super) struct Ticket {
    session: Arc<Session>,
    request: Option<MetaRequest>,
    id: RequestId,
    outcome: Outcome,
    settle: mpsc::UnboundedSender<Ticket>,
}

impl Ticket {
    /// Takes the next request id of `session` for `update`; waits while too many are in flight. What is dropped with
    /// its outcome unknown goes to `settle` (unbounded, but no longer than [`IN_FLIGHT_MAX`] a session).
    pub(super) async fn take(
        session: &Arc<Session>,
        cred: &Cred,
        update: Update,
        settle: &mpsc::UnboundedSender<Self>,
    ) -> Self {
        let (id, lowest_unanswered) = session.take().await;
        let request = MetaRequest::Update(UpdateRequest {
            session: session.id,
            request: id,
            lowest_unanswered,
            cred: cred.clone(),
            update,
        });
        Self {
            session: session.clone(),
            request: Some(request),
            id,
            outcome: Outcome::None,
            settle: settle.clone(),
        }
    }

    /// The answer was taken.
    pub(super) fn answered(&mut self) {
        self.outcome = Outcome::Answered;
    }

    /// Whose it is.
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Watch for Ticket {
    fn encode(&self) -> Result<Vec<u8>, codec::CodecError> {
        match &self.request {
            Some(request) => codec::encode(request),
            // Taken by `drop` only, after which nothing is sent.
            None => Ok(Vec::new()),
        }
    }

    fn is_update(&self) -> bool {
        true
    }

    fn sending(&mut self) {
        self.outcome = Outcome::Unknown;
    }

    fn not_applied(&mut self) {
        self.outcome = Outcome::None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let request = self.request.take();
        if self.outcome == Outcome::Unknown && !self.session.is_gone() && request.is_some() {
            let again = Self {
                session: self.session.clone(),
                request,
                id: self.id,
                outcome: Outcome::Unknown,
                settle: self.settle.clone(),
            };
            match self.settle.send(again) {
                Ok(()) => return,
                // The worker has ended, and with it the session: nobody will resend.
                Err(mut unsent) => {
                    unsent.0.outcome = Outcome::Answered;
                    return;
                }
            }
        }
        self.session.finish(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Update;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll_once<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn ticket(session: &Arc<Session>, settle: &mpsc::UnboundedSender<Ticket>) -> Option<Ticket> {
        poll_once(Ticket::take(session, &Cred::root(), Update::CloseSession, settle))
    }

    fn lowest(session: &Session) -> u64 {
        session.window.lock().base
    }

    #[test]
    fn the_lowest_unanswered_id_is_exact_whatever_the_order_of_answers() {
        let session = Arc::new(Session::new(SessionId(7), Duration::from_secs(15), false));
        let (settle, _kept) = mpsc::unbounded_channel();
        let mut tickets: Vec<_> = (0..4).map(|_| ticket(&session, &settle).unwrap()).collect();
        assert_eq!(tickets.iter().map(|t| t.id.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        for (position, expected) in [(2, 1), (0, 2), (0, 4), (0, 5)] {
            let mut done = tickets.remove(position);
            done.sending();
            done.answered();
            drop(done);
            assert_eq!(lowest(&session), expected);
        }
    }

    /// A caller that drops its call while the request is on its way must not let the cluster forget the reply:
    /// the resend of another attempt would be applied a second time.
    #[test]
    fn a_dropped_call_counts_as_unanswered_until_it_is_settled() {
        let session = Arc::new(Session::new(SessionId(7), Duration::from_secs(15), false));
        let (settle, mut settling) = mpsc::unbounded_channel();
        let mut dropped = ticket(&session, &settle).unwrap();
        dropped.sending();
        drop(dropped);
        let mut refused = ticket(&session, &settle).unwrap();
        refused.sending();
        refused.not_applied();
        drop(refused);
        assert_eq!(lowest(&session), 1);
        let mut settled = settling.try_recv().unwrap();
        assert!(settling.try_recv().is_err(), "what had no effect needs no settling");
        settled.answered();
        drop(settled);
        assert_eq!(lowest(&session), 3);
    }

    #[test]
    fn in_flight_and_window_are_bounded_and_a_slot_comes_back() {
        let session = Arc::new(Session::new(SessionId(7), Duration::from_secs(15), false));
        let (settle, _kept) = mpsc::unbounded_channel();
        let mut tickets: Vec<_> = (0..IN_FLIGHT_MAX).map(|_| ticket(&session, &settle).unwrap()).collect();
        assert!(ticket(&session, &settle).is_none());
        let first = tickets.remove(0);
        tickets.clear();
        let mut count = 0;
        while let Some(mut next) = ticket(&session, &settle) {
            next.answered();
            count += 1;
        }
        assert_eq!(count, WINDOW_MAX - IN_FLIGHT_MAX as u64);
        drop(first);
        assert!(ticket(&session, &settle).is_some());
    }

    #[test]
    fn handles_are_counted() {
        let session = Arc::new(Session::new(SessionId(7), Duration::from_secs(15), false));
        let first = session.hold(InodeId(3));
        let second = session.hold(InodeId(3));
        drop(first);
        assert!(session.holds(InodeId(3)));
        assert!(!second.is_late());
        drop(second);
        assert!(!session.holds(InodeId(3)));
    }

    /// Looked up, unlinked by another, and only then opened: that is in time until the session has been asked.
    #[test]
    fn an_open_is_late_after_the_session_said_no() {
        let session = Arc::new(Session::new(SessionId(7), Duration::from_secs(15), false));
        assert!(!session.hold(InodeId(3)).is_late());
        assert!(!session.may_hold(InodeId(3)));
        let late = session.hold(InodeId(3));
        assert!(late.is_late());
        assert!(!session.hold(InodeId(4)).is_late());
        // Nobody asks it about orphans that are older than it.
        let renewed = Arc::new(Session::new(SessionId(8), Duration::from_secs(15), true));
        assert!(renewed.hold(InodeId(4)).is_late());
    }

    /// A file that was created here and unlinked elsewhere before the answer came must not be given up; and a session that
    /// always has creates on its way must not keep every orphan.
    #[test]
    fn what_a_create_may_have_made_counts_as_held_until_it_ends() {
        let session = Arc::new(Session::new(SessionId(7), Duration::from_secs(15), false));
        assert!(!session.may_hold(InodeId(3)));
        let first = session.making();
        assert!(session.may_hold(InodeId(3)));
        let second = session.making();
        assert!(session.may_hold(InodeId(3)), "the first may be the one");
        let handle = session.hold(InodeId(4));
        drop(first);
        assert!(!session.may_hold(InodeId(3)), "the second began after the question");
        assert!(session.may_hold(InodeId(4)));
        drop((second, handle));
        assert!(!session.may_hold(InodeId(4)));
    }
}
