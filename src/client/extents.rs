//! From extents to bytes: planning a read over extents and holes, and carrying it out.
//!
//! `file` and `transfer` read through here; `locate` shows the plan. Holds: pieces cover a range without gap or overlap. A block
//! that cannot be read is an error only when the file still names it: between our question and our read it may
//! have been overwritten and reclaimed.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream;
use std::time::Duration;

use crate::runtime::{self, Instant};
use crate::types::{
    Attr, BlockId, BlockRef, Cred, Extent, ExtentSource, InodeId, NodeAddress, NodeId, NodeState, Query,
    QueryReply,
};

use super::core::Core;
use super::{Client, ClientError, budget};

/// Extents asked for at a time: those of 4 GB of full blocks.
const PAGE: u32 = 1000;
/// Pause before blocks whose servers did not answer are tried again.
const AGAIN_PAUSE: Duration = Duration::from_millis(200);

/// Where the bytes of a piece are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Zeros.
    Zeros,
    /// Here.
    Here(Bytes),
    /// In a block, from this byte of it on.
    Block(BlockRef, u32),
}

/// A part of a read: at most a block long unless zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) source: Source,
}

/// The pieces of `offset..end`, given the extents that touch it, in order.
pub(super) fn plan(extents: &[Extent], offset: u64, end: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = offset;
    for extent in extents {
        let from = extent.offset.max(at);
        let to = extent.end().min(end);
        if from >= to {
            continue;
        }
        if from > at {
            pieces.push(Piece { offset: at, len: from - at, source: Source::Zeros });
        }
        let skip = from - extent.offset;
        let source = match &extent.source {
            ExtentSource::Zero => Source::Zeros,
            ExtentSource::Inline(bytes) => {
                // An inline extent is as long as its bytes; a shorter one reads as zeros behind them.
                let cut = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
                Source::Here(bytes.slice(cut(skip)..cut(to - extent.offset)))
            }
            ExtentSource::Block { block, block_offset } => {
                Source::Block(*block, block_offset.saturating_add(u32::try_from(skip).unwrap_or(u32::MAX)))
            }
        };
        pieces.push(Piece { offset: from, len: to - from, source });
        at = to;
    }
    if at < end {
        pieces.push(Piece { offset: at, len: end - at, source: Source::Zeros });
    }
    pieces
}

/// A page of the plan of a file.
#[derive(Debug)]
pub(super) struct PlanPage {
    pub(super) attr: Attr,
    pub(super) pieces: Vec<Piece>,
    /// First byte that is not planned yet; none when the range is done.
    pub(super) next: Option<u64>,
}

impl Core {
    /// Plans a read of `offset..end`, cut at the size of the file; one page.
    ///
    /// # Errors
    /// As the query.
    pub(super) async fn plan_page(
        &self,
        cred: &Cred,
        inode: InodeId,
        offset: u64,
        end: u64,
    ) -> Result<PlanPage, ClientError> {
        self.plan_some(cred, inode, offset..end, PAGE).await
    }

