//! Commands of several sessions and of their locks.
//!
//! An owner is `p1` (a process), `o1` (an open file by OFD) or `f1` (an open file by `flock`); a range `2-5` or `2-` (to the end), a mode
//! `r` or `w`.

use pohmelfs::namespace::Op;
use pohmelfs::types::*;

use super::{Script, Told, number};

fn owner(text: &str) -> LockOwner {
    let kind = match &text[..1] {
        "p" => LockKind::Posix,
        "o" => LockKind::Ofd,
        "f" => LockKind::Flock,
        _ => panic!("{text:?} is no owner"),
    };
    LockOwner { kind, id: number(&text[1..]) }
}

fn range(text: &str) -> LockRange {
    let (first, last) = text.split_once('-').expect("a range needs a dash");
    LockRange { first: number(first), last: if last.is_empty() { u64::MAX } else { number(last) } }
}

fn shown(held: &HeldLock) -> String {
    let kind = match held.owner.kind {
        LockKind::Posix => 'p',
        LockKind::Ofd => 'o',
        LockKind::Flock => 'f',
    };
    let last = if held.range.last == u64::MAX { String::new() } else { held.range.last.to_string() };
    let mode = if held.write { 'w' } else { 'r' };
    format!("{mode} of {kind}{} in session {} on {}-{last}", held.owner.id, held.session, held.range.first)
}

impl Script {
    fn wanted(&self, [path, who, bytes, mode]: [&str; 4], wait: bool) -> Result<Lock, FsError> {
        let inode = self.inode(path)?;
        Ok(Lock { inode, owner: owner(who), pid: 7, range: range(bytes), write: mode == "w", wait })
    }

    /// The request that the acting session waits with.
    fn waiting(&self) -> RequestId {
        *self.waiting.get(&self.world.session).expect("this session has not waited")
    }

    pub(super) fn lock_command(&mut self, words: &[&str]) -> Option<Told> {
        Some(match *words {
            ["session"] => {
                self.update(Update::OpenSession(OpenSession { ttl_ms: 9_000, label: "more".into() }))
            }
            ["in", session] => {
                self.world.session = SessionId(number(session));
                Ok(String::new())
            }
            ["close"] => self.update(Update::CloseSession),
            ["expire", session] => {
                let expired = Op::ExpireSessions(vec![SessionId(number(session))]);
                self.world.command(expired).map(|_| "ok".into())
            }
            ["lock", path, who, bytes, mode] => {
                self.wanted([path, who, bytes, mode], false).and_then(|lock| self.update(Update::Lock(lock)))
            }
            ["lock", path, who, bytes, mode, "wait"] => {
                self.wanted([path, who, bytes, mode], true).and_then(|lock| {
                    let told = self.update(Update::Lock(lock));
                    self.waiting.insert(self.world.session, RequestId(self.world.request));
                    told
                })
            }
            ["unlock", path, who, bytes] => self.inode(path).and_then(|inode| {
                self.update(Update::Unlock(Unlock { inode, owner: owner(who), range: range(bytes) }))
            }),
            ["cancel", path] => self.inode(path).and_then(|inode| {
                let request = self.waiting();
                self.update(Update::CancelLock(CancelLock { inode, request }))
            }),
            ["waits", path] => self.inode(path).and_then(|inode| {
                let (session, request) = (self.world.session, self.waiting());
                match self.ask(&Query::LockWaits { inode, session, request })? {
                    QueryReply::Waits(waits) => Ok(if waits { "yes" } else { "no" }.into()),
                    other => panic!("{other:?}"),
                }
            }),
            ["test", path, who, bytes, mode] => {
                self.wanted([path, who, bytes, mode], false).and_then(|lock| {
                    match self.ask(&Query::TestLock { session: self.world.session, lock })? {
                        QueryReply::Conflict(held) => Ok(held.as_ref().map_or("free".into(), shown)),
                        other => panic!("{other:?}"),
                    }
                })
            }
            ["locks", path, family] => self.map_of_locks(path, family),
            _ => return None,
        })
    }

    /// What is in the way of a stranger, one byte after the other: session 1 is `a`, and `A` where it writes.
    fn map_of_locks(&self, path: &str, family: &str) -> Told {
        const BYTES: u64 = 16;
        let (inode, stranger) =
            (self.inode(path)?, LockOwner { id: u64::MAX, ..owner(&format!("{family}0")) });
        let mut out = String::new();
        for byte in 0..BYTES {
            let range = LockRange { first: byte, last: byte };
            let lock = Lock { inode, owner: stranger, pid: 0, range, write: true, wait: false };
            match self.ask(&Query::TestLock { session: SessionId(0), lock })? {
                QueryReply::Conflict(None) => out.push('.'),
                QueryReply::Conflict(Some(held)) => {
                    let letter = char::from(b'a' + u8::try_from(held.session.0 - 1).unwrap());
                    out.push(if held.write { letter.to_ascii_uppercase() } else { letter });
                }
                other => panic!("{other:?}"),
            }
        }
        Ok(out)
    }
}
