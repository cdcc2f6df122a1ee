//! Metadata servers come and go while all else goes wrong: drawn from the seed beforehand, whom it meets when it happens.
//!
//! An event names a server by a number; `roll` says which one that may be by then, if any. Holds: what is drawn here comes from a stream
//! of the generator of its own, so that the other faults of a seed are what they were before there were members to change.

use std::time::Duration;

use pohmelfs::net::simulated::HostId;
use pohmelfs::types::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::{Cluster, DATA, META, address_of, node_of};
use super::faults::{Disturbance, Fault, Timed};
use super::roll::{Order, Standing};

/// Metadata servers that may come in a run.
pub const NEWCOMERS: usize = 3;
/// Of those, the ones that make the cluster larger: from three to five.
const GROWN_MAX: usize = 2;
/// One run of so many has such events.
const ONE_OF: u32 = 4;
/// Tells this stream of draws from that of the other faults.
const STREAM: u64 = 0x6d65_6d62_6572_7300;

/// One thing that happens to the members.
#[derive(Clone, Debug)]
pub enum Event {
    /// A new server is started, with an empty disk.
    Enlist(HostId),
    /// An operator makes a new server a learner, or a voter.
    Add {
        node: NodeId,
        promote: bool,
    },
    /// He makes a learner a voter.
    Promote {
        node: NodeId,
    },
    /// He removes a member that is not needed, as drawn.
    Remove {
        draw: u64,
    },
    /// He puts a new server in the place of a voter, as drawn.
    Replace {
        draw: u64,
        new: NodeId,
    },
    /// A voter is gone for good, as drawn, with its disk; `by` is to take its place.
    Lose {
        draw: u64,
        by: NodeId,
    },
    /// An operator puts the new server into that place.
    ReplaceLost {
        new: NodeId,
    },
    /// He takes one that was removed for a new one.
    AddAgain {
        draw: u64,
    },
    /// He lets another voter lead: the one that has most of the log, or one as drawn.
    Transfer {
        draw: Option<u64>,
    },
    /// The machines of those that were removed are switched off.
    Dismiss,
    /// Whoever leads is struck; `Heal` with the same number ends it.
    StrikeLeader {
        number: u32,
        blow: Blow,
    },
    Heal {
        number: u32,
        blow: Blow,
    },
    /// A server cannot be reached, or cannot reach the others, or both.
    CutOff {
        host: HostId,
        out: bool,
        back: bool,
    },
    Rejoin {
        host: HostId,
    },
    /// Operators die amid their commands.
    KillOperators,
}

/// What happens to a leader.
#[derive(Clone, Copy, Debug)]
pub enum Blow {
    Kill,
    PowerOff { seed: u64 },
    Pause,
    CutOff { out: bool, back: bool },
}

/// The host of the `i`th new server, counted from 0, in a run with so many clients.
fn host_of(i: usize, clients: u32) -> HostId {
    META + DATA + clients as usize + i
}

/// The changes of members of a seed: mostly none.
pub fn plan(seed: u64, clients: u32, from: Duration, to: Duration) -> Vec<Disturbance> {
    let mut dice = StdRng::seed_from_u64(seed ^ STREAM);
    if dice.random_range(0..ONE_OF) != 0 {
        return Vec::new();
    }
    let mut times: Vec<Duration> =
        (0..dice.random_range(1..=4)).map(|_| dice.random_range(from..to)).collect();
    times.sort_unstable();
    let mut drawing = Drawing { dice, clients, from, to, newcomers: 0, grown: 0, plan: Vec::new() };
    for at in times {
        drawing.change(at);
        if drawing.dice.random_range(0..2) == 0 {
            drawing.interruption(at);
        }
    }
    drawing.plan
}

struct Drawing {
    dice: StdRng,
    clients: u32,
    from: Duration,
    to: Duration,
    newcomers: usize,
    grown: usize,
    plan: Vec<Disturbance>,
}

fn timed(at: Duration, event: Event) -> Timed {
    Timed { at, fault: Fault::Members(event) }
}

