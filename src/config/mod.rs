//! Configuration of both servers: a TOML file, over it the environment (`POHMELFS_*`), over that flags.
//!
//! `cli` loads it and hands the finished value to `meta` or `data`; tests fill the structs in directly.
//! Holds: a value that came through [`MetaConfig::validate`] or [`DataConfig::validate`] cannot contradict itself, and a
//! refusal names the key, the value and what is allowed. Not here: what only running can tell (does the name resolve,
//! is the directory writable).

mod data;
mod load;
mod meta;

pub use data::{DataConfig, DataLimits, DataTimers, DirectoryMode};
pub use load::{ConfigError, ENV_PREFIX, Source, load_data, load_meta};
pub use meta::{MetaConfig, MetaLimits, MetaTimers, Peer};

use std::fmt::Display;

/// `host:port` with a port in it; `what` may be any name, resolved only when it is connected to.
pub(crate) fn check_address(key: &str, value: &str, port_0: bool) -> Result<(), ConfigError> {
    let wanted = "HOST:PORT, for instance 127.0.0.1:7001 or meta-1:7001";
    let Some((host, port)) = value.rsplit_once(':') else {
        return Err(ConfigError::value(key, value, wanted));
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(char::is_whitespace) || (host.contains(':') && !bracketed) {
        return Err(ConfigError::value(key, value, wanted));
    }
    match port.parse::<u16>() {
        Ok(0) if !port_0 => Err(ConfigError::value(
            key,
            value,
            "a port from 1 to 65535: others must be able to connect to it (port 0, any free one, is only for \
             listening where nobody has to know the port before)",
        )),
        Ok(_) => Ok(()),
        Err(_) => Err(ConfigError::value(key, value, wanted)),
    }
}

/// A socket address to listen on: an IP address and a port.
fn check_listen(key: &str, value: &str, port_0: bool) -> Result<(), ConfigError> {
    check_address(key, value, port_0)?;
    match value.parse::<std::net::SocketAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(ConfigError::value(
            key,
            value,
            "IP:PORT of this machine, for instance 0.0.0.0:7001 (a name belongs into advertise)",
        )),
    }
}

/// Node ids are drawn by people: 0 means "nobody" in several places.
fn check_node(key: &str, node: u64) -> Result<(), ConfigError> {
    if node == 0 {
        Err(ConfigError::value(key, node, "1 or more, unique in the cluster, never reused"))
    } else {
        Ok(())
    }
}

/// Names end up in file names, metrics and on the screen.
fn check_name(key: &str, value: &str) -> Result<(), ConfigError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if value.is_empty() || value.len() > 64 || !value.chars().all(fine) {
        return Err(ConfigError::value(key, value, "1 to 64 letters, digits, '-', '_' or '.'"));
    }
    Ok(())
}

/// Less would not even let one client list a directory and keep its session.
fn check_rate(value: u32) -> Result<(), ConfigError> {
    if value != 0 && !(10..=10_000_000).contains(&value) {
        return Err(ConfigError::value(
            "limits.requests_per_second",
            value,
            "10 to 10000000, or 0 for no bound",
        ));
    }
    Ok(())
}

fn check_range<T: PartialOrd + Display>(key: &str, value: T, min: T, max: T) -> Result<(), ConfigError> {
    if value < min || value > max {
        return Err(ConfigError::value(key, value, format!("{min} to {max}")));
    }
    Ok(())
}
