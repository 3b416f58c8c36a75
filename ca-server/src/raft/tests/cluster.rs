//! Clusters of one and three members.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::task::Tasks;
use tokio::time::Instant;

use super::disk::Unsynced;
use super::harness::{CLUSTER, Cluster, PATIENCE, Strangers, address, admin, has, status_is};
use super::state::{Names, add};
use crate::raft::{
    ClusterId, Consensus, MembershipError, OpenError, ProposeError, RaftConfig, RaftFault, Role,
    folder_owner,
};
use crate::store::database::{Commit, IndexedTable, SealedDatabase, Trust};
use crate::store::leaves::ReadLeavesError;

#[tokio::test(start_paused = true)]
async fn one_member_bootstraps_proposes_and_remembers() {
    let mut cluster = Cluster::new();
    cluster.start(1).await;
    let consensus = cluster.nodes[&1].consensus.clone();
    assert!(!consensus.is_member());
    consensus.bootstrap().await.unwrap();
    assert!(consensus.is_member());
    let first = cluster.propose(1, "a").await.unwrap();
    let second = cluster.propose(1, "b").await.unwrap();
    assert_eq!(first.result.detail, "a");
    assert!(first.position < second.position);
    assert_eq!(*consensus.applied().borrow(), second.position);
    consensus.read_index().await.unwrap();
    assert_eq!(consensus.quorum_age(), Some(Duration::ZERO));
    let leaves = consensus.leaves(0..2, usize::MAX).await.unwrap();
    assert_eq!(leaves, ["a", "b"]);
    let beyond = consensus.leaves(0..3, usize::MAX).await;
    assert!(matches!(beyond, Err(ReadLeavesError::BeyondEnd { end: 2 })));
    assert!(consensus.bootstrap().await.is_err(), "once only");
    drop(consensus);

    for crash in [false, true] {
        if crash {
            cluster.crash(1, Unsynced::Lost).await;
        } else {
            cluster.stop(1).await;
        }
        cluster.start(1).await;
        cluster.settled().await;
        cluster.all_have(&["a", "b"]).await;
        let consensus = &cluster.nodes[&1].consensus;
        assert_eq!(consensus.leaves(0..2, usize::MAX).await.unwrap().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_any_member_proposes_every_member_applies_once() {
    let cluster = Cluster::of(3).await;
    cluster.settled().await;
    let mut names = Vec::new();
    for round in 0..3 {
        for via in 1..=3 {
            let name = format!("{round}-{via}");
            let proposed = cluster.propose(via, &name).await.unwrap();
            assert_eq!(proposed.result.detail, name);
            // Applied where it was proposed, before the answer.
            let here = cluster.nodes[&via]
                .consensus
                .read(|state| state.names.clone());
            assert_eq!(here.last(), Some(&name));
            names.push(name);
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    cluster.all_have(&names).await;
    let states: Vec<Names> = cluster
        .nodes
        .values()
        .map(|node| node.consensus.read(Clone::clone))
        .collect();
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_cluster_on_files_in_real_time_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::new();
    cluster.files = Some(tempfile::tempdir().unwrap());
    cluster.snapshot_every = 5;
    let mut cluster = cluster.with(3).await;
    let names: Vec<String> = (0..20).map(|number| format!("name {number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (number, name) in (0..).zip(&names) {
        let via = number % 3 + 1;
        let consensus = cluster.nodes[&via].consensus.clone();
        let key = Some([number as u8; 16]);
        consensus.propose(add(name), admin(), key).await.unwrap();
    }
    cluster.all_have(&names).await;
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.settled().await;
    cluster.all_have(&names).await;
}

#[tokio::test(start_paused = true)]
async fn many_proposals_share_entries_and_syncs() {
    let cluster = Cluster::of(1).await;
    let before = cluster.disks[&1].syncs();
    let status = cluster.nodes[&1].consensus.status();
    let entries_before = status.borrow().last_log_index.unwrap();
    let mut proposals = Vec::new();
    for number in 0..500 {
        let consensus = cluster.nodes[&1].consensus.clone();
        proposals.push(tokio::spawn(async move {
            let name = number.to_string();
            consensus.propose(add(&name), admin(), None).await.unwrap()
        }));
    }
    let mut positions = Vec::new();
    for proposal in proposals {
        positions.push(proposal.await.unwrap().position);
    }
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), 500, "every command has its own position");
    let entries = status.borrow().last_log_index.unwrap() - entries_before;
    assert!(entries <= 10, "{entries} entries for 500 commands");
    let syncs = cluster.disks[&1].syncs() - before;
    assert!(syncs <= 20, "{syncs} syncs for 500 commands");
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_replaced_within_a_second() {
    let mut cluster = Cluster::of(3).await;
    cluster.propose(1, "before").await.unwrap();
    let leader = cluster.settled().await;
    cluster.crash(leader, Unsynced::Lost).await;
    let lost = Instant::now();
    let survivor = *cluster.nodes.keys().next().unwrap();
    let proposed = cluster.propose(survivor, "after").await.unwrap();
    assert_eq!(proposed.result.detail, "after");
    assert!(
        lost.elapsed() < Duration::from_millis(1100),
        "{:?}",
        lost.elapsed()
    );
    cluster.all_have(&["before", "after"]).await;
    cluster.start(leader).await;
    cluster.all_have(&["before", "after"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_any_order_loses_nothing() {
    let mut cluster = Cluster::of(3).await;
    let mut names = Vec::new();
    let orders = [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ];
    for (round, order) in orders.into_iter().enumerate() {
        cluster.settled().await;
        let name = format!("round {round}");
        cluster.propose(order[0], &name).await.unwrap();
        names.push(name);
        for node in order {
            if round % 2 == 0 {
                cluster.crash(node, Unsynced::Lost).await;
            } else {
                cluster.stop(node).await;
            }
        }
        for node in order.into_iter().rev() {
            cluster.start(node).await;
        }
        cluster.settled().await;
        let expected: Vec<&str> = names.iter().map(String::as_str).collect();
        cluster.all_have(&expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_learner_gets_snapshot_log_and_leaves_and_votes_after() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every = 20;
    cluster.start(1).await;
    cluster.nodes[&1].consensus.bootstrap().await.unwrap();
    let names: Vec<String> = (0..100).map(|number| format!("name {number}")).collect();
    for name in &names {
        cluster.propose(1, name).await.unwrap();
    }
    let first = &cluster.nodes[&1].consensus;
    status_is(first, |now| now.snapshot_log_index >= Some(80)).await;
    cluster.start(2).await;
    let first = cluster.nodes[&1].consensus.clone();
    first.add_learner(2, &address(2)).await.unwrap();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let learner = cluster.nodes[&2].consensus.clone();
    has(&learner, &names).await;
    assert_eq!(learner.role(), Role::Learner);
    // The log that it got cannot have held the first names.
    tokio::time::timeout(PATIENCE, async {
        while learner.leaves(0..100, usize::MAX).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    let leaves = learner.leaves(0..100, usize::MAX).await.unwrap();
    assert_eq!(leaves, names);
    assert!(
        learner.read(|state| state.index) > 100 || learner.read(|state| state.index) == 100,
        "all commands count"
    );
    cluster.promote(2).await;
    status_is(&learner, |now| now.voters.len() == 2 && !now.joint).await;

    // And it keeps the leaves and the state over a crash.
    drop(learner);
    cluster.crash(2, Unsynced::Lost).await;
    cluster.start(2).await;
    has(&cluster.nodes[&2].consensus, &names).await;
    let leaves = cluster.nodes[&2].consensus.leaves(0..100, usize::MAX).await;
    assert_eq!(leaves.unwrap().len(), 100);
}

/// Member 2 has the log of member 1, and could vote: its clock is known too.
async fn with_learner() -> Cluster {
    let mut cluster = Cluster::of(1).await;
    cluster.start(2).await;
    let leader = cluster.nodes[&1].consensus.clone();
    leader.add_learner(2, &address(2)).await.unwrap();
    cluster.propose(1, "a").await.unwrap();
    has(&cluster.nodes[&2].consensus, &["a"]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_lacks_audit_leaves_is_not_promoted() {
    let cluster = with_learner().await;
    let leader = cluster.nodes[&1].consensus.clone();
    let learner = cluster.nodes[&2].consensus.clone();
    learner.miss_leaves(3);
    assert_eq!(leader.promote(2).await, Err(MembershipError::Leaves));
    assert_eq!(
        learner.promote(2).await,
        Err(MembershipError::Leaves),
        "the leader's answer"
    );
    // What the leader lacks as well may be lost for good: the cluster can grow all the same.
    leader.miss_leaves(3);
    leader.promote(2).await.unwrap();
    cluster.propose(1, "b").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_does_not_say_whether_it_holds_the_leaves_is_not_promoted() {
    let cluster = with_learner().await;
    let leader = cluster.nodes[&1].consensus.clone();
    cluster.cut(2);
    assert_eq!(leader.promote(2).await, Err(MembershipError::Leaves));
    cluster.heal();
    cluster.promote(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_wiped_member_is_refused_until_it_has_a_new_id() {
    let mut cluster = Cluster::of(3).await;
    cluster.propose(1, "a").await.unwrap();
    cluster.all_have(&["a"]).await;
    let node = cluster.follower().await;
    cluster.stop(node).await;
    cluster.disks.remove(&node);
    cluster.start(node).await;
    let wiped = cluster.nodes[&node].consensus.clone();
    // The others talk to it only to find out.
    let others: Vec<u64> = (1..=3).filter(|id| *id != node).collect();
    cluster.propose(others[0], "b").await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!wiped.is_member(), "nothing reached the wiped member");
    // Under a new id it is welcome.
    cluster.stop(node).await;
    cluster.nodes[&others[0]]
        .consensus
        .remove(node)
        .await
        .unwrap();
    cluster.start(4).await;
    let first = cluster.nodes[&others[0]].consensus.clone();
    first.add_learner(4, &address(4)).await.unwrap();
    has(&cluster.nodes[&4].consensus, &["a", "b"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_rolled_back_is_refused_and_stops() {
    let mut cluster = Cluster::of(3).await;
    cluster.propose(1, "a").await.unwrap();
    cluster.all_have(&["a"]).await;
    let node = cluster.follower().await;
    cluster.stop(node).await;
    let backup = cluster.disks[&node].copy();
    cluster.start(node).await;
    cluster.settled().await;
    cluster.propose(node, "b").await.unwrap();
    cluster.all_have(&["a", "b"]).await;
    cluster.stop(node).await;
    cluster.disks.insert(node, backup);
    cluster.start(node).await;
    let failed = cluster.nodes[&node].consensus.failed();
    let fault = tokio::time::timeout(PATIENCE, failed).await.unwrap();
    assert!(matches!(fault, RaftFault::RolledBack), "{fault}");
    let others: Vec<u64> = (1..=3).filter(|id| *id != node).collect();
    cluster.propose(others[0], "c").await.unwrap();
    assert_eq!(
        cluster.nodes[&node]
            .consensus
            .read(|state| state.names.len()),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_not_heard() {
    let mut cluster = Cluster::of(3).await;
    let node = cluster.follower().await;
    cluster.stop(node).await;
    cluster.strangers.0.lock().unwrap().insert(node);
    cluster.start(node).await;
    let refused = cluster.propose(node, "a").await;
    assert!(
        matches!(refused, Err(ProposeError::NoLeader | ProposeError::Unknown)),
        "{refused:?}"
    );
    cluster.strangers.0.lock().unwrap().clear();
    cluster.propose(node, "b").await.unwrap();
    cluster.all_have(&["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_makes_a_retry_harmless() {
    let cluster = Cluster::of(3).await;
    let via = cluster.follower().await;
    let consensus = &cluster.nodes[&via].consensus;
    let key = Some([4; 16]);
    let first = consensus.propose(add("a"), admin(), key).await.unwrap();
    assert!(!first.result.replayed);
    let again = consensus.propose(add("a"), admin(), key).await.unwrap();
    assert!(again.result.replayed);
    cluster.all_have(&["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn proposals_survive_the_loss_of_leaders_exactly_once() {
    let mut cluster = Cluster::of(3).await;
    let mut expected = Vec::new();
    for round in 0..6_u8 {
        let leader = cluster.settled().await;
        let via = cluster.follower().await;
        let consensus = cluster.nodes[&via].consensus.clone();
        let name = format!("round {round}");
        let proposed = name.clone();
        let proposing = tokio::spawn(async move {
            let key = Some([round; 16]);
            consensus.propose(add(&proposed), admin(), key).await
        });
        // Let it get to different depths before the power goes.
        for _ in 0..round * 7 {
            tokio::task::yield_now().await;
        }
        cluster.crash(leader, Unsynced::Lost).await;
        let outcome = proposing.await.unwrap();
        assert_eq!(outcome.map(|_| ()), Ok(()), "round {round}");
        expected.push(name);
        cluster.start(leader).await;
        cluster.settled().await;
        let names: Vec<&str> = expected.iter().map(String::as_str).collect();
        cluster.all_have(&names).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_proposals_a_snapshot_took_the_place_of_can_lead_again() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every = 20;
    let cluster = cluster.with(3).await;
    let former = cluster.settled().await;
    cluster.cut(former);
    let consensus = cluster.nodes[&former].consensus.clone();
    // More entries, each of one proposal, than may be written and not yet applied.
    let proposals: Vec<_> = (0..40)
        .map(|number| {
            let consensus = consensus.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number)).await;
                let lost = format!("lost {number}");
                consensus.propose(add(&lost), admin(), None).await
            })
        })
        .collect();
    let next = loop {
        let leader = cluster.settled().await;
        if leader != former {
            break leader;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let names: Vec<String> = (0..100).map(|number| format!("name {number}")).collect();
    for name in &names {
        cluster.propose(next, name).await.unwrap();
    }
    for proposal in proposals {
        assert!(proposal.await.unwrap().is_err());
    }
    let end = consensus.log_end();
    let leader = &cluster.nodes[&next].consensus;
    let (_, log) = leader.parts();
    assert!(log.purged().map(|id| id.index) > end, "{leader:?}");
    cluster.heal();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    has(&consensus, &names).await;
    while cluster.settled().await != former {
        consensus.parts().0.trigger().elect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.propose(former, "leads").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_grows_old_and_promises_nothing() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for node in cluster.nodes.values() {
        let age = node.consensus.quorum_age().unwrap();
        assert!(
            age < Duration::from_millis(900),
            "{:?}: {age:?}",
            node.consensus
        );
    }
    cluster.cut(leader);
    let began = Instant::now();
    let lost = cluster.propose(leader, "lost").await;
    assert_eq!(lost.map(|_| ()), Err(ProposeError::Unknown));
    let old = cluster.nodes[&leader].consensus.clone();
    assert!(
        old.quorum_age()
            .is_none_or(|age| age + Duration::from_secs(1) >= began.elapsed())
    );
    assert!(old.read_index().await.is_err());
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.propose(others[0], "kept").await.unwrap();
    assert!(cluster.nodes[&others[1]].consensus.quorum_age() < Some(Duration::from_secs(1)));
    cluster.heal();
    cluster.all_have(&["kept"]).await;
    old.read_index().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_member_that_hears_only_a_leader_without_a_quorum_grows_old_with_it() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    cluster.start(4).await;
    let leads = cluster.nodes[&leader].consensus.clone();
    leads.add_learner(4, &address(4)).await.unwrap();
    let learner = cluster.nodes[&4].consensus.clone();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(learner.quorum_age() < Some(Duration::from_millis(900)));
    assert!(learner.quorum_age().is_some());
    for node in (1..=3).filter(|node| *node != leader) {
        cluster.cut(node);
    }
    // The leader does not know yet, and speaks to the learner as before.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(learner.leader(), Some(leader));
    let age = learner.quorum_age();
    assert!(
        age.is_none_or(|age| age > Duration::from_secs(2)),
        "{age:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_index_sees_what_was_acknowledged_elsewhere() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    for round in 0..5_usize {
        cluster.propose(leader, "x").await.unwrap();
        for node in cluster.nodes.values() {
            node.consensus.read_index().await.unwrap();
            assert_eq!(node.consensus.read(|state| state.names.len()), round + 1);
        }
    }
}

/// A leader that comes back before anybody else led goes on leading, and has forgotten how far
/// entries were committed.
#[tokio::test(start_paused = true)]
async fn a_read_index_sees_what_was_acknowledged_before_all_power_went() {
    let mut cluster = Cluster::of(3).await;
    for round in 0..5_usize {
        let leader = cluster.settled().await;
        cluster.propose(leader, &format!("{round}")).await.unwrap();
        let acknowledged = cluster.nodes[&leader].consensus.log_end();
        for node in 1..=3 {
            cluster.crash(node, Unsynced::Lost).await;
        }
        // The leader last: the others are there when it asks for its first confirmation.
        for node in (1..=3).filter(|node| *node != leader).chain([leader]) {
            cluster.start(node).await;
        }
        let resumed = &cluster.nodes[&leader].consensus;
        assert!(resumed.read_index_once().await >= acknowledged);
        resumed.read_index().await.unwrap();
        assert_eq!(resumed.read(|state| state.names.len()), round + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_membership_changes_one_step_at_a_time() {
    let mut cluster = Cluster::of(3).await;
    let via = cluster.follower().await;
    let follower = cluster.nodes[&via].consensus.clone();
    assert_eq!(follower.promote(9).await, Err(MembershipError::UnknownNode));
    // A learner that never answers is not promoted.
    follower.add_learner(9, &address(9)).await.unwrap();
    follower.add_learner(9, &address(9)).await.unwrap();
    assert_eq!(follower.promote(9).await, Err(MembershipError::Behind));
    follower.remove(9).await.unwrap();
    follower.remove(9).await.unwrap();
    // Down to one voter, which stays.
    let leader = cluster.settled().await;
    for node in (1..=3).filter(|node| *node != leader) {
        cluster.nodes[&leader].consensus.remove(node).await.unwrap();
        cluster.stop(node).await;
    }
    let last = cluster.nodes[&leader].consensus.clone();
    assert_eq!(last.remove(leader).await, Err(MembershipError::LastVoter));
    cluster.propose(leader, "alone").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_command_that_panics_stops_the_member_with_the_entry() {
    let cluster = Cluster::of(1).await;
    let consensus = cluster.nodes[&1].consensus.clone();
    let poisoned = consensus.propose(add("panic"), admin(), None).await;
    assert_eq!(poisoned.map(|_| ()), Err(ProposeError::Unknown));
    let fault = tokio::time::timeout(PATIENCE, consensus.failed())
        .await
        .unwrap();
    let RaftFault::Machine(why) = fault else {
        panic!("{fault}")
    };
    assert!(why.to_string().contains("a poisoned command"), "{why}");
    let after = consensus.propose(add("x"), admin(), None).await;
    assert!(after.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_stops_the_member() {
    let cluster = Cluster::of(3).await;
    let node = cluster.follower().await;
    cluster.disks[&node].fail_after(1);
    let others: Vec<u64> = (1..=3).filter(|id| *id != node).collect();
    cluster.propose(others[0], "a").await.unwrap();
    let failed = cluster.nodes[&node].consensus.failed();
    let fault = tokio::time::timeout(PATIENCE, failed).await.unwrap();
    assert!(matches!(fault, RaftFault::Store(_)), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn the_folder_of_another_cluster_or_process_is_left_alone() {
    let mut cluster = Cluster::of(1).await;
    cluster.propose(1, "a").await.unwrap();
    assert!(matches!(
        cluster.try_start(1).await,
        Err(OpenError::Locked { .. })
    ));
    cluster.stop(1).await;
    let host = cluster.host(1);
    assert_eq!(
        folder_owner(&*host.disk, "/data").unwrap(),
        Some((1, CLUSTER))
    );
    assert_eq!(folder_owner(&*host.disk, "/other").unwrap(), None);
    let before = cluster.disks[&1].content();
    let open = async |config: RaftConfig| {
        let auth = Arc::new(Strangers::default());
        let opened = Consensus::<Names>::open(&host, &config, auth, &Tasks::new()).await;
        opened.map(|_| ()).unwrap_err()
    };
    let foreign = RaftConfig {
        cluster_id: ClusterId([6; 16]),
        ..cluster.config(1)
    };
    let error = open(foreign).await;
    assert!(matches!(error, OpenError::ForeignCluster { .. }), "{error}");
    let error = open(RaftConfig {
        node_id: 2,
        ..cluster.config(1)
    })
    .await;
    assert!(
        matches!(error, OpenError::ForeignNode { found: 1, .. }),
        "{error}"
    );
    assert_eq!(cluster.disks[&1].content(), before);

    let log = Path::new("/data/log.redb");
    mintmark_runtime::disk::Disk::remove_file(&cluster.disks[&1], log).unwrap();
    let error = open(cluster.config(1)).await;
    assert!(matches!(error, OpenError::LogMissing { .. }), "{error}");
}

/// Proposes until something fails; returns what was acknowledged.
async fn propose_until_failure(cluster: &Cluster) -> (Vec<String>, bool) {
    let mut acknowledged = Vec::new();
    for number in 0..25 {
        let name = format!("name {number}");
        match cluster.propose(1, &name).await {
            Ok(_) => acknowledged.push(name),
            Err(_) => return (acknowledged, false),
        }
    }
    (acknowledged, true)
}

#[tokio::test(start_paused = true)]
async fn a_member_that_crashes_anywhere_has_everything_acknowledged() {
    let kinds = [Unsynced::Lost, Unsynced::EverySecond, Unsynced::LastTorn];
    for (k, unsynced) in (1..).step_by(7).zip(kinds.into_iter().cycle()) {
        let mut cluster = Cluster::new();
        cluster.snapshot_every = 10;
        cluster.start(1).await;
        cluster.nodes[&1].consensus.bootstrap().await.unwrap();
        cluster.disks[&1].fail_after(k);
        let (acknowledged, finished) = propose_until_failure(&cluster).await;
        cluster.crash(1, unsynced).await;
        let context = format!("{unsynced:?}, failure at operation {k}");
        if let Err(error) = cluster.try_start(1).await {
            panic!("{context}: {error:?}");
        }
        cluster.settled().await;
        cluster.propose(1, "after").await.unwrap();
        let consensus = &cluster.nodes[&1].consensus;
        let names = consensus.read(|state| state.names.clone());
        assert!(names.starts_with(&acknowledged), "{context}: {names:?}");
        // One proposal was under way, and its outcome was called unknown.
        assert!(
            names.len() <= acknowledged.len() + 2,
            "{context}: {names:?}"
        );
        let count = names.len() as u64;
        let leaves = consensus.leaves(0..count, usize::MAX).await.unwrap();
        assert!(leaves.iter().eq(names.iter()), "{context}");
        if finished {
            return;
        }
    }
}

/// Three members that have these names; the second has their leaves on disk, does not apply that part of
/// the log again, and is stopped.
async fn with_leaves_on_disk_of_second(names: &[&str]) -> Cluster {
    let mut cluster = Cluster::of(3).await;
    for name in names {
        cluster.propose(1, name).await.unwrap();
    }
    cluster.all_have(names).await;
    let second = cluster.nodes[&2].consensus.clone();
    second.snapshot().await;
    status_is(&second, |now| now.snapshot_log_index.is_some()).await;
    drop(second);
    cluster.stop(2).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn leaves_of_a_peer_that_lies_are_thrown_away() {
    let names: Vec<String> = (0..30).map(|number| format!("name {number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut cluster = with_leaves_on_disk_of_second(&names).await;
    // The member that is asked first tells something else, in good form. It would notice
    // if it applied that part of the log again.
    let path = Path::new("/data/leaves.redb");
    let disk = cluster.disks[&2].clone();
    let leaves =
        SealedDatabase::open(&disk, path, "leaves.redb", Commit::TwoPhase, Trust::AsRead).unwrap();
    let table = IndexedTable::new("leaves");
    leaves
        .write(|writing| writing.put(table, 7, b"a lie"))
        .unwrap();
    drop(leaves);
    cluster.start(2).await;
    cluster.settled().await;
    let lie = cluster.nodes[&2].consensus.leaves(7..8, usize::MAX).await;
    assert_eq!(lie.unwrap(), ["a lie"]);

    cluster.leader().consensus.snapshot().await;
    let leader = cluster.leader().consensus.clone();
    status_is(&leader, |now| now.snapshot_log_index.is_some()).await;
    leader.purge().await;
    cluster.start(4).await;
    leader.add_learner(4, &address(4)).await.unwrap();
    let learner = cluster.nodes[&4].consensus.clone();
    has(&learner, &names).await;
    status_is(&learner, |now| now.snapshot_log_index.is_some()).await;
    tokio::time::timeout(PATIENCE, async {
        loop {
            match learner.leaves(0..30, usize::MAX).await {
                Ok(leaves) => break assert_eq!(leaves, names),
                Err(ReadLeavesError::Absent { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_rotted_is_fetched_from_another_member() {
    let names: Vec<String> = (0..30).map(|number| format!("name {number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut cluster = with_leaves_on_disk_of_second(&names).await;
    cluster.disks[&2].damage(Path::new("/data/leaves.redb"), "leaves", 7);
    cluster.start(2).await;
    cluster.settled().await;
    let second = &cluster.nodes[&2].consensus;
    let rotten = second.leaves(0..30, usize::MAX).await;
    let absent = matches!(rotten, Err(ReadLeavesError::Absent { first_absent: 7 }));
    assert!(absent, "{rotten:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(second.leaves(0..30, usize::MAX).await.unwrap(), names);
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_trust_domain_is_replicated_too() {
    let mut cluster = Cluster::new();
    let host = cluster.host(1);
    let tasks = Tasks::new();
    let auth = Arc::new(Strangers::default());
    let config = cluster.config(1);
    let consensus: Consensus = Consensus::open(&host, &config, auth, &tasks).await.unwrap();
    consensus.bootstrap().await.unwrap();
    let body = pb::command::Body::PruneExpired(pb::PruneExpired {});
    let proposed = consensus.propose(body, admin(), None).await.unwrap();
    assert_eq!(proposed.result.refusal(), pb::Refusal::NotInitialized);
    assert_eq!(proposed.position.index, 1);
    consensus.snapshot().await;
    let mut status = consensus.status();
    let taken = status.wait_for(|now| now.snapshot_log_index.is_some());
    tokio::time::timeout(PATIENCE, taken)
        .await
        .unwrap()
        .unwrap();
    consensus.shutdown().await;
}
