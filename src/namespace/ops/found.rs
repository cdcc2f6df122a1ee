//! The first command of a cluster: its identity and the root directory.

use bytes::Bytes;

use super::super::Txn;
use super::super::records::{Healthy, Inode, Superblock};
use super::super::{keys, txn::Step};
use crate::types::{
    BLOCK_LEN_MAX, ClusterId, Epoch, FileKind, FsError, Layout, ROOT_INODE, SessionId, Timestamp,
    UpdateReply, Version,
};

/// Founds the cluster; EEXIST if it is founded, so that two leaders in a row may both try.
pub(crate) fn found(
    txn: &mut Txn<'_>,
    at: Timestamp,
    cluster: ClusterId,
    hash_seed: u64,
    layout: Layout,
) -> Step<UpdateReply> {
    if txn.superblock()?.is_some() {
        return Err(FsError::Exists.into());
    }
    let Layout { replica_count, durable_min, block_len } = layout;
    if !(1..=replica_count).contains(&durable_min) || !(1..=BLOCK_LEN_MAX).contains(&block_len) {
        return Err(FsError::Invalid.into());
    }
    txn.put_superblock(Superblock {
        cluster,
        hash_seed,
        hash_bits: 63,
        layout,
        epoch: Epoch(1),
        newest: at,
        next_inode: ROOT_INODE,
        next_session: SessionId(1),
        inode_count: 0,
        used: 0,
        restoring: None,
    })?;
    txn.records.put_bytes(keys::HEALTHY, Healthy::encode(&[]))?;
    txn.new_inode(Inode {
        kind: FileKind::Dir,
        mode: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        used: 0,
        atime: at,
        mtime: at,
        ctime: at,
        btime: at,
        version: Version(1),
        parent: ROOT_INODE,
        target: Bytes::new(),
        home: None,
        xattr_count: 0,
        acl: None,
        freeing: false,
    })?;
    Ok(UpdateReply::Done)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, T0};
    use super::*;
    use crate::namespace::{Op, check};

    #[test]
    fn a_cluster_is_founded_once() {
        let mut bench = Bench::new();
        let before = bench.view.clone();
        let again = Op::Found { cluster: ClusterId(2), hash_seed: 3, layout: Layout::default() };
        assert_eq!(bench.command(again), Err(FsError::Exists));
        assert_eq!(bench.view, before);
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
        assert_eq!(bench.attr(ROOT_INODE).btime, Timestamp(T0));
    }

    #[test]
    fn a_layout_must_make_sense() {
        let view = crate::namespace::MemoryView::default();
        let mut txn = Txn::new(&view);
        let layout = Layout { durable_min: 4, ..Layout::default() };
        assert!(found(&mut txn, Timestamp(0), ClusterId(1), 1, layout).is_err());
        assert!(txn.finish().is_empty());
    }
}
