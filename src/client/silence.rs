//! Noticing that a metadata server is silent, long before a call to it would be given up.
//!
//! An answer may take long because the server waits, for an election, a disk or another server. It is alive then, and says at
//! once how far its log goes, which it has in memory. One that does not say so is stopped, cut off or dead. Holds: all servers
//! that are not suspect are asked too, so a caller that waits at a server that is alive does not go to a silent one after it; a server is
//! left only when it is silent itself. Not here: where the call goes then (`exchange`, `beside`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::runtime;
use crate::wire::{Applied, RpcError};

use super::servers::{MetaServer, MetaServers};

/// How long an answer is waited for before the servers are asked for a sign of life, and between two such questions. Several
/// times what a busy disk takes.
const LATE: Duration = Duration::from_millis(300);

/// The answer of `call` to `asked`, or the error that this server gives no sign of life. `suspected` is called when a server is
/// newly found to be silent.
///
/// # Errors
/// As `call`, and [`RpcError::TimedOut`], after which the call may have taken effect.
pub(super) async fn unless_silent<T>(
    servers: &MetaServers,
    asked: &Arc<MetaServer>,
    suspected: impl Fn(),
    call: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    let began = runtime::now();
    let silence = async {
        loop {
            runtime::sleep(LATE).await;
            if is_silent(servers, asked, &suspected).await {
                return;
            }
        }
    };
    tokio::select! {
        // A caller that was not run for a while finds the answer, not the time that has passed.
        biased;
        answer = call => answer,
        () = silence => {
            let peer = asked.address().clone();
            Err(RpcError::TimedOut { peer, after: began.elapsed(), applied: Applied::Maybe })
        }
    }
}

/// Asks `asked` and all that are not suspect, and marks those that do not answer. Whether `asked` is one of them.
async fn is_silent(servers: &MetaServers, asked: &Arc<MetaServer>, suspected: &impl Fn()) -> bool {
    let list = servers.list();
    let others = list.iter().filter(|server| !server.is_suspect() && !Arc::ptr_eq(server, asked));
    let signs = others.chain([asked]).map(|server| async move {
        let sign = server.sign_of_life().await;
        (server, sign)
    });
    let mut found = false;
    for (server, sign) in join_all(signs).await {
        let Err(error @ (RpcError::TimedOut { .. } | RpcError::Unreachable { .. })) = sign else { continue };
        if server.failed() {
            tracing::debug!(server = %server.address(), %error, "metadata server gives no sign of life and is avoided");
            suspected();
        }
        found |= Arc::ptr_eq(server, asked);
    }
    found
}
