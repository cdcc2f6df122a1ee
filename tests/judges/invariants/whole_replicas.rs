//! Every block that an extent refers to is whole on as many data servers as the write rule asks, byte by byte.

use std::collections::BTreeMap;
use std::time::Duration;

use pohmelfs::client::Client;
use pohmelfs::types::{BlockRef, NodeId};
use pohmelfs::wire::message::{DataReply, DataRequest, MetaReply, MetaRequest, ReplicaState};

const PATIENCE: Duration = Duration::from_secs(60);
/// Blocks of one question.
const PAGE: u32 = 256;
/// Replicas that were durable before the extent was committed, at least (`durable_min`).
const DURABLE_MIN: usize = 2;

/// Looks that damage may take: the first one finds it, and then it is mended from the others.
const LOOKS_MAX: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_secs(6);

/// What is not whole, once the servers have had time to mend what they were told of.
pub async fn broken(client: &Client) -> Vec<String> {
    let mut problems = Vec::new();
    for look in 0..LOOKS_MAX {
        if look > 0 {
            pohmelfs::runtime::sleep(BETWEEN_LOOKS).await;
        }
        problems = look_at_all(client).await;
        if problems.is_empty() {
            break;
        }
    }
    problems
}

/// Asks for all blocks, and every member of their groups for its replicas.
async fn look_at_all(client: &Client) -> Vec<String> {
    let mut problems = Vec::new();
    let mut after = None;
    loop {
        let request = MetaRequest::Blocks { node: None, after, limit: PAGE };
        let (blocks, next) = match client.request(&request, PATIENCE).await {
            Ok(MetaReply::Blocks { blocks, next }) => (blocks, next),
            other => return vec![format!("the list of blocks was answered {other:?}")],
        };
        problems.extend(broken_of(client, &blocks).await);
        match next {
            Some(next) => after = Some(next),
            None => return problems,
        }
    }
}

async fn broken_of(client: &Client, blocks: &[BlockRef]) -> Vec<String> {
    let map = match client.refresh_map().await {
        Ok(map) => map,
        Err(error) => return vec![format!("no cluster map: {error}")],
    };
    let mut of_node: BTreeMap<NodeId, Vec<BlockRef>> = BTreeMap::new();
    let mut problems = Vec::new();
    for block in blocks {
        match map.groups.get(&block.group) {
            Some(group) => group.members.iter().for_each(|m| of_node.entry(*m).or_default().push(*block)),
            None => problems.push(format!("block {}: its group {} is not in the map", block.id, block.group)),
        }
    }
    let mut good: BTreeMap<_, Vec<NodeId>> = BTreeMap::new();
    for (node, blocks) in of_node {
        let request = DataRequest::Verify { blocks: blocks.clone(), deep: true };
        match client.ask_data(node, &request, PATIENCE).await {
            Ok(DataReply::Verified(states)) if states.len() == blocks.len() => {
                for (block, state) in blocks.iter().zip(states) {
                    if state == ReplicaState::Good {
                        good.entry(block.id).or_default().push(node);
                    }
                }
            }
            other => problems.push(format!("{node} answered {other:?} to Verify")),
        }
    }
    for block in blocks {
        let replicas = good.get(&block.id).map_or(0, Vec::len);
        if replicas < DURABLE_MIN {
            problems.push(format!(
                "block {} has {replicas} good replicas, at {:?}",
                block.id,
                good.get(&block.id)
            ));
        }
    }
    problems
}
