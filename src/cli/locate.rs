//! `pohmelfs locate`: where every byte of a file is.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::connect::connect;
use super::text::{self, Out};
use super::{Failure, Global};
use crate::client::{Client, ClientOptions, Located, Place};
use crate::types::NodeState;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs locate /photos/one.jpg
  pohmelfs locate --json /photos/one.jpg | jq -r '.extents[].replicas[]?.address' | sort | uniq -c

Exit codes: 0 success, 1 failure, 2 wrong arguments.")]
pub(super) struct LocateArgs {
    /// Exact sizes
    #[arg(long)]
    bytes: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// A regular file
    path: PathBuf,
}

pub(super) async fn run(global: &Global, args: &LocateArgs) -> Result<ExitCode, Failure> {
    let client = connect(global, ClientOptions::default()).await?;
    let shown = show(&client, args).await;
    client.close().await;
    shown.map(|()| ExitCode::SUCCESS)
}

async fn show(client: &Client, args: &LocateArgs) -> Result<(), Failure> {
    let inode = client.stat(&args.path).await?.inode;
    let (attr, located) = client.locate(inode).await.map_err(|e| e.at(&args.path))?;
    let mut out = Out::new();
    if args.json {
        let extents: Vec<_> = located.iter().map(as_json).collect();
        out.json(&json!({"inode": attr.inode.0, "size": attr.size, "used": attr.used, "extents": extents}))?;
        return out.end();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["OFFSET", "LENGTH", "WHERE", "GROUP", "ADDRESSES"]);
    for index in [0, 1] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for part in &located {
        let (place, group, addresses) = match &part.place {
            Place::Hole => ("hole".to_owned(), String::new(), String::new()),
            Place::Zero => ("zeros, reserved".to_owned(), String::new(), String::new()),
            Place::Inline => ("inline".to_owned(), String::new(), "in the namespace".to_owned()),
            Place::Block { block, block_offset, replicas } => {
                let each = replicas.iter().map(|r| match r.state {
                    NodeState::Up => format!("{}={}", r.name, r.address),
                    state => format!("{}={} ({state:?})", r.name, r.address),
                });
                let addresses = each.collect::<Vec<_>>().join("  ");
                (format!("block {} + {block_offset}", block.id), block.group.to_string(), addresses)
            }
        };
        table.add_row([part.offset.to_string(), text::size(part.len, args.bytes), place, group, addresses]);
    }
    writeln!(out, "inode {}, size {}", attr.inode, text::size(attr.size, args.bytes))?;
    writeln!(out, "{table}")?;
    out.end()
}

fn as_json(part: &Located) -> serde_json::Value {
    let mut value = json!({"offset": part.offset, "len": part.len});
    match &part.place {
        Place::Hole => value["kind"] = "hole".into(),
        Place::Zero => value["kind"] = "zero".into(),
        Place::Inline => value["kind"] = "inline".into(),
        Place::Block { block, block_offset, replicas } => {
            value["kind"] = "block".into();
            value["block"] = block.id.to_string().into();
            value["block_offset"] = (*block_offset).into();
            value["block_len"] = block.len.into();
            value["checksum"] = block.checksum.to_string().into();
            value["group"] = block.group.0.into();
            let replica = |r: &crate::client::Replica| json!({"node": r.node.0, "name": r.name, "address": r.address.0, "state": format!("{:?}", r.state)});
            value["replicas"] = replicas.iter().map(replica).collect();
        }
    }
    value
}
