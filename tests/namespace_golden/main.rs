//! Golden scripts in `tests/golden/`: one idea a file, commands above, what they answer below each.
//!
//! `UPDATE=1 cargo test --test namespace_golden` writes the answers anew: read the difference as carefully as code.
//!
//! ```text
//! # comment                           who acts: as UID:GID[,GROUP...] (root before the first `as`)
//! > mkdir /d 0755                     > create PATH [MODE] [TEXT]      > open PATH MODE (O_CREAT without O_EXCL)
//! > symlink TARGET PATH               > mknod PATH KIND MODE           > link OLD NEW
//! > unlink PATH  > rmdir PATH         > mv [-n|-x] FROM TO             > chmod MODE PATH  > chown UID:GID PATH (-: keep)
//! > write PATH OFFSET TEXT (inline)   > block PATH OFFSET LEN LETTER   > append PATH TEXT  > cat PATH  > extents PATH
//! > truncate PATH SIZE                > fallocate PATH MODE OFFSET LEN > touch PATH [now|SECS]
//! > setxattr PATH NAME VALUE [create|replace]  > getxattr PATH NAME  > rmxattr PATH NAME  > listxattr PATH
//! > ls PATH  > stat PATH  > times PATH  > access PATH rwx  > readlink PATH  > df  > parent PATH
//! > tmpfile NAME DIR MODE [sealed]    > clone FROM OFFSET TO OFFSET LEN (0: to the end)
//! > umask BITS  > setfacl PATH access|default u::rw-,u:10:r--,...      > getfacl PATH access|default
//! > session  > in ID  > close  > expire ID (sessions; session 1 acts before the first `in`)
//! > lock PATH OWNER RANGE r|w [wait]  > unlock PATH OWNER RANGE        > test PATH OWNER RANGE r|w
//! > cancel PATH  > waits PATH  > locks PATH p|f
//! > orphans  > free  > reclaim  > queue  > sessions  > map  > node ID STATE
//! ```
//!
//! A path may begin with `@name`: the inode that `> hold NAME PATH` remembered (or that `> tmpfile NAME` made), as a handle
//! would. Each command takes one second; times are in seconds since the founding.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod lists;
mod locking;
#[path = "../namespace_support/mod.rs"]
mod namespace_support;

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use namespace_support::{T0, World, check, name};
use pohmelfs::namespace::{Op, map, orphans, reclaim_queue, sessions};
use pohmelfs::types::*;

struct Script {
    world: World,
    cred: Cred,
    held: BTreeMap<String, InodeId>,
    umask: u32,
    /// By session: the request that it last waited for a lock with.
    waiting: BTreeMap<SessionId, RequestId>,
}

type Told = Result<String, FsError>;

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn octal(text: &str) -> u32 {
    u32::from_str_radix(text, 8).unwrap_or_else(|_| panic!("{text:?} is no mode"))
}

fn seconds(at: Timestamp) -> i64 {
    (at.0 - T0) / 1_000_000_000
}

fn stat(attr: &Attr) -> String {
    format!(
        "{}{:04o} {}:{} nlink {} size {} used {}",
        attr.kind.letter(),
        attr.mode,
        attr.uid,
        attr.gid,
        attr.nlink,
        attr.size,
        attr.used
    )
}

