//! What a metadata server is told at its start.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, check_address, check_listen, check_name, check_node, check_range, check_rate};
use crate::types::{BLOCK_LEN_MAX, Layout, MetaNode, NodeAddress, NodeId};
use crate::wire::{Program, VersionRange};

/// Servers of a cluster at most: as many as it may have members, and those that went before them.
const PEERS_MAX: usize = 16;

/// Configuration of a metadata server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaConfig {
    /// Its raft id, unique in the cluster, never reused.
    pub node: u64,
    /// Its name for people.
    pub name: String,
    /// IP:PORT where it serves clients, data servers and its peers.
    pub listen: String,
    /// HOST:PORT under which others reach it. Empty: as `listen`.
    #[serde(default)]
    pub advertise: String,
    /// IP:PORT where it serves HTTP. Empty: no HTTP.
    #[serde(default)]
    pub http_listen: String,
    /// HOST:PORT under which others reach its HTTP. Empty: as `http_listen`.
    #[serde(default)]
    pub http_advertise: String,
    /// Where it keeps log, snapshots and database.
    pub directory: PathBuf,
    /// The initial voters, this one among them; the same list on each of them: together they make the cluster. Later the membership is
    /// replicated state, and the list says where they are, should they have moved. With `join`: servers of the cluster to ask.
    pub peers: Vec<Peer>,
    /// This server makes no cluster: with an empty directory it waits until `pohmelfs cluster add` makes it a member of the one that
    /// `peers` belong to.
    #[serde(default)]
    pub join: bool,
    /// Replicas of each block of new files, 1 to 5.
    #[serde(default = "MetaConfig::default_replicas")]
    pub replicas: u8,
    /// Replicas that must be durable before a write is acknowledged when a data server does not answer.
    #[serde(default = "MetaConfig::default_durable_min")]
    pub durable_min: u8,
    /// How long things take.
    #[serde(default)]
    pub timers: MetaTimers,
    /// How much there may be.
    #[serde(default)]
    pub limits: MetaLimits,
    /// Which program it is. No key: tests let a server be another one than this.
    #[serde(skip, default = "Program::this")]
    pub program: Program,
    /// The protocol versions it speaks; likewise.
    #[serde(skip, default = "MetaConfig::protocol")]
    pub versions: VersionRange,
}

/// One initial voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its raft id.
    pub node: u64,
    /// Its name for people.
    pub name: String,
    /// HOST:PORT under which others reach it. A name is resolved at every connect and need not resolve now.
    pub address: String,
    /// HOST:PORT under which others reach its HTTP; empty: not known here.
    #[serde(default)]
    pub http: String,
}

/// Timers of a metadata server, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetaTimers {
    /// A leader says so this often. With 50 / 200-400 a killed leader costs about 0.8 s on two cores.
    pub heartbeat_ms: u64,
    /// A follower waits at least this long for a leader before it stands for election.
    pub election_ms_min: u64,
    /// And at most this long (drawn at random, so that two seldom stand at once).
    pub election_ms_max: u64,
    /// Longest life that a session may ask for without a keep-alive.
    pub session_ttl_ms: u64,
    /// A data server that has been silent this long is `Suspect`.
    pub suspect_ms: u64,
    /// And this long: `Down`.
    pub down_ms: u64,
    /// A request is answered, with an error if need be, within this time.
    pub request_ms: u64,
    /// Behind a restore, blocks that were written before it and that nothing refers to are kept this long: time to notice that the dump was
    /// too old, and to restore a newer one. 0: not at all.
    pub reclaim_grace_ms: u64,
}

impl Default for MetaTimers {
    fn default() -> Self {
        Self {
            heartbeat_ms: 50,
            election_ms_min: 200,
            election_ms_max: 400,
            session_ttl_ms: 15_000,
            suspect_ms: 1_500,
            down_ms: 10_000,
            request_ms: 10_000,
            reclaim_grace_ms: 24 * 3_600_000,
        }
    }
}

