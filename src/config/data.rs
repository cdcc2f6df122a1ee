//! What a data server is told at its start.

use std::collections::BTreeSet;
use std::path::{Component, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, check_address, check_listen, check_name, check_node, check_range, check_rate};
use crate::types::{DomainLabel, NodeAddress, NodeId};

/// Configuration of a data server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Its id, unique in the cluster, also among metadata servers; never reused.
    pub node: u64,
    /// Its name for people, unique in the cluster.
    pub name: String,
    /// IP:PORT where it serves blocks. Port 0, any free one, is fine without `advertise`: it registers what it got.
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
    /// HOST:PORT of metadata servers to register with. A name is resolved at every connect and need not resolve now.
    pub meta_servers: Vec<String>,
    /// Where it keeps blocks: one or more directories, of this machine or mounted from another.
    pub directories: Vec<PathBuf>,
    /// How it uses several directories.
    #[serde(default)]
    pub mode: DirectoryMode,
    /// With mode = "mirror": directories that each block is kept in. 0 with mode = "spread".
    #[serde(default)]
    pub mirror_count: u8,
    /// Failure domain: two replicas of a block share none. Empty: the name, so that each server is one.
    #[serde(default)]
    pub domain: String,
    /// Bytes of each directory's filesystem that new blocks leave free.
    #[serde(default = "DataConfig::default_reserve_bytes")]
    pub reserve_bytes: u64,
    /// How long things take.
    #[serde(default)]
    pub timers: DataTimers,
    /// How much there may be.
    #[serde(default)]
    pub limits: DataLimits,
}

/// How a data server uses several directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectoryMode {
    /// Each block in one of them.
    #[default]
    Spread,
    /// Each block in `mirror_count` of them.
    Mirror,
}

/// Timers of a data server, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataTimers {
    /// It reports to the metadata servers this often.
    pub heartbeat_ms: u64,
    /// A request is answered, with an error if need be, within this time.
    pub request_ms: u64,
    /// Every block is read and compared with its checksum within this time; 0: never.
    pub scrub_ms: u64,
}

impl Default for DataTimers {
    fn default() -> Self {
        Self { heartbeat_ms: 300, request_ms: 20_000, scrub_ms: 7 * 24 * 3_600_000 }
    }
}

/// Bounds of a data server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataLimits {
    /// Connections at once; more are refused.
    pub connection_count: u32,
    /// Requests at once over all connections; more are answered Busy and sent again. Each may hold a block in memory. The last quarter
    /// is for connections with few.
    pub in_flight: u32,
    /// Requests a second that the clients of one address may begin on this server, on the average; those beyond wait their turn. 0: as
    /// many as come.
    pub requests_per_second: u32,
    /// Threads for each directory: its reads and fsyncs block.
    pub threads: u16,
}

impl Default for DataLimits {
    fn default() -> Self {
        Self { connection_count: 4096, in_flight: 128, requests_per_second: 0, threads: 8 }
    }
}

impl DataConfig {
    const fn default_reserve_bytes() -> u64 {
        256 << 20
    }

    /// A configuration with every key set: the pattern that keys are checked against, and a start for tests.
    #[must_use]
    pub fn example() -> Self {
        Self {
            node: 101,
            name: "data-1".to_owned(),
            listen: "127.0.0.1:7101".to_owned(),
            advertise: "127.0.0.1:7101".to_owned(),
            http_listen: "127.0.0.1:8101".to_owned(),
            http_advertise: "127.0.0.1:8101".to_owned(),
            meta_servers: (1..=3).map(|i| format!("127.0.0.1:{}", 7000 + i)).collect(),
            directories: vec![PathBuf::from("/var/lib/pohmelfs/data-1")],
            mode: DirectoryMode::Spread,
            mirror_count: 0,
            domain: "data-1".to_owned(),
            reserve_bytes: Self::default_reserve_bytes(),
            timers: DataTimers::default(),
            limits: DataLimits::default(),
        }
    }

