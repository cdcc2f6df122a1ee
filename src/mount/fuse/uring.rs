//! FUSE over io_uring: one queue for each processor that the machine can have, one thread pinned to each.
//!
//! ```text
//! kernel ── completion: entry 7 holds a request ──> task of the queue ── Server::serve ──> handler
//!                                                         ^                                   │ answer into entry 7
//!        <── commit 7, and take what has come: one call ──┴── done: 7 (wakes the task) <──────┘
//! ```
//!
//! The thread of a queue drives a runtime of its own, in which the queue is one task and brief handlers are others: such a request is
//! answered, questions to servers included, without waking another thread.
//!
//! A request keeps its entry until it is answered, so a queue starts with a few entries and gets more when they run
//! out. Waits for locks may take all but [`Options::RING_RESERVE`] of the most it can have: what would give the lock
//! back always finds an entry.
//! FORGET and INTERRUPT still come through `/dev/fuse`.

use std::fs;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use rustix::thread::CpuSet;

use super::device::Device;
use super::encode::Encoded;
use super::filesystem::{Errno, Filesystem};
use super::options::Options;
use super::ring::{Completion, Ring};
use super::ring_memory::{Region, Slot};
use super::serve::{Server, Sink};
use super::session::{END_TIMEOUT, spawn};
use crate::runtime::{self, Local};

/// Entries that a queue starts with, and gets at a time: 16 give the full rate, and each costs its header until its
/// payload is used.
const BATCH: usize = 32;

/// Turns in a row before handlers have theirs: requests that are answered at once may come without end.
const TURNS_MAX: usize = 8;

/// The switch of the kernel's module.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// What a queue shares with those who answer its requests.
struct Queue {
    number: u16,
    done: Mutex<Vec<Done>>,
    task: AtomicWaker,
    stopped: AtomicBool,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// An answer that is in its entry.
struct Done {
    slot: Slot,
    unique: u64,
}

impl Queue {
    fn push(&self, done: Done) {
        self.done.lock().push(done);
        self.task.wake();
    }
}

/// Where the answer to a request goes.
struct RingSink {
    slot: Slot,
    queue: Arc<Queue>,
    waits: bool,
}

impl Sink for RingSink {
    fn send(mut self, unique: u64, answer: Result<Encoded, Errno>) {
        self.slot.answer(unique, answer);
        if self.waits {
            self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.queue.push(Done { slot: self.slot, unique });
    }

    fn may_wait(&mut self) -> bool {
        let queue = &self.queue;
        self.waits = queue.waiting.fetch_add(1, Ordering::Relaxed) < queue.waiting_max;
        if !self.waits {
            queue.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.waits
    }
}

/// What a queue needs, made before the kernel counts on it.
struct Prepared {
    queue: Arc<Queue>,
    ring: Ring,
    region: Arc<Region>,
}

/// The rings of a mount that is about to be.
pub struct Rings {
    queues: Vec<Prepared>,
    payload_len: usize,
    depth_max: usize,
}

/// The rings of a mount that runs. Their threads end when it is dropped.
pub struct RunningRings(Vec<Arc<Queue>>);

impl Rings {
    /// Makes them. The error says why there are none.
    pub fn prepare(options: &Options) -> Result<Self, String> {
        switch_on()?;
        let count = possible_processors()?;
        let payload_len = options.io_len_max as usize;
        let depth_max = usize::from(options.ring_depth_max).max(2 * BATCH);
        let prepare = |number: u16| -> Result<Prepared, Errno> {
            let completions = u32::try_from(2 * depth_max).unwrap_or(u32::MAX);
            let ring = Ring::new(number, BATCH, completions)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::NOSYS))?;
            let queue = Arc::new(Queue {
                number,
                done: Mutex::default(),
                task: AtomicWaker::new(),
                stopped: AtomicBool::new(false),
                waiting: AtomicUsize::new(0),
                waiting_max: depth_max.saturating_sub(usize::from(Options::RING_RESERVE)).max(BATCH),
            });
            Ok(Prepared { queue, ring, region: Region::map(BATCH, payload_len)? })
        };
        let queues = (0..count).map(prepare).collect::<Result<_, _>>();
        let queues = queues.map_err(|e| format!("the system refuses a ring: {e}"))?;
        Ok(Self { queues, payload_len, depth_max })
    }

