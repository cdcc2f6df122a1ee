//! What goes wrong in a run: drawn from its seed beforehand, so that a failing run can be repeated with less of it.
//!
//! Holds: whatever is broken is mended before the end; no more metadata servers lose their disks at a time than raft can do without
//! (`roll`), and at most one data server has bits that flip. Not here: which members come and go (`members`).

use std::fmt;
use std::path::Path;
use std::time::Duration;

use pohmelfs::net::simulated::{HostId, LinkQuality};
use pohmelfs::wire::members::MembersRequest;
use pohmelfs::wire::message::MetaRequest;
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::io::Errno;

use super::cluster::{Cluster, DATA, META, meta_addresses, node_of};
use super::host::Program;
use super::members::{self, Event};
use super::roll::Standing;
use super::workload;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Fault {
    Kill(HostId),
    PowerOff(HostId, u64),
    Start(HostId),
    /// The server stops in order.
    Stop(HostId),
    /// Whoever leads is asked to let another one lead.
    Transfer,
    Pause(HostId),
    Resume(HostId),
    Cut(HostId, HostId),
    Mend(HostId, HostId),
    Reset(usize),
    Slow,
    Lossy,
    Clean,
    /// The wall clock of a host is off by so many milliseconds from now on.
    ClockJump(HostId, i64),
    /// A call to the disk fails, so many calls from now.
    DiskError(HostId, u64, Errno),
    DiskFull(HostId),
    DiskRoom(HostId),
    /// The disk of a metadata server is replaced by an empty one.
    Wipe(HostId),
    /// A bit flips in a block at rest, as drawn.
    Rot(HostId, u64),
    /// A client dies amid its calls, and never comes back.
    KillClient(u32),
    /// The members change.
    Members(Event),
}

/// A fault and when it happens.
#[derive(Clone, Debug)]
pub struct Timed {
    pub at: Duration,
    pub fault: Fault,
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} s  {:?}", self.at.as_secs_f64(), self.fault)
    }
}

/// A whole disturbance, from its begin to its mending.
pub type Disturbance = Vec<Timed>;

/// What goes wrong between `from` and `to`: some disturbances, each of which mends itself.
pub fn plan(dice: &mut StdRng, clients: u32, from: Duration, to: Duration) -> Vec<Disturbance> {
    let count = dice.random_range(0..=6);
    let mut wiped = false;
    // The one whose bits may flip: what it loses the others have.
    let rotten = dice.random_range(META..META + DATA);
    let mut plan: Vec<Disturbance> =
        (0..count).map(|_| disturbance(dice, from, to, &mut wiped, rotten)).collect();
    // The first client makes the files of all: it stays.
    for client in 1..clients {
        if dice.random_range(0..8) == 0 {
            plan.push(vec![Timed { at: dice.random_range(from..to), fault: Fault::KillClient(client) }]);
        }
    }
    plan
}

fn disturbance(
    dice: &mut StdRng,
    from: Duration,
    to: Duration,
    wiped: &mut bool,
    rotten: HostId,
) -> Disturbance {
    let at = dice.random_range(from..to);
    let end = (at + Duration::from_millis(dice.random_range(20..4_000))).min(to);
    let meta = dice.random_range(0..META);
    let host = dice.random_range(0..META + DATA);
    let timed = |at, fault| Timed { at, fault };
    match dice.random_range(0..116) {
        0..18 => vec![timed(at, Fault::Kill(host)), timed(end, Fault::Start(host))],
        18..34 => vec![timed(at, Fault::PowerOff(host, dice.random())), timed(end, Fault::Start(host))],
        34..46 => vec![timed(at, Fault::Pause(host)), timed(end, Fault::Resume(host))],
        46..58 => {
            // One way, or both, between two metadata servers, or one of them and everybody.
            let others = (0..META + DATA).filter(|h| *h != meta);
            let others: Vec<HostId> = if dice.random() { others.collect() } else { vec![(meta + 1) % META] };
            let (out, back) = (dice.random::<bool>(), dice.random::<bool>());
            let mut faults = Vec::new();
            for other in others {
                if out || !back {
                    faults.push(timed(at, Fault::Cut(meta, other)));
                    faults.push(timed(end, Fault::Mend(meta, other)));
                }
                if back {
                    faults.push(timed(at, Fault::Cut(other, meta)));
                    faults.push(timed(end, Fault::Mend(other, meta)));
                }
            }
            faults
        }
        58..68 => vec![timed(at, Fault::Reset(dice.random_range(1..8)))],
        68..74 => vec![timed(at, Fault::Slow), timed(end, Fault::Clean)],
        74..80 => vec![timed(at, Fault::Lossy), timed(end, Fault::Clean)],
        80..86 => vec![timed(at, Fault::ClockJump(host, dice.random_range(-600_000..600_000)))],
        86..92 => {
            let error = if dice.random() { Errno::IO } else { Errno::NOSPC };
            vec![timed(at, Fault::DiskError(host, dice.random_range(0..20), error))]
        }
        92..95 => vec![timed(at, Fault::DiskFull(host)), timed(end, Fault::DiskRoom(host))],
        95..98 if !*wiped => {
            *wiped = true;
            vec![timed(at, Fault::Wipe(meta)), timed(end, Fault::Start(meta))]
        }
        100..106 => vec![timed(at, Fault::Stop(host))],
        106..112 => vec![timed(at, Fault::Transfer)],
        112..116 => vec![timed(at, Fault::Rot(rotten, dice.random()))],
        // All of them at once.
        _ => {
            let mut faults = Vec::new();
            for host in 0..META + DATA {
                faults.push(timed(at, Fault::PowerOff(host, dice.random())));
                faults.push(timed(end, Fault::Start(host)));
            }
            faults
        }
    }
}

