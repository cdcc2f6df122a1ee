//! What clients did: calls with their times, what they asked for and what they were told.
//!
//! The clients of a simulated cluster record into it; `linearizability` and `identities` judge it.
//! Holds: moments are totally ordered by when they were recorded, also within one nanosecond of virtual time; a call that was never answered is
//! `Unknown` and may have taken effect at any time from its invocation on, or never.
//! Not here: what the answers should have been.
//!
//! A call must be atomic in the system too. A path of several names is walked first and acted upon then, so that a directory
//! renamed in between makes a difference which no order of calls explains. Where directories move, or files that
//! are written by name, record what really happens: a `Lookup` that returns an identity, then a call `Path::within` it.

use std::fmt;
use std::sync::Arc;

use super::content::Content;

/// A name of a directory, an attribute, or the target of a symlink.
pub type Name = Arc<str>;

/// What a call was told: a value, or why not.
pub type Outcome = Result<Value, Errno>;

/// The number of an inode as the cluster gives it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub u64);

/// Names to walk, from the root or from a node that is known by its identity. No symlink may be on the way.
#[derive(Clone, PartialEq, Eq)]
pub struct Path {
    pub start: Option<Identity>,
    pub names: Arc<[Name]>,
}

impl Path {
    /// The node of that identity itself, whatever it is called now.
    pub fn of(start: Identity) -> Self {
        Self::within(start, "")
    }

    /// A path that begins at the directory of that identity.
    pub fn within(start: Identity, path: &str) -> Self {
        Self { start: Some(start), ..path.into() }
    }
}

impl From<&str> for Path {
    fn from(path: &str) -> Self {
        Self { start: None, names: path.split('/').filter(|name| !name.is_empty()).map(Name::from).collect() }
    }
}

/// What a rename does with a target that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameFlag {
    Plain,
    NoReplace,
    Exchange,
}

/// One call on the filesystem, by root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Mkdir {
        path: Path,
        mode: u32,
    },
    Create {
        path: Path,
        exclusive: bool,
        mode: u32,
    },
    Symlink {
        path: Path,
        target: Name,
    },
    Link {
        from: Path,
        to: Path,
    },
    Unlink {
        path: Path,
    },
    Rmdir {
        path: Path,
    },
    Rename {
        from: Path,
        to: Path,
        flag: RenameFlag,
    },
    Chmod {
        path: Path,
        mode: u32,
    },
    SetXattr {
        path: Path,
        name: Name,
        value: Content,
    },
    Truncate {
        path: Path,
        size: u64,
    },
    /// All bytes behind the last one, in one moment.
    Append {
        path: Path,
        bytes: Content,
    },
    /// The bytes instead of all there were, in one moment. The file exists.
    WriteAll {
        path: Path,
        bytes: Content,
    },
    /// What the name leads to, and no more than that.
    Lookup {
        path: Path,
    },
    /// The attributes, of a symlink its own.
    Stat {
        path: Path,
    },
    Readdir {
        path: Path,
    },
    Readlink {
        path: Path,
    },
    GetXattr {
        path: Path,
        name: Name,
    },
    ReadAll {
        path: Path,
    },
}

impl Op {
    /// It changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Lookup { .. }
                | Self::Stat { .. }
                | Self::Readdir { .. }
                | Self::Readlink { .. }
                | Self::GetXattr { .. }
                | Self::ReadAll { .. }
        )
    }

    /// The path it is about, and the second one of those that have two.
    pub fn paths(&self) -> (&Path, Option<&Path>) {
        match self {
            Self::Link { from, to } | Self::Rename { from, to, .. } => (from, Some(to)),
            Self::Mkdir { path, .. }
            | Self::Create { path, .. }
            | Self::Symlink { path, .. }
            | Self::Unlink { path }
            | Self::Rmdir { path }
            | Self::Chmod { path, .. }
            | Self::SetXattr { path, .. }
            | Self::Truncate { path, .. }
            | Self::Append { path, .. }
            | Self::WriteAll { path, .. }
            | Self::Lookup { path }
            | Self::Stat { path }
            | Self::Readdir { path }
            | Self::Readlink { path }
            | Self::GetXattr { path, .. }
            | Self::ReadAll { path } => (path, None),
        }
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Dir,
    Symlink,
}

