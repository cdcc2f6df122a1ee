//! A runtime of one thread, which runs its tasks where it waits for what they need.
//!
//! Several runtimes live in one process: the shared one, which `cli` makes, and one for each thread that would rather answer by
//! itself than wake another (the queues of a mount). Holds: tasks of a [`Local`] never leave its thread, and end with it.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle, Id, Runtime};

/// Tells runtimes apart that exist at the same time.
pub type RuntimeId = Id;

/// The runtime that this is called in.
///
/// # Panics
/// Outside any.
#[must_use]
pub fn current_runtime() -> RuntimeId {
    Handle::current().id()
}

/// A runtime of the thread that drives it.
#[derive(Debug)]
pub struct Local(Runtime);

impl Local {
    /// With timers and sockets of its own.
    ///
    /// # Errors
    /// Of the system, when it refuses a descriptor.
    pub fn new() -> io::Result<Self> {
        Builder::new_current_thread().enable_all().build().map(Self)
    }

    /// Runs `future`, and what is [spawned](super::spawn) meanwhile, until it ends.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{sleep, spawn};

    #[test]
    fn its_tasks_run_on_its_thread_and_end_with_it() {
        let local = Local::new().unwrap();
        let here = std::thread::current().id();
        let (there, inner, left) = local.run(async {
            let task = spawn("there", async { (std::thread::current().id(), current_runtime()) });
            let (there, inner) = task.await.unwrap();
            let left = spawn("left", sleep(std::time::Duration::from_secs(3600)));
            (there, inner, left)
        });
        assert_eq!(there, here);
        assert_ne!(inner, Local::new().unwrap().run(async { current_runtime() }));
        assert!(!left.is_finished());
        drop(local);
        assert!(left.is_finished());
    }
}
