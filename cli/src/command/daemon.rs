//! `mintmark server run` and `mintmark agent run`: the two daemons, in the foreground.
//!
//! Exit codes here follow sysexits, because service managers read them: 64 for a configuration that
//! cannot be used, and what the daemon says for everything else.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ca_server::StartError;
use ca_server::config::LoadError;
use clap::{Args, Subcommand};
use mintmark_runtime::drain::{DrainTrigger, drain};
use mintmark_runtime::hardening::keep_memory_private;
use mintmark_runtime::signals;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::telemetry::{self, LogControl};
use mintmark_runtime::{failpoint, mutation};
use tokio::net::unix::pipe;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;

/// What sysexits calls EX_CONFIG's neighbour for wrong usage; service managers do not restart on it.
const EXIT_CONFIG: u8 = 64;
/// What is wrong when an error of a daemon has no code of its own.
const SERVER_CONFIG: &str = "MM-1001";
const AGENT_CONFIG: &str = "MM-2020";
const DAEMON_FAILED: &str = "MM-3016";

/// Commands about servers.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Run a ca-server in the foreground.
    #[command(after_help = "Example:\n  mintmark server run --config /etc/mintmark/server.toml")]
    Run(RunArgs),
}

/// How a daemon is run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration file, TOML or YAML.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Drain and end when standard input closes, that is, with the parent process.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// How long requests may run on once the drain has begun.
const SERVER_GRACE: Duration = Duration::from_secs(10);

/// Runs `mintmark server run`; the result is the exit code.
pub async fn run(command: ServerCommand, context: &Context) -> Result<u8, Failure> {
    let ServerCommand::Run(args) = command;
    let host = context.host.clone();
    let read = || ca_server::config::load(host.disk.as_ref(), &args.config, &environment);
    let config = match read() {
        Ok(config) => config,
        Err(error) => {
            let error = StartError::from(error);
            let code = error.exit_code();
            return Ok(complain(SERVER_CONFIG, &error, code));
        }
    };
    let clock = Arc::clone(&host.clock);
    let log = match telemetry::init_logging(config.log_format, &config.log_level, clock) {
        Ok(log) => log,
        Err(error) => return Ok(complain(SERVER_CONFIG, &error, EXIT_CONFIG)),
    };
    telemetry::log_panics();
    keep_memory_private();
    if let Err(error) = failpoint::arm(environment) {
        return Ok(complain(SERVER_CONFIG, &error, EXIT_CONFIG));
    }
    if let Err(error) = mutation::arm(environment) {
        return Ok(complain(SERVER_CONFIG, &error, EXIT_CONFIG));
    }
    let (trigger, watch) = drain();
    let tasks = Tasks::new();
    let reload = listen(&tasks, &trigger, SERVER_GRACE)?;
    follow_parent(&args, &tasks, &trigger, SERVER_GRACE)?;
    let running = ca_server::run(host.clone(), config, watch);
    tokio::pin!(running);
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            () = reload.woken() => reload_filter(&log, read()),
        }
    };
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(match ended {
        Ok(()) => 0,
        Err(error) => complain(DAEMON_FAILED, &error, error.exit_code()),
    })
}

/// Takes over the filter of log messages, the one thing that changes without a restart.
fn reload_filter(log: &LogControl, config: Result<ca_server::config::Config, LoadError>) {
    let config = match config {
        Ok(config) => config,
        Err(error) => return tracing::error!(%error, "the configuration stays as it was"),
    };
    match log.set_filter(&config.log_level) {
        Ok(()) => tracing::info!("the log filter was read anew; other changes need a restart"),
        Err(error) => tracing::error!(%error, "the configuration stays as it was"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment enters a daemon here"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs `mintmark agent run`; the result is the exit code.
pub async fn run_agent(args: RunArgs, context: &Context) -> Result<u8, Failure> {
    let host = context.host.clone();
    let config = match node_agent::config::load(host.disk.as_ref(), &args.config) {
        Ok(config) => config,
        Err(error) => return Ok(complain(AGENT_CONFIG, &error, EXIT_CONFIG)),
    };
    let clock = Arc::clone(&host.clock);
    let log = match telemetry::init_logging(config.log_format, &config.log_filter, clock) {
        Ok(log) => log,
        Err(error) => return Ok(complain(AGENT_CONFIG, &error, EXIT_CONFIG)),
    };
    telemetry::log_panics();
    keep_memory_private();
    if let Err(error) = failpoint::arm(environment) {
        return Ok(complain(AGENT_CONFIG, &error, EXIT_CONFIG));
    }
    if let Err(error) = mutation::arm(environment) {
        return Ok(complain(AGENT_CONFIG, &error, EXIT_CONFIG));
    }
    let (trigger, watch) = drain();
    let tasks = Tasks::new();
    let reload = listen(&tasks, &trigger, config.drain_grace)?;
    follow_parent(&args, &tasks, &trigger, config.drain_grace)?;
    let disk = Arc::clone(&host.disk);
    let next = || async {
        loop {
            reload.woken().await;
            match node_agent::config::load(disk.as_ref(), &args.config) {
                Ok(config) => match log.set_filter(&config.log_filter) {
                    Ok(()) => return config,
                    Err(error) => tracing::error!(%error, "the configuration stays as it was"),
                },
                Err(error) => tracing::error!(%error, "the configuration stays as it was"),
            }
        }
    };
    let ended = node_agent::run_reloading(host, config, watch.started(), next).await;
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(match ended {
        Ok(()) => 0,
        Err(error) => complain(DAEMON_FAILED, &error, error.exit_code()),
    })
}

fn listen(
    tasks: &Tasks,
    trigger: &DrainTrigger,
    grace: Duration,
) -> Result<mintmark_runtime::task::periodic::Wake, Failure> {
    signals::listen(tasks, trigger.clone(), grace).map_err(|e| {
        Failure::new("MM-3000", Exit::Failure, "signals cannot be handled").because(&e)
    })
}

/// Starts the drain when the parent goes away: it holds the other end of our standard input.
fn follow_parent(
    args: &RunArgs,
    tasks: &Tasks,
    trigger: &DrainTrigger,
    grace: Duration,
) -> Result<(), Failure> {
    if !args.exit_with_parent {
        return Ok(());
    }
    let failed = |e: &std::io::Error| {
        Failure::new(
            "MM-3112",
            Exit::Usage,
            "standard input is not the parent's pipe",
        )
        .because(e)
    };
    let stdin = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| failed(&e))?;
    let lifeline = pipe::Receiver::from_owned_fd(stdin).map_err(|e| failed(&e))?;
    let (trigger, stop) = (trigger.clone(), tasks.token());
    tasks.spawn("parent", async move {
        tokio::select! {
            () = closed(&lifeline) => trigger.start(grace),
            () = stop.cancelled() => {}
        }
    });
    Ok(())
}

/// Waits until the other end of the pipe is closed; what is written into it means nothing.
async fn closed(lifeline: &pipe::Receiver) {
    let mut buffer = [0; 64];
    loop {
        if lifeline.readable().await.is_err() {
            return;
        }
        match lifeline.try_read(&mut buffer) {
            Ok(0) => return,
            Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// Tells an error with its causes, and returns the exit code.
fn complain(code: &'static str, error: &dyn std::error::Error, exit: u8) -> u8 {
    note(&Failure::of_daemon(code, error).to_string());
    exit
}
