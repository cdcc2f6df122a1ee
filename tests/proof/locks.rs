//! Clients that wait for a lock: the server tells them as soon as it is theirs, and keeps nobody else waiting meanwhile.

use std::collections::BTreeSet;

use pohmelfs::types::{
    Cred, Epoch, FsError, FsResult, Lock, LockKind, LockOwner, LockRange, Name, Query, QueryReply,
    ROOT_INODE, RequestId, SessionId, Unlock, Update, UpdateReply, codec,
};
use pohmelfs::wire::frame::{Flags, Frame};
use pohmelfs::wire::message::{MetaReply, MetaRequest, Reading};

use crate::common::raw::{Raw, make, request};
use crate::common::{Cluster, until};

/// Clients that wait for one lock.
const WAITERS: usize = 20;
/// Questions of others, on the connection that they wait on: in all no more than a connection may have open.
const QUESTIONS: usize = 30;

fn asked(query: Query) -> MetaRequest {
    MetaRequest::Query { cred: Cred::root(), query, epoch: Epoch(0), reading: Reading::Exact }
}

fn answer(frame: &Frame) -> Result<FsResult<QueryReply>, String> {
    if frame.header.flags.has(Flags::ERROR) {
        return Err(format!("an error instead of an answer: {frame:?}"));
    }
    match codec::decode(&frame.meta).map_err(|e| e.to_string())? {
        MetaReply::Answered { result, .. } => Ok(result),
        other => Err(format!("to a query: {other:?}")),
    }
}

/// A session that sends one update after the other.
struct Session {
    id: SessionId,
    last: u64,
}

impl Session {
    async fn open(link: &mut Raw) -> Self {
        Self { id: link.open_session().await.unwrap(), last: 0 }
    }

    async fn update(&mut self, link: &mut Raw, update: Update) -> Result<UpdateReply, String> {
        self.last += 1;
        link.update(request(self.id, self.last, self.last, update)).await?.map_err(|e| e.to_string())
    }
}

/// One round: `WAITERS` wait on one connection to the server `through`, others ask on the same; then the lock is given up.
/// `Err` where an answer came before the lock was given up, because the machine stood still for the time after which a server
/// answers that the lock is still held: nothing was learnt then.
async fn round(cluster: &Cluster, through: usize, name: &str) -> Result<(), String> {
    let mut other = Raw::connect(&cluster.nodes[cluster.leader().await].address).await?;
    let mut holder = Session::open(&mut other).await;
    let UpdateReply::Made { attr, .. } = holder.update(&mut other, make(name)).await? else {
        return Err("not made".into());
    };
    let inode = attr.inode;
    let owner = |id| LockOwner { kind: LockKind::Ofd, id };
    let lock = |id, write, wait| {
        Update::Lock(Lock { inode, owner: owner(id), pid: 1, range: LockRange::WHOLE, write, wait })
    };
    assert_eq!(holder.update(&mut other, lock(0, true, false)).await, Ok(UpdateReply::Locked));
    let mut waiters = Session::open(&mut other).await;
    let mut queued: Vec<RequestId> = Vec::new();
    for id in 0..WAITERS {
        // All but the last want to read, so that they get it together; the last writes and comes behind them.
        match waiters.update(&mut other, lock(id as u64, id + 1 == WAITERS, true)).await? {
            UpdateReply::LockQueued { request } => queued.push(request),
            reply => panic!("to a lock that is held: {reply:?}"),
        }
    }

    let mut link = Raw::connect(&cluster.nodes[through].address).await?;
    let mut waits = BTreeSet::new();
    for request in &queued {
        let query = Query::LockWaits { inode, session: waiters.id, request: *request };
        waits.insert(link.post(&asked(query)).await?);
    }
    let last = *waits.last().unwrap();
    let mut questions = BTreeSet::new();
    for _ in 0..QUESTIONS {
        let query = Query::Lookup { parent: ROOT_INODE, name: Name::new(name).unwrap() };
        questions.insert(link.post(&asked(query)).await?);
    }
    while !questions.is_empty() {
        let frame = link.receive().await?;
        if !questions.remove(&frame.header.id) {
            let early = answer(&frame)?;
            assert_eq!(early, Ok(QueryReply::Waits(true)), "nobody has given up the lock");
            return Err("a server was tired of waiting".into());
        }
        assert!(matches!(answer(&frame)?, Ok(QueryReply::Found(_))), "{frame:?}");
    }

    // Every question was answered while all waited.
    let unlock = Update::Unlock(Unlock { inode, owner: owner(0), range: LockRange::WHOLE });
    assert_eq!(holder.update(&mut other, unlock).await, Ok(UpdateReply::Done));
    let mut told = BTreeSet::new();
    while told.len() + 1 < WAITERS {
        let frame = link.receive().await?;
        assert!(waits.contains(&frame.header.id), "{frame:?}");
        match answer(&frame)? {
            Ok(QueryReply::Waits(false)) => assert_ne!(frame.header.id, last, "the readers hold it still"),
            Ok(QueryReply::Waits(true)) if frame.header.id == last => {
                return Err("a server was tired of waiting".into());
            }
            // A reader was not woken: it had to ask again.
            other => return Err(format!("told {} of {WAITERS}, then {other:?}", told.len())),
        }
        told.insert(frame.header.id);
    }
    assert_eq!(waiters.update(&mut other, Update::CloseSession).await, Ok(UpdateReply::Done));
    // The session is gone, and with it who waited: that is told as well.
    let frame = link.receive().await?;
    match answer(&frame)? {
        Ok(QueryReply::Waits(true)) => Err("a server was tired of waiting".into()),
        end => {
            assert_eq!((frame.header.id, end), (last, Err(FsError::SessionExpired)));
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_woken_and_holds_up_nobody() {
    let cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    for (what, through) in [("the leader", leader), ("a follower", follower)] {
        let mut tries = 0;
        until(&format!("a round through {what}"), async || {
            tries += 1;
            round(&cluster, through, &format!("{through}-{tries}")).await
        })
        .await;
        println!("through {what}: {WAITERS} waiters and {QUESTIONS} questions, {tries} tries");
    }
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
