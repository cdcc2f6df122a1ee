//! Stories of a data server with real sockets and directories, and a fake metadata server.

use bytes::Bytes;

use super::testing::{Caller, Fake, block, config, damage, node};
use super::{DataServer, catch_up, reclaim};
use crate::types::{BlockId, ClusterId, NodeState, SessionId, Timestamp};
use crate::wire::RpcError;
use crate::wire::message::{DataReply, DataRequest, Grace, Kept, ReplicaState};

#[tokio::test]
async fn a_data_server_serves_without_any_metadata_server() {
    let place = tempfile::tempdir().unwrap();
    let server = DataServer::start(config(101, place.path(), &["127.0.0.1:1"])).await.unwrap();
    let caller = Caller::new(&server);
    let (one, data) = block(1, 200_000);
    assert_eq!(caller.put(one, &data).await.unwrap(), DataReply::Stored);
    assert_eq!(caller.put(one, &data).await.unwrap(), DataReply::Stored, "a resend is harmless");
    assert_eq!(caller.get(one, 0, 200_000).await.unwrap(), data);
    assert_eq!(caller.get(one, 65_530, 10).await.unwrap(), data[65_530..65_540]);

    let ask = |request| caller.ask(request, Bytes::new());
    let stat = ask(DataRequest::Stat { id: one.id }).await.unwrap().0;
    assert_eq!(stat, DataReply::Stat(Some((one.len, one.checksum))));
    let (two, other) = block(2, 10);
    assert_eq!(ask(DataRequest::Stat { id: two.id }).await.unwrap().0, DataReply::Stat(None));
    let DataReply::List { blocks, capacity } =
        ask(DataRequest::List { after: None, limit: 10 }).await.unwrap().0
    else {
        panic!("no list");
    };
    assert_eq!((blocks, capacity.block_count), (vec![(one.id, one.len, one.checksum)], 1));

    // What does not fit is refused, each in its way.
    let wrong = super::testing::block(1, 10).0;
    assert_eq!(
        caller.get(wrong, 0, 1).await,
        Err(RpcError::BlockCorrupt { block: one.id }),
        "not what is meant"
    );
    assert_eq!(caller.get(two, 0, 1).await, Err(RpcError::BlockNotFound { block: two.id }));
    assert!(matches!(caller.get(one, 0, 0).await, Err(RpcError::Refused { .. })));
    assert!(matches!(caller.get(one, 199_999, 2).await, Err(RpcError::Refused { .. })));
    assert!(matches!(caller.put(two, &data).await, Err(RpcError::BadFrame { .. })), "damaged on the way");
    assert!(
        matches!(caller.put(wrong, &block(1, 10).1).await, Err(RpcError::Refused { .. })),
        "taken by other bytes"
    );
    assert_eq!(caller.get(one, 0, 200_000).await.unwrap(), data, "and what was there is untouched");

    caller.put(two, &other).await.unwrap();
    damage(&server.config());
    let verify = |deep| DataRequest::Verify { blocks: vec![one, block(3, 5).0, two], deep };
    let states = ask(verify(false)).await.unwrap().0;
    assert_eq!(
        states,
        DataReply::Verified(vec![ReplicaState::Good, ReplicaState::Missing, ReplicaState::Good])
    );
    let states = ask(verify(true)).await.unwrap().0;
    let deep = vec![ReplicaState::Corrupt, ReplicaState::Missing, ReplicaState::Corrupt];
    assert_eq!(states, DataReply::Verified(deep));
    assert_eq!(caller.get(two, 0, 10).await, Err(RpcError::BlockCorrupt { block: two.id }));

    let status = server.status_source().server().await;
    assert!(!status.ready && status.reason.contains("not registered"), "{status:?}");
    assert_eq!(status.data.unwrap().counters.corrupt, 2);
    server.stop().await;
}

