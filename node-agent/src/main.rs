//! The daemon `node-agent`: reads its configuration and runs the agent.
//!
//! Responsible for: arguments, logging, signals and the exit code. Not here: anything else.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use mintmark_runtime::{
    Host,
    drain::drain,
    failpoint,
    hardening::keep_memory_private,
    mutation, signals,
    task::Tasks,
    telemetry::{self, LogControl},
};
use node_agent::{Config, RunError, config::load};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(flag), Some(path), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return usage();
    };
    if flag != "--config" {
        return usage();
    }
    let host = Host::os();
    let config = match load(host.disk.as_ref(), &PathBuf::from(&path)) {
        Ok(config) => config,
        Err(error) => return fail(&error, 64),
    };
    let clock = std::sync::Arc::clone(&host.clock);
    let log = match telemetry::init_logging(config.log_format, &config.log_filter, clock) {
        Ok(log) => log,
        Err(error) => return fail(&error, 64),
    };
    telemetry::log_panics();
    keep_memory_private();
    if let Err(error) = failpoint::arm(environment) {
        return fail(&error, 64);
    }
    if let Err(error) = mutation::arm(environment) {
        return fail(&error, 64);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 71),
    };
    match runtime.block_on(serve(host, config, path.into(), log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            fail(&error, code)
        }
    }
}

async fn serve(host: Host, config: Config, path: PathBuf, log: LogControl) -> Result<(), RunError> {
    let (trigger, watch) = drain();
    let signal_tasks = Tasks::new();
    let reload = match signals::listen(&signal_tasks, trigger, config.drain_grace) {
        Ok(wake) => wake,
        Err(error) => {
            let (task, message) = ("signals".to_owned(), error.to_string());
            return Err(RunError::Task { task, message });
        }
    };
    let disk = std::sync::Arc::clone(&host.disk);
    let next = || async {
        loop {
            reload.woken().await;
            match load(disk.as_ref(), &path) {
                Ok(config) => match log.set_filter(&config.log_filter) {
                    Ok(()) => return config,
                    Err(error) => tracing::error!(%error, "the configuration stays as it was"),
                },
                Err(error) => tracing::error!(%error, "the configuration stays as it was"),
            }
        }
    };
    let ended = node_agent::run_reloading(host, config, watch.started(), next).await;
    signal_tasks.shutdown(Duration::from_secs(1)).await;
    ended
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment enters here and in the command line"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[expect(
    clippy::print_stderr,
    reason = "this is where the process speaks to its caller"
)]
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("node-agent: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        eprintln!("  caused by: {inner}");
        cause = inner.source();
    }
    ExitCode::from(code)
}

#[expect(
    clippy::print_stderr,
    reason = "this is where the process speaks to its caller"
)]
fn usage() -> ExitCode {
    eprintln!("usage: node-agent --config FILE");
    ExitCode::from(64)
}
