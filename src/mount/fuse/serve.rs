//! One request from its bytes to its answer, the same for both transports.
//!
//! ```text
//! parse ── malformed ──────────────────────────────────────> Sink::send(errno)
//!   └─ Filesystem::call ── done at once (polled here) ─────> Sink::send
//!                       └─ waits: goes on as a task ────────> Sink::send
//! ```
//!
//! A brief handler goes on in the runtime of the thread that took the request, if it has one, all others in the runtime of the mount.
//!
//! Holds: every request is answered exactly once, also when its handler panics (EIO); the thread of the transport
//! never waits for a handler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use zerocopy::FromBytes;

use super::abi::{self, opcode};
use super::encode::{Encoded, encode};
use super::filesystem::{Errno, Filesystem};
use super::interrupt::Interrupts;
use super::op::Op;
use super::parse::{Expected, Limits, parse};
use super::session::Until;
use super::stats::Stats;
use crate::runtime::{self, Handle, Instant};

/// Where the answer to one request goes.
pub trait Sink: Send + 'static {
    /// Sends it.
    fn send(self, unique: u64, answer: Result<Encoded, Errno>);

    /// A request that waits for a lock is about to begin: false if there is no room for one more.
    fn may_wait(&mut self) -> bool;
}

/// What all requests of a mount share.
pub struct Server<F> {
    /// The filesystem.
    pub filesystem: Arc<F>,
    /// What a request keeps until it is answered.
    pub shared: Arc<Shared>,
    /// What was negotiated.
    pub limits: Limits,
    /// The runtime of the mount.
    pub runtime: Handle,
}

/// What a request keeps until it is answered.
pub struct Shared {
    /// Who is to be told of signals.
    pub interrupts: Arc<Interrupts>,
    /// Counts.
    pub stats: Arc<Stats>,
    /// The mount has ended when nobody keeps this any more.
    #[allow(dead_code, reason = "it acts when it is dropped")]
    pub until_end: Until,
}

impl<F: Filesystem> Server<F> {
    /// Serves one request. To be called within a runtime: brief handlers go on there.
    pub fn serve<S: Sink>(&self, header: &abi::InHeader, body: Bytes, mut sink: S) {
        self.shared.stats.began();
        let parsed = parse(header, body, self.limits).and_then(|(request, expected)| {
            if matches!(request.op, Op::SetlkWait(_)) && !sink.may_wait() {
                self.shared.stats.lock_wait_refused();
                return Err(Errno::NOLCK);
            }
            Ok((request, expected))
        });
        let mut reply = Reply {
            sink: Some(sink),
            unique: header.unique,
            opcode: header.opcode,
            expected: Expected::Done,
            began: runtime::now(),
            shared: self.shared.clone(),
        };
        let request = match parsed {
            Ok((request, expected)) => {
                reply.expected = expected;
                request
            }
            Err(errno) => return reply.send(Err(errno)),
        };
        let filesystem = self.filesystem.clone();
        let _elsewhere = (!filesystem.is_brief(&request.op)).then(|| self.runtime.enter());
        let interrupt = self.shared.interrupts.of(header.unique);
        let mut handler = Box::pin(async move {
            // Dropped in reverse: the mount has not ended while a handler holds its filesystem.
            let mut reply = reply;
            let filesystem = filesystem;
            let answer = filesystem.call(request, interrupt).await;
            let expected = reply.expected;
            reply.send(answer.and_then(|answer| encode(answer, expected)));
        });
        // Most handlers of a filesystem in memory, and those that find their answer in a cache, are done in one go:
        // no other thread is woken for them. One that waits is polled again by its task, with a true waker.
        let mut context = Context::from_waker(Waker::noop());
        // What a panic leaves behind is dropped: the reply then says EIO.
        match std::panic::catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(&mut context).is_ready())) {
            Ok(true) => {}
            Ok(false) => runtime::spawn("fuse request", handler).detach(),
            Err(_) => tracing::error!(opcode = header.opcode, "the handler of a request panicked"),
        }
    }

    /// Takes requests that are not answered. False: it is not one of them.
    pub fn control(&self, header: &abi::InHeader, body: &[u8]) -> bool {
        match header.opcode {
            opcode::FORGET => {
                if let Ok((forget, _)) = abi::ForgetIn::read_from_prefix(body) {
                    self.forget(header.inode, forget.count);
                }
            }
            opcode::BATCH_FORGET => {
                if let Ok((batch, mut items)) = abi::BatchForgetIn::read_from_prefix(body) {
                    for _ in 0..batch.count {
                        let Ok((item, rest)) = abi::ForgetOne::read_from_prefix(items) else { break };
                        self.forget(item.inode, item.count);
                        items = rest;
                    }
                }
            }
            opcode::INTERRUPT => {
                if let Ok((interrupt, _)) = abi::InterruptIn::read_from_prefix(body) {
                    self.shared.stats.interrupted();
                    self.shared.interrupts.interrupt(interrupt.unique);
                }
            }
            _ => return false,
        }
        true
    }

    fn forget(&self, inode: u64, count: u64) {
        self.shared.stats.forgot(count);
        let forget = AssertUnwindSafe(|| self.filesystem.forget(inode, count));
        if std::panic::catch_unwind(forget).is_err() {
            tracing::error!(inode, count, "forgetting an inode panicked");
        }
    }
}

/// Answers when told to, or EIO when dropped before.
struct Reply<S: Sink> {
    sink: Option<S>,
    unique: u64,
    opcode: u32,
    expected: Expected,
    began: Instant,
    shared: Arc<Shared>,
}

impl<S: Sink> Reply<S> {
    /// The first time; after that it does nothing.
    fn send(&mut self, answer: Result<Encoded, Errno>) {
        if let Some(sink) = self.sink.take() {
            // Counted first: who sees the answer also sees the count.
            self.shared.stats.ended(self.opcode, self.began.elapsed(), answer.is_err());
            self.shared.interrupts.answered(self.unique);
            sink.send(self.unique, answer);
        }
    }
}

impl<S: Sink> Drop for Reply<S> {
    fn drop(&mut self) {
        self.send(Err(Errno::IO));
    }
}
