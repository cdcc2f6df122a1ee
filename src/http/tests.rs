//! The endpoints over a real socket, in front of a source made of plain values.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HttpServer, get};
use crate::types::{FsError, NodeId};
use crate::wire::status::{
    ClusterStatus, DataNodeStatus, GroupTotals, Health, HealthReason, MetaNodeStatus, PathStatus,
    ServerStatus, StatusError, StatusSource, Totals, percent_encode,
};

const WAIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Fake {
    ready: AtomicBool,
    no_cluster: AtomicBool,
}

impl StatusSource for Fake {
    fn server(&self) -> BoxFuture<'_, ServerStatus> {
        let ready = self.ready.load(Ordering::Relaxed);
        let reason = if ready { "" } else { "no leader is known yet" }.to_owned();
        async move {
            ServerStatus {
                version: "0.1.0".into(),
                node: NodeId(1),
                name: "meta-1".into(),
                cluster: Some("0123456789abcdef0123456789abcdef".into()),
                ready,
                reason,
                meta: Some(crate::wire::status::MetaStatus::default()),
                ..ServerStatus::default()
            }
        }
        .boxed()
    }

    fn cluster(&self) -> BoxFuture<'_, Result<ClusterStatus, StatusError>> {
        let none = self.no_cluster.load(Ordering::Relaxed);
        async move {
            if none {
                return Err(StatusError::unavailable(3001, "no metadata server answers", "start one"));
            }
            Ok(cluster())
        }
        .boxed()
    }

    fn lookup(&self, path: Vec<u8>) -> BoxFuture<'_, Result<PathStatus, StatusError>> {
        async move {
            match path.as_slice() {
                b"/none" => Err(FsError::NotFound.into()),
                path => Ok(PathStatus { path: percent_encode(path), ..PathStatus::default() }),
            }
        }
        .boxed()
    }
}

fn cluster() -> ClusterStatus {
    let meta = |i: u64| MetaNodeStatus {
        role: "voter".into(),
        lag: (i != 3).then_some(0),
        node: NodeId(i),
        name: format!("meta-{i}"),
        address: format!("127.0.0.1:{}", 7000 + i),
        http: format!("127.0.0.1:{}", 8000 + i),
        reachable: i != 3,
        reason: if i == 3 { "connection refused".into() } else { String::new() },
        raft_state: ["leader", "follower", ""][usize::try_from(i).unwrap() - 1].into(),
        term: Some(4),
        last_log: Some(120_333),
        applied: (i != 3).then_some(120_331),
        snapshot: (i != 3).then_some(100_000),
        request_rate: (i != 3).then_some(5_210.0 / i as f64),
        resident_bytes: (i != 3).then_some(190 << 20),
        ..MetaNodeStatus::default()
    };
    let data = |i: u64| DataNodeStatus {
        node: NodeId(100 + i),
        name: format!("data-{i}"),
        address: format!("127.0.0.1:{}", 7100 + i),
        http: format!("127.0.0.1:{}", 8100 + i),
        domain: format!("rack-{i}"),
        state: ["up", "up", "suspect"][usize::try_from(i).unwrap() - 1].into(),
        total: 1 << 40,
        free: (1 << 40) - (i << 38),
        block_count: 40_211 * i,
        in_flight: 3,
        read_rate: 151 << 20,
        write_rate: 44 << 20,
        ..DataNodeStatus::default()
    };
    ClusterStatus {
        cluster: "0123456789abcdef0123456789abcdef".into(),
        health: Health::Degraded,
        reasons: vec![HealthReason {
            health: Health::Degraded,
            what:
                "metadata server meta-3 does not answer (connection refused); one more and nobody can write"
                    .into(),
            hint: "see its log; start it again with the same directory".into(),
        }],
        epoch: 9,
        leader: Some(NodeId(1)),
        term: 4,
        answered_by: "meta-1".into(),
        meta: (1..=3).map(meta).collect(),
        data: (1..=3).map(data).collect(),
        groups: GroupTotals { count: 12, whole: 8, not_whole: 4, lost: 0 },
        is_changing: false,
        removed: vec![NodeId(9)],
        warning: None,
        totals: Totals {
            total: 1 << 40,
            free: 1 << 39,
            used: 311 << 30,
            inode_count: 1_000_204,
            session_count: 7,
        },
        ..ClusterStatus::default()
    }
}

