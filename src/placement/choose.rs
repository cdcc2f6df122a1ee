//! Choosing the group that takes a new block.

use crate::types::{ClusterMap, Group, NodeId};

/// A chosen group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'m> {
    /// The group.
    pub group: &'m Group,
    /// True if every member is up and none is avoided: the block will have all its replicas at once.
    pub whole: bool,
}

/// Picks the group for a block of `len` bytes; none if no group has as many usable members as the write rule asks.
///
/// Whole groups come before any other, so that a writer does not wait for repair. Among equals the choice is the roomier
/// of two drawn by `seed` ("the power of two choices": near-even filling without a queue at the emptiest).
/// `avoid` are servers the caller has just seen fail, before the map says so.
#[must_use]
pub fn choose<'m>(map: &'m ClusterMap, len: u64, seed: u64, avoid: &[NodeId]) -> Option<Choice<'m>> {
    let usable = |id: &NodeId| {
        !avoid.contains(id)
            && map.data.get(id).is_some_and(|n| n.state.takes_blocks() && n.capacity.free >= len)
    };
    let whole: Vec<&Group> = map.groups.values().filter(|g| g.members.iter().all(usable)).collect();
    if let Some(group) = roomier(map, &whole, seed) {
        return Some(Choice { group, whole: true });
    }
    let durable_min = usize::from(map.layout.durable_min.max(1));
    let mut partial: Vec<(usize, &Group)> = map
        .groups
        .values()
        .map(|g| (g.members.iter().filter(|m| usable(m)).count(), g))
        .filter(|(count, _)| *count >= durable_min)
        .collect();
    let most = partial.iter().map(|(count, _)| *count).max()?;
    partial.retain(|(count, _)| *count == most);
    let partial: Vec<&Group> = partial.into_iter().map(|(_, g)| g).collect();
    roomier(map, &partial, seed).map(|group| Choice { group, whole: false })
}

/// The one with more room of two drawn by `seed`.
fn roomier<'m>(map: &ClusterMap, groups: &[&'m Group], seed: u64) -> Option<&'m Group> {
    let count = u64::try_from(groups.len()).ok().filter(|c| *c > 0)?;
    let draw = |n: u64| usize::try_from(n % count).ok().and_then(|i| groups.get(i).copied());
    let (a, b) = (draw(seed)?, draw((seed >> 32) ^ (seed << 7))?);
    let free = |g: &Group| map.members(g.group).map(|n| n.capacity.free).min().unwrap_or(0);
    Some(if free(b) > free(a) { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::super::form_groups;
    use super::super::testing::{map_of, set_state};
    use super::*;
    use crate::types::NodeState;

    fn ready(domains: &[&str]) -> ClusterMap {
        let mut map = map_of(domains);
        let groups = form_groups(&map);
        map.groups.extend(groups.into_iter().map(|g| (g.group, g)));
        map
    }

    #[test]
    fn a_whole_group_comes_first() {
        let mut map = ready(&["a", "b", "c", "d"]);
        set_state(&mut map, NodeId(101), NodeState::Suspect);
        for seed in 0..100 {
            let choice = choose(&map, 1, u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15), &[]).unwrap();
            assert!(choice.whole);
            assert!(!choice.group.members.contains(&NodeId(101)));
        }
    }

    #[test]
    fn with_one_of_three_gone_the_write_rule_still_holds_and_with_two_it_does_not() {
        let mut map = ready(&["a", "b", "c"]);
        assert!(choose(&map, 1, 7, &[]).unwrap().whole);
        assert!(!choose(&map, 1, 7, &[NodeId(102)]).unwrap().whole);
        set_state(&mut map, NodeId(101), NodeState::Down);
        assert!(choose(&map, 1, 7, &[NodeId(102)]).is_none());
    }

    #[test]
    fn full_servers_get_nothing() {
        let mut map = ready(&["a", "b", "c"]);
        for node in map.data.values_mut() {
            node.capacity.free = 10;
        }
        assert!(choose(&map, 11, 3, &[]).is_none());
        assert!(choose(&map, 10, 3, &[]).is_some());
    }
}
