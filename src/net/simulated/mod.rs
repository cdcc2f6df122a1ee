//! A network in memory, in virtual time, that delays, cuts, resets and dies as it is told.
//!
//! Only with the feature `simulation`: `tests/simulation` makes a [`Network`] for its thread; `socket` finds it there and hands out
//! its streams in place of TCP's. Holds: what a connection carries arrives in order or not at all, as with TCP; what is lost on the
//! way comes later, and a peer that nothing comes back from is given up after the silence its socket allows; a killed process has
//! its connections closed by its kernel, a machine without power answers nothing. All that is drawn is drawn by `runtime`.
//!
//! Files in reading order: this one (the handle), `world` (hosts, links, what time brings), `connection` (both ends of one), `stream`
//! (what the rest of `net` holds).

mod connection;
mod stream;
mod world;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::types::NodeAddress;

pub use stream::Listener;
pub(super) use stream::{ReadHalf, Stream, WriteHalf};
pub use world::{LinkQuality, NetworkCounts};

use world::World;

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// A host of a network, counted from 0 in the order in which they were added.
pub type HostId = usize;

/// The network of this thread's simulation. Clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    world: Arc<Mutex<World>>,
}

impl Network {
    /// A network without hosts, from now on that of this thread.
    #[must_use]
    pub fn install() -> Self {
        let network = Self { world: Arc::new(Mutex::new(World::new())) };
        NETWORK.set(Some(network.clone()));
        network
    }

    /// Adds a host; others reach it under `name`.
    pub fn add_host(&self, name: &str) -> HostId {
        self.world.lock().add_host(name)
    }

    /// Says whose code runs from now on in this thread.
    pub fn run_as(&self, host: HostId) {
        self.world.lock().current = host;
    }

    /// Moves the time on to `at` since the begin, and delivers what arrives by then.
    pub fn advance(&self, at: Duration) {
        let woken = self.world.lock().advance(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        for waker in woken {
            waker.wake();
        }
    }

    /// Cuts the way from one host to another (not the way back), or mends it.
    pub fn cut(&self, from: HostId, to: HostId, is_cut: bool) {
        self.world.lock().cut(from, to, is_cut);
    }

    /// Sets how good all links are.
    pub fn set_quality(&self, quality: LinkQuality) {
        self.world.lock().quality = quality;
    }

    /// Breaks `count` connections, drawn from all: both ends see a reset.
    pub fn reset_some(&self, count: usize) {
        let woken = self.world.lock().reset_some(count);
        for waker in woken {
            waker.wake();
        }
    }

    /// The process of a host has died: its kernel sends what was written, and closes. To be called before its tasks are dropped.
    pub fn kill(&self, host: HostId) {
        self.world.lock().kill(host);
    }

    /// The machine is without power: nothing more comes from it, and nothing arrives. To be called before its tasks are dropped.
    pub fn power_off(&self, host: HostId) {
        self.world.lock().power_off(host);
    }

    /// It has power again, and knows nothing of its former connections.
    pub fn power_on(&self, host: HostId) {
        self.world.lock().hosts[host].is_up = true;
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> NetworkCounts {
        self.world.lock().counts
    }
}

fn current() -> Option<Network> {
    NETWORK.with_borrow(Clone::clone)
}

/// Connects in the simulation of this thread; none if there is no such.
pub(super) fn connect(
    address: &NodeAddress,
    silence: Duration,
) -> Option<impl Future<Output = io::Result<Stream>> + Send> {
    let network = current()?;
    let begun = network.world.lock().begin(address, silence);
    Some(async move { stream::connect(&network.world, begun?).await })
}

/// Listens in the simulation of this thread; none if there is no such.
pub(super) fn listen(address: &NodeAddress) -> Option<io::Result<Listener>> {
    let network = current()?;
    let bound = network.world.lock().bind(address);
    Some(bound.map(|(host, port)| Listener::new(network.world.clone(), host, port)))
}
