//! Programs that people use, git, sqlite and cargo, on a mount whose servers are killed under them: none of them notices.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use crate::common::Cluster;
use crate::common::wait::until_within;
use crate::mounts::{Mount, possible};

/// Counts the commands that a job has begun and ended.
#[derive(Default)]
struct Steps(AtomicU32);

impl Steps {
    /// Runs a command, which may not fail; what it said.
    fn run(&self, command: &mut Command) -> String {
        self.0.fetch_add(1, Relaxed);
        let out = command.stdin(Stdio::null()).output().unwrap();
        let (text, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{command:?}: {}\n{text}\n{said}", out.status);
        self.0.fetch_add(1, Relaxed);
        text.into_owned()
    }
}

type Job = fn(&Path, &Steps);

/// True if it can be run; says if not.
fn is_there(program: &str, argument: &str) -> bool {
    let done = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = done.is_ok_and(|status| status.success());
    if !there {
        eprintln!("skipped: no {program} here");
    }
    there
}

fn git(dir: &Path, steps: &Steps) {
    let run = |at: &Path, arguments: &[&str]| {
        let mut command = Command::new("git");
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.args(["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "gc.auto=0"]);
        steps.run(command.arg("-C").arg(at).args(arguments))
    };
    let (source, copy) = (dir.join("source"), dir.join("copy"));
    fs::create_dir(&source).unwrap();
    run(&source, &["init", "--quiet", "--initial-branch=main"]);
    for commit in 0..3 {
        for file in 0..20 {
            let sub = source.join(format!("d{}", file % 5));
            fs::create_dir_all(&sub).unwrap();
            fs::write(sub.join(format!("f{file}")), format!("{commit} {file}\n").repeat(200 + file)).unwrap();
        }
        run(&source, &["add", "--all"]);
        run(&source, &["commit", "--quiet", "--message", "more"]);
    }
    run(dir, &["clone", "--quiet", "--no-local", "source", "copy"]);
    fs::write(copy.join("d0/f0"), "changed\n").unwrap();
    run(&copy, &["commit", "--quiet", "--all", "--message", "changed"]);
    run(&copy, &["push", "--quiet", "origin", "HEAD:refs/heads/side"]);
    for repository in [&source, &copy] {
        run(repository, &["gc", "--quiet", "--prune=now"]);
        run(repository, &["fsck", "--full", "--strict"]);
    }
    assert_eq!(run(&source, &["rev-parse", "side"]), run(&copy, &["rev-parse", "HEAD"]));
    assert_eq!(run(&copy, &["status", "--porcelain"]), "");
}

/// What executes a script of SQL on a database, and prints rows with `|` between their columns.
fn sqlite(database: &Path, script: &str) -> Option<Command> {
    const PYTHON: &str = "import sqlite3, sys\n\
        database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n\
        for statement in sys.argv[2].split(';'):\n    \
            for row in database.execute(statement): print(*row, sep='|')\n";
    let python = || {
        let done = Command::new("python3").args(["-c", "import sqlite3"]).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    let mut command;
    if is_there("sqlite3", "-version") {
        command = Command::new("sqlite3");
        command.args(["-bail", "-batch"]).arg(database).arg(script);
    } else if python() {
        command = Command::new("python3");
        command.args(["-c", PYTHON]).arg(database).arg(script);
    } else {
        return None;
    }
    Some(command)
}

fn databases(dir: &Path, steps: &Steps) {
    const ROUNDS: usize = 4;
    for journal in ["DELETE", "WAL"] {
        let database = dir.join(journal);
        let script = |text: &str| {
            let text = format!("PRAGMA synchronous=FULL; {text}");
            steps.run(&mut sqlite(&database, &text).expect("it was there"))
        };
        let made = script(&format!(
            "PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, round INTEGER, text TEXT); \
             CREATE INDEX i ON t(text)"
        ));
        assert!(made.trim().eq_ignore_ascii_case(journal), "{made}");
        for round in 0..ROUNDS {
            let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)";
            script(&format!(
                "BEGIN; {rows} INSERT INTO t(round, text) SELECT {round}, hex(randomblob(50)) FROM n; COMMIT; \
                 BEGIN; UPDATE t SET text = hex(randomblob(200)) WHERE id % 3 = 0; COMMIT; \
                 BEGIN; DELETE FROM t WHERE round = {round} AND id % 2 = 0; COMMIT; \
                 BEGIN; DELETE FROM t; ROLLBACK"
            ));
        }
        let found = script("PRAGMA integrity_check; SELECT count(*) FROM t");
        let lines: Vec<&str> = found.lines().collect();
        assert_eq!(lines, ["ok", &(ROUNDS * 50).to_string()], "{journal}");
    }
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_this_build = text.starts_with("CARGO_") || text.starts_with("RUSTC") || text == "RUSTFLAGS";
        if of_this_build && text != "CARGO_HOME" {
            command.env_remove(&name);
        }
    }
    command
}

fn build(dir: &Path, steps: &Steps) {
    fs::create_dir(dir.join("src")).unwrap();
    fs::write(
        dir.join("Cargo.toml"),
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
    )
    .unwrap();
    let mut library = String::new();
    for module in 0..20 {
        library += &format!("pub mod m{module};\n");
        let text = format!("/// Adds.\npub fn add(n: u64) -> u64 {{ (0..n).map(|i| i * {module}).sum() }}\n");
        fs::write(dir.join(format!("src/m{module}.rs")), text).unwrap();
    }
    fs::write(dir.join("src/lib.rs"), library).unwrap();
    // The sum of 0..20 times that of 0..n.
    for (n, wanted) in [(3, "570\n"), (4, "1140\n")] {
        let calls: Vec<String> = (0..20).map(|m| format!("small::m{m}::add({n})")).collect();
        let main = format!("fn main() {{ println!(\"{{}}\", {}); }}\n", calls.join(" + "));
        fs::write(dir.join("src/main.rs"), main).unwrap();
        let target = dir.join("target");
        let mut command = cargo();
        command.current_dir(dir).env("CARGO_TARGET_DIR", &target).args(["build", "--quiet", "--offline"]);
        steps.run(&mut command);
        assert_eq!(steps.run(&mut Command::new(target.join("debug/small"))), wanted);
    }
}

/// A job that is done over and over.
struct Running {
    name: &'static str,
    steps: Arc<Steps>,
    task: tokio::task::JoinHandle<u32>,
}

impl Running {
    fn start(name: &'static str, job: Job, root: PathBuf, stop: Arc<AtomicBool>) -> Self {
        let steps = Arc::new(Steps::default());
        let counted = steps.clone();
        let task = tokio::task::spawn_blocking(move || {
            for round in 1.. {
                let dir = root.join(format!("{name}-{round}"));
                fs::create_dir(&dir).unwrap();
                job(&dir, &counted);
                if stop.load(Relaxed) {
                    return round;
                }
                fs::remove_dir_all(&dir).unwrap();
            }
            0
        });
        Self { name, steps, task }
    }

    fn count(&self) -> u32 {
        self.steps.0.load(Relaxed)
    }
}

/// Waits until every job has begun and together they have come so many steps further, or one has failed.
async fn work_on(jobs: &[Running], more: u32) {
    // Nothing but a bound of what hangs: a compiler on a busy machine takes its time.
    const LIMIT: Duration = Duration::from_secs(600);
    let all = || jobs.iter().map(Running::count).sum::<u32>();
    let wanted = all() + more;
    until_within(LIMIT, "the programs to go on", async || {
        let begun = jobs.iter().all(|job| job.count() > 0) && all() >= wanted;
        if begun || jobs.iter().any(|job| job.task.is_finished()) {
            return Ok(());
        }
        Err(jobs.iter().map(|job| format!("{}: {} ", job.name, job.count())).collect())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_do_not_notice_that_servers_die() {
    if !possible() {
        return;
    }
    let mut jobs: Vec<(&str, Job)> = Vec::new();
    if is_there("git", "--version") {
        jobs.push(("git", git));
    }
    if sqlite(Path::new(""), "").is_some() {
        jobs.push(("sqlite", databases));
    } else {
        eprintln!("skipped: neither sqlite3 nor python3 with its module sqlite3 is here");
    }
    if cargo().arg("--version").output().is_ok_and(|out| out.status.success()) {
        jobs.push(("cargo", build));
    }
    let mut cluster = Cluster::start(3, 3).await;
    let mount = Mount::start(&cluster, "m", &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let jobs: Vec<Running> = jobs
        .into_iter()
        .map(|(name, job)| Running::start(name, job, mount.dir.clone(), stop.clone()))
        .collect();
    let leader = cluster.leader().await;
    let data = cluster.data_indexes().start;
    for victim in [leader, data] {
        work_on(&jobs, 6).await;
        cluster.nodes[victim].kill();
        // While it is away.
        work_on(&jobs, 6).await;
        cluster.nodes[victim].start();
        cluster.ready().await;
    }
    stop.store(true, Relaxed);
    for job in jobs {
        let rounds = job.task.await.unwrap();
        println!("{}: {rounds} rounds, {} commands", job.name, job.steps.0.load(Relaxed) / 2);
    }
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
