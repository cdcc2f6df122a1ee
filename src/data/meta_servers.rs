//! The metadata servers a data server talks to, and asking them until one answers.
//!
//! `membership` and the workers call [`MetaServers::ask`]. Holds: each ask is bounded in time; a server that failed is
//! asked last; the addresses of the cluster map join the configured ones, which are given up when their server was removed.
//! Another cluster is asked for nothing but whether it takes this server in, and only when nobody of the own one is there.
//! Not here: what is asked and how often. Every request sent here may be sent twice.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::net::{Channel, ChannelOptions};
use crate::runtime;
use crate::types::{ClusterId, ClusterMap, NodeAddress, NodeId, NodeSpec, RetryClass, codec};
use crate::wire::message::{MetaReply, MetaRequest, kind};
use crate::wire::{Applied, Class, Hello, Role, RpcError};

/// Longest wait for one server before the next is asked: the leader's fsync on a busy disk, and most elections. A
/// third of the silence after which the cluster suspects a data server.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(800);

/// The metadata servers.
#[derive(Debug)]
pub(super) struct MetaServers {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    hello: Hello,
    given: Vec<NodeAddress>,
    /// In the order in which they are asked.
    channels: Vec<Channel>,
}

fn open(address: &NodeAddress, hello: &Hello) -> Channel {
    Channel::new(address.clone(), hello.clone(), Class::Metadata, ChannelOptions::default())
}

impl MetaServers {
    /// Those at `given`, in random order, so that data servers spread over them.
    pub(super) fn new(
        mut given: Vec<NodeAddress>,
        node: NodeId,
        name: &str,
        cluster: Option<ClusterId>,
    ) -> Self {
        runtime::shuffle(&mut given);
        let hello = Hello { node: Some(node), cluster, ..Hello::new(Role::Data, name) };
        let channels = given.iter().map(|address| open(address, &hello)).collect();
        Self { state: Mutex::new(State { hello, given, channels }) }
    }

