//! Load with a memory: writers that note what was acknowledged, and the comparison with what is there.
//!
//! Creators change names (create exclusively, rename without replacing, unlink); writers put files of real blocks. A call that
//! is applied twice shows: the second create answers EEXIST, the second rename or unlink ENOENT.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use pohmelfs::client::{Client, ClientError, ClientOptions, OpenOptions};
use pohmelfs::types::{Extent, ExtentSource, FileKind, FsError, InodeId, MakeNode, Name, Rename, RenameMode};
use tokio::task::JoinHandle;

use super::cluster::Cluster;
use super::wait::until;

/// Longest inline content of the creators' files: their bytes are with the metadata.
const SMALL_LEN_MAX: usize = 600;

/// Files compared at the same time.
const READERS: usize = 16;
/// Length of one write of a writer: divides neither sectors nor blocks.
const WRITE_LEN: usize = 100_003;

/// The bytes that a file of this name has: anybody can tell whether they are right.
pub fn content_of(name: &str, len: usize) -> Vec<u8> {
    let mut state = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// What one writer may rely on: names and lengths that were acknowledged.
#[derive(Default)]
struct Memory {
    /// Files that must be there, with their lengths.
    present: BTreeMap<String, usize>,
    /// Files that must be gone.
    gone: BTreeSet<String>,
    /// Names whose last call failed: nothing is known of them.
    unknown: BTreeSet<String>,
    /// Calls that failed, and why.
    failed: Vec<String>,
    /// Calls whose answer says that they took effect before.
    doubled: Vec<String>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Acknowledged calls of each writer.
    acked: Vec<AtomicU64>,
    longest: Mutex<Duration>,
    /// Milliseconds that a writer rests between two files.
    rest_ms: AtomicU64,
}

impl Shared {
    async fn rest(&self) {
        let rest = self.rest_ms.load(Ordering::Relaxed);
        if rest > 0 {
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }
}

/// A load in progress.
pub struct Load {
    dir: String,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Memory>>,
}

/// What came of a load. All empty: as promised.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Calls acknowledged.
    pub acked: u64,
    /// Files compared.
    pub file_count: usize,
    /// Calls that failed.
    pub failed: Vec<String>,
    /// Acknowledged, and not there or not as it was.
    pub lost: Vec<String>,
    /// Took effect twice, or is there without having been asked for.
    pub doubled: Vec<String>,
}

impl Verdict {
    /// Everything is as promised.
    pub fn assert_clean(&self, what: &str) {
        println!("{what}: {} calls acknowledged, {} files compared", self.acked, self.file_count);
        assert!(self.acked > 0, "{what}: nothing was done, so nothing was proved");
        let first = |list: &[String]| list.iter().take(5).cloned().collect::<Vec<_>>();
        assert!(
            self.failed.is_empty() && self.lost.is_empty() && self.doubled.is_empty(),
            "{what}: {} failed {:?}, {} lost {:?}, {} doubled {:?}",
            self.failed.len(),
            first(&self.failed),
            self.lost.len(),
            first(&self.lost),
            self.doubled.len(),
            first(&self.doubled),
        );
    }
}

impl Load {
    /// `count` creators, each a client of its own, in the directory `dir` (which is made).
    pub async fn creators(cluster: &Cluster, dir: &str, count: usize) -> Self {
        let mut load = Self::begin(cluster, dir, count).await;
        for writer in 0..count {
            let client = creator_client(cluster).await;
            let parent = client.stat(dir).await.unwrap().inode;
            let shared = load.shared.clone();
            load.tasks.push(tokio::spawn(create(client, shared, writer, parent)));
        }
        load
    }

    /// `count` writers of files of `len` bytes (and somewhat less), each a client of its own, in the directory `dir`.
    pub async fn writers(cluster: &Cluster, dir: &str, count: usize, len: usize) -> Self {
        let mut load = Self::begin(cluster, dir, count).await;
        for writer in 0..count {
            let client = creator_client(cluster).await;
            let shared = load.shared.clone();
            load.tasks.push(tokio::spawn(write(client, shared, writer, dir.to_owned(), len)));
        }
        load
    }

    async fn begin(cluster: &Cluster, dir: &str, count: usize) -> Self {
        let client = cluster.client().await;
        client.mkdir_all(dir, 0o755).await.unwrap();
        client.close().await;
        let acked = (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            dir: dir.to_owned(),
            shared: Arc::new(Shared { acked, ..Shared::default() }),
            tasks: Vec::new(),
        }
    }

    /// Waits until every writer has had `more` calls acknowledged that began after now.
    pub async fn progress(&self, more: u64) {
        let now: Vec<u64> = self.shared.acked.iter().map(|a| a.load(Ordering::Relaxed)).collect();
        until("progress of every writer", async || {
            let done =
                self.shared.acked.iter().zip(&now).map(|(a, before)| a.load(Ordering::Relaxed) - before);
            // One call may have been in flight.
            let slowest = done.min().unwrap_or(0);
            if slowest > more { Ok(()) } else { Err(format!("the slowest has {slowest} of {more}")) }
        })
        .await;
    }

    /// From now on every writer rests so long between two files.
    pub fn set_rest(&self, rest: Duration) {
        let millis = u64::try_from(rest.as_millis()).unwrap();
        self.shared.rest_ms.store(millis, Ordering::Relaxed);
    }

    /// Calls acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.shared.acked.iter().map(|a| a.load(Ordering::Relaxed)).sum()
    }

    /// Forgets the longest call so far.
    pub fn begin_round(&self) {
        *self.shared.longest.lock() = Duration::ZERO;
    }

    /// Longest call that ended since [`Load::begin_round`]: the pause an application saw.
    pub fn longest(&self) -> Duration {
        *self.shared.longest.lock()
    }

    /// Ends the load, and compares what is there with what was acknowledged.
    pub async fn finish(self, cluster: &Cluster) -> Verdict {
        let stopped = self.stop().await;
        stopped.compare(cluster).await
    }

    /// Ends the load: each writer finishes its call.
    pub async fn stop(self) -> Stopped {
        self.shared.stop.store(true, Ordering::Relaxed);
        let acked = self.acked();
        let mut memories = Vec::new();
        for task in self.tasks {
            memories.push(task.await.unwrap());
        }
        Stopped { dir: self.dir, acked: acked.max(1), memories }
    }
}

