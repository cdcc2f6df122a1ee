//! Reading an open file for one reader: what it wrote itself, what was read ahead, what is kept, and the rest from servers.
//!
//! The mount makes a [`Reader`] for each open. Every read asks the cluster which extents the file has now, so it sees all that
//! was published before it began; blocks never change, so bytes fetched earlier are right as long as an extent names them.
//!
//! ```text
//!   read ──> plan (one query, reaching ahead for a sequential reader)
//!              ├─ inline, holes             here
//!              ├─ read ahead already        wait for it, no copy
//!              ├─ small                     whole sectors, kept
//!              └─ else                      from a data server
//! ```
//!
//! Holds: memory for what is read ahead is bounded over all readers; a random reader fetches the sectors it needs and no more.
//! Not here: choosing among replicas (`download`).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures::future::Shared;
use futures::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::runtime::{self, Instant, Task};
use crate::types::{BlockId, BlockRef, Cred, SECTOR_LEN};

use super::budget;
use super::extents::{Piece, Planned, Source};
use super::{ClientError, File};

/// How far ahead a reader that has just begun to be sequential is served, four times as far with each plan.
const WINDOW_MIN: u64 = 512 << 10;
/// How far at most: four blocks, so that several data servers send at once.
const WINDOW_MAX: u64 = 16 << 20;
/// Reads of a sequential reader come out of order when several are on their way: this far is still in order.
const DISORDER: u64 = 4 << 20;
/// Reads of up to this many bytes go through the kept sectors.
const SMALL_MAX: u64 = 128 << 10;
/// Extents asked for with a plan that reaches ahead.
const AHEAD_EXTENTS: u32 = 64;
/// Largest size of a file.
const SIZE_MAX: u64 = i64::MAX as u64;

/// A part of a block on its way, ahead of the reader.
struct Chunk {
    /// Where it ends in the file.
    end: u64,
    block: BlockRef,
    from: u32,
    len: u32,
    bytes: Shared<Task<Option<Bytes>>>,
    _room: OwnedSemaphorePermit,
}

/// Where a reader is.
#[derive(Default)]
struct Ahead {
    /// Behind the last byte read so far.
    next: u64,
    /// Reads in order so far.
    in_order: u32,
    /// How far ahead it is served; 0: not.
    window: u64,
    /// What was asked for reaches to here.
    planned: u64,
    chunks: VecDeque<Chunk>,
}

impl Ahead {
    /// Notes a read, and tells up to where to plan: its own end, or further, up to the end of a block of `block_len` bytes. A
    /// part of a block would be asked for again with the rest of it, perhaps of another data server, which reads all of it.
    fn note(&mut self, offset: u64, end: u64, block_len: u64) -> u64 {
        let near = offset >= self.next.saturating_sub(DISORDER) && offset <= self.next + DISORDER;
        let in_order = offset == self.next || (self.in_order > 1 && near);
        if !in_order {
            *self = Self { next: end, ..Self::default() };
            return end;
        }
        self.in_order = self.in_order.saturating_add(1);
        self.next = self.next.max(end);
        let kept_from = offset.saturating_sub(DISORDER);
        while self.chunks.front().is_some_and(|c| c.end <= kept_from) {
            self.chunks.pop_front();
        }
        // What lies behind the oldest read that may still come, and was passed.
        self.chunks.retain(|c| c.end > offset.min(kept_from + DISORDER / 4));
        if self.in_order < 2 {
            return end;
        }
        if self.planned >= self.next + self.window / 2 && self.window > 0 {
            return end;
        }
        self.window = (self.window * 4).clamp(WINDOW_MIN, WINDOW_MAX);
        (self.next + self.window).next_multiple_of(block_len.max(1)).min(SIZE_MAX)
    }

    /// The bytes of a piece of a block, if they are on their way.
    fn find(&self, block: &BlockRef, from: u32, len: u32) -> Option<(Shared<Task<Option<Bytes>>>, usize)> {
        let found = self.chunks.iter().find(|c| {
            c.block.id == block.id
                && c.from <= from
                && u64::from(from) + u64::from(len) <= u64::from(c.from) + u64::from(c.len)
        })?;
        Some((found.bytes.clone(), (from - found.from) as usize))
    }
}

/// One reader of an open file.
pub struct Reader {
    file: File,
    ahead: Mutex<Ahead>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("file", &self.file).finish()
    }
}

