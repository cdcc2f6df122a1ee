//! Channels and servers over real sockets: what they promise when all goes well, and when nothing does.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]
#![allow(clippy::cast_possible_truncation, reason = "patterns of bytes are cut to bytes")]

mod limits;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pohmelfs::net::{Channel, ChannelOptions, Handler, Limits, PeerInfo, Reply, Request, Server};
use pohmelfs::runtime::{Tasks, spawn, timeout, yield_now};
use pohmelfs::types::{ClusterId, NodeAddress, NodeId, codec};
use pohmelfs::wire::frame::{Decoder, Flags, Frame, Header, KIND_HELLO, PAYLOAD_LEN_MAX, widest};
use pohmelfs::wire::{Applied, Class, Greeting, Hello, PROTOCOL_VERSION, Role, RpcError, VersionRange};
use proptest::prelude::{ProptestConfig, any as arbitrary, proptest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Long enough for a loaded machine; nothing that passes waits for it.
const LONG: Duration = Duration::from_secs(30);

const ECHO: u16 = 0x100;
const ECHO_LATER: u16 = 0x101;
/// Waits for a permit of the gate.
const GATED: u16 = 0x102;
const PANIC: u16 = 0x103;
const PANIC_LATER: u16 = 0x104;
const REFUSE: u16 = 0x105;
const TOO_LONG: u16 = 0x106;
/// Allowed one byte of meta and two of payload.
const TINY: u16 = 0x107;
/// Answered with a MiB, at once and after a moment.
const LARGE: u16 = 0x108;
const LARGE_LATER: u16 = 0x109;

struct Inside {
    gate: Semaphore,
    /// Gated handlers that run.
    waiting: AtomicUsize,
    /// Large replies made.
    made: AtomicUsize,
}

#[derive(Clone)]
struct Rig(Arc<Inside>);

struct Here(Arc<Inside>);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Rig {
    async fn handle(&self, _from: &PeerInfo, request: Request) -> Result<Reply, RpcError> {
        match request.kind {
            ECHO_LATER => yield_now().await,
            GATED => {
                self.0.waiting.fetch_add(1, Ordering::SeqCst);
                let _here = Here(self.0.clone());
                self.0.gate.acquire().await.expect("open gate").forget();
            }
            PANIC => panic!("as asked"),
            PANIC_LATER => {
                yield_now().await;
                panic!("as asked")
            }
            LARGE | LARGE_LATER => {
                if request.kind == LARGE_LATER {
                    yield_now().await;
                }
                self.0.made.fetch_add(1, Ordering::SeqCst);
                return Ok(Reply { meta: vec![7; 1 << 20].into(), ..Reply::default() });
            }
            REFUSE => return Err(RpcError::NotReady { reason: "as asked".into() }),
            TOO_LONG => {
                return Ok(Reply {
                    meta: Bytes::new(),
                    payload: vec![0; PAYLOAD_LEN_MAX as usize + 1].into(),
                    payload_crc: None,
                });
            }
            _ => {}
        }
        Ok(Reply { meta: request.meta, payload: request.payload, payload_crc: None })
    }
}

struct Setup {
    tasks: Tasks,
    server: Server,
    rig: Rig,
}

fn any() -> NodeAddress {
    NodeAddress("127.0.0.1:0".into())
}

async fn serve_at(address: NodeAddress, limits: Limits) -> Setup {
    serve_as(address, limits, VersionRange::OURS).await
}

async fn serve_as(address: NodeAddress, limits: Limits, versions: VersionRange) -> Setup {
    let tasks = Tasks::new();
    let rig = Rig(Arc::new(Inside {
        gate: Semaphore::new(0),
        waiting: AtomicUsize::new(0),
        made: AtomicUsize::new(0),
    }));
    let hello = Hello {
        cluster: Some(ClusterId(7)),
        node: Some(NodeId(1)),
        versions,
        ..Hello::new(Role::Meta, "meta-1")
    };
    let frame_limit = |kind| if kind == TINY { (1, 2) } else { widest(kind) };
    let limits = Limits { frame_limit, ..limits };
    let server = Server::bind(&address, hello, rig.clone(), limits, &tasks).await.unwrap();
    Setup { tasks, server, rig }
}

async fn serve() -> Setup {
    serve_at(any(), Limits::default()).await
}

impl Setup {
    fn address(&self) -> NodeAddress {
        NodeAddress(self.server.local_addr().to_string())
    }

    fn channel(&self) -> Channel {
        self.channel_with(Hello::new(Role::Client, "test"), ChannelOptions::default())
    }

    fn channel_with(&self, hello: Hello, options: ChannelOptions) -> Channel {
        Channel::new(self.address(), hello, Class::Metadata, options)
    }

    async fn waiting(&self, count: usize) {
        until(|| self.rig.0.waiting.load(Ordering::SeqCst) == count).await;
    }
}

/// Yields until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, wait).await.expect("the condition comes true");
}

