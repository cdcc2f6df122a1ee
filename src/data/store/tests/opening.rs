//! Whose directories these are, and what is said when they cannot be used.

use std::fs;

use super::*;
use crate::data::store::{DirectoryState, Disk, RealDisk};
use crate::types::ClusterId;

fn refusal(disk: &Arc<MemoryDisk>, config: StoreConfig, who: Identity) -> String {
    BlockStore::open_on(disk.clone(), config, who).unwrap_err().to_string()
}

#[test]
fn a_new_directory_is_made_only_when_told_to() {
    let disk = Arc::new(MemoryDisk::new());
    let plain = StoreConfig { create: false, ..config(Spread::Spread, 1) };
    let error = refusal(&disk, plain.clone(), WHO);
    assert!(error.contains("/a") && error.contains("does not exist") && error.contains("create"), "{error}");
    disk.make_dir(Path::new("/a")).unwrap();
    let error = refusal(&disk, plain.clone(), WHO);
    assert!(error.contains("/a") && error.contains("empty"), "{error}");
    open(&disk, config(Spread::Spread, 1)).unwrap();
    open(&disk, plain).unwrap();
}

#[test]
fn a_directory_of_others_is_refused() {
    let disk = Arc::new(MemoryDisk::new());
    disk.make_dir(Path::new("/a")).unwrap();
    drop(disk.create(Path::new("/a/letter.txt")).unwrap());
    let error = refusal(&disk, config(Spread::Spread, 1), WHO);
    assert!(error.contains("/a") && error.contains("letter.txt"), "{error}");
    assert_eq!(disk.list(Path::new("/a")).unwrap().len(), 1, "nothing was written there");

    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 1)).unwrap();
    assert_eq!((store.node(), store.cluster()), (NodeId(3), None));
    store.adopt(ClusterId(77)).unwrap();
    store.adopt(ClusterId(77)).unwrap();
    let error = store.adopt(ClusterId(78)).unwrap_err().to_string();
    assert!(error.contains("/a") && error.contains("4d") && error.contains("4e"), "{error}");
    let error = refusal(&disk, config(Spread::Spread, 1), WHO);
    assert!(error.contains("/a") && error.contains("another process"), "{error}");
    drop(store);
    disk.crash(crate::data::store::CrashKeeps::Nothing);
    let error = refusal(&disk, config(Spread::Spread, 1), Identity { cluster: Some(ClusterId(78)), ..WHO });
    assert!(error.contains("/a") && error.contains("belongs to cluster"), "{error}");
    let error = refusal(&disk, config(Spread::Spread, 1), Identity { node: Some(NodeId(4)), ..WHO });
    assert!(error.contains("/a") && error.contains("belongs to data server 3"), "{error}");
    let store = BlockStore::open_on(disk, config(Spread::Spread, 1), Identity { node: None, ..WHO }).unwrap();
    assert_eq!(
        (store.node(), store.cluster()),
        (NodeId(3), Some(ClusterId(77))),
        "the directories say who it is"
    );
}

/// The state of its cluster was restored into another one, and the machine stopped while the directories were told.
#[test]
fn directories_that_moved_take_those_along_that_did_not() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 3)).unwrap();
    store.adopt(ClusterId(77)).unwrap();
    let identity = |dir: &str| Path::new(dir).join("pohmelfs-data");
    let before = disk.read(&identity("/a")).unwrap();
    store.move_to(ClusterId(78)).unwrap();
    store.move_to(ClusterId(78)).unwrap();
    assert_eq!(store.cluster(), Some(ClusterId(78)));
    assert!(store.adopt(ClusterId(77)).is_err(), "there is no way back");
    assert!(store.move_to(ClusterId(77)).unwrap_err().to_string().contains("no way back"));
    drop(store);
    disk.create(&identity("/a")).unwrap().write_at(&before, 0).unwrap();
    let store = open(&disk, config(Spread::Spread, 3)).unwrap();
    assert_eq!(store.cluster(), Some(ClusterId(78)));
    assert_ne!(disk.read(&identity("/a")).unwrap(), before, "it was told");
    store.move_to(ClusterId(79)).unwrap();
    drop(store);
    disk.create(&identity("/a")).unwrap().write_at(&before, 0).unwrap();
    let store = open(&disk, config(Spread::Spread, 3)).unwrap();
    assert_eq!(store.cluster(), Some(ClusterId(79)), "it was away for two lives");
    drop(store);

    // One of a cluster that they never were of is refused all the same.
    let other = Arc::new(MemoryDisk::new());
    let stranger = open(&other, config(Spread::Spread, 1)).unwrap();
    stranger.adopt(ClusterId(5)).unwrap();
    let bytes = other.read(&identity("/a")).unwrap();
    disk.create(&identity("/a")).unwrap().write_at(&bytes, 0).unwrap();
    let error = refusal(&disk, config(Spread::Spread, 3), WHO);
    assert!(error.contains("belongs to cluster"), "{error}");
}

