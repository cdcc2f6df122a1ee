//! The transport against the real kernel: a filesystem in memory is mounted, and ordinary calls are made on it.
//!
//! Each test runs once for each transport that this machine has; without `/dev/fuse` or root it says so and passes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod memory;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memory::{Memory, until_waiting};
use pohmelfs::mount::fuse::{Mount, MountError, Notifier, Options, Transport};
use rustix::fs::{FlockOperation, fcntl_lock, flock};

/// A mount on a directory of its own.
struct Fixture {
    runtime: tokio::runtime::Runtime,
    memory: Arc<Memory>,
    mount: Option<Mount>,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn until_waiting(&self, count: usize) {
        self.runtime.block_on(async {
            let wait = until_waiting(&self.memory, count);
            tokio::time::timeout(Duration::from_secs(60), wait).await.expect("requests do not come to wait");
        });
    }

    fn unmount(&mut self) {
        let mount = self.mount.take().unwrap();
        self.runtime.block_on(mount.unmount()).unwrap();
    }
}

fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !can {
        eprintln!("skipped: needs /dev/fuse and root");
    }
    can
}

fn mounted(transport: Transport, memory: impl FnOnce(&Notifier) -> Memory) -> Result<Fixture, MountError> {
    mounted_with(Options { transport, ..Options::default() }, memory)
}

fn mounted_with(options: Options, memory: impl FnOnce(&Notifier) -> Memory) -> Result<Fixture, MountError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let notifier = Notifier::default();
    let memory = Arc::new(memory(&notifier));
    let options = Options { source: "memory".to_owned(), ..options };
    let mount = runtime.block_on(Mount::start(memory.clone(), notifier, dir.path(), options))?;
    Ok(Fixture { runtime, memory, mount: Some(mount), dir })
}

/// Runs `test` once for each transport that this machine has.
fn on_each(memory: impl Fn(&Notifier) -> Memory, test: impl Fn(&mut Fixture)) {
    if !can_mount() {
        return;
    }
    for transport in [Transport::Dev, Transport::Uring] {
        match mounted(transport, &memory) {
            Ok(mut fixture) => {
                assert_eq!(fixture.mount.as_ref().unwrap().negotiated().transport, transport);
                test(&mut fixture);
                if fixture.mount.is_some() {
                    fixture.unmount();
                }
                assert!(fs::read_dir(fixture.dir.path()).unwrap().next().is_none(), "still mounted");
            }
            Err(MountError::Uring(why)) => eprintln!("skipped over io_uring: {why}"),
            Err(e) => panic!("{transport:?}: {e}"),
        }
    }
}

fn plain(_: &Notifier) -> Memory {
    Memory::default()
}

/// The file system calls of a child process: this test program again, as [`child`].
fn start_child(what: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("FUSE_TEST_CHILD", what)
        .env("FUSE_TEST_PATH", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test: what [`start_child`] runs.
#[test]
fn child() {
    let Ok(what) = std::env::var("FUSE_TEST_CHILD") else { return };
    let path = std::env::var_os("FUSE_TEST_PATH").unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    match what.as_str() {
        "fcntl" => fcntl_lock(&file, FlockOperation::LockExclusive).unwrap(),
        "flock" => flock(&file, FlockOperation::LockExclusive).unwrap(),
        "read" => drop(file.read(&mut [0; 10])),
        _ => panic!("{what}"),
    }
}

#[test]
fn a_tour_of_calls() {
    on_each(plain, |fixture| {
        let file = fixture.path("file");
        fs::write(&file, "hello").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "hello");
        OpenOptions::new().append(true).open(&file).unwrap().write_all(b", world").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), 12);
        OpenOptions::new().write(true).truncate(true).open(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), 0);
        let again = OpenOptions::new().write(true).create_new(true).open(&file);
        assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);

        fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
        let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + Duration::new(5, 7));
        File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o4751, 5, 7));
        assert!(meta.created().is_ok(), "statx tells the time of creation");

        let minor = rustix::fs::minor(meta.dev());
        let read_ahead = fs::read_to_string(format!("/sys/class/bdi/0:{minor}/read_ahead_kb")).unwrap();
        assert_eq!(read_ahead.trim(), "4096");

        symlink("some/where", fixture.path("link")).unwrap();
        assert_eq!(fs::read_link(fixture.path("link")).unwrap(), Path::new("some/where"));
        fs::hard_link(&file, fixture.path("second")).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().nlink(), 2);
        fs::create_dir(fixture.path("dir")).unwrap();
        fs::rename(&file, fixture.path("dir/file")).unwrap();
        fs::remove_file(fixture.path("second")).unwrap();
        assert_eq!(
            fs::remove_dir(fixture.path("dir")).unwrap_err().kind(),
            std::io::ErrorKind::DirectoryNotEmpty
        );
        fs::remove_file(fixture.path("dir/file")).unwrap();
        fs::remove_dir(fixture.path("dir")).unwrap();
        fs::remove_file(fixture.path("link")).unwrap();

        let kind = rustix::fs::FileType::CharacterDevice;
        let null = rustix::fs::makedev(1, 300);
        rustix::fs::mknodat(rustix::fs::CWD, fixture.path("null"), kind, 0o600.into(), null).unwrap();
        assert_eq!(fs::metadata(fixture.path("null")).unwrap().rdev(), null);
        let stats = fixture.mount.as_ref().unwrap().stats().snapshot();
        assert!(stats.ops.iter().any(|op| op.name == "create" && op.count > 0 && op.errors == 0));
    });
}

