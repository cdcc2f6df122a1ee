//! What one caller does, and what that leaves to the others.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pohmelfs::net::{ChannelOptions, Limits};
use pohmelfs::runtime::timeout;
use pohmelfs::wire::frame::{Decoder, Flags, Header, KIND_HELLO, widest};
use pohmelfs::wire::{Class, Greeting, Hello, Role, RpcError, VersionRange};

use super::{
    ECHO, ECHO_LATER, GATED, LARGE, LARGE_LATER, LONG, Raw, any, echo, frame, serve, serve_as, serve_at,
    until,
};

/// Requests of some bytes whose replies have megabytes: not one more is answered than the caller takes.
#[tokio::test]
async fn small_requests_for_large_replies_are_answered_as_they_are_taken() {
    const COUNT: usize = 200;
    for kind in [LARGE, LARGE_LATER] {
        let setup = serve().await;
        let mut raw = Raw::connect(&setup).await;
        raw.greet(1000).await;
        let flood: Vec<u8> =
            (1..=COUNT as u64).flat_map(|id| frame(Flags::REQUEST, kind, id, b"", b"")).collect();
        raw.send_bytes(&flood).await;
        until(|| setup.rig.0.made.load(Ordering::SeqCst) > 0).await;
        // The flood is there whole. Another caller's turns give the server all the time it may want to answer it.
        let other = setup.channel();
        for _ in 0..50 {
            echo(&other, ECHO_LATER, "beside").await.unwrap();
        }
        let made = setup.rig.0.made.load(Ordering::SeqCst);
        assert!(made < COUNT / 2, "{made} replies of a MiB wait for a caller that takes none");
        for _ in 0..COUNT {
            assert_eq!(raw.read().await.expect("a reply").meta.len(), 1 << 20);
        }
    }
}

/// A program that waits for thousands of locks works on beside them.
#[tokio::test]
async fn calls_that_wait_take_no_place_from_others() {
    const COUNT: usize = 2000;
    let setup = serve_at(any(), Limits { in_flight_max: 8, ..Limits::default() }).await;
    let options = ChannelOptions { in_flight_max: 4, ..ChannelOptions::default() };
    let channel = setup.channel_with(Hello::new(Role::Client, "t"), options);
    let wait = || {
        let channel = channel.clone();
        tokio::spawn(async move { channel.call_waiting(GATED, Vec::new(), LONG).await })
    };
    let waiting: Vec<_> = (0..COUNT).map(|_| wait()).collect();
    setup.waiting(COUNT).await;
    assert_eq!(setup.server.in_flight(), 0);
    for _ in 0..20 {
        echo(&channel, ECHO_LATER, "beside").await.unwrap();
    }
    setup.rig.0.gate.add_permits(COUNT);
    for waits in waiting {
        waits.await.unwrap().unwrap();
    }
}

/// The flag came with version 2: a peer of before would break the connection over it.
#[tokio::test]
async fn to_a_peer_of_the_first_version_nothing_is_sent_that_came_later() {
    let first = VersionRange { first: 1, last: 1 };
    let setup = serve_as(any(), Limits::default(), first).await;
    let channel = setup.channel();
    let reply = channel.call_waiting(ECHO_LATER, b"old".to_vec(), LONG).await.unwrap();
    assert_eq!(&reply.meta[..], b"old");
    assert!(channel.is_connected());
    // And a caller of before is served by this one; it has no such flag.
    let setup = serve().await;
    let hello = Hello { versions: first, ..Hello::new(Role::Client, "old") };
    let channel = setup.channel_with(hello.clone(), ChannelOptions::default());
    assert_eq!(&echo(&channel, ECHO_LATER, "hi").await.unwrap().meta[..], b"hi");
    let mut raw = Raw::connect(&setup).await;
    let greeting = Greeting { hello, class: Class::Metadata, credits: 8 };
    raw.send(Flags::REQUEST, KIND_HELLO, 0, &greeting.encode(), &[]).await;
    assert_eq!(raw.read().await.expect("a hello").header.version, 1);
    let header = Header::over(1, ECHO, Flags::WAITS, 5, b"", b"").unwrap();
    raw.send_bytes(&header.encode()).await;
    assert!(matches!(raw.read_error().await, (5, RpcError::BadFrame { .. })));
}

/// One connection asks for all it can; another one asks for little, and gets it.
#[tokio::test]
async fn a_flood_of_requests_leaves_places_for_others() {
    let setup = serve_at(any(), Limits { in_flight_max: 16, ..Limits::default() }).await;
    let (greedy, polite) = (setup.channel(), setup.channel());
    echo(&polite, ECHO, "hello").await.unwrap();
    let flood: Vec<_> = (0..40)
        .map(|_| {
            let greedy = greedy.clone();
            tokio::spawn(async move { greedy.call(GATED, Vec::new(), Bytes::new(), LONG).await })
        })
        .collect();
    setup.waiting(12).await;
    until(|| flood.iter().filter(|call| call.is_finished()).count() == 28).await;
    for _ in 0..20 {
        echo(&polite, ECHO_LATER, "please").await.unwrap();
    }
    setup.rig.0.gate.add_permits(12);
    let mut busy = 0;
    for call in flood {
        match call.await.unwrap() {
            Ok(_) => {}
            Err(RpcError::Busy { .. }) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(busy, 28, "told so, and to ask again");
    assert_eq!(setup.server.in_flight(), 0);
}

/// Connections from one address take no more than three quarters; who was there before is not disturbed.
#[tokio::test]
async fn a_flood_of_connections_leaves_places_for_others() {
    let setup = serve_at(any(), Limits { connections_max: 8, ..Limits::default() }).await;
    let first = setup.channel();
    echo(&first, ECHO, "hello").await.unwrap();
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(Raw::connect(&setup).await);
    }
    until(|| setup.server.connection_count() == 6).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = timeout(LONG, socket.connect(setup.server.local_addr())).await.expect("no hang").unwrap();
    let mut other = Raw { stream, buffer: BytesMut::new(), decoder: Decoder::new(widest) };
    other.greet(8).await;
    other.send(Flags::REQUEST, ECHO, 9, b"other", b"").await;
    assert_eq!(&other.read().await.expect("a reply").meta[..], b"other");
    echo(&first, ECHO_LATER, "still here").await.unwrap();
    drop(flood);
    until(|| setup.server.connection_count() == 2).await;
}

/// Who asks for more than the rate waits, or is told so when it would be for too long. Servers are not held back.
#[tokio::test]
async fn a_bounded_rate_holds_clients_back() {
    let setup = serve_at(any(), Limits { rate_max: 10, ..Limits::default() }).await;
    let ask = |role| {
        let channel = setup.channel_with(Hello::new(role, "t"), ChannelOptions::default());
        let calls = (0..300).map(move |_| {
            let channel = channel.clone();
            async move { channel.call(ECHO, Vec::new(), Bytes::new(), Duration::from_millis(900)).await }
        });
        futures::future::join_all(calls)
    };
    let answers = ask(Role::Client).await;
    let (fine, held): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!(fine.len() >= 10, "a second's worth comes at once: {}", fine.len());
    let told =
        held.iter().filter_map(|held| held.as_ref().err()).find(|e| matches!(e, RpcError::TooMany { .. }));
    let told = told.expect("300 are too many").to_string();
    assert!(told.contains("more than 10 requests a second") && told.contains("127.0.0.1"), "{told}");
    assert!(ask(Role::Meta).await.iter().all(Result::is_ok), "the cluster itself is not held back");
}
