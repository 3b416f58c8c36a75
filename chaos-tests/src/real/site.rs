//! A cluster whose daemons have addresses of their own, set up as an operator would: a file for each daemon,
//! a token for each that joins.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;

use super::cluster::{Cluster, PATIENCE, temporary};
use super::wait;

/// The trust domain of every site.
const TRUST_DOMAIN: &str = "site.test";
/// The agent, and the name of its files.
const AGENT: &str = "agent";
const API_PORT: u16 = 8081;
const PEER_PORT: u16 = 8082;

/// A server to be.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Its machine's address.
    pub address: Ipv4Addr,
}

/// The directory of a site, nothing in it but folders and `endpoints.json`. No daemon runs.
pub fn lay_out(binary: &Path, servers: &[Place]) -> Cluster {
    let temporary = temporary();
    let root = temporary.path();
    for folder in ["public", "admin", "config", "log", "data", "keys"] {
        std::fs::create_dir(root.join(folder)).unwrap();
    }
    let endpoints = json!({
        "version": 1,
        "trust_domain": TRUST_DOMAIN,
        "workload_socket": format!("unix://{}", root.join("public/api.sock").display()),
        "agent_admin_socket": root.join("admin/agent.sock"),
        "bundle": root.join("bundle.pem"),
        "workload_spiffe_id": format!("spiffe://{TRUST_DOMAIN}/workload"),
        "node_alias": format!("spiffe://{TRUST_DOMAIN}/node/dev"),
        "agent_pid": 0,
        "servers": servers.iter().map(|server| json!({
            "name": server.name,
            "api": format!("{}:{API_PORT}", server.address),
            "peer": format!("{}:{PEER_PORT}", server.address),
            "admin_socket": root.join("admin").join(format!("{}.sock", server.name)),
            "http": "",
            "pid": 0,
        })).collect::<Vec<_>>(),
    });
    std::fs::write(root.join("endpoints.json"), endpoints.to_string()).unwrap();
    Cluster::at(binary, temporary)
}

/// Starts the daemons of a site: the first server makes the cluster, the others join it, the agent attests,
/// and this user gets an entry. SVIDs of workloads live as long as `x509_ttl` says.
///
/// # Panics
/// When the cluster does not come to stand.
pub fn found(cluster: &mut Cluster, servers: &[Place], x509_ttl: &str) {
    let first = &servers[0];
    for server in servers {
        let join = (server.name != first.name).then(|| invite(cluster, first));
        let text = server_file(cluster.directory(), server, x509_ttl, join.as_ref());
        write_config(cluster, &server.name, &text);
        cluster.start(&server.name);
        wait::until("a server joins", PATIENCE, || {
            let status = cluster.json_on(Some(&server.name), &["cluster", "status"])?;
            let members = status["members"].as_array()?.clone();
            members
                .iter()
                .any(|one| one["name"] == server.name.as_str() && one["voter"] == true)
                .then_some(())
        });
    }
    let status = cluster.json_at_last(Some(&first.name), &["cluster", "status"]);
    let pin = status["trust_domain_key_pin"].as_str().unwrap().to_owned();
    let text = agent_file(cluster.directory(), servers, &pin);
    write_config(cluster, AGENT, &text);
    cluster.attach_agent(AGENT);
    cluster.make_workload_entry();
    cluster.follow();
}

struct Invitation {
    address: String,
    token: String,
    pin: String,
}

fn invite(cluster: &Cluster, first: &Place) -> Invitation {
    let made = cluster.json_at_last(Some(&first.name), &["token", "server"]);
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    Invitation {
        address: format!("{}:{API_PORT}", first.address),
        token: text("token"),
        pin: text("pin"),
    }
}

fn write_config(cluster: &Cluster, name: &str, text: &str) {
    let file = format!("config/{name}.toml");
    std::fs::write(cluster.directory().join(file), text).unwrap();
}

fn server_file(root: &Path, server: &Place, x509_ttl: &str, join: Option<&Invitation>) -> String {
    let Place { name, address } = server;
    let root = root.display();
    let join = join.map_or_else(String::new, |join| {
        let Invitation {
            address,
            token,
            pin,
        } = join;
        format!("[join]\naddress = \"{address}\"\ntoken = \"{token}\"\npin = \"{pin}\"\n")
    });
    format!(
        r#"trust_domain = "{TRUST_DOMAIN}"
name = "{name}"
data_dir = "{root}/data/{name}"
keys_dir = "{root}/keys/{name}"
[listen]
api = "{address}:{API_PORT}"
peer = "{address}:{PEER_PORT}"
admin_socket = "{root}/admin/{name}.sock"
[ttl]
x509_svid = "{x509_ttl}"
[settings]
development = true
{join}"#
    )
}

fn agent_file(root: &Path, servers: &[Place], pin: &str) -> String {
    let root = root.display();
    let addresses: Vec<String> = servers
        .iter()
        .map(|server| format!("\"{}:{API_PORT}\"", server.address))
        .collect();
    format!(
        r#"trust_domain = "{TRUST_DOMAIN}"
server_addresses = [{}]
data_dir = "{root}/data/agent"
keys_dir = "{root}/keys/agent"
socket_path = "{root}/public/api.sock"
admin_socket_path = "{root}/admin/agent.sock"
join_token_file = "{root}/config/agent.token"
trust_domain_key = "{pin}"
"#,
        addresses.join(", ")
    )
}
