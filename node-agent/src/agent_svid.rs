//! The agent's own SVID: attested once, renewed at half life, resumed after an outage.
//!
//! Responsible for: deciding which of these is due, doing it with whichever server answers, and
//! publishing the result to TLS. Always holds: the key of every request is on disk before the
//! request; a disk that takes nothing costs no identity, only the change of its key; an SVID that
//! expired is not shown any more; when the trust domain denies this agent, its identity is gone
//! from memory and disk. Not here: the files (`store`), evidence (`attestation`), resuming
//! (`resume`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mintmark_identity::{
    clock::Timestamp, entropy::draw_u64, rotation::renewal_due_once_received, secret::SecretBytes,
    svid::x509::X509Svid, tls::BundleSource, trust_domain::TrustDomain,
};
use mintmark_proto::mintmark::agent::v1::IssueX509Request;
use mintmark_runtime::{
    Host,
    backoff::{Backoff, fraction},
    cause, failpoint,
    tls::ClientConfigSource,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use self::{
    store::{Denied, Own, Store, StoreError},
    superseded::Superseded,
};
use crate::{
    attestation::NodeAttestor,
    cache::{
        Cache,
        plan::{TAINT_SPREAD, longest_pause},
        state::{Denial, State},
    },
    code,
    csr::NewKey,
    issuer::IssueError,
    metrics::Metrics,
    peer_tls::OwnSvid,
    pinning::{Doubt, Pinning},
    server_client::{Servers, item_result},
    status::{NOT_ACTIVE, code_of, explain, is_stranger},
    sync::denial_of,
    trust::Trust,
    verify,
};

mod resume;
pub mod store;
pub mod superseded;

/// Pause after the first failure to renew, and the longest one.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Pause before an SVID that could not be kept is written again.
const KEEP_RETRY: Duration = Duration::from_secs(5);

/// Why an agent cannot go on without a person.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The trust domain has banned it.
    #[error(
        "{}: the trust domain has banned the agent {agent_id}",
        code::AGENT_BANNED
    )]
    Banned {
        /// Which agent.
        agent_id: String,
    },
    /// The trust domain has evicted it, and a join token works once.
    #[error(
        "{}: the trust domain has evicted the agent {agent_id}; attesting anew needs another join token",
        code::AGENT_EVICTED
    )]
    Evicted {
        /// Which agent.
        agent_id: String,
    },
    /// Its SVID expired and no server accepts its key.
    #[error(
        "{}: the agent's SVID expired and no server resumes it: {reason}",
        code::AGENT_NOT_RESUMED
    )]
    NotResumed {
        /// What the server said.
        reason: String,
    },
    /// The server refused its evidence.
    #[error(
        "{}: the server refused the attestation: {reason}",
        code::JOIN_TOKEN_REFUSED
    )]
    Refused {
        /// What the server said.
        reason: String,
    },
    /// It has no identity and no evidence.
    #[error(
        "{}: the agent has no identity and nothing to attest with",
        code::NOTHING_TO_ATTEST_WITH
    )]
    NothingToAttestWith,
    /// Its own files fail it.
    #[error("{}: the agent's identity cannot be kept", code::DISK)]
    Store(#[from] StoreError),
}

/// What keeps the agent's SVID.
#[derive(Debug)]
pub struct AgentSvid {
    /// The machine.
    pub host: Host,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its files.
    pub store: Store,
    /// How it attests, if it has evidence.
    pub attestor: Option<Box<dyn NodeAttestor>>,
    /// What TLS shows.
    pub own: OwnSvid,
    /// The servers.
    pub servers: Servers,
    /// Whom it believes.
    pub trust: Trust,
    /// How it gets a bundle when it has none that is valid.
    pub pinning: Pinning,
    /// TLS towards servers, for resuming.
    pub tls: Tls,
    /// What workloads are served from.
    pub cache: Cache,
    /// Rises with each new SVID; 0 while there is none that holds.
    pub identity: watch::Sender<u64>,
    /// Whether servers say that another of its SVIDs is in use.
    pub superseded: Superseded,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// A TLS configuration, which has no `Debug` of its own.
#[derive(Clone)]
pub struct Tls(pub ClientConfigSource);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// What to do for the agent's identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Attest,
    Renew,
    Resume,
    Wait(Timestamp),
}

