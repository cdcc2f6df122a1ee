//! The public types: what is in the log, and what crosses a socket.

use super::samples::*;
use super::{check, covers, of};
use crate::namespace::Command;
use crate::types::*;
use crate::wire::dump::{DumpReply, DumpRequest, RestoreProgress, RestoreRefusal};
use crate::wire::frame::{Flags, Header};
use crate::wire::members::{MembersOutcome, MembersRequest, Refusal};
use crate::wire::message::*;
use crate::wire::{Class, Greeting, Hello, Program, Role, RpcError, VersionRange};

/// An enum in a file of its own, every variant of it.
fn freeze<T>(name: &str, file: &str, source: &str, values: Vec<T>)
where
    T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug + PartialEq,
{
    let samples = of(name, values);
    covers(name, source, &samples);
    check(file, samples);
}

#[test]
fn golden_commands() {
    freeze("Op", "op", "src/namespace/command.rs", ops());
    let bytes = codec::encode(&commands()).unwrap();
    assert_eq!(codec::decode::<Vec<Command>>(&bytes).unwrap(), commands());
    check("commands", vec![("the commands of an entry".into(), bytes)]);
}

#[test]
fn golden_updates() {
    freeze("Update", "update", "src/types/update.rs", updates());
    freeze("UpdateReply", "update_reply", "src/types/update.rs", update_replies());
}

#[test]
fn golden_queries() {
    freeze("Query", "query", "src/types/update.rs", queries());
    freeze("QueryReply", "query_reply", "src/types/update.rs", query_replies());
}

/// Enums that stand inside others.
#[test]
fn golden_words() {
    let mut all = Vec::new();
    let mut add = |name: &str, source: &str, samples: Vec<super::Sample>| {
        covers(name, source, &samples);
        all.extend(samples);
    };
    add("FileKind", "src/types/attr.rs", of("FileKind", kinds()));
    add("SetTime", "src/types/attr.rs", of("SetTime", [SetTime::Now, SetTime::At(Timestamp(-5))]));
    add("NodeState", "src/types/cluster.rs", of("NodeState", states()));
    let sources = extents().into_iter().map(|extent| extent.source);
    add("ExtentSource", "src/types/extent.rs", of("ExtentSource", sources));
    add("LockKind", "src/types/lock.rs", of("LockKind", [LockKind::Flock, LockKind::Posix, LockKind::Ofd]));
    let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
    add("RenameMode", "src/types/params.rs", of("RenameMode", modes));
    let modes = [XattrMode::Any, XattrMode::Create, XattrMode::Replace];
    add("XattrMode", "src/types/params.rs", of("XattrMode", modes));
    use FallocateMode::*;
    let modes = [Allocate, AllocateKeepSize, Punch, Zero, ZeroKeepSize, Collapse, Insert];
    add("FallocateMode", "src/types/params.rs", of("FallocateMode", modes));
    let readings = [Reading::Exact, Reading::Stale, Reading::Beside(vec![NodeId(2), NodeId(300)])];
    add("Reading", "src/wire/message.rs", of("Reading", readings));
    use BlockFate::*;
    add("BlockFate", "src/wire/message.rs", of("BlockFate", [Referenced, Pending, Queued, Garbage]));
    use ReplicaState::*;
    add("ReplicaState", "src/wire/message.rs", of("ReplicaState", [Good, Missing, Corrupt]));
    add(
        "MembersOutcome",
        "src/wire/members.rs",
        of("MembersOutcome", [MembersOutcome::Done, MembersOutcome::Already]),
    );
    check("words", all);
}

