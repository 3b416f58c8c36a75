//! The server's gRPC API: SPIRE's services, and our own.
//!
//! Always: every method first names its action and gets a permit; limits come before cryptography; the
//! same services answer on the TCP listener and on the private socket, and the caller makes the
//! difference.
//!
//! Not here: what anything means; methods translate between the wire and the modules that do it.

pub mod agent;
pub mod agent_admin;
pub mod attest;
pub mod audit;
pub mod bundle;
pub mod caller;
pub mod cluster;
pub mod consistency;
pub mod entry;
pub mod filter;
#[cfg(test)]
pub(crate) mod fixture;
pub mod mintmark_agent;
pub mod resume;
pub mod routes;
pub mod status;
pub mod svid;

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::raft::v1::{Actor, CommandResult, Refusal, command};
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::grpc::ConnectInfo;
use mintmark_runtime::host::Host;
use mintmark_runtime::task::Tasks;
use tonic::Request;

use self::resume::Nonces;
use self::status::ApiError;
use crate::Consensus;
use crate::audit::denials::Denials;
use crate::authority::keyring::Keyring;
use crate::authority::rotation::Rotation;
use crate::fanout::Hub;
use crate::fanout::acknowledgements::Acknowledgements;
use crate::issuance::Issuer;
use crate::issuance::limits::{ATTEST_RATE, REPORT_RATE, RateLimiter, SIGN_RATE};
use crate::metrics::Metrics;
use crate::policy::{self, Action, AgentCaller, Caller, Denied, Permit};
use crate::raft::Proposed;

/// Metadata that carries the idempotency key of a mutating request, 32 hexadecimal digits.
pub const IDEMPOTENCY_HEADER: &str = "mintmark-idempotency-key";

/// Without word from the leader for so long, a server is stale: it says so to its streams, and answers
/// no poll.
pub const STALE_AFTER: Duration = Duration::from_secs(2);

/// Limits of rate, one for each kind of work.
#[derive(Debug)]
pub struct Limits {
    /// Attestations, resumes and joins, by address.
    pub attest: RateLimiter,
    /// Signatures, by agent.
    pub sign: RateLimiter,
    /// Reports, by agent.
    pub report: RateLimiter,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attest: RateLimiter::new(ATTEST_RATE),
            sign: RateLimiter::new(SIGN_RATE),
            report: RateLimiter::new(REPORT_RATE),
        }
    }
}

/// What every service works with.
#[derive(Debug)]
pub struct Shared {
    /// The machine.
    pub host: Host,
    /// Log and state.
    pub consensus: Consensus,
    /// Makes SVIDs.
    pub issuer: Issuer,
    /// Opened keys.
    pub keyring: Arc<Keyring>,
    /// Push streams.
    pub hub: Hub,
    /// What agents serve.
    pub acknowledgements: Acknowledgements,
    /// The audit log.
    pub audit: crate::audit::AuditLog,
    /// Refusals that the log has to show.
    pub denials: Denials,
    /// Outstanding nonces.
    pub nonces: Nonces,
    /// Limits of rate.
    pub limits: Limits,
    /// The rotation job.
    pub rotation: Rotation,
    /// Counters.
    pub metrics: Metrics,
    /// Background work.
    pub tasks: Tasks,
    /// When this process started.
    pub started_at: Timestamp,
}

/// A handle on [`Shared`]; every service is one.
pub type Services = Arc<Shared>;

impl Shared {
    /// Who asks.
    pub fn caller<T>(&self, request: &Request<T>) -> Caller {
        self.peer(request.extensions().get::<ConnectInfo>())
    }

    fn peer(&self, info: Option<&ConnectInfo>) -> Caller {
        let now = self.host.clock.now();
        self.consensus
            .read(|state| caller::resolve(info, state, now))
    }

