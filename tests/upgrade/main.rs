//! Metadata servers of different programs in one cluster of real processes: it works at what all of them know, goes up by an operator's
//! word when the last one is new, and a program that is too old from then on says so and harms nothing.
//!
//! A server plays another program (`POHMELFS_PRETEND`, in builds for tests only): it says that it is that one, and does no more.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

#[path = "../common/mod.rs"]
mod common;

mod rolling;
mod strangers;

use common::{Cluster, until};
use serde_json::Value;

/// The program of before: the first format level, the first version of the protocol.
const OLDER: &str = "0.0.9,1-1,1-1";
/// A program of tomorrow.
const NEWER: &str = "9.9.9,1-3,1-3";

/// `pohmelfs cluster upgrade`: done, already so, or the complaint.
fn upgrade(cluster: &Cluster) -> Result<String, String> {
    let output = cluster.command(&["cluster", "--json", "upgrade"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match (output.status.success(), value["outcome"].as_str()) {
        (true, Some(outcome)) => Ok(outcome.to_owned()),
        (false, Some("refused")) => Err(value["reason"].as_str().unwrap_or_default().to_owned()),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// `pohmelfs cluster label TEXT`, or the complaint.
fn label(cluster: &Cluster, text: &str) -> Result<(), String> {
    let output = cluster.command(&["cluster", "label", text]);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn says(told: &str, words: &[&str]) {
    println!("{told}");
    for word in words {
        assert!(told.contains(word), "{word} is missing in: {told}");
    }
}

/// Stops a server in order and starts it as another program (none: this one).
async fn restart_as(cluster: &mut Cluster, index: usize, program: Option<&str>) {
    cluster.nodes[index].terminate();
    let node = &mut cluster.nodes[index];
    until(&format!("the end of {}", node.name), async || node.ended().ok_or("it runs".into())).await;
    node.pretend = program.map(str::to_owned);
    node.start();
    cluster.ready().await;
}

/// Starts a server as a program that cannot work there; it ends by itself, and its log says why.
async fn fails_as(cluster: &mut Cluster, index: usize, program: Option<&str>) -> String {
    let node = &mut cluster.nodes[index];
    let before = node.log_text().len();
    node.pretend = program.map(str::to_owned);
    node.start();
    let status =
        until(&format!("{} to give up", node.name), async || node.ended().ok_or("it runs".into())).await;
    assert!(!status.success(), "{} ended as if all were well", node.name);
    node.log_text()[before..].to_owned()
}

/// The level that every server works at.
async fn at_level(cluster: &Cluster, level: u16) {
    until(&format!("all at level {level}"), async || {
        for index in cluster.meta_indexes() {
            let (status, meta) = cluster.meta_status(index).await?;
            if meta.level != level {
                return Err(format!("{} is at {}", status.name, meta.level));
            }
        }
        Ok(())
    })
    .await;
}
