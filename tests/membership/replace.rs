//! A machine is gone for good: another one takes its place. A new server that loses its disk is as careful as an old one.

use crate::common::{Cluster, Load, Shape};
use crate::{cluster_command, done, noticed, stranger, with_role};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_replaced_under_load() {
    let mut cluster = Cluster::of(Shape::default().meta_only()).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    load.progress(10).await;
    for (round, id) in (4_u64..6).enumerate() {
        let victim = if round == 0 { cluster.leader().await } else { cluster.follower().await };
        let old = cluster.nodes[victim].id.to_string();
        cluster.nodes[victim].kill();
        load.progress(8).await;
        let (_, address) = stranger(&mut cluster, id).await;
        let value = done(&cluster, &["replace", &old, &id.to_string(), &address]);
        assert_eq!(with_role(&value, "voter").len(), 3, "{value}");
        // It comes back from the dead and disturbs nobody.
        cluster.nodes[victim].start();
        let gone = cluster.dismiss(victim);
        noticed(&gone).await;
        load.progress(8).await;
        let term = gone.status().await.unwrap().meta.unwrap().term;
        let leader = cluster.leader().await;
        let (_, now) = cluster.meta_status(leader).await.unwrap();
        assert!(term <= now.term, "it campaigned: term {term}, theirs {}", now.term);
    }
    load.finish(&cluster).await.assert_clean("load while killed servers were replaced");
    cluster.same_state().await;
    assert_eq!(cluster.check().await, Vec::<String>::new());
}

/// The new one's configuration does not list all members, and those of the others do not list it: what counts is the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_voter_that_is_wiped_comes_back_and_so_does_an_old_one() {
    let mut cluster = Cluster::of(Shape::default().meta_only()).await;
    let load = Load::creators(&cluster, "/load", 4).await;
    load.progress(8).await;
    let (_, address) = stranger(&mut cluster, 4).await;
    done(&cluster, &["replace", "3", "4", &address]);
    let third = cluster.meta().iter().position(|n| n.id == 3).unwrap();
    let mut gone = cluster.dismiss(third);
    gone.kill();
    for id in [4_u64, 1] {
        let index = cluster.meta().iter().position(|n| n.id == id).unwrap();
        cluster.nodes[index].kill();
        cluster.nodes[index].wipe();
        load.progress(8).await;
        cluster.nodes[index].start();
        cluster.ready().await;
        load.progress(8).await;
    }
    let value = cluster_command(&cluster, &["members"]).unwrap();
    assert_eq!(with_role(&value, "voter"), [1, 2, 4]);
    load.finish(&cluster).await.assert_clean("load while new and old voters were wiped");
    cluster.same_state().await;
}
