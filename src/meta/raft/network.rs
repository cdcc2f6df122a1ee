//! openraft's network over [`Channel`]: three connections to each peer, so that neither entries nor a snapshot delay a
//! heartbeat.
//!
//! Holds: appends are sent in order and pipelined, answers come in the same order; every call ends by a deadline; a stream
//! that goes on where the log is purged ends.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use parking_lot::Mutex;

use super::config::{Peers, Timers};
use super::log::{Log, ReadError};
use super::machine::{Snapshot, SnapshotFileRef};
use super::messages::{kind, pack, pack_append, unpack};
use super::snapshot;
use super::store::entry_id;
use super::types::{TypeConfig, Vote};
use crate::net::{Channel, ChannelOptions};
use crate::runtime::disk::Disk;
use crate::types::{ClusterId, NodeAddress, NodeId};
use crate::wire::{Class, Hello, RpcError};

/// Appends on their way to one peer at most: 16 MiB, more than any network of a cluster holds.
const PIPELINE_MAX: usize = 16;

/// Longest pause between two attempts to connect to a peer, but for snapshots. A server that has just started is counted as well by its leader, and the next
/// leader may need it at once: until it is connected to it, nothing is committed.
const RECONNECT_MAX: Duration = Duration::from_millis(50);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Entries.
    Append,
    /// Heartbeats, votes, probes.
    Beat,
    /// Snapshots.
    Bulk,
}

/// Connections to the peers. Clones share them.
#[derive(Clone)]
pub(super) struct Network {
    peers: Arc<Peers>,
    timers: Timers,
    /// What is sent.
    log: Log,
    /// Where snapshots are.
    disk: Arc<dyn Disk>,
    /// Once it is known; before that what the hello of `peers` says.
    cluster: Arc<Mutex<Option<ClusterId>>>,
    channels: Arc<Mutex<BTreeMap<(u64, Lane), Channel>>>,
}

impl Network {
    pub(super) fn new(peers: Peers, timers: Timers, log: Log, disk: Arc<dyn Disk>) -> Self {
        let cluster = Arc::new(Mutex::new(peers.hello.cluster));
        Self { peers: Arc::new(peers), timers, log, disk, cluster, channels: Arc::default() }
    }

    /// Where `node` answers: as configured, else as in the membership.
    pub(super) fn address(&self, node: u64, in_membership: Option<&str>) -> NodeAddress {
        self.peers
            .addresses
            .get(&NodeId(node))
            .cloned()
            .unwrap_or_else(|| NodeAddress(in_membership.unwrap_or_default().to_owned()))
    }

    /// The servers that the configuration names.
    pub(super) fn configured(&self) -> BTreeMap<NodeId, NodeAddress> {
        self.peers.addresses.clone()
    }

    pub(super) fn channel(&self, node: u64, address: &NodeAddress, lane: Lane) -> Channel {
        let mut channels = self.channels.lock();
        let channel = channels.entry((node, lane)).or_insert_with(|| {
            let mut options = ChannelOptions { node: Some(NodeId(node)), ..ChannelOptions::default() };
            let class = if lane == Lane::Bulk {
                Class::Bulk
            } else {
                options.backoff_max = RECONNECT_MAX;
                Class::Consensus
            };
            let hello = Hello { cluster: *self.cluster.lock(), ..self.peers.hello.clone() };
            Channel::new(address.clone(), hello, class, options)
        });
        channel.clone()
    }

    /// Lets go of connections to whoever is not among `members`; a channel of consensus would try to connect for ever.
    pub(super) fn keep(&self, members: &BTreeMap<NodeId, NodeAddress>) {
        self.channels.lock().retain(|(node, _), _| members.contains_key(&NodeId(*node)));
    }

