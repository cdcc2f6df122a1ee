//! One ring of io_uring, with the three things that FUSE does with it: register an entry, commit it, be told of requests.
//!
//! Called by the one thread that owns it (`uring`). Holds: an entry is with the kernel, or in the one [`Slot`] that a
//! completion made of it.
#![allow(unsafe_code, reason = "submissions carry addresses")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use rustix::event::EventfdFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zerocopy::IntoBytes;

use super::abi::{self, ring};
use super::filesystem::Errno;
use super::ring_memory::{Region, Slot};

/// Submissions at once; more are passed on to the kernel in between.
const SUBMISSIONS: u32 = 128;

const _: () = assert!(size_of::<Entry128>() == 128);

/// A ring, and the memory of its entries.
pub struct Ring {
    // Dropped before the memory that it knows.
    ring: IoUring<Entry128, cqueue::Entry>,
    regions: Vec<Arc<Region>>,
    /// Entries in each region: entry `n` is in region `n / batch`.
    batch: usize,
    /// The queue of the kernel that it serves.
    queue: u16,
    /// The kernel makes it readable when there is something to take; it is never read, for each time is a new event.
    signal: Option<AsyncFd<OwnedFd>>,
}

/// What has happened.
pub enum Completion {
    /// A request has come.
    Request(Slot),
    /// An entry is gone.
    Failed(Errno),
}

impl Ring {
    /// Makes one for queue `queue`, still to be [enabled](Ring::enable), for up to `completions` at once. Its regions
    /// have `batch` entries each.
    pub fn new(queue: u16, batch: usize, completions: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(completions.max(2 * SUBMISSIONS))
            .build(SUBMISSIONS)?;
        Ok(Self { ring, regions: Vec::new(), batch, queue, signal: None })
    }

    /// From here on it belongs to the thread that calls this, within the runtime that waits for it.
    pub fn enable(&mut self) -> io::Result<()> {
        let signal = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        self.ring.submitter().register_enable_rings()?;
        self.ring.submitter().register_eventfd(signal.as_raw_fd())?;
        // SAFETY: the descriptor is owned by what registers it, which takes it from the runtime before it closes it.
        self.signal = Some(unsafe { AsyncFd::register_with_interest(signal, Interest::READABLE)? });
        Ok(())
    }

    /// Wakes the task of `cx` when there is something to take, from now on: what came before may be there already.
    pub fn wake_on_signal(&self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(signal) = &self.signal {
            while let Poll::Ready(ready) = signal.poll_read_ready(cx) {
                ready?.clear_ready();
            }
        }
        Ok(())
    }

    /// Number of entries.
    pub fn entry_count(&self) -> usize {
        self.regions.len() * self.batch
    }

    /// Gives the entries of a new region to the kernel.
    pub fn register(&mut self, device: &OwnedFd, region: Arc<Region>) -> io::Result<()> {
        assert_eq!(region.count(), self.batch);
        let first = self.entry_count();
        self.regions.push(region.clone());
        for index in 0..self.batch {
            let command = abi::RingCommand { queue: self.queue, ..Default::default() };
            let number = (first + index) as u64;
            let mut entry =
                command_entry(device, ring::REGISTER, command, number, Some(region.vectors(index)));
            // The number of vectors, for which the crate has no word (`len` of `struct io_uring_sqe`).
            let len = std::ptr::from_mut(&mut entry).cast::<u8>().wrapping_add(24).cast::<u32>();
            // SAFETY: the entry is 128 bytes (checked above) aligned to 8, and `len` is four bytes of them.
            unsafe { len.write(2) };
            self.push(&entry)?;
        }
        Ok(())
    }

    /// Answers request `unique` with what is in its entry, and gives the entry to the kernel again.
    pub fn commit(&mut self, device: &OwnedFd, slot: Slot, unique: u64) -> io::Result<()> {
        let command = abi::RingCommand { queue: self.queue, commit_id: unique, ..Default::default() };
        let number = slot.give_back() as u64;
        self.push(&command_entry(device, ring::COMMIT_AND_FETCH, command, number, None))
    }

    /// Passes on what was pushed, and takes from the kernel what has come.
    pub fn submit(&mut self) -> io::Result<()> {
        let submission = self.ring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        if idle { Ok(()) } else { self.ring.submit().map(drop) }
    }

    /// The next completion that is there.
    pub fn completed(&mut self) -> Option<Completion> {
        let completion = self.ring.completion().next()?;
        let (number, result) = (completion.user_data(), completion.result());
        if result < 0 {
            return Some(Completion::Failed(Errno::from_raw_os_error(-result)));
        }
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let region = self.regions[number / self.batch].clone();
        // SAFETY: the entry was given to the kernel with this number, once when it was registered and then by
        // consuming its slot, and each time comes back with one completion: this one.
        Some(Completion::Request(unsafe { Slot::take(region, number % self.batch, number) }))
    }

    fn push(&mut self, entry: &Entry128) -> io::Result<()> {
        loop {
            // SAFETY: the only addresses in an entry are vectors of a region, which the kernel reads while it takes
            // the entry, and the region itself, which is kept longer than the ring.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }
}

fn command_entry(
    device: &OwnedFd,
    operation: u32,
    command: abi::RingCommand,
    number: u64,
    address: Option<u64>,
) -> Entry128 {
    let mut bytes = [0; 80];
    bytes.copy_from_slice(command.as_bytes());
    opcode::UringCmd80::new(types::Fd(device.as_raw_fd()), operation)
        .cmd(bytes)
        .addr(address)
        .build()
        .user_data(number)
}
