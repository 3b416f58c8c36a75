//! Faults of the machine itself: its network, its disk, its clock.
//!
//! Each kind installs what it needs. Where the machine does not allow it, the test is skipped, which it says
//! on standard error and in `faults.txt` beside the build output; with `MINTMARK_REQUIRE_FAULTS=1` it fails
//! instead. What a kind makes (namespaces, mounts, loop devices) goes with the value that stands for it, also
//! in a panic; what a killed test left behind is cleared by the next one.

pub mod clock;
pub mod image;
pub mod network;
pub mod sync;
pub mod tools;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use super::binary;

/// What a test that cannot run here is told by.
const REQUIRE: &str = "MINTMARK_REQUIRE_FAULTS";
/// How everything that these tests make on the machine is named; the process id follows.
const PREFIX: &str = "mmfault-";

/// Takes note of whether a kind of fault can be made here.
///
/// # Panics
/// When it cannot, and it was required.
pub fn given<T>(test: &str, made: Result<T, String>) -> Option<T> {
    match made {
        Ok(made) => {
            note(&format!("{test}: runs"));
            Some(made)
        }
        Err(reason) => {
            assert!(
                std::env::var(REQUIRE).as_deref() != Ok("1"),
                "{test} cannot run here: {reason}"
            );
            let skipped = format!("SKIPPED {test}: {reason}");
            note(&skipped);
            // Not `eprintln!`, which the test harness shows of failed tests only.
            let _ = writeln!(std::io::stderr(), "\n*** {skipped}\n");
            None
        }
    }
}

/// Where it is summed up which faults were made by the last process that ran them.
pub fn summary() -> PathBuf {
    binary::target_directory().join("faults.txt")
}

fn note(line: &str) {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push(format!("{line}\n"));
    lines.sort();
    std::fs::create_dir_all(binary::target_directory()).unwrap();
    std::fs::write(summary(), lines.concat()).unwrap();
}

/// Says why not when this process may not change the machine.
fn as_root() -> Result<(), String> {
    let id = words("id", &["-u"])?;
    (id.trim() == "0")
        .then_some(())
        .ok_or_else(|| "it needs root".to_owned())
}

/// A command that is also looked for where programs of administrators are.
fn command(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Runs a command; what it printed, or why it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(format!("{command:?}: {status}: {}", said.trim()))
}

/// The same with words as arguments.
fn words(program: &str, arguments: &[&str]) -> Result<String, String> {
    run(command(program).args(arguments))
}

/// A name on this machine that nobody else has.
fn name(number: u64) -> String {
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// Whether something of this name was left behind by a test that is gone.
fn is_left_behind(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| {
        let (owner, _) = rest.split_once('-')?;
        owner.parse::<u32>().ok()
    });
    owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists())
}