impl Reader {
    /// A reader that begins anywhere.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, ahead: Mutex::new(Ahead::default()) }
    }

    /// Reads `len` bytes from `offset` on, fewer at the end of the file, none behind it: in pieces, one after the other.
    ///
    /// # Errors
    /// [`ClientError::BlockLost`] and the errors of a query.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Vec<Bytes>, ClientError> {
        let end = offset.saturating_add(len).min(SIZE_MAX);
        if offset >= end {
            return Ok(Vec::new());
        }
        // What the openers wrote is taken first: should a flush publish it meanwhile, it is seen twice and not never.
        let (own_end, layers) = self.file.layers(offset, end).await;
        let (size, published) = self.published(offset, end).await?;
        if layers.is_empty() && own_end <= size {
            return Ok(published);
        }
        let end = size.max(own_end).min(end).max(offset);
        let mut out = BytesMut::with_capacity(index(end - offset));
        published.iter().for_each(|bytes| out.extend_from_slice(bytes));
        out.resize(index(end - offset), 0);
        for piece in layers {
            let at = index(piece.offset - offset);
            let bytes = match piece.source {
                Source::Here(bytes) => bytes,
                // Durable and not published: the file does not name it, so nothing can have changed it.
                Source::Block(block, block_offset) => {
                    let core = self.file.core();
                    let read = core.read_block(&block, block_offset, part(piece.len), core.deadline()).await;
                    read.map_err(|u| ClientError::BlockLost { block: block.id, tried: u.tried })?
                }
                Source::Zeros => continue,
            };
            let room = out.len().saturating_sub(at).min(bytes.len());
            out[at..at + room].copy_from_slice(&bytes[..room]);
        }
        Ok(vec![out.freeze()])
    }

    /// What the cluster has of `offset..end`, and the size of the file: as it was at one moment, as far as one page of a plan reaches.
    async fn published(&self, offset: u64, end: u64) -> Result<(u64, Vec<Bytes>), ClientError> {
        let plan_to = self.ahead.lock().note(offset, end, self.file.block_len());
        let deadline = self.file.core().deadline();
        loop {
            let (size, pieces) = self.planned(offset, end, plan_to).await?;
            match self.fetch_all(pieces, deadline).await? {
                Ok(fetched) => return Ok((size, fetched)),
                // Written over meanwhile: all of it is read as it is now.
                Err(_) if runtime::now() < deadline => {}
                Err(block) => return Err(ClientError::BlockLost { block, tried: Vec::new() }),
            }
        }
    }

    /// Where `offset..end` is, and the size of the file; sends for what lies behind it up to `plan_to`.
    async fn planned(&self, offset: u64, end: u64, plan_to: u64) -> Result<(u64, Vec<Piece>), ClientError> {
        let core = self.file.core();
        let cred = Cred::root();
        let inode = self.file.inode();
        let mut pieces = Vec::new();
        let mut size = 0;
        let mut next = Some(offset);
        while let Some(from) = next.filter(|from| *from < end) {
            let reach = if from == offset { plan_to } else { end };
            let page = core.plan_some(&cred, inode, from..reach, AHEAD_EXTENTS).await?;
            size = page.attr.size;
            let covered = page.next.unwrap_or(reach);
            for mut piece in page.pieces {
                if piece.offset >= end {
                    self.start(piece);
                } else if piece.offset + piece.len > end {
                    let len = end - piece.offset;
                    let behind = cut(&mut piece, len);
                    pieces.push(piece);
                    self.start(behind);
                } else {
                    pieces.push(piece);
                }
            }
            if reach > end {
                let mut ahead = self.ahead.lock();
                ahead.planned = ahead.planned.max(covered);
            }
            next = page.next;
        }
        Ok((size, pieces))
    }

    /// The bytes of all pieces; or a block that is gone, where the file holds something else by now.
    async fn fetch_all(
        &self,
        pieces: Vec<Piece>,
        deadline: Instant,
    ) -> Result<Result<Vec<Bytes>, BlockId>, ClientError> {
        if let [only] = pieces.as_slice() {
            return self.fetch(only.clone(), deadline).await;
        }
        let mut fetched = Vec::with_capacity(pieces.len());
        let mut reads = stream::iter(pieces)
            .map(|piece| self.fetch(piece, deadline))
            .buffered(self.file.core().options.blocks_in_flight.max(1));
        while let Some(read) = reads.next().await {
            match read? {
                Ok(bytes) => fetched.extend(bytes),
                Err(block) => return Ok(Err(block)),
            }
        }
        Ok(Ok(fetched))
    }

    /// Sends for a piece that will be wanted soon, if there is room.
    fn start(&self, piece: Piece) {
        let Source::Block(block, from) = piece.source else { return };
        let len = part(piece.len);
        let mut ahead = self.ahead.lock();
        if ahead.find(&block, from, len).is_some() {
            return;
        }
        let core = self.file.core().clone();
        let Some(room) = budget::try_take(&core.ahead, len as usize) else { return };
        let bytes = runtime::spawn("client-read-ahead", async move {
            core.read_block(&block, from, len, core.deadline()).await.ok()
        });
        let end = piece.offset + piece.len;
        ahead.chunks.push_back(Chunk { end, block, from, len, bytes: bytes.shared(), _room: room });
    }

    async fn fetch(
        &self,
        piece: Piece,
        deadline: Instant,
    ) -> Result<Result<Vec<Bytes>, BlockId>, ClientError> {
        let (block, from) = match piece.source {
            Source::Zeros => return Ok(Ok(zeros(piece.len))),
            Source::Here(ref bytes) if bytes.len() as u64 == piece.len => return Ok(Ok(vec![bytes.clone()])),
            Source::Here(_) => return self.read_planned(piece, deadline).await,
            Source::Block(block, from) => (block, from),
        };
        let len = part(piece.len);
        let coming = self.ahead.lock().find(&block, from, len);
        if let Some((coming, skip)) = coming
            && let Some(Some(bytes)) = coming.await
            && skip + len as usize <= bytes.len()
        {
            return Ok(Ok(vec![bytes.slice(skip..skip + len as usize)]));
        }
        if piece.len <= SMALL_MAX
            && let Some(bytes) = self.sectors(&block, from, len).await
        {
            return Ok(Ok(bytes));
        }
        self.read_planned(piece, deadline).await
    }

    async fn read_planned(
        &self,
        piece: Piece,
        deadline: Instant,
    ) -> Result<Result<Vec<Bytes>, BlockId>, ClientError> {
        let core = self.file.core();
        Ok(match core.read_planned(&Cred::root(), self.file.inode(), piece, deadline).await? {
            Planned::Bytes(bytes) => Ok(vec![bytes]),
            Planned::Changed(_, block) => Err(block),
        })
    }

    /// Bytes of a block out of whole sectors that are kept. None when no replica gives them.
    async fn sectors(&self, block: &BlockRef, from: u32, len: u32) -> Option<Vec<Bytes>> {
        let core = self.file.core();
        let (first, last) = (from / SECTOR_LEN, (from + len - 1) / SECTOR_LEN);
        let mut found: Vec<Option<Bytes>> = (first..=last).map(|i| core.sectors.get(block.id, i)).collect();
        if let (Some(a), Some(b)) =
            (found.iter().position(Option::is_none), found.iter().rposition(Option::is_none))
        {
            let number = |i: usize| first + u32::try_from(i).unwrap_or(0);
            let start = number(a) * SECTOR_LEN;
            let end = ((number(b) + 1) * SECTOR_LEN).min(block.len);
            let bytes = core.read_block(block, start, end - start, core.deadline()).await.ok()?;
            let alone = a == b;
            for (slot, i) in found.iter_mut().zip(first..).take(b + 1).skip(a) {
                let at = (i * SECTOR_LEN - start) as usize;
                let part = bytes.slice(at..bytes.len().min(at + SECTOR_LEN as usize));
                // A slice would keep all that it was read with.
                let kept = if alone { part } else { Bytes::copy_from_slice(&part) };
                core.sectors.put(block.id, i, kept.clone());
                *slot = Some(kept);
            }
        }
        let mut out = Vec::with_capacity(found.len());
        for (i, sector) in (first..).zip(found) {
            let sector = sector?;
            let start = i * SECTOR_LEN;
            let a = from.max(start) - start;
            let b = (from + len).min(start + SECTOR_LEN) - start;
            if b as usize > sector.len() {
                return None;
            }
            out.push(sector.slice(a as usize..b as usize));
        }
        Some(out)
    }
}

