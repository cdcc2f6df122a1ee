//! `pohmelfs status`: the whole cluster, as a table, as JSON, or live.
//!
//! Asks all given metadata servers at once, over the same protocol as everything else, and prefers an answer that knows
//! a leader. Holds: answers also when the majority is gone, as long as one server answers.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use indicatif::HumanBytes;

use super::{Failure, Global, text};
use crate::net::{Channel, ChannelOptions};
use crate::runtime;
use crate::types::{NodeAddress, Timestamp, codec};
use crate::wire::message::{MetaReply, MetaRequest, kind};
use crate::wire::status::{ClusterStatus, DataNodeStatus, GraceStatus, Health, MetaNodeStatus};
use crate::wire::{Class, Hello, Role};

/// How long one server may take: it asks its peers itself, with a bound below this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs status
  pohmelfs status --watch --every 5
  pohmelfs status --json | jq -r .health")]
pub(super) struct StatusArgs {
    /// As JSON, as `GET /cluster` gives it
    #[arg(long)]
    json: bool,
    /// Again and again, until interrupted
    #[arg(long)]
    watch: bool,
    /// With --watch: seconds between two looks
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    every: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.1..=3600.0).contains(&s) => Ok(s),
        _ => Err("wanted 0.1 to 3600 seconds".to_owned()),
    }
}

pub(super) async fn run(global: &Global, args: &StatusArgs) -> Result<ExitCode, Failure> {
    let channels = channels(&global.servers()?);
    loop {
        let answer = ask(&channels).await;
        if !args.watch {
            let status = answer?;
            show(&status, args.json)?;
            return Ok(if status.health == Health::Down { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        if !args.json && std::io::stdout().is_terminal() {
            print!("\x1b[2J\x1b[H");
        }
        match answer {
            Ok(status) => show(&status, args.json)?,
            Err(failure) => eprintln!("pohmelfs: {}", failure.message),
        }
        runtime::sleep(Duration::from_secs_f64(args.every)).await;
    }
}

/// Channels to metadata servers, for a tool.
pub(super) fn channels(servers: &[NodeAddress]) -> Vec<(NodeAddress, Channel)> {
    let hello = Hello::new(Role::Client, "pohmelfs status");
    let open = |a: &NodeAddress| {
        (a.clone(), Channel::new(a.clone(), hello.clone(), Class::Metadata, ChannelOptions::default()))
    };
    servers.iter().map(open).collect()
}

/// The first answer that knows a leader; else any answer.
pub(super) async fn ask(channels: &[(NodeAddress, Channel)]) -> Result<ClusterStatus, Failure> {
    let request = codec::encode(&MetaRequest::Status).map_err(Failure::new)?;
    let mut answers: FuturesUnordered<_> =
        channels.iter().map(|(a, c)| ask_one(a, c, request.clone())).collect();
    let (mut without_leader, mut errors) = (None, Vec::new());
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(status) if status.leader.is_some() => return Ok(status),
            Ok(status) => without_leader = Some(status),
            Err(error) => errors.push(error),
        }
    }
    without_leader.ok_or_else(|| Failure::new(format!("no metadata server answers: {}", errors.join("; "))))
}

async fn ask_one(
    address: &NodeAddress,
    channel: &Channel,
    request: Vec<u8>,
) -> Result<ClusterStatus, String> {
    let at = |e: &dyn std::fmt::Display| format!("{address}: {e}");
    let reply = channel.call(kind::META, request, Bytes::new(), ANSWER_TIMEOUT).await;
    let reply = reply.map_err(|e| e.to_string())?;
    match codec::decode::<MetaReply>(&reply.meta).map_err(|e| at(&e))? {
        MetaReply::Status(json) => serde_json::from_str(&json).map_err(|e| at(&e)),
        other => Err(at(&format!("answered with something else: {other:?}"))),
    }
}

fn show(status: &ClusterStatus, json: bool) -> Result<(), Failure> {
    let text = if json {
        serde_json::to_string_pretty(status).map_err(Failure::new)? + "\n"
    } else {
        render(status, std::io::stdout().is_terminal())
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `pohmelfs status | head` is no failure.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(e)),
        _ => Ok(()),
    }
}

fn render(status: &ClusterStatus, color: bool) -> String {
    use std::fmt::Write as _;

    let leader = status.meta.iter().find(|m| Some(m.node) == status.leader);
    let leader = leader.map_or("none", |m| m.name.as_str());
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "cluster {}{}  health {}  leader {leader}  term {}  epoch {}  level {}",
        status.cluster,
        if status.label.is_empty() { String::new() } else { format!(" ({})", status.label) },
        status.health,
        status.term,
        status.epoch,
        status.level
    );
    if let Some(note) = &status.level_note {
        let _ = writeln!(out, "  note: {note}");
    }
    if let Some(grace) = &status.grace {
        let _ = writeln!(out, "{}", in_grace(grace, status.data.len()));
    }
    for reason in &status.reasons {
        let _ = writeln!(out, "  {}: {}\n    {}", reason.health, reason.what, reason.hint);
    }
    let _ = writeln!(out, "\n{}\n\n{}\n", meta_table(status, color), data_table(status, color));
    let (groups, totals) = (&status.groups, &status.totals);
    let _ = writeln!(
        out,
        "groups {}: {} whole, {} not whole, {} lost   inodes {}   sessions {}   used {}, free {} of {}",
        groups.count,
        groups.whole,
        groups.not_whole,
        groups.lost,
        totals.inode_count,
        totals.session_count,
        HumanBytes(totals.used),
        HumanBytes(totals.free),
        HumanBytes(totals.total)
    );
    out
}