/// A load that has ended and is still to be compared, perhaps after more has happened to the cluster.
pub struct Stopped {
    dir: String,
    acked: u64,
    memories: Vec<Memory>,
}

impl Stopped {
    /// Forgives failed calls: for tests that make them fail. What was acknowledged is compared all the same.
    pub fn forgive_failed(mut self) -> (Self, usize) {
        let failed: Vec<String> =
            self.memories.iter_mut().flat_map(|m| std::mem::take(&mut m.failed)).collect();
        for failure in failed.iter().take(3) {
            println!("forgiven: {failure}");
        }
        (self, failed.len())
    }

    /// Compares what is there with what was acknowledged.
    pub async fn compare(&self, cluster: &Cluster) -> Verdict {
        let client = cluster.client().await;
        let mut verdict = Verdict { acked: self.acked, ..Verdict::default() };
        let entries = client.readdir(&self.dir, true).await.unwrap().all().await.unwrap();
        let mut there = BTreeMap::new();
        for entry in entries {
            let name = entry.name.to_string();
            if there.insert(name.clone(), entry.found.map(|f| f.attr)).is_some() {
                verdict.doubled.push(format!("{name} is listed twice"));
            }
        }
        let dir = client.stat(&self.dir).await.unwrap();
        if dir.size != there.len() as u64 {
            verdict.lost.push(format!("{} has {} names and says {}", self.dir, there.len(), dir.size));
        }
        let mut claimed = BTreeSet::new();
        let mut reads = Vec::new();
        for memory in &self.memories {
            verdict.failed.extend(memory.failed.iter().cloned());
            verdict.doubled.extend(memory.doubled.iter().cloned());
            claimed.extend(memory.unknown.iter().cloned());
            for (name, &len) in &memory.present {
                claimed.insert(name.clone());
                match there.get(name) {
                    None => verdict.lost.push(format!("{name} is not there")),
                    Some(Some(attr)) if attr.size != len as u64 || attr.nlink != 1 => {
                        verdict.lost.push(format!("{name} should have {len} bytes: {attr:?}"));
                    }
                    Some(attr) => {
                        let inode = attr.as_ref().map(|a| a.inode);
                        let path = format!("{}/{name}", self.dir);
                        reads.push((name, len, inode, path));
                    }
                }
            }
            for name in memory.gone.iter().filter(|name| there.contains_key(*name)) {
                verdict.lost.push(format!("{name} was removed and is back"));
            }
        }
        for name in there.keys().filter(|name| !claimed.contains(*name)) {
            verdict.doubled.push(format!("{name} is there and nobody made it"));
        }
        let client_ref = &client;
        let outcomes = futures::stream::iter(reads.into_iter().map(|(name, len, inode, path)| async move {
            let read = match inode {
                Some(inode) if len <= SMALL_LEN_MAX => read_inline(client_ref, inode).await,
                _ => read_all(client_ref, &path).await,
            };
            match read {
                // A renamed file keeps the bytes of its first name.
                Ok(bytes) if bytes == content_of(original(name), len) => Ok(()),
                Ok(bytes) => Err(format!("{name} has other bytes ({} of {len})", bytes.len())),
                Err(e) => Err(format!("{name} cannot be read: {e}")),
            }
        }));
        let outcomes: Vec<Result<(), String>> = outcomes.buffer_unordered(READERS).collect().await;
        for outcome in outcomes {
            match outcome {
                Ok(()) => verdict.file_count += 1,
                Err(lost) => verdict.lost.push(lost),
            }
        }
        client.close().await;
        if let Some(stall) = super::stall::excuse()
            && !verdict.failed.is_empty()
        {
            println!("{} calls failed while the machine stood still for {stall:?}", verdict.failed.len());
            verdict.failed.clear();
        }
        verdict
    }
}

