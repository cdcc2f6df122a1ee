//! What a dump holds, counted while it is written or read.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use bytes::Bytes;
use indicatif::ProgressBar;
use serde_json::json;

use super::super::Failure;
use super::super::text::{self, Out};
use super::file::{DumpReader, Header};
use crate::namespace::{DumpRecord, SuperblockInfo, dump_record};
use crate::types::DataNode;

/// Bytes read at once.
const BUFFER_LEN: usize = 1 << 20;

/// What is in it.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) header: Header,
    /// Identity and counters of the namespace, once they have come.
    pub(crate) superblock: Option<SuperblockInfo>,
    /// Data servers of its cluster map.
    pub(crate) data: Vec<DataNode>,
    pub(crate) inode_count: u64,
    /// Blocks on data servers that files refer to.
    pub(crate) block_count: u64,
    pub(crate) session_count: u64,
    /// Bytes of the file.
    pub(crate) len: u64,
}

impl Contents {
    /// Nothing yet.
    pub(crate) fn new(header: Header) -> Self {
        Self {
            header,
            superblock: None,
            data: Vec::new(),
            inode_count: 0,
            block_count: 0,
            session_count: 0,
            len: 0,
        }
    }

    /// Counts a record.
    ///
    /// # Errors
    /// This program does not know it.
    pub(crate) fn add(&mut self, key: &[u8], value: &Bytes) -> Result<(), String> {
        let unknown = |e| format!("{e}: it was written by a later program, use that one");
        match dump_record(key, value).map_err(unknown)? {
            DumpRecord::Superblock(superblock) => self.superblock = Some(superblock),
            DumpRecord::Inode => self.inode_count += 1,
            DumpRecord::Block => self.block_count += 1,
            DumpRecord::DataNode(node) => self.data.push(node),
            DumpRecord::Session => self.session_count += 1,
            DumpRecord::Other => {}
        }
        Ok(())
    }

    /// Reads a whole file and checks everything in it.
    pub(crate) fn verify(path: &Path) -> Result<Self, Failure> {
        let at = |e: &dyn std::fmt::Display| Failure::new(format!("{}: {e}", path.display()));
        let (mut reader, bar) = open(path)?;
        let mut contents = Self::new(reader.header.clone());
        contents.len = bar.length().unwrap_or_default();
        while let Some(block) = reader.block().map_err(|e| at(&e))? {
            for (key, value) in &block.records {
                contents.add(key, value).map_err(|e| at(&e))?;
            }
        }
        bar.finish_and_clear();
        if contents.superblock.is_none() {
            return Err(at(
                &"the dump is of a cluster that had not been founded: there is nothing to restore",
            ));
        }
        Ok(contents)
    }

    /// For programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let stamp = &self.header.stamp;
        let data = self.data.iter().map(|n| json!({ "node": n.node, "name": n.name, "address": n.address }));
        json!({
            "cluster": stamp.cluster.to_string(),
            "index": stamp.index,
            "state_hash": stamp.tally.hash.to_string(),
            "records": stamp.tally.records,
            "taken": stamp.taken.secs(),
            "program": self.header.program,
            "inodes": self.inode_count,
            "blocks": self.block_count,
            "sessions": self.session_count,
            "data_servers": data.collect::<Vec<_>>(),
            "bytes": self.len,
        })
    }

    /// For people.
    pub(crate) fn words(&self) -> String {
        let stamp = &self.header.stamp;
        let names: Vec<&str> = self.data.iter().map(|n| n.name.as_str()).collect();
        format!(
            "cluster {}, log index {}, taken {} UTC by pohmelfs {}\nstate hash {}, {} records in {}\n{} inodes, {} blocks on {} data servers ({}), \
             {} sessions\n",
            stamp.cluster,
            stamp.index,
            text::time(stamp.taken),
            self.header.program,
            stamp.tally.hash,
            stamp.tally.records,
            text::size(self.len, false),
            self.inode_count,
            self.block_count,
            names.len(),
            names.join(", "),
            self.session_count,
        )
    }

    /// Prints it.
    pub(crate) fn show(&self, as_json: bool) -> Result<(), Failure> {
        let mut out = Out::new();
        if as_json {
            out.json(&self.json())?;
        } else {
            write!(out, "{}", self.words())?;
        }
        out.end()
    }
}

/// A dump, and a bar that follows how much of it is read.
pub(crate) fn open(path: &Path) -> Result<(DumpReader<impl std::io::Read + use<>>, ProgressBar), Failure> {
    let at = |e: &dyn std::fmt::Display| Failure::new(format!("{}: {e}", path.display()));
    let file = File::open(path).map_err(|e| at(&e))?;
    let len = file.metadata().map_err(|e| at(&e))?.len();
    let bar = text::progress(len, true);
    let input = bar.wrap_read(BufReader::with_capacity(BUFFER_LEN, file));
    Ok((DumpReader::new(input).map_err(|e| at(&e))?, bar))
}
