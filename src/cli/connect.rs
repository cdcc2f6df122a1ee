//! A client for a tool: the servers of `--cluster`, the rights of the calling process.

use rustix::fs::Mode;
use rustix::process;

use super::{Failure, Global};
use crate::client::{Client, ClientOptions};
use crate::types::Cred;

/// Connects with the given options, save label and rights.
pub(super) async fn connect(global: &Global, options: ClientOptions) -> Result<Client, Failure> {
    let host = process_host();
    let label = format!("pohmelfs {} on {host}", process::getpid().as_raw_nonzero());
    let options = ClientOptions { label, cred: cred(), ..options };
    Ok(Client::connect(&global.servers()?, options).await?)
}

fn process_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Of the calling process, effective.
fn cred() -> Cred {
    let groups = process::getgroups().unwrap_or_default();
    Cred {
        uid: process::geteuid().as_raw(),
        gid: process::getegid().as_raw(),
        groups: groups.into_iter().map(rustix::fs::Gid::as_raw).take(Cred::GROUPS_MAX).collect(),
    }
}

/// The umask of the process. (It can only be read by setting it.)
pub(super) fn umask() -> u32 {
    let old = process::umask(Mode::from_raw_mode(0o022));
    process::umask(old);
    old.as_raw_mode()
}
