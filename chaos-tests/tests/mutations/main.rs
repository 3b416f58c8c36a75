//! The product with one bug at a time, and the property of the simulation that finds it.
//!
//! `expected` says of every bug which properties may find it, and by which seed it is known to be found; it
//! does not compile when a bug is missing. A bug that no seed shows, or that shows itself as something
//! else, fails the test. `MUTATIONS_FROM=1` begins at that seed for all, which is how the numbers of
//! docs/reliability.md are made.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests"
)]

mod registry;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chaos_tests::real::binary;
use mintmark_runtime::mutation::Bug;

/// A bug that so many seeds do not show is not found.
const SEEDS_MAX: u64 = 200;
/// A seed takes about a second.
const SEED_LIMIT: Duration = Duration::from_secs(180);
/// Simulations at a time; each is one busy thread.
const JOBS: usize = 2;

/// Which properties may find a bug, and a seed that does.
struct Expected {
    properties: &'static [&'static str],
    seed: u64,
}

const fn by(properties: &'static [&'static str], seed: u64) -> Expected {
    Expected { properties, seed }
}

/// The state is a function of the log.
const EQUAL_STATE: &str = "equal position, equal state";
/// The product saw it first, and stopped.
const NO_PROCESS_ENDS: &str = "no process ends by itself";
/// The product refuses to go on with what it has, for good.
const HEALS: &str = "everything heals";

/// What is known of this bug.
const fn expected(bug: Bug) -> Expected {
    match bug {
        Bug::LogNotSynced => by(&[EQUAL_STATE, NO_PROCESS_ENDS, HEALS], 1),
        Bug::VoteNotKept => by(&["positions only rise"], 1),
        Bug::SnapshotIsStale => by(&[EQUAL_STATE, NO_PROCESS_ENDS, HEALS], 6),
        Bug::SnapshotLacksTokens => by(&[EQUAL_STATE], 1),
        Bug::ApplyReadsClock => by(&[EQUAL_STATE, NO_PROCESS_ENDS], 1),
        Bug::StaleRead => by(&["operators saw one history"], 3),
        Bug::ResultForgotten => by(&["operators saw one history"], 1),
        Bug::SignedBeforeCommit => by(&["released SVIDs are in the log"], 1),
        Bug::SerialReused => by(
            &["serials are unique, and ended authorities sign nothing"],
            1,
        ),
        Bug::BanIgnored => by(&["banned agents get nothing"], 11),
        Bug::DeletionIgnored => by(&["deleted entries get nothing"], 2),
        Bug::RevisionIgnored => by(&["deleted entries get nothing"], 5),
        Bug::TokenNotConsumed => by(&["a token admits one key"], 3),
        Bug::ActivatedUnacknowledged => by(&["activation was acknowledged", HEALS], 1),
        Bug::RetiredAtOnce => by(&["bundles keep live authorities"], 6),
        Bug::RevokedKept => by(&["what is revoked is gone within a second"], 8),
        Bug::ActiveRevoked => by(&["authorities go forward"], 16),
        Bug::DoubtIgnored => by(&[HEALS, "what a tainted authority signed is replaced"], 6),
        Bug::LeafNotCopied => by(&["sinks miss nothing", "every sink catches up"], 1),
        Bug::SelectorsIgnored | Bug::ExpiredServed => {
            by(&["SVIDs are valid when they are given"], 1)
        }
        Bug::DenialIgnored | Bug::RemovalIgnored => {
            by(&["what is taken back is gone within a second"], 1)
        }
        Bug::OlderUpdateTaken => by(&["agents never go back"], 2),
        Bug::KeyInClear => by(&["keys stay off disks"], 1),
    }
}

/// How a bug was found.
struct Found {
    property: String,
    seeds: u64,
}

/// Runs one seed; the property that it broke, if it did.
fn run(fuzz: &Path, bug: Bug, seed: u64) -> Option<String> {
    let mut child = Command::new(fuzz)
        .args(["--json", "--seed", &seed.to_string()])
        .args(["--mutation", bug.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the simulation starts");
    let began = Instant::now();
    // What it prints is a line, which fits into the pipe.
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > SEED_LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{bug:?}, seed {seed}: no end within {SEED_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Option<serde_json::Value> = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok());
    let Some(report) = report else {
        panic!("{bug:?}, seed {seed}: {}", output.status);
    };
    report["property"].as_str().map(str::to_owned)
}

/// Runs seeds until one finds the bug.
fn find(fuzz: &Path, bug: Bug, from: u64) -> Option<Found> {
    (0..SEEDS_MAX).find_map(|n| {
        let property = run(fuzz, bug, from + n)?;
        let seeds = n + 1;
        Some(Found { property, seeds })
    })
}

/// The seed to begin with, where the environment asks for another than the known one.
fn asked_from() -> Option<u64> {
    let from = std::env::var("MUTATIONS_FROM").ok()?;
    Some(from.parse().expect("MUTATIONS_FROM is a seed"))
}

#[test]
fn every_bug_is_found_by_a_property_that_forbids_it() {
    let fuzz = binary::fuzz_with_mutations();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || {
        while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let from = asked_from().unwrap_or(expected(*bug).seed);
            let found = find(fuzz, *bug, from);
            results.lock().unwrap().push((*bug, from, found));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(bug, _, _)| *bug);
    eprintln!("mutation | what | caught by | seeds until caught");
    let mut missed = Vec::new();
    for (bug, from, found) in &results {
        let (name, meaning) = (bug.name(), bug.meaning());
        match found {
            None => {
                eprintln!("{name} | {meaning} | nothing | {SEEDS_MAX} from {from}");
                missed.push(format!("{name} is not found"));
            }
            Some(Found { property, seeds }) => {
                eprintln!("{name} | {meaning} | {property} | {seeds} from {from}");
                if !expected(*bug).properties.contains(&property.as_str()) {
                    missed.push(format!("{name} is found by \"{property}\""));
                }
            }
        }
    }
    assert_eq!(results.len(), Bug::ALL.len());
    assert!(missed.is_empty(), "{missed:#?}");
}
