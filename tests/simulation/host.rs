//! A simulated machine: a runtime with a clock of its own, a disk, and the program that runs on it.
//!
//! Holds: all hosts share the thread; each moves on by one tick at a time, so that nobody sees the future of another.

use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pohmelfs::net::simulated::{HostId, Network};
use pohmelfs::runtime::disk::{CrashKeeps, MemoryDisk};
use pohmelfs::runtime::simulated::set_wall_clock;
use pohmelfs::types::Timestamp;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// How far hosts move at a time; nothing comes from one to another in less.
pub const TICK: Duration = Duration::from_micros(500);
/// What a disk takes to sync.
const DISK_LATENCY: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_millis(3);
/// Where wall clocks begin: some day in 2026, in nanoseconds.
const EPOCH: i64 = 1_780_000_000_000_000_000;

/// What runs on a host, from its start to its end.
pub type Program = Box<dyn Fn(Arc<MemoryDisk>) -> Pin<Box<dyn Future<Output = ()> + Send>>>;

/// One machine.
pub struct Host {
    pub name: String,
    pub id: HostId,
    pub disk: Arc<MemoryDisk>,
    /// How far its wall clock is off, in nanoseconds.
    pub skew: i64,
    /// Its processes are stopped (SIGSTOP): the kernel goes on.
    pub is_paused: bool,
    /// Time that passed while it was stopped: its clocks have it when it goes on.
    lag: Duration,
    network: Network,
    program: Program,
    running: Option<(Runtime, JoinHandle<()>)>,
}

impl Host {
    pub fn new(network: &Network, name: &str, program: Program) -> Self {
        Self {
            name: name.to_owned(),
            id: network.add_host(name),
            disk: fresh_disk(name.len() as u64),
            skew: 0,
            is_paused: false,
            lag: Duration::ZERO,
            network: network.clone(),
            program,
            running: None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Its program has come to its end.
    pub fn has_ended(&self) -> bool {
        self.running.as_ref().is_some_and(|(_, program)| program.is_finished())
    }

    /// Starts its program, unless it runs.
    pub fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        self.network.power_on(self.id);
        self.network.run_as(self.id);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let program = runtime.spawn((self.program)(self.disk.clone()));
        self.running = Some((runtime, program));
        self.is_paused = false;
        self.lag = Duration::ZERO;
    }

    /// Lets it run for one tick; `at` is the time since the begin.
    pub fn tick(&mut self, at: Duration) {
        let Some((runtime, _)) = &self.running else { return };
        if self.is_paused {
            self.lag += TICK;
            return;
        }
        self.network.run_as(self.id);
        let since = i64::try_from(at.as_nanos()).unwrap();
        set_wall_clock(Timestamp(EPOCH + since + self.skew));
        let step = TICK + std::mem::take(&mut self.lag);
        runtime.block_on(async { tokio::time::sleep(step).await });
    }

    /// Asks something of its program that needs no time; none while it is stopped or down.
    pub fn ask<T>(&self, question: impl Future<Output = T>) -> Option<T> {
        let (runtime, _) = self.running.as_ref().filter(|_| !self.is_paused)?;
        self.network.run_as(self.id);
        Some(runtime.block_on(question))
    }

    /// kill -9: the machine and what its kernel has go on.
    pub fn kill(&mut self) {
        self.network.run_as(self.id);
        self.network.kill(self.id);
        self.end(CrashKeeps::All);
    }

    /// The power fails: of what was not synced a part is left, as drawn from `seed`.
    pub fn power_off(&mut self, seed: u64) {
        self.network.run_as(self.id);
        self.network.power_off(self.id);
        self.end(CrashKeeps::Some(seed));
    }

    /// Puts an empty disk in the place of the one it has. It must not run.
    pub fn new_disk(&mut self) {
        assert!(!self.is_running(), "{} runs", self.name);
        self.disk = fresh_disk(self.id as u64);
    }

    fn end(&mut self, keeps: CrashKeeps) {
        // Nothing that is dropped may write any more.
        self.disk.stop_after(0);
        drop(self.running.take());
        self.disk.crash(keeps);
        self.is_paused = false;
    }
}

fn fresh_disk(seed: u64) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    disk.set_threads(false);
    disk.set_latency(DISK_LATENCY, seed);
    Arc::new(disk)
}
