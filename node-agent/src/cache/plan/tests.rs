#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests"
)]

use std::sync::Arc;

use mintmark_identity::{entry::RegistrationEntry, validity::Validity};
use proptest::prelude::*;

use super::*;
use crate::{
    cache::state::{Denial, Position, Update},
    testing::{at, entry, put, state, svid},
};

/// What a plan says, in short: `issue a`, `renew a AuthorityTainted`, `drop a Expired`.
fn says(plan: &Plan) -> Vec<String> {
    let say = |action: &Action| match action {
        Action::Issue { entry } => format!("issue {entry}"),
        Action::Renew { entry, why } => format!("renew {entry} {why:?}"),
        Action::Drop { entry, why } => format!("drop {entry} {why:?}"),
        Action::Notify => "notify".to_owned(),
    };
    plan.actions.iter().map(say).collect()
}

#[derive(Debug)]
struct Scene {
    state: State,
    wanted: BTreeSet<EntryId>,
    progress: Progress,
    limit: usize,
}

impl Scene {
    fn new(state: State) -> Self {
        Self {
            state,
            wanted: BTreeSet::new(),
            progress: Progress::default(),
            limit: 100,
        }
    }

    fn plan(&self, now: Timestamp) -> Plan {
        plan(&Inputs {
            state: &self.state,
            wanted: &self.wanted,
            progress: &self.progress,
            cache_limit: self.limit,
            now,
        })
    }

    /// Does what the plan says, as far as it is done at once.
    fn perform(&mut self, plan: &Plan, now: Timestamp) {
        for action in &plan.actions {
            match action {
                Action::Drop { entry, .. } => {
                    self.state.drop_svid(entry);
                }
                Action::Notify => self.state.told_until = now,
                Action::Issue { entry } | Action::Renew { entry, .. } => {
                    self.progress.in_flight.insert(entry.clone());
                }
            }
        }
    }

    fn wanting(mut self, ids: &[&str]) -> Self {
        self.wanted = ids.iter().map(|id| EntryId::parse(*id).unwrap()).collect();
        self
    }
}

fn one(id: &str) -> RegistrationEntry {
    entry(id, &format!("/{id}"), &["unix:uid:1"])
}

/// One entry `a` with an SVID from second 100 to 1100, due at 500.
fn with_svid() -> Scene {
    let mut state = state(vec![one("a")]);
    put(&mut state, svid(&one("a"), 100, 500, 1_100));
    Scene::new(state)
}

#[test]
fn an_svid_is_left_alone_until_it_is_due_renewed_then_and_dropped_at_its_end() {
    let scene = with_svid();
    for (now, said, wake) in [
        (101, vec![], Some(at(500))),
        (499, vec![], Some(at(500))),
        (500, vec!["renew a Due"], Some(at(1_100))),
        (1_100, vec!["renew a Due"], Some(at(1_100))),
        (1_101, vec!["drop a Expired", "issue a"], None),
    ] {
        let plan = scene.plan(at(now));
        assert_eq!(says(&plan), said, "at {now}");
        let wake_after = plan.wake_at.map(Timestamp::floor_to_second);
        assert_eq!(wake_after, wake, "at {now}");
    }
}

#[test]
fn what_is_under_way_is_not_asked_for_again() {
    let mut scene = with_svid();
    scene
        .progress
        .in_flight
        .insert(EntryId::parse("a").unwrap());
    assert_eq!(says(&scene.plan(at(600))), Vec::<String>::new());
}

#[test]
fn a_failed_attempt_bars_the_next_until_its_time_and_only_for_the_same_arrival() {
    let mut scene = with_svid();
    let id = EntryId::parse("a").unwrap();
    let attempt = Attempt {
        failures: 1,
        noted: at(600),
        next: at(700),
        problem: String::new(),
        passing: true,
        arrival: scene.state.entries.get(&id).unwrap().arrival,
    };
    scene.progress.attempts.insert(id.clone(), attempt.clone());
    assert_eq!(says(&scene.plan(at(699))), Vec::<String>::new());
    assert_eq!(scene.plan(at(699)).wake_at, Some(at(700)));
    assert_eq!(says(&scene.plan(at(700))), ["renew a Due"]);
    let other = Attempt {
        arrival: attempt.arrival + 1,
        ..attempt
    };
    scene.progress.attempts.insert(id, other);
    assert_eq!(says(&scene.plan(at(600))), ["renew a Due"]);
}