    /// Its id.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        NodeId(self.node)
    }

    /// Where others reach it; with port 0 in `listen`, the bound port has to be put in first.
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

    /// Its failure domain.
    #[must_use]
    pub fn domain_label(&self) -> DomainLabel {
        DomainLabel(if self.domain.is_empty() { &self.name } else { &self.domain }.clone())
    }

    /// Directories that each block is kept in: 1 with spread.
    #[must_use]
    pub const fn copies(&self) -> u8 {
        match self.mode {
            DirectoryMode::Spread => 1,
            DirectoryMode::Mirror => self.mirror_count,
        }
    }

    /// Refuses values that cannot be.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names key, value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_node("node", self.node)?;
        check_name("name", &self.name)?;
        check_listen("listen", &self.listen, self.advertise.is_empty())?;
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
        if !self.domain.is_empty() {
            check_name("domain", &self.domain)?;
        }
        if self.meta_servers.is_empty() {
            return Err(ConfigError::value(
                "meta_servers",
                "[]",
                "the addresses of the metadata servers, one at least",
            ));
        }
        let mut seen = BTreeSet::new();
        for address in &self.meta_servers {
            check_address("meta_servers", address, false)?;
            if !seen.insert(address) {
                return Err(ConfigError::value("meta_servers", address, "unique: it is listed twice"));
            }
        }
        self.validate_directories()?;
        check_range("reserve_bytes", self.reserve_bytes, 0, 1 << 50)?;
        check_range("timers.heartbeat_ms", self.timers.heartbeat_ms, 50, 60_000)?;
        check_range("timers.request_ms", self.timers.request_ms, 1_000, 600_000)?;
        if self.timers.scrub_ms != 0 {
            check_range("timers.scrub_ms", self.timers.scrub_ms, 1_000, 365 * 24 * 3_600_000)?;
        }
        check_range("limits.connection_count", self.limits.connection_count, 8, 1_000_000)?;
        check_range("limits.in_flight", self.limits.in_flight, 4, 100_000)?;
        check_rate(self.limits.requests_per_second)?;
        check_range("limits.threads", self.limits.threads, 1, 256)
    }

    fn validate_directories(&self) -> Result<(), ConfigError> {
        if self.directories.is_empty() || self.directories.len() > 16 {
            let value = format!("{} entries", self.directories.len());
            return Err(ConfigError::value("directories", value, "a list of 1 to 16 directories"));
        }
        let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
        for directory in &self.directories {
            if directory.as_os_str().is_empty() {
                return Err(ConfigError::value("directories", "\"\"", "paths that are not empty"));
            }
            // `/a`, `/a/` and `/a/./` are one directory: two "copies" there would be one.
            let plain: PathBuf = directory.components().filter(|c| *c != Component::CurDir).collect();
            if let Some(other) = seen.iter().find(|s| s.starts_with(&plain) || plain.starts_with(s)) {
                let allowed = format!("neither listed twice nor inside another one ({})", other.display());
                return Err(ConfigError::value("directories", directory.display(), allowed));
            }
            seen.insert(plain);
        }
        let count = self.directories.len();
        match self.mode {
            DirectoryMode::Spread if self.mirror_count > 1 => {
                Err(ConfigError::value("mirror_count", self.mirror_count, "0 with mode = \"spread\""))
            }
            DirectoryMode::Mirror if self.mirror_count < 2 || usize::from(self.mirror_count) > count => {
                let allowed = if count < 2 {
                    "2 or more, and as many directories at least (there is only one)".to_owned()
                } else {
                    format!("2 to {count} (the number of directories) with mode = \"mirror\"")
                };
                Err(ConfigError::value("mirror_count", self.mirror_count, allowed))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_for(key: &str, change: impl FnOnce(&mut DataConfig)) {
        let mut config = DataConfig::example();
        change(&mut config);
        let told = config.validate().unwrap_err().to_string();
        assert!(told.starts_with(&format!("{key} = ")), "wanted a refusal of {key}, got: {told}");
    }

    #[test]
    fn the_example_is_fine() {
        DataConfig::example().validate().unwrap();
    }

    #[test]
    fn directories_are_distinct() {
        refused_for("directories", |c| c.directories.clear());
        refused_for("directories", |c| c.directories = vec!["/a".into(), "/a/".into()]);
        refused_for("directories", |c| c.directories = vec!["/a".into(), "/b".into(), "/a/./c".into()]);
        refused_for("directories", |c| c.directories = vec!["".into()]);
        let mut fine = DataConfig::example();
        fine.directories = vec!["/a".into(), "/ab".into()];
        fine.validate().unwrap();
    }

    #[test]
    fn mirrors_fit_the_directories() {
        refused_for("mirror_count", |c| c.mirror_count = 2);
        refused_for("mirror_count", |c| c.mode = DirectoryMode::Mirror);
        refused_for("mirror_count", |c| (c.mode, c.mirror_count) = (DirectoryMode::Mirror, 2));
        let mut fine = DataConfig::example();
        fine.directories = vec!["/a".into(), "/b".into()];
        (fine.mode, fine.mirror_count) = (DirectoryMode::Mirror, 2);
        fine.validate().unwrap();
        assert_eq!(fine.copies(), 2);
        fine.mirror_count = 3;
        assert!(fine.validate().is_err());
    }

    #[test]
    fn metadata_servers_are_listed_once_each() {
        refused_for("meta_servers", |c| c.meta_servers.clear());
        refused_for("meta_servers", |c| c.meta_servers = vec!["a:1".into(), "a:1".into()]);
        refused_for("meta_servers", |c| c.meta_servers = vec!["a:0".into()]);
        refused_for("meta_servers", |c| c.meta_servers = vec!["a".into()]);
    }

    #[test]
    fn any_free_port_is_fine_where_it_is_registered() {
        refused_for("listen", |c| c.listen = "127.0.0.1:0".into());
        let mut fine = DataConfig::example();
        (fine.listen, fine.advertise) = ("127.0.0.1:0".into(), String::new());
        fine.validate().unwrap();
    }

    #[test]
    fn numbers_are_bounded() {
        refused_for("node", |c| c.node = 0);
        refused_for("name", |c| c.name = String::new());
        refused_for("domain", |c| c.domain = "rack 1".into());
        refused_for("http_listen", |c| c.http_listen = c.listen.clone());
        refused_for("reserve_bytes", |c| c.reserve_bytes = u64::MAX);
        refused_for("timers.heartbeat_ms", |c| c.timers.heartbeat_ms = 1);
        refused_for("timers.request_ms", |c| c.timers.request_ms = 0);
        refused_for("timers.scrub_ms", |c| c.timers.scrub_ms = 1);
        refused_for("limits.threads", |c| c.limits.threads = 0);
        refused_for("limits.in_flight", |c| c.limits.in_flight = 0);
        refused_for("limits.requests_per_second", |c| c.limits.requests_per_second = 9);
    }
}
