//! Forming groups: every data server that is up stands in enough whole groups, no two members in one failure domain.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{ClusterMap, DataNode, Group, GroupId, NodeId};

/// Most groups formed by one call. The next call goes on; a map grows in steps that stay small records.
const NEW_GROUPS_MAX: usize = 64;

/// The groups that `map` lacks, numbered from the first free id on; empty when it has all it needs.
///
/// Each server that takes blocks wants to stand in as many *whole* groups (all members up) as a block has replicas,
/// or in as many as can be formed. So with any one server gone, whole groups remain wherever enough servers are up,
/// and a lost server's blocks are spread over several partners, which makes its repair parallel.
#[must_use]
pub fn form_groups(map: &ClusterMap) -> Vec<Group> {
    let replica_count = usize::from(map.layout.replica_count.max(1));
    let up: Vec<&DataNode> = map.data.values().filter(|n| n.state.takes_blocks()).collect();
    if up.len() < replica_count {
        return Vec::new();
    }
    let distinct: BTreeSet<_> = up.iter().map(|n| &n.domain).collect();
    // With fewer domains than replicas the rule cannot hold; servers are then kept apart at least.
    let by_domain = distinct.len() >= replica_count;

    let mut groups: Vec<BTreeSet<NodeId>> =
        map.groups.values().map(|g| g.members.iter().copied().collect()).collect();
    let is_up: BTreeSet<NodeId> = up.iter().map(|n| n.node).collect();
    groups.retain(|members| members.len() == replica_count && members.is_subset(&is_up));

    let wanted = wanted_per_node(up.len(), replica_count);
    let mut id = map.groups.keys().next_back().map_or(GroupId(1), |last| last.next());
    let mut new = Vec::new();
    let mut hopeless = BTreeSet::new();
    while new.len() < NEW_GROUPS_MAX {
        let count = |node: NodeId| groups.iter().filter(|g| g.contains(&node)).count();
        let poorest = up
            .iter()
            .filter(|n| !hopeless.contains(&n.node) && count(n.node) < wanted)
            .min_by_key(|n| (count(n.node), n.node));
        let Some(first) = poorest else { break };
        match partners(first, &up, &groups, replica_count, by_domain) {
            Some(members) if !groups.contains(&members) => {
                groups.push(members.clone());
                new.push(Group { group: id, members: members.into_iter().collect() });
                id = id.next();
            }
            _ => {
                hopeless.insert(first.node);
            }
        }
    }
    new
}

/// As many groups as replicas, or as many as there are different ones.
fn wanted_per_node(up: usize, replica_count: usize) -> usize {
    match (up, replica_count) {
        (_, 1) => 1,
        (up, replicas) if up == replicas => 1,
        (_, replicas) => replicas,
    }
}

/// `first` and those it shares the fewest groups with, then those that stand in the fewest.
fn partners(
    first: &DataNode,
    up: &[&DataNode],
    groups: &[BTreeSet<NodeId>],
    replica_count: usize,
    by_domain: bool,
) -> Option<BTreeSet<NodeId>> {
    let mut members: BTreeMap<NodeId, &DataNode> = BTreeMap::from([(first.node, first)]);
    while members.len() < replica_count {
        let next = up
            .iter()
            .filter(|n| !members.contains_key(&n.node))
            .filter(|n| !by_domain || members.values().all(|m| m.domain != n.domain))
            .min_by_key(|n| {
                let shared = groups
                    .iter()
                    .filter(|g| g.contains(&n.node) && members.keys().any(|m| g.contains(m)))
                    .count();
                let total = groups.iter().filter(|g| g.contains(&n.node)).count();
                (shared, total, n.node)
            })?;
        members.insert(next.node, next);
    }
    Some(members.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{map_of, set_state};
    use super::*;
    use crate::types::NodeState;

    fn grow(map: &mut ClusterMap) {
        loop {
            let new = form_groups(map);
            if new.is_empty() {
                return;
            }
            map.groups.extend(new.into_iter().map(|g| (g.group, g)));
        }
    }

    #[test]
    fn three_servers_form_one_group_and_two_form_none() {
        let mut map = map_of(&["a", "b", "c"]);
        grow(&mut map);
        assert_eq!(map.groups.len(), 1);
        let mut small = map_of(&["a", "b"]);
        grow(&mut small);
        assert!(small.groups.is_empty());
    }

    #[test]
    fn no_group_has_two_members_in_one_domain_when_there_are_enough() {
        let mut map = map_of(&["a", "a", "b", "b", "c", "c", "d"]);
        grow(&mut map);
        for group in map.groups.values() {
            let domains: BTreeSet<_> = group.members.iter().map(|m| &map.data[m].domain).collect();
            assert_eq!(domains.len(), 3, "{group:?}");
        }
        for node in map.data.keys() {
            assert!(map.groups.values().any(|g| g.members.contains(node)), "{node} stands in no group");
        }
    }

    #[test]
    fn with_too_few_domains_servers_are_kept_apart() {
        let mut map = map_of(&["a", "a", "a", "b"]);
        grow(&mut map);
        assert!(map.groups.values().all(|g| g.members.iter().collect::<BTreeSet<_>>().len() == 3));
        assert!(!map.groups.is_empty());
    }

    #[test]
    fn any_one_loss_leaves_a_whole_group_where_enough_servers_are_up() {
        for count in 4..12 {
            let domains: Vec<String> = (0..count).map(|i| format!("host-{i}")).collect();
            let mut map = map_of(&domains.iter().map(String::as_str).collect::<Vec<_>>());
            grow(&mut map);
            for lost in map.data.keys().copied().collect::<Vec<_>>() {
                let mut after = map.clone();
                set_state(&mut after, lost, NodeState::Down);
                grow(&mut after);
                let whole = after.groups.values().any(|g| !g.members.contains(&lost));
                assert!(whole, "{count} servers, {lost} lost");
            }
        }
    }

    #[test]
    fn forming_ends_and_is_stable() {
        let domains: Vec<String> = (0..50).map(|i| format!("host-{}", i % 7)).collect();
        let mut map = map_of(&domains.iter().map(String::as_str).collect::<Vec<_>>());
        grow(&mut map);
        assert!(form_groups(&map).is_empty());
        assert!(map.groups.len() <= 150, "{}", map.groups.len());
    }
}
