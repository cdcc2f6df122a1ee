//! Changes of the metadata cluster's members, as an operator asks for them, and why one is refused.
//!
//! Carried by `MetaRequest::Members` and `MetaReply::Members`, decided by `meta/members.rs`, shown by `cli/cluster`. Holds: new variants
//! go to the end, the position is the encoding; each refusal says what to do. Not here: the list of members (`status`).

use serde::{Deserialize, Serialize};

use crate::types::{ClusterId, Level, NodeAddress, NodeId};

/// Most members, voters and learners together. Seven voters survive three failures; every voter more slows down each commit.
pub const MEMBERS_MAX: usize = 7;
/// Log entries that a learner may lack when it becomes a voter: what comes in during a moment, under load.
pub const PROMOTE_LAG_MAX: u64 = 500;

/// What an operator wants. Each may be sent again: what is so already is not done twice. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembersRequest {
    /// A server that waits with an empty disk becomes a learner.
    Add {
        /// Its id, never used before.
        node: NodeId,
        /// Where it answers.
        address: NodeAddress,
    },
    /// A learner that has caught up becomes a voter.
    Promote {
        /// Which.
        node: NodeId,
    },
    /// A voter or learner is none any more, for ever.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// A learner that has caught up becomes a voter in the place of another one, in one change.
    Replace {
        /// Who goes.
        old: NodeId,
        /// Who comes: added before.
        new: NodeId,
    },
    /// Another voter leads.
    TransferLeader {
        /// Who led when the operator looked. If somebody else does by now, it is done.
        from: NodeId,
        /// To whom; none: to the voter that has most of the log.
        to: Option<NodeId>,
    },
    /// The cluster works from now on at the newest format level that all members know. There is no way back.
    RaiseLevel,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembersOutcome {
    /// It was done.
    Done,
    /// It was so already.
    Already,
}

