//! `pohmelfs fs`: what coreutils do, on the cluster, without a mount.
//!
//! Holds: names are bytes; symlinks are followed or not as coreutils do; permissions are those of the calling process.

mod get;
mod list;
mod local;
mod put;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::connect::{connect, umask};
use super::{Failure, Global, text};
use crate::client::{Client, ClientError, ClientOptions};
use crate::types::{FileKind, FsError, RenameMode};

/// Files of a tree in flight at a time: small ones wait for a commit each, which many share.
const FILES_IN_FLIGHT: usize = 32;

/// Arguments of `fs`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs fs put -r photos /           copies a tree into the cluster
  pohmelfs fs ls -l /photos             lists it
  pohmelfs fs get -r /photos copy       copies it back
  tar c . | pohmelfs fs put - /all.tar  stores a stream
  pohmelfs fs rm -r /photos

Exit codes: 0 all done, 1 something failed (each failure is a line on standard error), 2 wrong arguments.")]
pub(super) struct FsArgs {
    #[command(subcommand)]
    command: FsCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum FsCommand {
    /// List directories
    Ls(list::LsArgs),
    /// Show all attributes
    Stat(list::StatArgs),
    /// Write files to standard output
    #[command(after_help = "\
Examples:
  pohmelfs fs cat /notes.txt")]
    Cat {
        /// Files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Copy local files into the cluster; keeps modes, times, symlinks and hard links
    Put(put::PutArgs),
    /// Copy files of the cluster to local ones; keeps modes, times, symlinks and hard links
    Get(get::GetArgs),
    /// Make directories
    #[command(after_help = "\
Examples:
  pohmelfs fs mkdir -p /photos/2026/11")]
    Mkdir {
        /// Also what is missing above; existing ones are fine
        #[arg(short)]
        parents: bool,
        /// Directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Remove files, or trees
    #[command(after_help = "\
Examples:
  pohmelfs fs rm /photos/one.jpg
  pohmelfs fs rm -rf /photos/old")]
    Rm {
        /// Directories with all that is in them
        #[arg(short, visible_short_alias = 'R')]
        recursive: bool,
        /// What is missing is fine
        #[arg(short)]
        force: bool,
        /// What to remove
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Move or rename
    #[command(override_usage = "pohmelfs fs mv [OPTIONS] <SOURCE>... <TARGET>")]
    #[command(after_help = "\
Examples:
  pohmelfs fs mv /photos/one.jpg /photos/first.jpg
  pohmelfs fs mv -n /a /b /archive")]
    Mv {
        /// Refuse if the target exists
        #[arg(short, long)]
        no_clobber: bool,
        /// What to move, and at the end where to
        #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
        paths: Vec<PathBuf>,
    },
    /// Make a hard link, or a symlink
    #[command(after_help = "\
Examples:
  pohmelfs fs ln /photos/one.jpg /best.jpg
  pohmelfs fs ln -s photos/one.jpg /best.jpg")]
    Ln {
        /// Symlink: TARGET is kept as it is written
        #[arg(short)]
        symbolic: bool,
        /// What the link leads to
        target: PathBuf,
        /// The new name
        path: PathBuf,
    },
    /// Show a tree
    Tree(list::TreeArgs),
    /// Sum up sizes
    Du(list::DuArgs),
}

pub(super) async fn run(global: &Global, args: &FsArgs) -> Result<ExitCode, Failure> {
    let client = connect(global, ClientOptions::default()).await?;
    let done = dispatch(&client, &args.command).await;
    client.close().await;
    done
}

async fn dispatch(client: &Client, command: &FsCommand) -> Result<ExitCode, Failure> {
    match command {
        FsCommand::Ls(args) => list::ls(client, args).await,
        FsCommand::Stat(args) => list::stat(client, args).await,
        FsCommand::Tree(args) => list::tree(client, args).await,
        FsCommand::Du(args) => list::du(client, args).await,
        FsCommand::Put(args) => put::run(client, args).await,
        FsCommand::Get(args) => get::run(client, args).await,
        FsCommand::Cat { paths } => {
            for path in paths {
                client.get(path, local::Output::new()?).await.map_err(unwrap_io)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        FsCommand::Mkdir { parents, paths } => {
            let mode = 0o777 & !umask();
            let mut failures = Failures::default();
            for path in paths {
                let made = if *parents {
                    client.mkdir_all(path, mode).await
                } else {
                    client.mkdir(path, mode).await
                };
                failures.note(made);
            }
            failures.end()
        }
        FsCommand::Rm { recursive, force, paths } => {
            let mut failures = Failures::default();
            for path in paths {
                let removed = if *recursive {
                    client.remove_tree(path).await.map(drop)
                } else {
                    client.unlink(path).await.map(drop)
                };
                match removed {
                    Err(e) if *force && e.is_not_found() => {}
                    Err(e) if e.fs() == Some(FsError::IsDir) => {
                        failures.note::<()>(Err(format!("{e}: use -r")))
                    }
                    Err(e) if e.fs() == Some(FsError::Invalid) => {
                        failures.note::<()>(Err(format!(
                            "{e}: neither the root nor `.` and `..` can be removed"
                        )));
                    }
                    other => failures.note(other),
                }
            }
            failures.end()
        }
        FsCommand::Mv { no_clobber, paths } => mv(client, *no_clobber, paths).await,
        FsCommand::Ln { symbolic, target, path } => {
            let path = into_dir(client, path, target.file_name()).await?;
            if *symbolic {
                client.symlink(target, &path).await?;
            } else if let Err(e) = client.link(target, &path).await {
                let of_dir = e.fs() == Some(FsError::NotOwner)
                    && client.stat(target).await.is_ok_and(|attr| attr.kind == FileKind::Dir);
                let reason = "is a directory, which has only one name (EPERM): use -s for a symlink";
                let told = || Failure::new(format!("{} {reason}", target.display()));
                return Err(if of_dir { told() } else { e.into() });
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn mv(client: &Client, no_clobber: bool, paths: &[PathBuf]) -> Result<ExitCode, Failure> {
    let [sources @ .., target] = paths else { return Err(Failure::usage("mv SOURCE... TARGET")) };
    if sources.len() > 1 {
        require_dir(client, target).await?;
    }
    let mode = if no_clobber { RenameMode::NoReplace } else { RenameMode::Replace };
    let mut failures = Failures::default();
    for source in sources {
        let target = into_dir(client, target, source.file_name()).await?;
        let moved = client.rename(source, &target, mode).await.map_err(|e| match e.fs() {
            Some(e @ FsError::Exists) => format!("{}: {e}", target.display()),
            Some(e @ FsError::Invalid) => {
                let reason = "neither the root nor a directory into itself can be moved";
                format!("{} to {}: {e}: {reason}", source.display(), target.display())
            }
            _ => e.to_string(),
        });
        failures.note(moved);
    }
    failures.end()
}

/// `path` itself, or `name` in it if it is a directory.
async fn into_dir(client: &Client, path: &Path, name: Option<&OsStr>) -> Result<PathBuf, Failure> {
    match client.stat(path).await {
        Ok(attr) if attr.kind == FileKind::Dir => match name {
            Some(name) => Ok(path.join(name)),
            None => Err(Failure::usage(format!("{} is a directory: name the target", path.display()))),
        },
        Ok(_) => Ok(path.to_owned()),
        Err(e) if e.is_not_found() => Ok(path.to_owned()),
        Err(e) => Err(e.into()),
    }
}

async fn require_dir(client: &Client, path: &Path) -> Result<(), Failure> {
    match client.stat(path).await?.kind {
        FileKind::Dir => Ok(()),
        _ => Err(Failure::usage(format!("{} is not a directory: several sources need one", path.display()))),
    }
}

/// The broken pipe inside an error that names a path.
fn unwrap_io(e: ClientError) -> Failure {
    match e {
        ClientError::At { source, .. } if matches!(*source, ClientError::Io(_)) => (*source).into(),
        other => other.into(),
    }
}

/// Failures of a command that goes on: each is a line on standard error.
#[derive(Debug, Default)]
struct Failures(u64);

impl Failures {
    fn note<T>(&mut self, result: Result<T, impl std::fmt::Display>) {
        if let Err(e) = result {
            self.0 += 1;
            text::complain(&e.to_string().replace('\n', "\\n"));
        }
    }

    fn end(self) -> Result<ExitCode, Failure> {
        Ok(if self.0 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// `dir/name`, bytes as they are.
fn join(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}
