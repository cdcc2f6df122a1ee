//! What a metadata server tells of itself, of the cluster, and of a path: the source behind HTTP and the command line.
//!
//! Holds: the status of the server never waits for anybody; that of the cluster waits for silent peers a bounded time
//! and says who was silent; a lookup is linearizable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;

use super::raft::{Members, RaftState};
use super::service::{REMOVED, Service};
use super::walk::walk;
use crate::config::MetaConfig;
use crate::namespace::{self, RestoringInfo, SuperblockInfo, ViewError};
use crate::runtime::{self, Instant};
use crate::types::{
    ClusterMap, Cred, ExtentSource, FileKind, NodeId, NodeLoad, NodeState, Query, QueryReply,
};
use crate::wire::members::warning;
use crate::wire::message::Kept;
use crate::wire::status::{
    AttrStatus, ClusterStatus, DataNodeStatus, ExtentStatus, GraceStatus, GroupTotals, Health, HealthReason,
    HeardStatus, KeptStatus, MemberStatus, MetaNodeStatus, MetaStatus, PathStatus, ProgramStatus,
    ServerAddress, ServerRole, ServerStatus, StatusError, StatusSource, Totals, WorkerStatus, cluster_word,
    kind_word, percent_encode,
};
use crate::wire::{Program, RpcError};

/// Longest wait for the status of another metadata server.
const PEER_PATIENCE: Duration = Duration::from_millis(500);
/// Longest wait of a lookup for a leader.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);

/// The source.
pub struct MetaStatusSource {
    service: Arc<Service>,
    name: String,
    address: String,
    http: String,
    started: Instant,
    rate: Mutex<Rate>,
}

/// Requests a second between two looks at least a second apart.
struct Rate {
    at: Instant,
    count: u64,
    rate: f64,
}

impl MetaStatusSource {
    /// The source of one server.
    #[must_use]
    pub fn new(service: Arc<Service>, config: &MetaConfig) -> Self {
        let now = runtime::now();
        Self {
            service,
            name: config.name.clone(),
            address: config.address().0,
            http: config.http_address().0,
            started: now,
            rate: Mutex::new(Rate { at: now, count: 0, rate: 0.0 }),
        }
    }

    fn request_rate(&self, count: u64) -> f64 {
        let mut rate = self.rate.lock();
        let passed = runtime::now().saturating_duration_since(rate.at);
        if passed >= Duration::from_secs(1) {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let counted = count.saturating_sub(rate.count) as f64;
            *rate = Rate { at: runtime::now(), count, rate: counted / passed.as_secs_f64() };
        }
        rate.rate
    }

