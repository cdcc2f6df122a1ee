//! Channels to the other metadata servers, for what only the leader answers. Consensus has its own.
//!
//! Holds: they lead to the members as of the applied state once there are any (`worker` tells), before that to the configured servers;
//! a configured address of a member goes before the one in the log, so a server may move.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::net::{Channel, ChannelOptions};
use crate::types::{ClusterId, LogIndex, NodeAddress, NodeId, codec};
use crate::wire::message::{Introduction, MetaReply, PeerRequest, kind};
use crate::wire::{Class, Hello, Program, RpcError};

/// The others.
pub struct Peers {
    own: NodeId,
    configured: BTreeMap<NodeId, NodeAddress>,
    state: RwLock<State>,
}

struct State {
    hello: Hello,
    channels: BTreeMap<NodeId, Channel>,
}

fn open(node: NodeId, address: &NodeAddress, hello: &Hello) -> Channel {
    let options = ChannelOptions { node: Some(node), ..ChannelOptions::default() };
    Channel::new(address.clone(), hello.clone(), Class::Metadata, options)
}

impl Peers {
    /// Channels to all of `addresses` but `own`; they connect when first used.
    #[must_use]
    pub fn new(own: NodeId, addresses: &BTreeMap<NodeId, NodeAddress>, hello: &Hello) -> Self {
        let others = addresses.iter().filter(|(node, _)| **node != own);
        let channels = others.map(|(node, address)| (*node, open(*node, address, hello))).collect();
        let state = RwLock::new(State { hello: hello.clone(), channels });
        Self { own, configured: addresses.clone(), state }
    }

    /// From now on the others are these members. To be called inside a runtime.
    pub fn follow(&self, members: &BTreeMap<NodeId, NodeAddress>) {
        let mut state = self.state.write();
        let State { hello, channels } = &mut *state;
        channels.retain(|node, _| members.contains_key(node));
        for (node, address) in members.iter().filter(|(node, _)| **node != self.own) {
            let address = self.configured.get(node).unwrap_or(address);
            if channels.get(node).is_none_or(|channel| channel.address() != address) {
                channels.insert(*node, open(*node, address, hello));
            }
        }
    }

    /// Ids of the others.
    pub fn ids(&self) -> Vec<NodeId> {
        self.state.read().channels.keys().copied().collect()
    }

    /// Passes an encoded request on; gives the encoded reply.
    ///
    /// # Errors
    /// How the exchange failed, or what the other answered.
    pub async fn forward(&self, to: NodeId, request: Bytes, deadline: Duration) -> Result<Bytes, RpcError> {
        self.call(to, &PeerRequest::Forward(request), deadline).await
    }

    /// Asks the leader for the index that a linearizable read must wait for.
    ///
    /// # Errors
    /// How the exchange failed, or that the other does not lead.
    pub async fn read_index(&self, leader: NodeId, deadline: Duration) -> Result<LogIndex, RpcError> {
        let reply = self.call(leader, &PeerRequest::ReadIndex, deadline).await?;
        decode(&reply)
    }

    /// Asks a voter how far its log goes.
    ///
    /// # Errors
    /// How the exchange failed, or that the other has forgotten what it accepted.
    pub async fn accepted(&self, of: NodeId, deadline: Duration) -> Result<LogIndex, RpcError> {
        let reply = self.call(of, &PeerRequest::Accepted, deadline).await?;
        decode(&reply)
    }

    /// Asks a member what it says of itself.
    ///
    /// # Errors
    /// How the exchange failed.
    pub async fn introduction(&self, of: NodeId, deadline: Duration) -> Result<Introduction, RpcError> {
        let reply = self.call(of, &PeerRequest::Introduce, deadline).await?;
        decode(&reply)
    }

    /// Asks a member which program it runs: what it says at the hello of a connection that works.
    ///
    /// # Errors
    /// How the exchange failed.
    pub async fn program(&self, of: NodeId, deadline: Duration) -> Result<Program, RpcError> {
        let channel = self.channel(of)?;
        call(&channel, &PeerRequest::Introduce, deadline).await?;
        Ok(channel.peer_program().unwrap_or_default())
    }

