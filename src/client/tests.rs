//! The client against servers that die, stay silent, lie, forget and answer late.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::testing::{Fake, Fault};
use super::*;
use crate::runtime;
use crate::types::{FileKind, FsError, Name, NodeId, RenameMode};
use rand::{RngExt, SeedableRng};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[expect(clippy::cast_possible_truncation, reason = "any bytes will do that differ from place to place")]
fn pattern(len: usize, seed: u8) -> Bytes {
    (0..len).map(|i| (i / 7) as u8 ^ seed ^ (i % 251) as u8).collect::<Vec<_>>().into()
}

async fn contents(client: &Client, path: &str) -> Bytes {
    let mut out = Vec::new();
    client.get(path, &mut out).await.unwrap();
    out.into()
}

/// A server that lags answers as of a past index; what its witnesses say must keep the client from believing it.
#[tokio::test]
async fn an_answer_from_the_past_is_asked_for_again() {
    let fake = Fake::start(3, 0).await;
    let client = fake.client().await;
    for round in 0..3 {
        let lags = &fake.meta[round];
        lags.set(Fault::Lags);
        for turn in 0..200 {
            let path = format!("/{round}-{turn}");
            // As of now, should the server that lags be asked.
            assert_eq!(client.stat(&path).await.unwrap_err().errno(), 2);
            client.mkdir(&path, 0o755).await.unwrap();
            let seen = client.stat(&path).await.unwrap_or_else(|e| panic!("round {round}, turn {turn}: {e}"));
            assert_eq!(seen.kind, FileKind::Dir);
        }
        lags.set(Fault::None);
    }
}

/// Neither the server that is asked nor a witness costs a reader more than its patience, and only once.
#[tokio::test]
async fn reads_go_on_beside_a_silent_server() {
    let fake = Fake::start(3, 0).await;
    let client = fake.client().await;
    client.mkdir("/there", 0o755).await.unwrap();
    for fault in [Fault::Silent, Fault::Refuses] {
        for server in &fake.meta {
            server.set(fault);
            for _ in 0..50 {
                client.stat("/there").await.unwrap();
            }
            server.set(Fault::None);
        }
    }
}

/// Updates go to who is said to lead, and to others when that one is gone or says nothing.
#[tokio::test]
async fn updates_find_the_leader_and_do_without_it() {
    let fake = Fake::start(3, 0).await;
    let client = fake.client().await;
    for leader in &fake.meta {
        let node = NodeId(fake.meta.iter().position(|m| m.address == leader.address).unwrap() as u64 + 1);
        *fake.world.leader.lock() = Some(node);
        let told = async {
            loop {
                // Whoever is asked, a witness tells.
                client.stat("/").await.unwrap();
                let server = client.core.servers.pick(client.core.servers.start_of_update(), 0);
                if *server.address() == leader.address {
                    return;
                }
            }
        };
        runtime::timeout(Duration::from_secs(30), told).await.expect("the leader becomes known");
        client.mkdir(format!("/{node}"), 0o755).await.unwrap();
        leader.set(Fault::Refuses);
        client.mkdir(format!("/{node}/without"), 0o755).await.unwrap();
        leader.set(Fault::None);
    }
}

/// Calls from another runtime have connections of their own there, which end with it and are not missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_come_from_any_runtime_and_outlive_it() {
    let fake = Fake::start(3, 0).await;
    let client = fake.client().await;
    for round in 0..3 {
        let client = client.clone();
        let elsewhere = move || {
            runtime::Local::new().unwrap().run(async {
                client.mkdir(&format!("/{round}"), 0o755).await.unwrap();
                for seen in 0..=round {
                    client.stat(&format!("/{seen}")).await.unwrap();
                }
            });
        };
        tokio::task::spawn_blocking(elsewhere).await.unwrap();
    }
    // Told of by the rounds before, or here.
    assert!(client.core.servers.list().iter().all(|server| server.line_count() <= 2));
    client.stat("/2").await.unwrap();
}

