//! Who calls: the rights of the process behind a request, and whether it is dying.
//!
//! The kernel sends user and group; supplementary groups are read from `/proc`. They are read each time: a process may change
//! them between two calls (a file server does so for each of its users), and a look costs a tenth of the query that follows.
//! The superuser needs none.

use std::time::Duration;

use super::super::fuse::Caller;
use crate::runtime;
use crate::types::Cred;

/// Between two looks at whether a process that got a signal is being killed.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// The rights of a caller.
pub(super) fn cred(caller: &Caller) -> Cred {
    let groups = if caller.uid == 0 { Vec::new() } else { groups(caller) };
    Cred { uid: caller.uid, gid: caller.gid, groups }
}

/// Without supplementary groups: for what asks no permission.
pub(super) fn bare_cred(caller: &Caller) -> Cred {
    Cred { uid: caller.uid, gid: caller.gid, groups: Vec::new() }
}

fn groups(caller: &Caller) -> Vec<u32> {
    let status = status(caller.pid).unwrap_or_default();
    let mut groups = parse_groups(&status).unwrap_or_else(|| caller.groups.clone());
    // Those of the caller's own group are no use twice.
    groups.retain(|g| *g != caller.gid);
    groups.truncate(Cred::GROUPS_MAX);
    groups
}

/// None for a process that cannot be seen from here (another PID namespace), or is gone.
fn status(pid: u32) -> Option<String> {
    if pid == 0 { None } else { std::fs::read_to_string(format!("/proc/{pid}/status")).ok() }
}

fn parse_groups(status: &str) -> Option<Vec<u32>> {
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:"))?;
    Some(line.split_ascii_whitespace().filter_map(|g| g.parse().ok()).collect())
}

/// True for a thread with a pending SIGKILL, which every fatal signal becomes, and for one that is gone.
pub(super) fn is_dying(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    match status(pid) {
        Some(status) => has_sigkill(&status),
        None => true,
    }
}

fn has_sigkill(status: &str) -> bool {
    const SIGKILL_BIT: u64 = 1 << 8;
    let pending = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    ["SigPnd:", "ShdPnd:"].iter().any(|name| pending(name).is_some_and(|p| p & SIGKILL_BIT != 0))
}

/// Returns when the process is being killed; the kernel tells of the first signal only.
pub(super) async fn dying(pid: u32) {
    while !is_dying(pid) {
        runtime::sleep(LOOK_PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_signals_are_read_from_the_status() {
        let status = "Name:\tx\nGroups:\t4 24 1000 \nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n";
        assert_eq!(parse_groups(status), Some(vec![4, 24, 1000]));
        assert!(has_sigkill(status));
        assert!(!has_sigkill("SigPnd:\t0000000000004000\nShdPnd:\t0000000000000002\n"));
        assert_eq!(parse_groups("Name:\tx\n"), None);
        assert_eq!(parse_groups("Groups:\t\n"), Some(vec![]));
    }

    #[test]
    fn this_process_is_not_dying() {
        assert!(!is_dying(std::process::id()));
        assert!(!is_dying(0));
    }
}
