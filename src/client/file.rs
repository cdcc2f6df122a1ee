//! An open file: reads that see its own writes at once, writes that are collected into blocks.
//!
//! [`Client::open`] makes one. A write goes through three places, newest first when reading:
//!
//! ```text
//!   write_at ──> dirty (up to one block) ──> pending (uploading, then durable) ──> published (in the namespace)
//!                                   a full block, or flush              flush, close, truncate
//! ```
//!
//! Holds: nothing is published before all of it is durable; after a failed flush nothing of the file has changed and the
//! bytes are kept for the next one; publishes carry writes in the order they were made.
//! Not here: caching for several readers and leases (the mount builds on top).

mod stamp;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex as Lock;
use tokio::sync::Mutex;

use crate::runtime::{self, Task};
use crate::types::{
    Attr, BlockRef, Cred, Extent, ExtentSource, FallocateMode, FsError, INLINE_LEN_MAX, InodeId, Publish,
    RangeChange, SetAttr, SetAttrs, Update, UpdateReply,
};

use super::budget::{self, Permit};
use super::core::Core;
use super::error::At;
use super::extents::{Piece, Source};
use super::inode::SeekFor;
use super::overlay::Overlay;
use super::pending::{Outstanding, Pending, PendingState, State};
use super::session::{Handle, Session};
use super::{Client, ClientError};

/// Most extents of one publish: some tens of KiB in the log.
pub(super) const PUBLISH_EXTENTS_MAX: usize = 1000;
/// Largest size of a file.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Fewer dirty bytes than these are not sent on their way before their time, however much other files hold: a block that small
/// costs more than the memory is worth.
const EARLY_LEN_MIN: usize = 64 << 10;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Make it if it is missing.
    pub create: bool,
    /// Make it; an existing one is an error.
    pub create_new: bool,
    /// Cut it to nothing.
    pub truncate: bool,
    /// For running it (`execve(2)` opens so): asks for execute permission instead of read permission.
    pub execute: bool,
    /// Permission bits of a new file, of which the client's umask takes some.
    pub mode: u32,
}

impl OpenOptions {
    /// For reading an existing file.
    #[must_use]
    pub const fn reading() -> Self {
        Self {
            read: true,
            write: false,
            create: false,
            create_new: false,
            truncate: false,
            execute: false,
            mode: 0o644,
        }
    }

    /// For reading and writing, made if missing.
    #[must_use]
    pub const fn writing() -> Self {
        Self { write: true, create: true, ..Self::reading() }
    }
}

struct Inner {
    client: Client,
    inode: InodeId,
    late: bool,
    handle: Lock<Handle>,
    options: OpenOptions,
    /// It outlives the session it was opened in, and what fails behind its back is told later.
    shared: bool,
    block_len: usize,
    state: Mutex<State>,
    overlay: Lock<Overlay>,
    deferred: Lock<Option<ClientError>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.client.core.count_dirty(state.counted, 0);
        if state.dirty.len() > 0 || !state.pending.is_empty() {
            tracing::warn!(inode = self.inode.0, "file dropped without flush: what was not flushed is lost");
        }
    }
}

/// An open file. Clones share it. Close it with [`File::close`]; dropping the last clone loses what was not flushed.
#[derive(Clone)]
pub struct File(Arc<Inner>);

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("inode", &self.inode()).field("options", &self.0.options).finish()
    }
}

impl Client {
    /// Opens the file at `path`, symlinks followed.
    ///
    /// # Errors
    /// As `open(2)`.
    pub async fn open(&self, path: impl AsRef<Path>, options: OpenOptions) -> Result<File, ClientError> {
        let path = path.as_ref();
        if !options.create_new {
            match self.stat(path).await {
                Ok(attr) => return self.open_inode(attr.inode, options).await.at(path),
                Err(e) if e.is_not_found() && options.create => {}
                Err(e) => return Err(e),
            }
        }
        let spot = self.spot(path).await?;
        if spot.must_be_dir {
            return Err(ClientError::from(FsError::IsDir).at(path));
        }
        Ok(self.create_open_at(spot.parent, spot.name, options).await.at(path)?.file)
    }

