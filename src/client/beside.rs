//! Exact answers in one round trip: one server answers while others say how far their logs go.
//!
//! `core` tries this first for every query and asks for an exact answer (`exchange`) when it gives none. The caller does the
//! part of `meta::quorum` itself: an update that was acknowledged before the question is in the log of a server of any
//! majority; so if all of a majority say, after the question, that their logs end where the state ended that answered,
//! the answer shows it. The server tests that they are a majority of its voters. (Decision 0013.)
//!
//! Holds: the witnesses are asked after the query began, and it counts who they say they are. While updates are on their way
//! it mostly fails: after a failure some queries go the other way at once.
//! Not here: resends, deadlines of calls (`exchange`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use futures::future::{join, try_join_all};

use crate::runtime::{self, Instant};
use crate::types::{Cred, Epoch, FsResult, NodeId, Query, QueryReply, codec};
use crate::wire::RpcError;
use crate::wire::message::{MetaReply, MetaRequest, Reading, kind};

use super::exchange::{ATTEMPT_TIMEOUT, blames_server};
use super::servers::{LogEnd, MetaServer, MetaServers};
use super::silence::unless_silent;

/// Queries that go the other way after a failure, and at most after failures in a row, each time twice as many.
const PAUSE: u32 = 4;
const PAUSE_MAX: u32 = 64;

/// A query before it is known how it is asked.
pub(super) struct Question<'c> {
    pub(super) cred: &'c Cred,
    pub(super) query: Query,
    /// Of the map that the caller holds.
    pub(super) epoch: Epoch,
}

impl Question<'_> {
    /// As a request.
    pub(super) fn request(&self, reading: Reading) -> MetaRequest {
        MetaRequest::Query { cred: self.cred.clone(), query: self.query.clone(), epoch: self.epoch, reading }
    }
}

/// An exact answer.
pub(super) struct Answer {
    pub(super) result: FsResult<QueryReply>,
    /// Of the cluster map at the server.
    pub(super) epoch: Epoch,
}

/// What came of a try.
#[derive(Default)]
pub(super) struct Tried {
    /// None: ask for an exact answer.
    pub(super) answer: Option<Answer>,
    /// A server was found failing just now.
    pub(super) suspects: bool,
}

/// Whether this way is worth a try.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Queries that still go the other way.
    skipped: AtomicU32,
    /// How many do after the next failure; 0 after a success.
    pause: AtomicU32,
}

impl Beside {
    /// Asks a majority, if it is known and this way has led there lately.
    pub(super) async fn ask(
        &self,
        servers: &MetaServers,
        deadline: Instant,
        question: &Question<'_>,
    ) -> Tried {
        if self.is_pausing() {
            return Tried::default();
        }
        let start = servers.start_about(question.query.subject());
        let Some(majority) = servers.majority(start) else { return Tried::default() };
        let names = majority.witnesses.iter().map(|(node, _)| *node).collect();
        // One that is too long is refused with its reason on the other way.
        let Ok(meta) = codec::encode(&question.request(Reading::Beside(names))) else {
            return Tried::default();
        };
        let left = deadline.saturating_duration_since(runtime::now()).min(ATTEMPT_TIMEOUT);
        let channel = majority.asked.channel();
        let call = channel.call(kind::META, meta, Bytes::new(), left);
        let found_silent = AtomicBool::new(false);
        let suspected = || found_silent.store(true, Ordering::Relaxed);
        let asked = unless_silent(servers, &majority.asked, suspected, call);
        let witnesses = try_join_all(majority.witnesses.iter().map(|(node, server)| witness(*node, server)));
        let (reply, ends) = join(asked, witnesses).await;
        let mut tried = Tried { suspects: found_silent.into_inner(), ..Tried::default() };
        let mut failed = |server: &MetaServer, error: &RpcError| {
            tracing::debug!(server = %server.address(), %error, "a metadata server did not answer a read");
            tried.suspects |= blames_server(error) && server.failed();
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                failed(&majority.asked, &error);
                if blames_server(&error) {
                    servers.leave(start);
                }
                return tried;
            }
        };
        let ends = ends.unwrap_or_else(|(server, error)| {
            failed(server, &error);
            vec![None]
        });
        if let Some(leader) = ends.iter().flatten().find_map(|end| end.leader) {
            servers.note_leader(Some(leader));
        }
        if let Ok(MetaReply::Answered { result, epoch, as_of, .. }) = codec::decode(&reply.meta) {
            majority.asked.answered();
            let helped =
                as_of.is_some_and(|as_of| ends.iter().all(|end| end.is_some_and(|end| end.index <= as_of)));
            self.note(helped);
            if helped || as_of.is_none() {
                tried.answer = Some(Answer { result, epoch });
            }
        }
        tried
    }

    fn is_pausing(&self) -> bool {
        if self.skipped.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // Two that count down the last one at a time: one of them tries.
        self.skipped.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn note(&self, helped: bool) {
        if helped {
            if self.pause.load(Ordering::Relaxed) != 0 {
                self.pause.store(0, Ordering::Relaxed);
            }
            return;
        }
        let pause = (self.pause.load(Ordering::Relaxed) * 2).clamp(PAUSE, PAUSE_MAX);
        self.pause.store(pause, Ordering::Relaxed);
        self.skipped.store(pause, Ordering::Relaxed);
    }
}

/// The end of the log of `server`, which was named as `node`; none from another one.
async fn witness(node: NodeId, server: &Arc<MetaServer>) -> Result<Option<LogEnd>, (&MetaServer, RpcError)> {
    match server.accepted().await {
        // If another node answers at this address now, the next question names that one.
        Ok(end) => Ok((end.node == node).then_some(end)),
        Err(error) => Err((server, error)),
    }
}
