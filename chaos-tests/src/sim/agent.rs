//! A node agent on a simulated machine, with workloads beside it.
//!
//! Always: it is the product's own agent; only what it reads of a process (`/proc`) is made up, for
//! processes that are made up.
//!
//! Not here: when it starts and crashes (`run`), what workloads do (`workload`).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mintmark_identity::trust_domain::TrustDomain;
use mintmark_runtime::cause::chain;
use mintmark_runtime::network::Address;
use node_agent::config::Evidence;
use node_agent::workload::Workloads;
use node_agent::workload::procfs::{Account, FileId, Ids, Proc};
use node_agent::workload::unix::{UnixAttestor, UnixOptions};
use node_agent::{Agent, Config};

use super::plan::Shape;
use super::server::{API_PORT, TRUST_DOMAIN};
use super::workload;
use super::world::World;

/// Processes of a simulated machine: their user is told by their pid.
#[derive(Debug)]
struct SimProc;

/// How the names of agents' machines begin that race for one token.
pub const RACER: &str = "racer-";
/// First user id of workloads.
pub const UID_BASE: u32 = 1_000;
/// Pids of one user's processes: `uid * PIDS_PER_UID + n`.
pub const PIDS_PER_UID: u32 = 1_000;

impl Proc for SimProc {
    fn ids(&self, pid: u32) -> io::Result<Ids> {
        let uid = pid / PIDS_PER_UID;
        Ok(Ids {
            uid,
            gid: uid,
            groups: vec![uid],
        })
    }

    fn executable_path(&self, _pid: u32) -> io::Result<PathBuf> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn executable_id(&self, _pid: u32) -> io::Result<FileId> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn open_executable(&self, _pid: u32) -> io::Result<Box<dyn Read + Send>> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn user(&self, uid: u32) -> io::Result<Option<Account>> {
        Ok(Some(Account {
            name: format!("user-{uid}"),
            gid: uid,
        }))
    }

    fn group_name(&self, gid: u32) -> io::Result<Option<String>> {
        Ok(Some(format!("user-{gid}")))
    }
}

/// One life of an agent.
pub async fn live(world: World, name: String, shape: Shape) -> turmoil::Result {
    world.begins(&name);
    let (token, pin) = world
        .wait_for(|inner| {
            let token = inner.agent_tokens.get(&name)?.clone();
            let pin = inner.oracle.pin?;
            Some((token, pin))
        })
        .await;
    let machine = world.machine(&name);
    let host = machine.next_life();
    let domain = TrustDomain::parse(TRUST_DOMAIN).expect("a good name");
    let servers = (1..=shape.servers)
        .map(|n| Address::new(&format!("server-{n}"), API_PORT).expect("a good address"))
        .collect();
    let mut config = Config::in_dir(domain, servers, Path::new("/agent"));
    config.evidence = Evidence::JoinToken(token);
    config.trust_domain_key = Some(pin);
    config.workload = UnixOptions {
        discover_path: false,
        hash_size_max: None,
    };
    let attestor = UnixAttestor::new(Arc::clone(&host.disk), Arc::new(SimProc), config.workload);
    let workloads = Workloads::new(vec![Box::new(attestor)]);
    let socket = config.socket_path.clone();
    world.note(&name, "starts");
    let mut agent = match Agent::start_attesting(host, config, workloads).await {
        Ok(agent) => agent,
        Err(error) => {
            let reason = format!("did not start: {}", chain(&error));
            world.lock().ended.push((name, reason));
            return Ok(());
        }
    };
    world.lock().agents.insert(name.clone(), agent.watch());
    let users = if name.starts_with(RACER) {
        0
    } else {
        shape.workloads
    };
    for user in 0..users {
        let life = workload::live(
            world.clone(),
            name.clone(),
            socket.clone(),
            user,
            shape.clone(),
        );
        tokio::task::spawn_local(life);
    }
    let error = agent.failed().await;
    agent.stop().await;
    let mut inner = world.lock();
    inner.agents.remove(&name);
    let reason = format!("ended: {}", chain(&error));
    inner.ended.push((name, reason));
    Ok(())
}