    /// An open file over a handle; permissions have been asked for.
    pub(super) fn file(&self, handle: Handle, options: OpenOptions) -> File {
        self.new_file(handle, options, false)
    }

    /// A file for several openers at once, each of whom is asked for permission by the caller: nothing is asked here, and
    /// nothing said of the inode. From here on it stays, however often it is unlinked. It outlives the session.
    ///
    /// # Errors
    /// When no session can be had.
    pub async fn share(&self, inode: InodeId) -> Result<File, ClientError> {
        let session = self.core.session(self.core.deadline()).await?;
        Ok(self.shared_file(session.hold(inode)))
    }

    /// As [`Client::share`], over a handle that is held.
    pub(super) fn shared_file(&self, handle: Handle) -> File {
        self.new_file(handle, OpenOptions { create: false, ..OpenOptions::writing() }, true)
    }

    fn new_file(&self, handle: Handle, options: OpenOptions, shared: bool) -> File {
        let block_len = usize::try_from(self.map().layout.block_len).unwrap_or(1 << 20).max(INLINE_LEN_MAX);
        File(Arc::new(Inner {
            client: self.clone(),
            inode: handle.inode(),
            late: handle.is_late(),
            handle: Lock::new(handle),
            options,
            shared,
            block_len,
            state: Mutex::new(State::default()),
            overlay: Lock::new(Overlay::default()),
            deferred: Lock::new(None),
        }))
    }
}

impl File {
    /// Its inode.
    #[must_use]
    pub fn inode(&self) -> InodeId {
        self.0.inode
    }

