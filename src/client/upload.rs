//! Making one block durable: a group is chosen, all its members get the block, stragglers are left behind.
//!
//! `file` and `transfer` call [`Core::upload`]. Holds: a reference comes back only for a block that at least `durable_min` members of
//! its group have confirmed as durable; every attempt uses a block id never used before, so what an abandoned
//! attempt left behind is garbage that nobody will ever read. Not here: publishing the reference.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::placement::choose;
use crate::runtime::{self, Instant};
use crate::types::{BlockId, BlockRef, Checksum, ClusterMap, FsError, GroupId, NodeId};
use crate::wire::message::{DataReply, DataRequest};

use super::core::Core;
use super::data_servers::{Answer, DataServer, Work};
use super::error::ClientError;
use super::session::Session;

/// Least time a straggler gets once the write rule is met.
const STRAGGLER_MIN: Duration = Duration::from_millis(250);
/// Time for the write rule to be met before another group is tried; more where writes usually take long.
const GROUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after an attempt that failed, doubled with each up to [`NO_GROUP_PAUSE`]. A channel whose server refuses
/// connections answers at once, without waiting for anything: with no pause the attempts of a writer would never yield.
const FAILED_PAUSE: Duration = Duration::from_millis(5);
/// Pause when no group can be chosen.
const NO_GROUP_PAUSE: Duration = Duration::from_millis(100);

/// Where an attempt goes.
struct Target {
    group: GroupId,
    servers: Vec<Arc<DataServer>>,
    /// Members that failed a moment ago: asked when the others do not do.
    spare: Vec<Arc<DataServer>>,
}

/// How an attempt ended.
struct Attempt {
    durable_count: usize,
    last_error: Option<String>,
}

/// How long to wait for the members that are still silent, given whether the write rule is met and the slowest usual
/// time of the members.
fn patience(rule_met: bool, usual: Option<Duration>) -> Duration {
    let adaptive = usual.unwrap_or_default() * 4;
    if rule_met { adaptive.max(STRAGGLER_MIN) } else { adaptive.max(GROUP_TIMEOUT) }
}

/// Pause before the next attempt: none behind the first, for another group is most likely well.
fn pause_after(failed_count: u32) -> Duration {
    match failed_count {
        0 => Duration::ZERO,
        n => FAILED_PAUSE.saturating_mul(1 << (n - 1).min(8)).min(NO_GROUP_PAUSE),
    }
}

/// True if some group could take a block, and none has room for one of `len` bytes.
fn is_full(map: &ClusterMap, len: u64) -> bool {
    choose(map, len, 0, &[]).is_none() && choose(map, 0, 0, &[]).is_some()
}

