//! The command line: servers, status, health, and the tools on the filesystem.
//!
//! `main.rs` calls [`main`]. The one folder that sees every role. Holds: what goes wrong is one line on standard error
//! that says what and what to do; exit code 0 is success, 1 a failure, 2 a command line or configuration that cannot be.

mod bench;
mod check;
mod cluster;
mod connect;
pub(crate) mod dump;
mod fs;
mod health;
mod locate;
mod logging;
mod mount;
mod restore;
mod roles;
mod serve;
mod status;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config;
use crate::runtime;
use crate::types::NodeAddress;
pub use cluster::{Operator, Outcome};

const EXAMPLES: &str = "\
Examples:
  pohmelfs meta --config meta-1.toml                runs a metadata server
  pohmelfs data --config data-1.toml                runs a data server
  export POHMELFS_CLUSTER=host1:7001,host2:7001     what all commands below need
  pohmelfs status
  pohmelfs fs put -r photos /";

/// POHMELFS: a distributed, parallel, highly available filesystem.
#[derive(Debug, Parser)]
#[command(name = "pohmelfs", version, propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where help lists the flags of every command.
const COMMON: &str = "Options of every command";

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Metadata servers, HOST:PORT, separated by commas
    #[arg(long, global = true, env = "POHMELFS_CLUSTER", value_name = "ADDRESSES", help_heading = COMMON)]
    pub(crate) cluster: Option<String>,
    /// What is logged: a level, or directives such as `info,pohmelfs::net=debug`
    #[arg(long, global = true, env = "POHMELFS_LOG", value_name = "FILTER", help_heading = COMMON)]
    pub(crate) log: Option<String>,
    /// How it is logged
    #[arg(
        long,
        global = true,
        env = "POHMELFS_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT",
        help_heading = COMMON
    )]
    pub(crate) log_format: logging::Format,
    /// Threads that answer requests, beside those that wait for disks: one a processor unless said otherwise. Fewer where
    /// several servers share a machine
    #[arg(long, global = true, env = "POHMELFS_THREADS", value_name = "COUNT", hide_short_help = true,
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a metadata server
    #[command(after_help = "\
Examples:
  pohmelfs meta --config /etc/pohmelfs/meta-1.toml
  pohmelfs meta --config meta-1.toml --check
  pohmelfs meta --config meta-1.toml --set limits.cache_bytes=1073741824
  POHMELFS_REPLICAS=2 pohmelfs meta --config meta-1.toml")]
    Meta(ServeArgs),
    /// Run a data server
    #[command(after_help = "\
Examples:
  pohmelfs data --config /etc/pohmelfs/data-1.toml
  pohmelfs data --config data-1.toml --check
  pohmelfs data --config data-1.toml --set directories=/disk1/pohmelfs,/disk2/pohmelfs")]
    Data(ServeArgs),
    /// Show the whole cluster: health, servers, groups, space
    Status(status::StatusArgs),
    /// Add, replace and remove metadata servers while the cluster serves, and choose who leads
    Cluster(cluster::ClusterArgs),
    /// Mount the filesystem on a directory, for any program
    Mount(mount::MountArgs),
    /// Unmount it
    Umount(mount::UmountArgs),
    /// Show what a mount does: operations, latencies, caches, transport
    Stats(mount::StatsArgs),
    /// Work with files: ls, stat, cat, put, get, mkdir, rm, mv, ln, tree, du
    Fs(fs::FsArgs),
    /// Show where every byte of a file is: extents, blocks and all their addresses
    Locate(locate::LocateArgs),
    /// Test the whole namespace and every block it refers to
    Check(check::CheckArgs),
    /// Write the whole metadata into a file, while the cluster goes on
    Dump(dump::DumpArgs),
    /// Make a new metadata cluster of such a file
    Restore(restore::RestoreArgs),
    /// Ask a server over HTTP whether it is ready; exit code 0 if so
    Health(health::HealthArgs),
    /// Measure a running cluster; leaves nothing behind
    Bench(bench::BenchArgs),
    /// Print the version
    #[command(after_help = "\
Examples:
  pohmelfs version")]
    Version,
}

/// Flags of a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file, TOML
    #[arg(long, env = "POHMELFS_CONFIG", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Another value for a key of the configuration; wins over environment and file. Lists are separated by commas
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Check the configuration and end
    #[arg(long)]
    pub(crate) check: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("wanted KEY=VALUE, for instance timers.heartbeat_ms=50".to_owned()),
    }
}

/// Why a command failed: what goes to standard error, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// What, and what to do, in a line.
    pub(crate) message: String,
    /// 1, or 2 for a command line or configuration that cannot be.
    pub(crate) code: u8,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// Something went wrong.
    pub(crate) fn new(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// Nobody reads on: there is nothing to say, and nothing went wrong.
    pub(crate) fn quiet() -> Self {
        Self { message: String::new(), code: 0 }
    }

    /// The command line or the configuration cannot be.
    pub(crate) fn usage(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 2 }
    }
}

