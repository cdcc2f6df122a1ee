//! What only the leader does, besides proposing: it watches sessions, orphans, data servers and the reclaim queue,
//! and turns what it sees into commands.
//!
//! `service` feeds it signs of life, `worker` calls [`Leader::decide`] at every tick. Holds: all of it is volatile; a new
//! leader starts from the namespace and grants everybody a full term of grace, so that nothing ends early.
//! Not here: timers and proposals. Every method takes `now`, so tests choose the hour.

mod nodes;
mod orphans;
mod reclaim;
mod sessions;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::namespace::{self, Op, View, ViewError};
use crate::placement;
use crate::runtime::Instant;
use crate::types::{BlockId, ClusterMap, InodeId, NodeId, NodeLoad, NodeReport, SessionId};
use crate::wire::message::Kept;

use nodes::NodeTable;
use orphans::OrphanTable;
use reclaim::ReclaimTable;
use sessions::SessionTable;

/// Orphans looked at in one tick, blocks of the reclaim queue likewise. One page of each keeps a tick within some
/// milliseconds; the next tick goes on.
const PAGE: usize = 1024;

/// How long data servers may be silent.
#[derive(Clone, Copy, Debug)]
pub struct NodeTimes {
    /// After this, new blocks avoid them.
    pub suspect_after: Duration,
    /// After this, nobody asks them.
    pub down_after: Duration,
}

impl Default for NodeTimes {
    fn default() -> Self {
        Self { suspect_after: Duration::from_millis(2500), down_after: Duration::from_secs(10) }
    }
}

/// The leader's volatile tables.
pub struct Leader {
    tables: Mutex<Tables>,
    times: NodeTimes,
    /// Sessions at the latest look, and those asked for since.
    session_count: AtomicUsize,
}

struct Tables {
    sessions: SessionTable,
    orphans: OrphanTable,
    nodes: NodeTable,
    reclaim: ReclaimTable,
    /// What each data server keeps for the grace behind a restore.
    kept: BTreeMap<NodeId, Kept>,
}

impl Leader {
    /// Empty tables of a leader that begins at `now`: everybody has a full term of grace from here.
    #[must_use]
    pub fn begin(now: Instant, times: NodeTimes) -> Self {
        let tables = Tables {
            sessions: SessionTable::begin(now),
            orphans: OrphanTable::default(),
            nodes: NodeTable::begin(now),
            reclaim: ReclaimTable::default(),
            kept: BTreeMap::new(),
        };
        Self { tables: Mutex::new(tables), times, session_count: AtomicUsize::new(0) }
    }

    /// Counts one more session, unless there are `max`. What was refused elsewhere is counted until the next look.
    pub fn one_more_session(&self, max: usize) -> bool {
        if self.session_count.fetch_add(1, Ordering::Relaxed) < max {
            return true;
        }
        self.session_count.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// A session is alive and answers about orphans; gives the orphans to ask it about next.
    pub fn keep_alive(&self, session: SessionId, handles: &[(InodeId, bool)], now: Instant) -> Vec<InodeId> {
        let mut tables = self.tables.lock();
        tables.sessions.seen(session, now);
        tables.orphans.answered(session, handles);
        tables.orphans.questions(session, handles)
    }

    /// A data server is alive.
    pub fn heartbeat(&self, report: NodeReport, now: Instant) {
        self.tables.lock().nodes.seen(report, now);
    }

    /// A data server has deleted its replicas of `blocks`.
    pub fn deleted(&self, node: NodeId, blocks: &[BlockId]) {
        self.tables.lock().reclaim.deleted(node, blocks);
    }

    /// A data server keeps so much for the grace behind a restore.
    pub fn keeps(&self, node: NodeId, kept: Kept) {
        self.tables.lock().kept.insert(node, kept);
    }

    /// What each data server keeps for the grace behind a restore, of those that have looked.
    #[must_use]
    pub fn kept(&self) -> BTreeMap<NodeId, Kept> {
        self.tables.lock().kept.clone()
    }

    /// Newest load of each data server that was heard of.
    #[must_use]
    pub fn loads(&self) -> Vec<(NodeId, NodeLoad)> {
        self.tables.lock().nodes.loads()
    }

    /// What is to be committed now: expiries, states and figures of data servers, groups, freed orphans, reclaimed blocks. Orphans of
    /// before session `kept_below` are left alone.
    ///
    /// # Errors
    /// The namespace cannot be read.
    pub fn decide(
        &self,
        view: &dyn View,
        map: &ClusterMap,
        kept_below: SessionId,
        now: Instant,
    ) -> Result<Vec<Op>, ViewError> {
        let mut ops = Vec::new();
        let mut tables = self.tables.lock();
        tables.kept.retain(|node, _| map.data.contains_key(node));

        let sessions = namespace::sessions(view)?;
        self.session_count.store(sessions.len(), Ordering::Relaxed);
        let expired = tables.sessions.expired(&sessions, now);
        for session in &expired {
            tables.orphans.session_ended(*session);
        }
        if !expired.is_empty() {
            ops.push(Op::ExpireSessions(expired));
        }

        ops.extend(tables.nodes.decide(map, self.times, now));
        let groups = placement::form_groups(map);
        if !groups.is_empty() {
            ops.push(Op::PutGroups(groups));
        }

        let after = tables.orphans.cursor();
        let page = namespace::orphans(view, after, PAGE)?;
        let alive: Vec<SessionId> = sessions.iter().map(|s| s.session).collect();
        let free = tables.orphans.observe(&page, PAGE, &alive, kept_below);
        if !free.is_empty() {
            ops.push(Op::FreeOrphans(free));
        }

        let after = tables.reclaim.cursor();
        let page = namespace::reclaim_queue(view, after, PAGE)?;
        let done = tables.reclaim.observe(&page, PAGE, map);
        if !done.is_empty() {
            ops.push(Op::Reclaimed(done));
        }
        Ok(ops)
    }
}
