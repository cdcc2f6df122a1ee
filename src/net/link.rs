//! The two directions of one connection: an [`Outbox`] that many tasks fill, and a [`Link`] that one task drives.
//!
//! Used by both ends. Holds: one task owns the socket; it reads as much as there is, hands every frame to its
//! [`Side`], then writes all that was queued meanwhile in one vectored write. So the cost of a system call is
//! shared by all calls that are in flight, and a lonely call waits for nobody.
//!
//! ```text
//!   callers or handlers --push--> Outbox --swap--> Link.writing --writev--> socket
//!                    Side::frame <--decode-- Link.input <--read-- socket
//!                         of a block: Link.body <--read--'
//! ```

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::runtime::{BUFFER_KEPT_MIN, Buffer, Instant, Interval, interval, now, timeout, yield_now};
use crate::wire::frame::{Decoder, Frame, FrameError, HEADER_LEN, Header};

use super::stream::{ReadHalf, Stream, WriteHalf};

/// Room for a read. Small frames are sliced from it; 64 KiB is what a socket hands over in one go on loopback.
const READ_LEN: usize = 64 << 10;
/// Below this room a buffer is renewed before the next read.
const READ_ROOM_MIN: usize = 4 << 10;
/// Parts up to this length are copied into one buffer with their neighbours; longer ones go out as they are.
/// Copying 8 KiB costs less than a further slice of a vectored write.
const PACKED_LEN_MAX: usize = 8 << 10;
/// How long a connection may hand frames over before the others of its thread have their turn: requests are answered where they are read, and a
/// read may bring hundreds of them.
const TURN: Duration = Duration::from_millis(2);
/// Slices in one vectored write; Linux takes 1024, and this many hold the blocks of 32 frames.
const SLICES_MAX: usize = 64;

/// Frames on their way out. Pushed to by any task. A serving end hands no further request over while more than a bound waits here, so it
/// holds that much and the replies to what was in flight then.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    full: Vec<Bytes>,
    packing: BytesMut,
    byte_count: usize,
}

impl Queue {
    fn add(&mut self, part: impl AsRef<[u8]> + Into<Bytes>) {
        let len = part.as_ref().len();
        self.byte_count += len;
        if len <= PACKED_LEN_MAX {
            self.packing.extend_from_slice(part.as_ref());
        } else {
            self.seal();
            self.full.push(part.into());
        }
    }

    fn seal(&mut self) {
        if !self.packing.is_empty() {
            let packed = self.packing.split().freeze();
            self.full.push(packed);
        }
    }
}

impl Outbox {
    /// Queues a frame. Whoever pushes into an empty outbox wakes the link.
    pub(super) fn push(&self, header: &Header, meta: impl AsRef<[u8]> + Into<Bytes>, payload: Bytes) {
        let bytes = header.encode();
        let mut queue = self.queue.lock();
        let was_empty = queue.byte_count == 0;
        queue.byte_count += HEADER_LEN;
        queue.packing.extend_from_slice(&bytes);
        queue.add(meta);
        queue.add(payload);
        drop(queue);
        if was_empty {
            self.waker.wake();
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.lock().byte_count == 0
    }

    /// Bytes that wait.
    pub(super) fn byte_count(&self) -> usize {
        self.queue.lock().byte_count
    }

    fn take_into(&self, writing: &mut VecDeque<Bytes>) {
        let mut queue = self.queue.lock();
        queue.seal();
        queue.byte_count = 0;
        writing.extend(queue.full.drain(..));
    }
}

/// Whoever gets the frames of a link.
pub(super) trait Side {
    /// One frame that arrived.
    fn frame(&mut self, frame: Frame) -> Result<(), FrameError>;

    /// All frames of one read have been handed over.
    fn batch_end(&mut self) {}

    /// Goes on with what waits here, in the task of the link. Ready when it has pushed something.
    fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// True while others are likely to push soon, so that the link lets them before it writes.
    fn expects_more(&self) -> bool;