/// How the present SVID stands with the bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Peers accept it.
    Good,
    /// Its authority is tainted: it is to be renewed at this time.
    Tainted(Timestamp),
    /// It expired, or its authority left the bundle: nobody accepts it.
    Refused,
}

fn next_step(own: Option<&Own>, standing: Standing, now: Timestamp) -> Step {
    let Some(own) = own else { return Step::Attest };
    let due = match standing {
        Standing::Refused => return Step::Resume,
        Standing::Tainted(at) => own.renew_at.min(at),
        Standing::Good => own.renew_at,
    };
    if due <= now {
        Step::Renew
    } else {
        Step::Wait(due)
    }
}

/// The pause after a failure: while there is an SVID, a server that comes back before it expires is
/// asked before it expires.
fn before_it_ends(pause: Duration, end: Option<Timestamp>, now: Timestamp) -> Duration {
    let end = end.filter(|end| *end > now);
    end.map_or(pause, |end| pause.min(longest_pause(now, end, RETRY_FIRST)))
}

/// Waits until the SVID that is being renewed expires: then no server takes it, and it is resumed by its
/// key, whoever has not answered yet.
async fn lapsed(step: Step, own: Option<&Own>, now: Timestamp) {
    let Some(own) = own.filter(|_| step == Step::Renew) else {
        return std::future::pending().await;
    };
    let left = own.svid.validity().not_after.since(now);
    let left = left.saturating_add(Duration::from_millis(1));
    tokio::time::sleep(left.max(RETRY_FIRST)).await;
}

/// How an attempt failed.
enum Failure {
    /// Trying again may help.
    Passing(String),
    /// So it may, but with another bundle: this one does not verify the server.
    Stranger(String),
    /// The SVID that was to be renewed expired meanwhile: it is to be resumed.
    Lapsed,
    /// A person must act.
    Final(AgentError),
}

impl Failure {
    /// What a call ended with that may be tried again.
    fn of(status: &Status) -> Self {
        let reason = explain(status);
        if is_stranger(status) {
            Self::Stranger(reason)
        } else {
            Self::Passing(reason)
        }
    }

