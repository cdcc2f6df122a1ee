//! Whole files as streams: `put` and `get`, with bounded memory and several blocks in flight.
//!
//! Holds: nothing of a file changes before every block of its new contents is durable; a file of up to
//! [`INLINE_LEN_MAX`] bytes is made with its contents in one command. Not here: trees and attributes of local files (`cli`).

use std::collections::VecDeque;
use std::path::Path;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use crate::runtime::{self, Buffer, Task};
use crate::types::{
    Access, Attr, BlockRef, Extent, ExtentSource, FileKind, FsError, INLINE_LEN_MAX, InodeId, MakeNode, Name,
    Publish, SetAttr, Timestamp, Update, UpdateReply,
};

use super::error::At;
use super::extents::{Piece, Source};
use super::file::PUBLISH_EXTENTS_MAX;
use super::path::Spot;
use super::stream::{BlockReader, BlockWriter};
use super::{Client, ClientError, budget};

/// Zeros written at a time for a hole.
const ZEROS: &[u8] = &[0; 64 << 10];

/// How [`Client::put`] makes the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOptions {
    /// Permission bits of a new file; an existing one keeps its own.
    pub mode: u32,
    /// An existing file is an error.
    pub exclusive: bool,
    /// Modification time to set; none: now.
    pub mtime: Option<Timestamp>,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self { mode: 0o644, exclusive: false, mtime: None }
    }
}

/// Where the bytes go: a file that is there, or a name for one.
enum Target {
    Existing(Attr),
    New(Spot),
}

/// New contents of a file, durable.
enum Contents {
    Small(Bytes),
    Blocks { extents: Vec<Extent>, len: u64, session: std::sync::Arc<super::session::Session> },
}

impl Contents {
    fn len(&self) -> u64 {
        match self {
            Self::Small(bytes) => bytes.len() as u64,
            Self::Blocks { len, .. } => *len,
        }
    }
}

impl Client {
    /// Stores all that `reader` gives as the file at `path` (symlinks followed), durable and visible on return. An existing
    /// file keeps its inode and attributes; its old contents are replaced once the new ones are durable.
    ///
    /// # Errors
    /// Of the reader; as `open(2)`; [`ClientError::NotDurable`]. Until the blocks are durable nothing of the file has changed;
    /// [`ClientError::Partial`] says what is left of a failure after that.
    pub async fn put(
        &self,
        reader: impl BlockReader,
        path: impl AsRef<Path>,
        options: PutOptions,
    ) -> Result<Attr, ClientError> {
        let path = path.as_ref();
        let target = self.put_target(path, options).await?;
        let contents = self.upload_all(reader).await.at(path)?;
        self.replace(target, contents, options).await.at(path)
    }

    /// As [`Client::put`], under a name of a directory: for trees. A new file of a page takes one command.
    ///
    /// # Errors
    /// As there.
    pub async fn put_at(
        &self,
        reader: impl BlockReader,
        parent: InodeId,
        name: Name,
        options: PutOptions,
    ) -> Result<Attr, ClientError> {
        let contents = self.upload_all(reader).await?;
        let spot = Spot { parent, name, must_be_dir: false };
        self.replace(Target::New(spot), contents, options).await
    }

    /// Looks for what would make the put fail at its end, before gigabytes are sent.
    async fn put_target(&self, path: &Path, options: PutOptions) -> Result<Target, ClientError> {
        match self.stat(path).await {
            Ok(_) if options.exclusive => Err(ClientError::from(FsError::Exists).at(path)),
            Ok(attr) => match attr.kind {
                FileKind::File => {
                    self.access(attr.inode, Access::WRITE).await.at(path)?;
                    Ok(Target::Existing(attr))
                }
                FileKind::Dir => Err(ClientError::from(FsError::IsDir).at(path)),
                _ => Err(ClientError::from(FsError::Invalid).at(path)),
            },
            Err(e) if e.is_not_found() => {
                let spot = self.spot(path).await?;
                if spot.must_be_dir {
                    return Err(ClientError::from(FsError::IsDir).at(path));
                }
                Ok(Target::New(spot))
            }
            Err(e) => Err(e),
        }
    }

