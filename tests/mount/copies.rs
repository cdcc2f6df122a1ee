//! `copy_file_range(2)`: the copy refers to the blocks of its source, and they stay until the last file that does is gone.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use pohmelfs::client::Client;
use pohmelfs::types::{BlockId, ExtentSource};
use rustix::fs::copy_file_range;
use rustix::io::Errno;

use crate::common::{Cluster, until};
use crate::mounts::{Mount, blocking, possible};

const LEN: usize = 9_000_000;

fn bytes(of: u8) -> Vec<u8> {
    (0..LEN).map(|i| u8::try_from((i / 7 + i / 1000 + usize::from(of)) % 251).unwrap()).collect()
}

fn writing(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Copies `len` bytes, in as many calls as it takes; how many there were.
fn copy(from: &File, mut from_at: u64, to: &File, mut to_at: u64, len: usize) -> rustix::io::Result<usize> {
    let mut done = 0;
    while done < len {
        match copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), len - done)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

async fn blocks_are(cluster: &Cluster, what: &str, wanted: impl Fn(u64) -> bool) -> u64 {
    until(what, async || match cluster.block_count().await? {
        count if wanted(count) => Ok(count),
        count => Err(format!("{count} blocks")),
    })
    .await
}

/// The blocks that a file in the root refers to.
async fn blocks_of(client: &Client, name: &str) -> BTreeSet<BlockId> {
    let inode = client.stat(format!("/{name}")).await.unwrap().inode;
    let page = client.extents_page(inode, 0, u64::MAX).await.unwrap();
    assert!(page.end);
    let block = |source: &ExtentSource| match source {
        ExtentSource::Block { block, .. } => Some(block.id),
        _ => None,
    };
    page.extents.iter().filter_map(|e| block(&e.source)).collect()
}

/// Ranges that start and end anywhere, of a file whose last bytes are not published yet, through both mounts.
fn ranges(a: &Path, b: &Path) {
    let mut model = bytes(2);
    let (from, to) = (writing(&a.join("from")), writing(&a.join("to")));
    from.write_all_at(&bytes(1), 0).unwrap();
    from.sync_all().unwrap();
    from.write_all_at(b"written last", 777).unwrap();
    to.write_all_at(&model, 0).unwrap();
    let mut source = bytes(1);
    source[777..789].copy_from_slice(b"written last");
    for (from_at, to_at, len) in [(0, 5, 800), (770, 4_194_300, 3_000_000), (4_000_000, 0, 4_500_000)] {
        assert_eq!(copy(&from, from_at as u64, &to, to_at as u64, len), Ok(len));
        model[to_at..to_at + len].copy_from_slice(&source[from_at..from_at + len]);
        // No close and no sync before: the other mount sees it.
        assert!(fs::read(b.join("to")).unwrap() == model, "{from_at} {to_at} {len}");
    }
    assert_eq!(copy(&from, LEN as u64 - 10, &to, LEN as u64, 4096), Ok(10), "to the end of the source");
    assert_eq!(to.metadata().unwrap().len(), LEN as u64 + 10);
    assert_eq!(copy(&to, 0, &to, 100, 101), Err(Errno::INVAL));
    assert_eq!(copy(&to, 0, &to, 100, 100), Ok(100));
    assert_eq!(copy(&to, 0, &File::open(a.join("from")).unwrap(), 0, 1), Err(Errno::BADF));
    drop((from, to));
    for name in ["from", "to"] {
        fs::remove_file(b.join(name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_shares_blocks_until_the_last_is_gone() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let (a, b) = (Mount::start(&cluster, "a", &[]).await, Mount::start(&cluster, "b", &[]).await);
    let (root_a, root_b) = (a.dir.clone(), b.dir.clone());
    blocking(move || ranges(&root_a, &root_b)).await;
    blocks_are(&cluster, "the blocks of both to be gone", |count| count == 0).await;

    let client = cluster.client().await;
    let all = bytes(3);
    fs::write(a.path("one"), &all).unwrap();
    let (one, two, three) =
        (File::open(b.path("one")).unwrap(), writing(&b.path("two")), writing(&b.path("three")));
    assert_eq!(copy(&one, 0, &two, 0, LEN), Ok(LEN));
    assert_eq!(copy(&two, 0, &three, 0, LEN), Ok(LEN));
    drop((one, two, three));
    let blocks = blocks_of(&client, "one").await;
    assert!(blocks.len() >= 3, "{blocks:?}");
    for copied in ["two", "three"] {
        assert_eq!(blocks_of(&client, copied).await, blocks, "{copied}");
    }
    let once = 3 * blocks.len() as u64;
    fs::write(a.path("other"), vec![1; 100_000]).unwrap();
    blocks_are(&cluster, "one more block", |count| count > once).await;

    for (gone, left) in [("one", ["two", "three"]), ("three", ["two", "two"])] {
        fs::remove_file(b.path(gone)).unwrap();
        // Freed behind it, so that whatever was to be freed with `gone` has been.
        fs::remove_file(a.path("other")).unwrap();
        blocks_are(&cluster, "the other file's block to be gone", |count| count <= once).await;
        for name in left {
            for mount in [&a, &b] {
                assert!(fs::read(mount.path(name)).unwrap() == all, "{name} without {gone}");
            }
        }
        fs::write(a.path("other"), vec![1; 100_000]).unwrap();
        blocks_are(&cluster, "one more block", |count| count > once).await;
    }
    client.close().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
    fs::remove_file(a.path("two")).unwrap();
    fs::remove_file(a.path("other")).unwrap();
    blocks_are(&cluster, "all blocks to be gone", |count| count == 0).await;
}
