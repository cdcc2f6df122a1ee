//! All servers away: calls end with an error in the stated time, can be left before, and the mount works on afterwards.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{Cluster, until};
use crate::mounts::{Mount, blocking, possible};

const EIO: i32 = 5;
const ETIMEDOUT: i32 = 110;

#[tokio::test(flavor = "multi_thread")]
async fn calls_fail_by_their_deadline_and_then_go_on() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::start(3, 3).await;
    let mount = Mount::start(&cluster, "m", &["--timeout", "4"]).await;
    fs::write(mount.path("f"), vec![5; 200_000]).unwrap();
    let written = fs::File::create(mount.path("g")).unwrap();
    std::io::Write::write_all(&mut &written, b"not synced").unwrap();
    for node in &mut cluster.nodes {
        node.pause();
    }
    // One that is killed while it waits.
    let mut reader = Command::new("cat").arg(mount.path("f")).stdout(Stdio::null()).spawn().unwrap();
    reader.kill().unwrap();
    blocking(move || reader.wait().unwrap()).await;
    for call in ["list", "read", "write", "sync"] {
        let dir = mount.dir.clone();
        let written = written.try_clone().unwrap();
        let outcome = blocking(move || match call {
            "list" => fs::read_dir(&dir).map(drop),
            "read" => fs::read(dir.join("f")).map(drop),
            "write" => fs::write(dir.join("h"), b"x"),
            _ => written.sync_all(),
        })
        .await;
        let error = outcome.expect_err(call);
        assert!(matches!(error.raw_os_error(), Some(EIO | ETIMEDOUT)), "{call}: {error}");
    }
    for node in &mut cluster.nodes {
        node.resume();
    }
    cluster.ready().await;
    let path = mount.path("f");
    until("the mount to work on", async || {
        fs::read(&path).map(|b| assert!(b == vec![5; 200_000])).map_err(|e| e.to_string())
    })
    .await;
    // What could not be stored then is stored now.
    until("the sync", async || written.sync_all().map_err(|e| e.to_string())).await;
    assert_eq!(fs::read(mount.path("g")).unwrap(), b"not synced");
    drop(written);
    let path = mount.path("h");
    until("a new file", async || fs::write(&path, b"y").map_err(|e| e.to_string())).await;
    assert_eq!(fs::read(&path).unwrap(), b"y");
}

/// Longer than a session lives: files that were open go on, in a new session.
#[tokio::test(flavor = "multi_thread")]
async fn open_files_outlive_the_session() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let mount = Mount::start(&cluster, "m", &[]).await;
    let file = fs::File::create(mount.path("f")).unwrap();
    std::io::Write::write_all(&mut &file, b"before ").unwrap();
    file.sync_all().unwrap();
    // The mount stands still while the cluster goes on without it.
    let status = cluster.command(&["stats", "--json", mount.dir.to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let pid =
        rustix::process::Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()).unwrap();
    let leader = cluster.leader().await;
    let sessions = async || cluster.meta_status(leader).await.map(|(_, meta)| meta.session_count);
    let before = sessions().await.unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    until("the session to expire", async || {
        let now = sessions().await?;
        if now < before { Ok(()) } else { Err(format!("{now} of {before} live")) }
    })
    .await;
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let path = mount.path("f");
    blocking(move || {
        std::io::Write::write_all(&mut &file, b"after").unwrap();
        // At most one failure is told: of what was lost. Nothing was.
        file.sync_all().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before after");
    })
    .await;
}
