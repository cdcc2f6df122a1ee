//! Consensus as a whole: openraft's own suite for storage, and clusters of three over loopback sockets, whose nodes are
//! killed by taking down the runtime they live in.
//!
//! Waiting is for a condition, with a deadline that only a bug reaches.

mod cluster;
mod machine;
mod stories;

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use super::log::{Log, LogOptions};
use super::machine::StateMachine;
use super::store::LogStore;
use super::types::{MembersCell, TypeConfig};
use crate::runtime::disk::RealDisk;
use crate::types::LogIndex;
use machine::MemMachine;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let options = LogOptions { cache_len: 100, segment_len: 500 };
        let log = Log::open(Arc::new(RealDisk), &dir.path().join("log"), options).unwrap();
        log.begin_anywhere();
        let machine = Arc::new(MemMachine::new(&dir.path().join("state")));
        let machine =
            StateMachine::new(machine, watch::Sender::new(LogIndex(0)), MembersCell::default()).unwrap();
        Ok((dir, LogStore(log), machine))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}