#[tokio::test]
async fn a_data_server_registers_with_whoever_answers_and_keeps_its_cluster() {
    let place = tempfile::tempdir().unwrap();
    let mut fake = Fake::start(0xc1).await;
    let config = config(101, place.path(), &["127.0.0.1:1", &fake.address]);
    let server = DataServer::start(config.clone()).await.unwrap();
    fake.heartbeat().await;
    let status = server.status_source().server().await;
    assert!(status.ready, "{}", status.reason);
    assert_eq!(status.cluster.as_deref(), Some("000000000000000000000000000000c1"));
    assert_eq!(status.data.unwrap().registered_with, Some(fake.address.clone()));

    // Forgotten by the cluster, it registers again.
    fake.namespace.lock().map.data.clear();
    fake.heartbeat().await;
    assert!(fake.namespace.lock().map.data.contains_key(&node(101)));
    server.stop().await;

    // It remembers: another cluster is refused, whatever the configuration says.
    let other = Fake::start(0xc2).await;
    let mut moved = config.clone();
    moved.meta_servers = vec![other.address.clone()];
    let server = DataServer::start(moved).await.unwrap();
    let reason = server.problem().await;
    assert!(reason.contains("c1") && reason.contains("c2"), "{reason}");
    assert!(other.namespace.lock().map.data.is_empty());
    server.stop().await;

    let server = DataServer::start(config).await.unwrap();
    fake.heartbeat().await;
    server.stop().await;
    fake.tasks.stop().await;
    other.tasks.stop().await;
}

/// All metadata servers were lost, and their state was restored into a new cluster.
#[tokio::test]
async fn a_data_server_moves_into_the_cluster_that_its_own_was_restored_into() {
    let place = tempfile::tempdir().unwrap();
    let mut old = Fake::start(0xc1).await;
    let foreign = Fake::start(0xc3).await;
    let mut new = Fake::start(0xc2).await;
    new.namespace.lock().formerly.push(ClusterId(0xc1));
    let first = DataServer::start(config(101, place.path(), &[&old.address])).await.unwrap();
    old.heartbeat().await;
    first.stop().await;
    let config = config(101, place.path(), &[&old.address, &foreign.address, &new.address]);
    let server = DataServer::start(config.clone()).await.unwrap();
    let cluster = || server.core().store.cluster();
    let (kept, data) = block(1, 100);
    let (gone, other) = block(2, 100);
    // The sweep that follows a registration may come at any moment.
    old.refer(kept);
    old.refer(gone);
    Caller::new(&server).put(kept, &data).await.unwrap();
    Caller::new(&server).put(gone, &other).await.unwrap();
    for _ in 0..3 {
        old.heartbeat().await;
    }
    assert_eq!(cluster(), Some(ClusterId(0xc1)), "as long as its own cluster is there, it stays");
    // It is there and does not know what to answer.
    old.namespace.lock().down = true;
    assert!(server.problem().await.contains("no metadata leader"));
    assert!(new.namespace.lock().map.data.is_empty() && foreign.namespace.lock().map.data.is_empty());

    // What nothing in the new namespace refers to goes, what it refers to stays.
    new.refer(kept);
    old.tasks.stop().await;
    new.heartbeat().await;
    assert_eq!(cluster(), Some(ClusterId(0xc2)));
    reclaim::sweep(server.core()).await.unwrap();
    assert_eq!(server.stored(), [kept.id]);
    // A page of the lost cluster's reclaim queue that was on its way.
    let deleted = reclaim::delete(server.core(), Some(ClusterId(0xc1)), vec![kept.id]).await;
    assert_eq!((deleted, server.stored()), ((Vec::new(), 0), vec![kept.id]));
    assert!(foreign.namespace.lock().map.data.is_empty());
    server.stop().await;

    // That one is lost too, and a dump of the first one is restored once more.
    let mut sibling = Fake::start(0xc4).await;
    sibling.namespace.lock().formerly.push(ClusterId(0xc1));
    sibling.refer(kept);
    new.tasks.stop().await;
    let mut moved = config.clone();
    moved.meta_servers = vec![foreign.address.clone(), sibling.address.clone()];
    let server = DataServer::start(moved).await.unwrap();
    sibling.heartbeat().await;
    assert_eq!(server.core().store.cluster(), Some(ClusterId(0xc4)));
    server.stop().await;

    // It remembers, and the old clusters are strangers from now on.
    let back = Fake::start(0xc1).await;
    let mut moved = config;
    moved.meta_servers = vec![back.address.clone()];
    let server = DataServer::start(moved.clone()).await.unwrap();
    let reason = server.problem().await;
    assert!(reason.contains("c1") && reason.contains("c4"), "{reason}");
    server.stop().await;
    moved.meta_servers.push(sibling.address.clone());
    let server = DataServer::start(moved).await.unwrap();
    sibling.heartbeat().await;
    assert!(back.namespace.lock().map.data.is_empty());
    server.stop().await;
    for fake in [foreign, sibling, back] {
        fake.tasks.stop().await;
    }
}

