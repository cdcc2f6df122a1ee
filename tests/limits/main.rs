//! Bounds of real servers: who asks for too much, or takes nothing, costs the others nothing, and no server grows.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test says no")]

#[path = "../common/mod.rs"]
mod common;

use std::time::Duration;

use bytes::Bytes;
use common::raw::{self, Raw};
use common::{Cluster, Load, Shape, until};
use pohmelfs::types::{
    Cookie, Cred, Epoch, Extent, ExtentSource, InodeId, Name, OpenSession, Publish, Query, ROOT_INODE,
    SessionId, Update, UpdateReply, codec,
};
use pohmelfs::wire::message::{KeepAlive, MetaRequest, Reading, kind};

const MIB: u64 = 1 << 20;

/// Small bounds, so that they are reached.
fn small() -> Shape {
    let mut shape = Shape::default().meta_only().with_snapshots(200, 50);
    shape.meta_limits += "overlay_bytes = 16777216\n";
    shape
}

async fn resident(cluster: &Cluster, index: usize) -> u64 {
    cluster.nodes[index].status().await.unwrap().resident_bytes
}

/// A file of its own and a connection to the leader, to write into it through the log.
struct Writer {
    raw: Raw,
    session: SessionId,
    inode: InodeId,
    request: u64,
}

impl Writer {
    async fn begin(cluster: &Cluster, leader: usize, name: &str) -> Self {
        let mut raw = Raw::connect(&cluster.nodes[leader].address).await.unwrap();
        let session = raw.open_session().await.unwrap();
        let made = raw.update(raw::request(session, 1, 1, raw::make(name))).await.unwrap().unwrap();
        let UpdateReply::Made { attr, .. } = made else { panic!("{made:?}") };
        Self { raw, session, inode: attr.inode, request: 1 }
    }

    /// A quarter of a MiB over what was there before: the log grows, the state does not.
    async fn write(&mut self) {
        self.request += 1;
        let extent = |i: u64| {
            let bytes = vec![self.request.to_le_bytes()[0]; 4096];
            Extent { offset: i * 4096, len: 4096, source: ExtentSource::Inline(Bytes::from(bytes)) }
        };
        let publish = Publish {
            inode: self.inode,
            extents: (0..64).map(extent).collect(),
            grow_to: None,
            append: false,
            mtime: None,
        };
        let alive = MetaRequest::KeepAlive(KeepAlive { session: self.session, handles: Vec::new() });
        self.raw.ask(&alive).await.unwrap();
        let request = raw::request(self.session, self.request, self.request, Update::Publish(publish));
        self.raw.update(request).await.unwrap().unwrap();
    }
}

/// Replication to a peer that takes nothing: what it lacks stays on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stands_still_costs_the_leader_no_memory() {
    let mut cluster = Cluster::of(small()).await;
    let leader = cluster.leader().await;
    let silent = cluster.follower().await;
    let mut writer = Writer::begin(&cluster, leader, "a").await;
    // Caches and the memory of recent entries fill up first.
    for _ in 0..300 {
        writer.write().await;
    }
    let before = resident(&cluster, leader).await;
    cluster.nodes[silent].pause();
    for _ in 0..400 {
        writer.write().await;
    }
    let after = resident(&cluster, leader).await;
    println!(
        "leader: {} MiB before, {} MiB after 100 MiB that the silent one lacks",
        before / MIB,
        after / MIB
    );
    assert!(after < before + 48 * MIB, "{before} and {after} bytes");
    cluster.nodes[silent].resume();
    cluster.ready().await;
    cluster.same_state().await;
}

/// Asks for much in a few bytes, again and again, and reads no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_its_replies_is_let_go() {
    let cluster = Cluster::of(small()).await;
    let client = cluster.client().await;
    client.mkdir_all("/many", 0o755).await.unwrap();
    let dir = client.stat("/many").await.unwrap().inode;
    let names: Vec<Name> = (0..500).map(|i| Name::new(format!("{i:0200}")).unwrap()).collect();
    for some in names.chunks(50) {
        let made = some.iter().map(|name| client.create_at(dir, name.clone(), 0o644, true));
        for made in futures::future::join_all(made).await {
            made.unwrap();
        }
    }
    let target = cluster.follower().await;
    let before = resident(&cluster, target).await;
    let list = MetaRequest::Query {
        cred: Cred::root(),
        query: Query::ReadDir { inode: dir, after: Cookie(0), limit: 4096, with_attrs: true },
        epoch: Epoch(0),
        reading: Reading::Stale,
    };
    let meta = codec::encode(&list).unwrap();
    let mut mute = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(&cluster.nodes[target].address).await.unwrap();
        let flood: Vec<u8> = (1..=400).flat_map(|id| raw::frame(kind::META, id, &meta, &[])).collect();
        raw.send(&flood).await.unwrap();
        mute.push(raw);
    }
    let load = Load::creators(&cluster, "/load", 2).await;
    load.progress(30).await;
    let meanwhile = resident(&cluster, target).await;
    println!("server: {} MiB before, {} MiB meanwhile", before / MIB, meanwhile / MIB);
    assert!(meanwhile < before + 4 * 24 * MIB, "{before} and {meanwhile} bytes");
    until("the server to let them go", async || {
        let mut refused = 0;
        for raw in &mut mute {
            // Sooner or later nothing more is taken.
            refused += usize::from(raw.send(&raw::frame(kind::META, 1000, &meta, &[])).await.is_err());
        }
        if refused == 4 { Ok(()) } else { Err(format!("{refused} of 4 were let go")) }
    })
    .await;
    load.finish(&cluster).await.assert_clean("load beside clients that read nothing");
    client.close().await;
}

