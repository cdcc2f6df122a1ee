//! May the members be changed so? Decisions over a view of them; nothing is asked and nothing done here.
//!
//! `changes` gathers the view on the leader and acts upon the answer. Holds: what is so already is no error, so a command may be
//! sent again; the voters that would be left can go on now, without the one that is silent.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{ClusterId, Level, NodeAddress, NodeId};
use crate::wire::Program;
use crate::wire::members::{MEMBERS_MAX, PROMOTE_LAG_MAX, Refusal};

/// The members as the leader sees them now.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Who leads: who looks.
    pub(super) leader: NodeId,
    /// Voters and learners.
    pub(super) members: BTreeMap<NodeId, Seen>,
    /// Who was a member once.
    pub(super) removed: BTreeSet<NodeId>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Where it answers.
    pub(super) address: NodeAddress,
    /// It is counted.
    pub(super) is_voter: bool,
    /// It answers now.
    pub(super) answers: bool,
    /// It remembers all it ever accepted: it has caught up since its disk was empty.
    pub(super) remembers: bool,
    /// Log entries of the leader that it is not known to have.
    pub(super) lag: u64,
}

/// What a server says of itself when it is called at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    /// Its id.
    pub(super) node: NodeId,
    /// The cluster it belongs to.
    pub(super) cluster: Option<ClusterId>,
    /// It has no log.
    pub(super) is_empty: bool,
    /// What it runs.
    pub(super) program: Program,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Change it.
    Go,
    /// It is so already.
    Already,
}

type Decision = Result<Step, Refusal>;

impl View {
    fn voters(&self) -> impl Iterator<Item = (NodeId, &Seen)> {
        self.members.iter().filter(|(_, seen)| seen.is_voter).map(|(node, seen)| (*node, seen))
    }

    fn learner_or_voter(&self, node: NodeId) -> Result<&Seen, Refusal> {
        match self.members.get(&node) {
            Some(seen) => Ok(seen),
            None if self.removed.contains(&node) => Err(Refusal::Removed { node }),
            None => Err(Refusal::Unknown { node }),
        }
    }

    /// The voters after a change must have a majority that answers; and so must those before it, or nothing is committed.
    fn can_go_on(&self, without: Option<NodeId>, with: Option<NodeId>) -> Result<(), Refusal> {
        let after = self
            .members
            .iter()
            .filter(|(node, seen)| (seen.is_voter && Some(**node) != without) || Some(**node) == with);
        majority(self.voters())?;
        majority(after.map(|(node, seen)| (*node, seen)))
    }

    /// It answers, remembers, and lacks little.
    fn caught_up(node: NodeId, seen: &Seen) -> Result<(), Refusal> {
        if !seen.answers {
            let reason = "it is silent".to_owned();
            return Err(Refusal::Unreachable { node, address: seen.address.clone(), reason });
        }
        if seen.lag > PROMOTE_LAG_MAX {
            return Err(Refusal::Behind { node, lag: seen.lag });
        }
        if seen.remembers { Ok(()) } else { Err(Refusal::Joining { node }) }
    }
}

