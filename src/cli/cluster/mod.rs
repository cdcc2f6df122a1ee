//! `pohmelfs cluster`: the metadata servers that there are, changed while they serve.
//!
//! Each command may be sent to any server and sent again; the leader decides (`meta/members.rs`). The steps of each, waiting included, are
//! an [`Operator`]'s; what the command line says and shows is here. Holds: a refusal is one line with the way out, exit code 1.

mod operator;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::connect::connect;
use super::status::{known, program, table, who};
use super::text::Out;
use super::{Failure, Global};
use crate::client::ClientOptions;
use crate::config;
use crate::runtime;
use crate::types::{NodeAddress, NodeId};
use crate::wire::members::{MembersOutcome, MembersRequest};
use crate::wire::status::ClusterStatus;
use operator::PAUSE;
pub use operator::{Operator, Outcome};

/// Looks at most until the list has what was done.
const LOOKS_MAX: usize = 30;

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

impl Wait {
    fn longest(self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

pub(super) async fn run(global: &Global, args: &ClusterArgs) -> Result<ExitCode, Failure> {
    let mut printer = Printer { operator: Operator::new(&global.servers()?), json: args.json };
    let operator = &mut printer.operator;
    let (outcome, wanted) = match &args.command {
        Command::Members => {
            let status = operator.look().await?;
            return printer.show_members(&status);
        }
        Command::Add { node, address, promote, wait } => {
            let (node, address) = (NodeId(*node), checked(address)?);
            let outcome = operator.add(node, address.clone(), promote.then(|| wait.longest())).await?;
            let learner = MembersRequest::Add { node, address };
            (outcome, if *promote { MembersRequest::Promote { node } } else { learner })
        }
        Command::Promote { node, waits, wait } => {
            let node = NodeId(*node);
            let outcome = operator.promote(node, waits.then(|| wait.longest())).await?;
            (outcome, MembersRequest::Promote { node })
        }
        Command::Remove { node } => {
            let node = NodeId(*node);
            (operator.remove(node).await?, MembersRequest::Remove { node })
        }
        Command::Replace { old, new, address, wait } => {
            let (old, new) = (NodeId(*old), NodeId(*new));
            let outcome = operator.replace(old, new, checked(address)?, wait.longest()).await?;
            (outcome, MembersRequest::Replace { old, new })
        }
        Command::TransferLeader { node } => {
            let (request, outcome) = operator.transfer_leader(node.map(NodeId)).await?;
            (outcome, request)
        }
        Command::Upgrade => {
            let status = operator.look().await?;
            if let Some(reason) = keeps_level(&status) {
                return Err(Failure::new(reason));
            }
            (operator.change(&MembersRequest::RaiseLevel).await?, MembersRequest::RaiseLevel)
        }
        Command::Label { label: None } => {
            let label = operator.look().await?.label;
            print(&if printer.json { json!({ "label": label }).to_string() + "\n" } else { label + "\n" })?;
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
    printer.show_outcome(&outcome, &wanted).await
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

struct Printer {
    operator: Operator,
    json: bool,
}

impl Printer {
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
        let mut members = self.operator.look().await;
        for _ in 0..LOOKS_MAX {
            if members.as_ref().is_ok_and(|status| shows(status, wanted)) {
                break;
            }
            runtime::sleep(PAUSE).await;
            members = self.operator.look().await;
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
