//! Makes things go wrong, one after the other and side by side, and mends them.
//!
//! Two lanes draw from the seed: one hurts metadata servers, one data servers, each at most one at a time, so that a majority and
//! enough replicas are left; now and then, when both rest, everything is hit at once.
//!
//! ```text
//!  rest ──> struck (for some seconds) ──> mending (until the victim is as the others again) ──> rest
//! ```
//!
//! Holds: what is lost for good is lost on one disk at a time, and only while all others have it. The seed gives kinds and times; which
//! server leads at that moment does not depend on it. Not here: load, and the judgement.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pohmelfs::runtime::disk::CrashKeeps;
use pohmelfs::wire::status::ServerRole;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::io::Errno;
use serde_json::Value;

use super::common::{Cluster, until};
use super::disk::Trouble;
use super::faults::{Kind, Victims};
use super::hosts::{DISK_LEN, Hosts};
use super::watch::Seen;

/// Between two steps.
const STEP: Duration = Duration::from_millis(50);
/// Until a victim is as the others again: minutes of a slow, busy machine.
const MENDED_WITHIN: Duration = Duration::from_secs(180);
/// How often a server whose trouble is over may give up before that counts as broken.
const STARTS_MAX: u32 = 6;
/// Replies of a server that gave up, in the list of events.
const LINE_LEN_MAX: usize = 200;

/// One server that is hurt, or one that rests.
enum Phase {
    Rest(Instant),
    Struck { kind: Kind, node: u64, until: Instant },
    Mending { kind: Kind, node: u64, since: Instant, looked: Instant, starts: u32 },
}

struct Lane {
    victims: Victims,
    dice: StdRng,
    phase: Phase,
}

/// Who does it.
pub struct Nemesis {
    pub cluster: Cluster,
    pub hosts: Hosts,
    /// The host of each node.
    host_of: BTreeMap<u64, usize>,
    seen: Seen,
    lanes: Vec<Lane>,
    dice: StdRng,
    began: Instant,
    next_meta: u64,
    /// How often each kind struck: of metadata servers, data servers, all.
    pub counts: BTreeMap<(Kind, &'static str), u64>,
    /// What happened, with seconds since the begin.
    pub events: Vec<(f64, String)>,
    /// Promises that were broken.
    pub broken: Vec<String>,
    /// Servers that ended by themselves, which a supervisor starts again.
    pub gave_up: u64,
}

impl Nemesis {
    pub fn new(cluster: Cluster, hosts: Hosts, seen: Seen, seed: u64) -> Self {
        let host_of = cluster.nodes.iter().enumerate().map(|(host, node)| (node.id, host)).collect();
        let lane = |victims, salt| Lane {
            victims,
            dice: StdRng::seed_from_u64(seed ^ salt),
            phase: Phase::Rest(Instant::now()),
        };
        seen.aim(&cluster);
        Self {
            cluster,
            hosts,
            host_of,
            seen,
            lanes: vec![lane(Victims::Meta, 1 << 32), lane(Victims::Data, 2 << 32)],
            dice: StdRng::seed_from_u64(seed),
            began: Instant::now(),
            next_meta: 4,
            counts: BTreeMap::new(),
            events: Vec::new(),
            broken: Vec::new(),
            gave_up: 0,
        }
    }

    fn say(&mut self, what: String) {
        let at = self.began.elapsed().as_secs_f64();
        eprintln!("{at:>9.3} s  {what}");
        self.events.push((at, what));
    }

    fn at(&self, node: u64) -> usize {
        self.cluster
            .nodes
            .iter()
            .position(|n| n.id == node)
            .expect("a node that is hurt is one of the cluster")
    }

    fn name(&self, node: u64) -> String {
        self.cluster.nodes[self.at(node)].name.clone()
    }

    fn members(&self, victims: Victims) -> Vec<u64> {
        let wanted = match victims {
            Victims::Meta => ServerRole::Meta,
            Victims::Data => ServerRole::Data,
            Victims::All => return self.cluster.nodes.iter().map(|n| n.id).collect(),
        };
        self.cluster.nodes.iter().filter(|n| n.role == wanted).map(|n| n.id).collect()
    }

