//! Both ends of one simulated connection, and what lies between them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use bytes::Bytes;

use super::HostId;

/// Bytes that one end takes before the other has read them, and bytes on the way: what a kernel buffers.
pub(super) const WINDOW: usize = 1 << 20;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first packet arrives at this time.
    Asking(u64),
    /// The answer arrives at this time.
    Answering { at: u64, refused: bool },
    /// Both ends know of each other.
    Open,
}

/// One connection; the caller's end comes first.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stage: Stage,
    pub(super) ends: [End; 2],
}

/// What one end knows.
#[derive(Debug)]
pub(super) struct End {
    pub(super) host: HostId,
    pub(super) address: SocketAddr,
    /// Arrived and not read.
    pub(super) inbox: VecDeque<Bytes>,
    pub(super) inbox_len: usize,
    /// The other end has said that nothing more comes.
    pub(super) is_closed: bool,
    /// On the way to the other end, in order.
    pub(super) outbox: VecDeque<Segment>,
    pub(super) outbox_len: usize,
    /// Nothing more is sent.
    pub(super) is_shut: bool,
    pub(super) broken: Option<io::ErrorKind>,
    /// Halves of the stream that still live.
    pub(super) halves: u8,
    /// Nobody at this host knows the connection any more.
    pub(super) is_gone: bool,
    /// How long the other end may acknowledge nothing, in nanoseconds.
    pub(super) silence: u64,
    /// When a sign of life came last.
    pub(super) heard: u64,
    /// Delivered at this time, and no way back for the acknowledgement since.
    pub(super) unacknowledged: Option<u64>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

/// What is on the way.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) sent: u64,
    pub(super) arrives: u64,
    pub(super) what: What,
}

/// Contents of a segment.
#[derive(Debug)]
pub(super) enum What {
    Data(Bytes),
    Close,
    Reset,
}

impl End {
    pub(super) fn new(host: HostId, address: SocketAddr, silence: u64, at: u64) -> Self {
        Self {
            host,
            address,
            inbox: VecDeque::new(),
            inbox_len: 0,
            is_closed: false,
            outbox: VecDeque::new(),
            outbox_len: 0,
            is_shut: false,
            broken: None,
            halves: 2,
            is_gone: false,
            silence,
            heard: at,
            unacknowledged: None,
            reader: None,
            writer: None,
        }
    }

    /// Puts a segment on its way; it comes after those before it.
    pub(super) fn send(&mut self, what: What, sent: u64, arrives: u64) {
        let before = self.outbox.back().map_or(0, |segment| segment.arrives);
        if let What::Data(bytes) = &what {
            self.outbox_len += bytes.len();
        }
        self.outbox.push_back(Segment { sent, arrives: arrives.max(before), what });
    }

    /// Nothing more comes or goes here.
    pub(super) fn break_off(&mut self, why: io::ErrorKind, woken: &mut Vec<Waker>) {
        if self.broken.is_none() {
            self.broken = Some(why);
        }
        self.outbox.clear();
        self.outbox_len = 0;
        woken.extend(self.reader.take());
        woken.extend(self.writer.take());
    }

    /// Takes the segment that has arrived first out of the outbox.
    pub(super) fn take_sent(&mut self) -> Option<Segment> {
        let segment = self.outbox.pop_front()?;
        if let What::Data(bytes) = &segment.what {
            self.outbox_len -= bytes.len();
        }
        Some(segment)
    }

    /// Nobody here has it open any more.
    pub(super) fn forget(&mut self) {
        self.is_gone = true;
        self.inbox.clear();
        self.inbox_len = 0;
        self.reader = None;
        self.writer = None;
    }
}
