//! `pohmelfs health ADDRESS`: is that server ready? For container health checks and scripts.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::Failure;
use crate::{config, http};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs health 127.0.0.1:7011
  pohmelfs health --alive 127.0.0.1:7011
  pohmelfs health --json 127.0.0.1:7011 | jq -r .reason")]
pub(super) struct HealthArgs {
    /// HOST:PORT of the server's HTTP
    address: String,
    /// Longest wait for the answer, in milliseconds
    #[arg(long, default_value_t = 3000, value_name = "MS")]
    timeout_ms: u64,
    /// Ask only whether the process is alive
    #[arg(long)]
    alive: bool,
    /// As JSON: address, ok, and the reason if it is not
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &HealthArgs) -> Result<ExitCode, Failure> {
    config::check_address("address", &args.address, false).map_err(Failure::usage)?;
    let target = if args.alive { "/healthz" } else { "/readyz" };
    let timeout = Duration::from_millis(args.timeout_ms);
    let answered = http::get(&args.address, target, timeout).await;
    let reason = match &answered {
        Ok((200, _)) => None,
        Ok((status, body)) => Some(reason(*status, body)),
        Err(error) => Some(error.to_string()),
    };
    if args.json {
        println!("{}", json!({ "address": args.address, "ok": reason.is_none(), "reason": reason }));
        return Ok(if reason.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    answered.map_err(Failure::new)?;
    match reason {
        None => {
            println!("{}", if args.alive { "alive" } else { "ready" });
            Ok(ExitCode::SUCCESS)
        }
        Some(reason) => Err(Failure::new(format!("{} is not ready: {reason}", args.address))),
    }
}

/// What a server that is not ready says.
fn reason(status: u16, body: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|v| v.get("reason").or(v.get("error")).and_then(|r| r.as_str().map(str::to_owned)))
        .unwrap_or_else(|| format!("HTTP status {status}"))
}