    /// Strikes and mends for so long.
    pub async fn rage(&mut self, length: Duration) {
        let until = Instant::now() + length;
        for lane in &mut self.lanes {
            lane.phase =
                Phase::Rest(Instant::now() + Duration::from_millis(lane.dice.random_range(200..1_500)));
        }
        while Instant::now() < until {
            self.supervise();
            let resting = self.lanes.iter().all(|lane| matches!(lane.phase, Phase::Rest(_)));
            if resting && self.dice.random_range(0..400) == 0 {
                self.strike_all().await;
            }
            for lane in 0..self.lanes.len() {
                self.step(lane).await;
            }
            tokio::time::sleep(STEP).await;
        }
    }

    async fn step(&mut self, lane: usize) {
        let now = Instant::now();
        match self.lanes[lane].phase {
            Phase::Rest(until) if now >= until => self.strike(lane).await,
            Phase::Struck { kind, node, until } if now >= until => {
                self.mend(kind, node).await;
                self.lanes[lane].phase = Phase::Mending { kind, node, since: now, looked: now, starts: 0 };
            }
            Phase::Mending { kind, node, since, looked, starts } => {
                if now.duration_since(looked) < Duration::from_millis(500) {
                    return;
                }
                let mut starts = starts;
                match self.ails(kind, node, &mut starts).await {
                    None => {
                        let rest = Duration::from_millis(self.lanes[lane].dice.random_range(100..4_000));
                        self.lanes[lane].phase = Phase::Rest(now + rest);
                    }
                    Some(why) if now.duration_since(since) > MENDED_WITHIN => {
                        let name = self.name(node);
                        self.broken.push(format!(
                            "{name} does not recover from \"{}\" within {MENDED_WITHIN:?}: {why}",
                            kind.name()
                        ));
                        self.lanes[lane].phase = Phase::Rest(now);
                    }
                    Some(_) => {
                        self.lanes[lane].phase =
                            Phase::Mending { kind, node, since, looked: Instant::now(), starts };
                    }
                }
            }
            Phase::Rest(_) | Phase::Struck { .. } => {}
        }
    }

    /// Draws what goes wrong, and with whom, and lets it.
    async fn strike(&mut self, lane: usize) {
        let victims = self.lanes[lane].victims;
        let possible: Vec<Kind> = Kind::EVERY
            .into_iter()
            .filter(|kind| kind.may_hit(victims) && kind.is_possible(self.hosts.abilities))
            .collect();
        let members = self.members(victims);
        let (kind, node, held, draw) = {
            let dice = &mut self.lanes[lane].dice;
            let kind = possible[dice.random_range(0..possible.len())];
            let node = members[dice.random_range(0..members.len())];
            let held = Duration::from_millis(dice.random_range(300..6_000));
            (kind, node, held, dice.random::<u64>())
        };
        let now = Instant::now();
        let again = now + Duration::from_millis(500);
        if kind.loses_something() && !self.is_whole(victims).await {
            self.lanes[lane].phase = Phase::Rest(again);
            return;
        }
        // Leaders are worth more.
        let leader = self.seen.leader().and_then(|name| self.cluster.nodes.iter().find(|n| n.name == name));
        let node = leader.filter(|l| members.contains(&l.id) && draw % 3 == 0).map_or(node, |l| l.id);
        self.say(format!("{} {}", self.name(node), kind.name()));
        self.lanes[lane].phase = match self.hurt(kind, node, draw).await {
            Ok(true) => Phase::Struck { kind, node, until: now + held },
            // Done in one go.
            Ok(false) => Phase::Rest(now + held / 2),
            Err(why) => {
                self.say(format!("    could not be done: {why}"));
                Phase::Rest(again)
            }
        };
        if !matches!(self.lanes[lane].phase, Phase::Rest(at) if at == again) {
            let whom = if victims == Victims::Meta { "metadata" } else { "data" };
            *self.counts.entry((kind, whom)).or_default() += 1;
        }
    }