    /// True if the cluster may have been told that this client does not hold the inode: should it be an orphan, it may be
    /// freed at any moment.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.0.late
    }

    fn session(&self) -> Arc<Session> {
        self.0.handle.lock().session().clone()
    }

    /// Bytes of a block that is full.
    pub(super) fn block_len(&self) -> u64 {
        self.0.block_len as u64
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.0.client.core
    }

    /// Attributes, the size with what this handle has written and not flushed.
    ///
    /// # Errors
    /// As [`Client::getattr`].
    pub async fn attr(&self) -> Result<Attr, ClientError> {
        // Taken first: should a flush publish it meanwhile, it is seen twice and not never.
        let overlay = self.overlay();
        let mut attr = self.0.client.getattr(self.inode()).await?;
        overlay.apply(&mut attr);
        Ok(attr)
    }

    /// How what was written and not published shows in the attributes.
    #[must_use]
    pub fn overlay(&self) -> Overlay {
        *self.0.overlay.lock()
    }

    pub(super) async fn layers(&self, from: u64, to: u64) -> (u64, Vec<Piece>) {
        self.0.state.lock().await.layers(from, to)
    }

    /// Reads `len` bytes from `offset` on, fewer at the end of the file, none behind it. All of them are held in memory.
    ///
    /// # Errors
    /// EBADF as [`FsError::Invalid`] when not opened for reading; [`ClientError::BlockLost`] and the errors of a query.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, ClientError> {
        if !self.0.options.read {
            return Err(FsError::Invalid.into());
        }
        let len = (len as u64).min(SIZE_MAX.saturating_sub(offset));
        // What this handle wrote is taken first: should a flush publish it meanwhile, it is seen twice and not never.
        let (own_end, layers) = self.0.state.lock().await.layers(offset, offset + len);
        let cred = self.0.client.cred();
        let (attr, published) = self.core().read_range(cred, self.inode(), offset, len).await?;
        if layers.is_empty() && own_end <= attr.size {
            return Ok(published);
        }
        let end = attr.size.max(own_end).min(offset + len).max(offset);
        let mut out = BytesMut::from(&published[..]);
        out.resize(usize::try_from(end - offset).unwrap_or(usize::MAX), 0);
        let deadline = self.core().deadline();
        for piece in layers {
            let at = usize::try_from(piece.offset - offset).unwrap_or(usize::MAX);
            let bytes = match piece.source {
                Source::Here(bytes) => bytes,
                // Durable and not published: the file does not name it, so nothing can have changed it.
                Source::Block(block, block_offset) => {
                    let want = u32::try_from(piece.len).unwrap_or(u32::MAX);
                    let read = self.core().read_block(&block, block_offset, want, deadline).await;
                    read.map_err(|u| ClientError::BlockLost { block: block.id, tried: u.tried })?
                }
                Source::Zeros => continue,
            };
            out[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(out.freeze())
    }

    /// Ready for a change: opened for writing, in a session that lives.
    async fn writable(&self, state: &mut State) -> Result<(), ClientError> {
        if !self.0.options.write {
            return Err(FsError::Invalid.into());
        }
        self.alive(state).await
    }

    /// In a session that lives.
    async fn alive(&self, state: &mut State) -> Result<(), ClientError> {
        let session = self.session();
        if !session.is_gone() {
            return Ok(());
        }
        if !self.0.shared {
            return Err(ClientError::SessionExpired { session: session.id() });
        }
        let core = self.core();
        let new = core.session(core.deadline()).await?;
        *self.0.handle.lock() = new.hold(self.inode());
        let lost = state.leave_session();
        if lost > 0 {
            tracing::error!(
                inode = self.inode().0,
                session = session.id().0,
                lost,
                "unpublished bytes lost with the session"
            );
            *self.0.deferred.lock() = Some(ClientError::SessionExpired { session: session.id() });
        }
        Ok(())
    }

    /// Writes `data` at `offset`. Others see it after a flush. Waits while too many blocks are on their way.
    ///
    /// # Errors
    /// That an earlier block of this file could not be made durable (its bytes are kept for the next flush).
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), ClientError> {
        let cred = self.0.client.cred.clone();
        self.write_at_as(&cred, offset, data).await
    }

    /// As [`File::write_at`], with the rights of `cred`: what a superuser writes leaves setuid and setgid alone.
    ///
    /// # Errors
    /// As there.
    pub async fn write_at_as(&self, cred: &Cred, offset: u64, data: Bytes) -> Result<(), ClientError> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > SIZE_MAX) {
            return Err(FsError::TooBig.into());
        }
        let mut state = self.0.state.lock().await;
        self.writable(&mut state).await?;
        state.wrote_as(cred);
        self.0.overlay.lock().wrote(offset + data.len() as u64, !cred.is_root());
        // In parts, so that no more than a block is dirty however much is written at once.
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let room = self.0.block_len.saturating_sub(state.dirty.len()).max(1);
            let part = rest.split_to(room.min(rest.len()));
            state.dirty.write(at, &part);
            at += part.len() as u64;
            self.count(&mut state);
            while state.dirty.is_full(self.0.block_len)
                || (state.dirty.len() >= EARLY_LEN_MIN && self.core().is_dirty_full())
            {
                self.start_upload(&mut state).await;
                self.make_room(&mut state).await?;
            }
        }
        Ok(())
    }

    /// Takes the dirty bytes into the total of the client.
    fn count(&self, state: &mut State) {
        self.core().count_dirty(state.counted, state.dirty.len());
        state.counted = state.dirty.len();
    }

    /// Sends a block's worth of what is dirty on its way; it is pending from now on.
    async fn start_upload(&self, state: &mut State) {
        // The permit first: the caller may be dropped at the await, and the bytes must not be dropped with it.
        let permit = budget::take(&self.core().budget, self.0.block_len).await;
        if let Some(block) = state.dirty.take_block(self.0.block_len) {
            let task = self.upload_task(block.bytes.clone(), permit);
            let uploading = PendingState::Uploading(block.bytes, task);
            state.pending.push_back(Pending { parts: block.parts, state: uploading });
        }
        self.count(state);
    }

    fn upload_task(&self, bytes: Bytes, permit: Permit) -> Task<Result<BlockRef, ClientError>> {
        let core = self.core().clone();
        let session = self.session();
        runtime::spawn("client-upload", async move {
            let _permit = permit;
            core.upload(&session, bytes, core.deadline()).await
        })
    }

    /// Waits for the oldest uploads while more than the allowed number are on their way.
    async fn make_room(&self, state: &mut State) -> Result<(), ClientError> {
        let max = self.core().options.blocks_in_flight.max(1);
        loop {
            let uploading = |p: &Pending| matches!(p.state, PendingState::Uploading(..));
            if state.pending.iter().filter(|p| uploading(p)).count() < max {
                return Ok(());
            }
            let Some(oldest) = state.pending.iter_mut().find(|p| uploading(p)) else { return Ok(()) };
            oldest.finish().await?;
        }
    }

    /// Makes all that was written durable and publishes it: others see it, and no failure loses it.
    ///
    /// # Errors
    /// When blocks cannot be made durable (nothing of the file has changed), or the publish has no known
    /// outcome. The bytes are kept, and the next flush tries again.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let mut state = self.0.state.lock().await;
        self.flush_locked(&mut state).await
    }

    /// As [`File::flush`]; besides, tells once what went wrong behind the back of the openers since the last time.
    ///
    /// # Errors
    /// As there.
    pub async fn flush_and_report(&self) -> Result<(), ClientError> {
        let flushed = self.flush().await;
        let earlier = self.0.deferred.lock().take();
        flushed.and(earlier.map_or(Ok(()), Err))
    }

    /// As [`File::flush`]; what goes wrong is kept for [`File::flush_and_report`].
    pub async fn flush_behind(&self) {
        if let Err(error) = self.flush().await {
            tracing::warn!(inode = self.inode().0, %error, "background flush failed");
            *self.0.deferred.lock() = Some(error);
        }
    }

    async fn flush_locked(&self, state: &mut State) -> Result<(), ClientError> {
        match self.flush_once(state).await {
            // What was in blocks of that session and is still here goes into new ones.
            Err(ClientError::SessionExpired { .. }) if self.0.shared => self.flush_once(state).await,
            other => other,
        }
    }

    async fn flush_once(&self, state: &mut State) -> Result<(), ClientError> {
        if let Err(e) = self.settle(state).await {
            match e {
                // Its answer is still to come.
                ClientError::Unsettled { .. } => return Err(e),
                // Reported to whoever flushed then; its bytes are published again below.
                earlier => tracing::debug!(inode = self.inode().0, error = %earlier, "publish is repeated"),
            }
        }
        if state.dirty.len() == 0 && state.pending.is_empty() {
            return Ok(());
        }
        self.writable(state).await?;
        // Small writes ride in the publish itself; the rest becomes blocks.
        if state.dirty.len() <= INLINE_LEN_MAX
            && let Some(small) = state.dirty.take_block(INLINE_LEN_MAX)
        {
            let inline = PendingState::Inline(small.bytes);
            state.pending.push_back(Pending { parts: small.parts, state: inline });
            self.count(state);
        }
        while state.dirty.len() > 0 {
            self.start_upload(state).await;
            self.make_room(state).await?;
        }
        self.finish_uploads(state).await?;
        // From the front, so that what is published is forgotten and what is not stays in order.
        while !state.pending.is_empty() {
            let (extents, pending_count) = state.next_publish();
            self.publish(state, extents, false, pending_count).await?;
        }
        state.writer = None;
        *self.0.overlay.lock() = Overlay::default();
        Ok(())
    }

    /// Waits for all uploads, those included that have failed before and are tried again.
    async fn finish_uploads(&self, state: &mut State) -> Result<(), ClientError> {
        let mut first_error = None;
        for index in 0..state.pending.len() {
            if let PendingState::Failed(bytes) = &state.pending[index].state {
                let bytes = bytes.clone();
                let permit = budget::take(&self.core().budget, bytes.len()).await;
                let task = self.upload_task(bytes.clone(), permit);
                state.pending[index].state = PendingState::Uploading(bytes, task);
            }
            if let Err(e) = state.pending[index].finish().await {
                first_error = first_error.or(Some(e));
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn publish(
        &self,
        state: &mut State,
        extents: Vec<Extent>,
        append: bool,
        pending_count: usize,
    ) -> Result<Attr, ClientError> {
        let publish = Publish { inode: self.inode(), extents, grow_to: None, append, mtime: state.mtime };
        self.update(state, Update::Publish(publish), pending_count).await
    }

    /// Sends an update of this file that no later one may overtake.
    async fn update(
        &self,
        state: &mut State,
        update: Update,
        pending_count: usize,
    ) -> Result<Attr, ClientError> {
        match self.send(state, update, pending_count).await? {
            UpdateReply::Attr(attr) => Ok(attr),
            other => Err(ClientError::Protocol(format!("{other:?} to an update of a file"))),
        }
    }

    async fn send(
        &self,
        state: &mut State,
        update: Update,
        pending_count: usize,
    ) -> Result<UpdateReply, ClientError> {
        let core = self.core().clone();
        // In the session that owns the blocks: once it is gone, so are they.
        let session = self.session();
        let cred = state.writer.clone().unwrap_or_else(|| self.0.client.cred().clone());
        let task =
            runtime::spawn(
                "client-publish",
                async move { core.update_for_sure(&session, &cred, update).await },
            );
        state.outstanding = Some(Outstanding { pending_count, task });
        match self.settle(state).await? {
            Some(reply) => Ok(reply),
            None => Err(ClientError::Closed),
        }
    }

    /// Waits for the answer to the update that is on its way, if any.
    async fn settle(&self, state: &mut State) -> Result<Option<UpdateReply>, ClientError> {
        let Some(outstanding) = &mut state.outstanding else { return Ok(None) };
        let began = runtime::now();
        let answer = runtime::timeout_at(self.core().deadline(), &mut outstanding.task).await;
        let Ok(answer) = answer else {
            return Err(ClientError::Unsettled { after: began.elapsed() });
        };
        let pending_count = outstanding.pending_count;
        state.outstanding = None;
        // None: its runtime is being taken down.
        let reply = answer.unwrap_or(Err(ClientError::Closed))?;
        state.pending.drain(..pending_count);
        Ok(Some(reply))
    }

    /// Writes `data` behind the end of the file, wherever that is when the write takes effect: of two appenders neither
    /// overwrites the other. Durable and visible on return; answers where it stands.
    ///
    /// # Errors
    /// As [`File::flush`].
    pub async fn append(&self, data: Bytes) -> Result<u64, ClientError> {
        let cred = self.0.client.cred.clone();
        self.append_as(&cred, data).await
    }

    /// As [`File::append`], with the rights of `cred`.
    ///
    /// # Errors
    /// As there.
    pub async fn append_as(&self, cred: &Cred, data: Bytes) -> Result<u64, ClientError> {
        let mut state = self.0.state.lock().await;
        self.flush_locked(&mut state).await?;
        self.writable(&mut state).await?;
        state.wrote_as(cred);
        let len = data.len() as u64;
        if data.is_empty() {
            return Ok(self.0.client.getattr(self.inode()).await?.size);
        }
        let mut extents = Vec::new();
        if data.len() <= INLINE_LEN_MAX {
            extents.push(Extent { offset: 0, len, source: ExtentSource::Inline(data) });
        } else {
            let mut rest = data;
            let mut offset = 0;
            let mut running: VecDeque<Task<_>> = VecDeque::new();
            while !rest.is_empty() || !running.is_empty() {
                if !rest.is_empty() && running.len() < self.core().options.blocks_in_flight.max(1) {
                    let part = rest.split_to(rest.len().min(self.0.block_len));
                    let permit = budget::take(&self.core().budget, part.len()).await;
                    running.push_back(self.upload_task(part, permit));
                } else if let Some(task) = running.pop_front() {
                    let block = task.await.unwrap_or(Err(ClientError::Closed))?;
                    let len = u64::from(block.len);
                    extents.push(Extent {
                        offset,
                        len,
                        source: ExtentSource::Block { block, block_offset: 0 },
                    });
                    offset += len;
                }
            }
        }
        let attr = self.publish(&mut state, extents, true, 0).await?;
        state.writer = None;
        Ok(attr.size.saturating_sub(len))
    }

    /// As [`File::flush`]: what is published is on disk already.
    ///
    /// # Errors
    /// As there.
    pub async fn sync(&self) -> Result<(), ClientError> {
        self.flush().await
    }

    /// Flushes, then sets the size.
    ///
    /// # Errors
    /// As [`File::flush`] and `ftruncate(2)`.
    pub async fn truncate(&self, size: u64) -> Result<Attr, ClientError> {
        self.set_attr(SetAttr { size: Some(size), ..SetAttr::default() }).await
    }

    /// Flushes, then changes attributes, with the right of this handle to change the size.
    ///
    /// # Errors
    /// As [`File::flush`] and [`Client::setattr_at`].
    pub async fn set_attr(&self, set: SetAttr) -> Result<Attr, ClientError> {
        let cred = self.0.client.cred.clone();
        let by_handle = self.0.options.write;
        if set.size.is_some() && !by_handle {
            return Err(FsError::Invalid.into());
        }
        self.change_as(&cred, Update::SetAttrs(SetAttrs { inode: self.inode(), set, by_handle })).await
    }

    /// Flushes, then makes a change of this file that is answered with its attributes, with the rights of `cred`. Nothing
    /// written before comes after it, nothing written after it comes before.
    ///
    /// # Errors
    /// As [`File::flush`], and those of the change.
    pub async fn change_as(&self, cred: &Cred, update: Update) -> Result<Attr, ClientError> {
        let mut state = self.0.state.lock().await;
        let cut_to = match &update {
            Update::SetAttrs(SetAttrs { set: SetAttr { size, .. }, by_handle: true, .. }) => *size,
            _ => None,
        };
        let flushed = self.flush_locked(&mut state).await;
        // A truncate is what makes room when there is none: what it cuts off need not be stored first.
        let kept_from = cut_to.filter(|_| matches!(&flushed, Err(e) if e.fs() == Some(FsError::NoSpace)));
        if kept_from.is_none() {
            flushed?;
        }
        self.alive(&mut state).await?;
        let writer = state.writer.replace(cred.clone());
        let changed = self.update(&mut state, update, 0).await;
        state.writer = if kept_from.is_some() { writer } else { None };
        if let (Some(size), Ok(_)) = (kept_from, &changed) {
            state.cut(size);
            self.count(&mut state);
            self.0.overlay.lock().cut(state.end());
        }
        changed
    }

    /// Flushes, then sends an update of this file with the rights of `cred`, in order with all others.
    pub(super) async fn send_as(&self, cred: &Cred, update: Update) -> Result<UpdateReply, ClientError> {
        let mut state = self.0.state.lock().await;
        self.flush_locked(&mut state).await?;
        self.alive(&mut state).await?;
        state.writer = Some(cred.clone());
        let reply = self.send(&mut state, update, 0).await;
        state.writer = None;
        reply
    }

    /// How it was opened.
    pub(super) fn options(&self) -> &OpenOptions {
        &self.0.options
    }

    /// With whose rights.
    pub(super) fn cred(&self) -> &Cred {
        &self.0.client.cred
    }

    /// Flushes, then changes a range (`fallocate(2)`).
    ///
    /// # Errors
    /// As [`File::flush`] and [`Client::change_range`].
    pub async fn change_range(
        &self,
        offset: u64,
        len: u64,
        mode: FallocateMode,
    ) -> Result<Attr, ClientError> {
        if !self.0.options.write {
            return Err(FsError::Invalid.into());
        }
        let cred = self.0.client.cred.clone();
        self.change_as(&cred, Update::Range(RangeChange { inode: self.inode(), offset, len, mode })).await
    }

    /// Flushes, then finds the next data or hole (`lseek(2)`).
    ///
    /// # Errors
    /// As [`File::flush`] and [`Client::seek_at`].
    pub async fn seek(&self, offset: u64, what: SeekFor) -> Result<u64, ClientError> {
        self.flush().await?;
        self.0.client.seek_at(self.inode(), offset, what).await
    }

    /// Flushes and gives the handle back. Other clones of it stay usable.
    ///
    /// # Errors
    /// As [`File::flush`]; what could not be flushed is lost with the last clone.
    pub async fn close(self) -> Result<(), ClientError> {
        self.flush().await
    }
}