#[test]
fn large_reads_and_writes_arrive_whole() {
    for direct_io in [false, true] {
        on_each(
            |_| Memory { direct_io, ..Memory::default() },
            |fixture| {
                let path = fixture.path("large");
                // A prime length, so that no two pages of it are equal.
                let bytes: Vec<u8> = (0..5_000_011u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
                fs::write(&path, &bytes).unwrap();
                assert!(fs::read(&path).unwrap() == bytes);
                let mut file = File::options().read(true).write(true).open(&path).unwrap();
                file.write_all_at(b"in the middle", 3_000_000).unwrap();
                let mut middle = [0; 15];
                file.read_exact_at(&mut middle, 2_999_999).unwrap();
                assert_eq!(&middle[1..14], b"in the middle");
                assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 5_000_011);
                assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 5_000_011);
                let copy = File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(fixture.path("copy"))
                    .unwrap();
                let copied = rustix::fs::copy_file_range(&file, Some(&mut 10), &copy, None, 1000).unwrap();
                assert_eq!(copied, 1000);
                assert!(fs::read(fixture.path("copy")).unwrap() == bytes[10..1010]);
            },
        );
    }
}

#[test]
fn directories_of_many_pages_are_listed_whole_while_many_write_them() {
    on_each(plain, |fixture| {
        let fixture = &*fixture;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for i in 0..500 {
                        fs::write(
                            fixture.path(&format!("a file with a name of some length {thread} {i}")),
                            b"x",
                        )
                        .unwrap();
                    }
                });
            }
        });
        let mut names: Vec<_> = fs::read_dir(fixture.dir.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert_eq!(entry.metadata().unwrap().len(), 1);
                entry.file_name()
            })
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 2000);
    });
}

#[test]
fn extended_attributes_have_sizes_and_limits() {
    on_each(plain, |fixture| {
        let path = fixture.path("file");
        fs::write(&path, "").unwrap();
        let set = |value: &[u8], flags| rustix::fs::setxattr(&path, "user.x", value, flags);
        use rustix::fs::XattrFlags;
        set(b"value", XattrFlags::CREATE).unwrap();
        assert_eq!(set(b"value", XattrFlags::CREATE), Err(rustix::io::Errno::EXIST));
        let mut room = [0; 10];
        assert_eq!(rustix::fs::getxattr(&path, "user.x", &mut room), Ok(5));
        assert_eq!(&room[..5], b"value");
        assert_eq!(rustix::fs::getxattr(&path, "user.x", &mut room[..3]), Err(rustix::io::Errno::RANGE));
        assert_eq!(rustix::fs::listxattr(&path, &mut room), Ok(7));
        rustix::fs::removexattr(&path, "user.x").unwrap();
        assert_eq!(rustix::fs::getxattr(&path, "user.x", &mut room), Err(rustix::io::Errno::NODATA));
    });
}