/// An exact answer in one round trip needs to know who the other servers are, also those that nobody has asked yet.
#[tokio::test]
async fn a_new_client_comes_to_know_all_servers() {
    let fake = Fake::start(5, 0).await;
    let client = fake.client().await;
    let known = async {
        while (0..5).any(|start| client.core.servers.majority(start).is_none()) {
            runtime::sleep(Duration::from_millis(1)).await;
        }
    };
    runtime::timeout(Duration::from_secs(30), known).await.expect("all five are known");
}

#[tokio::test]
async fn names_by_path_behave_as_a_kernel_would_have_it() {
    let fake = Fake::start(3, 3).await;
    let client = fake.client().await;
    client.mkdir_all("/a/b/c", 0o755).await.unwrap();
    client.put(&b"hello"[..], "/a/b/file", PutOptions::default()).await.unwrap();
    client.symlink("b/file", "/a/short").await.unwrap();
    client.symlink("/a/b", "/a/dirlink").await.unwrap();
    client.symlink("loop", "/a/loop").await.unwrap();
    assert_eq!(client.stat("/a/short").await.unwrap().size, 5);
    assert_eq!(client.lstat("/a/short").await.unwrap().kind, FileKind::Symlink);
    assert_eq!(client.stat("/a/dirlink/../short").await.unwrap().size, 5);
    assert_eq!(client.stat("a/./dirlink//c/..//file").await.unwrap().size, 5);
    assert_eq!(client.lstat("/a/dirlink/").await.unwrap().kind, FileKind::Dir);
    assert_eq!(client.stat("/").await.unwrap().inode, crate::types::ROOT_INODE);
    let errno = |e: ClientError| e.errno();
    assert_eq!(client.stat("/a/loop").await.map_err(errno), Err(40));
    assert_eq!(client.stat("/a/b/file/").await.map_err(errno), Err(20));
    assert_eq!(client.stat("/a/b/file/x").await.map_err(errno), Err(20));
    assert_eq!(client.stat("/a/none/x").await.map_err(errno), Err(2));
    let text = client.stat("/a/none").await.unwrap_err().to_string();
    assert!(text.starts_with("/a/none: no such file"), "{text}");
    client.rename("/a/b/file", "/a/moved", RenameMode::Replace).await.unwrap();
    client.link("/a/moved", "/a/twin").await.unwrap();
    assert_eq!(client.stat("/a/twin").await.unwrap().nlink, 2);
    client.setxattr("/a/twin", "user.k", "v").await.unwrap();
    assert_eq!(client.getxattr("/a/moved", "user.k").await.unwrap(), "v");
    let mut names: Vec<_> = client
        .readdir("/a", true)
        .await
        .unwrap()
        .all()
        .await
        .unwrap()
        .iter()
        .map(|e| e.name.to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["b", "dirlink", "loop", "moved", "short", "twin"]);
    let removed = client.remove_tree("/a").await.unwrap();
    assert_eq!((removed.file_count, removed.dir_count), (5, 3));
    assert_eq!(fake.violations(), Vec::<String>::new());
    client.close().await;
}

#[tokio::test]
async fn a_file_up_to_a_page_is_one_command_and_touches_no_data_server() {
    let fake = Fake::start(1, 0).await;
    let client = fake.client().await;
    let before = fake.world.update_count.load(Ordering::Relaxed);
    let small = pattern(4096, 3);
    client.put(&small[..], "/small", PutOptions::default()).await.unwrap();
    assert_eq!(fake.world.update_count.load(Ordering::Relaxed) - before, 1);
    assert_eq!(contents(&client, "/small").await, small);
    client.put(&small[..10], "/small", PutOptions::default()).await.unwrap();
    assert_eq!(contents(&client, "/small").await, small.slice(..10));
    client.put(&b""[..], "/small", PutOptions::default()).await.unwrap();
    assert_eq!(client.stat("/small").await.unwrap().size, 0);
}

