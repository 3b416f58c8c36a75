//! How an SVID is made: prepare, agree, sign, in this order and in no other.
//!
//! Always: each step takes what only the step before can make. A [`policy::Permit`](crate::policy::Permit)
//! and a `VerifiedCsr` give a prepared SVID, the log gives a [`batch::Committed`] of it, and only that
//! can be signed; skipping a step does not compile.
//!
//! Not here: who may ask (`policy`), what is true of the subject (`state::issuance`), the wire (`api`).

pub mod batch;
pub mod limits;
pub mod prepared;
pub mod release;
pub mod subject;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mintmark_identity::bundle::BundleSet;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::{SeededEntropy, draw_uuid};
use mintmark_identity::entry::EntryId;
use mintmark_identity::svid::jwt::{Audience, JwtClaims, JwtIssueError};
use mintmark_identity::svid::x509::authority::AuthorityError;
use mintmark_identity::svid::x509::prepare::ProfileError;
use mintmark_identity::svid::x509::{Serial, VerifiedCsr, X509Authority};
use mintmark_proto::mintmark::raft::v1::{Actor, Refusal, actor};
use mintmark_proto::mintmark::state::v1::AuthorityKind;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::host::Host;
use mintmark_runtime::mutation::{self, Bug};
use thiserror::Error;
use tokio::time::Instant;

use self::batch::{Batcher, CommitError, Committed};
use self::prepared::{Issuing, Prepared, PreparedJwt, PreparedX509};
use self::release::{Contact, ReleaseError, SignedJwt, SignedX509, recheck, sign_jwt, sign_x509};
use self::subject::{Form, Resolved, Subject};
use crate::Consensus;
use crate::authority::keyring::{Keyring, KeyringError, SealedRecord, record_name};
use crate::policy::Permit;
use crate::raft::ClockOffset;
use crate::state::{ISSUE_SKEW_MAX, State};

