//! What a client does in the background: keep-alives, the newest map, settling, probing.
//!
//! Started by `Client::connect`, ended by `close` or the last drop. Holds: none of them is on the path of a call.
//! Each loop ends at the stop signal; what a dropped branch of a select loses is said there.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::runtime::{self, StopSignal};
use crate::types::{Cred, InodeId, Query, Update, codec};
use crate::wire::message::{KeepAlive, MetaReply, MetaRequest, Reading, kind};

use super::ClientError;
use super::core::Core;
use super::exchange::Patience;
use super::session::{Session, Ticket};

/// Keep-alives in the life of a session: the cluster may take a second or two for an election, and several may be lost
/// on the way.
const KEEP_ALIVES: u32 = 4;
/// Pause between two probes of servers that failed.
const PROBE_PERIOD: Duration = Duration::from_millis(250);
/// Longest wait for the answer to a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long ending the session may take; it expires by itself otherwise.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a worker's own exchange failed, before the next try.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Starts them.
pub(super) fn start(core: &Arc<Core>, settling: mpsc::UnboundedReceiver<Ticket>) {
    let tasks = &core.tasks;
    tasks.spawn("client-keep-alive", keep_alive(core.clone(), tasks.stopping()));
    tasks.spawn("client-map", follow_map(core.clone(), tasks.stopping()));
    tasks.spawn("client-settle", settle(core.clone(), settling, tasks.stopping()));
    tasks.spawn("client-probe", probe(core.clone(), tasks.stopping()));
}

/// Keeps whatever session there is; ends it at the stop.
async fn keep_alive(core: Arc<Core>, stop: StopSignal) {
    let mut heard = true;
    loop {
        let session = core.live_session();
        // Without a session the next call opens one; look again soon enough for its first keep-alive.
        let pause = match session.as_ref() {
            None => Duration::from_secs(1),
            Some(session) if heard => session.ttl() / KEEP_ALIVES,
            Some(_) => RETRY_PAUSE,
        };
        tokio::select! {
            () = stop.stopped() => break,
            // Nothing is lost: the pause begins again.
            () = runtime::sleep(pause.max(Duration::from_millis(50))) => {}
        }
        let Some(session) = core.live_session() else { continue };
        tokio::select! {
            () = stop.stopped() => break,
            // A keep-alive that is cut off says no more than the end of the session that follows it.
            answered = keep_once(&core, &session) => heard = answered,
        }
    }
    if let Some(session) = core.live_session() {
        let mut ticket = Ticket::take(&session, &Cred::root(), Update::CloseSession, &core.settle).await;
        let deadline = runtime::now() + CLOSE_TIMEOUT;
        if let Err(error) = core.run(&mut ticket, deadline).await {
            tracing::debug!(session = session.id().0, %error, "session not closed: it will expire");
        }
        // The session ends here either way; nobody settles its last request.
        session.set_gone();
    }
}

/// One keep-alive, and the answers to what it asks. False if nobody answered.
async fn keep_once(core: &Core, session: &Session) -> bool {
    let mut handles: Vec<(InodeId, bool)> = Vec::new();
    loop {
        let request = MetaRequest::KeepAlive(KeepAlive { session: session.id(), handles });
        match core.request(&request, Patience::Short, runtime::now() + session.ttl() / KEEP_ALIVES).await {
            Ok(MetaReply::KeptAlive { ask, epoch }) => {
                if epoch > core.epoch() {
                    core.map_wanted.notify_one();
                }
                if ask.is_empty() {
                    return true;
                }
                handles = ask.into_iter().map(|inode| (inode, session.may_hold(inode))).collect();
            }
            Ok(MetaReply::SessionGone) => {
                tracing::warn!(session = session.id().0, "session has expired: open files are lost");
                session.set_gone();
                return true;
            }
            Ok(other) => {
                tracing::warn!(answer = ?other, "unexpected answer to a keep-alive");
                return true;
            }
            Err(error) => {
                tracing::warn!(session = session.id().0, %error, "keep-alive failed");
                return false;
            }
        }
    }
}

/// Fetches the map whenever somebody saw a newer epoch.
async fn follow_map(core: Arc<Core>, stop: StopSignal) {
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            // A wish that is dropped here is dropped with the client.
            () = core.map_wanted.notified() => {}
        }
        let fetched = tokio::select! {
            () = stop.stopped() => return,
            // Fetching changes nothing at the server.
            fetched = core.refresh_map(core.deadline()) => fetched,
        };
        if let Err(error) = fetched {
            // The client was closed a moment before its tasks were told.
            if matches!(error, ClientError::Closed) {
                return;
            }
            tracing::warn!(%error, "cluster map not refreshed");
            runtime::sleep(RETRY_PAUSE).await;
            core.map_wanted.notify_one();
        }
    }
}

/// Resends dropped calls of unknown outcome until they are answered.
async fn settle(core: Arc<Core>, mut dropped: mpsc::UnboundedReceiver<Ticket>, stop: StopSignal) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Whatever is unsettled ends with the session, which the keep-alive worker is closing.
            () = stop.stopped() => return,
            Some(ticket) = dropped.recv() => running.push(settle_one(&core, ticket)),
            Some(()) = running.next() => {}
        }
    }
}

async fn settle_one(core: &Core, mut ticket: Ticket) {
    while !ticket.session().is_gone() {
        match core.run(&mut ticket, core.deadline()).await {
            Err(super::ClientError::Rpc { last, .. }) => {
                tracing::debug!(error = %last, "a dropped call is not settled yet");
                runtime::sleep(RETRY_PAUSE).await;
            }
            // Any answer settles it.
            _ => break,
        }
    }
    ticket.answered();
}

/// Asks servers that failed until they answer, so that no call has to find out; and at the start those that no call has gone to, so
/// that it is known who they are (`servers::majority`).
async fn probe(core: Arc<Core>, stop: StopSignal) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            () = runtime::sleep(pause) => {}
        }
        pause = PROBE_PERIOD;
        let silent: Vec<_> = core.servers.list().iter().filter(|s| s.is_to_be_probed()).cloned().collect();
        if silent.is_empty() {
            tokio::select! {
                () = stop.stopped() => return,
                () = core.probe_wanted.notified() => continue,
            }
        }
        let query = Query::Map { newer_than: core.epoch() };
        // Linearizable: a server cut off from the majority must not pass.
        let request =
            MetaRequest::Query { cred: Cred::root(), query, epoch: core.epoch(), reading: Reading::Exact };
        let Ok(meta) = codec::encode(&request) else { return };
        let ask = silent.iter().map(|server| {
            let meta = meta.clone();
            async move {
                match server.channel().call(kind::META, meta, bytes::Bytes::new(), PROBE_TIMEOUT).await {
                    Ok(_) => server.answered(),
                    Err(error) => {
                        if server.failed() {
                            tracing::debug!(server = %server.address(), %error, "metadata server is avoided");
                        }
                    }
                }
            }
        });
        tokio::select! {
            () = stop.stopped() => return,
            _ = futures::future::join_all(ask) => {}
        }
        // Now more is known of who they are. In the runtime that the client was made in: connections may be made.
        {
            let _home = core.home.enter();
            core.servers.learn(&core.map());
        }
    }
}