#[test]
fn golden_meta_messages() {
    let (node, after) = (NodeId(101), Some(block().id));
    let update = UpdateRequest {
        session: SessionId(300),
        request: RequestId(5),
        lowest_unanswered: RequestId(4),
        cred: cred(),
        update: Update::CloseSession,
    };
    let requests = vec![
        MetaRequest::Update(update),
        MetaRequest::Query { cred: cred(), query: Query::StatFs, epoch: Epoch(4), reading: Reading::Exact },
        MetaRequest::KeepAlive(KeepAlive { session: SessionId(300), handles: vec![(InodeId(7), true)] }),
        MetaRequest::Register { spec: spec(), cluster: Some(ClusterId(5)) },
        MetaRequest::Heartbeat(report()),
        MetaRequest::ReclaimList { node, after, limit: 300 },
        MetaRequest::Reclaimed { node, blocks: vec![block().id] },
        MetaRequest::Fates { blocks: vec![block().id] },
        MetaRequest::Blocks { node: Some(node), after, limit: 300 },
        MetaRequest::Check,
        MetaRequest::Status,
        MetaRequest::Accepted,
        MetaRequest::Members(MembersRequest::Remove { node: NodeId(3) }),
        MetaRequest::Dump(DumpRequest::Begin),
        MetaRequest::Restore(restore_steps().remove(2)),
        MetaRequest::Grace { node, kept: Some(Kept { block_count: 300, len: 70_000 }) },
    ];
    freeze("MetaRequest", "meta_request", "src/wire/message.rs", requests);
    let addresses = vec![(node, NodeAddress(ADDRESS.into()))];
    let replies = vec![
        MetaReply::Updated { result: Ok(UpdateReply::Done), epoch: Epoch(4) },
        MetaReply::Updated { result: Err(FsError::Exists), epoch: Epoch(4) },
        MetaReply::Answered {
            result: Ok(QueryReply::Found(found())),
            epoch: Epoch(4),
            addresses,
            as_of: Some(LogIndex(300)),
        },
        MetaReply::KeptAlive { ask: vec![InodeId(7)], epoch: Epoch(4) },
        MetaReply::SessionGone,
        MetaReply::Registered { cluster: ClusterId(5), map: Box::new(map()) },
        MetaReply::Refused(FsError::NodeConflict),
        MetaReply::Heartbeat { state: Some(NodeState::Up), epoch: Epoch(4), reclaimable: true },
        MetaReply::ReclaimList(vec![Unreferenced { block: block().id, group: GroupId(2) }]),
        MetaReply::Fates(vec![BlockFate::Garbage]),
        MetaReply::Blocks { blocks: vec![block()], next: after },
        MetaReply::Checked {
            violations: vec!["bad".into()],
            at: LogIndex(300),
            inode_count: 7,
            block_count: 8,
        },
        MetaReply::Status("{}".into()),
        MetaReply::Done,
        MetaReply::Accepted { node: NodeId(1), index: LogIndex(300), leader: Some(NodeId(2)) },
        MetaReply::Members(Ok(MembersOutcome::Done)),
        MetaReply::Members(Err(Refusal::SameNode)),
        MetaReply::Dump(DumpReply::Ended),
        MetaReply::Restore(Ok(RestoreProgress { floor: 1 << 50, next: 7, is_done: false })),
        MetaReply::Restore(Err(RestoreRefusal::NotRestoring)),
        MetaReply::Grace(Some(Grace { below: SessionId(1 << 50), until: Timestamp(5) })),
    ];
    freeze("MetaReply", "meta_reply", "src/wire/message.rs", replies);
}

#[test]
fn golden_members_messages() {
    let (node, address) = (NodeId(4), NodeAddress(ADDRESS.into()));
    let requests = vec![
        MembersRequest::Add { node, address: address.clone() },
        MembersRequest::Promote { node },
        MembersRequest::Remove { node },
        MembersRequest::Replace { old: NodeId(3), new: node },
        MembersRequest::TransferLeader { from: NodeId(1), to: Some(NodeId(2)) },
        MembersRequest::RaiseLevel,
    ];
    freeze("MembersRequest", "members_request", "src/wire/members.rs", requests);
    let text = || "why".to_owned();
    let refusals = vec![
        Refusal::Unknown { node },
        Refusal::Present { node, address: address.clone() },
        Refusal::AddressTaken { address: address.clone(), node },
        Refusal::Removed { node },
        Refusal::BadId { node },
        Refusal::Unreachable { node, address: address.clone(), reason: text() },
        Refusal::OtherNode { address, expected: node, found: NodeId(5) },
        Refusal::OtherCluster { node, theirs: ClusterId(5) },
        Refusal::NotEmpty { node },
        Refusal::Changing { what: text() },
        Refusal::NoMajority { answering: 1, voters: 3, silent: vec![NodeId(2)] },
        Refusal::Behind { node, lag: 501 },
        Refusal::Joining { node },
        Refusal::NotVoter { node },
        Refusal::TooMany,
        Refusal::LastVoter { node },
        Refusal::NotTakenOver { to: node },
        Refusal::NoSuccessor { reason: text() },
        Refusal::NameTaken { name: text(), node },
        Refusal::SameNode,
        Refusal::OlderPrograms { active: Level(1), older: vec![text()] },
        Refusal::WrongProgram { node, program: text(), active: Level(2) },
    ];
    freeze("Refusal", "refusal", "src/wire/members.rs", refusals);
}