    fn server_now(&self) -> ServerStatus {
        let service = &self.service;
        let raft = service.consensus.status();
        let (hash_at, hash) = service.state.hash();
        let state = service.state.status();
        let (superblock, sessions) = service.state.read(|view| {
            (namespace::superblock(view).ok().flatten(), namespace::sessions(view).map_or(0, |s| s.len()))
        });
        let (level, label) = service.state.read(|view| {
            (namespace::level(view).unwrap_or_default(), namespace::label(view).unwrap_or_default())
        });
        let counts = service.counts();
        let request_count = counts.updates.load(Ordering::Relaxed)
            + counts.queries.load(Ordering::Relaxed)
            + counts.forwarded.load(Ordering::Relaxed);
        let (ready, reason) = readiness(&raft, superblock.as_ref());
        let map = service.map().unwrap_or_default();
        let members = raft.members.iter().map(|(node, address)| MemberStatus {
            node: *node,
            name: map.meta.get(node).map(|m| m.name.clone()).unwrap_or_default(),
            address: address.0.clone(),
            voter: raft.voters.contains(node),
            matched: raft.matched.get(node).map(|index| index.0),
        });
        let meta = MetaStatus {
            raft_state: word(&raft.state),
            term: raft.term,
            leader: raft.leader,
            last_log: raft.last_log.0,
            committed: raft.committed.0,
            applied: raft.applied.0,
            purged: raft.purged.0,
            snapshot: raft.snapshot.0,
            state_hash: hash.to_string(),
            state_hash_at: hash_at.0,
            overlay_bytes: state.overlay_bytes,
            cache_bytes: state.cache_bytes,
            sled_bytes: state.sled_disk_bytes,
            members: members.collect(),
            removed: service.consensus.members().removed.iter().copied().collect(),
            session_count: sessions as u64,
            inode_count: superblock.as_ref().map_or(0, |s| s.inode_count),
            epoch: superblock.as_ref().map_or(0, |s| s.epoch.0),
            level: level.0.0,
            level_since: level.1.map(|at| at.to_string()),
            label,
            programs: programs(&service.callers.lock()),
            request_count,
            request_rate: self.request_rate(request_count),
            heard: service.leader.read().as_ref().map_or_else(Vec::new, |l| heard(&l.loads(), &l.kept())),
        };
        let proposed = service.proposer.counts();
        let line = format!(
            "{} commands in {} entries, {} read rounds ({} by the leader) for {} queries",
            proposed.ops.load(Ordering::Relaxed),
            proposed.entries.load(Ordering::Relaxed),
            counts.rounds.load(Ordering::Relaxed),
            counts.leader_rounds.load(Ordering::Relaxed),
            counts.queries.load(Ordering::Relaxed),
        );
        ServerStatus {
            version: service.program.version.clone(),
            levels: service.program.levels.into(),
            role: ServerRole::Meta,
            node: service.node,
            name: self.name.clone(),
            cluster: superblock.and_then(|s| cluster_word(s.cluster)),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            ready,
            reason,
            address: self.address.clone(),
            http: self.http.clone(),
            resident_bytes: runtime::resident_bytes(),
            workers: vec![WorkerStatus { name: "proposer".into(), line, error_count: 0 }],
            meta: Some(meta),
            data: None,
        }
    }

    async fn cluster_now(&self) -> ClusterStatus {
        let own = self.server_now();
        let service = &self.service;
        let others = join_all(service.peers.ids().into_iter().map(|id| async move {
            let asked = service.peers.status(id, PEER_PATIENCE).await;
            let parsed = asked.and_then(|text| {
                serde_json::from_str::<ServerStatus>(&text)
                    .map_err(|e| RpcError::Internal { reason: e.to_string() })
            });
            (id, parsed)
        }))
        .await;
        let map = service.state.read(namespace::map).unwrap_or_default();
        // The leader alone hears of data servers, and it may be another one.
        let answers = others.iter().filter_map(|(_, status)| status.as_ref().ok()).chain([&own]);
        let led = answers.filter_map(|status| status.meta.as_ref().map(|meta| (meta.term, &meta.heard)));
        let heard = led.filter(|(_, heard)| !heard.is_empty()).max_by_key(|(term, _)| *term);
        let heard: BTreeMap<NodeId, HeardStatus> =
            heard.map_or_else(BTreeMap::new, |(_, heard)| heard.iter().map(|h| (h.node, *h)).collect());
        let answers = others.iter().filter_map(|(_, status)| status.as_ref().ok()).chain([&own]);
        let programs: BTreeMap<NodeId, String> = answers
            .flat_map(|status| status.meta.iter().flat_map(|meta| &meta.programs))
            .map(|program| (program.node, program.version.clone()))
            .collect();
        let leads = led_by(&own, &others);
        let mut meta = vec![meta_line(&map, service.node, Ok(own.clone()))];
        meta.extend(others.into_iter().map(|(id, status)| meta_line(&map, id, status)));
        meta.sort_by_key(|m| m.node);
        let members = service.consensus.members();
        for line in &mut meta {
            place(line, &members, leads.as_ref());
        }
        let voters = || meta.iter().filter(|line| line.role == "voter");
        let silent = voters().filter(|line| !line.reachable).count();
        let warning = warning(voters().count(), silent).filter(|_| !members.voters.is_empty());
        let data = map.data.values().map(|n| {
            let known = heard.get(&n.node).copied();
            let load = known.unwrap_or_default();
            DataNodeStatus {
                node: n.node,
                name: n.name.clone(),
                address: n.address.0.clone(),
                http: n.http.0.clone(),
                domain: n.domain.0.clone(),
                state: word(&n.state),
                since: n.since.0,
                total: n.capacity.total,
                free: n.capacity.free,
                block_count: n.capacity.block_count,
                in_flight: load.in_flight,
                read_rate: load.read_rate,
                write_rate: load.write_rate,
                compared: known.map(|h| h.compared),
                lacking: load.lacking,
                version: programs.get(&n.node).cloned().unwrap_or_default(),
                kept: load.kept,
            }
        });
        let data: Vec<_> = data.collect();
        let totals = service.state.read(|view| namespace::query(view, &Cred::root(), &Query::StatFs));
        let totals = match totals {
            Ok(Ok(QueryReply::Totals(t))) => t,
            _ => crate::types::FsTotals::default(),
        };
        let groups = group_totals(&map);
        let own_meta = own.meta.unwrap_or_default();
        let mut reasons = reasons(&map, &meta, &data, groups, own_meta.leader);
        let superblock = service.state.read(namespace::superblock).ok().flatten();
        reasons.extend(superblock.and_then(|s| s.restoring).map(|restoring| {
            HealthReason {
                health: Health::Down,
                what: come_so_far(&restoring),
                hint:
                    "wait until `pohmelfs restore` has ended, or run it again with the same file: it goes on"
                        .into(),
            }
        }));
        let (level_possible, level_note) = levels_of(own_meta.level, &meta);
        let grace = if superblock.is_some_and(|s| s.restoring.is_none()) { self.grace(&data) } else { None };
        ClusterStatus {
            cluster: own.cluster.unwrap_or_default(),
            health: reasons.iter().map(|r| r.health).max().unwrap_or(Health::Ok),
            reasons,
            label: own_meta.label,
            level: own_meta.level,
            level_possible,
            level_note,
            epoch: own_meta.epoch,
            leader: own_meta.leader,
            term: own_meta.term,
            answered_by: self.name.clone(),
            meta,
            is_changing: members.is_changing,
            removed: members.removed.iter().copied().collect(),
            warning,
            data,
            groups,
            totals: Totals {
                total: totals.total,
                free: totals.free,
                used: totals.used,
                inode_count: totals.inode_count,
                session_count: own_meta.session_count,
            },
            grace,
        }
    }

