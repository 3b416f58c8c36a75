#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn mark(log_index: u64, root: u8) -> Mark {
    Mark {
        log_index,
        audit_size: log_index,
        audit_root: [root; 32],
        state_sha256: None,
    }
}

fn whole(log_index: u64, root: u8, state: u8) -> Mark {
    Mark {
        state_sha256: Some([state; 32]),
        ..mark(log_index, root)
    }
}

fn of(own: NodeId, voters: &[NodeId]) -> Marks {
    let marks = Marks::new(own, 100);
    marks.set_voters(voters.iter().copied().collect());
    for index in 1..=10 {
        marks.applied(mark(index, 1));
    }
    marks
}

fn fault(marks: &Marks) -> Option<Divergence> {
    *marks.fault().borrow()
}

async fn pass(marks: &Marks, time: Duration) {
    tokio::time::advance(time).await;
    marks.judge();
}

#[tokio::test(start_paused = true)]
async fn equal_states_stop_nobody() {
    let marks = of(1, &[1, 2, 3]);
    for index in 1..=10 {
        marks.heard(2, &[mark(index, 1)]);
    }
    pass(&marks, AGREEMENT_TIME * 2).await;
    assert_eq!(fault(&marks), None);
    assert_eq!(marks.differing(), 0);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_differ_both_stop_at_once_and_name_both_states() {
    let marks = of(1, &[1, 2]);
    marks.heard(2, &[mark(7, 2)]);
    let found = fault(&marks).unwrap();
    let expected = Divergence {
        node: 2,
        own: mark(7, 1),
        theirs: mark(7, 2),
    };
    assert_eq!(found, expected);
    let text = found.to_string();
    for part in [
        "log entry 7",
        "member 2",
        &"01".repeat(32),
        &"02".repeat(32),
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_one_that_a_majority_contradicts_stops_at_once() {
    let marks = of(3, &[1, 2, 3]);
    marks.heard(1, &[mark(7, 2)]);
    assert_eq!(fault(&marks), None, "the second may agree with it");
    marks.heard(2, &[mark(7, 2)]);
    assert!(fault(&marks).is_some());
}

#[tokio::test(start_paused = true)]
async fn those_that_agree_go_on_without_the_one_that_differs() {
    for agreed_first in [true, false] {
        let marks = of(1, &[1, 2, 3]);
        if agreed_first {
            marks.heard(2, &[mark(8, 1)]);
        }
        marks.heard(3, &[mark(7, 2)]);
        if !agreed_first {
            marks.heard(2, &[mark(8, 1)]);
        }
        pass(&marks, AGREEMENT_TIME * 2).await;
        assert_eq!(fault(&marks), None, "{agreed_first}");
        assert_eq!(marks.differing(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn agreement_of_before_the_difference_proves_nothing() {
    let marks = of(1, &[1, 2, 3]);
    marks.heard(2, &[mark(6, 1)]);
    marks.heard(3, &[mark(7, 2)]);
    pass(&marks, AGREEMENT_TIME - Duration::from_millis(1)).await;
    assert_eq!(fault(&marks), None);
    pass(&marks, Duration::from_millis(1)).await;
    assert_eq!(fault(&marks).unwrap().node, 3);
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_differs_stops_alone() {
    let voter = of(1, &[1]);
    voter.heard(4, &[mark(7, 2)]);
    pass(&voter, AGREEMENT_TIME * 2).await;
    assert_eq!(fault(&voter), None);
    assert_eq!(voter.differing(), 1);
    let learner = of(4, &[1]);
    learner.heard(1, &[mark(7, 2)]);
    assert!(fault(&learner).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_applied_yet_is_compared_when_it_is() {
    let marks = of(1, &[1, 2]);
    marks.heard(2, &[mark(13, 2)]);
    marks.heard(2, &[mark(12, 1)]);
    marks.heard(2, &[mark(14, 2)]);
    marks.applied(mark(11, 1));
    marks.applied(mark(12, 1));
    assert_eq!(fault(&marks), None, "the first of them is equal");
    marks.heard(2, &[mark(13, 2)]);
    marks.applied(mark(13, 1));
    assert_eq!(fault(&marks).unwrap().own.log_index, 13);
}

#[tokio::test(start_paused = true)]
async fn a_difference_that_no_leaf_shows_is_found_by_the_digest() {
    let marks = of(1, &[1, 2, 3]);
    marks.applied(whole(11, 1, 1));
    marks.applied(mark(12, 1));
    marks.heard(3, &[mark(12, 1), whole(11, 1, 2)]);
    // The tree of the other one is equal, but that is not what is in question.
    marks.heard(2, &[mark(12, 1)]);
    pass(&marks, AGREEMENT_TIME - Duration::from_millis(1)).await;
    assert_eq!(fault(&marks), None);
    let agreeing = of(1, &[1, 2, 3]);
    agreeing.applied(whole(11, 1, 1));
    agreeing.heard(3, &[whole(11, 1, 2)]);
    agreeing.heard(2, &[whole(11, 1, 1)]);
    pass(&marks, Duration::from_millis(1)).await;
    agreeing.judge();
    assert_eq!(fault(&marks).unwrap().theirs.state_sha256, Some([2; 32]));
    assert_eq!(fault(&agreeing), None);
}

#[tokio::test(start_paused = true)]
async fn a_digest_outlives_the_marks_around_it() {
    let marks = Marks::new(1, 100);
    marks.set_voters([1, 2].into());
    marks.applied(whole(1, 1, 1));
    for index in 2..=RECENT_MAX as u64 + 10 {
        marks.applied(mark(index, 1));
    }
    assert_eq!(marks.lock().recent.len(), RECENT_MAX);
    assert_eq!(marks.own().last(), Some(&whole(1, 1, 1)));
    marks.heard(2, &[mark(2, 2)]);
    assert_eq!(fault(&marks), None, "too long ago");
    marks.heard(2, &[whole(1, 1, 2)]);
    assert!(fault(&marks).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_installed_snapshot_begins_anew() {
    let marks = of(1, &[1, 2]);
    marks.installed(mark(5, 3));
    marks.heard(2, &[mark(5, 3), mark(4, 9)]);
    assert_eq!(fault(&marks), None);
    assert_eq!(marks.own(), [mark(5, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_came_back_right_differs_no_longer() {
    let marks = of(1, &[1, 2, 3]);
    marks.heard(2, &[mark(8, 1)]);
    marks.heard(3, &[mark(7, 2)]);
    marks.heard(3, &[mark(6, 1)]);
    assert_eq!(marks.differing(), 1, "that was before");
    marks.heard(3, &[mark(9, 1)]);
    assert_eq!(marks.differing(), 0);
}

#[test]
fn marks_that_are_malformed_are_none() {
    let good = whole(3, 1, 2);
    assert_eq!(Mark::from_pb(&good.to_pb()), Some(good));
    assert_eq!(Mark::from_pb(&mark(3, 1).to_pb()), Some(mark(3, 1)));
    let short = pb::StateMark {
        audit_root: vec![1; 31],
        ..good.to_pb()
    };
    assert_eq!(Mark::from_pb(&short), None);
    let short = pb::StateMark {
        state_sha256: vec![1; 31],
        ..good.to_pb()
    };
    assert_eq!(Mark::from_pb(&short), None);
}
