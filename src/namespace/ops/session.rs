//! Sessions, and the memory that makes a resend harmless.
//!
//! ```text
//! request ids   ... forgotten ... | oldest ... remembered ... lowest | unanswered ... lowest + 4096 | refused
//! ```
//!
//! Each reply is stored under (session, request) until the session says, with a later request, that everything below
//! `lowest_unanswered` has arrived. Replies are pruned [`PRUNE_BATCH`] at a time, so that the session's record is not
//! rewritten with every command; what was announced meanwhile is read from the stored replies: each keeps what the session
//! said with it. Only requests above R can have announced something above R, so it costs one look behind it, once for each session:
//! what that look has shown is kept in the [`Memo`](super::super::Memo) of the server, and followed from there.

use std::ops::ControlFlow;

use super::super::records::{Record, Session, StoredReply};
use super::super::txn::{Announced, Step, corrupt, read, scan};
use super::super::{Reply, Txn, View, ViewError, keys};
use crate::types::{FsError, OpenSession, RequestId, SessionId, Timestamp, UpdateReply};

/// Replies remembered per session: a client that has more requests unanswered must wait.
const REPLIES_MAX: u64 = 4096;
/// Replies that may be left over before they are pruned: a record of the session in 16 commands. The sooner they go, the fewer of them
/// ever reach the database behind the state.
const PRUNE_BATCH: u64 = 16;
/// Up to this many ids are deleted one by one, which is cheaper than looking for those that have a reply.
const PRUNE_SINGLY_MAX: u64 = 4 * PRUNE_BATCH;
/// Replies a session can have, at most: those that are unanswered and those that are not yet pruned.
pub(crate) const KEPT_MAX: u64 = REPLIES_MAX + PRUNE_BATCH;
/// Shortest ttl: keep-alives every quarter of it are no burden even for thousands of sessions.
const TTL_MS_MIN: u32 = 1_000;
/// Longest ttl: how long a dead client's handles can keep orphans.
const TTL_MS_MAX: u32 = 600_000;
/// Longest label, in bytes.
const LABEL_LEN_MAX: usize = 128;

pub(crate) fn open(txn: &mut Txn<'_>, at: Timestamp, open: &OpenSession) -> Step<UpdateReply> {
    if open.label.len() > LABEL_LEN_MAX {
        return Err(FsError::Invalid.into());
    }
    let superblock = txn.founded()?;
    let session = superblock.next_session;
    superblock.next_session = session.next();
    let ttl_ms = open.ttl_ms.clamp(TTL_MS_MIN, TTL_MS_MAX);
    let record = Session { ttl_ms, label: open.label.clone(), opened: at, oldest: RequestId(0) };
    txn.records.put_fresh(&keys::session(session), &record);
    Ok(UpdateReply::Session { session, ttl_ms })
}

/// Ends a session, if there is one: a resent close finds none and is content.
pub(crate) fn end(txn: &mut Txn<'_>, session: SessionId) -> Step<UpdateReply> {
    if txn.records.get(&keys::session(session))?.is_some() {
        super::lock::session_ended(txn, session)?;
        txn.records.delete(&keys::session(session))?;
        txn.records.delete_range(&keys::replies(session), usize::MAX)?;
        txn.records.delete_range(&keys::reclaimed_of(session), usize::MAX)?;
        txn.memo.announced.remove(&session);
    }
    Ok(UpdateReply::Done)
}

/// Looks at a request before it is done: the reply it got before, none if it is new, or why it cannot be done.
pub(crate) fn admit(
    txn: &mut Txn<'_>,
    session: SessionId,
    request: RequestId,
    lowest: RequestId,
) -> Step<Option<Reply>> {
    let known = txn.memo.announced.get(&session).copied();
    let oldest = match &known {
        Some(known) => known.oldest,
        None => match read::<Session>(&txn.records, &keys::session(session))? {
            Some(record) => record.oldest,
            None => return Err(FsError::SessionExpired.into()),
        },
    };
    let in_order = known.is_some_and(|known| request > known.newest);
    if !in_order && let Some(stored) = read::<StoredReply>(&txn.records, &keys::reply(session, request))? {
        return Ok(Some(stored.reply));
    }
    if request < announced(txn, session, request, oldest)?.max(lowest) {
        return Err(FsError::ReplyForgotten.into());
    }
    // Of what was announced, a server may know more than its state tells, so the window is counted from what every voter
    // sees alike, however it cuts the log into runs: the record and the command itself.
    if request.0 - oldest.max(lowest).0 >= REPLIES_MAX {
        return Err(FsError::TooManyInFlight.into());
    }
    Ok(None)
}

