//! One command: view + command -> reply + changes.
//!
//! Settles the time, does what belongs to every client's update (sessions, remembered replies) and hands over to
//! `ops`. Holds: time never goes back; a request that was done is not done again; an update that is answered with an
//! error has changed nothing but the memory of that answer.

use super::ops;
use super::txn::{Step, Stop};
use super::{Command, Op, Reply, Txn, ViewError};
use crate::types::{Cred, FsError, RequestId, SessionId, Timestamp, Update, UpdateReply};

/// Who does an update, and when.
pub(super) struct Caller<'a> {
    pub(super) at: Timestamp,
    pub(super) session: SessionId,
    pub(super) request: RequestId,
    pub(super) cred: &'a Cred,
}

/// Applies one command. Whatever the command holds, it never panics; an answer about the namespace is inside the reply.
///
/// # Errors
/// When the view cannot be read: the node must stop.
pub fn apply(txn: &mut Txn<'_>, command: &Command) -> Result<Reply, ViewError> {
    match decide(txn, command) {
        Ok(reply) => Ok(Ok(reply)),
        Err(Stop::Fs(e)) => Ok(Err(e)),
        Err(Stop::View(e)) => Err(e),
    }
}

fn decide(txn: &mut Txn<'_>, command: &Command) -> Step<UpdateReply> {
    if let Op::Found { cluster, hash_seed, layout } = &command.op {
        return ops::found::found(txn, command.at, *cluster, *hash_seed, *layout);
    }
    if txn.superblock()?.is_none() {
        // Nothing exists before the first command, no session either.
        return Err(if matches!(command.op, Op::Client { .. }) {
            FsError::SessionExpired
        } else {
            FsError::NotFound
        }
        .into());
    }
    if txn.founded()?.restoring.is_some()
        && !matches!(command.op, Op::Restore(_) | Op::PutMeta(_) | Op::RemoveMeta(_))
    {
        return Err(FsError::Restoring.into());
    }
    if let Op::Client { session, request, lowest_unanswered, cred, update } = &command.op
        && !matches!(update, Update::OpenSession(_) | Update::CloseSession)
    {
        if let Some(reply) = ops::session::admit(txn, *session, *request, *lowest_unanswered)? {
            return reply.map_err(Stop::from);
        }
        let caller = Caller { at: later(txn, command.at)?, session: *session, request: *request, cred };
        let reply = match client_update(txn, &caller, update) {
            Ok(reply) => Ok(reply),
            Err(Stop::Fs(e)) => Err(e),
            Err(Stop::View(e)) => return Err(e.into()),
        };
        ops::session::remember(txn, *session, *request, *lowest_unanswered, &reply)?;
        return reply.map_err(Stop::from);
    }
    let at = later(txn, command.at)?;
    match &command.op {
        Op::Client { session, update, .. } => match update {
            Update::OpenSession(open) => ops::session::open(txn, at, open),
            _ => ops::session::end(txn, *session),
        },
        Op::Found { .. } => Err(FsError::Exists.into()),
        Op::PutMeta(meta) => ops::nodes::put_meta(txn, meta),
        Op::RemoveMeta(node) => ops::nodes::remove_meta(txn, *node),
        Op::RegisterData(spec) => ops::nodes::register(txn, at, spec),
        Op::Report(reports) => ops::nodes::report(txn, reports),
        Op::SetNodeState { node, state } => ops::nodes::set_state(txn, at, *node, *state),
        Op::PutGroups(groups) => ops::nodes::put_groups(txn, groups),
        Op::ExpireSessions(sessions) => {
            for session in sessions {
                ops::session::end(txn, *session)?;
            }
            Ok(UpdateReply::Done)
        }
        Op::RaiseLevel(level) => ops::level::raise(txn, at, *level),
        Op::Restore(step) => ops::restore::restore(txn, at, step),
        Op::FreeOrphans(inodes) => ops::orphans::free(txn, inodes),
        Op::Reclaimed(blocks) => {
            for block in blocks {
                super::extents::reclaimed(&txn.records, *block)?;
            }
            Ok(UpdateReply::Done)
        }
    }
}

/// The time of a command: the leader's, unless an earlier leader's clock was ahead of it.
fn later(txn: &mut Txn<'_>, at: Timestamp) -> Result<Timestamp, ViewError> {
    let superblock = txn.founded()?;
    superblock.newest = superblock.newest.max(at);
    Ok(superblock.newest)
}

fn client_update(txn: &mut Txn<'_>, caller: &Caller<'_>, update: &Update) -> Step<UpdateReply> {
    if caller.cred.groups.len() > Cred::GROUPS_MAX {
        return Err(FsError::Invalid.into());
    }
    match update {
        Update::Make(make) => ops::make::make(txn, caller, make),
        Update::SetAttrs(set) => ops::set_attrs::set_attrs(txn, caller, set),
        Update::Link(link) => ops::link::link(txn, caller, link),
        Update::Unlink(unlink) => ops::unlink::unlink(txn, caller, unlink),
        Update::Rename(rename) => ops::rename::rename(txn, caller, rename),
        Update::SetXattr(set) => ops::xattr::set(txn, caller, set),
        Update::RemoveXattr(remove) => ops::xattr::remove(txn, caller, remove),
        Update::Publish(publish) => ops::publish::publish(txn, caller, publish),
        Update::Range(range) => ops::range::range(txn, caller, range),
        Update::Lock(lock) => ops::lock::lock(txn, caller, lock),
        Update::Unlock(unlock) => ops::lock::unlock(txn, caller, unlock),
        Update::CancelLock(cancel) => ops::lock::cancel(txn, caller, cancel),
        Update::MakeUnnamed(make) => ops::unnamed::make(txn, caller, make),
        Update::Clone(clone) => ops::clone::clone(txn, caller, clone),
        Update::SetLabel(set) => ops::label::set(txn, caller, set),
        // Both are done before a session is looked at.
        Update::OpenSession(_) | Update::CloseSession => Err(FsError::Invalid.into()),
    }
}
