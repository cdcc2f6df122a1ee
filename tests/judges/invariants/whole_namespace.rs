//! The invariants of the namespace hold: link counts, no cycles, no orphan dentries, extents, reference counts (`namespace::check`).

use std::time::Duration;

use pohmelfs::client::Client;
use pohmelfs::wire::message::{MetaReply, MetaRequest};

/// Asks a server to test its whole state.
pub async fn broken(client: &Client) -> Vec<String> {
    match client.request(&MetaRequest::Check, Duration::from_secs(60)).await {
        Ok(MetaReply::Checked { violations, .. }) => {
            violations.into_iter().map(|violation| format!("namespace: {violation}")).collect()
        }
        other => vec![format!("the check of the namespace was answered {other:?}")],
    }
}
