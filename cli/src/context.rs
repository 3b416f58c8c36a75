//! What every command gets: the machine, the printer, and where the daemons are.

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

    /// Reads a file, or standard input for `-`, as text.
    pub fn read_text(&self, path: &std::path::Path) -> Result<String, Failure> {
        let failed = |e: &dyn std::error::Error| {
            Failure::new(
                "MM-3003",
                Exit::Usage,
                format!("cannot read {}", path.display()),
            )
            .because(e)
        };
        let bytes = if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes)
                .map_err(|e| failed(&e))?;
            bytes
        } else {
            self.host.disk.read(path).map_err(|e| failed(&e))?
        };
        String::from_utf8(bytes).map_err(|e| failed(&e))
    }
}
