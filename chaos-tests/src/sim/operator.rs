//! An operator at a server's private socket.
//!
//! Always: it uses the API that the `mintmark` command uses, over the socket, one order at a time; an
//! answer that does not come is reported as unknown, not as a failure.
//!
//! Not here: which orders there are when (`plan`, `run`).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ca_server::api::IDEMPOTENCY_HEADER;
use ca_server::api::consistency::CONSISTENCY_HEADER;
use mintmark_proto::mintmark::audit::v1::TailRequest;
use mintmark_proto::mintmark::audit::v1::audit_client::AuditClient;
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::mintmark::cluster::v1::{
    CreateServerTokenRequest, ListAuthoritiesRequest, PrepareAuthorityRequest,
    RevokeAuthorityRequest, TaintAuthorityRequest,
};
use mintmark_proto::mintmark::state::v1::AuthorityKind;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::agent::{BanAgentRequest, CreateJoinTokenRequest, GetAgentRequest};
use mintmark_proto::spire::entry::entry_client::EntryClient;
use mintmark_proto::spire::entry::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, GetEntryRequest,
};
use mintmark_proto::spire::types;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::server::TRUST_DOMAIN;
use super::world::World;
use crate::oracle::{Answer, EntrySeen};

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(6);
/// How often an operator looks for the next order.
const PAUSE: Duration = Duration::from_millis(50);

/// The id of an authority. It follows from a key, which is drawn by chance, so it has no place in a trace.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority(pub String);

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an authority")
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Make a token for the agent on this machine.
    AgentToken(String),
    /// Make one token, for the agents on all of these machines.
    RacersToken(Vec<String>),
    /// Make a token for the server on this machine.
    ServerToken(String),
    /// Register a workload.
    CreateEntry {
        /// Name among the entries of this run.
        key: String,
        /// SPIFFE ID of the agent.
        parent: String,
        /// Path of its SPIFFE ID.
        path: String,
        /// User id of the workload.
        uid: u32,
    },
    /// Change the lifetime of an entry's SVIDs.
    UpdateEntry {
        /// Name among the entries of this run.
        key: String,
        /// Its new lifetime.
        ttl_seconds: u64,
    },
    /// Remove an entry.
    DeleteEntry {
        /// Name among the entries of this run.
        key: String,
    },
    /// Read an entry.
    ReadEntry {
        /// Name among the entries of this run.
        key: String,
    },
    /// Read how an agent stands.
    ReadAgent {
        /// Its SPIFFE ID.
        agent: String,
    },
    /// Read how far the X.509 authorities have come.
    ReadAuthorities,
    /// Ban an agent.
    Ban {
        /// Its SPIFFE ID.
        agent: String,
    },
    /// Prepare a new X.509 authority.
    Rotate,
    /// Taint an authority.
    Taint(Authority),
    /// Revoke an authority.
    Revoke(Authority),
    /// Read the whole audit log.
    ReadLog,
}

/// Takes orders for as long as the server lives.
pub async fn work(world: World, machine: String, socket: PathBuf) {
    let sockets = Arc::new(world.machine(&machine).sockets());
    let admin = channel(sockets, Target::Unix(socket), ChannelOptions::default());
    loop {
        let order = world
            .wait_for(|inner| inner.orders.get_mut(&machine)?.pop_front())
            .await;
        let asked_at = world.time.elapsed();
        let ticket = world.lock().oracle.asked(asked_at, &machine, &order);
        let done = obey(&world, &admin, &machine, &order);
        let answer = match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => refused(&status),
            Err(_) => Answer::Unknown,
        };
        note(&world, &machine, order, ticket, answer);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reports what was said. What could not be made is asked for again.
fn note(world: &World, machine: &str, order: Order, ticket: usize, answer: Answer) {
    let at = world.time.elapsed();
    let mut inner = world.lock();
    let words = answer.words();
    inner.oracle.answered(at, ticket, answer);
    let line = format!("{order:?}: {words}");
    inner.trace.add(at, machine, &line);
    let must_be = matches!(
        order,
        Order::AgentToken(_) | Order::ServerToken(_) | Order::ReadLog
    );
    if must_be
        && words != "done"
        && let Some(orders) = inner.orders.get_mut(machine)
    {
        orders.push_front(order);
    }
}

/// What an error says of the outcome.
fn refused(status: &Status) -> Answer {
    match status.code() {
        Code::NotFound => Answer::NotFound,
        Code::AlreadyExists => Answer::Exists,
        Code::InvalidArgument | Code::PermissionDenied | Code::FailedPrecondition => {
            Answer::Refused(status.message().to_owned())
        }
        _ => Answer::Unknown,
    }
}

fn of_item(status: Option<types::Status>) -> Result<(), Status> {
    let status = status.unwrap_or_default();
    match Code::from_i32(status.code) {
        Code::Ok => Ok(()),
        code => Err(Status::new(code, status.message)),
    }
}

fn only<T>(mut results: Vec<T>) -> Result<T, Status> {
    results
        .pop()
        .ok_or_else(|| Status::internal("an empty batch"))
}

fn id(text: &str) -> types::Spiffeid {
    let path = text
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_prefix(TRUST_DOMAIN))
        .unwrap_or(text);
    types::Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path: path.to_owned(),
    }
}