    /// True: to be mended later. False: it is over.
    async fn hurt(&mut self, kind: Kind, node: u64, draw: u64) -> Result<bool, String> {
        let at = self.at(node);
        let host = self.host_of[&node];
        let others: Vec<usize> =
            self.host_of.iter().filter(|(other, _)| **other != node).map(|(_, host)| *host).collect();
        match kind {
            Kind::Kill => self.cluster.nodes[at].kill(),
            Kind::Bounce => {
                self.cluster.nodes[at].kill();
                self.cluster.nodes[at].start();
            }
            Kind::Pause => self.cluster.nodes[at].pause(),
            Kind::Stop => self.cluster.nodes[at].terminate(),
            Kind::Transfer => {
                let answer = self.command(&["transfer-leader"]);
                return answer.map(|_| false);
            }
            Kind::Replace => return self.replace(node, draw).await.map(|()| false),
            Kind::Wipe => {
                self.cluster.nodes[at].kill();
                self.cluster.nodes[at].wipe();
            }
            Kind::BitRot => return self.rot(node, draw).map(|()| true),
            Kind::PowerCut => {
                self.cluster.nodes[at].kill();
                self.cut_power(host, CrashKeeps::Some(draw));
            }
            Kind::ForgottenSyncs => self.trouble(host, Trouble { forgets: true, ..Trouble::default() }),
            Kind::DiskFull => self.disk(host).set_total(0),
            Kind::ReadErrors => self.trouble(host, Trouble { reads: Some(Errno::IO), ..Trouble::default() }),
            Kind::WriteErrors => {
                self.trouble(host, Trouble { writes: Some(Errno::IO), ..Trouble::default() });
            }
            Kind::SyncErrors => self.trouble(host, Trouble { syncs: Some(Errno::IO), ..Trouble::default() }),
            Kind::SlowDisk => {
                let delay = Duration::from_millis(5 + draw % 60);
                self.trouble(host, Trouble { delay, ..Trouble::default() });
            }
            Kind::Isolated => {
                for other in others {
                    self.hosts.cut(host, other)?;
                    self.hosts.cut(other, host)?;
                }
            }
            Kind::Deaf => self.hosts.deafen(host)?,
            Kind::Mute => {
                for other in others {
                    self.hosts.cut(host, other)?;
                }
            }
            Kind::Lossy => self.hosts.lose(host, 5 + u32::try_from(draw % 25).unwrap_or(5))?,
            Kind::SlowLink => self.hosts.slow(host)?,
            Kind::ClockJump => {
                let minutes = i64::try_from(draw % 1_201).unwrap_or(0) - 600;
                let skew = self.hosts.all[host].skew() + minutes * 1_000;
                self.hosts.all[host].set_skew(skew);
                return Ok(false);
            }
            Kind::AllKilled | Kind::AllPowerCut | Kind::AllApart => return Err("it hits all".into()),
        }
        Ok(true)
    }

    /// Ends what was made.
    async fn mend(&mut self, kind: Kind, node: u64) {
        let at = self.at(node);
        let host = self.host_of[&node];
        match kind {
            Kind::Pause => self.cluster.nodes[at].resume(),
            Kind::Stop => self.stopped(at).await,
            Kind::ForgottenSyncs => {
                if self.cluster.nodes[at].is_started() {
                    self.cluster.nodes[at].kill();
                }
                self.cut_power(host, CrashKeeps::Nothing);
                self.trouble(host, Trouble::default());
            }
            Kind::DiskFull => self.disk(host).set_total(DISK_LEN),
            Kind::SlowDisk => self.trouble(host, Trouble::default()),
            Kind::ReadErrors | Kind::WriteErrors | Kind::SyncErrors => {
                self.trouble(host, Trouble::default());
                // A directory that failed once takes no more writes: mended, its server is to be started again.
                if self.cluster.nodes[at].is_started() {
                    self.cluster.nodes[at].kill();
                }
            }
            Kind::Isolated | Kind::Deaf | Kind::Mute | Kind::Lossy | Kind::SlowLink => {
                // Also what the other lane did to the network: that ends early.
                if let Err(why) = self.hosts.mend_network() {
                    self.broken.push(format!("the network cannot be mended: {why}"));
                }
            }
            _ => {}
        }
        self.start(at);
    }

