//! The tools against a cluster in this process.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use super::*;
use crate::client::testing::Fake;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: FsArgs,
}

async fn fs(client: &Client, words: &[&OsStr]) -> Result<ExitCode, Failure> {
    let line = Line::try_parse_from([OsStr::new("fs")].iter().chain(words)).unwrap();
    dispatch(client, &line.args.command).await
}

async fn ok(client: &Client, words: &[&str]) {
    let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    assert_eq!(fs(client, &words).await.unwrap(), ExitCode::SUCCESS, "{words:?}");
}

/// Every entry below `root` in order: path, mode, time, contents or target.
fn picture(root: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let contents = if metadata.is_dir() {
            queue.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec()
        } else {
            std::fs::read(&path).unwrap()
        };
        let below = path.strip_prefix(root).unwrap().to_owned();
        all.push((below, metadata.mode(), metadata.mtime(), contents));
    }
    all.sort();
    all
}

#[tokio::test]
async fn a_tree_goes_in_and_comes_out_the_same() {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    let temp = tempfile::tempdir().unwrap();
    let local = temp.path().join("tree");
    std::fs::create_dir_all(local.join("a/empty")).unwrap();
    std::fs::write(local.join("a/small"), b"small").unwrap();
    std::fs::write(local.join("a/none"), b"").unwrap();
    std::fs::write(local.join("large"), vec![b'x'; 300_000]).unwrap();
    std::fs::write(local.join(OsStr::from_bytes(b"not utf-8 \xff")), b"bytes").unwrap();
    std::fs::hard_link(local.join("large"), local.join("a/twin")).unwrap();
    symlink("../large", local.join("a/link")).unwrap();
    symlink("nowhere", local.join("dangling")).unwrap();
    for (name, mode) in [("a/small", 0o640), ("a/none", 0o444), ("a", 0o750), ("a/empty", 0o555)] {
        std::fs::set_permissions(local.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let old = std::fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000));
    std::fs::File::open(local.join("large")).unwrap().set_times(old).unwrap();
    std::fs::File::open(local.join("a/empty")).unwrap().set_times(old).unwrap();

    let (from, back) = (local.to_str().unwrap(), temp.path().join("back"));
    ok(&client, &["mkdir", "/in"]).await;
    ok(&client, &["put", "-r", from, "/in"]).await;
    assert_eq!(client.stat("/in/tree/a/twin").await.unwrap().nlink, 2);
    // A second time over the first.
    ok(&client, &["put", "-r", from, "/in"]).await;
    ok(&client, &["get", "-r", "/in/tree", back.to_str().unwrap()]).await;
    assert_eq!(picture(&back), picture(&local));
    let inode = |name: &str| back.join(name).metadata().unwrap().ino();
    assert_eq!(inode("large"), inode("a/twin"));
    assert_eq!(fake.violations(), Vec::<String>::new());
    ok(&client, &["rm", "-r", "/in"]).await;
    assert!(client.readdir("/", false).await.unwrap().all().await.unwrap().is_empty());
}

#[tokio::test]
async fn moving_linking_and_removing_are_as_in_coreutils() {
    let fake = Fake::start(1, 0).await;
    let client = fake.client().await;
    ok(&client, &["mkdir", "-p", "/a/b", "/c"]).await;
    client.put(&b"1"[..], "/one", Default::default()).await.unwrap();
    client.put(&b"2"[..], "/two", Default::default()).await.unwrap();
    ok(&client, &["mv", "/one", "/two", "/a/b"]).await;
    ok(&client, &["mv", "/a/b/one", "/c/uno"]).await;
    ok(&client, &["ln", "/c/uno", "/a"]).await;
    ok(&client, &["ln", "-s", "../c/uno", "/a/soft"]).await;
    assert_eq!(client.stat("/a/soft").await.unwrap().nlink, 2);
    ok(&client, &["ls", "-lR", "/"]).await;
    ok(&client, &["du", "--json", "/a"]).await;
    ok(&client, &["tree", "/"]).await;
    ok(&client, &["tree", "--json", "/"]).await;
    ok(&client, &["stat", "/a/soft"]).await;
    ok(&client, &["rm", "-f", "/none"]).await;
    let refused = ["rm", "/a"].map(OsStr::new);
    assert_eq!(fs(&client, &refused).await.unwrap(), ExitCode::FAILURE);
    let clobber = ["mv", "-n", "/c/uno", "/a/b/two"].map(OsStr::new);
    assert_eq!(fs(&client, &clobber).await.unwrap(), ExitCode::FAILURE);
    let several = ["mv", "/c", "/a", "/c/uno"].map(OsStr::new);
    assert_eq!(fs(&client, &several).await.unwrap_err().code, 2);
}

/// A get that fails leaves neither half a file nor a temporary one.
#[tokio::test]
async fn a_file_that_cannot_be_read_leaves_nothing() {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    client.put(&[1u8; 100_000][..], "/f", Default::default()).await.unwrap();
    fake.data.values().for_each(|d| d.set(crate::client::testing::Fault::Loses));
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("f"), b"old").unwrap();
    let words = [OsStr::new("get"), OsStr::new("/f"), temp.path().as_os_str()];
    assert_eq!(fs(&client, &words).await.unwrap(), ExitCode::FAILURE);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(temp.path().join("f")).unwrap(), b"old");
}