    /// Makes all bytes of `reader` durable as blocks, or keeps them if they are few.
    async fn upload_all(&self, mut reader: impl BlockReader) -> Result<Contents, ClientError> {
        let (small, small_len) = reader.fill(Buffer::new(INLINE_LEN_MAX + 1, 0, 0), 0).await?;
        if small_len <= INLINE_LEN_MAX {
            return Ok(Contents::Small(small.freeze(small_len)));
        }
        let core = &self.core;
        let session = core.session(core.deadline()).await?;
        let block_len = usize::try_from(self.map().layout.block_len).unwrap_or(1 << 20).max(small_len);
        // With the number of the block. The oldest is not waited for while others are done: a slow one would keep the servers idle.
        let mut running = FuturesUnordered::new();
        let mut blocks: Vec<Option<BlockRef>> = Vec::new();
        let mut begun = &small[..];
        let mut end = false;
        loop {
            while end || running.len() >= core.options.blocks_in_flight.max(1) {
                let Some((number, block)) = running.next().await else { break };
                blocks[number] = Some(block?);
            }
            if end {
                break;
            }
            // The permit before the bytes: nobody waits for room while holding a block that cannot move on.
            let permit = budget::take(&core.budget, block_len).await;
            let mut block = Buffer::new(block_len, 0, 0);
            block[..begun.len()].copy_from_slice(begun);
            let (block, filled) = reader.fill(block, begun.len()).await?;
            begun = &[];
            end = filled < block_len;
            if filled > 0 {
                let number = blocks.len();
                blocks.push(None);
                let (core, session, bytes) = (core.clone(), session.clone(), block.freeze(filled));
                let task = runtime::spawn("client-upload", async move {
                    let _permit = permit;
                    core.upload(&session, bytes, core.deadline()).await
                });
                running.push(task.map(move |block| (number, block.unwrap_or(Err(ClientError::Closed)))));
            }
        }
        let mut extents = Vec::new();
        let mut len = 0;
        for block in blocks {
            let block = block.expect("none is under way any more, and none failed");
            let source = ExtentSource::Block { block, block_offset: 0 };
            extents.push(Extent { offset: len, len: u64::from(block.len), source });
            len += u64::from(block.len);
        }
        Ok(Contents::Blocks { extents, len, session })
    }

    /// Gives the file its new contents.
    async fn replace(
        &self,
        target: Target,
        contents: Contents,
        options: PutOptions,
    ) -> Result<Attr, ClientError> {
        let new_len = contents.len();
        let (old, created) = match target {
            Target::Existing(attr) => (attr, None),
            Target::New(spot) => {
                let content = match &contents {
                    // With a time to set it takes a publish all the same.
                    Contents::Small(bytes) if options.mtime.is_none() => bytes.clone(),
                    _ => Bytes::new(),
                };
                let whole = content.len() as u64 == new_len;
                let make = MakeNode {
                    parent: spot.parent,
                    name: spot.name.clone(),
                    kind: FileKind::File,
                    mode: options.mode,
                    umask: self.umask,
                    rdev: 0,
                    content,
                    exclusive: options.exclusive,
                };
                let (attr, created) = self.make(make).await?;
                if created && whole && options.mtime.is_none() {
                    return Ok(attr);
                }
                if !created {
                    // Who opens an existing file for writing needs the permission; a publish does not ask for it.
                    self.access(attr.inode, Access::WRITE).await?;
                }
                (attr, created.then_some(spot))
            }
        };
        match self.publish_contents(&old, contents, options).await {
            Ok(attr) => Ok(attr),
            Err((0, e)) => match created {
                None => Err(e),
                Some(spot) => match self.unlink_at(spot.parent, spot.name).await {
                    Ok(_) => Err(e),
                    Err(_) => Err(partial("the new file is there and empty: remove it or put it again", e)),
                },
            },
            Err((published, e)) => {
                let left = format!(
                    "the first {published} of {new_len} bytes are in place, the rest is as before: put it again"
                );
                Err(partial(&left, e))
            }
        }
    }

    /// Publishes over what is there, then cuts off what is longer. With an error comes how much was published.
    async fn publish_contents(
        &self,
        old: &Attr,
        contents: Contents,
        options: PutOptions,
    ) -> Result<Attr, (u64, ClientError)> {
        let new_len = contents.len();
        let deadline = self.core.deadline();
        let (extents, session) = match contents {
            Contents::Blocks { extents, session, .. } => (extents, session),
            Contents::Small(bytes) => {
                let session = self.core.session(deadline).await.map_err(|e| (0, e))?;
                let inline = Extent { offset: 0, len: new_len, source: ExtentSource::Inline(bytes) };
                (if new_len == 0 { Vec::new() } else { vec![inline] }, session)
            }
        };
        let mut published = 0;
        let mut attr = old.clone();
        for part in extents.chunks(PUBLISH_EXTENTS_MAX) {
            let publish = Publish {
                inode: old.inode,
                extents: part.to_vec(),
                grow_to: None,
                append: false,
                mtime: options.mtime,
            };
            let update = Update::Publish(publish);
            // In the session that owns the blocks.
            let deadline = self.core.deadline();
            match self.core.update_in(&session, &self.cred, update, deadline).await {
                Ok(UpdateReply::Attr(new)) => attr = new,
                Ok(other) => {
                    return Err((published, ClientError::Protocol(format!("{other:?} to Publish"))));
                }
                Err(e) => return Err((published, e)),
            }
            published = part.last().map_or(published, Extent::end);
        }
        let mut set = SetAttr::default();
        if attr.size > new_len {
            set.size = Some(new_len);
        }
        if let Some(mtime) = options.mtime
            && (extents.is_empty() || set.size.is_some())
        {
            set.mtime = Some(crate::types::SetTime::At(mtime));
        }
        if set == SetAttr::default() {
            return Ok(attr);
        }
        self.setattr_at(old.inode, set, true).await.map_err(|e| (published, e))
    }

