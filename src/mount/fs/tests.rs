//! Operations over a cluster in memory: what the kernel refuses before it asks, and what it cannot be made to do in order.

use std::time::Duration;

use super::super::fuse::{Answer, Caller, Errno};
use super::{FsOptions, MountFs};
use crate::client::testing::Fake;
use crate::types::{InodeId, ROOT_INODE};

const READ_ONLY: u32 = 0;
const WRITE_ONLY: u32 = 0o1;
const READ_WRITE: u32 = 0o2;
const EXCLUSIVE: u32 = 0o200;

fn root() -> Caller {
    Caller::default()
}

async fn mounted(fake: &Fake) -> MountFs {
    let options = FsOptions {
        root: ROOT_INODE,
        timeout: Duration::from_secs(10),
        flush_age: Duration::from_secs(5),
        list_ttl: Duration::ZERO,
        call_window: Duration::ZERO,
    };
    MountFs::new(fake.client().await, options)
}

/// Inode and handle of what was made.
fn made(answer: Result<Answer, Errno>) -> (InodeId, u64) {
    match answer {
        Ok(Answer::Create(entry, opened)) => (InodeId(entry.inode), opened.handle),
        other => panic!("not made: {other:?}"),
    }
}

#[tokio::test]
async fn a_file_made_for_good_without_a_name_gets_none() {
    let fake = Fake::start(1, 0).await;
    let fs = mounted(&fake).await;
    let (sealed, _) = made(fs.tmpfile(root(), ROOT_INODE, 0o100_666, 0o027, READ_WRITE | EXCLUSIVE).await);
    let linked = fs.link(root(), sealed, ROOT_INODE, "a".into()).await;
    assert_eq!(linked, Err(Errno::NOENT));
    let (free, handle) = made(fs.tmpfile(root(), ROOT_INODE, 0o100_666, 0o027, READ_WRITE).await);
    fs.write(root(), handle, 0, "text".into(), READ_WRITE, false).await.unwrap();
    match fs.link(root(), free, ROOT_INODE, "a".into()).await {
        Ok(Answer::Entry(entry)) => {
            assert_eq!((entry.attr.mode, entry.attr.nlink, entry.attr.size), (0o640, 1, 4));
        }
        other => panic!("not linked: {other:?}"),
    }
    assert_eq!(fs.open_counts(), (2, 0));
    fs.client().clone().close().await;
}

#[tokio::test]
async fn a_copy_takes_what_is_written_and_ends_with_the_source() {
    let fake = Fake::start(1, 0).await;
    let fs = mounted(&fake).await;
    let create = async |name: &'static str| {
        made(fs.create(root(), ROOT_INODE, name.into(), 0o100_644, 0, READ_WRITE).await)
    };
    let ((a, from), (b, to)) = (create("a").await, create("b").await);
    let write = async |handle, text: &'static str| {
        fs.write(root(), handle, 0, text.into(), READ_WRITE, false).await.unwrap();
    };
    let copy = async |from, to, len| fs.copy_range(root(), from, to, len).await;
    let read = async |handle| match fs.read(handle, 0, 100).await {
        Ok(Answer::Data(parts)) => String::from_utf8(parts.concat()).unwrap(),
        other => panic!("not read: {other:?}"),
    };
    // Neither is flushed.
    write(from, "0123456789").await;
    write(to, "abcdefghij").await;
    assert_eq!(copy((from, 4), (to, 8), 100).await, Ok(Answer::Copied(6)));
    assert_eq!(read(to).await, "abcdefgh456789");
    assert_eq!(copy((from, 10), (to, 0), 5).await, Ok(Answer::Copied(0)), "at the end");
    assert_eq!(copy((from, 99), (to, 0), 5).await, Ok(Answer::Copied(0)), "behind it");
    assert_eq!(copy((from, 0), (to, 0), 0).await, Ok(Answer::Copied(0)), "nothing is asked for");
    assert_eq!(copy((to, 0), (to, 12), 2).await, Ok(Answer::Copied(2)), "within one file");
    assert_eq!(read(to).await, "abcdefgh4567ab");
    assert_eq!(copy((to, 0), (to, 2), 3).await, Err(Errno::INVAL), "they overlap");

    let open = async |inode, flags| match fs.open(root(), inode, flags).await {
        Ok(Answer::Open(opened)) => opened.handle,
        other => panic!("not opened: {other:?}"),
    };
    let (unreadable, unwritable) = (open(a, WRITE_ONLY).await, open(b, READ_ONLY).await);
    assert_eq!(copy((unreadable, 0), (to, 0), 1).await, Err(Errno::BADF));
    assert_eq!(copy((from, 0), (unwritable, 0), 1).await, Err(Errno::BADF));
    assert_eq!(copy((from, 0), (999, 0), 1).await, Err(Errno::BADF));
    assert_eq!(fake.violations(), Vec::<String>::new());
    fs.client().clone().close().await;
}
