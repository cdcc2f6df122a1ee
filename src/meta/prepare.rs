//! The one crossing from requests to commands: what is wanted becomes what is decided.
//!
//! Called by the proposer of the leader. Holds: whatever depends on a clock is settled here, once; each command's time
//! is later than that of the command before it. (Inode, session and group ids come from counters in the replicated state;
//! block ids from their writers.)

use crate::namespace::{Command, Op};
use crate::types::Timestamp;
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

/// The operation that a client's request asks for.
#[must_use]
pub fn client_op(request: UpdateRequest) -> Op {
    let UpdateRequest { session, request, lowest_unanswered, cred, update } = request;
    Op::Client { session, request, lowest_unanswered, cred, update }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

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
}
