//! What cannot be mounted: an error that names the way out, and nothing half mounted.

use std::net::TcpListener;

use crate::common::Cluster;
use crate::common::node::program;
use crate::mounts::{Mount, is_mounted, possible};

struct Outcome {
    code: Option<i32>,
    text: String,
}

async fn mount(arguments: &[&str]) -> Outcome {
    let mut command = program();
    command.args(["mount", "--timeout", "2"]).args(arguments);
    let out = crate::mounts::blocking(move || command.output().unwrap()).await;
    Outcome { code: out.status.code(), text: String::from_utf8_lossy(&out.stderr).into_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mounted_is_refused_with_the_way_out() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(1, 0).await;
    let servers = cluster.meta()[0].address.clone();
    let dir = cluster.root().join("dir");
    std::fs::create_dir(&dir).unwrap();
    let log = cluster.root().join("mount.log");
    let (dir_text, log_text) = (dir.to_str().unwrap(), log.to_str().unwrap());
    let missing = cluster.root().join("missing");
    let file = cluster.root().join("file");
    std::fs::write(&file, b"").unwrap();
    // Something that accepts and never speaks.
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = stranger.local_addr().unwrap().to_string();
    let http = cluster.meta()[0].http.clone();
    let here = ["--cluster", &servers, "--log-file", log_text];
    let cases: &[(&[&str], &str)] = &[
        (&["--cluster", "127.0.0.1:1", "--log-file", log_text, dir_text], "127.0.0.1:1"),
        (&["--cluster", &stranger, "--log-file", log_text, dir_text], &stranger),
        (&["--cluster", &http, "--log-file", log_text, dir_text], &http),
        (&[here[0], here[1], here[2], here[3], missing.to_str().unwrap()], "mkdir"),
        (&[here[0], here[1], here[2], here[3], file.to_str().unwrap()], "not a directory"),
        (&[here[0], here[1], here[2], here[3], "-o", "subdir=/none", dir_text], "none"),
        (&[here[0], here[1], here[2], here[3], "-o", "frobnicate", dir_text], "frobnicate"),
        (&[here[0], here[1], here[2], here[3], "-o", "timeout=never", dir_text], "timeout"),
        (&[here[0], here[1], here[2], here[3], "--memory", "1K", dir_text], "32M"),
        (&["--log-file", log_text, dir_text], "--cluster"),
        (&[here[0], here[1], "--log-file", "/proc/none/log", dir_text], "--log-file"),
    ];
    for (arguments, wanted) in cases {
        let outcome = mount(arguments).await;
        assert!(matches!(outcome.code, Some(1 | 2)), "{arguments:?}: {:?}", outcome.code);
        assert!(outcome.text.contains(wanted), "{arguments:?}: {}", outcome.text);
        assert!(!is_mounted(&dir), "{arguments:?}");
    }

    let mut first = Mount::start(&cluster, "dir", &[]).await;
    let again = mount(&[here[0], here[1], here[2], here[3], dir_text]).await;
    assert!(again.code == Some(1) && again.text.contains("already mounted"), "{}", again.text);
    let not_ours = program().args(["stats", "/proc"]).output().unwrap();
    assert!(String::from_utf8_lossy(&not_ours.stderr).contains("not in a mount"));

    // In the background it returns when it is mounted, and umount when it has ended.
    first.terminate().await;
    let outcome = mount(&[here[0], here[1], here[2], here[3], dir_text]).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.text);
    std::fs::write(dir.join("f"), b"x").unwrap();
    let out = program().args(["umount", dir_text]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!is_mounted(&dir) && !dir.join("f").exists());
}
