//! Channels to the other metadata servers, for what only the leader answers. Consensus has its own.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::net::{Channel, ChannelOptions};
use crate::types::{ClusterId, LogIndex, NodeAddress, NodeId, codec};
use crate::wire::message::{MetaReply, PeerRequest, kind};
use crate::wire::{Class, Hello, RpcError};

/// The others.
pub struct Peers {
    channels: BTreeMap<NodeId, Channel>,
}

impl Peers {
    /// Channels to all of `addresses` but `own`; they connect when first used.
    #[must_use]
    pub fn new(own: NodeId, addresses: &BTreeMap<NodeId, NodeAddress>, hello: &Hello) -> Self {
        let others = addresses.iter().filter(|(node, _)| **node != own);
        let channel = |node: NodeId, address: &NodeAddress| {
            let options = ChannelOptions { node: Some(node), ..ChannelOptions::default() };
            Channel::new(address.clone(), hello.clone(), Class::Metadata, options)
        };
        Self { channels: others.map(|(node, address)| (*node, channel(*node, address))).collect() }
    }

    /// Ids of the others.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.channels.keys().copied()
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

    /// Those who say that they belong to another cluster than this server, within `patience`, and to which.
    pub async fn strangers(&self, patience: Duration) -> Vec<(NodeId, ClusterId)> {
        let asked = self.ids().map(|node| async move {
            match self.status(node, patience).await {
                Err(RpcError::WrongCluster { server, .. }) => Some((node, server)),
                _ => None,
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// From now on only servers of this cluster are connected to.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.channels.values().for_each(|channel| channel.set_cluster(cluster));
    }

    async fn call(&self, to: NodeId, request: &PeerRequest, deadline: Duration) -> Result<Bytes, RpcError> {
        let Some(channel) = self.channels.get(&to) else {
            return Err(RpcError::NotReady {
                reason: format!("metadata server {to} is not among the peers of this one"),
            });
        };
        let meta = codec::encode(request).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
        Ok(channel.call(kind::PEER, meta, Bytes::new(), deadline).await?.meta)
    }
}

/// A reply of a peer.
fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    codec::decode(bytes).map_err(|e| RpcError::Internal { reason: e.to_string() })
}
