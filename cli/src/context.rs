//! What every command gets: the machine, the printer, and where the daemons are.

use std::path::Path;

use mintmark_identity::clock::Timestamp;
use mintmark_runtime::host::Host;

use crate::connect::Connect;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Handed to every command.
#[derive(Clone)]
pub struct Context {
    /// The machine.
    pub host: Host,
    /// The printer.
    pub output: Output,
    /// Where the daemons are.
    pub connect: Connect,
}

impl Context {
    /// The time, for ages and expiries that are shown.
    pub fn now(&self) -> Timestamp {
        self.host.clock.now()
    }

    /// Reads a file, or standard input for `-`.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        if path.as_os_str() != "-" {
            return self.host.disk.read(path).map_err(|e| unreadable(path, &e));
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes)
            .map_err(|e| unreadable(path, &e))?;
        Ok(bytes)
    }

    /// Reads a file, or standard input for `-`, as text.
    pub fn read_text(&self, path: &Path) -> Result<String, Failure> {
        String::from_utf8(self.read(path)?).map_err(|e| unreadable(path, &e))
    }

    /// Makes a directory that is for its owner only, if it is not there.
    pub fn make_directory(&self, path: &Path) -> Result<(), Failure> {
        let disk = &*self.host.disk;
        if disk.exists(path).unwrap_or(false) {
            return Ok(());
        }
        let made = disk.create_dir_all(path, 0o700);
        made.map_err(|e| unwritable(path, &e))
    }

    /// Writes one file as a whole.
    pub fn write(&self, path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
        let written = self.host.disk.write_atomic(path, text.as_bytes(), mode);
        written.map_err(|e| unwritable(path, &e))
    }
}

fn unreadable(path: &Path, cause: &dyn std::error::Error) -> Failure {
    let what = format!("cannot read {}", path.display());
    Failure::new("MM-3003", Exit::Usage, what)
        .because(cause)
        .next("check the path and its permissions")
}

fn unwritable(path: &Path, cause: &dyn std::error::Error) -> Failure {
    let what = format!("cannot write {}", path.display());
    Failure::new("MM-3416", Exit::Failure, what)
        .because(cause)
        .next("check the directory's permissions and space")
}
