//! Where the bytes of a `put` come from and those of a `get` go to: a block at a time, in memory that is used again.
//!
//! `transfer` asks; whatever tokio reads and writes will do. A local file does better with an implementation of its own, which
//! reads into the block and writes from it (the command line has one): behind tokio's are a copy and a buffer more.

use std::future::Future;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::runtime::Buffer;

/// Gives bytes in order.
pub trait BlockReader: Send {
    /// Fills `room` from `from` on, to its end unless there are no more bytes. Gives it back, and up to where it is filled.
    ///
    /// # Errors
    /// Of what is read.
    fn fill(&mut self, room: Buffer, from: usize)
    -> impl Future<Output = io::Result<(Buffer, usize)>> + Send;
}

/// Takes bytes in order.
pub trait BlockWriter: Send {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// Of what is written.
    fn take(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<()>> + Send;

    /// All was taken. What is kept back on the way is passed on.
    ///
    /// # Errors
    /// Of what is written.
    fn end(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl<R: AsyncRead + Unpin + Send> BlockReader for R {
    async fn fill(&mut self, mut room: Buffer, from: usize) -> io::Result<(Buffer, usize)> {
        let mut filled = from;
        while filled < room.len() {
            match self.read(&mut room[filled..]).await? {
                0 => break,
                len => filled += len,
            }
        }
        Ok((room, filled))
    }
}

impl<W: AsyncWrite + Unpin + Send> BlockWriter for W {
    async fn take(&mut self, bytes: Bytes) -> io::Result<()> {
        self.write_all(&bytes).await
    }

    async fn end(&mut self) -> io::Result<()> {
        self.flush().await
    }
}
