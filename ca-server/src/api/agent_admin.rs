//! The part of SPIRE's `Agent` service that administrators use, and agents' reports.
//!
//! Always: a ban or an eviction holds from the commit of its command on; of a join token nothing but its
//! SHA-256 leaves this server, except to who asked for it.
//!
//! Not here: attestation and renewal (`api::agent`), and what a ban does (`state::agents`).

use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::{Entropy, draw_token};
use mintmark_identity::selector::Selectors;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::convert::agent::agent_to_spire;
use mintmark_proto::convert::ids::{selectors_from_spire, selectors_from_state};
use mintmark_proto::convert::svid::join_token_to_spire;
use mintmark_proto::mintmark::raft::v1::{BanAgent, CreateJoinToken, EvictAgent, command};
use mintmark_proto::mintmark::state::v1::{AttestedNode, JoinToken};
use mintmark_proto::spire::agent as wire;
use mintmark_proto::spire::agent::{count_agents_request, list_agents_request};
use mintmark_proto::spire::types;
use tonic::{Request, Response, Status};

use super::entry::no_agent;
use super::filter::{Page, SetMatch};
use super::status::ApiError;
use super::{Shared, idempotency_key};
use crate::attestation::join_token;
use crate::policy::Action;
use crate::state::State;

/// How long a token lives when nobody says; SPIRE's default.
const TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(600);
/// The longest a token may live: it is a bearer secret.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a list is narrowed to.
#[derive(Debug, Default)]
struct Filter {
    attestation_type: String,
    selectors: Option<(SetMatch, Selectors)>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: Option<Timestamp>,
}

/// Both messages of SPIRE's have the same fields.
macro_rules! read_fields {
    ($wire:expr) => {
        Filter {
            attestation_type: $wire.by_attestation_type.clone(),
            selectors: $wire
                .by_selector_match
                .as_ref()
                .map(selectors)
                .transpose()?,
            banned: $wire.by_banned.map(Into::into),
            can_reattest: $wire.by_can_reattest.map(Into::into),
            expires_before: expires_before(&$wire.by_expires_before)?,
        }
    };
}

impl Filter {
    fn of_count(wire: Option<&count_agents_request::Filter>) -> Result<Self, ApiError> {
        let Some(wire) = wire else {
            return Ok(Self::default());
        };
        Ok(read_fields!(wire))
    }

    fn of_list(wire: Option<&list_agents_request::Filter>) -> Result<Self, ApiError> {
        let Some(wire) = wire else {
            return Ok(Self::default());
        };
        Ok(read_fields!(wire))
    }

    fn passes(&self, node: &AttestedNode) -> bool {
        let type_passes =
            self.attestation_type.is_empty() || self.attestation_type == node.attestation_type;
        type_passes
            && self.banned.is_none_or(|banned| banned == node.banned)
            && self.can_reattest.is_none_or(|can| can == node.can_reattest)
            && self
                .expires_before
                .is_none_or(|end| node.svid_not_after_ms < end.unix_millis())
            && self.selectors.as_ref().is_none_or(|(mode, asked)| {
                let have = selectors_from_state("selectors", &node.selectors);
                have.is_ok_and(|have| mode.matches(&have, asked))
            })
    }
}