    /// Who asks, and the permit to do it. A refusal on which agents discard their identity is given
    /// only when a read index confirms it: this server may be the last to hear of what it is about.
    ///
    /// # Errors
    /// When policy says no, or nobody confirms that it does.
    pub fn permit<'a, T>(
        &'a self,
        request: &Request<T>,
        action: Action,
    ) -> impl Future<Output = Result<(Caller, Permit), ApiError>> + Send + use<'a, T> {
        // The request itself is not kept: a stream in it need not be shared between threads.
        let info = request.extensions().get::<ConnectInfo>().cloned();
        async move { self.permit_peer(info, action).await }
    }

    async fn permit_peer(
        &self,
        info: Option<ConnectInfo>,
        action: Action,
    ) -> Result<(Caller, Permit), ApiError> {
        let mut caller = self.peer(info.as_ref());
        let mut decided = policy::decide(&caller, action);
        if decided.as_ref().is_err_and(Denied::costs_an_identity) {
            self.confirm(&caller).await?;
            caller = self.peer(info.as_ref());
            decided = policy::decide(&caller, action);
        }
        match decided {
            Ok(permit) => {
                if let Some(agent) = permit.agent() {
                    self.note_use(agent);
                }
                Ok((caller, permit))
            }
            Err(denied) => {
                self.metrics.denied(action);
                self.denials.record(&caller, action, &denied);
                Err(denied.into())
            }
        }
    }

    /// Takes note when an agent is seen with an SVID that it has just been given: from then on the one
    /// before, of which somebody may have a copy, is worth nothing.
    fn note_use(&self, agent: &AgentCaller) {
        let pending = self.consensus.read(|state| {
            let node = state.attested_node(&agent.id);
            node.is_some_and(|node| node.pending_serial == agent.serial.as_bytes())
        });
        if pending {
            self.acknowledgements.seen(&agent.id, &agent.serial);
        }
    }

    /// Waits until the state here has all that was acknowledged anywhere. Whoever is refused again
    /// and again may not keep the leader busy.
    async fn confirm(&self, caller: &Caller) -> Result<(), ApiError> {
        let taken = self.limits.attest.take(&caller.rate_key(), 1);
        taken.map_err(|wait| ApiError::RateLimited { wait })?;
        let read = self.consensus.read_index().await;
        read.map_err(|_| ApiError::Stale)
    }

    /// Whether what this server knows may be told to agents and to the public: not when it could have
    /// been overtaken. Agents keep what they have, and ask another server.
    ///
    /// # Errors
    /// [`ApiError::Stale`] when no quorum was heard for [`STALE_AFTER`].
    pub fn fresh(&self) -> Result<(), ApiError> {
        let age = self.consensus.quorum_age();
        match age {
            Some(age) if age <= STALE_AFTER => Ok(()),
            _ => Err(ApiError::Stale),
        }
    }

    /// Proposes a command and waits until this server has applied it.
    ///
    /// # Errors
    /// When the log does not take it, or the state refuses it as a whole.
    pub async fn propose(
        &self,
        actor: Actor,
        body: command::Body,
        idempotency: Option<[u8; 16]>,
    ) -> Result<Proposed, ApiError> {
        let proposed = self
            .consensus
            .propose(body, actor, idempotency)
            .await
            .map_err(ApiError::Propose)?;
        accepted(&proposed.result)?;
        reach(Step::CommandUnanswered);
        Ok(proposed)
    }
}

/// Turns a refusal of a whole command into an error.
///
/// # Errors
/// When the state refused it.
pub fn accepted(result: &CommandResult) -> Result<(), ApiError> {
    match result.refusal() {
        Refusal::Unspecified => Ok(()),
        refusal => Err(ApiError::Refused {
            refusal,
            detail: result.detail.clone(),
        }),
    }
}

/// The idempotency key of a request, where it brings one.
///
/// # Errors
/// When there is one and it is malformed.
pub fn idempotency_key<T>(request: &Request<T>) -> Result<Option<[u8; 16]>, ApiError> {
    let Some(value) = request.metadata().get(IDEMPOTENCY_HEADER) else {
        return Ok(None);
    };
    let malformed = || ApiError::invalid(IDEMPOTENCY_HEADER, "is not 32 hexadecimal digits");
    let mut key = [0; 16];
    hex::decode_to_slice(value.as_bytes(), &mut key).map_err(|_| malformed())?;
    Ok(Some(key))
}