    /// Why, and whether the server is one that the bundle does not verify; or what a person must know.
    fn passing(self) -> Result<(String, bool), AgentError> {
        match self {
            Self::Passing(reason) => Ok((reason, false)),
            Self::Stranger(reason) => Ok((reason, true)),
            Self::Lapsed => Ok(("it expired".to_owned(), false)),
            Self::Final(error) => Err(error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Passing(cause::chain(&error))
    }
}

impl AgentSvid {
    /// Runs until the token is cancelled; ends early with what a person must know.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn run(
        mut self,
        mut own: Option<Own>,
        stop: CancellationToken,
    ) -> Result<(), AgentError> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut states = self.cache.watch();
        let mut trust = self.trust.replaced();
        let mut kept = true;
        let mut doubt = Doubt::default();
        loop {
            let now = self.host.clock.now();
            if let Some(own) = own.as_ref().filter(|_| !kept) {
                kept = self.keep(own);
            }
            trust.mark_unchanged();
            let (denied, tainted) = {
                let state = states.borrow_and_update();
                (state.denied, Arc::clone(&state.tainted))
            };
            let standing = self.standing(own.as_ref(), &tainted, now);
            self.show(own.as_ref().filter(|_| standing != Standing::Refused));
            if let Some(denial) = denied {
                return Err(self.denied(denial, own.as_ref()));
            }
            let step = self.sooner_if_superseded(next_step(own.as_ref(), standing, now), now);
            let wait = match step {
                Step::Wait(at) => at.since(now),
                step => match self
                    .perform(step, own.as_ref(), doubt.is_due(), &stop)
                    .await
                {
                    Some(Ok(fresh)) => {
                        backoff.reset();
                        doubt.over();
                        kept = self.keep(&fresh);
                        self.adopt(&fresh);
                        own = Some(fresh);
                        continue;
                    }
                    Some(Err(Failure::Lapsed)) => continue,
                    Some(Err(failure)) => {
                        let (reason, is_stranger) = failure.passing()?;
                        tracing::warn!(?step, reason, "the agent's SVID: trying again");
                        let delay = backoff.next_delay(draw_u64(self.host.entropy.as_ref()));
                        let end = own.as_ref().map(|own| own.svid.validity().not_after);
                        let delay = before_it_ends(delay, end, self.host.clock.now());
                        doubt.failed(is_stranger, backoff.failures());
                        if is_stranger && doubt.is_due() {
                            // What to trust is asked at once: pauses are for servers that cannot answer.
                            continue;
                        }
                        delay
                    }
                    None => return Ok(()),
                },
            };
            let wait = self.bounded(wait, own.as_ref());
            let wait = if kept { wait } else { wait.min(KEEP_RETRY) };
            let news =
                |state: &State| state.denied.is_some() || !Arc::ptr_eq(&state.tainted, &tainted);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = trust.changed() => {
                    if changed.is_err() { return Ok(()) }
                    doubt.over();
                }
                () = self.superseded.changed() => {}
                changed = states.wait_for(|state| news(state)) => {
                    if changed.is_err() { return Ok(()) }
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// An SVID that servers do not accept any more, because another of this agent is in use, is
    /// replaced before it is due.
    fn sooner_if_superseded(&mut self, step: Step, now: Timestamp) -> Step {
        let Step::Wait(at) = step else {
            self.superseded.forget();
            return step;
        };
        let identity = *self.identity.borrow();
        let draw = draw_u64(self.host.entropy.as_ref());
        match self.superseded.replace_at(identity, now, draw) {
            Some(sooner) if sooner <= now => Step::Renew,
            Some(sooner) => Step::Wait(at.min(sooner)),
            None => step,
        }
    }

    fn standing(
        &self,
        own: Option<&Own>,
        tainted: &BTreeMap<String, Timestamp>,
        now: Timestamp,
    ) -> Standing {
        let Some(own) = own else {
            return Standing::Good;
        };
        match verify::authority_of(&own.chain, &self.trust.bundles(), now) {
            None => Standing::Refused,
            Some(authority) => tainted.get(&authority).map_or(Standing::Good, |since| {
                Standing::Tainted(since.saturating_add(fraction(TAINT_SPREAD, own.draw)))
            }),
        }
    }

    /// Looks again when the present SVID expires, and now and then in case the clock is set.
    fn bounded(&self, wait: Duration, own: Option<&Own>) -> Duration {
        // An attempt that failed took its time.
        let now = self.host.clock.now();
        let end = own
            .map(|own| own.svid.validity().not_after)
            .filter(|end| *end >= now);
        let end = end.map_or(Duration::MAX, |end| {
            end.since(now).saturating_add(Duration::from_millis(1))
        });
        wait.min(end).min(Duration::from_secs(60))
    }

    /// Stops showing an SVID to TLS that no server accepts.
    fn show(&self, accepted: Option<&Own>) {
        if accepted.is_none() {
            self.own.set(None);
            self.identity
                .send_if_modified(|identity| std::mem::replace(identity, 0) != 0);
        }
        let end = accepted.map_or(0, |own| own.svid.validity().not_after.unix_secs());
        self.metrics.agent_svid_expiry.set(end);
    }

    /// Writes a new SVID; whether that succeeded. If not, it is used all the same: its key is on disk,
    /// by which a restarted agent resumes.
    fn keep(&self, own: &Own) -> bool {
        let kept = self.store.keep(own);
        if let Err(error) = &kept {
            tracing::error!(
                code = %code::DISK, error = cause::chain(error),
                "the agent's new SVID cannot be kept; it is used, and written again later"
            );
        }
        kept.is_ok()
    }

    /// Uses a new SVID from now on.
    fn adopt(&self, own: &Own) {
        let validity = own.svid.validity();
        tracing::info!(
            agent_id = %own.svid.spiffe_id(), serial = own.svid.serial(),
            not_after = %validity.not_after, "the agent has a new SVID"
        );
        self.own.set(Some(Arc::clone(&own.svid)));
        self.servers.reconnect();
        self.identity
            .send_modify(|identity| *identity = identity.saturating_add(1));
    }

    /// Does one step. `None` when the agent stops.
    async fn perform(
        &mut self,
        step: Step,
        own: Option<&Own>,
        is_doubtful: bool,
        stop: &CancellationToken,
    ) -> Option<Result<Own, Failure>> {
        tracing::debug!(?step, "the agent's SVID");
        let lapsed = lapsed(step, own, self.host.clock.now());
        let doing = async {
            self.ensure_trust(is_doubtful).await?;
            match (step, own) {
                (Step::Renew, Some(own)) => self.renew(own).await,
                (Step::Resume, Some(own)) => self.resume(own).await,
                _ => self.attest().await,
            }
        };
        tokio::select! {
            biased;
            done = doing => Some(done),
            () = lapsed => Some(Err(Failure::Lapsed)),
            () = stop.cancelled() => None,
        }
    }

    /// Asks what to trust when there is no bundle that is valid, or one by which servers cannot be
    /// verified: authorities may have been rotated or revoked while the agent was away.
    async fn ensure_trust(&self, is_doubtful: bool) -> Result<(), Failure> {
        let is_usable = self.trust.is_usable(self.host.clock.now());
        if is_usable && !is_doubtful {
            return Ok(());
        }
        let seen = self.cache.current().bundle_position();
        match self.pinning.ask(&self.servers, &self.trust, seen).await {
            Err(error) if !is_usable => Err(Failure::Passing(error.to_string())),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn attest(&self) -> Result<Own, Failure> {
        let Some(attestor) = &self.attestor else {
            return Err(Failure::Final(self.nothing_to_attest_with()));
        };
        let evidence = attestor.fingerprint();
        if let Some(denied) = self
            .store
            .denied()?
            .filter(|denied| denied.evidence == evidence)
        {
            return Err(Failure::Final(denied_error(
                denied.denial(),
                denied.agent_id,
            )));
        }
        let key = self.store.next_key(None)?;
        let chain = self
            .servers
            .call(|address| attestor.attest(self.servers.channel(&address), key.csr.clone()));
        match chain.await {
            Ok(chain) => self.take(chain, key, evidence),
            Err(status) if is_final(&status) => {
                let reason = explain(&status);
                Err(Failure::Final(AgentError::Refused { reason }))
            }
            Err(status) => Err(Failure::of(&status)),
        }
    }

    fn nothing_to_attest_with(&self) -> AgentError {
        match self.store.denied() {
            Ok(Some(denied)) => denied_error(denied.denial(), denied.agent_id),
            _ => AgentError::NothingToAttestWith,
        }
    }

    /// The key of the next request: a new one, or the present one once more while the disk takes none.
    fn request_key(&self, own: &Own) -> Result<NewKey, Failure> {
        let id = Some(own.svid.spiffe_id());
        let error = match self.store.next_key(id) {
            Ok(key) => return Ok(key),
            Err(error) => error,
        };
        tracing::error!(
            code = %code::DISK, error = cause::chain(&error),
            "the agent's next key cannot be kept; its present key is certified again"
        );
        NewKey::of(own.svid.private_key().expose(), id)
            .map_err(|error| Failure::Passing(error.to_string()))
    }

    async fn renew(&mut self, own: &Own) -> Result<Own, Failure> {
        let key = self.request_key(own)?;
        let request = IssueX509Request {
            items: Vec::new(),
            agent_csr: key.csr.clone(),
        };
        let response = self.servers.call(|address| {
            let (mut client, request) = (self.servers.agent_client(&address), request.clone());
            async move { client.issue_x509(request).await }
        });
        let issued = match response.await {
            Ok(response) => response
                .into_inner()
                .agent
                .ok_or_else(|| IssueError::misbehaved("the answer has no agent SVID"))
                .and_then(item_result),
            Err(status) => match denial_of(&status) {
                Some(denial) => {
                    self.cache.change(|state| state.deny(denial));
                    return Err(Failure::Passing(explain(&status)));
                }
                // An SVID was used that this agent could not keep, and it was started again.
                None if code_of(&status).as_deref() == Some(NOT_ACTIVE) => {
                    return self.resume(own).await;
                }
                None => return Err(Failure::of(&status)),
            },
        };
        let issued = issued.map_err(|error| Failure::Passing(error.to_string()))?;
        let fresh = self.take(issued.chain, key, own.evidence.clone())?;
        same_agent(own, fresh)
    }

    /// Verifies a chain for the key of a request.
    fn take(&self, chain: Vec<Vec<u8>>, key: NewKey, evidence: String) -> Result<Own, Failure> {
        let now = self.host.clock.now();
        let accepted = verify::accept_any(chain, &key, &self.trust.bundles(), now)
            .map_err(|error| Failure::Passing(error.to_string()))?;
        let id = &accepted.spiffe_id;
        if !id.is_agent() || !id.is_member_of(&self.trust_domain) {
            let reason = format!("the server issued {id}, which is no agent's identity");
            return Err(Failure::Passing(reason));
        }
        let certificates: Vec<CertificateDer<'static>> = accepted
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let svid = X509Svid::new(certificates, SecretBytes::from(key.pkcs8))
            .map_err(|error| Failure::Passing(error.to_string()))?;
        let draw = draw_u64(self.host.entropy.as_ref());
        let renew_at = renewal_due_once_received(accepted.validity, now, draw);
        let own = Own {
            svid: Arc::new(svid),
            chain: accepted.chain,
            renew_at,
            draw,
            evidence,
        };
        failpoint::reach(failpoint::Step::AgentSvidReceived);
        Ok(own)
    }

    /// The trust domain denies this agent: its identity goes.
    fn denied(&self, denial: Denial, own: Option<&Own>) -> AgentError {
        self.own.set(None);
        self.identity.send_replace(0);
        self.servers.reconnect();
        let agent_id = own.map_or_else(String::new, |own| own.svid.spiffe_id().to_string());
        let note = Denied {
            banned: denial == Denial::Banned,
            agent_id: agent_id.clone(),
            evidence: own.map_or_else(String::new, |own| own.evidence.clone()),
        };
        if let Err(error) = self.store.forget(Some(&note)) {
            tracing::error!(code = %code::DISK, %error, "the denied identity cannot be removed");
        }
        denied_error(denial, agent_id)
    }
}

fn same_agent(own: &Own, fresh: Own) -> Result<Own, Failure> {
    if own.svid.spiffe_id() == fresh.svid.spiffe_id() {
        return Ok(fresh);
    }
    let (was, is) = (own.svid.spiffe_id(), fresh.svid.spiffe_id());
    Err(Failure::Passing(format!(
        "the server renewed {was} as {is}"
    )))
}

fn denied_error(denial: Denial, agent_id: String) -> AgentError {
    match denial {
        Denial::Banned => AgentError::Banned { agent_id },
        Denial::Evicted => AgentError::Evicted { agent_id },
    }
}

/// Whether the server's refusal of evidence stands: the same evidence will not be accepted later. It
/// does not when another server was asked too and has just accepted it.
fn is_final(status: &Status) -> bool {
    let code = code_of(status);
    let passes = |code: &str| code.starts_with("MM-13") || code == NOT_ACTIVE;
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unauthenticated
    ) && !code.as_deref().is_some_and(passes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_comes_back_before_the_expiry_is_asked_before_the_expiry() {
        let now = Timestamp::from_unix_secs(100);
        let (long, short) = (Duration::from_secs(20), Duration::from_millis(300));
        let end = |seconds| Some(now.saturating_add(Duration::from_secs(seconds)));
        let cases = [
            ("there is time", long, end(3_600), long),
            (
                "a quarter of the rest",
                long,
                end(12),
                Duration::from_secs(3),
            ),
            ("the pause is shorter", short, end(12), short),
            ("at the very end", long, end(0), long),
            (
                "just before",
                short,
                Some(now.saturating_add(short)),
                RETRY_FIRST,
            ),
            (
                "it has expired",
                long,
                Some(Timestamp::from_unix_secs(99)),
                long,
            ),
            ("there is none", long, None, long),
        ];
        for (case, pause, end, expected) in cases {
            assert_eq!(before_it_ends(pause, end, now), expected, "{case}");
        }
    }
}