#[test]
fn an_attempt_that_failed_by_a_clock_that_was_ahead_bars_nothing_when_it_is_right() {
    let mut scene = with_svid();
    let id = EntryId::parse("a").unwrap();
    let attempt = Attempt {
        failures: 1,
        noted: at(4_200),
        next: at(4_201),
        problem: String::new(),
        passing: false,
        arrival: scene.state.entries.get(&id).unwrap().arrival,
    };
    scene.progress.attempts.insert(id, attempt);
    assert_eq!(says(&scene.plan(at(600))), ["renew a Due"]);
}

#[test]
fn streams_look_again_when_the_clock_was_set_back() {
    let mut scene = with_svid();
    scene.state.told_until = at(4_200);
    assert_eq!(says(&scene.plan(at(300))), ["notify"]);
    scene.state.told_until = at(300);
    assert_eq!(says(&scene.plan(at(300))), Vec::<String>::new());
}

#[test]
fn a_tainted_authority_makes_its_svids_due_spread_by_their_draw() {
    let mut scene = with_svid();
    scene.state.tainted = Arc::new([("other".to_owned(), at(200))].into());
    assert_eq!(says(&scene.plan(at(300))), Vec::<String>::new());
    scene.state.tainted = Arc::new([("authority".to_owned(), at(200))].into());
    // The draw is half of all, so half of the spread has to pass.
    assert_eq!(says(&scene.plan(at(204))), Vec::<String>::new());
    assert_eq!(says(&scene.plan(at(206))), ["renew a AuthorityTainted"]);
    assert_eq!(says(&scene.plan(at(600))), ["renew a AuthorityTainted"]);
}

#[test]
fn a_changed_entry_is_renewed_at_once_if_its_certificate_changes_and_else_not() {
    type Change = fn(&mut RegistrationEntry);
    let changes: [(Change, bool); 5] = [
        (|entry| entry.dns_names = vec!["a.test".to_owned()], true),
        (
            |entry| entry.x509_svid_ttl = Some(Duration::from_secs(60)),
            true,
        ),
        (|entry| entry.hint = "h".to_owned(), false),
        (
            |entry| entry.jwt_svid_ttl = Some(Duration::from_secs(60)),
            false,
        ),
        (
            |entry| entry.federates_with = [crate::testing::domain()].into(),
            false,
        ),
    ];
    for (number, (change, renews)) in changes.into_iter().enumerate() {
        let mut scene = with_svid();
        let mut changed = one("a");
        changed.revision = 1;
        change(&mut changed);
        let position = Position { epoch: 1, index: 2 };
        let update = Update {
            position,
            entries: vec![changed],
            ..Update::default()
        };
        scene.state.apply(update, at(150)).unwrap();
        let expected: &[&str] = if renews {
            &["renew a EntryChanged"]
        } else {
            &[]
        };
        assert_eq!(says(&scene.plan(at(151))), expected, "change {number}");
    }
}

#[test]
fn an_ended_entry_loses_its_svid_and_streams_are_told_once() {
    let mut ending = one("a");
    ending.expires_at = Some(at(300));
    let mut state = state(vec![ending.clone()]);
    put(&mut state, svid(&ending, 100, 500, 1_100));
    let mut scene = Scene::new(state);
    assert_eq!(scene.plan(at(299)).wake_at, Some(at(300)));
    assert_eq!(says(&scene.plan(at(300))), ["drop a EntryEnded", "notify"]);
    scene.state.told_until = at(300);
    assert_eq!(says(&scene.plan(at(300))), ["drop a EntryEnded"]);
}

#[test]
fn what_somebody_waits_for_comes_before_renewals_and_those_before_prefetching() {
    let mut state = state(vec![one("a"), one("b"), one("c"), one("d")]);
    put(&mut state, svid(&one("b"), 100, 500, 1_100));
    put(&mut state, svid(&one("c"), 100, 500, 900));
    let scene = Scene::new(state).wanting(&["d"]);
    assert_eq!(
        says(&scene.plan(at(600))),
        ["issue d", "renew c Due", "renew b Due", "issue a"]
    );
}