impl Core {
    /// Makes `bytes` (1 to the length of a block) durable as a new block.
    ///
    /// # Errors
    /// ENOSPC when groups could take a block and none has room for it; [`ClientError::NotDurable`] when no group took it
    /// before `deadline`; that the session is gone.
    pub(super) async fn upload(
        &self,
        session: &Session,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<BlockRef, ClientError> {
        let began = runtime::now();
        let len = u32::try_from(bytes.len()).map_err(|_| ClientError::Protocol("block too long".into()))?;
        let checksum = Checksum::of(&bytes);
        let mut last = String::from("no group may take blocks");
        let mut failed_count = 0;
        loop {
            if session.is_gone() {
                return Err(ClientError::SessionExpired { session: session.id() });
            }
            if let Some(target) = self.target(u64::from(len)) {
                let id = session.next_block();
                let durable_min = usize::from(self.map().layout.durable_min.max(1));
                let attempt = store(&target, id, checksum, &bytes, durable_min, deadline).await;
                if attempt.durable_count >= durable_min {
                    return Ok(BlockRef { id, group: target.group, len, checksum });
                }
                last = attempt.last_error.unwrap_or(last);
                tracing::debug!(block = %id, group = target.group.0, reason = %last, "block goes to another group");
                runtime::sleep(pause_after(failed_count)).await;
                failed_count += 1;
            } else if runtime::now() < deadline {
                // The map may know of servers that are back.
                match self.refresh_map(deadline).await {
                    // Servers are there and room is not: waiting would not help.
                    Ok(map) if is_full(&map, u64::from(len)) => return Err(FsError::NoSpace.into()),
                    Ok(_) => {}
                    Err(error) => last = error.to_string(),
                }
                runtime::sleep(NO_GROUP_PAUSE).await;
            }
            if runtime::now() >= deadline {
                return Err(ClientError::NotDurable { after: began.elapsed(), last });
            }
        }
    }

    /// A group, and those of its members worth asking. Servers that just failed are avoided while there is a choice.
    fn target(&self, len: u64) -> Option<Target> {
        let map = self.map();
        let avoided = self.data.avoided();
        let seed = runtime::random_u64();
        let (choice, avoid): (_, &[NodeId]) = match choose(&map, len, seed, &avoided) {
            Some(choice) => (choice, &avoided),
            None => (choose(&map, len, seed, &[])?, &[]),
        };
        let usable =
            map.members(choice.group.group).filter(|n| n.state.takes_blocks() && n.capacity.free >= len);
        let (spare, servers): (Vec<_>, Vec<_>) =
            usable.map(|n| self.data.get(&map, n)).partition(|server| avoid.contains(&server.node));
        Some(Target { group: choice.group.group, servers, spare })
    }
}

/// Sends the block to all servers of the target, and to its spare ones when those do not do or take long; returns when all
/// answered, or the stragglers had their time.
async fn store(
    target: &Target,
    id: BlockId,
    checksum: Checksum,
    bytes: &Bytes,
    durable_min: usize,
    deadline: Instant,
) -> Attempt {
    let began = runtime::now();
    let request = DataRequest::Put { id, checksum };
    let usual = target.servers.iter().filter_map(|s| s.usual(Work::Put)).max();
    let put = |server: Arc<DataServer>| {
        let (request, bytes) = (&request, bytes.clone());
        async move {
            let result = server.call(request, bytes, deadline.saturating_duration_since(began)).await;
            (server, result)
        }
    };
    let mut running: FuturesUnordered<_> = target.servers.iter().cloned().map(put).collect();
    let mut silent: Vec<Arc<DataServer>> = target.servers.clone();
    let mut spare = target.spare.clone();
    let mut attempt = Attempt { durable_count: 0, last_error: None };
    let mut limit = deadline.min(began + patience(false, usual));
    let late = limit.min(began + patience(true, usual));
    loop {
        let cannot_be_met = attempt.durable_count + silent.len() < durable_min;
        if cannot_be_met && spare.is_empty() {
            // Do not wait for the rest.
            return attempt;
        }
        if cannot_be_met || (!spare.is_empty() && runtime::now() >= late) {
            silent.extend(spare.iter().cloned());
            running.extend(spare.drain(..).map(put));
        }
        let next = tokio::select! {
            next = running.next() => next,
            () = runtime::sleep_until(late), if !spare.is_empty() => continue,
            () = runtime::sleep_until(limit) => {
                // What is dropped with `running` are requests to servers that had their time.
                for server in &silent {
                    tracing::warn!(block = %id, replica = server.node.0, step = "put", reason = "silent", "replica left behind");
                    attempt.last_error = Some(format!("node {} at {} is silent", server.node, server.address));
                    server.avoid();
                }
                return attempt;
            }
        };
        let Some((server, result)) = next else { return attempt };
        silent.retain(|s| s.node != server.node);
        match result {
            Ok(Answer { reply: DataReply::Stored, .. }) => {
                server.took(Work::Put, began.elapsed());
                attempt.durable_count += 1;
                if attempt.durable_count == durable_min {
                    spare.clear();
                    limit = deadline.min(runtime::now() + patience(true, usual));
                }
            }
            Ok(Answer { reply: other, .. }) => {
                attempt.last_error = Some(format!("node {} answered {other:?} to a put", server.node));
                server.avoid();
            }
            Err(error) => {
                // Said once: one that is full or gone refuses every attempt until the deadline.
                if server.is_avoided() {
                    tracing::debug!(block = %id, replica = server.node.0, step = "put", reason = %error, "replica refused again");
                } else {
                    tracing::warn!(block = %id, replica = server.node.0, step = "put", reason = %error, "replica refused");
                }
                attempt.last_error = Some(error.to_string());
                if !error.is_busy() {
                    server.avoid();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With all data servers down, three writers took both threads of a process for 30 s, until their deadline. Nothing
    /// else in it ran, keep-alives among it: all its sessions expired, and calls of others failed.
    #[test]
    fn attempts_that_fail_at_once_are_spaced() {
        assert_eq!(pause_after(0), Duration::ZERO);
        let pauses: Vec<_> = (1..100).map(pause_after).collect();
        assert!(pauses.is_sorted() && pauses[0] > Duration::ZERO, "{pauses:?}");
        assert_eq!(pauses.last(), Some(&NO_GROUP_PAUSE));
    }

    #[test]
    fn a_straggler_gets_a_quarter_second_or_four_times_the_usual() {
        let ms = Duration::from_millis;
        assert_eq!(patience(true, None), ms(250));
        assert_eq!(patience(true, Some(ms(10))), ms(250));
        assert_eq!(patience(true, Some(ms(100))), ms(400));
        assert_eq!(patience(false, Some(ms(100))), GROUP_TIMEOUT);
        assert_eq!(patience(false, Some(ms(900))), ms(3600));
    }
}
