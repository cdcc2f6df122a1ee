//! Opening the directories of a store: whose they are, whether the set is whole, and locking them.
//!
//! `BlockStore::open_on` calls [`open`] once. Holds: nothing is written to a directory before it is known to be ours
//! or new, and nothing new is made while a known member is missing: an empty directory is then most likely the
//! mount point of a disk that is not mounted. Every refusal names the directory and the way out.
//! Not here: what the directories store.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_128;

use super::directory::Directory;
use super::error::StoreError;
use super::format::{BLOCKS, FANOUT_COUNT, fanout_name};
use super::identity::{self, FILE, LOCK, Member, Record, TEMP};
use super::index::DIRECTORY_COUNT_MAX;
use super::{Identity, StoreConfig};
use crate::runtime::disk::{Disk, DiskLock};
use crate::types::{ClusterId, NodeId};

/// A store's directories, locked, with their identities.
pub(super) struct Opened {
    pub directories: Vec<Directory>,
    pub records: Vec<Record>,
    pub node: NodeId,
    /// Where members were last seen that are not there, and why they are not used.
    pub missing: Vec<(String, String)>,
}

/// What was found at a configured path.
enum Found {
    /// One of our kind.
    Known(Record),
    /// Nothing, or nothing but what a start that was cut short left.
    New { exists: bool },
    /// The disk does not answer.
    Failed(String),
}

fn refuse(dir: &Path, problem: impl Into<String>) -> StoreError {
    StoreError::Directory { dir: dir.to_owned(), problem: problem.into() }
}

pub(super) fn open(disk: &Arc<dyn Disk>, config: &StoreConfig, who: &Identity) -> Result<Opened, StoreError> {
    let paths = distinct_paths(&**disk, config)?;
    let mut locks: BTreeMap<usize, Box<dyn DiskLock>> = BTreeMap::new();
    let mut found = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let mut state = look(&**disk, path)?;
        if let Found::Known(record) = state {
            state = match lock(&**disk, path)? {
                Err(error) => Found::Failed(error),
                Ok(lock) => {
                    locks.insert(index, lock);
                    Found::Known(record)
                }
            };
        }
        found.push(state);
    }
    let known: Vec<(usize, &Record)> = found
        .iter()
        .enumerate()
        .filter_map(|(i, f)| if let Found::Known(r) = f { Some((i, r)) } else { None })
        .collect();
    let (node, cluster, formerly) = agree(&paths, &known, who)?;

    let mut members: Vec<Member> = Vec::new();
    for member in known.iter().flat_map(|(_, record)| &record.members) {
        if !members.iter().any(|m| m.directory == member.directory) {
            members.push(member.clone());
        }
    }
    let is_here = |member: &Member| known.iter().any(|(_, record)| record.directory == member.directory);
    let mut missing: Vec<(String, String)> = Vec::new();
    if config.forget_missing {
        members.retain(is_here);
    } else {
        for member in members.iter().filter(|member| !is_here(member)) {
            missing.push((
                member.path.clone(),
                "not among the directories that answer; mount it, or start once \
                with forget_missing if it is lost for ever"
                    .into(),
            ));
        }
    }

    let mut fresh = Vec::new();
    for (index, (path, state)) in paths.iter().zip(&found).enumerate() {
        match state {
            Found::Known(_) => {}
            Found::Failed(error) if known.is_empty() => return Err(refuse(path, error.clone())),
            Found::Failed(error) => {
                missing.retain(|(place, _)| Path::new(place) != path);
                missing.push((path.display().to_string(), error.clone()));
            }
            Found::New { .. } if !missing.is_empty() => {
                let reason = "empty, while a directory of this store is missing: probably a disk that is not \
                    mounted, so nothing is made there";
                missing.retain(|(place, _)| Path::new(place) != path);
                missing.push((path.display().to_string(), reason.into()));
            }
            Found::New { exists } if config.create => fresh.push((index, *exists)),
            Found::New { exists: true } => {
                return Err(refuse(
                    path,
                    "is empty, and no data directory yet; mount the disk that belongs there, or \
                    allow a new one with create",
                ));
            }
            Found::New { exists: false } => {
                return Err(refuse(path, "does not exist; make or mount it, or allow a new one with create"));
            }
        }
    }
    for (path, reason) in &missing {
        tracing::error!(dir = %path, %reason, "starting without a data directory; its blocks come from other servers");
    }

    let mut records: BTreeMap<usize, Record> =
        known.iter().map(|&(index, record)| (index, record.clone())).collect();
    // A new directory joins by its own record, and only then do the others learn of it: a crash between two writes
    // leaves no member that was never made.
    for &(index, exists) in &fresh {
        let path = &paths[index];
        make(&**disk, path, exists)?;
        locks.insert(index, lock(&**disk, path)?.map_err(|error| refuse(path, error))?);
        let seed = [who.random.to_le_bytes(), (index as u128).to_le_bytes()].concat();
        let directory = xxh3_128(&seed);
        members.push(Member { directory, path: path.display().to_string() });
        let record =
            Record { cluster, node, directory, members: members.clone(), formerly: formerly.clone() };
        identity::write(&**disk, path, &record)?;
        records.insert(index, record);
    }
    if records.is_empty() {
        return Err(StoreError::NoDirectory);
    }
    for (&index, record) in &mut records {
        if record.members != members || record.cluster != cluster || record.formerly != formerly {
            record.members = members.clone();
            record.cluster = cluster;
            record.formerly = formerly.clone();
            identity::write(&**disk, &paths[index], record)?;
        }
    }

    let mut opened = Opened { directories: Vec::new(), records: Vec::new(), node, missing };
    for (index, record) in records {
        let lock = locks.remove(&index).expect("every directory that has a record was locked above");
        let path = paths[index].clone();
        opened.directories.push(Directory::new(path, disk.clone(), config.reserve_bytes, lock));
        opened.records.push(record);
    }
    Ok(opened)
}

