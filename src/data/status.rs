//! What a data server tells of itself, and what it passes on about the cluster.
//!
//! `http` and `DataRequest::Status` ask. Holds: the status of the server never waits for another server.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::future::BoxFuture;

use super::core::{Core, Rates};
use super::store::{DirectoryState, DirectoryUsage, Spread};
use crate::config::{DataConfig, DirectoryMode};
use crate::runtime;
use crate::types::NodeLoad;
use crate::wire::message::{MetaReply, MetaRequest};
use crate::wire::status::{
    ClusterStatus, DataCounters, DataStatus, DirectoryStatus, KeptStatus, PathStatus, ServerRole,
    ServerStatus, StatusError, StatusSource,
};

/// Rates are taken over at least this long.
const RATE_SPAN: Duration = Duration::from_secs(2);
/// Time for a metadata server to gather the status of the cluster: it waits for its peers a while.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(3);

/// The directories' use, as the configuration says it.
pub(super) fn spread(config: &DataConfig) -> Spread {
    match config.mode {
        DirectoryMode::Spread => Spread::Spread,
        DirectoryMode::Mirror => Spread::Mirror(config.mirror_count),
    }
}

impl Core {
    /// Load now; rates over the last seconds.
    pub(super) fn load(&self) -> NodeLoad {
        let counters = self.store.counters();
        let mut rates = self.rates.lock();
        let passed = rates.at.elapsed();
        if passed >= RATE_SPAN {
            let rate = |now: u64, then: u64| {
                let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
                now.saturating_sub(then).saturating_mul(1000) / millis
            };
            *rates = Rates {
                at: runtime::now(),
                read_bytes: counters.get_bytes,
                write_bytes: counters.put_bytes,
                read: rate(counters.get_bytes, rates.read_bytes),
                write: rate(counters.put_bytes, rates.write_bytes),
            };
        }
        let in_flight = u32::try_from(self.server.in_flight()).unwrap_or(u32::MAX);
        let whole = *self.whole.lock();
        NodeLoad {
            in_flight,
            read_rate: rates.read,
            write_rate: rates.write,
            compared: whole.compared,
            lacking: whole.lacking,
        }
    }

    /// Ready, or why not.
    fn readiness(&self, directories: &[DirectoryUsage]) -> (bool, String) {
        let standing = self.standing.lock();
        if standing.registered_with.is_none() {
            let problem =
                standing.problem.clone().unwrap_or_else(|| "no metadata server has answered yet".into());
            return (false, format!("not registered: {problem}"));
        }
        if !directories.iter().any(|d| d.state == DirectoryState::Healthy) {
            return (false, "no directory takes writes: see their states".into());
        }
        (true, String::new())
    }
}

fn directory(usage: &DirectoryUsage) -> DirectoryStatus {
    let word = match usage.state {
        DirectoryState::Healthy if usage.free == 0 => "full",
        DirectoryState::Healthy => "ok",
        DirectoryState::ReadOnly => "read-only",
        DirectoryState::Failed => "failed",
        DirectoryState::Missing => "missing",
    };
    let state = usage.error.as_ref().map_or_else(|| word.to_owned(), |reason| format!("{word}: {reason}"));
    let DirectoryUsage { path, total, free, block_count, .. } = usage.clone();
    DirectoryStatus { path, state, total, free, block_count }
}

/// The server's status now.
pub(super) async fn server_now(core: &Core) -> ServerStatus {
    let usage = core.with_store("usage", |store| store.usage()).await;
    let counters = core.store.counters();
    let (ready, reason) = core.readiness(&usage);
    let load = core.load();
    let standing = core.standing.lock().clone();
    let data = DataStatus {
        directories: usage.iter().map(directory).collect(),
        mode: match spread(&core.config) {
            Spread::Spread => "spread".to_owned(),
            Spread::Mirror(count) => format!("mirror {count}"),
        },
        block_count: core.store.block_count(),
        counters: DataCounters {
            reads: counters.get_count,
            read_bytes: counters.get_bytes,
            writes: counters.put_count,
            write_bytes: counters.put_bytes,
            corrupt: counters.bad_copy_count,
            mended: counters.mended_count + core.fetched.load(Relaxed),
            reclaimed: core.reclaimed.load(Relaxed),
        },
        registered_with: standing.registered_with.map(|address| address.0),
        state: standing.state.map(|state| format!("{state:?}")),
        in_flight: u64::from(load.in_flight),
        read_rate: load.read_rate,
        write_rate: load.write_rate,
        compared: load.compared,
        lacking: load.lacking,
        kept: core.kept.lock().map(KeptStatus::from),
    };
    ServerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        levels: crate::types::LevelRange::OURS.into(),
        role: ServerRole::Data,
        node: core.node,
        name: core.config.name.clone(),
        cluster: core.store.cluster().map(|cluster| cluster.to_string()),
        uptime_ms: u64::try_from(core.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        ready,
        reason,
        address: core.address.0.clone(),
        http: core.config.http_address().0,
        resident_bytes: runtime::resident_bytes(),
        workers: [&core.catch_up, &core.reclaim, &core.scrub].map(super::worker::Worker::status).to_vec(),
        meta: None,
        data: Some(data),
    }
}

/// The status of a running server.
pub(super) struct DataStatusSource(pub(super) Arc<Core>);

impl StatusSource for DataStatusSource {
    fn server(&self) -> BoxFuture<'_, ServerStatus> {
        Box::pin(server_now(&self.0))
    }

    fn cluster(&self) -> BoxFuture<'_, Result<ClusterStatus, StatusError>> {
        Box::pin(async {
            let failed = |code, error: String| {
                StatusError::unavailable(code, error, "ask a metadata server, or see this server's /status")
            };
            match self.0.meta.ask_within(&MetaRequest::Status, CLUSTER_TIMEOUT).await {
                Ok((MetaReply::Status(json), _)) => {
                    serde_json::from_str(&json).map_err(|e| failed(2008, e.to_string()))
                }
                Ok((other, _)) => Err(failed(2008, format!("unexpected answer {other:?}"))),
                Err(error) => Err(failed(error.code(), error.to_string())),
            }
        })
    }

    fn lookup(&self, _path: Vec<u8>) -> BoxFuture<'_, Result<PathStatus, StatusError>> {
        let servers: Vec<String> = self.0.map().meta.values().map(|m| m.http.0.clone()).collect();
        let hint = if servers.is_empty() {
            "ask a metadata server".into()
        } else {
            format!("ask {}", servers.join(" or "))
        };
        Box::pin(
            async move { Err(StatusError::bad_request(2008, "a data server knows blocks, not paths", hint)) },
        )
    }
}
