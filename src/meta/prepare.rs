//! The one crossing from requests to commands: what is wanted becomes what is decided.
//!
//! Called by the proposer of the leader. Holds: whatever depends on a clock is settled here, once; each command's time
//! is later than that of the command before it. (Inode, session and group ids come from counters in the replicated state;
//! block ids from their writers.)

use crate::namespace::{Command, Op};
use crate::types::{Timestamp, Update};
use crate::wire::message::UpdateRequest;

/// Settles the time of commands.
#[derive(Debug, Default)]
pub struct Prepare {
    newest: Timestamp,
}

impl Prepare {
    /// The command for `op` when the wall clock says `clock`. A clock that jumps back gives the time of the newest
    /// command plus a nanosecond until it has caught up.
    pub fn command(&mut self, op: Op, clock: Timestamp) -> Command {
        self.newest = clock.max(Timestamp(self.newest.0.saturating_add(1)));
        Command { at: self.newest, op }
    }
}

/// The operation that a client's request asks for. No session may ask for a longer life than `ttl_ms_max`.
#[must_use]
pub fn client_op(request: UpdateRequest, ttl_ms_max: u32) -> Op {
    let UpdateRequest { session, request, lowest_unanswered, cred, mut update } = request;
    if let Update::OpenSession(open) = &mut update {
        open.ttl_ms = open.ttl_ms.min(ttl_ms_max);
    }
    Op::Client { session, request, lowest_unanswered, cred, update }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Cred, NodeId, OpenSession, RequestId, SessionId};

    #[test]
    fn time_never_goes_back() {
        let mut prepare = Prepare::default();
        let mut at = |clock| {
            prepare
                .command(
                    Op::SetNodeState { node: NodeId(1), state: crate::types::NodeState::Up },
                    Timestamp(clock),
                )
                .at
                .0
        };
        assert_eq!([at(10), at(10), at(5), at(20)], [10, 11, 12, 20]);
    }
    #[test]
    fn a_session_gets_no_longer_a_life_than_the_configuration_allows() {
        let granted = |asked| {
            let request = UpdateRequest {
                session: SessionId(0),
                request: RequestId(0),
                lowest_unanswered: RequestId(0),
                cred: Cred::root(),
                update: Update::OpenSession(OpenSession { ttl_ms: asked, label: "me".into() }),
            };
            match client_op(request, 7_000) {
                Op::Client { update: Update::OpenSession(open), .. } => open.ttl_ms,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!([granted(5_000), granted(7_001), granted(u32::MAX)], [5_000, 7_000, 7_000]);
    }
}