/// The configured paths without symlinks, none twice.
fn distinct_paths(disk: &dyn Disk, config: &StoreConfig) -> Result<Vec<PathBuf>, StoreError> {
    let count = config.directories.len();
    if !(1..=DIRECTORY_COUNT_MAX).contains(&count) {
        return Err(StoreError::Config(format!("give 1 to {DIRECTORY_COUNT_MAX} directories, not {count}")));
    }
    let copies = usize::from(config.mode.copy_count());
    if !(1..=count).contains(&copies) {
        return Err(StoreError::Config(format!(
            "mirror = {copies} needs at least {copies} directories and one copy, \
            {count} given"
        )));
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for dir in &config.directories {
        let path = disk.canonical(dir).unwrap_or_else(|_| dir.clone());
        if paths.contains(&path) {
            return Err(refuse(dir, "is given twice; name each directory once"));
        }
        paths.push(path);
    }
    Ok(paths)
}

fn look(disk: &dyn Disk, path: &Path) -> Result<Found, StoreError> {
    let entries = match disk.list(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::New { exists: false }),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(refuse(path, "is not a directory; name a directory"));
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(refuse(
                path,
                "may not be read by this user; change its owner or the user of this server",
            ));
        }
        Err(e) => return Ok(Found::Failed(format!("cannot be listed: {e}"))),
    };
    match identity::read(disk, path) {
        Ok(Some(record)) => return Ok(Found::Known(record)),
        Ok(None) => {}
        Err(StoreError::Io { source, .. }) => {
            return Ok(Found::Failed(format!("{FILE} cannot be read: {source}")));
        }
        Err(error) => return Err(error),
    }
    // A first start that was cut short leaves our empty folders and no identity.
    for entry in entries {
        let name = entry.name.to_string_lossy();
        let empty = match &*name {
            LOCK | TEMP | "lost+found" => true,
            BLOCKS => folders_are_empty(disk, &path.join(BLOCKS)),
            _ => false,
        };
        if !empty {
            return Err(refuse(
                path,
                format!(
                    "is not empty (it holds {name:?}) and has no {FILE}; give an empty or a \
                new directory, or mount the disk that belongs there"
                ),
            ));
        }
    }
    Ok(Found::New { exists: true })
}

fn folders_are_empty(disk: &dyn Disk, blocks: &Path) -> bool {
    let is_empty = |name: &Path| disk.list(&blocks.join(name)).is_ok_and(|inner| inner.is_empty());
    disk.list(blocks).is_ok_and(|folders| folders.iter().all(|folder| is_empty(Path::new(&folder.name))))
}

