//! What the disk in memory promises: after a crash of the process everything, after one of the machine what was synced.

use std::collections::BTreeSet;

use super::*;

fn path() -> PathBuf {
    PathBuf::from("/file")
}

/// A disk with a file of two sectors of `a`, synced, name and all.
fn disk() -> (MemoryDisk, Box<dyn DiskFile>) {
    let disk = MemoryDisk::new();
    let file = disk.create(&path()).unwrap();
    file.write_at(&[b'a'; 1024], 0).unwrap();
    file.sync().unwrap();
    disk.sync_parent(&path()).unwrap();
    (disk, file)
}

#[test]
fn a_disk_does_what_the_system_does() {
    let place = tempfile::TempDir::new().unwrap();
    let disks: [(&dyn Disk, &Path); 2] = [(&RealDisk, place.path()), (&MemoryDisk::new(), Path::new("/"))];
    for (disk, root) in disks {
        let dir = root.join("some/new/place");
        disk.make_dirs(&dir).unwrap();
        disk.make_dirs(&dir).unwrap();
        let file = disk.create(&dir.join("one")).unwrap();
        file.write_at(b"behind a hole", 10).unwrap();
        file.write_at(b"over", 12).unwrap();
        file.set_len(18).unwrap();
        file.sync().unwrap();
        assert_eq!(disk.read(&dir.join("one")).unwrap(), b"\0\0\0\0\0\0\0\0\0\0beover a");
        file.set_len(20).unwrap();
        assert_eq!(file.length().unwrap(), 20);
        let mut room = [1; 3];
        file.read_exact_at(&mut room, 17).unwrap();
        assert_eq!(room, *b"a\0\0");
        assert_eq!(
            file.read_exact_at(&mut room, 18).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof,
            "{disk:?}"
        );
        let again = disk.open_to_write(&dir.join("one")).unwrap();
        again.write_at(b"x", 0).unwrap();
        assert_eq!(file.read_at(0, 1).unwrap(), b"x");
        let absent = disk.open_to_write(&dir.join("two")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        disk.replace(&dir.join("one"), &dir.join("one.tmp"), b"other").unwrap();
        assert_eq!(disk.read(&dir.join("one")).unwrap(), b"other");
        assert_eq!(disk.list(&dir).unwrap().len(), 1);
        assert_eq!(file.read_at(0, 1).unwrap(), b"x", "who has it open keeps it");
        disk.remove_tree(&root.join("some")).unwrap();
        assert_eq!(disk.list(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.boot_id().trim(), disk.boot_id(), "{disk:?}");
    }
}

#[test]
fn of_writes_over_each_other_a_crash_leaves_each_whole_torn_or_not_at_all() {
    let (mut old, mut whole, mut torn, mut later_only) = (0, 0, 0, 0);
    for seed in 0..400 {
        let (disk, file) = disk();
        file.write_at(&[b'b'; 1024], 0).unwrap();
        file.write_at(&[b'c'; 100], 2000).unwrap();
        disk.crash(CrashKeeps::Some(seed));
        assert!(file.write_at(b"z", 0).is_err(), "the process is gone");
        let found = disk.read(&path()).unwrap();
        let (first, second) = found[..1024].split_at(512);
        for sector in [first, second] {
            assert!(sector.iter().all(|b| *b == b'a') || sector.iter().all(|b| *b == b'b'), "seed {seed}");
        }
        match (first[0], second[0]) {
            (b'a', b'a') => old += 1,
            (b'b', b'b') => whole += 1,
            _ => torn += 1,
        }
        later_only += u32::from(first[0] == b'a' && found.len() == 2100 && found[2048..] == [b'c'; 52]);
        // What is there now stays.
        disk.crash(CrashKeeps::Nothing);
        assert_eq!(disk.read(&path()).unwrap(), found);
    }
    assert!(old > 20 && whole > 20 && torn > 20 && later_only > 20, "{old} {whole} {torn} {later_only}");
}

#[test]
fn what_was_synced_stays_and_what_the_process_wrote_outlives_the_process() {
    for keeps in [CrashKeeps::Nothing, CrashKeeps::All, CrashKeeps::Some(3)] {
        let (disk, file) = disk();
        file.write_at(b"durable", 500).unwrap();
        file.set_len(600).unwrap();
        file.sync().unwrap();
        let boot = disk.boot_id();
        disk.crash(keeps);
        let found = disk.read(&path()).unwrap();
        assert_eq!((found.len(), &found[500..507]), (600, &b"durable"[..]), "{keeps:?}");
        assert_eq!(disk.boot_id() == boot, keeps == CrashKeeps::All);
        let file = disk.open_to_write(&path()).unwrap();
        file.write_at(b"for now", 0).unwrap();
        disk.crash(CrashKeeps::All);
        assert_eq!(&disk.read(&path()).unwrap()[..7], b"for now");
        disk.crash(CrashKeeps::Nothing);
        assert_eq!(&disk.read(&path()).unwrap()[..7], b"aaaaaaa");
    }
}

#[test]
fn a_crash_may_undo_a_length() {
    let lengths = (0..50).map(|seed| {
        let (disk, file) = disk();
        file.set_len(10).unwrap();
        disk.crash(CrashKeeps::Some(seed));
        disk.read(&path()).unwrap().len()
    });
    assert_eq!(lengths.collect::<BTreeSet<_>>(), BTreeSet::from([10, 1024]));
}

#[test]
fn a_removed_directory_may_come_back_until_its_parent_is_synced() {
    let mut back = BTreeSet::new();
    for seed in 0..50 {
        let disk = MemoryDisk::new();
        let dir = Path::new("/dir/inner");
        disk.make_dirs(dir).unwrap();
        disk.create(&dir.join("file")).unwrap().sync().unwrap();
        for dir in ["/", "/dir", "/dir/inner"] {
            disk.sync_dir(Path::new(dir)).unwrap();
        }
        disk.remove_tree(Path::new("/dir")).unwrap();
        if seed == 0 {
            disk.sync_dir(Path::new("/")).unwrap();
        }
        disk.crash(CrashKeeps::Some(seed));
        // Whatever is listed can be listed.
        let mut found = disk.list(Path::new("/")).unwrap().len();
        if found == 1 {
            found += disk.list(Path::new("/dir")).unwrap().len();
        }
        if found == 2 {
            found += disk.list(dir).unwrap().len();
        }
        assert!(seed > 0 || found == 0);
        back.insert(found);
    }
    assert_eq!(back, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn latency_is_drawn_within_its_range() {
    let disk = MemoryDisk::new();
    assert_eq!(disk.latency(), Duration::ZERO);
    let range = Duration::from_millis(2)..=Duration::from_millis(9);
    disk.set_latency(range.clone(), 1);
    let drawn: Vec<_> = (0..100).map(|_| disk.latency()).collect();
    assert!(drawn.iter().all(|d| range.contains(d)));
    assert!(drawn.iter().collect::<BTreeSet<_>>().len() > 50);
    disk.set_latency(range, 1);
    assert_eq!(disk.latency(), drawn[0], "of one seed, the same");
}
