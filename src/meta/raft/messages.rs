//! What metadata servers say to each other about consensus, and how it is laid out in a frame.
//!
//! The meta part is a version byte and the encoded message; the commands of entries and the bytes of a snapshot travel
//! as payload. Holds: what comes from a peer is checked before openraft sees it: lengths add up, indexes follow.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use openraft::raft::AppendEntriesRequest;

use super::log::{EntryId, EntryKind, INDEX_MAX, StoredEntry};
use super::store;
use super::types::{LogId, SnapshotMeta, TypeConfig, Vote};
use crate::types::codec;
use crate::wire::RpcError;

/// Kinds of frames, within the band of consensus.
pub mod kind {
    use crate::wire::message::kind::{RAFT_FIRST, RAFT_LAST};

    /// Entries, or news of what is committed.
    pub const APPEND: u16 = RAFT_FIRST;
    /// The leader is alive: no entries, answered without waiting for the disk.
    pub const HEARTBEAT: u16 = RAFT_FIRST + 1;
    /// A candidate asks for a vote.
    pub const VOTE: u16 = RAFT_FIRST + 2;
    /// Would a vote be given? Changes nothing.
    pub const PRE_VOTE: u16 = RAFT_FIRST + 3;
    /// The leader asks the receiver to take over.
    pub const TRANSFER: u16 = RAFT_FIRST + 4;
    /// What does the receiver know of a cluster?
    pub const PROBE: u16 = RAFT_FIRST + 5;
    /// A snapshot is coming.
    pub const SNAPSHOT_BEGIN: u16 = RAFT_FIRST + 6;
    /// Part of it.
    pub const SNAPSHOT_PART: u16 = RAFT_FIRST + 7;
    /// It is complete: install it.
    pub const SNAPSHOT_END: u16 = RAFT_FIRST + 8;

    /// Who are the members, as far as the receiver knows?
    pub const ROSTER: u16 = RAFT_FIRST + 9;

    const _: () = assert!(ROSTER <= RAFT_LAST);
}

/// Version of these layouts.
const VERSION: u8 = 1;
/// Bytes of a snapshot in one message.
pub(super) const PART_LEN: usize = 1 << 20;

/// Head of an append; the data of the entries follows in the payload, end to end.
#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev: Option<LogId>,
    commit: Option<LogId>,
    first: u64,
    entries: Vec<EntryHead>,
}

#[derive(Serialize, Deserialize)]
struct EntryHead {
    term: u64,
    kind: u8,
    len: u32,
}

/// Answer to a probe: what this node knows of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probed {
    /// Who answers.
    pub(super) node: u64,
    /// Highest term it has promised anything in.
    pub(super) term: u64,
    /// It has accepted a leader, or holds entries of one.
    pub(super) has_seen_leader: bool,
    /// It leads, in `term`.
    pub(super) leads: bool,
    /// Last entry in its log.
    pub(super) last: Option<LogId>,
}

/// Answer to a question for the members: what this node knows of itself and of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roster {
    /// As to a probe.
    pub(super) probed: Probed,
    /// It leads, and a majority has confirmed that since it was asked.
    pub(super) confirmed: bool,
    /// The entry that `voters` and `addresses` come from, committed or not.
    pub(super) at: Option<LogId>,
    /// The voters; two sets while they are being changed.
    pub(super) voters: Vec<BTreeSet<u64>>,
    /// Where each member answers, learners too.
    pub(super) addresses: BTreeMap<u64, String>,
    /// Who was a member once and is none now, as of the applied state.
    pub(super) removed: BTreeSet<u64>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotBegin {
    pub(super) vote: Vote,
    pub(super) id: String,
    pub(super) len: u64,
}

/// Where the receiver of a snapshot wants the next part from; or a vote that beats the sender's.
#[derive(Serialize, Deserialize)]
pub(super) enum SnapshotTurn {
    From(u64),
    Outvoted(Vote),
}

#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotPart {
    pub(super) id: String,
    pub(super) offset: u64,
    pub(super) crc: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotEnd {
    pub(super) vote: Vote,
    pub(super) id: String,
    pub(super) meta: SnapshotMeta,
}

fn refused(reason: impl ToString) -> RpcError {
    RpcError::Refused { reason: reason.to_string() }
}

/// The meta part that carries `message`.
pub(super) fn pack<T: Serialize>(message: &T) -> Result<Vec<u8>, RpcError> {
    let mut out = vec![VERSION];
    codec::encode_into(message, &mut out).map_err(refused)?;
    Ok(out)
}

/// The message in a meta part.
pub(super) fn unpack<T: DeserializeOwned>(meta: &[u8]) -> Result<T, RpcError> {
    match meta.split_first() {
        Some((&VERSION, message)) => codec::decode(message).map_err(refused),
        Some((version, _)) => Err(refused(format!(
            "a consensus message of version {version}, and this program knows {VERSION}: upgrade the older metadata server"
        ))),
        None => Err(refused("empty consensus message")),
    }
}

