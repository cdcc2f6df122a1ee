//! The metadata servers a client knows, and which one an attempt goes to.
//!
//! `exchange` asks [`MetaServers::pick`] before each attempt and reports how it went. Holds: a server that failed gets no
//! calls while another answers, until a probe has seen it answer again; so a silent server costs the calls that found
//! it silent and none after them. Not here: retries (`exchange`), and the probe itself (`workers`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::net::{Channel, ChannelOptions};
use crate::runtime::{self, Instant, Rounds, RuntimeId, current_runtime};
use crate::types::{ClusterId, ClusterMap, InodeId, LogIndex, MetaNode, NodeAddress, NodeId, codec};
use crate::wire::message::{MetaReply, MetaRequest, kind};
use crate::wire::{Class, Hello, Role, RpcError};

use super::options::{ClientOptions, Spread};

/// Questions about the end of a log on their way to one server at a time.
const ACCEPTED_ROUNDS_MAX: usize = 2;
/// Longest wait for the answer, which the server has in memory: longer than it stays busy with others, short enough that a
/// silent one costs a reader less than it would notice.
const ACCEPTED_PATIENCE: Duration = Duration::from_millis(200);

/// What the tasks of one runtime share of a server: the thread that waits for an answer also reads it from its socket, and no
/// other thread is woken for it.
struct Line {
    runtime: RuntimeId,
    channels: Vec<Channel>,
    turn: AtomicUsize,
    accepted: Rounds<Result<LogEnd, RpcError>>,
}

impl Line {
    /// Of the runtime that this is called in.
    fn new(address: &NodeAddress, hello: &Hello, channel_count: usize) -> Self {
        let open =
            |_| Channel::new(address.clone(), hello.clone(), Class::Metadata, ChannelOptions::default());
        Self {
            runtime: current_runtime(),
            channels: (0..channel_count.max(1)).map(open).collect(),
            turn: AtomicUsize::new(0),
            accepted: Rounds::new(ACCEPTED_ROUNDS_MAX),
        }
    }

    /// The connection whose turn it is.
    fn channel(&self) -> Channel {
        let turn = if self.channels.len() == 1 { 0 } else { self.turn.fetch_add(1, Ordering::Relaxed) };
        self.channels[turn % self.channels.len()].clone()
    }
}

/// What a server says of its own log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogEnd {
    /// Who says it.
    pub(super) node: NodeId,
    /// The end.
    pub(super) index: LogIndex,
    /// Who leads, as far as it knows.
    pub(super) leader: Option<NodeId>,
}

/// How long after an update a client asks the leader: a few round trips, after which the others have heard of the update.
const UPDATED_LATELY_MS: u64 = 20;

/// One metadata server.
pub(super) struct MetaServer {
    address: NodeAddress,
    hello: Mutex<Hello>,
    /// Of the runtime that the client was made in.
    home: Arc<Line>,
    /// Of other runtimes that calls came from.
    others: RwLock<Vec<Arc<Line>>>,
    suspect: AtomicBool,
}

impl MetaServer {
    fn new(address: NodeAddress, hello: &Hello, channel_count: usize) -> Self {
        Self {
            home: Arc::new(Line::new(&address, hello, channel_count)),
            others: RwLock::default(),
            hello: Mutex::new(hello.clone()),
            address,
            suspect: AtomicBool::new(false),
        }
    }

    /// Runtimes that have connections to it.
    #[cfg(test)]
    pub(super) fn line_count(&self) -> usize {
        1 + self.others.read().len()
    }

    /// That of the runtime that this is called in.
    fn line(&self) -> Arc<Line> {
        let runtime = current_runtime();
        if self.home.runtime == runtime {
            return self.home.clone();
        }
        let of_this =
            |line: &&Arc<Line>| line.runtime == runtime && line.channels.iter().all(Channel::is_kept);
        if let Some(line) = self.others.read().iter().find(of_this) {
            return line.clone();
        }
        // Only this runtime's tasks make one for it. Those of runtimes that have ended are of no use to anybody.
        let mut others = self.others.write();
        if let Some(line) = others.iter().find(of_this) {
            return line.clone();
        }
        others.retain(|line| line.channels.iter().all(Channel::is_kept));
        let hello = self.hello.lock().clone();
        let line = Arc::new(Line::new(&self.address, &hello, 1));
        others.push(line.clone());
        line
    }

    /// Where it answers.
    pub(super) fn address(&self) -> &NodeAddress {
        &self.address
    }

    /// The connection whose turn it is, of those that the runtime has that this is called in.
    pub(super) fn channel(&self) -> Channel {
        self.line().channel()
    }

