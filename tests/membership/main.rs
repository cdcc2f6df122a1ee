//! Metadata servers are added, replaced and removed while real processes work: nothing fails, nothing is lost, nothing is
//! done twice, and nobody's configuration has to change first.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

#[path = "../common/mod.rs"]
mod common;

mod grow;
mod refusals;
mod replace;
mod transfer;

use common::{Cluster, until};
use serde_json::Value;

/// Starts a new server and waits until it waits. Gives its index and its address.
async fn stranger(cluster: &mut Cluster, id: u64) -> (usize, String) {
    let index = cluster.start_stranger(id);
    until("the new server to wait as a stranger", async || {
        let (status, meta) = cluster.meta_status(index).await?;
        let says = status.reason.contains(&format!("pohmelfs cluster add {id}"));
        if meta.raft_state == "stranger" && says && !status.ready { Ok(()) } else { Err(status.reason) }
    })
    .await;
    (index, cluster.nodes[index].address.clone())
}

/// `pohmelfs cluster ...`, with the result as JSON; or the complaint.
fn cluster_command(cluster: &Cluster, arguments: &[&str]) -> Result<Value, String> {
    let output = cluster.command(&[&["cluster", "--json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value: Value = serde_json::from_str(&text)
        .map_err(|e| format!("{arguments:?}: {e}: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    assert_eq!(output.status.success(), value["outcome"] != "refused", "{value}");
    if value["outcome"] == "refused" { Err(value["reason"].as_str().unwrap().to_owned()) } else { Ok(value) }
}

/// As above, and it must be done.
fn done(cluster: &Cluster, arguments: &[&str]) -> Value {
    let value = cluster_command(cluster, arguments).unwrap();
    assert_eq!(value["outcome"], "done", "{arguments:?}: {value}");
    value
}

/// As above, and it must have been so before.
fn already(cluster: &Cluster, arguments: &[&str]) {
    let value = cluster_command(cluster, arguments).unwrap();
    assert_eq!(value["outcome"], "already so", "{arguments:?}: {value}");
}

/// Ids of the members with a role.
fn with_role(value: &Value, role: &str) -> Vec<u64> {
    let members = value["members"].as_array().unwrap().iter();
    members.filter(|m| m["role"] == role).map(|m| m["node"].as_u64().unwrap()).collect()
}

/// A server that was removed has noticed, and serves nobody.
async fn noticed(node: &common::node::Node) {
    until(&format!("{} to notice that it was removed", node.name), async || {
        let status = node.status().await?;
        let state = status.meta.unwrap_or_default().raft_state;
        if state == "removed" && !status.ready { Ok(()) } else { Err(state) }
    })
    .await;
    assert!(node.log_text().contains("was removed from the cluster"), "its log says so");
}