/// Meta and payload of an append.
pub(super) fn pack_append(request: AppendEntriesRequest<TypeConfig>) -> Result<(Vec<u8>, Bytes), RpcError> {
    let mut entries = Vec::with_capacity(request.entries.len());
    let mut parts = Vec::with_capacity(request.entries.len());
    let mut first = 0;
    for (i, entry) in request.entries.into_iter().enumerate() {
        let StoredEntry { id, kind, data } = store::stored_entry(entry).map_err(refused)?;
        if i == 0 {
            first = id.index;
        }
        let kind = match kind {
            EntryKind::Blank => 0,
            EntryKind::Normal => 1,
            EntryKind::Membership => 2,
        };
        let len = u32::try_from(data.len()).map_err(refused)?;
        entries.push(EntryHead { term: id.term, kind, len });
        parts.push(data);
    }
    let payload = match parts.len() {
        0 => Bytes::new(),
        1 => parts.remove(0),
        _ => parts.concat().into(),
    };
    let head = AppendHead {
        vote: request.vote,
        prev: request.prev_log_id,
        commit: request.leader_commit,
        first,
        entries,
    };
    Ok((pack(&head)?, payload))
}

/// The append in a frame.
pub(super) fn unpack_append(
    meta: &[u8],
    payload: &[u8],
) -> Result<AppendEntriesRequest<TypeConfig>, RpcError> {
    let head: AppendHead = unpack(meta)?;
    let last = head.first.saturating_add(head.entries.len() as u64);
    let named = [head.prev, head.commit].into_iter().flatten().map(|id| id.index);
    if named.chain([last]).any(|index| index > INDEX_MAX) {
        return Err(refused("an index that cannot be"));
    }
    if !head.entries.is_empty() && head.first != head.prev.map_or(0, |prev| prev.index + 1) {
        return Err(refused("entries do not follow the one they are to follow"));
    }
    // The frame's buffer may be larger than what is kept of it, and entries are kept for long.
    let mut data = Bytes::copy_from_slice(payload);
    let mut entries = Vec::with_capacity(head.entries.len());
    for (index, entry) in (head.first..).zip(head.entries) {
        let kind = match entry.kind {
            0 => EntryKind::Blank,
            1 => EntryKind::Normal,
            2 => EntryKind::Membership,
            other => return Err(refused(format!("entry of kind {other}"))),
        };
        let len = entry.len as usize;
        if len > data.len() || len > super::ENTRY_LEN_MAX {
            return Err(refused("an entry is longer than its bytes"));
        }
        let stored = StoredEntry { id: EntryId { term: entry.term, index }, kind, data: data.split_to(len) };
        entries.push(store::raft_entry(stored).map_err(refused)?);
    }
    if !data.is_empty() {
        return Err(refused("bytes behind the last entry"));
    }
    Ok(AppendEntriesRequest { vote: head.vote, prev_log_id: head.prev, entries, leader_commit: head.commit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::raft::types::{Commands, RaftEntryOf};
    use openraft::EntryPayload;
    use openraft::entry::RaftEntry;

    fn request() -> AppendEntriesRequest<TypeConfig> {
        let normal = |index, data: &'static [u8]| {
            let payload = EntryPayload::Normal(Commands(Bytes::from_static(data)));
            RaftEntryOf::new(LogId::new_term_index(3, index), payload)
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(LogId::new_term_index(2, 6)),
            entries: vec![
                normal(7, b"seven"),
                RaftEntryOf::new(LogId::new_term_index(3, 8), EntryPayload::Blank),
                normal(9, b"nine"),
            ],
            leader_commit: Some(LogId::new_term_index(2, 5)),
        }
    }

    #[test]
    fn an_append_travels_unchanged() {
        let (meta, payload) = pack_append(request()).unwrap();
        assert_eq!(format!("{:?}", unpack_append(&meta, &payload).unwrap()), format!("{:?}", request()));
    }

    /// A peer that is broken or hostile must not bring the server down, nor get nonsense into the log.
    #[test]
    fn a_mangled_append_is_refused_without_a_panic() {
        let (meta, payload) = pack_append(request()).unwrap();
        for len in 0..meta.len() {
            assert!(unpack_append(&meta[..len], &payload).is_err());
        }
        for len in 0..payload.len() {
            assert!(unpack_append(&meta, &payload[..len]).is_err());
        }
        for at in 0..meta.len() {
            for bit in 0..8 {
                let mut bad = meta.clone();
                bad[at] ^= 1 << bit;
                drop(unpack_append(&bad, &payload));
            }
        }
    }

    /// Every message between metadata servers about consensus, in the words that openraft has for them.
    #[test]
    fn golden_consensus() {
        use crate::golden::{Sample, check};
        use openraft::raft::{
            AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
        };

        let id = |term, index| LogId::new_term_index(term, index);
        let (vote, prev) = (Vote::new_committed(3, 1), Some(id(2, 6)));
        let mut all: Vec<Sample> = Vec::new();
        let (meta, payload) = pack_append(request()).unwrap();
        all.push(("APPEND".into(), meta));
        all.push(("APPEND, payload".into(), payload.to_vec()));
        let (meta, _) = pack_append(AppendEntriesRequest { entries: Vec::new(), ..request() }).unwrap();
        all.push(("HEARTBEAT".into(), meta));
        let nodes = BTreeMap::from([
            (1, openraft::BasicNode::new("meta-1:1")),
            (4, openraft::BasicNode::new("meta-4:1")),
        ]);
        let voters = vec![BTreeSet::from([1]), BTreeSet::from([1, 4])];
        let membership = crate::meta::raft::types::Membership::new(voters.clone(), nodes).unwrap();
        let stored = crate::meta::raft::types::StoredMembership::new(prev, membership.clone());
        let entry = RaftEntryOf::new(id(3, 7), EntryPayload::Membership(membership));
        let (meta, payload) =
            pack_append(AppendEntriesRequest { entries: vec![entry], ..request() }).unwrap();
        all.push(("APPEND of a membership".into(), meta.clone()));
        all.push(("APPEND of a membership, payload".into(), payload.to_vec()));
        let (again, _) = pack_append(unpack_append(&meta, &payload).unwrap()).unwrap();
        assert_eq!(again, meta);

        fn frozen<T: Serialize + DeserializeOwned>(all: &mut Vec<Sample>, name: &str, message: &T) {
            let bytes = pack(message).unwrap();
            assert_eq!(pack(&unpack::<T>(&bytes).unwrap()).unwrap(), bytes, "{name}");
            all.push((name.to_owned(), bytes));
        }
        let all_ref = &mut all;
        type Append = AppendEntriesResponse<TypeConfig>;
        frozen(all_ref, "APPEND, done", &Append::Success);
        frozen(all_ref, "APPEND, done in part", &Append::PartialSuccess(prev));
        frozen(all_ref, "APPEND, conflict", &Append::Conflict);
        frozen(all_ref, "APPEND, outvoted", &Append::HigherVote(vote));
        let ask = VoteRequest::<TypeConfig>::new(Vote::new(4, 2), prev);
        frozen(all_ref, "VOTE and PRE_VOTE", &ask);
        frozen(all_ref, "VOTE, answer", &VoteResponse::<TypeConfig>::new(Vote::new(4, 2), prev, true));
        frozen(all_ref, "TRANSFER", &TransferLeaderRequest::<TypeConfig>::new(vote, 2, prev));
        type Transferred = openraft::raft::TransferLeaderResponse<TypeConfig>;
        frozen(all_ref, "TRANSFER, answer", &Transferred::Ok(()));
        let probed = Probed { node: 3, term: 7, has_seen_leader: true, leads: false, last: prev };
        frozen(all_ref, "PROBE and ROSTER", &());
        frozen(all_ref, "PROBE, answer", &probed);
        let roster = Roster {
            probed,
            confirmed: true,
            at: prev,
            voters,
            addresses: BTreeMap::from([(1, "meta-1:1".into()), (4, "meta-4:1".into())]),
            removed: BTreeSet::from([9]),
        };
        frozen(all_ref, "ROSTER, answer", &roster);
        let name = || "00000000000000000007-0102".to_owned();
        frozen(all_ref, "SNAPSHOT_BEGIN", &SnapshotBegin { vote, id: name(), len: 70_000 });
        frozen(all_ref, "SNAPSHOT_BEGIN and SNAPSHOT_PART, answer", &SnapshotTurn::From(300));
        frozen(all_ref, "SNAPSHOT_BEGIN, outvoted", &SnapshotTurn::Outvoted(vote));
        frozen(all_ref, "SNAPSHOT_PART", &SnapshotPart { id: name(), offset: 1 << 20, crc: 0xdead_beef });
        let meta = SnapshotMeta { last_log_id: prev, last_membership: stored };
        frozen(all_ref, "SNAPSHOT_END", &SnapshotEnd { vote, id: name(), meta });
        frozen(all_ref, "SNAPSHOT_END, answer", &SnapshotResponse::<TypeConfig>::new(vote));
        check("consensus", all);
    }

    /// A peer of another program is told which message it was, and what to do.
    #[test]
    fn a_message_of_another_version_is_refused_with_the_way_out() {
        let mut meta = pack(&()).unwrap();
        meta[0] = VERSION + 1;
        let told = unpack::<()>(&meta).unwrap_err().to_string();
        assert!(told.contains("version 2") && told.contains("upgrade"), "{told}");
    }
}
