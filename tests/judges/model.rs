//! The filesystem as it should be: a naive tree that takes one call after the other.
//!
//! `linearizability` asks it what a call would have answered in some order. Sizes, link counts, errors and their order are
//! those of `docs/consistency.md` and `tests/golden`: POSIX, by root, a directory's size being the number of its entries.
//! Holds: a copy costs a reference count per node; `hash` is that of the whole state, and does not depend on who made what.
//! Not here: times, permissions, symlinks on the way of a path.

use std::fmt;
use std::sync::Arc;

use super::content::Content;
use super::footprint::{Footprint, Touch};
use super::history::{Attr, Errno, Identity, Kind, Name, Op, Outcome, Path, RenameFlag, Value};

/// A node within the model. It follows from where the node was made, so that equal states have equal numbers.
type Id = u64;

const ROOT: Id = 1;
const MODE_BITS: u32 = 0o7777;

/// One state of the filesystem.
#[derive(Clone)]
pub struct Model {
    /// Sorted by id.
    nodes: Vec<(Id, Arc<Node>)>,
    /// The numbers which the cluster has told for nodes. Sorted.
    known: Vec<(Identity, Id)>,
    hash: u64,
    /// Calls may reach nodes past the names of the directories above them.
    by_identity: bool,
}

#[derive(Clone)]
struct Node {
    body: Body,
    mode: u32,
    nlink: u32,
    identity: Option<Identity>,
    /// Of a directory, the one it is in.
    parent: Id,
    /// Sorted by name.
    xattrs: Vec<(Name, Content)>,
}

#[derive(Clone)]
enum Body {
    /// Sorted by name.
    Dir(Vec<(Name, Id)>),
    File(Content),
    Symlink(Name),
}

/// Where a path leads.
struct Spot<'a> {
    /// The directory and the name in it, unless the path has no names.
    entry: Option<(Id, &'a Name)>,
    node: Option<Id>,
}

impl Spot<'_> {
    fn found(&self) -> Result<Id, Errno> {
        self.node.ok_or(Errno::NotFound)
    }

    /// The root and what is known by its identity alone cannot be made, moved or removed.
    fn entry(&self) -> Result<(Id, &Name), Errno> {
        self.entry.ok_or(Errno::Invalid)
    }
}

impl Model {
    /// An empty root of that mode. `by_identity`: some path starts at an identity.
    pub fn new(root_mode: u32, by_identity: bool) -> Self {
        let mut model = Self { nodes: Vec::new(), known: Vec::new(), hash: 0, by_identity };
        model.put(ROOT, Node::new(Body::Dir(Vec::new()), root_mode, ROOT));
        model
    }

