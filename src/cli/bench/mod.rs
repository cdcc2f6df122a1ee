//! `pohmelfs bench`: what a running cluster does, measured from one client process.
//!
//! Holds: every operation counted was acknowledged; whatever a bench stored it removes, also after a failure.
//! Not here: other systems to compare with (`scripts/bench-meta`, `scripts/bench-data`).

mod data;
mod meta;
mod samples;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Failure, Global};
use crate::client::{Client, ClientError, ClientOptions, Spread};
use crate::runtime;

/// Flags of `bench`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs bench meta --callers 16
  pohmelfs bench data --size 256M")]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Creates and linearizable lookups a second, with the time they took
    Meta(meta::MetaArgs),
    /// How fast files are stored and read back
    Data(data::DataArgs),
}

pub(super) async fn run(global: &Global, args: &BenchArgs) -> Result<ExitCode, Failure> {
    match &args.what {
        What::Meta(args) => meta::run(global, args).await?,
        What::Data(args) => data::run(global, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A client whose calls go to all metadata servers in turn.
async fn connect(global: &Global, label: &str) -> Result<Client, Failure> {
    let options = ClientOptions {
        label: label.to_owned(),
        spread: Spread::Even,
        blocks_in_flight: 6,
        memory_max: 128 << 20,
        ..ClientOptions::default()
    };
    Client::connect(&global.servers()?, options).await.map_err(Failure::new)
}

/// Makes a directory of its own for a bench, runs it, and removes the directory whatever came of it.
async fn in_own_directory<R>(
    client: &Client,
    bench: impl AsyncFnOnce(String) -> Result<R, ClientError>,
) -> Result<R, Failure> {
    let dir = format!("/bench-{:016x}", runtime::random_u64());
    client.mkdir(&dir, 0o700).await.map_err(Failure::new)?;
    let outcome = bench(dir.clone()).await;
    let removed = client.remove_tree(&dir).await;
    let outcome = outcome.map_err(Failure::new)?;
    removed.map_err(|e| Failure::new(format!("measured, but cannot remove {dir}: {e}")))?;
    Ok(outcome)
}
