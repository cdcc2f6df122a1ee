//! What is refused, and that each refusal says what to do and changes nothing.

use std::path::Path;

use pohmelfs::types::{Capacity, ClusterId, DomainLabel, NodeAddress, NodeId, NodeSpec};
use pohmelfs::wire::message::MetaRequest;

use crate::common::raw::Raw;
use crate::common::{Cluster, Load, Shape};
use crate::{dump, run};

fn refused(cluster: &Cluster, arguments: &[&str], words: &[&str]) {
    let told = run(cluster, arguments).expect_err(&format!("{arguments:?} was done"));
    println!("{arguments:?}: {told}");
    for word in words {
        assert!(told.contains(word), "{arguments:?}: {word} is missing in: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_empty_stays_as_it_is() {
    let cluster = Cluster::of(Shape::default()).await;
    let load = Load::creators(&cluster, "/load", 2).await;
    let files = Load::writers(&cluster, "/files", 1, 100_000).await;
    load.progress(20).await;
    files.progress(2).await;
    let good = cluster.root().join("good.dump");
    let value = dump(&cluster, &good);
    let file = |path: &Path| path.to_str().unwrap().to_owned();
    let told = run(&cluster, &["dump", "--verify", "--json", &file(&good)]).unwrap();
    let verified: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&verified["state_hash"], &verified["index"]), (&value["state_hash"], &value["index"]));
    assert!(run(&cluster, &["dump", "--verify", &file(&good)]).unwrap().contains("3 data servers (data-1"));

    // Into the cluster it comes from, and which lives.
    let words = ["not empty", "files and directories", "3 data servers", "nothing was changed", "empty ones"];
    refused(&cluster, &["restore", &file(&good)], &words);

    // Cut, changed, of another version, something else.
    let bytes = std::fs::read(&good).unwrap();
    let bad = cluster.root().join("bad.dump");
    for (what, changed) in [
        ("ends too early", bytes[..bytes.len() - 5].to_vec()),
        ("ends too early", bytes[..bytes.len() / 2].to_vec()),
        ("does not begin like a dump", b"a letter".to_vec()),
        ("wrong checksum", {
            let mut flipped = bytes.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 1;
            flipped
        }),
    ] {
        std::fs::write(&bad, changed).unwrap();
        for arguments in [vec!["restore"], vec!["dump", "--verify"]] {
            let arguments = [arguments, vec![bad.to_str().unwrap()]].concat();
            refused(&cluster, &arguments, &["bad.dump", "damaged", what, "take an older one"]);
        }
    }
    let mut later = bytes.clone();
    later[8] = 2;
    let header = 16 + u32::from_le_bytes(later[12..16].try_into().unwrap()) as usize;
    let crc = crc32c::crc32c(&later[..header]);
    later[header..header + 4].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&bad, later).unwrap();
    refused(&cluster, &["restore", &file(&bad)], &["bad.dump", "version 2", "a later one"]);
    refused(&cluster, &["restore", "/nowhere/at.all"], &["/nowhere/at.all", "No such file"]);

    // A data server of a cluster that this one does not descend from, though its hello names none.
    let spec = NodeSpec {
        node: NodeId(109),
        name: "data-9".into(),
        address: NodeAddress("127.0.0.1:1".into()),
        http: NodeAddress::default(),
        domain: DomainLabel::default(),
        capacity: Capacity::default(),
    };
    let mut raw = Raw::connect(&cluster.nodes[0].address).await.unwrap();
    let register = MetaRequest::Register { spec, cluster: Some(ClusterId(0xbad)) };
    let told = raw.ask(&register).await.unwrap_err();
    assert!(told.contains(&ClusterId(0xbad).to_string()) && told.contains("check the addresses"), "{told}");

    // Nowhere to write, nobody to ask.
    refused(&cluster, &["dump", cluster.root().to_str().unwrap()], &["is not the name of a file"]);
    refused(&cluster, &["dump", "/nowhere/at.all"], &["/nowhere/at.all"]);
    refused(
        &cluster,
        &["dump", "--from", "127.0.0.1:1", &file(&bad)],
        &["127.0.0.1:1", "nothing was written"],
    );
    refused(&cluster, &["dump", "--from", "nonsense", &file(&bad)], &["--from"]);
    let left: Vec<_> = std::fs::read_dir(cluster.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    load.progress(20).await;
    files.progress(1).await;
    load.finish(&cluster).await.assert_clean("load beside all that");
    files.finish(&cluster).await.assert_clean("files beside all that");
    cluster.same_state().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());

    // To standard output it is the same.
    let output = cluster.command(&["dump", "-"]);
    assert!(output.status.success());
    std::fs::write(&bad, &output.stdout).unwrap();
    assert!(run(&cluster, &["dump", "--verify", &file(&bad)]).is_ok());
}
