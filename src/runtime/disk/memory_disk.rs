//! A disk in memory that forgets what was not synced, and fails when told to.
//!
//! The tests and the simulation open the servers' storage on it: one disk is the disks of one machine. Holds: after
//! [`MemoryDisk::crash`] a file has the contents of its last `sync`, and each write and change of length since is kept,
//! dropped or torn by itself, as the seed has it; a directory has the names of its last `sync_dir`, and of the later changes
//! each is kept or dropped by itself. That is less than any journal promises, so what survives here survives there. Files
//! that were open when it crashed are of no use any more. The calls themselves are in `memory_files`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

/// What a crash leaves of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKeeps {
    /// Nothing.
    Nothing,
    /// All, for now: the process died, the machine did not. A later crash may still forget it.
    All,
    /// Each change of a name and each write or change of length, or a part of it, as drawn from this seed.
    Some(u64),
}

/// The disk. Clones of its `Arc` share it.
#[derive(Debug)]
pub struct MemoryDisk {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) changed: Arc<Condvar>,
}

/// A crash may keep a write in part, in pieces of so many bytes: what a device writes at once.
const SECTOR_LEN: usize = 512;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) dirs: BTreeMap<PathBuf, Dir>,
    /// Directories that were removed: a crash may bring them back.
    pub(super) removed: BTreeMap<PathBuf, Dir>,
    pub(super) files: BTreeMap<u64, File>,
    pub(super) next_file: u64,
    pub(super) total: u64,
    pub(super) locks: BTreeMap<PathBuf, Weak<()>>,
    /// Calls so far, and the errors planned for later ones.
    pub(super) calls: u64,
    pub(super) fail_call: Option<(u64, Errno)>,
    pub(super) fail_below: Vec<(PathBuf, Errno)>,
    /// After a crash in the middle, every call fails until `restart`.
    pub(super) crash_call: Option<u64>,
    pub(super) crashed: bool,
    pub(super) renames: u64,
    pub(super) dir_syncs: u64,
    pub(super) direct_reads: u64,
    pub(super) hold_dir_syncs: bool,
    /// Starts of the machine, and of the process, so far.
    pub(super) boots: u64,
    pub(super) lives: u64,
    pub(super) no_threads: bool,
    /// How long a write and its sync take, at least and at most, and what the next one is drawn from.
    pub(super) latency: Option<(RangeInclusive<Duration>, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    pub(super) live: BTreeMap<OsString, Node>,
    pub(super) durable: BTreeMap<OsString, Node>,
    pub(super) pending: Vec<Change>,
    /// Changes that were pending once and are durable now.
    pub(super) synced: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Dir,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Add(OsString, Node),
    Remove(OsString),
    Rename(OsString, OsString),
}

#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) live: Vec<u8>,
    durable: Vec<u8>,
    /// What leads from `durable` to `live`.
    pending: Vec<Write>,
    /// Held by who has it open.
    pub(super) open: Arc<()>,
}

/// A change of a file that is not synced.
#[derive(Clone, Debug)]
pub(super) enum Write {
    At(usize, Vec<u8>),
    SetLen(usize),
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::At(at, written) => {
                let end = at + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(written);
            }
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    /// What a crash leaves of it: all, nothing, or some of its sectors. Where nothing was before and the length grew all the
    /// same, there is what lay on the disk.
    fn tear(&self, bytes: &mut Vec<u8>, seed: &mut u64) {
        let Self::At(at, written) = self else {
            if draw(seed) & 1 == 1 {
                self.apply(bytes);
            }
            return;
        };
        match draw(seed) % 4 {
            0 => return,
            1 => return self.apply(bytes),
            _ => {}
        }
        let end = at + written.len();
        // The length reaches to the end of the write, or into the middle of it.
        let len = if draw(seed) & 1 == 1 { end } else { at + draw_below(seed, written.len() + 1) };
        while bytes.len() < len {
            bytes.push(draw(seed).to_le_bytes()[0]);
        }
        let mut from = *at;
        while from < end {
            let to = (from + 1).next_multiple_of(SECTOR_LEN).min(end);
            let kept = draw(seed) & 1 == 1;
            let reached = to.min(bytes.len());
            if kept && from < reached {
                bytes[from..reached].copy_from_slice(&written[from - at..reached - at]);
            }
            from = to;
        }
    }
}

impl File {
    /// Changes what readers see.
    pub(super) fn change(&mut self, write: Write) {
        write.apply(&mut self.live);
        self.pending.push(write);
    }

    /// Makes it durable.
    pub(super) fn sync(&mut self) {
        for write in std::mem::take(&mut self.pending) {
            write.apply(&mut self.durable);
        }
    }

    /// What a crash leaves, all of it durable.
    fn forget(&mut self, mut seed: Option<u64>) {
        for write in std::mem::take(&mut self.pending) {
            if let Some(seed) = &mut seed {
                write.tear(&mut self.durable, seed);
            }
        }
        self.live = self.durable.clone();
    }
}

