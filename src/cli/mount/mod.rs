//! `pohmelfs mount`, `umount` and `stats`, and `mount.pohmelfs`, by which mount(8) and fstab call them.
//!
//! Holds: `mount` returns success only when the directory answers, in the background as in the foreground; a failure is one
//! line that says what to do, and nothing is mounted then.

mod daemon;
mod helper;
mod options;
mod stats;
mod umount;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

pub(super) use self::helper::args_of_helper;
pub(super) use self::stats::{StatsArgs, run as stats};
pub(super) use self::umount::{UmountArgs, run as umount};

use super::{Failure, Global, logging, runtime};
use crate::mount::fuse::Transport;
use crate::mount::service::{MountOptions, Service};

/// Mount the filesystem on a directory.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    pohmelfs mount --cluster meta-1:7000,meta-2:7000,meta-3:7000 /mnt/pohmelfs\n  \
    pohmelfs mount --foreground -o ro,subdir=/photos /mnt/photos\n  \
    mount -t pohmelfs meta-1:7000,meta-2:7000:/photos /mnt/photos\n\n\
In fstab:\n  \
    meta-1:7000,meta-2:7000,meta-3:7000:/  /mnt/pohmelfs  pohmelfs  _netdev,timeout=30  0 0")]
pub(crate) struct MountArgs {
    /// Where
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Stay in the foreground and log to standard error
    #[arg(long, short = 'f')]
    foreground: bool,
    /// Options as mount(8) has them, separated by commas: ro, suid, dev, noexec, subdir=PATH, transport=, memory=, timeout=,
    /// list_ttl=MS, call_window=MS, log=FILE, and those that only mount(8) reads
    #[arg(long = "options", short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// How requests come from the kernel: auto, uring, dev
    #[arg(long, value_name = "TRANSPORT")]
    transport: Option<Transport>,
    /// Bound of all buffers together, for instance 512M [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = options::size)]
    memory: Option<usize>,
    /// Longest time of an operation in seconds: with all servers gone it fails by then [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = options::seconds)]
    timeout: Option<Duration>,
    /// How long names and attributes that `ls -l` and the like read of a directory may be relied on, in milliseconds, until
    /// the directory is closed; 0: each is asked for when it is used [default: 1000]
    #[arg(long, value_name = "MS", value_parser = options::milliseconds)]
    list_attr_ttl: Option<Duration>,
    /// Where the log goes [default: standard error in the foreground, else a file under /var/log/pohmelfs]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Used by the background mode: tell on standard output how it went
    #[arg(long, hide = true)]
    tell: bool,
}

/// Runs `pohmelfs mount`.
pub(super) fn run(global: &Global, args: &MountArgs) -> Result<ExitCode, Failure> {
    let given = options::parse(&args.options.join(",")).map_err(Failure::usage)?;
    let log_file = args.log_file.clone().or_else(|| given.log_file.clone());
    let cluster = global.servers()?;
    if !args.foreground {
        return daemon::start(args, log_file);
    }
    let mut fuse = given.fuse.clone();
    fuse.transport = args.transport.or(given.transport).unwrap_or_default();
    fuse.source = cluster.iter().map(|a| a.0.as_str()).collect::<Vec<_>>().join(",");
    let options = MountOptions {
        cluster,
        subdir: given.subdir.unwrap_or_else(|| PathBuf::from("/")),
        timeout: args.timeout.or(given.timeout).unwrap_or(options::TIMEOUT),
        memory_max: args.memory.or(given.memory).unwrap_or(options::MEMORY),
        list_ttl: args.list_attr_ttl.or(given.list_ttl).unwrap_or(options::LIST_TTL),
        call_window: given.call_window.unwrap_or(options::CALL_WINDOW),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        fuse,
    };
    // Before the working directory changes.
    let dir = std::path::absolute(&args.dir).map_err(|e| {
        Failure::usage(format!("{}: {e}: name the directory where to mount", args.dir.display()))
    })?;
    if args.tell {
        daemon::detach();
    }
    logging::start_to(global, "info", if args.tell { None } else { log_file.as_deref() })
        .map_err(Failure::usage)?;
    logging::raise_file_limit();
    let ended = runtime(global)?.block_on(serve(&dir, args.tell, options));
    if args.tell
        && let Err(failure) = &ended
    {
        daemon::tell(&Err(failure.message.clone()));
    }
    ended
}

async fn serve(dir: &Path, tell: bool, options: MountOptions) -> Result<ExitCode, Failure> {
    let on = |kind| signal(kind).map_err(|e| Failure::new(format!("cannot listen for signals: {e}")));
    let (mut term, mut int) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let mut hang_up = on(SignalKind::hangup())?;
    let mut starting = Box::pin(Service::start(dir, options));
    // A start that is dropped leaves nothing mounted.
    let service = tokio::select! {
        started = &mut starting => started.map_err(Failure::new)?,
        _ = term.recv() => return Err(Failure::new("asked to stop while mounting")),
        _ = int.recv() => return Err(Failure::new("asked to stop while mounting")),
    };
    if tell {
        daemon::tell(&Ok(()));
    }
    loop {
        tokio::select! {
            () = service.gone() => tracing::info!(dir = %dir.display(), "unmounted"),
            _ = term.recv() => tracing::info!(signal = "SIGTERM", "asked to stop"),
            _ = int.recv() => tracing::info!(signal = "SIGINT", "asked to stop"),
            // A terminal that closes is no reason to end.
            _ = hang_up.recv() => continue,
        }
        break;
    }
    service.stop().await.map_err(Failure::new)?;
    Ok(ExitCode::SUCCESS)
}
