//! The pure choice of groups: which data servers form one, and which one takes a new block.
//!
//! `meta` forms groups when it commits them to the cluster map; `client` chooses among them without asking anybody.
//! Holds: the same map and the same seed give the same choice; no clock, randomness or socket in here.
//! Not here: copying blocks (`data`), and the order in which replicas are read (`client`).

mod choose;
mod form;

pub use choose::{Choice, choose};
pub use form::form_groups;

#[cfg(test)]
mod testing {
    //! Small maps for the tests of this folder: servers 101, 102, ... in given failure domains, all up.

    use crate::types::{
        Capacity, ClusterMap, DataNode, DomainLabel, NodeAddress, NodeId, NodeState, Timestamp,
    };

    pub(super) fn map_of(domains: &[&str]) -> ClusterMap {
        let mut map = ClusterMap::default();
        for (domain, id) in domains.iter().zip(101..) {
            let node = NodeId(id);
            let data = DataNode {
                node,
                name: format!("data-{id}"),
                address: NodeAddress(format!("127.0.0.1:{id}")),
                http: NodeAddress(format!("127.0.0.1:1{id}")),
                domain: DomainLabel((*domain).to_owned()),
                capacity: Capacity { total: 1 << 40, free: 1 << 40, block_count: 0 },
                state: NodeState::Up,
                since: Timestamp(0),
            };
            map.data.insert(node, data);
        }
        map
    }

    pub(super) fn set_state(map: &mut ClusterMap, node: NodeId, state: NodeState) {
        if let Some(data) = map.data.get_mut(&node) {
            data.state = state;
        }
    }
}