#[test]
fn a_directory_given_twice_is_refused() {
    let disk = Arc::new(MemoryDisk::new());
    let twice = || {
        let mut config = config(Spread::Spread, 1);
        config.directories.push(PathBuf::from("/a"));
        config
    };
    open(&disk, config(Spread::Spread, 1)).unwrap();
    let error = refusal(&disk, twice(), WHO);
    assert!(error.contains("/a") && error.contains("twice"), "{error}");
    let mirror = StoreConfig { mode: Spread::Mirror(2), ..config(Spread::Spread, 1) };
    assert!(refusal(&disk, mirror, WHO).contains("mirror = 2"));
}

/// An unmounted disk leaves an empty mount point. Making a new directory there would fill the root disk and hide
/// that blocks are missing.
#[test]
fn a_missing_member_is_told_and_nothing_is_made_in_its_place() {
    let disk = Arc::new(MemoryDisk::new());
    let store = open(&disk, config(Spread::Spread, 2)).unwrap();
    for index in 0..6 {
        put(&store, id(1, index), &bytes_of(id(1, index), 100)).unwrap();
    }
    drop(store);
    let moved = StoreConfig {
        directories: vec![PathBuf::from("/a"), PathBuf::from("/mnt")],
        ..config(Spread::Spread, 2)
    };
    disk.make_dir(Path::new("/mnt")).unwrap();
    let store = open(&disk, moved.clone()).unwrap();
    let usage = store.usage();
    assert_eq!(usage[0].state, DirectoryState::Healthy);
    assert!(usage[1..].iter().all(|u| u.state == DirectoryState::Missing), "{usage:?}");
    assert!(usage.iter().any(|u| u.path == "/b") && usage.iter().any(|u| u.path == "/mnt"), "{usage:?}");
    assert!(disk.list(Path::new("/mnt")).unwrap().is_empty());
    assert_eq!(store.list(None, 100).len(), 3);
    put(&store, id(2, 1), &bytes_of(id(2, 1), 100)).unwrap();
    drop(store);
    // Back again: all is there.
    assert_eq!(open(&disk, config(Spread::Spread, 2)).unwrap().list(None, 100).len(), 7);
    // Lost for ever: said once.
    drop(open(&disk, StoreConfig { forget_missing: true, ..moved.clone() }).unwrap());
    let store = open(&disk, moved).unwrap();
    assert!(store.usage().iter().all(|u| u.state == DirectoryState::Healthy), "{:?}", store.usage());
}

#[test]
fn a_disk_that_fails_at_open_is_left_out() {
    let disk = Arc::new(MemoryDisk::new());
    drop(open(&disk, config(Spread::Spread, 2)).unwrap());
    disk.fail_below(Path::new("/b"), Some(rustix::io::Errno::IO));
    let store = open(&disk, config(Spread::Spread, 2)).unwrap();
    assert_eq!(store.usage()[1].state, DirectoryState::Missing);
    drop(store);
    disk.fail_below(Path::new("/a"), Some(rustix::io::Errno::IO));
    let error = refusal(&disk, config(Spread::Spread, 2), WHO);
    assert!(error.contains("/a") && error.contains("Input/output"), "{error}");
    disk.fail_below(Path::new("/a"), Some(rustix::io::Errno::ROFS));
    disk.fail_below(Path::new("/b"), None);
}

#[test]
fn a_real_directory_is_locked_scanned_and_cleaned() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("blocks-of-a-server");
    let config = StoreConfig { create: true, reserve_bytes: 0, ..StoreConfig::new(vec![dir.clone()]) };
    let store = BlockStore::open(config.clone(), WHO).unwrap();
    for index in 0..3 {
        put(&store, id(1, index), &bytes_of(id(1, index), 70_000)).unwrap();
    }
    let error = BlockStore::open(config.clone(), WHO).unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
    let link = temp.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    drop(store);
    let twice = StoreConfig { directories: vec![dir.clone(), link], ..config.clone() };
    assert!(BlockStore::open(twice, WHO).unwrap_err().to_string().contains("twice"));

    let folder = dir.join("blocks/00");
    let file = temp.path().join("blocks-of-a-server/blocks/00/0000-half.tmp");
    fs::write(&file, b"half a block").unwrap();
    fs::write(folder.join("note"), b"put here by hand").unwrap();
    let store = BlockStore::open(StoreConfig { create: false, ..config }, WHO).unwrap();
    assert!(!file.exists() && folder.join("note").exists());
    assert_eq!(store.list(None, 10).len(), 3);
    for index in 0..3 {
        assert_eq!(store.get_all(id(1, index)).unwrap().1, bytes_of(id(1, index), 70_000));
    }
    assert_eq!(store.get(id(1, 1), 65_000..66_000).unwrap(), bytes_of(id(1, 1), 70_000)[65_000..66_000]);
    assert!(store.capacity().total > 0 && RealDisk.space(&dir).unwrap().free > 0);
    store.delete(id(1, 1)).unwrap();
    assert!(matches!(store.get_all(id(1, 1)), Err(StoreError::NotFound(_))));
}