    /// True when a link that no longer reads may end.
    fn is_done(&self) -> bool {
        true
    }
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The system said so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer sent something that is no frame.
    #[error("{error}")]
    Frame {
        /// Which rule it breaks.
        error: FrameError,
        /// Of which request, if known.
        id: Option<u64>,
    },
    /// The peer neither went on with its frame nor took ours.
    #[error("no progress for {0:?}")]
    Stalled(Duration),
}

enum Event {
    Read(usize),
    Written,
    Queued,
    Tick,
}

/// The body of a large frame on its way into memory of its own, where its payload lies in pages as it will in a file: it can be
/// written from there past the page cache.
struct Body {
    memory: Buffer,
    filled: usize,
}

/// One connection and its buffers.
pub(super) struct Link {
    read: ReadHalf,
    write: WriteHalf,
    input: BytesMut,
    body: Option<Body>,
    decoder: Decoder,
    writing: VecDeque<Bytes>,
    writing_bytes: usize,
    /// Bytes on their way out above which nothing is read any more; a peer that takes no replies gets no more.
    pause_above: usize,
    stall: Duration,
    /// Where in a page the payload of a large frame begins.
    page_offset: usize,
    ticks: Interval,
    read_at: Instant,
    written_at: Instant,
    reading: bool,
    paused: bool,
    /// Whole frames may be in `input`: they were not handed over because too much waits to be written, or it was the turn of others.
    holds_frames: bool,
}

impl Link {
    pub(super) fn new(
        stream: Stream,
        decoder: Decoder,
        pause_above: usize,
        stall: Duration,
        page_offset: usize,
    ) -> Self {
        let (read, write) = stream.into_split();
        let at = now();
        Self {
            read,
            write,
            input: BytesMut::with_capacity(READ_LEN),
            body: None,
            decoder,
            writing: VecDeque::new(),
            writing_bytes: 0,
            pause_above,
            stall,
            page_offset,
            ticks: interval((stall / 4).max(Duration::from_millis(1))),
            read_at: at,
            written_at: at,
            reading: true,
            paused: false,
            holds_frames: false,
        }
    }

    pub(super) fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// The next frame alone, for the hellos. The caller bounds the time.
    pub(super) async fn read_frame(&mut self) -> Result<Frame, Broken> {
        loop {
            if let Some(frame) = self.decode()? {
                return Ok(frame);
            }
            self.make_room();
            if std::future::poll_fn(|cx| self.poll_read(cx)).await? == 0 {
                return Err(Broken::Closed);
            }
        }
    }