    /// Starts their threads, and returns when the kernel has taken all of them. On an error all are stopped, and the
    /// mount cannot be used any more.
    pub fn start<F: Filesystem>(
        self,
        device: &Device,
        server: &Arc<Server<F>>,
    ) -> Result<RunningRings, String> {
        let (report, reports) = mpsc::channel();
        let running = RunningRings(self.queues.iter().map(|prepared| prepared.queue.clone()).collect());
        for Prepared { queue, ring, region } in self.queues {
            let name = format!("fuse-ring-{}", queue.number);
            let mut thread = QueueThread {
                queue,
                ring,
                device: device.clone(),
                server: server.clone(),
                in_use: 0,
                payload_len: self.payload_len,
                depth_max: self.depth_max,
            };
            let report = report.clone();
            let spawned = spawn(name, move || {
                let begun = Local::new().and_then(|local| {
                    local.run(async { thread.begin(region) })?;
                    Ok(local)
                });
                let (began, local) = match begun {
                    Ok(local) => (Ok(()), Some(local)),
                    Err(error) => (Err(error), None),
                };
                // Nobody listens: another queue failed first.
                let _ = report.send(began);
                // The reports are complete when all senders are gone.
                drop(report);
                if let Some(local) = local {
                    local.run(thread.run());
                }
            });
            spawned.map_err(|e| e.to_string())?;
        }
        drop(report);
        match reports.iter().find_map(Result::err) {
            Some(e) => Err(format!("the kernel refuses a ring: {e}")),
            None => Ok(running),
        }
    }
}

/// Tells the threads to end.
impl Drop for RunningRings {
    fn drop(&mut self) {
        for queue in &self.0 {
            queue.stopped.store(true, Ordering::SeqCst);
            queue.task.wake();
        }
    }
}

/// The thread of a queue.
struct QueueThread<F> {
    queue: Arc<Queue>,
    ring: Ring,
    device: Device,
    server: Arc<Server<F>>,
    /// Entries that hold a request or an answer.
    in_use: usize,
    payload_len: usize,
    depth_max: usize,
}

impl<F: Filesystem> QueueThread<F> {
    fn begin(&mut self, region: Arc<Region>) -> std::io::Result<()> {
        let mut here = CpuSet::new();
        here.set(usize::from(self.queue.number));
        if let Err(e) = rustix::thread::sched_setaffinity(None, &here) {
            // A processor that is not there, or not ours: its queue is served from another.
            tracing::debug!(queue = self.queue.number, error = %e, "not pinned");
        }
        self.ring.enable()?;
        self.ring.register(self.device.fd(), region)?;
        self.ring.submit()?;
        // What is refused is refused at once.
        let mut early = Vec::new();
        while let Some(completion) = self.ring.completed() {
            if let Completion::Failed(errno) = completion {
                return Err(errno.into());
            }
            early.push(completion);
        }
        early.into_iter().for_each(|completion| self.complete(completion));
        Ok(())
    }

    /// Until it is stopped, or fails. What it has taken is answered first, if that does not take long: its handlers live in this
    /// thread.
    async fn run(&mut self) {
        let queue = self.queue.clone();
        let served = async {
            poll_fn(|cx| self.poll_until(cx, |this| this.queue.stopped.load(Ordering::SeqCst))).await?;
            let answered = poll_fn(|cx| self.poll_until(cx, |this| this.in_use == 0));
            match runtime::timeout(END_TIMEOUT, answered).await {
                Ok(answered) => answered,
                Err(_) => {
                    tracing::warn!(queue = queue.number, "requests do not end: left behind");
                    Ok(())
                }
            }
        };
        if let Err(e) = served.await {
            tracing::error!(queue = queue.number, error = %e, "a queue has failed: its requests hang");
        }
    }

