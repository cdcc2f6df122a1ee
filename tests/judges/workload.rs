//! What clients do: calls drawn from the seed, below one directory and on few names, so that they get into each other's way.
//!
//! Each client has a session of its own; it makes one call after the other and records each of them. Every call is one request:
//! directories are named by their inode, so that nothing happens between a walk and the call.
//! Holds: nothing but these clients changes what is below the directory, which is the root of the history.
//! Not here: whether the answers were right (`linearizability`, `contents`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pohmelfs::client::{Client, ClientError, ClientOptions};
use pohmelfs::types as fs;
use pohmelfs::types::{FileKind, FsError, InodeId, NodeAddress, RenameMode, SetAttr};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Clock;
use super::files::Files;
use super::history::{Attr, Errno, History, Identity, Kind, Name, Op, Outcome, Path, RenameFlag, Value};
use super::records::RecordId;

/// Names in each directory: few, so that calls meet.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Calls that a client makes one right after the other, on average.
const BURST: u32 = 6;
/// Longest wait for a client's connection; with all servers gone it begins again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls give up after this; their outcome is unknown then.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What all clients below one directory share.
#[derive(Clone)]
pub struct Work {
    /// Tells the time of calls.
    pub clock: Clock,
    /// Where the metadata servers are reached.
    addresses: Arc<Vec<NodeAddress>>,
    /// The directory that is the root of the history.
    root: InodeId,
    pub history: Arc<Mutex<History>>,
    /// Directories that were seen, newest last; the first ones stay for ever.
    dirs: Arc<Mutex<Vec<InodeId>>>,
    /// Calls that may still be begun.
    left: Arc<AtomicUsize>,
    /// Files that are written to.
    pub files: Files,
    /// Longest pause of a client between bursts of calls.
    pause_max: Duration,
    /// Clients that have come to their end, one way or another.
    pub ended: Arc<Mutex<BTreeSet<u32>>>,
}

impl Work {
    /// Of `clients` clients that make so many calls together, in about this time, in the empty directory `root`.
    pub fn new(
        clock: Clock,
        addresses: Vec<NodeAddress>,
        root: InodeId,
        clients: u32,
        calls: usize,
        time: Duration,
    ) -> Self {
        Self {
            clock,
            addresses: Arc::new(addresses),
            root,
            history: Arc::default(),
            dirs: Arc::new(Mutex::new(vec![root])),
            left: Arc::new(AtomicUsize::new(calls)),
            files: Files::new(),
            pause_max: time * clients * 2 * BURST / u32::try_from(calls.max(1)).unwrap(),
            ended: Arc::default(),
        }
    }

