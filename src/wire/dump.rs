//! A dump as it is asked for block by block, and a restore as it is answered.
//!
//! Carried by `MetaRequest::Dump` and `MetaReply::Dump`, `MetaRequest::Restore` and `MetaReply::Restore`; the steps of a restore are in
//! `types/dump.rs`, the file in `cli/dump`. Holds: new variants go to the end, the position is the encoding; each refusal says what to do.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::DumpStamp;

/// What is wanted of a dump. The server that made it alone has it. New variants go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DumpRequest {
    /// Make a copy of the whole state as of now.
    Begin,
    /// A block of it.
    Block {
        /// Of which copy.
        dump: u64,
        /// From 0.
        number: u32,
    },
    /// It is not wanted any more.
    End {
        /// Which copy.
        dump: u64,
    },
}

/// The answers. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DumpReply {
    /// To Begin: it is made, and kept until it has not been asked for during [`DUMP_IDLE_SECS`].
    Begun {
        /// Its number with this server.
        dump: u64,
        /// Which state it is: linearizable, so it has all that was acknowledged before it was asked for.
        stamp: DumpStamp,
        /// Blocks it consists of.
        block_count: u32,
    },
    /// To Block: packed records.
    Block(Bytes),
    /// To End.
    Ended,
    /// To Block: no such copy, or block. Begin again.
    Unknown,
    /// To Begin: as many copies are being read as there may be.
    TooMany,
}

/// Seconds that a copy is kept after the last question for it: whoever reads a dump from standard output may be slow, and it costs disk
/// space only.
pub const DUMP_IDLE_SECS: u64 = 300;

/// How far a restore has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreProgress {
    /// Where ids begin behind it: as the first one who began it had it.
    pub floor: u64,
    /// Blocks of the dump that have come.
    pub next: u32,
    /// It has ended.
    pub is_done: bool,
}

/// Why a step of a restore was refused; it changed nothing. New variants go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RestoreRefusal {
    /// There is something already.
    #[error(
        "the cluster is not empty ({what}), and a dump is restored only into one that was just founded; nothing was changed. To replace what \
         there is: stop the metadata servers, put their directories aside, start them with empty ones, and restore again"
    )]
    NotEmpty {
        /// What.
        what: String,
    },
    /// Another dump is on its way into this cluster.
    #[error(
        "the cluster is being restored from another dump already (of cluster {}, log index {}, {} records): run `pohmelfs restore` with that \
         file, and it goes on; or stop the metadata servers, and start them with empty directories for this one",
        .dump.cluster, .dump.index, .dump.tally.records
    )]
    OtherDump {
        /// Which.
        dump: DumpStamp,
    },
    /// Nothing is being restored.
    #[error("the cluster is not being restored, or that has ended: see `pohmelfs status`")]
    NotRestoring,
    /// A part that does not follow, or holds what cannot be.
    #[error(
        "part {number} does not fit the {next} parts that have come, or has a record that this cluster does not know: run \
         `pohmelfs dump --verify FILE` with the program of the metadata servers, and restore with that program"
    )]
    BadPart {
        /// Which.
        number: u32,
        /// Parts that have come.
        next: u32,
    },
    /// The end came before all parts, or with other ones.
    #[error(
        "{records} records have come and do not add up to the {wanted} of the dump: run `pohmelfs restore` again with the same file; if that \
         does not help, stop the metadata servers, and start them with empty directories"
    )]
    Incomplete {
        /// That have come.
        records: u64,
        /// Of the dump.
        wanted: u64,
    },
    /// A server of the dump has the id or name of a metadata server.
    #[error(
        "a data server of the dump has the id or the name of a metadata server of this cluster: stop the metadata servers, give them other \
         ids and names and empty directories, and restore again"
    )]
    NodeConflict,
}
