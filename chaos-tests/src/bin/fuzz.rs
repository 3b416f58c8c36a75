//! Runs simulations, seed after seed, on all cores, for as long as one likes.
//!
//!     cargo run --profile simulation -p chaos-tests --bin fuzz -- --seeds 1000
//!     cargo run --profile simulation -p chaos-tests --bin fuzz -- --minutes 60
//!     cargo run --profile simulation -p chaos-tests --bin fuzz -- --seed 4711 --trace
//!
//! With the feature `mutations`, `--mutation NAME` gives the product a bug; then seeds are run until one
//! is bad, and that is what is wanted.
//!
//! Each seed runs in a process of its own, so that one that aborts takes nothing along. Ends with 1
//! when a seed broke a property, or when in a hundred seeds or more a fault never became active or it never
//! came to a situation that was to be tried.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test tool stands outside the product"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chaos_tests::sim::plan::{FAULT_KINDS, Plan};
use chaos_tests::sim::run::run;
use chaos_tests::sim::situations::SITUATIONS;
use clap::Parser;
use mintmark_runtime::mutation;
use serde::{Deserialize, Serialize};

/// Seeded simulations of whole trust domains.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this one seed, here, and print what came of it.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: print everything that happened.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// With --seed: print the daemons' log messages too (RUST_LOG filters them).
    #[arg(long, requires = "seed")]
    log: bool,
    /// With --seed: without faults.
    #[arg(long, requires = "seed")]
    calm: bool,
    /// Give the product this bug, of those that `runtime/src/mutation/bug.rs` lists.
    #[arg(long)]
    mutation: Option<String>,
    /// With --seed: print one line of JSON.
    #[arg(long, requires = "seed", hide = true)]
    json: bool,
    /// How many seeds.
    #[arg(long, default_value_t = u64::MAX)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// How many at a time; all cores when not said.
    #[arg(long)]
    jobs: Option<usize>,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Begin no other seed once one is bad.
    #[arg(long)]
    until_bad: bool,
}

/// What one seed's process says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Report {
    seed: u64,
    /// The bug that the product was given.
    mutation: Option<String>,
    violation: Option<String>,
    /// The property that it broke.
    property: Option<String>,
    digest: String,
    coverage: BTreeMap<String, u64>,
    situations: BTreeMap<String, u64>,
    virtual_seconds: f64,
    svids: usize,
    leaves: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(name) = &arguments.mutation
        && let Err(error) = mutation::choose(name)
    {
        eprintln!("{error}");
        return ExitCode::from(64);
    }
    match arguments.seed {
        Some(seed) => one(seed, &arguments),
        None => many(&arguments),
    }
}

fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    if arguments.log {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_timer(SimulatedTime)
            .init();
    }
    let plan = Plan::of(seed);
    let plan = if arguments.calm { plan.calm() } else { plan };
    let outcome = run(&plan);
    let report = Report {
        seed,
        mutation: arguments.mutation.clone(),
        violation: outcome.violation.as_ref().map(ToString::to_string),
        property: outcome
            .violation
            .as_ref()
            .map(|violation| violation.property.to_owned()),
        digest: outcome.digest,
        coverage: named(&outcome.coverage),
        situations: named(&outcome.situations),
        virtual_seconds: outcome.elapsed.as_secs_f64(),
        svids: outcome.svids,
        leaves: outcome.leaves,
    };
    if arguments.trace {
        println!("{:#?}", plan.shape);
        for line in &outcome.trace {
            println!("{line}");
        }
    }
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string(&report).expect("a report is JSON")
        );
    } else {
        println!("{}", in_words(&report));
    }
    ExitCode::from(u8::from(report.violation.is_some()))
}

fn named(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    let counts = counts.iter();
    counts
        .map(|(kind, count)| ((*kind).to_owned(), *count))
        .collect()
}

fn in_words(report: &Report) -> String {
    let Report {
        seed,
        mutation,
        virtual_seconds,
        svids,
        leaves,
        digest,
        ..
    } = report;
    let size = format!("{virtual_seconds:.1} s, {svids} SVIDs, {leaves} leaves");
    match &report.violation {
        None => format!("seed {seed}: good ({size}, trace {})", &digest[..16]),
        Some(violation) => {
            let (feature, bug) = match mutation {
                Some(name) => (" --features mutations", format!(" --mutation {name}")),
                None => ("", String::new()),
            };
            format!(
                "seed {seed}: {violation}\n  ({size})\n  again: cargo run --profile simulation -p chaos-tests{feature} --bin fuzz -- --seed {seed}{bug} --trace"
            )
        }
    }
}

struct SimulatedTime;