async fn echo(channel: &Channel, kind: u16, text: &str) -> Result<Reply, RpcError> {
    channel.call(kind, text.as_bytes().to_vec(), Bytes::new(), LONG).await
}

async fn assert_serves(setup: &Setup) {
    assert_eq!(&echo(&setup.channel(), ECHO, "alive").await.unwrap().meta[..], b"alive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_calls_get_their_own_answers() {
    let setup = serve().await;
    let channel = setup.channel();
    let calls: Vec<_> = (0..10_000u32)
        .map(|n| {
            let channel = channel.clone();
            spawn("caller", async move {
                let kind = if n % 3 == 0 { ECHO_LATER } else { ECHO };
                let payload = Bytes::from(vec![n as u8; (n as usize * 7) % 20_000]);
                let reply =
                    channel.call(kind, n.to_le_bytes().to_vec(), payload.clone(), LONG).await.unwrap();
                reply.meta[..] == n.to_le_bytes() && reply.payload == payload
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await, Some(true));
    }
    assert!(channel.latency().is_some());
    assert_eq!((channel.peer_cluster(), channel.peer_node()), (Some(ClusterId(7)), Some(NodeId(1))));
    setup.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_payloads_arrive_whole_both_ways() {
    let setup = serve().await;
    let channel =
        Channel::new(setup.address(), Hello::new(Role::Client, "t"), Class::Bulk, ChannelOptions::default());
    let calls: Vec<_> = [4 << 20, (4 << 20) + (64 << 10), 1, 8191, 8193, 65_537, 3_000_001, 4 << 20]
        .into_iter()
        .map(|len: usize| {
            let channel = channel.clone();
            spawn("caller", async move {
                let payload: Bytes =
                    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
                let meta = vec![9; len / 64];
                let reply = channel.call(ECHO, meta.clone(), payload.clone(), LONG).await.unwrap();
                assert!(reply.payload == payload && reply.meta == meta);
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await, Some(()));
    }
    let too_long = Bytes::from(vec![0; PAYLOAD_LEN_MAX as usize + 1]);
    let refused = channel.call(ECHO, Vec::new(), too_long, LONG).await.unwrap_err();
    assert!(matches!(refused, RpcError::Refused { .. }));
}

#[tokio::test]
async fn errors_and_panics_of_a_handler_reach_its_caller_alone() {
    let setup = serve().await;
    let channel = setup.channel();
    let refused = echo(&channel, REFUSE, "").await.unwrap_err();
    assert_eq!(refused, RpcError::NotReady { reason: "as asked".into() });
    for kind in [PANIC, PANIC_LATER, TOO_LONG] {
        assert!(matches!(echo(&channel, kind, "").await, Err(RpcError::Internal { .. })));
    }
    assert!(echo(&channel, ECHO, "alive").await.is_ok());
    assert_eq!(setup.server.connection_count(), 1);
}

#[tokio::test]
async fn a_break_fails_every_call_in_flight_at_once() {
    let setup = serve().await;
    let channel = setup.channel();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let channel = channel.clone();
            spawn("caller", async move { echo(&channel, GATED, "").await })
        })
        .collect();
    setup.waiting(50).await;
    // No time for the handlers to finish: the connections are cut.
    setup.tasks.stop_within(Duration::ZERO).await;
    for call in calls {
        let error = timeout(LONG / 2, call).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error, RpcError::Disconnected { peer: setup.address(), applied: Applied::Maybe });
    }
    // The handlers went with their connection.
    setup.waiting(0).await;
}

#[tokio::test]
async fn a_dead_peer_fails_fast_and_one_that_is_back_serves_again() {
    let setup = serve().await;
    let address = setup.address();
    let channel = setup.channel();
    assert!(echo(&channel, ECHO, "first").await.is_ok());
    setup.tasks.stop().await;
    until(|| !channel.is_connected()).await;
    let error = echo(&channel, ECHO, "dead").await.unwrap_err();
    assert!(matches!(error, RpcError::Unreachable { .. }), "{error}");
    assert_eq!(error.applied(), Applied::No);
    let _back = serve_at(address, Limits::default()).await;
    timeout(LONG, async {
        while echo(&channel, ECHO, "back").await.is_err() {
            yield_now().await
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_gives_its_slot_back() {
    let setup = serve().await;
    let options = ChannelOptions { in_flight_max: 2, ..ChannelOptions::default() };
    let channel = setup.channel_with(Hello::new(Role::Client, "t"), options);
    let start = || {
        let channel = channel.clone();
        spawn("caller", async move { echo(&channel, GATED, "x").await })
    };
    for _ in 0..20 {
        let (first, second) = (start(), start());
        setup.waiting(2).await;
        // The window is full: a third call waits, and its own deadline ends it unsent.
        let full = channel.call(ECHO, Vec::new(), Bytes::new(), Duration::from_millis(5)).await.unwrap_err();
        assert!(matches!(full, RpcError::TimedOut { applied: Applied::No, .. }), "{full}");
        drop((first, second));
        setup.waiting(0).await;
        assert!(echo(&channel, ECHO, "free again").await.is_ok());
    }
    until(|| channel.in_flight() == 0 && setup.server.in_flight() == 0).await;
}

#[tokio::test]
async fn a_call_past_its_deadline_is_cancelled_at_the_server_too() {
    let setup = serve().await;
    let channel = setup.channel();
    let late = channel.call(GATED, Vec::new(), Bytes::new(), Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(late, RpcError::TimedOut { applied: Applied::Maybe, .. }), "{late}");
    setup.waiting(0).await;
    assert!(echo(&channel, ECHO, "alive").await.is_ok());
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = NodeAddress(listener.local_addr().unwrap().to_string());
    let options = ChannelOptions { connect_timeout: Duration::from_millis(50), ..ChannelOptions::default() };
    let channel = Channel::new(address, Hello::new(Role::Client, "t"), Class::Metadata, options);
    let error = timeout(LONG, echo(&channel, ECHO, "")).await.unwrap().unwrap_err();
    assert!(matches!(error, RpcError::Unreachable { .. }), "{error}");
}

/// A server that greets and then never answers (a stopped process, say): its calls end at their deadline, and
/// the connection is given up, so that other calls do not wait for theirs.
#[tokio::test]
async fn a_peer_that_falls_silent_times_out_and_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = NodeAddress(listener.local_addr().unwrap().to_string());
    let _silent = spawn("silent", async move {
        let mut kept = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut raw = Raw { stream, buffer: BytesMut::new(), decoder: Decoder::new(widest) };
            let hello = raw.read().await.unwrap();
            let mut greeting = Greeting::decode(&hello.meta).unwrap();
            greeting.credits = 16;
            raw.send(Flags::RESPONSE, KIND_HELLO, 0, &greeting.encode(), &[]).await;
            kept.push(raw);
        }
    });
    let options = ChannelOptions { silence_timeout: Duration::from_millis(20), ..ChannelOptions::default() };
    let channel = Channel::new(address, Hello::new(Role::Client, "t"), Class::Metadata, options);
    let patient = spawn("patient", {
        let channel = channel.clone();
        async move { echo(&channel, ECHO, "").await }
    });
    until(|| channel.in_flight() == 1).await;
    let error = channel.call(ECHO, Vec::new(), Bytes::new(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, RpcError::TimedOut { .. }), "{error}");
    let error = timeout(LONG / 2, patient).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, RpcError::Disconnected { .. }), "{error}");
}

#[tokio::test]
async fn more_requests_than_the_server_takes_get_busy() {
    let setup = serve_at(any(), Limits { in_flight_max: 3, ..Limits::default() }).await;
    let channel = setup.channel();
    let start = || {
        let channel = channel.clone();
        spawn("caller", async move { echo(&channel, GATED, "x").await })
    };
    let held = [start(), start(), start()];
    setup.waiting(3).await;
    assert!(matches!(echo(&channel, GATED, "").await, Err(RpcError::Busy { .. })));
    setup.rig.0.gate.add_permits(3);
    for call in held {
        assert!(call.await.unwrap().is_ok());
    }
    assert!(echo(&channel, ECHO, "").await.is_ok());
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let setup = serve_at(any(), Limits { connections_max: 1, ..Limits::default() }).await;
    let first = setup.channel();
    assert!(echo(&first, ECHO, "").await.is_ok());
    assert!(matches!(echo(&setup.channel(), ECHO, "").await, Err(RpcError::Busy { .. })));
    assert!(echo(&first, ECHO, "").await.is_ok());
}

#[tokio::test]
async fn another_cluster_version_or_node_is_refused_by_name() {
    let setup = serve().await;
    let call = async |hello: Hello, options: ChannelOptions| {
        echo(&setup.channel_with(hello, options), ECHO, "").await.unwrap_err()
    };
    let hello = Hello::new(Role::Data, "data-1");
    let other = Hello { cluster: Some(ClusterId(8)), ..hello.clone() };
    assert_eq!(
        call(other, ChannelOptions::default()).await,
        RpcError::WrongCluster { caller: ClusterId(8), server: ClusterId(7) }
    );
    let versions = VersionRange { first: 0, last: 0 };
    let old = Hello { versions, ..hello.clone() };
    assert_eq!(
        call(old, ChannelOptions::default()).await,
        RpcError::WrongVersion { caller: versions, server: VersionRange::OURS }
    );
    let options = ChannelOptions { node: Some(NodeId(5)), ..ChannelOptions::default() };
    assert_eq!(call(hello, options).await, RpcError::WrongNode { expected: NodeId(5), found: NodeId(1) });
    assert_serves(&setup).await;
}

/// A socket without the manners of a channel.
struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
    decoder: Decoder,
}

impl Raw {
    async fn connect(setup: &Setup) -> Self {
        let stream = TcpStream::connect(setup.server.local_addr()).await.unwrap();
        Self { stream, buffer: BytesMut::new(), decoder: Decoder::new(widest) }
    }

    async fn greeted(setup: &Setup) -> Self {
        let mut raw = Self::connect(setup).await;
        raw.greet(8).await;
        raw
    }

    async fn greet(&mut self, credits: u32) {
        let greeting = Greeting { hello: Hello::new(Role::Client, "raw"), class: Class::Metadata, credits };
        self.send(Flags::REQUEST, KIND_HELLO, 0, &greeting.encode(), &[]).await;
        let answer = self.read().await.expect("an answer to the hello");
        assert_eq!((answer.header.kind, answer.header.flags), (KIND_HELLO, Flags::RESPONSE));
        assert_eq!(Greeting::decode(&answer.meta).unwrap().credits, credits);
    }

    async fn send(&mut self, flags: Flags, kind: u16, id: u64, meta: &[u8], payload: &[u8]) {
        self.send_bytes(&frame(flags, kind, id, meta, payload)).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        // The server may have closed already; what it said before is still to be read.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next frame; None at the end of the connection.
    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buffer).expect("servers send good frames") {
                return Some(frame);
            }
            let read = timeout(LONG, self.stream.read_buf(&mut self.buffer)).await.expect("no hang");
            if !read.is_ok_and(|count| count > 0) {
                return None;
            }
        }
    }

    /// The error frame that must come, and then the end.
    async fn read_error(&mut self) -> (u64, RpcError) {
        let frame = self.read().await.expect("an error frame");
        assert!(frame.header.flags.has(Flags::ERROR));
        assert_eq!(self.read().await, None);
        (frame.header.id, codec::decode(&frame.meta).unwrap())
    }
}

