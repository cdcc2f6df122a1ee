//! `put`: local files and trees into the cluster.
//!
//! The local tree is listed first, so that the bar knows its length and hard links are seen. Holds: directories before what
//! is in them, times of directories last; one file that fails does not stop the others.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt;
use futures::stream;
use indicatif::ProgressBar;

use super::super::Failure;
use super::super::connect::umask;
use super::super::text;
use super::local::LocalFile;
use super::{FILES_IN_FLIGHT, Failures, into_dir, require_dir};
use crate::client::{Client, ClientError, PutOptions};
use crate::runtime;
use crate::types::{Attr, FileKind, InodeId, MODE_BITS, Name, SetAttr, SetTime, Timestamp};

#[derive(Clone, Debug, Args)]
#[command(override_usage = "pohmelfs fs put [OPTIONS] <SOURCE>... <TARGET>")]
#[command(after_help = "\
Examples:
  pohmelfs fs put one.jpg two.jpg /photos
  pohmelfs fs put -r photos /
  tar c . | pohmelfs fs put - /all.tar")]
pub(super) struct PutArgs {
    /// Trees
    #[arg(short, visible_short_alias = 'R')]
    recursive: bool,
    /// Local files (`-`: standard input), and at the end where to
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    paths: Vec<PathBuf>,
}

