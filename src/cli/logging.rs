//! What every process of ours sets up first: its log, its panic hook, its limit of open files.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::Global;

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Libraries that tell more than an operator wants to read: openraft warns at each heartbeat to a server that is down, which
/// `net` and the status tell once.
const QUIET: &str = "openraft=error,sled=warn,hyper=warn,raft_log=warn";

/// Starts logging to standard error; without `--log`, at `level`. A panic becomes a line of the log.
///
/// # Errors
/// When the filter cannot be read.
pub(super) fn start(global: &Global, level: &str) -> Result<(), String> {
    start_to(global, level, None)
}

/// As [`start`], to the end of a file if one is given.
///
/// # Errors
/// When the filter cannot be read or the file not be opened.
pub(super) fn start_to(global: &Global, level: &str, file: Option<&Path>) -> Result<(), String> {
    let directives = match &global.log {
        Some(own) => own.clone(),
        None => format!("{level},{QUIET}"),
    };
    let filter = EnvFilter::try_new(&directives).map_err(|e| format!("--log {directives}: {e}"))?;
    let (writer, ansi) = match file {
        None => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
        Some(path) => {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            let file = opened.map_err(|e| format!("cannot write the log to {}: {e}", path.display()))?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match global.log_format {
        Format::Text => log.with_ansi(ansi).init(),
        Format::Json => log.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no message)");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(%place, %backtrace, "panic: {message}");
    }));
    Ok(())
}

/// Raises the limit of open files to the hard one: a data server has a file open for each block in use, and 1,024, the usual
/// soft limit, is one busy client.
pub(super) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, from = ?limit.current, to = ?limit.maximum, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_hard_one() {
        raise_file_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