    fn start(&mut self, at: usize) {
        if !self.cluster.nodes[at].is_started() {
            self.seen.forget(&self.cluster.nodes[at].name);
            self.cluster.nodes[at].start();
        }
    }

    /// A planned stop ends in order.
    async fn stopped(&mut self, at: usize) {
        let node = &mut self.cluster.nodes[at];
        if !node.is_started() {
            return;
        }
        let name = node.name.clone();
        let status =
            until(&format!("the end of {name}"), async || node.ended().ok_or("it runs".into())).await;
        if !status.success() {
            self.broken.push(format!("{name} ended with {status} when it was told to stop"));
        }
    }

    /// What still keeps the victim from being as the others. `starts`: how often it had to be started again.
    async fn ails(&mut self, kind: Kind, node: u64, starts: &mut u32) -> Option<String> {
        let at = self.at(node);
        let name = self.cluster.nodes[at].name.clone();
        if !self.cluster.nodes[at].is_started() {
            *starts += 1;
            if *starts > STARTS_MAX {
                return Some(format!(
                    "it gives up again and again: {}",
                    last_line(&self.cluster.nodes[at].tail())
                ));
            }
            self.start(at);
            return Some("it gave up".into());
        }
        let Some(status) = self.seen.of(&name) else { return Some("it does not answer".into()) };
        if !status.ready {
            return Some(status.reason);
        }
        if let Some(data) = status.data {
            if !data.state.as_deref().is_some_and(|state| state.eq_ignore_ascii_case("up")) {
                return Some(format!("the cluster takes it for {:?}", data.state));
            }
            if kind.loses_something() && !(data.compared && data.lacking == 0) {
                return Some(format!("it lacks {} blocks", data.lacking));
            }
            if kind == Kind::BitRot {
                return self.is_rotten().await;
            }
        }
        None
    }

    /// Every server of the kind has all that it ought to have.
    async fn is_whole(&self, victims: Victims) -> bool {
        let members = self.members(victims);
        let index = |name: &str| self.seen.of(name).and_then(|s| s.meta).map(|m| m.applied);
        let newest = self.cluster.meta().iter().filter_map(|n| index(&n.name)).max().unwrap_or(0);
        members.into_iter().all(|node| {
            let Some(status) = self.seen.of(&self.name(node)) else { return false };
            let data = status.data.is_none_or(|d| d.compared && d.lacking == 0);
            let meta = status.meta.is_none_or(|m| m.applied + 1_000 > newest);
            status.ready && data && meta
        })
    }

    /// Looks at every byte of every replica; what is damaged still.
    async fn is_rotten(&self) -> Option<String> {
        match self.check_deep() {
            Err(why) => Some(why),
            Ok(report) => {
                let corrupt = report["replicas"]["corrupt"].as_u64();
                (corrupt != Some(0)).then(|| format!("{corrupt:?} replicas are damaged"))
            }
        }
    }

