//! What is read from disks: log, snapshot, dump, view, blocks, identity, configuration.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cli::dump::file as dump_file;
use crate::config::{DataConfig, MetaConfig, Source, load_data, load_meta};
use crate::data::store::fuzz as store;
use crate::meta::identity;
use crate::meta::raft::log::fuzz as log;
use crate::meta::state::fuzz as state;

/// A directory of one thread, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pohmelfs-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies in the temporary directory.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A directory for the files of one decoder.
fn scratch(name: &str) -> PathBuf {
    thread_local!(static SCRATCH: Scratch = Scratch::make());
    let dir = SCRATCH.with(|scratch| scratch.0.join(name));
    std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
    dir
}

pub(super) fn log_record(input: &[u8]) {
    log::one_record(input);
}

pub(super) fn log_record_seeds() -> Vec<Vec<u8>> {
    log::record_seeds()
}

pub(super) fn log_segment(input: &[u8]) {
    log::segment(input);
}

pub(super) fn log_segment_seeds() -> Vec<Vec<u8>> {
    log::segment_seeds()
}

pub(super) fn snapshot(input: &[u8]) {
    state::snapshot(input);
}

pub(super) fn snapshot_seeds() -> Vec<Vec<u8>> {
    state::snapshot_seeds()
}

pub(super) fn dump(input: &[u8]) {
    dump_file::fuzz(input);
}

pub(super) fn dump_seeds() -> Vec<Vec<u8>> {
    dump_file::fuzz_seeds()
}

pub(super) fn view_record(input: &[u8]) {
    state::record(input);
}

pub(super) fn view_record_seeds() -> Vec<Vec<u8>> {
    state::record_seeds()
}

pub(super) fn block_file(input: &[u8]) {
    store::block(input);
}

pub(super) fn block_file_seeds() -> Vec<Vec<u8>> {
    store::block_seeds()
}

pub(super) fn identity(input: &[u8]) {
    store::identity(input);
    identity::fuzz(input);
}

pub(super) fn identity_seeds() -> Vec<Vec<u8>> {
    [store::identity_seeds(), identity::fuzz_seeds()].concat()
}

/// A configuration file of either role; whatever is wrong with it, the error says something.
pub(super) fn config(input: &[u8]) {
    let file = scratch("config").join("server.toml");
    if std::fs::write(&file, input).is_err() {
        return;
    }
    let source = Source { file: Some(file), env: Vec::new(), flags: Vec::new() };
    if let Err(e) = load_meta(&source) {
        assert!(!e.to_string().is_empty());
    }
    if let Err(e) = load_data(&source) {
        assert!(!e.to_string().is_empty());
    }
}

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    let scalars = |value: serde_json::Value| {
        let mut text = String::new();
        for (key, value) in value.as_object().into_iter().flatten().filter(|(_, v)| !v.is_object()) {
            text += &format!("{key} = {value}\n");
        }
        for (key, table) in value.as_object().into_iter().flatten() {
            if let Some(table) = table.as_object() {
                text += &format!("[{key}]\n");
                table.iter().for_each(|(key, value)| text += &format!("{key} = {value}\n"));
            }
        }
        text.into_bytes()
    };
    let meta = serde_json::to_value(MetaConfig::example()).unwrap_or_default();
    let data = serde_json::to_value(DataConfig::example()).unwrap_or_default();
    vec![scalars(meta), scalars(data)]
}