/// Cuts a piece after `len` bytes; answers what was behind.
fn cut(piece: &mut Piece, len: u64) -> Piece {
    let source = match &mut piece.source {
        Source::Zeros => Source::Zeros,
        Source::Here(bytes) => Source::Here(bytes.split_off(index(len).min(bytes.len()))),
        Source::Block(block, from) => Source::Block(*block, *from + part(len)),
    };
    let behind = Piece { offset: piece.offset + len, len: piece.len - len, source };
    piece.len = len;
    behind
}

/// A length of a part of a block, which is at most [`crate::types::BLOCK_LEN_MAX`].
fn part(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn zeros(len: u64) -> Vec<Bytes> {
    const ZEROS: &[u8] = &[0; 64 << 10];
    let mut left = index(len);
    let mut out = Vec::with_capacity(left.div_ceil(ZEROS.len()));
    while left > 0 {
        let part = left.min(ZEROS.len());
        out.push(Bytes::from_static(&ZEROS[..part]));
        left -= part;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sequential_reader_is_served_whole_blocks_ahead_and_any_other_one_nothing() {
        let mut ahead = Ahead::default();
        let mut reach = Vec::new();
        for index in 0..24 {
            let end = (index + 1) * MIB;
            let to = ahead.note(index * MIB, end, 4 * MIB);
            ahead.planned = ahead.planned.max(to);
            if to > end {
                assert_eq!(to % (4 * MIB), 0, "read {index}");
                reach.push(to - end);
            }
        }
        assert!(
            reach.iter().any(|r| *r >= WINDOW_MAX) && reach.iter().all(|r| *r < WINDOW_MAX + 4 * MIB),
            "{reach:?}"
        );
        assert!(reach.len() < 12, "not with every read: {reach:?}");
        assert_eq!(ahead.note(500 * MIB, 501 * MIB, 4 * MIB), 501 * MIB);
    }
}
