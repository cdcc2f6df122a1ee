//! The grace behind a restore: for a while, blocks that were written before it are kept though nothing refers to them.
//!
//! Whoever has restored a dump that was too old can restore a newer one as long as the blocks are there that only the newer one names. `blocks`
//! asks for every answer by which data servers delete, `worker` before orphans are freed, `status` for people. Holds: when the restore was is
//! in the state, so no restart and no new leader shortens the grace; what was written or freed behind the restore is reclaimed as always.
//! Not here: what is deleted (the data servers).

use super::leader::Leader;
use super::service::Service;
use crate::namespace::{self, Restored, View, ViewError};
use crate::runtime;
use crate::types::{NodeId, SessionId, Timestamp};
use crate::wire::RpcError;
use crate::wire::message::{Grace, Kept, MetaReply};

impl Service {
    /// The grace that runs now, by this server's clock and configuration.
    pub(super) fn grace(&self, view: &dyn View) -> Result<Option<Grace>, ViewError> {
        let newest = namespace::lineage(view)?.pop();
        Ok(running(newest, self.bounds.reclaim_grace_ms, runtime::wall_clock()))
    }

    /// A data server keeps so much for the grace, if it has looked, and is told of it.
    pub(super) fn keeps(
        &self,
        leader: &Leader,
        node: NodeId,
        kept: Option<Kept>,
    ) -> Result<MetaReply, RpcError> {
        let (grace, is_known) = self.read(|view, epoch| {
            Ok((self.grace(view)?, self.map_of(view, epoch)?.data.contains_key(&node)))
        })?;
        if let (Some(kept), true) = (kept, is_known) {
            leader.keeps(node, kept);
        }
        Ok(MetaReply::Grace(grace))
    }
}

/// The grace behind the newest restore, if it has not ended at `now`. Ids of sessions begin at the floor of the restore, so those below it are
/// of earlier lives, whichever dump they are in.
fn running(newest: Option<Restored>, grace_ms: u64, now: Timestamp) -> Option<Grace> {
    let newest = newest?;
    let until = newest.at.plus_millis(grace_ms);
    (now < until).then_some(Grace { below: SessionId(newest.floor), until })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BlockId, ClusterId, LogIndex, StateHash};

    #[test]
    fn the_grace_counts_from_the_restore() {
        let at = Timestamp::from_parts(1_800_000_000, 0);
        let newest =
            Restored { cluster: ClusterId(1), dump: StateHash(2), index: LogIndex(3), floor: 400, at };
        let (hour, later) = (3_600_000, |ms| at.plus_millis(ms));
        let grace = running(Some(newest), hour, at).unwrap();
        assert_eq!((grace.below, grace.until), (SessionId(400), later(hour)));
        assert_eq!(running(Some(newest), hour, later(hour - 1)), Some(grace));
        assert_eq!(running(Some(newest), hour, later(hour)), None, "it is over");
        assert_eq!(running(Some(newest), 0, at), None, "it is switched off");
        assert_eq!(running(None, hour, at), None, "nothing was restored");
        let of = |session| BlockId { session: SessionId(session), index: 1 };
        assert!(grace.covers(of(399)) && !grace.covers(of(400)));
    }
}
