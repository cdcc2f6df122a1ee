//! Runs one server until a signal or a failure ends it.
//!
//! Holds: HTTP answers from the first moment, `/readyz` with what is still to be waited for; SIGTERM and SIGINT stop
//! gracefully within a bounded time, a second one at once; a server that cannot go on ends the process with exit code 1.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::roles::{self, Role};
use super::{Failure, Global, ServeArgs, logging, runtime};
use crate::config::{self, Source};
use crate::http::{self, HttpServer};
#[cfg(any(debug_assertions, feature = "simulation"))]
use crate::types::Level;
use crate::types::{LevelRange, NodeId};
use crate::wire::status::{ClusterStatus, PathStatus, ServerRole, ServerStatus, StatusError, StatusSource};
#[cfg(any(debug_assertions, feature = "simulation"))]
use crate::wire::{Program, VersionRange};

/// Error code of a server that has not come up yet.
const STARTING: u16 = 3900;

pub(super) fn meta(global: &Global, args: &ServeArgs) -> Result<ExitCode, Failure> {
    start_log(global)?;
    let config = config::load_meta(&source(args)).map_err(Failure::usage)?;
    #[cfg(any(debug_assertions, feature = "simulation"))]
    let config = pretend(config)?;
    let identity = ServerStatus {
        role: ServerRole::Meta,
        node: config.node_id(),
        name: config.name.clone(),
        address: config.address().0,
        http: config.http_address().0,
        ..starting()
    };
    let http = config.http_listen.clone();
    serve(global, args, identity, &http, || roles::start_meta(config))
}

pub(super) fn data(global: &Global, args: &ServeArgs) -> Result<ExitCode, Failure> {
    start_log(global)?;
    let config = config::load_data(&source(args)).map_err(Failure::usage)?;
    let identity = ServerStatus {
        role: ServerRole::Data,
        node: config.node_id(),
        name: config.name.clone(),
        address: config.address().0,
        http: config.http_address().0,
        ..starting()
    };
    let http = config.http_listen.clone();
    serve(global, args, identity, &http, || roles::start_data(config))
}

/// For tests of mixed clusters: `POHMELFS_PRETEND=VERSION,LEVEL-LEVEL,PROTOCOL-PROTOCOL` lets a metadata server say that it is another
/// program, and do no more than that one. What ships does not look at it.
#[cfg(any(debug_assertions, feature = "simulation"))]
fn pretend(mut config: config::MetaConfig) -> Result<config::MetaConfig, Failure> {
    let Ok(text) = std::env::var("POHMELFS_PRETEND") else { return Ok(config) };
    let wrong = || Failure::usage(format!("POHMELFS_PRETEND={text}: wanted VERSION,FIRST-LAST,FIRST-LAST"));
    let range = |part: &str| {
        let (first, last) = part.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let [version, levels, protocol] = *text.split(',').collect::<Vec<_>>() else { return Err(wrong()) };
    let levels = range(levels).ok_or_else(wrong)?;
    let (first, last) = range(protocol).ok_or_else(wrong)?;
    let levels = LevelRange { first: Level(levels.0), last: Level(levels.1) };
    config.program = Program { version: version.to_owned(), levels };
    config.versions = VersionRange { first, last };
    tracing::warn!(program = %config.program, protocol = %config.versions, "pretends to be another program");
    Ok(config)
}

/// Before the configuration is read: variables of the environment that no key has are told there.
fn start_log(global: &Global) -> Result<(), Failure> {
    logging::start(global, "info").map_err(Failure::usage)
}

fn source(args: &ServeArgs) -> Source {
    Source { flags: args.set.clone(), ..Source::file_and_env(&args.config) }
}

fn starting() -> ServerStatus {
    ServerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        levels: LevelRange::OURS.into(),
        node: NodeId(0),
        reason: "starting: its directories are being opened".to_owned(),
        ..ServerStatus::default()
    }
}

type Started = BoxFuture<'static, Result<Box<dyn Role>, String>>;

fn serve(
    global: &Global,
    args: &ServeArgs,
    identity: ServerStatus,
    http: &str,
    start: impl FnOnce() -> Started,
) -> Result<ExitCode, Failure> {
    if args.check {
        println!("{}: fine", args.config.display());
        return Ok(ExitCode::SUCCESS);
    }
    logging::raise_file_limit();
    let config: &Path = &args.config;
    let (role, name) = (identity.role, identity.name.clone());
    tracing::info!(%role, %name, version = %identity.version, config = %config.display(), "server starts");
    let ended = runtime(global)?.block_on(run(identity, http, start));
    match &ended {
        Ok(_) => tracing::info!(%role, %name, "server stopped"),
        Err(failure) => tracing::error!(%role, %name, reason = %failure.message, "server failed"),
    }
    ended
}

async fn run(
    identity: ServerStatus,
    listen: &str,
    start: impl FnOnce() -> Started,
) -> Result<ExitCode, Failure> {
    let mut stop = Stop::listen()?;
    let switch = Arc::new(Switch { identity, role: OnceLock::new() });
    let http = if listen.is_empty() {
        None
    } else {
        let metrics = http::install_metrics().map_err(Failure::new)?;
        Some(HttpServer::start(listen, switch.clone(), Some(metrics)).await.map_err(Failure::new)?)
    };
    // Dropping a start that is under way loses nothing that was acknowledged: nothing was.
    let role = tokio::select! {
        started = start() => started.map_err(Failure::new)?,
        () = stop.asked() => return Ok(ExitCode::SUCCESS),
    };
    // Set once, here.
    let _ = switch.role.set(role.source());
    let failed = tokio::select! {
        () = stop.asked() => None,
        reason = role.failed() => Some(reason),
    };
    let stopping = async {
        role.stop().await;
        if let Some(http) = http {
            http.stop().await;
        }
    };
    tokio::select! {
        () = stopping => {}
        () = stop.asked() => return Err(Failure::new("stopped at once: a second signal came while stopping")),
    }
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(reason) => Err(Failure::new(reason)),
    }
}

/// The signals that ask for an end.
struct Stop {
    term: Signal,
    int: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|e| Failure::new(format!("cannot listen for signals: {e}")));
        Ok(Self { term: on(SignalKind::terminate())?, int: on(SignalKind::interrupt())? })
    }

    /// Returns at the next signal. Nothing is lost when it is dropped.
    async fn asked(&mut self) {
        let name = tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "asked to stop");
    }
}

/// Tells that the server starts, until it has started; then what the role tells.
struct Switch {
    identity: ServerStatus,
    role: OnceLock<Arc<dyn StatusSource>>,
}

impl Switch {
    fn not_yet<T: Send + 'static>(&self) -> BoxFuture<'_, Result<T, StatusError>> {
        let error =
            StatusError::unavailable(STARTING, "the server is starting", "ask again, or another server");
        futures::future::ready(Err(error)).boxed()
    }
}

impl StatusSource for Switch {
    fn server(&self) -> BoxFuture<'_, ServerStatus> {
        match self.role.get() {
            Some(role) => role.server(),
            None => futures::future::ready(self.identity.clone()).boxed(),
        }
    }

    fn cluster(&self) -> BoxFuture<'_, Result<ClusterStatus, StatusError>> {
        self.role.get().map_or_else(|| self.not_yet(), |role| role.cluster())
    }

    fn lookup(&self, path: Vec<u8>) -> BoxFuture<'_, Result<PathStatus, StatusError>> {
        self.role.get().map_or_else(|| self.not_yet(), |role| role.lookup(path))
    }
}