/// Bounds of a metadata server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetaLimits {
    /// Connections at once; more are refused.
    pub connection_count: u32,
    /// Requests at once over all connections; more are answered Busy and sent again. The last quarter is for connections with few.
    pub in_flight: u32,
    /// Bytes of those requests.
    pub request_bytes: u64,
    /// Requests a second that the clients of one address may begin on this server, on the average; those beyond wait their turn. 0: as
    /// many as come.
    pub requests_per_second: u32,
    /// Sessions at once in the whole cluster: mounts and programs that use the library.
    pub sessions: u32,
    /// Bytes of changes in memory that the database does not hold yet; when full, proposals slow down.
    pub overlay_bytes: u64,
    /// Bytes of the cache in front of the database.
    pub cache_bytes: u64,
    /// Bytes of the database's own cache.
    pub sled_cache_bytes: u64,
    /// A snapshot is built every so many log entries.
    pub snapshot_entries: u64,
    /// Log entries kept behind a snapshot, so that a follower that was away for a moment needs no snapshot.
    pub keep_entries: u64,
}

impl Default for MetaLimits {
    fn default() -> Self {
        Self {
            connection_count: 4096,
            in_flight: 8192,
            request_bytes: 256 << 20,
            requests_per_second: 0,
            sessions: 65_536,
            overlay_bytes: 512 << 20,
            cache_bytes: 128 << 20,
            sled_cache_bytes: 64 << 20,
            snapshot_entries: 100_000,
            keep_entries: 20_000,
        }
    }
}

impl MetaConfig {
    const fn default_replicas() -> u8 {
        3
    }

    const fn default_durable_min() -> u8 {
        2
    }

    const fn protocol() -> VersionRange {
        VersionRange::OURS
    }

    /// A configuration with every key set: the pattern that keys are checked against, and a start for tests.
    #[must_use]
    pub fn example() -> Self {
        let peer = |i: u64| Peer {
            node: i,
            name: format!("meta-{i}"),
            address: format!("127.0.0.1:{}", 7000 + i),
            http: format!("127.0.0.1:{}", 8000 + i),
        };
        Self {
            node: 1,
            name: "meta-1".to_owned(),
            listen: "127.0.0.1:7001".to_owned(),
            advertise: "127.0.0.1:7001".to_owned(),
            http_listen: "127.0.0.1:8001".to_owned(),
            http_advertise: "127.0.0.1:8001".to_owned(),
            directory: PathBuf::from("/var/lib/pohmelfs/meta-1"),
            peers: (1..=3).map(peer).collect(),
            join: false,
            replicas: Self::default_replicas(),
            durable_min: Self::default_durable_min(),
            timers: MetaTimers::default(),
            limits: MetaLimits::default(),
            program: Program::this(),
            versions: Self::protocol(),
        }
    }

