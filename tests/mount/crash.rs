//! kill -9 of a mount in the middle of its writes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use crate::common::{Cluster, until};
use crate::mounts::{Mount, possible};

/// What was fsynced, another mount reads; what was not may be there or not, in the order it was written.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_synced_survives_the_mount() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start(3, 3).await;
    let mut a = Mount::start(&cluster, "a", &[]).await;
    let b = Mount::start(&cluster, "b", &[]).await;
    // Files by name with the length that was synced.
    let synced: Arc<Mutex<Vec<(String, usize)>>> = Arc::default();
    let writers: Vec<_> = (0..4)
        .map(|who: usize| {
            let (dir, synced) = (a.dir.clone(), synced.clone());
            std::thread::spawn(move || {
                for round in 0.. {
                    let name = format!("w{who}-{round}");
                    let Ok(mut file) = File::create(dir.join(&name)) else { return };
                    let mut len = 0;
                    for part in 0..3 {
                        let bytes =
                            vec![u8::try_from(who + 1).unwrap(); if part == 1 { 300_000 } else { 2_000 }];
                        if file.write_all(&bytes).is_err() || file.sync_all().is_err() {
                            return;
                        }
                        len += bytes.len();
                        let mut synced = synced.lock().unwrap();
                        synced.retain(|(n, _)| *n != name);
                        synced.push((name.clone(), len));
                    }
                    // Not synced: nobody knows.
                    let _ = file.write_all(&[9; 50_000]);
                }
            })
        })
        .collect();
    // An orphan that only the dying mount holds.
    fs::write(a.path("orphan"), vec![1; 100_000]).unwrap();
    let held = OpenOptions::new().read(true).write(true).open(a.path("orphan")).unwrap();
    fs::remove_file(b.path("orphan")).unwrap();
    held.write_all_at(b"x", 0).unwrap();
    until("some files", async || {
        let count = synced.lock().unwrap().len();
        if count >= 12 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    a.kill();
    drop(held);
    for writer in writers {
        writer.join().unwrap();
    }
    let synced = synced.lock().unwrap().clone();
    for (name, len) in &synced {
        let bytes = fs::read(b.path(name)).unwrap();
        let who = u8::try_from(name[1..2].parse::<usize>().unwrap() + 1).unwrap();
        assert!(bytes.len() >= *len, "{name}: {} of {len}", bytes.len());
        assert!(bytes[..*len].iter().all(|x| *x == who), "{name}");
    }
    println!("{} synced files are whole", synced.len());
    let client = cluster.client().await;
    until("the orphan to be freed", async || {
        let count = client.statfs().await.map_err(|e| e.to_string())?.inode_count;
        let names = 1 + fs::read_dir(&b.dir).unwrap().count() as u64;
        if count == names { Ok(()) } else { Err(format!("{count} inodes, {names} names")) }
    })
    .await;
    client.close().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
