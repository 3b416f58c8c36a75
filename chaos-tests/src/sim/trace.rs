//! What happened, in order, in words that are the same for two runs of one seed.
//!
//! Always: a line holds nothing that follows from key material (hashes, serials drawn by the
//! cryptographic library, lengths of signatures).
//!
//! Not here: log messages of the daemons, which name such things.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// The events of one run.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Vec<String>,
}

impl Trace {
    /// Adds an event.
    pub fn add(&mut self, at: Duration, who: &str, what: &str) {
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _ = write!(line, "{:>9.3} {who}: {what}", at.as_secs_f64());
        self.lines.push(line);
    }

    /// All events.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// One value for all of them.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for line in &self.lines {
            hash.update(line.as_bytes());
            hash.update(b"\n");
        }
        hex::encode(hash.finalize())
    }
}