    /// Writes all that is queued. The caller bounds the time.
    pub(super) async fn flush(&mut self, outbox: &Outbox) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx, outbox)).await
    }

    /// After a last word: closes our direction and reads on into nothing for at most `bound`. To close with unread
    /// bytes would reset the connection, and take the last word from the peer.
    pub(super) async fn linger(&mut self, bound: Duration) {
        let drained = async {
            self.write.shutdown().await?;
            loop {
                self.input.clear();
                if self.read.read_buf(&mut self.input).await? == 0 {
                    return Ok::<(), io::Error>(());
                }
            }
        };
        match timeout(bound, drained).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "connection broke at its end"),
        }
    }

    /// Ends the reading; [`Link::run`] goes on until its side is done.
    pub(super) fn stop_reading(&mut self) {
        self.reading = false;
    }

    /// Moves frames both ways until the connection breaks, or, when nothing is read any more, until `side` is done.
    /// Dropping it at its await loses nothing but time: all state is in the link.
    pub(super) async fn run(&mut self, outbox: &Outbox, side: &mut impl Side) -> Result<(), Broken> {
        self.read_at = now();
        self.written_at = self.read_at;
        // A frame may have come together with the hello.
        self.dispatch(outbox, side)?;
        loop {
            if self.holds_frames && !self.is_backed_up(outbox) {
                // The other connections of this thread first, and what waits here.
                yield_now().await;
                // What it pushed is written below either way.
                let _ = std::future::poll_fn(|cx| Poll::Ready(side.poll(cx))).await;
                self.dispatch(outbox, side)?;
                self.flush_some(outbox).await?;
                if self.holds_frames && !self.is_backed_up(outbox) {
                    continue;
                }
            }
            if !self.reading && side.is_done() && self.writing.is_empty() && outbox.is_empty() {
                return Ok(());
            }
            match std::future::poll_fn(|cx| self.poll_event(cx, outbox, side)).await? {
                Event::Read(0) => return Err(Broken::Closed),
                Event::Read(_) => {
                    self.read_at = now();
                    self.dispatch(outbox, side)?;
                    self.flush_some(outbox).await?;
                }
                Event::Queued => {
                    // Whoever pushed first woke us; those woken together with it push next. One turn for them
                    // makes one write of all.
                    if side.expects_more() {
                        yield_now().await;
                        // What they pushed is written below either way.
                        let _ = std::future::poll_fn(|cx| Poll::Ready(side.poll(cx))).await;
                    }
                    self.flush_some(outbox).await?;
                }
                Event::Written => {}
                Event::Tick => self.check_progress()?,
            }
        }
    }

    fn check_progress(&self) -> Result<(), Broken> {
        let at = now();
        let owes_bytes = self.reading && self.decoder.is_amid(&self.input) && at - self.read_at > self.stall;
        let takes_none = !self.writing.is_empty() && at - self.written_at > self.stall;
        if takes_none || (owes_bytes && !self.paused && !self.holds_frames) {
            Err(Broken::Stalled(self.stall))
        } else {
            Ok(())
        }
    }

    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &Outbox,
        side: &mut impl Side,
    ) -> Poll<Result<Event, Broken>> {
        self.paused = self.is_backed_up(outbox);
        if self.reading && !self.paused && !self.holds_frames {
            self.make_room();
            if let Poll::Ready(read) = self.poll_read(cx) {
                return Poll::Ready(Ok(Event::Read(read?)));
            }
        }
        let pushed = side.poll(cx).is_ready();
        if self.writing.is_empty() {
            outbox.waker.register(cx.waker());
            if pushed || !outbox.is_empty() {
                return Poll::Ready(Ok(Event::Queued));
            }
        } else if let Poll::Ready(written) = self.poll_flush(cx, outbox) {
            written?;
            return Poll::Ready(Ok(Event::Written));
        }
        self.ticks.poll_tick(cx).map(|_| Ok(Event::Tick))
    }

    /// More waits to be written than may. The end that calls never pauses: were both ends to wait for the other to read, neither would.
    fn is_backed_up(&self, outbox: &Outbox) -> bool {
        self.pause_above != usize::MAX && self.writing_bytes + outbox.byte_count() > self.pause_above
    }

    /// Reads what there is, into the body of a large frame or for whatever comes next.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(body) = &mut self.body else { return pin!(self.read.read_buf(&mut self.input)).poll(cx) };
        let mut room = ReadBuf::new(&mut body.memory[body.filled..]);
        std::task::ready!(Pin::new(&mut self.read).poll_read(cx, &mut room))?;
        let len = room.filled().len();
        body.filled += len;
        Poll::Ready(Ok(len))
    }

    fn make_room(&mut self) {
        if self.body.is_some() {
            return;
        }
        let lacking = self.decoder.lacking(&self.input);
        if let Some(header) = self.decoder.header()
            && lacking > 0
            && header.body_len() >= BUFFER_KEPT_MIN
        {
            let mut memory = Buffer::new(header.body_len(), header.meta_len as usize, self.page_offset);
            let filled = self.input.len();
            memory[..filled].copy_from_slice(&self.input);
            self.input.clear();
            self.body = Some(Body { memory, filled });
            return;
        }
        let room = self.input.capacity() - self.input.len();
        if lacking > room || (room < READ_ROOM_MIN && lacking < READ_ROOM_MIN) {
            self.input.reserve(lacking.max(READ_LEN));
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, Broken> {
        let decoded = match self.body.take_if(|body| body.filled == body.memory.len()) {
            Some(Body { memory, filled }) => self.decoder.finish(memory.freeze(filled)).map(Some),
            None if self.body.is_some() => Ok(None),
            None => self.decoder.next(&mut self.input),
        };
        decoded.map_err(|error| Broken::Frame { error, id: self.decoder.id() })
    }

    fn dispatch(&mut self, outbox: &Outbox, side: &mut impl Side) -> Result<(), Broken> {
        let mut outcome = Ok(());
        let began = now();
        loop {
            self.holds_frames = self.is_backed_up(outbox) || began.elapsed() > TURN;
            if self.holds_frames {
                break;
            }
            match self.decode() {
                Ok(Some(frame)) => {
                    let id = frame.header.id;
                    if let Err(error) = side.frame(frame) {
                        outcome = Err(Broken::Frame { error, id: Some(id) });
                        break;
                    }
                }
                Ok(None) => break,
                Err(broken) => {
                    outcome = Err(broken);
                    break;
                }
            }
        }
        // What came before the bad frame was good.
        side.batch_end();
        outcome
    }

    /// Writes what the socket takes without waiting.
    async fn flush_some(&mut self, outbox: &Outbox) -> io::Result<()> {
        std::future::poll_fn(|cx| match self.poll_flush(cx, outbox) {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<()>> {
        loop {
            if self.writing.is_empty() {
                outbox.take_into(&mut self.writing);
                self.writing_bytes = self.writing.iter().map(Bytes::len).sum();
                if self.writing.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.written_at = now();
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, part) in slices.iter_mut().zip(&self.writing) {
                *slice = IoSlice::new(part);
                count += 1;
            }
            let written =
                std::task::ready!(Pin::new(&mut self.write).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.writing_bytes -= written;
        while written > 0 {
            let Some(front) = self.writing.front_mut() else { return };
            if front.len() > written {
                front.advance(written);
                self.written_at = now();
                return;
            }
            written -= front.len();
            self.writing.pop_front();
        }
    }
}