/// Many connections, as many requests as they may have each, without a pause; and one client like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_harms_no_polite_client() {
    let mut shape = small();
    shape.meta_limits += "in_flight = 64\n";
    let cluster = Cluster::of(shape).await;
    let leader = cluster.leader().await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut floods = Vec::new();
    for i in 0..4 {
        let mut raw = Raw::connect(&cluster.nodes[leader].address).await.unwrap();
        let session = raw.open_session().await.unwrap();
        let stop = stop.clone();
        floods.push(tokio::spawn(async move {
            let (mut next, mut busy, mut done) = (1, 0_u64, 0_u64);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let batch: Vec<u8> = (0..64)
                    .flat_map(|k| {
                        let make = raw::make(&format!("flood-{i}-{}", next + k));
                        let request = MetaRequest::Update(raw::request(session, next + k, next, make));
                        raw::frame(kind::META, next + k, &codec::encode(&request).unwrap(), &[])
                    })
                    .collect();
                raw.send(&batch).await.unwrap();
                for _ in 0..64 {
                    let error = raw.receive().await.unwrap().header.flags;
                    if error.has(pohmelfs::wire::frame::Flags::ERROR) { busy += 1 } else { done += 1 }
                }
                next += 64;
            }
            (busy, done)
        }));
    }
    let load = Load::creators(&cluster, "/load", 2).await;
    load.progress(50).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut busy, mut done) = (0, 0);
    for flood in floods {
        let (b, d) = flood.await.unwrap();
        (busy, done) = (busy + b, done + d);
    }
    println!("the flood: {done} done, {busy} told to come again");
    assert!(busy > 0, "nobody was held back");
    load.finish(&cluster).await.assert_clean("load beside a flood");
    cluster.same_state().await;
}

/// Connections that say nothing and sessions that nobody needs.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_connections_and_sessions_are_told_to_stop() {
    let mut shape = small();
    shape.meta_limits += "connection_count = 40\nsessions = 8\n";
    // However slow the machine is, none expires meanwhile.
    shape.meta_timers += "session_ttl_ms = 600000\n";
    let cluster = Cluster::of(shape).await;
    let load = Load::creators(&cluster, "/load", 2).await;
    load.progress(5).await;
    let target = cluster.follower().await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.extend(Raw::mute(&cluster.nodes[target].address).await);
    }
    load.progress(20).await;
    drop(flood);
    let leader = cluster.leader().await;
    let mut raw = Raw::connect(&cluster.nodes[leader].address).await.unwrap();
    let open = Update::OpenSession(OpenSession { ttl_ms: 600_000, label: "flood".into() });
    let mut opened = 0;
    let told = loop {
        match raw.update(raw::request(SessionId(0), 0, 0, open.clone())).await {
            Ok(Ok(_)) => opened += 1,
            Ok(Err(other)) => panic!("{other}"),
            Err(told) => break told,
        }
        assert!(opened <= 8, "{opened} sessions were opened");
    };
    println!("{told}");
    assert!(told.contains("8 sessions are open") && told.contains("limits.sessions"), "{told}");
    load.progress(10).await;
    load.finish(&cluster).await.assert_clean("load beside floods");
}

/// The bound of the configuration, with nothing else in the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_rate_slows_a_client_down_and_ends_no_session() {
    let mut shape = small();
    shape.meta_limits += "requests_per_second = 200\n";
    let cluster = Cluster::of(shape).await;
    let load = Load::creators(&cluster, "/load", 8).await;
    load.progress(50).await;
    let mut raw = Raw::connect(&cluster.nodes[0].address).await.unwrap();
    assert!(raw.lookup(ROOT_INODE, "load").await.unwrap().is_ok(), "it waits its turn");
    load.finish(&cluster).await.assert_clean("load at a bounded rate");
    tokio::time::timeout(Duration::from_secs(60), cluster.same_state()).await.unwrap();
}
