//! The configurations in `cluster-configs/` are fine as they are, and agree with each other.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::path::{Path, PathBuf};

use pohmelfs::config::{DataConfig, MetaConfig, Source, load_data, load_meta};

fn files(folder: &str, role: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster-configs").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.file_name().unwrap().to_str().unwrap().starts_with(role));
    files.sort();
    assert_eq!(files.len(), 3);
    files
}

fn source(file: PathBuf) -> Source {
    Source { file: Some(file), ..Source::default() }
}

fn cluster(folder: &str) -> (Vec<MetaConfig>, Vec<DataConfig>) {
    let meta = files(folder, "meta").into_iter().map(|f| load_meta(&source(f)).unwrap()).collect();
    let data = files(folder, "data").into_iter().map(|f| load_data(&source(f)).unwrap()).collect();
    (meta, data)
}

#[test]
fn all_configurations_are_fine_and_agree() {
    for folder in ["local", "compose"] {
        let (meta, data) = cluster(folder);
        let mut ids: Vec<u64> = meta.iter().map(|c| c.node).chain(data.iter().map(|c| c.node)).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 6, "{folder}: ids are shared");
        for config in &meta {
            assert_eq!(config.peers, meta[0].peers, "{folder}: {} has other peers", config.name);
            let own = config.servers().into_iter().find(|v| v.node == config.node_id()).unwrap();
            assert_eq!(
                own.address,
                config.address(),
                "{folder}: {} is not where its peers look",
                config.name
            );
            assert_eq!(own.http, config.http_address(), "{folder}: {}", config.name);
        }
        for config in &data {
            let listed: Vec<String> = meta[0].peers.iter().map(|p| p.address.clone()).collect();
            assert_eq!(config.meta_servers, listed, "{folder}: {} registers elsewhere", config.name);
        }
    }
}

#[test]
fn local_servers_do_not_get_in_each_others_way() {
    let (meta, data) = cluster("local");
    let mut taken: Vec<String> = Vec::new();
    for c in &meta {
        taken.extend([c.listen.clone(), c.http_listen.clone(), c.directory.display().to_string()]);
    }
    for c in &data {
        taken.extend([c.listen.clone(), c.http_listen.clone()]);
        taken.extend(c.directories.iter().map(|d| d.display().to_string()));
    }
    let count = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), count);
}
