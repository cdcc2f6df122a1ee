//! Bytes on disk are flipped while a server is stopped. It notices, and nobody is ever given wrong bytes.

use std::path::{Path, PathBuf};

use pohmelfs::types::{Cookie, DirEntry, ExtentSource, InodeId, Query, QueryReply, ROOT_INODE};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::load::{read_all, write_file};
use crate::common::raw::Raw;
use crate::common::{Cluster, Load, Shape, content_of, seed, until};

/// Flips one to three bits at a random place of a file.
fn flip(path: &Path, random: &mut StdRng) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = random.random_range(0..bytes.len());
    bytes[at] ^= [1, 3, 0x80, 0x55][random.random_range(0..4)];
    std::fs::write(path, bytes).unwrap();
    println!("flipped byte {at} of {}", path.display());
}

/// Flips a bit of one of the last bytes of a file: where a record that is not all there would be no surprise.
fn flip_end(path: &Path, random: &mut StdRng) {
    let mut bytes = std::fs::read(path).unwrap();
    let from_end = random.random_range(1..bytes.len().min(120));
    let at = bytes.len() - from_end;
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
    println!("flipped byte {at}, {from_end} from the end, of {}", path.display());
}

/// All files below `dir` that hold something, largest first.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            match entry.metadata().unwrap() {
                m if m.is_dir() => left.push(entry.path()),
                m if m.len() > 0 => out.push((m.len(), entry.path())),
                _ => {}
            }
        }
    }
    out.sort_by(|a, b| b.cmp(a));
    out.into_iter().map(|(_, path)| path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_is_never_handed_out() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::start(3, 3).await;
    let client = cluster.client().await;
    let bytes = content_of("victim", 700_000);
    write_file(&client, "/victim", bytes.clone().into()).await.unwrap();
    let inode: InodeId = client.stat("/victim").await.unwrap().inode;
    let page = client.extents_page(inode, 0, u64::MAX).await.unwrap();
    let ids: Vec<_> = page
        .extents
        .iter()
        .filter_map(|e| match &e.source {
            ExtentSource::Block { block, .. } => Some(block.id),
            _ => None,
        })
        .collect();
    assert!(!ids.is_empty(), "a file of 700,000 bytes is in blocks");
    client.close().await;

    // Two of three replicas are damaged, the third is whole.
    for i in cluster.data_indexes() {
        cluster.nodes[i].kill();
    }
    let damaged: Vec<usize> = cluster.data_indexes().take(2).collect();
    for &i in &damaged {
        let blocks = files(&cluster.nodes[i].dir.join("blocks"));
        assert_eq!(blocks.len(), ids.len(), "{blocks:?}");
        for block in blocks {
            flip(&block, &mut random);
        }
    }
    // With only a damaged replica there, the answer is an error.
    cluster.nodes[damaged[0]].start();
    cluster.ready_data(damaged[0]).await;
    let options = pohmelfs::client::ClientOptions {
        call_timeout: std::time::Duration::from_secs(3),
        ..pohmelfs::client::ClientOptions::default()
    };
    let hasty = cluster.client_with(options).await;
    match read_all(&hasty, "/victim").await {
        Err(e) => println!("with one damaged replica only: {e}"),
        Ok(read) => assert!(read == bytes, "wrong bytes were handed out"),
    }
    // With all there, every read is right.
    cluster.start_all();
    cluster.ready().await;
    let client = cluster.client().await;
    for _ in 0..20 {
        assert!(read_all(&client, "/victim").await.unwrap() == bytes, "wrong bytes were handed out");
    }
    // It was noticed, and the log names block or file and what is the matter.
    let text = cluster.nodes[damaged[0]].log_text();
    let named = ids.iter().any(|id| text.contains(&id.to_string()));
    assert!(named, "the log of {} names none of {ids:?}", cluster.nodes[damaged[0]].name);

    // The way out: an empty directory. The cluster is whole again once its blocks were copied, or at least serves.
    cluster.nodes[damaged[0]].kill();
    cluster.nodes[damaged[0]].wipe();
    cluster.nodes[damaged[0]].start();
    cluster.ready().await;
    assert!(read_all(&client, "/victim").await.unwrap() == bytes);
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

/// For every file that a metadata server keeps: flip a byte, start it. Either it is as the others, or it says what is damaged,
/// and is as the others once it was wiped.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_metadata_server_is_right_or_says_so() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::of(Shape::default().meta_only().with_snapshots(200, 100)).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    load.progress(100).await;
    let (stopped, _) = load.stop().await.forgive_failed();
    cluster.same_state().await;
    let root = cluster.nodes[0].dir.clone();
    let kinds: Vec<PathBuf> =
        files(&root).iter().map(|f| f.strip_prefix(&root).unwrap().to_owned()).collect();
    println!("files of a metadata server: {kinds:?}");
    let (mut right, mut said) = (0, 0);
    for kind in &kinds {
        let victim = cluster.follower().await;
        let path = cluster.nodes[victim].dir.join(kind);
        // Some carry an index in their names: another server has another one of the same kind.
        let path = if path.exists() {
            path
        } else {
            let folder = path.parent().unwrap();
            let same = |f: &&PathBuf| f.parent() == Some(folder) && f.extension() == path.extension();
            match files(&cluster.nodes[victim].dir).iter().find(same) {
                Some(other) => other.clone(),
                None => continue,
            }
        };
        cluster.nodes[victim].kill();
        flip(&path, &mut random);
        let log_before = cluster.nodes[victim].log_text().len();
        cluster.nodes[victim].start();
        if right_or_ended(&mut cluster, victim).await {
            right += 1;
        } else {
            said += 1;
            let text = cluster.nodes[victim].log_text().split_off(log_before);
            let name = path.file_name().unwrap().to_string_lossy();
            let folder = path.parent().unwrap().to_string_lossy();
            assert!(
                text.contains(&*name) || text.contains(&*folder),
                "{} ended and did not name {}:\n{text}",
                cluster.nodes[victim].name,
                path.display()
            );
            assert!(!text.contains("panicked"), "{text}");
            cluster.nodes[victim].wipe();
            cluster.nodes[victim].start();
            cluster.ready().await;
        }
        cluster.same_state().await;
        // The hash is kept beside the records; what is read from them is looked at here.
        let (theirs, others) =
            (listing(&cluster, victim).await, listing(&cluster, cluster.leader().await).await);
        assert!(theirs == others, "{} lists something else than the leader", cluster.nodes[victim].name);
        assert!(theirs.len() > 100);
    }
    println!("{} flips: {right} times right, {said} times refused and named", right + said);
    stopped.compare(&cluster).await.assert_clean("load before the damage");
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

/// All entries of the loaded directory with their attributes, as one certain server has them.
async fn listing(cluster: &Cluster, server: usize) -> Vec<DirEntry> {
    let mut raw = Raw::connect(&cluster.nodes[server].address).await.unwrap();
    let dir = match raw.lookup(ROOT_INODE, "load").await.unwrap().unwrap() {
        QueryReply::Found(found) => found.attr.inode,
        other => panic!("{other:?}"),
    };
    let (mut out, mut after) = (Vec::new(), Cookie(0));
    loop {
        let page = Query::ReadDir { inode: dir, after, limit: 1000, with_attrs: true };
        match raw.query(page).await.unwrap().unwrap() {
            QueryReply::Page { entries, end } => {
                after = entries.last().map_or(after, |e| e.cookie);
                out.extend(entries);
                if end {
                    return out;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// True if the server became ready, false if it ended by itself.
async fn right_or_ended(cluster: &mut Cluster, victim: usize) -> bool {
    let node = &mut cluster.nodes[victim];
    until(&format!("{} to be ready or to end", node.name), async || {
        if let Some(status) = node.ended() {
            assert!(!status.success(), "it ended as if all were well");
            assert!(status.code().is_some_and(|c| c != 101), "{status}: {}", node.tail());
            return Ok(false);
        }
        let status = node.status().await?;
        if status.ready { Ok(true) } else { Err(status.reason) }
    })
    .await
}

/// What a voter has promised it must not forget: with a flipped byte it comes up with all of its log, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_never_taken_for_a_shorter_one() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::start(3, 0).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    load.progress(50).await;
    load.finish(&cluster).await.assert_clean("load before the damage");
    cluster.same_state().await;
    let (_, before) = cluster.meta_status(0).await.unwrap();
    cluster.kill_all();
    let log = cluster.nodes[0].dir.join("log");
    let kept: Vec<(PathBuf, Vec<u8>)> =
        files(&log).into_iter().map(|f| (f.clone(), std::fs::read(&f).unwrap())).collect();
    for attempt in 0..12 {
        let (path, _) = &kept[attempt % kept.len()];
        if attempt % 2 == 0 {
            flip(path, &mut random);
        } else {
            flip_end(path, &mut random);
        }
        cluster.nodes[0].start();
        let node = &mut cluster.nodes[0];
        // Alone it cannot become ready; what it says of its log is what counts.
        let last = until("it to end or to tell its log", async || {
            if let Some(status) = node.ended() {
                assert!(status.code().is_some_and(|c| c != 0 && c != 101), "{status}: {}", node.tail());
                return Ok(None);
            }
            match node.status().await?.meta {
                Some(meta) if meta.last_log > 0 => Ok(Some(meta.last_log)),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        if let Some(last) = last {
            assert!(last >= before.last_log, "{} entries became {last} without a word", before.last_log);
        }
        if cluster.nodes[0].is_started() {
            cluster.nodes[0].kill();
        }
        for (path, bytes) in &kept {
            std::fs::write(path, bytes).unwrap();
        }
    }
    cluster.start_all();
    cluster.ready().await;
    cluster.same_state().await;
}