    /// As [`Core::plan_page`], of at most `limit` extents.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn plan_some(
        &self,
        cred: &Cred,
        inode: InodeId,
        range: std::ops::Range<u64>,
        limit: u32,
    ) -> Result<PlanPage, ClientError> {
        let std::ops::Range { start: offset, end } = range;
        let query = Query::Extents { inode, offset, len: end.saturating_sub(offset), limit };
        match self.query(cred, query).await? {
            QueryReply::Extents { attr, extents, end: last } => {
                let end = end.min(attr.size);
                let covered = match extents.last() {
                    Some(extent) if !last => extent.end().min(end),
                    _ => end,
                };
                let pieces = if offset < covered { plan(&extents, offset, covered) } else { Vec::new() };
                Ok(PlanPage { attr, pieces, next: (covered < end).then_some(covered) })
            }
            other => Err(ClientError::Protocol(format!("{other:?} to Extents"))),
        }
    }

    /// The bytes of a piece of a plan; asks again what the file holds there when the block is gone. Bytes that come after such a change
    /// are of a later moment than the rest of the plan.
    ///
    /// # Errors
    /// [`ClientError::BlockLost`] when the file still names a block that no server gives before `deadline`.
    pub(super) async fn read_piece(
        &self,
        cred: &Cred,
        inode: InodeId,
        piece: Piece,
        deadline: Instant,
    ) -> Result<Bytes, ClientError> {
        let (end, len) = (piece.offset + piece.len, piece.len);
        match self.read_planned(cred, inode, piece, deadline).await? {
            Planned::Bytes(bytes) => Ok(bytes),
            // In a box, because it may come back to here.
            Planned::Changed(page, _) => Box::pin(self.read_changed(cred, inode, page, end, deadline))
                .await
                .map(|bytes| padded(bytes, usize::try_from(len).unwrap_or(usize::MAX))),
        }
    }

    /// The bytes of a piece of a plan, unless the block is gone and the file holds something else there by now.
    ///
    /// # Errors
    /// As [`Core::read_piece`].
    pub(super) async fn read_planned(
        &self,
        cred: &Cred,
        inode: InodeId,
        piece: Piece,
        deadline: Instant,
    ) -> Result<Planned, ClientError> {
        let len = usize::try_from(piece.len).map_err(|_| ClientError::Protocol("piece too long".into()))?;
        let (block, block_offset) = match &piece.source {
            Source::Zeros => return Ok(Planned::Bytes(Bytes::from(vec![0; len]))),
            Source::Here(bytes) => return Ok(Planned::Bytes(padded(bytes.clone(), len))),
            Source::Block(block, block_offset) => (block, *block_offset),
        };
        let end = piece.offset + piece.len;
        loop {
            let want = u32::try_from(piece.len).unwrap_or(u32::MAX);
            let unread = match self.read_block(block, block_offset, want, deadline).await {
                Ok(bytes) => return Ok(Planned::Bytes(bytes)),
                Err(unread) => unread,
            };
            let late = runtime::now() + AGAIN_PAUSE >= deadline;
            let page = self.plan_page(cred, inode, piece.offset, end).await?;
            let changed = page.pieces.as_slice() != std::slice::from_ref(&piece);
            if late || !(changed || unread.transient) {
                return Err(ClientError::BlockLost { block: block.id, tried: unread.tried });
            }
            if changed {
                return Ok(Planned::Changed(page, block.id));
            }
            runtime::sleep(AGAIN_PAUSE).await;
        }
    }

    /// The bytes of a range up to `end` that was planned anew, from the first page of the new plan on.
    async fn read_changed(
        &self,
        cred: &Cred,
        inode: InodeId,
        mut page: PlanPage,
        end: u64,
        deadline: Instant,
    ) -> Result<Bytes, ClientError> {
        let mut done = Parts::default();
        loop {
            for piece in page.pieces {
                done.push(self.read_piece(cred, inode, piece, deadline).await?);
            }
            match page.next {
                Some(next) => page = self.plan_page(cred, inode, next, end).await?,
                None => return Ok(done.join()),
            }
        }
    }

    /// Reads `len` bytes from `offset` on, fewer at the end of the file; with the attributes at that moment. What one page of a plan
    /// covers is as it was at one moment: if a block of it goes meanwhile, because it was written over, all is read again.
    ///
    /// # Errors
    /// As the query and [`Core::read_piece`].
    pub(super) async fn read_range(
        &self,
        cred: &Cred,
        inode: InodeId,
        offset: u64,
        len: u64,
    ) -> Result<(Attr, Bytes), ClientError> {
        let deadline = self.deadline();
        let end = offset.saturating_add(len);
        let mut at = offset;
        let mut done = Parts::default();
        loop {
            let page = self.plan_page(cred, inode, at, end).await?;
            let mut reads = stream::iter(page.pieces)
                .map(|piece| async move {
                    let _permit = match piece.source {
                        Source::Block(..) => {
                            budget::take(&self.budget, usize::try_from(piece.len).unwrap_or(0)).await
                        }
                        _ => None,
                    };
                    self.read_planned(cred, inode, piece, deadline).await
                })
                .buffered(self.options.blocks_in_flight.max(1));
            let mut of_page = Parts::default();
            let mut changed = None;
            while let Some(read) = reads.next().await {
                match read? {
                    Planned::Bytes(bytes) => of_page.push(bytes),
                    Planned::Changed(_, block) => {
                        changed = Some(block);
                        break;
                    }
                }
            }
            drop(reads);
            if let Some(block) = changed {
                // Written over again and again, for as long as a call may take.
                if runtime::now() >= deadline {
                    return Err(ClientError::BlockLost { block, tried: Vec::new() });
                }
                continue;
            }
            done.push(of_page.join());
            match page.next {
                Some(next) => at = next,
                None => return Ok((page.attr, done.join())),
            }
        }
    }
}

/// What became of a piece of a plan.
#[derive(Debug)]
pub(super) enum Planned {
    /// Its bytes.
    Bytes(Bytes),
    /// This block of it is gone, and this is what the file holds there now.
    Changed(PlanPage, BlockId),
}

/// Zeros behind what a file was cut short by, or an inline extent is short of.
fn padded(bytes: Bytes, len: usize) -> Bytes {
    if bytes.len() == len {
        return bytes;
    }
    let mut all = BytesMut::with_capacity(len);
    all.extend_from_slice(&bytes[..bytes.len().min(len)]);
    all.resize(len, 0);
    all.freeze()
}

/// Bytes that arrive in parts; a single one is not copied.
#[derive(Default)]
struct Parts(Vec<Bytes>);

impl Parts {
    fn push(&mut self, bytes: Bytes) {
        self.0.push(bytes);
    }

