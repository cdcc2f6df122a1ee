//! `pohmelfs check`: the invariants of the namespace, and every block it refers to on every member of its group.
//!
//! Holds: a block that is overwritten while the check runs is no problem; what is missing is asked about again before it is
//! called missing. Memory does not grow with the number of blocks: they come in pages.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use futures::stream;
use indicatif::ProgressBar;
use serde_json::json;

use super::connect::connect;
use super::text::{self, Out};
use super::{Failure, Global};
use crate::client::{Client, ClientError, ClientOptions};
use crate::types::{BlockId, BlockRef, NodeId};
use crate::wire::message::{BlockFate, DataReply, DataRequest, MetaReply, MetaRequest, ReplicaState};

/// A server that computes over the whole namespace, or reads some blocks from a disk, takes its time.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);
const VERIFY_TIMEOUT: Duration = Duration::from_secs(120);
/// Blocks of a page, and of a question to a data server; with `--deep` it reads that many times 4 MiB.
const PAGE: u32 = 2048;
const VERIFY_DEEP: usize = 16;
/// Questions to data servers in flight.
const VERIFY_IN_FLIGHT: usize = 8;
/// Problems listed; the rest is counted.
const LISTED_MAX: usize = 1000;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs check            looks whether every block is where it should be
  pohmelfs check --deep     reads every byte of every replica

Exit codes: 0 all is well, 1 something is wrong or could not be tested, 2 wrong arguments.")]
pub(super) struct CheckArgs {
    /// Read every byte of every replica; else only length and checksum of each are compared
    #[arg(long)]
    deep: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default)]
struct Report {
    inode_count: u64,
    block_count: u64,
    replicas_good: u64,
    replicas_missing: u64,
    replicas_corrupt: u64,
    replicas_untested: u64,
    /// Blocks without any good replica.
    blocks_lost: u64,
    problem_count: u64,
    problems: Vec<String>,
}

impl Report {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < LISTED_MAX {
            self.problems.push(text);
        }
    }
}

