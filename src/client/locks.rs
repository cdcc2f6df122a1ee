//! Locks of files across all clients: take, wait, give up waiting, release.
//!
//! The state of all locks is the namespace's; a request that waits is in its queue, and this client asks until its turn
//! comes, one server after the other if need be. Holds: a call that is dropped or interrupted leaves no lock behind
//! that nobody knows of: its place in the queue is cancelled, and what was granted meanwhile is released.
//! Not here: who conflicts with whom (`namespace`). Locks end with the session.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::runtime;
use crate::types::{
    CancelLock, Cred, FsError, HeldLock, InodeId, Lock, LockOwner, LockRange, Query, QueryReply, RequestId,
    SessionId, Unlock, Update, UpdateReply,
};

use super::core::Core;
use super::session::Session;
use super::{Client, ClientError};

/// Least time between two questions whether the lock is held now: the server waits with its answer, so that most need one.
const ASK_PAUSE: Duration = Duration::from_millis(20);
/// Pause after a question that nobody answered.
const FAILED_PAUSE: Duration = Duration::from_millis(500);

/// A request for a lock and whoever waits for it.
struct Request {
    core: Arc<Core>,
    session: Arc<Session>,
    cred: Arc<Cred>,
    lock: Lock,
}

type Answer = Result<(), ClientError>;

impl Request {
    async fn update(&self, update: Update) -> Result<UpdateReply, ClientError> {
        self.core.update_for_sure(&self.session, &self.cred, update).await
    }

    async fn run(&self, interrupted: oneshot::Receiver<()>) -> Answer {
        let request = match self.update(Update::Lock(self.lock)).await? {
            UpdateReply::Locked => return Ok(()),
            UpdateReply::LockQueued { request } => request,
            other => return Err(ClientError::Protocol(format!("{other:?} to Lock"))),
        };
        tokio::select! {
            // Asking changes nothing: a question that is dropped loses nothing.
            answer = self.granted(request) => return answer,
            // Sent by who waits, or dropped with him.
            _ = interrupted => {}
        }
        let cancel = CancelLock { inode: self.lock.inode, request };
        match self.update(Update::CancelLock(cancel)).await? {
            UpdateReply::Done => Err(FsError::Interrupted.into()),
            UpdateReply::Locked => Ok(()),
            other => Err(ClientError::Protocol(format!("{other:?} to CancelLock"))),
        }
    }

