//! When each data server was last heard of, and its newest figures. Heartbeats are no commands; a change of state is,
//! and figures are once they have moved enough to matter to placement.

use std::collections::BTreeMap;

use super::NodeTimes;
use crate::namespace::Op;
use crate::runtime::Instant;
use crate::types::{Capacity, ClusterMap, DataNode, NodeId, NodeLoad, NodeReport, NodeState};

/// The table.
pub(super) struct NodeTable {
    began: Instant,
    newest: BTreeMap<NodeId, (Instant, NodeReport)>,
}

impl NodeTable {
    pub(super) fn begin(now: Instant) -> Self {
        Self { began: now, newest: BTreeMap::new() }
    }

    pub(super) fn seen(&mut self, report: NodeReport, now: Instant) {
        self.newest.insert(report.node, (now, report));
    }

    pub(super) fn loads(&self) -> Vec<(NodeId, NodeLoad)> {
        self.newest.iter().map(|(node, (_, report))| (*node, report.load)).collect()
    }

    /// The states and figures to commit.
    pub(super) fn decide(&mut self, map: &ClusterMap, times: NodeTimes, now: Instant) -> Vec<Op> {
        self.newest.retain(|node, _| map.data.contains_key(node));
        let mut ops = Vec::new();
        let mut reports = Vec::new();
        for node in map.data.values() {
            let state = self.state_of(node, times, now);
            if state != node.state {
                tracing::info!(node = %node.name, id = %node.node, from = ?node.state, to = ?state, "data server changes state");
                ops.push(Op::SetNodeState { node: node.node, state });
            }
            if let Some((_, report)) = self.newest.get(&node.node)
                && moved(node.capacity, report.capacity)
            {
                reports.push(*report);
            }
        }
        if !reports.is_empty() {
            ops.push(Op::Report(reports));
        }
        ops
    }

    fn state_of(&self, node: &DataNode, times: NodeTimes, now: Instant) -> NodeState {
        if matches!(node.state, NodeState::Draining | NodeState::Removed) {
            return node.state;
        }
        let seen = self.newest.get(&node.node).map(|(seen, _)| *seen);
        let silent = now.saturating_duration_since(seen.unwrap_or(self.began).max(self.began));
        match (seen, silent) {
            (_, silent) if silent > times.down_after => NodeState::Down,
            // Grace of a new leader ends nobody's trouble: only a heartbeat makes a server better than it was.
            (_, silent) if silent > times.suspect_after && node.state == NodeState::Up => NodeState::Suspect,
            (Some(_), silent) if silent <= times.suspect_after => NodeState::Up,
            _ => node.state,
        }
    }
}

/// Figures are committed when free space moved by 1 % of the total or the count of blocks by a tenth: placement weighs
/// servers against each other and needs no finer scale.
fn moved(committed: Capacity, reported: Capacity) -> bool {
    let step = (reported.total / 100).max(1);
    committed.total != reported.total
        || committed.free.abs_diff(reported.free) >= step
        || (reported.free < step) != (committed.free < step)
        || committed.block_count.abs_diff(reported.block_count) > committed.block_count / 10 + 100
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::{DomainLabel, NodeAddress, Timestamp};

    fn map() -> ClusterMap {
        let node = NodeId(101);
        let data = DataNode {
            node,
            name: "data-1".into(),
            address: NodeAddress::default(),
            http: NodeAddress::default(),
            domain: DomainLabel::default(),
            capacity: Capacity { total: 1000, free: 500, block_count: 0 },
            state: NodeState::Up,
            since: Timestamp(0),
        };
        ClusterMap { data: BTreeMap::from([(node, data)]), ..ClusterMap::default() }
    }

    fn report(free: u64) -> NodeReport {
        let capacity = Capacity { total: 1000, free, block_count: 0 };
        NodeReport { node: NodeId(101), capacity, load: NodeLoad::default() }
    }

    fn states(ops: &[Op]) -> Vec<NodeState> {
        let state = |op: &Op| if let Op::SetNodeState { state, .. } = op { Some(*state) } else { None };
        ops.iter().filter_map(state).collect()
    }

    #[test]
    fn silence_makes_suspect_then_down_and_a_heartbeat_makes_up() {
        let start = crate::runtime::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut table = NodeTable::begin(start);
        let mut map = map();
        let times = NodeTimes::default();
        assert!(states(&table.decide(&map, times, at(2400))).is_empty());
        assert_eq!(states(&table.decide(&map, times, at(2600))), [NodeState::Suspect]);
        map.data.get_mut(&NodeId(101)).unwrap().state = NodeState::Suspect;
        assert!(states(&table.decide(&map, times, at(9000))).is_empty());
        assert_eq!(states(&table.decide(&map, times, at(10_001))), [NodeState::Down]);
        map.data.get_mut(&NodeId(101)).unwrap().state = NodeState::Down;
        table.seen(report(500), at(11_000));
        assert_eq!(states(&table.decide(&map, times, at(11_100))), [NodeState::Up]);
    }

    #[test]
    fn a_new_leader_does_not_call_a_dead_server_up() {
        let start = crate::runtime::now();
        let mut map = map();
        map.data.get_mut(&NodeId(101)).unwrap().state = NodeState::Down;
        assert!(states(&NodeTable::begin(start).decide(&map, NodeTimes::default(), start)).is_empty());
    }

    #[test]
    fn only_figures_that_moved_are_committed() {
        let start = crate::runtime::now();
        let mut table = NodeTable::begin(start);
        let map = map();
        table.seen(report(495), start);
        assert!(table.decide(&map, NodeTimes::default(), start).is_empty());
        table.seen(report(480), start);
        assert_eq!(table.decide(&map, NodeTimes::default(), start).len(), 1);
    }
}
