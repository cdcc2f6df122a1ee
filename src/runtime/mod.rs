//! The only door to time, randomness and tasks: tokio behind it, and a simulation in its place (`simulated`).
//!
//! Everything that waits, draws or spawns comes through here. Holds: every task has a name, an owner and an end;
//! a task that panics is logged with its name, and takes nobody with it. Beside it the memory that blocks use in turn
//! (`buffers`) and the disks (`disk`).
//! Not here: sockets (`net`) and the threads of a storage, which belong to that storage.

mod buffers;
pub mod disk;
mod local;
mod process;
mod random;
mod rounds;
#[cfg(feature = "simulation")]
pub mod simulated;
mod task;
mod time;

pub use tokio::runtime::Handle;

pub use local::{Local, RuntimeId, current_runtime};

pub use buffers::{BUFFER_KEPT_MIN, Buffer, HEAD_ROOM};
pub use process::{processor_count, resident_bytes};
pub use random::{Dice, random_below, random_u64, random_u128, rng, shuffle};
pub use rounds::Rounds;
pub use task::{STOP_TIMEOUT, StopSignal, Task, Tasks, blocking, spawn, yield_now};
pub use time::{
    Elapsed, Instant, Interval, interval, now, sleep, sleep_until, timeout, timeout_at, wall_clock,
};