#[test]
fn the_limit_bounds_prefetching_but_not_what_is_wanted() {
    let entries: Vec<RegistrationEntry> = ["a", "b", "c", "d"].map(one).to_vec();
    let mut scene = Scene::new(state(entries)).wanting(&["c", "d"]);
    scene.limit = 3;
    assert_eq!(
        says(&scene.plan(at(101))),
        ["issue c", "issue d", "issue a"]
    );
    scene.limit = 1;
    assert_eq!(says(&scene.plan(at(101))), ["issue c", "issue d"]);
}

#[test]
fn above_the_limit_the_idle_svids_that_end_first_go_and_the_others_are_not_renewed() {
    let entries: Vec<RegistrationEntry> = ["a", "b", "c"].map(one).to_vec();
    let mut state = state(entries);
    put(&mut state, svid(&one("a"), 100, 500, 1_300));
    put(&mut state, svid(&one("b"), 100, 500, 1_100));
    put(&mut state, svid(&one("c"), 100, 500, 1_200));
    let mut scene = Scene::new(state).wanting(&["c"]);
    scene.limit = 2;
    assert_eq!(says(&scene.plan(at(200))), ["drop b Unused"]);
    scene.limit = 1;
    assert_eq!(
        says(&scene.plan(at(200))),
        ["drop b Unused", "drop a Unused"]
    );
}

#[test]
fn without_prefetching_an_svid_stays_for_who_comes_back_until_it_is_due() {
    let mut lazy = one("a");
    lazy.disable_x509_svid_prefetch = true;
    let mut state = state(vec![lazy.clone()]);
    let scene = Scene::new(state.clone());
    assert_eq!(says(&scene.plan(at(101))), Vec::<String>::new());
    assert_eq!(
        says(&Scene::new(state.clone()).wanting(&["a"]).plan(at(101))),
        ["issue a"]
    );
    put(&mut state, svid(&lazy, 100, 500, 1_100));
    let scene = Scene::new(state.clone());
    assert_eq!(says(&scene.plan(at(499))), Vec::<String>::new());
    assert_eq!(scene.plan(at(499)).wake_at, Some(at(500)));
    assert_eq!(says(&scene.plan(at(500))), ["drop a Unused"]);
    assert_eq!(
        says(&Scene::new(state).wanting(&["a"]).plan(at(500))),
        ["renew a Due"]
    );
}

#[test]
fn a_denied_agent_plans_nothing() {
    let mut scene = with_svid();
    scene.state.deny(Denial::Banned);
    assert_eq!(scene.plan(at(600)), Plan::default());
}

#[test]
fn a_server_that_comes_back_before_the_expiry_is_asked_before_the_expiry() {
    // Found by killing a server again and again: after some failures the next attempt was at the very
    // end of the SVID, however early the server was back, and the workload was without for a moment.
    for draw in [0, u64::MAX / 2, u64::MAX] {
        for failures in [1, 6, 20] {
            let next = retry_at(at(0), failures, draw, Some(at(40)));
            assert!(next <= at(10), "{failures} failures: {next}");
        }
        // The last second is for attempts as close as the first.
        let last = retry_at(at(0), 20, draw, Some(at(1))).unix_millis();
        assert!((250..500).contains(&last), "{last}");
    }
}

#[test]
fn retries_grow_are_jittered_and_come_no_later_than_the_expiry() {
    let wait = |failures, draw| retry_at(at(0), failures, draw, None).unix_millis();
    assert_eq!((wait(1, 0), wait(1, u64::MAX)), (250, 499));
    assert_eq!((wait(2, 0), wait(3, 0), wait(4, 0)), (500, 1_000, 2_000));
    assert_eq!((wait(20, 0), wait(u32::MAX, u64::MAX)), (30_000, 59_999));
    let ending = Timestamp::from_unix_millis(100);
    assert_eq!(retry_at(at(0), 20, 0, Some(ending)), ending);
    let after = retry_at(at(10), 20, 0, Some(at(7)));
    assert_eq!(after, at(40), "an expiry that is over bounds nothing");
}

