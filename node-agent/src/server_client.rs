//! The servers, as one that does not go away while any of them answers.
//!
//! Responsible for: which server is asked, connections to it, turning to the next when it does
//! not answer, and the seam [`Issuer`] over all that. Always holds: a call tries each server at
//! most once, except that a server that denies the agent is believed only when no other serves
//! it; connections are made anew after the agent's SVID changed. Not here: the push stream
//! (`sync`), whom to trust (`peer_tls`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use mintmark_identity::{
    clock::{Clock, Timestamp},
    svid::jwt::{Audience, UnverifiedJwtSvid, verify_jwt_svid},
};
use mintmark_proto::mintmark::agent::v1::{
    IssueJwtRequest, IssueX509Request, IssueX509Response, agent_client::AgentClient,
    issue_x509_request, issue_x509_response,
};
use mintmark_runtime::{
    grpc::{ChannelOptions, Target, channel},
    network::{Address, Network},
    tls::ClientConfigSource,
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    cache::{Cache, entries::Held},
    issuer::{CsrItem, IssueError, IssuedChain, IssuedToken, Issuer},
    metrics::Metrics,
    status::explain,
    sync::denial_of,
};

/// The largest answer: an update with every entry of a large agent.
pub const RESPONSE_MAX: usize = 64 << 20;
/// How long issuance may take; longer than an election.
const ISSUE_DEADLINE: Duration = Duration::from_secs(20);
/// How far clocks of server and agent may be apart before the agent mistrusts a token.
const LEEWAY: Duration = Duration::from_secs(60);

/// Addresses of servers, and which of them is asked.
#[derive(Debug, Default)]
struct Addresses {
    /// From the configuration, in its order.
    configured: Vec<Address>,
    /// Learned from servers.
    learned: Vec<Address>,
    /// The one that is asked.
    current: usize,
    channels: BTreeMap<Address, Channel>,
    /// Rises whenever all connections are made anew.
    connections: u64,
}

impl Addresses {
    fn all(&self) -> Vec<Address> {
        let mut seen = BTreeSet::new();
        let all = self.configured.iter().chain(&self.learned);
        all.filter(|address| seen.insert((*address).clone()))
            .cloned()
            .collect()
    }

    /// All addresses, the current one first.
    fn round(&self) -> Vec<Address> {
        let mut all = self.all();
        if let Some(turn) = self.current.checked_rem(all.len()) {
            all.rotate_left(turn);
        }
        all
    }

    fn prefer(&mut self, address: &Address) {
        if let Some(at) = self.all().iter().position(|one| one == address) {
            self.current = at;
        }
    }
}

/// The servers. A clone is another handle of the same.
#[derive(Clone)]
pub struct Servers {
    network: Arc<dyn Network>,
    tls: ClientConfigSource,
    addresses: Arc<Mutex<Addresses>>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers")
            .field("addresses", &self.round())
            .finish_non_exhaustive()
    }
}

impl Servers {
    /// Servers at these addresses, reached with this TLS configuration. `turn` chooses the
    /// first, so that agents spread over servers.
    #[must_use]
    pub fn new(
        network: Arc<dyn Network>,
        tls: ClientConfigSource,
        configured: Vec<Address>,
        turn: u64,
        metrics: Arc<Metrics>,
    ) -> Self {
        let count = u64::try_from(configured.len()).unwrap_or(1).max(1);
        let current = usize::try_from(turn.checked_rem(count).unwrap_or(0)).unwrap_or(0);
        let addresses = Addresses {
            configured,
            current,
            ..Addresses::default()
        };
        Self {
            network,
            tls,
            addresses: Arc::new(Mutex::new(addresses)),
            metrics,
        }
    }

