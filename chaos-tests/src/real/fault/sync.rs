//! Calls of one process that fail, by `libfiu`: here the syncs of files, with an error of the device.

use std::path::{Path, PathBuf};

use super::super::cluster::Surroundings;
use super::tools::{Tool, provide};
use super::words;

/// What has to be installed.
const TOOLS: [Tool; 4] = [
    Tool {
        file: "fiu-run",
        package: "fiu-utils",
    },
    Tool {
        file: "fiu-ctrl",
        package: "fiu-utils",
    },
    Tool {
        file: "fiu/fiu_posix_preload.so",
        package: "libfiu0",
    },
    Tool {
        file: "timeout",
        package: "coreutils",
    },
];
/// `EIO`.
const INPUT_OUTPUT: u32 = 5;
/// How long a process may take to hear what is to fail, seconds.
const ORDER_LIMIT: &str = "10";

/// Where processes are told what is to fail.
#[derive(Debug)]
pub struct FailingSyncs {
    pipes: PathBuf,
}

impl FailingSyncs {
    /// Nothing fails yet. The pipes of the processes are in this folder.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn make(folder: &Path) -> Result<Self, String> {
        provide(&TOOLS)?;
        let pipes = folder.join("fiu");
        Ok(Self { pipes })
    }

    /// What a daemon runs in whose syncs can fail.
    pub fn surroundings(&self) -> Surroundings {
        let pipes = self.pipes.display().to_string();
        let wrapper = ["fiu-run", "-x", "-f", &pipes];
        Surroundings {
            wrapper: wrapper.map(str::to_owned).to_vec(),
            ..Surroundings::default()
        }
    }

    /// Lets every sync of a process fail from now on.
    ///
    /// # Panics
    /// When it does not hear of it.
    pub fn fail(&self, pid: u32) {
        for call in ["fsync", "fdatasync"] {
            let point = format!("posix/io/sync/{call}");
            self.order(pid, &format!("enable name={point},failinfo={INPUT_OUTPUT}"));
        }
    }

    fn order(&self, pid: u32, order: &str) {
        let (pipes, pid) = (self.pipes.display().to_string(), pid.to_string());
        let order = ["fiu-ctrl", "-f", &pipes, "-c", order, &pid];
        words("timeout", &[&[ORDER_LIMIT], &order[..]].concat()).unwrap();
    }
}