async fn obey(
    world: &World,
    admin: &Channel,
    machine: &str,
    order: &Order,
) -> Result<Answer, Status> {
    match order {
        Order::AgentToken(who) => agent_token(world, admin, who).await,
        Order::RacersToken(racers) => {
            let token = token(admin).await?;
            let mut inner = world.lock();
            for racer in racers {
                inner.agent_tokens.insert(racer.clone(), token.clone());
            }
            Ok(Answer::Done)
        }
        Order::ServerToken(who) => server_token(world, admin, who).await,
        Order::CreateEntry {
            key,
            parent,
            path,
            uid,
        } => create(world, admin, key, entry(parent, path, *uid)).await,
        Order::UpdateEntry { key, ttl_seconds } => update(world, admin, key, *ttl_seconds).await,
        Order::DeleteEntry { key } => delete(world, admin, key).await,
        Order::ReadEntry { key } => read(world, admin, key).await,
        Order::Ban { agent } => {
            let request = BanAgentRequest {
                id: Some(id(agent)),
            };
            AgentClient::new(admin.clone()).ban_agent(request).await?;
            Ok(Answer::Done)
        }
        Order::ReadAgent { agent } => read_agent(admin, agent).await,
        Order::ReadLog => read_log(world, admin, machine).await,
        Order::ReadAuthorities => read_authorities(admin).await,
        Order::Rotate => {
            let request = PrepareAuthorityRequest {
                kind: AuthorityKind::X509.into(),
            };
            let prepared = ClusterClient::new(admin.clone())
                .prepare_authority(request)
                .await?;
            Ok(Answer::Prepared(prepared.into_inner().authority_id))
        }
        Order::Taint(Authority(id)) => {
            let authority_id = id.clone();
            let request = TaintAuthorityRequest { authority_id };
            let mut client = ClusterClient::new(admin.clone());
            client.taint_authority(request).await?;
            Ok(Answer::Done)
        }
        Order::Revoke(Authority(id)) => {
            let authority_id = id.clone();
            let request = RevokeAuthorityRequest { authority_id };
            let mut client = ClusterClient::new(admin.clone());
            client.revoke_authority(request).await?;
            Ok(Answer::Done)
        }
    }
}

async fn token(admin: &Channel) -> Result<String, Status> {
    let request = CreateJoinTokenRequest {
        ttl: 600,
        ..CreateJoinTokenRequest::default()
    };
    let mut client = AgentClient::new(admin.clone());
    let made = client.create_join_token(request).await?.into_inner();
    Ok(made.value)
}

async fn agent_token(world: &World, admin: &Channel, machine: &str) -> Result<Answer, Status> {
    let token = token(admin).await?;
    let agent = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    let mut inner = world.lock();
    inner.agent_tokens.insert(machine.to_owned(), token);
    inner.agent_ids.insert(machine.to_owned(), agent);
    Ok(Answer::Done)
}

async fn server_token(world: &World, admin: &Channel, machine: &str) -> Result<Answer, Status> {
    let request = CreateServerTokenRequest { ttl_seconds: 600 };
    let made = ClusterClient::new(admin.clone())
        .create_server_token(request)
        .await?
        .into_inner();
    let pin: [u8; 32] = made
        .pin
        .as_slice()
        .try_into()
        .map_err(|_| Status::internal("a pin that is none"))?;
    let mut inner = world.lock();
    inner.oracle.pin = Some(pin);
    let token = (made.token, hex::encode(pin));
    inner.server_tokens.insert(machine.to_owned(), token);
    Ok(Answer::Done)
}

/// How the names of entries begin that are registered under an idempotency key.
pub const KEYED: &str = "keyed/";

/// The number of such an entry, which is also the key of the only request that makes it.
pub fn keyed(key: &str) -> Option<u64> {
    key.strip_prefix(KEYED)?.parse().ok()
}

fn idempotency_key(key: &str) -> Option<MetadataValue<Ascii>> {
    let text = format!("{:032x}", keyed(key)?);
    Some(text.parse().expect("digits are ASCII"))
}