    /// Its last exchange failed, and no probe has succeeded since.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Its last exchange failed, or nobody has spoken with it yet.
    pub(super) fn is_to_be_probed(&self) -> bool {
        self.is_suspect() || self.node().is_none()
    }

    /// Notes that it answered.
    pub(super) fn answered(&self) {
        // Read first: a store by every call would bounce the cache line between cores.
        if self.is_suspect() {
            self.suspect.store(false, Ordering::Relaxed);
            tracing::info!(server = %self.address, "metadata server answers again");
        }
    }

    /// Notes that it failed; true the first time.
    pub(super) fn failed(&self) -> bool {
        !self.suspect.swap(true, Ordering::Relaxed)
    }

    /// How far its log goes, asked after this call began.
    ///
    /// # Errors
    /// How the exchange failed, or that it does not remember.
    pub(super) async fn accepted(self: &Arc<Self>) -> Result<LogEnd, RpcError> {
        let end = self.sign_of_life().await;
        if end.is_ok() {
            self.answered();
        }
        end
    }

    /// As [`MetaServer::accepted`]; a suspect stays one, for a server that is cut off from the others answers this too.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn sign_of_life(self: &Arc<Self>) -> Result<LogEnd, RpcError> {
        let server = self.clone();
        let ask = move || {
            let server = server.clone();
            async move { server.ask_accepted().await }
        };
        self.line().accepted.join(ask).await
    }

    async fn ask_accepted(&self) -> Result<LogEnd, RpcError> {
        let internal = |reason: String| RpcError::Internal { reason };
        let meta = codec::encode(&MetaRequest::Accepted).map_err(|e| internal(e.to_string()))?;
        let reply = self.channel().call(kind::META, meta, Bytes::new(), ACCEPTED_PATIENCE).await?;
        match codec::decode(&reply.meta) {
            Ok(MetaReply::Accepted { node, index, leader }) => Ok(LogEnd { node, index, leader }),
            Ok(other) => Err(internal(format!("{other:?} to Accepted"))),
            Err(e) => Err(internal(e.to_string())),
        }
    }

    /// From now on only a server of this cluster is spoken with at its address.
    fn set_cluster(&self, cluster: ClusterId) {
        self.hello.lock().cluster = Some(cluster);
        self.home.channels.iter().for_each(|channel| channel.set_cluster(cluster));
        for line in self.others.read().iter() {
            line.channels.iter().for_each(|channel| channel.set_cluster(cluster));
        }
    }

    /// Which cluster it belongs to; none before the first connection.
    fn cluster(&self) -> Option<ClusterId> {
        self.of_peer(Channel::peer_cluster)
    }

    /// Which node it is; none before the first connection.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.of_peer(Channel::peer_node)
    }

    /// What the peer has said of itself to any connection.
    fn of_peer<T>(&self, said: impl Fn(&Channel) -> Option<T>) -> Option<T> {
        let at_home = self.home.channels.iter().find_map(&said);
        at_home.or_else(|| self.others.read().iter().flat_map(|line| &line.channels).find_map(said))
    }
}

/// Servers that together have seen whatever was acknowledged.
pub(super) struct Majority {
    /// Who is to answer.
    pub(super) asked: Arc<MetaServer>,
    /// The others, and who they are.
    pub(super) witnesses: Vec<(NodeId, Arc<MetaServer>)>,
}

/// All of them.
pub(super) struct MetaServers {
    hello: Mutex<Hello>,
    channel_count: usize,
    spread: Spread,
    given: Vec<NodeAddress>,
    /// Voters that there are, by the newest map; 0: not known.
    voter_count: AtomicUsize,
    list: RwLock<Arc<Vec<Arc<MetaServer>>>>,
    turn: AtomicUsize,
    /// Who leads, as a server said lately; 0: not known. It may be somebody else by now.
    leader: AtomicU64,
    /// Since `began`, in milliseconds, when this client's latest update was answered.
    updated: AtomicU64,
    began: Instant,
}

impl MetaServers {
    /// Those at `addresses`, in random order, so that clients spread.
    pub(super) fn new(addresses: &[NodeAddress], options: &ClientOptions) -> Self {
        let mut given = addresses.to_vec();
        given.sort();
        given.dedup();
        runtime::shuffle(&mut given);
        let hello = Hello::new(Role::Client, options.label.clone());
        let open = |a: &NodeAddress| Arc::new(MetaServer::new(a.clone(), &hello, options.channel_count));
        let list = given.iter().map(open).collect();
        Self {
            hello: Mutex::new(hello),
            channel_count: options.channel_count,
            spread: options.spread,
            given,
            voter_count: AtomicUsize::new(0),
            list: RwLock::new(Arc::new(list)),
            turn: AtomicUsize::new(0),
            leader: AtomicU64::new(0),
            updated: AtomicU64::new(0),
            began: runtime::now(),
        }
    }

