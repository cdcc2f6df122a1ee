//! The files that clients write to: some only by appending, some at places of their choice; and what was put in and got out.
//!
//! `workload` writes and reads them; at the end each of them is read once more through every metadata server.
//! Holds: a read is one question for extents; a file has few records, so that it is.
//! Not here: names. These files are made first and never renamed nor removed.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use pohmelfs::client::{Client, ClientError, OpenOptions};
use pohmelfs::types::InodeId;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Clock;
use super::contents::{FileLog, check_appends};
use super::overwrites::check_overwrites;
use super::records::{RecordId, record};

/// More is read than any file has.
const READ_LEN: usize = 64 << 20;
/// Places of records in a file that is written at places.
const PLACES: u64 = 6;
const PLACE_LEN: u64 = 8_000;
/// Lengths of records: of those that ride in a command, of those that become blocks, of some that have several sectors.
const LENS: [usize; 4] = [40, 3_000, 9_000, 150_000];

/// One file.
#[derive(Clone)]
pub struct Written {
    pub name: &'static str,
    inode: Arc<Mutex<Option<InodeId>>>,
    log: Arc<Mutex<FileLog>>,
    appends: bool,
}

/// All of them.
#[derive(Clone)]
pub struct Files(Vec<Written>);

impl Files {
    pub fn new() -> Self {
        let file = |name, appends| Written { name, inode: Arc::default(), log: Arc::default(), appends };
        Self(vec![file("appended-1", true), file("appended-2", true), file("written", false)])
    }

    pub fn all(&self) -> &[Written] {
        &self.0
    }

    /// What the reads show that must not be.
    pub fn broken(&self) -> Vec<String> {
        let lines = self.0.iter().flat_map(|file| {
            let log = file.log.lock();
            let lines = if file.appends { check_appends(&log) } else { check_overwrites(&log) };
            lines.into_iter().map(|line| format!("file {}: {line}", file.name)).collect::<Vec<_>>()
        });
        lines.collect()
    }

    /// Records put in, and reads.
    pub fn counts(&self) -> (usize, usize) {
        self.0.iter().fold((0, 0), |(puts, gots), file| {
            let log = file.log.lock();
            (puts + log.puts().len(), gots + log.gots().len())
        })
    }
}

impl Written {
    /// It has been made.
    pub fn is(&self, inode: InodeId) {
        *self.inode.lock() = Some(inode);
    }

    /// A client writes record `id`; what fails leaves it unknown.
    pub async fn write(&self, client: &Client, clock: &Clock, id: RecordId, dice: &mut StdRng) {
        let Some(inode) = *self.inode.lock() else { return };
        let (len, offset) = if self.appends {
            (LENS[dice.random_range(0..LENS.len())], None)
        } else {
            let place = dice.random_range(0..PLACES) * PLACE_LEN;
            (dice.random_range(100..12_000), Some(place + dice.random_range(0..PLACE_LEN)))
        };
        let put = self.log.lock().put(id, len, offset, clock.now());
        if put_record(client, inode, offset, record(id, len).into()).await.is_ok() {
            self.log.lock().put_done(put, clock.now());
        }
    }

    /// A client reads all of it.
    pub async fn read(&self, client: &Client, clock: &Clock, reader: u32) -> Result<(), ClientError> {
        let Some(inode) = *self.inode.lock() else { return Ok(()) };
        let reading = self.log.lock().get(reader, 0, READ_LEN, clock.now());
        let file = client.open_inode(inode, OpenOptions::reading()).await?;
        let bytes = file.read_at(0, READ_LEN).await?;
        self.log.lock().get_done(reading, clock.now(), bytes.to_vec());
        file.close().await
    }
}

async fn put_record(
    client: &Client,
    inode: InodeId,
    offset: Option<u64>,
    bytes: Bytes,
) -> Result<(), ClientError> {
    let file = client.open_inode(inode, OpenOptions { create: false, ..OpenOptions::writing() }).await?;
    match offset {
        None => {
            file.append(bytes).await?;
        }
        Some(offset) => {
            file.write_at(offset, bytes).await?;
            file.sync().await?;
        }
    }
    file.close().await
}
