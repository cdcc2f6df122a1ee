//! How many creates and lookups a second one thread applies: `cargo bench --bench namespace`.
//!
//! The view is a `BTreeMap`, so this measures the namespace alone. The aim is 150,000 creates a second in batches of 64:
//! several times what consensus delivers, so that `apply` is not what a cluster waits for.

use std::time::Instant;

use bytes::Bytes;
use pohmelfs::namespace::{Command, MemoryView, Op, Txn, apply, query};
use pohmelfs::types::{
    ClusterId, Cred, FileKind, InodeId, Layout, MakeNode, Name, OpenSession, Query, ROOT_INODE, RequestId,
    SessionId, Timestamp, Update, UpdateReply,
};

const SESSIONS: u64 = 16;
const DIRS: u64 = 100;
const FILES: u64 = 400_000;
const BATCH: usize = 64;

/// Applies commands in batches and stores them; the inode made last.
fn run(view: &mut MemoryView, commands: &[Command]) -> Option<InodeId> {
    let mut last = None;
    for batch in commands.chunks(BATCH) {
        let mut txn = Txn::new(view);
        for command in batch {
            match apply(&mut txn, command) {
                Ok(Ok(UpdateReply::Made { attr, .. })) => last = Some(attr.inode),
                Ok(Ok(_)) => {}
                other => panic!("{command:?}: {other:?}"),
            }
        }
        let changes = txn.finish();
        view.store(&changes);
    }
    last
}

fn client(index: u64, update: Update) -> Command {
    let request = RequestId(1 + index / SESSIONS);
    Command {
        at: Timestamp(1_700_000_000_000_000_000 + i64::try_from(index).unwrap_or(0) * 1_000),
        op: Op::Client {
            session: SessionId(1 + index % SESSIONS),
            request,
            lowest_unanswered: request,
            cred: Cred { uid: 1000, gid: 1000, groups: vec![10, 20, 30] },
            update,
        },
    }
}

fn make(parent: InodeId, name: String, kind: FileKind) -> Update {
    let Ok(name) = Name::new(name) else { panic!("a bad name") };
    Update::Make(MakeNode {
        parent,
        name,
        kind,
        mode: 0o777,
        umask: 0,
        rdev: 0,
        content: Bytes::new(),
        exclusive: true,
    })
}

/// Time this thread has been on a CPU, in nanoseconds: on a busy machine the honest measure. Linux only; else none.
fn on_cpu() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn measure(what: &str, count: u64, work: impl FnOnce()) {
    let (start, cpu) = (Instant::now(), on_cpu());
    work();
    let rate = |nanos: f64| {
        format!("{:.0}/s ({:.2} us each)", count as f64 * 1e9 / nanos, nanos / 1e3 / count as f64)
    };
    let wall = rate(start.elapsed().as_nanos() as f64);
    let cpu = cpu.zip(on_cpu()).map_or("unknown".into(), |(from, to)| rate((to - from) as f64));
    println!("{what}: {wall} by the clock, {cpu} of CPU time");
}

fn main() {
    let mut view = MemoryView::default();
    let at = Timestamp(1_700_000_000_000_000_000);
    let found = Op::Found { cluster: ClusterId(1), hash_seed: 7, layout: Layout::default() };
    run(&mut view, &[Command { at, op: found }]);
    let open = Update::OpenSession(OpenSession { ttl_ms: 10_000, label: "bench".into() });
    let opens: Vec<Command> = (0..SESSIONS).map(|_| client(0, open.clone())).collect();
    run(&mut view, &opens);
    let mut index = 0;
    let mut dirs = Vec::new();
    for d in 0..DIRS {
        let mut command = client(index, make(ROOT_INODE, format!("dir{d}"), FileKind::Dir));
        if let Op::Client { cred, .. } = &mut command.op {
            *cred = Cred::root();
        }
        dirs.extend(run(&mut view, &[command]));
        index += 1;
    }
    // mkdir by root leaves 0777 as asked: everyone may create.
    let creates: Vec<Command> = (0..FILES)
        .map(|f| {
            index += 1;
            // Runs of creates in one directory, as tar and build systems do.
            let dir = dirs[usize::try_from(f / 256 % DIRS).unwrap_or(0)];
            client(index, make(dir, format!("file-{f}.dat"), FileKind::File))
        })
        .collect();

    measure("creates", FILES, || {
        run(&mut view, &creates);
    });
    let cred = Cred { uid: 1000, gid: 1000, groups: vec![10, 20, 30] };
    measure("lookups", FILES, || {
        for f in 0..FILES {
            let parent = dirs[usize::try_from(f / 256 % DIRS).unwrap_or(0)];
            let Ok(name) = Name::new(format!("file-{f}.dat")) else { panic!("a bad name") };
            let reply = query(&view, &cred, &Query::Lookup { parent, name });
            assert!(matches!(reply, Ok(Ok(_))));
        }
    });
    println!(
        "records: {}, bytes: {}",
        view.records.len(),
        view.records.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
    );
}
