//! `pohmelfs restore`: makes a metadata cluster that was just founded into what a dump says.
//!
//! ```text
//! verify the whole file -> compare with the cluster -> Begin -> Part 0, 1, ... -> End -> check
//! ```
//!
//! Holds: nothing is sent before the whole file was verified; every step may be sent again, to any server, so the death of a leader costs
//! time only and an interrupted restore goes on where it was; an error says what to do.
//! Not here: what becomes of the records (`namespace/restore.rs`).

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::dump::contents::{self, Contents};
use super::status::{self, channels};
use super::text::{self, Out};
use super::{Failure, Global};
use crate::net::Channel;
use crate::runtime;
use crate::types::{DataNode, NodeAddress, RestoreStep, Timestamp, codec, first_inode, floor_at};
use crate::wire::RpcError;
use crate::wire::dump::{RestoreProgress, RestoreRefusal};
use crate::wire::message::{MetaReply, MetaRequest, kind};

/// Longest time without a server that answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for one server: it may have to write out what has come.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for a check of the whole namespace.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two tries while no server takes a step.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs dump --verify metadata.dump                                   what is in it
  pohmelfs restore --cluster host1:7001,host2:7001,host3:7001 metadata.dump

When all metadata servers are lost: start new ones with empty directories, run this once, and start the data servers, which
register by themselves if their `meta_servers` lead to the new ones. Mounts from before are mounted again. Interrupted, it is
run again with the same file. Exit codes: 0 restored, 1 not, or `check` found something, 2 wrong arguments.")]
pub(super) struct RestoreArgs {
    /// A file that `pohmelfs dump` made
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &Global, args: &RestoreArgs) -> Result<ExitCode, Failure> {
    let servers = global.servers()?;
    let contents = Contents::verify(&args.file)?;
    let clock = runtime::wall_clock();
    let floor = floor_of(&contents, clock, runtime::random_u64())?;
    let cluster = Cluster { channels: channels(&servers) };
    cluster.look_for_conflicts(&contents.data).await?;

    let dump = contents.header.stamp;
    let progress = cluster.step(RestoreStep::Begin { dump, floor }).await?;
    let (floor, mut next) = (progress.floor, progress.next);
    if next > 0 {
        text::complain(&format!(
            "a restore of this dump was interrupted: goes on behind its first {next} parts"
        ));
    }
    let hash = dump.tally.hash;
    let (mut reader, bar) = contents::open(&args.file)?;
    loop {
        let block = reader.block();
        let block = block.map_err(|e| Failure::new(format!("{}: {e}", args.file.display())))?;
        let Some(block) = block else { break };
        if block.number < next {
            continue;
        }
        let part = RestoreStep::Part { dump: hash, number: block.number, records: block.packed };
        next = cluster.step(part).await?.next;
    }
    cluster.step(RestoreStep::End { dump: hash, floor }).await?;
    bar.finish_and_clear();
    let violations = cluster.check().await?;
    show(args, &contents, &violations)?;
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where ids begin behind the restore: above all that the dump's cluster can have given out by now.
fn floor_of(contents: &Contents, clock: Timestamp, dice: u64) -> Result<u64, Failure> {
    let taken = contents.header.stamp.taken;
    let (session, inode) =
        contents.superblock.as_ref().map_or((0, 0), |s| (s.next_session.0, s.next_inode.0));
    let floor = floor_at(clock, dice).filter(|floor| *floor > session && first_inode(*floor) > inode);
    floor.filter(|_| clock > taken).ok_or_else(|| {
        Failure::new(format!(
            "the clock of this machine says {} UTC, and the dump was taken at {} UTC: set the clock. New ids are taken from it, so that none is \
             given out twice",
            text::time(clock),
            text::time(taken)
        ))
    })
}

fn show(args: &RestoreArgs, contents: &Contents, violations: &[String]) -> Result<(), Failure> {
    let mut out = Out::new();
    if args.json {
        let mut value = contents.json();
        value["outcome"] = json!("restored");
        value["violations"] = json!(violations);
        out.json(&value)?;
        return out.end();
    }
    writeln!(out, "restored: {} inodes, {} blocks", contents.inode_count, contents.block_count)?;
    for violation in violations {
        writeln!(out, "namespace: {violation}")?;
    }
    if !contents.data.is_empty() {
        writeln!(out, "these data servers have the blocks, and register by themselves once they run:")?;
        for node in &contents.data {
            writeln!(out, "  {} (node {}), last at {}", node.name, node.node, node.address)?;
        }
    }
    writeln!(
        out,
        "then `pohmelfs check` says whether every block is there; mount again what was mounted before"
    )?;
    out.end()
}

struct Cluster {
    channels: Vec<(NodeAddress, Channel)>,
}

impl Cluster {
    /// A data server of the dump and a metadata server of the cluster cannot have one id or name: said before anything is done.
    async fn look_for_conflicts(&self, data: &[DataNode]) -> Result<(), Failure> {
        let status = status::ask(&self.channels).await?;
        let ids: BTreeSet<_> = status.meta.iter().map(|m| m.node).collect();
        let names: BTreeSet<&str> = status.meta.iter().map(|m| m.name.as_str()).collect();
        match data.iter().find(|n| ids.contains(&n.node) || names.contains(n.name.as_str())) {
            Some(node) => Err(Failure::new(format!(
                "data server {} (node {}) of the dump has the id or the name of a metadata server of this cluster; nothing was changed. Start \
                 the metadata servers with other ids and names, and empty directories",
                node.name, node.node
            ))),
            None => Ok(()),
        }
    }

    /// Sends a step to one server after the other until one has done it.
    async fn step(&self, step: RestoreStep) -> Result<RestoreProgress, Failure> {
        match self.ask(&MetaRequest::Restore(step), ATTEMPT_TIMEOUT, PATIENCE).await? {
            MetaReply::Restore(Ok(progress)) => Ok(progress),
            MetaReply::Restore(Err(refusal @ RestoreRefusal::NotRestoring)) => Err(Failure::new(format!(
                "{refusal}. Were the metadata servers started with empty directories meanwhile? Then run this again"
            ))),
            MetaReply::Restore(Err(refusal)) => Err(Failure::new(refusal)),
            other => Err(Failure::new(format!("to a step of a restore a server answered {other:?}"))),
        }
    }

    async fn check(&self) -> Result<Vec<String>, Failure> {
        match self.ask(&MetaRequest::Check, CHECK_TIMEOUT, CHECK_TIMEOUT).await? {
            MetaReply::Checked { violations, .. } => Ok(violations),
            other => Err(Failure::new(format!("to a check a server answered {other:?}"))),
        }
    }

    async fn ask(
        &self,
        request: &MetaRequest,
        attempt: Duration,
        patience: Duration,
    ) -> Result<MetaReply, Failure> {
        let bytes = codec::encode(request).map_err(Failure::new)?;
        let deadline = runtime::now() + patience;
        let mut last = String::new();
        loop {
            for (address, channel) in &self.channels {
                let error = match channel.call(kind::META, bytes.clone(), Bytes::new(), attempt).await {
                    Ok(reply) => return codec::decode(&reply.meta).map_err(Failure::new),
                    Err(e) => e,
                };
                if let RpcError::Refused { .. } = error {
                    return Err(Failure::new(format!("{address}: {error}")));
                }
                last = format!("{address}: {error}");
            }
            if runtime::now() >= deadline {
                return Err(Failure::new(format!(
                    "no metadata server went on with the restore within {patience:?}: see `pohmelfs status`, and run it again with the same \
                     file; it goes on where it was. Last: {last}"
                )));
            }
            runtime::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dump::file::Header;
    use super::*;
    use crate::types::DumpStamp;

    #[test]
    fn a_clock_before_the_dump_is_refused() {
        let taken = Timestamp::from_parts(1_800_000_000, 0);
        let stamp = DumpStamp { taken, ..DumpStamp::default() };
        let contents = Contents::new(Header { stamp, program: String::new() });
        let at = |secs| floor_of(&contents, Timestamp::from_parts(secs, 0), 7);
        let told = at(1_799_999_999).unwrap_err().message;
        assert!(told.contains("set the clock"), "{told}");
        assert_eq!(at(1_800_000_001).unwrap(), (1_800_000_001 << 24) + 7);
    }
}
