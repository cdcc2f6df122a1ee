//! docs/protocol.md against the code: constants, positions of variants, codes of errors.
//!
//! The positions are read from the sources, because an enum does not tell the order of its variants.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use pohmelfs::types::{
    BLOCK_LEN_MAX, BlockId, ClusterId, Cred, FsError, Level, NodeAddress, NodeId, Query, RetryClass,
    SessionId, codec,
};
use pohmelfs::wire::frame::{Flags, HEADER_LEN, KIND_HELLO, MAGIC, META_LEN_MAX, PAYLOAD_LEN_MAX, WAITS_MAX};
use pohmelfs::wire::message::{self, kind};
use pohmelfs::wire::{
    Applied, Greeting, HELLO_NAME_LEN_MAX, PROGRAM_VERSION_LEN_MAX, PROTOCOL_VERSION, RpcError, VersionRange,
};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn document() -> String {
    read("docs/protocol.md")
}

fn says(document: &str, line: &str) {
    assert!(document.lines().any(|l| l.contains(line)), "docs/protocol.md lacks: {line}");
}

/// Names of the variants of `name` in a source, in order.
fn variants(source: &str, name: &str) -> Vec<String> {
    let from = source.find(&format!("\npub enum {name} {{")).unwrap_or_else(|| panic!("no enum {name}"));
    let body = source[from + 1..].lines().skip(1).take_while(|line| *line != "}");
    let word = |line: &str| line.chars().take_while(|c| c.is_alphanumeric()).collect::<String>();
    body.filter_map(|line| {
        let line = line.strip_prefix("    ")?;
        line.starts_with(|c: char| c.is_uppercase()).then(|| word(line))
    })
    .collect()
}

/// Rows of the first table whose head begins as given: (first cell, second cell).
fn table(document: &str, head: &str) -> Vec<(String, String)> {
    let from =
        document.lines().position(|l| l.starts_with(head)).unwrap_or_else(|| panic!("no table {head}"));
    let rows = document.lines().skip(from + 2).take_while(|l| l.starts_with('|'));
    rows.map(|row| {
        let mut cells = row.split('|').skip(1).map(|cell| cell.trim().trim_matches('`').to_owned());
        (cells.next().unwrap(), cells.next().unwrap())
    })
    .collect()
}

#[test]
fn positions_of_variants_are_those_of_the_sources() {
    let document = document();
    let (message, update) = (read("src/wire/message.rs"), read("src/types/update.rs"));
    let members = read("src/wire/members.rs");
    let (dump, steps) = (read("src/wire/dump.rs"), read("src/types/dump.rs"));
    let enums = [
        (&message, "MetaRequest", "| position | `MetaRequest` |"),
        (&message, "MetaReply", "| position | `MetaReply` |"),
        (&message, "PeerRequest", "| position | `PeerRequest` |"),
        (&message, "DataRequest", "| position | `DataRequest` |"),
        (&message, "DataReply", "| position | `DataReply` |"),
        (&members, "MembersRequest", "| position | `MembersRequest` |"),
        (&members, "Refusal", "| position | `Refusal` |"),
        (&dump, "DumpRequest", "| position | `DumpRequest` |"),
        (&dump, "DumpReply", "| position | `DumpReply` |"),
        (&steps, "RestoreStep", "| position | `RestoreStep` |"),
        (&dump, "RestoreRefusal", "| position | `RestoreRefusal` |"),
        (&update, "Update", "| position | `Update` |"),
        (&update, "UpdateReply", "| position | `UpdateReply` |"),
        (&update, "Query", "| position | `Query` |"),
        (&update, "QueryReply", "| position | `QueryReply` |"),
    ];
    for (source, name, head) in enums {
        let found = variants(source, name);
        assert!(found.len() > 2, "{name} was not read: {found:?}");
        let expected: Vec<_> = found.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect();
        assert_eq!(table(&document, head), expected, "{name}");
    }
}