/// The lowest request that the session has not announced as answered, as far as it matters to `request`, which has no reply.
///
/// For the question "is `request` below it?" the answer is exact; its value may be higher than what the state tells.
fn announced(
    txn: &mut Txn<'_>,
    session: SessionId,
    request: RequestId,
    oldest: RequestId,
) -> Result<RequestId, ViewError> {
    let mut known = match txn.memo.announced.get(&session) {
        Some(known) if known.scanned_from <= request => return Ok(known.lowest),
        Some(known) => *known,
        None => Announced { lowest: oldest, scanned_from: request, newest: request, oldest },
    };
    let range = keys::replies(session).behind(&keys::reply(session, request));
    scan(&txn.records, &range, |key, value| {
        let answered = keys::second(key).unwrap_or(0);
        let said = answered.saturating_sub(StoredReply::decode(value)?.behind);
        known.lowest = known.lowest.max(RequestId(said));
        known.newest = known.newest.max(RequestId(answered));
        Ok(ControlFlow::Continue(()))
    })?;
    known.scanned_from = request;
    txn.memo.announced.insert(session, known);
    Ok(known.lowest)
}

/// Stores the reply to a new request, and prunes those that the session no longer waits for.
pub(crate) fn remember(
    txn: &mut Txn<'_>,
    session: SessionId,
    request: RequestId,
    lowest: RequestId,
    reply: &Reply,
) -> Result<(), ViewError> {
    let stored = StoredReply { behind: request.0.saturating_sub(lowest.0), reply: reply.clone() };
    let Some(known) = txn.memo.announced.get_mut(&session) else {
        return Err(corrupt(format!("session {session} was not looked at")));
    };
    known.lowest = known.lowest.max(lowest);
    if request > known.newest {
        known.newest = request;
        txn.records.put_fresh(&keys::reply(session, request), &stored);
    } else {
        txn.records.put(&keys::reply(session, request), &stored)?;
    }
    if lowest.0 < known.oldest.0.saturating_add(PRUNE_BATCH) {
        return Ok(());
    }
    let key = keys::session(session);
    let Some(mut record) = read::<Session>(&txn.records, &key)? else {
        return Err(corrupt(format!("session {session} is missing")));
    };
    let oldest = std::mem::replace(&mut record.oldest, lowest);
    known.oldest = lowest;
    // From the oldest on: below it is nothing.
    if lowest.0 - oldest.0 <= PRUNE_SINGLY_MAX {
        for request in oldest.0..lowest.0 {
            txn.records.delete(&keys::reply(session, RequestId(request)))?;
        }
    } else {
        let range = keys::replies(session)
            .starting(&keys::reply(session, oldest))
            .until(&keys::reply(session, lowest));
        txn.records.delete_range(&range, usize::MAX)?;
    }
    txn.records.put(&key, &record)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::fixture::{Bench, name};
    use crate::namespace::{Op, remembered, sessions};
    use crate::types::{
        Cred, FsError, OpenSession, ROOT_INODE, RequestId, SessionId, Unlink, Update, UpdateReply,
    };

    fn unlink(session: SessionId, request: u64, lowest: u64) -> Op {
        Op::Client {
            session,
            request: RequestId(request),
            lowest_unanswered: RequestId(lowest),
            cred: Cred::root(),
            update: Update::Unlink(Unlink { parent: ROOT_INODE, name: name("a"), dir: false }),
        }
    }

    #[test]
    fn a_resend_gets_the_same_reply_and_changes_nothing() {
        let mut bench = Bench::new();
        bench.make_file("a");
        let s = bench.session;
        let first = bench.command(unlink(s, 500, 0));
        assert!(first.is_ok());
        bench.make_file("a");
        let before = bench.view.clone();
        assert_eq!(bench.command(unlink(s, 500, 0)), first);
        assert_eq!(bench.view, before, "the new file of that name stays");
        assert_eq!(remembered(&bench.view, s, RequestId(500)).unwrap(), Some(first));
    }

    #[test]
    fn errors_are_remembered_too() {
        let mut bench = Bench::new();
        let s = bench.session;
        assert_eq!(bench.command(unlink(s, 500, 0)), Err(FsError::NotFound));
        bench.make_file("a");
        assert_eq!(bench.command(unlink(s, 500, 0)), Err(FsError::NotFound));
        assert!(bench.lookup("a").is_ok());
    }

    /// A request that was given up and overtaken must not take effect late, long before its range is pruned.
    #[test]
    fn an_overtaken_request_is_refused() {
        for batched in [false, true] {
            let mut bench = Bench::new();
            bench.make_file("a");
            let s = bench.session;
            // Low enough that nothing is pruned yet: only the reply to 12 tells of it.
            let later = [unlink(s, 12, 12), unlink(s, 11, 10), unlink(s, 13, 11)];
            if batched {
                let replies = bench.commands(&later);
                assert_eq!(replies[1], Err(FsError::ReplyForgotten));
            } else {
                assert!(bench.command(later[0].clone()).is_ok());
                assert_eq!(bench.command(later[1].clone()), Err(FsError::ReplyForgotten));
            }
            assert_eq!(bench.command(unlink(s, 5, 5)), Err(FsError::ReplyForgotten));
        }
    }

    /// One voter applies both commands in one run, another in two: what the first announced must not count differently.
    #[test]
    fn the_window_does_not_depend_on_runs() {
        let (mut one, mut two) = (Bench::new(), Bench::new());
        let log = [unlink(one.session, 5, 5), unlink(one.session, 4099, 2)];
        let replies = one.commands(&log);
        assert_eq!(replies, log.map(|op| two.command(op)));
        assert_eq!(replies[1], Err(FsError::TooManyInFlight));
        assert_eq!(one.view, two.view);
    }

    /// Requests in any order, resends and overtaken ones among them: who remembers earlier runs does what who does not remember does.
    #[test]
    fn what_runs_have_learnt_changes_nothing() {
        for seed in 1..40_u64 {
            let mut state = seed;
            let mut below = |bound: u64| {
                // Knuth's generator; its upper bits are good enough.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % bound
            };
            let (mut plain, mut knowing) = (Bench::new(), Bench::new());
            let mut memo = crate::namespace::Memo::default();
            let (mut newest, mut open) = (BTreeMap::<u64, u64>::new(), vec![plain.session]);
            for step in 0..300 {
                let run: Vec<Op> = (0..=below(6))
                    .map(|_| {
                        if below(60) == 0 {
                            let update =
                                Update::OpenSession(OpenSession { ttl_ms: 9_000, label: String::new() });
                            open.push(SessionId(open.len() as u64 + 1));
                            return Op::Client {
                                session: SessionId(0),
                                request: RequestId(0),
                                lowest_unanswered: RequestId(0),
                                cred: Cred::root(),
                                update,
                            };
                        }
                        let session = open[usize::try_from(below(open.len() as u64)).unwrap()];
                        if below(90) == 0 {
                            return Op::ExpireSessions(vec![session]);
                        }
                        let newest = newest.entry(session.0).or_insert(20);
                        let request = (*newest + 8).saturating_sub(below(30));
                        *newest = (*newest).max(request);
                        let mut op = unlink(session, request, request.saturating_sub(below(12)));
                        if let Op::Client { update, .. } = &mut op
                            && below(2) == 0
                        {
                            *update = Update::Make(plain.file("a"));
                        }
                        op
                    })
                    .collect();
                let learnt = knowing.commands_knowing(&run, &mut memo);
                let told: Vec<_> = run.into_iter().map(|op| plain.command(op)).collect();
                assert_eq!(learnt, told, "seed {seed}, step {step}");
                assert_eq!(plain.view, knowing.view, "seed {seed}, step {step}");
            }
        }
    }

    #[test]
    fn replies_are_pruned_in_batches() {
        let mut bench = Bench::new();
        let s = bench.session;
        for r in 0..1000 {
            assert_eq!(bench.command(unlink(s, 1000 + r, 1000 + r)), Err(FsError::NotFound));
        }
        let left = bench.view.records.keys().filter(|k| k[0] == 9).count();
        assert!(left <= 17, "{left} replies are kept");
    }

    #[test]
    fn a_session_has_bounds() {
        let mut bench = Bench::new();
        let s = bench.session;
        assert_eq!(bench.command(unlink(s, 5000, 904)), Err(FsError::TooManyInFlight));
        assert_eq!(
            bench.command(unlink(s, 5000, 905)),
            Err(FsError::NotFound),
            "the refusal was not remembered"
        );
        assert_eq!(bench.command(unlink(s, 5000, 0)), Err(FsError::NotFound), "a resend of it");
        assert_eq!(bench.command(unlink(s, 9000, 0)), Err(FsError::TooManyInFlight));
        assert_eq!(bench.command(unlink(s, 9000, 4904)), Err(FsError::TooManyInFlight));
        assert_eq!(bench.command(unlink(s, 904, 0)), Err(FsError::ReplyForgotten));
        assert_eq!(bench.command(unlink(SessionId(99), 1, 1)), Err(FsError::SessionExpired));
        assert_eq!(bench.command(unlink(s, u64::MAX, u64::MAX)), Err(FsError::NotFound));
    }

    #[test]
    fn a_session_ends_with_its_replies() {
        let mut bench = Bench::new();
        let s = bench.session;
        assert_eq!(bench.command(unlink(s, 500, 500)), Err(FsError::NotFound));
        let close = |bench: &mut Bench| bench.update(Update::CloseSession);
        assert_eq!(close(&mut bench), Ok(UpdateReply::Done));
        assert_eq!(close(&mut bench), Ok(UpdateReply::Done), "a resent close");
        assert_eq!(bench.command(unlink(s, 500, 500)), Err(FsError::SessionExpired));
        assert!(bench.view.records.keys().all(|k| k[0] != 8 && k[0] != 9));

        let open = OpenSession { ttl_ms: 1, label: "again".into() };
        let reply = bench.update(Update::OpenSession(open));
        let next = SessionId(s.0 + 1);
        assert_eq!(reply, Ok(UpdateReply::Session { session: next, ttl_ms: 1_000 }));
        let all = sessions(&bench.view).unwrap();
        assert_eq!((all.len(), all[0].session, all[0].label.as_str()), (1, next, "again"));
        assert_eq!(bench.command(Op::ExpireSessions(vec![next, s])), Ok(UpdateReply::Done));
        assert!(sessions(&bench.view).unwrap().is_empty());
    }
}
