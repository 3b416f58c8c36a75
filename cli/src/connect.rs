//! How a command finds the daemons: by flag, by variable, by the directory of a development cluster,
//! or where an installed one listens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::host::Host;
use tonic::transport::Channel;

use crate::command::dev::endpoints::Endpoints;
use crate::failure::{Exit, Failure};

/// Where a packaged server's admin socket is.
pub const SERVER_SOCKET: &str = "/run/mintmark/server/admin.sock";
/// Where a packaged agent's private socket is.
pub const AGENT_SOCKET: &str = "/run/mintmark/agent/admin.sock";
/// Where a packaged agent serves the Workload API.
pub const WORKLOAD_SOCKET: &str = "unix:///run/mintmark/agent/public/api.sock";

/// Deadline of one request of the command line.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Flags and variables that say where the daemons are.
#[derive(Debug, Clone, Default, Args)]
pub struct Connect {
    /// Directory of a development cluster (`mintmark dev --dir DIR`).
    #[arg(
        long = "mintmark-dir",
        global = true,
        env = "MINTMARK_DIR",
        value_name = "DIR",
        help_heading = "Connection"
    )]
    pub directory: Option<PathBuf>,
    /// Admin socket of a ca-server.
    #[arg(
        long,
        global = true,
        env = "MINTMARK_SERVER_SOCKET",
        value_name = "PATH",
        help_heading = "Connection"
    )]
    pub server_socket: Option<PathBuf>,
    /// Private socket of the node agent.
    #[arg(
        long,
        global = true,
        env = "MINTMARK_AGENT_SOCKET",
        value_name = "PATH",
        help_heading = "Connection"
    )]
    pub agent_socket: Option<PathBuf>,
    /// Workload API address, such as unix:///run/mintmark/agent/public/api.sock.
    #[arg(
        long = "socket",
        global = true,
        env = "SPIFFE_ENDPOINT_SOCKET",
        value_name = "ADDRESS",
        help_heading = "Connection"
    )]
    pub workload_socket: Option<String>,
}

impl Connect {
    /// What the directory of a development cluster says, if one was named.
    pub fn endpoints(&self, host: &Host) -> Result<Option<Endpoints>, Failure> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        let path = directory.join("endpoints.json");
        let failed = |e: &dyn std::error::Error| {
            Failure::new(
                "MM-3020",
                Exit::Unavailable,
                format!("no development cluster is described by {}", path.display()),
            )
            .because(e)
            .next("start one with `mintmark dev --dir DIR`, or unset MINTMARK_DIR")
        };
        let bytes = host.disk.read(&path).map_err(|e| failed(&e))?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| failed(&e))
    }

    /// A channel to a server's admin socket. Of several servers, the first that answers.
    pub async fn server(&self, host: &Host) -> Result<Channel, Failure> {
        let sockets = match (&self.server_socket, self.endpoints(host)?) {
            (Some(socket), _) => vec![socket.clone()],
            (None, Some(endpoints)) => endpoints
                .servers
                .into_iter()
                .map(|server| server.admin_socket)
                .collect(),
            (None, None) => vec![SERVER_SOCKET.into()],
        };
        self.first_that_answers(host, &sockets, "a ca-server", "--server-socket")
            .await
    }

    /// A channel to the agent's private socket.
    pub async fn agent(&self, host: &Host) -> Result<Channel, Failure> {
        let socket = match (&self.agent_socket, self.endpoints(host)?) {
            (Some(socket), _) => socket.clone(),
            (None, Some(endpoints)) => endpoints.agent_admin_socket,
            (None, None) => AGENT_SOCKET.into(),
        };
        self.first_that_answers(host, &[socket], "the node agent", "--agent-socket")
            .await
    }

    /// Address of the Workload API.
    pub fn workload(&self, host: &Host) -> Result<String, Failure> {
        if let Some(address) = &self.workload_socket {
            return Ok(address.clone());
        }
        Ok(match self.endpoints(host)? {
            Some(endpoints) => endpoints.workload_socket,
            None => WORKLOAD_SOCKET.to_owned(),
        })
    }

    async fn first_that_answers(
        &self,
        host: &Host,
        sockets: &[PathBuf],
        who: &str,
        flag: &str,
    ) -> Result<Channel, Failure> {
        let mut last = None;
        for socket in sockets {
            match host.network.connect_unix(socket).await {
                Ok(_probe) => return Ok(to_socket(host, socket)),
                Err(e) => last = Some((socket, e)),
            }
        }
        let failure = Failure::new("MM-3021", Exit::Unavailable, format!("cannot reach {who}"));
        Err(match last {
            None => failure,
            Some((socket, e)) => failure.why(format!("{}: {e}", socket.display())),
        }
        .next(format!(
            "is it running, and may you open its socket? Name another with {flag}"
        )))
    }
}

fn to_socket(host: &Host, socket: &Path) -> Channel {
    channel(
        host.network.clone(),
        Target::Unix(socket.to_owned()),
        ChannelOptions::default(),
    )
}

/// Runs one request with the deadline of the command line.
pub async fn request<T>(
    doing: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(REQUEST_LIMIT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::from_status(doing, &status)),
        Err(_) => Err(Failure::from_status(
            doing,
            &tonic::Status::deadline_exceeded(format!(
                "no answer within {} s",
                REQUEST_LIMIT.as_secs()
            )),
        )),
    }
}