#[test]
fn golden_peer_messages() {
    let requests = vec![
        PeerRequest::Forward(bytes::Bytes::from_static(&[10])),
        PeerRequest::ReadIndex,
        PeerRequest::Status,
        PeerRequest::Accepted,
        PeerRequest::Introduce,
    ];
    freeze("PeerRequest", "peer_request", "src/wire/message.rs", requests);
    let introduction = Introduction { server: meta_node(), cluster: Some(ClusterId(5)), is_empty: true };
    let mut replies = of("Introduction", [introduction]);
    replies.extend(of("LogIndex", [LogIndex(300)]));
    check("peer_reply", replies);
}

#[test]
fn golden_data_messages() {
    let id = block().id;
    let requests = vec![
        DataRequest::Put { id, checksum: Checksum(7) },
        DataRequest::Get { block: block(), offset: 1, len: 300 },
        DataRequest::Stat { id },
        DataRequest::Verify { blocks: vec![block()], deep: true },
        DataRequest::List { after: Some(id), limit: 300 },
        DataRequest::Status,
    ];
    freeze("DataRequest", "data_request", "src/wire/message.rs", requests);
    let replies = vec![
        DataReply::Stored,
        DataReply::Bytes,
        DataReply::Stat(Some((70_000, Checksum(7)))),
        DataReply::Verified(vec![ReplicaState::Good, ReplicaState::Corrupt]),
        DataReply::List { blocks: vec![(id, 70_000, Checksum(7))], capacity: capacity() },
        DataReply::Status("{}".into()),
    ];
    freeze("DataReply", "data_reply", "src/wire/message.rs", replies);
}

#[test]
fn golden_errors() {
    let answers = of("FsError", FsError::ALL.iter().copied());
    assert_eq!(answers.len(), FsError::ALL.len());
    check("fs_error", answers);
    // One of another version's errors is not made here.
    let ours = crate::wire::error_samples().into_iter().filter(|e| !matches!(e, RpcError::Other { .. }));
    let mut samples = of("RpcError", ours);
    let other = samples.len();
    samples.push(("RpcError::Other".into(), Vec::new()));
    covers("RpcError", "src/wire/error.rs", &samples);
    samples.truncate(other);
    check("rpc_error", samples);
}

#[test]
fn golden_dumps() {
    let requests =
        vec![DumpRequest::Begin, DumpRequest::Block { dump: 3, number: 7 }, DumpRequest::End { dump: 3 }];
    freeze("DumpRequest", "dump_request", "src/wire/dump.rs", requests);
    let replies = vec![
        DumpReply::Begun { dump: 3, stamp: dump_stamp(), block_count: 9 },
        DumpReply::Block(bytes::Bytes::from_static(b"records")),
        DumpReply::Ended,
        DumpReply::Unknown,
        DumpReply::TooMany,
    ];
    freeze("DumpReply", "dump_reply", "src/wire/dump.rs", replies);
    let refusals = vec![
        RestoreRefusal::NotEmpty { what: "3 files".into() },
        RestoreRefusal::OtherDump { dump: dump_stamp() },
        RestoreRefusal::NotRestoring,
        RestoreRefusal::BadPart { number: 7, next: 5 },
        RestoreRefusal::Incomplete { records: 7, wanted: 300 },
        RestoreRefusal::NodeConflict,
    ];
    freeze("RestoreRefusal", "restore_refusal", "src/wire/dump.rs", refusals);
}

