//! When each session was last heard of. Keep-alives are no commands; only the expiry is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::namespace::SessionInfo;
use crate::runtime::Instant;
use crate::types::SessionId;

/// Sessions ended by one command at most: each may take thousands of remembered replies with it.
const EXPIRED_MAX: usize = 16;

/// The table.
pub(super) struct SessionTable {
    began: Instant,
    seen: BTreeMap<SessionId, Instant>,
}

impl SessionTable {
    pub(super) fn begin(now: Instant) -> Self {
        Self { began: now, seen: BTreeMap::new() }
    }

    pub(super) fn seen(&mut self, session: SessionId, now: Instant) {
        self.seen.insert(session, now);
    }

    /// Those of `sessions`, all there are, that were silent for longer than their ttl. One that was opened since
    /// the previous call counts from now on, one that ended is forgotten.
    pub(super) fn expired(&mut self, sessions: &[SessionInfo], now: Instant) -> Vec<SessionId> {
        let alive: BTreeSet<SessionId> = sessions.iter().map(|s| s.session).collect();
        self.seen.retain(|session, _| alive.contains(session));
        let mut expired = Vec::new();
        for session in sessions {
            let seen = *self.seen.entry(session.session).or_insert(now);
            let ttl = Duration::from_millis(u64::from(session.ttl_ms));
            let silent = now.saturating_duration_since(seen.max(self.began));
            if silent > ttl && expired.len() < EXPIRED_MAX {
                expired.push(session.session);
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    fn info(id: u64, ttl_ms: u32) -> SessionInfo {
        SessionInfo { session: SessionId(id), ttl_ms, label: String::new(), opened: Timestamp(0) }
    }

    #[test]
    fn a_session_expires_after_its_ttl_of_silence_and_not_before() {
        let start = crate::runtime::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut table = SessionTable::begin(start);
        let all = [info(1, 1000), info(2, 5000)];
        assert!(table.expired(&all, at(0)).is_empty());
        table.seen(SessionId(1), at(900));
        assert!(table.expired(&all, at(1900)).is_empty());
        assert_eq!(table.expired(&all, at(1901)), [SessionId(1)]);
        assert_eq!(table.expired(&all, at(5001)), [SessionId(1), SessionId(2)]);
    }

    #[test]
    fn a_new_leader_grants_everybody_a_full_ttl() {
        let start = crate::runtime::now();
        let mut table = SessionTable::begin(start + Duration::from_secs(100));
        let all = [info(1, 1000)];
        assert!(table.expired(&all, start + Duration::from_millis(100_900)).is_empty());
    }
}