    /// The grace behind a restore, while it lasts, and what `data` keep for it.
    fn grace(&self, data: &[DataNodeStatus]) -> Option<GraceStatus> {
        let told = self.service.state.read(|view| {
            let newest = namespace::lineage(view)?.pop();
            Ok::<_, ViewError>(newest.zip(self.service.grace(view)?))
        });
        let (newest, grace) = told.ok()??;
        let kept = || data.iter().filter_map(|server| server.kept);
        Some(GraceStatus {
            restored: newest.at.secs(),
            until: grace.until.secs(),
            kept: KeptStatus {
                replicas: kept().map(|k| k.replicas).sum(),
                bytes: kept().map(|k| k.bytes).sum(),
            },
            looked: kept().count() as u64,
        })
    }

    async fn lookup_now(&self, path: Vec<u8>) -> Result<PathStatus, StatusError> {
        let unavailable = |e: RpcError| StatusError::unavailable(e.code(), e.to_string(), "see /cluster");
        let index = self.service.linearize(runtime::now() + LOOKUP_PATIENCE).await.map_err(unavailable)?;
        let map = self.service.map().map_err(unavailable)?;
        let server = |id: &NodeId| {
            map.data.get(id).map(|n| ServerAddress {
                node: n.node,
                name: n.name.clone(),
                address: n.address.0.clone(),
                state: word(&n.state),
            })
        };
        let looked = self.service.state.read(|view| {
            let found = match walk(view, &path)? {
                Ok(found) => found,
                Err(e) => return Ok(Err(e)),
            };
            let mut status = PathStatus {
                path: percent_encode(&path),
                kind: kind_word(found.attr.kind).to_owned(),
                size: found.attr.size,
                attr: AttrStatus::from(&found.attr),
                servers: found.servers.iter().filter_map(server).collect(),
                at: Some(index.0),
                ..PathStatus::default()
            };
            let inode = found.attr.inode;
            let root = Cred::root();
            if found.attr.kind == FileKind::Symlink
                && let Ok(QueryReply::Target(target)) =
                    namespace::query(view, &root, &Query::ReadLink { inode })?
            {
                status.target = Some(percent_encode(&target));
            }
            if found.attr.kind == FileKind::File {
                let query =
                    Query::Extents { inode, offset: 0, len: u64::MAX, limit: PathStatus::EXTENTS_MAX };
                if let Ok(QueryReply::Extents { extents, end, .. }) = namespace::query(view, &root, &query)? {
                    status.more = !end;
                    status.extents = extents
                        .iter()
                        .map(|extent| {
                            let members = match &extent.source {
                                ExtentSource::Block { block, .. } => {
                                    map.groups.get(&block.group).map(|g| &g.members)
                                }
                                _ => None,
                            };
                            let servers = members.into_iter().flatten().filter_map(server).collect();
                            ExtentStatus::new(extent, servers)
                        })
                        .collect();
                }
            }
            Ok(Ok(status))
        });
        match looked {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(e)) => Err(e.into()),
            Err(e) => {
                let e: namespace::ViewError = e;
                Err(unavailable(RpcError::StoreFailed { reason: e.to_string() }))
            }
        }
    }
}