    /// The servers now.
    pub(super) fn list(&self) -> Arc<Vec<Arc<MetaServer>>> {
        self.list.read().clone()
    }

    /// Where the attempts of a new call begin that changes nothing.
    ///
    /// For a moment after an update that is the leader: it has applied the update, and the others will hear of that with the next one.
    pub(super) fn start(&self) -> usize {
        let updated_lately = self.since_began() < self.updated.load(Ordering::Relaxed) + UPDATED_LATELY_MS;
        if updated_lately { self.start_of_update() } else { self.next_turn() }
    }

    /// Where the attempts of an update begin: at the leader, to whom all others would pass it on.
    pub(super) fn start_of_update(&self) -> usize {
        let leader = NodeId(self.leader.load(Ordering::Relaxed));
        if self.spread == Spread::Even || leader == NodeId(0) {
            return self.next_turn();
        }
        let at_leader = self.list.read().iter().position(|s| s.node() == Some(leader) && !s.is_suspect());
        at_leader.unwrap_or_else(|| self.next_turn())
    }

    fn next_turn(&self) -> usize {
        match self.spread {
            Spread::Pin => self.turn.load(Ordering::Relaxed),
            Spread::Even => self.turn.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A server said who leads.
    pub(super) fn note_leader(&self, leader: Option<NodeId>) {
        let leader = leader.map_or(0, |node| node.0);
        // Read first: a store by every call would bounce the cache line between cores.
        if self.leader.load(Ordering::Relaxed) != leader {
            self.leader.store(leader, Ordering::Relaxed);
        }
    }

    /// An update was answered.
    pub(super) fn note_update(&self) {
        self.updated.store(self.since_began(), Ordering::Relaxed);
    }

    fn since_began(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// As [`MetaServers::start`], of a query about `subject`.
    pub(super) fn start_about(&self, subject: Option<InodeId>) -> usize {
        match (self.spread, subject) {
            #[expect(clippy::cast_possible_truncation, reason = "any part of the number spreads")]
            (Spread::Even, Some(InodeId(number))) => number as usize,
            _ => self.start(),
        }
    }

    /// The server for attempt `attempt` (from 0) of a call that began at `start`: the next in order that is not suspect, or,
    /// when all are, the next in order.
    pub(super) fn pick(&self, start: usize, attempt: usize) -> Arc<MetaServer> {
        let list = self.list.read();
        let first = start.wrapping_add(attempt);
        let at = |i: usize| &list[first.wrapping_add(i) % list.len()];
        let healthy = (0..list.len()).map(at).find(|s| !s.is_suspect());
        healthy.unwrap_or_else(|| at(0)).clone()
    }

    /// The server for the first attempt of a call that began at `start`, and as many others as make a majority with it. None
    /// while fewer answer, or have said that they are nodes of one cluster.
    pub(super) fn majority(&self, start: usize) -> Option<Majority> {
        let list = self.list.read();
        let at = |i: usize| &list[start.wrapping_add(i) % list.len()];
        let healthy = || (0..list.len()).map(at).filter(|s| !s.is_suspect());
        let asked = healthy().next()?.clone();
        let cluster = asked.cluster()?;
        // A given address that never answered may be that of nobody.
        let others = match self.voter_count.load(Ordering::Relaxed) {
            0 => list.len() / 2,
            voters => voters / 2,
        };
        let beside = healthy().skip(1).filter(|s| s.cluster() == Some(cluster));
        let witnesses: Vec<_> = beside.filter_map(|s| Some((s.node()?, s.clone()))).take(others).collect();
        (witnesses.len() == others).then_some(Majority { asked, witnesses })
    }

    /// A pinned client leaves the server its call began at; others' calls that noticed already have moved on.
    pub(super) fn leave(&self, start: usize) {
        if self.spread == Spread::Pin {
            self.note_leader(None);
            let next = start.wrapping_add(1);
            // Losing the race means that another call has moved on: nothing to do.
            let _ = self.turn.compare_exchange(start, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Takes in the servers of a new map that are not known yet, and lets go of those that are none any more. A given address stays
    /// for as long as it is not known to be such a one's: a map may name hosts that only the cluster's own network resolves.
    pub(super) fn learn(&self, map: &ClusterMap) {
        let mut list = self.list.write();
        let mut hello = self.hello.lock().clone();
        if hello.cluster.is_none() && map.cluster != ClusterId::default() {
            hello.cluster = Some(map.cluster);
            *self.hello.lock() = hello.clone();
            // Connections that are still to be made do not stay with a stranger that they meet first.
            list.iter().for_each(|server| server.set_cluster(map.cluster));
        }
        self.voter_count.store(map.meta.len(), Ordering::Relaxed);
        let is_gone = |s: &Arc<MetaServer>| {
            let named = map.meta.values().any(|meta| meta.address == s.address);
            !named && !map.meta.is_empty() && s.node().is_some_and(|node| !map.meta.contains_key(&node))
        };
        let mut new: Vec<Arc<MetaServer>> =
            list.iter().filter(|s| self.given.contains(&s.address) && !is_gone(s)).cloned().collect();
        let known =
            |s: &Arc<MetaServer>, meta: &MetaNode| s.address == meta.address || s.node() == Some(meta.node);
        let missing: Vec<_> = map.meta.values().filter(|meta| !new.iter().any(|s| known(s, meta))).collect();
        // They may be the ones that are given, by other names than in the map, and have not said yet who they are; `workers` looks
        // again when they have.
        let is_named = |s: &Arc<MetaServer>| map.meta.values().any(|meta| meta.address == s.address);
        let may_be = new.iter().filter(|s| s.node().is_none() && !s.is_suspect() && !is_named(s)).count();
        for meta in missing.into_iter().skip(may_be) {
            let kept = list.iter().find(|s| s.address == meta.address).cloned();
            new.push(kept.unwrap_or_else(|| {
                Arc::new(MetaServer::new(meta.address.clone(), &hello, self.channel_count))
            }));
        }
        if !new.is_empty() {
            *list = Arc::new(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(names: &[&str]) -> Vec<NodeAddress> {
        names.iter().map(|n| NodeAddress((*n).to_owned())).collect()
    }

    #[tokio::test]
    async fn a_suspect_gets_calls_only_when_all_are() {
        let options = ClientOptions { spread: Spread::Even, ..ClientOptions::default() };
        let servers = MetaServers::new(&addresses(&["a:1", "b:1", "c:1"]), &options);
        let bad = servers.list()[1].clone();
        assert!(bad.failed());
        for _ in 0..9 {
            assert!(!Arc::ptr_eq(&servers.pick(servers.start(), 0), &bad));
        }
        servers.list().iter().for_each(|s| {
            s.failed();
        });
        assert!((0..3).any(|i| Arc::ptr_eq(&servers.pick(i, 0), &bad)));
        bad.answered();
        assert!((0..3).all(|i| Arc::ptr_eq(&servers.pick(i, 0), &bad)));
    }

    #[tokio::test]
    async fn a_pinned_client_moves_once_a_failure() {
        let servers = MetaServers::new(&addresses(&["a:1", "b:1"]), &ClientOptions::default());
        let start = servers.start();
        servers.leave(start);
        servers.leave(start);
        assert_eq!(servers.start(), start + 1);
    }

    #[tokio::test]
    async fn a_map_adds_servers_and_keeps_the_given_ones() {
        let servers = MetaServers::new(&addresses(&["a:1"]), &ClientOptions::default());
        let mut map = ClusterMap::default();
        for (node, address) in [(1, "a:1"), (2, "b:1"), (3, "c:1")] {
            let address = NodeAddress(address.into());
            let meta = MetaNode { node: NodeId(node), name: String::new(), http: address.clone(), address };
            map.meta.insert(meta.node, meta);
        }
        servers.learn(&map);
        assert_eq!(servers.list().len(), 3);
        assert_eq!(servers.voter_count.load(Ordering::Relaxed), 3);
        map.meta.remove(&NodeId(1));
        map.meta.remove(&NodeId(2));
        servers.learn(&map);
        assert_eq!(servers.list()[0].address().0, "a:1");
    }

    /// All three given addresses may be other names of the three in the map, until they have failed to say who they are.
    #[tokio::test]
    async fn silent_addresses_make_room_for_those_of_the_map() {
        let servers = MetaServers::new(&addresses(&["x:1", "y:1"]), &ClientOptions::default());
        let mut map = ClusterMap::default();
        for (node, address) in [(4, "d:1"), (5, "e:1")] {
            let address = NodeAddress(address.into());
            let meta = MetaNode { node: NodeId(node), name: String::new(), http: address.clone(), address };
            map.meta.insert(meta.node, meta);
        }
        servers.learn(&map);
        assert_eq!(servers.list().len(), 2);
        assert!(servers.list().iter().all(|s| s.failed()));
        servers.learn(&map);
        assert_eq!(servers.list().len(), 4);
    }
}
