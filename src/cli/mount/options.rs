//! Options as mount(8) and fstab have them, and values of flags.

use std::path::PathBuf;
use std::time::Duration;

use crate::mount::fuse::{self, Transport};

/// Longest time of an operation, unless told otherwise.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Bound of all buffers, unless told otherwise.
pub(super) const MEMORY: usize = 256 << 20;
/// How long a listing with attributes may be relied on, unless told otherwise: some 200 names come at a time, and on a busy
/// machine each takes a program some milliseconds.
pub(super) const LIST_TTL: Duration = Duration::from_secs(1);
/// How far apart two requests of one call may be, unless told otherwise: what a busy machine takes to wake the caller.
pub(super) const CALL_WINDOW: Duration = Duration::from_millis(1);
/// Longest of both. Far more than is of use: for who tries what they do.
const MILLISECONDS_MAX: u64 = 600_000;

/// Below this no block would have room.
const MEMORY_MIN: usize = 32 << 20;

/// What `-o` said.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    pub(super) fuse: fuse::Options,
    pub(super) subdir: Option<PathBuf>,
    pub(super) transport: Option<Transport>,
    pub(super) memory: Option<usize>,
    pub(super) timeout: Option<Duration>,
    pub(super) list_ttl: Option<Duration>,
    pub(super) call_window: Option<Duration>,
    pub(super) log_file: Option<PathBuf>,
}

/// Those that mount(8) and systemd read, or that ask for what is so anyway.
const PASSED_OVER: &[&str] = &[
    "rw",
    "defaults",
    "_netdev",
    "auto",
    "noauto",
    "nofail",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "allow_other",
    "noatime",
    "relatime",
    "nodiratime",
    "strictatime",
    "lazytime",
    "async",
    "exec",
    "nosuid",
    "nodev",
    "silent",
    "loud",
];

/// Reads a list of options.
///
/// # Errors
/// Names the one that is unknown or has a bad value.
pub(super) fn parse(list: &str) -> Result<Given, String> {
    let mut given = Given::default();
    for option in list.split(',').map(str::trim).filter(|o| !o.is_empty()) {
        let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
        let value =
            |what: &str| value.filter(|v| !v.is_empty()).ok_or(format!("-o {name} needs {what}: {name}=..."));
        let named = |e: String| format!("-o {name}: {e}");
        match name {
            "ro" => given.fuse.read_only = true,
            "suid" => given.fuse.suid = true,
            "dev" => given.fuse.dev = true,
            "noexec" => given.fuse.exec = false,
            "subdir" => given.subdir = Some(PathBuf::from(value("a path within the cluster")?)),
            "transport" => given.transport = Some(value("auto, uring or dev")?.parse().map_err(named)?),
            "memory" => given.memory = Some(size(value("a size")?).map_err(named)?),
            "timeout" => given.timeout = Some(seconds(value("seconds")?).map_err(named)?),
            "list_ttl" => given.list_ttl = Some(milliseconds(value("milliseconds")?).map_err(named)?),
            "call_window" => given.call_window = Some(milliseconds(value("milliseconds")?).map_err(named)?),
            "log" => given.log_file = Some(PathBuf::from(value("a file")?)),
            _ if PASSED_OVER.contains(&name) || name.starts_with("x-") || name.starts_with("comment") => {}
            _ => {
                return Err(format!(
                    "unknown option -o {name}: there are ro, suid, dev, noexec, subdir=PATH, transport=auto|uring|dev, \
                     memory=SIZE, timeout=SECONDS, list_ttl=MS, call_window=MS, log=FILE, and those of mount(8)"
                ));
            }
        }
    }
    Ok(given)
}

/// A size in bytes: a number, with K, M or G behind it.
///
/// # Errors
/// When it is none, or too small.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let bad = || format!("{text:?} is no size: write 256M or 1G");
    let upper = text.trim().to_ascii_uppercase();
    let plain = upper.trim_end_matches("IB").trim_end_matches('B');
    let (digits, shift) = match plain.as_bytes().last() {
        Some(b'K') => (&plain[..plain.len() - 1], 10),
        Some(b'M') => (&plain[..plain.len() - 1], 20),
        Some(b'G') => (&plain[..plain.len() - 1], 30),
        _ => (plain, 0),
    };
    let number: usize = digits.trim().parse().map_err(|_| bad())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(bad)?;
    if bytes < MEMORY_MIN {
        return Err(format!("{text}: at least {}M, or no block would have room", MEMORY_MIN >> 20));
    }
    Ok(bytes)
}

/// Seconds, 1 to a day.
///
/// # Errors
/// When it is none.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim().trim_end_matches('s').parse::<u64>() {
        Ok(n @ 1..=86_400) => Ok(Duration::from_secs(n)),
        _ => Err(format!("{text:?}: wanted seconds, 1 to 86400")),
    }
}

/// Milliseconds, 0 to ten minutes.
///
/// # Errors
/// When it is none.
pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.trim().trim_end_matches("ms").parse::<u64>() {
        Ok(n @ 0..=MILLISECONDS_MAX) => Ok(Duration::from_millis(n)),
        _ => Err(format!("{text:?}: wanted milliseconds, 0 to {MILLISECONDS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_fstab_are_read() {
        let given = parse("rw,_netdev,ro,timeout=5,memory=64M,subdir=/a b,x-systemd.automount,transport=dev")
            .unwrap();
        assert!(given.fuse.read_only);
        assert_eq!(given.timeout, Some(Duration::from_secs(5)));
        assert_eq!(given.memory, Some(64 << 20));
        assert_eq!(given.subdir, Some(PathBuf::from("/a b")));
        assert_eq!(given.transport, Some(Transport::Dev));
        let given = parse("list_ttl=0,call_window=2ms").unwrap();
        assert_eq!(
            (given.list_ttl, given.call_window),
            (Some(Duration::ZERO), Some(Duration::from_millis(2)))
        );
    }

    #[test]
    fn what_is_unknown_or_senseless_is_named() {
        assert!(parse("ro,frobnicate").unwrap_err().contains("frobnicate"));
        assert!(parse("timeout").unwrap_err().contains("timeout=..."));
        for bad in [
            "timeout=0",
            "timeout=x",
            "memory=1M",
            "memory=lots",
            "transport=pigeon",
            "subdir=",
            "list_ttl=1h",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(size("1GiB"), Ok(1 << 30));
    }
}
