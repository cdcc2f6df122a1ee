//! What all clones of a client share: servers, session, cluster map, and the calls that go through them.
//!
//! Every call of the library ends in [`Core::update`], [`Core::query`] or [`Core::request`]. Holds: an update is sent under one
//! request id however often; while a session is gone the next call opens one, once for all callers.
//! Not here: the background workers (`workers`), what the calls mean (`namespace`, `path`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::runtime::{self, Handle, Instant, Tasks};
use crate::types::{
    ClusterMap, Cred, Epoch, FsError, OpenSession, Query, QueryReply, RequestId, SessionId, Update,
    UpdateReply, codec,
};
use crate::wire::Applied;
use crate::wire::message::{MetaReply, MetaRequest, Reading, UpdateRequest};

use super::beside::{Beside, Question};
use super::data_servers::DataServers;
use super::error::ClientError;
use super::exchange::{Patience, Watch, exchange};
use super::options::ClientOptions;
use super::sectors::SectorCache;
use super::servers::MetaServers;
use super::session::{Session, Ticket};

/// Pause before an update is sent again that the session had no room for.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(20);

/// Pause between two rounds for an answer that is waited for without a deadline.
const UNSETTLED_PAUSE: Duration = Duration::from_millis(500);

/// Shared state of a client.
pub(super) struct Core {
    pub(super) options: ClientOptions,
    /// The runtime that the client was made in: calls may come from others.
    pub(super) home: Handle,
    pub(super) servers: MetaServers,
    beside: Beside,
    pub(super) data: DataServers,
    /// Units of [`super::budget`] free for blocks in flight.
    pub(super) budget: Arc<Semaphore>,
    /// Room for blocks that are read ahead of a reader.
    pub(super) ahead: Arc<Semaphore>,
    /// Parts of blocks that were read.
    pub(super) sectors: SectorCache,
    /// Bytes written and not on their way, of all files.
    dirty: AtomicUsize,
    pub(super) tasks: Tasks,
    /// Somebody saw a newer epoch.
    pub(super) map_wanted: Notify,
    /// Somebody found a metadata server failing.
    pub(super) probe_wanted: Notify,
    pub(super) settle: mpsc::UnboundedSender<Ticket>,
    map: RwLock<Arc<ClusterMap>>,
    epoch: AtomicU64,
    session: RwLock<Option<Arc<Session>>>,
    renewing: tokio::sync::Mutex<()>,
    closed: AtomicBool,
}

/// A request without an id: sent as often as needed, because it changes nothing or repeats harmlessly.
struct Plain<'r>(&'r MetaRequest);

impl Watch for Plain<'_> {
    fn encode(&self) -> Result<Vec<u8>, codec::CodecError> {
        codec::encode(self.0)
    }

    fn waits(&self) -> bool {
        matches!(self.0, MetaRequest::Query { query: Query::LockWaits { .. }, .. })
    }
}

impl Core {
    /// Without session and map yet.
    pub(super) fn new(
        servers: MetaServers,
        options: ClientOptions,
        settle: mpsc::UnboundedSender<Ticket>,
    ) -> Self {
        let budget = Arc::new(Semaphore::new(super::budget::units(options.memory_max)));
        Self {
            home: Handle::current(),
            servers,
            beside: Beside::default(),
            data: DataServers::new(options.label.clone()),
            budget,
            ahead: Arc::new(Semaphore::new(super::budget::units(options.read_ahead_max))),
            sectors: SectorCache::new(options.cache_max),
            dirty: AtomicUsize::new(0),
            tasks: Tasks::new(),
            map_wanted: Notify::new(),
            probe_wanted: Notify::new(),
            settle,
            map: RwLock::new(Arc::new(ClusterMap::default())),
            epoch: AtomicU64::new(0),
            session: RwLock::new(None),
            renewing: tokio::sync::Mutex::new(()),
            closed: AtomicBool::new(false),
            options,
        }
    }

    /// The moment a call that begins now has to end.
    pub(super) fn deadline(&self) -> Instant {
        runtime::now() + self.options.call_timeout
    }

    /// The newest map known here.
    pub(super) fn map(&self) -> Arc<ClusterMap> {
        self.map.read().clone()
    }

