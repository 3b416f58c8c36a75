//! The stream by which a server tells the agent everything, as it commits.
//!
//! Responsible for: keeping one stream to one server, resuming where the agent is, taking
//! updates into the cache, acknowledging what is served and kept, and turning to another server
//! when this one is stale, behind, or gone. Always holds: nothing is acknowledged before the
//! denials that lead up to it are on disk; an update older than what the agent has seen is
//! refused. Not here: what an update changes (`cache::state`).

use std::{sync::Arc, time::Duration};

use mintmark_identity::{entropy::draw_u64, trust_domain::TrustDomain};
use mintmark_proto::mintmark::agent::v1 as pb;
use mintmark_runtime::{
    Host,
    backoff::Backoff,
    failpoint::{Step, reach},
    mutation::{self, Bug},
    network::Address,
    task::periodic::Wake,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::{
    cache::{
        Cache,
        keeper::Kept,
        state::{Denial, Position},
    },
    code,
    metrics::Metrics,
    pinning::{Doubt, Pinning},
    server_client::{Failure, Servers},
    status::{NOT_ACTIVE, code_of, explain, is_stranger},
    trust::Trust,
};

pub mod convert;

/// Messages to the server that may wait; acknowledgements supersede each other.
const OUTGOING: usize = 4;
/// How long a server may take to begin its answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// By how much the agents of a stale server spread their search for another, at first.
const SEEK_SPREAD: Duration = Duration::from_millis(500);
/// The longest pause in that search.
const SEEK_RETRY_MAX: Duration = Duration::from_secs(5);
/// How long another server may take to show that it is not stale.
const SEEK_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps the stream.
#[derive(Clone, Debug)]
pub struct UpdateStream {
    /// The machine.
    pub host: Host,
    /// This agent's trust domain.
    pub trust_domain: TrustDomain,
    /// What updates change.
    pub cache: Cache,
    /// The servers.
    pub servers: Servers,
    /// Rises whenever the agent has a new SVID of its own; 0 while it has none that holds.
    pub identity: watch::Receiver<u64>,
    /// Up to where the disk agrees with the cache.
    pub kept: watch::Receiver<Option<Kept>>,
    /// Up to which bundle a restart would verify servers with the same.
    pub trusted: watch::Receiver<u64>,
    /// Which identity servers do not accept, because another of this agent is in use.
    pub superseded: watch::Sender<u64>,
    /// Whom the agent believes.
    pub trust: Trust,
    /// How it gets a bundle when no server can be verified with the one it has.
    pub pinning: Pinning,
    /// Woken when a server was reached.
    pub reached: Wake,
    /// Whether a stream is open.
    pub connected: Arc<watch::Sender<bool>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// An open stream.
struct Session {
    address: Address,
    outgoing: mpsc::Sender<pb::AgentMessage>,
    incoming: Streaming<pb::ServerMessage>,
    /// A message that was read while looking whether the server is any good.
    first: Option<pb::ServerMessage>,
}

/// Why a session ended.
enum End {
    /// The agent has a new SVID: the same server, a new connection.
    NewIdentity,
    /// Another server is fresher.
    Switch(Box<Session>),
    /// The server is of no use now.
    Failed(Status),
    /// The agent is denied; nothing more is to be heard.
    Denied,
    /// The agent stops.
    Stopped,
}

impl UpdateStream {
    /// Runs until the token is cancelled or the agent is denied.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut next: Option<Box<Session>> = None;
        let mut doubt = Doubt::default();
        loop {
            let session = match next.take() {
                Some(session) => Ok(*session),
                None => match self.open_any(&stop).await {
                    Some(opened) => opened,
                    None => return,
                },
            };
            let end = match session {
                Ok(session) => {
                    backoff.reset();
                    doubt.over();
                    self.set_connected(true);
                    let address = session.address.clone();
                    tracing::info!(server = %address, "receiving updates");
                    let end = self.listen(session, &stop).await;
                    self.set_connected(false);
                    if let End::Failed(status) = &end {
                        let status = explain(status);
                        tracing::warn!(server = %address, status, "the stream of updates ended");
                        self.servers.turn_from(&address);
                    }
                    end
                }
                Err(status) => End::Failed(status),
            };
            match end {
                End::Stopped | End::Denied => return,
                End::NewIdentity => {}
                End::Switch(session) => next = Some(session),
                End::Failed(status) => {
                    if let Some(denial) = denial_of(&status) {
                        self.cache.change(|state| state.deny(denial));
                        return;
                    }
                    let delay = backoff.next_delay(draw_u64(self.host.entropy.as_ref()));
                    if backoff.failures() == 3 {
                        let status = explain(&status);
                        tracing::warn!(code = %code::NO_SERVER, status, "no server answers");
                    }
                    doubt.failed(is_stranger(&status), backoff.failures());
                    let pause = async {
                        if doubt.is_due() {
                            self.refresh_trust().await;
                        }
                        tokio::time::sleep(delay).await;
                    };
                    tokio::select! {
                        () = pause => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// The pinned key says what holds now.
    async fn refresh_trust(&self) {
        let seen = self.cache.current().bundle_position();
        if let Err(error) = self.pinning.ask(&self.servers, &self.trust, seen).await {
            tracing::debug!(%error, "no statement about the bundle");
        }
    }

    fn set_connected(&self, connected: bool) {
        self.metrics.connected.set(i64::from(connected));
        self.connected.send_replace(connected);
        if connected {
            self.reached.wake();
        }
    }

    /// Waits for an identity, then opens a stream to the first server that takes one. `None`
    /// when the agent stops.
    async fn open_any(&mut self, stop: &CancellationToken) -> Option<Result<Session, Status>> {
        tokio::select! {
            known = self.identity.wait_for(|identity| *identity != 0) => {
                known.ok()?;
            }
            () = stop.cancelled() => return None,
        }
        let identity = *self.identity.borrow_and_update();
        let this = &*self;
        let opening = this.servers.ask_any(|server| this.open(server), judge);
        let opened = tokio::select! {
            opened = opening => opened,
            () = stop.cancelled() => return None,
        };
        if let Err(status) = &opened
            && code_of(status).as_deref() == Some(NOT_ACTIVE)
        {
            // Told once, so that what follows has its pauses.
            self.superseded
                .send_if_modified(|told| std::mem::replace(told, identity) != identity);
        }
        Some(opened)
    }

    async fn open(&self, address: Address) -> Result<Session, Status> {
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let seen = self.cache.current().position;
        let seen = seen.filter(|_| !mutation::is(Bug::OlderUpdateTaken));
        let begin = pb::agent_message::Begin {
            resume_from: seen.map(to_wire),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let begin = pb::AgentMessage {
            body: Some(pb::agent_message::Body::Begin(begin)),
        };
        outgoing
            .send(begin)
            .await
            .map_err(|_| Status::internal("the channel is closed"))?;
        let mut client = self.servers.agent_client(&address);
        let opening = client.sync(ReceiverStream::new(messages));
        let incoming = tokio::time::timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("the server took too long to answer"))??
            .into_inner();
        Ok(Session {
            address,
            outgoing,
            incoming,
            first: None,
        })
    }

    async fn listen(&mut self, mut session: Session, stop: &CancellationToken) -> End {
        let mut acknowledged: Option<Kept> = None;
        let mut seeking = Seeking::default();
        if let Some(first) = session.first.take()
            && let Some(end) = self.take(first, &session.address, &mut seeking)
        {
            return end;
        }
        self.kept.mark_changed();
        loop {
            tokio::select! {
                message = session.incoming.message() => {
                    let end = match message {
                        Ok(Some(message)) => self.take(message, &session.address, &mut seeking),
                        Ok(None) => Some(End::Failed(Status::unavailable("the server closed the stream"))),
                        // The server ends the stream of the last SVID when it sees the new one.
                        Err(_) if self.identity.has_changed().unwrap_or(false) => {
                            Some(End::NewIdentity)
                        }
                        Err(status) => Some(End::Failed(status)),
                    };
                    if let Some(end) = end {
                        return end;
                    }
                }
                kept = self.kept.changed() => {
                    if kept.is_err() {
                        return End::Stopped;
                    }
                    self.acknowledge(&session, &mut acknowledged);
                }
                trusted = self.trusted.changed() => {
                    if trusted.is_err() {
                        return End::Stopped;
                    }
                    self.acknowledge(&session, &mut acknowledged);
                }
                session = seeking.next() => {
                    tracing::info!(server = %session.address, "turning to a server that is not stale");
                    self.servers.prefer(&session.address);
                    return End::Switch(session);
                }
                changed = self.identity.changed() => {
                    return if changed.is_err() { End::Stopped } else { End::NewIdentity };
                }
                () = stop.cancelled() => return End::Stopped,
            }
        }
    }

    /// Acknowledges what is served and kept, if that is news, and no bundle that a restart would not
    /// trust. A full channel only means that the server is slow: the next acknowledgement says
    /// everything again.
    fn acknowledge(&mut self, session: &Session, acknowledged: &mut Option<Kept>) {
        let trusted = *self.trusted.borrow_and_update();
        let kept = self.kept.borrow_and_update().map(|kept| Kept {
            bundle_sequence: kept.bundle_sequence.min(trusted),
            ..kept
        });
        let Some(now) = kept.filter(|kept| Some(*kept) != *acknowledged) else {
            return;
        };
        let acknowledge = pb::agent_message::Acknowledge {
            position: Some(to_wire(now.position)),
            bundle_sequence: now.bundle_sequence,
        };
        let message = pb::AgentMessage {
            body: Some(pb::agent_message::Body::Acknowledge(acknowledge)),
        };
        if session.outgoing.try_send(message).is_ok() {
            *acknowledged = kept;
        } else {
            self.kept.mark_changed();
        }
    }

    /// Takes a message in. Returns how the session ends, if it does.
    fn take(
        &self,
        message: pb::ServerMessage,
        address: &Address,
        seeking: &mut Seeking,
    ) -> Option<End> {
        match message.body {
            Some(pb::server_message::Body::Update(update)) => self.update(update),
            Some(pb::server_message::Body::Stale(stale)) => {
                tracing::warn!(server = %address, seconds = stale.seconds, "the server is stale");
                seeking.begin(self.clone(), address.clone());
                None
            }
            Some(pb::server_message::Body::Fresh(_)) => {
                seeking.stop();
                None
            }
            // A newer server may say things that this agent does not know.
            None => None,
        }
    }

    fn update(&self, update: pb::Update) -> Option<End> {
        let denial = match (update.banned, update.evicted) {
            (true, _) => Some(Denial::Banned),
            (false, true) => Some(Denial::Evicted),
            (false, false) => None,
        };
        if let Some(denial) = denial {
            tracing::error!(
                ?denial,
                "the trust domain denies this agent: dropping every SVID"
            );
            reach(Step::DenialHeard);
            self.cache.change(|state| state.deny(denial));
            return Some(End::Denied);
        }
        let now = self.host.clock.now();
        let applied = convert::update(update, &self.trust_domain)
            .map_err(|error| Status::data_loss(error.to_string()))
            .and_then(|update| {
                self.cache
                    .try_change(|state| state.apply(update, now))
                    .map_err(|error| Status::failed_precondition(error.to_string()))
            });
        match applied {
            Ok(()) => {
                self.metrics.last_update.set(now.unix_secs());
                self.servers.learn(&self.cache.current().defaults.servers);
                None
            }
            Err(status) => {
                self.metrics.updates_refused.inc();
                tracing::error!(code = %code::SERVER_MISBEHAVED, %status, "update refused");
                Some(End::Failed(status))
            }
        }
    }

    /// Looks for a server that is not stale, again and again: the first of the others whose
    /// stream begins with anything else.
    async fn seek(self, from: Address) -> Box<Session> {
        let mut backoff = Backoff::new(SEEK_SPREAD, SEEK_RETRY_MAX);
        loop {
            let draw = draw_u64(self.host.entropy.as_ref());
            tokio::time::sleep(backoff.next_delay(draw)).await;
            for address in self.servers.round() {
                if address == from {
                    continue;
                }
                if let Some(session) = self.probe(address).await {
                    return session;
                }
            }
        }
    }

    /// Opens a stream and returns it if the server behind it is not stale.
    async fn probe(&self, address: Address) -> Option<Box<Session>> {
        let probe = async {
            let mut session = self.open(address).await.ok()?;
            let first = session.incoming.message().await.ok()??;
            let stale = matches!(first.body, Some(pb::server_message::Body::Stale(_)) | None);
            session.first = Some(first);
            (!stale).then(|| Box::new(session))
        };
        tokio::time::timeout(SEEK_TIMEOUT, probe).await.ok()?
    }
}

type Search = std::pin::Pin<Box<dyn Future<Output = Box<Session>> + Send>>;

/// The search for a better server, while there is one.
#[derive(Default)]
struct Seeking(Option<Search>);

impl Seeking {
    fn begin(&mut self, stream: UpdateStream, from: Address) {
        if self.0.is_none() {
            self.0 = Some(Box::pin(stream.seek(from)));
        }
    }

    fn stop(&mut self) {
        self.0 = None;
    }

    async fn next(&mut self) -> Box<Session> {
        match &mut self.0 {
            None => std::future::pending().await,
            Some(search) => {
                let found = search.as_mut().await;
                self.0 = None;
                found
            }
        }
    }
}

fn to_wire(position: Position) -> pb::Position {
    pb::Position {
        epoch: position.epoch,
        index: position.index,
    }
}

/// What a server tells that opens no stream. That another SVID of this agent is in use it has made
/// sure of.
fn judge(server: &Address, status: &Status) -> Failure {
    let reason = explain(status);
    tracing::debug!(%server, reason, "no stream of updates");
    if denial_of(status).is_some() {
        Failure::Denial
    } else if code_of(status).as_deref() == Some(NOT_ACTIVE) {
        Failure::OfRequest
    } else if is_stranger(status) {
        Failure::Stranger
    } else {
        Failure::OfServer
    }
}

/// Whether a server's refusal means that the trust domain denies this agent.
#[must_use]
pub fn denial_of(status: &Status) -> Option<Denial> {
    if !matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated
    ) {
        return None;
    }
    match code_of(status)?.as_str() {
        "MM-1103" => Some(Denial::Banned),
        "MM-1105" => Some(Denial::Evicted),
        _ => None,
    }
}