/// Why an SVID was not issued.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The entry does not exist.
    #[error("entry {0} does not exist")]
    NoEntry(EntryId),
    /// The caller has seen a newer revision than this server.
    #[error("this server is behind the caller")]
    Behind,
    /// The cluster does not exist yet.
    #[error("the cluster is not initialised")]
    NotReady,
    /// The last command's time is ahead of this server's clock, so `apply()` would deny what begins now.
    #[error(
        "the cluster's time is {:.3} s ahead of this server's clock; nothing is issued until the clock \
         has caught up", .0.as_secs_f64()
    )]
    ClusterTimeAhead(Duration),
    /// This server's clock is wrong, whatever the cluster's time is.
    #[error("this server's clock is {0}, so it issues nothing")]
    ClockSkew(ClockOffset),
    /// No authority of this kind is active.
    #[error("no authority of kind {0} is active")]
    NoAuthority(&'static str),
    /// The authority's key cannot be used.
    #[error("the authority's key cannot be used")]
    Keyring(#[from] KeyringError),
    /// The active authority's certificate does not parse.
    #[error("the active authority's certificate is not usable")]
    Authority(#[source] AuthorityError),
    /// The certificate profile does not allow it.
    #[error("the certificate profile does not allow it")]
    Profile(#[source] ProfileError),
    /// The claims make no token.
    #[error("the claims make no token")]
    Claims(#[source] JwtIssueError),
    /// The log did not accept it.
    #[error("the intent was not committed")]
    Commit(#[from] CommitError),
    /// It was accepted, and not signed.
    #[error("the SVID was not signed")]
    Release(#[from] ReleaseError),
}

/// One certificate that is asked for.
#[derive(Debug)]
pub struct X509Ask {
    /// For whom.
    pub subject: Subject,
    /// The key, with its proof of possession.
    pub csr: VerifiedCsr,
}

/// One token that is asked for.
#[derive(Debug)]
pub struct JwtAsk {
    /// For whom.
    pub subject: Subject,
    /// For which verifiers.
    pub audience: Audience,
}

/// Issues SVIDs on this server.
#[derive(Debug)]
pub struct Issuer {
    host: Host,
    consensus: Consensus,
    keyring: Arc<Keyring>,
    batcher: Batcher,
    /// Certificates of X.509 authorities, parsed.
    authorities: Mutex<BTreeMap<String, Arc<X509Authority>>>,
}

/// Parsed certificates that are kept: the active authority, and the one before it.
const AUTHORITIES_MAX: usize = 4;

impl Issuer {
    /// An issuer over this server's log and keys.
    #[must_use]
    pub fn new(host: Host, consensus: Consensus, keyring: Arc<Keyring>, batcher: Batcher) -> Self {
        Self {
            host,
            consensus,
            keyring,
            batcher,
            authorities: Mutex::new(BTreeMap::new()),
        }
    }

    /// Issues X.509-SVIDs, one outcome for each ask, in order.
    pub async fn issue_x509(
        &self,
        permit: Permit,
        asks: &[X509Ask],
    ) -> Vec<Result<SignedX509, IssueError>> {
        let actor = command_actor(&permit);
        let prepare = |index: usize| {
            let ask = asks.get(index).ok_or(IssueError::NotReady)?;
            self.prepare_x509(ask)
        };
        self.issue(asks.len(), actor, prepare, sign_x509).await
    }

    /// Issues JWT-SVIDs, one outcome for each ask, in order.
    pub async fn issue_jwt(
        &self,
        permit: Permit,
        asks: &[JwtAsk],
    ) -> Vec<Result<SignedJwt, IssueError>> {
        let actor = command_actor(&permit);
        let prepare = |index: usize| {
            let ask = asks.get(index).ok_or(IssueError::NotReady)?;
            self.prepare_jwt(ask)
        };
        self.issue(asks.len(), actor, prepare, sign_jwt).await
    }

    /// Issues this server's own API identity.
    ///
    /// # Errors
    /// As for any SVID.
    pub async fn issue_server(&self, csr: VerifiedCsr) -> Result<SignedX509, IssueError> {
        let ask = X509Ask {
            subject: Subject::Server {
                node_id: self.keyring.node_id(),
            },
            csr,
        };
        let outcomes = self
            .issue(1, None, |_| self.prepare_x509(&ask), sign_x509)
            .await;
        outcomes
            .into_iter()
            .next()
            .unwrap_or(Err(IssueError::NotReady))
    }

    /// Prepares, commits and signs `count` SVIDs; what became stale meanwhile is prepared anew, once.
    async fn issue<P: Prepared, S>(
        &self,
        count: usize,
        actor: Option<Actor>,
        prepare: impl Fn(usize) -> Result<P, IssueError>,
        sign: impl Fn(Committed<P>, &BundleSet, Timestamp) -> Result<S, ReleaseError>,
    ) -> Vec<Result<S, IssueError>> {
        let mut outcomes: BTreeMap<usize, Result<Committed<P>, IssueError>> = BTreeMap::new();
        let mut open: Vec<usize> = (0..count).collect();
        for last in [false, true] {
            let mut ready = Vec::new();
            for index in std::mem::take(&mut open) {
                match prepare(index) {
                    Ok(prepared) => ready.push((index, prepared)),
                    Err(error) => {
                        outcomes.insert(index, Err(error));
                    }
                }
                breathe(index).await;
            }
            reach(Step::IssuancePrepared);
            let (indices, prepared): (Vec<usize>, Vec<P>) = ready.into_iter().unzip();
            let committed = self.batcher.commit(actor.clone(), prepared).await;
            for (index, outcome) in indices.into_iter().zip(committed) {
                match outcome {
                    Err(error) if !last && is_stale(&error) => open.push(index),
                    outcome => {
                        outcomes.insert(index, outcome.map_err(IssueError::Commit));
                    }
                }
            }
            if open.is_empty() {
                break;
            }
        }
        self.release(outcomes, sign).await
    }

    async fn release<P: Prepared, S>(
        &self,
        outcomes: BTreeMap<usize, Result<Committed<P>, IssueError>>,
        sign: impl Fn(Committed<P>, &BundleSet, Timestamp) -> Result<S, ReleaseError>,
    ) -> Vec<Result<S, IssueError>> {
        if outcomes.values().any(Result::is_ok) {
            reach(Step::IssuanceCommitted);
        }
        let contact = Contact {
            quorum_age: self.consensus.quorum_age(),
            clock: self.consensus.clock(),
            now: Instant::now(),
        };
        let (bundles, checked) = self.consensus.read(|state| {
            let checked: Vec<_> = outcomes
                .into_values()
                .map(|outcome| {
                    let committed = outcome?;
                    recheck(&committed, state, contact)?;
                    Ok(committed)
                })
                .collect();
            (own_bundles(state), checked)
        });
        let mut signed = Vec::with_capacity(checked.len());
        for (index, outcome) in checked.into_iter().enumerate() {
            let now = self.host.clock.now();
            signed.push(
                outcome.and_then(|committed| {
                    sign(committed, &bundles, now).map_err(IssueError::Release)
                }),
            );
            breathe(index).await;
        }
        if signed.iter().any(Result::is_ok) {
            reach(Step::IssuanceSigned);
        }
        signed
    }

    fn prepare_x509(&self, ask: &X509Ask) -> Result<PreparedX509, IssueError> {
        let (resolved, active) = self.resolve(&ask.subject, Form::X509, AuthorityKind::X509)?;
        let authority = self.parsed(&active)?;
        let serial = if mutation::is(Bug::SerialReused) {
            Serial::draw(&SeededEntropy::new(self.keyring.node_id()))
        } else {
            Serial::draw(self.host.entropy.as_ref())
        };
        PreparedX509::build(&resolved, &ask.csr, active.issuing, &authority, serial)
    }

    fn prepare_jwt(&self, ask: &JwtAsk) -> Result<PreparedJwt, IssueError> {
        let (resolved, active) = self.resolve(&ask.subject, Form::Jwt, AuthorityKind::Jwt)?;
        let jti = resolved
            .include_jti
            .then(|| draw_uuid(self.host.entropy.as_ref()));
        let validity = resolved.validity.ending_by(active.not_after);
        // A token has no backdate: `iat` is when it is made.
        let claims = JwtClaims {
            spiffe_id: resolved.spiffe_id.clone(),
            audience: ask.audience.clone(),
            issued_at: validity.issue_time().floor_to_second(),
            expires_at: validity.not_after.floor_to_second(),
            jti,
            issuer: active.jwt_issuer.clone(),
        };
        PreparedJwt::build(&resolved, claims, active.issuing)
    }

    /// Looks up subject and active authority at one moment.
    fn resolve(
        &self,
        subject: &Subject,
        form: Form,
        kind: AuthorityKind,
    ) -> Result<(Resolved, Active), IssueError> {
        let now = self.host.clock.now();
        let node_id = self.keyring.node_id();
        // Before the cluster's time, which seems to be ahead of a clock that is behind.
        if let Some(skew) = self.consensus.clock().skew() {
            return Err(IssueError::ClockSkew(skew));
        }
        let (resolved, found) = self.consensus.read(|state| {
            check_cluster_time(state.time(), now)?;
            let resolved = subject.resolve(state, form, now)?;
            Ok::<_, IssueError>((resolved, Found::in_state(state, kind, node_id)?))
        })?;
        Ok((resolved, found.open(&self.keyring)?))
    }

    fn parsed(&self, active: &Active) -> Result<Arc<X509Authority>, IssueError> {
        let mut cache = self
            .authorities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = &active.issuing.authority_id;
        if let Some(authority) = cache.get(id) {
            return Ok(Arc::clone(authority));
        }
        let parsed = X509Authority::parse(&active.certificate).map_err(IssueError::Authority)?;
        let parsed = Arc::new(parsed);
        if cache.len() >= AUTHORITIES_MAX {
            cache.clear();
        }
        cache.insert(id.clone(), Arc::clone(&parsed));
        Ok(parsed)
    }
}

/// The active authority as it stands in the state.
struct Found {
    id: String,
    certificate: Vec<u8>,
    not_after: Timestamp,
    jwt_issuer: Option<String>,
    record: SealedRecord,
}

/// The active authority, able to sign.
struct Active {
    issuing: Issuing,
    certificate: Vec<u8>,
    not_after: Timestamp,
    jwt_issuer: Option<String>,
}

impl Found {
    fn in_state(state: &State, kind: AuthorityKind, node_id: u64) -> Result<Self, IssueError> {
        let authority = state
            .active_authority(kind)
            .ok_or(IssueError::NoAuthority(kind_name(kind)))?;
        let issuer = &state.settings().ok_or(IssueError::NotReady)?.jwt_issuer;
        Ok(Self {
            id: authority.id.clone(),
            certificate: authority.certificate.clone(),
            not_after: Timestamp::from_unix_millis(authority.not_after_ms),
            jwt_issuer: (!issuer.is_empty()).then(|| issuer.clone()),
            record: SealedRecord::find(state, node_id, &record_name(authority))?,
        })
    }

    fn open(self, keyring: &Keyring) -> Result<Active, IssueError> {
        let key = keyring.authority_key(&self.id, &self.record)?;
        Ok(Active {
            issuing: Issuing {
                authority_id: self.id,
                key,
            },
            certificate: self.certificate,
            not_after: self.not_after,
            jwt_issuer: self.jwt_issuer,
        })
    }
}

/// Command time never falls. If a clock was wrong once, it is ahead of the right ones, and what they issue
/// would be denied, with a leaf for each; so it is not proposed.
fn check_cluster_time(time: Timestamp, now: Timestamp) -> Result<(), IssueError> {
    let ahead = time.since(now);
    if ahead > ISSUE_SKEW_MAX {
        return Err(IssueError::ClusterTimeAhead(ahead));
    }
    Ok(())
}

/// What authorities of a kind are called in messages.
#[must_use]
pub fn kind_name(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::Unspecified => "unspecified",
        AuthorityKind::X509 => "x509",
        AuthorityKind::Jwt => "jwt",
        AuthorityKind::Wit => "wit",
    }
}

/// The bundle that a relying party of this trust domain holds.
fn own_bundles(state: &State) -> BundleSet {
    let mut bundles = BundleSet::new();
    if let Some(bundle) = state.own_bundle() {
        bundles.insert(bundle);
    }
    bundles
}

/// An agent stands in the intent itself; everybody else must be named by the command.
fn command_actor(permit: &Permit) -> Option<Actor> {
    let actor = permit.actor();
    (actor.kind() != actor::Kind::Agent).then(|| actor.clone())
}

/// Whether building it anew may help: the entry changed, or the authority turned.
fn is_stale(error: &CommitError) -> bool {
    let CommitError::Refused { refusal, .. } = error else {
        return false;
    };
    matches!(
        refusal,
        Refusal::Stale | Refusal::Authority | Refusal::SerialReused
    )
}

/// Lets other tasks run between pieces of a long calculation.
async fn breathe(index: usize) {
    /// About a millisecond of cryptography.
    const PIECE: usize = 16;
    if index % PIECE == PIECE.saturating_sub(1) {
        tokio::task::yield_now().await;
    }
}

/// The longest that one issuance may take before its caller should be told.
pub const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