    /// Its id.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        NodeId(self.node)
    }

    /// Where others reach it.
    #[must_use]
    pub fn address(&self) -> NodeAddress {
        NodeAddress(if self.advertise.is_empty() { &self.listen } else { &self.advertise }.clone())
    }

    /// Where others reach its HTTP; empty if it serves none.
    #[must_use]
    pub fn http_address(&self) -> NodeAddress {
        NodeAddress(
            if self.http_advertise.is_empty() { &self.http_listen } else { &self.http_advertise }.clone(),
        )
    }

    /// What it says of itself.
    #[must_use]
    pub fn own(&self) -> MetaNode {
        MetaNode {
            node: self.node_id(),
            name: self.name.clone(),
            address: self.address(),
            http: self.http_address(),
        }
    }

    /// The metadata servers it is told of: the initial voters as they stand in the first cluster map, or whom to ask.
    #[must_use]
    pub fn servers(&self) -> Vec<MetaNode> {
        let voter = |peer: &Peer| MetaNode {
            node: NodeId(peer.node),
            name: peer.name.clone(),
            address: NodeAddress(peer.address.clone()),
            http: NodeAddress(peer.http.clone()),
        };
        self.peers.iter().map(voter).collect()
    }

    /// How new files are kept.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        Layout { replica_count: self.replicas, durable_min: self.durable_min, block_len: BLOCK_LEN_MAX }
    }

    /// Refuses values that cannot be.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names key, value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_node("node", self.node)?;
        check_name("name", &self.name)?;
        // A server alone may take any free port, for nobody has to find it by its configuration.
        let alone = self.peers.len() == 1 && !self.join;
        check_listen("listen", &self.listen, alone)?;
        if !self.advertise.is_empty() {
            check_address("advertise", &self.advertise, false)?;
        }
        if !self.http_listen.is_empty() {
            check_listen("http_listen", &self.http_listen, true)?;
            if self.http_listen == self.listen && !self.listen.ends_with(":0") {
                return Err(ConfigError::value(
                    "http_listen",
                    &self.http_listen,
                    "another port than `listen`",
                ));
            }
        }
        if !self.http_advertise.is_empty() {
            check_address("http_advertise", &self.http_advertise, false)?;
        }
        if self.directory.as_os_str().is_empty() {
            return Err(ConfigError::value("directory", "\"\"", "the path of a directory"));
        }
        self.validate_peers(alone)?;
        check_range("replicas", self.replicas, 1, 5)?;
        if self.durable_min < 1 || self.durable_min > self.replicas {
            let allowed = format!("1 to {} (the value of replicas)", self.replicas);
            return Err(ConfigError::value("durable_min", self.durable_min, allowed));
        }
        self.timers.validate()?;
        self.limits.validate()
    }

    fn validate_peers(&self, alone: bool) -> Result<(), ConfigError> {
        let count = self.peers.len();
        if self.join && !(1..=PEERS_MAX).contains(&count) {
            let allowed = format!("1 to {PEERS_MAX} servers of the cluster that this one is to join");
            return Err(ConfigError::value("peers", format!("{count} entries"), allowed));
        }
        if !self.join && ![1, 3, 5].contains(&count) {
            let allowed = "a list of 1, 3 or 5 initial voters, this one among them (an even number survives no \
                           more failures than one less); or set join = true for a server that is added later";
            return Err(ConfigError::value("peers", format!("{count} entries"), allowed));
        }
        let (mut ids, mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for peer in &self.peers {
            check_node("peers.node", peer.node)?;
            check_name("peers.name", &peer.name)?;
            check_address("peers.address", &peer.address, alone)?;
            if !peer.http.is_empty() {
                check_address("peers.http", &peer.http, alone)?;
            }
            if !ids.insert(peer.node) {
                return Err(ConfigError::value("peers.node", peer.node, "unique: two peers have it"));
            }
            if !names.insert(&peer.name) {
                return Err(ConfigError::value("peers.name", &peer.name, "unique: two peers have it"));
            }
            if !addresses.insert(&peer.address) {
                return Err(ConfigError::value("peers.address", &peer.address, "unique: two peers have it"));
            }
        }
        match self.peers.iter().find(|p| p.node == self.node) {
            None if self.join => Ok(()),
            Some(_) if self.join && count == 1 => {
                let allowed = "other servers of the cluster that this one is to join (join = true)";
                Err(ConfigError::value("peers", "this server alone", allowed))
            }
            None => {
                let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
                let allowed = format!(
                    "one of the ids in peers ({}): a server lists itself too, unless it is added later (join = true)",
                    ids.join(", ")
                );
                Err(ConfigError::value("node", self.node, allowed))
            }
            Some(own) if own.name != self.name => {
                let allowed = format!("{} (the name that peers gives to node {})", own.name, self.node);
                Err(ConfigError::value("name", &self.name, allowed))
            }
            Some(_) => Ok(()),
        }
    }
}