    /// The same for equal states.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Takes the call and says what it answers, with the identity of the node if that is known.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Mkdir { path, mode } => self.make(path, Body::Dir(Vec::new()), *mode),
            Op::Symlink { path, target } => self.make(path, Body::Symlink(target.clone()), 0o777),
            Op::Create { path, exclusive, mode } => {
                if !*exclusive && let Some(id) = self.walk(path, None)?.node {
                    return match self.node(id).body {
                        Body::Dir(_) => Err(Errno::IsDir),
                        _ => Ok(Value::Made { created: false, identity: self.node(id).identity }),
                    };
                }
                self.make(path, Body::File(Content::default()), *mode)
            }
            Op::Link { from, to } => self.link(from, to),
            Op::Unlink { path } => self.remove(path, false),
            Op::Rmdir { path } => self.remove(path, true),
            Op::Rename { from, to, flag } => self.rename(from, to, *flag),
            Op::Chmod { path, mode } => {
                let id = self.walk(path, None)?.found()?;
                self.change(id, |node| node.mode = mode & MODE_BITS);
                Ok(Value::Done)
            }
            Op::SetXattr { path, name, value } => {
                let id = self.walk(path, None)?.found()?;
                if self.node(id).kind() == Kind::Symlink {
                    return Err(Errno::NotOwner);
                }
                self.change(id, |node| match node.xattrs.binary_search_by(|(n, _)| n.cmp(name)) {
                    Ok(at) => node.xattrs[at].1 = value.clone(),
                    Err(at) => node.xattrs.insert(at, (name.clone(), value.clone())),
                });
                Ok(Value::Done)
            }
            Op::Truncate { path, size } => self.edit(path, |content| content.resize(*size)),
            Op::Append { path, bytes } => self.edit(path, |content| content.append(bytes)),
            Op::WriteAll { path, bytes } => self.edit(path, |content| content.clone_from(bytes)),
            Op::Lookup { .. }
            | Op::Stat { .. }
            | Op::Readdir { .. }
            | Op::Readlink { .. }
            | Op::GetXattr { .. }
            | Op::ReadAll { .. } => self.read(op),
        }
    }

    /// Takes the call if `told` is what it answers; else says what it would have answered, and is of no use any more.
    ///
    /// A node is known by the first identity that is told of it.
    pub fn accept(&mut self, op: &Op, told: &Outcome) -> Result<(), Outcome> {
        let says = self.apply(op);
        if !agree(op, &says, told) {
            // What lost its last name is there until the sessions have been asked about it; then it is a taken name that is told.
            if let (Op::Link { from, to }, Err(Errno::Stale), Err(Errno::Exists)) = (op, &says, told)
                && from.names.is_empty()
                && self.walk(to, None).is_ok_and(|spot| spot.node.is_some())
            {
                return Ok(());
            }
            return Err(says);
        }
        let (Ok(value), Ok(answer)) = (told, &says) else { return Ok(()) };
        let Some(identity) = value.identity() else { return Ok(()) };
        if answer.identity().is_some() {
            return Ok(());
        }
        match (self.walk(op.paths().0, None), self.known.binary_search_by_key(&identity, |(i, _)| *i)) {
            (Ok(Spot { node: Some(id), .. }), Err(at)) => {
                self.known.insert(at, (identity, id));
                self.change(id, |node| node.identity = Some(identity));
                Ok(())
            }
            _ => Err(says),
        }
    }

    /// `accept` would refuse. Quick for what only reads, which most calls of a search that fail do; else false.
    pub fn refuses(&self, op: &Op, told: &Outcome) -> bool {
        op.is_read() && !agree(op, &self.read(op), told)
    }

    /// What the call touches in this state, when it is told this.
    pub fn footprint(&self, op: &Op, told: Option<&Outcome>) -> Footprint {
        let mut touched = Footprint::default();
        let (first, second) = op.paths();
        let from = self.walk(first, Some(&mut touched));
        let to = second.map(|path| self.walk(path, Some(&mut touched)));
        if let Some(Ok(identity)) = told.map(|t| t.as_ref().map(Value::identity))
            && let Some(identity) = identity
        {
            let node = from.as_ref().ok().and_then(|spot| spot.node);
            let settled = node.is_some_and(|id| self.node(id).identity.is_some());
            let touch = if settled { Touch::Read } else { Touch::Write };
            touched.add(key(b'i', identity.0, 0), touch);
            touched.add(key(b'k', node.unwrap_or_default(), 0), touch);
        }
        let Ok(from) = from else { return touched };
        match op {
            Op::Mkdir { .. } | Op::Symlink { .. } | Op::Create { .. } => {
                if let (None, Some(entry)) = (from.node, from.entry) {
                    self.touch_entry(&mut touched, entry);
                }
            }
            Op::Link { .. } | Op::Rename { .. } => {
                let Some(Ok(to)) = to else { return touched };
                let is_rename = matches!(op, Op::Rename { .. });
                let ends = [from.entry.filter(|_| is_rename), to.entry];
                ends.into_iter().flatten().for_each(|entry| self.touch_entry(&mut touched, entry));
                for id in [from.node, to.node].into_iter().flatten() {
                    self.touch_node(&mut touched, id);
                    if let Body::Dir(entries) = &self.node(id).body {
                        touched.add(key(b'l', id, 0), Touch::Write);
                        // Moves of directories see each other, from wherever: none may go below itself.
                        touched.add(key(b't', 0, 0), Touch::Write);
                        // Below it are nodes that a call may reach by another way.
                        if !entries.is_empty() && (self.by_identity || self.has_links()) {
                            touched.add_everything();
                        }
                    }
                }
            }
            Op::Unlink { .. } | Op::Rmdir { .. } => {
                if let (Some(id), Some(entry)) = (from.node, from.entry) {
                    self.touch_entry(&mut touched, entry);
                    self.touch_node(&mut touched, id);
                    touched.add(key(b'l', id, 0), Touch::Write);
                }
            }
            Op::Lookup { .. } => {}
            Op::Readdir { .. }
            | Op::Stat { .. }
            | Op::Readlink { .. }
            | Op::GetXattr { .. }
            | Op::ReadAll { .. } => {
                if let Some(id) = from.node {
                    touched.add(key(b'n', id, 0), Touch::Read);
                    touched.add(key(b'l', id, 0), Touch::Read);
                }
            }
            Op::Chmod { .. }
            | Op::SetXattr { .. }
            | Op::Truncate { .. }
            | Op::Append { .. }
            | Op::WriteAll { .. } => {
                if let Some(id) = from.node {
                    touched.add(key(b'n', id, 0), Touch::Write);
                }
            }
        }
        touched
    }

    fn touch_entry(&self, touched: &mut Footprint, (dir, name): (Id, &Name)) {
        touched.add(key(b'e', dir, hash_of(name)), Touch::Write);
        touched.add(key(b'l', dir, 0), Touch::Add);
    }

    /// The node may be gone afterwards, for those too who know it by its identity.
    fn touch_node(&self, touched: &mut Footprint, id: Id) {
        touched.add(key(b'n', id, 0), Touch::Write);
        if let Some(Identity(number)) = self.node(id).identity {
            touched.add(key(b'i', number, 0), Touch::Write);
        }
    }

    fn has_links(&self) -> bool {
        self.nodes.iter().any(|(_, node)| node.nlink > 1 && node.kind() != Kind::Dir)
    }

    fn walk<'a>(&self, path: &'a Path, mut touched: Option<&mut Footprint>) -> Result<Spot<'a>, Errno> {
        let mut at = ROOT;
        if let Some(start) = path.start {
            if let Some(touched) = touched.as_deref_mut() {
                touched.add(key(b'i', start.0, 0), Touch::Read);
            }
            let known = self.known.binary_search_by_key(&start, |(identity, _)| *identity);
            at = self.known[known.map_err(|_| Errno::Stale)?].1;
            if let Some(touched) = touched.as_deref_mut() {
                touched.add(key(b'n', at, 0), Touch::Read);
            }
        }
        let mut spot = Spot { entry: None, node: Some(at) };
        for name in path.names.iter() {
            let dir = spot.found()?;
            if let Some(touched) = touched.as_deref_mut() {
                touched.add(key(b'e', dir, hash_of(name)), Touch::Read);
            }
            let Body::Dir(entries) = &self.node(dir).body else { return Err(Errno::NotDir) };
            let found = entries.binary_search_by(|(n, _)| n.cmp(name));
            spot = Spot { entry: Some((dir, name)), node: found.ok().map(|at| entries[at].1) };
        }
        Ok(spot)
    }

    fn read(&self, op: &Op) -> Outcome {
        let id = self.walk(op.paths().0, None)?.found()?;
        let node = self.node(id);
        match (op, &node.body) {
            (Op::Lookup { .. }, _) => Ok(Value::Found { kind: node.kind(), identity: node.identity }),
            (Op::Stat { .. }, body) => {
                let size = match body {
                    Body::Dir(entries) => entries.len() as u64,
                    Body::File(content) => content.len(),
                    Body::Symlink(target) => target.len() as u64,
                };
                let (kind, nlink, mode, identity) = (node.kind(), node.nlink, node.mode, node.identity);
                Ok(Value::Attr(Attr { kind, nlink, mode, size, identity }))
            }
            (Op::Readdir { .. }, Body::Dir(entries)) => {
                Ok(Value::Names(entries.iter().map(|(name, _)| name.clone()).collect()))
            }
            (Op::Readdir { .. }, _) => Err(Errno::NotDir),
            (Op::Readlink { .. }, Body::Symlink(target)) => Ok(Value::Target(target.clone())),
            (Op::ReadAll { .. }, Body::File(content)) => Ok(Value::Bytes(content.clone())),
            (Op::ReadAll { .. }, Body::Dir(_)) => Err(Errno::IsDir),
            (Op::GetXattr { name, .. }, _) => {
                let found = node.xattrs.iter().find(|(n, _)| n == name);
                found.map(|(_, value)| Value::Bytes(value.clone())).ok_or(Errno::NoXattr)
            }
            _ => Err(Errno::Invalid),
        }
    }

    fn make(&mut self, path: &Path, body: Body, mode: u32) -> Outcome {
        let spot = self.walk(path, None)?;
        if spot.node.is_some() {
            return Err(Errno::Exists);
        }
        let (dir, name) = spot.entry()?;
        let mut id = key(b'm', dir, hash_of(name));
        while id == ROOT || self.find(id).is_ok() {
            id = key(b'm', id, 0);
        }
        let node = Node::new(body, mode & MODE_BITS, dir);
        let subdir = node.kind() == Kind::Dir;
        self.put(id, node);
        self.enter(dir, name, Some(id));
        self.change(dir, |dir| dir.nlink += u32::from(subdir));
        Ok(Value::Made { created: true, identity: None })
    }

    fn link(&mut self, from: &Path, to: &Path) -> Outcome {
        let id = self.walk(from, None)?.found()?;
        let spot = self.walk(to, None)?;
        if spot.node.is_some() {
            return Err(Errno::Exists);
        }
        let (dir, name) = spot.entry()?;
        if self.is_dir(id) {
            return Err(Errno::NotOwner);
        }
        self.enter(dir, name, Some(id));
        self.change(id, |node| node.nlink += 1);
        Ok(Value::Done)
    }

    fn remove(&mut self, path: &Path, rmdir: bool) -> Outcome {
        let spot = self.walk(path, None)?;
        let id = spot.found()?;
        let (dir, name) = spot.entry()?;
        match &self.node(id).body {
            Body::Dir(_) if !rmdir => return Err(Errno::IsDir),
            Body::Dir(entries) if !entries.is_empty() => return Err(Errno::NotEmpty),
            Body::File(_) | Body::Symlink(_) if rmdir => return Err(Errno::NotDir),
            _ => {}
        }
        self.enter(dir, name, None);
        self.drop_link(id);
        Ok(Value::Done)
    }

    fn rename(&mut self, from: &Path, to: &Path, flag: RenameFlag) -> Outcome {
        let from = self.walk(from, None)?;
        let to = self.walk(to, None)?;
        let moved = from.found()?;
        let ((from_dir, from_name), (to_dir, to_name)) = (from.entry()?, to.entry()?);
        let exchange = flag == RenameFlag::Exchange;
        match (to.node, flag) {
            (Some(_), RenameFlag::NoReplace) => return Err(Errno::Exists),
            (None, RenameFlag::Exchange) => return Err(Errno::NotFound),
            _ => {}
        }
        if self.is_dir(moved) && self.is_within(to_dir, moved) {
            return Err(Errno::Invalid);
        }
        if let Some(target) = to.node {
            if self.is_dir(target) && self.is_within(from_dir, target) {
                return Err(if exchange { Errno::Invalid } else { Errno::NotEmpty });
            }
            if target == moved {
                return Ok(Value::Done);
            }
            if exchange {
                self.enter(from_dir, from_name, Some(target));
                self.settle(target, from_dir, to_dir);
            } else {
                match (&self.node(moved).body, &self.node(target).body) {
                    (Body::Dir(_), Body::File(_) | Body::Symlink(_)) => return Err(Errno::NotDir),
                    (Body::File(_) | Body::Symlink(_), Body::Dir(_)) => return Err(Errno::IsDir),
                    (_, Body::Dir(entries)) if !entries.is_empty() => return Err(Errno::NotEmpty),
                    _ => {}
                }
            }
        }
        if !exchange {
            self.enter(from_dir, from_name, None);
        }
        self.enter(to_dir, to_name, Some(moved));
        self.settle(moved, to_dir, from_dir);
        if let Some(target) = to.node.filter(|_| !exchange) {
            // The directory that is gone was one of the target's parent.
            self.drop_link(target);
        }
        Ok(Value::Done)
    }

    /// A node stands in another directory now.
    fn settle(&mut self, id: Id, dir: Id, before: Id) {
        if self.is_dir(id) && dir != before {
            self.change(before, |node| node.nlink -= 1);
            self.change(dir, |node| node.nlink += 1);
            self.change(id, |node| node.parent = dir);
        }
    }

    fn edit(&mut self, path: &Path, edit: impl FnOnce(&mut Content)) -> Outcome {
        let id = self.walk(path, None)?.found()?;
        match self.node(id).kind() {
            Kind::Dir => return Err(Errno::IsDir),
            Kind::Symlink => return Err(Errno::Invalid),
            Kind::File => {}
        }
        self.change(id, |node| {
            if let Body::File(content) = &mut node.body {
                edit(content);
            }
        });
        Ok(Value::Done)
    }

    fn is_dir(&self, id: Id) -> bool {
        self.node(id).kind() == Kind::Dir
    }

    fn is_within(&self, mut inside: Id, outer: Id) -> bool {
        while inside != outer && inside != ROOT {
            inside = self.node(inside).parent;
        }
        inside == outer
    }

    fn find(&self, id: Id) -> Result<usize, usize> {
        self.nodes.binary_search_by_key(&id, |(id, _)| *id)
    }

    fn node(&self, id: Id) -> &Node {
        match self.find(id) {
            Ok(at) => &self.nodes[at].1,
            Err(_) => panic!("the model has lost node {id:x}"),
        }
    }

    fn put(&mut self, id: Id, node: Node) {
        self.hash = self.hash.wrapping_add(node.hash(id));
        match self.find(id) {
            Ok(_) => panic!("the model has node {id:x} already"),
            Err(at) => self.nodes.insert(at, (id, Arc::new(node))),
        }
    }

    fn change(&mut self, id: Id, change: impl FnOnce(&mut Node)) {
        let Ok(at) = self.find(id) else { panic!("the model has lost node {id:x}") };
        let node = Arc::make_mut(&mut self.nodes[at].1);
        self.hash = self.hash.wrapping_sub(node.hash(id));
        change(node);
        self.hash = self.hash.wrapping_add(node.hash(id));
    }

    /// Makes the name lead there, or nowhere.
    fn enter(&mut self, dir: Id, name: &Name, node: Option<Id>) {
        self.change(dir, |dir| {
            let Body::Dir(entries) = &mut dir.body else { panic!("{name} is put into a file") };
            match (entries.binary_search_by(|(n, _)| n.cmp(name)), node) {
                (Ok(at), Some(id)) => entries[at].1 = id,
                (Ok(at), None) => drop(entries.remove(at)),
                (Err(at), Some(id)) => entries.insert(at, (name.clone(), id)),
                (Err(_), None) => {}
            }
        });
    }

    /// A name of the node is gone, and with the last one the node.
    fn drop_link(&mut self, id: Id) {
        let node = self.node(id);
        let (is_dir, parent) = (node.kind() == Kind::Dir, node.parent);
        if !is_dir && node.nlink > 1 {
            return self.change(id, |node| node.nlink -= 1);
        }
        if is_dir {
            self.change(parent, |parent| parent.nlink -= 1);
        }
        if let Ok(at) = self.find(id) {
            let (_, node) = self.nodes.remove(at);
            self.hash = self.hash.wrapping_sub(node.hash(id));
            self.known.retain(|(_, known)| *known != id);
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>, path: &str, id: Id) -> fmt::Result {
        let node = self.node(id);
        let name = if path.is_empty() { "/" } else { path };
        write!(f, "{name}  {:?} {:04o} nlink {}", node.kind(), node.mode, node.nlink)?;
        if let Some(Identity(number)) = node.identity {
            write!(f, " #{number}")?;
        }
        match &node.body {
            Body::File(content) => write!(f, " {content}")?,
            Body::Symlink(target) => write!(f, " -> {target}")?,
            Body::Dir(_) => {}
        }
        node.xattrs.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
        writeln!(f)?;
        let Body::Dir(entries) = &node.body else { return Ok(()) };
        entries.iter().try_for_each(|(name, id)| self.show(f, &format!("{path}/{name}"), *id))
    }
}

