//! Answers requests: reads here, writes through the leader, whichever server was asked.
//!
//! Called by `net::Server` for every frame. Holds: a reply to an update means that a majority has it on disk; a query
//! not marked stale sees every write acknowledged before it began; whatever only the leader can do is passed on to it, and
//! tried again under the next leader while the caller waits, which a request id makes harmless.
//! Not here: namespace rules, batching (`proposer`), the leader's watch over others (`leader`, `worker`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::blocks::bounded;
use super::changes::Changes;
use super::dumps::Dumps;
use super::leader::Leader;
use super::peers::Peers;
use super::prepare::client_op;
use super::proposer::Proposer;
use super::quorum::{self, Quorum};
use super::raft::{self, Consensus};
use super::restore::RESTORING;
use super::state::State;
use crate::namespace::{self, View, ViewError};
use crate::net::{Handler, PeerInfo, Reply, Request};
use crate::runtime::{self, Instant, Rounds};
use crate::types::{
    ClusterId, ClusterMap, Cred, Epoch, FsError, FsResult, LogIndex, MetaNode, NodeAddress, NodeId, Query,
    QueryReply, Update, codec,
};
use crate::wire::message::{
    BLOCKS_MAX, Introduction, KeepAlive, MetaReply, MetaRequest, PeerRequest, Reading, UpdateRequest, kind,
};
use crate::wire::status::StatusSource;
use crate::wire::{Program, Role, RpcError};

/// Pause before the leader is looked for again. An election takes some hundred milliseconds.
const LEADER_POLL: Duration = Duration::from_millis(20);
/// Longest wait for one answer of a leader before it is asked again: a leader that was cut off silently is replaced
/// within that time, and the request goes to the new one.
const LEADER_PATIENCE: Duration = Duration::from_millis(1000);

/// Rounds of linearizable reads on their way at a time.
const ROUNDS_MAX: usize = 3;

/// A client that waits for a lock gets an answer after half of this, or half of the time its request has, if nothing happens.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// What the parts of a metadata server share.
pub struct Service {
    /// This server.
    pub(super) node: NodeId,
    /// The same, with its name and addresses as configured.
    pub(super) own: MetaNode,
    /// Which program it is.
    pub(super) program: Program,
    /// Programs of the data servers that called.
    pub(super) callers: Mutex<BTreeMap<NodeId, Program>>,
    pub(super) bounds: Bounds,
    pub(super) consensus: Consensus,
    pub(super) state: State,
    pub(super) proposer: Proposer,
    pub(super) peers: Arc<Peers>,
    pub(super) changes: Changes,
    pub(super) dumps: Dumps,
    /// Tables of the leader, while this server leads and has applied everything of earlier terms.
    pub(super) leader: RwLock<Option<Arc<Leader>>>,
    map: RwLock<Arc<ClusterMap>>,
    quorum: Quorum,
    rounds: Rounds<Result<LogIndex, RpcError>>,
    counts: Counts,
    status: RwLock<Option<Arc<dyn StatusSource>>>,
}

/// Bounds that the configuration sets.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest life of a session without a keep-alive, in milliseconds.
    pub ttl_ms_max: u32,
    /// Sessions at a time.
    pub sessions_max: usize,
    /// How long behind a restore blocks of before are kept, in milliseconds.
    pub reclaim_grace_ms: u64,
}

/// Requests answered since the start.
#[derive(Default)]
pub struct Counts {
    /// Updates.
    pub updates: AtomicU64,
    /// Queries.
    pub queries: AtomicU64,
    /// Requests passed on to the leader.
    pub forwarded: AtomicU64,
    /// Rounds of reads, each for all that waited for it.
    pub rounds: AtomicU64,
    /// Those of them that asked the leader.
    pub leader_rounds: AtomicU64,
}

impl Service {
    /// A service over its parts.
    #[must_use]
    pub fn new(
        own: MetaNode,
        program: Program,
        bounds: Bounds,
        consensus: Consensus,
        state: State,
        proposer: Proposer,
        peers: Peers,
    ) -> Self {
        Self {
            node: own.node,
            own,
            program,
            callers: Mutex::default(),
            bounds,
            consensus,
            state,
            proposer,
            peers: Arc::new(peers),
            changes: Changes::default(),
            dumps: Dumps::default(),
            leader: RwLock::new(None),
            map: RwLock::default(),
            quorum: Quorum::default(),
            rounds: Rounds::new(ROUNDS_MAX),
            counts: Counts::default(),
            status: RwLock::new(None),
        }
    }