    /// Ready when nothing is left to do and `ends` says so, or when it fails.
    fn poll_until(
        &mut self,
        cx: &mut Context<'_>,
        ends: impl Fn(&Self) -> bool,
    ) -> Poll<std::io::Result<()>> {
        // What comes from here on wakes this task; what came before is seen now.
        self.queue.task.register(cx.waker());
        self.ring.wake_on_signal(cx)?;
        for _ in 0..TURNS_MAX {
            match self.turn() {
                Ok(true) => {}
                Ok(false) if ends(self) => return Poll::Ready(Ok(())),
                Ok(false) => return Poll::Pending,
                Err(e) => match Errno::from_io_error(&e) {
                    // Overflowing completions are taken in the next turn.
                    Some(Errno::INTR | Errno::AGAIN | Errno::BUSY) => break,
                    _ => return Poll::Ready(Err(e)),
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives back what is answered, and takes what has come. False: there was nothing of either.
    fn turn(&mut self) -> std::io::Result<bool> {
        self.ring.submit()?;
        let mut any = false;
        while let Some(completion) = self.ring.completed() {
            any = true;
            self.complete(completion);
        }
        self.grow()?;
        Ok(self.commit()? || any)
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Request(slot) => {
                self.in_use += 1;
                let Some((header, body)) = slot.request() else {
                    tracing::error!(queue = self.queue.number, ?slot, "a request makes no sense: it hangs");
                    return;
                };
                let sink = RingSink { slot, queue: self.queue.clone(), waits: false };
                self.server.serve(&header, body, sink);
            }
            // The mount is gone.
            Completion::Failed(Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV | Errno::CANCELED) => {}
            Completion::Failed(errno) => {
                tracing::warn!(queue = self.queue.number, error = %errno, "an entry is lost");
            }
        }
    }

    /// False: nothing is answered.
    fn commit(&mut self) -> std::io::Result<bool> {
        let done = std::mem::take(&mut *self.queue.done.lock());
        let any = !done.is_empty();
        for Done { slot, unique } in done {
            self.in_use = self.in_use.saturating_sub(1);
            self.ring.commit(self.device.fd(), slot, unique)?;
        }
        Ok(any)
    }

    /// More entries, when few are left.
    fn grow(&mut self) -> std::io::Result<()> {
        let count = self.ring.entry_count();
        if self.in_use + BATCH / 2 < count || count + BATCH > self.depth_max {
            return Ok(());
        }
        match Region::map(BATCH, self.payload_len) {
            Ok(region) => self.ring.register(self.device.fd(), region),
            Err(e) => {
                // It goes on with what it has; requests wait in the kernel for an entry.
                tracing::warn!(queue = self.queue.number, error = %e, "no memory for more entries");
                self.depth_max = count;
                Ok(())
            }
        }
    }
}

/// Turns the kernel's switch on, which root may; the kernel then offers rings to mounts.
fn switch_on() -> Result<(), String> {
    let state = fs::read_to_string(SWITCH)
        .map_err(|_| "this kernel has no FUSE over io_uring (Linux 6.14 and newer have)".to_owned())?;
    if state.trim() == "Y" {
        return Ok(());
    }
    fs::write(SWITCH, "Y").map_err(|e| format!("root has to write Y into {SWITCH} ({e})"))
}

/// The kernel wants a queue for each processor that could be there.
fn possible_processors() -> Result<u16, String> {
    const FILE: &str = "/sys/devices/system/cpu/possible";
    let text = fs::read_to_string(FILE).map_err(|e| format!("{FILE}: {e}"))?;
    count_in(&text).filter(|count| *count > 0).ok_or_else(|| format!("{FILE} says {text:?}"))
}

/// Number of numbers in a list such as `0-3,8`.
fn count_in(list: &str) -> Option<u16> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').try_fold(0u16, |sum, range| sum.checked_add(count(range)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        assert_eq!(count_in("0\n"), Some(1));
        assert_eq!(count_in("0-1\n"), Some(2));
        assert_eq!(count_in("0-3,8-11,15"), Some(9));
        assert_eq!(count_in("3-0"), None);
        assert_eq!(count_in(""), None);
    }
}
