//! A few simulated histories, so that `cargo test` alone finds what breaks at once. Thousands are run by
//! `fuzz` (docs/reliability.md).

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests"
)]

use std::process::Command;

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

/// The digest of the history of this seed, run by itself in a process of its own.
fn digest_of(seed: u64) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_history_in_a_process_of_its_own",
            "--nocapture",
        ])
        .env(ALONE, seed.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.lines().find_map(|line| line.strip_prefix(DIGEST));
    digest
        .unwrap_or_else(|| panic!("{}: {text}", output.status))
        .to_owned()
}

/// The seed that a child of these tests is to run.
const ALONE: &str = "MINTMARK_SIMULATION_SEED";
const DIGEST: &str = "digest: ";

/// What [`digest_of`] runs; by itself it runs nothing.
#[test]
fn a_history_in_a_process_of_its_own() {
    if let Ok(seed) = std::env::var(ALONE) {
        let plan = Plan::of(seed.parse().unwrap());
        println!("\n{DIGEST}{}", good(&plan).digest);
    }
}

/// Compared between processes: tokio numbers the tasks of a process in one row, and in which order a runtime
/// that is dropped drops its tasks follows from their numbers.
#[test]
fn one_seed_is_one_history() {
    assert_eq!(digest_of(4), digest_of(4));
}