impl StatusSource for MetaStatusSource {
    fn server(&self) -> BoxFuture<'_, ServerStatus> {
        Box::pin(async { self.server_now() })
    }

    fn cluster(&self) -> BoxFuture<'_, Result<ClusterStatus, StatusError>> {
        Box::pin(async { Ok(self.cluster_now().await) })
    }

    fn lookup(&self, path: Vec<u8>) -> BoxFuture<'_, Result<PathStatus, StatusError>> {
        Box::pin(self.lookup_now(path))
    }
}

/// Ready: a leader is known, and this server has applied what it knows to be committed.
fn readiness(raft: &super::raft::RaftStatus, superblock: Option<&SuperblockInfo>) -> (bool, String) {
    let lag = raft.committed.0.saturating_sub(raft.applied.0);
    let restoring = superblock.and_then(|s| s.restoring);
    match () {
        () if raft.failure.is_some() => (false, raft.failure.clone().unwrap_or_default()),
        () if raft.state == RaftState::Removed => (false, REMOVED.into()),
        () if raft.state == RaftState::Stranger => (
            false,
            format!(
                "it is no member of the cluster: `pohmelfs cluster add {} ADDRESS` makes it one",
                raft.node
            ),
        ),
        () if raft.leader.is_none() => {
            (false, "no leader is known: a majority of metadata servers must run".into())
        }
        () if superblock.is_none() => {
            (false, "the cluster is being founded, or its log has not arrived here yet".into())
        }
        () if restoring.is_some() => (false, restoring.map(|r| come_so_far(&r)).unwrap_or_default()),
        // An entry or two are always under way.
        () if lag > 1000 => (false, format!("catching up: {lag} log entries are not applied yet")),
        () => (true, String::new()),
    }
}

/// How far a restore has come, for people.
fn come_so_far(restoring: &RestoringInfo) -> String {
    format!(
        "the cluster is being restored from a dump: {} of {} records have come",
        restoring.records, restoring.dump.tally.records
    )
}

/// The leader's own words, if it answered: that of the newest term.
fn led_by(own: &ServerStatus, others: &[(NodeId, Result<ServerStatus, RpcError>)]) -> Option<MetaStatus> {
    let answers = others.iter().filter_map(|(_, status)| status.as_ref().ok()).chain([own]);
    let leaders =
        answers.filter_map(|status| status.meta.as_ref()).filter(|meta| meta.raft_state == "leader");
    leaders.max_by_key(|meta| meta.term).cloned()
}

/// What a server is among the members, and how much of the log it lacks.
fn place(line: &mut MetaNodeStatus, members: &Members, leader: Option<&MetaStatus>) {
    line.role = match line.node {
        node if members.leaving.contains(&node) => "leaving",
        node if members.voters.contains(&node) => "voter",
        node if members.addresses.contains_key(&node) => "learner",
        node if members.removed.contains(&node) => "removed",
        _ => "",
    }
    .to_owned();
    if line.address.is_empty() {
        line.address = members.addresses.get(&line.node).map(|a| a.0.clone()).unwrap_or_default();
    }
    line.lag = leader.and_then(|leader| {
        let matched = leader.members.iter().find(|m| m.node == line.node)?.matched;
        Some(if leader.leader == Some(line.node) { 0 } else { leader.last_log.saturating_sub(matched?) })
    });
}

