//! What a member remembers of another, and whom it refuses for it.

use mintmark_proto::mintmark::raft::v1 as pb;
use openraft::LeaderId;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

use super::disk::MemoryDisk;
use super::log::{entry, open_log};
use crate::raft::config::ClusterId;
use crate::raft::convert;
use crate::raft::log_store::LogStore;
use crate::raft::session::{MeetError, Own, PROTOCOL, PeerRefusal, Sessions};
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

/// This member leads under (3, 1), has 3.1-0 to 3.1-12, and knows that all through 3.1-7 is committed.
async fn lead(log: &mut LogStore) {
    log.save_vote(&LED).await.unwrap();
    log.blocking_append((0..=12).map(|index| entry(3, index)))
        .await
        .unwrap();
    log.save_committed(Some(id((3, 1), 7))).await.unwrap();
}

const LED: Vote = Vote {
    leader_id: LeaderId {
        term: 3,
        node_id: 1,
    },
    committed: true,
};

/// And the member, in its first life, has told it that it holds the log through 3.1-9.
async fn told_of_nine() -> (MemoryDisk, LogStore, Sessions) {
    let disk = MemoryDisk::default();
    let mut log = open_log(&disk).unwrap();
    lead(&mut log).await;
    let sessions = sessions(&log);
    meet(&sessions, 1, None, None).await.unwrap();
    let acknowledged = id((3, 1), 9);
    sessions
        .acknowledged(MEMBER, acknowledged, &LED)
        .await
        .unwrap();
    (disk, log, sessions)
}

fn is_refused(met: &Result<(), MeetError>) -> bool {
    matches!(
        met,
        Err(MeetError::Refused(PeerRefusal::RolledBack { node: MEMBER }))
    )
}