    fn with<R>(&self, look: impl FnOnce(&mut Addresses) -> R) -> R {
        look(
            &mut self
                .addresses
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Every server, the one that is asked first in front.
    #[must_use]
    pub fn round(&self) -> Vec<Address> {
        self.with(|addresses| addresses.round())
    }

    /// The server that is asked first.
    #[must_use]
    pub fn current(&self) -> Option<Address> {
        self.round().into_iter().next()
    }

    /// Asks this server first from now on.
    pub fn prefer(&self, address: &Address) {
        if self.current().as_ref() != Some(address) {
            self.metrics.failovers.inc();
            self.with(|addresses| addresses.prefer(address));
        }
    }

    /// Turns to the next server, if there is another.
    pub fn turn_from(&self, address: &Address) {
        let round = self.round();
        if round.first() == Some(address)
            && let Some(next) = round.get(1)
        {
            self.prefer(next);
        }
    }

    /// Takes the addresses from a changed configuration.
    pub fn configure(&self, configured: Vec<Address>) {
        let before = self.current();
        self.with(|addresses| {
            addresses.configured = configured;
            addresses.current = 0;
            if let Some(before) = &before {
                addresses.prefer(before);
            }
        });
    }

    /// Learns addresses from a server. What is no address is left out.
    pub fn learn(&self, servers: &[String]) {
        let learned: Vec<Address> = servers
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let before = self.current();
        self.with(|addresses| {
            if addresses.learned != learned {
                addresses.learned = learned;
                if let Some(before) = &before {
                    addresses.prefer(before);
                }
            }
        });
    }

    /// Makes all further calls on new connections: the agent's SVID changed.
    pub fn reconnect(&self) {
        self.with(|addresses| {
            addresses.channels.clear();
            addresses.connections = addresses.connections.saturating_add(1);
        });
    }

    /// The connection to a server.
    #[must_use]
    pub fn channel(&self, address: &Address) -> Channel {
        self.with(|addresses| {
            let make = || {
                let target = Target::Tcp {
                    address: address.clone(),
                    tls: Some(Arc::clone(&self.tls)),
                };
                let options = ChannelOptions {
                    deadline: ISSUE_DEADLINE,
                    keep_alive_interval: Duration::from_secs(5),
                    keep_alive_timeout: Duration::from_secs(5),
                    ..ChannelOptions::default()
                };
                channel(Arc::clone(&self.network), target, options)
            };
            addresses
                .channels
                .entry(address.clone())
                .or_insert_with(make)
                .clone()
        })
    }

    /// Our own service on a server.
    #[must_use]
    pub fn agent_client(&self, address: &Address) -> AgentClient<Channel> {
        AgentClient::new(self.channel(address)).max_decoding_message_size(RESPONSE_MAX)
    }

    /// Makes a call on the current server, and on each other one while they do not answer.
    ///
    /// # Errors
    /// The first answer that another server would give too, else the last failure.
    pub async fn call<T, F>(&self, call: impl Fn(Address) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut last = Status::unavailable("no server is configured");
        let mut denied = None;
        for address in self.round() {
            let connections = self.with(|addresses| addresses.connections);
            let mut answer = call(address.clone()).await;
            let renewed = || self.with(|addresses| addresses.connections) != connections;
            if answer.as_ref().is_err_and(is_about_identity) && renewed() {
                // The agent's SVID was renewed while the call was on a connection of the last.
                answer = call(address.clone()).await;
            }
            match answer {
                Ok(answer) => {
                    self.prefer(&address);
                    return Ok(answer);
                }
                Err(status) if another_may_answer(&status) => {
                    let reason = explain(&status);
                    tracing::debug!(server = %address, reason, "trying the next server");
                    last = status;
                }
                Err(status) if denial_of(&status).is_some() => {
                    let reason = explain(&status);
                    tracing::warn!(server = %address, reason, "denied: asking the next server");
                    denied = Some(status);
                }
                Err(status) => return Err(status),
            }
        }
        Err(denied.unwrap_or(last))
    }
}

/// Whether this failure is of one server rather than of the request.
#[must_use]
pub fn another_may_answer(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled
    )
}

fn is_about_identity(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated
    )
}

/// Issues through the servers.
#[derive(Clone, Debug)]
pub struct RemoteIssuer {
    /// The servers.
    pub servers: Servers,
    /// The bundles that tokens are verified with.
    pub cache: Cache,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Issuer for RemoteIssuer {
    async fn issue_x509(
        &self,
        items: Vec<CsrItem>,
    ) -> Result<Vec<Result<IssuedChain, IssueError>>, IssueError> {
        let items = items.into_iter().map(|item| issue_x509_request::Item {
            entry_id: item.entry_id.to_string(),
            entry_revision: item.entry_revision,
            csr: item.csr,
        });
        let request = IssueX509Request {
            items: items.collect(),
            agent_csr: Vec::new(),
        };
        let response = self.issue(&request).await?;
        Ok(response.items.into_iter().map(item_result).collect())
    }

    async fn issue_jwt(&self, held: &Held, audience: &Audience) -> Result<IssuedToken, IssueError> {
        let request = IssueJwtRequest {
            entry_id: held.entry.id.to_string(),
            entry_revision: held.entry.revision,
            audience: audience.values().to_vec(),
        };
        let response = self.servers.call(|address| {
            let (mut client, request) = (self.servers.agent_client(&address), request.clone());
            async move { client.issue_jwt(request).await }
        });
        let response = response.await?.into_inner();
        let issued_at = Timestamp::from_unix_millis(response.issued_at_ms);
        self.check(response.token, held, audience, issued_at)
    }
}

impl RemoteIssuer {
    async fn issue(&self, request: &IssueX509Request) -> Result<IssueX509Response, Status> {
        let response = self.servers.call(|address| {
            let (mut client, request) = (self.servers.agent_client(&address), request.clone());
            async move { client.issue_x509(request).await }
        });
        Ok(response.await?.into_inner())
    }

    /// A token is handed on only if its verifiers will accept it and it says what was asked.
    fn check(
        &self,
        token: String,
        held: &Held,
        audience: &Audience,
        issued_at: Timestamp,
    ) -> Result<IssuedToken, IssueError> {
        let bad = |what: &str| IssueError::misbehaved(&format!("the token issued {what}"));
        let now = self.clock.now();
        let bundles = &self.cache.current().bundles;
        let verified = verify_jwt_svid(&token, audience, bundles, now, LEEWAY)
            .map_err(|error| bad(&format!("does not verify: {error}")))?;
        let content = UnverifiedJwtSvid::parse(&token).map_err(|_| bad("is malformed"))?;
        if verified.spiffe_id != held.entry.spiffe_id {
            return Err(bad("is for another identity"));
        }
        if content.audience != audience.values() {
            return Err(bad("is for another audience"));
        }
        Ok(IssuedToken {
            token,
            authority_id: content.kid,
            issued_at,
            expires_at: verified.expires_at,
        })
    }
}

/// An item's answer as a result.
///
/// # Errors
/// What the server said about the item.
pub fn item_result(item: issue_x509_response::Item) -> Result<IssuedChain, IssueError> {
    match (item.code, item.svid) {
        (0, Some(svid)) => Ok(IssuedChain { chain: svid.chain }),
        (0, None) => Err(IssueError::misbehaved("an issued item holds no SVID")),
        (code, _) => Err(IssueError {
            code: Code::from_i32(code),
            message: item.message,
        }),
    }
}
