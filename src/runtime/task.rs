//! Tasks: each has a name, an owner that awaits its end, and a stop signal.
//!
//! A role of the server owns one [`Tasks`]; whoever needs a single helper owns a [`Task`].
//! Holds: a panic is logged with the name of its task and ends that task only; after [`Tasks::stop`] none of the
//! group runs any more.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long [`Tasks::stop`] waits for tasks to end by themselves before it aborts them. Longer than the drain of
/// a connection and a forced snapshot of a small cluster, shorter than the ten seconds after which `docker stop`
/// kills.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Blocking work of a simulation takes up to eight times this.
#[cfg(feature = "simulation")]
const BLOCKING_TIME: Duration = Duration::from_micros(250);

/// How long aborted tasks may take to come to an await.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells a task that its group is stopping. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StopSignal(CancellationToken);

impl StopSignal {
    /// Returns when the group stops; at once if it is stopping already. Nothing is lost when it is dropped.
    pub async fn stopped(&self) {
        self.0.cancelled().await;
    }

    /// True once the group is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// A group of named tasks with one stop signal. Clones are the same group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    group: Arc<GroupState>,
}

#[derive(Debug, Default)]
struct GroupState {
    stop: CancellationToken,
    tracker: TaskTracker,
    next: AtomicU64,
    running: Mutex<BTreeMap<u64, (&'static str, Option<AbortHandle>)>>,
}

/// Takes its task off the list however the task ends: return, panic or abort.
struct Listed {
    group: Arc<GroupState>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.group.running.lock().remove(&self.id);
    }
}

impl Tasks {
    /// An empty group.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task of this group. It should end soon after [`Tasks::stopping`] says so. Of a group that has
    /// stopped nothing runs: the future is dropped.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        if self.group.tracker.is_closed() && self.group.stop.is_cancelled() {
            tracing::debug!(task = name, "not started: its group has stopped");
            return;
        }
        let id = self.group.next.fetch_add(1, Ordering::Relaxed);
        self.group.running.lock().insert(id, (name, None));
        let listed = Listed { group: self.group.clone(), id };
        let task = self.group.tracker.spawn(async move {
            let _listed = listed;
            guarded(name, future).await;
        });
        // The task may be over already; then there is nothing left to abort.
        if let Some(entry) = self.group.running.lock().get_mut(&id) {
            entry.1 = Some(task.abort_handle());
        }
    }

    /// The stop signal, for the tasks of the group to select on.
    #[must_use]
    pub fn stopping(&self) -> StopSignal {
        StopSignal(self.group.stop.clone())
    }

    /// Gives the stop signal without waiting; [`Tasks::stop`] is still to be called by the owner.
    pub fn signal_stop(&self) {
        self.group.stop.cancel();
    }

    /// Number of tasks that run.
    #[must_use]
    pub fn running_count(&self) -> usize {
        self.group.running.lock().len()
    }

    /// Gives the stop signal, waits up to [`STOP_TIMEOUT`] for all to end, then logs the names of those left and
    /// aborts them.
    pub async fn stop(&self) {
        self.stop_within(STOP_TIMEOUT).await;
    }

    /// As [`Tasks::stop`], with the caller's own bound.
    pub async fn stop_within(&self, bound: Duration) {
        self.group.stop.cancel();
        self.group.tracker.close();
        if super::timeout(bound, self.group.tracker.wait()).await.is_ok() {
            return;
        }
        let left: Vec<_> = self.group.running.lock().values().cloned().collect();
        for (name, abort) in left {
            tracing::warn!(task = name, waited = ?bound, "task does not end: aborted");
            if let Some(abort) = abort {
                abort.abort();
            }
        }
        // An aborted task is over at its next await; one that computes without end keeps nobody.
        if super::timeout(ABORT_TIMEOUT, self.group.tracker.wait()).await.is_err() {
            tracing::error!(left = self.running_count(), "tasks run on after their abort");
        }
    }
}