    /// From now on only servers of this cluster are talked to.
    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        let mut state = self.state.lock();
        if state.hello.cluster != Some(cluster) {
            state.hello.cluster = Some(cluster);
            state.channels = state.channels.iter().map(|c| open(c.address(), &state.hello)).collect();
        }
    }

    /// Takes in the servers of a map that the configuration does not name.
    pub(super) fn learn(&self, map: &ClusterMap) {
        let mut state = self.state.lock();
        let State { hello, given, channels } = &mut *state;
        let is_known =
            |c: &Channel, address: &NodeAddress, node| c.address() == address || c.peer_node() == Some(node);
        let is_named = |c: &Channel| map.meta.values().any(|m| m.address == *c.address());
        // Whoever was removed is a server of the cluster no more, whatever the configuration says.
        let is_gone = |c: &Channel| {
            !map.meta.is_empty() && c.peer_node().is_some_and(|node| !map.meta.contains_key(&node))
        };
        channels.retain(|c| is_named(c) || (given.contains(c.address()) && !is_gone(c)));
        for meta in map.meta.values() {
            if !channels.iter().any(|c| is_known(c, &meta.address, meta.node)) {
                channels.push(open(&meta.address, hello));
            }
        }
    }

    /// Asks one server after the other until one answers; gives its address with the answer. One round: the pause
    /// before the next is the caller's.
    ///
    /// # Errors
    /// The last error, or the one that no other server would mend.
    pub(super) async fn ask(&self, request: &MetaRequest) -> Result<(MetaReply, NodeAddress), RpcError> {
        self.ask_within(request, ATTEMPT_TIMEOUT).await
    }

    /// As [`MetaServers::ask`], with more time for each server.
    ///
    /// # Errors
    /// As [`MetaServers::ask`].
    pub(super) async fn ask_within(
        &self,
        request: &MetaRequest,
        timeout: Duration,
    ) -> Result<(MetaReply, NodeAddress), RpcError> {
        self.round(request, timeout).await.map_err(|failed| failed.error)
    }

    /// Introduces this server, of `cluster`. If nobody of that is there any more, and its addresses lead to another one, that one is asked
    /// whether it takes this server in, which it does if the state of the former was restored into it. So it does if it descends from
    /// one that this server was of before (`formerly`): then the same dump, or an older one, was restored once more. There is no way back to
    /// those themselves.
    ///
    /// # Errors
    /// As [`MetaServers::ask`].
    pub(super) async fn register(
        &self,
        spec: &NodeSpec,
        cluster: Option<ClusterId>,
        formerly: &[ClusterId],
    ) -> Result<(MetaReply, NodeAddress), RpcError> {
        let request = |cluster| MetaRequest::Register { spec: spec.clone(), cluster };
        let Failed { error, strangers } = match self.round(&request(cluster), ATTEMPT_TIMEOUT).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        for (address, _) in strangers.into_iter().filter(|(_, theirs)| !formerly.contains(theirs)) {
            let hello = Hello { cluster: None, ..self.state.lock().hello.clone() };
            let channel = open(&address, &hello);
            for life in cluster.into_iter().chain(formerly.iter().copied()) {
                match call(&channel, &request(Some(life)), ATTEMPT_TIMEOUT).await {
                    Ok(reply) => return Ok((reply, address)),
                    Err(RpcError::WrongCluster { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Err(error)
    }

    async fn round(
        &self,
        request: &MetaRequest,
        timeout: Duration,
    ) -> Result<(MetaReply, NodeAddress), Failed> {
        let channels = self.state.lock().channels.clone();
        let mut last = RpcError::NoLeader;
        // As long as one server of the own cluster says anything, or may be about to, the others are nobody's business.
        let (mut foreign, mut own) = (Vec::new(), None);
        for channel in channels {
            let error = match call(&channel, request, timeout).await {
                Ok(reply) => return Ok((reply, channel.address().clone())),
                Err(error) => error,
            };
            self.put_last(&channel);
            match error {
                // One address of a wrong cluster among right ones is a slip in a configuration: the others count.
                RpcError::WrongCluster { server, .. } => foreign.push((channel.address().clone(), server)),
                RpcError::Unreachable { .. } => {}
                _ => own = Some(error.clone()),
            }
            if error.retry() == RetryClass::Never && !matches!(error, RpcError::WrongCluster { .. }) {
                return Err(Failed { error, strangers: Vec::new() });
            }
            // That there is another cluster says more than that nobody is there.
            if !matches!((&last, &error), (RpcError::WrongCluster { .. }, RpcError::Unreachable { .. })) {
                last = error;
            }
        }
        if let Some(error) = own {
            return Err(Failed { error, strangers: Vec::new() });
        }
        Err(Failed { error: last, strangers: foreign })
    }

    fn put_last(&self, failed: &Channel) {
        let mut state = self.state.lock();
        if let Some(index) = state.channels.iter().position(|c| c.address() == failed.address()) {
            let channel = state.channels.remove(index);
            state.channels.push(channel);
        }
    }
}

/// A round in which nobody answered.
struct Failed {
    error: RpcError,
    /// Servers of other clusters and which, if none of the own one is there.
    strangers: Vec<(NodeAddress, ClusterId)>,
}

async fn call(channel: &Channel, request: &MetaRequest, timeout: Duration) -> Result<MetaReply, RpcError> {
    let meta = codec::encode(request).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
    let reply = channel.call(kind::META, meta, Bytes::new(), timeout).await?;
    let peer = || channel.address().clone();
    codec::decode(&reply.meta).map_err(|e| RpcError::BadFrame { peer: peer(), reason: e.to_string() })
}

/// An answer to another question than was asked.
pub(super) fn unexpected(reply: &MetaReply) -> RpcError {
    RpcError::Other {
        code: 2011,
        text: format!("unexpected answer of a metadata server: {reply:?}"),
        retry: RetryClass::OtherNode,
        applied: Applied::Maybe,
    }
}