impl Script {
    fn new() -> Self {
        Self {
            world: World::new(63),
            cred: Cred::root(),
            held: BTreeMap::new(),
            umask: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// The directory and the last name of a path.
    fn split(&self, path: &str) -> Result<(InodeId, Name), FsError> {
        let (dir, last) = path.rsplit_once('/').expect("a path needs a slash");
        let last = Name::new(last).map_err(|e| match e {
            NameError::TooLong(_) => FsError::NameTooLong,
            _ => FsError::Invalid,
        })?;
        Ok((self.inode(dir)?, last))
    }

    /// The inode at the end of a path, symlinks not followed.
    fn inode(&self, path: &str) -> Result<InodeId, FsError> {
        let mut names: Vec<&str> = path.split('/').filter(|n| !n.is_empty()).collect();
        let mut start = ROOT_INODE;
        if path.starts_with('@') {
            start = self.held[&names.remove(0)[1..]];
        }
        if names.is_empty() {
            return Ok(start);
        }
        let question = Query::Walk { start, names: names.iter().map(|n| name(n)).collect() };
        match self.world.ask(&self.cred, &question)? {
            QueryReply::Walked { found, rest: 0, .. } => Ok(found.attr.inode),
            QueryReply::Walked { .. } => Err(FsError::Loop),
            other => panic!("{other:?}"),
        }
    }

    fn update(&mut self, update: Update) -> Told {
        let reply = self.world.update(&self.cred, update)?;
        Ok(match reply {
            UpdateReply::Done => "ok".into(),
            UpdateReply::Made { attr, created: true } => stat(&attr),
            UpdateReply::Made { attr, created: false } => format!("exists: {}", stat(&attr)),
            UpdateReply::Attr(attr) => stat(&attr),
            UpdateReply::Removed(None) => "ok".into(),
            UpdateReply::Removed(Some(attr)) => format!("removed: {}", stat(&attr)),
            UpdateReply::Locked => "locked".into(),
            UpdateReply::LockQueued { .. } => "waits".into(),
            UpdateReply::Cloned { attr, len, rest } => format!("{len} of {}: {}", len + rest, stat(&attr)),
            UpdateReply::Session { session, ttl_ms } => format!("session {session} ttl {ttl_ms}"),
        })
    }

    fn make(&mut self, path: &str, kind: FileKind, mode: &str, content: &str, exclusive: bool) -> Told {
        let (parent, name) = self.split(path)?;
        let content = Bytes::copy_from_slice(content.as_bytes());
        self.update(Update::Make(MakeNode {
            parent,
            name,
            kind,
            mode: octal(mode),
            umask: self.umask,
            rdev: 9,
            content,
            exclusive,
        }))
    }

    fn set(&mut self, path: &str, set: SetAttr) -> Told {
        let inode = self.inode(path)?;
        let by_handle = path.starts_with('@');
        self.update(Update::SetAttrs(SetAttrs { inode, set, by_handle }))
    }

    fn publish(&mut self, path: &str, extents: Vec<Extent>, append: bool) -> Told {
        let inode = self.inode(path)?;
        self.update(Update::Publish(Publish { inode, extents, grow_to: None, append, mtime: None }))
    }

    fn ask(&self, question: &Query) -> Result<QueryReply, FsError> {
        self.world.ask(&self.cred, question)
    }

    fn run(&mut self, line: &str) -> Told {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["as", who] => {
                let (uid, groups) = who.split_once(':').expect("as UID:GID");
                let groups: Vec<u32> = groups.split(',').map(|g| g.parse().unwrap()).collect();
                self.cred = Cred { uid: uid.parse().unwrap(), gid: groups[0], groups: groups[1..].to_vec() };
                Ok(String::new())
            }
            ["hold", as_name, path] => {
                let inode = self.inode(path)?;
                self.held.insert(as_name.into(), inode);
                Ok(String::new())
            }
            ["mkdir", path, mode] => self.make(path, FileKind::Dir, mode, "", true),
            ["create", path] => self.make(path, FileKind::File, "644", "", true),
            ["create", path, mode] => self.make(path, FileKind::File, mode, "", true),
            ["create", path, mode, text] => self.make(path, FileKind::File, mode, text, true),
            ["open", path, mode] => self.make(path, FileKind::File, mode, "", false),
            ["symlink", target, path] => self.make(path, FileKind::Symlink, "777", target, true),
            ["mknod", path, kind, mode] => {
                let kind = match kind {
                    "fifo" => FileKind::Fifo,
                    "socket" => FileKind::Socket,
                    "char" => FileKind::CharDev,
                    _ => FileKind::BlockDev,
                };
                self.make(path, kind, mode, "", true)
            }
            ["link", old, new] => {
                let inode = self.inode(old)?;
                let (parent, name) = self.split(new)?;
                self.update(Update::Link(Link { inode, parent, name }))
            }
            [what @ ("unlink" | "rmdir"), path] => {
                let (parent, name) = self.split(path)?;
                self.update(Update::Unlink(Unlink { parent, name, dir: what == "rmdir" }))
            }
            ["mv", from, to] => self.rename(from, to, RenameMode::Replace),
            ["mv", "-n", from, to] => self.rename(from, to, RenameMode::NoReplace),
            ["mv", "-x", from, to] => self.rename(from, to, RenameMode::Exchange),
            ["chmod", mode, path] => {
                self.set(path, SetAttr { mode: Some(octal(mode)), ..SetAttr::default() })
            }
            ["chown", who, path] => {
                let (uid, gid) = who.split_once(':').expect("chown UID:GID");
                self.set(path, SetAttr { uid: uid.parse().ok(), gid: gid.parse().ok(), ..SetAttr::default() })
            }
            ["truncate", path, size] => {
                self.set(path, SetAttr { size: Some(number(size)), ..SetAttr::default() })
            }
            ["touch", path, when] => {
                let time = match when {
                    "now" => SetTime::Now,
                    secs => SetTime::At(Timestamp(T0 + i64::try_from(number(secs)).unwrap() * 1_000_000_000)),
                };
                self.set(path, SetAttr { atime: Some(time), mtime: Some(time), ..SetAttr::default() })
            }
            ["write", path, offset, text] => {
                let source = ExtentSource::Inline(Bytes::copy_from_slice(text.as_bytes()));
                self.publish(
                    path,
                    vec![Extent { offset: number(offset), len: text.len() as u64, source }],
                    false,
                )
            }
            ["append", path, text] => {
                let source = ExtentSource::Inline(Bytes::copy_from_slice(text.as_bytes()));
                self.publish(path, vec![Extent { offset: 0, len: text.len() as u64, source }], true)
            }
            ["block", path, offset, len, letter] => {
                let bytes = letter.repeat(usize::try_from(number(len)).unwrap());
                let block = self.world.block(bytes.as_bytes());
                let source = ExtentSource::Block { block, block_offset: 0 };
                self.publish(path, vec![Extent { offset: number(offset), len: number(len), source }], false)
            }
            ["fallocate", path, mode, offset, len] => {
                let inode = self.inode(path)?;
                let mode = match mode {
                    "allocate" => FallocateMode::Allocate,
                    "keep" => FallocateMode::AllocateKeepSize,
                    "punch" => FallocateMode::Punch,
                    "zero" => FallocateMode::Zero,
                    "collapse" => FallocateMode::Collapse,
                    "insert" => FallocateMode::Insert,
                    _ => panic!("no such mode: {mode}"),
                };
                self.update(Update::Range(RangeChange {
                    inode,
                    offset: number(offset),
                    len: number(len),
                    mode,
                }))
            }
            ["setxattr", path, name, value] => self.set_xattr(path, name, value, XattrMode::Any),
            ["setxattr", path, name, value, "create"] => self.set_xattr(path, name, value, XattrMode::Create),
            ["setxattr", path, name, value, "replace"] => {
                self.set_xattr(path, name, value, XattrMode::Replace)
            }
            ["rmxattr", path, name] => {
                let inode = self.inode(path)?;
                let name = Bytes::copy_from_slice(name.as_bytes());
                self.update(Update::RemoveXattr(RemoveXattr { inode, name }))
            }
            ["umask", bits] => {
                self.umask = octal(bits);
                Ok(String::new())
            }
            ["tmpfile", as_name, dir, mode] => self.unnamed(as_name, dir, mode, true),
            ["tmpfile", as_name, dir, mode, "sealed"] => self.unnamed(as_name, dir, mode, false),
            ["clone", from, from_offset, to, to_offset, len] => {
                let (from, to) = (self.inode(from)?, self.inode(to)?);
                let (from_offset, to_offset) = (number(from_offset), number(to_offset));
                self.update(Update::Clone(CloneRange { from, from_offset, to, to_offset, len: number(len) }))
            }
            _ => match self.lock_command(&words).or_else(|| self.list_command(&words)) {
                Some(told) => told,
                None => self.look(&words),
            },
        }
    }

    /// Makes a file without a name and remembers it.
    fn unnamed(&mut self, as_name: &str, dir: &str, mode: &str, linkable: bool) -> Told {
        let make = MakeUnnamed { parent: self.inode(dir)?, mode: octal(mode), umask: self.umask, linkable };
        match self.world.update(&self.cred, Update::MakeUnnamed(make))? {
            UpdateReply::Made { attr, .. } => {
                self.held.insert(as_name.into(), attr.inode);
                Ok(stat(&attr))
            }
            other => panic!("{other:?}"),
        }
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> Told {
        let (from_parent, from_name) = self.split(from)?;
        let (to_parent, to_name) = self.split(to)?;
        self.update(Update::Rename(Rename { from_parent, from_name, to_parent, to_name, mode }))
    }

    fn set_xattr(&mut self, path: &str, name: &str, value: &str, mode: XattrMode) -> Told {
        let inode = self.inode(path)?;
        let name = Bytes::copy_from_slice(name.as_bytes());
        let value = Bytes::copy_from_slice(value.as_bytes());
        self.update(Update::SetXattr(SetXattr { inode, name, value, mode }))
    }

    /// Commands that only look, and those of the cluster itself.
    fn look(&mut self, words: &[&str]) -> Told {
        let mut out = String::new();
        match *words {
            ["stat", path] => return Ok(stat(&self.world.attr(self.inode(path)?)?)),
            ["times", path] => {
                let attr = self.world.attr(self.inode(path)?)?;
                let [a, m, c, b] = [attr.atime, attr.mtime, attr.ctime, attr.btime].map(seconds);
                write!(out, "atime {a} mtime {m} ctime {c} btime {b}").unwrap();
            }
            ["ls", path] => {
                let mut entries = self.world.list(self.inode(path)?)?;
                entries.sort_by(|a, b| a.name.cmp(&b.name));
                for entry in entries {
                    writeln!(out, "{} {}", stat(&entry.found.unwrap().attr), entry.name).unwrap();
                }
            }
            ["cat", path] => {
                let bytes = self.world.bytes(self.inode(path)?);
                out = String::from_utf8(bytes).unwrap().replace('\0', ".");
            }
            ["extents", path] => {
                let inode = self.inode(path)?;
                let question = Query::Extents { inode, offset: 0, len: u64::MAX, limit: 100 };
                let QueryReply::Extents { extents, .. } = self.ask(&question)? else { panic!("no extents") };
                for Extent { offset, len, source } in extents {
                    let source = match source {
                        ExtentSource::Block { block, block_offset } => {
                            format!("block {} + {block_offset}", block.id)
                        }
                        ExtentSource::Inline(_) => "inline".into(),
                        ExtentSource::Zero => "zero".into(),
                    };
                    writeln!(out, "{offset}+{len} {source}").unwrap();
                }
            }
            ["readlink", path] => match self.ask(&Query::ReadLink { inode: self.inode(path)? })? {
                QueryReply::Target(target) => out = String::from_utf8(target.to_vec()).unwrap(),
                other => panic!("{other:?}"),
            },
            ["parent", path] => match self.ask(&Query::Parent { inode: self.inode(path)? })? {
                QueryReply::Found(found) => write!(out, "inode {}", found.attr.inode).unwrap(),
                other => panic!("{other:?}"),
            },
            ["access", path, bits] => {
                let bit = |(letter, access): (char, Access)| if bits.contains(letter) { access.0 } else { 0 };
                let access =
                    [('r', Access::READ), ('w', Access::WRITE), ('x', Access::EXEC)].map(bit).iter().sum();
                self.ask(&Query::Access { inode: self.inode(path)?, access: Access(access) })?;
                out = "ok".into();
            }
            ["getxattr", path, name] => {
                let name = Bytes::copy_from_slice(name.as_bytes());
                match self.ask(&Query::GetXattr { inode: self.inode(path)?, name })? {
                    QueryReply::Xattr(value) => out = String::from_utf8(value.to_vec()).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
            ["listxattr", path] => match self.ask(&Query::ListXattr { inode: self.inode(path)? })? {
                QueryReply::Xattrs(names) => {
                    for name in names {
                        writeln!(out, "{}", String::from_utf8_lossy(&name)).unwrap();
                    }
                }
                other => panic!("{other:?}"),
            },
            ["df"] => match self.ask(&Query::StatFs)? {
                QueryReply::Totals(t) => {
                    write!(out, "total {} free {} used {} inodes {}", t.total, t.free, t.used, t.inode_count)
                        .unwrap();
                }
                other => panic!("{other:?}"),
            },
            ["orphans"] => {
                for o in orphans(&self.world.view, None, 100).unwrap() {
                    writeln!(
                        out,
                        "inode {} at {} sessions below {}",
                        o.inode,
                        seconds(o.at),
                        o.sessions_below
                    )
                    .unwrap();
                }
            }
            ["free"] => {
                let all = orphans(&self.world.view, None, 100).unwrap().iter().map(|o| o.inode).collect();
                self.world.command(Op::FreeOrphans(all))?;
            }
            ["queue"] => {
                for u in reclaim_queue(&self.world.view, None, 100).unwrap() {
                    writeln!(out, "block {} of group {}", u.block, u.group).unwrap();
                }
            }
            ["reclaim"] => {
                let all =
                    reclaim_queue(&self.world.view, None, 100).unwrap().iter().map(|u| u.block).collect();
                self.world.command(Op::Reclaimed(all))?;
            }
            ["sessions"] => {
                for s in sessions(&self.world.view).unwrap() {
                    writeln!(out, "session {} ttl {} label {}", s.session, s.ttl_ms, s.label).unwrap();
                }
            }
            ["node", node, state] => {
                let state = match state {
                    "up" => NodeState::Up,
                    "suspect" => NodeState::Suspect,
                    "down" => NodeState::Down,
                    "draining" => NodeState::Draining,
                    _ => NodeState::Removed,
                };
                self.world.command(Op::SetNodeState { node: NodeId(number(node)), state })?;
            }
            ["map"] => {
                let map = map(&self.world.view).unwrap();
                writeln!(out, "epoch {}", map.epoch).unwrap();
                for n in map.data.values() {
                    writeln!(out, "{} {:?} since {}", n.name, n.state, seconds(n.since)).unwrap();
                }
            }
            _ => panic!("no such command: {words:?}"),
        }
        Ok(out)
    }
}

/// The script with its answers as they are now.
fn replay(text: &str) -> String {
    let mut script = Script::new();
    let mut out = String::new();
    for line in text.lines().filter(|l| l.starts_with(['>', '#']) || l.is_empty()) {
        writeln!(out, "{line}").unwrap();
        let Some(command) = line.strip_prefix('>') else { continue };
        let told = match script.run(command) {
            Ok(told) => told,
            Err(e) => format!("{e:?}: {e}"),
        };
        for line in told.lines() {
            writeln!(out, "  {line}").unwrap();
        }
        let bad = check(&script.world.view);
        assert!(bad.is_empty(), "after {command}: {bad:#?}");
    }
    out
}

#[test]
fn golden_scripts_answer_as_written() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    // Beside the scripts lies a folder with the bytes of what is stored and sent.
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    assert!(paths.len() >= 25, "some scripts are missing");
    let mut wrong = Vec::new();
    for path in paths {
        println!("{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        let now = replay(&text);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, now).unwrap();
        } else if text != now {
            let differ = text.lines().zip(now.lines()).find(|(a, b)| a != b);
            wrong.push(format!("{}: {differ:?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "written and answered differ: {wrong:#?}");
}
