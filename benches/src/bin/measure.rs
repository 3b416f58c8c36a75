//! Measures a development cluster and prints a Markdown table for `docs/performance.md`.
//!
//!     cargo run --release -p benches --bin measure

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measuring tool"
)]

use std::time::Duration;

use benches::table::{ms, percentile, row};
use benches::{bare, issuance, latency, process};
use chaos_tests::real::dev::Dev;

const STARTS: usize = 7;
const ENTRIES: usize = 400;
const SPAN: Duration = Duration::from_secs(10);
/// Agents that ask at the same time: together below what the server allows each of them.
const AGENTS: usize = 8;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("| What | Figure |\n|--|--|");
    for (name, arguments) in [
        ("one server", &[][..]),
        ("three servers", &["--servers", "3"]),
        ("one server, hybrid", &["--pq", "hybrid"]),
    ] {
        let mut starts: Vec<Duration> = (0..STARTS)
            .map(|_| latency::first_svid_ready(arguments))
            .collect();
        let (low, high) = (percentile(&mut starts, 0.0), percentile(&mut starts, 100.0));
        let figure = format!(
            "{} ({} to {}, {STARTS} runs)",
            ms(percentile(&mut starts, 50.0)),
            ms(low),
            ms(high)
        );
        row(
            &format!("`mintmark dev` to first SVID, {name}, median"),
            &figure,
        );
    }
    for pq in ["off", "hybrid"] {
        runtime.block_on(cluster(pq));
    }
}

async fn cluster(pq: &str) {
    let dev = Dev::start(&["--pq", pq, "--x509-ttl", "10m"]);
    let endpoints = dev.endpoints();
    let server = u32::try_from(endpoints.servers[0].pid).unwrap();
    let agent_pid = u32::try_from(endpoints.agent_pid).unwrap();
    let label = if pq == "off" { "" } else { " (hybrid)" };
    if pq == "off" {
        row(
            "resident memory of the server, idle",
            &format!("{:.0} MiB", process::resident_mib(server)),
        );
        row(
            "resident memory of the agent, 1 SVID",
            &format!("{:.0} MiB", process::resident_mib(agent_pid)),
        );
        let (mut created, mut deleted) = latency::entry_to_stream(&dev, ENTRIES).await;
        for (what, samples) in [
            ("entry create to SVID on an open stream", &mut created),
            ("entry delete to update without it", &mut deleted),
        ] {
            let figure = format!(
                "p50 {}, p99 {}",
                ms(percentile(samples, 50.0)),
                ms(percentile(samples, 99.0))
            );
            row(&format!("{what}, {} entries", samples.len()), &figure);
        }
        row(
            &format!("resident memory of the agent, {} SVIDs", ENTRIES / 2 + 1),
            &format!("{:.0} MiB", process::resident_mib(agent_pid)),
        );
    }
    let limit = bare::svids_per_cpu_second(pq == "hybrid");
    row(
        &format!("bare verify + sign + verify, per CPU-second{label}"),
        &format!("{limit:.0}"),
    );
    let mut agents = Vec::new();
    for _ in 0..AGENTS {
        agents.push(issuance::Agent::attest(&dev).await);
    }
    for batch in [1, 50] {
        let before = process::cpu_time(server);
        let (issued, wall, mut latencies) = issuance::load(&agents, batch, SPAN).await;
        let cpu = process::cpu_time(server).saturating_sub(before);
        let per_cpu = issued as f64 / cpu.as_secs_f64();
        let figure = format!(
            "{per_cpu:.0} per server CPU-second ({:.0} % of bare), {:.0}/s wall, p50 {}, p99 {}",
            per_cpu / limit * 100.0,
            issued as f64 / wall.as_secs_f64(),
            ms(percentile(&mut latencies, 50.0)),
            ms(percentile(&mut latencies, 99.0)),
        );
        row(
            &format!("X.509-SVIDs, batches of {batch}, {AGENTS} agents{label}"),
            &figure,
        );
    }
    row(
        &format!("resident memory of the server after the load{label}"),
        &format!("{:.0} MiB", process::resident_mib(server)),
    );
}
