//! A siege: a cluster of real processes under load, while everything goes wrong that can on this machine, for as long as you like.
//!
//! Every test run has a short one, with what needs no rights. `scripts/faults --minutes N` runs a long one in namespaces of its own:
//! partitions, power cuts with torn writes, full and failing disks, clocks that jump, beside killed, stopped, wiped and replaced servers.
//! Holds: no time is judged; the seed is printed, and the faults with their times.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../judges/mod.rs"]
mod judges;

mod disk;
mod faults;
mod hosts;
mod nemesis;
mod report;
mod run;
mod watch;

use std::process::Command;
use std::time::Duration;

use common::cluster::Turn;
use common::{Cluster, Shape, seed};
use hosts::Hosts;
use run::Plan;

/// Machines: six servers, and one that takes the place of another.
const HOSTS: usize = 7;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: must be a number")))
}

fn shape() -> Shape {
    // Snapshots are made, sent and installed many times an hour.
    Shape::default().with_snapshots(3_000, 1_000)
}

async fn siege(plan: Plan, hosts: Hosts, root: tempfile::TempDir, turn: Turn) {
    let places: Vec<_> = hosts.all.iter().take(HOSTS - 1).map(hosts::Host::place).collect();
    for missing in &hosts.missing {
        println!("left out here: {missing}");
    }
    println!("SIEGE-LEFT-OUT|{}", hosts.missing.join("; "));
    let mut cluster = Cluster::prepare_at(shape(), root, turn, &places);
    cluster.start_all();
    cluster.ready().await;
    let verdict = run::run(&plan, cluster, hosts).await;
    report::print(&plan, &verdict);
    let broken = report::broken(&verdict);
    assert!(broken.is_empty(), "seed {}:\n{}", plan.seed, broken.join("\n"));
}

fn root() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("pohmelfs-siege-").tempdir().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_siege_breaks_no_promise() {
    let plan = Plan {
        seed: seed(),
        length: Duration::from_secs(number("POHMELFS_SIEGE_SECONDS").unwrap_or(40)),
        window: Duration::from_secs(20),
        dirs: 2,
        clients: 3,
        calls: 400,
    };
    let turn = Turn::take().await;
    let why = "partitions, failing disks, clock jumps: scripts/faults --minutes N has them, as root";
    siege(plan, Hosts::plain(HOSTS, why), root(), turn).await;
}

/// `POHMELFS_MINUTES` long (2).
#[test]
#[ignore = "long, for scripts/faults: POHMELFS_MINUTES says how long"]
fn a_long_siege_breaks_no_promise() {
    let own = ["--mount", "--net", "--propagation", "private", "--"];
    let can = Command::new("unshare").args(own).arg("true").output();
    let can = can.map_err(|e| e.to_string()).and_then(|output| {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    });
    let me = std::env::current_exe().unwrap();
    let mut command = match &can {
        Ok(()) => {
            let mut command = Command::new("unshare");
            command.args(own).arg(me);
            command
        }
        Err(_) => Command::new(me),
    };
    command.args(["a_siege_inside", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("POHMELFS_SIEGE_PLAIN", can.err().unwrap_or_default());
    let status = command.status().unwrap();
    assert!(status.success(), "the siege broke a promise, or itself");
}

/// Not for people: in namespaces of its own, unless there are none.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the one above"]
async fn a_siege_inside() {
    let length = Duration::from_secs(60 * number("POHMELFS_MINUTES").unwrap_or(2));
    let plan =
        Plan { seed: seed(), length, window: Duration::from_secs(40), dirs: 4, clients: 4, calls: 900 };
    let turn = Turn::take().await;
    let root = root();
    let hosts = match std::env::var("POHMELFS_SIEGE_PLAIN") {
        Ok(why) if why.is_empty() => Hosts::apart(HOSTS, root.path()).await,
        Ok(why) => Hosts::plain(HOSTS, &format!("partitions, failing disks, clock jumps: {why}")),
        Err(_) => panic!("run a_long_siege_breaks_no_promise"),
    };
    siege(plan, hosts, root, turn).await;
}