impl tracing_subscriber::fmt::time::FormatTime for SimulatedTime {
    fn format_time(
        &self,
        writer: &mut tracing_subscriber::fmt::format::Writer<'_>,
    ) -> std::fmt::Result {
        let elapsed = turmoil::in_simulation()
            .then(turmoil::sim_elapsed)
            .flatten();
        write!(writer, "{:9.3}", elapsed.unwrap_or_default().as_secs_f64())
    }
}

/// What many seeds came to.
#[derive(Debug, Default)]
struct Tally {
    good: u64,
    bad: Vec<String>,
    coverage: BTreeMap<String, u64>,
    situations: BTreeMap<String, u64>,
    svids: usize,
    leaves: usize,
    virtual_seconds: f64,
}

impl Tally {
    fn is_bad(&self) -> bool {
        !self.bad.is_empty()
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let limit = arguments
        .minutes
        .map(|minutes| Duration::from_secs(minutes * 60));
    let jobs = arguments
        .jobs
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1);
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let found = arguments.until_bad && tally.lock().unwrap().is_bad();
            let over = limit.is_some_and(|limit| began.elapsed() > limit);
            if n >= arguments.seeds || over || found {
                return;
            }
            let seed = arguments.from + n;
            note(&tally, seed, verdict(seed, arguments));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let tally = tally.into_inner().expect("no thread panicked");
    conclude(&tally, began.elapsed())
}

fn same(report: &Report, again: &Report) -> Result<(), String> {
    if report.digest == again.digest {
        return Ok(());
    }
    Err(format!(
        "seed {}: two runs differ ({} and {})",
        report.seed,
        &report.digest[..16],
        &again.digest[..16]
    ))
}

fn verdict(seed: u64, arguments: &Arguments) -> Result<Report, String> {
    let mutation = arguments.mutation.as_deref();
    let report = child(seed, mutation)?;
    if arguments.twice {
        same(&report, &child(seed, mutation)?)?;
    }
    Ok(report)
}

/// Runs one seed in a process of its own.
fn child(seed: u64, mutation: Option<&str>) -> Result<Report, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let bug = mutation.map(|name| ["--mutation", name]);
    let output = Command::new(own)
        .args(["--json", "--seed", &seed.to_string()])
        .args(bug.into_iter().flatten())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok());
    report.ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!(
            "seed {seed}: the process ended with {}: {errors}",
            output.status
        )
    })
}

fn note(tally: &Mutex<Tally>, seed: u64, result: Result<Report, String>) {
    let mut tally = tally.lock().expect("no thread panicked");
    match result {
        Ok(report) => {
            add(&mut tally.coverage, &report.coverage);
            add(&mut tally.situations, &report.situations);
            tally.svids += report.svids;
            tally.leaves += report.leaves;
            tally.virtual_seconds += report.virtual_seconds;
            if report.violation.is_some() {
                eprintln!("{}", in_words(&report));
                tally.bad.push(format!("seed {seed}"));
            } else {
                tally.good += 1;
            }
        }
        Err(problem) => {
            eprintln!("{problem}");
            tally.bad.push(format!("seed {seed}"));
        }
    }
    let done = tally.good + tally.bad.len() as u64;
    if done.is_multiple_of(50) {
        eprintln!("{done} seeds, {} bad", tally.bad.len());
    }
}

fn add(sums: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (kind, count) in counts {
        *sums.entry(kind.clone()).or_default() += count;
    }
}

fn conclude(tally: &Tally, took: Duration) -> ExitCode {
    let seeds = tally.good + tally.bad.len() as u64;
    println!(
        "{seeds} seeds in {:.0} s: {} good, {} bad; {:.1} virtual hours, {} SVIDs, {} leaves",
        took.as_secs_f64(),
        tally.good,
        tally.bad.len(),
        tally.virtual_seconds / 3600.0,
        tally.svids,
        tally.leaves
    );
    println!("faults that were active:");
    for (kind, count) in &tally.coverage {
        println!("  {count:>8}  {kind}");
    }
    println!("situations it came to:");
    for (kind, count) in &tally.situations {
        println!("  {count:>8}  {kind}");
    }
    let seen = tally.coverage.keys().chain(tally.situations.keys());
    let seen: BTreeSet<&str> = seen.map(String::as_str).collect();
    let demanded_kinds = FAULT_KINDS.iter().chain(&SITUATIONS);
    let untried: Vec<&&str> = demanded_kinds
        .filter(|kind| !seen.contains(**kind))
        .collect();
    // Few seeds need not have everything.
    let demanded = seeds >= 100;
    if !untried.is_empty() {
        println!("never seen: {untried:?}");
    }
    if !tally.bad.is_empty() {
        println!("bad: {}", tally.bad.join(", "));
    }
    // The line that test runners end with.
    println!("{} passed, {} failed", tally.good, tally.bad.len());
    ExitCode::from(u8::from(
        !tally.bad.is_empty() || (demanded && !untried.is_empty()),
    ))
}