/// Why a change was refused; nothing was changed. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is no such member.
    #[error(
        "metadata server {node} is not a member: see `pohmelfs cluster members`; `pohmelfs cluster add {node} HOST:PORT` adds it"
    )]
    Unknown {
        /// Which.
        node: NodeId,
    },
    /// It is a member already, at another address.
    #[error(
        "metadata server {node} is a member already, at {address}: remove it first if it is gone for good, or give the new server an id of its own"
    )]
    Present {
        /// Which.
        node: NodeId,
        /// Where.
        address: NodeAddress,
    },
    /// Another member has this address.
    #[error("{address} is the address of metadata server {node}: give the address of the new server")]
    AddressTaken {
        /// The address.
        address: NodeAddress,
        /// Whose.
        node: NodeId,
    },
    /// It was a member once.
    #[error(
        "metadata server {node} was removed, and its id is never used again: give the server another node id and an empty directory, start it, and add it under the new id"
    )]
    Removed {
        /// Which.
        node: NodeId,
    },
    /// No id of a server.
    #[error(
        "{node} is not an id that a metadata server can have: take one from 1 on that no server has, data servers included"
    )]
    BadId {
        /// Which.
        node: NodeId,
    },
    /// It does not answer.
    #[error(
        "metadata server {node} does not answer at {address} ({reason}): start it, or correct the address, and send the command again"
    )]
    Unreachable {
        /// Which.
        node: NodeId,
        /// Where.
        address: NodeAddress,
        /// What happened.
        reason: String,
    },
    /// Another server answers there.
    #[error(
        "at {address} answers server {found}, not {expected}: correct the id, the address, or `node` in its configuration"
    )]
    OtherNode {
        /// Where.
        address: NodeAddress,
        /// Who was meant.
        expected: NodeId,
        /// Who answers.
        found: NodeId,
    },
    /// It belongs to another cluster.
    #[error(
        "metadata server {node} belongs to cluster {theirs}: take a server that belongs to none, with an empty directory"
    )]
    OtherCluster {
        /// Which.
        node: NodeId,
        /// To which.
        theirs: ClusterId,
    },
    /// It has a log of its own.
    #[error(
        "metadata server {node} is not new, its directory holds a log: give it an empty directory and a node id that was never used, and start it again"
    )]
    NotEmpty {
        /// Which.
        node: NodeId,
    },
    /// Members are being changed already.
    #[error(
        "another change of the members is under way ({what}): wait until it is done, and send the command again"
    )]
    Changing {
        /// Which.
        what: String,
    },
    /// Too few voters answer.
    #[error(
        "only {answering} of the {voters} voters there would be answer, a majority is {}: start the others first (silent: {})",
        voters / 2 + 1,
        list(silent)
    )]
    NoMajority {
        /// How many answer.
        answering: u32,
        /// Of how many.
        voters: u32,
        /// Who does not.
        silent: Vec<NodeId>,
    },
    /// It lacks too much of the log.
    #[error(
        "metadata server {node} has not caught up, it lacks {lag} log entries ({PROMOTE_LAG_MAX} may be missing): wait and send the command again, or let the command wait (--wait)"
    )]
    Behind {
        /// Which.
        node: NodeId,
        /// How much.
        lag: u64,
    },
    /// It came with an empty disk, or has only just come.
    #[error(
        "metadata server {node} has not caught up yet: wait and send the command again, or let the command wait (--wait)"
    )]
    Joining {
        /// Which.
        node: NodeId,
    },
    /// It is a learner and a voter is needed.
    #[error(
        "metadata server {node} is a learner: only a voter can do that; `pohmelfs cluster promote {node}` makes it one"
    )]
    NotVoter {
        /// Which.
        node: NodeId,
    },
    /// There are as many members as there may be.
    #[error(
        "there are {MEMBERS_MAX} members, and no more may be: remove one first, or use `pohmelfs cluster replace`"
    )]
    TooMany,
    /// There would be no voter left.
    #[error("metadata server {node} is the only voter: add and promote another one first")]
    LastVoter {
        /// Which.
        node: NodeId,
    },
    /// Leadership was not taken over.
    #[error(
        "metadata server {to} did not take over leadership in time: look at its log, or name another voter"
    )]
    NotTakenOver {
        /// Who was to lead.
        to: NodeId,
    },
    /// Nobody could take over.
    #[error("no other voter could lead: {reason}")]
    NoSuccessor {
        /// Why.
        reason: String,
    },
    /// Another server has this name.
    #[error(
        "server {node} is called {name} already: give the new server a name of its own in its configuration, and start it again"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose.
        node: NodeId,
    },
    /// The same server twice.
    #[error("a server cannot take its own place: give the new server an id of its own")]
    SameNode,
    /// Programs that do not know a newer level keep the cluster where it is.
    #[error(
        "the cluster stays at format level {active}, because {}: install a newer program there, start it, and send the command again",
        older.join("; ")
    )]
    OlderPrograms {
        /// The level it works at.
        active: Level,
        /// Who they are, and what each runs.
        older: Vec<String>,
    },
    /// A new server whose program does not know the level of the cluster.
    #[error(
        "metadata server {node} runs {program}, and the cluster works at format level {active}: install the program of the other servers there, and start it again"
    )]
    WrongProgram {
        /// Which.
        node: NodeId,
        /// What it runs.
        program: String,
        /// The level of the cluster.
        active: Level,
    },
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Refusal {
    /// True if waiting may help: the server catches up by itself.
    #[must_use]
    pub const fn mends_itself(&self) -> bool {
        matches!(self, Self::Behind { .. } | Self::Joining { .. } | Self::Changing { .. })
    }
}

/// What an operator should know of a number of voters.
#[must_use]
pub fn warning(voters: usize, silent: usize) -> Option<String> {
    // A server that is no member yet, or not any more, knows of none.
    let spare = voters.checked_sub(1)? / 2;
    if voters == 1 {
        return Some("one voter survives no failure: add two more".into());
    }
    if voters.is_multiple_of(2) {
        return Some(format!(
            "{voters} voters survive {spare} failures, no more than {} do: add or remove one",
            voters - 1
        ));
    }
    (silent > 0 && silent >= spare).then(|| {
        format!(
            "{silent} of {voters} voters do not answer: another failure stops writes, start or replace them"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_numbers_and_silent_voters_are_warned_of() {
        assert_eq!(warning(3, 0), None);
        assert_eq!(warning(5, 1), None);
        assert_eq!(warning(0, 0), None);
        for (voters, silent, word) in
            [(1, 0, "add two"), (4, 0, "4 voters survive 1 failures"), (3, 1, "1 of 3"), (5, 2, "2 of 5")]
        {
            let said = warning(voters, silent).unwrap();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn a_refusal_names_who_is_silent() {
        let refusal = Refusal::NoMajority { answering: 1, voters: 3, silent: vec![NodeId(2), NodeId(3)] };
        let said = refusal.to_string();
        assert!(
            said.contains("1 of the 3") && said.contains("majority is 2") && said.contains("2, 3"),
            "{said}"
        );
    }
}