#[tokio::test(start_paused = true)]
async fn a_member_is_refused_only_for_what_no_leader_can_have_cut_off() {
    let later = Some(Vote::new(4, 2));
    let same_term = Some(Vote::new(3, 2));
    let (led, before) = (Some(LED), Some(Vote::new(2, 1)));
    let cases = [
        ("all is there", Some(id((3, 1), 9)), led, true),
        ("more is there", Some(id((3, 1), 12)), led, true),
        ("one is missing", Some(id((3, 1), 8)), led, false),
        ("and the vote too", Some(id((3, 1), 8)), None, false),
        ("as it was long ago", Some(id((2, 1), 5)), before, false),
        ("empty", None, None, false),
        (
            "cut off by a later leader",
            Some(id((3, 1), 7)),
            later,
            true,
        ),
        (
            "by another of this term",
            Some(id((3, 1), 8)),
            same_term,
            true,
        ),
        ("and replaced", Some(id((4, 2), 8)), later, true),
        (
            "what is committed is gone",
            Some(id((3, 1), 6)),
            later,
            false,
        ),
        ("all is, and it voted since", None, later, false),
    ];
    for (case, last, vote, is_taken) in cases {
        let (disk, log, before) = told_of_nine().await;
        // The process that was met has nothing to explain.
        meet(&before, 1, None, None).await.unwrap();
        log.close().await.unwrap();
        // What was remembered outlives the process that remembers.
        let reopened = open_log(&disk).unwrap();
        for sessions in [before, sessions(&reopened)] {
            let met = meet(&sessions, 2, last, vote).await;
            assert_eq!(is_refused(&met), !is_taken, "{case}: {met:?}");
            assert_eq!(met.is_ok(), is_taken, "{case}: {met:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_only_after_it_was_acknowledged_may_not_be_missing_either() {
    let (_disk, mut log, sessions) = told_of_nine().await;
    let later = Some(Vote::new(4, 2));
    meet(&sessions, 2, Some(id((3, 1), 8)), later)
        .await
        .unwrap();
    // By this very answer it is; the member dies before it can give another.
    log.save_committed(Some(id((3, 1), 9))).await.unwrap();
    let met = meet(&sessions, 3, Some(id((3, 1), 8)), later).await;
    assert!(is_refused(&met), "{met:?}");
    meet(&sessions, 3, Some(id((3, 1), 9)), later)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_later_leadership_forgets_what_only_an_earlier_one_was_told() {
    let (disk, mut log, sessions) = told_of_nine().await;
    let tell = async |log_id, vote| sessions.acknowledged(MEMBER, log_id, &vote).await.unwrap();
    // Another leader had both cut off what came after 7; then this member led again.
    let again = Vote::new_committed(5, 1);
    log.truncate(entry(3, 8).log_id).await.unwrap();
    log.save_vote(&again).await.unwrap();
    log.blocking_append([entry(5, 8), entry(5, 9)])
        .await
        .unwrap();
    tell(id((5, 1), 8), again).await;
    // An answer to the earlier leadership comes late. It takes nothing back.
    tell(id((3, 1), 9), LED).await;
    meet(&sessions, 2, Some(id((5, 1), 8)), Some(again))
        .await
        .unwrap();
    let met = meet(&sessions, 3, Some(id((3, 1), 7)), Some(again)).await;
    assert!(is_refused(&met), "it acknowledged 5.1-8: {met:?}");
    // It says more to the same leadership, and more is committed.
    tell(id((5, 1), 9), again).await;
    let met = meet(&sessions, 4, Some(id((5, 1), 8)), Some(again)).await;
    assert!(is_refused(&met), "it acknowledged 5.1-9: {met:?}");
    log.save_committed(Some(id((5, 1), 9))).await.unwrap();
    tell(id((5, 1), 9), again).await;
    // What was noted counts, not what the log could still tell.
    log.save_vote(&Vote::new(6, 2)).await.unwrap();
    log.purge(id((5, 1), 9)).await.unwrap();
    log.blocking_append([entry(6, 10)]).await.unwrap();
    log.close().await.unwrap();
    let reopened = open_log(&disk).unwrap();
    assert!(!reopened.holds(id((5, 1), 9)));
    let later = Some(Vote::new(6, 2));
    let met = meet(&self::sessions(&reopened), 5, Some(id((5, 1), 8)), later).await;
    assert!(is_refused(&met), "5.1-9 is committed: {met:?}");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_stand_in_the_log_any_more_is_not_taken_for_committed() {
    let (_disk, mut log, sessions) = told_of_nine().await;
    // A later leader had this member replace 8 and 9, and committed what took their place.
    log.save_vote(&Vote::new_committed(4, 2)).await.unwrap();
    log.truncate(entry(3, 8).log_id).await.unwrap();
    log.blocking_append([entry(4, 8), entry(4, 9)])
        .await
        .unwrap();
    log.save_committed(Some(id((4, 1), 9))).await.unwrap();
    let later = Some(Vote::new(4, 2));
    meet(&sessions, 2, Some(id((3, 1), 7)), later)
        .await
        .unwrap();
    let met = meet(&sessions, 3, Some(id((3, 1), 6)), later).await;
    assert!(is_refused(&met), "3.1-7 was committed: {met:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_waited_until_this_member_was_back_may_say_less_than_its_process_holds() {
    let (disk, log, _) = told_of_nine().await;
    log.close().await.unwrap();
    let reopened = open_log(&disk).unwrap();
    let sessions = sessions(&reopened);
    // Process 1 wrote it before it acknowledged 3.1-9; another one would have lost that.
    let met = meet(&sessions, 2, Some(id((3, 1), 4)), Some(LED)).await;
    assert!(is_refused(&met), "{met:?}");
    meet(&sessions, 1, Some(id((3, 1), 4)), Some(LED))
        .await
        .unwrap();
    let met = meet(&sessions, 2, Some(id((3, 1), 4)), Some(LED)).await;
    assert!(is_refused(&met), "also when process 1 was met: {met:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hello_says_how_the_log_ends_and_whom_its_member_follows() {
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
