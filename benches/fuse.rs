//! The transport alone: a filesystem in memory behind the kernel, over `/dev/fuse` and over io_uring.
//!
//! ```sh
//! sudo -E cargo bench --bench fuse              # 2 s a figure, about two minutes
//! sudo -E cargo bench --bench fuse -- 0.5       # shorter
//! ```
//!
//! Nothing is cached by the kernel (times to live of zero, direct I/O), so every figure is that many requests and
//! more: a create is a lookup, a create, a flush and a release. "Waiting handler" is the same stat with a handler that
//! gives way once, as one does that asks a server: the price of going on in another thread.
//! The kernel's own clients and this process share the processors: the figures compare transports, on one machine.

#![allow(clippy::unwrap_used, reason = "a measurement that fails is no measurement")]

#[path = "../tests/fuse/memory.rs"]
mod memory;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use comfy_table::Table;
use memory::Memory;
use pohmelfs::mount::fuse::{
    Answer, Errno, Filesystem, Interrupt, Mount, Notifier, Options, Request, Transport,
};

const WORKERS: [usize; 3] = [1, 4, 16];
/// One for each worker that there can be.
const WORKERS_MAX: [(); 16] = [(); 16];
/// Size of the file that is read and written.
const FILE_LEN: usize = 64 << 20;

/// A filesystem whose handlers give way once.
struct Waiting(Memory);

impl Filesystem for Waiting {
    async fn call(&self, request: Request, interrupt: Interrupt) -> Result<Answer, Errno> {
        pohmelfs::runtime::yield_now().await;
        self.0.call(request, interrupt).await
    }

    fn forget(&self, inode: u64, count: u64) {
        self.0.forget(inode, count);
    }
}

fn main() {
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        eprintln!("needs /dev/fuse and root");
        return;
    }
    let words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let seconds = words.filter_map(|word| word.parse().ok()).next().unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    let mut table = Table::new();
    table.set_header(["calls a second", "transport", "1 worker", "4 workers", "16 workers"]);
    for transport in [Transport::Dev, Transport::Uring] {
        let row = |table: &mut Table, what: &str, figures: Vec<String>| {
            let mut cells = vec![what.to_owned(), transport.name().to_owned()];
            cells.extend(figures);
            table.add_row(cells);
        };
        let plain = Memory { direct_io: true, ..Memory::default() };
        if let Err(e) = with_mount(transport, plain, |dir| {
            row(&mut table, "create", rates(time, |w, i| create(dir, w, i)));
            row(&mut table, "stat", rates(time, |w, i| stat(dir, w, i)));
            // Counted through all measurements: each goes on where the one before left the names.
            let renames = WORKERS_MAX.map(|_| AtomicU64::new(0));
            let rename = |w: usize| rename(dir, w, renames[w].fetch_add(1, Ordering::Relaxed));
            row(&mut table, "rename", rates(time, |w, _| rename(w)));
            let file = large(dir);
            row(&mut table, "read 4 KiB", rates(time, |w, i| read(&file, 4 << 10, w, i)));
            row(&mut table, "write 4 KiB", rates(time, |w, i| write(&file, 4 << 10, w, i)));
            row(&mut table, "read 1 MiB", rates(time, |w, i| read(&file, 1 << 20, w, i)));
            row(&mut table, "write 1 MiB", rates(time, |w, i| write(&file, 1 << 20, w, i)));
        }) {
            eprintln!("{}: {e}", transport.name());
            continue;
        }
        let waiting = Waiting(Memory { direct_io: true, ..Memory::default() });
        let measured = with_mount(transport, waiting, |dir| {
            rates(time / 10, |w, i| create(dir, w, i));
            row(&mut table, "stat, waiting handler", rates(time, |w, i| stat(dir, w, i)));
        });
        measured.unwrap();
    }
    println!("{table}");
}

fn with_mount<F: Filesystem>(
    transport: Transport,
    filesystem: F,
    measure: impl FnOnce(&Path),
) -> Result<(), pohmelfs::mount::fuse::MountError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = Options { transport, ..Options::default() };
    let mount = Mount::start(Arc::new(filesystem), Notifier::default(), dir.path(), options);
    let mount = runtime.block_on(mount)?;
    for worker in 0..WORKERS_MAX.len() {
        fs::create_dir(dir.path().join(worker.to_string())).unwrap();
    }
    measure(dir.path());
    runtime.block_on(mount.unmount())
}

/// Calls a second at each number of workers; `call` is told its worker and how many calls that made before, in this
/// measurement.
fn rates(time: Duration, call: impl Fn(usize, u64) + Sync) -> Vec<String> {
    let rate = |workers: usize| {
        let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
        let began = Instant::now();
        std::thread::scope(|scope| {
            for worker in 0..workers {
                let (call, stop, total) = (&call, &stop, &total);
                scope.spawn(move || {
                    let mut calls = 0;
                    while !stop.load(Ordering::Relaxed) {
                        call(worker, calls);
                        calls += 1;
                    }
                    total.fetch_add(calls, Ordering::Relaxed);
                });
            }
            std::thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
        });
        let millis = began.elapsed().as_millis().max(1);
        u128::from(total.into_inner()) * 1000 / millis
    };
    WORKERS.map(|workers| rate(workers).to_string()).to_vec()
}

fn create(dir: &Path, worker: usize, call: u64) {
    // A number that earlier measurements did not use either.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = if call < 2 { call } else { 2 + NEXT.fetch_add(1, Ordering::Relaxed) };
    let path = dir.join(format!("{worker}/{number}"));
    let created =
        OpenOptions::new().write(true).create_new(number >= 2).create(true).truncate(false).open(path);
    created.unwrap();
}

fn stat(dir: &Path, worker: usize, call: u64) {
    fs::metadata(dir.join(format!("{worker}/{}", call % 2))).unwrap();
}

fn rename(dir: &Path, worker: usize, call: u64) {
    let (from, to) = (dir.join(format!("{worker}/1")), dir.join(format!("{worker}/renamed")));
    let renamed = if call.is_multiple_of(2) { fs::rename(from, to) } else { fs::rename(to, from) };
    renamed.unwrap();
}

fn large(dir: &Path) -> File {
    let path = dir.join("large");
    fs::write(&path, vec![1; FILE_LEN]).unwrap();
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(direct).open(path).unwrap()
}

fn place(len: usize, worker: usize, call: u64) -> u64 {
    // Steps through the file, each worker from a place of its own.
    let places = (FILE_LEN / len) as u64;
    (worker as u64 * places / 16 + call) % places * len as u64
}

fn read(file: &File, len: usize, worker: usize, call: u64) {
    with_buffer(|buffer| file.read_exact_at(&mut buffer[..len], place(len, worker, call)).unwrap());
}

fn write(file: &File, len: usize, worker: usize, call: u64) {
    with_buffer(|buffer| file.write_all_at(&buffer[..len], place(len, worker, call)).unwrap());
}

/// Runs `f` with a buffer of this thread, aligned as direct I/O wants it.
fn with_buffer(f: impl FnOnce(&mut [u8])) {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; (1 << 20) + 4096]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        let from = buffer.as_ptr().align_offset(4096);
        f(&mut buffer[from..from + (1 << 20)]);
    });
}
