//! The background mode: the same program once more in the foreground mode, and a pipe on which it tells how it went.
//!
//! A process with threads cannot be forked, so it is started anew before there are any.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use super::{Failure, MountArgs};

/// What the child writes when the directory answers.
const MOUNTED: &str = "mounted";

/// Starts it, and returns once it is mounted or has failed.
pub(super) fn start(args: &MountArgs, log_file: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let log_file = log_file.unwrap_or_else(|| default_log(&args.dir));
    let log = open(&log_file).map_err(|e| {
        Failure::new(format!(
            "cannot write the log to {}: {e}; name another with --log-file",
            log_file.display()
        ))
    })?;
    let program = std::env::current_exe()
        .map_err(|e| Failure::new(format!("cannot find this program to start it in the background: {e}")))?;
    let arguments = std::env::args_os().skip(1).filter(|a| a != "--foreground" && a != "-f");
    let arguments: Vec<_> =
        super::helper::args_of_helper().map_or_else(|| arguments.collect(), |a| a.collect());
    let mut child = Command::new(program)
        .args(arguments)
        .args(["--foreground", "--tell"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(|e| Failure::new(format!("cannot start in the background: {e}")))?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        // An end without a line is the answer as well.
        let _ = BufReader::new(out).read_line(&mut said);
    }
    match said.trim_end() {
        MOUNTED => {
            println!("{} is mounted; its log is {}", args.dir.display(), log_file.display());
            Ok(ExitCode::SUCCESS)
        }
        "" => Err(Failure::new(format!("it ended without a word: see {}", log_file.display()))),
        why => {
            // It is ending; wait, so that nothing of it is left when we are gone.
            let _ = child.wait();
            Err(Failure::new(why))
        }
    }
}

/// In the child: a session of its own, so that the terminal's signals do not reach it.
pub(super) fn detach() {
    if let Err(error) = rustix::process::setsid() {
        eprintln!("pohmelfs: no session of its own: {error}");
    }
    // A directory that is in use could not be unmounted.
    let _ = rustix::process::chdir("/");
}

/// In the child: tells how it went. Nobody listens: nothing to do.
pub(super) fn tell(outcome: &Result<(), String>) {
    let line = match outcome {
        Ok(()) => MOUNTED.to_owned(),
        Err(why) => why.replace('\n', " "),
    };
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn open(path: &Path) -> std::io::Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn default_log(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let name: String = dir
        .to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_alphanumeric() || c == '.' || c == '_' { c } else { '-' })
        .collect();
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/log/pohmelfs")
    } else {
        std::env::temp_dir().join(format!("pohmelfs-{}", rustix::process::geteuid().as_raw()))
    };
    base.join(format!("mount-{name}.log"))
}
