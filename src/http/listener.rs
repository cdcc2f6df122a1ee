//! A listener whose connections are bounded in number and in life.
//!
//! Holds: at most [`CONNECTION_COUNT_MAX`] connections, none older than [`CONNECTION_LIFE`]. A stranger who opens many and
//! sends nothing delays others of his kind for that long at most.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runtime;

/// Connections at once: browsers open six each, Prometheus one; 128 pages watched at once are beyond any cluster's staff.
const CONNECTION_COUNT_MAX: usize = 256;
/// A connection serves one request (the server answers `Connection: close`), so this bounds a request with its transfer.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// After an error of accept (no descriptors left, for instance): long enough to not spin, short enough to go unnoticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket with the bounds of this file.
pub(super) struct Bounded {
    listener: TcpListener,
    address: SocketAddr,
    free: Arc<Semaphore>,
}

impl Bounded {
    pub(super) async fn bind(listen: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {listen} for HTTP: {e}")))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, free: Arc::new(Semaphore::new(CONNECTION_COUNT_MAX)) })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Further connections wait in the kernel's queue. The semaphore is never closed.
            let Ok(permit) = self.free.clone().acquire_owned().await else {
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let end = runtime::sleep(CONNECTION_LIFE).boxed();
                    return (Connection { stream, end, _permit: permit }, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "http accept failed");
                    runtime::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection that ends by itself.
pub(super) struct Connection {
    stream: TcpStream,
    end: BoxFuture<'static, ()>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn check_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.poll_unpin(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // A finished future must not be polled again; the next poll of either side fails as well.
                self.end = futures::future::ready(()).boxed();
                Err(io::Error::new(io::ErrorKind::TimedOut, "the connection has lived long enough"))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
