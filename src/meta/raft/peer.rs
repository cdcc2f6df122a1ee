//! What peers send: decoded, checked against this node's standing, handed to openraft, answered.
//!
//! Called by `service` for each frame of the consensus band. Holds: a node whose standing is not known answers probes
//! only; one that joins with an empty disk gives no vote.

use bytes::Bytes;
use openraft::errors::RaftError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};

use super::log::Standing;
use super::machine::Snapshot;
use super::messages::{SnapshotBegin, SnapshotEnd, SnapshotTurn, kind, pack, unpack, unpack_append};
use super::types::{TypeConfig, Vote};
use super::{Consensus, RaftOf};
use crate::net::Reply;
use crate::wire::RpcError;

fn failed(error: impl ToString) -> RpcError {
    RpcError::Internal { reason: format!("consensus: {}", error.to_string()) }
}

fn api<T>(result: Result<T, RaftError<TypeConfig>>) -> Result<T, RpcError> {
    result.map_err(failed)
}

fn reply<T: serde::Serialize>(message: &T) -> Result<Reply, RpcError> {
    Ok(Reply { meta: pack(message)?.into(), ..Reply::default() })
}

impl Consensus {
    /// Answers what a peer sent with a kind of the consensus band. Append messages of one connection are to be handed
    /// in in the order of their arrival: what has to keep its order is done before the first await.
    ///
    /// # Errors
    /// The bytes make no sense, or this node is not ready or has stopped.
    pub async fn handle_peer(&self, kind: u16, meta: Bytes, payload: Bytes) -> Result<Reply, RpcError> {
        if kind == kind::PROBE {
            return reply(&self.probed());
        }
        if kind == kind::ROSTER {
            return reply(&self.roster().await);
        }
        let standing = *self.shared.standing.lock();
        let not_ready = |reason: &str| Err(RpcError::NotReady { reason: reason.into() });
        let Some(raft) = self.shared.raft.get().filter(|_| standing != Standing::Blank) else {
            return not_ready(
                "its disk is empty; it asks the other metadata servers whether there is a cluster and what it is in it",
            );
        };
        if matches!(kind, kind::APPEND | kind::HEARTBEAT | kind::SNAPSHOT_PART) {
            self.shared.heard.note();
        }
        match kind {
            kind::APPEND => reply(&api(raft.append_entries(unpack_append(&meta, &payload)?).await)?),
            kind::HEARTBEAT => reply(&self.heartbeat(raft, unpack_append(&meta, &payload)?).await?),
            kind::VOTE | kind::PRE_VOTE | kind::TRANSFER if standing == Standing::Joining => {
                not_ready("it came with an empty disk and does not vote before it has caught up")
            }
            kind::VOTE => reply(&api(raft.vote(unpack(&meta)?).await)?),
            kind::PRE_VOTE => reply(&api(raft.pre_vote(unpack(&meta)?).await)?),
            kind::TRANSFER => reply(&raft.handle_transfer_leader(unpack(&meta)?).await.map_err(failed)?),
            kind::SNAPSHOT_BEGIN => {
                let begin: SnapshotBegin = unpack(&meta)?;
                match self.outvoted(raft, begin.vote).await? {
                    Some(vote) => reply(&SnapshotTurn::Outvoted(vote)),
                    None => reply(&self.shared.receiver.begin(begin).await?),
                }
            }
            kind::SNAPSHOT_PART => reply(&self.shared.receiver.part(unpack(&meta)?, payload).await?),
            kind::SNAPSHOT_END => {
                let SnapshotEnd { vote, id, meta } = unpack(&meta)?;
                let snapshot = Snapshot { meta, snapshot: self.shared.receiver.end(id).await? };
                reply(&raft.install_full_snapshot(vote, snapshot).await.map_err(failed)?)
            }
            other => Err(RpcError::Refused { reason: format!("no consensus message has kind {other:#x}") }),
        }
    }

    /// openraft answers an append, and so a heartbeat, when all it has accepted is on the disk. For entries that is
    /// the point; a heartbeat only asks whether the sender is still followed. With a disk that takes longer than a
    /// heartbeat interval to sync, waiting for it would cost the leader its lease. So this answers as soon as the
    /// core has taken the heartbeat in and follows its sender.
    async fn heartbeat(
        &self,
        raft: &RaftOf,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        if !request.entries.is_empty() {
            return Err(RpcError::Refused { reason: "a heartbeat with entries".into() });
        }
        let (vote, prev) = (request.vote, request.prev_log_id);
        let append = raft.append_entries(request);
        tokio::pin!(append);
        // Asked behind the heartbeat on the same queue, so it is answered after that was taken in.
        let follows = raft
            .with_raft_state(move |state| *state.vote_ref() == vote && state.log_ids.last().copied() >= prev);
        let follows = tokio::select! {
            biased;
            answer = &mut append => return api(answer),
            follows = follows => follows.map_err(failed)?,
        };
        // Dropped here, the append has done its work; only its answer is not awaited.
        if follows { Ok(AppendEntriesResponse::Success) } else { api(append.await) }
    }

    /// The vote of this node, if it beats `vote`.
    async fn outvoted(&self, raft: &RaftOf, vote: Vote) -> Result<Option<Vote>, RpcError> {
        let mine = raft.with_raft_state(|state| *state.vote_ref()).await.map_err(failed)?;
        Ok((mine > vote).then_some(mine))
    }
}
