//! The agent's private socket: status, and why a workload has or lacks an identity.
//!
//! Responsible for: the service `mintmark.agentadmin.v1.AgentAdmin`. Always holds: it changes
//! nothing and tells no key and no token; only the agent's own user and root can connect. Not
//! here: what is found out about a process (`workload`).

use std::sync::Arc;

use mintmark_identity::{
    clock::Timestamp,
    selector::{Selector, Selectors},
    spiffe_id::SpiffeId,
};
use mintmark_proto::mintmark::{
    agentadmin::v1::{
        ExplainRequest, ExplainResponse, GetStatusRequest, Match, NearMatch, Status as AgentStatus,
        Unreadable,
        agent_admin_server::{AgentAdmin, AgentAdminServer},
        explain_request::Target,
    },
    state::v1 as pb,
};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use crate::{
    cache::{entries::Held, state::State},
    code,
    peer_tls::OwnSvid,
    server_client::Servers,
    status,
    surface::Surface,
    workload::attestor::Attested,
};
use mintmark_identity::tls::SvidSource;

/// Entries that nearly match and are shown.
const NEAR_MAX: usize = 10;
/// The largest request.
const REQUEST_MAX: usize = 16 << 10;

/// The service.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What workloads are served from.
    pub surface: Surface,
    /// The agent's own SVID.
    pub own: OwnSvid,
    /// The servers.
    pub servers: Servers,
    /// Whether a stream of updates is open.
    pub connected: watch::Receiver<bool>,
    /// When the agent started.
    pub started_at: Timestamp,
}

impl Admin {
    /// The service, ready to be routed.
    #[must_use]
    pub fn service(self) -> AgentAdminServer<Self> {
        AgentAdminServer::new(self).max_decoding_message_size(REQUEST_MAX)
    }

    fn agent_id(&self) -> String {
        self.own
            .svid()
            .map_or_else(String::new, |svid| svid.spiffe_id().to_string())
    }

    fn explain_selectors(&self, state: &State, attested: &Attested) -> ExplainResponse {
        let now = self.surface.now();
        let matches = state.entries.matching(&attested.selectors, now);
        let near = state.entries.near(&attested.selectors, now, NEAR_MAX);
        ExplainResponse {
            selectors: to_wire(&attested.selectors),
            unreadable: attested
                .unreadable
                .iter()
                .map(|unreadable| Unreadable {
                    selector: unreadable.selector.clone(),
                    reason: unreadable.reason.clone(),
                })
                .collect(),
            matches: matches
                .iter()
                .map(|held| self.explain_match(state, held))
                .collect(),
            near: near
                .iter()
                .map(|near| NearMatch {
                    entry: Some(near.held.entry.as_ref().into()),
                    missing: near.missing.iter().map(pb::Selector::from).collect(),
                })
                .collect(),
            ..ExplainResponse::default()
        }
    }

    fn explain_match(&self, state: &State, held: &Held) -> Match {
        let svid = state.svids.get(&held.entry.id);
        let problem = self.surface.cache.problem(&held.entry.id);
        let millis = |at: Option<Timestamp>| at.map_or(0, Timestamp::unix_millis);
        Match {
            entry: Some(held.entry.as_ref().into()),
            since_ms: held.since.unix_millis(),
            svid_issued_at_ms: millis(svid.map(|svid| svid.received_at)),
            svid_not_after_ms: millis(svid.map(|svid| svid.validity.not_after)),
            svid_problem: problem.map_or_else(String::new, |attempt| attempt.problem),
            serial: svid.map_or_else(String::new, |svid| svid.serial.clone()),
        }
    }

    async fn explain_target(
        &self,
        state: &State,
        target: Target,
    ) -> Result<ExplainResponse, Status> {
        match target {
            Target::Pid(pid) => {
                let pid = u32::try_from(pid).map_err(|_| status::malformed("pid is negative"))?;
                let attested = self
                    .surface
                    .workloads
                    .attest_pid(pid)
                    .await
                    .map_err(|error| {
                        let text = error.to_string();
                        status::status(Code::NotFound, code::CALLER_NOT_ATTESTED, &text)
                    })?;
                Ok(self.explain_selectors(state, &attested))
            }
            Target::Uid(uid) => {
                let attested = self.surface.workloads.describe_user(uid).await;
                Ok(self.explain_selectors(state, &attested))
            }
            Target::SpiffeId(id) => {
                let id = SpiffeId::parse(&id)
                    .map_err(|error| status::malformed(&format!("spiffe_id: {error}")))?;
                let found = state.entries.with_spiffe_id(&id);
                let matches = found
                    .iter()
                    .map(|held| self.explain_match(state, held))
                    .collect();
                Ok(ExplainResponse {
                    matches,
                    ..ExplainResponse::default()
                })
            }
        }
    }
}

fn to_wire(selectors: &Selectors) -> Vec<pb::Selector> {
    selectors
        .iter()
        .map(|selector: &Selector| pb::Selector::from(selector))
        .collect()
}

#[tonic::async_trait]
impl AgentAdmin for Admin {
    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<AgentStatus>, Status> {
        let state: Arc<State> = self.surface.cache.current();
        let own = self.own.svid();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let position = state.position.unwrap_or_default();
        Ok(Response::new(AgentStatus {
            agent_id: self.agent_id(),
            trust_domain: state.trust_domain.to_string(),
            svid_not_after_ms: own.map_or(0, |svid| svid.validity().not_after.unix_millis()),
            server: self
                .servers
                .current()
                .map_or_else(String::new, |server| server.to_string()),
            connected: *self.connected.borrow(),
            last_update_ms: state.last_update.map_or(0, Timestamp::unix_millis),
            epoch: position.epoch,
            index: position.index,
            entries: count(state.entries.len()),
            cached_svids: count(state.svids.len()),
            streams: count(self.surface.streams.count()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: self.started_at.unix_millis(),
            bundle_sequence: state.bundle_sequence,
        }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let state = self.surface.cache.current();
        let target = request.into_inner().target;
        let target = target.ok_or_else(|| status::malformed("name a pid, a uid or a SPIFFE ID"))?;
        let explained = self.explain_target(&state, target).await?;
        Ok(Response::new(ExplainResponse {
            agent_id: self.agent_id(),
            last_update_ms: state.last_update.map_or(0, Timestamp::unix_millis),
            connected: *self.connected.borrow(),
            ..explained
        }))
    }
}
