#![allow(clippy::unwrap_used, reason = "tests")]

use mintmark_identity::clock::ManualClock;

use super::*;

const START: i64 = 1_700_000_000_000;
const SECOND: Duration = Duration::from_secs(1);

fn of(own: NodeId, voters: &[NodeId]) -> (Clocks, Arc<ManualClock>) {
    let wall = Arc::new(ManualClock::new(Timestamp::from_unix_millis(START)));
    let clocks = Clocks::new(own, wall.clone());
    clocks.asked_all();
    clocks.set_voters(voters.iter().copied().collect());
    (clocks, wall)
}

fn hear(clocks: &Clocks, node: NodeId, offset_ms: i64) {
    let own = clocks.0.wall.now().unix_millis();
    clocks.heard(node, Instant::now(), own + offset_ms);
}

/// Lets both clocks of this machine go on.
async fn pass(wall: &ManualClock, time: Duration) {
    tokio::time::advance(time).await;
    wall.advance(time);
}

#[tokio::test(start_paused = true)]
async fn the_only_voter_is_the_median() {
    let (clocks, wall) = of(1, &[1]);
    assert_eq!(clocks.judge(), ClockState::Good(ClockOffset(0)));
    wall.advance(SECOND * 3600);
    assert_eq!(clocks.judge(), ClockState::Good(ClockOffset(0)));
}