/// The lock of a directory; the inner error is that of a disk that does not answer.
fn lock(disk: &dyn Disk, path: &Path) -> Result<Result<Box<dyn DiskLock>, String>, StoreError> {
    let error = match disk.lock(&path.join(LOCK)) {
        Ok(lock) => return Ok(Ok(lock)),
        Err(error) => error,
    };
    let read_only = error.raw_os_error() == Some(Errno::ROFS.raw_os_error());
    match error.kind() {
        io::ErrorKind::WouldBlock => Err(refuse(
            path,
            "is used by another process; stop it, or give this server \
            directories of its own (one directory under two paths shows like this too)",
        )),
        io::ErrorKind::PermissionDenied => Err(refuse(
            path,
            "may not be written by this user; change its owner or \
            the user of this server",
        )),
        _ if read_only => Err(refuse(
            path,
            "is read-only; mount it writable (a disk that was remounted read-only \
            has errors: see the kernel's log)",
        )),
        _ => Ok(Err(format!("cannot be locked: {error}"))),
    }
}

/// Node and cluster on which all directories and the configuration agree, and the clusters that it was before: of directories that moved
/// with their server the one counts that came furthest.
fn agree(
    paths: &[PathBuf],
    known: &[(usize, &Record)],
    who: &Identity,
) -> Result<(NodeId, Option<ClusterId>, Vec<ClusterId>), StoreError> {
    let mut node = who.node;
    let mut cluster = who.cluster;
    let furthest = known.iter().map(|(_, record)| record).max_by_key(|record| {
        known.iter().filter(|(_, other)| other.cluster.is_some_and(|c| record.formerly.contains(&c))).count()
    });
    let formerly = furthest.map(|record| record.formerly.clone()).unwrap_or_default();
    if !formerly.is_empty() {
        cluster = cluster.or(furthest.and_then(|record| record.cluster));
    }
    for (position, &(index, record)) in known.iter().enumerate() {
        let path = &paths[index];
        if let Some(wanted) = node.filter(|&wanted| wanted != record.node) {
            return Err(refuse(
                path,
                format!(
                    "belongs to data server {}, this is {wanted}; give each server its own \
                directories, or correct the node id",
                    record.node
                ),
            ));
        }
        node = Some(record.node);
        if let (Some(wanted), Some(theirs)) = (cluster, record.cluster)
            && wanted != theirs
            && !formerly.contains(&theirs)
        {
            return Err(refuse(
                path,
                format!(
                    "belongs to cluster {theirs}, this server to {wanted}; give an empty \
                directory, or the addresses of the cluster it belongs to"
                ),
            ));
        }
        cluster = cluster.or(record.cluster);
        if let Some((other, _)) =
            known[..position].iter().find(|(_, other)| other.directory == record.directory)
        {
            return Err(refuse(
                path,
                format!(
                    "is a copy of {}: both hold the directory id {:032x}; leave one of them \
                out",
                    paths[*other].display(),
                    record.directory
                ),
            ));
        }
    }
    // 53 random bits: enough never to meet by chance, and exact in JSON. Never 0.
    let drawn = NodeId(u64::try_from(who.random >> 75).unwrap_or(u64::MAX) | 1);
    Ok((node.unwrap_or(drawn), cluster, formerly))
}

/// Makes the folders of a new directory, durably. The identity is written behind this: a directory that has one has
/// all its folders.
fn make(disk: &dyn Disk, path: &Path, exists: bool) -> Result<(), StoreError> {
    let read_only = |e: &io::Error| e.raw_os_error() == Some(Errno::ROFS.raw_os_error());
    let io_error = |what, at: &Path, e: io::Error| match e.kind() {
        _ if read_only(&e) => refuse(path, "is read-only; mount it writable"),
        io::ErrorKind::PermissionDenied => {
            refuse(path, "may not be written by this user; change its owner or the user of this server")
        }
        _ => StoreError::Io { what, path: at.to_owned(), source: e },
    };
    let make_dir = |at: &Path| match disk.make_dir(at) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_error("make", at, e)),
        _ => Ok(()),
    };
    let sync = |at: &Path| disk.sync_dir(at).map_err(|e| io_error("fsync", at, e));
    if !exists {
        make_dir(path)?;
        if let Some(parent) = path.parent() {
            sync(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        }
    }
    let blocks = path.join(BLOCKS);
    make_dir(&blocks)?;
    for index in 0..FANOUT_COUNT {
        make_dir(&blocks.join(fanout_name(index)))?;
    }
    sync(&blocks)?;
    sync(path)
}
