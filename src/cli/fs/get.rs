//! `get`: files and trees of the cluster to local ones.
//!
//! Holds: a local file appears whole or not at all (temporary name, fsync, rename); one file that fails does not stop the others.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt;
use futures::stream;
use indicatif::ProgressBar;
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};

use super::super::Failure;
use super::super::text;
use super::local::{LocalFile, Output};
use super::tree::{self, Entry};
use super::{FILES_IN_FLIGHT, Failures, unwrap_io};
use crate::client::{Client, ClientError};
use crate::runtime;
use crate::types::{Attr, FileKind, InodeId, Timestamp};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs fs get /photos/one.jpg .
  pohmelfs fs get -r /photos copy
  pohmelfs fs get /all.tar - | tar x")]
pub(super) struct GetArgs {
    /// Trees
    #[arg(short, visible_short_alias = 'R')]
    recursive: bool,
    /// What to copy
    source: PathBuf,
    /// Where to (`-`: standard output)
    target: PathBuf,
}

pub(super) async fn run(client: &Client, args: &GetArgs) -> Result<ExitCode, Failure> {
    if args.target.as_os_str() == "-" {
        client.get(&args.source, Output::new()?).await.map_err(unwrap_io)?;
        return Ok(ExitCode::SUCCESS);
    }
    let attr = client.resolve(&args.source, !args.recursive).await?.found.attr;
    if attr.kind == FileKind::Dir && !args.recursive {
        return Err(Failure::usage(format!("{} is a directory: use -r", args.source.display())));
    }
    let target = match args.source.file_name() {
        Some(name) if args.target.is_dir() => args.target.join(name),
        _ => args.target.clone(),
    };
    let entries = tree::walk(client, &args.source, attr).await?;
    let place = |entry: &Entry| {
        let below = entry.path.strip_prefix(&args.source).unwrap_or(Path::new(""));
        if below.as_os_str().is_empty() { target.clone() } else { target.join(below) }
    };
    let mut failures = Failures::default();
    let bytes = entries.iter().filter(|e| e.attr.kind == FileKind::File).map(|e| e.attr.size).sum();
    let bar = text::progress(bytes, true);

    let (dirs, rest): (Vec<_>, Vec<_>) =
        entries.into_iter().map(|e| (place(&e), e)).partition(|(_, e)| e.attr.kind == FileKind::Dir);
    for (local, _) in &dirs {
        // Open to us while it is filled; its own mode comes at the end.
        match std::fs::create_dir(local) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && local.is_dir() => {}
            other => failures.note(other.map_err(|e| format!("{}: {e}", local.display()))),
        }
    }
    let mut first_of: HashMap<InodeId, PathBuf> = HashMap::new();
    let (mut files, mut links) = (Vec::new(), Vec::new());
    for (local, entry) in rest {
        if entry.attr.nlink > 1
            && let Some(first) = first_of.get(&entry.attr.inode)
        {
            links.push((local, first.clone()));
            continue;
        }
        first_of.insert(entry.attr.inode, local.clone());
        files.push((local, entry.attr));
    }
    let bar_ref = &bar;
    let mut copying = stream::iter(files)
        .map(|(local, attr)| async move {
            get_one(client, &attr, &local, bar_ref).await.map_err(|e| e.at(&local))
        })
        .buffer_unordered(FILES_IN_FLIGHT);
    while let Some(result) = copying.next().await {
        failures.note(result);
    }
    drop(copying);
    for (local, first) in links {
        let linked = replace(&local, |temp| std::fs::hard_link(&first, temp));
        failures.note(linked.map_err(|e| format!("{}: {e}", local.display())));
    }
    for (local, dir) in dirs.iter().rev() {
        failures.note(finish(local, &dir.attr).map_err(|e| format!("{}: {e}", local.display())));
    }
    bar.finish_and_clear();
    failures.end()
}

async fn get_one(client: &Client, attr: &Attr, local: &Path, bar: &ProgressBar) -> Result<(), ClientError> {
    match attr.kind {
        FileKind::File => {}
        FileKind::Symlink => {
            let target = client.readlink_at(attr.inode).await?;
            let target = std::ffi::OsStr::from_bytes(&target);
            replace(local, |temp| std::os::unix::fs::symlink(target, temp))?;
            return Ok(set_times(local, attr)?);
        }
        kind => {
            let reason = format!("a {kind:?} is not copied: make it with mknod(1)");
            return Err(ClientError::Io(io::Error::new(io::ErrorKind::Unsupported, reason)));
        }
    }
    let temp = temp_name(local);
    let copied = async {
        // Durable at its end.
        client.get_inode(attr.inode, LocalFile::create(&temp, bar).await?).await?;
        finish(&temp, attr)?;
        tokio::fs::rename(&temp, local).await?;
        Ok(())
    }
    .await;
    if copied.is_err() {
        // The error that counts is the first one; a left-over has a name that tells what it is.
        if let Err(e) = tokio::fs::remove_file(&temp).await {
            tracing::debug!(temp = %temp.display(), error = %e, "temporary file is left");
        }
    }
    copied
}

/// Makes something under a temporary name and moves it into place.
fn replace(local: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temp = temp_name(local);
    make(&temp)?;
    std::fs::rename(&temp, local)?;
    // Renaming one hard link over another of the same file leaves both.
    if temp.symlink_metadata().is_ok() { std::fs::remove_file(&temp) } else { Ok(()) }
}

fn temp_name(local: &Path) -> PathBuf {
    let mut name = OsString::from(".pohmelfs-get-");
    name.push(format!("{:016x}", runtime::random_u64()));
    local.with_file_name(name)
}

/// Mode and time.
fn finish(local: &Path, attr: &Attr) -> io::Result<()> {
    rustix::fs::chmod(local, Mode::from_raw_mode(attr.mode))?;
    set_times(local, attr)
}

fn set_times(local: &Path, attr: &Attr) -> io::Result<()> {
    let spec = |at: Timestamp| Timespec { tv_sec: at.secs(), tv_nsec: at.nanos().into() };
    let times = Timestamps { last_access: spec(attr.atime), last_modification: spec(attr.mtime) };
    Ok(rustix::fs::utimensat(CWD, local, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
