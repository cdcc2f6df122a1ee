//! A cluster of the older program is upgraded server by server, under load.

use crate::common::{Cluster, Load, Shape, until};
use crate::{OLDER, at_level, fails_as, label, restart_as, says, upgrade};

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_upgraded_one_by_one_and_the_level_follows_the_last() {
    let mut cluster = Cluster::prepare(Shape::default().with_snapshots(200, 50)).await;
    for index in cluster.meta_indexes() {
        cluster.nodes[index].pretend = Some(OLDER.into());
    }
    cluster.start_all();
    cluster.ready().await;
    at_level(&cluster, 1).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    let blocks = Load::writers(&cluster, "/blocks", 2, 300_000).await;
    load.progress(10).await;
    says(&label(&cluster, "farm").unwrap_err(), &["works at format level 1", "needs level 2", "0.0.9"]);
    assert_eq!(upgrade(&cluster).as_deref(), Ok("already so"), "nobody knows a newer level");

    for (index, left) in [(0, "meta-2"), (1, "meta-3")] {
        restart_as(&mut cluster, index, None).await;
        load.progress(10).await;
        says(
            &upgrade(&cluster).unwrap_err(),
            &["stays at format level 1", left, "0.0.9", "install a newer program"],
        );
        // Led by a new program, then by an old one: both serve everybody.
        for leader in [1, 3] {
            cluster.command(&["cluster", "transfer-leader", &leader.to_string()]);
            until("the other to lead", async || {
                let led = cluster.leader().await;
                if cluster.nodes[led].id == leader { Ok(()) } else { Err(cluster.nodes[led].name.clone()) }
            })
            .await;
            load.progress(10).await;
            blocks.progress(1).await;
            says(&label(&cluster, "farm").unwrap_err(), &["format level"]);
        }
        let status = cluster.cluster_status().await.unwrap();
        let programs: Vec<_> = status.meta.iter().map(|m| m.version.as_str()).collect();
        assert_eq!(programs[index], env!("CARGO_PKG_VERSION"));
        assert_eq!((programs[2], status.level, status.level_possible), ("0.0.9", 1, Some(1)));
        assert!(status.level_note.unwrap().contains("meta-3"), "who is left is named");
        until("the programs of the data servers to be known", async || {
            let status = cluster.cluster_status().await?;
            let known = status.data.iter().all(|d| d.version == env!("CARGO_PKG_VERSION"));
            if known { Ok(()) } else { Err(format!("{:?}", status.data)) }
        })
        .await;
    }

    restart_as(&mut cluster, 2, None).await;
    load.progress(10).await;
    let status = cluster.cluster_status().await.unwrap();
    assert_eq!((status.level, status.level_possible), (1, Some(2)), "an operator says when");
    // Until then the way back is open.
    restart_as(&mut cluster, 1, Some(OLDER)).await;
    load.progress(10).await;
    restart_as(&mut cluster, 1, None).await;

    // The one that asks may not have noticed yet that the last one is back.
    until("the level to be raised", async || match upgrade(&cluster).as_deref() {
        Ok("done") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(upgrade(&cluster).as_deref(), Ok("already so"));
    at_level(&cluster, 2).await;
    label(&cluster, "farm").unwrap();
    assert_eq!(cluster.cluster_status().await.unwrap().label, "farm");
    load.progress(10).await;

    // One that comes back with the older program says what to do, and what it has on its disk stays good.
    let late = cluster.follower().await;
    cluster.nodes[late].kill();
    let told = fails_as(&mut cluster, late, Some(OLDER)).await;
    says(&told, &["format level 2", "knows level 1", "start the program that ran here before"]);
    load.progress(10).await;
    // With an empty disk it asks the others.
    let kept = cluster.nodes[late].dir.with_extension("kept");
    std::fs::rename(&cluster.nodes[late].dir, &kept).unwrap();
    let told = fails_as(&mut cluster, late, Some(OLDER)).await;
    says(&told, &["the servers in `peers`", "format level 2", "knows level 1"]);
    if cluster.nodes[late].dir.exists() {
        cluster.nodes[late].wipe();
    }
    std::fs::rename(&kept, &cluster.nodes[late].dir).unwrap();
    cluster.nodes[late].pretend = None;
    cluster.nodes[late].start();
    cluster.ready().await;

    load.finish(&cluster).await.assert_clean("load while the servers were upgraded");
    blocks.finish(&cluster).await.assert_clean("blocks while the servers were upgraded");
    cluster.same_state().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}
