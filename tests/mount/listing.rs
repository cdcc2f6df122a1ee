//! A program that reads a directory with attributes: what it may rely on, what nobody may, and how it ends.
//!
//! With a time to live of minutes: what ends sooner was ended, and not forgotten.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Cluster, until};
use crate::mounts::{Mount, blocking, possible};

const FLAGS: &[&str] = &["--list-attr-ttl", "600000"];
/// More than one page of the kernel holds.
const FILES: usize = 300;

fn name(index: usize) -> String {
    format!("file-{index}")
}

fn fill(dir: &Path, mode: u32) {
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
    (0..FILES).for_each(|index| drop(File::create_new(dir.join(name(index))).unwrap()));
}

/// Reads all of a directory as `ls -l` does, and keeps it open.
fn list(dir: &Path) -> fs::ReadDir {
    let mut entries = fs::read_dir(dir).unwrap();
    let seen: Vec<_> = entries.by_ref().map(|entry| entry.unwrap().metadata().unwrap()).collect();
    assert_eq!(seen.len(), FILES);
    assert!(seen.iter().all(|meta| meta.is_file() && meta.len() == 0));
    entries
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// True if another user than root reads the file.
fn reads(path: &Path) -> bool {
    let mut cat = Command::new("cat");
    cat.arg(path).uid(4711).gid(4711).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_relied_on_ends_with_the_close() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let (a, b) = (Mount::start(&cluster, "a", FLAGS).await, Mount::start(&cluster, "b", FLAGS).await);
    let (here, there) = (a.path("dir"), b.path("dir"));
    let listing = {
        let (here, there) = (here.clone(), there.clone());
        blocking(move || {
            fill(&here, 0o755);
            let listing = list(&here);
            // What was not there is never relied on.
            fs::write(there.join("new"), "new").unwrap();
            assert_eq!(fs::read(here.join("new")).unwrap(), b"new");
            // What this mount changes it shows at once.
            fs::set_permissions(here.join(name(2)), Permissions::from_mode(0o640)).unwrap();
            assert_eq!(mode(&here.join(name(2))), 0o640);
            fs::remove_file(here.join(name(3))).unwrap();
            assert_eq!(fs::metadata(here.join(name(3))).unwrap_err().kind(), ErrorKind::NotFound);
            fs::rename(here.join(name(4)), here.join("renamed")).unwrap();
            assert_eq!(fs::metadata(here.join(name(4))).unwrap_err().kind(), ErrorKind::NotFound);
            fs::write(here.join(name(5)), "five").unwrap();
            assert_eq!(fs::metadata(here.join(name(5))).unwrap().len(), 4);
            listing
        })
        .await
    };
    fs::set_permissions(there.join(name(200)), Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(there.join(name(201))).unwrap();
    drop(listing);
    until("the changes of the other mount to be seen", async || {
        let gone = fs::metadata(here.join(name(201))).is_err();
        let mode = mode(&here.join(name(200)));
        if gone && mode == 0o600 { Ok(()) } else { Err(format!("gone: {gone}, mode {mode:o}")) }
    })
    .await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

/// The kernel checks no permissions on such a mount: a name that it kept would be found by anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_root_lets_nobody_in() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let mount = Mount::start(&cluster, "a", FLAGS).await;
    let root = mount.dir.clone();
    blocking(move || {
        for (dir, mode, may) in [("sealed", 0o700, false), ("group", 0o750, false), ("open", 0o755, true)] {
            let dir = root.join(dir);
            fill(&dir, mode);
            let listing = list(&dir);
            assert_eq!(reads(&dir.join(name(7))), may, "{}", dir.display());
            drop(listing);
        }
        // Nor behind a directory on the way.
        let (outer, inner) = (root.join("outer"), root.join("outer/inner"));
        fs::create_dir(&outer).unwrap();
        fs::set_permissions(&outer, Permissions::from_mode(0o700)).unwrap();
        fill(&inner, 0o755);
        let listing = list(&inner);
        assert!(!reads(&inner.join(name(7))));
        drop(listing);
    })
    .await;
}
