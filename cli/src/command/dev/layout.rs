//! Where a development cluster keeps its things, and what has to be the same when it starts again.
//!
//! The plan (trust domain, ports, number of servers) is written before anything is started, so that a
//! second start on the same directory finds the cluster where its own log says it is.

use std::path::{Path, PathBuf};

use mintmark_runtime::disk::Disk;
use serde::{Deserialize, Serialize};

use super::shape::Shape;
use crate::failure::{Exit, Failure};

/// Name of the directory of logs.
pub const LOGS: &str = "log";
/// Longest path of a Unix socket on Linux, without the closing zero.
const SOCKET_PATH_MAX: usize = 107;

/// What is decided once for a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Format of this file.
    pub version: u32,
    /// Name of the trust domain.
    pub trust_domain: String,
    /// The servers, in the order they were made.
    pub servers: Vec<PlannedServer>,
    /// What the cluster is made with; unknown of a directory that is older than this field.
    #[serde(default)]
    pub shape: Option<Shape>,
}

/// One server of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedServer {
    /// Its name and the name of its directory.
    pub name: String,
    /// gRPC address for agents and clients.
    pub api: String,
    /// Address for its peers.
    pub peer: String,
    /// Address of probes and metrics.
    pub http: String,
}

/// The directory of a development cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// A layout below `root`, which has to be short enough for Unix sockets.
    pub fn new(root: PathBuf) -> Result<Self, Failure> {
        let layout = Self { root };
        let longest = layout.admin_socket("server-10");
        let length = longest.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            return Err(Failure::new(
                "MM-3101",
                Exit::Usage,
                format!("the path of a socket would have {length} bytes"),
            )
            .why(format!(
                "{} is longer than the {SOCKET_PATH_MAX} bytes that Linux allows",
                longest.display()
            ))
            .next("choose a shorter directory with --dir"));
        }
        Ok(layout)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is decided once.
    pub fn plan(&self) -> PathBuf {
        self.root.join("dev.json")
    }

    /// Addresses and sockets, for scripts.
    pub fn endpoints(&self) -> PathBuf {
        self.root.join("endpoints.json")
    }

    /// The trust bundle in PEM, for scripts.
    pub fn bundle(&self) -> PathBuf {
        self.root.join("bundle.pem")
    }

    /// Data of a daemon: sealed, can be copied.
    pub fn data(&self, daemon: &str) -> PathBuf {
        self.root.join("data").join(daemon)
    }

    /// Keys of a daemon: what opens its data, never beside it.
    pub fn keys(&self, daemon: &str) -> PathBuf {
        self.root.join("keys").join(daemon)
    }

    /// Configuration of a daemon.
    pub fn config(&self, daemon: &str) -> PathBuf {
        self.root.join("config").join(format!("{daemon}.toml"))
    }

    /// Token that a daemon joins with.
    pub fn token(&self, daemon: &str) -> PathBuf {
        self.root.join("config").join(format!("{daemon}.token"))
    }

    /// Log of a daemon.
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.root.join(LOGS).join(format!("{daemon}.log"))
    }

    /// The world-connectable socket of the agent (Workload API, SDS).
    pub fn workload_socket(&self) -> PathBuf {
        self.root.join("public").join("api.sock")
    }

    /// The private socket of a daemon.
    pub fn admin_socket(&self, daemon: &str) -> PathBuf {
        self.root.join("admin").join(format!("{daemon}.sock"))
    }

    /// Reads the plan of an earlier start, if there was one.
    pub fn read_plan(&self, disk: &dyn Disk) -> Result<Option<Plan>, Failure> {
        let path = self.plan();
        let bytes = match disk.read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(unreadable(&path, &e)),
        };
        let plan: Plan = serde_json::from_slice(&bytes).map_err(|e| unreadable(&path, &e))?;
        if plan.version != 1 || plan.servers.is_empty() {
            return Err(Failure::new(
                "MM-3102",
                Exit::Usage,
                format!("{} was written by another version", path.display()),
            )
            .next("use another directory, or the version that made this one"));
        }
        Ok(Some(plan))
    }

    /// Writes the plan.
    pub fn write_plan(&self, disk: &dyn Disk, plan: &Plan) -> Result<(), Failure> {
        write_json(disk, &self.plan(), plan)
    }
}

/// Writes a JSON file that others may read.
pub fn write_json<T: Serialize>(disk: &dyn Disk, path: &Path, value: &T) -> Result<(), Failure> {
    let failed = |e: &dyn std::error::Error| {
        Failure::new(
            "MM-3103",
            Exit::Failure,
            format!("cannot write {}", path.display()),
        )
        .because(e)
    };
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| failed(&e))?;
    text.push(b'\n');
    disk.write_atomic(path, &text, 0o644)
        .map_err(|e| failed(&e))
}

fn unreadable(path: &Path, cause: &dyn std::error::Error) -> Failure {
    Failure::new(
        "MM-3102",
        Exit::Usage,
        format!("cannot read {}", path.display()),
    )
    .because(cause)
    .next("remove the file to plan anew, or use another directory")
}