/// Lets it happen.
pub fn strike(cluster: &mut Cluster, fault: &Fault) {
    match *fault {
        Fault::Kill(host) => cluster.kill(host),
        Fault::PowerOff(host, seed) => cluster.power_off(host, seed),
        Fault::Start(host) => cluster.start(host),
        Fault::Stop(host) => cluster.stop(host),
        Fault::Transfer => transfer(cluster),
        Fault::Rot(host, draw) => rot(cluster, host, draw),
        Fault::Pause(host) => cluster.hosts[host].is_paused = true,
        Fault::Resume(host) => cluster.hosts[host].is_paused = false,
        Fault::Cut(from, to) => cluster.network.cut(from, to, true),
        Fault::Mend(from, to) => cluster.network.cut(from, to, false),
        Fault::Reset(count) => cluster.network.reset_some(count),
        Fault::Slow => cluster.network.set_quality(quality(20, 120, 0)),
        Fault::Lossy => cluster.network.set_quality(quality(0, 3, 100)),
        Fault::Clean => cluster.network.set_quality(quality(0, 2, 0)),
        Fault::ClockJump(host, millis) => cluster.hosts[host].skew += millis * 1_000_000,
        Fault::DiskError(host, calls, error) => cluster.hosts[host].disk.fail_call(calls, error),
        Fault::DiskFull(host) => cluster.hosts[host].disk.set_total(0),
        Fault::DiskRoom(host) => cluster.hosts[host].disk.set_total(1 << 40),
        Fault::Wipe(host) => {
            // One of those whom its configuration names must be there to tell it of the others (seed 708200851).
            let voters = cluster.roll.all(Standing::Voter);
            let named = (0..META).filter(|peer| *peer != host).map(node_of);
            if cluster.roll.may_wipe(host) && named.into_iter().any(|peer| voters.contains(&peer)) {
                cluster.roll.wiped(host);
                cluster.wipe(host);
            }
        }
        Fault::Members(ref event) => members::strike(cluster, event),
        Fault::KillClient(number) => cluster.hosts[META + DATA + number as usize].kill(),
    }
}

/// An operator asks that another server leads; what comes of it is his business.
fn transfer(cluster: &mut Cluster) {
    let leading = cluster.looks().into_iter().find(|look| look.meta.raft_state == "leader");
    let Some(from) = leading.map(|look| look.node) else { return };
    let program: Program = Box::new(move |_disk| {
        Box::pin(async move {
            let client = workload::connect("operator", &meta_addresses()).await;
            let request = MetaRequest::Members(MembersRequest::TransferLeader { from, to: None });
            drop(client.request(&request, Duration::from_secs(10)).await);
            client.close().await;
        })
    });
    cluster.add("operator", program);
}

fn rot(cluster: &mut Cluster, host: HostId, draw: u64) {
    let disk = &cluster.hosts[host].disk;
    let files = disk.files_below(Path::new("/data/blocks"));
    let Some(file) = usize::try_from(draw >> 32).ok().and_then(|d| files.get(d % files.len().max(1))) else {
        return;
    };
    let len = disk.file_len(file).unwrap_or(0);
    if let (Ok(byte), true) = (usize::try_from(draw & 0xffff_ffff), len > 0) {
        disk.flip(file, byte % len, 0x10);
    }
}

fn quality(min_ms: u64, max_ms: u64, lost_of_1000: u32) -> LinkQuality {
    LinkQuality {
        latency_min: Duration::from_millis(min_ms).max(Duration::from_micros(200)),
        latency_max: Duration::from_millis(max_ms),
        lost_of_1000,
    }
}

/// Mends everything that is still broken.
pub fn mend_all(cluster: &mut Cluster) {
    for from in 0..cluster.hosts.len() {
        for to in 0..cluster.hosts.len() {
            cluster.network.cut(from, to, false);
        }
    }
    cluster.network.set_quality(quality(0, 2, 0));
    for host in cluster.servers() {
        cluster.hosts[host].disk.set_total(1 << 40);
        cluster.hosts[host].is_paused = false;
        cluster.start(host);
    }
    for operator in cluster.roll.operators() {
        cluster.start(operator);
    }
}