impl MetaTimers {
    fn validate(&self) -> Result<(), ConfigError> {
        check_range("timers.heartbeat_ms", self.heartbeat_ms, 10, 10_000)?;
        if self.election_ms_min < 2 * self.heartbeat_ms {
            let allowed = format!(
                "at least {} (twice timers.heartbeat_ms), or one late heartbeat deposes a healthy leader",
                2 * self.heartbeat_ms
            );
            return Err(ConfigError::value("timers.election_ms_min", self.election_ms_min, allowed));
        }
        if self.election_ms_max <= self.election_ms_min || self.election_ms_max > 120_000 {
            let allowed = format!("above timers.election_ms_min ({}), up to 120000", self.election_ms_min);
            return Err(ConfigError::value("timers.election_ms_max", self.election_ms_max, allowed));
        }
        check_range("timers.session_ttl_ms", self.session_ttl_ms, 1_000, 600_000)?;
        check_range("timers.suspect_ms", self.suspect_ms, 200, 600_000)?;
        if self.down_ms <= self.suspect_ms || self.down_ms > 3_600_000 {
            let allowed = format!("above timers.suspect_ms ({}), up to 3600000", self.suspect_ms);
            return Err(ConfigError::value("timers.down_ms", self.down_ms, allowed));
        }
        if self.request_ms <= self.election_ms_max || self.request_ms > 600_000 {
            let allowed = format!(
                "above timers.election_ms_max ({}), or no request outlives a change of leader, up to 600000",
                self.election_ms_max
            );
            return Err(ConfigError::value("timers.request_ms", self.request_ms, allowed));
        }
        check_range("timers.reclaim_grace_ms", self.reclaim_grace_ms, 0, 365 * 24 * 3_600_000)
    }
}

impl MetaLimits {
    fn validate(&self) -> Result<(), ConfigError> {
        check_range("limits.connection_count", self.connection_count, 8, 1_000_000)?;
        check_range("limits.in_flight", self.in_flight, 8, 1_000_000)?;
        check_range("limits.request_bytes", self.request_bytes, 16 << 20, 1 << 40)?;
        check_rate(self.requests_per_second)?;
        check_range("limits.sessions", self.sessions, 8, 1_000_000)?;
        check_range("limits.overlay_bytes", self.overlay_bytes, 1 << 20, 1 << 40)?;
        check_range("limits.cache_bytes", self.cache_bytes, 1 << 20, 1 << 40)?;
        check_range("limits.sled_cache_bytes", self.sled_cache_bytes, 1 << 20, 1 << 40)?;
        check_range("limits.snapshot_entries", self.snapshot_entries, 100, 1_000_000_000)?;
        check_range("limits.keep_entries", self.keep_entries, 0, 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut MetaConfig)) -> String {
        let mut config = MetaConfig::example();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    fn refused_for(key: &str, change: impl FnOnce(&mut MetaConfig)) {
        let told = refused(change);
        assert!(told.starts_with(&format!("{key} = ")), "wanted a refusal of {key}, got: {told}");
    }

    #[test]
    fn the_example_is_fine() {
        MetaConfig::example().validate().unwrap();
    }

    #[test]
    fn ids_names_and_addresses_are_unique() {
        refused_for("peers.node", |c| c.peers[1].node = 3);
        refused_for("peers.name", |c| c.peers[1].name = "meta-3".into());
        refused_for("peers.address", |c| c.peers[1].address = c.peers[2].address.clone());
        refused_for("peers.node", |c| c.peers[1].node = 0);
    }

    #[test]
    fn a_server_lists_itself() {
        let told = refused(|c| c.node = 9);
        let wanted = "node = 9: must be one of the ids in peers (1, 2, 3): a server lists itself too";
        assert!(told.starts_with(wanted) && told.contains("join = true"), "{told}");
        refused_for("name", |c| c.name = "meta-2".into());
        refused_for("node", |c| c.node = 0);
        refused_for("name", |c| c.name = "a b".into());
    }

    #[test]
    fn voters_are_odd_in_number() {
        refused_for("peers", |c| c.peers.clear());
        let told = refused(|c| drop(c.peers.pop()));
        assert!(told.starts_with("peers = 2 entries: must be a list of 1, 3 or 5"), "{told}");
    }

    #[test]
    fn a_server_that_is_added_later_lists_others() {
        let with = |change: fn(&mut MetaConfig)| {
            let mut config =
                MetaConfig { node: 9, name: "meta-9".into(), join: true, ..MetaConfig::example() };
            change(&mut config);
            config.validate().map_err(|e| e.to_string())
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|c| drop(c.peers.pop())), Ok(()), "two are enough to ask");
        assert_eq!(with(|c| (c.node, c.name) = (3, "meta-3".into())), Ok(()), "its disk is new");
        assert!(with(|c| c.peers.clear()).is_err());
        let told = with(|c| {
            c.peers.truncate(1);
            (c.node, c.name) = (1, "meta-1".into());
        });
        assert!(told.unwrap_err().contains("this server alone"));
    }

