//! The cluster map, which clients and data servers follow, names the voters and says where they are.

use std::collections::BTreeMap;
use std::time::Duration;

use pohmelfs::client::Client;
use pohmelfs::types::{NodeAddress, NodeId};

/// Looks until the leader has brought the map in line.
const LOOKS_MAX: usize = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// How the map differs from these voters.
pub async fn broken(client: &Client, voters: &BTreeMap<NodeId, NodeAddress>) -> Vec<String> {
    let mut told = String::new();
    for _ in 0..LOOKS_MAX {
        match client.refresh_map().await {
            Ok(map) => {
                let named: BTreeMap<NodeId, NodeAddress> =
                    map.meta.values().map(|server| (server.node, server.address.clone())).collect();
                if named == *voters {
                    return Vec::new();
                }
                told = format!("the cluster map names {named:?}, the voters are {voters:?}");
            }
            Err(error) => told = format!("no cluster map: {error}"),
        }
        pohmelfs::runtime::sleep(BETWEEN_LOOKS).await;
    }
    vec![told]
}