    /// The programs of the others as far as they were ever connected to.
    pub fn programs(&self) -> Vec<(NodeId, Option<Program>)> {
        self.state.read().channels.iter().map(|(node, channel)| (*node, channel.peer_program())).collect()
    }

    /// Asks whoever answers at `address`, which is to be `node`, what it says of itself, and which program it is.
    ///
    /// # Errors
    /// How the exchange failed: among others that another node answers there, or one of another cluster.
    pub async fn introduction_at(
        &self,
        node: NodeId,
        address: &NodeAddress,
        deadline: Duration,
    ) -> Result<(Introduction, Program), RpcError> {
        let hello = self.state.read().hello.clone();
        // A refused connection fails at once; a server that is only just starting is waited for.
        let options =
            ChannelOptions { node: Some(node), connect_timeout: deadline, ..ChannelOptions::default() };
        let channel = Channel::new(address.clone(), hello, Class::Metadata, options);
        let introduction = decode(&call(&channel, &PeerRequest::Introduce, deadline).await?)?;
        Ok((introduction, channel.peer_program().unwrap_or_default()))
    }

    /// Status of another metadata server, as its own status page shows it, in JSON.
    ///
    /// # Errors
    /// How the exchange failed.
    pub async fn status(&self, of: NodeId, deadline: Duration) -> Result<String, RpcError> {
        match decode(&self.call(of, &PeerRequest::Status, deadline).await?)? {
            MetaReply::Status(json) => Ok(json),
            other => Err(RpcError::Internal { reason: format!("{other:?} is no status") }),
        }
    }

    /// What each of the others says of itself, within `patience`.
    pub async fn statuses(&self, patience: Duration) -> Vec<(NodeId, Result<String, RpcError>)> {
        let asked =
            self.ids().into_iter().map(|node| async move { (node, self.status(node, patience).await) });
        futures::future::join_all(asked).await
    }

    /// From now on only servers of this cluster are connected to.
    pub fn set_cluster(&self, cluster: ClusterId) {
        let mut state = self.state.write();
        state.hello.cluster = Some(cluster);
        state.channels.values().for_each(|channel| channel.set_cluster(cluster));
    }

    async fn call(&self, to: NodeId, request: &PeerRequest, deadline: Duration) -> Result<Bytes, RpcError> {
        call(&self.channel(to)?, request, deadline).await
    }

    fn channel(&self, to: NodeId) -> Result<Channel, RpcError> {
        let channel = self.state.read().channels.get(&to).cloned();
        channel.ok_or_else(|| RpcError::NotReady {
            reason: format!("metadata server {to} is not among the members that this one knows"),
        })
    }
}

async fn call(channel: &Channel, request: &PeerRequest, deadline: Duration) -> Result<Bytes, RpcError> {
    let meta = codec::encode(request).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
    Ok(channel.call(kind::PEER, meta, Bytes::new(), deadline).await?.meta)
}

/// A reply of a peer.
fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    codec::decode(bytes).map_err(|e| RpcError::Internal { reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Role;

    #[tokio::test]
    async fn channels_follow_the_members_and_a_configured_address_goes_first() {
        let address = |text: &str| NodeAddress(text.to_owned());
        let configured = BTreeMap::from([(NodeId(1), address("a:1")), (NodeId(2), address("moved:1"))]);
        let peers = Peers::new(NodeId(1), &configured, &Hello::new(Role::Meta, "meta-1"));
        assert_eq!(peers.ids(), [NodeId(2)]);
        let mut members: BTreeMap<_, _> =
            [(1, "a:1"), (2, "b:1"), (4, "d:1")].map(|(id, at)| (NodeId(id), address(at))).into();
        peers.follow(&members);
        assert_eq!(peers.ids(), [2, 4].map(NodeId));
        let at = |node| peers.state.read().channels[&NodeId(node)].address().0.clone();
        assert_eq!((at(2), at(4)), ("moved:1".to_owned(), "d:1".to_owned()));
        members.remove(&NodeId(2));
        peers.follow(&members);
        assert_eq!(peers.ids(), [NodeId(4)]);
    }
}
