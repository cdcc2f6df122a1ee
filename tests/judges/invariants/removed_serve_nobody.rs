//! A server that was removed answers no client as a member would, and does not lend its log to anybody's read.

use std::time::Duration;

use bytes::Bytes;
use pohmelfs::net::{Channel, ChannelOptions};
use pohmelfs::types::{Cred, Epoch, NodeAddress, NodeId, Query, codec};
use pohmelfs::wire::message::{MetaReply, MetaRequest, Reading, kind};
use pohmelfs::wire::{Class, Hello, Role, RpcError};

const PATIENCE: Duration = Duration::from_secs(5);

/// What they answer, and should not.
pub async fn broken(removed: &[(NodeId, NodeAddress)]) -> Vec<String> {
    let questions = [
        MetaRequest::Accepted,
        MetaRequest::Query {
            cred: Cred::root(),
            query: Query::StatFs,
            epoch: Epoch(0),
            reading: Reading::Stale,
        },
        MetaRequest::Query {
            cred: Cred::root(),
            query: Query::StatFs,
            epoch: Epoch(0),
            reading: Reading::Exact,
        },
        MetaRequest::Check,
    ];
    let mut broken = Vec::new();
    for (node, address) in removed {
        let hello = Hello::new(Role::Client, "judge");
        let options = ChannelOptions { node: Some(*node), ..ChannelOptions::default() };
        let channel = Channel::new(address.clone(), hello, Class::Metadata, options);
        for question in &questions {
            let told = match codec::encode(question) {
                Ok(bytes) => channel.call(kind::META, bytes, Bytes::new(), PATIENCE).await,
                Err(error) => Err(RpcError::Refused { reason: error.to_string() }),
            };
            match told.map(|reply| codec::decode::<MetaReply>(&reply.meta)) {
                // One that is just starting has not said anything.
                Err(RpcError::NotReady { .. } | RpcError::Unreachable { .. }) => {}
                other => broken.push(format!("{node} was removed and answers {question:?} with {other:?}")),
            }
        }
    }
    broken
}
