//! Between the words of the cluster and those of the kernel: attributes, entries, errors.

use super::super::fuse::{Attr as KernelAttr, Entry, Errno};
use super::{MountFs, TTL};
use crate::client::ClientError;
use crate::types::{Attr, FileKind};

/// What `st_blksize` advises: the longest request of the kernel.
pub(super) const IO_LEN: u32 = 1 << 20;

/// The errno of an error; what nobody can see from an errno alone goes to the log.
pub(super) fn errno(error: &ClientError) -> Errno {
    if error.fs().is_none() {
        tracing::warn!(%error, "operation failed");
    }
    Errno::from_raw_os_error(error.errno())
}

impl MountFs {
    /// Attributes for the kernel.
    pub(super) fn attr_out(&self, attr: &Attr) -> KernelAttr {
        KernelAttr {
            inode: self.number(attr.inode),
            kind: attr.kind,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            size: attr.size,
            blocks: attr.used.div_ceil(512),
            block_size: if attr.kind == FileKind::File { IO_LEN } else { 4096 },
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
        }
    }

    /// An entry for the kernel.
    pub(super) fn entry(&self, attr: &Attr) -> Entry {
        Entry {
            inode: self.number(attr.inode),
            generation: 0,
            attr: self.attr_out(attr),
            entry_ttl: TTL,
            attr_ttl: TTL,
        }
    }
}
