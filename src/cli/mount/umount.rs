//! `pohmelfs umount DIR`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use rustix::mount::UnmountFlags;

use super::super::Failure;
use crate::mount::{status, table};
use crate::runtime;

/// How long the program of a mount may take to flush and end once the directory is free.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Unmount a directory.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  pohmelfs umount /mnt/pohmelfs\n  pohmelfs umount --force /mnt/pohmelfs")]
pub(crate) struct UmountArgs {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Even while files on it are open: they fail from then on
    #[arg(long, short = 'f')]
    force: bool,
}

/// Runs it.
pub(crate) async fn run(args: &UmountArgs) -> Result<ExitCode, Failure> {
    let shown = args.dir.display();
    let Some(mounted) = table::find(&args.dir) else {
        return Err(Failure::new(format!(
            "{shown} is not a mount of pohmelfs: `mount -t fuse.pohmelfs` lists them"
        )));
    };
    let dir = mounted.dir.clone();
    let socket = status::socket_of(&mounted);
    if rustix::process::geteuid().is_root() {
        let force = args.force;
        let unmounted = runtime::blocking("umount", move || {
            if force {
                // Requests that wait are given up first; then the directory goes, whoever is in it.
                let _ = rustix::mount::unmount(&dir, UnmountFlags::FORCE);
                match rustix::mount::unmount(&dir, UnmountFlags::DETACH) {
                    Err(rustix::io::Errno::INVAL) => Ok(()),
                    other => other,
                }
            } else {
                rustix::mount::unmount(&dir, UnmountFlags::empty())
            }
        });
        unmounted.await.map_err(|errno| match errno {
            rustix::io::Errno::BUSY => Failure::new(format!(
                "{shown} is in use: `fuser -vm {shown}` lists by whom; end them, or unmount with --force"
            )),
            other => Failure::new(format!("cannot unmount {shown}: {other}")),
        })?;
    } else {
        let mut helper = Command::new("fusermount3");
        helper.arg("-u").args(args.force.then_some("-z")).arg(&dir);
        let ended = runtime::blocking("fusermount3", move || helper.status()).await;
        match ended {
            Ok(status) if status.success() => {}
            Ok(_) => return Err(Failure::new(format!("fusermount3 could not unmount {shown}"))),
            Err(e) => return Err(Failure::new(format!("cannot run fusermount3 (package fuse3): {e}"))),
        }
    }
    // What was written and closed is durable. Its program may still flush what was written through a mapping.
    let deadline = runtime::now() + END_TIMEOUT;
    while socket.exists() && runtime::now() < deadline {
        if !status::answers(&socket).await {
            break;
        }
        runtime::sleep(Duration::from_millis(20)).await;
    }
    Ok(ExitCode::SUCCESS)
}