pub(super) fn errno(e: Errno) -> io::Error {
    io::Error::from_raw_os_error(e.raw_os_error())
}

fn apply(names: &mut BTreeMap<OsString, Node>, change: &Change) {
    match change {
        Change::Add(name, node) => {
            names.insert(name.clone(), *node);
        }
        Change::Remove(name) => {
            names.remove(name);
        }
        Change::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

/// A small generator of our own (splitmix64): the crash of a seed is the same for ever.
pub(super) fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[expect(clippy::cast_possible_truncation, reason = "any number serves before the remainder is taken")]
fn draw_below(seed: &mut u64, limit: usize) -> usize {
    draw(seed) as usize % limit
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk of 1 TiB with the root directory.
    #[must_use]
    pub fn new() -> Self {
        let mut state = State { total: 1 << 40, boots: 1, ..State::default() };
        state.dirs.insert(PathBuf::from("/"), Dir::default());
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    /// Sets its size, in bytes.
    pub fn set_total(&self, total: u64) {
        self.state.lock().total = total;
    }

    /// Lets who keeps files here have threads for it, or not; it may until this is called.
    pub fn set_threads(&self, threads: bool) {
        self.state.lock().no_threads = !threads;
    }

    /// A write and its sync take from now on as long as is drawn, with `seed`, from `range`; see [`super::Disk::latency`].
    pub fn set_latency(&self, range: RangeInclusive<Duration>, seed: u64) {
        self.state.lock().latency = Some((range, seed));
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Renames done so far.
    #[must_use]
    pub fn renames(&self) -> u64 {
        self.state.lock().renames
    }

    /// Directory fsyncs begun so far.
    #[must_use]
    pub fn dir_syncs(&self) -> u64 {
        self.state.lock().dir_syncs
    }

    /// Reads so far that were to go past the page cache.
    #[must_use]
    pub fn direct_reads(&self) -> u64 {
        self.state.lock().direct_reads
    }

    /// The `n`-th call from now (0 is the next) fails with `error`, without effect but for half of what it writes.
    pub fn fail_call(&self, n: u64, error: Errno) {
        let mut state = self.state.lock();
        state.fail_call = Some((state.calls + n, error));
    }

    /// Every call below `path` fails with `error`; `None` ends that.
    pub fn fail_below(&self, path: &Path, error: Option<Errno>) {
        let mut state = self.state.lock();
        state.fail_below.retain(|(p, _)| p != path);
        state.fail_below.extend(error.map(|e| (path.to_owned(), e)));
    }

    /// The machine stops after `n` more calls: each later one fails until [`MemoryDisk::crash`].
    pub fn stop_after(&self, n: u64) {
        let mut state = self.state.lock();
        state.crash_call = Some(state.calls + n);
    }

    /// Holds every directory fsync that begins from now on, until called with `false`.
    pub fn hold_dir_syncs(&self, hold: bool) {
        self.state.lock().hold_dir_syncs = hold;
        self.changed.notify_all();
    }

    /// Waits until `reached` is true of the number of renames and of directory fsyncs begun.
    pub fn wait_until(&self, reached: impl Fn(u64, u64) -> bool) {
        let mut state = self.state.lock();
        while !reached(state.renames, state.dir_syncs) {
            self.changed.wait(&mut state);
        }
    }

    /// Forgets what was not synced, but for what `keeps` says, and starts again. Locks are free, faults are over; who still
    /// has a file open gets errors from it.
    pub fn crash(&self, keeps: CrashKeeps) {
        let mut state = self.state.lock();
        state.lives += 1;
        if keeps != CrashKeeps::All {
            state.forget(keeps);
            state.boots += 1;
        }
        // A directory whose own name was lost is lost with all in it.
        loop {
            let named = |path: &Path| {
                let Some((parent, name)) = path.parent().zip(path.file_name()) else { return true };
                state.dirs.get(parent).is_some_and(|dir| dir.live.contains_key(name))
            };
            let lost: Vec<PathBuf> = state.dirs.keys().filter(|path| !named(path)).cloned().collect();
            if lost.is_empty() {
                break;
            }
            state.dirs.retain(|path, _| !lost.contains(path));
        }
        state.locks.clear();
        state.crashed = false;
        state.crash_call = None;
        state.fail_call = None;
        state.fail_below.clear();
        state.hold_dir_syncs = false;
        self.changed.notify_all();
    }

    /// Length of a file, in bytes.
    #[must_use]
    pub fn file_len(&self, path: &Path) -> Option<usize> {
        let state = self.state.lock();
        state.file(path).ok().and_then(|id| state.files.get(&id)).map(|file| file.live.len())
    }

    /// Flips the bits of `mask` in byte `at` of a file, as a failing disk would.
    pub fn flip(&self, path: &Path, at: usize, mask: u8) {
        let mut state = self.state.lock();
        let Ok(id) = state.file(path) else { return };
        if let Some(file) = state.files.get_mut(&id) {
            for byte in [file.live.get_mut(at), file.durable.get_mut(at)].into_iter().flatten() {
                *byte ^= mask;
            }
            for write in &mut file.pending {
                if let Write::At(from, bytes) = write
                    && let Some(byte) = at.checked_sub(*from).and_then(|at| bytes.get_mut(at))
                {
                    *byte ^= mask;
                }
            }
        }
    }

    /// Cuts a file at `len` bytes.
    pub fn cut(&self, path: &Path, len: usize) {
        let mut state = self.state.lock();
        let Ok(id) = state.file(path) else { return };
        if let Some(file) = state.files.get_mut(&id) {
            file.live.truncate(len);
            file.durable.clone_from(&file.live);
            file.pending.clear();
        }
    }

    /// The files below `dir`, with their paths.
    #[must_use]
    pub fn files_below(&self, dir: &Path) -> Vec<PathBuf> {
        let state = self.state.lock();
        let inside = state.dirs.iter().filter(|(path, _)| path.starts_with(dir));
        let files = inside.flat_map(|(path, dir)| {
            dir.live.iter().filter(|(_, node)| matches!(node, Node::File(_))).map(|(name, _)| path.join(name))
        });
        files.collect()
    }
}

impl State {
    /// Takes back what was not synced.
    fn forget(&mut self, keeps: CrashKeeps) {
        let seed = if let CrashKeeps::Some(seed) = keeps { Some(seed) } else { None };
        for (id, file) in &mut self.files {
            file.forget(seed.map(|seed| seed ^ (id << 40) ^ file.live.len() as u64));
        }
        let mut position = 0;
        for dir in self.dirs.values_mut().chain(self.removed.values_mut()) {
            for change in std::mem::take(&mut dir.pending) {
                position += 1;
                if seed.is_some_and(|seed| draw(&mut (seed ^ (position << 32))) & 1 == 1) {
                    apply(&mut dir.durable, &change);
                }
            }
            dir.live = dir.durable.clone();
        }
        for (path, dir) in std::mem::take(&mut self.removed) {
            let names = path.parent().and_then(|parent| self.dirs.get(parent));
            let back = path.file_name().zip(names).is_some_and(|(name, dir)| dir.live.contains_key(name));
            if back {
                self.dirs.entry(path).or_insert(dir);
            }
        }
    }

    /// Counts a call and answers with the error that was planned for it.
    pub(super) fn call(&mut self, path: &Path) -> io::Result<()> {
        let n = self.calls;
        self.calls += 1;
        if self.crash_call.is_some_and(|at| n >= at) {
            self.crashed = true;
        }
        if self.crashed {
            return Err(errno(Errno::IO));
        }
        if let Some((at, error)) = self.fail_call
            && at == n
        {
            return Err(errno(error));
        }
        match self.fail_below.iter().find(|(below, _)| path.starts_with(below)) {
            Some((_, error)) => Err(errno(*error)),
            None => Ok(()),
        }
    }

    pub(super) fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| errno(Errno::NOENT))
    }

    pub(super) fn parent(&mut self, path: &Path) -> io::Result<(&mut Dir, OsString)> {
        let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(|| errno(Errno::INVAL))?;
        let name = name.to_owned();
        Ok((self.dir(parent)?, name))
    }

    pub(super) fn change(&mut self, path: &Path, change: Change) -> io::Result<()> {
        let (dir, _) = self.parent(path)?;
        apply(&mut dir.live, &change);
        dir.pending.push(change);
        Ok(())
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        let found = path
            .parent()
            .zip(path.file_name())
            .and_then(|(parent, name)| self.dirs.get(parent)?.live.get(name));
        match found {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(errno(Errno::ISDIR)),
            None => Err(errno(Errno::NOENT)),
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.files.values().map(|file| file.live.len() as u64).sum()
    }

    /// Drops files that no name leads to, live or after a crash, and that nobody has open.
    pub(super) fn drop_unnamed(&mut self) {
        let named = |node: &Node| if let Node::File(id) = node { Some(*id) } else { None };
        let mut keep: Vec<u64> = Vec::new();
        for dir in self.dirs.values().chain(self.removed.values()) {
            keep.extend(dir.live.values().filter_map(named));
            keep.extend(dir.durable.values().filter_map(named));
            keep.extend(
                dir.pending.iter().filter_map(|c| if let Change::Add(_, n) = c { named(n) } else { None }),
            );
        }
        keep.sort_unstable();
        self.files.retain(|id, file| keep.binary_search(id).is_ok() || Arc::strong_count(&file.open) > 1);
    }
}
