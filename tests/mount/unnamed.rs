//! Files without a name (`O_TMPFILE`): given one later, kept from one, and gone with whoever held them.

use std::fs::{self, File, OpenOptions};
use std::io::{Result, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, OFlags, linkat};

use crate::common::{Cluster, until};
use crate::mounts::{Mount, blocking, possible};

fn unnamed(dir: &Path, more: OFlags) -> Result<File> {
    let flags = i32::try_from((OFlags::TMPFILE | more).bits()).unwrap();
    OpenOptions::new().read(true).write(true).mode(0o640).custom_flags(flags).open(dir)
}

/// `linkat` of the descriptor itself.
fn link(file: &File, to: &Path) -> rustix::io::Result<()> {
    linkat(file, "", CWD, to, AtFlags::EMPTY_PATH)
}

/// `linkat` of its entry in `/proc`, as programs without privileges do it.
fn link_by_proc(file: &File, to: &Path) -> rustix::io::Result<()> {
    linkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), CWD, to, AtFlags::SYMLINK_FOLLOW)
}

fn story(a: &Path, b: &Path) {
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut file = unnamed(a, OFlags::empty()).unwrap();
    file.write_all(&bytes).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.nlink(), meta.mode() & 0o7777), (300_000, 0, 0o640));
    for dir in [a, b] {
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }
    // Not synced before it is linked: whole all the same, once it is synced.
    link(&file, &a.join("linked")).unwrap();
    file.sync_all().unwrap();
    assert!(fs::read(b.join("linked")).unwrap() == bytes);
    assert_eq!(fs::metadata(b.join("linked")).unwrap().nlink(), 1);
    assert_eq!(link(&file, &a.join("linked")), Err(rustix::io::Errno::EXIST));
    file.write_all(b"more").unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::metadata(b.join("linked")).unwrap().len(), 300_004);
    // With a name it is a file like all others.
    fs::remove_file(b.join("linked")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);

    let mut file = unnamed(b, OFlags::empty()).unwrap();
    file.write_all(b"by proc").unwrap();
    link_by_proc(&file, &b.join("second")).unwrap();
    drop(file);
    assert_eq!(fs::read(a.join("second")).unwrap(), b"by proc");

    let sealed = unnamed(a, OFlags::EXCL).unwrap();
    assert_eq!(link(&sealed, &a.join("third")), Err(rustix::io::Errno::NOENT));
    assert_eq!(link_by_proc(&sealed, &a.join("third")), Err(rustix::io::Errno::NOENT));
    assert!(unnamed(&a.join("second"), OFlags::empty()).is_err(), "not in a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_name_is_linked_or_goes() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let mut a = Mount::start(&cluster, "a", &[]).await;
    let b = Mount::start(&cluster, "b", &[]).await;
    let (root_a, root_b) = (a.dir.clone(), b.dir.clone());
    blocking(move || story(&root_a, &root_b)).await;
    let client = cluster.client().await;
    let gone = async || {
        until("all but the names to be freed", async || {
            let inodes = client.statfs().await.map_err(|e| e.to_string())?.inode_count;
            let blocks = cluster.block_count().await?;
            // The root, and a name that was linked.
            if (inodes, blocks) == (2, 0) { Ok(()) } else { Err(format!("{inodes} inodes, {blocks} blocks")) }
        })
        .await;
    };
    gone().await;
    // With its session, should the mount die.
    let mut held = unnamed(&a.dir, OFlags::empty()).unwrap();
    held.write_all(&vec![1; 300_000]).unwrap();
    held.sync_all().unwrap();
    until("its blocks to be stored", async || match cluster.block_count().await? {
        0 => Err("no blocks".into()),
        _ => Ok(()),
    })
    .await;
    a.kill();
    drop(held);
    gone().await;
    client.close().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
