//! The metadata servers a data server talks to, and asking them until one answers.
//!
//! `membership` and the workers call [`MetaServers::ask`]. Holds: each ask is bounded in time; a server that failed is
//! asked last; the addresses of the cluster map join the configured ones, which are given up when their server was removed.
//! Not here: what is asked and how often. Every request sent here may be sent twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::net::{Channel, ChannelOptions};
use crate::runtime;
use crate::types::{ClusterId, ClusterMap, NodeAddress, NodeId, RetryClass, codec};
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
        let meta = codec::encode(request).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
        let meta = Arc::new(meta);
        let channels = self.state.lock().channels.clone();
        let mut last = RpcError::NoLeader;
        for channel in channels {
            let error = match channel.call(kind::META, meta.to_vec(), Bytes::new(), timeout).await {
                Ok(reply) => match codec::decode(&reply.meta) {
                    Ok(reply) => return Ok((reply, channel.address().clone())),
                    Err(e) => RpcError::BadFrame { peer: channel.address().clone(), reason: e.to_string() },
                },
                Err(error) => error,
            };
            self.put_last(&channel);
            // One address of a wrong cluster among right ones is a slip in a configuration: the others count.
            if error.retry() == RetryClass::Never && !matches!(error, RpcError::WrongCluster { .. }) {
                return Err(error);
            }
            last = error;
        }
        Err(last)
    }

    fn put_last(&self, failed: &Channel) {
        let mut state = self.state.lock();
        if let Some(index) = state.channels.iter().position(|c| c.address() == failed.address()) {
            let channel = state.channels.remove(index);
            state.channels.push(channel);
        }
    }
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
