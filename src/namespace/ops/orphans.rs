//! Free orphans that no session holds, in bounded steps.

use super::super::extents::Edit;
use super::super::records::Orphan;
use super::super::txn::{Step, read};
use super::super::{Op, Txn, ViewError, keys};
use crate::types::{InodeId, UpdateReply};

/// Frees what one command may: extents first, then the inode and what stands under it. An orphan that is not finished is
/// marked, and nobody can use it any more.
pub(crate) fn free(txn: &mut Txn<'_>, inodes: &[InodeId]) -> Step<UpdateReply> {
    let mut budget = Op::FREE_EXTENTS_MAX;
    for id in inodes {
        if budget == 0 {
            break;
        }
        free_one(txn, *id, &mut budget)?;
    }
    Ok(UpdateReply::Done)
}

fn free_one(txn: &mut Txn<'_>, id: InodeId, budget: &mut usize) -> Result<(), ViewError> {
    let key = keys::orphan(id);
    let Some(orphan) = read::<Orphan>(&txn.records, &key)? else { return Ok(()) };
    super::lock::inode_freed(txn, id)?;
    // A budget that is used up to the last may have left something: the next command sees.
    let mut edit = Edit::new(&txn.records, id);
    let mut freed = edit.remove_some(*budget)?;
    let used = edit.settle()?;
    for range in [keys::xattrs(id), keys::dentries(id)] {
        freed += txn.records.delete_range(&range, *budget - freed)?;
    }
    let superblock = txn.founded()?;
    superblock.used = used.of(superblock.used);
    if freed < *budget {
        txn.records.delete(&key)?;
        txn.remove_inode(id)?;
    } else {
        txn.records.put(&key, &Orphan { freeing: true, ..orphan })?;
        txn.with_inode(id, |inode| {
            inode.used = used.of(inode.used);
            inode.freeing = true;
        })?;
    }
    *budget -= freed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, name};
    use super::*;
    use crate::namespace::{check, orphans, superblock};
    use crate::types::{
        Extent, ExtentSource, FsError, Publish, ROOT_INODE, SetXattr, Unlink, Update, XattrMode,
    };

    #[test]
    fn a_large_orphan_is_freed_in_steps_and_is_of_no_use_meanwhile() {
        let mut bench = Bench::new();
        let inode = bench.make_file("a");
        let name_of = bytes::Bytes::from_static(b"user.a");
        let xattr = SetXattr { inode, name: name_of.clone(), value: name_of, mode: XattrMode::Any };
        assert!(bench.update(Update::SetXattr(xattr)).is_ok());
        let zero = |i: u64| Extent { offset: i * 10, len: 5, source: ExtentSource::Zero };
        let extents = (0..2000).map(zero).collect();
        let publish = Publish { inode, extents, grow_to: None, append: false, mtime: None };
        assert!(bench.update(Update::Publish(publish.clone())).is_ok());
        let free = Op::FreeOrphans(vec![inode]);
        assert!(bench.command(free.clone()).is_ok());
        assert_eq!(bench.bytes(inode).len(), 19_995, "it is no orphan yet");
        assert!(
            bench.update(Update::Unlink(Unlink { parent: ROOT_INODE, name: name("a"), dir: false })).is_ok()
        );
        assert!(bench.update(Update::Publish(publish.clone())).is_ok(), "a handle still writes");

        assert!(bench.command(free.clone()).is_ok());
        assert!(orphans(&bench.view, None, 9).unwrap()[0].freeing);
        assert_eq!(bench.update(Update::Publish(publish)), Err(FsError::Stale));
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
        assert!(bench.command(free).is_ok());
        assert!(orphans(&bench.view, None, 9).unwrap().is_empty());
        let left = superblock(&bench.view).unwrap().unwrap();
        assert_eq!((left.inode_count, left.used), (1, 0));
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }
}
