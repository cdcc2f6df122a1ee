//! What crosses a socket, apart from what it leads to.

use std::fmt::Debug;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::meta::raft::fuzz as raft;
use crate::types::*;
use crate::wire::frame::{Decoder, Flags, HEADER_LEN, Header, KIND_HELLO, widest};
use crate::wire::message::*;
use crate::wire::status::{ClusterStatus, ServerStatus};
use crate::wire::{Applied, Class, Greeting, Hello, Role, RpcError};

/// Decodes a `T`; what was understood is said again and understood as the same.
pub(super) fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> Option<T> {
    let value: T = codec::decode(input).ok()?;
    let said = codec::encode(&value).expect("what was decoded can be encoded");
    assert_eq!(codec::decode::<T>(&said).expect("what was encoded can be decoded"), value);
    Some(value)
}

pub(super) fn encoded<T: Serialize>(values: impl IntoIterator<Item = T>) -> Vec<Vec<u8>> {
    values.into_iter().filter_map(|value| codec::encode(&value).ok()).collect()
}

/// A stream of frames that arrives in pieces, whose length the first byte tells; as it is, and with the checksums of the
/// first header and its parts set right.
pub(super) fn frame(input: &[u8]) {
    let Some((&piece, stream)) = input.split_first() else { return };
    for stream in [stream.to_vec(), resealed(stream)] {
        let mut decoder = Decoder::new(widest);
        let mut buffer = BytesMut::new();
        let mut taken = 0;
        for piece in stream.chunks(usize::from(piece).max(1)) {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.next(&mut buffer) {
                    Ok(Some(frame)) => {
                        taken += HEADER_LEN + frame.header.body_len();
                        let header = frame.header.encode();
                        assert_eq!(Header::decode(&header, widest), Ok(frame.header));
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            assert!(decoder.lacking(&buffer) > 0, "it waits for something");
        }
        assert!(taken <= stream.len());
    }
}

fn resealed(stream: &[u8]) -> Vec<u8> {
    let mut out = stream.to_vec();
    let Some((header, body)) = out.split_first_chunk_mut::<HEADER_LEN>() else { return out };
    let len_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let meta_len = (len_at(24) as usize).min(body.len());
    let payload_len = (len_at(28) as usize).min(body.len() - meta_len);
    header[..4].copy_from_slice(b"PHMF");
    header[32..36].copy_from_slice(&crc32c::crc32c(&body[..meta_len]).to_le_bytes());
    header[36..40].copy_from_slice(&crc32c::crc32c(&body[meta_len..meta_len + payload_len]).to_le_bytes());
    let crc = crc32c::crc32c(&header[..40]);
    header[40..44].copy_from_slice(&crc.to_le_bytes());
    out
}

pub(super) fn frame_seeds() -> Vec<Vec<u8>> {
    let frame = |kind, flags, meta: &[u8], payload: &[u8]| {
        let header = Header::over(1, kind, flags, 7, meta, payload)?;
        Some([&header.encode()[..], meta, payload].concat())
    };
    let frames = [
        frame(KIND_HELLO, Flags::REQUEST, &greeting().encode(), &[]),
        frame(kind::DATA, Flags::REQUEST, b"meta", b"payload"),
        frame(kind::META, Flags::RESPONSE.and(Flags::ERROR), b"meta", &[]),
        frame(kind::META, Flags::CANCEL, &[], &[]),
    ];
    let all: Vec<u8> = frames.into_iter().flatten().flatten().collect();
    [1, 40, 255].map(|piece| [&[piece][..], &all].concat()).to_vec()
}

fn greeting() -> Greeting {
    let mut hello = Hello::new(Role::Meta, "meta-1");
    hello.cluster = Some(ClusterId(7));
    hello.node = Some(NodeId(1));
    Greeting { hello, class: Class::Metadata, credits: 64 }
}

pub(super) fn hello(input: &[u8]) {
    if let Ok(heard) = Greeting::decode(input) {
        assert_eq!(Greeting::decode(&heard.encode()).as_ref(), Ok(&heard));
        drop(greeting().hello.admit(&heard.hello));
    }
}

pub(super) fn hello_seeds() -> Vec<Vec<u8>> {
    let client = Greeting { hello: Hello::new(Role::Client, ""), class: Class::Bulk, credits: 0 };
    vec![greeting().encode(), client.encode()]
}

pub(super) fn rpc_error(input: &[u8]) {
    if let Some(error) = again::<RpcError>(input) {
        assert!((2000..5000).contains(&error.code()) || matches!(error, RpcError::Other { .. }));
        drop(error.to_string());
    }
}

pub(super) fn rpc_error_seeds() -> Vec<Vec<u8>> {
    let peer = || NodeAddress("meta-1:7000".into());
    encoded([
        RpcError::TimedOut { peer: peer(), after: Duration::from_millis(1500), applied: Applied::Maybe },
        RpcError::Unreachable { peer: peer(), reason: "refused".into() },
        RpcError::BlockNotFound { block: BlockId { session: SessionId(4), index: 2 } },
        RpcError::Other {
            code: 4999,
            text: "new".into(),
            retry: RetryClass::RefreshMap,
            applied: Applied::No,
        },
    ])
}

/// What a client and a server take from a metadata server.
pub(super) fn meta_reply(input: &[u8]) {
    match again::<MetaReply>(input) {
        Some(MetaReply::Status(json)) => {
            drop(serde_json::from_str::<ClusterStatus>(&json));
            drop(serde_json::from_str::<ServerStatus>(&json));
        }
        Some(MetaReply::Registered { map, .. }) => {
            let members = map.groups.keys().flat_map(|group| map.members(*group));
            assert!(members.count() <= input.len(), "no more than was said");
        }
        _ => {}
    }
}

pub(super) fn meta_reply_seeds() -> Vec<Vec<u8>> {
    let epoch = Epoch(3);
    let id = BlockId { session: SessionId(4), index: 2 };
    let block = BlockRef { id, group: GroupId(1), len: 5, checksum: Checksum(6) };
    encoded([
        MetaReply::Updated { result: Err(FsError::Exists), epoch },
        MetaReply::Answered {
            result: Ok(QueryReply::Target(bytes::Bytes::from_static(b"target"))),
            epoch,
            addresses: vec![(NodeId(1), NodeAddress("d:1".into()))],
            as_of: Some(LogIndex(9)),
        },
        MetaReply::Registered {
            cluster: ClusterId(1),
            map: Box::new(ClusterMap { cluster: ClusterId(1), epoch, ..ClusterMap::default() }),
        },
        MetaReply::Blocks { blocks: vec![block], next: Some(id) },
        MetaReply::Fates(vec![BlockFate::Garbage, BlockFate::Pending]),
        MetaReply::Status(serde_json::to_string(&ClusterStatus::default()).unwrap_or_default()),
    ])
}

/// What a data server is asked and answers.
pub(super) fn data_message(input: &[u8]) {
    drop(again::<DataRequest>(input));
    if let Some(DataReply::Status(json)) = again::<DataReply>(input) {
        drop(serde_json::from_str::<ServerStatus>(&json));
    }
}

pub(super) fn data_message_seeds() -> Vec<Vec<u8>> {
    let id = BlockId { session: SessionId(4), index: 2 };
    let block = BlockRef { id, group: GroupId(1), len: 5, checksum: Checksum(6) };
    let requests = encoded([
        DataRequest::Put { id, checksum: Checksum(7) },
        DataRequest::Get { block, offset: 1, len: 2 },
        DataRequest::Verify { blocks: vec![block], deep: true },
        DataRequest::List { after: Some(id), limit: 9 },
    ]);
    let replies = encoded([
        DataReply::Verified(vec![ReplicaState::Good, ReplicaState::Corrupt]),
        DataReply::List { blocks: vec![(id, 5, Checksum(6))], capacity: Capacity::default() },
    ]);
    [requests, replies].concat()
}

pub(super) fn consensus(input: &[u8]) {
    raft::message(input);
}

pub(super) fn consensus_seeds() -> Vec<Vec<u8>> {
    raft::message_seeds()
}
