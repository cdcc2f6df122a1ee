//! Load for etcd: puts and linearizable gets over its v3 API, for the comparison in `scripts/bench-meta`.
//!
//! Speaks gRPC by hand (`tests/common/grpc.rs`), so that nothing but etcd itself is measured. Callers are spread over all members; each has one call in flight. Not here: starting etcd, our own figures.
//!
//! ```text
//! etcd --endpoints 127.0.0.1:2379,127.0.0.1:2381,127.0.0.1:2383 --callers 1,16,64,256 --seconds 5
//! prints: OP CALLERS PER_SECOND MEDIAN_US P99_US
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool for developers: a panic says what is wrong"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use grpc::{SendRequest, field};

#[path = "../tests/common/grpc.rs"]
mod grpc;

/// Connections to each member at most: more callers share them, as the streams of HTTP/2 are meant to.
const CONNECTIONS_MAX: usize = 16;
/// About what a small file's records take.
const VALUE_LEN: usize = 128;
/// Before the gets.
const REST: Duration = Duration::from_secs(4);
/// Keys that gets choose from.
const KEY_COUNT: u64 = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Put,
    Get,
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut endpoints, mut callers, mut seconds) = (Vec::new(), vec![1, 16, 64, 256], 5);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--endpoints" => endpoints = value().split(',').map(str::to_owned).collect(),
            "--callers" => callers = value().split(',').map(|c| c.parse().unwrap()).collect(),
            "--seconds" => seconds = value().parse().unwrap(),
            // `cargo bench` and `cargo test --benches` say so to every target.
            "--bench" | "--test" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    if endpoints.is_empty() {
        println!("nothing to measure: give --endpoints (see scripts/bench-meta)");
        return;
    }
    fill(&endpoints).await;
    // As `pohmelfs bench meta` does: what puts leave to be written behind is not measured with gets.
    tokio::time::sleep(REST).await;
    for op in [Op::Get, Op::Put] {
        for &count in &callers {
            measure(&endpoints, op, count, Duration::from_secs(seconds)).await;
        }
    }
}

async fn connect(address: &str) -> SendRequest<Bytes> {
    grpc::connect(address).await.unwrap()
}

/// One call; its answer is taken whole, and its status must be 0.
async fn call(send: &SendRequest<Bytes>, op: Op, key: &str, value: &[u8]) {
    let mut message = BytesMut::new();
    field(&mut message, 1, key.as_bytes());
    let path = match op {
        Op::Put => {
            field(&mut message, 2, value);
            grpc::PUT
        }
        // A range over one key; without the flag `serializable` it is linearizable.
        Op::Get => grpc::RANGE,
    };
    let answer = grpc::call(send, path, &message).await.unwrap();
    assert!(!answer.is_empty(), "etcd answered nothing");
}

/// Makes the keys that gets read.
async fn fill(endpoints: &[String]) {
    let send = connect(&endpoints[0]).await;
    let next = Arc::new(AtomicU64::new(0));
    let fillers = (0..64).map(|_| {
        let (send, next) = (send.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= KEY_COUNT {
                    return;
                }
                call(&send, Op::Put, &format!("get-{key}"), &[b'v'; VALUE_LEN]).await;
            }
        })
    });
    for filler in fillers.collect::<Vec<_>>() {
        filler.await.unwrap();
    }
}

async fn measure(endpoints: &[String], op: Op, callers: usize, time: Duration) {
    let mut connections = Vec::new();
    for connection in 0..callers.min(CONNECTIONS_MAX * endpoints.len()) {
        connections.push(connect(&endpoints[connection % endpoints.len()]).await);
    }
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let send = connections[caller % connections.len()].clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                let mut random = (caller as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                while began.elapsed() < time {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let key = match op {
                        Op::Put => format!("put-{caller}-{}", took.len()),
                        Op::Get => format!("get-{}", (random >> 33) % KEY_COUNT),
                    };
                    let call_began = Instant::now();
                    call(&send, op, &key, &[b'v'; VALUE_LEN]).await;
                    took.push(call_began.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    let elapsed = began.elapsed().as_secs_f64();
    took.sort();
    let name = if op == Op::Put { "put" } else { "get" };
    let (median, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = took.len() as f64 / elapsed;
    println!("{name} {callers} {rate:.0} {} {}", median.as_micros(), p99.as_micros());
}
