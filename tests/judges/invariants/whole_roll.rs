//! Everybody knows what it is: voters and learners hold one state up to one index, whoever was removed or never added says so.

use pohmelfs::types::NodeId;
use pohmelfs::wire::status::MetaStatus;

/// What is not so, of metadata servers that run, when `voters` should be those that are counted.
pub fn broken(voters: &[NodeId], statuses: &[(NodeId, &MetaStatus)]) -> Vec<String> {
    let leading = statuses.iter().filter(|(_, status)| status.raft_state == "leader");
    let Some((_, leader)) = leading.max_by_key(|(_, status)| status.term) else {
        return vec![format!("nobody leads: {:?}", shown(statuses))];
    };
    let counted: Vec<NodeId> = leader.members.iter().filter(|m| m.voter).map(|m| m.node).collect();
    let mut broken = Vec::new();
    if counted != voters {
        broken.push(format!("the voters are {counted:?}, and should be {voters:?}"));
    }
    for voter in voters.iter().filter(|voter| !statuses.iter().any(|(node, _)| node == *voter)) {
        broken.push(format!("voter {voter} is down"));
    }
    let at = |status: &MetaStatus| (status.applied, status.state_hash.clone());
    for (node, status) in statuses {
        let member = leader.members.iter().find(|member| member.node == *node);
        let fits: &[&str] = match member {
            Some(member) if member.voter => &["leader", "follower"],
            Some(_) => &["learner"],
            None if leader.removed.contains(node) => &["removed"],
            None => &["stranger"],
        };
        if !fits.contains(&status.raft_state.as_str()) {
            broken.push(format!(
                "{node} says that it is {}, and is {}",
                status.raft_state,
                fits.join(" or ")
            ));
        }
        if member.is_some() && at(status) != at(leader) {
            broken.push(format!("the metadata servers do not come to the same state: {:?}", shown(statuses)));
        }
    }
    broken
}

fn shown<'a>(statuses: &'a [(NodeId, &MetaStatus)]) -> Vec<(NodeId, &'a str, u64, u64)> {
    statuses.iter().map(|(node, s)| (*node, s.raft_state.as_str(), s.term, s.applied)).collect()
}

#[cfg(test)]
mod tests {
    use pohmelfs::wire::status::MemberStatus;

    use super::*;

    fn status(state: &str, applied: u64) -> MetaStatus {
        let member = |(node, voter)| MemberStatus { node: NodeId(node), voter, ..MemberStatus::default() };
        MetaStatus {
            raft_state: state.into(),
            applied,
            members: [(1, true), (2, true), (4, false)].map(member).into(),
            removed: vec![NodeId(3)],
            ..MetaStatus::default()
        }
    }

    #[test]
    fn whoever_is_not_what_it_should_be_is_named() {
        let good =
            [(1, "leader", 9), (2, "follower", 9), (3, "removed", 7), (4, "learner", 9), (5, "stranger", 0)];
        let judged = |servers: &[(u64, &str, u64)]| {
            let all: Vec<_> =
                servers.iter().map(|(node, state, at)| (NodeId(*node), status(state, *at))).collect();
            let all: Vec<_> = all.iter().map(|(node, status)| (*node, status)).collect();
            broken(&[1, 2].map(NodeId), &all)
        };
        assert_eq!(judged(&good), Vec::<String>::new());
        for (at, bad, word) in [
            (0, (1, "follower", 9), "nobody leads"),
            (1, (2, "follower", 8), "same state"),
            (1, (6, "stranger", 0), "2 is down"),
            (2, (3, "follower", 7), "is removed"),
            (3, (4, "follower", 9), "is learner"),
            (4, (5, "blank", 0), "is stranger"),
        ] {
            let mut servers = good;
            servers[at] = bad;
            let told = judged(&servers);
            assert!(told.iter().any(|line| line.contains(word)), "{word}: {told:?}");
        }
    }
}
