//! `pohmelfs cluster`: the metadata servers that there are, changed while they serve.
//!
//! Each command may be sent to any server and sent again; the leader decides (`meta/members.rs`). `replace` and the waiting are made here, of
//! the same small steps, so an interrupted one is simply started again. Holds: a refusal is one line with the way out, exit code 1.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::json;

use super::connect::connect;
use super::status::{self, known, program, table, who};
use super::text::Out;
use super::{Failure, Global};
use crate::client::ClientOptions;
use crate::config;
use crate::net::Channel;
use crate::runtime::{self, Instant};
use crate::types::{NodeAddress, NodeId, codec};
use crate::wire::RpcError;
use crate::wire::members::{MembersOutcome, MembersRequest, Refusal};
use crate::wire::message::{MetaReply, MetaRequest, kind};
use crate::wire::status::ClusterStatus;

/// Longest time for a change to be answered, elections included.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for one server: a change takes some commits, and a hand-over before it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server that is to catch up may be silent before the command gives up.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Between two looks at how far a new server has come.
const LOOK: Duration = Duration::from_millis(500);
/// Looks at most until the list has what was done.
const LOOKS_MAX: usize = 30;
/// Between two tries while no server knows a leader.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs cluster members
  pohmelfs cluster add 4 meta-4:7001 --promote
  pohmelfs cluster replace 3 4 meta-4:7001        meta-3 is gone for good
  pohmelfs cluster remove 5
  pohmelfs cluster transfer-leader 2
  pohmelfs cluster upgrade                        every server runs the new program
  pohmelfs cluster label \"build farm\"

A new server is started first, with `join = true` in its configuration, an empty directory and a node id that was
never used. Every command may be sent again: what is so already is not done twice.")]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    command: Command,
    /// The result as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List the metadata servers, their roles, and how much of the log each lacks
    #[command(after_help = "\
Examples:
  pohmelfs cluster members
  pohmelfs cluster members --json | jq -r '.members[] | select(.role == \"voter\") | .address'")]
    Members,
    /// Make a server that waits a learner: it gets the log, and is not counted
    #[command(after_help = "\
Examples:
  pohmelfs cluster add 4 meta-4:7001
  pohmelfs cluster add 4 meta-4:7001 --promote    waits until it has caught up, and makes it a voter")]
    Add {
        /// Its node id, never used before
        #[arg(value_name = "NODE")]
        node: u64,
        /// HOST:PORT where the other servers reach it
        #[arg(value_name = "ADDRESS")]
        address: String,
        /// Wait until it has caught up, then make it a voter
        #[arg(long)]
        promote: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a learner that has caught up a voter
    #[command(after_help = "\
Examples:
  pohmelfs cluster promote 4
  pohmelfs cluster promote 4 --wait")]
    Promote {
        /// Its node id
        #[arg(value_name = "NODE")]
        node: u64,
        /// Wait until it has caught up
        #[arg(long = "wait")]
        waits: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove a voter or learner for ever: its id is never used again
    #[command(after_help = "\
Examples:
  pohmelfs cluster remove 5")]
    Remove {
        /// Its node id
        #[arg(value_name = "NODE")]
        node: u64,
    },
    /// Put a new server in the place of another one, which may be dead
    #[command(after_help = "\
Examples:
  pohmelfs cluster replace 3 4 meta-4:7001")]
    Replace {
        /// Node id of the one that goes
        #[arg(value_name = "OLD")]
        old: u64,
        /// Node id of the one that comes, never used before
        #[arg(value_name = "NEW")]
        new: u64,
        /// HOST:PORT where the other servers reach the new one
        #[arg(value_name = "ADDRESS")]
        address: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let another voter lead
    #[command(after_help = "\
Examples:
  pohmelfs cluster transfer-leader      to the voter that has most of the log
  pohmelfs cluster transfer-leader 2")]
    TransferLeader {
        /// Node id of the one that is to lead
        #[arg(value_name = "NODE")]
        node: Option<u64>,
    },
    /// Work at the newest format level that all metadata servers know, once all run the new program: there is no way back
    #[command(after_help = "\
Examples:
  pohmelfs cluster members            which program and levels each server has
  pohmelfs cluster upgrade

Until then older programs can come back. From then on a server whose program does not know the level neither starts
nor joins.")]
    Upgrade,
    /// Show what people call the cluster, or call it so
    #[command(after_help = "\
Examples:
  pohmelfs cluster label
  pohmelfs cluster label \"build farm\"
  pohmelfs cluster label \"\"            takes it away")]
    Label {
        /// At most 64 bytes
        #[arg(value_name = "LABEL")]
        label: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, Args)]
