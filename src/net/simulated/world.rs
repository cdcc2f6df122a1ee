//! Hosts, links and connections, and what the passing of time does to them.
//!
//! Holds: one step looks at the connections in the order in which they were made, so that the same seed gives the same run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use super::HostId;
use super::connection::{Connection, End, Stage, WINDOW, What};
use crate::runtime::random_below;
use crate::types::NodeAddress;

/// Time after which a lost packet is sent again, at least, in nanoseconds: Linux' smallest.
const RESEND_AFTER: u64 = 200_000_000;
/// Time that unanswered keepalive probes take after the silence, in nanoseconds.
const PROBES: u64 = 3_000_000_000;
/// First port that a caller gets.
const FIRST_PORT: u16 = 40_000;

/// How good the links are.
#[derive(Clone, Copy, Debug)]
pub struct LinkQuality {
    /// Shortest way from host to host.
    pub latency_min: Duration,
    /// Longest, but for what is lost.
    pub latency_max: Duration,
    /// Of a thousand packets so many are lost and sent again.
    pub lost_of_1000: u32,
}

/// What a network has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkCounts {
    /// Connections begun.
    pub connections: u64,
    /// Pieces delivered.
    pub delivered: u64,
    /// Pieces that were lost and sent again.
    pub lost: u64,
    /// Connections that broke other than by a close.
    pub broken: u64,
}

#[derive(Debug)]
pub(super) struct Host {
    name: String,
    pub(super) is_up: bool,
    pub(super) ports: BTreeMap<u16, Port>,
    next_port: u16,
}