prop_compose! {
    fn scenes()(
        entries in prop::collection::btree_map(0_u8..12, (any::<bool>(), any::<bool>(), prop::option::of(0_i64..400)), 0..12),
        svids in prop::collection::btree_map(0_u8..12, (0_i64..300, 0_i64..300, any::<bool>()), 0..12),
        wanted in prop::collection::btree_set(0_u8..12, 0..6),
        in_flight in prop::collection::btree_set(0_u8..12, 0..4),
        failed in prop::collection::btree_map(0_u8..12, 0_i64..400, 0..4),
        limit in 0_usize..14,
        taint in prop::option::of(0_i64..300),
    ) -> Scene {
        let make = |(number, (lazy, store, end)): (&u8, &(bool, bool, Option<i64>))| {
            let mut entry = one(&format!("e{number}"));
            entry.disable_x509_svid_prefetch = *lazy;
            entry.store_svid = *store;
            entry.expires_at = end.map(at);
            entry
        };
        let list: Vec<RegistrationEntry> = entries.iter().map(make).collect();
        let mut state = state(list.clone());
        for (number, (renew, more, other)) in svids {
            let id = EntryId::parse(format!("e{number}")).unwrap();
            let Some(entry) = list.iter().find(|entry| entry.id == id) else { continue };
            let mut one = svid(entry, 0, renew, renew + more);
            if other {
                one.authority_id = "other".to_owned();
            }
            one.validity = Validity { not_before: at(0), not_after: at(renew + more) };
            put(&mut state, one);
        }
        state.tainted = Arc::new(taint.map(|since| ("authority".to_owned(), at(since))).into_iter().collect());
        let id = |number: u8| EntryId::parse(format!("e{number}")).unwrap();
        let arrival = |id: &EntryId| state.entries.get(id).map_or(0, |held| held.arrival);
        let attempts = failed.into_iter().map(|(number, next)| {
            let id = id(number);
            let arrival = arrival(&id);
            let attempt = Attempt {
                failures: 1, noted: at(0), next: at(next), problem: String::new(), passing: true, arrival,
            };
            (id, attempt)
        }).collect();
        let progress = Progress { in_flight: in_flight.into_iter().map(id).collect(), attempts };
        Scene { state, wanted: wanted.into_iter().map(id).collect(), progress, limit }
    }
}

proptest! {
    #[test]
    fn whatever_the_scene_the_rules_hold(scene in scenes(), now in 0_i64..400) {
        let now = at(now);
        let plan = scene.plan(now);
        prop_assert_eq!(&plan, &scene.plan(now), "the same inputs give the same plan");
        let mut asked = BTreeSet::new();
        let mut dropped = BTreeSet::new();
        for action in &plan.actions {
            match action {
                Action::Issue { entry } => {
                    prop_assert!(asked.insert(entry.clone()), "asked for once");
                    let has = scene.state.svids.contains_key(entry);
                    prop_assert!(!has || dropped.contains(entry), "issued only when there is none");
                }
                Action::Renew { entry, .. } => {
                    prop_assert!(asked.insert(entry.clone()));
                    let svid = &scene.state.svids[entry];
                    prop_assert!(svid.validity.not_after >= now);
                    prop_assert!(!dropped.contains(entry), "what is renewed is kept meanwhile");
                }
                Action::Drop { entry, why } => {
                    prop_assert!(dropped.insert(entry.clone()));
                    let svid = &scene.state.svids[entry];
                    let served = scene.state.entries.get(entry).is_some_and(|held| held.is_served(now));
                    if svid.validity.not_after >= now && served {
                        prop_assert_eq!(*why, DropReason::Unused);
                        prop_assert!(!scene.wanted.contains(entry), "nothing valid is taken from a stream");
                    }
                }
                Action::Notify => {}
            }
        }
        for id in &asked {
            prop_assert!(!scene.progress.in_flight.contains(id));
            prop_assert!(scene.state.entries.get(id).unwrap().is_served(now));
            if let Some(attempt) = scene.progress.attempts.get(id) {
                prop_assert!(attempt.next <= now);
            }
        }
        let unwanted = asked.iter().filter(|id| !scene.wanted.contains(*id)).count();
        prop_assert!(unwanted <= scene.limit);
        if let Some(wake) = plan.wake_at {
            prop_assert!(wake > now, "a plan that must be looked at now has been");
        }
    }

    #[test]
    fn what_was_done_is_not_planned_again_and_nothing_that_time_brings_is_slept_through(
        mut scene in scenes(), now in 0_i64..390,
    ) {
        let now = at(now);
        let first = scene.plan(now);
        scene.perform(&first, now);
        let rest = scene.plan(now);
        prop_assert_eq!(says(&rest), Vec::<String>::new());
        let until = rest.wake_at.unwrap_or(at(1_000));
        let just_before = until.saturating_sub(Duration::from_millis(1));
        prop_assert_eq!(says(&scene.plan(just_before)), Vec::<String>::new());
    }
}