fn frame(flags: Flags, kind: u16, id: u64, meta: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = Header::over(PROTOCOL_VERSION, kind, flags, id, meta, payload).unwrap();
    [&Header { deadline_ms: 60_000, ..header }.encode()[..], meta, payload].concat()
}

/// Each of these was once all it took to bring some server down.
#[tokio::test]
async fn a_malformed_frame_is_answered_and_ends_its_connection_only() {
    let setup = serve().await;
    let witness = setup.channel();
    let held = spawn("caller", {
        let channel = witness.clone();
        async move { echo(&channel, GATED, "held").await }
    });
    setup.waiting(1).await;

    let good = frame(Flags::REQUEST, ECHO, 5, b"meta", b"payload");
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let oversized = |meta_len, payload_len| {
        let header = Header::over(1, ECHO, Flags::REQUEST, 5, &[], &[]).unwrap();
        Header { meta_len, payload_len, ..header }.encode().to_vec()
    };
    let old = Header { version: 0, ..Header::over(1, ECHO, Flags::REQUEST, 5, &[], &[]).unwrap() };
    let hello = Greeting { hello: Hello::new(Role::Client, "raw"), class: Class::Bulk, credits: 8 }.encode();
    let cases: Vec<(&str, Vec<u8>, u64)> = vec![
        ("wrong magic", flipped(0), 0),
        ("corrupt header", flipped(13), 0),
        ("corrupt meta", flipped(45), 5),
        ("corrupt payload", flipped(50), 5),
        ("meta too long", oversized(u32::MAX, 0), 0),
        ("payload too long", oversized(0, PAYLOAD_LEN_MAX + 1), 0),
        ("too long for its kind", frame(Flags::REQUEST, TINY, 5, b"12", b""), 0),
        ("old version", old.encode().to_vec(), 5),
        ("unknown flags", frame(Flags(64), ECHO, 5, b"", b""), 0),
        ("a reply", frame(Flags::RESPONSE, ECHO, 5, b"", b""), 5),
        ("a second hello", frame(Flags::REQUEST, KIND_HELLO, 5, &hello, b""), 5),
        (
            "an id twice",
            [frame(Flags::REQUEST, GATED, 5, b"", b""), frame(Flags::REQUEST, GATED, 5, b"", b"")].concat(),
            5,
        ),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 0),
    ];
    for (what, bytes, id) in &cases {
        let mut raw = Raw::greeted(&setup).await;
        raw.send_bytes(bytes).await;
        let (found, error) = raw.read_error().await;
        assert!(matches!(error, RpcError::BadFrame { .. }), "{what}: {error}");
        assert_eq!(found, *id, "{what}");
    }
    for (what, bytes, _) in &cases {
        if *what == "a second hello" {
            continue;
        }
        let mut raw = Raw::connect(&setup).await;
        raw.send_bytes(bytes).await;
        let (_, error) = raw.read_error().await;
        assert!(matches!(error, RpcError::BadFrame { .. }), "{what} instead of a hello: {error}");
    }
    let mut raw = Raw::connect(&setup).await;
    raw.send(Flags::REQUEST, KIND_HELLO, 0, &hello[..20], &[]).await;
    assert!(matches!(raw.read_error().await.1, RpcError::BadFrame { .. }));

    // What came before a bad frame is answered.
    let mut raw = Raw::greeted(&setup).await;
    raw.send_bytes(&[good.clone(), flipped(0)].concat()).await;
    assert_eq!(raw.read().await.map(|frame| frame.meta), Some(Bytes::from_static(b"meta")));
    assert!(matches!(raw.read_error().await.1, RpcError::BadFrame { .. }));

    setup.rig.0.gate.add_permits(1);
    assert_eq!(&held.await.unwrap().unwrap().meta[..], b"held");
    assert_eq!(setup.server.in_flight(), 0);
}