/// What a listener listens at.
#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) waiting: VecDeque<u64>,
    pub(super) waker: Option<Waker>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) current: HostId,
    pub(super) quality: LinkQuality,
    pub(super) hosts: Vec<Host>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) counts: NetworkCounts,
    cuts: BTreeSet<(HostId, HostId)>,
    next: u64,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn ip(host: HostId) -> IpAddr {
    let [.., high, low] = u32::try_from(host + 1).unwrap_or(u32::MAX).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            current: 0,
            quality: LinkQuality {
                latency_min: Duration::from_micros(200),
                latency_max: Duration::from_millis(2),
                lost_of_1000: 0,
            },
            hosts: Vec::new(),
            connections: BTreeMap::new(),
            counts: NetworkCounts::default(),
            cuts: BTreeSet::new(),
            next: 0,
        }
    }

    pub(super) fn add_host(&mut self, name: &str) -> HostId {
        self.hosts.push(Host {
            name: name.to_owned(),
            is_up: true,
            ports: BTreeMap::new(),
            next_port: FIRST_PORT,
        });
        self.hosts.len() - 1
    }

    /// Draws below `bound`, which is above zero.
    pub(super) fn draw(bound: usize) -> usize {
        usize::try_from(random_below(bound as u64)).unwrap_or(0)
    }

    /// When what is sent now arrives.
    pub(super) fn arrival(&mut self, from: HostId, to: HostId) -> u64 {
        if from == to {
            return self.now;
        }
        let (least, most) = (nanos(self.quality.latency_min), nanos(self.quality.latency_max));
        let latency = least + random_below(most.saturating_sub(least) + 1);
        let is_lost = u64::from(self.quality.lost_of_1000) > random_below(1000);
        self.counts.lost += u64::from(is_lost);
        let again = if is_lost { RESEND_AFTER + random_below(RESEND_AFTER * 2) } else { 0 };
        self.now + latency + again
    }

    fn is_open(&self, from: HostId, to: HostId) -> bool {
        self.hosts[from].is_up && self.hosts[to].is_up && !self.cuts.contains(&(from, to))
    }

    pub(super) fn cut(&mut self, from: HostId, to: HostId, is_cut: bool) {
        if is_cut {
            self.cuts.insert((from, to));
        } else {
            self.cuts.remove(&(from, to));
        }
    }

    fn resolve(&self, address: &NodeAddress) -> io::Result<(HostId, u16)> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("cannot resolve {address}"));
        let (name, port) = address.0.rsplit_once(':').ok_or_else(unknown)?;
        let port = port.parse().map_err(|_| unknown())?;
        let is_it = |(host, known): (usize, &Host)| known.name == name || ip(host).to_string() == name;
        let host = self.hosts.iter().enumerate().position(is_it).ok_or_else(unknown)?;
        Ok((host, port))
    }

    /// Listens at the host whose code runs.
    pub(super) fn bind(&mut self, address: &NodeAddress) -> io::Result<(HostId, SocketAddr)> {
        let (host, port) = self.resolve(address)?;
        if host != self.current {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{address} is not of this host"),
            ));
        }
        if self.hosts[host].ports.contains_key(&port) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{address} is in use")));
        }
        self.hosts[host].ports.insert(port, Port::default());
        Ok((host, SocketAddr::new(ip(host), port)))
    }

    /// Begins a connection from the host whose code runs.
    pub(super) fn begin(&mut self, address: &NodeAddress, silence: Duration) -> io::Result<u64> {
        let (to, port) = self.resolve(address)?;
        let from = self.current;
        let host = &mut self.hosts[from];
        let own = host.next_port;
        host.next_port = own.checked_add(1).unwrap_or(FIRST_PORT);
        let silence = nanos(silence);
        let ends = [
            End::new(from, SocketAddr::new(ip(from), own), silence, self.now),
            End::new(to, SocketAddr::new(ip(to), port), silence, self.now),
        ];
        let stage = Stage::Asking(self.arrival(from, to));
        self.next += 1;
        self.counts.connections += 1;
        self.connections.insert(self.next, Connection { stage, ends });
        Ok(self.next)
    }

    /// Moves the time on; who is to be woken.
    pub(super) fn advance(&mut self, to: u64) -> Vec<Waker> {
        self.now = self.now.max(to);
        let mut woken = Vec::new();
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            // Out of the map while it is looked at: a step draws, and looks at hosts.
            let Some(mut connection) = self.connections.remove(&id) else { continue };
            self.step(id, &mut connection, &mut woken);
            let is_over = |end: &End| end.is_gone && end.outbox.is_empty();
            if !connection.ends.iter().all(is_over) {
                self.connections.insert(id, connection);
            }
        }
        woken
    }

    fn step(&mut self, id: u64, connection: &mut Connection, woken: &mut Vec<Waker>) {
        let (caller, called) = (connection.ends[0].host, connection.ends[1].host);
        match connection.stage {
            Stage::Asking(at) => {
                if connection.ends[0].is_gone {
                    connection.ends[0].outbox.clear();
                    connection.ends[1].forget();
                } else if at <= self.now {
                    if !self.is_open(caller, called) {
                        connection.stage = Stage::Asking(self.now + RESEND_AFTER);
                        return;
                    }
                    let port = connection.ends[1].address.port();
                    let answers = self.arrival(called, caller);
                    let listening = self.hosts[called].ports.get_mut(&port);
                    connection.stage = Stage::Answering { at: answers, refused: listening.is_none() };
                    if let Some(listening) = listening {
                        listening.waiting.push_back(id);
                        woken.extend(listening.waker.take());
                    }
                }
                return;
            }
            Stage::Answering { at, refused } if at <= self.now => {
                if !self.is_open(called, caller) {
                    connection.stage = Stage::Answering { at: self.now + RESEND_AFTER, refused };
                    return;
                }
                connection.stage = Stage::Open;
                let end = &mut connection.ends[0];
                end.heard = self.now;
                if refused {
                    end.break_off(io::ErrorKind::ConnectionRefused, woken);
                    connection.ends[1].forget();
                } else {
                    woken.extend(end.writer.take());
                }
            }
            Stage::Answering { .. } | Stage::Open => {}
        }
        for from in [0, 1] {
            self.deliver(connection, from, woken);
        }
        for end in [0, 1] {
            self.give_up(connection, end, woken);
        }
    }

    /// What end `from` has sent and what has arrived by now.
    fn deliver(&mut self, connection: &mut Connection, from: usize, woken: &mut Vec<Waker>) {
        let to = 1 - from;
        let (here, there) = (connection.ends[from].host, connection.ends[to].host);
        loop {
            let [first, second] = &mut connection.ends;
            let (sender, receiver) = if from == 0 { (first, second) } else { (second, first) };
            let Some(front) = sender.outbox.front_mut() else { return };
            if front.arrives > self.now {
                return;
            }
            if !self.is_open(here, there) {
                // A dead host sends nothing again; others do, until they give up.
                if sender.is_gone {
                    sender.outbox.clear();
                    sender.outbox_len = 0;
                } else {
                    front.arrives = self.now + RESEND_AFTER;
                }
                return;
            }
            if matches!(front.what, What::Data(_)) && receiver.inbox_len >= WINDOW {
                return;
            }
            let Some(segment) = sender.take_sent() else { return };
            self.counts.delivered += 1;
            woken.extend(sender.writer.take());
            if self.is_open(there, here) {
                sender.heard = self.now;
            } else {
                sender.unacknowledged.get_or_insert(segment.sent);
            }
            if receiver.is_gone {
                if !matches!(segment.what, What::Reset) && self.hosts[there].is_up {
                    let arrives = self.arrival(there, here);
                    connection.ends[to].send(What::Reset, self.now, arrives);
                }
                continue;
            }
            receiver.heard = self.now;
            match segment.what {
                What::Data(bytes) => {
                    receiver.inbox_len += bytes.len();
                    receiver.inbox.push_back(bytes);
                    woken.extend(receiver.reader.take());
                }
                What::Close => {
                    receiver.is_closed = true;
                    woken.extend(receiver.reader.take());
                }
                What::Reset => {
                    self.counts.broken += 1;
                    receiver.break_off(io::ErrorKind::ConnectionReset, woken);
                }
            }
        }
    }

    /// What the kernel of one end does about an other end that is silent.
    fn give_up(&mut self, connection: &mut Connection, this: usize, woken: &mut Vec<Waker>) {
        if connection.stage != Stage::Open {
            return;
        }
        let other_is_gone = connection.ends[1 - this].is_gone;
        let (here, there) = (connection.ends[this].host, connection.ends[1 - this].host);
        let both_ways = self.is_open(here, there) && self.is_open(there, here);
        let end = &mut connection.ends[this];
        if end.is_gone || end.broken.is_some() {
            return;
        }
        if both_ways {
            end.unacknowledged = None;
        }
        let oldest =
            end.outbox.front().map(|segment| segment.sent).into_iter().chain(end.unacknowledged).min();
        let takes_nothing = !both_ways && oldest.is_some_and(|sent| self.now - sent > end.silence);
        let quiet = self.now - end.heard;
        if takes_nothing || (!both_ways && quiet > end.silence + PROBES) {
            self.counts.broken += 1;
            end.break_off(io::ErrorKind::TimedOut, woken);
        } else if both_ways && quiet > end.silence {
            // A probe is answered.
            end.heard = self.now;
            if other_is_gone {
                self.counts.broken += 1;
                end.break_off(io::ErrorKind::ConnectionReset, woken);
            }
        }
    }

    pub(super) fn reset_some(&mut self, count: usize) -> Vec<Waker> {
        let mut woken = Vec::new();
        for _ in 0..count.min(self.connections.len()) {
            let nth = Self::draw(self.connections.len());
            if let Some(connection) = self.connections.values_mut().nth(nth)
                && connection.stage == Stage::Open
            {
                self.counts.broken += 1;
                for end in &mut connection.ends {
                    end.break_off(io::ErrorKind::ConnectionReset, &mut woken);
                }
            }
        }
        woken
    }

    pub(super) fn kill(&mut self, host: HostId) {
        let waiting: Vec<u64> =
            self.hosts[host].ports.values().flat_map(|port| port.waiting.clone()).collect();
        self.hosts[host].ports.clear();
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let resets = waiting.contains(&id) || Self::draw(2) == 0;
            for this in [0, 1] {
                let Some(end) = self.connections.get(&id).map(|c| (c.ends[this].host, c.ends[1 - this].host))
                else {
                    continue;
                };
                if end.0 != host {
                    continue;
                }
                let arrives = self.arrival(end.0, end.1);
                let now = self.now;
                let Some(connection) = self.connections.get_mut(&id) else { continue };
                let end = &mut connection.ends[this];
                if end.is_gone || (connection.stage != Stage::Open && this == 1 && !waiting.contains(&id)) {
                    continue;
                }
                let what = if resets || !end.inbox.is_empty() { What::Reset } else { What::Close };
                end.send(what, now, arrives);
                end.forget();
            }
        }
    }

    pub(super) fn power_off(&mut self, host: HostId) {
        self.hosts[host].is_up = false;
        self.hosts[host].ports.clear();
        for connection in self.connections.values_mut() {
            for end in connection.ends.iter_mut().filter(|end| end.host == host) {
                end.outbox.clear();
                end.outbox_len = 0;
                end.forget();
            }
        }
    }
}
