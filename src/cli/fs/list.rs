//! `ls`, `stat`, `tree`, `du`.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::super::Failure;
use super::super::text::{self, Out};
use super::tree::{self, Entry};
use crate::client::Client;
use crate::types::{Attr, FileKind};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs fs ls -l /photos
  pohmelfs fs ls -R --json /photos | jq -r .path")]
pub(super) struct LsArgs {
    /// With attributes
    #[arg(short)]
    long: bool,
    /// All directories below as well
    #[arg(short = 'R')]
    recursive: bool,
    /// Exact sizes
    #[arg(long)]
    bytes: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Directories or files
    #[arg(default_value = "/")]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs fs stat /photos/one.jpg
  pohmelfs fs stat -L --json /latest | jq .size")]
pub(super) struct StatArgs {
    /// What symlinks lead to
    #[arg(short = 'L')]
    follow: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Of what
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs fs tree /photos
  pohmelfs fs tree --json / | jq 'select(.depth <= 2).path'")]
pub(super) struct TreeArgs {
    /// One JSON object a line, with the depth of each entry
    #[arg(long)]
    json: bool,
    /// Of which directory
    #[arg(default_value = "/")]
    path: PathBuf,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs fs du /photos /music
  pohmelfs fs du --json / | jq .used")]
pub(super) struct DuArgs {
    /// Exact sizes
    #[arg(long)]
    bytes: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Of what
    #[arg(default_value = "/")]
    paths: Vec<PathBuf>,
}

fn attr_json(path: &Path, attr: &Attr) -> serde_json::Value {
    let mut object = json!({
        "inode": attr.inode.0,
        "kind": format!("{:?}", attr.kind).to_lowercase(),
        "mode": format!("{:04o}", attr.mode),
        "nlink": attr.nlink,
        "uid": attr.uid,
        "gid": attr.gid,
        "rdev": attr.rdev,
        "size": attr.size,
        "used": attr.used,
        "atime": attr.atime.to_string(),
        "mtime": attr.mtime.to_string(),
        "ctime": attr.ctime.to_string(),
        "btime": attr.btime.to_string(),
        "version": attr.version.0,
    });
    text::put_path(&mut object, path.as_os_str().as_bytes());
    object
}

pub(super) async fn ls(client: &Client, args: &LsArgs) -> Result<ExitCode, Failure> {
    let mut out = Out::new();
    let titles = args.paths.len() > 1 || args.recursive;
    for path in &args.paths {
        let attr = client.stat(path).await?;
        if attr.kind != FileKind::Dir {
            show(client, &mut out, args, &[Entry { path: path.clone(), attr }], false).await?;
            continue;
        }
        let mut dirs = vec![Entry { path: path.clone(), attr }];
        while let Some(dir) = dirs.pop() {
            let entries = tree::entries(client, &dir.path, &dir.attr).await?;
            if titles && !args.json {
                out.name(dir.path.as_os_str().as_bytes())?;
                writeln!(out, ":")?;
            }
            show(client, &mut out, args, &entries, !args.json).await?;
            if titles && !args.json {
                writeln!(out)?;
            }
            out.flush()?;
            if args.recursive {
                dirs.extend(entries.into_iter().rev().filter(|e| e.attr.kind == FileKind::Dir));
            }
        }
    }
    out.end()?;
    Ok(ExitCode::SUCCESS)
}

async fn show(
    client: &Client,
    out: &mut Out,
    args: &LsArgs,
    entries: &[Entry],
    last_name: bool,
) -> Result<(), Failure> {
    let sizes: Vec<String> = entries.iter().map(|e| text::size(e.attr.size, args.bytes)).collect();
    let width = sizes.iter().map(String::len).max().unwrap_or(0);
    for (entry, size) in entries.iter().zip(sizes) {
        let attr = &entry.attr;
        if args.json {
            out.json(&attr_json(&entry.path, attr))?;
            continue;
        }
        if args.long {
            let mode = text::mode(attr.kind, attr.mode);
            let time = text::time(attr.mtime);
            write!(out, "{mode} {:>3} {:>5} {:>5} {size:>width$} {time} ", attr.nlink, attr.uid, attr.gid)?;
        }
        let name = entry.path.file_name().filter(|_| last_name).unwrap_or(entry.path.as_os_str());
        out.name(name.as_bytes())?;
        if args.long && attr.kind == FileKind::Symlink {
            write!(out, " -> ")?;
            let target = client.readlink_at(attr.inode).await?;
            out.name(&target)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

pub(super) async fn stat(client: &Client, args: &StatArgs) -> Result<ExitCode, Failure> {
    let mut out = Out::new();
    for path in &args.paths {
        let attr = client.resolve(path, args.follow).await?.found.attr;
        if args.json {
            out.json(&attr_json(path, &attr))?;
            continue;
        }
        write!(out, "  path: ")?;
        out.name(path.as_os_str().as_bytes())?;
        if attr.kind == FileKind::Symlink {
            write!(out, " -> ")?;
            out.name(&client.readlink_at(attr.inode).await?)?;
        }
        writeln!(out)?;
        let mode = text::mode(attr.kind, attr.mode);
        writeln!(out, " inode: {}  links: {}  version: {}", attr.inode, attr.nlink, attr.version)?;
        writeln!(out, "  mode: {mode} ({:04o})  uid: {}  gid: {}", attr.mode, attr.uid, attr.gid)?;
        writeln!(out, "  size: {}  used: {}  rdev: {}", attr.size, attr.used, attr.rdev)?;
        for (label, at) in
            [("access", attr.atime), ("modify", attr.mtime), ("change", attr.ctime), (" birth", attr.btime)]
        {
            writeln!(out, "{label}: {}.{:09} UTC", text::time(at), at.nanos())?;
        }
    }
    out.end()?;
    Ok(ExitCode::SUCCESS)
}

fn tree_json(path: &Path, attr: &Attr, depth: usize) -> serde_json::Value {
    let mut object = attr_json(path, attr);
    object["depth"] = depth.into();
    object
}

pub(super) async fn tree(client: &Client, args: &TreeArgs) -> Result<ExitCode, Failure> {
    let mut out = Out::new();
    let attr = client.stat(&args.path).await?;
    let (mut dir_count, mut file_count) = (0u64, 0u64);
    if args.json {
        out.json(&tree_json(&args.path, &attr, 0))?;
    } else {
        out.name(args.path.as_os_str().as_bytes())?;
        writeln!(out)?;
    }
    // Depth first, entries in order: what is to be shown next is at the end.
    let mut stack: Vec<(usize, String, bool, Entry)> = Vec::new();
    let push = |stack: &mut Vec<_>, depth: usize, indent: &str, entries: Vec<Entry>| {
        for (i, entry) in entries.into_iter().rev().enumerate() {
            stack.push((depth, indent.to_owned(), i == 0, entry));
        }
    };
    push(&mut stack, 1, "", tree::entries(client, &args.path, &attr).await?);
    while let Some((depth, indent, last, entry)) = stack.pop() {
        if args.json {
            out.json(&tree_json(&entry.path, &entry.attr, depth))?;
            if entry.attr.kind == FileKind::Dir {
                let below = tree::entries(client, &entry.path, &entry.attr).await?;
                push(&mut stack, depth + 1, "", below);
            }
            continue;
        }
        write!(out, "{indent}{}", if last { "└── " } else { "├── " })?;
        out.name(entry.path.file_name().unwrap_or_default().as_bytes())?;
        writeln!(out)?;
        if entry.attr.kind == FileKind::Dir {
            dir_count += 1;
            let below = tree::entries(client, &entry.path, &entry.attr).await?;
            push(&mut stack, depth + 1, &format!("{indent}{}", if last { "    " } else { "│   " }), below);
        } else {
            file_count += 1;
        }
    }
    if !args.json {
        writeln!(out, "\n{dir_count} directories, {file_count} files")?;
    }
    out.end()?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn du(client: &Client, args: &DuArgs) -> Result<ExitCode, Failure> {
    let mut out = Out::new();
    for path in &args.paths {
        let attr = client.lstat(path).await?;
        let (mut seen, mut size, mut used, mut files, mut dirs) = (BTreeSet::new(), 0, 0, 0u64, 0u64);
        for entry in tree::walk(client, path, attr).await? {
            match entry.attr.kind {
                FileKind::Dir => dirs += 1,
                // An inode with several names counts once.
                _ if !seen.insert(entry.attr.inode) => {}
                _ => {
                    files += 1;
                    size += entry.attr.size;
                    used += entry.attr.used;
                }
            }
        }
        if args.json {
            let mut object = json!({"size": size, "used": used, "files": files, "dirs": dirs});
            text::put_path(&mut object, path.as_os_str().as_bytes());
            out.json(&object)?;
        } else {
            let (size, used) = (text::size(size, args.bytes), text::size(used, args.bytes));
            write!(out, "{used:>12} used  {size:>12} size  {files:>8} files  {dirs:>6} dirs  ")?;
            out.name(path.as_os_str().as_bytes())?;
            writeln!(out)?;
        }
    }
    out.end()?;
    Ok(ExitCode::SUCCESS)
}
