//! What a seeded simulation puts in the place of dice, wall clock and threads for blocking work.
//!
//! Only with the feature `simulation`: `tests/simulation` runs a whole cluster in one thread and calls these. Holds: in a thread
//! that is simulated, everything that is drawn comes from its seed, and [`super::blocking`] runs where it is called. Time itself
//! is tokio's paused clock, one for each simulated host. Not here: the network (`net::simulated`) and the disks.

use std::cell::{Cell, RefCell};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::types::Timestamp;

thread_local! {
    static DICE: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    static WALL_CLOCK: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// From now on this thread is simulated, with the dice of `seed`.
pub fn simulate(seed: u64) {
    DICE.set(Some(StdRng::seed_from_u64(seed)));
}

/// Whether this thread is.
#[must_use]
pub fn is_simulated() -> bool {
    DICE.with_borrow(Option::is_some)
}

/// What the wall clock shows from now on in this thread: the simulation sets it before a host runs.
pub fn set_wall_clock(at: Timestamp) {
    WALL_CLOCK.set(Some(at));
}

pub(super) fn wall_clock() -> Option<Timestamp> {
    WALL_CLOCK.get()
}

/// Draws with the dice of the simulation; none outside one.
pub(super) fn draw<T>(draw: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    DICE.with_borrow_mut(|dice| dice.as_mut().map(draw))
}