fn selectors(wire: &types::SelectorMatch) -> Result<(SetMatch, Selectors), ApiError> {
    let asked = selectors_from_spire("by_selector_match", &wire.selectors)?;
    if asked.is_empty() {
        return Err(ApiError::invalid("by_selector_match", "names no selector"));
    }
    Ok((SetMatch::from_wire(wire.r#match)?, asked))
}

/// SPIRE's command line sends `2006-01-02 15:04:05 -0700 -07`; RFC 3339 is taken too.
fn expires_before(text: &str) -> Result<Option<Timestamp>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut parts = text.split(' ');
    let (date, time, zone) = (parts.next(), parts.next(), parts.next());
    let rfc3339 = match (date, time, zone) {
        (Some(date), Some(time), Some(zone)) if zone.len() == 5 && zone.is_ascii() => {
            let (hours, minutes) = zone.split_at(3);
            format!("{date}T{time}{hours}:{minutes}")
        }
        _ => text.to_owned(),
    };
    let parsed = rfc3339.parse();
    parsed
        .map(Some)
        .map_err(|error| ApiError::invalid("by_expires_before", error))
}

impl Shared {
    /// `CountAgents`.
    pub(super) async fn count_agents(
        &self,
        request: Request<wire::CountAgentsRequest>,
    ) -> Result<Response<wire::CountAgentsResponse>, Status> {
        let _permit = self.permit(&request, Action::CountAgents).await?;
        self.fresh_enough(&request).await?;
        let filter = Filter::of_count(request.get_ref().filter.as_ref())?;
        let count = |state: &State| {
            state
                .attested_nodes()
                .filter(|node| filter.passes(node))
                .count()
        };
        let count = i32::try_from(self.consensus.read(count)).unwrap_or(i32::MAX);
        Ok(Response::new(wire::CountAgentsResponse { count }))
    }

    /// `ListAgents`.
    pub(super) async fn list_agents(
        &self,
        request: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        let _permit = self.permit(&request, Action::ListAgents).await?;
        self.fresh_enough(&request).await?;
        let request = request.get_ref();
        let filter = Filter::of_list(request.filter.as_ref())?;
        let page = Page::from_wire(request.page_size, &request.page_token)?;
        let after = (!page.after.is_empty())
            .then(|| SpiffeId::parse(&page.after))
            .transpose();
        let after = after.map_err(|error| ApiError::invalid("page_token", error))?;
        let mask = request.output_mask.as_ref();
        let (agents, next_page_token) = self.consensus.read(|state| {
            let nodes = state.attested_nodes_after(after.as_ref());
            let passing = nodes.filter(|node| filter.passes(node));
            let (nodes, next) = page.take(passing, |node| node.agent_id.as_str());
            let agents: Result<Vec<_>, _> = nodes
                .into_iter()
                .map(|node| agent_to_spire(node, mask))
                .collect();
            agents
                .map(|agents| (agents, next))
                .map_err(ApiError::Convert)
        })?;
        Ok(Response::new(wire::ListAgentsResponse {
            agents,
            next_page_token,
        }))
    }

    /// `GetAgent`.
    pub(super) async fn get_agent(
        &self,
        request: Request<wire::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let _permit = self.permit(&request, Action::GetAgent).await?;
        self.fresh_enough(&request).await?;
        let request = request.get_ref();
        let id = self.agent_id(request.id.as_ref())?;
        let mask = request.output_mask.as_ref();
        let found = self.consensus.read(|state| {
            state
                .attested_node(&id)
                .map(|node| agent_to_spire(node, mask))
        });
        let found = found.ok_or_else(|| ApiError::NotFound {
            what: format!("agent {id}"),
        })?;
        Ok(Response::new(found.map_err(ApiError::Convert)?))
    }

    /// `DeleteAgent`.
    pub(super) async fn delete_agent(
        &self,
        request: Request<wire::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let (_, permit) = self.permit(&request, Action::DeleteAgent).await?;
        let key = idempotency_key(&request)?;
        let agent_id = self.agent_id(request.get_ref().id.as_ref())?.to_string();
        let body = command::Body::EvictAgent(EvictAgent { agent_id });
        self.propose(permit.actor().clone(), body, key).await?;
        Ok(Response::new(()))
    }

    /// `BanAgent`.
    pub(super) async fn ban_agent(
        &self,
        request: Request<wire::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let (_, permit) = self.permit(&request, Action::BanAgent).await?;
        let key = idempotency_key(&request)?;
        let agent_id = self.agent_id(request.get_ref().id.as_ref())?.to_string();
        let body = command::Body::BanAgent(BanAgent { agent_id });
        self.propose(permit.actor().clone(), body, key).await?;
        Ok(Response::new(()))
    }

    /// `CreateJoinToken`. Takes no notice of an idempotency key: the token is not kept, so it could not
    /// be given a second time; one that nobody uses expires.
    pub(super) async fn create_join_token(
        &self,
        request: Request<wire::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let (_, permit) = self.permit(&request, Action::CreateJoinToken).await?;
        let domain = self.consensus.read(|state| state.trust_domain().cloned());
        let domain = domain.ok_or(ApiError::NotReady("no cluster yet"))?;
        let (now, entropy) = (self.host.clock.now(), self.host.entropy.as_ref());
        let made = NewToken::make(request.get_ref(), &domain, now, entropy)?;
        let NewToken { value, record } = made;
        let expires_at = Timestamp::from_unix_millis(record.expires_at_ms);
        let token = Some(record);
        let body = command::Body::CreateJoinToken(CreateJoinToken {
            token,
            alias_entry: None,
        });
        self.propose(permit.actor().clone(), body, None).await?;
        Ok(Response::new(join_token_to_spire(&value, expires_at)))
    }

    /// `PostStatus`.
    pub(super) async fn post_status(
        &self,
        request: Request<wire::PostStatusRequest>,
    ) -> Result<Response<wire::PostStatusResponse>, Status> {
        let (_, permit) = self.permit(&request, Action::PostStatus).await?;
        let agent = permit.agent().ok_or_else(no_agent)?;
        let taken = self.limits.report.take(agent.id.as_str(), 1);
        taken.map_err(|wait| ApiError::RateLimited { wait })?;
        let sequence = request.get_ref().current_bundle_serial;
        self.acknowledgements.reported(&agent.id, sequence);
        Ok(Response::new(wire::PostStatusResponse {}))
    }

    fn agent_id(&self, wire: Option<&types::Spiffeid>) -> Result<SpiffeId, ApiError> {
        let wire = wire.ok_or_else(|| ApiError::invalid("id", "is missing"))?;
        let id = SpiffeId::try_from(wire).map_err(|error| ApiError::Convert(error.within("id")))?;
        let is_ours = self.consensus.read(|state| {
            state
                .trust_domain()
                .is_some_and(|domain| id.is_member_of(domain))
        });
        if !is_ours || !id.is_agent() {
            let problem = format!("is {id}, which is no agent of this trust domain");
            return Err(ApiError::invalid("id", problem));
        }
        Ok(id)
    }
}

/// A token that nobody knows yet.
struct NewToken {
    value: String,
    record: JoinToken,
}

impl NewToken {
    fn make(
        request: &wire::CreateJoinTokenRequest,
        domain: &TrustDomain,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, ApiError> {
        let ttl = match u64::try_from(request.ttl) {
            Err(_) => return Err(ApiError::invalid("ttl", "is negative")),
            Ok(0) => TOKEN_TTL_DEFAULT,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        if ttl > TOKEN_TTL_MAX {
            return Err(ApiError::invalid("ttl", "is more than 30 days"));
        }
        let value = match request.token.as_str() {
            "" => draw_token(entropy),
            token => token.to_owned(),
        };
        // The token becomes a part of a SPIFFE ID.
        join_token::agent_id(domain, &value).map_err(|error| ApiError::invalid("token", error))?;
        let alias = request
            .agent_id
            .as_ref()
            .map(|id| alias(id, domain))
            .transpose()?;
        // The alias becomes an entry when the token is consumed: until then nothing in the log may
        // name the agent, because its path holds the token.
        let record = JoinToken {
            token_sha256: join_token::token_sha256(value.as_bytes()).to_vec(),
            expires_at_ms: now.saturating_add(ttl).unix_millis(),
            alias_spiffe_id: alias.map(|alias| alias.to_string()).unwrap_or_default(),
            created_at_ms: now.unix_millis(),
            ..JoinToken::default()
        };
        Ok(Self { value, record })
    }
}

fn alias(wire: &types::Spiffeid, domain: &TrustDomain) -> Result<SpiffeId, ApiError> {
    let id = SpiffeId::try_from(wire);
    let id = id.map_err(|error| ApiError::Convert(error.within("agent_id")))?;
    // The servers' own ID as alias would make it a token that admits servers.
    if !id.is_member_of(domain) || !id.has_path() || id.is_reserved() {
        let problem = format!("is {id}, which cannot be the alias of an agent of {domain}");
        return Err(ApiError::invalid("agent_id", problem));
    }
    Ok(id)
}

#[cfg(test)]
mod tests;
