//! `--exec`: a command that finds the cluster by itself.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use tokio::process::Command;

use super::endpoints::Endpoints;
use super::layout::Layout;
use crate::failure::{Exit, Failure};

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
    let status = child.status().await.map_err(|e| {
        Failure::new("MM-3131", Exit::Usage, format!("cannot run `{program}`"))
            .because(&e)
            .next("is it on the PATH?")
    })?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|n| n.saturating_add(128)));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
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
