//! A read through any server sees every write that was acknowledged before it began.

use std::time::{Duration, Instant};

use pohmelfs::types::{FsError, QueryReply, ROOT_INODE, UpdateReply};

use crate::common::raw::{Raw, make, request};
use crate::common::{Cluster, Load, rounds, until};

/// Writes, each read at once through the two servers that did not take it.
const TRIES: u64 = 5_000;

/// Reads `name` through `server`; errors of the exchange are no answer, and asked again.
async fn sees(cluster: &Cluster, links: &mut [Option<Raw>], server: usize, name: &str) -> bool {
    let node = &cluster.nodes[server];
    let link = &mut links[server];
    until(&format!("an answer of {}", node.name), async || {
        if link.is_none() {
            *link = Some(Raw::connect(&node.address).await?);
        }
        match link.as_mut().unwrap().lookup(ROOT_INODE, name).await {
            Ok(Ok(QueryReply::Found(_))) => Ok(true),
            Ok(Err(FsError::NotFound)) => Ok(false),
            Ok(other) => panic!("to a lookup: {other:?}"),
            Err(e) => {
                *link = None;
                Err(e)
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_through_another_server_never_misses_a_write() {
    let cluster = Cluster::start(3, 0).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    let mut links: Vec<Option<Raw>> = Vec::new();
    for node in cluster.meta() {
        links.push(Some(Raw::connect(&node.address).await.unwrap()));
    }
    let mut session = links[0].as_mut().unwrap().open_session().await.unwrap();
    let mut opened = Instant::now();
    let (mut id, mut missed) = (0, 0);
    for attempt in 0..TRIES {
        // A session without keep-alives ends; these requests are so quick that a new one now and then will do.
        if opened.elapsed() > Duration::from_secs(5) {
            session = links[0].as_mut().unwrap().open_session().await.unwrap();
            (opened, id) = (Instant::now(), 0);
        }
        id += 1;
        let writer = (attempt % 3) as usize;
        let name = format!("fresh-{attempt}");
        let link = links[writer].as_mut().unwrap();
        let made = link.update(request(session, id, id, make(&name))).await.unwrap();
        assert!(matches!(made, Ok(UpdateReply::Made { created: true, .. })), "{made:?}");
        for reader in [(writer + 1) % 3, (writer + 2) % 3] {
            if !sees(&cluster, &mut links, reader, &name).await {
                missed += 1;
                println!("{name}, written through meta-{}, missed by meta-{}", writer + 1, reader + 1);
            }
        }
    }
    println!("{} reads behind {TRIES} writes, {missed} missed", 2 * TRIES);
    assert_eq!(missed, 0);
    load.finish(&cluster).await.assert_clean("load beside the reads");
}

/// The library believes an answer only as far as other servers' logs allow: with one writer at a time nearly all of them, under load
/// hardly any.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_through_the_library_never_misses_a_write() {
    let cluster = Cluster::start(3, 0).await;
    let writer = cluster.client().await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(cluster.client().await);
    }
    let mut missed = 0;
    for under_load in [false, true] {
        let load = match under_load {
            true => Some(Load::creators(&cluster, "/load", 4).await),
            false => None,
        };
        for attempt in 0..TRIES / 5 {
            let path = format!("/library-{under_load}-{attempt}");
            // Before the write too, so that each has just read an older state.
            for reader in &readers {
                assert!(reader.lstat(&path).await.is_err(), "{path} is there before it was made");
            }
            writer.mkdir(&path, 0o755).await.unwrap();
            for reader in &readers {
                if let Err(e) = reader.lstat(&path).await {
                    missed += 1;
                    println!("{path} missed: {e}");
                }
            }
        }
        if let Some(load) = load {
            load.finish(&cluster).await.assert_clean("load beside the library's reads");
        }
    }
    assert_eq!(missed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_between_write_and_read_hides_nothing() {
    let mut cluster = Cluster::start(3, 0).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    let client = cluster.client().await;
    for round in 0..2 * rounds(2) {
        let name = format!("before-kill-{round}");
        let victim = cluster.leader().await;
        client.mkdir(format!("/{name}"), 0o755).await.unwrap();
        cluster.nodes[victim].kill();
        let mut links = vec![None, None, None];
        for reader in cluster.meta_indexes().filter(|&i| i != victim) {
            assert!(sees(&cluster, &mut links, reader, &name).await, "meta-{} misses {name}", reader + 1);
        }
        cluster.nodes[victim].start();
        // The one that comes back with an old state must not answer from it.
        assert!(sees(&cluster, &mut links, victim, &name).await, "meta-{} misses {name}", victim + 1);
        cluster.ready().await;
    }
    load.finish(&cluster).await.assert_clean("load beside the kills");
}