/// The whole tree, a line for each name.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, "", ROOT)
    }
}

impl Node {
    fn new(body: Body, mode: u32, parent: Id) -> Self {
        let nlink = if matches!(body, Body::Dir(_)) { 2 } else { 1 };
        Self { body, mode, nlink, identity: None, parent, xattrs: Vec::new() }
    }

    fn kind(&self) -> Kind {
        match self.body {
            Body::Dir(_) => Kind::Dir,
            Body::File(_) => Kind::File,
            Body::Symlink(_) => Kind::Symlink,
        }
    }

    fn hash(&self, id: Id) -> u64 {
        let mut hash = mix(id, u64::from(self.mode) << 32 | u64::from(self.nlink));
        hash = mix(hash, self.identity.map_or(u64::MAX, |identity| identity.0));
        for (name, value) in &self.xattrs {
            hash = mix(mix(hash, hash_of(name)), mix(value.len(), value.hash()));
        }
        match &self.body {
            Body::Dir(entries) => entries.iter().fold(hash, |hash, (n, id)| mix(mix(hash, hash_of(n)), *id)),
            Body::File(content) => mix(mix(hash, 2), mix(content.len(), content.hash())),
            Body::Symlink(target) => mix(mix(hash, 3), hash_of(target)),
        }
    }
}