#[tokio::test]
async fn a_connection_that_stops_within_a_frame_is_closed_and_an_idle_one_is_not() {
    let setup =
        serve_at(any(), Limits { stall_timeout: Duration::from_millis(40), ..Limits::default() }).await;
    let idle = setup.channel();
    assert!(echo(&idle, ECHO, "").await.is_ok());
    let mut silent = Raw::connect(&setup).await;
    let mut amid = Raw::greeted(&setup).await;
    amid.send_bytes(&frame(Flags::REQUEST, ECHO, 5, b"meta", b"payload")[..46]).await;
    assert_eq!(amid.read().await, None);
    assert_eq!(silent.read().await, None);
    assert!(idle.is_connected());
}

#[tokio::test]
async fn a_request_that_wants_no_answer_gets_none() {
    let setup = serve().await;
    let mut raw = Raw::greeted(&setup).await;
    raw.send(Flags::ONE_WAY, ECHO, 1, b"", b"").await;
    raw.send(Flags::ONE_WAY, REFUSE, 2, b"", b"").await;
    raw.send(Flags::ONE_WAY.and(Flags::CANCEL), 0, 77, b"", b"").await;
    raw.send(Flags::REQUEST, ECHO, 3, b"", b"").await;
    assert_eq!(raw.read().await.unwrap().header.id, 3);
}