/// What a `Stat` tells. The size of a directory is the number of its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    pub kind: Kind,
    pub nlink: u32,
    pub mode: u32,
    pub size: u64,
    pub identity: Option<Identity>,
}

/// What a call that succeeded was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing but that it is done.
    Done,
    /// Of `Mkdir`, `Create` and `Symlink`. A `Create` that is not exclusive may have found the file.
    Made { created: bool, identity: Option<Identity> },
    /// Of `Lookup`.
    Found { kind: Kind, identity: Option<Identity> },
    /// Of `Stat`.
    Attr(Attr),
    /// Of `Readdir`: sorted.
    Names(Vec<Name>),
    /// Of `ReadAll` and `GetXattr`.
    Bytes(Content),
    /// Of `Readlink`.
    Target(Name),
}

impl Value {
    /// The identity it names, if it does.
    pub fn identity(&self) -> Option<Identity> {
        match self {
            Self::Made { identity, .. } | Self::Found { identity, .. } => *identity,
            Self::Attr(attr) => attr.identity,
            Self::Done | Self::Names(_) | Self::Bytes(_) | Self::Target(_) => None,
        }
    }
}

/// Why a call did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    Exists,
    NotFound,
    NotEmpty,
    NotDir,
    IsDir,
    Invalid,
    /// EPERM: a second link of a directory, an attribute of a symlink.
    NotOwner,
    NoXattr,
    /// The node that a path starts at is gone.
    Stale,
    /// Any other, by its number: no model answers it.
    Other(i32),
}

/// A moment: the how manieth that was recorded, which alone says what came first, and the virtual time, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    pub order: u64,
    pub ns: u64,
}

/// How a call ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Done {
        at: Moment,
        outcome: Outcome,
    },
    /// The client gave up or was killed.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub client: u32,
    pub op: Op,
    pub invoked: Moment,
    pub end: End,
}

impl Call {
    /// When it returned, if it did.
    pub fn returned(&self) -> Option<Moment> {
        match &self.end {
            End::Done { at, .. } => Some(*at),
            End::Unknown => None,
        }
    }

    /// What it was told, if it was.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.end {
            End::Done { outcome, .. } => Some(outcome),
            End::Unknown => None,
        }
    }
}

/// Names a call of one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(usize);

/// All calls of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    calls: Vec<Call>,
    order: u64,
}

impl History {
    /// No calls yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client begins a call. Until it is `done` it is `Unknown`.
    pub fn begin(&mut self, client: u32, op: Op, ns: u64) -> CallId {
        let invoked = self.moment(ns);
        self.calls.push(Call { client, op, invoked, end: End::Unknown });
        CallId(self.calls.len() - 1)
    }

    /// The call has returned.
    pub fn done(&mut self, call: CallId, ns: u64, outcome: Outcome) {
        let at = self.moment(ns);
        let end = &mut self.calls[call.0].end;
        assert_eq!(*end, End::Unknown, "call {} returns twice", call.0);
        *end = End::Done { at, outcome };
    }

    /// All calls in the order in which they began.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    fn moment(&mut self, ns: u64) -> Moment {
        self.order += 1;
        Moment { ns, order: self.order }
    }
}

