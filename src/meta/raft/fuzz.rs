//! What peers say about consensus, as a fuzzer sends it. See `crate::fuzz`.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::{
    Probed, SnapshotBegin, SnapshotEnd, SnapshotPart, SnapshotTurn, pack, pack_append, unpack, unpack_append,
};
use super::types::{Commands, LogId, RaftEntryOf, TypeConfig, Vote, read_position};
use crate::meta::Position;
use crate::types::LogIndex;

/// Decodes `meta` as a `T`; what was understood is said again in the same way.
fn again<T: Serialize + DeserializeOwned>(meta: &[u8]) {
    let Ok(message) = unpack::<T>(meta) else { return };
    let said = pack(&message).expect("what was decoded can be encoded");
    let heard: T = unpack(&said).expect("what was encoded can be decoded");
    assert_eq!(pack(&heard).expect("the same again"), said);
}

/// Every message between metadata servers; the first two bytes say how much of the input is meta, the rest is payload.
pub(crate) fn message(input: &[u8]) {
    let Some((len, rest)) = input.split_first_chunk() else { return };
    let (meta, payload) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    if let Ok(append) = unpack_append(meta, payload) {
        let text = format!("{append:?}");
        let (meta, payload) = pack_append(append).expect("what was decoded can be encoded");
        let heard = unpack_append(&meta, &payload).expect("what was encoded can be decoded");
        assert_eq!(format!("{heard:?}"), text);
    }
    again::<AppendEntriesResponse<TypeConfig>>(meta);
    again::<VoteRequest<TypeConfig>>(meta);
    again::<VoteResponse<TypeConfig>>(meta);
    again::<TransferLeaderRequest<TypeConfig>>(meta);
    again::<SnapshotResponse<TypeConfig>>(meta);
    again::<Probed>(meta);
    again::<SnapshotBegin>(meta);
    again::<SnapshotPart>(meta);
    again::<SnapshotEnd>(meta);
    again::<SnapshotTurn>(meta);
    drop(read_position(&Position { index: LogIndex(1), raft: Bytes::copy_from_slice(meta) }));
}

/// Valid inputs of [`message`].
pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    let id = |index| LogId::new_term_index(2, index);
    let entry = |index, payload| RaftEntryOf::new(id(index), payload);
    let append = AppendEntriesRequest::<TypeConfig> {
        vote: Vote::new_committed(3, 1),
        prev_log_id: Some(id(6)),
        entries: vec![
            entry(7, EntryPayload::Normal(Commands(Bytes::from_static(b"seven")))),
            entry(8, EntryPayload::Blank),
        ],
        leader_commit: Some(id(5)),
    };
    let input = |(meta, payload): (Vec<u8>, Bytes)| {
        let len = u16::try_from(meta.len()).unwrap_or(u16::MAX);
        [&len.to_le_bytes()[..], &meta, &payload].concat()
    };
    let vote = VoteRequest::<TypeConfig>::new(Vote::new(4, 2), Some(id(9)));
    let probed = Probed { node: 1, term: 2, has_seen_leader: true, leads: false, last: Some(id(3)) };
    let begin = SnapshotBegin { vote: Vote::new_committed(3, 1), id: "2-6".into(), len: 1 << 20 };
    let part = SnapshotPart { id: "2-6".into(), offset: 5, crc: 7 };
    let plain = [pack(&vote), pack(&probed), pack(&begin), pack(&part)];
    let plain = plain.into_iter().flatten().map(|meta| input((meta, Bytes::new())));
    pack_append(append).into_iter().map(input).chain(plain).collect()
}
