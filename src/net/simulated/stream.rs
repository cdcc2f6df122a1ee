//! What the rest of `net` holds of a simulated connection: a stream, its halves, a listener.
//!
//! Holds: who is dropped closes, as a socket does; with bytes unread that is a reset.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use tokio::io::ReadBuf;

use super::HostId;
use super::connection::{End, Stage, WINDOW, What};
use super::world::World;

/// Longest piece that one write takes.
const PIECE_MAX: usize = 64 << 10;
/// One write of so many takes only a part of what it is given.
const SHORT_WRITES: usize = 16;

/// One end of a connection, by its number.
#[derive(Clone)]
struct Place {
    world: Arc<Mutex<World>>,
    id: u64,
    this: usize,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "end {} of connection {}", self.this, self.id)
    }
}

impl Place {
    fn end(&self) -> Option<MappedMutexGuard<'_, End>> {
        let world = self.world.lock();
        MutexGuard::try_map(world, |world| Some(&mut world.connections.get_mut(&self.id)?.ends[self.this]))
            .ok()
    }

    /// Sends what is no data.
    fn send(&self, what: What) {
        let mut world = self.world.lock();
        let hosts =
            world.connections.get(&self.id).map(|c| (c.ends[self.this].host, c.ends[1 - self.this].host));
        let Some((here, there)) = hosts else { return };
        let (now, arrives) = (world.now, world.arrival(here, there));
        if let Some(connection) = world.connections.get_mut(&self.id) {
            connection.ends[self.this].send(what, now, arrives);
        }
    }

    fn drop_half(&self, writes: bool) {
        let Some(mut end) = self.end() else { return };
        if end.is_gone {
            return;
        }
        end.halves -= 1;
        let (ends, unread) = (end.halves == 0, !end.inbox.is_empty());
        let closes = writes && !end.is_shut && end.broken.is_none();
        end.is_shut |= writes;
        if ends {
            end.forget();
        }
        drop(end);
        if ends && unread {
            self.send(What::Reset);
        } else if closes {
            self.send(What::Close);
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(in crate::net) struct Stream {
    read: ReadHalf,
    write: WriteHalf,
}

/// The direction from the peer.
#[derive(Debug)]
pub(in crate::net) struct ReadHalf(Place);

/// The direction to the peer.
#[derive(Debug)]
pub(in crate::net) struct WriteHalf(Place);

impl Stream {
    fn new(place: Place) -> Self {
        Self { read: ReadHalf(place.clone()), write: WriteHalf(place) }
    }

    pub(in crate::net) fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    pub(in crate::net) fn set_silence(&self, silence: Duration) {
        if let Some(mut end) = self.read.0.end() {
            end.silence = u64::try_from(silence.as_nanos()).unwrap_or(u64::MAX);
        }
    }
}

/// Waits until connection `id`, which was begun, stands.
pub(super) async fn connect(world: &Arc<Mutex<World>>, id: u64) -> io::Result<Stream> {
    let stream = Stream::new(Place { world: world.clone(), id, this: 0 });
    poll_fn(|cx| {
        let mut world = world.lock();
        let Some(connection) = world.connections.get_mut(&id) else {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        };
        if let Some(kind) = connection.ends[0].broken {
            return Poll::Ready(Err(kind.into()));
        }
        if connection.stage == Stage::Open {
            return Poll::Ready(Ok(()));
        }
        connection.ends[0].writer = Some(cx.waker().clone());
        Poll::Pending
    })
    .await?;
    Ok(stream)
}

impl ReadHalf {
    pub(in crate::net) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut end) = self.0.end() else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if let Some(kind) = end.broken {
            return Poll::Ready(Err(kind.into()));
        }
        let before = end.inbox_len;
        while room.remaining() > 0
            && let Some(front) = end.inbox.front_mut()
        {
            let len = front.len().min(room.remaining());
            room.put_slice(&front[..len]);
            front.advance(len);
            if front.is_empty() {
                end.inbox.pop_front();
            }
            end.inbox_len -= len;
        }
        if before > end.inbox_len || end.is_closed || room.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        end.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl WriteHalf {
    pub(in crate::net) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut world = self.0.world.lock();
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        let mut len = whole.min(PIECE_MAX);
        if len > 1 && World::draw(SHORT_WRITES) == 0 {
            len = 1 + World::draw(len);
        }
        let Some(connection) = world.connections.get_mut(&self.0.id) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let there = connection.ends[1 - self.0.this].host;
        let end = &mut connection.ends[self.0.this];
        let here = end.host;
        if let Some(kind) = end.broken {
            return Poll::Ready(Err(kind.into()));
        }
        if end.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if end.outbox_len >= WINDOW {
            end.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut piece = BytesMut::with_capacity(len);
        for part in parts {
            let left = len - piece.len();
            piece.extend_from_slice(&part[..part.len().min(left)]);
        }
        let (now, arrives) = (world.now, world.arrival(here, there));
        if let Some(connection) = world.connections.get_mut(&self.0.id) {
            connection.ends[self.0.this].send(What::Data(piece.freeze()), now, arrives);
        }
        Poll::Ready(Ok(len))
    }

    pub(in crate::net) fn shutdown(&self) {
        let Some(mut end) = self.0.end() else { return };
        let was_shut = std::mem::replace(&mut end.is_shut, true);
        let sends = !was_shut && end.broken.is_none();
        drop(end);
        if sends {
            self.0.send(What::Close);
        }
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.0.drop_half(false);
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.drop_half(true);
    }
}

/// What connections come in at.
pub struct Listener {
    world: Arc<Mutex<World>>,
    host: HostId,
    address: SocketAddr,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener at {}", self.address)
    }
}

impl Listener {
    pub(super) fn new(world: Arc<Mutex<World>>, host: HostId, address: SocketAddr) -> Self {
        Self { world, host, address }
    }

    pub(in crate::net) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub(in crate::net) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        poll_fn(|cx| {
            let mut world = self.world.lock();
            let Some(port) = world.hosts[self.host].ports.get_mut(&self.address.port()) else {
                return Poll::Pending;
            };
            let Some(id) = port.waiting.pop_front() else {
                port.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let remote = world.connections.get(&id).map_or(self.address, |c| c.ends[0].address);
            Poll::Ready(Ok((Stream::new(Place { world: self.world.clone(), id, this: 1 }), remote)))
        })
        .await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        let Some(port) = world.hosts[self.host].ports.remove(&self.address.port()) else { return };
        drop(world);
        for id in port.waiting {
            drop(Stream::new(Place { world: self.world.clone(), id, this: 1 }));
        }
    }
}