fn entry(parent: &str, path: &str, uid: u32) -> types::Entry {
    types::Entry {
        spiffe_id: Some(id(path)),
        parent_id: Some(id(parent)),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{uid}"),
        }],
        ..types::Entry::default()
    }
}

fn seen(entry: &types::Entry) -> EntrySeen {
    EntrySeen {
        id: entry.id.clone(),
        revision: entry.revision_number,
        ttl_seconds: i64::from(entry.x509_svid_ttl),
    }
}

async fn create(
    world: &World,
    admin: &Channel,
    key: &str,
    entry: types::Entry,
) -> Result<Answer, Status> {
    let mut request = Request::new(BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    });
    if let Some(idempotency) = idempotency_key(key) {
        request
            .metadata_mut()
            .insert(IDEMPOTENCY_HEADER, idempotency);
    }
    let answer = EntryClient::new(admin.clone())
        .batch_create_entry(request)
        .await?;
    let result = only(answer.into_inner().results)?;
    of_item(result.status)?;
    let made = result.entry.unwrap_or_default();
    world.lock().oracle.entry_made(key, &made.id);
    Ok(Answer::Entry(seen(&made)))
}

/// The id that the server gave to an entry of this run.
fn entry_id(world: &World, key: &str) -> Result<String, Status> {
    let known = world.lock().oracle.entry_id(key);
    known.ok_or_else(|| Status::invalid_argument("nobody knows its id"))
}

async fn update(
    world: &World,
    admin: &Channel,
    key: &str,
    ttl_seconds: u64,
) -> Result<Answer, Status> {
    let changed = types::Entry {
        id: entry_id(world, key)?,
        x509_svid_ttl: i32::try_from(ttl_seconds).unwrap_or(i32::MAX),
        ..types::Entry::default()
    };
    let request = BatchUpdateEntryRequest {
        entries: vec![changed],
        input_mask: Some(types::EntryMask {
            x509_svid_ttl: true,
            ..types::EntryMask::default()
        }),
        output_mask: None,
    };
    let answer = EntryClient::new(admin.clone())
        .batch_update_entry(request)
        .await?;
    let result = only(answer.into_inner().results)?;
    of_item(result.status)?;
    Ok(Answer::Entry(seen(&result.entry.unwrap_or_default())))
}

async fn delete(world: &World, admin: &Channel, key: &str) -> Result<Answer, Status> {
    let request = BatchDeleteEntryRequest {
        ids: vec![entry_id(world, key)?],
    };
    let answer = EntryClient::new(admin.clone())
        .batch_delete_entry(request)
        .await?;
    of_item(only(answer.into_inner().results)?.status)?;
    Ok(Answer::Done)
}

async fn read(world: &World, admin: &Channel, key: &str) -> Result<Answer, Status> {
    let request = fresh(GetEntryRequest {
        id: entry_id(world, key)?,
        output_mask: None,
    });
    let entry = EntryClient::new(admin.clone()).get_entry(request).await?;
    Ok(Answer::Entry(seen(&entry.into_inner())))
}

/// A request whose answer has to have everything that was acknowledged to anybody.
fn fresh<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let fresh = MetadataValue::from_static("linearizable");
    request.metadata_mut().insert(CONSISTENCY_HEADER, fresh);
    request
}

async fn read_agent(admin: &Channel, agent: &str) -> Result<Answer, Status> {
    let request = fresh(GetAgentRequest {
        id: Some(id(agent)),
        output_mask: None,
    });
    let found = AgentClient::new(admin.clone()).get_agent(request).await?;
    let banned = found.into_inner().banned;
    Ok(Answer::Agent { banned })
}

async fn read_authorities(admin: &Channel) -> Result<Answer, Status> {
    let request = fresh(ListAuthoritiesRequest {});
    let listed = ClusterClient::new(admin.clone())
        .list_authorities(request)
        .await?;
    let all = listed.into_inner().authorities.into_iter();
    let x509 = all.filter(|one| one.kind() == AuthorityKind::X509);
    Ok(Answer::Authorities(x509.collect()))
}

async fn read_log(world: &World, admin: &Channel, machine: &str) -> Result<Answer, Status> {
    let mut stream = AuditClient::new(admin.clone())
        .tail(TailRequest::default())
        .await?
        .into_inner();
    let mut leaves = Vec::new();
    while let Some(chunk) = stream.message().await? {
        leaves.extend(chunk.leaves);
    }
    world
        .lock()
        .oracle
        .leaves
        .insert(machine.to_owned(), leaves);
    Ok(Answer::Done)
}
