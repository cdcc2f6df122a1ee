//! A restore on its way through the leader, and what this server's life began with.
//!
//! `service` calls it for `MetaRequest::Restore`. Holds: each step is one command, so all voters take it alike, and one that is sent again
//! after the death of a leader is not done twice; while the cluster is being restored nothing else is answered.
//! Not here: what a step does (`namespace/ops/restore.rs`).

use super::service::Service;
use crate::namespace::{self, Op, Reply, View, ViewError};
use crate::types::{FsError, RestoreStep};
use crate::wire::RpcError;
use crate::wire::dump::{RestoreProgress, RestoreRefusal};

/// Why a cluster that is being restored answers nothing.
pub(super) const RESTORING: &str = "the cluster is being restored from a dump: wait until `pohmelfs restore` has ended; if it was interrupted, run it again with the same file";

impl Service {
    pub(super) async fn restore(
        &self,
        step: RestoreStep,
    ) -> Result<Result<RestoreProgress, RestoreRefusal>, RpcError> {
        let reply = self.proposer.submit(Op::Restore(step.clone())).await?;
        match (&step, &reply) {
            (RestoreStep::Begin { dump, .. }, Ok(_)) => {
                tracing::warn!(cluster = %dump.cluster, index = %dump.index, records = dump.tally.records,
                    "this cluster is being restored from a dump");
            }
            (RestoreStep::End { .. }, Ok(_)) => tracing::warn!("this cluster was restored from a dump"),
            _ => {}
        }
        let told = self.state.read(|view| outcome(view, &step, &reply));
        told.map_err(|e| RpcError::StoreFailed { reason: e.to_string() })
    }
}

/// What the state after a step means for who sent it.
fn outcome(
    view: &dyn View,
    step: &RestoreStep,
    reply: &Reply,
) -> Result<Result<RestoreProgress, RestoreRefusal>, ViewError> {
    let restoring = namespace::superblock(view)?.and_then(|s| s.restoring);
    let error = match reply {
        Ok(_) => {
            return Ok(match restoring {
                Some(r) => Ok(RestoreProgress { floor: r.floor, next: r.next, is_done: false }),
                None => {
                    let last = namespace::lineage(view)?.pop();
                    let floor = last.map_or(0, |last| last.floor);
                    Ok(RestoreProgress { floor, next: u32::MAX, is_done: true })
                }
            });
        }
        Err(error) => *error,
    };
    Ok(Err(match (error, step, restoring) {
        (FsError::NotEmpty, ..) => RestoreRefusal::NotEmpty {
            what: namespace::why_not_empty(view)?.unwrap_or_else(|| "it was used a moment ago".into()),
        },
        (FsError::Busy, _, Some(r)) => RestoreRefusal::OtherDump { dump: r.dump },
        (FsError::NodeConflict, ..) => RestoreRefusal::NodeConflict,
        (_, RestoreStep::Part { number, .. }, Some(r)) => {
            RestoreRefusal::BadPart { number: *number, next: r.next }
        }
        (_, RestoreStep::End { .. }, Some(r)) => {
            RestoreRefusal::Incomplete { records: r.records, wanted: r.dump.tally.records }
        }
        _ => RestoreRefusal::NotRestoring,
    }))
}
