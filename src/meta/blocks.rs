//! What data servers tell and ask: who they are, how they are, and which blocks are theirs, are wanted, or wait to be deleted.
//!
//! `service` passes their requests on. Holds: a server of another cluster is not registered, unless the state of its cluster was restored
//! into this one; a block is called garbage only when no extent refers to it and nobody can make one do so any more, be it by
//! the restore of a newer dump (`grace`).
//! Not here: how long a data server may be silent (`leader`).

use super::leader::Leader;
use super::service::Service;
use crate::namespace::{self, BlockUse, Op, View, ViewError};
use crate::runtime;
use crate::types::{BlockId, ClusterId, ClusterMap, Epoch, NodeId, NodeReport, NodeSpec, Unreferenced};
use crate::wire::RpcError;
use crate::wire::message::{BLOCKS_MAX, BlockFate, MetaReply};

impl Service {
    pub(super) async fn register(
        &self,
        leader: &Leader,
        spec: NodeSpec,
        cluster: Option<ClusterId>,
    ) -> Result<MetaReply, RpcError> {
        let map = self.map()?;
        if let Some(theirs) = cluster
            && theirs != map.cluster
            && !self.read(|view, _| namespace::lineage(view))?.iter().any(|life| life.cluster == theirs)
        {
            return Err(RpcError::WrongCluster { caller: theirs, server: map.cluster });
        }
        let known = map.data.get(&spec.node);
        let unchanged = known.is_some_and(|k| {
            (&k.name, &k.address, &k.http, &k.domain) == (&spec.name, &spec.address, &spec.http, &spec.domain)
        });
        leader.heartbeat(
            NodeReport { node: spec.node, capacity: spec.capacity, load: crate::types::NodeLoad::default() },
            runtime::now(),
        );
        if !(unchanged && known.is_some_and(|k| k.state.takes_blocks())) {
            tracing::info!(node = %spec.name, id = %spec.node, address = %spec.address, "data server registers");
            if let Err(e) = self.proposer.submit(Op::RegisterData(spec)).await? {
                return Ok(MetaReply::Refused(e));
            }
        }
        let map = self.map()?;
        Ok(MetaReply::Registered { cluster: map.cluster, map: Box::new(ClusterMap::clone(&map)) })
    }

    pub(super) fn heartbeat(&self, leader: &Leader, report: NodeReport) -> Result<MetaReply, RpcError> {
        let map = self.map()?;
        let state = map.data.get(&report.node).map(|n| n.state);
        if state.is_some() {
            leader.heartbeat(report, runtime::now());
        }
        let reclaimable = self.read(|view, _| Ok(!namespace::reclaim_queue(view, None, 1)?.is_empty()))?;
        Ok(MetaReply::Heartbeat { state, epoch: map.epoch, reclaimable })
    }

    pub(super) fn blocks(
        &self,
        view: &dyn View,
        epoch: Epoch,
        node: Option<NodeId>,
        after: Option<BlockId>,
        limit: u32,
    ) -> Result<MetaReply, ViewError> {
        let limit = usize::try_from(limit).unwrap_or(BLOCKS_MAX).clamp(1, BLOCKS_MAX);
        let map = self.map_of(view, epoch)?;
        let mut blocks = namespace::blocks(view, after, limit)?;
        let next = if blocks.len() < limit { None } else { blocks.last().map(|b| b.id) };
        if let Some(node) = node {
            blocks.retain(|b| map.groups.get(&b.group).is_some_and(|g| g.members.contains(&node)));
        }
        Ok(MetaReply::Blocks { blocks, next })
    }

    /// What is to become of blocks, in their order.
    pub(super) fn fates(&self, view: &dyn View, blocks: &[BlockId]) -> Result<MetaReply, ViewError> {
        let grace = self.grace(view)?;
        let uses = namespace::block_refs(view, blocks)?;
        let fates = blocks.iter().zip(uses).map(|(id, of)| fate(of, grace.is_some_and(|g| g.covers(*id))));
        Ok(MetaReply::Fates(fates.collect()))
    }

    pub(super) fn reclaim_list(
        &self,
        view: &dyn View,
        epoch: Epoch,
        node: NodeId,
        after: Option<BlockId>,
        limit: u32,
    ) -> Result<MetaReply, ViewError> {
        let limit = usize::try_from(limit).unwrap_or(BLOCKS_MAX).clamp(1, BLOCKS_MAX);
        let map = self.map_of(view, epoch)?;
        let ours =
            |entry: &Unreferenced| map.groups.get(&entry.group).is_some_and(|g| g.members.contains(&node));
        // Pages are scanned until one has something for this server: an empty answer means that nothing is left.
        let mut after = after;
        loop {
            let page = namespace::reclaim_queue(view, after, limit)?;
            let last = page.last().map(|u| u.block);
            let full = page.len() == limit;
            let mine: Vec<Unreferenced> = page.into_iter().filter(ours).collect();
            if !mine.is_empty() || !full {
                return Ok(MetaReply::ReclaimList(mine));
            }
            after = last;
        }
    }
}

pub(super) fn bounded(blocks: &[BlockId]) -> Result<(), RpcError> {
    if blocks.len() > BLOCKS_MAX {
        return Err(RpcError::Refused { reason: format!("more than {BLOCKS_MAX} blocks in one request") });
    }
    Ok(())
}

/// What is to become of a block. In grace, one that nobody knows is kept; one that was freed in this life goes as always.
fn fate(of: BlockUse, in_grace: bool) -> BlockFate {
    match of {
        BlockUse::Referenced(_) => BlockFate::Referenced,
        BlockUse::Queued => BlockFate::Queued,
        BlockUse::Unknown { session_alive } if session_alive || in_grace => BlockFate::Pending,
        BlockUse::Unknown { .. } | BlockUse::Reclaimed => BlockFate::Garbage,
    }
}