pub(super) async fn run(global: &Global, args: &CheckArgs) -> Result<ExitCode, Failure> {
    let client = connect(global, ClientOptions::default()).await?;
    let report = check(&client, args.deep).await;
    client.close().await;
    let report = report?;
    show(&report, args)?;
    Ok(if report.problem_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(report: &Report, args: &CheckArgs) -> Result<(), Failure> {
    let mut out = Out::new();
    if args.json {
        out.json(&json!({
            "inodes": report.inode_count,
            "blocks": report.block_count,
            "replicas": {
                "good": report.replicas_good,
                "missing": report.replicas_missing,
                "corrupt": report.replicas_corrupt,
                "untested": report.replicas_untested,
            },
            "blocks_lost": report.blocks_lost,
            "deep": args.deep,
            "problem_count": report.problem_count,
            "problems": report.problems,
        }))?;
        return out.end();
    }
    for problem in &report.problems {
        writeln!(out, "{problem}")?;
    }
    if report.problem_count > report.problems.len() as u64 {
        writeln!(out, "... and {} more", report.problem_count - report.problems.len() as u64)?;
    }
    writeln!(
        out,
        "{} inodes, {} blocks; replicas: {} good, {} missing, {} corrupt, {} not tested; {} blocks lost; {} problems",
        report.inode_count,
        report.block_count,
        report.replicas_good,
        report.replicas_missing,
        report.replicas_corrupt,
        report.replicas_untested,
        report.blocks_lost,
        report.problem_count
    )?;
    if !args.deep {
        writeln!(
            out,
            "only lengths and recorded checksums were compared: `pohmelfs check --deep` reads every byte"
        )?;
    }
    out.end()
}

async fn check(client: &Client, deep: bool) -> Result<Report, ClientError> {
    let mut report = Report::default();
    let total = match client.request(&MetaRequest::Check, CHECK_TIMEOUT).await? {
        MetaReply::Checked { violations, inode_count, block_count, .. } => {
            report.inode_count = inode_count;
            violations.into_iter().for_each(|v| report.problem(format!("namespace: {v}")));
            block_count
        }
        other => return Err(ClientError::Protocol(format!("{other:?} to Check"))),
    };
    let bar = text::progress(total, false);
    let mut after = None;
    loop {
        let request = MetaRequest::Blocks { node: None, after, limit: PAGE };
        let (blocks, next) = match client.request(&request, CHECK_TIMEOUT).await? {
            MetaReply::Blocks { blocks, next } => (blocks, next),
            other => return Err(ClientError::Protocol(format!("{other:?} to Blocks"))),
        };
        check_page(client, &blocks, deep, &bar, &mut report).await?;
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Asks each member about its blocks of a page.
async fn check_page(
    client: &Client,
    blocks: &[BlockRef],
    deep: bool,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), ClientError> {
    report.block_count += blocks.len() as u64;
    let mut map = client.map();
    if blocks.iter().any(|b| !map.groups.contains_key(&b.group)) {
        map = client.refresh_map().await?;
    }
    let mut by_node: BTreeMap<NodeId, Vec<BlockRef>> = BTreeMap::new();
    for block in blocks {
        match map.groups.get(&block.group) {
            Some(group) => group.members.iter().for_each(|m| by_node.entry(*m).or_default().push(*block)),
            None => report
                .problem(format!("block {}: its group {} is not in the cluster map", block.id, block.group)),
        }
    }
    let chunk = if deep { VERIFY_DEEP } else { PAGE as usize };
    let questions = by_node.iter().flat_map(|(node, blocks)| blocks.chunks(chunk).map(|c| (*node, c)));
    let mut answers = stream::iter(questions)
        .map(|(node, blocks)| async move {
            let request = DataRequest::Verify { blocks: blocks.to_vec(), deep };
            (node, blocks, client.ask_data(node, &request, VERIFY_TIMEOUT).await)
        })
        .buffer_unordered(VERIFY_IN_FLIGHT);
    let mut good: BTreeMap<BlockId, u32> = BTreeMap::new();
    let mut bad: Vec<(NodeId, BlockId, ReplicaState)> = Vec::new();
    while let Some((node, blocks, answer)) = answers.next().await {
        match answer {
            Ok(DataReply::Verified(states)) if states.len() == blocks.len() => {
                for (block, state) in blocks.iter().zip(states) {
                    if state == ReplicaState::Good {
                        report.replicas_good += 1;
                        *good.entry(block.id).or_default() += 1;
                    } else {
                        bad.push((node, block.id, state));
                    }
                }
            }
            other => {
                report.replicas_untested += blocks.len() as u64;
                let reason = other.map_or_else(|e| e.to_string(), |o| format!("it answered {o:?}"));
                report.problem(format!("node {node}: {} replicas not tested: {reason}", blocks.len()));
            }
        }
    }
    drop(answers);
    // What was overwritten meanwhile is on its way out, and may be gone by right.
    let referenced = still_referenced(client, bad.iter().map(|(_, id, _)| *id).collect()).await?;
    let mut lost: BTreeMap<BlockId, ()> = BTreeMap::new();
    for (node, id, state) in bad {
        if !referenced.contains(&id) {
            continue;
        }
        let what = match state {
            ReplicaState::Missing => {
                report.replicas_missing += 1;
                "missing"
            }
            _ => {
                report.replicas_corrupt += 1;
                "corrupt"
            }
        };
        let left = good.get(&id).copied().unwrap_or(0);
        if left == 0 {
            lost.insert(id, ());
        }
        report
            .problem(format!("block {id}: replica on node {node} is {what}; {left} good replicas are left"));
    }
    report.blocks_lost += lost.len() as u64;
    bar.inc(blocks.len() as u64);
    Ok(())
}

/// Those of `blocks` that an extent refers to now.
async fn still_referenced(client: &Client, mut blocks: Vec<BlockId>) -> Result<Vec<BlockId>, ClientError> {
    blocks.sort_unstable();
    blocks.dedup();
    let mut referenced = Vec::new();
    for part in blocks.chunks(crate::wire::message::BLOCKS_MAX) {
        let request = MetaRequest::Fates { blocks: part.to_vec() };
        match client.request(&request, CHECK_TIMEOUT).await? {
            MetaReply::Fates(fates) if fates.len() == part.len() => {
                let kept = part.iter().zip(fates).filter(|(_, f)| *f == BlockFate::Referenced);
                referenced.extend(kept.map(|(id, _)| *id));
            }
            other => return Err(ClientError::Protocol(format!("{other:?} to Fates"))),
        }
    }
    Ok(referenced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::PutOptions;
    use crate::client::testing::{Fake, Fault};

    #[tokio::test]
    async fn every_bad_replica_is_found_and_a_good_cluster_is_clean() {
        let fake = Fake::start(1, 3).await;
        let client = fake.client().await;
        client.put(&[7u8; 200_000][..], "/f", PutOptions::default()).await.unwrap();
        let clean = check(&client, true).await.unwrap();
        assert_eq!((clean.problem_count, clean.block_count, clean.replicas_good), (0, 4, 12));
        fake.data[&NodeId(101)].set(Fault::Corrupts);
        fake.data[&NodeId(102)].set(Fault::Loses);
        let report = check(&client, false).await.unwrap();
        assert_eq!((report.replicas_corrupt, report.replicas_missing, report.blocks_lost), (4, 4, 0));
        fake.data[&NodeId(103)].die().await;
        let report = check(&client, false).await.unwrap();
        assert_eq!((report.replicas_untested, report.blocks_lost), (4, 4));
        assert_eq!(report.problem_count, 9, "{:?}", report.problems);
    }
}