fn meta_line(map: &ClusterMap, node: NodeId, status: Result<ServerStatus, RpcError>) -> MetaNodeStatus {
    let known = map.meta.get(&node);
    let mut line = MetaNodeStatus {
        node,
        name: known.map(|k| k.name.clone()).unwrap_or_default(),
        address: known.map(|k| k.address.0.clone()).unwrap_or_default(),
        http: known.map(|k| k.http.0.clone()).unwrap_or_default(),
        ..MetaNodeStatus::default()
    };
    match status {
        Ok(status) => {
            let meta = status.meta.unwrap_or_default();
            // The map has the voters only.
            if known.is_none() {
                (line.name, line.address, line.http) = (status.name, status.address, status.http);
            }
            line.reachable = true;
            line.reason = status.reason;
            line.raft_state = meta.raft_state;
            line.term = Some(meta.term);
            line.last_log = Some(meta.last_log);
            line.applied = Some(meta.applied);
            line.snapshot = Some(meta.snapshot);
            line.request_rate = Some(meta.request_rate);
            line.resident_bytes = Some(status.resident_bytes);
            line.version = status.version;
            line.levels = Some(status.levels);
        }
        Err(e) => line.reason = e.to_string(),
    }
    line
}

/// The newest level that every member knows, if all answer, and what to know of that.
fn levels_of(active: u16, meta: &[MetaNodeStatus]) -> (Option<u16>, Option<String>) {
    let known = || meta.iter().filter_map(|line| Some((line, line.levels?.last)));
    let newest = known().map(|(_, last)| last).max().unwrap_or(active);
    let oldest = known().map(|(_, last)| last).min().unwrap_or(active);
    let possible = (known().count() == meta.len()).then_some(oldest);
    if newest <= active {
        return (possible, None);
    }
    let older: Vec<&str> =
        known().filter(|(_, last)| *last < newest).map(|(line, _)| line.name.as_str()).collect();
    let note = if older.is_empty() {
        format!(
            "format level {newest} is known to every metadata server that answers: `pohmelfs cluster upgrade` raises it, and from then on \
             older programs cannot come back"
        )
    } else {
        format!(
            "{} run an older program: the cluster works at format level {active} until they are upgraded, too, and \
             `pohmelfs cluster upgrade` raises it",
            older.join(", ")
        )
    };
    (possible, Some(note))
}

fn programs(callers: &BTreeMap<NodeId, Program>) -> Vec<ProgramStatus> {
    let line = |(node, program): (&NodeId, &Program)| ProgramStatus {
        node: *node,
        version: program.version.clone(),
        levels: program.levels.into(),
    };
    callers.iter().map(line).collect()
}

fn group_totals(map: &ClusterMap) -> GroupTotals {
    let mut totals = GroupTotals::default();
    for group in map.groups.values() {
        totals.count += 1;
        let answers = |id: &&NodeId| {
            map.data.get(id).is_some_and(|n| matches!(n.state, NodeState::Up | NodeState::Draining))
        };
        match group.members.iter().filter(answers).count() {
            0 => totals.lost += 1,
            n if n == group.members.len() => totals.whole += 1,
            _ => totals.not_whole += 1,
        }
    }
    totals
}

