//! What is refused, and that each refusal says what to do.

use crate::common::{Cluster, Shape, until};
use crate::{already, cluster_command, done, stranger, with_role};

fn refused(cluster: &Cluster, arguments: &[&str], words: &[&str]) {
    let told = cluster_command(cluster, arguments).expect_err(&format!("{arguments:?} was done"));
    println!("{arguments:?}: {told}");
    for word in words {
        assert!(told.contains(word), "{arguments:?}: {word} is missing in: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_is_refused_with_the_way_out() {
    let mut cluster = Cluster::of(Shape::default()).await;
    let third = cluster.nodes[2].address.clone();
    let data = cluster.data()[0].address.clone();
    let (index, fourth) = stranger(&mut cluster, 4).await;

    refused(&cluster, &["promote", "4"], &["is not a member", "cluster add 4"]);
    refused(&cluster, &["remove", "7"], &["is not a member", "cluster members"]);
    refused(&cluster, &["replace", "7", "4", &fourth], &["is not a member"]);
    refused(&cluster, &["replace", "3", "3", &third], &["own place"]);
    refused(&cluster, &["add", "3", &fourth], &["is a member already", &third]);
    refused(&cluster, &["add", "4", &third], &["is the address of metadata server 3"]);
    refused(&cluster, &["add", "5", &fourth], &["answers server 4, not 5"]);
    refused(&cluster, &["add", "4", "127.0.0.1:1"], &["does not answer", "start it"]);
    refused(&cluster, &["add", "5", &data], &["answers server 101, not 5"]);
    refused(&cluster, &["add", "101", &fourth], &["not an id"]);
    refused(&cluster, &["add", "0", &fourth], &["not an id"]);
    refused(&cluster, &["transfer-leader", "4"], &["is not a member"]);

    done(&cluster, &["add", "4", &fourth]);
    already(&cluster, &["add", "4", &fourth]);
    refused(&cluster, &["transfer-leader", "4"], &["is a learner", "cluster promote 4"]);
    refused(&cluster, &["replace", "4", "5", "127.0.0.1:1"], &["is a learner"]);
    let value = done(&cluster, &["promote", "4", "--wait"]);
    assert!(value["warning"].as_str().unwrap().contains("4 voters"), "{value}");
    assert_eq!(with_role(&value, "voter"), [1, 2, 3, 4]);
    done(&cluster, &["remove", "4"]);
    refused(&cluster, &["add", "4", &fourth], &["never used again", "another node id"]);
    refused(&cluster, &["promote", "4"], &["never used again"]);
    cluster.dismiss(index).kill();

    // A server that was a member of another cluster, or has a log of its own.
    let (other, sixth) = stranger(&mut cluster, 6).await;
    cluster.nodes[other].kill();
    cluster.nodes[other].wipe();
    let text = std::fs::read_to_string(&cluster.nodes[other].config).unwrap();
    let alone = text.split("\n[[peers]]").next().unwrap().replace("join = true\n", "");
    let alone = format!("{alone}\n[[peers]]\nnode = 6\nname = \"meta-6\"\naddress = {sixth:?}\n");
    std::fs::write(&cluster.nodes[other].config, alone).unwrap();
    cluster.nodes[other].start();
    until("another cluster", async || {
        let (status, _) = cluster.meta_status(other).await?;
        if status.ready { Ok(()) } else { Err(status.reason) }
    })
    .await;
    // Its address is not among those that the command is sent to.
    let mut other = cluster.dismiss(other);
    refused(&cluster, &["add", "6", &sixth], &["belongs to cluster", "empty directory"]);
    other.kill();

    // One is silent: the other two must stay, and nobody else may go.
    let silent = cluster.follower().await;
    let silent_id = cluster.nodes[silent].id;
    let leader = cluster.nodes[cluster.leader().await].id;
    let rest = (1..=3).find(|id| *id != silent_id && *id != leader).unwrap().to_string();
    cluster.nodes[silent].kill();
    refused(&cluster, &["remove", &rest], &["only 1 of the 2 voters", "start the others first"]);
    refused(&cluster, &["transfer-leader", &silent_id.to_string()], &["does not answer"]);
    let members = cluster_command(&cluster, &["members"]).unwrap();
    assert!(members["warning"].as_str().unwrap().contains("1 of 3 voters"), "{members}");
    cluster.nodes[silent].start();
    cluster.ready().await;
}
