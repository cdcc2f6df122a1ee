//! The machines of a siege: a network namespace, a failing disk and a wall clock for each server.
//!
//! ```text
//!  clients (this process) 10.70.0.254 ── bridge ──┬── 10.70.0.1  namespace, disk, clock of the first server
//!                                                 ├── 10.70.0.2  ...
//! ```
//!
//! Used by `siege`; all of it is in the network and mount namespaces of this process, and gone with it, however it ends.
//! Holds: what this machine cannot do is said (`Hosts::missing`) and not tried. Not here: what goes wrong when.

use std::ffi::OsString;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pohmelfs::mount::fuse::Mount;

use super::common::node::Place;
use super::disk::FailingDisk;

/// Where the kernel tells which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Bytes of each disk: more than is ever used, far less than the memory that is behind it.
pub const DISK_LEN: u64 = 2 << 30;

/// What can go wrong on this machine besides processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Namespaces and packet filters: hosts can be cut off.
    pub network: bool,
    /// Disks that fail.
    pub disks: bool,
    /// Clocks that jump.
    pub clocks: bool,
}

/// All of them.
pub struct Hosts {
    pub abilities: Abilities,
    /// What is not possible here, and why.
    pub missing: Vec<String>,
    pub all: Vec<Host>,
}

/// One machine.
pub struct Host {
    number: usize,
    place: Place,
    pub disk: Option<Arc<FailingDisk>>,
    mount: Option<Mount>,
    boot: PathBuf,
    boots: u64,
    clock: PathBuf,
    /// How far its wall clock is off, in milliseconds.
    skew: i64,
}