    fn join(mut self) -> Bytes {
        if self.0.len() == 1
            && let Some(only) = self.0.pop()
        {
            return only;
        }
        let mut all = BytesMut::with_capacity(self.0.iter().map(Bytes::len).sum());
        self.0.iter().for_each(|part| all.extend_from_slice(part));
        all.freeze()
    }
}

/// A replica of a located block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The data server.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it serves blocks.
    pub address: NodeAddress,
    /// What the cluster believes of it.
    pub state: NodeState,
}

/// Where a range of a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it reads as zeros and takes no space.
    Hole,
    /// Reserved and never written.
    Zero,
    /// In the namespace itself.
    Inline,
    /// In a block.
    Block {
        /// Which.
        block: BlockRef,
        /// First byte of it that is meant.
        block_offset: u32,
        /// All its addresses.
        replicas: Vec<Replica>,
    },
}

/// A range of a file and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// First byte of the range.
    pub offset: u64,
    /// Bytes in it.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

impl Client {
    /// Where every byte of a file is: extents in order with all addresses of their blocks, and holes between them.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `stat(2)` has it.
    pub async fn locate(&self, inode: InodeId) -> Result<(Attr, Vec<Located>), ClientError> {
        let mut located = Vec::new();
        let mut at = 0;
        loop {
            let page = self.extents_page(inode, at, u64::MAX - at).await?;
            let mut map = self.map();
            let named = |e: &Extent| match &e.source {
                ExtentSource::Block { block, .. } => Some(block.group),
                _ => None,
            };
            if page.extents.iter().filter_map(named).any(|g| !map.groups.contains_key(&g)) {
                map = self.refresh_map().await?;
            }
            for extent in &page.extents {
                if extent.offset > at {
                    located.push(Located { offset: at, len: extent.offset - at, place: Place::Hole });
                }
                let place = match &extent.source {
                    ExtentSource::Zero => Place::Zero,
                    ExtentSource::Inline(_) => Place::Inline,
                    ExtentSource::Block { block, block_offset } => {
                        let replica = |n: &crate::types::DataNode| Replica {
                            node: n.node,
                            name: n.name.clone(),
                            address: n.address.clone(),
                            state: n.state,
                        };
                        let replicas = map.members(block.group).map(replica).collect();
                        Place::Block { block: *block, block_offset: *block_offset, replicas }
                    }
                };
                located.push(Located { offset: extent.offset, len: extent.len, place });
                at = extent.end();
            }
            if page.end || page.extents.is_empty() {
                if at < page.attr.size {
                    located.push(Located { offset: at, len: page.attr.size - at, place: Place::Hole });
                }
                return Ok((page.attr, located));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BlockId, Checksum, GroupId, SessionId};
    use proptest::prelude::*;

    fn block(index: u64, len: u32) -> BlockRef {
        BlockRef {
            id: BlockId { session: SessionId(1), index },
            group: GroupId(1),
            len,
            checksum: Checksum(0),
        }
    }

    #[test]
    fn a_range_is_cut_out_of_extents_and_holes() {
        let extents = [
            Extent {
                offset: 0,
                len: 100,
                source: ExtentSource::Block { block: block(1, 500), block_offset: 50 },
            },
            Extent { offset: 150, len: 10, source: ExtentSource::Inline(Bytes::from_static(b"0123456789")) },
        ];
        let pieces = plan(&extents, 20, 155);
        let expected = [
            Piece { offset: 20, len: 80, source: Source::Block(block(1, 500), 70) },
            Piece { offset: 100, len: 50, source: Source::Zeros },
            Piece { offset: 150, len: 5, source: Source::Here(Bytes::from_static(b"01234")) },
        ];
        assert_eq!(pieces, expected);
        assert_eq!(plan(&[], 5, 9), [Piece { offset: 5, len: 4, source: Source::Zeros }]);
    }

    proptest! {
        /// Whatever the extents, the pieces of a plan follow each other from the first byte to the last.
        #[test]
        fn pieces_cover_the_range_exactly(
            gaps in prop::collection::vec((0u64..50, 1u64..50), 0..20),
            offset in 0u64..500,
            len in 1u64..500,
        ) {
            let mut extents = Vec::new();
            let mut at = 0;
            for (i, (gap, len)) in gaps.into_iter().enumerate() {
                at += gap;
                extents.push(Extent { offset: at, len, source: ExtentSource::Block { block: block(i as u64, 100), block_offset: 0 } });
                at += len;
            }
            let touching: Vec<_> =
                extents.into_iter().filter(|e| e.offset < offset + len && e.end() > offset).collect();
            let mut next = offset;
            for piece in plan(&touching, offset, offset + len) {
                prop_assert_eq!(piece.offset, next);
                prop_assert!(piece.len > 0);
                next += piece.len;
            }
            prop_assert_eq!(next, offset + len);
        }
    }
}