/// What is kept behind a restore, how long, and what to do meanwhile.
fn in_grace(grace: &GraceStatus, servers: usize) -> String {
    let time = |secs| text::time(Timestamp::from_parts(secs, 0));
    format!(
        "  note: restored from a dump at {} UTC; until {} UTC blocks of before that nothing refers to are kept: {} replicas, {} ({} of {servers} \
         data servers have looked)\n    if the dump was too old, restore a newer one by then: docs/operating.md, \"Backup of the metadata\"",
        time(grace.restored),
        time(grace.until),
        grace.kept.replicas,
        HumanBytes(grace.kept.bytes),
        grace.looked
    )
}

pub(super) fn table(header: &[&str], color: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|h| Cell::new(h.to_uppercase())));
    if !color {
        table.force_no_tty();
    }
    table
}

fn number(value: impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

pub(super) fn known<T: ToString>(value: Option<T>) -> Cell {
    value.map_or_else(|| number("-"), number)
}

/// The version of a program, where it is known.
pub(super) fn program(version: &str) -> Cell {
    Cell::new(if version.is_empty() { "-" } else { version })
}

fn colored(word: &str, good: bool, color: bool) -> Cell {
    let cell = Cell::new(word);
    if color { cell.fg(if good { Color::Green } else { Color::Red }) } else { cell }
}

/// The columns meta, node, role, state and address.
pub(super) fn who(m: &MetaNodeStatus, color: bool) -> Vec<Cell> {
    let state = if m.reachable { m.raft_state.as_str() } else { "unreachable" };
    vec![
        Cell::new(&m.name),
        number(m.node),
        Cell::new(if m.role.is_empty() { "-" } else { &m.role }),
        colored(state, m.reachable, color),
        Cell::new(&m.address),
    ]
}

fn meta_table(status: &ClusterStatus, color: bool) -> Table {
    let header = [
        "meta", "node", "role", "state", "address", "http", "term", "log", "lag", "applied", "snapshot",
        "req/s", "memory", "program",
    ];
    let mut table = table(&header, color);
    for m in &status.meta {
        let mut row = who(m, color);
        row.extend([
            Cell::new(&m.http),
            known(m.term),
            known(m.last_log),
            known(m.lag),
            known(m.applied),
            known(m.snapshot),
            known(m.request_rate.map(|r| format!("{r:.0}"))),
            known(m.resident_bytes.map(HumanBytes)),
            program(&m.version),
        ]);
        table.add_row(row);
    }
    table
}

/// Blocks that a data server lacks: `?` while it has not told, a plus while it looks for more.
fn lacks(server: &DataNodeStatus) -> Cell {
    number(match server.compared {
        None => "?".to_owned(),
        Some(false) => format!("{}+", server.lacking),
        Some(true) => server.lacking.to_string(),
    })
}

fn data_table(status: &ClusterStatus, color: bool) -> Table {
    let header = [
        "data", "node", "state", "address", "http", "domain", "free", "total", "blocks", "lacks", "reads/s",
        "writes/s", "program",
    ];
    let mut table = table(&header, color);
    for d in &status.data {
        table.add_row(vec![
            Cell::new(&d.name),
            number(d.node),
            colored(&d.state, d.state == "up", color),
            Cell::new(&d.address),
            Cell::new(&d.http),
            Cell::new(&d.domain),
            number(HumanBytes(d.free)),
            number(HumanBytes(d.total)),
            number(d.block_count),
            lacks(d),
            number(HumanBytes(d.read_rate)),
            number(HumanBytes(d.write_rate)),
            program(&d.version),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;
    use crate::wire::status::{DataNodeStatus, HealthReason, KeptStatus};

    #[test]
    fn a_page_says_what_is_kept_behind_a_restore() {
        let kept = KeptStatus { replicas: 12, bytes: 3 << 20 };
        let grace = GraceStatus { restored: 1_800_000_000, until: 1_800_086_400, kept, looked: 2 };
        let data = vec![DataNodeStatus::default(); 3];
        let page = render(&ClusterStatus { grace: Some(grace), data, ..Default::default() }, false);
        let words = ["2027-01-15", "2027-01-16", "12 replicas, 3.00 MiB (2 of 3 data servers have looked)"];
        for word in words {
            assert!(page.contains(word), "{word} is missing in:\n{page}");
        }
        assert!(!render(&ClusterStatus::default(), false).contains("restored"));
    }

    #[test]
    fn a_page_says_who_is_gone_and_what_to_do() {
        let reason = HealthReason {
            health: Health::Degraded,
            what: "meta-2 does not answer".into(),
            hint: "start it again".into(),
        };
        let meta = |i: u64| MetaNodeStatus {
            node: NodeId(i),
            name: format!("meta-{i}"),
            reachable: i == 1,
            raft_state: "leader".into(),
            applied: (i == 1).then_some(77),
            ..Default::default()
        };
        let status = ClusterStatus {
            health: Health::Degraded,
            reasons: vec![reason],
            leader: Some(NodeId(1)),
            meta: vec![meta(1), meta(2)],
            data: vec![DataNodeStatus { name: "data-1".into(), state: "up".into(), ..Default::default() }],
            ..Default::default()
        };
        let page = render(&status, false);
        for word in ["degraded", "leader meta-1", "start it again", "unreachable", "77", "data-1"] {
            assert!(page.contains(word), "{word} is missing in:\n{page}");
        }
        assert!(!page.contains('\x1b'));
    }
}