#[test]
fn acls_pass_through_the_kernel_as_they_are() {
    on_each(plain, |fixture| {
        let path = fixture.path("file");
        fs::write(&path, "").unwrap();
        // Version 2, then user::rw-, user:1:rw-, group::r--, mask::rw-, other::---, each as tag, rights and id.
        let entries: [(u16, u16, u32); 5] =
            [(1, 6, u32::MAX), (2, 6, 1), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)];
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(rights.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        const NAME: &str = "system.posix_acl_access";
        rustix::fs::setxattr(&path, NAME, &acl, rustix::fs::XattrFlags::empty()).unwrap();
        let mut room = [0; 100];
        assert_eq!(rustix::fs::getxattr(&path, NAME, &mut room), Ok(acl.len()));
        assert_eq!(&room[..acl.len()], acl);
    });
}

#[test]
fn files_without_names_are_made() {
    on_each(plain, |fixture| {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(rustix::fs::OFlags::TMPFILE.bits()).unwrap())
            .open(fixture.dir.path());
        let mut file = file.unwrap();
        file.write_all(b"nameless").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(fs::read_dir(fixture.dir.path()).unwrap().count(), 0);
    });
}

#[test]
fn flock_and_fcntl_are_families_of_their_own() {
    on_each(plain, |fixture| {
        let path = fixture.path("file");
        fs::write(&path, "").unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (one, two) = (open(), open());
        flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
        // Another open file conflicts with flock; fcntl of the same process does not see it.
        assert_eq!(flock(&two, FlockOperation::NonBlockingLockExclusive), Err(rustix::io::Errno::AGAIN));
        fcntl_lock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
        // Closing an open file gives its flock back.
        drop(one);
        let three = open();
        until(|| flock(&three, FlockOperation::NonBlockingLockExclusive).is_ok());
    });
}

/// The kernel tells of a close after the call: try again.
fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("it does not come true");
}

#[test]
fn a_process_that_waits_dies_at_once_and_leaves_no_request_behind() {
    on_each(plain, |fixture| {
        let path = fixture.path("file");
        fs::write(&path, "").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        fs::write(fixture.path("wait"), "").unwrap();
        for (what, name) in [("fcntl", "file"), ("flock", "file"), ("read", "wait")] {
            let mut child = start_child(what, &fixture.path(name));
            fixture.until_waiting(1);
            child.kill().unwrap();
            // It would not be reaped while its request waits.
            child.wait().unwrap();
            fixture.until_waiting(0);
        }
        assert!(fixture.mount.as_ref().unwrap().stats().snapshot().interrupts >= 3);
    });
}

#[test]
fn many_waiters_keep_nobody_else_from_being_served() {
    const WAITERS: usize = 200;
    on_each(plain, |fixture| {
        let fixture = &*fixture;
        let path = fixture.path("file");
        fs::write(&path, "").unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let holder = open();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..WAITERS {
                scope.spawn(|| flock(open(), FlockOperation::LockExclusive).unwrap());
            }
            fixture.until_waiting(WAITERS);
            for i in 0..300 {
                fs::write(fixture.path(&format!("other {i}")), "x").unwrap();
            }
            assert_eq!(fixture.memory.waiting.borrow().to_owned(), WAITERS);
            flock(&holder, FlockOperation::Unlock).unwrap();
        });
        fixture.until_waiting(0);
    });
}

#[test]
fn more_lock_waits_than_a_ring_holds_are_refused_and_the_unlock_comes_through() {
    if !can_mount() {
        return;
    }
    // The smallest ring, of which waits may take half.
    let depth = Options::RING_RESERVE + 32;
    let options = Options { transport: Transport::Uring, ring_depth_max: depth, ..Options::default() };
    let fixture = match mounted_with(options, plain) {
        Ok(fixture) => fixture,
        Err(MountError::Uring(why)) => return eprintln!("skipped: {why}"),
        Err(e) => panic!("{e}"),
    };
    let path = fixture.path("file");
    fs::write(&path, "").unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let holder = open();
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    let processors = std::thread::available_parallelism().unwrap().get();
    let callers = processors * usize::from(depth) + 50;
    std::thread::scope(|scope| {
        let waiters: Vec<_> =
            (0..callers).map(|_| scope.spawn(|| flock(open(), FlockOperation::LockExclusive))).collect();
        let stats = fixture.mount.as_ref().unwrap().stats();
        until(|| {
            let stats = stats.snapshot();
            stats.in_flight + stats.lock_waits_refused >= callers as u64
        });
        fs::write(fixture.path("other"), "x").unwrap();
        flock(&holder, FlockOperation::Unlock).unwrap();
        let results: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        let refused = results.iter().filter(|result| **result == Err(rustix::io::Errno::NOLCK)).count();
        assert!(refused > 0 && results.iter().any(Result::is_ok), "{refused} of {callers} refused");
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), callers - refused);
    });
}

