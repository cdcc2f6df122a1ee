//! Operations over a cluster in memory: what the kernel refuses before it asks, and what it cannot be made to do in order.

use std::time::Duration;

use super::super::fuse::{Answer, Caller, Errno};
use super::{FsOptions, MountFs};
use crate::client::testing::Fake;
use crate::types::{InodeId, ROOT_INODE};

const READ_WRITE: u32 = 0o2;
const EXCLUSIVE: u32 = 0o200;

fn root() -> Caller {
    Caller::default()
}

async fn mounted(fake: &Fake) -> MountFs {
    let options =
        FsOptions { root: ROOT_INODE, timeout: Duration::from_secs(10), flush_age: Duration::from_secs(5) };
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
