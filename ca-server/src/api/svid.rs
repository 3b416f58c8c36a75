//! SPIRE's `SVID` service.
//!
//! Always: an agent's request names entries, and identity, lifetime and names come from them; of a CSR
//! only the key is used. An administrator's mint is the one exception, and its leaf says so.
//!
//! Not here: how an SVID is made (`issuance`).

use std::time::Duration;

use mintmark_identity::entry::EntryId;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::Audience;
use mintmark_identity::svid::x509::VerifiedCsr;
use mintmark_proto::convert::svid::{JwtSvidRecord, X509SvidRecord};
use mintmark_proto::spire::svid as wire;
use mintmark_proto::spire::types;
use mintmark_runtime::failpoint::{Step, reach};
use tonic::{Request, Response, Status};

use super::Services;
use super::entry::no_agent;
use super::status::ApiError;
use crate::issuance::limits::BATCH_MAX;
use crate::issuance::release::{SignedJwt, SignedX509};
use crate::issuance::subject::Subject;
use crate::issuance::{IssueError, JwtAsk, X509Ask};
use crate::policy::{Action, AgentCaller, Permit};

/// The service.
#[derive(Debug, Clone)]
pub struct SvidService(pub Services);

/// Parses a CSR: limits first, then its proof of possession.
///
/// # Errors
/// When it is too large, malformed, of a refused key type, or not signed by its key.
pub fn verify_csr(der: &[u8]) -> Result<VerifiedCsr, ApiError> {
    VerifiedCsr::verify(der).map_err(ApiError::Csr)
}

/// Parses an audience.
///
/// # Errors
/// When it is empty or too large.
pub fn audience(values: &[String]) -> Result<Audience, ApiError> {
    Audience::new(values.to_vec()).map_err(|error| ApiError::invalid("audience", error))
}

/// The one outcome of a batch of one.
///
/// # Errors
/// The outcome's own error.
pub fn only<T>(outcomes: Vec<Result<T, IssueError>>) -> Result<T, ApiError> {
    let only = outcomes.into_iter().next();
    only.ok_or_else(|| ApiError::Internal("an outcome is missing".to_owned()))?
        .map_err(ApiError::Issue)
}

/// The subject for an entry that an agent asks for.
///
/// # Errors
/// When the id is malformed.
pub fn entry_subject(
    id: &str,
    revision: Option<u64>,
    agent: &AgentCaller,
) -> Result<Subject, ApiError> {
    let id = EntryId::parse(id).map_err(|error| ApiError::invalid("entry_id", error))?;
    Ok(Subject::Entry {
        id,
        revision,
        agent: agent.id.clone(),
    })
}

impl super::Shared {
    /// Issues X.509-SVIDs by entry for an agent: what cannot even be asked for fails by itself.
    ///
    /// # Errors
    /// When the batch is too large, the agent asks too often, or the permit is no agent's.
    pub async fn issue_by_entry(
        &self,
        permit: Permit,
        items: impl ExactSizeIterator<Item = (&str, Option<u64>, &[u8])>,
    ) -> Result<Vec<Result<SignedX509, ApiError>>, ApiError> {
        let agent = permit.agent().cloned().ok_or_else(no_agent)?;
        let count = items.len();
        if count > BATCH_MAX {
            return Err(ApiError::TooLarge {
                what: "the batch",
                limit: BATCH_MAX,
            });
        }
        self.limits
            .sign
            .take(agent.id.as_str(), count)
            .map_err(|wait| ApiError::RateLimited { wait })?;
        reach(Step::IssuancePermitted);
        let mut failed: Vec<Option<ApiError>> = Vec::with_capacity(count);
        let mut asks = Vec::with_capacity(count);
        for (id, revision, csr) in items {
            let ask = entry_subject(id, revision, &agent).and_then(|subject| {
                let csr = verify_csr(csr)?;
                Ok(X509Ask { subject, csr })
            });
            match ask {
                Ok(ask) => {
                    asks.push(ask);
                    failed.push(None);
                }
                Err(error) => failed.push(Some(error)),
            }
            tokio::task::consume_budget().await;
        }
        reach(Step::IssuanceProven);
        let mut outcomes = self.issuer.issue_x509(permit, &asks).await.into_iter();
        Ok(failed
            .into_iter()
            .map(|failed| match failed {
                Some(error) => Err(error),
                None => {
                    let missing = || ApiError::Internal("an outcome is missing".to_owned());
                    let outcome = outcomes.next().ok_or_else(missing)?;
                    self.metrics.issued("x509", outcome.is_ok());
                    outcome.map_err(ApiError::Issue)
                }
            })
            .collect())
    }

    /// Issues one JWT-SVID by entry for an agent.
    ///
    /// # Errors
    /// When the request is malformed, too frequent, or refused.
    pub async fn issue_jwt_by_entry(
        &self,
        permit: Permit,
        id: &str,
        revision: Option<u64>,
        values: &[String],
    ) -> Result<SignedJwt, ApiError> {
        let agent = permit.agent().cloned().ok_or_else(no_agent)?;
        self.limits
            .sign
            .take(agent.id.as_str(), 1)
            .map_err(|wait| ApiError::RateLimited { wait })?;
        let subject = entry_subject(id, revision, &agent)?;
        let ask = JwtAsk {
            subject,
            audience: audience(values)?,
        };
        let outcome = only(self.issuer.issue_jwt(permit, &[ask]).await);
        self.metrics.issued("jwt", outcome.is_ok());
        outcome
    }
}