struct Wait {
    /// Longest wait for a new server to catch up
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
}

pub(super) async fn run(global: &Global, args: &ClusterArgs) -> Result<ExitCode, Failure> {
    let mut cluster = Cluster { channels: status::channels(&global.servers()?), json: args.json };
    let (outcome, wanted) = match &args.command {
        Command::Members => {
            let status = cluster.look().await?;
            return cluster.show_members(&status);
        }
        Command::Add { node, address, promote, wait } => {
            let node = NodeId(*node);
            let add = MembersRequest::Add { node, address: checked(address)? };
            let voter = MembersRequest::Promote { node };
            match cluster.change(&add).await? {
                Ok(_) if *promote => (cluster.wait_for(&voter, node, *wait).await?, voter),
                outcome => (outcome, add),
            }
        }
        Command::Promote { node, waits, wait } => {
            let node = NodeId(*node);
            let request = MembersRequest::Promote { node };
            let outcome = if *waits {
                cluster.wait_for(&request, node, *wait).await?
            } else {
                cluster.change(&request).await?
            };
            (outcome, request)
        }
        Command::Remove { node } => {
            let request = MembersRequest::Remove { node: NodeId(*node) };
            (cluster.change(&request).await?, request)
        }
        Command::Replace { old, new, address, wait } => {
            let (old, new) = (NodeId(*old), NodeId(*new));
            (cluster.replace(old, new, checked(address)?, *wait).await?, MembersRequest::Replace { old, new })
        }
        Command::TransferLeader { node } => {
            let Some(from) = cluster.look().await?.leader else {
                return Err(Failure::new(
                    "no metadata leader is known: start metadata servers until a majority runs",
                ));
            };
            let request = MembersRequest::TransferLeader { from, to: node.map(NodeId) };
            (cluster.change(&request).await?, request)
        }
        Command::Upgrade => {
            let status = cluster.look().await?;
            if let Some(reason) = keeps_level(&status) {
                return Err(Failure::new(reason));
            }
            (cluster.change(&MembersRequest::RaiseLevel).await?, MembersRequest::RaiseLevel)
        }
        Command::Label { label: None } => {
            let label = cluster.look().await?.label;
            print(&if cluster.json { json!({ "label": label }).to_string() + "\n" } else { label + "\n" })?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Label { label: Some(label) } => {
            let client = connect(global, ClientOptions::default()).await?;
            let set = client.set_label(label).await;
            client.close().await;
            set?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    cluster.show_outcome(&outcome, &wanted).await
}

/// Who keeps the cluster at its level, as far as one server tells. Asked before the leader is: one that knows nothing of levels would not
/// understand the question.
fn keeps_level(status: &ClusterStatus) -> Option<String> {
    if status.level == 0 {
        return Some(format!(
            "{} runs a program from before format levels: install the new program there, start it, and send the command again",
            status.answered_by
        ));
    }
    let known = || status.meta.iter().filter_map(|m| Some((m, m.levels?)));
    let is_newer = known().any(|(_, levels)| levels.last > status.level);
    let older: Vec<String> = known()
        .filter(|(_, levels)| is_newer && levels.last <= status.level)
        .map(|(m, _)| format!("{} (program {})", m.name, m.version))
        .collect();
    (!older.is_empty()).then(|| {
        format!(
            "the cluster stays at format level {}, because of {}: install a newer program there, start it, and send the command again",
            status.level,
            older.join(", ")
        )
    })
}

fn checked(address: &str) -> Result<NodeAddress, Failure> {
    config::check_address("ADDRESS", address, false).map_err(Failure::usage)?;
    Ok(NodeAddress(address.to_owned()))
}

type Outcome = Result<MembersOutcome, Refusal>;

struct Cluster {
    channels: Vec<(NodeAddress, Channel)>,
    json: bool,
}

impl Cluster {
    /// The cluster as a server sees it that knows a leader, if there is one.
    async fn look(&mut self) -> Result<ClusterStatus, Failure> {
        let status = status::ask(&self.channels).await?;
        // The leader first: nobody has to pass it on. And those that were given may be the ones that go.
        for member in status.meta.iter().filter(|m| m.role == "voter" && m.reachable) {
            let address = NodeAddress(member.address.clone());
            if !self.channels.iter().any(|(known, _)| *known == address) {
                self.channels.extend(status::channels(&[address]));
            }
        }
        let leader = status.meta.iter().find(|m| Some(m.node) == status.leader).map(|m| m.address.clone());
        self.channels.sort_by_key(|(address, _)| Some(&address.0) != leader.as_ref());
        Ok(status)
    }

    /// Sends a request to one server after the other until one answers, the leader first.
    async fn change(&mut self, request: &MembersRequest) -> Result<Outcome, Failure> {
        let bytes = codec::encode(&MetaRequest::Members(request.clone())).map_err(Failure::new)?;
        let deadline = runtime::now() + CHANGE_TIMEOUT;
        let mut last = String::new();
        while runtime::now() < deadline {
            // Without a leader each of them would wait for one as long as it may.
            if self.look().await?.leader.is_none() {
                last = "no metadata leader is known: a majority of metadata servers must run".into();
                runtime::sleep(PAUSE).await;
                continue;
            }
            for (address, channel) in &self.channels {
                let left = deadline.saturating_duration_since(runtime::now()).min(ATTEMPT_TIMEOUT);
                let error = match channel.call(kind::META, bytes.clone(), Bytes::new(), left).await {
                    Ok(reply) => match codec::decode(&reply.meta) {
                        Ok(MetaReply::Members(outcome)) => return Ok(outcome),
                        Ok(other) => return Err(Failure::new(format!("{address} answered {other:?}"))),
                        Err(e) => return Err(Failure::new(format!("{address}: {e}"))),
                    },
                    Err(e) => e,
                };
                if let RpcError::Refused { .. } = error {
                    return Err(Failure::new(format!("{address}: {error}")));
                }
                last = format!("{address}: {error}");
            }
            runtime::sleep(PAUSE).await;
        }
        Err(Failure::new(format!(
            "nothing is known of the outcome, send the command again (it is not done twice). Last: {last}"
        )))
    }

    /// Repeats a request until `node` has caught up, and says how far it is.
    async fn wait_for(
        &mut self,
        request: &MembersRequest,
        node: NodeId,
        wait: Wait,
    ) -> Result<Outcome, Failure> {
        let deadline = runtime::now() + Duration::from_secs(wait.timeout);
        let mut progress = Progress::default();
        let mut silent_since: Option<Instant> = None;
        loop {
            let outcome = self.change(request).await?;
            match &outcome {
                Err(refusal) if refusal.mends_itself() && runtime::now() < deadline => {
                    let lag = match refusal {
                        Refusal::Behind { lag, .. } => Some(*lag),
                        _ => self.look().await.ok().and_then(|status| {
                            status.meta.iter().find(|m| m.node == node).and_then(|m| m.lag)
                        }),
                    };
                    progress.say(node, lag);
                }
                // It has only just become a learner, and its connection is being made; or it is being started again.
                Err(Refusal::Unreachable { .. })
                    if silent_since.is_none_or(|since| since.elapsed() < SILENCE_MAX) =>
                {
                    silent_since.get_or_insert_with(runtime::now);
                    progress.say(node, None);
                    runtime::sleep(LOOK).await;
                    continue;
                }
                _ => {
                    progress.end();
                    return Ok(outcome);
                }
            }
            silent_since = None;
            runtime::sleep(LOOK).await;
        }
    }

    async fn replace(
        &mut self,
        old: NodeId,
        new: NodeId,
        address: NodeAddress,
        wait: Wait,
    ) -> Result<Outcome, Failure> {
        let status = self.look().await?;
        if old == new {
            return Ok(Err(Refusal::SameNode));
        }
        // Before anything is changed: nobody is added for the sake of one who is not there.
        match status.meta.iter().find(|m| m.node == old).map(|m| m.role.as_str()) {
            Some("voter" | "leaving") => {}
            Some("learner") => return Ok(Err(Refusal::NotVoter { node: old })),
            _ if status.removed.contains(&old) => {}
            _ => return Ok(Err(Refusal::Unknown { node: old })),
        }
        if status.removed.contains(&old) {
            // Either this command was done already, or `old` went in another way: then the new one is a matter of `add`.
            let is_in = status.meta.iter().any(|m| m.node == new && m.role == "voter");
            return Ok(if is_in { Ok(MembersOutcome::Already) } else { Err(Refusal::Removed { node: old }) });
        }
        match self.change(&MembersRequest::Add { node: new, address }).await? {
            Ok(_) => {}
            refused => return Ok(refused),
        }
        self.wait_for(&MembersRequest::Replace { old, new }, new, wait).await
    }

    async fn show_outcome(
        &mut self,
        outcome: &Outcome,
        wanted: &MembersRequest,
    ) -> Result<ExitCode, Failure> {
        let word = match outcome {
            Ok(MembersOutcome::Done) => "done",
            Ok(MembersOutcome::Already) => "already so",
            Err(refusal) if self.json => {
                print(&(json!({ "outcome": "refused", "reason": refusal.to_string() }).to_string() + "\n"))?;
                return Ok(ExitCode::FAILURE);
            }
            Err(refusal) => return Err(Failure::new(refusal)),
        };
        // What was done is done, whether the list can be had or not; the server asked may hear of it a moment later.
        let mut members = self.look().await;
        for _ in 0..LOOKS_MAX {
            if members.as_ref().is_ok_and(|status| shows(status, wanted)) {
                break;
            }
            runtime::sleep(PAUSE).await;
            members = self.look().await;
        }
        match (self.json, members) {
            (true, Ok(status)) => {
                let mut value = members_json(&status);
                value["outcome"] = json!(word);
                print(&(value.to_string() + "\n"))?;
            }
            (true, Err(_)) => print(&(json!({ "outcome": word }).to_string() + "\n"))?,
            (false, Ok(status)) => {
                print(&format!("{word}\n\n{}", render(&status, std::io::stdout().is_terminal())))?
            }
            (false, Err(_)) => print(&format!("{word}\n"))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn show_members(&self, status: &ClusterStatus) -> Result<ExitCode, Failure> {
        let text = if self.json {
            serde_json::to_string_pretty(&members_json(status)).map_err(Failure::new)? + "\n"
        } else {
            render(status, std::io::stdout().is_terminal())
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether the list of a server has what was done.
fn shows(status: &ClusterStatus, wanted: &MembersRequest) -> bool {
    let role = |node: NodeId| status.meta.iter().find(|m| m.node == node).map_or("", |m| m.role.as_str());
    match *wanted {
        MembersRequest::Add { node, .. } => !role(node).is_empty(),
        MembersRequest::Promote { node } => !status.is_changing && role(node) == "voter",
        MembersRequest::Remove { node } => status.removed.contains(&node),
        MembersRequest::Replace { old, new } => status.removed.contains(&old) && role(new) == "voter",
        MembersRequest::RaiseLevel => status.level_possible.is_none_or(|possible| status.level >= possible),
        MembersRequest::TransferLeader { from, to } => {
            status.leader.is_some_and(|leader| to.map_or(leader != from, |to| leader == to))
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = Out::new();
    out.write_all(text.as_bytes())?;
    out.end()
}

fn members_json(status: &ClusterStatus) -> serde_json::Value {
    json!({
        "cluster": status.cluster,
        "leader": status.leader,
        "term": status.term,
        "is_changing": status.is_changing,
        "members": status.meta,
        "removed": status.removed,
        "warning": status.warning,
        "level": status.level,
        "level_possible": status.level_possible,
        "level_note": status.level_note,
    })
}

fn render(status: &ClusterStatus, color: bool) -> String {
    let header = ["meta", "node", "role", "state", "address", "program", "levels", "log", "lag"];
    let mut table = table(&header, color);
    for m in &status.meta {
        let mut row = who(m, color);
        let levels = m.levels.map(|levels| format!("{} to {}", levels.first, levels.last));
        row.extend([program(&m.version), known(levels), known(m.last_log), known(m.lag)]);
        table.add_row(row);
    }
    let mut text = format!("{table}\n\nformat level {}\n", status.level);
    if let Some(note) = &status.level_note {
        text += &format!("\n{note}\n");
    }
    if status.is_changing {
        text += "\na change of the voters is under way\n";
    }
    if !status.removed.is_empty() {
        let ids: Vec<String> = status.removed.iter().map(ToString::to_string).collect();
        text += &format!("\nremoved, never used again: {}\n", ids.join(", "));
    }
    if let Some(warning) = &status.warning {
        text += &format!("\nwarning: {warning}\n");
    }
    text
}

/// A line that says how far a new server is: rewritten on a terminal, else repeated when there is news.
#[derive(Default)]
struct Progress {
    said: Option<(Instant, Option<u64>)>,
}

impl Progress {
    fn say(&mut self, node: NodeId, lag: Option<u64>) {
        let lacks = lag
            .map_or_else(|| "catches up".to_owned(), |lag| format!("catches up: it lacks {lag} log entries"));
        let terminal = std::io::stderr().is_terminal();
        let news =
            self.said.is_none_or(|(at, before)| before != lag && at.elapsed() >= Duration::from_secs(2));
        if terminal {
            eprint!("\r\x1b[Kmetadata server {node} {lacks}");
        } else if news {
            eprintln!("metadata server {node} {lacks}");
        }
        if news {
            self.said = Some((runtime::now(), lag));
        }
    }

    fn end(&self) {
        if self.said.is_some() && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::MetaNodeStatus;

    #[test]
    fn a_page_names_roles_lag_and_what_to_know() {
        let line = |i: u64, role: &str| MetaNodeStatus {
            node: NodeId(i),
            name: format!("meta-{i}"),
            role: role.into(),
            reachable: i != 2,
            raft_state: "follower".into(),
            lag: (i == 4).then_some(123),
            ..MetaNodeStatus::default()
        };
        let status = ClusterStatus {
            meta: vec![line(1, "voter"), line(2, "voter"), line(4, "learner")],
            removed: vec![NodeId(3)],
            is_changing: true,
            warning: Some("2 voters survive 0 failures".into()),
            ..ClusterStatus::default()
        };
        let page = render(&status, false);
        assert_eq!(keeps_level(&status).map(|told| told.contains("before format levels")), Some(true));
        for word in ["learner", "unreachable", "123", "never used again: 3", "under way", "warning: 2 voters"]
        {
            assert!(page.contains(word), "{word} is missing in:\n{page}");
        }
        let shown = |wanted| shows(&status, &wanted);
        assert!(shown(MembersRequest::Remove { node: NodeId(3) }));
        assert!(!shown(MembersRequest::Promote { node: NodeId(4) }), "it is still under way");
        assert!(!shown(MembersRequest::Add { node: NodeId(5), address: NodeAddress::default() }));
        let value = members_json(&status);
        assert_eq!((&value["members"][2]["role"], &value["removed"][0]), (&json!("learner"), &json!(3)));
    }

    #[test]
    fn who_keeps_the_level_is_named_before_anybody_is_asked() {
        let line = |i: u64, last: u16| MetaNodeStatus {
            node: NodeId(i),
            name: format!("meta-{i}"),
            version: format!("0.{last}"),
            levels: Some(crate::wire::status::LevelsStatus { first: 1, last }),
            ..MetaNodeStatus::default()
        };
        let of = |lasts: [u16; 3]| ClusterStatus {
            level: 1,
            meta: (1..).zip(lasts).map(|(i, last)| line(i, last)).collect(),
            ..ClusterStatus::default()
        };
        let told = keeps_level(&of([2, 1, 2])).unwrap();
        assert!(told.contains("meta-2 (program 0.1)") && !told.contains("meta-1"), "{told}");
        assert_eq!(keeps_level(&of([2, 2, 2])), None);
        assert_eq!(keeps_level(&of([1, 1, 1])), None, "the leader says that it is so already");
    }
}
