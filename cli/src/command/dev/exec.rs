//! `--exec`: a command that finds the cluster by itself.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::endpoints::Endpoints;
use super::interrupted;
use super::layout::Layout;
use crate::failure::{Exit, Failure};

/// How long the command may take to end when it is told to.
const END_GRACE: Duration = Duration::from_secs(10);

/// Runs the command and returns its exit code; 128 + signal when a signal ended it.
pub async fn run(
    command: &[String],
    layout: &Layout,
    endpoints: &Endpoints,
) -> Result<u8, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::new("MM-3130", Exit::Usage, "no command to run")
            .next("write it after --exec --"));
    };
    let mut child = Command::new(program);
    child
        .args(arguments)
        .env("SPIFFE_ENDPOINT_SOCKET", &endpoints.workload_socket)
        .env("MINTMARK_DIR", layout.root())
        .env("PATH", path_with_this_binary())
        .kill_on_drop(true);
    let failed = |e: &dyn std::error::Error| {
        Failure::new("MM-3131", Exit::Usage, format!("cannot run `{program}`"))
            .because(e)
            .next("is it on the PATH?")
    };
    let mut child = child.spawn().map_err(|e| failed(&e))?;
    let status = tokio::select! {
        status = child.wait() => status.map_err(|e| failed(&e))?,
        signal = interrupted() => return Ok(end(&mut child, signal).await),
    };
    let code = status
        .code()
        .or_else(|| status.signal().map(|n| n.saturating_add(128)));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// What a process that this signal ended exits with, as shells tell it.
pub fn code_of_signal(signal: Signal) -> u8 {
    u8::try_from(signal as i32).unwrap_or(1).saturating_add(128)
}

/// Passes a signal on to the command, and gives it time to end before its cluster does.
async fn end(child: &mut Child, signal: Signal) -> u8 {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        // It may have ended by itself meanwhile.
        let _ = kill(Pid::from_raw(pid), signal);
    }
    if tokio::time::timeout(END_GRACE, child.wait()).await.is_err() {
        // Dropping it kills it.
        tracing::warn!("the command did not end in time");
    }
    code_of_signal(signal)
}

/// The search path, with the directory of this binary in front: `mintmark` means this very binary,
/// in scripts too.
fn path_with_this_binary() -> OsString {
    #[expect(
        clippy::disallowed_methods,
        reason = "the command's environment is ours, with additions"
    )]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(PathBuf::from));
    let parts = own.into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(parts).unwrap_or(path)
}