    #[test]
    fn replicas_and_the_write_rule_fit() {
        refused_for("replicas", |c| c.replicas = 0);
        refused_for("replicas", |c| c.replicas = 6);
        refused_for("durable_min", |c| c.durable_min = 0);
        refused_for("durable_min", |c| c.durable_min = 4);
    }

    #[test]
    fn timers_leave_room_for_each_other() {
        refused_for("timers.heartbeat_ms", |c| c.timers.heartbeat_ms = 0);
        refused_for("timers.election_ms_min", |c| c.timers.election_ms_min = c.timers.heartbeat_ms);
        refused_for("timers.election_ms_min", |c| c.timers.heartbeat_ms = 5_000);
        refused_for("timers.election_ms_max", |c| c.timers.election_ms_max = c.timers.election_ms_min);
        refused_for("timers.session_ttl_ms", |c| c.timers.session_ttl_ms = 0);
        refused_for("timers.down_ms", |c| c.timers.down_ms = c.timers.suspect_ms);
        refused_for("timers.request_ms", |c| c.timers.request_ms = c.timers.election_ms_max);
        refused_for("timers.reclaim_grace_ms", |c| c.timers.reclaim_grace_ms = u64::MAX);
    }

    #[test]
    fn addresses_are_addresses() {
        refused_for("listen", |c| c.listen = "7001".into());
        refused_for("listen", |c| c.listen = "meta-1:7001".into());
        refused_for("listen", |c| c.listen = "127.0.0.1:70001".into());
        refused_for("advertise", |c| c.advertise = ":7001".into());
        refused_for("advertise", |c| c.advertise = "meta-1:0".into());
        refused_for("http_listen", |c| c.http_listen = "x".into());
        refused_for("http_listen", |c| c.http_listen = c.listen.clone());
        refused_for("peers.address", |c| c.peers[0].address = "meta-1".into());
        refused_for("peers.address", |c| c.peers[0].address = "a:b:1".into());
        refused_for("directory", |c| c.directory = PathBuf::new());
    }

    #[test]
    fn any_free_port_is_for_a_server_alone() {
        let told = refused(|c| c.listen = "127.0.0.1:0".into());
        assert!(told.starts_with("listen = 127.0.0.1:0: must be a port from 1 to 65535"), "{told}");
        let mut alone = MetaConfig::example();
        alone.peers.truncate(1);
        alone.listen = "127.0.0.1:0".into();
        alone.advertise = String::new();
        alone.http_listen = "127.0.0.1:0".into();
        alone.validate().unwrap();
    }

    #[test]
    fn limits_are_bounded() {
        refused_for("limits.connection_count", |c| c.limits.connection_count = 0);
        refused_for("limits.in_flight", |c| c.limits.in_flight = 0);
        refused_for("limits.request_bytes", |c| c.limits.request_bytes = 1);
        refused_for("limits.requests_per_second", |c| c.limits.requests_per_second = 1);
        refused_for("limits.sessions", |c| c.limits.sessions = 0);
        refused_for("limits.overlay_bytes", |c| c.limits.overlay_bytes = 5);
        refused_for("limits.snapshot_entries", |c| c.limits.snapshot_entries = 0);
    }
}