    /// `pohmelfs check --deep`, as it reports.
    pub fn check_deep(&self) -> Result<Value, String> {
        let output = self.cluster.command(&["check", "--deep", "--json"]);
        serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("pohmelfs check: {e}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// `pohmelfs cluster ...`: its result, or the complaint.
    fn command(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self.cluster.command(&[&["cluster", "--json"], arguments].concat());
        let value: Value = serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
        match value["outcome"].as_str() {
            Some("refused") => Err(value["reason"].as_str().unwrap_or("refused").to_owned()),
            _ => Ok(value),
        }
    }

    /// Puts a new server on the spare machine in the place of one that is killed, or leaves in order.
    async fn replace(&mut self, old: u64, draw: u64) -> Result<(), String> {
        let used: Vec<usize> = self.host_of.values().copied().collect();
        let spare =
            (0..self.hosts.all.len()).find(|host| !used.contains(host)).ok_or("no machine is free")?;
        let new = self.next_meta;
        self.next_meta += 1;
        if draw & 1 == 0 {
            let at = self.at(old);
            self.cluster.nodes[at].kill();
        }
        let at = self.cluster.start_stranger_at(new, self.hosts.all[spare].place());
        self.host_of.insert(new, spare);
        self.seen.aim(&self.cluster);
        let waits = until("the new server to wait", async || {
            let (status, meta) = self.cluster.meta_status(at).await?;
            if meta.raft_state == "stranger" { Ok(()) } else { Err(status.reason) }
        });
        waits.await;
        let address = self.cluster.nodes[at].address.clone();
        let (old_id, new_id) = (old.to_string(), new.to_string());
        let mut answer = Err(String::new());
        // A command that was interrupted or refused for the moment is sent again.
        for _ in 0..20 {
            answer = self.command(&["replace", &old_id, &new_id, &address, "--timeout", "60"]);
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        answer.map_err(|why| {
            self.broken.push(format!("{old} cannot be replaced by {new}: {why}"));
            why
        })?;
        let mut gone = self.cluster.dismiss(self.at(old));
        self.host_of.remove(&old);
        if gone.is_started() {
            gone.kill();
        }
        gone.wipe();
        self.cluster.write_configs();
        self.seen.aim(&self.cluster);
        self.say(format!("    by {}", self.name(new)));
        Ok(())
    }

    /// Flips a bit in some of the blocks of a data server.
    fn rot(&mut self, node: u64, draw: u64) -> Result<(), String> {
        let at = self.at(node);
        let mut dice = StdRng::seed_from_u64(draw);
        let disk = self.hosts.all[self.host_of[&node]].disk.clone();
        let below = |dir: &Path| match &disk {
            Some(disk) => disk.files_below(&Path::new("/").join(dir)),
            None => files_below(dir),
        };
        let name = PathBuf::from(&self.cluster.nodes[at].name);
        let root = if disk.is_some() { name } else { self.cluster.nodes[at].dir.clone() };
        let files = below(&root.join("blocks"));
        let files: Vec<(PathBuf, usize)> = files.into_iter().filter(|(_, len)| *len > 0).collect();
        if files.is_empty() {
            return Err("it has no blocks yet".into());
        }
        for _ in 0..3 {
            let (file, len) = &files[dice.random_range(0..files.len())];
            let byte = dice.random_range(0..*len);
            match &disk {
                Some(disk) => disk.flip(file, byte),
                None => flip(file, byte)?,
            }
            self.say(format!("    bit of byte {byte} of {}", file.display()));
        }
        Ok(())
    }

    fn disk(&self, host: usize) -> &super::disk::FailingDisk {
        self.hosts.all[host].disk.as_ref().expect("kinds that need disks are drawn where there are some")
    }

    fn trouble(&self, host: usize, trouble: Trouble) {
        self.disk(host).set_trouble(trouble);
    }

    fn cut_power(&mut self, host: usize, keeps: CrashKeeps) {
        self.disk(host).cut_power(keeps);
        self.hosts.all[host].next_boot();
    }

    /// Everything at once. Both lanes rest.
    async fn strike_all(&mut self) {
        let possible: Vec<Kind> = Kind::EVERY
            .into_iter()
            .filter(|kind| kind.may_hit(Victims::All) && kind.is_possible(self.hosts.abilities))
            .collect();
        let kind = possible[self.dice.random_range(0..possible.len())];
        let held = Duration::from_millis(self.dice.random_range(100..5_000));
        let draw: u64 = self.dice.random();
        self.say(kind.name().to_owned());
        *self.counts.entry((kind, "all")).or_default() += 1;
        match kind {
            Kind::AllApart => {
                let hosts: Vec<usize> = self.cluster.meta().iter().map(|n| self.host_of[&n.id]).collect();
                for from in &hosts {
                    for to in hosts.iter().filter(|to| *to != from) {
                        if let Err(why) = self.hosts.cut(*from, *to) {
                            self.say(format!("    could not be done: {why}"));
                        }
                    }
                }
            }
            _ => {
                self.cluster.kill_all();
                if kind == Kind::AllPowerCut {
                    for host in self.host_of.values().copied().collect::<Vec<_>>() {
                        self.cut_power(host, CrashKeeps::Some(draw ^ host as u64));
                    }
                }
            }
        }
        tokio::time::sleep(held).await;
        self.calm().await;
    }

    /// Servers that ended by themselves: those that are not hurt are started again, as a supervisor would.
    fn supervise(&mut self) {
        let hurt: Vec<(u64, Kind)> = self
            .lanes
            .iter()
            .filter_map(|lane| match lane.phase {
                Phase::Struck { node, kind, .. } | Phase::Mending { node, kind, .. } => Some((node, kind)),
                Phase::Rest(_) => None,
            })
            .collect();
        for at in 0..self.cluster.nodes.len() {
            let node = &mut self.cluster.nodes[at];
            let (id, name) = (node.id, node.name.clone());
            let kind = hurt.iter().find(|(hurt, _)| *hurt == id).map(|(_, kind)| *kind);
            if !node.is_started() || node.is_paused() {
                continue;
            }
            let Some(status) = node.ended() else { continue };
            if kind == Some(Kind::Stop) {
                if !status.success() {
                    self.broken.push(format!("{name} ended with {status} when it was told to stop"));
                }
                continue;
            }
            self.gave_up += 1;
            let last = last_line(&self.cluster.nodes[at].tail());
            self.say(format!("    {name} gave up ({status}): {last}"));
            // 101: a panic. A signal: worse.
            if status.code().is_none_or(|code| code == 101) {
                self.broken.push(format!("{name} ended with {status}: {last}"));
            }
            if kind.is_none() {
                self.start(at);
            }
        }
    }

    /// Everything is mended and runs, and is ready.
    pub async fn calm(&mut self) {
        for lane in 0..self.lanes.len() {
            if let Phase::Struck { kind, node, .. } = self.lanes[lane].phase {
                self.mend(kind, node).await;
            }
            self.lanes[lane].phase = Phase::Rest(Instant::now() + Duration::from_millis(500));
        }
        if let Err(why) = self.hosts.mend_network() {
            self.broken.push(format!("the network cannot be mended: {why}"));
        }
        let began = Instant::now();
        let mut starts = 0;
        loop {
            self.supervise();
            for at in 0..self.cluster.nodes.len() {
                self.start(at);
            }
            let mut ailing = Vec::new();
            for node in self.cluster.nodes.iter() {
                match node.status().await {
                    Ok(status) if status.ready => {}
                    Ok(status) => ailing.push(format!("{}: {}", node.name, status.reason)),
                    Err(why) => ailing.push(why),
                }
            }
            if ailing.is_empty() {
                break;
            }
            starts += 1;
            if began.elapsed() > MENDED_WITHIN {
                panic!("servers are not ready after {starts} looks: {}", ailing.join("; "));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.cluster.ready().await;
    }
}

fn last_line(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.chars().take(LINE_LEN_MAX).collect()
}

fn flip(path: &Path, byte: usize) -> Result<(), String> {
    use std::os::unix::fs::FileExt;
    let damage = || -> std::io::Result<()> {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        let mut there = [0];
        file.read_exact_at(&mut there, byte as u64)?;
        file.write_all_at(&[there[0] ^ 0x10], byte as u64)
    };
    damage().map_err(|e| format!("{}: {e}", path.display()))
}

/// All files below a directory, with their lengths. What goes meanwhile is left out.
fn files_below(dir: &Path) -> Vec<(PathBuf, usize)> {
    let mut out = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        let Ok(entries) = std::fs::read_dir(next) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(m) if m.is_dir() => left.push(entry.path()),
                Ok(m) => out.push((entry.path(), usize::try_from(m.len()).unwrap_or(0))),
                Err(_) => {}
            }
        }
    }
    out.sort();
    out
}
