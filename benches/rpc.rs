//! Calls a second of one channel and one server in one process over loopback, and the rate of 4 MiB payloads.
//!
//! `cargo bench --bench rpc`. Callers ask small questions, one after the other, all over one connection; the
//! handler answers either at once or after a turn of the scheduler.

use std::time::Duration;

use bytes::Bytes;
use pohmelfs::net::{Channel, ChannelOptions, Handler, Limits, PeerInfo, Reply, Request, Server};
use pohmelfs::runtime::{Tasks, now, sleep, spawn, yield_now};
use pohmelfs::types::NodeAddress;
use pohmelfs::wire::{Class, Hello, Role, RpcError};

const AT_ONCE: u16 = 0x100;
const AFTER_A_TURN: u16 = 0x101;
const SWALLOW: u16 = 0x102;
const SPOUT: u16 = 0x103;
const BLOCK_LEN: usize = 4 << 20;
const RUN: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(10);

struct Echo(Bytes);

impl Handler for Echo {
    async fn handle(&self, _from: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        match request.kind {
            AFTER_A_TURN => yield_now().await,
            SWALLOW => return Ok(Reply::default()),
            SPOUT => return Ok(Reply { payload: self.0.clone(), ..Reply::default() }),
            _ => {}
        }
        Ok(Reply { meta: request.meta, payload: request.payload, payload_crc: None })
    }
}

/// Calls a second of `callers` callers.
async fn rate(channel: &Channel, callers: usize, kind: u16, meta: usize, payload: &Bytes) -> f64 {
    let until = now() + RUN;
    let began = now();
    let workers: Vec<_> = (0..callers)
        .map(|_| {
            let (channel, payload) = (channel.clone(), payload.clone());
            spawn("bench-caller", async move {
                let mut count = 0u64;
                while now() < until {
                    channel.call(kind, vec![7; meta], payload.clone(), DEADLINE).await.expect("call");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for worker in workers {
        count += worker.await.expect("a caller that ends");
    }
    count as f64 / (now() - began).as_secs_f64()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let tasks = Tasks::new();
    let block = Bytes::from(vec![42; BLOCK_LEN]);
    let any = NodeAddress("127.0.0.1:0".into());
    let hello = Hello::new(Role::Meta, "bench");
    let server =
        Server::bind(&any, hello, Echo(block.clone()), Limits::default(), &tasks).await.expect("bind");
    let address = NodeAddress(server.local_addr().to_string());
    let connect = |class| {
        Channel::new(address.clone(), Hello::new(Role::Client, "bench"), class, ChannelOptions::default())
    };
    let channel = connect(Class::Metadata);
    for (name, kind) in [("answered at once", AT_ONCE), ("answered after a turn", AFTER_A_TURN)] {
        for callers in [1, 16, 64, 256] {
            let rate = rate(&channel, callers, kind, 64, &Bytes::new()).await;
            println!("{name:24} {callers:4} callers {rate:10.0} calls/s");
        }
    }
    let bulk = connect(Class::Bulk);
    for (name, kind, payload) in [("4 MiB written", SWALLOW, block), ("4 MiB read", SPOUT, Bytes::new())] {
        for callers in [1, 4] {
            let rate = rate(&bulk, callers, kind, 64, &payload).await * BLOCK_LEN as f64 / 1e6;
            println!("{name:24} {callers:4} callers {rate:10.0} MB/s");
        }
    }
    drop((channel, bulk));
    sleep(Duration::from_millis(1)).await;
    tasks.stop().await;
}
