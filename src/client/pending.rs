//! What an open file has written and not published: gathered, on its way, durable.
//!
//! `file` moves bytes along; here is what it keeps of them. Holds: parts stay in the order in which they were written.
//! Not here: sending anything.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::runtime::Task;
use crate::types::{BlockRef, Cred, Extent, ExtentSource, Timestamp, UpdateReply};

use super::ClientError;
use super::dirty::Dirty;
use super::extents::{Piece, Source};
use super::file::PUBLISH_EXTENTS_MAX;

/// Bytes on their way, or durable and not published yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) parts: Vec<(u64, u32, u32)>,
    pub(super) state: PendingState,
}

#[derive(Debug)]
pub(super) enum PendingState {
    /// Small: travels inside the publish.
    Inline(Bytes),
    Uploading(Bytes, Task<Result<BlockRef, ClientError>>),
    Failed(Bytes),
    Durable(BlockRef),
}

/// An update of this file that is on its way. The next one waits for its answer: sent later and applied earlier, it would be
/// overwritten by the older one.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// How many of the oldest pending parts it publishes.
    pub(super) pending_count: usize,
    pub(super) task: Task<Result<UpdateReply, ClientError>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) dirty: Dirty,
    /// Dirty bytes that are counted in the total of the client.
    pub(super) counted: usize,
    /// With whose rights the next publish is made: those of the last writer without a superuser's, if there was one.
    pub(super) writer: Option<Cred>,
    /// The modification time that the next publish sets, if not that of the command.
    pub(super) mtime: Option<Timestamp>,
    /// Oldest first.
    pub(super) pending: VecDeque<Pending>,
    pub(super) outstanding: Option<Outstanding>,
}

impl State {
    /// Notes a writer.
    pub(super) fn wrote_as(&mut self, cred: &Cred) {
        self.mtime = None;
        let unprivileged = self.writer.as_ref().is_some_and(|w| !w.is_root());
        if self.writer.as_ref() != Some(cred) && (!unprivileged || !cred.is_root()) {
            self.writer = Some(cred.clone());
        }
    }

    /// Forgets what was written from `size` on.
    pub(super) fn cut(&mut self, size: u64) {
        self.dirty.cut(size);
        for pending in &mut self.pending {
            pending.parts.retain_mut(|(offset, _, len)| {
                *len = u32::try_from(size.saturating_sub(*offset)).unwrap_or(u32::MAX).min(*len);
                *len > 0
            });
        }
        self.pending.retain(|pending| !pending.parts.is_empty());
    }

    /// The session is gone, and its unpublished blocks with it. What is still here is to be uploaded again; answers how
    /// many bytes are not.
    pub(super) fn leave_session(&mut self) -> u64 {
        let mut lost = 0;
        self.outstanding = None;
        self.pending.retain_mut(|pending| {
            if let PendingState::Uploading(bytes, _) = &mut pending.state {
                pending.state = PendingState::Failed(std::mem::take(bytes));
            }
            let kept = !matches!(pending.state, PendingState::Durable(_));
            if !kept {
                lost += pending.parts.iter().map(|&(_, _, len)| u64::from(len)).sum::<u64>();
            }
            kept
        });
        lost
    }

    /// The end of all that was written and not published; and its parts within `from..to`, oldest first.
    pub(super) fn layers(&self, from: u64, to: u64) -> (u64, Vec<Piece>) {
        let mut pieces = Vec::new();
        for pending in &self.pending {
            for &(offset, block_offset, len) in &pending.parts {
                let (first, last) = (offset.max(from), (offset + u64::from(len)).min(to));
                if first >= last {
                    continue;
                }
                let skip = u32::try_from(first - offset).unwrap_or(u32::MAX);
                let part_len = u32::try_from(last - first).unwrap_or(u32::MAX);
                let at = block_offset + skip;
                let source = match &pending.state {
                    PendingState::Inline(bytes)
                    | PendingState::Uploading(bytes, _)
                    | PendingState::Failed(bytes) => {
                        Source::Here(bytes.slice(at as usize..(at + part_len) as usize))
                    }
                    PendingState::Durable(block) => Source::Block(*block, at),
                };
                pieces.push(Piece { offset: first, len: last - first, source });
            }
        }
        for (first, bytes) in self.dirty.pieces(from, to) {
            pieces.push(Piece { offset: first, len: bytes.len() as u64, source: Source::Here(bytes) });
        }
        (self.end(), pieces)
    }

    /// Extents for one publish, and how many of the oldest pending parts they are.
    pub(super) fn next_publish(&self) -> (Vec<Extent>, usize) {
        let mut extents = Vec::new();
        let mut count = 0;
        for pending in &self.pending {
            let more = pending.extents();
            if count > 0 && extents.len() + more.len() > PUBLISH_EXTENTS_MAX {
                break;
            }
            extents.extend(more);
            count += 1;
        }
        (extents, count)
    }

    pub(super) fn end(&self) -> u64 {
        let ends =
            self.pending.iter().flat_map(|p| &p.parts).map(|&(offset, _, len)| offset + u64::from(len));
        ends.max().unwrap_or(0).max(self.dirty.end())
    }
}

impl Pending {
    /// Waits until it is durable or has failed.
    pub(super) async fn finish(&mut self) -> Result<(), ClientError> {
        let PendingState::Uploading(bytes, task) = &mut self.state else { return Ok(()) };
        // None: its runtime is being taken down.
        let result = task.await.unwrap_or(Err(ClientError::Closed));
        let bytes = std::mem::take(bytes);
        match result {
            Ok(block) => {
                self.state = PendingState::Durable(block);
                Ok(())
            }
            Err(e) => {
                self.state = PendingState::Failed(bytes);
                Err(e)
            }
        }
    }

    pub(super) fn extents(&self) -> Vec<Extent> {
        let source = |from: u32, len: u32| match &self.state {
            PendingState::Durable(block) => Some(ExtentSource::Block { block: *block, block_offset: from }),
            PendingState::Inline(bytes) => {
                Some(ExtentSource::Inline(bytes.slice(from as usize..(from + len) as usize)))
            }
            // Not durable, so not to be published: `finish_uploads` comes first.
            PendingState::Uploading(..) | PendingState::Failed(_) => None,
        };
        let extent = |&(offset, from, len): &(u64, u32, u32)| {
            Some(Extent { offset, len: u64::from(len), source: source(from, len)? })
        };
        self.parts.iter().filter_map(extent).collect()
    }
}
