//! Who may begin a request, and when: bounds over the whole server, over one connection, and over one address.
//!
//! `server` seats connections, `serve` asks for a place for each request. Holds: nobody's flood takes what the others are entitled to: a
//! quarter of the places is kept for connections that hold few, and a quarter of the connections for addresses that have few. What is
//! too much is answered `Busy`, or waits.
//!
//! ```text
//!  requests in flight   0 ........................ 3/4 ............ all
//!                       whoever comes              who holds less than an equal part of the last quarter
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::runtime::{Instant, now};

use super::server::Shared;

/// The part of all places that is kept for those who hold few.
const KEPT: usize = 4;
/// Longest burst at a bounded rate: what an address may ask for at once after a pause.
const BURST: Duration = Duration::from_secs(1);
/// Addresses above which those without connections are forgotten, whenever one more comes.
const ADDRESSES_MAX: usize = 4096;

/// What an address has.
#[derive(Debug, Default)]
pub(super) struct Origin {
    connections: usize,
    /// When a request at an even rate would be due.
    due: Option<Instant>,
}

/// Addresses that connections come from.
#[derive(Debug, Default)]
pub(super) struct Origins(Mutex<HashMap<IpAddr, Origin>>);

impl Origins {
    /// Counts one more connection from `address`, unless it has `max`.
    fn enter(&self, address: IpAddr, max: usize) -> bool {
        let mut origins = self.0.lock();
        if origins.len() > ADDRESSES_MAX {
            let at = now();
            origins.retain(|_, origin| origin.connections > 0 || origin.due.is_some_and(|due| due > at));
        }
        let origin = origins.entry(address).or_default();
        let enters = origin.connections < max;
        origin.connections += usize::from(enters);
        enters
    }

    fn leave(&self, address: IpAddr) {
        let mut origins = self.0.lock();
        if let Some(origin) = origins.get_mut(&address) {
            origin.connections -= 1;
            // What it owes to its rate is not forgotten with its last connection.
            if origin.connections == 0 && origin.due.is_none() {
                origins.remove(&address);
            }
        }
    }

    /// How long a request that came `at` has to wait so that no more than `rate` a second begin from `address`, on the average. None if that
    /// is longer than `patience`; then it counts for nothing.
    pub(super) fn wait(
        &self,
        address: IpAddr,
        rate: u32,
        at: Instant,
        patience: Duration,
    ) -> Option<Duration> {
        let mut origins = self.0.lock();
        let origin = origins.entry(address).or_default();
        let due = origin.due.map_or(at, |due| due.max(at));
        let wait = (due - at).saturating_sub(BURST);
        if wait > patience {
            return None;
        }
        origin.due = Some(due + Duration::from_secs(1) / rate.max(1));
        Some(wait)
    }
}

/// A connection that is counted, at its server and its address.
pub(super) struct Seat {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Seat {
    /// None when there are as many as may be, or too many from one address.
    pub(super) fn take(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        let max = shared.limits.connections_max;
        if shared.connections.fetch_add(1, Ordering::Relaxed) < max
            && shared.origins.enter(address, max - max / KEPT)
        {
            return Some(Self { shared: shared.clone(), address });
        }
        shared.connections.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.origins.leave(self.address);
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is counted, with its bytes, at its server and its connection.
pub(super) struct Place {
    shared: Arc<Shared>,
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Place {
    /// A place for a request of `bytes` on a connection that holds `held` already. None when all are taken, or what is left is for those
    /// who hold less.
    pub(super) fn take(
        shared: &Arc<Shared>,
        held: &Arc<AtomicUsize>,
        bytes: usize,
        is_consensus: bool,
    ) -> Option<Self> {
        let limits = &shared.limits;
        let count = shared.in_flight.fetch_add(1, Ordering::Relaxed);
        let sum = shared.in_flight_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Counted from here on, and given back should it be refused.
        let place = Self { shared: shared.clone(), held: held.clone(), bytes };
        let own = held.fetch_add(1, Ordering::Relaxed);
        let others = shared.connections.load(Ordering::Relaxed);
        let crowded = above_kept(count, limits.in_flight_max);
        let entitled = others <= 1 || is_consensus || own < (limits.in_flight_max / KEPT / others).max(1);
        let heavy = above_kept(sum, limits.in_flight_bytes_max);
        let fits = count < limits.in_flight_max && sum.saturating_add(bytes) <= limits.in_flight_bytes_max;
        (fits && (!crowded || entitled) && (!heavy || own == 0 || others <= 1)).then_some(place)
    }
}

/// Whether only what is kept for those who hold few is left.
fn above_kept(taken: usize, max: usize) -> bool {
    taken >= max - max / KEPT
}

impl Drop for Place {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.shared.in_flight_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_second_worth_through_at_once_and_then_one_after_the_other() {
        let origins = Origins::default();
        let address = IpAddr::from([127, 0, 0, 1]);
        let at = now();
        let millis = Duration::from_millis;
        let waits: Vec<_> =
            (0..14).map(|_| origins.wait(address, 10, at, Duration::from_secs(9)).unwrap()).collect();
        assert!(waits[..11].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[11..], [millis(100), millis(200), millis(300)]);
        assert_eq!(origins.wait(address, 10, at, millis(399)), None, "it would not be there in time");
        assert_eq!(origins.wait(address, 10, at, millis(400)), Some(millis(400)), "and was not counted");
        let other = IpAddr::from([127, 0, 0, 2]);
        assert_eq!(origins.wait(other, 10, at, millis(0)), Some(Duration::ZERO));
        let later = at + Duration::from_secs(60);
        assert_eq!(
            origins.wait(address, 10, later, millis(0)),
            Some(Duration::ZERO),
            "a pause is made up for"
        );
    }

    #[test]
    fn an_address_without_connections_is_forgotten() {
        let origins = Origins::default();
        let address = IpAddr::from([127, 0, 0, 1]);
        assert!(origins.enter(address, 2) && origins.enter(address, 2) && !origins.enter(address, 2));
        origins.leave(address);
        assert!(origins.enter(address, 2));
        origins.leave(address);
        origins.leave(address);
        assert!(origins.0.lock().is_empty());
    }
}