#[tokio::test(start_paused = true)]
async fn a_clock_is_not_judged_before_a_majority_was_read() {
    let (clocks, _wall) = of(1, &[]);
    assert_eq!(
        clocks.judge(),
        ClockState::Unknown,
        "who votes is not known"
    );
    clocks.set_voters([1, 2, 3, 4, 5].into());
    assert_eq!(clocks.judge(), ClockState::Unknown);
    hear(&clocks, 2, 0);
    assert_eq!(clocks.judge(), ClockState::Unknown);
    hear(&clocks, 6, 0);
    assert_eq!(
        clocks.judge(),
        ClockState::Unknown,
        "a learner does not count"
    );
    hear(&clocks, 3, 0);
    assert_eq!(clocks.judge(), ClockState::Good(ClockOffset(0)));
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_condemns_nobody_before_all_were_asked() {
    let wall = Arc::new(ManualClock::new(Timestamp::from_unix_millis(START)));
    let clocks = Clocks::new(1, wall);
    clocks.set_voters([1, 2, 3].into());
    hear(&clocks, 2, 3_600_000);
    assert_eq!(clocks.judge(), ClockState::Unknown);
    hear(&clocks, 3, 0);
    assert_eq!(clocks.judge(), ClockState::Good(ClockOffset(0)));
    hear(&clocks, 3, 3_600_000);
    assert_eq!(clocks.judge(), ClockState::Unknown);
    clocks.asked_all();
    assert!(clocks.judge().skew().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_learner_is_measured_by_the_voters_alone() {
    let (clocks, _wall) = of(4, &[1, 2, 3]);
    hear(&clocks, 1, 0);
    assert_eq!(clocks.judge(), ClockState::Unknown);
    hear(&clocks, 2, -7_000);
    hear(&clocks, 3, -6_000);
    assert_eq!(clocks.judge(), ClockState::Skewed(ClockOffset(6_000)));
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_five_seconds_from_the_median() {
    for (others, verdict) in [
        ([5_000, 5_000], ClockState::Good(ClockOffset(-5_000))),
        ([5_001, 5_001], ClockState::Skewed(ClockOffset(-5_001))),
        ([-5_001, -5_001], ClockState::Skewed(ClockOffset(5_001))),
        ([3_600_000, 0], ClockState::Good(ClockOffset(0))),
        ([3_600_000, -3_600_000], ClockState::Good(ClockOffset(0))),
        ([i64::MAX - START, 0], ClockState::Good(ClockOffset(0))),
    ] {
        let (clocks, _wall) = of(1, &[]);
        hear(&clocks, 2, others[0]);
        hear(&clocks, 3, others[1]);
        clocks.set_voters([1, 2, 3].into());
        assert_eq!(clocks.judge(), verdict, "{others:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_clocks_that_contradict_each_other_are_both_suspect() {
    let (clocks, _wall) = of(1, &[1, 2]);
    hear(&clocks, 2, 11_000);
    assert_eq!(clocks.judge(), ClockState::Skewed(ClockOffset(-5_500)));
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_own_clock_is_seen_without_a_message() {
    let (clocks, wall) = of(1, &[1, 2, 3]);
    hear(&clocks, 2, 100);
    hear(&clocks, 3, -100);
    pass(&wall, SECOND * 60).await;
    assert_eq!(clocks.judge(), ClockState::Good(ClockOffset(0)));
    wall.advance(SECOND * 3600);
    let (time, state) = clocks.read();
    assert_eq!(state, ClockState::Skewed(ClockOffset(3_599_900)));
    assert_eq!(time.unix_millis(), START + 3_660_000);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_still_tells_which_of_two_is_wrong() {
    let (clocks, wall) = of(1, &[1, 2, 3]);
    hear(&clocks, 2, 0);
    hear(&clocks, 3, 0);
    // Server 3 is silent from now on, and server 2 jumps.
    pass(&wall, SECOND * 300).await;
    hear(&clocks, 2, 3_600_000);
    assert_eq!(clocks.judge(), ClockState::Good(ClockOffset(0)));
    pass(&wall, SECOND * 301).await;
    hear(&clocks, 2, 3_600_000);
    assert_eq!(
        clocks.judge().skew(),
        Some(ClockOffset(-1_800_000)),
        "its reading is too old to help"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_given_the_benefit_of_its_way() {
    let (clocks, wall) = of(1, &[1, 2, 3]);
    let sent = Instant::now();
    pass(&wall, SECOND).await;
    // It may have been read half a second ago, or just now.
    for node in [2, 3] {
        clocks.heard(node, sent, START + 500 - 5_400);
    }
    assert_eq!(clocks.judge(), ClockState::Good(ClockOffset(5_400)));
    for node in [2, 3] {
        hear(&clocks, node, -5_400);
    }
    assert_eq!(clocks.judge(), ClockState::Skewed(ClockOffset(5_400)));
}

#[tokio::test(start_paused = true)]
async fn an_exact_reading_is_kept_until_a_worse_one_contradicts_it() {
    let (clocks, wall) = of(1, &[1, 2, 3]);
    hear(&clocks, 2, 0);
    hear(&clocks, 3, 0);
    let sent = Instant::now();
    pass(&wall, SECOND).await;
    clocks.heard(2, sent, START + 900);
    assert_eq!(clocks.lock().readings[&2].error, Duration::ZERO);
    clocks.heard(2, sent, START + 3_000);
    assert_eq!(clocks.lock().readings[&2].error, SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_at_the_bound_does_not_come_and_go() {
    let (clocks, wall) = of(1, &[1, 2, 3]);
    let mut changes = clocks.subscribe();
    let hear_both = |offset| {
        hear(&clocks, 2, offset);
        hear(&clocks, 3, offset);
    };
    hear_both(-5_100);
    assert!(clocks.judge().skew().is_some());
    for offset in [-4_900, -5_100, -4_900, -4_100] {
        pass(&wall, SECOND * 2).await;
        hear_both(offset);
        assert!(clocks.judge().skew().is_some(), "{offset}");
    }
    hear_both(-3_900);
    pass(&wall, SECOND * 2).await;
    assert!(clocks.judge().skew().is_some(), "not for long enough");
    hear_both(-4_100);
    hear_both(-3_900);
    pass(&wall, SECOND * 2).await;
    assert!(clocks.judge().skew().is_some(), "it was away meanwhile");
    assert!(changes.borrow_and_update().skew().is_some());
    pass(&wall, SECOND).await;
    assert_eq!(clocks.judge(), ClockState::Good(ClockOffset(3_900)));
    assert!(changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn only_a_member_whose_clock_is_near_may_vote() {
    let (clocks, _wall) = of(1, &[1]);
    assert!(!clocks.may_vote(2), "its clock is not known");
    hear(&clocks, 2, 5_000);
    assert!(clocks.may_vote(2));
    hear(&clocks, 2, -5_001);
    assert!(!clocks.may_vote(2));
    clocks.retain(|node| node != 2);
    hear(&clocks, 2, 0);
    assert!(clocks.may_vote(2));
}