    /// Its epoch.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    fn saw_epoch(&self, epoch: Epoch) {
        if epoch > self.epoch() {
            self.map_wanted.notify_one();
        }
    }

    /// A file that held `before` dirty bytes holds `now`.
    pub(super) fn count_dirty(&self, before: usize, now: usize) {
        if now >= before {
            self.dirty.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.dirty.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Dirty bytes of all files.
    pub(super) fn dirty_len(&self) -> usize {
        self.dirty.load(Ordering::Relaxed)
    }

    /// All files together hold more dirty bytes than they may.
    pub(super) fn is_dirty_full(&self) -> bool {
        self.dirty_len() > self.options.dirty_max
    }

    /// No call begins any more.
    pub(super) fn set_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn check_open(&self) -> Result<(), ClientError> {
        if self.closed.load(Ordering::Relaxed) { Err(ClientError::Closed) } else { Ok(()) }
    }

    /// Sends a request that may be sent any number of times, until one server answers.
    ///
    /// # Errors
    /// When none does before `deadline`.
    pub(super) async fn request(
        &self,
        request: &MetaRequest,
        patience: Patience,
        deadline: Instant,
    ) -> Result<MetaReply, ClientError> {
        self.check_open()?;
        Ok(self.exchange(deadline, patience, &mut Plain(request)).await?)
    }

    async fn exchange(
        &self,
        deadline: Instant,
        patience: Patience,
        watch: &mut impl Watch,
    ) -> Result<MetaReply, super::exchange::Failure> {
        exchange(&self.servers, deadline, patience, || self.probe_wanted.notify_one(), watch).await
    }

    /// Asks the namespace.
    ///
    /// # Errors
    /// Its answer, or that there was none before the call's deadline.
    pub(super) async fn query(&self, cred: &Cred, query: Query) -> Result<QueryReply, ClientError> {
        self.query_until(cred, query, self.deadline()).await
    }

    /// As [`Core::query`], with the caller's own deadline.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn query_until(
        &self,
        cred: &Cred,
        query: Query,
        deadline: Instant,
    ) -> Result<QueryReply, ClientError> {
        self.check_open()?;
        let question = Question { cred, query, epoch: self.epoch() };
        // Whose answer is to come later has nothing to compare it with.
        if !matches!(question.query, Query::LockWaits { .. }) {
            let beside = self.beside.ask(&self.servers, deadline, &question).await;
            if beside.suspects {
                self.probe_wanted.notify_one();
            }
            if let Some(answer) = beside.answer {
                self.saw_epoch(answer.epoch);
                return Ok(answer.result?);
            }
        }
        let request = question.request(Reading::Exact);
        match self.request(&request, Patience::Short, deadline).await? {
            MetaReply::Answered { result, epoch, .. } => {
                self.saw_epoch(epoch);
                Ok(result?)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Changes the namespace, exactly once however often it has to be sent.
    ///
    /// # Errors
    /// Its answer; that the session is gone; or that the outcome is unknown after the call's deadline.
    pub(super) async fn update(&self, cred: &Cred, update: Update) -> Result<UpdateReply, ClientError> {
        let deadline = self.deadline();
        let session = self.session(deadline).await?;
        self.update_in(&session, cred, update, deadline).await
    }

    /// As [`Core::update`], in the session that the update depends on (its blocks, its handles).
    ///
    /// # Errors
    /// As there.
    pub(super) async fn update_in(
        &self,
        session: &Arc<Session>,
        cred: &Cred,
        update: Update,
        deadline: Instant,
    ) -> Result<UpdateReply, ClientError> {
        self.check_open()?;
        if session.is_gone() {
            return Err(ClientError::SessionExpired { session: session.id() });
        }
        let mut ticket = Ticket::take(session, cred, update, &self.settle).await;
        self.run(&mut ticket, deadline).await
    }

    /// As [`Core::update_in`], without a deadline: comes back only with an answer, or when the session is gone.
    ///
    /// # Errors
    /// The answer of the namespace, or that it will never be known.
    pub(super) async fn update_for_sure(
        &self,
        session: &Arc<Session>,
        cred: &Cred,
        update: Update,
    ) -> Result<UpdateReply, ClientError> {
        if session.is_gone() {
            return Err(ClientError::SessionExpired { session: session.id() });
        }
        let mut ticket = Ticket::take(session, cred, update, &self.settle).await;
        loop {
            match self.run(&mut ticket, self.deadline()).await {
                Err(ClientError::Rpc { applied: Applied::Maybe, .. }) if session.is_gone() => {
                    return Err(ClientError::SessionExpired { session: session.id() });
                }
                Err(ClientError::Rpc { applied: Applied::Maybe, last, .. }) => {
                    tracing::debug!(error = %last, "no answer to an update of a file yet");
                    runtime::sleep(UNSETTLED_PAUSE).await;
                }
                settled => return settled,
            }
        }
    }

    /// Sends the request of a ticket until its answer is there.
    ///
    /// # Errors
    /// As [`Core::update`].
    pub(super) async fn run(
        &self,
        ticket: &mut Ticket,
        deadline: Instant,
    ) -> Result<UpdateReply, ClientError> {
        loop {
            let reply = self.exchange(deadline, Patience::Short, ticket).await?;
            match reply {
                MetaReply::Updated { result: Err(FsError::TooManyInFlight), .. }
                    if runtime::now() + NO_ROOM_PAUSE < deadline =>
                {
                    // Not remembered as the answer: replies of ours are still on their way to being forgotten.
                    ticket.not_applied();
                    runtime::sleep(NO_ROOM_PAUSE).await;
                }
                MetaReply::Updated { result: Err(FsError::SessionExpired), .. } | MetaReply::SessionGone => {
                    ticket.answered();
                    ticket.session().set_gone();
                    return Err(ClientError::SessionExpired { session: ticket.session().id() });
                }
                MetaReply::Updated { result, epoch } => {
                    ticket.answered();
                    self.saw_epoch(epoch);
                    return Ok(result?);
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// The session, opened anew if the last one is gone.
    ///
    /// # Errors
    /// When none can be opened before `deadline`.
    pub(super) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, ClientError> {
        if let Some(session) = self.live_session() {
            return Ok(session);
        }
        let _one_at_a_time = self.renewing.lock().await;
        if let Some(session) = self.live_session() {
            return Ok(session);
        }
        self.check_open()?;
        let ttl_ms = u32::try_from(self.options.session_ttl.as_millis()).unwrap_or(u32::MAX);
        let open = OpenSession { ttl_ms, label: label(&self.options.label) };
        // Sent again after a lost reply it opens a second session, which nobody keeps alive and which so expires.
        let request = MetaRequest::Update(UpdateRequest {
            session: SessionId(0),
            request: RequestId(0),
            lowest_unanswered: RequestId(0),
            cred: Cred::root(),
            update: Update::OpenSession(open),
        });
        match self.request(&request, Patience::Short, deadline).await? {
            MetaReply::Updated { result, epoch } => match result? {
                UpdateReply::Session { session, ttl_ms } => {
                    let ttl = Duration::from_millis(u64::from(ttl_ms));
                    tracing::debug!(session = session.0, ?ttl, "session opened");
                    let mut current = self.session.write();
                    let session = Arc::new(Session::new(session, ttl, current.is_some()));
                    *current = Some(session.clone());
                    drop(current);
                    self.saw_epoch(epoch);
                    Ok(session)
                }
                other => Err(ClientError::Protocol(format!("{other:?} to OpenSession"))),
            },
            other => Err(unexpected(&other)),
        }
    }

    /// The session, if there is one that is not gone.
    pub(super) fn live_session(&self) -> Option<Arc<Session>> {
        self.session.read().as_ref().filter(|s| !s.is_gone()).cloned()
    }

    /// Fetches the map if the cluster has a newer one.
    ///
    /// # Errors
    /// When no server answers before `deadline`.
    pub(super) async fn refresh_map(&self, deadline: Instant) -> Result<Arc<ClusterMap>, ClientError> {
        let query = Query::Map { newer_than: self.epoch() };
        match self.query_until(&Cred::root(), query, deadline).await? {
            QueryReply::Map(Some(map)) => {
                let map = Arc::<ClusterMap>::from(map);
                {
                    let mut known = self.map.write();
                    if map.epoch <= known.epoch && known.epoch != Epoch(0) {
                        return Ok(known.clone());
                    }
                    *known = map.clone();
                    self.epoch.store(map.epoch.0, Ordering::Relaxed);
                }
                let _home = self.home.enter();
                self.servers.learn(&map);
                self.data.learn(&map);
                // Servers that were not known before are to be spoken with.
                self.probe_wanted.notify_one();
                tracing::debug!(epoch = map.epoch.0, "cluster map");
                Ok(map)
            }
            QueryReply::Map(None) => Ok(self.map()),
            other => Err(ClientError::Protocol(format!("{other:?} to Map"))),
        }
    }
}

/// At most 128 bytes, cut between characters.
fn label(text: &str) -> String {
    let mut end = text.len().min(128);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The error for an answer that does not belong to its question.
pub(super) fn unexpected(reply: &MetaReply) -> ClientError {
    let mut text = format!("{reply:?}");
    text.truncate(text.char_indices().nth(200).map_or(text.len(), |(i, _)| i));
    ClientError::Protocol(text)
}
