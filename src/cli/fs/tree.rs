//! All entries of a tree of the cluster, several directories listed at a time.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::join;
use crate::client::{Client, ClientError};
use crate::types::{Attr, DirEntry, FileKind, FsError};

/// Directories listed at a time.
const DIRS_IN_FLIGHT: usize = 16;

/// An entry and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) attr: Attr,
}

/// The entries of one directory, in order of their names, with attributes.
pub(super) async fn entries(client: &Client, dir: &Path, attr: &Attr) -> Result<Vec<Entry>, ClientError> {
    let mut stream = client.readdir_at(attr.inode, true);
    let mut entries = Vec::new();
    while let Some(entry) = stream.next().await.map_err(|e| e.at(dir))? {
        if let Some(entry) = with_attr(client, dir, entry).await? {
            entries.push(entry);
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// None: it went away meanwhile.
async fn with_attr(client: &Client, dir: &Path, entry: DirEntry) -> Result<Option<Entry>, ClientError> {
    let path = join(dir, entry.name.as_bytes());
    if let Some(found) = entry.found {
        return Ok(Some(Entry { path, attr: found.attr }));
    }
    match client.getattr(entry.inode).await {
        Ok(attr) => Ok(Some(Entry { path, attr })),
        Err(e) if e.is_not_found() || e.fs() == Some(FsError::Stale) => Ok(None),
        Err(e) => Err(e.at(path)),
    }
}

/// Everything below `root`, directories before what is in them; `root` itself first.
pub(super) async fn walk(client: &Client, root: &Path, attr: Attr) -> Result<Vec<Entry>, ClientError> {
    let mut all = Vec::new();
    let mut queue = vec![Entry { path: root.to_owned(), attr }];
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < DIRS_IN_FLIGHT
            && let Some(entry) = queue.pop()
        {
            if entry.attr.kind == FileKind::Dir {
                let dir = entry.clone();
                running.push(async move { entries(client, &dir.path, &dir.attr).await });
            }
            all.push(entry);
        }
        match running.next().await {
            Some(found) => queue.extend(found?),
            None if queue.is_empty() => break,
            None => {}
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}
