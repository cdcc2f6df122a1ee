//! The steps of an operator who changes the members: each is made of small requests that may be sent again.
//!
//! `pohmelfs cluster` takes them for a person, `tests/simulation` in virtual time. Holds: a refusal is an answer, not a failure; a failure
//! says that nothing is known of the outcome, and the same step may be taken again.
//! Not here: what is shown of it (`mod`), and whether a change may be (`meta/members.rs`).

use std::io::IsTerminal;
use std::time::Duration;

use bytes::Bytes;

use super::super::status;
use super::Failure;
use crate::net::Channel;
use crate::runtime::{self, Instant};
use crate::types::{NodeAddress, NodeId, codec};
use crate::wire::RpcError;
use crate::wire::members::{MembersOutcome, MembersRequest, Refusal};
use crate::wire::message::{MetaReply, MetaRequest, kind};
use crate::wire::status::ClusterStatus;

/// Longest time for a change to be answered, elections included.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for one server: a change takes some commits, and a hand-over before it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server that is to catch up may be silent before the command gives up.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Between two looks at how far a new server has come.
const LOOK: Duration = Duration::from_millis(500);
/// Between two tries while no server knows a leader.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// What the leader made of a change.
pub type Outcome = Result<MembersOutcome, Refusal>;

/// Whoever changes the members of a cluster, with connections to its metadata servers.
#[derive(Debug)]
pub struct Operator {
    channels: Vec<(NodeAddress, Channel)>,
}

impl Operator {
    /// One who knows these metadata servers; others are found through them. To be called inside a runtime.
    #[must_use]
    pub fn new(servers: &[NodeAddress]) -> Self {
        Self { channels: status::channels(servers) }
    }

    /// Makes a server that waits a learner; with `promote`, waits at most so long for it to catch up and makes it a voter.
    ///
    /// # Errors
    /// Nothing is known of the outcome.
    pub async fn add(
        &mut self,
        node: NodeId,
        address: NodeAddress,
        promote: Option<Duration>,
    ) -> Result<Outcome, Failure> {
        match (self.change(&MembersRequest::Add { node, address }).await?, promote) {
            (Ok(_), Some(wait)) => self.wait_for(&MembersRequest::Promote { node }, node, wait).await,
            (outcome, _) => Ok(outcome),
        }
    }

    /// Makes a learner a voter; with `wait`, waits at most so long for it to catch up.
    ///
    /// # Errors
    /// Nothing is known of the outcome.
    pub async fn promote(&mut self, node: NodeId, wait: Option<Duration>) -> Result<Outcome, Failure> {
        let request = MembersRequest::Promote { node };
        match wait {
            Some(wait) => self.wait_for(&request, node, wait).await,
            None => self.change(&request).await,
        }
    }

    /// Removes a member for ever.
    ///
    /// # Errors
    /// Nothing is known of the outcome.
    pub async fn remove(&mut self, node: NodeId) -> Result<Outcome, Failure> {
        self.change(&MembersRequest::Remove { node }).await
    }

    /// Puts a new server in the place of a voter; waits at most `wait` for it to catch up.
    ///
    /// # Errors
    /// Nothing is known of the outcome.
    pub async fn replace(
        &mut self,
        old: NodeId,
        new: NodeId,
        address: NodeAddress,
        wait: Duration,
    ) -> Result<Outcome, Failure> {
        let status = self.look().await?;
        if old == new {
            return Ok(Err(Refusal::SameNode));
        }
        // Before anything is changed: nobody is added for the sake of one who is not there.
        match status.meta.iter().find(|m| m.node == old).map(|m| m.role.as_str()) {
            Some("voter" | "leaving") => {}
            Some("learner") => return Ok(Err(Refusal::NotVoter { node: old })),
            _ if status.removed.contains(&old) => {}
            _ => return Ok(Err(Refusal::Unknown { node: old })),
        }
        if status.removed.contains(&old) {
            // Either this command was done already, or `old` went in another way: then the new one is a matter of `add`.
            let is_in = status.meta.iter().any(|m| m.node == new && m.role == "voter");
            return Ok(if is_in { Ok(MembersOutcome::Already) } else { Err(Refusal::Removed { node: old }) });
        }
        match self.change(&MembersRequest::Add { node: new, address }).await? {
            Ok(_) => {}
            refused => return Ok(refused),
        }
        self.wait_for(&MembersRequest::Replace { old, new }, new, wait).await
    }

    /// Lets another voter lead: `to`, or the one that has most of the log. Gives the request that was made of it, too.
    ///
    /// # Errors
    /// No leader is known, or nothing of the outcome.
    pub async fn transfer_leader(
        &mut self,
        to: Option<NodeId>,
    ) -> Result<(MembersRequest, Outcome), Failure> {
        let Some(from) = self.look().await?.leader else {
            return Err(Failure::new(
                "no metadata leader is known: start metadata servers until a majority runs",
            ));
        };
        let request = MembersRequest::TransferLeader { from, to };
        let outcome = self.change(&request).await?;
        Ok((request, outcome))
    }