    /// Writes the contents of the file at `path` (symlinks followed) to `writer`; answers its attributes when it was opened.
    ///
    /// # Errors
    /// Of the writer; as `open(2)`; [`ClientError::BlockLost`].
    pub async fn get(&self, path: impl AsRef<Path>, writer: impl BlockWriter) -> Result<Attr, ClientError> {
        let path = path.as_ref();
        let attr = self.stat(path).await?;
        self.get_inode(attr.inode, writer).await.at(path)
    }

    /// As [`Client::get`], by inode.
    ///
    /// # Errors
    /// As there.
    pub async fn get_inode(&self, inode: InodeId, mut writer: impl BlockWriter) -> Result<Attr, ClientError> {
        let attr = self.access(inode, Access::READ).await?;
        match attr.kind {
            FileKind::File => {}
            FileKind::Dir => return Err(FsError::IsDir.into()),
            _ => return Err(FsError::Invalid.into()),
        }
        // While it is held, the file may be unlinked and is still read to its end.
        let session = self.core.session(self.core.deadline()).await?;
        let _handle = session.hold(inode);
        self.copy_out(inode, attr.size, &mut writer).await?;
        writer.end().await?;
        Ok(attr)
    }

    async fn copy_out(
        &self,
        inode: InodeId,
        size: u64,
        writer: &mut impl BlockWriter,
    ) -> Result<(), ClientError> {
        let mut next = Some(0);
        while let Some(at) = next {
            let page = self.core.plan_page(&self.cred, inode, at, size).await?;
            next = page.next;
            let mut pieces = VecDeque::from(page.pieces);
            let mut coming: VecDeque<Task<Result<Read, ClientError>>> = VecDeque::new();
            loop {
                while coming.len() < self.core.options.blocks_in_flight.max(1)
                    && let Some(piece) = pieces.pop_front()
                {
                    let len = match piece.source {
                        Source::Block(..) => usize::try_from(piece.len).unwrap_or(usize::MAX),
                        Source::Zeros | Source::Here(_) => 0,
                    };
                    // Who has blocks on their way does not wait for room: it might be these that have to leave first.
                    let permit = match budget::try_take(&self.core.budget, len) {
                        None if coming.is_empty() => budget::take(&self.core.budget, len).await,
                        None => {
                            pieces.push_front(piece);
                            break;
                        }
                        permit => permit,
                    };
                    let client = self.clone();
                    let read = async move { client.read_ahead(inode, piece, permit).await };
                    coming.push_back(runtime::spawn("client-download", read));
                }
                let Some(read) = coming.pop_front() else { break };
                match read.await.unwrap_or(Err(ClientError::Closed))? {
                    Read::Bytes(bytes, _permit) => writer.take(bytes).await?,
                    Read::Zeros(mut len) => {
                        while len > 0 {
                            let part = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
                            writer.take(Bytes::from_static(&ZEROS[..part])).await?;
                            len -= part as u64;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn read_ahead(
        &self,
        inode: InodeId,
        piece: Piece,
        permit: budget::Permit,
    ) -> Result<Read, ClientError> {
        if piece.source == Source::Zeros {
            return Ok(Read::Zeros(piece.len));
        }
        let deadline = self.core.deadline();
        let bytes = self.core.read_piece(&self.cred, inode, piece, deadline).await?;
        Ok(Read::Bytes(bytes, permit))
    }
}

/// A piece that was read: its bytes with their room, or only how many zeros it is.
enum Read {
    Bytes(Bytes, budget::Permit),
    Zeros(u64),
}

fn partial(left: &str, source: ClientError) -> ClientError {
    ClientError::Partial { left: left.to_owned(), source: Box::new(source) }
}
