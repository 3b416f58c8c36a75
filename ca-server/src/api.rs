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

use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::raft::v1::{Actor, CommandResult, Refusal, command};
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
use crate::policy::{self, Action, Caller, Permit};
use crate::raft::Proposed;

/// Metadata that carries the idempotency key of a mutating request, 32 hexadecimal digits.
pub const IDEMPOTENCY_HEADER: &str = "mintmark-idempotency-key";

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
        let now = self.host.clock.now();
        let info = request.extensions().get::<ConnectInfo>();
        self.consensus
            .read(|state| caller::resolve(info, state, now))
    }

    /// Who asks, and the permit to do it.
    ///
    /// # Errors
    /// When policy says no.
    pub fn permit<T>(
        &self,
        request: &Request<T>,
        action: Action,
    ) -> Result<(Caller, Permit), ApiError> {
        let caller = self.caller(request);
        match policy::decide(&caller, action) {
            Ok(permit) => Ok((caller, permit)),
            Err(denied) => {
                self.metrics.denied(action);
                self.denials.record(&caller, action, &denied);
                Err(denied.into())
            }
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