fn reasons(
    map: &ClusterMap,
    meta: &[MetaNodeStatus],
    data: &[DataNodeStatus],
    groups: GroupTotals,
    leader: Option<NodeId>,
) -> Vec<HealthReason> {
    let mut reasons = Vec::new();
    let mut add =
        |health, what: String, hint: &str| reasons.push(HealthReason { health, what, hint: hint.to_owned() });
    if leader.is_none() {
        add(
            Health::Down,
            "no metadata leader is known".into(),
            "start metadata servers until a majority runs",
        );
    }
    for server in meta.iter().filter(|m| !m.reachable) {
        let what = format!("metadata server {} does not answer: {}", server.name, server.reason);
        add(Health::Degraded, what, "start it again, or look at its log; another loss may stop writes");
    }
    for node in map.data.values().filter(|n| !matches!(n.state, NodeState::Up | NodeState::Removed)) {
        let what = format!("data server {} is {}", node.name, word(&node.state));
        add(
            Health::Degraded,
            what,
            "start it again, or look at its log; its blocks are read from other replicas",
        );
    }
    for server in data.iter().filter(|d| d.state == "up") {
        let what = match server.compared {
            Some(false) if server.lacking == 0 => {
                format!("data server {} is back and looks which blocks it lacks", server.name)
            }
            Some(false) => format!(
                "data server {} is back and fetches {} blocks that it lacks, and looks for more",
                server.name, server.lacking
            ),
            Some(true) if server.lacking > 0 => {
                format!("data server {} lacks {} blocks and fetches them", server.name, server.lacking)
            }
            _ => continue,
        };
        add(
            Health::Degraded,
            what,
            "it goes on by itself: until it is done, these blocks have fewer replicas",
        );
    }
    if groups.count == 0 {
        let what = format!(
            "{} data servers are registered, {} are needed",
            map.data.len(),
            map.layout.replica_count
        );
        add(Health::Degraded, what, "start more data servers: until then only small files can be written");
    } else if groups.whole == 0 {
        let what = "no group of data servers is whole".to_owned();
        add(Health::Degraded, what, "new blocks get fewer replicas until the servers named above are back");
    }
    if groups.lost > 0 {
        let what = format!("{} groups have no server that answers", groups.lost);
        add(Health::Down, what, "their blocks cannot be read until one of their servers is back");
    }
    reasons
}

fn heard(loads: &[(NodeId, NodeLoad)], kept: &BTreeMap<NodeId, Kept>) -> Vec<HeardStatus> {
    let line = |(node, load): &(NodeId, NodeLoad)| {
        let NodeLoad { in_flight, read_rate, write_rate, compared, lacking } = *load;
        let kept = kept.get(node).copied().map(KeptStatus::from);
        HeardStatus { node: *node, in_flight, read_rate, write_rate, compared, lacking, kept }
    };
    loads.iter().map(line).collect()
}

/// The name of a variant in lower case, as JSON has it.
fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All servers were up, and `status` said `ok` while one of them lacked half of its blocks.
    #[test]
    fn a_data_server_that_is_behind_is_a_reason() {
        let said = |compared, lacking| {
            let data = DataNodeStatus {
                name: "data-2".into(),
                state: "up".into(),
                compared,
                lacking,
                ..DataNodeStatus::default()
            };
            let groups = GroupTotals { count: 1, whole: 1, ..GroupTotals::default() };
            let reasons = reasons(&ClusterMap::default(), &[], &[data], groups, Some(NodeId(1)));
            reasons.into_iter().map(|r| (r.health, r.what)).next()
        };
        assert_eq!(said(Some(true), 0), None);
        assert_eq!(said(None, 0), None, "a new leader waits for heartbeats");
        for (compared, lacking, word) in [(false, 0, "looks"), (false, 7, "7 blocks"), (true, 3, "3 blocks")]
        {
            let (health, what) = said(Some(compared), lacking).unwrap();
            assert!(health == Health::Degraded && what.contains("data-2") && what.contains(word), "{what}");
        }
    }

    #[test]
    fn who_runs_an_older_program_is_named() {
        let line = |node: u64, last: Option<u16>| MetaNodeStatus {
            node: NodeId(node),
            name: format!("meta-{node}"),
            levels: last.map(|last| crate::wire::status::LevelsStatus { first: 1, last }),
            ..MetaNodeStatus::default()
        };
        let (possible, note) = levels_of(1, &[line(1, Some(2)), line(2, Some(1)), line(3, Some(2))]);
        assert_eq!(possible, Some(1));
        assert!(note.unwrap().starts_with("meta-2 run an older program"));
        let (possible, note) = levels_of(1, &[line(1, Some(2)), line(2, None)]);
        assert!(possible.is_none() && note.unwrap().contains("cluster upgrade"));
        assert_eq!(levels_of(2, &[line(1, Some(2)), line(2, Some(2))]), (Some(2), None));
    }
}
