//! A restore that is cut off goes on: leaders die, all servers die, the steps are sent again. Meanwhile nothing else is answered.

use futures::StreamExt;
use pohmelfs::types::{BlockId, DumpStamp, RestoreStep, SessionId};
use pohmelfs::wire::dump::{DumpReply, DumpRequest, RestoreProgress};
use pohmelfs::wire::message::{MetaReply, MetaRequest};

use crate::common::raw::Raw;
use crate::common::{Cluster, Shape, content_of, load, until};
use crate::{dump, lose_all_metadata, restore, run};

/// The blocks of a dump of the first metadata server, by hand.
async fn blocks(cluster: &Cluster) -> (DumpStamp, Vec<bytes::Bytes>) {
    let mut raw = Raw::connect(&cluster.nodes[0].address).await.unwrap();
    let mut ask = async |request| match raw.ask(&MetaRequest::Dump(request)).await.unwrap() {
        MetaReply::Dump(reply) => reply,
        other => panic!("{other:?}"),
    };
    let DumpReply::Begun { dump, stamp, block_count } = ask(DumpRequest::Begin).await else {
        panic!("no dump")
    };
    let mut blocks = Vec::new();
    for number in 0..block_count {
        match ask(DumpRequest::Block { dump, number }).await {
            DumpReply::Block(packed) => blocks.push(packed),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ask(DumpRequest::Block { dump, number: block_count }).await, DumpReply::Unknown);
    assert_eq!(ask(DumpRequest::End { dump }).await, DumpReply::Ended);
    assert_eq!(ask(DumpRequest::Block { dump, number: 0 }).await, DumpReply::Unknown);
    (stamp, blocks)
}

/// Sends a step to one server after the other until it is answered, always the same bytes.
async fn step(cluster: &Cluster, step: RestoreStep) -> RestoreProgress {
    let request = MetaRequest::Restore(step);
    let mut turn = 0;
    until("a step of the restore", async || {
        turn += 1;
        let nodes: Vec<_> = cluster.meta().iter().filter(|n| n.is_started()).collect();
        let mut raw = Raw::connect(&nodes[turn % nodes.len()].address).await?;
        match raw.ask(&request).await? {
            MetaReply::Restore(Ok(progress)) => Ok(progress),
            other => panic!("{other:?}"),
        }
    })
    .await
}

/// Files whose bytes are with the metadata, so that a dump has several parts.
const FILES: usize = 300;
const LEN: usize = 4000;

async fn fill(cluster: &Cluster) {
    let client = cluster.client().await;
    let by = &client;
    let make = |i: usize| async move {
        let name = format!("/f{i}");
        load::write_file(by, &name, content_of(&name, LEN).into()).await.unwrap();
    };
    futures::stream::iter((0..FILES).map(make)).buffer_unordered(32).collect::<Vec<()>>().await;
    client.close().await;
}

async fn compare(cluster: &Cluster) {
    let client = cluster.client().await;
    for i in 0..FILES {
        let name = format!("/f{i}");
        assert_eq!(load::read_all(&client, &name).await.unwrap(), content_of(&name, LEN), "{name}");
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_on_whoever_dies() {
    let mut cluster = Cluster::of(Shape::default().meta_only().with_snapshots(200, 50)).await;
    fill(&cluster).await;
    let file = cluster.root().join("metadata.dump");
    let value = dump(&cluster, &file);
    run(&cluster, &["fs", "mkdir", "/later"]).unwrap();
    let (stamp, parts) = blocks(&cluster).await;
    assert!(parts.len() > 2, "{} parts: the dump is too small for this test", parts.len());
    let hash = stamp.tally.hash;
    assert_eq!(stamp.cluster.to_string(), value["cluster"]);

    lose_all_metadata(&mut cluster).await;
    let floor = 1_800_000_000 << 24;
    let begin = RestoreStep::Begin { dump: stamp, floor };
    assert_eq!(step(&cluster, begin.clone()).await.next, 0);
    let part =
        |number: u32| RestoreStep::Part { dump: hash, number, records: parts[number as usize].clone() };
    assert_eq!(step(&cluster, part(0)).await.next, 1);

    // Half of it is there: whoever asks is told so, and a data server that asked what to delete would delete nothing.
    let (status, _) = cluster.meta_status(0).await.unwrap();
    assert!(!status.ready && status.reason.contains("being restored"), "{}", status.reason);
    let told = cluster.command(&["status"]).stdout;
    assert!(String::from_utf8_lossy(&told).contains("records have come"));
    let mut raw = Raw::connect(&cluster.nodes[0].address).await.unwrap();
    let fates = MetaRequest::Fates { blocks: vec![BlockId { session: SessionId(1), index: 1 }] };
    for request in [fates, MetaRequest::Check, MetaRequest::Blocks { node: None, after: None, limit: 9 }] {
        let told = raw.ask(&request).await.unwrap_err();
        assert!(told.contains("being restored") && told.contains("run it again"), "{told}");
    }
    let told = raw.open_session().await.unwrap_err();
    assert!(told.contains("being restored"), "{told}");
    let told = run(&cluster, &["restore", file.to_str().unwrap()]).unwrap_err();
    assert!(told.contains("from another dump") && told.contains("empty directories"), "{told}");

    // The leader dies, then all of them.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill();
    assert_eq!(step(&cluster, part(0)).await.next, 1, "sent again, it is not done again");
    assert_eq!(step(&cluster, part(1)).await.next, 2);
    cluster.nodes[leader].start();
    cluster.kill_all();
    cluster.start_all();
    assert_eq!(
        step(&cluster, RestoreStep::Begin { dump: stamp, floor: floor + 7 }).await,
        RestoreProgress { floor, next: 2, is_done: false }
    );
    for number in 1..u32::try_from(parts.len()).unwrap() {
        step(&cluster, part(number)).await;
    }
    let end = RestoreStep::End { dump: hash, floor };
    assert!(step(&cluster, end.clone()).await.is_done);
    assert!(step(&cluster, end).await.is_done, "sent again, it is not done again");
    cluster.ready().await;
    cluster.same_state().await;
    compare(&cluster).await;
    assert_eq!(cluster.check().await, Vec::<String>::new());

    // And once more in one go, from the file.
    lose_all_metadata(&mut cluster).await;
    restore(&cluster, &file);
    compare(&cluster).await;
}
