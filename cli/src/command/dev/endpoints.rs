//! `DIR/endpoints.json`: how scripts and every `mintmark` command find a development cluster.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where everything is. Fields are added, never renamed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoints {
    /// Format of this file.
    pub version: u32,
    /// Name of the trust domain.
    pub trust_domain: String,
    /// Workload API address, as in `SPIFFE_ENDPOINT_SOCKET`.
    pub workload_socket: String,
    /// Private socket of the agent.
    pub agent_admin_socket: PathBuf,
    /// Trust bundle in PEM.
    pub bundle: PathBuf,
    /// SPIFFE ID registered for the user who started the cluster.
    pub workload_spiffe_id: String,
    /// SPIFFE ID that stands for the node; parent of entries.
    pub node_alias: String,
    /// Process id of the agent.
    pub agent_pid: u32,
    /// The servers.
    pub servers: Vec<ServerEndpoint>,
}

/// One server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerEndpoint {
    /// Its name.
    pub name: String,
    /// gRPC address.
    pub api: String,
    /// Address for its peers.
    pub peer: String,
    /// Private admin socket.
    pub admin_socket: PathBuf,
    /// Address of probes and metrics.
    pub http: String,
    /// Process id.
    pub pid: u32,
}