/// A local entry and its place in the cluster.
#[derive(Debug)]
struct Source {
    local: PathBuf,
    metadata: Metadata,
    /// The target's directory: an earlier source of the list, or an inode.
    parent: Parent,
    name: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Parent {
    Inode(InodeId),
    Source(usize),
}

pub(super) async fn run(client: &Client, args: &PutArgs) -> Result<ExitCode, Failure> {
    let [sources @ .., target] = args.paths.as_slice() else {
        return Err(Failure::usage("put SOURCE... TARGET"));
    };
    if let [source] = sources
        && source.as_os_str() == "-"
    {
        let options = PutOptions { mode: 0o666 & !umask(), ..PutOptions::default() };
        client.put(text::stdin()?, target, options).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if sources.len() > 1 {
        require_dir(client, target).await?;
    }
    let mut failures = Failures::default();
    let mut list: Vec<Source> = Vec::new();
    for source in sources {
        let name = source.file_name().map(OsStr::to_owned).or_else(|| {
            // `.`, `..` and `/` have the name of the directory they are.
            source.canonicalize().ok()?.file_name().map(OsStr::to_owned)
        });
        let metadata = std::fs::symlink_metadata(source).map_err(|e| at(source, &e))?;
        if metadata.is_dir() && !args.recursive {
            return Err(Failure::usage(format!("{} is a directory: use -r", source.display())));
        }
        let spot = client.spot(into_dir(client, target, name.as_deref()).await?).await?;
        let first = list.len();
        let name = spot.name.as_bytes().to_vec();
        list.push(Source { local: source.clone(), metadata, parent: Parent::Inode(spot.parent), name });
        list_below(&mut list, first, &mut failures).await;
    }
    let bytes = list.iter().filter(|s| s.metadata.is_file()).map(|s| s.metadata.len()).sum();
    let bar = text::progress(bytes, true);
    let made = copy(client, &list, &bar, &mut failures).await;
    finish_dirs(client, &list, &made, &mut failures).await;
    bar.finish_and_clear();
    failures.end()
}

fn at(path: &Path, e: &io::Error) -> Failure {
    Failure::new(format!("{}: {e}", path.display()))
}

/// Adds what is below the directory at `first`, parents before children. On a thread for blocking work: it reads disks.
async fn list_below(list: &mut Vec<Source>, first: usize, failures: &mut Failures) {
    let mut all = std::mem::take(list);
    let (all, errors) = runtime::blocking("list local tree", move || {
        let mut errors = Vec::new();
        let mut next = first;
        while next < all.len() {
            if all[next].metadata.is_dir() {
                let local = all[next].local.clone();
                if let Err(e) = list_dir(&local, next, &mut all) {
                    errors.push(format!("{}: {e}", local.display()));
                }
            }
            next += 1;
        }
        (all, errors)
    })
    .await;
    *list = all;
    errors.into_iter().for_each(|e| failures.note(Err::<(), _>(e)));
}

fn list_dir(local: &Path, index: usize, all: &mut Vec<Source>) -> io::Result<()> {
    for entry in std::fs::read_dir(local)? {
        let entry = entry?;
        let name = entry.file_name().as_bytes().to_vec();
        let (local, metadata) = (entry.path(), entry.metadata()?);
        all.push(Source { local, metadata, parent: Parent::Source(index), name });
    }
    Ok(())
}

/// Makes everything; answers the inode of each source, as far as it was made.
async fn copy(
    client: &Client,
    list: &[Source],
    bar: &ProgressBar,
    failures: &mut Failures,
) -> Vec<Option<InodeId>> {
    let mut made: Vec<Option<InodeId>> = vec![None; list.len()];
    // Directories level by level: the list has parents first, so one pass suffices.
    let mut level: Vec<usize> =
        (0..list.len()).filter(|&i| matches!(list[i].parent, Parent::Inode(_))).collect();
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let (mut files, mut links) = (Vec::new(), Vec::new());
    let mut first_of: HashMap<(u64, u64), usize> = HashMap::new();
    for (index, source) in list.iter().enumerate() {
        if source.metadata.is_dir() {
            if let Parent::Source(parent) = source.parent {
                children.entry(parent).or_default().push(index);
            }
        } else if source.metadata.nlink() > 1 {
            let id = (source.metadata.dev(), source.metadata.ino());
            match first_of.entry(id) {
                std::collections::hash_map::Entry::Occupied(first) => links.push((index, *first.get())),
                std::collections::hash_map::Entry::Vacant(none) => {
                    none.insert(index);
                    files.push(index);
                }
            }
        } else {
            files.push(index);
        }
    }
    level.retain(|&i| list[i].metadata.is_dir());
    while !level.is_empty() {
        let mut making = stream::iter(level.clone())
            .map(|i| {
                let parent = parent_of(list, &made, i);
                async move { (i, mkdir(client, &list[i], parent).await) }
            })
            .buffer_unordered(FILES_IN_FLIGHT);
        let mut done = Vec::new();
        while let Some((i, result)) = making.next().await {
            done.push((i, result));
        }
        drop(making);
        let mut below = Vec::new();
        for (i, result) in done {
            match result {
                Ok(inode) => {
                    made[i] = inode;
                    below.extend(children.remove(&i).unwrap_or_default());
                }
                Err(e) => failures.note(Err::<(), _>(e)),
            }
        }
        level = below;
    }
    let parents = made.clone();
    let mut copying = stream::iter(files)
        .map(|i| {
            let parent = parent_of(list, &parents, i);
            async move { (i, put_one(client, &list[i], parent, bar).await) }
        })
        .buffer_unordered(FILES_IN_FLIGHT);
    while let Some((i, result)) = copying.next().await {
        match result {
            Ok(inode) => made[i] = inode,
            Err(e) => failures.note(Err::<(), _>(e)),
        }
    }
    drop(copying);
    for (i, first) in links {
        if let (Some(inode), Some(parent)) = (made[first], parent_of(list, &made, i)) {
            failures.note(link(client, &list[i], inode, parent).await);
        }
    }
    made
}

fn parent_of(list: &[Source], made: &[Option<InodeId>], index: usize) -> Option<InodeId> {
    match list[index].parent {
        Parent::Inode(inode) => Some(inode),
        Parent::Source(parent) => made[parent],
    }
}

fn name_of(source: &Source) -> Result<Name, ClientError> {
    Ok(Name::new(&source.name)?)
}

async fn mkdir(
    client: &Client,
    source: &Source,
    parent: Option<InodeId>,
) -> Result<Option<InodeId>, ClientError> {
    let Some(parent) = parent else { return Ok(None) };
    let name = name_of(source)?;
    // Writable while it is filled; its own mode comes at the end.
    match client.mkdir_at(parent, name.clone(), source.metadata.mode() & MODE_BITS | 0o700).await {
        Ok(attr) => Ok(Some(attr.inode)),
        Err(e) if e.is_exists() => {
            let attr = client.lookup(parent, &name).await.map_err(|e| e.at(&source.local))?.attr;
            if attr.kind == FileKind::Dir { Ok(Some(attr.inode)) } else { Err(e.at(&source.local)) }
        }
        Err(e) => Err(e.at(&source.local)),
    }
}

async fn link(client: &Client, source: &Source, inode: InodeId, parent: InodeId) -> Result<(), ClientError> {
    let name = name_of(source)?;
    match client.link_at(inode, parent, name.clone()).await {
        // A second copy over a first: the old name makes room.
        Err(e) if e.is_exists() => {
            client.unlink_at(parent, name.clone()).await.map_err(|e| e.at(&source.local))?;
            client.link_at(inode, parent, name).await.map(drop).map_err(|e| e.at(&source.local))
        }
        other => other.map(drop).map_err(|e| e.at(&source.local)),
    }
}

async fn put_one(
    client: &Client,
    source: &Source,
    parent: Option<InodeId>,
    bar: &ProgressBar,
) -> Result<Option<InodeId>, ClientError> {
    // Its directory failed, which was said.
    let Some(parent) = parent else { return Ok(None) };
    put_here(client, source, parent, bar).await.map(|attr| Some(attr.inode)).map_err(|e| e.at(&source.local))
}

async fn put_here(
    client: &Client,
    source: &Source,
    parent: InodeId,
    bar: &ProgressBar,
) -> Result<Attr, ClientError> {
    let (name, metadata) = (name_of(source)?, &source.metadata);
    let kind = metadata.file_type();
    let (mode, mtime) = (metadata.mode() & MODE_BITS, mtime(metadata));
    if kind.is_file() {
        let file = LocalFile::open(&source.local, bar).await?;
        let options = PutOptions { mode, exclusive: false, mtime: Some(mtime) };
        let attr = client.put_at(file, parent, name, options).await?;
        if attr.mode == mode {
            return Ok(attr);
        }
        return client
            .setattr_at(attr.inode, SetAttr { mode: Some(mode), ..SetAttr::default() }, false)
            .await;
    }
    let special = if kind.is_fifo() {
        FileKind::Fifo
    } else if kind.is_socket() {
        FileKind::Socket
    } else if kind.is_char_device() {
        FileKind::CharDev
    } else if kind.is_block_device() {
        FileKind::BlockDev
    } else {
        let target = std::fs::read_link(&source.local)?.into_os_string();
        let target = bytes::Bytes::copy_from_slice(target.as_bytes());
        let made = match client.symlink_at(parent, name.clone(), target.clone()).await {
            Err(e) if e.is_exists() => {
                client.unlink_at(parent, name.clone()).await?;
                client.symlink_at(parent, name, target).await?
            }
            made => made?,
        };
        return client.setattr_at(made.inode, set_mtime(mtime), false).await;
    };
    let attr = client.mknod_at(parent, name, special, mode, metadata.rdev()).await?;
    client.setattr_at(attr.inode, set_mtime(mtime), false).await
}

fn mtime(metadata: &Metadata) -> Timestamp {
    Timestamp::from_parts(metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or(0))
}

fn set_mtime(at: Timestamp) -> SetAttr {
    SetAttr { mtime: Some(SetTime::At(at)), ..SetAttr::default() }
}

/// Modes and times of directories, once nothing is made in them any more.
async fn finish_dirs(client: &Client, list: &[Source], made: &[Option<InodeId>], failures: &mut Failures) {
    let dirs = list.iter().zip(made).filter(|(s, _)| s.metadata.is_dir());
    let mut setting = stream::iter(dirs.filter_map(|(s, inode)| Some((s, (*inode)?))))
        .map(|(source, inode)| async move {
            let mode = Some(source.metadata.mode() & MODE_BITS);
            let set = SetAttr { mode, ..set_mtime(mtime(&source.metadata)) };
            client.setattr_at(inode, set, false).await.map_err(|e| e.at(&source.local))
        })
        .buffer_unordered(FILES_IN_FLIGHT);
    while let Some(result) = setting.next().await {
        failures.note(result);
    }
}