    /// The cluster as a server sees it that knows a leader, if there is one.
    pub(super) async fn look(&mut self) -> Result<ClusterStatus, Failure> {
        let status = status::ask(&self.channels).await?;
        // The leader first: nobody has to pass it on. And those that were given may be the ones that go.
        for member in status.meta.iter().filter(|m| m.role == "voter" && m.reachable) {
            let address = NodeAddress(member.address.clone());
            if !self.channels.iter().any(|(known, _)| *known == address) {
                self.channels.extend(status::channels(&[address]));
            }
        }
        let leader = status.meta.iter().find(|m| Some(m.node) == status.leader).map(|m| m.address.clone());
        self.channels.sort_by_key(|(address, _)| Some(&address.0) != leader.as_ref());
        Ok(status)
    }

    /// Sends a request to one server after the other until one answers, the leader first.
    pub(super) async fn change(&mut self, request: &MembersRequest) -> Result<Outcome, Failure> {
        let bytes = codec::encode(&MetaRequest::Members(request.clone())).map_err(Failure::new)?;
        let deadline = runtime::now() + CHANGE_TIMEOUT;
        let mut last = String::new();
        while runtime::now() < deadline {
            // Without a leader each of them would wait for one as long as it may.
            if self.look().await?.leader.is_none() {
                last = "no metadata leader is known: a majority of metadata servers must run".into();
                runtime::sleep(PAUSE).await;
                continue;
            }
            for (address, channel) in &self.channels {
                let left = deadline.saturating_duration_since(runtime::now()).min(ATTEMPT_TIMEOUT);
                let error = match channel.call(kind::META, bytes.clone(), Bytes::new(), left).await {
                    Ok(reply) => match codec::decode(&reply.meta) {
                        Ok(MetaReply::Members(outcome)) => return Ok(outcome),
                        Ok(other) => return Err(Failure::new(format!("{address} answered {other:?}"))),
                        Err(e) => return Err(Failure::new(format!("{address}: {e}"))),
                    },
                    Err(e) => e,
                };
                if let RpcError::Refused { .. } = error {
                    return Err(Failure::new(format!("{address}: {error}")));
                }
                last = format!("{address}: {error}");
            }
            runtime::sleep(PAUSE).await;
        }
        Err(Failure::new(format!(
            "nothing is known of the outcome, send the command again (it is not done twice). Last: {last}"
        )))
    }

    /// Repeats a request until `node` has caught up, and says how far it is.
    async fn wait_for(
        &mut self,
        request: &MembersRequest,
        node: NodeId,
        wait: Duration,
    ) -> Result<Outcome, Failure> {
        let deadline = runtime::now() + wait;
        let mut progress = Progress::default();
        let mut silent_since: Option<Instant> = None;
        loop {
            let outcome = self.change(request).await?;
            match &outcome {
                Err(refusal) if refusal.mends_itself() && runtime::now() < deadline => {
                    let lag = match refusal {
                        Refusal::Behind { lag, .. } => Some(*lag),
                        _ => self.look().await.ok().and_then(|status| {
                            status.meta.iter().find(|m| m.node == node).and_then(|m| m.lag)
                        }),
                    };
                    progress.say(node, lag);
                }
                // It has only just become a learner, and its connection is being made; or it is being started again.
                Err(Refusal::Unreachable { .. })
                    if silent_since.is_none_or(|since| since.elapsed() < SILENCE_MAX) =>
                {
                    silent_since.get_or_insert_with(runtime::now);
                    progress.say(node, None);
                    runtime::sleep(LOOK).await;
                    continue;
                }
                _ => {
                    progress.end();
                    return Ok(outcome);
                }
            }
            silent_since = None;
            runtime::sleep(LOOK).await;
        }
    }
}

/// A line that says how far a new server is: rewritten on a terminal, else repeated when there is news.
#[derive(Default)]
struct Progress {
    said: Option<(Instant, Option<u64>)>,
}

impl Progress {
    fn say(&mut self, node: NodeId, lag: Option<u64>) {
        let lacks = lag
            .map_or_else(|| "catches up".to_owned(), |lag| format!("catches up: it lacks {lag} log entries"));
        let terminal = std::io::stderr().is_terminal();
        let news =
            self.said.is_none_or(|(at, before)| before != lag && at.elapsed() >= Duration::from_secs(2));
        if terminal {
            eprint!("\r\x1b[Kmetadata server {node} {lacks}");
        } else if news {
            eprintln!("metadata server {node} {lacks}");
        }
        if news {
            self.said = Some((runtime::now(), lag));
        }
    }

    fn end(&self) {
        if self.said.is_some() && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
