//! `ca-server --config FILE`: a server in the foreground.
//!
//! `SIGTERM` and `SIGINT` drain, a second one ends at once; `SIGHUP` reads the log filter anew. Exit codes
//! are in `docs/errors.md`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ca_server::config::{Config, load};
use ca_server::{RunError, StartError};
use mintmark_runtime::cause::chain;
use mintmark_runtime::drain::drain;
use mintmark_runtime::failpoint;
use mintmark_runtime::hardening::keep_memory_private;
use mintmark_runtime::host::Host;
use mintmark_runtime::mutation;
use mintmark_runtime::signals;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::telemetry::{LogControl, init_logging, log_panics};

const USAGE: &str = "usage: ca-server --config FILE";
/// `EX_USAGE` of sysexits.
const EXIT_USAGE: u8 = 64;
const EXIT_SOFTWARE: u8 = 70;
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let path = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(flag), Some(path), None) if flag == "--config" => PathBuf::from(path),
        _ => return complain(USAGE, EXIT_USAGE),
    };
    match serve(path).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&chain(&error), error.exit_code()),
    }
}

async fn serve(path: PathBuf) -> Result<(), RunError> {
    let host = Host::os();
    let read = || load(host.disk.as_ref(), &path, &environment);
    let config = read().map_err(StartError::from)?;
    let defect = |error: &dyn std::error::Error| StartError::Defect(chain(error));
    let control = init_logging(
        config.log_format,
        &config.log_level,
        Arc::clone(&host.clock),
    )
    .map_err(|error| defect(&error))?;
    log_panics();
    keep_memory_private();
    failpoint::arm(environment).map_err(|error| defect(&error))?;
    mutation::arm(environment).map_err(|error| defect(&error))?;
    let (trigger, watch) = drain();
    let tasks = Tasks::new();
    let hang_up = signals::listen(&tasks, trigger, GRACE).map_err(|error| defect(&error))?;
    let running = ca_server::run(host.clone(), config, watch);
    tokio::pin!(running);
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            () = hang_up.woken() => reload(&control, read()),
        }
    };
    tasks.shutdown(Duration::from_secs(1)).await;
    ended
}

fn reload(control: &LogControl, config: Result<Config, ca_server::config::LoadError>) {
    let changed = match config {
        Ok(config) => control
            .set_filter(&config.log_level)
            .map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    match changed {
        Ok(()) => tracing::info!("the log filter was read anew; other changes need a restart"),
        Err(error) => tracing::error!(error, "the configuration stays as it was"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment enters here and in the command line"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn complain(text: &str, code: u8) -> ExitCode {
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "ca-server: {text}");
    ExitCode::from(if code == 0 { EXIT_SOFTWARE } else { code })
}