#[test]
fn positions_are_the_encoding() {
    let position = |bytes: Vec<u8>| bytes[0];
    assert_eq!(position(codec::encode(&message::MetaRequest::Status).unwrap()), 10);
    assert_eq!(position(codec::encode(&message::MetaReply::Done).unwrap()), 12);
    assert_eq!(position(codec::encode(&message::PeerRequest::ReadIndex).unwrap()), 1);
    assert_eq!(position(codec::encode(&message::DataRequest::Status).unwrap()), 5);
    assert_eq!(position(codec::encode(&Query::StatFs).unwrap()), 9);
}

fn retry(class: RetryClass) -> &'static str {
    match class {
        RetryClass::Never => "never",
        RetryClass::SameNode => "same node",
        RetryClass::OtherNode => "other node",
        RetryClass::RefreshMap => "refresh map",
    }
}

#[test]
fn codes_and_classes_of_errors_are_those_of_the_code() {
    let document = document();
    let answers = FsError::ALL
        .iter()
        .map(|e| format!("| {} | `{e:?}` | {} | {} |", e.code(), e.errno(), retry(e.retry())));
    let answers: Vec<String> = answers.collect();
    answers.iter().for_each(|row| says(&document, row));

    let peer = NodeAddress::default;
    let reason = String::new;
    let block = BlockId { session: SessionId(1), index: 1 };
    let (after, applied) = (Duration::ZERO, Applied::No);
    let ours = VersionRange::OURS;
    let exchange = [
        RpcError::Unreachable { peer: peer(), reason: reason() },
        RpcError::TimedOut { peer: peer(), after, applied },
        RpcError::Disconnected { peer: peer(), applied },
        RpcError::BadFrame { peer: peer(), reason: reason() },
        RpcError::WrongCluster { caller: ClusterId(1), server: ClusterId(2) },
        RpcError::WrongVersion { caller: ours, server: ours },
        RpcError::Busy { peer: peer() },
        RpcError::Refused { reason: reason() },
        RpcError::Stopping,
        RpcError::WrongNode { expected: NodeId(1), found: NodeId(2) },
        RpcError::Internal { reason: reason() },
        RpcError::NoLeader,
        RpcError::NotReady { reason: reason() },
        RpcError::LeaderLost,
        RpcError::StoreFailed { reason: reason() },
        RpcError::BlockNotFound { block },
        RpcError::BlockCorrupt { block },
        RpcError::NoSpace,
        RpcError::LevelTooLow { active: Level(1), needed: Level(2), reason: reason() },
        RpcError::TooMany { peer: peer(), reason: reason() },
    ];
    let mut names = variants(&read("src/wire/error.rs"), "RpcError");
    assert_eq!(names.pop().as_deref(), Some("Other"), "the one without a code of its own");
    assert_eq!(names.len(), exchange.len(), "{names:?}: a variant is not in this test");
    for (error, name) in exchange.iter().zip(&names) {
        assert!(format!("{error:?}").starts_with(name.as_str()), "{error:?} is not {name}");
        let applied = match error {
            RpcError::TimedOut { .. } | RpcError::Disconnected { .. } => "as made",
            other if other.applied() == Applied::Maybe => "maybe",
            _ => "no",
        };
        says(&document, &format!("| {} | `{name}` | {} | {applied} |", error.code(), retry(error.retry())));
    }
    let rows = document.lines().filter(|l| l.split('|').nth(1).is_some_and(|c| is_code(c.trim()))).count();
    assert_eq!(rows, answers.len() + exchange.len(), "the document has an error that does not exist");
}