impl Global {
    /// The metadata servers that `--cluster` or `POHMELFS_CLUSTER` names.
    ///
    /// # Errors
    /// When it is missing or empty, or an address cannot be one.
    pub(crate) fn servers(&self) -> Result<Vec<NodeAddress>, Failure> {
        let list = self.cluster.as_deref().unwrap_or_default();
        let given = || list.split(',').map(str::trim).filter(|s| !s.is_empty());
        given().try_for_each(|s| config::check_address("--cluster", s, false)).map_err(Failure::usage)?;
        let servers: Vec<NodeAddress> = given().map(|s| NodeAddress(s.to_owned())).collect();
        if servers.is_empty() {
            return Err(Failure::usage(
                "no metadata servers: give --cluster HOST:PORT,... or set POHMELFS_CLUSTER (of a local cluster: \
                 eval \"$(scripts/cluster env)\")",
            ));
        }
        Ok(servers)
    }
}

/// Runs the command line of this process and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    // mount(8) calls the program of a filesystem type by another name and in its own way.
    let cli = match mount::args_of_helper() {
        Some(args) => Cli::parse_from(std::iter::once("pohmelfs".into()).chain(args)),
        None => Cli::parse(),
    };
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                text::complain(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Meta(args) => serve::meta(&global, &args),
        Command::Data(args) => serve::data(&global, &args),
        Command::Status(args) => tool(&global, status::run(&global, &args)),
        Command::Cluster(args) => tool(&global, cluster::run(&global, &args)),
        Command::Mount(args) => mount::run(&global, &args),
        Command::Umount(args) => tool(&global, mount::umount(&args)),
        Command::Stats(args) => tool(&global, mount::stats(&args)),
        Command::Fs(args) => tool(&global, fs::run(&global, &args)),
        Command::Locate(args) => tool(&global, locate::run(&global, &args)),
        Command::Check(args) => tool(&global, check::run(&global, &args)),
        Command::Dump(args) => tool(&global, dump::run(&global, &args)),
        Command::Restore(args) => tool(&global, restore::run(&global, &args)),
        Command::Health(args) => tool(&global, health::run(&args)),
        Command::Bench(args) => tool(&global, bench::run(&global, &args)),
        Command::Version => {
            println!("pohmelfs {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a command that talks to servers: logs only what needs a person, to standard error.
fn tool(
    global: &Global,
    command: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    logging::start(global, "warn").map_err(Failure::usage)?;
    logging::raise_file_limit();
    run_to_end(runtime(global)?, command)
}

/// Runs a command, and waits for nothing that it has not waited for itself.
fn run_to_end<T>(runtime: tokio::runtime::Runtime, command: impl Future<Output = T>) -> T {
    let result = runtime.block_on(command);
    // A thread that still reads standard input may wait for a person who types, and must not keep a command that has failed
    // from saying so.
    runtime.shutdown_background();
    result
}

fn runtime(global: &Global) -> Result<tokio::runtime::Runtime, Failure> {
    // Two at least, so that one may wait for a cold read of the disk. More than there are processors cost a lookup more in
    // wake-ups than they give.
    let threads = global.threads.map_or_else(|| crate::runtime::processor_count().max(2), usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("cannot start threads: {e}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// A `put` of standard input that failed ended only when its input did.
    #[test]
    fn a_command_that_has_ended_waits_for_no_read() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (input, output) = std::sync::mpsc::channel::<()>();
        let (begun, reading) = tokio::sync::oneshot::channel();
        let failed = run_to_end(runtime, async {
            drop(tokio::task::spawn_blocking(move || {
                let _ = begun.send(());
                output.recv()
            }));
            reading.await
        });
        assert_eq!(failed, Ok(()));
        drop(input);
    }

    #[test]
    fn every_command_has_help_with_examples() {
        fn walk(command: &clap::Command, path: &str) {
            let help = command.clone().render_long_help().to_string();
            let (_, examples) =
                help.split_once("Examples:").unwrap_or_else(|| panic!("{path} has no examples"));
            // What a command groups may be shown by examples of what is below it.
            assert!(
                examples.contains(&format!("{path} ")) || examples.contains(&format!("{path}\n")),
                "{path}: {examples}"
            );
            for below in command.get_subcommands().filter(|c| c.get_name() != "help") {
                walk(below, &format!("{path} {}", below.get_name()));
            }
        }
        walk(&Cli::command(), "pohmelfs");
    }

    #[test]
    fn servers_are_separated_by_commas() {
        let of = |list: &str| {
            let cli = Cli::try_parse_from(["pohmelfs", "version", "--cluster", list]).unwrap();
            cli.global.servers().map(|s| s.into_iter().map(|a| a.0).collect::<Vec<_>>())
        };
        assert_eq!(of("a:1, b:2,").unwrap(), ["a:1", "b:2"]);
        assert_eq!(of(" ,").unwrap_err().code, 2);
        for wrong in ["meta-1", "a:1,http://b:2/", "a:99999", "a:0"] {
            let failure = of(wrong).unwrap_err();
            assert!(failure.code == 2 && failure.message.starts_with("--cluster = "), "{}", failure.message);
        }
    }

    #[test]
    fn a_set_flag_has_a_key_and_a_value() {
        assert_eq!(key_value("a.b = c=d"), Ok(("a.b".into(), "c=d".into())));
        assert!(key_value("a").is_err());
        assert!(key_value("=a").is_err());
    }
}