#[tokio::test]
async fn a_large_file_comes_back_as_it_went_and_blocks_are_on_all_members() {
    let fake = Fake::start(3, 4).await;
    let client = fake.client().await;
    for (len, seed) in [(1_000_000, 1), (4097, 2), (64 << 10, 3), (200_001, 4)] {
        let data = pattern(len, seed);
        let attr = client.put(&data[..], "/big", PutOptions::default()).await.unwrap();
        assert_eq!(attr.size, len as u64);
        assert_eq!(contents(&client, "/big").await, data);
    }
    let (_, located) = client.locate(client.stat("/big").await.unwrap().inode).await.unwrap();
    for part in located {
        let Place::Block { block, replicas, .. } = part.place else { panic!("{part:?}") };
        assert_eq!(replicas.len(), 3);
        assert!(replicas.iter().all(|r| fake.data[&r.node].blocks.lock().contains_key(&block.id)));
    }
    assert_eq!(fake.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn calls_go_on_when_a_metadata_server_dies_or_falls_silent() {
    let fake = Fake::start(3, 0).await;
    let client = fake.client().await;
    client.mkdir("/d", 0o755).await.unwrap();
    fake.meta[0].die().await;
    for i in 0..6 {
        client.mkdir(format!("/d/{i}"), 0o755).await.unwrap();
    }
    fake.meta[1].set(Fault::Silent);
    for i in 6..12 {
        client.mkdir(format!("/d/{i}"), 0o755).await.unwrap();
        client.stat(format!("/d/{i}")).await.unwrap();
    }
    assert_eq!(client.stat("/d").await.unwrap().nlink, 14);
    // The silent one is known as such: it gets no calls of ours any more.
    assert!(
        client.core.servers.list().iter().any(|s| s.address() == &fake.meta[1].address && s.is_suspect())
    );
}

/// During an election no server answers an update: those that are alive wait, the one that led is silent.
#[tokio::test]
async fn who_waits_stays_where_it_is_and_finds_the_silent_ones() {
    let fake = Fake::start(3, 0).await;
    let client = fake.connect(ClientOptions::default()).await;
    client.mkdir("/known", 0o755).await.unwrap();
    let asked = client.core.servers.pick(client.core.servers.start_of_update(), 0);
    let at = fake.meta.iter().position(|m| m.address == *asked.address()).unwrap();
    let silent = &fake.meta[(at + 1) % 3];
    fake.meta[at].set(Fault::Waits(700));
    silent.set(Fault::Silent);
    let before = fake.world.update_count.load(Ordering::Relaxed);
    client.mkdir_at(crate::types::ROOT_INODE, name("d"), 0o755).await.unwrap();
    assert_eq!(fake.world.update_count.load(Ordering::Relaxed), before + 1, "it was sent once");
    assert!(!asked.is_suspect(), "it had said that it is alive");
    let servers = client.core.servers.list();
    assert!(servers.iter().any(|s| *s.address() == silent.address && s.is_suspect()), "it had said nothing");
}

/// However long a call may take, a server that says nothing at all is not waited for.
#[tokio::test]
async fn a_call_with_all_its_time_leaves_a_silent_server() {
    let fake = Fake::start(3, 0).await;
    let client = fake.client().await;
    for silent in &fake.meta {
        silent.set(Fault::Silent);
        for _ in 0..3 {
            let check = client.request(&MetaRequest::Check, Duration::from_secs(3600));
            runtime::timeout(Duration::from_secs(60), check).await.expect("another one is asked").unwrap();
        }
        silent.set(Fault::None);
    }
}

#[tokio::test]
async fn when_nobody_answers_a_call_ends_with_its_deadline() {
    let fake = Fake::start(2, 0).await;
    let options = ClientOptions { call_timeout: Duration::from_secs(1), ..ClientOptions::default() };
    let client = fake.connect(options).await;
    fake.meta.iter().for_each(|m| m.set(Fault::Refuses));
    let error = client.mkdir("/d", 0o755).await.unwrap_err();
    assert_eq!(error.errno(), 110);
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    fake.meta.iter().for_each(|m| m.set(Fault::Forgetful));
    let error = client.mkdir_at(crate::types::ROOT_INODE, name("e"), 0o755).await.unwrap_err();
    assert!(error.to_string().contains("may have taken effect"), "{error}");
    fake.meta.iter().for_each(|m| m.set(Fault::None));
    assert_eq!(client.stat("/e").await.unwrap().kind, FileKind::Dir);
}

/// A seeded storm of refusals, lost replies, late replies, duplicates and dropped calls: every append that was acknowledged is
/// in the file exactly once, every other at most once.
#[tokio::test]
async fn an_update_takes_effect_exactly_once() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(runtime::random_u64);
    println!("SEED={seed}");
    let fake = Fake::start(3, 0).await;
    let client = fake.client().await;
    let file = client.open("/log", OpenOptions::writing()).await.unwrap();
    let inode = file.inode();
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut dice = rand::rngs::StdRng::seed_from_u64(seed ^ 1);
    *fake.world.dice.lock() = Some(Box::new(move || match dice.random_range(0..10) {
        0..2 => Fault::Refuses,
        2..5 => Fault::Forgetful,
        5..7 => Fault::Late(dice.random_range(0..20)),
        _ => Fault::None,
    }));
    let mut running = FuturesUnordered::new();
    let (mut acknowledged, mut dropped) = (Vec::new(), 0);
    for token in 0..400u32 {
        let client = client.clone();
        let patience = if rng.random_range(0..5) == 0 { rng.random_range(0..5) } else { 10_000 };
        running.push(async move {
            let token = Bytes::from(format!("{token:04}\n"));
            let extent = crate::types::Extent {
                offset: 0,
                len: 5,
                source: crate::types::ExtentSource::Inline(token.clone()),
            };
            let publish = crate::types::Publish {
                inode,
                extents: vec![extent],
                grow_to: None,
                append: true,
                mtime: None,
            };
            let update = crate::types::Update::Publish(publish);
            let call = client.core.update(client.cred(), update);
            (token, runtime::timeout(Duration::from_millis(patience), call).await)
        });
        if running.len() >= 16 {
            let (token, outcome) = running.next().await.unwrap();
            match outcome {
                Ok(result) => {
                    result.unwrap();
                    acknowledged.push(token);
                }
                Err(_) => dropped += 1,
            }
        }
    }
    while let Some((token, outcome)) = running.next().await {
        match outcome {
            Ok(result) => {
                result.unwrap();
                acknowledged.push(token);
            }
            Err(_) => dropped += 1,
        }
    }
    *fake.world.dice.lock() = None;
    // Dropped calls are settled before the session may forget: wait for the window to close.
    let session = client.core.live_session().unwrap();
    while session.unanswered() > 0 {
        runtime::sleep(Duration::from_millis(5)).await;
    }
    let text = String::from_utf8(contents(&client, "/log").await.to_vec()).unwrap();
    let count = |token: &str| text.lines().filter(|line| *line == token).count();
    for token in &acknowledged {
        let token = std::str::from_utf8(token).unwrap().trim_end();
        assert_eq!(count(token), 1, "token {token}, SEED={seed}");
    }
    for token in 0..400 {
        assert!(count(&format!("{token:04}")) <= 1, "token {token:04}, SEED={seed}");
    }
    assert_eq!(acknowledged.len() + dropped, 400);
    assert_eq!(fake.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_block_goes_elsewhere_when_a_member_refuses_and_never_below_the_write_rule() {
    let fake = Fake::start(1, 4).await;
    let client = fake.client().await;
    let data = pattern(300_000, 9);
    fake.data[&NodeId(101)].set(Fault::Refuses);
    client.put(&data[..], "/a", PutOptions::default()).await.unwrap();
    fake.data[&NodeId(102)].set(Fault::Silent);
    client.put(&data[..], "/b", PutOptions::default()).await.unwrap();
    assert_eq!(contents(&client, "/a").await, data);
    assert_eq!(contents(&client, "/b").await, data);
    let check = |located: Vec<Located>| {
        for part in located {
            let Place::Block { block, replicas, .. } = part.place else { panic!("{part:?}") };
            let held = replicas.iter().filter(|r| fake.data[&r.node].blocks.lock().contains_key(&block.id));
            assert!(held.count() >= 2, "{block:?}");
        }
    };
    check(client.locate(client.stat("/a").await.unwrap().inode).await.unwrap().1);
    check(client.locate(client.stat("/b").await.unwrap().inode).await.unwrap().1);
}

/// One server failed a moment ago and is well again when the next falls silent: the block does not wait for that one.
#[tokio::test]
async fn a_member_that_is_avoided_steps_in_for_a_silent_one() {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    let data = pattern(50_000, 3);
    fake.data[&NodeId(101)].set(Fault::Refuses);
    client.put(&data[..], "/a", PutOptions::default()).await.unwrap();
    fake.data[&NodeId(101)].set(Fault::None);
    fake.data[&NodeId(102)].set(Fault::Silent);
    client.put(&data[..], "/b", PutOptions::default()).await.unwrap();
    let held = |node| fake.data[&NodeId(node)].blocks.lock().len();
    assert_eq!((held(101), held(103)), (1, 2), "no attempt was given up");
}

#[tokio::test]
async fn a_put_that_cannot_be_durable_changes_nothing() {
    let fake = Fake::start(1, 3).await;
    let options = ClientOptions { call_timeout: Duration::from_secs(1), ..ClientOptions::default() };
    let client = fake.connect(options).await;
    let data = pattern(100_000, 1);
    client.put(&data[..], "/kept", PutOptions::default()).await.unwrap();
    fake.data[&NodeId(101)].set(Fault::Refuses);
    fake.data[&NodeId(102)].set(Fault::Refuses);
    for path in ["/kept", "/new"] {
        let error = client.put(&pattern(90_000, 2)[..], path, PutOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("nothing of the file changed"), "{error}");
        assert_eq!(error.errno(), 5);
    }
    assert!(client.stat("/new").await.unwrap_err().is_not_found());
    fake.data.values().for_each(|d| d.set(Fault::None));
    assert_eq!(contents(&client, "/kept").await, data);
}

#[tokio::test]
async fn a_read_finds_the_one_good_replica() {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    let data = pattern(500_000, 5);
    client.put(&data[..], "/f", PutOptions::default()).await.unwrap();
    for faults in
        [[Fault::Corrupts, Fault::Loses], [Fault::Silent, Fault::Corrupts], [Fault::Late(50), Fault::Silent]]
    {
        fake.data[&NodeId(101)].set(faults[0]);
        fake.data[&NodeId(103)].set(faults[1]);
        assert_eq!(contents(&client, "/f").await, data, "{faults:?}");
    }
    fake.data[&NodeId(101)].die().await;
    assert_eq!(contents(&client, "/f").await, data);
}

#[tokio::test]
async fn a_block_lost_everywhere_is_named_with_its_servers() {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    client.put(&pattern(50_000, 5)[..], "/f", PutOptions::default()).await.unwrap();
    fake.data.values().for_each(|d| d.set(Fault::Loses));
    let error = client.get("/f", &mut Vec::new()).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.errno(), 5);
    assert!(text.contains("block 1:1") && text.contains("node 102 at 127.0.0.1:"), "{text}");
}

/// Between asking for the extents and reading them the file is overwritten and its old block reclaimed.
#[tokio::test]
async fn a_block_that_was_replaced_meanwhile_is_no_error() {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    client.put(&pattern(50_000, 5)[..], "/f", PutOptions::default()).await.unwrap();
    let inode = client.stat("/f").await.unwrap().inode;
    let plan = client.core.plan_page(client.cred(), inode, 0, u64::MAX).await.unwrap();
    let new = pattern(50_000, 6);
    client.put(&new[..], "/f", PutOptions::default()).await.unwrap();
    let extents::Source::Block(old, _) = &plan.pieces[0].source else { panic!("{:?}", plan.pieces) };
    fake.data.values().for_each(|d| drop(d.blocks.lock().remove(&old.id)));
    let piece = plan.pieces[0].clone();
    let read = client.core.read_piece(client.cred(), inode, piece, client.core.deadline()).await.unwrap();
    assert_eq!(read, new);
}

/// Half of a write was seen: a hole from before it, and behind a block that it had replaced its bytes (seed 708199578 of the simulation).
#[tokio::test]
async fn a_read_whose_block_goes_meanwhile_is_of_one_moment() {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    client.put(&pattern(50_000, 5)[..], "/f", PutOptions::default()).await.unwrap();
    let file = client.open("/f", OpenOptions::writing()).await.unwrap();
    file.truncate(100_000).await.unwrap();
    let inode = file.inode();
    let mut before = pattern(50_000, 5).to_vec();
    before.resize(100_000, 0);
    let mut after = pattern(70_000, 6).to_vec();
    after.resize(100_000, 0);

    for through_reader in [false, true] {
        let plan = client.core.plan_page(client.cred(), inode, 0, u64::MAX).await.unwrap();
        let extents::Source::Block(old, _) = plan.pieces[0].source else { panic!("{:?}", plan.pieces) };
        fake.data.values().for_each(|d| d.set(Fault::Late(300)));
        let reading = client.open("/f", OpenOptions::reading()).await.unwrap();
        let read = tokio::spawn(async move {
            if through_reader {
                let parts = reader::Reader::new(reading).read(0, 100_000).await.unwrap();
                parts.concat()
            } else {
                reading.read_at(0, 100_000).await.unwrap().to_vec()
            }
        });
        // Most likely it waits for the block by then; if not, it is of one moment all the same.
        runtime::sleep(Duration::from_millis(100)).await;
        fake.data.values().for_each(|d| d.set(Fault::None));
        file.write_at(0, Bytes::from(after[..70_000].to_vec())).await.unwrap();
        file.flush().await.unwrap();
        fake.data.values().for_each(|d| drop(d.blocks.lock().remove(&old.id)));
        let read = read.await.unwrap();
        assert!(read == before || read == after, "through a reader: {through_reader}");

        // As it was, for the other way.
        file.truncate(0).await.unwrap();
        file.write_at(0, Bytes::from(before[..50_000].to_vec())).await.unwrap();
        file.truncate(100_000).await.unwrap();
        file.flush().await.unwrap();
    }
}

/// Random writes, flushes, truncates and reads of one handle against an array in memory, with small and large writes.
#[tokio::test]
async fn a_file_sees_its_own_writes_like_an_array() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(runtime::random_u64);
    println!("SEED={seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    let file = client.open("/f", OpenOptions::writing()).await.unwrap();
    let mut model: Vec<u8> = Vec::new();
    for step in 0..150u8 {
        match rng.random_range(0..12) {
            0 => file.flush().await.unwrap(),
            1 => {
                let size = rng.random_range(0..300_000);
                file.truncate(size as u64).await.unwrap();
                model.resize(size, 0);
            }
            2 => {
                let data = pattern(rng.random_range(0..100_000), step);
                assert_eq!(file.append(data.clone()).await.unwrap(), model.len() as u64);
                model.extend_from_slice(&data);
            }
            3..8 => {
                let offset = rng.random_range(0..300_000);
                let len = if rng.random() { rng.random_range(1..200) } else { rng.random_range(1..150_000) };
                let data = pattern(len, step);
                file.write_at(offset as u64, data.clone()).await.unwrap();
                model.resize(model.len().max(offset + len), 0);
                model[offset..offset + len].copy_from_slice(&data);
            }
            _ => {
                let offset = rng.random_range(0..400_000usize);
                let len = rng.random_range(0..200_000);
                let end = (offset + len).min(model.len());
                let expected = if offset < end { &model[offset..end] } else { &[] };
                let read = file.read_at(offset as u64, len).await.unwrap();
                assert!(read == expected, "step {step}, {offset}+{len}, SEED={seed}");
            }
        }
        assert_eq!(file.attr().await.unwrap().size, model.len() as u64, "step {step}, SEED={seed}");
    }
    file.close().await.unwrap();
    assert!(contents(&client, "/f").await == model, "SEED={seed}");
    assert_eq!(fake.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_flush_keeps_the_bytes_for_the_next() {
    let fake = Fake::start(1, 3).await;
    let options = ClientOptions { call_timeout: Duration::from_millis(500), ..ClientOptions::default() };
    let client = fake.connect(options).await;
    let file = client.open("/f", OpenOptions::writing()).await.unwrap();
    let data = pattern(100_000, 7);
    fake.data.values().for_each(|d| d.set(Fault::Refuses));
    file.write_at(0, data.clone()).await.unwrap();
    assert!(matches!(file.flush().await, Err(ClientError::NotDurable { .. })));
    assert_eq!(client.stat("/f").await.unwrap().size, 0);
    assert_eq!(file.read_at(0, 200_000).await.unwrap(), data);
    fake.data.values().for_each(|d| d.set(Fault::None));
    file.flush().await.unwrap();
    assert_eq!(contents(&client, "/f").await, data);
}

/// A publish whose reply is late must not land on top of what was written after it.
#[tokio::test]
async fn a_late_publish_does_not_overwrite_a_newer_one() {
    let fake = Fake::start(2, 0).await;
    let options = ClientOptions { call_timeout: Duration::from_millis(300), ..ClientOptions::default() };
    let client = fake.connect(options).await;
    let file = client.open("/f", OpenOptions::writing()).await.unwrap();
    file.write_at(0, Bytes::from_static(b"old old")).await.unwrap();
    fake.meta.iter().for_each(|m| m.set(Fault::Silent));
    assert!(matches!(file.flush().await, Err(ClientError::Unsettled { .. })));
    file.write_at(0, Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(file.attr().await.map_err(|e| e.errno()), Err(110));
    fake.meta.iter().for_each(|m| m.set(Fault::None));
    while file.flush().await.is_err() {}
    // Nothing of this file is on its way any more, not even a resend.
    let session = client.core.live_session().unwrap();
    while session.unanswered() > 0 {
        runtime::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(contents(&client, "/f").await, "new old");
}

#[tokio::test]
async fn an_expired_session_is_said_and_the_next_call_opens_another() {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    let file = client.open("/f", OpenOptions::writing()).await.unwrap();
    let before = client.session_id();
    file.write_at(0, pattern(10, 1)).await.unwrap();
    fake.expire_sessions();
    assert!(matches!(file.flush().await, Err(ClientError::SessionExpired { .. })));
    client.mkdir("/d", 0o755).await.unwrap();
    assert_ne!(client.session_id(), before);
    assert!(matches!(file.flush().await, Err(ClientError::SessionExpired { .. })));
}

#[tokio::test]
async fn keep_alives_answer_for_open_files_and_close_ends_the_session() {
    let fake = Fake::start(1, 0).await;
    let options = ClientOptions { session_ttl: Duration::from_secs(1), ..ClientOptions::default() };
    let client = fake.connect(options).await;
    let file = client.open("/f", OpenOptions::writing()).await.unwrap();
    let other = crate::types::InodeId(99);
    *fake.world.ask.lock() = vec![file.inode(), other];
    while fake.world.told.lock().len() < 2 {
        runtime::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(*fake.world.told.lock(), [(file.inode(), true), (other, false)]);
    drop(file);
    assert_eq!(crate::namespace::sessions(&fake.world.view()).unwrap().len(), 1);
    let clone = client.clone();
    client.close().await;
    assert!(crate::namespace::sessions(&fake.world.view()).unwrap().is_empty());
    assert!(matches!(clone.mkdir("/x", 0o755).await, Err(ClientError::Closed | ClientError::At { .. })));
}

#[tokio::test]
async fn exclusive_and_wrong_kinds_are_refused_before_anything_is_sent() {
    let fake = Fake::start(1, 0).await;
    let client = fake.client().await;
    client.mkdir("/d", 0o755).await.unwrap();
    client.put(&b"x"[..], "/f", PutOptions::default()).await.unwrap();
    let exclusive = PutOptions { exclusive: true, ..PutOptions::default() };
    assert_eq!(client.put(&b"y"[..], "/f", exclusive).await.unwrap_err().fs(), Some(FsError::Exists));
    assert_eq!(
        client.put(&b"y"[..], "/d", PutOptions::default()).await.unwrap_err().fs(),
        Some(FsError::IsDir)
    );
    assert_eq!(client.get("/d", &mut Vec::new()).await.unwrap_err().fs(), Some(FsError::IsDir));
    let other = client.with_cred(crate::types::Cred { uid: 5, gid: 5, groups: Vec::new() });
    assert_eq!(
        other.put(&b"y"[..], "/f", PutOptions::default()).await.unwrap_err().fs(),
        Some(FsError::Denied)
    );
    assert_eq!(contents(&client, "/f").await, "x");
}