    /// Who answers questions about the status.
    pub fn set_status(&self, status: Arc<dyn StatusSource>) {
        *self.status.write() = Some(status);
    }

    /// Requests answered since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The cluster map as of now, decoded once an epoch. Figures of capacity may be older than the namespace's.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn map(&self) -> Result<Arc<ClusterMap>, RpcError> {
        self.read(|view, epoch| self.map_of(view, epoch))
    }

    pub(super) fn map_of(&self, view: &dyn View, epoch: Epoch) -> Result<Arc<ClusterMap>, ViewError> {
        let cached = self.map.read().clone();
        if cached.epoch == epoch {
            return Ok(cached);
        }
        let map = Arc::new(namespace::map(view)?);
        *self.map.write() = map.clone();
        Ok(map)
    }

    /// The cluster this server belongs to, once known.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.state.read(|view| namespace::superblock(view).ok().flatten().map(|s| s.cluster))
    }

    /// Runs `f` on the state and the epoch of its map; refuses while the state is half of a dump: every answer that could lead
    /// anybody to act upon the namespace comes from here.
    pub(super) fn read<R>(
        &self,
        f: impl FnOnce(&dyn View, Epoch) -> Result<R, ViewError>,
    ) -> Result<R, RpcError> {
        let whole = |view: &dyn View| {
            let superblock = namespace::superblock(view)?;
            if superblock.is_some_and(|s| s.restoring.is_some()) {
                return Ok(None);
            }
            f(view, superblock.map_or(Epoch(0), |s| s.epoch)).map(Some)
        };
        match self.state.read(whole) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(RpcError::NotReady { reason: RESTORING.into() }),
            Err(e) => Err(RpcError::StoreFailed { reason: e.to_string() }),
        }
    }

    /// Waits until this server's state holds every write acknowledged before the call.
    ///
    /// # Errors
    /// No leader before the deadline.
    pub async fn linearize(self: &Arc<Self>, deadline: Instant) -> Result<LogIndex, RpcError> {
        loop {
            let service = self.clone();
            let round = self.rounds.join(move || {
                let service = service.clone();
                async move { service.round().await }
            });
            let failed = match runtime::timeout_at(deadline, round).await {
                Ok(Ok(index)) => {
                    self.consensus.wait_applied(index, deadline).await?;
                    return Ok(index);
                }
                Ok(Err(_)) if self.consensus.has_ended() => RpcError::Stopping,
                Ok(Err(e)) => e,
                Err(_) => return Err(RpcError::NoLeader),
            };
            if matches!(failed, RpcError::Stopping) || runtime::now() + LEADER_POLL >= deadline {
                return Err(failed);
            }
            runtime::sleep(LEADER_POLL).await;
        }
    }

    /// One question for all readers that wait: to a majority, or else to the leader, here or elsewhere.
    async fn round(&self) -> Result<LogIndex, RpcError> {
        self.counts.rounds.fetch_add(1, Ordering::Relaxed);
        if let Some(index) = self.quorum.index(&self.consensus, &self.peers).await {
            return Ok(index);
        }
        self.counts.leader_rounds.fetch_add(1, Ordering::Relaxed);
        match self.consensus.leader() {
            Some(leader) if leader.node == self.node => self.consensus.read_index().await.map_err(Into::into),
            Some(leader) => {
                self.while_leading(leader, self.peers.read_index(leader.node, LEADER_PATIENCE)).await
            }
            None => Err(RpcError::NoLeader),
        }
    }

    async fn meta(self: &Arc<Self>, bytes: Bytes, deadline: Instant) -> Result<MetaReply, RpcError> {
        let request: MetaRequest =
            codec::decode(&bytes).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
        if self.consensus.is_removed() && request != MetaRequest::Status {
            return Err(RpcError::NotReady { reason: REMOVED.into() });
        }
        if self.consensus.is_stranger() && request != MetaRequest::Status {
            return Err(RpcError::NotReady { reason: "it is no member of the cluster yet".into() });
        }
        if let MetaRequest::Update(update) = &request {
            // Here too, for a leader of before levels would not know the command.
            self.allow(update.update.level(), deadline).await?;
        }
        match request {
            MetaRequest::Query { cred, query, epoch, reading } => {
                self.query(&cred, &query, epoch, &reading, deadline).await
            }
            MetaRequest::Accepted => match self.consensus.accepted() {
                Some(index) => {
                    let leader = self.consensus.leader().map(|leader| leader.node);
                    Ok(MetaReply::Accepted { node: self.node, index, leader })
                }
                None => Err(RpcError::NotReady { reason: FORGETFUL.into() }),
            },
            MetaRequest::Status => match self.status()?.cluster().await {
                Ok(status) => Ok(MetaReply::Status(json(&status)?)),
                Err(e) => Err(RpcError::NotReady { reason: e.to_string() }),
            },
            MetaRequest::Check => self.check(deadline).await,
            MetaRequest::Blocks { node, after, limit } => {
                self.linearize(deadline).await?;
                self.read(|view, epoch| self.blocks(view, epoch, node, after, limit))
            }
            MetaRequest::Fates { blocks } => {
                bounded(&blocks)?;
                self.linearize(deadline).await?;
                self.read(|view, _| self.fates(view, &blocks))
            }
            MetaRequest::ReclaimList { node, after, limit } => {
                self.linearize(deadline).await?;
                self.read(|view, epoch| self.reclaim_list(view, epoch, node, after, limit))
            }
            MetaRequest::Dump(request) => Ok(MetaReply::Dump(self.dump(request, deadline).await?)),
            MetaRequest::Update(_)
            | MetaRequest::KeepAlive(_)
            | MetaRequest::Register { .. }
            | MetaRequest::Heartbeat(_)
            | MetaRequest::Members(_)
            | MetaRequest::Restore(_)
            | MetaRequest::Grace { .. }
            | MetaRequest::Reclaimed { .. } => self.through_leader(bytes, request, deadline).await,
        }
    }

    fn status(&self) -> Result<Arc<dyn StatusSource>, RpcError> {
        self.status
            .read()
            .clone()
            .ok_or_else(|| RpcError::NotReady { reason: "the server is starting".into() })
    }

    async fn query(
        self: &Arc<Self>,
        cred: &Cred,
        query: &Query,
        epoch: Epoch,
        reading: &Reading,
        deadline: Instant,
    ) -> Result<MetaReply, RpcError> {
        if cred.groups.len() > Cred::GROUPS_MAX {
            return Err(RpcError::Refused { reason: format!("more than {} groups", Cred::GROUPS_MAX) });
        }
        // Its answer comes later, as of then.
        let waits_for_lock = matches!(query, Query::LockWaits { .. });
        let as_of = match reading {
            Reading::Stale => None,
            Reading::Beside(witnesses) if !waits_for_lock => quorum::beside(&self.consensus, witnesses),
            Reading::Exact | Reading::Beside(_) => None,
        };
        if as_of.is_none() && *reading != Reading::Stale {
            self.linearize(deadline).await?;
        }
        self.counts.queries.fetch_add(1, Ordering::Relaxed);
        if waits_for_lock {
            return self.lock_waits(cred, query, deadline).await;
        }
        self.answer(cred, query, epoch, as_of)
    }

    fn answer(
        &self,
        cred: &Cred,
        query: &Query,
        epoch: Epoch,
        as_of: Option<LogIndex>,
    ) -> Result<MetaReply, RpcError> {
        self.read(|view, now| {
            let result = namespace::query(view, cred, query)?;
            let map = self.map_of(view, now)?;
            let addresses = if map.epoch == epoch { Vec::new() } else { addresses_of(&map, &result) };
            Ok(MetaReply::Answered { result, epoch: map.epoch, addresses, as_of })
        })
    }

    /// Answers a client that waits for a lock as soon as the state here shows that it waits no more, or shortly before the
    /// caller would take the silence for a failure.
    async fn lock_waits(&self, cred: &Cred, query: &Query, deadline: Instant) -> Result<MetaReply, RpcError> {
        let now = runtime::now();
        let until = now + deadline.saturating_duration_since(now).min(LOCK_PATIENCE) / 2;
        if let Query::LockWaits { inode, session, request } = *query {
            let (locks, asked) = (self.state.locks(), (inode, session, request));
            let known = locks.place(asked).map_or_else(
                || self.read(|view, _| namespace::waiting_at(view, inode, session, request)),
                |place| Ok(Some(place)),
            )?;
            if let Some(place) = known {
                // Before the first look: what is applied behind it wakes us.
                let mut changes = locks.watch(asked, place);
                let waits =
                    || self.read(|view, _| namespace::still_waits_at(view, inode, place, session, request));
                // Nothing is lost when the wait is dropped: it is looked at all the same.
                while waits()? {
                    if !matches!(runtime::timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                        return self.waits_still();
                    }
                }
                locks.forget(asked);
            }
        }
        self.answer(cred, query, Epoch(0), None)
    }

    /// The answer that makes a client ask again.
    fn waits_still(&self) -> Result<MetaReply, RpcError> {
        self.read(|view, now| {
            let epoch = self.map_of(view, now)?.epoch;
            let result = Ok(QueryReply::Waits(true));
            Ok(MetaReply::Answered { result, epoch, addresses: Vec::new(), as_of: None })
        })
    }

    async fn check(self: &Arc<Self>, deadline: Instant) -> Result<MetaReply, RpcError> {
        self.linearize(deadline).await?;
        self.read(|_, _| Ok(()))?;
        let state = self.state.clone();
        let checked = runtime::blocking("check", move || {
            state.frozen(|at, view| {
                let violations = namespace::check(view)?;
                let inode_count = namespace::superblock(view)?.map_or(0, |s| s.inode_count);
                let (mut block_count, mut after) = (0u64, None);
                loop {
                    let page = namespace::blocks(view, after, BLOCKS_MAX)?;
                    block_count += page.len() as u64;
                    after = page.last().map(|b| b.id);
                    if page.len() < BLOCKS_MAX {
                        break;
                    }
                }
                let violations = violations.iter().take(1000).map(ToString::to_string).collect();
                Ok(MetaReply::Checked { violations, at, inode_count, block_count })
            })
        });
        let failed = |e: &dyn std::fmt::Display| RpcError::StoreFailed { reason: e.to_string() };
        checked.await.map_err(|e| failed(&e))?.map_err(|e: ViewError| failed(&e))
    }

    /// Answers here if this server leads, else passes `bytes` on; goes on under the next leader until the deadline.
    async fn through_leader(
        self: &Arc<Self>,
        bytes: Bytes,
        request: MetaRequest,
        deadline: Instant,
    ) -> Result<MetaReply, RpcError> {
        // A change of the members takes several commits, and is not begun a second time while it is under way; parts of a dump may
        // have to wait until there is room for them.
        let is_long = matches!(request, MetaRequest::Members(_) | MetaRequest::Restore(_));
        let patience = if is_long { Duration::MAX } else { LEADER_PATIENCE };
        loop {
            let failed = match self.consensus.leader() {
                Some(leader) if leader.node == self.node => match self.lead(request.clone()).await {
                    Ok(reply) => return Ok(reply),
                    Err(e) => e,
                },
                Some(leader) => {
                    self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                    let left = deadline.saturating_duration_since(runtime::now());
                    let asked = self.peers.forward(leader.node, bytes.clone(), left.min(patience));
                    match self.while_leading(leader, asked).await {
                        Ok(reply) => {
                            return codec::decode(&reply)
                                .map_err(|e| RpcError::Internal { reason: e.to_string() });
                        }
                        Err(e) => self.of_leader(e),
                    }
                }
                // Another server is to be asked at once.
                None if self.consensus.has_ended() => RpcError::Stopping,
                None => RpcError::NoLeader,
            };
            if !worth_waiting(&failed) || runtime::now() + LEADER_POLL >= deadline {
                return Err(failed);
            }
            tracing::debug!(error = %failed, "the leader did not answer: looking for the next");
            runtime::sleep(LEADER_POLL).await;
        }
    }

    /// Waits for what `leader` was asked until another one leads: one that has fallen silent is replaced long before it would be
    /// given up.
    async fn while_leading<T>(
        &self,
        leader: raft::Leader,
        asked: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        let mut known = self.consensus.watch_leader();
        // Dropped, an update may have been taken all the same: it has an id, and is sent again with it.
        tokio::select! {
            reply = asked => reply,
            Ok(_) = known.wait_for(|now| now.is_some_and(|now| now != leader)) => Err(RpcError::LeaderLost),
        }
    }

    /// An error of the one that was taken for the leader. That a stranger answers at its address is between us and him: the
    /// caller belongs here, and waits for the next leader. (A caller that belongs elsewhere is named by the error itself.)
    fn of_leader(&self, error: RpcError) -> RpcError {
        match error {
            RpcError::WrongCluster { caller, .. } if self.cluster() == Some(caller) => {
                tracing::warn!(%error, "not the leader answers at its address");
                RpcError::NoLeader
            }
            other => other,
        }
    }

    /// What only the leader answers.
    async fn lead(&self, request: MetaRequest) -> Result<MetaReply, RpcError> {
        let leader = self.leader.read().clone();
        let Some(leader) = leader else {
            return Err(RpcError::NotReady { reason: "a new leader is taking over".into() });
        };
        match request {
            MetaRequest::Update(update) => self.update(&leader, update).await,
            MetaRequest::KeepAlive(keep_alive) => self.keep_alive(&leader, &keep_alive),
            MetaRequest::Register { spec, cluster } => self.register(&leader, spec, cluster).await,
            MetaRequest::Heartbeat(report) => self.heartbeat(&leader, report),
            MetaRequest::Reclaimed { node, blocks } => {
                bounded(&blocks)?;
                leader.deleted(node, &blocks);
                Ok(MetaReply::Done)
            }
            MetaRequest::Members(change) => Ok(MetaReply::Members(self.change_members(&change).await?)),
            MetaRequest::Restore(step) => Ok(MetaReply::Restore(self.restore(step).await?)),
            MetaRequest::Grace { node, kept } => self.keeps(&leader, node, kept),
            other => Err(RpcError::Refused { reason: format!("{other:?} is not for the leader") }),
        }
    }

    async fn update(&self, leader: &Leader, request: UpdateRequest) -> Result<MetaReply, RpcError> {
        let opens = matches!(request.update, Update::OpenSession(_));
        if opens && !leader.one_more_session(self.bounds.sessions_max) {
            let reason = format!(
                "{} sessions are open, and no more may be (limits.sessions)",
                self.bounds.sessions_max
            );
            return Err(RpcError::TooMany { peer: self.own.address.clone(), reason });
        }
        if request.cred.groups.len() > Cred::GROUPS_MAX {
            return Err(RpcError::Refused { reason: format!("more than {} groups", Cred::GROUPS_MAX) });
        }
        self.allowed(request.update.level())?;
        self.counts.updates.fetch_add(1, Ordering::Relaxed);
        let result = self.proposer.submit(client_op(request, self.bounds.ttl_ms_max)).await?;
        if result == Err(FsError::Restoring) {
            return Err(RpcError::NotReady { reason: RESTORING.into() });
        }
        let epoch = self.map()?.epoch;
        Ok(MetaReply::Updated { result, epoch })
    }

    fn keep_alive(&self, leader: &Leader, keep_alive: &KeepAlive) -> Result<MetaReply, RpcError> {
        if keep_alive.handles.len() > BLOCKS_MAX {
            return Err(RpcError::Refused { reason: "too many handles in one keep-alive".into() });
        }
        let session = keep_alive.session;
        let (alive, epoch) =
            self.read(|view, epoch| Ok((namespace::session_alive(view, session)?, epoch)))?;
        if !alive {
            return Ok(MetaReply::SessionGone);
        }
        let ask = leader.keep_alive(session, &keep_alive.handles, runtime::now());
        Ok(MetaReply::KeptAlive { ask, epoch })
    }

    async fn peer(self: &Arc<Self>, bytes: &[u8]) -> Result<Vec<u8>, RpcError> {
        let request = codec::decode(bytes).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
        match request {
            PeerRequest::Forward(request) => {
                let request: MetaRequest =
                    codec::decode(&request).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
                // Not passed on a second time: the server that was asked by the caller looks for the leader.
                match self.consensus.leader() {
                    Some(leader) if leader.node == self.node => encode(&self.lead(request).await?),
                    _ => Err(RpcError::NoLeader),
                }
            }
            PeerRequest::ReadIndex => match self.consensus.leader() {
                Some(leader) if leader.node == self.node => encode(&self.consensus.read_index().await?),
                _ => Err(RpcError::NoLeader),
            },
            PeerRequest::Accepted => match self.consensus.accepted() {
                Some(index) => encode(&index),
                None => Err(RpcError::NotReady { reason: FORGETFUL.into() }),
            },
            PeerRequest::Status => encode(&MetaReply::Status(json(&self.status()?.server().await)?)),
            PeerRequest::Introduce => encode(&Introduction {
                server: self.own.clone(),
                cluster: self.cluster(),
                is_empty: self.consensus.is_empty(),
            }),
        }
    }
}