#[tokio::test]
async fn only_what_nothing_refers_to_is_deleted() {
    let place = tempfile::tempdir().unwrap();
    let mut fake = Fake::start(0xc1).await;
    let server = DataServer::start(config(101, place.path(), &[&fake.address])).await.unwrap();
    let caller = Caller::new(&server);
    let id = |index| block(index, 1).0.id;
    {
        let mut n = fake.namespace.lock();
        for index in 0..3 {
            let block = block(index, 100).0;
            n.referenced.insert(block.id, block);
        }
        n.pending.extend((3..6).map(id));
    }
    for index in 0..6 {
        let (block, data) = block(index, 100);
        caller.put(block, &data).await.unwrap();
    }
    fake.heartbeat().await;
    let stored = || server.stored();
    reclaim::queue(server.core()).await.unwrap();
    reclaim::sweep(server.core()).await.unwrap();
    assert_eq!(stored(), (0..6).map(id).collect::<Vec<BlockId>>(), "referenced and pending blocks stay");

    // Nobody answers: nothing may go.
    fake.namespace.lock().pending.clear();
    fake.namespace.lock().down = true;
    assert!(reclaim::sweep(server.core()).await.is_err());
    assert!(reclaim::queue(server.core()).await.is_err());
    assert_eq!(stored().len(), 6);

    // One waits in the queue with one that was never here, the writer of the others is gone.
    {
        let mut n = fake.namespace.lock();
        n.queue.extend([id(3), id(9)]);
        n.pending.insert(id(5));
        n.down = false;
    }
    reclaim::sweep(server.core()).await.unwrap();
    reclaim::queue(server.core()).await.unwrap();
    assert_eq!(stored(), [id(0), id(1), id(2), id(5)]);
    let mut reported = fake.namespace.lock().reclaimed.clone();
    reported.sort();
    reported.dedup();
    assert_eq!(reported, [id(3), id(9)], "absent blocks are reported too, or the queue never empties");
    server.stop().await;
    fake.tasks.stop().await;
}

/// Blocks are of session 7. The fake calls them pending as long as the grace lasts, as a metadata server does.
#[tokio::test]
async fn what_is_kept_for_the_grace_behind_a_restore_is_counted() {
    let place = tempfile::tempdir().unwrap();
    let mut fake = Fake::start(0xc1).await;
    let grace = |below| Grace { below: SessionId(below), until: Timestamp(i64::MAX) };
    let server = DataServer::start(config(101, place.path(), &[&fake.address])).await.unwrap();
    fake.heartbeat().await;
    let caller = Caller::new(&server);
    for index in 0..3 {
        let (block, data) = block(index, 1000);
        fake.namespace.lock().pending.insert(block.id);
        caller.put(block, &data).await.unwrap();
    }
    let kept = async |now: Option<Grace>| {
        fake.namespace.lock().grace = now;
        reclaim::sweep(server.core()).await.unwrap();
        fake.namespace.lock().kept
    };
    assert_eq!(kept(None).await, None);
    assert_eq!(kept(Some(grace(8))).await, Some(Kept { block_count: 3, len: 3000 }));
    assert_eq!(kept(Some(grace(7))).await, Some(Kept::default()), "writers of this life are alive");

    // It is over: what was kept goes.
    fake.namespace.lock().pending.clear();
    kept(None).await;
    assert_eq!((server.stored(), *server.core().kept.lock()), (vec![], None));
    server.stop().await;
    fake.tasks.stop().await;
}