/// A single task. Aborted when dropped, unless [detached](Task::detach).
///
/// Awaiting it gives what it returned; None when it panicked (which was logged) or was aborted.
#[derive(Debug)]
#[must_use = "a task that is dropped is aborted"]
pub struct Task<T> {
    handle: JoinHandle<Option<T>>,
    detached: bool,
}

/// Starts a task whose owner is the caller.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    future: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    Task { handle: tokio::spawn(guarded(name, future)), detached: false }
}

impl<T> Task<T> {
    /// Lets it run on without an owner. For work that ends by itself.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Ends it at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// True once it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.handle.abort();
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.handle).poll(cx).map(|joined| joined.ok().flatten())
    }
}

/// Runs `f` on a thread for blocking work (disk), and gives what it returns. A panic of `f` is logged with
/// `name` and goes on in the caller. When the caller is dropped, `f` runs to its end all the same.
pub async fn blocking<T: Send + 'static>(name: &'static str, f: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(feature = "simulation")]
    if super::simulated::is_simulated() {
        super::sleep(BLOCKING_TIME * u32::try_from(super::random_below(8)).unwrap_or(0)).await;
        return f();
    }
    match tokio::task::spawn_blocking(f).await {
        Ok(value) => value,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => {
                log_panic(name, &*panic);
                std::panic::resume_unwind(panic)
            }
            // Cancelled before it began: the runtime is being taken down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Lets every other runnable task have its turn first.
pub async fn yield_now() {
    tokio::task::yield_now().await;
}

async fn guarded<T>(name: &'static str, future: impl Future<Output = T>) -> Option<T> {
    // Unwind safety: what the future owned is dropped with it, and what it shared is behind locks that hold no
    // half-done state over an await.
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(value) => Some(value),
        Err(panic) => {
            log_panic(name, &*panic);
            None
        }
    }
}

fn log_panic(name: &'static str, panic: &(dyn std::any::Any + Send)) {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)");
    tracing::error!(task = name, panic = text, "task panicked");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::*;

    #[tokio::test]
    async fn a_stop_reaches_all_and_waits_for_their_end() {
        let tasks = Tasks::new();
        let ended = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            let (stopping, ended) = (tasks.stopping(), ended.clone());
            tasks.spawn("good", async move {
                stopping.stopped().await;
                yield_now().await;
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        tasks.spawn("bad", async { panic!("ends itself only") });
        tasks.stop().await;
        assert_eq!(ended.load(Ordering::SeqCst), 10);
        assert_eq!(tasks.running_count(), 0);
    }

    struct SetOnDrop(Arc<AtomicBool>);

    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn what_does_not_end_is_aborted_and_nothing_starts_after_the_stop() {
        let tasks = Tasks::new();
        let dropped = Arc::new(AtomicBool::new(false));
        let held = SetOnDrop(dropped.clone());
        tasks.spawn("stuck", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        tasks.stop_within(Duration::from_millis(1)).await;
        assert!(dropped.load(Ordering::SeqCst));
        let late = SetOnDrop(Arc::new(AtomicBool::new(false)));
        let late_dropped = late.0.clone();
        tasks.spawn("late", async move {
            let _late = late;
            std::future::pending::<()>().await;
        });
        assert!(late_dropped.load(Ordering::SeqCst));
        assert_eq!(tasks.running_count(), 0);
    }

    #[tokio::test]
    async fn a_single_task_ends_with_its_owner_unless_detached() {
        let (done, gone) = tokio::sync::oneshot::channel::<()>();
        drop(spawn("owned", async move {
            let _done = done;
            std::future::pending::<()>().await;
        }));
        assert!(gone.await.is_err());
        let (done, came) = tokio::sync::oneshot::channel();
        spawn("detached", async move { done.send(7) }).detach();
        assert_eq!(came.await, Ok(7));
        assert_eq!(spawn("value", async { 8 }).await, Some(8));
        assert_eq!(spawn("panics", async { panic!("as asked") }).await, None::<()>);
        assert_eq!(blocking("disk", || 9).await, 9);
    }
}