/// Runs a program to its end.
fn call(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.map_err(|e| format!("{}: {e}", words[0]))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

impl Hosts {
    /// Plain processes of this machine on its loopback, each with a directory below that of the cluster.
    pub fn plain(count: usize, why: &str) -> Self {
        let host = |number| Host {
            number,
            place: Place::default(),
            disk: None,
            mount: None,
            boot: PathBuf::new(),
            boots: 0,
            clock: PathBuf::new(),
            skew: 0,
        };
        let all = (0..count).map(host).collect();
        Self { abilities: Abilities::default(), missing: vec![why.to_owned()], all }
    }

    /// Machines with as much of their own as this one allows, with their files below `root`. To be called in namespaces of its own.
    pub async fn apart(count: usize, root: &Path) -> Self {
        let mut hosts = Self::plain(count, "");
        hosts.missing.clear();
        match connect_all(count) {
            Ok(()) => hosts.abilities.network = true,
            Err(e) => hosts.missing.push(format!("no partitions, loss and slow links: {e}")),
        }
        let library = build_clock(root);
        match &library {
            Ok(_) => hosts.abilities.clocks = true,
            Err(e) => hosts.missing.push(format!("no clock jumps: {e}")),
        }
        let abilities = hosts.abilities;
        for host in &mut hosts.all {
            if abilities.network {
                host.place.ip = ip(host.number);
                host.place.launcher = words(&[&format!("nsenter --net=/run/netns/{} --", name(host.number))]);
            }
            if let Ok(library) = &library {
                host.clock = root.join(format!("clock-{}", host.number));
                std::fs::write(&host.clock, 0_i64.to_le_bytes()).unwrap();
                let library = library.clone().into_os_string();
                host.place.variables =
                    vec![("LD_PRELOAD".into(), library), ("SIEGE_CLOCK".into(), host.clock.clone().into())];
            }
        }
        match hosts.mount_all(root).await {
            Ok(()) => hosts.abilities.disks = true,
            Err(e) => hosts.missing.push(format!("no failing disks: {e}")),
        }
        hosts
    }

    async fn mount_all(&mut self, root: &Path) -> Result<(), String> {
        if !Path::new("/dev/fuse").exists() {
            return Err("there is no /dev/fuse".into());
        }
        for host in &mut self.all {
            host.boot = root.join(format!("boot-{}", host.number));
            host.next_boot();
            let dir = root.join(format!("disk-{}", host.number));
            std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            let disk = Arc::new(FailingDisk::new(DISK_LEN));
            host.mount = Some(disk.mount(&dir).await?);
            host.disk = Some(disk);
            host.place.parent = Some(dir);
            // A machine whose power failed has booted since: the server reads so.
            let script = format!("mount --bind \"$1\" {BOOT_ID} && shift && exec \"$@\"");
            host.place.launcher.extend(words(&["unshare --mount --propagation slave -- sh -c"]));
            host.place.launcher.extend([script.into(), "sh".into(), host.boot.clone().into()]);
        }
        Ok(())
    }

    /// Packets between the two are lost, one way.
    pub fn cut(&self, from: usize, to: usize) -> Result<(), String> {
        filter(to, &format!("ip saddr {} drop", ip(from)))
    }

    /// Nothing from outside reaches the host any more, not even from clients.
    pub fn deafen(&self, host: usize) -> Result<(), String> {
        filter(host, "iif != lo drop")
    }

    /// So many of a hundred packets that come in are lost.
    pub fn lose(&self, host: usize, percent: u32) -> Result<(), String> {
        filter(host, &format!("numgen random mod 100 < {percent} drop"))
    }

    /// What the host sends is slow.
    pub fn slow(&self, host: usize) -> Result<(), String> {
        let name = name(host);
        let base = ["ip", "netns", "exec", name.as_str(), "tc", "qdisc", "replace", "dev", "eth0", "root"];
        // Not every kernel has the first.
        let delayed = call(&[&base[..], &["netem", "delay", "60ms", "30ms"]].concat());
        delayed.or_else(|_| {
            call(&[&base[..], &["tbf", "rate", "3mbit", "burst", "32kb", "latency", "400ms"]].concat())
        })
    }

    /// The network is whole again.
    pub fn mend_network(&self) -> Result<(), String> {
        if !self.abilities.network {
            return Ok(());
        }
        for host in &self.all {
            let name = name(host.number);
            call(&["ip", "netns", "exec", &name, "nft", "flush", "chain", "ip", "siege", "in"])?;
            // There may be none.
            drop(call(&["ip", "netns", "exec", &name, "tc", "qdisc", "del", "dev", "eth0", "root"]));
        }
        Ok(())
    }

    /// Unmounts all disks; the servers must be gone.
    pub async fn end(self) {
        for host in self.all {
            if let Some(mount) = host.mount
                && let Err(e) = mount.unmount().await
            {
                eprintln!("siege: a disk stays mounted until this process ends: {e}");
            }
        }
    }
}

impl Host {
    /// Where a server runs on it.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// The machine starts anew.
    pub fn next_boot(&mut self) {
        self.boots += 1;
        let id = format!("{:08x}-0000-4000-8000-{:012x}\n", self.number, self.boots);
        // In its place: servers see the file through a mount of their own.
        std::fs::write(&self.boot, id).unwrap();
    }

    /// Its wall clock jumps to be off by so much.
    pub fn set_skew(&mut self, millis: i64) {
        self.skew = millis;
        let file = std::fs::File::options().write(true).open(&self.clock).unwrap();
        file.write_all_at(&(millis * 1_000_000).to_le_bytes(), 0).unwrap();
    }

    /// How far its wall clock is off, in milliseconds.
    pub fn skew(&self) -> i64 {
        self.skew
    }
}

fn words(texts: &[&str]) -> Vec<OsString> {
    texts.iter().flat_map(|text| text.split(' ')).map(OsString::from).collect()
}

fn name(host: usize) -> String {
    format!("siege-{host}")
}

fn ip(host: usize) -> String {
    format!("10.70.0.{}", host + 1)
}

fn filter(host: usize, rule: &str) -> Result<(), String> {
    let name = name(host);
    let mut words = vec!["ip", "netns", "exec", name.as_str(), "nft", "add", "rule", "ip", "siege", "in"];
    words.extend(rule.split(' '));
    call(&words)
}

/// A bridge, and a namespace for each host that is connected to it.
fn connect_all(count: usize) -> Result<(), String> {
    let line = |text: &str| call(&text.split(' ').collect::<Vec<_>>());
    // Names of namespaces are files: here they are gone with this process.
    std::fs::create_dir_all("/run/netns").map_err(|e| format!("/run/netns: {e}"))?;
    line("mount -t tmpfs tmpfs /run/netns")?;
    line("ip link set lo up")?;
    line("ip link add siege type bridge")?;
    line("ip addr add 10.70.0.254/24 dev siege")?;
    line("ip link set siege up")?;
    for host in 0..count {
        let (name, ip) = (name(host), ip(host));
        let inside = |text: &str| line(&format!("ip netns exec {name} {text}"));
        line(&format!("ip netns add {name}"))?;
        line(&format!("ip link add veth{host} type veth peer name eth0 netns {name}"))?;
        line(&format!("ip link set veth{host} master siege up"))?;
        inside("ip link set lo up")?;
        inside(&format!("ip addr add {ip}/24 dev eth0"))?;
        inside("ip link set eth0 up")?;
        inside("nft add table ip siege")?;
        let chain = "add chain ip siege in { type filter hook input priority -10 ; }";
        call(&["ip", "netns", "exec", &name, "nft", chain])?;
    }
    Ok(())
}

/// Builds the clock that can be off.
fn build_clock(root: &Path) -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/siege/clock.c");
    let library = root.join("clock.so");
    let (source, target) = (source.to_string_lossy(), library.to_string_lossy());
    call(&["cc", "-shared", "-fPIC", "-O2", "-o", &target, &source, "-ldl"])?;
    Ok(library)
}
