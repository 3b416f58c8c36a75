//! What a member remembers of another, and whom it refuses for it.

use mintmark_proto::mintmark::raft::v1 as pb;
use openraft::LeaderId;
use openraft::storage::RaftLogStorage;

use super::disk::MemoryDisk;
use super::log::{entry, open_log};
use crate::raft::config::ClusterId;
use crate::raft::convert;
use crate::raft::log_store::LogStore;
use crate::raft::session::{Acknowledged, MeetError, Own, PROTOCOL, PeerRefusal, Sessions};
use crate::raft::type_config::{LogId, NodeId, Vote};

/// The member that is met.
const MEMBER: NodeId = 2;

fn sessions(log: &LogStore) -> Sessions {
    let own = Own {
        node_id: 1,
        cluster_id: ClusterId([7; 16]),
        incarnation: [9; 16],
        boot: [1; 16],
    };
    Sessions::new(own, log.clone())
}

/// An entry of the leader (`term`, `node`).
fn id((term, node): (u64, NodeId), index: u64) -> LogId {
    LogId {
        leader_id: LeaderId::new(term, node),
        index,
    }
}

/// Process `boot` of the member says Hello with such a log and vote.
async fn meet(
    sessions: &Sessions,
    boot: u8,
    last: Option<LogId>,
    vote: Option<Vote>,
) -> Result<(), MeetError> {
    let hello = pb::HelloRequest {
        node_id: MEMBER,
        incarnation: vec![3; 16],
        last_log_id: last.as_ref().map(convert::log_id_to_pb),
        protocol: PROTOCOL,
        clock_ms: 0,
        boot: vec![boot; 16],
        vote: vote.as_ref().map(convert::vote_to_pb),
    };
    sessions.meet(MEMBER, hello).await
}

/// The leader (3, 1) heard: "through 3.1-9", of which 3.1-7 was committed.
fn said() -> Acknowledged {
    Acknowledged {
        log_id: id((3, 1), 9),
        vote: Vote::new_committed(3, 1),
        committed: Some(id((3, 1), 7)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_is_refused_only_for_what_no_leader_can_have_cut_off() {
    let follows = Some(Vote::new_committed(3, 1));
    let later = Some(Vote::new(4, 2));
    let same_term = Some(Vote::new(3, 2));
    let cases = [
        ("all is there", Some(id((3, 1), 9)), follows, true),
        ("more is there", Some(id((3, 1), 12)), follows, true),
        ("one is missing", Some(id((3, 1), 8)), follows, false),
        (
            "one is missing, and the vote too",
            Some(id((3, 1), 8)),
            None,
            false,
        ),
        (
            "as it was long ago",
            Some(id((2, 1), 5)),
            Some(Vote::new(2, 1)),
            false,
        ),
        ("empty", None, None, false),
        (
            "cut off by a later leader",
            Some(id((3, 1), 7)),
            later,
            true,
        ),
        (
            "by another of the same term",
            Some(id((3, 1), 8)),
            same_term,
            true,
        ),
        ("and replaced", Some(id((4, 2), 8)), later, true),
        (
            "but what was committed is gone",
            Some(id((3, 1), 6)),
            later,
            false,
        ),
        ("all is gone, and it has voted since", None, later, false),
    ];
    for (case, last, vote, is_taken) in cases {
        let disk = MemoryDisk::default();
        let log = open_log(&disk).unwrap();
        let before = sessions(&log);
        meet(&before, 1, None, None).await.unwrap();
        before.acknowledged(MEMBER, said()).await.unwrap();
        // The process that was met has nothing to explain.
        meet(&before, 1, None, None).await.unwrap();
        log.close().await.unwrap();
        // What was remembered outlives the process that remembers.
        let reopened = open_log(&disk).unwrap();
        for sessions in [before, sessions(&reopened)] {
            let met = meet(&sessions, 2, last, vote).await;
            let refused = matches!(
                met,
                Err(MeetError::Refused(PeerRefusal::RolledBack { node: MEMBER }))
            );
            assert_eq!(refused, !is_taken, "{case}: {met:?}");
            assert_eq!(met.is_ok(), is_taken, "{case}: {met:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_leadership_forgets_what_only_an_earlier_one_was_told() {
    let disk = MemoryDisk::default();
    let log = open_log(&disk).unwrap();
    let sessions = sessions(&log);
    meet(&sessions, 1, None, None).await.unwrap();
    sessions.acknowledged(MEMBER, said()).await.unwrap();
    // Another leader had 8 and 9 cut off; then this member led again.
    let again = Acknowledged {
        log_id: id((3, 1), 7),
        vote: Vote::new_committed(5, 1),
        committed: None,
    };
    sessions.acknowledged(MEMBER, again).await.unwrap();
    let follows = Some(Vote::new_committed(5, 1));
    let holds = Some(id((3, 1), 7));
    meet(&sessions, 2, holds, follows).await.unwrap();
    // An answer that comes late takes nothing back, and nothing that is committed is forgotten.
    sessions.acknowledged(MEMBER, said()).await.unwrap();
    meet(&sessions, 3, holds, follows).await.unwrap();
    let lost = meet(&sessions, 4, Some(id((3, 1), 6)), Some(Vote::new(6, 2))).await;
    assert!(
        matches!(
            lost,
            Err(MeetError::Refused(PeerRefusal::RolledBack { .. }))
        ),
        "{lost:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hello_says_how_the_log_ends_and_whom_its_member_follows() {
    use openraft::storage::RaftLogStorageExt;
    let disk = MemoryDisk::default();
    let mut log = open_log(&disk).unwrap();
    let vote = Vote::new(20, 2);
    log.save_vote(&vote).await.unwrap();
    log.blocking_append([entry(10, 0), entry(10, 1)])
        .await
        .unwrap();
    log.truncate(entry(10, 1).log_id).await.unwrap();
    let hello = sessions(&log).hello(5);
    assert_eq!(
        hello.last_log_id,
        Some(convert::log_id_to_pb(&entry(10, 0).log_id))
    );
    assert_eq!(hello.vote, Some(convert::vote_to_pb(&vote)));
}