#[test]
fn a_handler_that_panics_or_answers_something_else_fails_its_own_call_only() {
    on_each(plain, |fixture| {
        let path = fixture.path("panic");
        let error = fs::write(&path, "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        let error = fs::write(fixture.path("nonsense"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        fs::write(fixture.path("file"), "it goes on").unwrap();
    });
}

#[test]
fn notifications_under_load_do_not_deadlock() {
    let memory = |notifier: &Notifier| Memory {
        ttl: Duration::from_secs(60),
        notifier: Some(notifier.clone()),
        ..Memory::default()
    };
    on_each(memory, |fixture| {
        let fixture = &*fixture;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|thread| {
                    scope.spawn(move || {
                        for i in 0..400 {
                            let (one, two) = (
                                fixture.path(&format!("{thread} {i}")),
                                fixture.path(&format!("{thread} {i} renamed")),
                            );
                            fs::write(&one, "x").unwrap();
                            fs::rename(&one, &two).unwrap();
                            fs::remove_file(&two).unwrap();
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for entry in fs::read_dir(fixture.dir.path()).unwrap() {
                        drop(entry.unwrap().metadata());
                    }
                }
            });
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            stop.store(true, Ordering::Relaxed);
        });
        let stats = fixture.mount.as_ref().unwrap().stats();
        assert!(stats.snapshot().notifications > 0);
    });
}

#[test]
fn it_is_unmounted_while_files_are_open_and_requests_wait() {
    on_each(plain, |fixture| {
        fs::write(fixture.path("file"), "x").unwrap();
        fs::write(fixture.path("wait"), "").unwrap();
        let open = File::open(fixture.path("file")).unwrap();
        let mut reader = start_child("read", &fixture.path("wait"));
        fixture.until_waiting(1);
        fixture.unmount();
        assert!(open.metadata().is_err(), "what was open is cut off");
        reader.wait().unwrap();
        fixture.until_waiting(0);
        assert_eq!(Arc::strong_count(&fixture.memory), 1, "threads or handlers keep the filesystem");
    });
}

#[test]
fn an_unmount_by_somebody_else_is_noticed() {
    on_each(plain, |fixture| {
        fs::write(fixture.path("file"), "x").unwrap();
        let status = Command::new("umount").arg(fixture.dir.path()).status().unwrap();
        assert!(status.success());
        let mount = fixture.mount.take().unwrap();
        fixture.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), mount.gone())
                .await
                .expect("the end is not noticed");
            mount.unmount().await.unwrap();
        });
        assert_eq!(Arc::strong_count(&fixture.memory), 1);
    });
}

#[test]
fn a_lazy_unmount_by_somebody_else_is_brought_to_its_end() {
    on_each(plain, |fixture| {
        fs::write(fixture.path("file"), "x").unwrap();
        let mut open = File::open(fixture.path("file")).unwrap();
        assert!(Command::new("umount").arg("-l").arg(fixture.dir.path()).status().unwrap().success());
        let mut byte = [0];
        open.read_exact(&mut byte).unwrap();
        fixture.unmount();
        assert!(open.metadata().is_err());
        assert_eq!(Arc::strong_count(&fixture.memory), 1);
    });
}

#[test]
fn a_directory_is_mounted_once() {
    on_each(plain, |fixture| {
        let options = Options::default();
        let second =
            Mount::start(Arc::new(Memory::default()), Notifier::default(), fixture.dir.path(), options);
        let refused = fixture.runtime.block_on(second).unwrap_err();
        assert!(matches!(refused, MountError::AlreadyMounted(_)), "{refused}");
        fs::write(fixture.path("file"), "the first one works on").unwrap();
    });
}
