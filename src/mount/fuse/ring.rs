//! One ring of io_uring, with the three things that FUSE does with it: register an entry, commit it, be woken.
//!
//! Called by the one thread that owns it (`uring`). Holds: an entry is with the kernel, or in the one [`Slot`] that a
//! completion made of it.
#![allow(unsafe_code, reason = "submissions carry addresses")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use zerocopy::IntoBytes;

use super::abi::{self, ring};
use super::filesystem::Errno;
use super::ring_memory::{Region, Slot};

/// Submissions at once; more are passed on to the kernel in between.
const SUBMISSIONS: u32 = 128;

/// `POLLIN`.
const READABLE: u32 = 1;

const _: () = assert!(size_of::<Entry128>() == 128);

/// Number of the completion that wakes the thread; entries have the others.
const WAKE: u64 = u64::MAX;

/// A ring, and the memory of its entries.
pub struct Ring {
    // Dropped before the memory that it knows.
    ring: IoUring<Entry128, cqueue::Entry>,
    regions: Vec<Arc<Region>>,
    /// Entries in each region: entry `n` is in region `n / batch`.
    batch: usize,
    /// The queue of the kernel that it serves.
    queue: u16,
}

/// What has happened.
pub enum Completion {
    /// What was polled for can be read.
    Wake,
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
            .setup_cqsize(completions.max(2 * SUBMISSIONS))
            .build(SUBMISSIONS)?;
        Ok(Self { ring, regions: Vec::new(), batch, queue })
    }

    /// From here on it belongs to the thread that calls this.
    pub fn enable(&self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()
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

    /// Completes as [`Completion::Wake`] when `fd` can be read.
    pub fn poll(&mut self, fd: &OwnedFd) -> io::Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), READABLE).build();
        self.push(&Entry128::from(poll.user_data(WAKE)))
    }

    /// Passes on what was pushed.
    pub fn submit(&self) -> io::Result<()> {
        self.ring.submit().map(drop)
    }

    /// Passes on what was pushed, and waits for a completion.
    pub fn submit_and_wait(&self) -> io::Result<()> {
        self.ring.submit_and_wait(1).map(drop)
    }

    /// The next completion that is there.
    pub fn completed(&mut self) -> Option<Completion> {
        let completion = self.ring.completion().next()?;
        let (number, result) = (completion.user_data(), completion.result());
        if number == WAKE {
            return Some(Completion::Wake);
        }
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
