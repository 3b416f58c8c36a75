//! The wall clock of one process, moved by `libfaketime`. Its monotonic clock goes on as it is, as when
//! somebody sets a machine's clock.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::cluster::Surroundings;
use super::tools::{Tool, provide};
use super::{command, run};

/// What has to be installed: the variant for processes of many threads.
const LIBRARY: Tool = Tool {
    file: "faketime/libfaketimeMT.so.1",
    package: "libfaketime",
};
/// How far off a clock may be that was read a moment ago, seconds.
const MOMENT: i64 = 30;

/// A clock that can be set.
#[derive(Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is right, and kept in a file of this folder.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn make(folder: &Path) -> Result<Self, String> {
        provide(&[LIBRARY])?;
        let library = LIBRARY.find().ok_or("libfaketime is not where it was")?;
        let file = folder.join("clock");
        let clock = Self { library, file };
        clock.set(3600);
        let off = clock.offset()?;
        clock.set(0);
        if (off - 3600).abs() > MOMENT {
            return Err(format!("under libfaketime the clock is {off} s off"));
        }
        Ok(clock)
    }

    /// How far a process of this clock is off.
    fn offset(&self) -> Result<i64, String> {
        let environment = self.surroundings().environment;
        let shown = run(command("date").arg("+%s").envs(environment))?;
        let shown: i64 = shown.trim().parse().map_err(|_| "date shows no time")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_err(|error| error.to_string())?.as_secs();
        Ok(shown - i64::try_from(now).map_err(|error| error.to_string())?)
    }

    /// What a daemon runs in that has this clock.
    pub fn surroundings(&self) -> Surroundings {
        let path = |path: &Path| path.display().to_string();
        let variables = [
            ("LD_PRELOAD", path(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", path(&self.file)),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        let variables = variables.into_iter();
        Surroundings {
            environment: variables
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            ..Surroundings::default()
        }
    }

    /// Sets it so many seconds off.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64) {
        // A reader finds the old or the new, never half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}s\n")).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }
}
