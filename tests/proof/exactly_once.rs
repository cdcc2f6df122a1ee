//! A request that is sent again, to any server after any failure, takes effect once and gets the same reply.

use bytes::Bytes;
use pohmelfs::types::{
    Extent, ExtentSource, FsError, InodeId, Name, Publish, QueryReply, ROOT_INODE, Rename, RenameMode,
    Unlink, Update, UpdateReply, UpdateResult,
};
use pohmelfs::wire::message::{KeepAlive, MetaReply, MetaRequest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::raw::{Raw, Stubborn, make, request};
use crate::common::{Cluster, rounds, seed, until};

fn append(inode: InodeId, bytes: &[u8]) -> Update {
    let source = ExtentSource::Inline(Bytes::copy_from_slice(bytes));
    let extents = vec![Extent { offset: 0, len: bytes.len() as u64, source }];
    Update::Publish(Publish { inode, extents, grow_to: None, append: true, mtime: None })
}

fn stubborn(cluster: &Cluster, first: usize) -> Stubborn {
    Stubborn::new(cluster.meta().iter().map(|n| n.address.clone()).collect(), first)
}

/// The request reaches a server, the connection is cut before the reply, and the same request goes to all servers, twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_reply_was_lost_takes_effect_once() {
    let cluster = Cluster::start(3, 0).await;
    let session = stubborn(&cluster, 0).open_session().await;
    let name = |s: &str| Name::new(s).unwrap();
    let mut id = 0;
    for n in 0..20 {
        let (first, second) = (format!("first-{n}"), format!("second-{n}"));
        let rename = Update::Rename(Rename {
            from_parent: ROOT_INODE,
            from_name: name(&first),
            to_parent: ROOT_INODE,
            to_name: name(&second),
            mode: RenameMode::NoReplace,
        });
        let unlink = Update::Unlink(Unlink { parent: ROOT_INODE, name: name(&second), dir: false });
        // The last one fails, and must go on failing in the same way once the name exists again.
        for update in [
            make(&first),
            rename,
            unlink,
            Update::Unlink(Unlink { parent: ROOT_INODE, name: name(&second), dir: false }),
        ] {
            id += 1;
            let update = request(session, id, id, update);
            let mut cut = Raw::connect(&cluster.nodes[n % 3].address).await.unwrap();
            cut.post(&MetaRequest::Update(update.clone())).await.unwrap();
            drop(cut);
            let mut replies = Vec::new();
            for turn in 0..6 {
                let node = &cluster.nodes[(n + turn) % 3];
                let mut link = Raw::connect(&node.address).await.unwrap();
                replies.push(link.update(update.clone()).await.unwrap());
            }
            assert!(replies.windows(2).all(|r| r[0] == r[1]), "replies differ: {replies:?}");
            match (id % 4, &replies[0]) {
                (0, Err(FsError::NotFound)) | (1..=3, Ok(_)) => {}
                other => panic!("request {id}: {other:?}"),
            }
        }
    }
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

/// Many copies of one request at the same moment, to all servers: one of them is applied.
#[tokio::test(flavor = "multi_thread")]
async fn copies_sent_at_the_same_moment_take_effect_once() {
    let cluster = Cluster::start(3, 0).await;
    let session = stubborn(&cluster, 0).open_session().await;
    for id in 1..=50 {
        let update = request(session, id, id, make(&format!("copy-{id}")));
        let copies = (0..9).map(|i| {
            let (address, update) = (cluster.nodes[i % 3].address.clone(), update.clone());
            tokio::spawn(async move { Raw::connect(&address).await?.update(update).await })
        });
        let mut replies = Vec::new();
        for copy in copies.collect::<Vec<_>>() {
            replies.push(copy.await.unwrap().unwrap());
        }
        let created = |r: &UpdateResult| matches!(r, Ok(UpdateReply::Made { created: true, .. }));
        assert!(replies.iter().all(|r| created(r) && *r == replies[0]), "{replies:?}");
    }
}

/// Appends of many clients to one file while leaders are killed, a fifth of the requests sent twice: the length at the end is
/// exactly what was asked for, and each record is there once.
#[tokio::test(flavor = "multi_thread")]
async fn appends_under_leader_kills_add_up_exactly() {
    const WRITERS: u64 = 8;
    const RECORD_LEN: usize = 16;
    let seed = seed();
    let mut cluster = Cluster::start(3, 0).await;
    let mut link = stubborn(&cluster, 0);
    let session = link.open_session().await;
    let made = link.update(&request(session, 1, 1, make("counter"))).await.unwrap();
    let UpdateReply::Made { attr, .. } = made else { panic!("{made:?}") };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut random = StdRng::seed_from_u64(seed ^ writer);
        let mut link = stubborn(&cluster, random.random_range(0..3));
        let stopped = stopped.clone();
        writers.push(tokio::spawn(async move {
            let session = link.open_session().await;
            let mut id = 0;
            while !*stopped.borrow() {
                id += 1;
                let record = format!("{writer:03}-{id:011}\n");
                assert_eq!(record.len(), RECORD_LEN);
                let update = request(session, id, id, append(attr.inode, record.as_bytes()));
                if random.random_range(0..5) == 0 {
                    // Its reply is never read: the connection goes, and another server is asked the same.
                    if let Ok(raw) = link.link().await {
                        let _ = raw.post(&MetaRequest::Update(update.clone())).await;
                    }
                    link.cut();
                }
                let reply = link.update(&update).await;
                assert!(matches!(reply, Ok(UpdateReply::Attr(_))), "append {id} of {writer}: {reply:?}");
                if id % 50 == 0
                    && let Ok(raw) = link.link().await
                {
                    // The session lives by its keep-alives.
                    let alive = MetaRequest::KeepAlive(KeepAlive { session, handles: Vec::new() });
                    match raw.ask(&alive).await {
                        Ok(MetaReply::SessionGone) => panic!("a session that was used has expired"),
                        Ok(_) => {}
                        Err(_) => link.cut(),
                    }
                }
            }
            id
        }));
    }
    let size = async |cluster: &Cluster| {
        let leader = cluster.leader().await;
        until("the size", async || {
            let mut link = Raw::connect(&cluster.nodes[leader].address).await?;
            match link.lookup(ROOT_INODE, "counter").await? {
                Ok(QueryReply::Found(found)) => Ok(found.attr.size),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    };
    for _ in 0..rounds(2) {
        let before = size(&cluster).await;
        until("appends", async || match size(&cluster).await {
            now if now > before + 500 * RECORD_LEN as u64 => Ok(()),
            now => Err(format!("{before} -> {now}")),
        })
        .await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill();
        cluster.leader().await;
        cluster.nodes[leader].start();
        cluster.ready().await;
    }
    stop.send(true).unwrap();
    let mut counts = Vec::new();
    for writer in writers {
        counts.push(writer.await.unwrap());
    }
    let total: u64 = counts.iter().sum();
    assert_eq!(size(&cluster).await, total * RECORD_LEN as u64, "appends acknowledged: {counts:?}");

    let bytes = crate::common::load::read_all(&cluster.client().await, "/counter").await.unwrap();
    let mut seen = vec![0; counts.len()];
    for record in bytes.chunks(RECORD_LEN) {
        let text = std::str::from_utf8(record).unwrap();
        let (writer, id) = text.trim_end().split_once('-').unwrap();
        let (writer, id): (usize, u64) = (writer.parse().unwrap(), id.parse().unwrap());
        seen[writer] += 1;
        assert_eq!(id, seen[writer], "records of writer {writer} are in order, each once");
    }
    assert_eq!(seen, counts);
    println!("{total} appends, each once");
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
