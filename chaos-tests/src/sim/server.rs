//! A ca-server on a simulated machine, with an operator at its private socket.
//!
//! Always: it is the product's own server, started as `mintmark server run` would start it; when it
//! ends by itself, that is reported and nothing else runs on the machine.
//!
//! Not here: when it starts and crashes (`run`).

use ca_server::Server;
use ca_server::config::{RawConfig, RawJoin, RawListen, RawRaft, RawSettings, RawSinkFile, RawTtl};
use mintmark_runtime::cause::chain;

use super::operator;
use super::plan::Shape;
use super::world::World;

/// Port of the API.
pub const API_PORT: u16 = 8081;
/// Port of Raft.
pub const PEER_PORT: u16 = 8082;
/// The first server.
pub const FOUNDER: &str = "server-1";
/// The trust domain of every simulation.
pub const TRUST_DOMAIN: &str = "sim.example";
/// Where a server copies the audit log to.
pub const SINK: &str = "/audit.jsonl";

/// One life of a server.
pub async fn live(world: World, name: String, shape: Shape) -> turmoil::Result {
    world.begins(&name);
    let machine = world.machine(&name);
    let join = if name == FOUNDER {
        None
    } else {
        let (token, pin) = world
            .wait_for(|inner| inner.server_tokens.get(&name).cloned())
            .await;
        // Any member admits; an operator names one that runs.
        let member = world.lock().servers.keys().next().cloned();
        let member = member.unwrap_or_else(|| FOUNDER.to_owned());
        Some(RawJoin {
            address: format!("{member}:{API_PORT}"),
            token: Some(token),
            token_file: None,
            pin,
        })
    };
    let config = config(&name, &shape, join);
    let config = config.check(&|_| None).expect("the configuration is good");
    let host = machine.next_life();
    world.note(&name, "starts");
    let mut server = match Server::start(host, config).await {
        Ok(server) => server,
        Err(error) => {
            let reason = format!("did not start: {}", chain(&error));
            world.lock().ended.push((name, reason));
            return Ok(());
        }
    };
    world
        .lock()
        .servers
        .insert(name.clone(), server.services().clone());
    let operator = operator::work(world.clone(), name.clone(), server.admin_socket().clone());
    let error = tokio::select! {
        error = server.failed() => error,
        () = operator => unreachable!("an operator never leaves"),
    };
    let mut inner = world.lock();
    inner.servers.remove(&name);
    inner
        .ended
        .push((name, format!("ended: {}", chain(&error))));
    Ok(())
}

fn config(name: &str, shape: &Shape, join: Option<RawJoin>) -> RawConfig {
    let seconds = |seconds: u64| Some(format!("{seconds}s"));
    RawConfig {
        trust_domain: TRUST_DOMAIN.to_owned(),
        data_dir: "/data".into(),
        keys_dir: Some("/keys".into()),
        name: Some(name.to_owned()),
        listen: RawListen {
            api: Some(format!("0.0.0.0:{API_PORT}")),
            advertise_api: Some(format!("{name}:{API_PORT}")),
            peer: Some(format!("0.0.0.0:{PEER_PORT}")),
            advertise_peer: Some(format!("{name}:{PEER_PORT}")),
            admin_socket: Some("/run/admin.sock".into()),
            http: None,
        },
        ttl: RawTtl {
            ca: seconds(shape.ca_ttl_seconds),
            x509_svid: seconds(shape.svid_ttl_seconds),
            jwt_svid: None,
            agent_svid: None,
        },
        settings: RawSettings {
            pq: shape.hybrid.then(|| "hybrid".to_owned()),
            ..RawSettings::default()
        },
        join,
        audit: ca_server::config::RawAudit {
            file: vec![RawSinkFile { path: SINK.into() }],
        },
        raft: RawRaft {
            snapshot_entries: Some(shape.snapshot_entries),
        },
        ..RawConfig::default()
    }
}