/// A caller that sends and never reads: the server stops reading from it, so that its memory stays bounded.
#[tokio::test]
async fn a_caller_that_takes_no_replies_is_read_no_further() {
    let setup = serve_at(any(), Limits { stall_timeout: Duration::from_secs(2), ..Limits::default() }).await;
    let mut raw = Raw::greeted(&setup).await;
    let bytes = frame(Flags::REQUEST, ECHO, 1, b"", &vec![1; 4 << 20]);
    let flood = async {
        let mut sent = 0;
        while raw.stream.write_all(&bytes).await.is_ok() {
            sent += 1;
        }
        sent
    };
    // The bound is four blocks; the sockets hold some more. Then nothing is taken any more, until the server
    // closes a peer that takes nothing itself. The stall is long enough that without the bound more would pass.
    let sent = timeout(LONG, flood).await.expect("the flood ends");
    assert!(sent < 16, "{sent} blocks were taken");
    until(|| setup.server.connection_count() == 0).await;
    assert_serves(&setup).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn random_bytes_never_stop_a_server(noise in proptest::collection::vec(arbitrary::<u8>(), 0..300), greet: bool, magic: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let setup = serve().await;
            let mut raw = if greet { Raw::greeted(&setup).await } else { Raw::connect(&setup).await };
            if magic {
                raw.send_bytes(b"PHMF").await;
            }
            raw.send_bytes(&noise).await;
            raw.stream.shutdown().await.unwrap();
            while raw.read().await.is_some() {}
            until(|| setup.server.connection_count() == 0).await;
            assert_serves(&setup).await;
        });
    }
}
