//! Reading one block from whichever replica gives it first and right.
//!
//! `extents` calls [`Core::read_block`]. Holds: bytes that come back are as many as were asked for, verified by the server that sent
//! them, and, when the whole block was asked for, against the checksum of the extent as well. A silent server costs
//! the hedge delay. Not here: what to do when no replica can be read (`extents` looks whether the file has changed).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::runtime::{self, Instant};
use crate::types::{BlockRef, Checksum, ClusterMap, NodeAddress, NodeId, NodeState};
use crate::wire::RpcError;
use crate::wire::message::{DataReply, DataRequest};

use super::core::Core;
use super::data_servers::{Answer, DataServer, Work};

/// Wait before a second replica is asked while the first is silent and its usual time is not known.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(500);
/// Bounds of four times the usual time: below it noise would double the load, above it a reader waits for nothing.
const HEDGE_MIN: Duration = Duration::from_millis(100);
const HEDGE_MAX: Duration = Duration::from_secs(1);
/// Longest wait for one server.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// No replica could be read.
#[derive(Debug)]
pub(super) struct Unread {
    /// Each server asked and what it said.
    pub(super) tried: Vec<(NodeId, NodeAddress, String)>,
    /// True if another try may go better: some server did not answer at all.
    pub(super) transient: bool,
}

fn hedge_after(usual: Option<Duration>) -> Duration {
    usual.map_or(HEDGE_UNKNOWN, |usual| (usual * 4).clamp(HEDGE_MIN, HEDGE_MAX))
}

/// Lower is asked earlier. `draw` (0 to 1023) spreads readers over servers whose times are alike.
fn rank(state: NodeState, avoided: bool, usual: Option<Duration>, draw: u64) -> (u8, u64) {
    let class = match state {
        NodeState::Up | NodeState::Draining if !avoided => 0,
        NodeState::Up | NodeState::Draining => 1,
        NodeState::Suspect => 2,
        NodeState::Down => 3,
        NodeState::Removed => 4,
    };
    // Unknown counts as fast: everyone gets a first chance.
    let micros = u64::try_from(usual.unwrap_or(HEDGE_MIN / 100).as_micros()).unwrap_or(u64::MAX >> 12);
    (class, micros.saturating_mul(512 + draw) >> 9)
}

impl Core {
    fn replicas(&self, map: &ClusterMap, block: &BlockRef) -> Vec<Arc<DataServer>> {
        let mut ranked: Vec<_> = map
            .members(block.group)
            .filter(|n| n.state != NodeState::Removed)
            .map(|n| {
                let server = self.data.get(map, n);
                let draw = runtime::random_below(1024);
                (rank(n.state, server.is_avoided(), server.usual(Work::Get), draw), server)
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, server)| server).collect()
    }

    /// `len` bytes of a block from `offset` on: one round over its replicas.
    ///
    /// # Errors
    /// [`Unread`] when none of them gave the right bytes before `deadline`.
    pub(super) async fn read_block(
        &self,
        block: &BlockRef,
        offset: u32,
        len: u32,
        deadline: Instant,
    ) -> Result<Bytes, Unread> {
        let mut map = self.map();
        if !map.groups.contains_key(&block.group)
            && let Ok(newer) = self.refresh_map(deadline).await
        {
            map = newer;
        }
        let mut waiting = self.replicas(&map, block).into_iter();
        let mut unread = Unread { tried: Vec::new(), transient: false };
        let request = DataRequest::Get { block: *block, offset, len };
        let ask = |server: Arc<DataServer>| {
            let request = &request;
            async move {
                let began = runtime::now();
                let timeout = deadline.saturating_duration_since(began).min(ATTEMPT_TIMEOUT);
                let result = server.call(request, Bytes::new(), timeout).await;
                (server, began.elapsed(), result.and_then(|answer| verify(block, offset, len, answer)))
            }
        };
        let mut running = FuturesUnordered::new();
        let mut silent: Vec<Arc<DataServer>> = Vec::new();
        let mut hedge_at = runtime::now();
        loop {
            // Asked next: when nobody is being asked, or those who are have been silent too long.
            if (running.is_empty() || runtime::now() >= hedge_at)
                && let Some(server) = waiting.next()
            {
                hedge_at = runtime::now() + hedge_after(server.usual(Work::Get));
                silent.push(server.clone());
                running.push(ask(server));
            }
            if running.is_empty() {
                return Err(unread);
            }
            let more = waiting.len() > 0;
            let (server, time, result) = tokio::select! {
                Some(done) = running.next() => done,
                // Nothing is dropped: the silent ones stay in `running`.
                () = runtime::sleep_until(hedge_at), if more => continue,
            };
            silent.retain(|s| s.node != server.node);
            match result {
                Ok(bytes) => {
                    server.took(Work::Get, time);
                    for slow in silent {
                        tracing::debug!(block = %block.id, replica = slow.node.0, step = "get", "silent replica is avoided");
                        slow.avoid();
                    }
                    return Ok(bytes);
                }
                Err(error) => {
                    tracing::debug!(block = %block.id, replica = server.node.0, step = "get", reason = %error, "next replica");
                    let definite = matches!(
                        error,
                        RpcError::BlockNotFound { .. }
                            | RpcError::BlockCorrupt { .. }
                            | RpcError::Refused { .. }
                    );
                    unread.transient |= !definite;
                    if !definite && !error.is_busy() {
                        server.avoid();
                    }
                    unread.tried.push((server.node, server.address.clone(), error.to_string()));
                    hedge_at = runtime::now();
                }
            }
        }
    }
}

/// The bytes, if they are what was asked for.
fn verify(block: &BlockRef, offset: u32, len: u32, answer: Answer) -> Result<Bytes, RpcError> {
    let Answer { reply, payload: bytes, payload_crc } = answer;
    if !matches!(reply, DataReply::Bytes) || bytes.len() != len as usize {
        return Err(RpcError::Refused {
            reason: format!("{} bytes instead of {len}, {reply:?}", bytes.len()),
        });
    }
    if offset == 0 && len == block.len {
        // They were summed when they arrived.
        let checksum = payload_crc.unwrap_or_else(|| Checksum::of(&bytes));
        if checksum != block.checksum {
            return Err(RpcError::BlockCorrupt { block: block.id });
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_servers_come_last_and_fast_ones_first() {
        let ms = |n| Some(Duration::from_millis(n));
        let fast = rank(NodeState::Up, false, ms(1), 1023);
        assert!(fast < rank(NodeState::Up, false, ms(10), 0));
        assert!(rank(NodeState::Up, false, ms(10), 0) < rank(NodeState::Up, true, ms(1), 0));
        assert!(rank(NodeState::Up, true, None, 0) < rank(NodeState::Suspect, false, None, 0));
        assert!(rank(NodeState::Suspect, false, None, 0) < rank(NodeState::Down, false, None, 0));
    }

    #[test]
    fn servers_that_are_alike_take_turns() {
        let ms = Some(Duration::from_millis(2));
        assert!(rank(NodeState::Up, false, ms, 0) < rank(NodeState::Up, false, ms, 1000));
    }
}
