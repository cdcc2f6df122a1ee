//! The cluster map: servers and groups. The epoch grows by one with every change that a client could act upon; space is
//! in the map too, but moves all the time, and clients do not choose by it.

use std::ops::ControlFlow;

use super::super::records::{Healthy, Record};
use super::super::txn::{Step, read, scan};
use super::super::{Txn, View, ViewError, keys};
use crate::types::{
    Capacity, DataNode, FsError, Group, GroupId, MetaNode, NodeId, NodeReport, NodeSpec, NodeState,
    Timestamp, UpdateReply,
};

/// Members of a group at most: more replicas than anyone has failure domains.
const MEMBERS_MAX: usize = 16;

fn all<T: Record>(view: &dyn View, range: &keys::Range) -> Result<Vec<T>, ViewError> {
    let mut found = Vec::new();
    scan(view, range, |_, value| {
        found.push(T::decode(value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// All data servers, in order of their ids.
pub(crate) fn data_nodes(view: &dyn View) -> Result<Vec<DataNode>, ViewError> {
    all(view, &keys::all_data_nodes())
}

/// All metadata servers, in order of their ids.
pub(crate) fn meta_nodes(view: &dyn View) -> Result<Vec<MetaNode>, ViewError> {
    all(view, &keys::all_meta_nodes())
}

/// All groups, in order of their ids.
pub(crate) fn groups(view: &dyn View) -> Result<Vec<Group>, ViewError> {
    all(view, &keys::all_groups())
}

/// Groups whose members are all Up; if there is none, all groups: a lookup names servers even then.
pub(crate) fn healthy_groups(view: &dyn View) -> Result<Vec<GroupId>, ViewError> {
    let takers: Vec<NodeId> =
        data_nodes(view)?.iter().filter(|n| n.state.takes_blocks()).map(|n| n.node).collect();
    let groups = groups(view)?;
    let whole = |g: &&Group| g.members.iter().all(|m| takers.binary_search(m).is_ok());
    let healthy: Vec<GroupId> = groups.iter().filter(whole).map(|g| g.group).collect();
    Ok(if healthy.is_empty() { groups.iter().map(|g| g.group).collect() } else { healthy })
}

/// The map changed: a new epoch, and the groups that lookups propose.
fn map_changed(txn: &mut Txn<'_>) -> Result<(), ViewError> {
    let superblock = txn.founded()?;
    superblock.epoch = superblock.epoch.next();
    let healthy = healthy_groups(&txn.records)?;
    txn.records.put_bytes(keys::HEALTHY, Healthy::encode(&healthy))
}

/// EEXIST if another server has this name.
fn require_name(txn: &Txn<'_>, node: NodeId, name: &str) -> Step<()> {
    let data = data_nodes(&txn.records)?;
    let taken = data.iter().any(|n| n.name == name && n.node != node && n.state != NodeState::Removed)
        || meta_nodes(&txn.records)?.iter().any(|n| n.name == name && n.node != node);
    if taken { Err(FsError::NodeConflict.into()) } else { Ok(()) }
}

pub(crate) fn put_meta(txn: &mut Txn<'_>, meta: &MetaNode) -> Step<UpdateReply> {
    if txn.records.get(&keys::data_node(meta.node))?.is_some() {
        return Err(FsError::NodeConflict.into());
    }
    require_name(txn, meta.node, &meta.name)?;
    let key = keys::meta_node(meta.node);
    if read::<MetaNode>(&txn.records, &key)?.as_ref() != Some(meta) {
        txn.records.put(&key, meta)?;
        map_changed(txn)?;
    }
    Ok(UpdateReply::Done)
}

/// Its id may not come back, which consensus sees to; its name may.
pub(crate) fn remove_meta(txn: &mut Txn<'_>, node: NodeId) -> Step<UpdateReply> {
    let key = keys::meta_node(node);
    if txn.records.get(&key)?.is_some() {
        txn.records.delete(&key)?;
        map_changed(txn)?;
    }
    Ok(UpdateReply::Done)
}

/// A data server is new, or back. One that is being drained stays so: a restart is not the operator's change of mind.
pub(crate) fn register(txn: &mut Txn<'_>, at: Timestamp, spec: &NodeSpec) -> Step<UpdateReply> {
    let key = keys::data_node(spec.node);
    let old = read::<DataNode>(&txn.records, &key)?;
    let other = old.as_ref().is_some_and(|n| n.name != spec.name || n.state == NodeState::Removed);
    if other || txn.records.get(&keys::meta_node(spec.node))?.is_some() {
        return Err(FsError::NodeConflict.into());
    }
    require_name(txn, spec.node, &spec.name)?;

    let state = match &old {
        Some(n) if n.state == NodeState::Draining => NodeState::Draining,
        _ => NodeState::Up,
    };
    let new = DataNode {
        node: spec.node,
        name: spec.name.clone(),
        address: spec.address.clone(),
        http: spec.http.clone(),
        domain: spec.domain.clone(),
        capacity: spec.capacity,
        state,
        since: old.as_ref().filter(|n| n.state == state).map_or(at, |n| n.since),
    };
    if old.as_ref() != Some(&new) {
        txn.records.put(&key, &new)?;
    }
    let but_for_space = |n: &DataNode| DataNode { capacity: Capacity::default(), ..n.clone() };
    if old.as_ref().map(but_for_space) != Some(but_for_space(&new)) {
        map_changed(txn)?;
    }
    Ok(UpdateReply::Done)
}

/// Space as heartbeats report it. A report of an unknown server is of no use to anyone and is passed over.
pub(crate) fn report(txn: &mut Txn<'_>, reports: &[NodeReport]) -> Step<UpdateReply> {
    for report in reports {
        let key = keys::data_node(report.node);
        if let Some(node) = read::<DataNode>(&txn.records, &key)?
            && node.capacity != report.capacity
        {
            txn.records.put(&key, &DataNode { capacity: report.capacity, ..node })?;
        }
    }
    Ok(UpdateReply::Done)
}

pub(crate) fn set_state(
    txn: &mut Txn<'_>,
    at: Timestamp,
    node: NodeId,
    state: NodeState,
) -> Step<UpdateReply> {
    let key = keys::data_node(node);
    let old = read::<DataNode>(&txn.records, &key)?.ok_or(FsError::NotFound)?;
    if old.state == state {
        return Ok(UpdateReply::Done);
    }
    if old.state == NodeState::Removed {
        return Err(FsError::Invalid.into());
    }
    txn.records.put(&key, &DataNode { state, since: at, ..old })?;
    map_changed(txn)?;
    Ok(UpdateReply::Done)
}

/// New groups, and new members of old ones (repair). All of them or none.
pub(crate) fn put_groups(txn: &mut Txn<'_>, groups: &[Group]) -> Step<UpdateReply> {
    for group in groups {
        if !(1..=MEMBERS_MAX).contains(&group.members.len()) {
            return Err(FsError::Invalid.into());
        }
        for (i, member) in group.members.iter().enumerate() {
            if group.members[..i].contains(member) {
                return Err(FsError::Invalid.into());
            }
            match read::<DataNode>(&txn.records, &keys::data_node(*member))? {
                Some(node) if node.state != NodeState::Removed => {}
                _ => return Err(FsError::NotFound.into()),
            }
        }
    }
    let mut changed = false;
    for group in groups {
        let key = keys::group(group.group);
        if read::<Group>(&txn.records, &key)?.as_ref() != Some(group) {
            txn.records.put(&key, group)?;
            changed = true;
        }
    }
    if changed {
        map_changed(txn)?;
    }
    Ok(UpdateReply::Done)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Bench, node_spec};
    use super::*;
    use crate::namespace::{Op, check, map};
    use crate::types::{Epoch, NodeAddress, NodeLoad};

    #[test]
    fn the_epoch_grows_with_changes_only() {
        let mut bench = Bench::new();
        let epoch = |bench: &Bench| map(&bench.view).unwrap().epoch;
        assert_eq!(epoch(&bench), Epoch(1));
        assert!(bench.command(Op::RegisterData(node_spec(11))).is_ok());
        assert!(bench.command(Op::RegisterData(node_spec(11))).is_ok());
        assert_eq!(epoch(&bench), Epoch(2));
        let capacity = Capacity { total: 5, free: 4, block_count: 3 };
        let report = NodeReport { node: NodeId(11), capacity, load: NodeLoad::default() };
        assert!(bench.command(Op::Report(vec![report, NodeReport { node: NodeId(99), ..report }])).is_ok());
        assert_eq!(epoch(&bench), Epoch(2));
        assert_eq!(map(&bench.view).unwrap().data[&NodeId(11)].capacity, capacity);
        let down = Op::SetNodeState { node: NodeId(11), state: NodeState::Down };
        assert!(bench.command(down.clone()).is_ok());
        assert!(bench.command(down).is_ok());
        assert_eq!(epoch(&bench), Epoch(3));
        assert!(bench.command(Op::RegisterData(node_spec(11))).is_ok());
        assert_eq!(map(&bench.view).unwrap().data[&NodeId(11)].state, NodeState::Up);
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn ids_and_names_belong_to_one_node() {
        let mut bench = Bench::new();
        assert!(bench.command(Op::RegisterData(node_spec(11))).is_ok());
        let renamed = NodeSpec { name: "other".into(), ..node_spec(11) };
        assert_eq!(bench.command(Op::RegisterData(renamed)), Err(FsError::NodeConflict));
        let same_name = NodeSpec { node: NodeId(12), ..node_spec(11) };
        assert_eq!(bench.command(Op::RegisterData(same_name)), Err(FsError::NodeConflict));
        let address = NodeAddress("m:1".into());
        let meta = MetaNode { node: NodeId(11), name: "m".into(), address: address.clone(), http: address };
        assert_eq!(bench.command(Op::PutMeta(meta.clone())), Err(FsError::NodeConflict));
        assert!(bench.command(Op::PutMeta(MetaNode { node: NodeId(1), ..meta })).is_ok());
        assert_eq!(
            bench.command(Op::RegisterData(NodeSpec { name: "x".into(), ..node_spec(1) })),
            Err(FsError::NodeConflict)
        );
        let removed = Op::SetNodeState { node: NodeId(11), state: NodeState::Removed };
        assert!(bench.command(removed).is_ok());
        assert_eq!(bench.command(Op::RegisterData(node_spec(11))), Err(FsError::NodeConflict));
    }

    /// A client learns by the epoch that a metadata server is gone; who takes its place may have its name.
    #[test]
    fn a_metadata_server_leaves_the_map() {
        let mut bench = Bench::new();
        let address = NodeAddress("m:1".into());
        let meta = |node| MetaNode {
            node: NodeId(node),
            name: "m".into(),
            address: address.clone(),
            http: address.clone(),
        };
        assert!(bench.command(Op::PutMeta(meta(1))).is_ok());
        assert_eq!(bench.command(Op::PutMeta(meta(4))), Err(FsError::NodeConflict));
        let before = map(&bench.view).unwrap().epoch;
        assert!(bench.command(Op::RemoveMeta(NodeId(1))).is_ok());
        assert!(bench.command(Op::RemoveMeta(NodeId(1))).is_ok());
        let now = map(&bench.view).unwrap();
        assert!(now.epoch == before.next() && now.meta.is_empty());
        assert!(bench.command(Op::PutMeta(meta(4))).is_ok());
        assert_eq!(check(&bench.view).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_group_needs_members_that_exist() {
        let mut bench = Bench::new();
        bench.with_groups();
        let put = |members: &[u64]| {
            let members = members.iter().map(|m| NodeId(*m)).collect();
            Op::PutGroups(vec![Group { group: GroupId(7), members }])
        };
        assert_eq!(bench.command(put(&[])), Err(FsError::Invalid));
        assert_eq!(bench.command(put(&[11, 11])), Err(FsError::Invalid));
        assert_eq!(bench.command(put(&[11, 99])), Err(FsError::NotFound));
        assert!(bench.command(put(&[11, 12])).is_ok());
        assert_eq!(map(&bench.view).unwrap().members(GroupId(7)).count(), 2);
    }
}
