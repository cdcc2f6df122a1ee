//! A tour of what programs do, on one mount.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::common::Cluster;
use crate::mounts::{Mount, blocking, possible};

fn tour(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::create_dir(path("d")).unwrap();
    assert_eq!(fs::create_dir(path("d")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    fs::write(path("d/a"), b"hello").unwrap();
    assert_eq!(fs::read(path("d/a")).unwrap(), b"hello");
    let meta = fs::metadata(path("d/a")).unwrap();
    assert_eq!((meta.len(), meta.nlink(), meta.mode() & 0o170_000), (5, 1, 0o100_000));

    fs::hard_link(path("d/a"), path("b")).unwrap();
    assert_eq!(fs::metadata(path("b")).unwrap().ino(), meta.ino());
    symlink("d/a", path("l")).unwrap();
    assert_eq!(fs::read(path("l")).unwrap(), b"hello");
    fs::rename(path("b"), path("d/c")).unwrap();
    let mut names: Vec<_> = fs::read_dir(path("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "c"]);
    assert!(fs::remove_dir(path("d")).is_err());

    // The writer sees its writes and its size before they are flushed; so does another opener.
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path("w")).unwrap();
    file.write_all(&[7; 10_000]).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    assert_eq!(fs::metadata(path("w")).unwrap().len(), 10_000);
    let other = File::open(path("w")).unwrap();
    let mut one = [0];
    other.read_exact_at(&mut one, 9_999).unwrap();
    assert_eq!(one, [7]);
    file.set_len(3).unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    file.write_all(b"xy").unwrap();
    assert_eq!(fs::read(path("w")).unwrap(), [7, 7, 7, 0, 0, b'x', b'y']);

    // Unlinked and still open.
    fs::remove_file(path("w")).unwrap();
    assert_eq!(fs::metadata(path("w")).unwrap_err().kind(), ErrorKind::NotFound);
    file.write_all(b"z").unwrap();
    file.sync_all().unwrap();
    let mut all = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut all).unwrap();
    assert_eq!(all, [7, 7, 7, 0, 0, b'x', b'y', b'z']);

    // More than a block, in pieces that straddle blocks, and read back in others.
    let bytes: Vec<u8> = (0..9_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut file = File::create(path("big")).unwrap();
    for part in bytes.chunks(777_777) {
        file.write_all(part).unwrap();
    }
    drop(file);
    let mut read = Vec::new();
    let mut file = File::open(path("big")).unwrap();
    let mut buffer = vec![0; 333_333];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            n => read.extend_from_slice(&buffer[..n]),
        }
    }
    assert!(read == bytes);
    for at in [0_u64, 65_535, 4_194_303, 8_999_000] {
        let mut part = [0; 500];
        file.read_exact_at(&mut part, at).unwrap();
        let at = usize::try_from(at).unwrap();
        assert!(part[..] == bytes[at..at + 500], "at {at}");
    }

    fs::set_permissions(path("big"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(path("big")).unwrap().mode() & 0o7777, 0o640);
    let long = "n".repeat(255);
    fs::write(path(&long), b"").unwrap();
    assert!(fs::write(path(&"n".repeat(256)), b"").is_err());
    for i in 0..3000 {
        File::create(path(&format!("d/many-{i}"))).unwrap();
    }
    assert_eq!(fs::read_dir(path("d")).unwrap().count(), 3002);
    fs::remove_dir_all(path("d")).unwrap();
}

async fn tour_with(flags: &[&str]) {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let mut mount = Mount::start(&cluster, "m", flags).await;
    let dir = mount.dir.clone();
    blocking(move || tour(&dir)).await;
    let status = cluster.command(&["stats", "--json", mount.dir.to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status["ops"].as_array().unwrap().iter().any(|op| op["name"] == "lookup"), "{status}");
    assert_eq!(status["open_files"], 0, "{status}");
    mount.terminate().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_see_an_ordinary_filesystem() {
    tour_with(&["--transport", "dev"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_transport() {
    tour_with(&["--transport", "auto", "--memory", "32M"]).await;
}

/// Whoever opens and closes a file that is there changes nothing, so nothing is to be committed.
#[tokio::test(flavor = "multi_thread")]
async fn opening_and_closing_commits_nothing() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let mount = Mount::start(&cluster, "m", &[]).await;
    let path = mount.path("f");
    fs::write(&path, b"text").unwrap();
    let leader = cluster.leader().await;
    let before = cluster.meta_status(leader).await.unwrap().1.applied;
    for _ in 0..100 {
        assert_eq!(fs::read(&path).unwrap(), b"text");
        drop(OpenOptions::new().read(true).write(true).open(&path).unwrap());
    }
    let after = cluster.meta_status(leader).await.unwrap().1.applied;
    // Heartbeats of data servers are committed as well, a few a second.
    println!("{} entries while a file was opened 200 times", after - before);
    assert!(after - before < 100, "{before:?} {after:?}");
}
