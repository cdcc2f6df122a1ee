//! Short histories for the tests of the judges: calls in the order of a reader, with times by hand.
//!
//! Holds: a story has the calls in any order; their times make the history.

use super::content::Content;
use super::history::{Errno, History, Op, Outcome, Path, RenameFlag, Value};

/// One call: its client, from when to when (never, if it is unknown), what it asked and was told.
pub struct Line {
    client: u32,
    from: u64,
    to: Option<u64>,
    op: Op,
    told: Outcome,
}

/// A call that returned.
pub fn call(client: u32, from: u64, to: u64, op: Op, told: Outcome) -> Line {
    Line { client, from, to: Some(to), op, told }
}

/// A call that nobody heard of again.
pub fn lost(client: u32, from: u64, op: Op) -> Line {
    Line { client, from, to: None, op, told: ok() }
}

/// The history of these calls.
pub fn story(lines: Vec<Line>) -> History {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        events.push((line.from, false, at));
        events.extend(line.to.map(|to| (to, true, at)));
    }
    events.sort_unstable();
    let mut history = History::new();
    let mut ids = vec![None; lines.len()];
    for (ns, returns, at) in events {
        let line = &lines[at];
        if returns {
            history.done(ids[at].unwrap(), ns, line.told.clone());
        } else {
            ids[at] = Some(history.begin(line.client, line.op.clone(), ns));
        }
    }
    history
}

pub fn ok() -> Outcome {
    Ok(Value::Done)
}

pub fn made() -> Outcome {
    Ok(Value::Made { created: true, identity: None })
}

pub fn no(errno: Errno) -> Outcome {
    Err(errno)
}

pub fn bytes(text: &str) -> Outcome {
    Ok(Value::Bytes(text.into()))
}

pub fn names(names: &[&str]) -> Outcome {
    Ok(Value::Names(names.iter().map(|name| (*name).into()).collect()))
}

pub fn mkdir(path: &str) -> Op {
    Op::Mkdir { path: path.into(), mode: 0o755 }
}

pub fn create(path: &str) -> Op {
    Op::Create { path: path.into(), exclusive: true, mode: 0o644 }
}

pub fn unlink(path: &str) -> Op {
    Op::Unlink { path: path.into() }
}

pub fn rmdir(path: &str) -> Op {
    Op::Rmdir { path: path.into() }
}

pub fn rename(from: &str, to: &str) -> Op {
    rename_with(from, to, RenameFlag::Plain)
}

pub fn rename_with(from: &str, to: &str, flag: RenameFlag) -> Op {
    Op::Rename { from: from.into(), to: to.into(), flag }
}

pub fn link(from: &str, to: &str) -> Op {
    Op::Link { from: from.into(), to: to.into() }
}

pub fn chmod(path: impl Into<Path>, mode: u32) -> Op {
    Op::Chmod { path: path.into(), mode }
}

pub fn append(path: &str, bytes: &str) -> Op {
    Op::Append { path: path.into(), bytes: bytes.into() }
}

pub fn write(path: &str, bytes: impl Into<Content>) -> Op {
    Op::WriteAll { path: path.into(), bytes: bytes.into() }
}

pub fn read(path: &str) -> Op {
    Op::ReadAll { path: path.into() }
}

pub fn stat(path: impl Into<Path>) -> Op {
    Op::Stat { path: path.into() }
}

pub fn lookup(path: impl Into<Path>) -> Op {
    Op::Lookup { path: path.into() }
}

pub fn readdir(path: &str) -> Op {
    Op::Readdir { path: path.into() }
}
