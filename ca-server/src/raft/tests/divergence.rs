//! Members whose states part.

use std::time::Duration;

use super::disk::Unsynced;
use super::harness::{Cluster, PATIENCE, address, has};
use super::state::Names;
use crate::RunError;
use crate::raft::{Consensus, Divergence, NodeId, ProposeError, RaftFault};

async fn diverged(consensus: &Consensus<Names>) -> Divergence {
    let fault = tokio::time::timeout(PATIENCE, consensus.failed()).await;
    match fault {
        Ok(RaftFault::Diverged(divergence)) => {
            let fault = RaftFault::Diverged(divergence);
            let error = RunError::Consensus(fault);
            assert!(error.to_string().starts_with("MM-1012: "), "{error}");
            assert_eq!(error.exit_code(), 65);
            divergence
        }
        other => panic!("{other:?}"),
    }
}

/// No fault for a while in which everybody compares some times.
async fn goes_on(consensus: &Consensus<Names>) {
    let fault = tokio::time::timeout(Duration::from_secs(10), consensus.failed()).await;
    assert!(fault.is_err(), "{fault:?}");
}

#[tokio::test(start_paused = true)]
async fn equal_states_go_on() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every = 20;
    let cluster = cluster.with(3).await;
    for number in 0..50 {
        cluster.propose(1, &format!("{number}")).await.unwrap();
    }
    for node in cluster.nodes.values() {
        goes_on(&node.consensus).await;
        assert_eq!(node.consensus.differing_members(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn of_three_the_one_that_differs_stops_and_the_others_go_on() {
    for is_leader in [false, true] {
        let mut cluster = Cluster::of(3).await;
        cluster.propose(1, "a").await.unwrap();
        cluster.all_have(&["a"]).await;
        let leader = cluster.settled().await;
        let wrong = if is_leader {
            leader
        } else {
            cluster.follower().await
        };
        let consensus = cluster.nodes[&wrong].consensus.clone();
        consensus.disturb(Names::corrupt_tree);
        let via = *cluster.nodes.keys().find(|node| **node != wrong).unwrap();
        cluster.propose(via, "b").await.unwrap();

        let divergence = diverged(&consensus).await;
        assert_eq!(divergence.own.log_index, divergence.theirs.log_index);
        assert_ne!(divergence.own.audit_root, divergence.theirs.audit_root);
        assert_eq!(consensus.quorum_age(), None, "it signs nothing any more");
        let proposed = cluster.propose(wrong, "not").await;
        assert!(
            matches!(
                proposed,
                Err(ProposeError::Stopped | ProposeError::NoLeader | ProposeError::Unknown)
            ),
            "{proposed:?}"
        );
        let others: Vec<NodeId> = (1..=3).filter(|node| *node != wrong).collect();
        for node in &others {
            let other = &cluster.nodes[node].consensus;
            assert_eq!(other.differing_members(), 1, "the alarm");
            goes_on(other).await;
        }
        cluster.propose(via, "c").await.unwrap();
        for node in &others {
            has(&cluster.nodes[node].consensus, &["a", "b", "c"]).await;
        }

        drop(consensus);
        // The rot was in its memory: what is on its disk was left alone, and is right.
        cluster.crash(wrong, Unsynced::Lost).await;
        cluster.start(wrong).await;
        cluster.settled().await;
        cluster.all_have(&["a", "b", "c"]).await;
        let again = cluster.nodes[&wrong].consensus.clone();
        goes_on(&again).await;
        for node in cluster.nodes.values() {
            assert_eq!(node.consensus.differing_members(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_that_differ_both_stop_because_nobody_knows_who_is_right() {
    let cluster = Cluster::of(2).await;
    cluster.propose(1, "a").await.unwrap();
    cluster.all_have(&["a"]).await;
    cluster.nodes[&2].consensus.disturb(Names::corrupt_tree);
    cluster.propose(1, "b").await.unwrap();
    for (node, other) in [(1, 2), (2, 1)] {
        let divergence = diverged(&cluster.nodes[&node].consensus).await;
        assert_eq!(divergence.node, other);
        assert_ne!(divergence.own.audit_root, divergence.theirs.audit_root);
    }
}

#[tokio::test(start_paused = true)]
async fn a_difference_that_left_no_leaf_is_found_at_the_next_digest() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every = 20;
    let cluster = cluster.with(3).await;
    cluster.propose(1, "a").await.unwrap();
    cluster.all_have(&["a"]).await;
    let wrong = cluster.follower().await;
    let consensus = cluster.nodes[&wrong].consensus.clone();
    consensus.disturb(Names::corrupt_name);
    goes_on(&consensus).await;
    let via = *cluster.nodes.keys().find(|node| **node != wrong).unwrap();
    for number in 0..20 {
        cluster.propose(via, &format!("{number}")).await.unwrap();
    }
    let divergence = diverged(&consensus).await;
    assert_eq!(divergence.own.log_index % 20, 19);
    assert_eq!(divergence.own.audit_root, divergence.theirs.audit_root);
    assert_ne!(divergence.own.state_sha256, divergence.theirs.state_sha256);
    for (node, running) in &cluster.nodes {
        if *node != wrong {
            goes_on(&running.consensus).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_differs_stops_alone() {
    let mut cluster = Cluster::of(1).await;
    cluster.start(2).await;
    let leader = cluster.nodes[&1].consensus.clone();
    leader.add_learner(2, &address(2)).await.unwrap();
    cluster.propose(1, "a").await.unwrap();
    let learner = cluster.nodes[&2].consensus.clone();
    has(&learner, &["a"]).await;
    learner.disturb(Names::corrupt_tree);
    cluster.propose(1, "b").await.unwrap();
    assert_eq!(diverged(&learner).await.node, 1);
    goes_on(&leader).await;
    cluster.propose(1, "c").await.unwrap();
}