#[tonic::async_trait]
impl wire::svid_server::Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<wire::MintX509svidRequest>,
    ) -> Result<Response<wire::MintX509svidResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::MintX509Svid).await?;
        let request = request.get_ref();
        let csr = verify_csr(&request.csr)?;
        let names = csr.requested().clone();
        // The administrator names the identity in the request, as SPIRE's does.
        let [id] = names.uris.as_slice() else {
            return Err(ApiError::invalid("csr", "must name exactly one URI").into());
        };
        let id = SpiffeId::parse(id).map_err(|error| ApiError::invalid("csr", error))?;
        let spiffe_id = self.mintable(id)?;
        let subject = Subject::Mint {
            spiffe_id,
            ttl: ttl(request.ttl)?,
            dns_names: names.dns_names,
        };
        let ask = X509Ask { subject, csr };
        let signed = only(self.0.issuer.issue_x509(permit, &[ask]).await);
        self.0.metrics.issued("x509", signed.is_ok());
        let svid = Some(x509_to_wire(signed?));
        Ok(Response::new(wire::MintX509svidResponse { svid }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<wire::MintJwtsvidRequest>,
    ) -> Result<Response<wire::MintJwtsvidResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::MintJwtSvid).await?;
        let request = request.get_ref();
        let id = request
            .id
            .as_ref()
            .ok_or_else(|| ApiError::invalid("id", "is missing"))?;
        let spiffe_id = SpiffeId::try_from(id).map_err(|error| error.within("id"));
        let spiffe_id = self.mintable(spiffe_id.map_err(ApiError::Convert)?)?;
        let subject = Subject::Mint {
            spiffe_id,
            ttl: ttl(request.ttl)?,
            dns_names: Vec::new(),
        };
        let ask = JwtAsk {
            subject,
            audience: audience(&request.audience)?,
        };
        let signed = only(self.0.issuer.issue_jwt(permit, &[ask]).await);
        self.0.metrics.issued("jwt", signed.is_ok());
        let svid = Some(jwt_to_wire(signed?));
        Ok(Response::new(wire::MintJwtsvidResponse { svid }))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<wire::BatchNewX509svidRequest>,
    ) -> Result<Response<wire::BatchNewX509svidResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::BatchNewX509Svid).await?;
        let items = request.get_ref().params.iter();
        let items = items.map(|one| (one.entry_id.as_str(), None, one.csr.as_slice()));
        let outcomes = self.0.issue_by_entry(permit, items).await?;
        let results = outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Ok(signed) => wire::batch_new_x509svid_response::Result {
                    status: Some(types::Status {
                        code: 0,
                        message: "OK".to_owned(),
                    }),
                    svid: Some(x509_to_wire(signed)),
                },
                Err(error) => wire::batch_new_x509svid_response::Result {
                    status: Some(error.item()),
                    svid: None,
                },
            })
            .collect();
        Ok(Response::new(wire::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<wire::NewJwtsvidRequest>,
    ) -> Result<Response<wire::NewJwtsvidResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::NewJwtSvid).await?;
        let request = request.get_ref();
        let issued = self
            .0
            .issue_jwt_by_entry(permit, &request.entry_id, None, &request.audience)
            .await?;
        Ok(Response::new(wire::NewJwtsvidResponse {
            svid: Some(jwt_to_wire(issued)),
        }))
    }

    async fn new_downstream_x509ca(
        &self,
        _request: Request<wire::NewDownstreamX509caRequest>,
    ) -> Result<Response<wire::NewDownstreamX509caResponse>, Status> {
        let (what, instead) = (
            "NewDownstreamX509CA",
            "this server has no downstream clusters",
        );
        Err(ApiError::NotOffered { what, instead }.into())
    }

    async fn mint_witsvid(
        &self,
        _request: Request<wire::MintWitsvidRequest>,
    ) -> Result<Response<wire::MintWitsvidResponse>, Status> {
        Err(wit("MintWITSVID"))
    }

    async fn batch_new_witsvid(
        &self,
        _request: Request<wire::BatchNewWitsvidRequest>,
    ) -> Result<Response<wire::BatchNewWitsvidResponse>, Status> {
        Err(wit("BatchNewWITSVID"))
    }
}

impl SvidService {
    /// An administrator may mint any workload's identity of our own trust domain.
    fn mintable(&self, id: SpiffeId) -> Result<SpiffeId, ApiError> {
        self.0.consensus.read(|state| {
            let domain = state
                .trust_domain()
                .ok_or(ApiError::NotReady("no cluster yet"))?;
            if !id.is_member_of(domain) {
                let problem = format!("is {id}, which is not in trust domain {domain}");
                return Err(ApiError::invalid("id", problem));
            }
            if !id.has_path() || id.is_reserved() {
                let problem = format!("is {id}, which is not a workload's");
                return Err(ApiError::invalid("id", problem));
            }
            Ok(id)
        })
    }
}

fn wit(what: &'static str) -> Status {
    ApiError::NotOffered {
        what,
        instead: "use X.509- or JWT-SVIDs",
    }
    .into()
}

fn ttl(seconds: i32) -> Result<Option<Duration>, ApiError> {
    let seconds = u64::try_from(seconds).map_err(|_| ApiError::invalid("ttl", "is negative"))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// As SPIRE's messages have it.
#[must_use]
pub fn x509_to_wire(signed: SignedX509) -> types::X509svid {
    X509SvidRecord {
        chain: signed.chain,
        spiffe_id: signed.spiffe_id,
        expires_at: signed.validity.not_after,
        hint: signed.hint,
    }
    .into()
}

/// As SPIRE's messages have it.
#[must_use]
pub fn jwt_to_wire(signed: SignedJwt) -> types::Jwtsvid {
    JwtSvidRecord {
        token: signed.token,
        spiffe_id: signed.spiffe_id,
        expires_at: signed.expires_at,
        issued_at: signed.issued_at,
        hint: signed.hint,
    }
    .into()
}

#[cfg(test)]
mod tests;