/// Why a server that was removed does nothing.
pub(super) const REMOVED: &str = "it was removed from the cluster: stop it, and use its directory no more (`pohmelfs cluster members` on another server lists who is left)";
/// Why a server does not say how far its log goes.
const FORGETFUL: &str = "it came with an empty disk and does not remember yet what it accepted";

/// True for failures that another leader, or this one in a moment, may mend.
fn worth_waiting(error: &RpcError) -> bool {
    // A restore takes longer than callers wait, and an update that it refuses is an entry of the log each time.
    if matches!(error, RpcError::NotReady { reason } if reason == RESTORING) {
        return false;
    }
    !matches!(
        error,
        RpcError::Refused { .. }
            | RpcError::WrongCluster { .. }
            | RpcError::WrongVersion { .. }
            | RpcError::Stopping
            | RpcError::BadFrame { .. }
    )
}

/// Addresses of the data servers that an answer names.
fn addresses_of(map: &ClusterMap, result: &FsResult<QueryReply>) -> Vec<(NodeId, NodeAddress)> {
    let mut nodes = std::collections::BTreeSet::new();
    match result {
        Ok(QueryReply::Found(found) | QueryReply::Walked { found, .. }) => nodes.extend(&found.servers),
        Ok(QueryReply::Page { entries, .. }) => {
            nodes.extend(entries.iter().filter_map(|e| e.found.as_ref()).flat_map(|f| &f.servers));
        }
        Ok(QueryReply::Extents { extents, .. }) => {
            let groups = extents.iter().filter_map(|e| match &e.source {
                crate::types::ExtentSource::Block { block, .. } => map.groups.get(&block.group),
                _ => None,
            });
            nodes.extend(groups.flat_map(|g| &g.members));
        }
        _ => {}
    }
    nodes.into_iter().filter_map(|id| map.data.get(id).map(|n| (*id, n.address.clone()))).collect()
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, RpcError> {
    codec::encode(value).map_err(|e| RpcError::Internal { reason: e.to_string() })
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, RpcError> {
    serde_json::to_string(value).map_err(|e| RpcError::Internal { reason: e.to_string() })
}

/// The service as `net` calls it.
#[derive(Clone)]
pub struct Entrance(pub Arc<Service>);

impl Handler for Entrance {
    /// A session must not end because its client asks for much: its keep-alives wait for nothing, nor does the status.
    fn is_urgent(&self, request: &Request) -> bool {
        // The position of the variant, in one byte (`docs/protocol.md`).
        request.kind == kind::META && matches!(request.meta.first(), Some(2 | 10))
    }

    async fn handle(&self, from: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        let Self(service) = self;
        if let (Role::Data, Some(node)) = (from.role, from.node) {
            service.note_caller(node, &from.program);
        }
        match request.kind {
            kind::META => {
                let reply = service.meta(request.meta, request.deadline).await?;
                Ok(Reply { meta: encode(&reply)?.into(), ..Reply::default() })
            }
            kind::PEER | kind::RAFT_FIRST..=kind::RAFT_LAST if from.role != Role::Meta => {
                Err(RpcError::Refused {
                    reason: format!("a {} may not speak for a metadata server", from.role),
                })
            }
            kind::PEER => Ok(Reply { meta: service.peer(&request.meta).await?.into(), ..Reply::default() }),
            kind::RAFT_FIRST..=kind::RAFT_LAST => {
                service.consensus.handle_peer(request.kind, request.meta, request.payload).await
            }
            other => Err(RpcError::Refused {
                reason: format!("kind {other:#x} is not known to a metadata server"),
            }),
        }
    }
}