/// A history with the same calls, of which some were changed or left out.
impl FromIterator<Call> for History {
    fn from_iter<T: IntoIterator<Item = Call>>(calls: T) -> Self {
        let calls: Vec<Call> = calls.into_iter().collect();
        let last = |call: &Call| call.returned().unwrap_or(call.invoked).order;
        let order = calls.iter().map(last).max().unwrap_or(0);
        Self { calls, order }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(start) = self.start {
            write!(f, "#{}", start.0)?;
        }
        if self.names.is_empty() && self.start.is_none() {
            return write!(f, "/");
        }
        self.names.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mkdir { path, mode } => write!(f, "mkdir {path} {mode:04o}"),
            Self::Create { path, exclusive: true, mode } => write!(f, "create {path} {mode:04o} exclusively"),
            Self::Create { path, exclusive: false, mode } => write!(f, "create {path} {mode:04o}"),
            Self::Symlink { path, target } => write!(f, "symlink {path} -> {target}"),
            Self::Link { from, to } => write!(f, "link {from} as {to}"),
            Self::Unlink { path } => write!(f, "unlink {path}"),
            Self::Rmdir { path } => write!(f, "rmdir {path}"),
            Self::Rename { from, to, flag: RenameFlag::Plain } => write!(f, "rename {from} to {to}"),
            Self::Rename { from, to, flag } => write!(f, "rename {from} to {to} {flag:?}"),
            Self::Chmod { path, mode } => write!(f, "chmod {path} {mode:04o}"),
            Self::SetXattr { path, name, value } => write!(f, "setxattr {path} {name} = {value}"),
            Self::Truncate { path, size } => write!(f, "truncate {path} to {size}"),
            Self::Append { path, bytes } => write!(f, "append to {path} {bytes}"),
            Self::WriteAll { path, bytes } => write!(f, "write {path} = {bytes}"),
            Self::Lookup { path } => write!(f, "lookup {path}"),
            Self::Stat { path } => write!(f, "stat {path}"),
            Self::Readdir { path } => write!(f, "readdir {path}"),
            Self::Readlink { path } => write!(f, "readlink {path}"),
            Self::GetXattr { path, name } => write!(f, "getxattr {path} {name}"),
            Self::ReadAll { path } => write!(f, "read {path}"),
        }
    }
}

/// An outcome as a person reads it.
pub struct Shown<'a>(pub &'a Outcome);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = |f: &mut fmt::Formatter<'_>, identity: &Option<Identity>| match identity {
            Some(Identity(number)) => write!(f, " #{number}"),
            None => Ok(()),
        };
        match self.0 {
            Err(errno) => write!(f, "{errno:?}"),
            Ok(Value::Done) => write!(f, "ok"),
            Ok(Value::Made { created, identity: i }) => {
                write!(f, "{}", if *created { "made" } else { "was there" })?;
                identity(f, i)
            }
            Ok(Value::Found { kind, identity: i }) => {
                write!(f, "{kind:?}")?;
                identity(f, i)
            }
            Ok(Value::Attr(attr)) => {
                write!(f, "{:?} {:04o} nlink {} size {}", attr.kind, attr.mode, attr.nlink, attr.size)?;
                identity(f, &attr.identity)
            }
            Ok(Value::Names(names)) => write!(f, "[{}]", names.join(" ")),
            Ok(Value::Bytes(bytes)) => write!(f, "{bytes}"),
            Ok(Value::Target(target)) => write!(f, "-> {target}"),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} at {}", self.client, self.invoked)?;
        match &self.end {
            End::Done { at, outcome } => write!(f, "..{at}: {} => {}", self.op, Shown(outcome)),
            End::Unknown => write!(f, "..: {} => unknown", self.op),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}ms/{}", self.ns / 1_000_000, self.ns % 1_000_000, self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_one_nanosecond_have_an_order() {
        let mut history = History::new();
        let op = || Op::Readdir { path: "/".into() };
        let first = history.begin(1, op(), 5);
        let second = history.begin(2, op(), 5);
        history.done(second, 5, Ok(Value::Names(vec![])));
        let calls = history.calls();
        assert_eq!(calls[first.0].returned(), None);
        assert!(calls[0].invoked < calls[1].invoked && Some(calls[1].invoked) < calls[1].returned());
    }

    #[test]
    fn a_person_can_read_a_call() {
        let mut history = History::new();
        let from = Path::within(Identity(7), "a");
        let op = Op::Rename { from, to: "/x/y".into(), flag: RenameFlag::NoReplace };
        let call = history.begin(3, op, 1_500_000);
        assert_eq!(
            history.calls()[0].to_string(),
            "client 3 at 1.500000ms/1..: rename #7/a to /x/y NoReplace => unknown"
        );
        history.done(call, 2_000_000, Err(Errno::Exists));
        let text = history.calls()[0].to_string();
        assert!(
            text.ends_with("1.500000ms/1..2.000000ms/2: rename #7/a to /x/y NoReplace => Exists"),
            "{text}"
        );
        let again: History = history.calls().iter().cloned().collect();
        assert_eq!(again.order, 2);
    }
}