impl Drawing {
    /// A moment soon after `at`, but before all is mended.
    fn soon(&mut self, at: Duration, within_ms: u64) -> Duration {
        (at + Duration::from_millis(self.dice.random_range(0..within_ms))).min(self.to)
    }

    fn change(&mut self, at: Duration) {
        let none_yet = self.newcomers == 0;
        match self.dice.random_range(0..100) {
            // What follows needs one that came before.
            75..90 if !none_yet => self.removal(at),
            90.. if !none_yet => {
                let draw = self.dice.random();
                self.plan.push(vec![timed(at, Event::AddAgain { draw })]);
            }
            _ if self.newcomers == NEWCOMERS => self.removal(at),
            0..30 if self.grown < GROWN_MAX => self.growth(at),
            30..55 => self.replacement(at, true),
            _ => self.replacement(at, false),
        }
    }

    /// The next new server is started; where, its id, and when an operator turns to it.
    fn newcomer(&mut self, at: Duration) -> (Timed, NodeId, Duration) {
        let i = self.newcomers;
        self.newcomers += 1;
        let enlist = timed(at, Event::Enlist(host_of(i, self.clients)));
        (enlist, node_of(META + i), self.soon(at, 600))
    }

    fn growth(&mut self, at: Duration) {
        self.grown += 1;
        let (enlist, node, asked) = self.newcomer(at);
        let promote = self.dice.random_range(0..3) > 0;
        let mut change = vec![enlist, timed(asked, Event::Add { node, promote })];
        if !promote && self.dice.random() {
            change.push(timed(self.soon(asked, 3_000), Event::Promote { node }));
        }
        self.plan.push(change);
    }

    fn replacement(&mut self, at: Duration, is_lost: bool) {
        let draw = self.dice.random();
        let (enlist, new, asked) = self.newcomer(at);
        let mut change = vec![enlist];
        if is_lost {
            let before = Duration::from_millis(self.dice.random_range(0..3_000));
            let lost = at.saturating_sub(before).max(self.from);
            change.push(timed(lost, Event::Lose { draw, by: new }));
            change.push(timed(asked, Event::ReplaceLost { new }));
        } else {
            change.push(timed(asked, Event::Replace { draw, new }));
            self.dismissal(at, &mut change);
        }
        self.plan.push(change);
    }

    fn removal(&mut self, at: Duration) {
        let mut change = vec![timed(at, Event::Remove { draw: self.dice.random() })];
        self.dismissal(at, &mut change);
        self.plan.push(change);
    }

    /// Mostly a machine is switched off some time after it was removed; else it stays, and has to find out by itself.
    fn dismissal(&mut self, at: Duration, change: &mut Disturbance) {
        if self.dice.random() {
            change.push(timed(self.soon(at, 4_000), Event::Dismiss));
        }
    }

    /// Something that happens in the middle of a change that began at `at`.
    fn interruption(&mut self, at: Duration) {
        let begin = self.soon(at, 2_000);
        let end = self.soon(begin, 3_000);
        let (out, back) = [(true, true), (true, false), (false, true)][self.dice.random_range(0..3)];
        let newest = host_of(self.newcomers.saturating_sub(1), self.clients);
        let number = u32::try_from(self.plan.len()).unwrap();
        let disturbance = match self.dice.random_range(0..100) {
            0..40 => {
                let blow = match self.dice.random_range(0..4) {
                    0 => Blow::Kill,
                    1 => Blow::PowerOff { seed: self.dice.random() },
                    2 => Blow::Pause,
                    _ => Blow::CutOff { out, back },
                };
                vec![
                    timed(begin, Event::StrikeLeader { number, blow }),
                    timed(end, Event::Heal { number, blow }),
                ]
            }
            40..50 => vec![
                Timed { at: begin, fault: Fault::Kill(newest) },
                Timed { at: end, fault: Fault::Start(newest) },
            ],
            50..58 => vec![
                Timed { at: begin, fault: Fault::PowerOff(newest, self.dice.random()) },
                Timed { at: end, fault: Fault::Start(newest) },
            ],
            58..66 => vec![
                Timed { at: begin, fault: Fault::Wipe(newest) },
                Timed { at: end, fault: Fault::Start(newest) },
            ],
            66..78 => vec![
                timed(begin, Event::CutOff { host: newest, out, back }),
                timed(end, Event::Rejoin { host: newest }),
            ],
            78..88 => vec![timed(begin, Event::KillOperators)],
            _ => {
                let draw = if self.dice.random() { Some(self.dice.random()) } else { None };
                vec![timed(begin, Event::Transfer { draw })]
            }
        };
        self.plan.push(disturbance);
    }
}

