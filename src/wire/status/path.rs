//! What a path leads to, as JSON: attributes, extents, and every address of each block.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::{Attr, Extent, ExtentSource, FileKind, NodeId, Timestamp};

/// What a path leads to and where its bytes are: `GET /lookup?path=`, `pohmelfs locate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PathStatus {
    /// The path, percent-encoded where it is not plain UTF-8 text.
    pub path: String,
    /// `file`, `dir`, `symlink`, `fifo`, `socket`, `chardev`, `blockdev`.
    pub kind: String,
    /// Size in bytes.
    pub size: u64,
    /// What `stat` shows.
    pub attr: AttrStatus,
    /// Target of a symlink, percent-encoded where it is not plain UTF-8 text.
    pub target: Option<String>,
    /// Of a file: data servers to read it from or write it to in parallel.
    pub servers: Vec<ServerAddress>,
    /// Extents in order. At most [`PathStatus::EXTENTS_MAX`]; `more` tells if some were left off.
    pub extents: Vec<ExtentStatus>,
    /// True if the file has more extents than are listed.
    pub more: bool,
    /// Log index of the state that answered, if known.
    pub at: Option<u64>,
}

impl PathStatus {
    /// Most extents listed: 256 blocks are 1 GiB of a file written in one go, and a page a person can read.
    pub const EXTENTS_MAX: u32 = 256;
}

/// Attributes as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AttrStatus {
    /// Inode number.
    pub inode: u64,
    /// Permission bits, octal.
    pub mode: String,
    /// Number of dentries.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Bytes that extents cover.
    pub used: u64,
    /// Last read: seconds since 1970, a dot, nanoseconds.
    pub atime: String,
    /// Last change of contents.
    pub mtime: String,
    /// Last change of attributes or contents.
    pub ctime: String,
    /// Creation.
    pub btime: String,
    /// Change counter.
    pub version: u64,
}

/// One extent of a file and all addresses of its block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExtentStatus {
    /// First byte of the file.
    pub offset: u64,
    /// Bytes covered.
    pub len: u64,
    /// `block`, `inline` (the bytes are with the metadata) or `zero` (reserved, never written).
    pub source: String,
    /// The block, written SESSION:INDEX.
    pub block: Option<String>,
    /// First byte of the block that is meant.
    pub block_offset: u32,
    /// Length of the block.
    pub block_len: u32,
    /// Checksum of the block (crc32c), hexadecimal.
    pub checksum: Option<String>,
    /// The group that holds it.
    pub group: Option<u32>,
    /// Every data server that holds it.
    pub servers: Vec<ServerAddress>,
}

/// A data server and where it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ServerAddress {
    /// Its id.
    #[schema(value_type = u64)]
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Where it serves blocks.
    pub address: String,
    /// What the cluster believes of it.
    pub state: String,
}

impl From<&Attr> for AttrStatus {
    fn from(attr: &Attr) -> Self {
        let time = |t: Timestamp| t.to_string();
        Self {
            inode: attr.inode.0,
            mode: format!("{:04o}", attr.mode),
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            used: attr.used,
            atime: time(attr.atime),
            mtime: time(attr.mtime),
            ctime: time(attr.ctime),
            btime: time(attr.btime),
            version: attr.version.0,
        }
    }
}

impl ExtentStatus {
    /// An extent with the data servers that hold its block (none for one without a block).
    #[must_use]
    pub fn new(extent: &Extent, servers: Vec<ServerAddress>) -> Self {
        let mut status = Self { offset: extent.offset, len: extent.len, servers, ..Self::default() };
        match &extent.source {
            ExtentSource::Block { block, block_offset } => {
                "block".clone_into(&mut status.source);
                status.block = Some(block.id.to_string());
                status.block_offset = *block_offset;
                status.block_len = block.len;
                status.checksum = Some(block.checksum.to_string());
                status.group = Some(block.group.0);
            }
            ExtentSource::Inline(_) => "inline".clone_into(&mut status.source),
            ExtentSource::Zero => "zero".clone_into(&mut status.source),
        }
        status
    }
}

/// The word for a kind of inode in JSON.
#[must_use]
pub const fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDev => "chardev",
        FileKind::BlockDev => "blockdev",
    }
}

/// Bytes of a path as text: those that are not plain UTF-8 text, and `%` itself, become `%NN`.
#[must_use]
pub fn percent_encode(bytes: &[u8]) -> String {
    use fmt::Write as _;

    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut utf8 = [0; 4];
                for byte in c.encode_utf8(&mut utf8).bytes() {
                    let _ = write!(out, "%{byte:02X}"); // writing to a String cannot fail
                }
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_text_is_percent_encoded() {
        assert_eq!(percent_encode(b"/a/\xff%\n\xc3\xa9"), "/a/%FF%25%0A\u{e9}");
    }
}
