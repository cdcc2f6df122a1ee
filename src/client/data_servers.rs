//! The data servers a client talks to: a connection each, how fast they answered lately, and which to leave alone for now.
//!
//! `upload` and `download` ask here before and report after each exchange. Holds: one bulk connection a server; a server that
//! failed is avoided for some seconds, then given another chance. Not here: what the cluster believes of it (the map).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::net::{Channel, ChannelOptions, Reply};
use crate::runtime::{self, Instant};
use crate::types::{Checksum, ClusterMap, DataNode, NodeAddress, NodeId, codec};
use crate::wire::message::{DataReply, DataRequest, kind};
use crate::wire::{Class, Hello, Role, RpcError};

/// How long a server that failed or stayed silent is left alone. Longer than a restart, short enough that it is noticed
/// soon when it is back.
const AVOID: Duration = Duration::from_secs(5);

/// What an exchange was about; each has a usual time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Put,
    Get,
}

#[derive(Debug, Default)]
struct Record {
    /// Moving averages.
    put: Option<Duration>,
    get: Option<Duration>,
    avoid_until: Option<Instant>,
}

/// What a data server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: DataReply,
    pub(super) payload: Bytes,
    /// Of the payload, as it was summed when it arrived.
    pub(super) payload_crc: Option<Checksum>,
}

/// One data server.
#[derive(Debug)]
pub(super) struct DataServer {
    pub(super) node: NodeId,
    pub(super) address: NodeAddress,
    channel: Channel,
    record: Mutex<Record>,
}

impl DataServer {
    /// Asks it, for at most `timeout`.
    ///
    /// # Errors
    /// As it says, or how the exchange failed.
    pub(super) async fn call(
        &self,
        request: &DataRequest,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Answer, RpcError> {
        let meta = codec::encode(request).map_err(|e| RpcError::Refused { reason: e.to_string() })?;
        // The checksum of a block is that of the frame it travels in.
        let known = if let DataRequest::Put { checksum, .. } = request { Some(checksum.0) } else { None };
        let Reply { meta, payload, payload_crc } =
            self.channel.call_knowing(kind::DATA, meta, payload, known, timeout).await?;
        let reply = codec::decode(&meta)
            .map_err(|e| RpcError::BadFrame { peer: self.address.clone(), reason: e.to_string() })?;
        Ok(Answer { reply, payload, payload_crc: payload_crc.map(Checksum) })
    }

    /// Notes that `work` took this long.
    pub(super) fn took(&self, work: Work, time: Duration) {
        let mut record = self.record.lock();
        record.avoid_until = None;
        let average = match work {
            Work::Put => &mut record.put,
            Work::Get => &mut record.get,
        };
        // One eighth of the new value: a burst of slow answers counts, a single one hardly.
        *average = Some(average.map_or(time, |old| old.mul_f32(0.875) + time.mul_f32(0.125)));
    }

    /// What `work` usually takes; none before the first time.
    pub(super) fn usual(&self, work: Work) -> Option<Duration> {
        let record = self.record.lock();
        match work {
            Work::Put => record.put,
            Work::Get => record.get,
        }
    }

    /// Leaves it alone for a while.
    pub(super) fn avoid(&self) {
        self.record.lock().avoid_until = Some(runtime::now() + AVOID);
    }

    /// True while it is left alone.
    pub(super) fn is_avoided(&self) -> bool {
        self.record.lock().avoid_until.is_some_and(|until| runtime::now() < until)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct DataServers {
    label: String,
    open: Mutex<HashMap<NodeId, Arc<DataServer>>>,
}

impl DataServers {
    /// None yet.
    pub(super) fn new(label: String) -> Self {
        Self { label, open: Mutex::new(HashMap::new()) }
    }

    /// The server of a member of a group; connects at its first call.
    pub(super) fn get(&self, map: &ClusterMap, node: &DataNode) -> Arc<DataServer> {
        let mut open = self.open.lock();
        if let Some(server) = open.get(&node.node).filter(|s| s.address == node.address) {
            return server.clone();
        }
        let hello = Hello { cluster: Some(map.cluster), ..Hello::new(Role::Client, self.label.clone()) };
        let options = ChannelOptions { node: Some(node.node), ..ChannelOptions::default() };
        let server = Arc::new(DataServer {
            node: node.node,
            address: node.address.clone(),
            channel: Channel::new(node.address.clone(), hello, Class::Bulk, options),
            record: Mutex::new(Record::default()),
        });
        open.insert(node.node, server.clone());
        server
    }

    /// Drops the connections to servers that are gone or have moved.
    pub(super) fn learn(&self, map: &ClusterMap) {
        let stays = |s: &DataServer| map.data.get(&s.node).is_some_and(|n| n.address == s.address);
        self.open.lock().retain(|_, s| stays(s));
    }

    /// Those left alone now.
    pub(super) fn avoided(&self) -> Vec<NodeId> {
        self.open.lock().values().filter(|s| s.is_avoided()).map(|s| s.node).collect()
    }
}