/// Each row of the table of bounds names a file and what stands in it.
#[test]
fn bounds_are_those_of_the_code() {
    let document = read("docs/operating.md");
    let from = document.lines().position(|l| l.starts_with("| what | bound | when it is full |")).unwrap();
    let rows: Vec<&str> = document.lines().skip(from + 2).take_while(|l| l.starts_with('|')).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        let place = row.trim_end_matches('|').rsplit('|').next().unwrap().trim();
        let (file, text) = place.split_once(": ").unwrap_or_else(|| panic!("{row}"));
        let (file, text) = (file.trim_matches('`'), text.trim_matches('`'));
        assert!(read(file).contains(text), "{file} no longer says {text}: {row}");
    }
}

fn is_code(cell: &str) -> bool {
    cell.parse::<u16>().is_ok_and(|code| (1000..5000).contains(&code))
}

#[test]
fn constants_are_those_of_the_code() {
    let document = document();
    assert_eq!(&MAGIC, b"PHMF");
    for (name, value) in [
        ("RESPONSE", Flags::RESPONSE),
        ("ERROR", Flags::ERROR),
        ("CANCEL", Flags::CANCEL),
        ("ONE_WAY", Flags::ONE_WAY),
        ("WAITS", Flags::WAITS),
    ] {
        says(&document, &format!("| `{name}` | {} |", value.0));
    }
    says(&document, &format!("| header | {HEADER_LEN} bytes |"));
    says(&document, &format!("| meta | {META_LEN_MAX} bytes |"));
    says(&document, &format!("| payload | {PAYLOAD_LEN_MAX} bytes"));
    says(&document, &format!("| hello | meta of {} bytes", Greeting::LEN_MAX));
    says(&document, &format!("payload of {BLOCK_LEN_MAX} bytes |"));
    says(&document, &format!("| blocks named by one request or reply | {} |", message::BLOCKS_MAX));
    says(&document, &format!("| names of one walk | {} |", Query::WALK_MAX));
    says(&document, &format!("| entries of one page of a directory | {} |", Query::READDIR_MAX));
    says(&document, &format!("| extents of one answer | {} |", Query::EXTENTS_MAX));
    says(&document, &format!("| supplementary groups of a caller | {} |", Cred::GROUPS_MAX));
    says(&document, &format!("| requests with `WAITS` on a connection | {WAITS_MAX} |"));
    says(&document, &format!("name, UTF-8, at most {HELLO_NAME_LEN_MAX} bytes"));
    says(&document, &format!("version, UTF-8, at most {PROGRAM_VERSION_LEN_MAX} bytes"));
    says(&document, &format!("The version of the protocol is {PROTOCOL_VERSION}."));
    says(&document, &format!("| {KIND_HELLO:#05x} | anybody | hello"));
    says(&document, &format!("| {:#05x} | anybody a metadata server", kind::META));
    says(&document, &format!("| {:#05x} to {:#05x} | a metadata server", kind::RAFT_FIRST, kind::RAFT_LAST));
    says(&document, &format!("| {:#05x} | a metadata server another | `PeerRequest`", kind::PEER));
    says(&document, &format!("| {:#05x} | anybody a data server", kind::DATA));
    // Private ones, as they are written.
    let limit = |path: &str, line: &str| assert!(read(path).contains(line), "{path} no longer says {line}");
    limit("src/meta/server.rs", "const REQUEST_META_MAX: u32 = 1 << 20;");
    says(&document, &format!("| meta of {} bytes, no payload |", 1 << 20));
    limit("src/data/service.rs", "const REQUEST_META_MAX: u32 = 256 << 10;");
    says(&document, &format!("| meta of {} bytes, payload", 256 << 10));
    let consensus = read("src/meta/raft/messages.rs");
    for (name, from_first) in table(&document, "| kind | name |").iter().map(|(k, name)| (name, k)) {
        let number = u16::from_str_radix(from_first.trim_start_matches("0x"), 16).unwrap() - kind::RAFT_FIRST;
        let sum = if number == 0 { String::new() } else { format!(" + {number}") };
        let line = format!("pub const {name}: u16 = RAFT_FIRST{sum};");
        assert!(consensus.contains(&line), "{line}");
    }
}
