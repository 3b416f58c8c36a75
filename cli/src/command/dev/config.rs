//! The configuration files of a development cluster: what an operator would write, for loopback.

use std::path::Path;

use serde::Serialize;

use super::layout::{Layout, PlannedServer};
use super::shape::Shape;
use crate::failure::{Exit, Failure};

/// A ca-server's file.
#[derive(Debug, Serialize)]
struct ServerFile<'a> {
    trust_domain: &'a str,
    name: &'a str,
    data_dir: &'a Path,
    keys_dir: &'a Path,
    listen: Listen<'a>,
    ttl: Ttl,
    settings: Settings<'a>,
    log: Log,
    #[serde(skip_serializing_if = "Option::is_none")]
    join: Option<Join<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<Audit<'a>>,
}

#[derive(Debug, Serialize)]
struct Listen<'a> {
    api: &'a str,
    peer: &'a str,
    http: &'a str,
    admin_socket: &'a Path,
}

#[derive(Debug, Serialize)]
struct Ttl {
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x509_svid: Option<String>,
}

#[derive(Debug, Serialize)]
struct Settings<'a> {
    pq: &'a str,
    development: bool,
}

#[derive(Debug, Serialize)]
struct Log {
    level: &'static str,
}

/// How a further server finds the first.
#[derive(Debug, Clone, Serialize)]
pub struct Join<'a> {
    /// API address of a member.
    pub address: &'a str,
    /// File with the token.
    pub token_file: &'a Path,
    /// Hash of the trust-domain key.
    pub pin: &'a str,
}

#[derive(Debug, Serialize)]
struct Audit<'a> {
    file: [Sink<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Sink<'a> {
    path: &'a Path,
}

/// The text of a server's file. The first server also copies the audit log to a file.
pub fn server(
    shape: Shape,
    layout: &Layout,
    trust_domain: &str,
    server: &PlannedServer,
    join: Option<Join<'_>>,
) -> Result<String, Failure> {
    let audit_file = layout.root().join("audit.jsonl");
    let file = ServerFile {
        trust_domain,
        name: &server.name,
        data_dir: &layout.data(&server.name),
        keys_dir: &layout.keys(&server.name),
        listen: Listen {
            api: &server.api,
            peer: &server.peer,
            http: &server.http,
            admin_socket: &layout.admin_socket(&server.name),
        },
        ttl: Ttl {
            ca: shape.ca_ttl.map(|ttl| ttl.to_string()),
            x509_svid: Some(shape.x509_ttl.to_string()),
        },
        settings: Settings {
            pq: shape.pq.as_str(),
            development: true,
        },
        log: Log { level: "info" },
        audit: join.is_none().then_some(Audit {
            file: [Sink { path: &audit_file }],
        }),
        join,
    };
    to_toml(&file)
}

/// The agent's file.
#[derive(Debug, Serialize)]
struct AgentFile<'a> {
    trust_domain: &'a str,
    server_addresses: Vec<&'a str>,
    data_dir: &'a Path,
    keys_dir: &'a Path,
    socket_path: &'a Path,
    admin_socket_path: &'a Path,
    join_token_file: &'a Path,
    trust_domain_key: &'a str,
}

/// The text of the agent's file.
pub fn agent(
    layout: &Layout,
    trust_domain: &str,
    servers: &[PlannedServer],
    token_file: &Path,
    pin: &str,
) -> Result<String, Failure> {
    to_toml(&AgentFile {
        trust_domain,
        server_addresses: servers.iter().map(|server| server.api.as_str()).collect(),
        data_dir: &layout.data("agent"),
        keys_dir: &layout.keys("agent"),
        socket_path: &layout.workload_socket(),
        admin_socket_path: &layout.admin_socket("agent"),
        join_token_file: token_file,
        trust_domain_key: pin,
    })
}

fn to_toml<T: Serialize>(file: &T) -> Result<String, Failure> {
    toml::to_string(file).map_err(|e| {
        Failure::new("MM-3104", Exit::Failure, "cannot write a configuration").because(&e)
    })
}
