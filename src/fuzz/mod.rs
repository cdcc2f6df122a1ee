//! Every decoder of bytes from outside, as a fuzzer calls it: one function each, with valid inputs to start from.
//!
//! `fuzz/` runs them under libFuzzer, `tests/fuzz.rs` with random and mutated inputs on every machine. Holds: whatever the
//! bytes, a decoder comes back, with a value or an error; what it accepts can be encoded and decoded again; what it
//! accepts from a client can be applied and leaves a namespace in which all invariants hold. A panic is a finding.
//! Nothing of the program calls this.

mod files;
mod wire;
mod world;

/// A decoder, or a few of one sort.
#[derive(Clone, Copy)]
pub struct Target {
    /// What it is called here and under `fuzz/`.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: wire::frame, seeds: wire::frame_seeds },
    Target { name: "hello", run: wire::hello, seeds: wire::hello_seeds },
    Target { name: "rpc_error", run: wire::rpc_error, seeds: wire::rpc_error_seeds },
    Target { name: "meta_request", run: world::request, seeds: world::request_seeds },
    Target { name: "meta_reply", run: wire::meta_reply, seeds: wire::meta_reply_seeds },
    Target { name: "data_message", run: wire::data_message, seeds: wire::data_message_seeds },
    Target { name: "consensus", run: wire::consensus, seeds: wire::consensus_seeds },
    Target { name: "commands", run: world::commands, seeds: world::commands_seeds },
    Target { name: "updates", run: world::updates, seeds: world::updates_seeds },
    Target { name: "namespace_records", run: world::records, seeds: world::records_seeds },
    Target { name: "log_record", run: files::log_record, seeds: files::log_record_seeds },
    Target { name: "log_segment", run: files::log_segment, seeds: files::log_segment_seeds },
    Target { name: "snapshot", run: files::snapshot, seeds: files::snapshot_seeds },
    Target { name: "dump", run: files::dump, seeds: files::dump_seeds },
    Target { name: "view_record", run: files::view_record, seeds: files::view_record_seeds },
    Target { name: "block_file", run: files::block_file, seeds: files::block_file_seeds },
    Target { name: "identity", run: files::identity, seeds: files::identity_seeds },
    Target { name: "config", run: files::config, seeds: files::config_seeds },
];

/// Feeds the decoder of that name.
///
/// # Panics
/// When there is none, or the bytes break what holds.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|t| t.name == name);
    (target.unwrap_or_else(|| panic!("no decoder is called {name}")).run)(input);
}