    /// Waits until the request waits no more.
    async fn granted(&self, request: RequestId) -> Answer {
        let session = self.session.id();
        loop {
            let asked = runtime::now();
            let query = Query::LockWaits { inode: self.lock.inode, session, request };
            match self.core.query(&self.cred, query).await {
                Ok(QueryReply::Waits(true)) => runtime::sleep_until(asked + ASK_PAUSE).await,
                Ok(QueryReply::Waits(false)) => return Ok(()),
                Ok(other) => return Err(ClientError::Protocol(format!("{other:?} to LockWaits"))),
                Err(ClientError::Fs(FsError::SessionExpired)) => {
                    self.session.set_gone();
                    return Err(ClientError::SessionExpired { session });
                }
                Err(ClientError::Rpc { .. }) if self.session.is_gone() => {
                    return Err(ClientError::SessionExpired { session });
                }
                Err(ClientError::Rpc { last, .. }) => {
                    tracing::debug!(error = %last, inode = self.lock.inode.0, "no word about a lock yet");
                    runtime::sleep(FAILED_PAUSE).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Gives back what was granted to nobody.
    async fn give_back(&self) {
        let Lock { inode, owner, range, .. } = self.lock;
        if let Err(error) = self.update(Update::Unlock(Unlock { inode, owner, range })).await {
            tracing::debug!(%error, inode = inode.0, "a lock that nobody waits for ends with its session");
        }
    }
}

/// The side of the caller. Dropped before the answer was taken, it sees to it that a grant is given back.
struct Waiter {
    request: Arc<Request>,
    answer: oneshot::Receiver<Answer>,
    interrupt: Option<oneshot::Sender<()>>,
}

impl Waiter {
    fn start(request: Request) -> Self {
        let request = Arc::new(request);
        let (interrupt, interrupted) = oneshot::channel();
        let (told, answer) = oneshot::channel();
        let running = request.clone();
        // It ends by itself: with the answer, with the session, or soon after its waiter is dropped.
        runtime::spawn("client-lock", async move {
            let answer = running.run(interrupted).await;
            if let Err(Ok(())) = told.send(answer) {
                running.give_back().await;
            }
        })
        .detach();
        Self { request, answer, interrupt: Some(interrupt) }
    }

    fn interrupt(&mut self) {
        if let Some(interrupt) = self.interrupt.take() {
            // It has ended already: its answer is there.
            let _ = interrupt.send(());
        }
    }

    async fn answer(&mut self) -> Answer {
        // Err: its runtime is being taken down.
        (&mut self.answer).await.unwrap_or(Err(ClientError::Closed))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(())) = self.answer.try_recv() {
            let request = self.request.clone();
            runtime::spawn("client-lock", async move { request.give_back().await }).detach();
        }
    }
}

impl Client {
    /// Takes a lock; with `lock.wait`, waits for it without an end. To be interrupted, use [`Client::lock_unless`]: of a call that
    /// is dropped, a lock granted meanwhile is released in the background, and with it what its owner had locked there.
    ///
    /// # Errors
    /// As `fcntl(2)` and `flock(2)`: EAGAIN when others hold it, EDEADLK, ENOLCK.
    pub async fn lock(&self, lock: Lock) -> Result<(), ClientError> {
        self.lock_unless(lock, std::future::pending()).await
    }

    /// As [`Client::lock`], until `interrupted` is ready: then the request leaves the queue, unless it was granted meanwhile.
    ///
    /// # Errors
    /// As there; EINTR when it was interrupted and is not held.
    pub async fn lock_unless(
        &self,
        lock: Lock,
        interrupted: impl Future<Output = ()>,
    ) -> Result<(), ClientError> {
        let session = self.core.session(self.core.deadline()).await?;
        session.note_locker(lock.inode, lock.owner);
        let cred = self.cred.clone();
        let mut waiter = Waiter::start(Request { core: self.core.clone(), session, cred, lock });
        tokio::select! {
            biased;
            // Not lost if the other branch is first: it is waited for again.
            answer = waiter.answer() => return answer,
            () = interrupted => {}
        }
        waiter.interrupt();
        waiter.answer().await
    }

    /// Gives up what an owner has locked within a range. No update where this client has locked nothing for it.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn unlock(&self, unlock: Unlock) -> Result<(), ClientError> {
        let Some(session) = self.core.live_session() else { return Ok(()) };
        if !session.has_locker(unlock.inode, unlock.owner) {
            return Ok(());
        }
        self.core.update_for_sure(&session, &self.cred, Update::Unlock(unlock)).await.map(drop)
    }

    /// Gives up all that an owner has locked on a file: a process or an open file has closed it. Free of charge for those
    /// that never locked it.
    ///
    /// # Errors
    /// When no server answers; locks end with the session at the latest.
    pub async fn release_owner(&self, inode: InodeId, owner: LockOwner) -> Result<(), ClientError> {
        let Some(session) = self.core.live_session() else { return Ok(()) };
        if !session.has_locker(inode, owner) {
            return Ok(());
        }
        let unlock = Unlock { inode, owner, range: LockRange::WHOLE };
        self.core.update_for_sure(&session, &self.cred, Update::Unlock(unlock)).await?;
        session.forget_locker(inode, owner);
        Ok(())
    }

    /// The first lock in the way of this one (`F_GETLK`); none if it could be had.
    ///
    /// # Errors
    /// ESTALE when the file is gone.
    pub async fn test_lock(&self, lock: Lock) -> Result<Option<HeldLock>, ClientError> {
        let session = self.session_id().unwrap_or(SessionId(0));
        match self.core.query(&self.cred, Query::TestLock { session, lock }).await? {
            QueryReply::Conflict(held) => Ok(held),
            other => Err(ClientError::Protocol(format!("{other:?} to TestLock"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::testing::{Fake, Fault};
    use super::*;
    use crate::types::{LockKind, Name, ROOT_INODE};

    const BOB: LockOwner = LockOwner { kind: LockKind::Posix, id: 7 };

    fn write(inode: InodeId, wait: bool) -> Lock {
        Lock { inode, owner: BOB, pid: 3, range: LockRange { first: 0, last: 9 }, write: true, wait }
    }

    async fn file(client: &Client) -> InodeId {
        client.create_at(ROOT_INODE, Name::new("a").unwrap(), 0o644, true).await.unwrap().0.inode
    }

    /// Polls until `client` sees `held`.
    async fn sees(client: &Client, inode: InodeId, held: bool) {
        let stranger = Lock { owner: LockOwner { id: 99, ..BOB }, ..write(inode, false) };
        while client.test_lock(stranger).await.unwrap().is_some() != held {
            runtime::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_waiting_client_gets_the_lock_when_it_is_released() {
        let fake = Fake::start(3, 0).await;
        let (one, two) = (fake.client().await, fake.client().await);
        let inode = file(&one).await;
        one.lock(write(inode, false)).await.unwrap();
        assert_eq!(two.lock(write(inode, false)).await.unwrap_err().errno(), 11);
        assert_eq!(two.test_lock(write(inode, false)).await.unwrap().map(|held| held.pid), Some(3));
        let waiting = tokio::spawn({
            let two = two.clone();
            async move { two.lock(write(inode, true)).await }
        });
        fake.meta[0].set(Fault::Silent);
        one.release_owner(inode, BOB).await.unwrap();
        waiting.await.unwrap().unwrap();
        // A close is not repeated for long, and the fake lets no session expire.
        fake.meta[0].set(Fault::None);
        let held = one.test_lock(write(inode, false)).await.unwrap().unwrap();
        assert_eq!(Some(held.session), two.session_id());
        let before = fake.world.update_count.load(Ordering::Relaxed);
        one.release_owner(inode, BOB).await.unwrap();
        assert_eq!(fake.world.update_count.load(Ordering::Relaxed), before, "there is nothing to release");
        two.close().await;
        sees(&one, inode, false).await;
        assert_eq!(fake.violations(), Vec::<String>::new());
        one.close().await;
    }

    #[tokio::test]
    async fn an_interrupted_or_dropped_wait_leaves_nothing_behind() {
        let fake = Fake::start(1, 0).await;
        let (one, two) = (fake.client().await, fake.client().await);
        let inode = file(&one).await;
        one.lock(write(inode, false)).await.unwrap();
        let soon = runtime::sleep(Duration::from_millis(50));
        assert_eq!(two.lock_unless(write(inode, true), soon).await.unwrap_err().errno(), 4);
        let dropped = runtime::timeout(Duration::from_millis(50), two.lock(write(inode, true))).await;
        assert!(dropped.is_err());
        one.release_owner(inode, BOB).await.unwrap();
        sees(&one, inode, false).await;
        assert_eq!(fake.violations(), Vec::<String>::new());
        // An interruption that comes when the lock is held already: it stays.
        two.lock_unless(write(inode, true), async {}).await.map_or_else(|e| assert_eq!(e.errno(), 4), drop);
        one.close().await;
        two.close().await;
    }

    #[tokio::test]
    async fn locks_end_with_the_session() {
        let fake = Fake::start(1, 0).await;
        let (one, two) = (fake.client().await, fake.client().await);
        let inode = file(&one).await;
        one.lock(write(inode, false)).await.unwrap();
        let session = one.session_id().unwrap();
        let waiting = tokio::spawn({
            let two = two.clone();
            async move { two.lock(write(inode, true)).await }
        });
        fake.world.apply(crate::namespace::Op::ExpireSessions(vec![session])).unwrap();
        waiting.await.unwrap().unwrap();
        two.close().await;
        one.close().await;
    }
}