#[tokio::test]
async fn missing_and_damaged_blocks_are_fetched_from_the_group() {
    let place = tempfile::tempdir().unwrap();
    let mut fake = Fake::start(0xc1).await;
    let first = DataServer::start(config(101, place.path(), &[&fake.address])).await.unwrap();
    fake.heartbeat().await;
    let caller = Caller::new(&first);
    let blocks: Vec<_> = (0..5).map(|index| block(index, 70_000)).collect();
    for (block, data) in &blocks {
        fake.refer(*block);
        caller.put(*block, data).await.unwrap();
    }
    // A second member joins the group with empty directories.
    let second_config = config(102, place.path(), &[&fake.address]);
    let second = DataServer::start(second_config.clone()).await.unwrap();
    second.registered().await;
    let pass = catch_up::pass(second.core()).await.unwrap();
    assert_eq!((pass.compared, pass.failed), (5, 0));
    let caller = Caller::new(&second);
    for (block, data) in &blocks {
        assert_eq!(&caller.get(*block, 0, 70_000).await.unwrap(), data);
    }

    // Damage is answered with an error, and mended.
    assert_eq!(damage(&second_config), 5);
    let (wanted, data) = &blocks[3];
    assert_eq!(caller.get(*wanted, 0, 70_000).await, Err(RpcError::BlockCorrupt { block: wanted.id }));
    assert_eq!(
        caller.get(*wanted, 0, 65_536).await.unwrap(),
        data[..65_536],
        "sectors that are whole are served"
    );
    catch_up::pass(second.core()).await.unwrap();
    assert_eq!(&caller.get(*wanted, 0, 70_000).await.unwrap(), data);

    // A block that no member has is a failure, not an endless wait, and is tried again.
    let (lost, data) = block(8, 100);
    fake.refer(lost);
    assert_eq!(catch_up::pass(second.core()).await.unwrap().failed, 1);
    let lacking = || (second.core().load().compared, second.core().load().lacking);
    assert_eq!(lacking(), (true, 1), "the heartbeat says what is still to be fetched");
    Caller::new(&first).put(lost, &data).await.unwrap();
    catch_up::pass(second.core()).await.unwrap();
    assert_eq!(lacking(), (true, 0));
    assert_eq!(caller.get(lost, 0, 100).await.unwrap(), data);

    // The member to fetch from holds damaged bytes: they are not taken over.
    let (bad, data) = block(9, 100);
    Caller::new(&first).put(bad, &data).await.unwrap();
    damage(&first.config());
    fake.refer(bad);
    assert!(catch_up::pass(second.core()).await.unwrap().failed >= 1);
    assert_eq!(caller.get(bad, 0, 100).await, Err(RpcError::BlockNotFound { block: bad.id }));
    second.stop().await;
    first.stop().await;
    fake.tasks.stop().await;
}

#[tokio::test]
async fn a_server_that_was_away_catches_up_by_itself() {
    let place = tempfile::tempdir().unwrap();
    let fake = Fake::start(0xc1).await;
    let first = DataServer::start(config(101, place.path(), &[&fake.address])).await.unwrap();
    let second = DataServer::start(config(102, place.path(), &[&fake.address])).await.unwrap();
    first.settled().await;
    second.settled().await;
    let (late, data) = block(1, 1000);
    Caller::new(&first).put(late, &data).await.unwrap();
    // The cluster took it for down, and writers left it behind.
    fake.refer(late);
    fake.namespace.lock().map.data.get_mut(&node(102)).unwrap().state = NodeState::Down;
    second.fetched(1).await;
    assert_eq!(Caller::new(&second).get(late, 0, 1000).await.unwrap(), data);
    second.stop().await;
    first.stop().await;
    fake.tasks.stop().await;
}

/// A put to one of three had failed for the writer alone: nobody took that server for away, so it looked ten minutes later. `check` saw
/// that the block was missing and left it at that.
#[tokio::test]
async fn what_a_check_misses_is_fetched() {
    let place = tempfile::tempdir().unwrap();
    let fake = Fake::start(0xc1).await;
    let first = DataServer::start(config(101, place.path(), &[&fake.address])).await.unwrap();
    let second = DataServer::start(config(102, place.path(), &[&fake.address])).await.unwrap();
    first.settled().await;
    second.settled().await;
    let (left_behind, data) = block(1, 1000);
    Caller::new(&first).put(left_behind, &data).await.unwrap();
    fake.refer(left_behind);
    let verify = DataRequest::Verify { blocks: vec![left_behind], deep: false };
    let states = Caller::new(&second).ask(verify, Bytes::new()).await.unwrap().0;
    assert_eq!(states, DataReply::Verified(vec![ReplicaState::Missing]));
    second.fetched(1).await;
    assert_eq!(Caller::new(&second).get(left_behind, 0, 1000).await.unwrap(), data);
    second.stop().await;
    first.stop().await;
    fake.tasks.stop().await;
}