/// What was told is what the model says. Identities count where both know one.
fn agree(op: &Op, says: &Outcome, told: &Outcome) -> bool {
    let same = |a: Option<Identity>, b: Option<Identity>| a.is_none() || b.is_none() || a == b;
    match (says, told) {
        // What was found and then removed is gone; which of the two is said tells more of the system than of the order.
        (Err(Errno::NotFound | Errno::Stale), Err(Errno::NotFound | Errno::Stale)) => true,
        // The model forgets a node with its last name. Whoever holds it may go on with it, and nobody else sees that.
        (Err(Errno::Stale), Ok(_)) => {
            let path = op.paths().0;
            path.names.is_empty() && !matches!(op, Op::Link { .. } | Op::Rename { .. })
        }
        (Ok(Value::Made { created: a, identity: i }), Ok(Value::Made { created: b, identity: j })) => {
            a == b && same(*i, *j)
        }
        (Ok(Value::Found { kind: a, identity: i }), Ok(Value::Found { kind: b, identity: j })) => {
            a == b && same(*i, *j)
        }
        (Ok(Value::Attr(a)), Ok(Value::Attr(b))) => {
            (a.kind, a.nlink, a.mode, a.size) == (b.kind, b.nlink, b.mode, b.size)
                && same(a.identity, b.identity)
        }
        (says, told) => says == told,
    }
}

/// Two numbers as one, all bits of which depend on all bits of both.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xd1b5_4a32_d192_ed03);
    let folded = (product >> 64) ^ (product & u128::from(u64::MAX));
    let x = u64::try_from(folded).unwrap_or_default().wrapping_add(a.rotate_left(29)).wrapping_add(b);
    (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn hash_of(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn key(kind: u8, id: Id, name: u64) -> u64 {
    mix(mix(u64::from(kind), id), name)
}