/// The bytes of a file that is inline as a whole.
async fn read_inline(client: &Client, inode: InodeId) -> Result<Vec<u8>, ClientError> {
    let page = client.extents_page(inode, 0, u64::MAX).await?;
    let inline = |e: &Extent| match &e.source {
        ExtentSource::Inline(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    };
    Ok(page.extents.iter().flat_map(inline).collect())
}

/// Renamed files carry their first name in front.
fn original(name: &str) -> &str {
    name.strip_suffix(".renamed").unwrap_or(name)
}

async fn creator_client(cluster: &Cluster) -> Client {
    let label = "proof load".to_owned();
    cluster.client_with(ClientOptions { label, memory_max: 16 << 20, ..ClientOptions::default() }).await
}

/// Notes how a call went. Returns true if it was acknowledged.
fn note(
    shared: &Shared,
    memory: &mut Memory,
    writer: usize,
    began: Instant,
    what: String,
    twice: Option<FsError>,
    outcome: Result<(), ClientError>,
) -> bool {
    let took = began.elapsed();
    {
        let mut longest = shared.longest.lock();
        *longest = took.max(*longest);
    }
    match outcome {
        Ok(()) => {
            shared.acked[writer].fetch_add(1, Ordering::Relaxed);
            true
        }
        Err(e) if twice.is_some() && e.fs() == twice => {
            memory.doubled.push(format!("{what}: {e}"));
            false
        }
        Err(e) => {
            memory.failed.push(format!("{what}, after {took:?}: {e}"));
            false
        }
    }
}

/// Every file is created; of eight, two are renamed and one is removed.
async fn create(client: Client, shared: Arc<Shared>, writer: usize, parent: InodeId) -> Memory {
    let mut memory = Memory::default();
    let mut count = 0_usize;
    while !shared.stop.load(Ordering::Relaxed) {
        shared.rest().await;
        count += 1;
        let name = format!("w{writer}-{count}");
        let content = content_of(&name, count % SMALL_LEN_MAX);
        let len = content.len();
        let make = MakeNode {
            parent,
            name: Name::new(&name).unwrap(),
            kind: FileKind::File,
            mode: 0o644,
            umask: 0,
            rdev: 0,
            content: Bytes::from(content),
            exclusive: true,
        };
        let began = Instant::now();
        let made = client.make(make).await.map(drop);
        if !note(&shared, &mut memory, writer, began, format!("create {name}"), Some(FsError::Exists), made) {
            memory.unknown.insert(name);
            continue;
        }
        match count % 8 {
            2 | 5 => {
                let to = format!("{name}.renamed");
                let rename = Rename {
                    from_parent: parent,
                    from_name: Name::new(&name).unwrap(),
                    to_parent: parent,
                    to_name: Name::new(&to).unwrap(),
                    mode: RenameMode::NoReplace,
                };
                let began = Instant::now();
                let renamed = client.rename_at(rename).await.map(drop);
                let what = format!("rename {name}");
                if note(&shared, &mut memory, writer, began, what, Some(FsError::NotFound), renamed) {
                    memory.present.insert(to, len);
                    memory.gone.insert(name);
                } else {
                    memory.unknown.extend([name, to]);
                }
            }
            7 => {
                let began = Instant::now();
                let removed = client.unlink_at(parent, Name::new(&name).unwrap()).await.map(drop);
                let what = format!("unlink {name}");
                if note(&shared, &mut memory, writer, began, what, Some(FsError::NotFound), removed) {
                    memory.gone.insert(name);
                } else {
                    memory.unknown.insert(name);
                }
            }
            _ => {
                memory.present.insert(name, len);
            }
        }
    }
    client.close().await;
    memory
}

/// Every file is made, written in pieces that cross the ends of blocks' sectors, and closed: then its bytes are durable.
async fn write(client: Client, shared: Arc<Shared>, writer: usize, dir: String, len_max: usize) -> Memory {
    let mut memory = Memory::default();
    let mut count = 0_usize;
    while !shared.stop.load(Ordering::Relaxed) {
        shared.rest().await;
        count += 1;
        let name = format!("f{writer}-{count}");
        // Always above what is kept inline.
        let len = len_max - (count * 7919) % (len_max / 4);
        let began = Instant::now();
        let written = write_file(&client, &format!("{dir}/{name}"), content_of(&name, len).into()).await;
        if note(&shared, &mut memory, writer, began, format!("write {name}"), Some(FsError::Exists), written)
        {
            memory.present.insert(name, len);
        } else {
            memory.unknown.insert(name);
        }
    }
    client.close().await;
    memory
}

/// Makes a file (it must not exist), writes it and makes it durable.
pub async fn write_file(client: &Client, path: &str, bytes: Bytes) -> Result<(), ClientError> {
    let options = OpenOptions { create_new: true, ..OpenOptions::writing() };
    let file = client.open(path, options).await?;
    for begin in (0..bytes.len()).step_by(WRITE_LEN) {
        let piece = bytes.slice(begin..bytes.len().min(begin + WRITE_LEN));
        file.write_at(begin as u64, piece).await?;
    }
    file.close().await
}

/// All bytes of a file.
pub async fn read_all(client: &Client, path: &str) -> Result<Vec<u8>, ClientError> {
    let file = client.open(path, OpenOptions::reading()).await?;
    let mut out = Vec::new();
    loop {
        let more = file.read_at(out.len() as u64, 4 << 20).await?;
        if more.is_empty() {
            break;
        }
        out.extend_from_slice(&more);
    }
    file.close().await?;
    Ok(out)
}
