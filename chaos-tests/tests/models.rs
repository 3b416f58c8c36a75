//! The abstract models, explored to the end: what the protocols promise holds in every reachable
//! state, and each check finds the counter-example when its protocol is broken.

#![allow(clippy::panic, clippy::print_stderr, reason = "tests")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

use chaos_tests::model::authority::{self, AuthorityLife};
use chaos_tests::model::issuance::{self, CommitThenSign};
use chaos_tests::model::join_token::{self, TokenRace};
use stateright::{Checker, HasDiscoveries, Model};

/// Visits every state; nothing may be wrong with any, and everything that must be possible is.
/// Returns how many states there are.
fn explore<M>(name: &str, model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Debug + Hash + PartialEq + Clone + Send + Sync + 'static,
    M::Action: Debug + PartialEq + Clone + Send + Sync + 'static,
{
    let checker = model.checker().spawn_bfs().join();
    assert!(checker.is_done());
    checker.assert_properties();
    let states = checker.unique_state_count();
    eprintln!(
        "{name}: {states} states, {} transitions, depth {}",
        checker.state_count(),
        checker.max_depth()
    );
    states
}

/// A way to break this property, not much longer than the shortest. Returns how many states were visited before it was found.
fn counter_example<M>(name: &'static str, model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Debug + Hash + PartialEq + Clone + Send + Sync + 'static,
    M::Action: Debug + PartialEq + Clone + Send + Sync + 'static,
{
    let found = HasDiscoveries::AllOf(BTreeSet::from([name]));
    let checker = model.checker().finish_when(found).spawn_bfs().join();
    let path = checker.discovery(name);
    let Some(path) = path else {
        panic!(
            "nothing breaks \"{name}\" in {} states",
            checker.unique_state_count()
        );
    };
    let steps = path.into_actions();
    eprintln!("\"{name}\" breaks after {steps:?}");
    checker.unique_state_count()
}

mod authorities {
    use super::authority::{Bounds, Broken};
    use super::*;

    /// From the tick at which activation is allowed, over that at which it is forced, to one after the
    /// end of the first authority.
    const WHOLE_ROTATION: Bounds = Bounds {
        from: 9,
        until: 13,
        authorities: 2,
        faults: 0,
        settling: true,
    };

    fn life(bounds: Bounds, broken: Option<Broken>) -> AuthorityLife {
        AuthorityLife { bounds, broken }
    }

    #[test]
    fn in_every_state_of_a_rotation_authorities_keep_their_promises() {
        let states = explore("authority", life(WHOLE_ROTATION, None));
        assert!(states > 100_000, "{states} states are not what was meant");
    }

    #[test]
    fn in_every_state_after_a_loss_a_taint_or_an_override_they_are_safe() {
        let bounds = Bounds {
            until: 11,
            faults: 1,
            settling: false,
            ..WHOLE_ROTATION
        };
        let states = explore("authority with a fault", life(bounds, None));
        assert!(states > 100_000, "{states} states are not what was meant");
    }

    #[test]
    fn from_every_state_after_a_fault_near_the_end_they_recover() {
        let bounds = Bounds {
            from: 11,
            faults: 1,
            ..WHOLE_ROTATION
        };
        let states = explore("authority with a fault near its end", life(bounds, None));
        assert!(states > 100_000, "{states} states are not what was meant");
    }

    #[test]
    fn each_promise_breaks_when_its_rule_is_left_out() {
        let bounds = Bounds {
            faults: 1,
            ..WHOLE_ROTATION
        };
        for (broken, property) in [
            (Broken::ActivateUnacknowledged, authority::EVERYBODY_KNOWS),
            (Broken::LeafNamesNobody, authority::EVERYBODY_KNOWS),
            (Broken::OlderBundleTaken, authority::EVERYBODY_KNOWS),
            (Broken::RetireAtOnce, authority::BUNDLE_KEEPS),
            (Broken::UseForgotten, authority::BUNDLE_KEEPS),
            (Broken::PublishAgain, authority::ONLY_FORWARD),
            (Broken::TwoActive, authority::ONLY_FORWARD),
            (Broken::TaintedSigns, authority::NO_TAINTED_SIGNATURE),
            (Broken::NoDeadline, authority::NOBODY_WAITS_FOR_EVER),
            (Broken::AcknowledgementsLost, authority::ROTATION_COMPLETES),
        ] {
            let states = counter_example(property, life(bounds, Some(broken)));
            eprintln!("{broken:?}: found in {states} states");
        }
    }
}

mod issuances {
    use super::issuance::{Bounds, Broken};
    use super::*;

    const BOUNDS: Bounds = Bounds {
        log: 3,
        requests: 2,
        crashes: 1,
        elections: 1,
    };

    fn protocol(broken: Option<Broken>) -> CommitThenSign {
        CommitThenSign {
            bounds: BOUNDS,
            broken,
        }
    }

    #[test]
    fn in_every_state_what_is_released_was_committed_and_not_denied() {
        let states = explore("commit then sign", protocol(None));
        assert!(states > 10_000, "{states} states are not what was meant");
    }

    #[test]
    fn each_promise_breaks_when_its_step_is_left_out() {
        for (broken, property) in [
            (Broken::SignBeforeCommit, issuance::RELEASED_IS_COMMITTED),
            (Broken::SignOnAppend, issuance::RELEASED_IS_COMMITTED),
            (Broken::MintOnReplay, issuance::ONE_SIGNATURE),
            (Broken::CommittedIsKept, issuance::ONE_SIGNATURE),
            (Broken::CheckThenAct, issuance::DENIAL_FIRST),
            (Broken::NoSecondLook, issuance::NOTHING_AFTER_BAN),
            (Broken::SerialNotCompared, issuance::SERIAL_UNIQUE),
        ] {
            let states = counter_example(property, protocol(Some(broken)));
            eprintln!("{broken:?}: found in {states} states");
        }
    }
}

mod tokens {
    use super::join_token::{Bounds, Broken};
    use super::*;

    const BOUNDS: Bounds = Bounds {
        log: 3,
        requests: 2,
        elections: 1,
    };

    fn race(broken: Option<Broken>) -> TokenRace {
        TokenRace {
            bounds: BOUNDS,
            broken,
        }
    }

    #[test]
    fn in_every_state_one_key_wins_and_is_not_stranded() {
        let states = explore("join token", race(None));
        assert!(states > 10_000, "{states} states are not what was meant");
    }

    #[test]
    fn each_promise_breaks_when_its_rule_is_left_out() {
        for (broken, property) in [
            (Broken::ForgetToConsume, join_token::ONE_KEY),
            (Broken::CheckAtEdge, join_token::ONE_KEY),
            (Broken::ConsumeOnce, join_token::WINNER_IS_NOT_DENIED),
            (Broken::ConsumeOnce, join_token::NOBODY_IS_STRANDED),
            (Broken::NoExpiry, join_token::EXPIRED_STAYS_OUT),
            (Broken::TimeGoesBack, join_token::EXPIRED_STAYS_OUT),
        ] {
            let states = counter_example(property, race(Some(broken)));
            eprintln!("{broken:?}: found in {states} states");
        }
    }
}