    /// From now on only peers of this cluster are connected to.
    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        let mut channels = self.channels.lock();
        *self.cluster.lock() = Some(cluster);
        channels.values_mut().for_each(|channel| channel.set_cluster(cluster));
    }

    fn client(&self, target: u64, node: &BasicNode, lane: Lane) -> Client {
        let address = self.address(target, Some(&node.addr));
        Client {
            append: self.channel(target, &address, lane),
            ask: self.channel(target, &address, Lane::Beat),
            bulk: self.channel(target, &address, Lane::Bulk),
            kind: if lane == Lane::Beat { kind::HEARTBEAT } else { kind::APPEND },
            timers: self.timers.clone(),
            log: self.log.clone(),
            disk: self.disk.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        self.client(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Client {
        self.client(target, node, Lane::Beat)
    }
}

/// One peer as openraft calls it.
pub(super) struct Client {
    append: Channel,
    ask: Channel,
    bulk: Channel,
    /// APPEND, or HEARTBEAT for the client that only sends those.
    kind: u16,
    timers: Timers,
    log: Log,
    disk: Arc<dyn Disk>,
}

/// What openraft makes of a failed exchange: at once again, or after a while.
fn failed(error: RpcError) -> RPCError<TypeConfig> {
    match error {
        RpcError::TimedOut { .. } | RpcError::Disconnected { .. } | RpcError::Busy { .. } => {
            RPCError::Network(NetworkError::from_string(error))
        }
        _ => RPCError::Unreachable(Unreachable::from_string(error)),
    }
}

async fn append(
    channel: Channel,
    kind: u16,
    request: AppendEntriesRequest<TypeConfig>,
    deadline: Duration,
) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
    let prev = request.prev_log_id;
    let last = request.entries.last().map_or(prev, |entry| Some(entry.log_id));
    let (meta, payload) = pack_append(request).map_err(failed)?;
    let reply = channel.call(kind, meta, payload, deadline).await.map_err(failed)?;
    let response: AppendEntriesResponse<TypeConfig> = unpack(&reply.meta).map_err(failed)?;
    if prev.is_none() && response.is_conflict() {
        return Err(failed(RpcError::Refused { reason: "an answer that nothing can conflict with".into() }));
    }
    Ok(response.into_stream_result(prev, last))
}

/// Ends a stream of openraft that goes on where its leader has purged: it reads nothing there and would say so for ever. After an
/// error the leader looks again at what the peer has, and sends a snapshot.
struct StuckStream {
    log: Log,
    said_nothing: bool,
}

impl StuckStream {
    /// Lets one request without entries pass: with it a peer that gets a snapshot is told what is committed, and it is all
    /// that a heartbeat's stream has.
    fn check(&mut self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), ReadError> {
        if !request.entries.is_empty() {
            return Ok(());
        }
        let follows = self.log.check_follows(request.prev_log_id.map(entry_id));
        if follows.is_err() && !std::mem::replace(&mut self.said_nothing, true) { Ok(()) } else { follows }
    }
}

impl Client {
    async fn ask<T: serde::Serialize, R: serde::de::DeserializeOwned>(
        &self,
        kind: u16,
        message: &T,
        deadline: Duration,
    ) -> Result<R, RPCError<TypeConfig>> {
        let meta = pack(message).map_err(failed)?;
        let reply = self.ask.call(kind, meta, Bytes::new(), deadline).await.map_err(failed)?;
        unpack(&reply.meta).map_err(failed)
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotFileRef;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(append(self.append.clone(), self.kind, request, self.timers.append).await?.into())
    }

    /// The time-out of the option is one heartbeat: of use for a heartbeat, whose worker keeps it itself, and far too
    /// short for an append that waits for a disk.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let (channel, kind, deadline) = (self.append.clone(), self.kind, self.timers.append);
        let mut stuck = StuckStream { log: self.log.clone(), said_nothing: false };
        let answers = input
            .map(move |request| {
                let goes_on = stuck.check(&request);
                let channel = channel.clone();
                async move {
                    goes_on.map_err(|e| RPCError::Network(NetworkError::from_string(e)))?;
                    append(channel, kind, request, deadline).await
                }
            })
            .buffered(PIPELINE_MAX)
            // What follows a failure is of no use: openraft begins a new stream.
            .scan(false, |over, answer| {
                let before = *over;
                *over = !matches!(answer, Ok(Ok(_)));
                std::future::ready((!before).then_some(answer))
            });
        let answers: BoxStream<'s, _> = Box::pin(answers);
        Box::pin(std::future::ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        // A vote is answered after an fsync.
        self.ask(kind::VOTE, &request, option.soft_ttl().max(self.timers.election_max)).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::PRE_VOTE, &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = snapshot::send(self.disk.clone(), &self.bulk, &self.timers, vote, snapshot);
        tokio::select! {
            // Dropping the send loses nothing: the next one goes on where the receiver stands.
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent.map_err(|e| failed(e).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(kind::TRANSFER, &request, option.soft_ttl()).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::log::{EntryId, EntryKind, LogOptions, StoredEntry};
    use super::super::store::log_id;
    use super::*;
    use crate::runtime::disk::MemoryDisk;

    /// What a stream reads that goes on where its leader has purged.
    fn empty(prev: Option<u64>) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: prev.map(|index| log_id(EntryId { term: 1, index })),
            entries: Vec::new(),
            leader_commit: None,
        }
    }

    #[tokio::test]
    async fn a_stream_ends_that_goes_on_where_the_log_is_purged() {
        let options = LogOptions { cache_len: 1 << 20, segment_len: 1 << 20 };
        let disk = MemoryDisk::new();
        disk.set_threads(false);
        let log = Log::open(Arc::new(disk), Path::new("/log"), options).unwrap();
        let entries = (0..20).map(|index| {
            let id = EntryId { term: 1, index };
            StoredEntry { id, kind: EntryKind::Blank, data: Bytes::new() }
        });
        log.append(entries.collect(), Box::new(|_| ())).unwrap();
        log.purge(EntryId { term: 1, index: 9 }).unwrap();

        let stream = || StuckStream { log: log.clone(), said_nothing: false };
        for prev in [None, Some(0), Some(8)] {
            let mut stuck = stream();
            assert!(stuck.check(&empty(prev)).is_ok(), "what is committed is told");
            let error = stuck.check(&empty(prev)).unwrap_err().to_string();
            assert!(error.contains("is purged"), "{error}");
        }
        let mut idle = stream();
        for _ in 0..10 {
            assert!(idle.check(&empty(Some(9))).is_ok() && idle.check(&empty(Some(19))).is_ok());
        }
    }
}