    /// No more calls are begun.
    pub fn stop(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// All of them have been begun.
    pub fn is_done(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// A name in a directory, or the directory itself, as a path of the history.
    fn path_of(&self, dir: InodeId, name: &str) -> Path {
        if dir == self.root { name.into() } else { Path::within(Identity(dir.0), name) }
    }

    fn take_call(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Runs one call between its two marks in the history.
    async fn record<T>(
        &self,
        client: u32,
        op: Op,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Option<T>
    where
        T: Told,
    {
        let id = self.history.lock().begin(client, op, self.clock.now());
        let outcome: Outcome;
        let told = match call.await {
            Ok(told) => {
                outcome = told.told();
                Some(told)
            }
            Err(ClientError::Fs(error)) => {
                outcome = Err(errno(error));
                None
            }
            // Whatever else it was: it may have taken effect or not.
            Err(_) => return None,
        };
        self.history.lock().done(id, self.clock.now(), outcome);
        told
    }
}

fn errno(error: FsError) -> Errno {
    match error {
        FsError::Exists => Errno::Exists,
        FsError::NotFound => Errno::NotFound,
        FsError::NotEmpty => Errno::NotEmpty,
        FsError::NotDir => Errno::NotDir,
        FsError::IsDir => Errno::IsDir,
        FsError::Invalid => Errno::Invalid,
        FsError::NotOwner => Errno::NotOwner,
        FsError::NoXattr => Errno::NoXattr,
        FsError::Stale => Errno::Stale,
        other => Errno::Other(other.errno()),
    }
}

/// What a reply says in the words of a history.
trait Told {
    fn told(&self) -> Outcome;
}

impl Told for () {
    fn told(&self) -> Outcome {
        Ok(Value::Done)
    }
}

impl<T: Told> Told for Option<T> {
    fn told(&self) -> Outcome {
        Ok(Value::Done)
    }
}

fn identity(attr: &fs::Attr) -> Option<Identity> {
    Some(Identity(attr.inode.0))
}

fn kind(attr: &fs::Attr) -> Kind {
    match attr.kind {
        FileKind::Dir => Kind::Dir,
        FileKind::Symlink => Kind::Symlink,
        _ => Kind::File,
    }
}

/// Attributes, as of a stat. What has no name any more is on its way out: for a model it is gone.
impl Told for fs::Attr {
    fn told(&self) -> Outcome {
        if self.nlink == 0 {
            return Err(Errno::Stale);
        }
        Ok(Value::Attr(Attr {
            kind: kind(self),
            nlink: self.nlink,
            mode: self.mode & 0o7777,
            size: self.size,
            identity: identity(self),
        }))
    }
}

/// Something that was made, or was there.
struct Made(fs::Attr, bool);

impl Told for Made {
    fn told(&self) -> Outcome {
        Ok(Value::Made { created: self.1, identity: identity(&self.0) })
    }
}

/// What a name leads to.
struct Found(fs::Attr);

impl Told for Found {
    fn told(&self) -> Outcome {
        Ok(Value::Found { kind: kind(&self.0), identity: identity(&self.0) })
    }
}

/// A change of what is known by its inode; without a name it went nowhere.
struct Changed(fs::Attr);

impl Told for Changed {
    fn told(&self) -> Outcome {
        if self.0.nlink == 0 { Err(Errno::Stale) } else { Ok(Value::Done) }
    }
}

struct Names(Vec<Name>);

impl Told for Names {
    fn told(&self) -> Outcome {
        Ok(Value::Names(self.0.clone()))
    }
}

/// What client `number` does, from its first call to its last.
pub async fn run(number: u32, seed: u64, work: Work) {
    let dice = StdRng::seed_from_u64(seed ^ (u64::from(number) << 32));
    Worker { number, dice, work: work.clone(), sequence: 0 }.run().await;
    work.ended.lock().insert(number);
}

/// Connects, as often as it takes.
pub async fn connect(label: &str, addresses: &[NodeAddress]) -> Client {
    loop {
        let options = ClientOptions {
            label: label.to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            call_timeout: CALL_TIMEOUT,
            ..ClientOptions::default()
        };
        match Client::connect(addresses, options).await {
            Ok(client) => return client,
            Err(_) => pohmelfs::runtime::sleep(Duration::from_millis(500)).await,
        }
    }
}

struct Worker {
    number: u32,
    dice: StdRng,
    work: Work,
    /// Of its newest record.
    sequence: u32,
}

impl Worker {
    async fn run(mut self) {
        let client = connect(&format!("client-{}", self.number), &self.work.addresses).await;
        if self.number == 0 {
            self.make_files(&client).await;
        }
        while self.work.take_call() {
            self.call(&client).await;
            if self.dice.random_range(0..BURST) == 0 {
                let pause = self.dice.random_range(Duration::ZERO..=self.work.pause_max);
                pohmelfs::runtime::sleep(pause).await;
            }
        }
        client.close().await;
    }

    fn dir(&mut self) -> InodeId {
        let dirs = self.work.dirs.lock();
        // Mostly the newest ones: the others are gone, or crowded.
        let from = dirs.len().saturating_sub(4);
        match self.dice.random_range(0..3) {
            0 => dirs[0],
            _ => dirs[self.dice.random_range(from..dirs.len())],
        }
    }

    fn name(&mut self) -> (fs::Name, &'static str) {
        let name = NAMES[self.dice.random_range(0..NAMES.len())];
        (fs::Name::new(name.as_bytes()).unwrap(), name)
    }

    /// A place for a name: directory, name, and both as a path of the history.
    fn place(&mut self) -> (InodeId, fs::Name, Path) {
        let dir = self.dir();
        let (name, text) = self.name();
        let path = self.work.path_of(dir, text);
        (dir, name, path)
    }

    /// Makes the files that are written to, as often as it takes.
    async fn make_files(&mut self, client: &Client) {
        let work = self.work.clone();
        for file in work.files.all() {
            loop {
                let op =
                    Op::Create { path: work.path_of(work.root, file.name), exclusive: false, mode: 0o644 };
                let name = fs::Name::new(file.name.as_bytes()).unwrap();
                let call = async {
                    client.create_at(work.root, name, 0o644, false).await.map(|(attr, new)| Made(attr, new))
                };
                if let Some(Made(attr, _)) = work.record(self.number, op, call).await {
                    file.is(attr.inode);
                    break;
                }
            }
        }
    }

    async fn call(&mut self, client: &Client) {
        let (number, work) = (self.number, self.work.clone());
        if self.dice.random_range(0..4) == 0 {
            let files = work.files.all();
            let file = &files[self.dice.random_range(0..files.len())];
            if self.dice.random_range(0..3) == 0 {
                // One that fails has shown nothing.
                drop(file.read(client, &work.clock, number).await);
            } else {
                self.sequence += 1;
                let id = RecordId { writer: number, sequence: self.sequence };
                file.write(client, &work.clock, id, &mut self.dice).await;
            }
            return;
        }
        let (dir, name, path) = self.place();
        match self.dice.random_range(0..100) {
            0..16 => {
                let exclusive = self.dice.random();
                let op = Op::Create { path, exclusive, mode: 0o644 };
                let call = async {
                    client.create_at(dir, name, 0o644, exclusive).await.map(|(a, new)| Made(a, new))
                };
                work.record(number, op, call).await;
            }
            16..28 => {
                let op = Op::Mkdir { path, mode: 0o755 };
                let call = async { client.mkdir_at(dir, name, 0o755).await.map(|attr| Made(attr, true)) };
                if let Some(Made(attr, _)) = work.record(number, op, call).await {
                    work.dirs.lock().push(attr.inode);
                }
            }
            28..40 => {
                let call = async { client.unlink_at(dir, name).await.map(drop) };
                work.record(number, Op::Unlink { path }, call).await;
            }
            40..47 => {
                work.record(number, Op::Rmdir { path }, client.rmdir_at(dir, name)).await;
            }
            47..63 => {
                let (to_parent, to_name, to) = self.place();
                let (flag, mode) = match self.dice.random_range(0..4) {
                    0 => (RenameFlag::NoReplace, RenameMode::NoReplace),
                    1 => (RenameFlag::Exchange, RenameMode::Exchange),
                    _ => (RenameFlag::Plain, RenameMode::Replace),
                };
                let rename = fs::Rename { from_parent: dir, from_name: name, to_parent, to_name, mode };
                let call = async { client.rename_at(rename).await.map(drop) };
                work.record(number, Op::Rename { from: path, to, flag }, call).await;
            }
            63..80 => {
                let call = async { client.lookup(dir, &name).await.map(|found| Found(found.attr)) };
                let found = work.record(number, Op::Lookup { path }, call).await;
                if let Some(Found(attr)) = found
                    && self.dice.random()
                {
                    self.by_identity(client, &attr).await;
                }
            }
            80..92 => {
                let op = Op::Readdir { path: work.path_of(dir, "") };
                let call = async {
                    let entries = client.readdir_at(dir, false).all().await?;
                    let mut names: Vec<Name> =
                        entries.iter().map(|entry| Name::from(entry.name.to_string().as_str())).collect();
                    names.sort();
                    Ok(Names(names))
                };
                work.record(number, op, call).await;
            }
            _ => {
                let call = client.getattr(dir);
                work.record(number, Op::Stat { path: work.path_of(dir, "") }, call).await;
            }
        }
    }

    /// A call on what a lookup has just found, wherever it is by now.
    async fn by_identity(&mut self, client: &Client, attr: &fs::Attr) {
        let (number, work) = (self.number, self.work.clone());
        let (inode, path) = (attr.inode, Path::of(Identity(attr.inode.0)));
        match self.dice.random_range(0..3) {
            0 => {
                let mode = [0o600, 0o640, 0o755][self.dice.random_range(0..3)];
                let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
                let call = async { client.setattr_at(inode, set, false).await.map(Changed) };
                work.record(number, Op::Chmod { path, mode }, call).await;
            }
            1 if attr.kind != FileKind::Dir => {
                let (dir, name, to) = self.place();
                let call = async { client.link_at(inode, dir, name).await.map(drop) };
                work.record(number, Op::Link { from: path, to }, call).await;
            }
            _ => {
                work.record(number, Op::Stat { path }, client.getattr(inode)).await;
            }
        }
    }
}
