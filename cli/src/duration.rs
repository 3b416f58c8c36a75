//! Durations on the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mintmark_runtime::config::DurationText;
use serde::{Deserialize, Serialize};

/// A duration in whole seconds, written `90s`, `10m`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seconds(pub u32);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

impl Seconds {
    /// The same as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0))
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let duration: DurationText = text.parse().map_err(|e| format!("{e}"))?;
        let seconds = duration.0.as_secs();
        match u32::try_from(seconds) {
            Ok(0) | Err(_) => {
                Err("write a duration of at least one second, such as 10m".to_owned())
            }
            Ok(seconds) => Ok(Self(seconds)),
        }
    }
}
