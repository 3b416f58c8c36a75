//! A few simulated histories, so that `cargo test` alone finds what breaks at once. Thousands are run by
//! `fuzz` (docs/reliability.md).

#![allow(clippy::panic, reason = "tests")]

use chaos_tests::sim::plan::Plan;
use chaos_tests::sim::run::{Outcome, run};

fn good(plan: &Plan) -> Outcome {
    let outcome = run(plan);
    if let Some(violation) = &outcome.violation {
        let last = outcome.trace.len().saturating_sub(60);
        let trace = outcome.trace[last..].join("\n");
        let seed = outcome.seed;
        panic!(
            "seed {seed}: {violation}\nagain: cargo run --profile simulation -p chaos-tests --bin fuzz -- --seed {seed} --trace\n{trace}"
        );
    }
    outcome
}

#[test]
fn a_calm_run_holds_every_property_and_gives_everybody_an_identity() {
    let outcome = good(&Plan::of(1).calm());
    assert!(
        outcome.svids > 100 && outcome.coverage.is_empty(),
        "{outcome:?}"
    );
}

#[test]
fn a_run_with_faults_holds_every_property() {
    let outcome = good(&Plan::of(2));
    assert!(!outcome.coverage.is_empty(), "no fault became active");
}

#[test]
fn one_seed_is_one_history() {
    let plan = Plan::of(4);
    assert_eq!(good(&plan).digest, good(&plan).digest);
}
