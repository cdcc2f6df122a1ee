//! Programs that do not fit: each is told what to do, and the cluster goes on as it was.

use crate::common::{Cluster, Load, Shape, until};
use crate::{NEWER, OLDER, at_level, fails_as, says, upgrade};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_yesterday_neither_starts_nor_joins_where_tomorrows_have_been() {
    let mut cluster = Cluster::prepare(Shape::default().meta_only()).await;
    for index in cluster.meta_indexes() {
        cluster.nodes[index].pretend = Some(NEWER.into());
    }
    cluster.start_all();
    cluster.ready().await;
    // A new cluster begins at the newest level that its founders know.
    at_level(&cluster, 3).await;
    assert_eq!(upgrade(&cluster).as_deref(), Ok("already so"));
    let load = Load::creators(&cluster, "/load", 2).await;
    load.progress(10).await;
    let late = cluster.follower().await;
    cluster.nodes[late].kill();
    let told = fails_as(&mut cluster, late, None).await;
    says(&told, &["format level 3", "knows level 1 to 2", "start the program that ran here before"]);
    load.progress(10).await;
    cluster.nodes[late].pretend = Some(NEWER.into());
    cluster.nodes[late].start();
    cluster.ready().await;

    let fourth = cluster.start_stranger(4);
    let address = cluster.nodes[fourth].address.clone();
    let mut node = cluster.dismiss(fourth);
    let status = until("the older server to give up", async || node.ended().ok_or("it runs".into())).await;
    assert!(!status.success());
    says(&node.log_text(), &["the servers in `peers`", "format level 3"]);
    let output = cluster.command(&["cluster", "add", "4", &address]);
    assert!(!output.status.success());
    load.finish(&cluster).await.assert_clean("load beside programs that do not fit");
    cluster.same_state().await;
}

/// A server that was started before the cluster is asked to take it says which program it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_program_is_not_added_to_a_newer_cluster() {
    let mut cluster = Cluster::of(Shape::default().meta_only()).await;
    at_level(&cluster, 2).await;
    let fourth = cluster.prepare_stranger(4);
    // It knows nobody who could tell it that it is too old.
    let config = &cluster.nodes[fourth].config;
    let text = std::fs::read_to_string(config).unwrap();
    let alone = text.split("\n[[peers]]").next().unwrap();
    let nobody = "\n[[peers]]\nnode = 9\nname = \"meta-9\"\naddress = \"127.0.0.1:1\"\n";
    std::fs::write(config, format!("{alone}{nobody}")).unwrap();
    cluster.nodes[fourth].pretend = Some(OLDER.into());
    cluster.nodes[fourth].start();
    let mut node = cluster.dismiss(fourth);
    let told = until("a refusal of its program", async || {
        let output = cluster.command(&["cluster", "add", "4", &node.address]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if told.contains("does not answer") { Err(told) } else { Ok(told) }
    })
    .await;
    says(
        &told,
        &[
            "metadata server 4 runs program 0.0.9",
            "format level 2",
            "install the program of the other servers",
        ],
    );
    node.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_another_protocol_is_left_out_and_told() {
    let mut cluster = Cluster::of(Shape::default().meta_only()).await;
    let load = Load::creators(&cluster, "/load", 2).await;
    load.progress(10).await;
    // Not the first one, which is asked for the status.
    let odd = if cluster.leader().await == 2 { 1 } else { 2 };
    cluster.nodes[odd].kill();
    cluster.nodes[odd].pretend = Some("9.9.9,1-2,7-9".into());
    cluster.nodes[odd].start();
    let name = cluster.nodes[odd].name.clone();
    let reason = until("a word about it", async || {
        let status = cluster.cluster_status().await?;
        let line = status.meta.into_iter().find(|m| m.name == name).ok_or("it is not listed")?;
        if line.reason.contains("protocol version") { Ok(line.reason) } else { Err(line.reason) }
    })
    .await;
    says(&reason, &["protocol version 1 to 2", "7 to 9", "upgrade the older one"]);
    load.progress(10).await;
    until("its own log to say so", async || {
        let text = cluster.nodes[odd].log_text();
        if text.contains("upgrade the older one") { Ok(()) } else { Err("not a word".into()) }
    })
    .await;
    cluster.nodes[odd].kill();
    cluster.nodes[odd].pretend = None;
    cluster.nodes[odd].start();
    cluster.ready().await;
    load.finish(&cluster).await.assert_clean("load beside a server that speaks another protocol");
    cluster.same_state().await;
}
