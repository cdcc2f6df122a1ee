//! Three grow to five and shrink to three again, two of them new; then the last of the old ones goes. A client that was given the three
//! old addresses goes on.

use crate::common::{Cluster, Load, Shape, until};
use crate::{already, cluster_command, done, noticed, stranger, with_role};

#[tokio::test(flavor = "multi_thread")]
async fn all_three_are_replaced_one_by_one_under_load() {
    let mut cluster = Cluster::of(Shape::default().with_snapshots(100, 20)).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    let blocks = Load::writers(&cluster, "/blocks", 2, 300_000).await;
    load.progress(10).await;

    // They come by snapshot: the beginning of the log is purged.
    until("the log to be purged", async || {
        let (_, meta) = cluster.meta_status(0).await?;
        if meta.purged > 0 { Ok(()) } else { Err(format!("applied {}", meta.applied)) }
    })
    .await;
    for id in [4, 5] {
        let (_, address) = stranger(&mut cluster, id).await;
        let id = id.to_string();
        load.begin_round();
        let value = done(&cluster, &["add", &id, &address, "--promote"]);
        println!("added {id}: longest call {} ms", load.longest().as_millis());
        assert!(with_role(&value, "voter").contains(&id.parse().unwrap()), "{value}");
        already(&cluster, &["add", &id, &address]);
        already(&cluster, &["promote", &id]);
        load.progress(10).await;
    }

    for id in [1_u64, 2] {
        load.begin_round();
        done(&cluster, &["remove", &id.to_string()]);
        already(&cluster, &["remove", &id.to_string()]);
        println!("removed {id}: longest call {} ms", load.longest().as_millis());
        load.progress(10).await;
        let index = cluster.meta().iter().position(|n| n.id == id).unwrap();
        let mut gone = cluster.dismiss(index);
        noticed(&gone).await;
        gone.kill();
    }
    load.progress(10).await;
    blocks.progress(2).await;

    let (_, address) = stranger(&mut cluster, 6).await;
    load.begin_round();
    let value = done(&cluster, &["replace", "3", "6", &address]);
    already(&cluster, &["replace", "3", "6", &address]);
    println!("replaced 3 by 6: longest call {} ms", load.longest().as_millis());
    assert_eq!((with_role(&value, "voter"), with_role(&value, "learner")), (vec![4, 5, 6], vec![]));
    let index = cluster.meta().iter().position(|n| n.id == 3).unwrap();
    let mut gone = cluster.dismiss(index);
    noticed(&gone).await;
    // From now on none of the addresses that the clients and the data servers were given leads anywhere.
    gone.kill();
    load.progress(15).await;
    blocks.progress(3).await;
    cluster.ready().await;

    load.finish(&cluster).await.assert_clean("load while all metadata servers were replaced");
    blocks.finish(&cluster).await.assert_clean("blocks while all metadata servers were replaced");
    cluster.same_state().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());

    // The three new ones need nobody else: all of them are killed and come back. Data servers that run know where.
    for index in cluster.meta_indexes() {
        cluster.nodes[index].kill();
    }
    cluster.start_all();
    cluster.ready().await;
    cluster.same_state().await;
    let refused = cluster_command(&cluster, &["add", "3", "127.0.0.1:1"]).unwrap_err();
    assert!(refused.contains("never used again"), "{refused}");
}
