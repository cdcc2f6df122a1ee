//! Which members of a group have deleted their replicas of a block in the reclaim queue.
//!
//! A block leaves the queue when all members have. The table is volatile: under a new leader the members find the block in
//! the queue again, have nothing to delete, and say so.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{BlockId, ClusterMap, NodeId, NodeState, Unreferenced};

/// Blocks remembered at most; what does not fit is met again on a later page.
const BLOCKS_MAX: usize = 64 << 10;

/// The table.
#[derive(Default)]
pub(super) struct ReclaimTable {
    deleted: BTreeMap<BlockId, BTreeSet<NodeId>>,
    cursor: Option<BlockId>,
}

impl ReclaimTable {
    /// Where the next page of the queue begins.
    pub(super) fn cursor(&self) -> Option<BlockId> {
        self.cursor
    }

    /// A data server has no replica of `blocks` any more.
    pub(super) fn deleted(&mut self, node: NodeId, blocks: &[BlockId]) {
        for block in blocks {
            if self.deleted.len() < BLOCKS_MAX || self.deleted.contains_key(block) {
                self.deleted.entry(*block).or_default().insert(node);
            }
        }
    }

    /// Takes note of a page of the queue; gives the blocks that no member of their group has any more.
    pub(super) fn observe(
        &mut self,
        page: &[Unreferenced],
        page_max: usize,
        map: &ClusterMap,
    ) -> Vec<BlockId> {
        self.cursor = if page.len() < page_max { None } else { page.last().map(|u| u.block) };
        let mut done = Vec::new();
        for entry in page {
            let Some(deleted) = self.deleted.get(&entry.block) else { continue };
            let mut keepers = map.members(entry.group).filter(|n| n.state != NodeState::Removed);
            if keepers.all(|n| deleted.contains(&n.node)) {
                self.deleted.remove(&entry.block);
                done.push(entry.block);
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Capacity, DataNode, DomainLabel, Group, GroupId, NodeAddress, SessionId, Timestamp};

    fn map() -> ClusterMap {
        let mut map = ClusterMap::default();
        for id in [101, 102] {
            let data = DataNode {
                node: NodeId(id),
                name: format!("data-{id}"),
                address: NodeAddress::default(),
                http: NodeAddress::default(),
                domain: DomainLabel::default(),
                capacity: Capacity::default(),
                state: NodeState::Up,
                since: Timestamp(0),
            };
            map.data.insert(NodeId(id), data);
        }
        let group = Group { group: GroupId(1), members: vec![NodeId(101), NodeId(102)] };
        map.groups.insert(GroupId(1), group);
        map
    }

    #[test]
    fn a_block_leaves_the_queue_when_every_member_has_deleted_it() {
        let mut table = ReclaimTable::default();
        let block = BlockId { session: SessionId(4), index: 7 };
        let page = [Unreferenced { block, group: GroupId(1) }];
        assert!(table.observe(&page, 8, &map()).is_empty());
        table.deleted(NodeId(101), &[block]);
        assert!(table.observe(&page, 8, &map()).is_empty());
        table.deleted(NodeId(102), &[block]);
        assert_eq!(table.observe(&page, 8, &map()), [block]);
    }
}