fn majority<'a>(voters: impl Iterator<Item = (NodeId, &'a Seen)>) -> Result<(), Refusal> {
    let (answering, silent): (Vec<_>, Vec<_>) = voters.partition(|(_, seen)| seen.answers);
    if answering.len() > silent.len() {
        return Ok(());
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Err(Refusal::NoMajority {
        answering: count(answering.len()),
        voters: count(answering.len() + silent.len()),
        silent: silent.into_iter().map(|(node, _)| node).collect(),
    })
}

/// May `node`, of which the cluster knows nothing yet, be called at `address` and become a learner?
pub(super) fn may_add(view: &View, node: NodeId, address: &NodeAddress) -> Decision {
    if node == NodeId(0) {
        return Err(Refusal::BadId { node });
    }
    if let Some(seen) = view.members.get(&node) {
        let same = seen.address == *address;
        return if same {
            Ok(Step::Already)
        } else {
            Err(Refusal::Present { node, address: seen.address.clone() })
        };
    }
    if view.removed.contains(&node) {
        return Err(Refusal::Removed { node });
    }
    if let Some((other, _)) = view.members.iter().find(|(_, seen)| seen.address == *address) {
        return Err(Refusal::AddressTaken { address: address.clone(), node: *other });
    }
    if view.members.len() >= MEMBERS_MAX {
        return Err(Refusal::TooMany);
    }
    view.can_go_on(None, None).map(|()| Step::Go)
}

/// Is the one that answers at `address` fit to become learner `node` of `cluster`, which works at level `active`?
pub(super) fn is_fit(
    node: NodeId,
    address: &NodeAddress,
    cluster: Option<ClusterId>,
    active: Level,
    stranger: &Stranger,
) -> Result<(), Refusal> {
    if stranger.node != node {
        return Err(Refusal::OtherNode { address: address.clone(), expected: node, found: stranger.node });
    }
    match stranger.cluster {
        Some(theirs) if Some(theirs) != cluster => Err(Refusal::OtherCluster { node, theirs }),
        _ if !stranger.is_empty => Err(Refusal::NotEmpty { node }),
        _ if !stranger.program.levels.has(active) => {
            Err(Refusal::WrongProgram { node, program: stranger.program.to_string(), active })
        }
        _ => Ok(()),
    }
}

/// May a learner become a voter?
pub(super) fn may_promote(view: &View, node: NodeId) -> Decision {
    let seen = view.learner_or_voter(node)?;
    if seen.is_voter {
        return Ok(Step::Already);
    }
    View::caught_up(node, seen)?;
    view.can_go_on(None, Some(node)).map(|()| Step::Go)
}

/// May a member go for ever?
pub(super) fn may_remove(view: &View, node: NodeId) -> Decision {
    let seen = match view.learner_or_voter(node) {
        Err(Refusal::Removed { .. }) => return Ok(Step::Already),
        found => found?,
    };
    if seen.is_voter && view.voters().count() == 1 {
        return Err(Refusal::LastVoter { node });
    }
    view.can_go_on(Some(node), None).map(|()| Step::Go)
}

/// May `new`, a learner, take the place of `old`?
pub(super) fn may_replace(view: &View, old: NodeId, new: NodeId) -> Decision {
    if old == new {
        return Err(Refusal::SameNode);
    }
    let coming = view.learner_or_voter(new)?;
    let going = match view.learner_or_voter(old) {
        Err(Refusal::Removed { .. }) if coming.is_voter => return Ok(Step::Already),
        found => found?,
    };
    if !going.is_voter {
        return Err(Refusal::NotVoter { node: old });
    }
    if !coming.is_voter {
        View::caught_up(new, coming)?;
    }
    view.can_go_on(Some(old), Some(new)).map(|()| Step::Go)
}

/// To whom may leadership go that `from` had when the operator looked? None: it is elsewhere already.
pub(super) fn may_transfer(view: &View, from: NodeId, to: Option<NodeId>) -> Result<Option<NodeId>, Refusal> {
    if to == Some(view.leader) || (to.is_none() && from != view.leader) {
        return Ok(None);
    }
    if let Some(node) = to {
        let seen = view.learner_or_voter(node)?;
        if !seen.is_voter {
            return Err(Refusal::NotVoter { node });
        }
        View::caught_up(node, seen)?;
        return Ok(Some(node));
    }
    successor(view).map(Some)
}

/// The voter that answers and has most of the log.
pub(super) fn successor(view: &View) -> Result<NodeId, Refusal> {
    let fit =
        view.voters().filter(|(node, seen)| *node != view.leader && View::caught_up(*node, seen).is_ok());
    let best = fit.min_by_key(|(_, seen)| seen.lag).map(|(node, _)| node);
    best.ok_or_else(|| Refusal::NoSuccessor {
        reason: "none that answers has the log: start the others".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(node: u64) -> NodeAddress {
        NodeAddress(format!("meta-{node}:1"))
    }

    /// Voters and learners that answer and have everything; 1 leads.
    fn view(voters: &[u64], learners: &[u64]) -> View {
        let seen = |node: u64, is_voter| {
            let seen = Seen { address: address(node), is_voter, answers: true, remembers: true, lag: 0 };
            (NodeId(node), seen)
        };
        let members = voters.iter().map(|n| seen(*n, true)).chain(learners.iter().map(|n| seen(*n, false)));
        View { leader: NodeId(1), members: members.collect(), removed: [NodeId(9)].into() }
    }

    fn but(mut view: View, node: u64, change: impl FnOnce(&mut Seen)) -> View {
        change(view.members.get_mut(&NodeId(node)).unwrap());
        view
    }

    fn silent(view: View, node: u64) -> View {
        but(view, node, |seen| seen.answers = false)
    }

    #[test]
    fn a_new_id_at_a_new_address_may_be_added() {
        let add = |view: &View, node, at| may_add(view, NodeId(node), &address(at));
        let three = view(&[1, 2, 3], &[]);
        assert_eq!(add(&three, 4, 4), Ok(Step::Go));
        assert_eq!(add(&three, 3, 3), Ok(Step::Already));
        assert_eq!(add(&three, 3, 4), Err(Refusal::Present { node: NodeId(3), address: address(3) }));
        assert_eq!(add(&three, 4, 3), Err(Refusal::AddressTaken { address: address(3), node: NodeId(3) }));
        assert_eq!(add(&three, 9, 4), Err(Refusal::Removed { node: NodeId(9) }));
        assert_eq!(add(&three, 0, 4), Err(Refusal::BadId { node: NodeId(0) }));
        assert_eq!(add(&view(&[1, 2, 3, 4, 5], &[6, 7]), 8, 8), Err(Refusal::TooMany));
        assert_eq!(add(&silent(three.clone(), 3), 4, 4), Ok(Step::Go), "a dead one is why a new one comes");
        let lost = silent(silent(three, 3), 2);
        assert!(matches!(add(&lost, 4, 4), Err(Refusal::NoMajority { answering: 1, voters: 3, .. })));
    }

    #[test]
    fn only_an_empty_server_of_no_other_cluster_is_fit() {
        let ours = Some(ClusterId(5));
        let fit = |stranger: Stranger| is_fit(NodeId(4), &address(4), ours, Level(2), &stranger);
        let new = Stranger { node: NodeId(4), cluster: None, is_empty: true, program: Program::this() };
        assert_eq!(fit(new.clone()), Ok(()));
        assert!(matches!(fit(Stranger { node: NodeId(7), ..new.clone() }), Err(Refusal::OtherNode { .. })));
        assert!(matches!(
            fit(Stranger { cluster: Some(ClusterId(6)), ..new.clone() }),
            Err(Refusal::OtherCluster { .. })
        ));
        assert!(matches!(
            fit(Stranger { is_empty: false, cluster: ours, ..new.clone() }),
            Err(Refusal::NotEmpty { .. })
        ));
        let older = fit(Stranger { program: Program::default(), ..new }).unwrap_err();
        assert!(matches!(older, Refusal::WrongProgram { active: Level(2), .. }), "{older}");
    }

    #[test]
    fn a_learner_is_promoted_when_it_has_caught_up() {
        let four = view(&[1, 2, 3], &[4]);
        let promote = |view: &View, node| may_promote(view, NodeId(node));
        assert_eq!(promote(&four, 4), Ok(Step::Go));
        assert_eq!(promote(&four, 3), Ok(Step::Already));
        assert_eq!(promote(&four, 5), Err(Refusal::Unknown { node: NodeId(5) }));
        assert_eq!(promote(&four, 9), Err(Refusal::Removed { node: NodeId(9) }));
        let behind = but(four.clone(), 4, |seen| seen.lag = 501);
        assert_eq!(promote(&behind, 4), Err(Refusal::Behind { node: NodeId(4), lag: 501 }));
        let joining = but(four.clone(), 4, |seen| seen.remembers = false);
        assert_eq!(promote(&joining, 4), Err(Refusal::Joining { node: NodeId(4) }));
        assert!(matches!(promote(&silent(four.clone(), 4), 4), Err(Refusal::Unreachable { .. })));
        assert_eq!(promote(&silent(four, 3), 4), Ok(Step::Go), "3 of 4 answer");
    }

    #[test]
    fn who_is_left_must_be_able_to_go_on() {
        let remove = |view: &View, node| may_remove(view, NodeId(node));
        let three = view(&[1, 2, 3], &[]);
        assert_eq!(remove(&three, 3), Ok(Step::Go));
        assert_eq!(remove(&silent(three.clone(), 3), 3), Ok(Step::Go), "the dead one goes");
        let told = remove(&silent(three.clone(), 3), 2);
        assert_eq!(told, Err(Refusal::NoMajority { answering: 1, voters: 2, silent: vec![NodeId(3)] }));
        assert_eq!(remove(&three, 9), Ok(Step::Already));
        assert_eq!(remove(&three, 5), Err(Refusal::Unknown { node: NodeId(5) }));
        assert_eq!(remove(&view(&[1], &[2]), 1), Err(Refusal::LastVoter { node: NodeId(1) }));
        assert_eq!(remove(&view(&[1], &[2]), 2), Ok(Step::Go));
    }

    #[test]
    fn a_learner_takes_the_place_of_a_dead_voter() {
        let replace = |view: &View, old, new| may_replace(view, NodeId(old), NodeId(new));
        let dead = silent(view(&[1, 2, 3], &[4]), 3);
        assert_eq!(replace(&dead, 3, 4), Ok(Step::Go));
        assert_eq!(replace(&dead, 3, 3), Err(Refusal::SameNode));
        assert_eq!(replace(&dead, 4, 3), Err(Refusal::NotVoter { node: NodeId(4) }));
        assert_eq!(replace(&dead, 3, 5), Err(Refusal::Unknown { node: NodeId(5) }));
        let behind = but(dead.clone(), 4, |seen| seen.lag = 9_000);
        assert_eq!(replace(&behind, 3, 4), Err(Refusal::Behind { node: NodeId(4), lag: 9_000 }));
        assert!(matches!(replace(&silent(dead, 2), 3, 4), Err(Refusal::NoMajority { .. })));
        assert_eq!(replace(&view(&[1, 2, 4], &[]), 9, 4), Ok(Step::Already));
    }

    #[test]
    fn leadership_goes_to_a_voter_that_has_the_log() {
        let to = |view: &View, from, to: Option<u64>| may_transfer(view, NodeId(from), to.map(NodeId));
        let four = view(&[1, 2, 3], &[4]);
        assert_eq!(to(&four, 1, Some(2)), Ok(Some(NodeId(2))));
        assert_eq!(to(&four, 1, Some(1)), Ok(None));
        assert_eq!(to(&four, 3, None), Ok(None), "it has moved since the operator looked");
        assert_eq!(to(&four, 1, Some(4)), Err(Refusal::NotVoter { node: NodeId(4) }));
        let behind = but(four.clone(), 2, |seen| seen.lag = 9);
        assert_eq!(to(&behind, 1, None), Ok(Some(NodeId(3))));
        assert!(matches!(to(&silent(silent(four, 2), 3), 1, None), Err(Refusal::NoSuccessor { .. })));
    }
}
