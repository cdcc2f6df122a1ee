//! Backup of the metadata with real processes: dumps taken under load, and clusters that are lost and restored from them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

#[path = "../common/mod.rs"]
mod common;

mod disaster;
mod grace;
mod interrupted;
mod refusals;
mod under_load;

use std::path::Path;

use common::{Cluster, until};
use serde_json::Value;

/// Runs the program against the cluster; what it printed, or what it complained about.
fn run(cluster: &Cluster, arguments: &[&str]) -> Result<String, String> {
    let output = cluster.command(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A dump of the cluster in `file`, and what it holds.
fn dump(cluster: &Cluster, file: &Path) -> Value {
    let told = run(cluster, &["dump", "--json", file.to_str().unwrap()]).unwrap();
    serde_json::from_str(&told).unwrap()
}

/// Restores `file`; what was restored.
fn restore(cluster: &Cluster, file: &Path) -> Value {
    let told = run(cluster, &["restore", "--json", file.to_str().unwrap()]).unwrap();
    let value: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((value["outcome"].as_str(), &value["violations"]), (Some("restored"), &Value::Array(vec![])));
    value
}

/// Kills the metadata servers, and starts new ones with empty directories in their places.
async fn lose_all_metadata(cluster: &mut Cluster) {
    for index in cluster.meta_indexes() {
        cluster.nodes[index].kill_without_waiting();
    }
    for index in cluster.meta_indexes() {
        cluster.nodes[index].reap();
        cluster.nodes[index].wipe();
        cluster.nodes[index].start();
    }
    meta_ready(cluster).await;
}

/// Waits until the metadata servers are ready, whatever the data servers are.
async fn meta_ready(cluster: &Cluster) {
    for node in cluster.meta() {
        until(&format!("{} to be ready", node.name), async || {
            let status = node.status().await?;
            if status.ready { Ok(()) } else { Err(status.reason) }
        })
        .await;
    }
}