/// Lets it happen, if it may.
pub fn strike(cluster: &mut Cluster, event: &Event) {
    let roll = cluster.roll.clone();
    match *event {
        Event::Enlist(host) => cluster.enlist(host),
        Event::Add { node, promote } => ask(cluster, Order::Add { node, promote }),
        Event::Promote { node } if roll.standing(node) == Standing::Learner => {
            ask(cluster, Order::Promote { node });
        }
        Event::Promote { .. } => {}
        Event::Remove { draw } => {
            if let Some(node) = roll.superfluous(draw) {
                ask(cluster, Order::Remove { node });
            }
        }
        Event::Replace { draw, new } => {
            if let Some(old) = roll.replaceable(draw) {
                ask(cluster, Order::Replace { old, new });
            }
        }
        Event::Lose { draw, by } => {
            if let Some(node) = roll.lose(draw, by) {
                cluster.lose(roll.host(node));
            }
        }
        Event::ReplaceLost { new } => {
            if let Some(old) = roll.lost_for(new) {
                ask(cluster, Order::Replace { old, new });
            }
        }
        Event::AddAgain { draw } => {
            if let Some(node) = roll.removed(draw) {
                let host = roll.host(node);
                cluster.wipe(host);
                cluster.enlist(host);
                ask(cluster, Order::AddAgain { node });
            }
        }
        Event::Transfer { draw } => {
            let to = draw.and_then(|draw| roll.voter(draw));
            ask(cluster, Order::TransferLeader { to });
        }
        Event::Dismiss => {
            for node in roll.all(Standing::Removed) {
                cluster.dismiss(roll.host(node));
            }
        }
        Event::StrikeLeader { number, blow } => {
            if let Some(leader) = cluster.leader() {
                cluster.struck.insert(number, leader.host);
                strike_one(cluster, leader.host, blow, true);
            }
        }
        Event::Heal { number, blow } => {
            if let Some(host) = cluster.struck.remove(&number) {
                strike_one(cluster, host, blow, false);
            }
        }
        Event::CutOff { host, out, back } => cluster.cut_off(host, out, back, true),
        Event::Rejoin { host } => cluster.cut_off(host, true, true, false),
        Event::KillOperators => roll.operators().into_iter().for_each(|host| cluster.kill(host)),
    }
}

fn strike_one(cluster: &mut Cluster, host: HostId, blow: Blow, begins: bool) {
    match blow {
        Blow::Kill if begins => cluster.kill(host),
        Blow::PowerOff { seed } if begins => cluster.power_off(host, seed),
        Blow::Kill | Blow::PowerOff { .. } => cluster.start(host),
        Blow::Pause => cluster.hosts[host].is_paused = begins,
        Blow::CutOff { out, back } => cluster.cut_off(host, out, back, begins),
    }
}

/// An operator does it on a machine of his own, as often as it takes. He knows all servers that are there.
fn ask(cluster: &mut Cluster, order: Order) {
    let roll = cluster.roll.clone();
    let number = roll.order(order);
    let known = roll.nodes().into_iter().filter(|node| cluster.is_in_service(roll.host(*node)));
    let addresses = known.map(address_of).collect();
    let host = cluster.add("operator", roll.operator(number, addresses));
    roll.carried_out_on(number, host);
}
