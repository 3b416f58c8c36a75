//! Members whose clocks are wrong.

use std::time::Duration;

use mintmark_identity::clock::Timestamp;

use super::harness::{Cluster, PATIENCE, address, has, status_is};
use crate::raft::{ClockState, MembershipError, NodeId, ProposeError, Role};

const START: Timestamp = Timestamp::from_unix_secs(1_700_000_000);

/// Waits until a member judges its own clock so.
async fn clock_is(cluster: &Cluster, node: NodeId, wanted: impl Fn(ClockState) -> bool) {
    let consensus = &cluster.nodes[&node].consensus;
    let judged = tokio::time::timeout(PATIENCE, async {
        while !wanted(consensus.clock()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(judged.await.is_ok(), "{:?}", consensus.clock());
}

fn skewed(state: ClockState) -> bool {
    state.skew().is_some()
}

/// The latest command time that any member has, beyond the start of the test.
fn command_time(cluster: &Cluster) -> Duration {
    let times = cluster.nodes.values().map(|node| {
        let time_ms = node.consensus.read(|state| state.time_ms);
        Timestamp::from_unix_millis(time_ms).since(START)
    });
    times.max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_jumps_writes_no_time_and_loses_the_lead() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.settled().await;
    cluster.propose(first, "before").await.unwrap();
    cluster.set_clock(first, 3_600);
    // Not even the very next command, before anybody was asked, is stamped by it.
    let refused = cluster.propose(first, "by a wrong clock").await;
    let Err(ProposeError::ClockSkew(offset)) = refused else {
        panic!("{refused:?}");
    };
    assert!(offset.0 > 3_590_000, "{offset}");
    let via = *cluster.nodes.keys().find(|node| **node != first).unwrap();
    cluster.propose(via, "forwarded").await.unwrap();
    let second = cluster.settled().await;
    assert_ne!(second, first, "another leads");
    cluster.all_have(&["before", "forwarded"]).await;
    assert!(command_time(&cluster) < PATIENCE, "no time was poisoned");

    // It goes on replicating, and takes part again some seconds after its clock is right.
    let reading = cluster.nodes[&first].consensus.clone();
    reading.read_index().await.unwrap();
    cluster.set_clock(first, 0);
    clock_is(&cluster, first, ClockState::is_good).await;
    cluster.propose(first, "after").await.unwrap();
    cluster.all_have(&["before", "forwarded", "after"]).await;
}

#[tokio::test(start_paused = true)]
async fn reads_do_not_keep_a_leader_with_a_wrong_clock_in_place() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.settled().await;
    let other = *cluster.nodes.keys().find(|node| **node != first).unwrap();
    cluster.set_clock(first, -60);
    clock_is(&cluster, first, skewed).await;
    let consensus = cluster.nodes[&other].consensus.clone();
    let moved = async {
        loop {
            // As a busy server reads: far more often than leaders beat.
            let _ = consensus.read_index().await;
            if consensus.leader().is_some_and(|leader| leader != first) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), moved)
        .await
        .expect("another leads");
}

#[tokio::test(start_paused = true)]
async fn a_member_with_a_wrong_clock_does_not_campaign() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let others: Vec<NodeId> = (1..=3).filter(|node| *node != leader).collect();
    let (wrong, right) = (others[0], others[1]);
    cluster.set_clock(wrong, 600);
    clock_is(&cluster, wrong, skewed).await;
    // Both lose their leader, and each other. They know from the clocks of before who is wrong.
    cluster.cut(wrong);
    cluster.cut(right);
    status_is(&cluster.nodes[&right].consensus, |now| {
        now.role == Role::Candidate
    })
    .await;
    let mut status = cluster.nodes[&wrong].consensus.status();
    let campaigns = status.wait_for(|now| now.role == Role::Candidate);
    let campaigns = tokio::time::timeout(Duration::from_secs(30), campaigns).await;
    assert!(campaigns.is_err(), "it waits for a leader");
    cluster.heal();
    cluster.propose(wrong, "not yet").await.unwrap_err();
    cluster.settled().await;
    cluster.propose(right, "goes on").await.unwrap();
    cluster.all_have(&["goes on"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_starts_with_a_wrong_clock_never_leads() {
    let mut cluster = Cluster::of(3).await;
    cluster.settled().await;
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    cluster.set_clock(1, 3_600);
    // The first to start would be the first to campaign.
    for node in 1..=3 {
        cluster.start(node).await;
    }
    clock_is(&cluster, 1, skewed).await;
    let leads = async {
        while cluster.settled().await == 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, leads).await.unwrap();
    cluster.propose(2, "goes on").await.unwrap();
    cluster.all_have(&["goes on"]).await;
    assert!(command_time(&cluster) < PATIENCE, "no time was poisoned");
}

#[tokio::test(start_paused = true)]
async fn two_that_contradict_each_other_both_stop_and_go_on_when_they_agree() {
    let mut cluster = Cluster::of(2).await;
    cluster.settled().await;
    cluster.set_clock(2, 3_600);
    for node in [1, 2] {
        clock_is(&cluster, node, skewed).await;
        let refused = cluster.propose(node, "not").await;
        assert!(
            matches!(refused, Err(ProposeError::ClockSkew(_))),
            "{refused:?}"
        );
    }
    cluster.set_clock(2, 0);
    for node in [1, 2] {
        clock_is(&cluster, node, ClockState::is_good).await;
    }
    cluster.settled().await;
    cluster.propose(1, "again").await.unwrap();
    cluster.all_have(&["again"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_single_member_is_its_own_median() {
    let mut cluster = Cluster::of(1).await;
    cluster.set_clock(1, 3_600);
    cluster.propose(1, "a").await.unwrap();
    cluster.set_clock(1, 0);
    cluster.propose(1, "b").await.unwrap();
    let ahead = command_time(&cluster);
    assert!(ahead >= Duration::from_secs(3_600), "time never falls");
}

#[tokio::test(start_paused = true)]
async fn a_learner_with_a_wrong_clock_is_not_promoted() {
    let mut cluster = Cluster::of(1).await;
    cluster.set_clock(2, 3_600);
    cluster.start(2).await;
    let leader = cluster.nodes[&1].consensus.clone();
    leader.add_learner(2, &address(2)).await.unwrap();
    cluster.propose(1, "a").await.unwrap();
    has(&cluster.nodes[&2].consensus, &["a"]).await;
    status_is(&leader, |now| {
        now.replicated.get(&2).copied().flatten() == now.last_log_index
    })
    .await;
    clock_is(&cluster, 2, skewed).await;
    assert_eq!(leader.promote(2).await, Err(MembershipError::Clock));
    let own = cluster.nodes[&2].consensus.promote(2).await;
    assert_eq!(own, Err(MembershipError::Clock), "the leader's answer");
    cluster.set_clock(2, 0);
    cluster.promote(2).await;
    clock_is(&cluster, 2, ClockState::is_good).await;
    cluster.propose(2, "b").await.unwrap();
}