#[test]
fn golden_hello_and_frames() {
    let hello = |role| Hello {
        role,
        versions: VersionRange { first: 1, last: 2 },
        cluster: Some(ClusterId(0xabcd)),
        node: Some(NodeId(3)),
        name: "meta-3".into(),
        program: Program { version: "1.2".into(), levels: LevelRange { first: Level(1), last: Level(2) } },
    };
    let mut samples = Vec::new();
    for role in [Role::Client, Role::Meta, Role::Data, Role::Tool] {
        for class in [Class::Consensus, Class::Metadata, Class::Bulk] {
            let greeting = Greeting { hello: hello(role), class, credits: 64 };
            let bytes = greeting.encode();
            assert_eq!(Greeting::decode(&bytes), Ok(greeting));
            samples.push((format!("hello of a {role}, {class:?}"), bytes));
        }
    }
    for (name, flags) in [
        ("request", Flags::REQUEST),
        ("answer", Flags::RESPONSE),
        ("error", Flags::RESPONSE.and(Flags::ERROR)),
        ("cancel", Flags::CANCEL.and(Flags::ONE_WAY)),
        ("request that waits", Flags::WAITS),
    ] {
        let header = Header::over(2, kind::META, flags, 0x0102_0304_0506_0708, b"meta", b"payload").unwrap();
        let header = Header { deadline_ms: 1500, ..header };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, crate::wire::frame::widest), Ok(header));
        samples.push((format!("header of a {name}"), bytes.to_vec()));
    }
    check("hello", samples);
}

/// Status is JSON that reads both ways: a key may come, and none may go or change its place.
#[test]
fn golden_status_keys() {
    fn keys(place: &str, value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                map.iter().for_each(|(key, value)| keys(&format!("{place}.{key}"), value, into));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|v| keys(&format!("{place}[]"), v, into)),
            _ => into.push(place.to_owned()),
        }
    }
    use crate::wire::status::*;
    let kept = Some(KeptStatus::default());
    let server = ServerStatus {
        workers: vec![WorkerStatus::default()],
        meta: Some(MetaStatus {
            members: vec![MemberStatus::default()],
            removed: vec![NodeId(1)],
            heard: vec![HeardStatus { kept, ..HeardStatus::default() }],
            programs: vec![ProgramStatus::default()],
            ..MetaStatus::default()
        }),
        data: Some(DataStatus {
            directories: vec![DirectoryStatus::default()],
            kept,
            ..DataStatus::default()
        }),
        ..ServerStatus::default()
    };
    let cluster = ClusterStatus {
        reasons: vec![HealthReason::default()],
        meta: vec![MetaNodeStatus { levels: Some(LevelsStatus::default()), ..MetaNodeStatus::default() }],
        data: vec![DataNodeStatus { kept, ..DataNodeStatus::default() }],
        grace: Some(GraceStatus::default()),
        removed: vec![NodeId(1)],
        ..ClusterStatus::default()
    };
    let path = PathStatus {
        servers: vec![ServerAddress::default()],
        extents: vec![ExtentStatus { servers: vec![ServerAddress::default()], ..ExtentStatus::default() }],
        ..PathStatus::default()
    };
    let mut now = Vec::new();
    keys("/status", &serde_json::to_value(server).unwrap(), &mut now);
    keys("/cluster", &serde_json::to_value(cluster).unwrap(), &mut now);
    keys("/lookup", &serde_json::to_value(path).unwrap(), &mut now);
    let file = super::file("status_keys");
    let frozen = std::fs::read_to_string(&file).unwrap_or_default();
    let gone: Vec<&str> = frozen.lines().filter(|key| !now.iter().any(|now| now == key)).collect();
    assert!(gone.is_empty(), "programs read these keys, and they are gone: {gone:?}");
    if std::env::var("POHMELFS_GOLDEN").is_ok() {
        std::fs::write(&file, now.join("\n") + "\n").unwrap();
        return;
    }
    let new: Vec<&String> = now.iter().filter(|key| !frozen.lines().any(|f| f == **key)).collect();
    assert!(new.is_empty(), "{}: POHMELFS_GOLDEN=add cargo test --lib golden adds {new:?}", file.display());
}