async fn start() -> (Arc<Fake>, HttpServer, String) {
    let fake = Arc::new(Fake::default());
    let server = HttpServer::start("127.0.0.1:0", fake.clone(), None).await.unwrap();
    let address = server.address().to_string();
    (fake, server, address)
}

async fn json(address: &str, target: &str) -> (u16, serde_json::Value) {
    let (status, body) = get(address, target, WAIT).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn every_endpoint_answers() {
    let (fake, server, address) = start().await;
    fake.ready.store(true, Ordering::Relaxed);
    assert_eq!(json(&address, "/healthz").await, (200, serde_json::json!({"alive": true})));
    assert_eq!(json(&address, "/status").await.1["name"], "meta-1");
    let (status, body) = get(&address, "/cluster", WAIT).await.unwrap();
    assert_eq!((status, serde_json::from_slice::<ClusterStatus>(&body).unwrap()), (200, cluster()));
    assert_eq!(json(&address, "/openapi.json").await.1["paths"]["/lookup"]["get"]["tags"][0], "namespace");
    for page in ["/", "/docs"] {
        let (status, body) = get(&address, page, WAIT).await.unwrap();
        assert_eq!(status, 200);
        assert!(body.starts_with(b"<!DOCTYPE html>"));
    }
    let (_, body) = get(&address, "/metrics", WAIT).await.unwrap();
    assert!(String::from_utf8(body).unwrap().contains("\npohmelfs_ready 1\n"));
    server.stop().await;
    assert!(get(&address, "/healthz", WAIT).await.is_err());
}

#[tokio::test]
async fn readiness_is_503_with_the_reason_and_liveness_is_not() {
    let (fake, _server, address) = start().await;
    let (status, body) = json(&address, "/readyz").await;
    assert_eq!((status, &body["reason"]), (503, &"no leader is known yet".into()));
    assert_eq!(json(&address, "/healthz").await.0, 200);
    fake.ready.store(true, Ordering::Relaxed);
    assert_eq!(json(&address, "/readyz").await.0, 200);
}

#[tokio::test]
async fn errors_are_json_with_code_and_hint() {
    let (fake, _server, address) = start().await;
    fake.no_cluster.store(true, Ordering::Relaxed);
    let told = serde_json::json!({"code": 3001, "error": "no metadata server answers", "hint": "start one"});
    assert_eq!(json(&address, "/cluster").await, (503, told));
    let (status, body) = json(&address, "/lookup?path=/none").await;
    assert_eq!((status, &body["code"]), (404, &1002.into()));
    assert_eq!(json(&address, "/nowhere").await.0, 404);
    assert_eq!(json(&address, "/lookup").await.0, 400);
    assert_eq!(json(&address, "/lookup?path=relative").await.1["code"], 2905);
    assert_eq!(json(&address, &format!("/lookup?path=/{}", "a".repeat(13_000))).await.0, 414);
}

#[tokio::test]
async fn a_path_arrives_byte_for_byte() {
    let (_, _server, address) = start().await;
    assert_eq!(json(&address, "/lookup?path=/a%ff+%25").await.1["path"], "/a%FF+%25");
}

#[tokio::test]
async fn only_get_is_taken_and_garbage_harms_nobody() {
    let (_, _server, address) = start().await;
    let said = |request: Vec<u8>| {
        let address = address.clone();
        async move {
            let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
            // The server may close before it has read everything: what counts is that it goes on serving.
            let _ = stream.write_all(&request).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        }
    };
    let answer = said(b"POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    said(b"\x00\x01garbage\r\n\r\n".to_vec()).await;
    said([b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 1 << 20]].concat()).await;
    assert_eq!(json(&address, "/healthz").await.0, 200);
}

/// For looking at the pages: `POHMELFS_PAGE=127.0.0.1:8999 cargo test --lib http::tests::page -- --ignored`.
#[tokio::test]
#[ignore = "serves until killed; for looking at the pages with a browser"]
async fn page_for_people() {
    let listen = std::env::var("POHMELFS_PAGE").unwrap();
    let server = HttpServer::start(&listen, Arc::new(Fake::default()), None).await.unwrap();
    tokio::signal::ctrl_c().await.unwrap();
    server.stop().await;
}
