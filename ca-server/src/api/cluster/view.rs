//! Answers about the cluster, made from the state.
//!
//! Always: pure; lists are in a stable order and cut at a bound.
//!
//! Not here: who may ask.

use std::collections::BTreeSet;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::selector::Selectors;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::convert::ids::selectors_from_state;
use mintmark_proto::mintmark::cluster::v1 as wire;
use mintmark_proto::mintmark::cluster::v1::explain_entries_response::Match;
use mintmark_proto::mintmark::state::v1::AuthorityState;

use crate::api::status::ApiError;
use crate::authority::statement::trust_domain_pin;
use crate::raft::{ClockState, RaftStatus, Role};
use crate::state::{NearMatch, State, missing_acknowledgements};

/// Names of parties that an authority waits for.
const MISSING_MAX: usize = 1_000;
/// Selectors of one question: more than any process has.
const SELECTORS_MAX: usize = 1_000;
/// Entries in one answer, the nearest first.
const MATCHES_MAX: usize = 100;
/// Selectors that an entry may want beyond those given, and still be near.
const NEAR_MAX: usize = 4;
/// Agents named in one answer. An alias may cover every agent there is.
const AGENTS_MAX: usize = 10_000;

/// What a server knows of itself alone.
#[derive(Debug)]
pub(super) struct Own {
    /// Its id.
    pub(super) node_id: u64,
    /// Whether its vault is sealed.
    pub(super) sealed: bool,
    /// Its clock beside the voters'.
    pub(super) clock: ClockState,
    /// What its clock shows.
    pub(super) now: Timestamp,
    /// Members whose state differs from its own.
    pub(super) differing_members: usize,
    /// When it started.
    pub(super) started_at: Timestamp,
}

/// How the cluster looks from here.
pub(super) fn status(state: &State, raft: &RaftStatus, own: &Own) -> wire::Status {
    let members = state.servers().map(|server| wire::Member {
        node_id: server.node_id,
        name: server.name.clone(),
        peer_address: server.peer_address.clone(),
        api_address: server.api_address.clone(),
        voter: raft.voters.contains(&server.node_id),
        issuing: server.issuing,
        matched_index: matched_index(raft, own, server.node_id),
    });
    let key = state.trust_domain_key();
    let pin = key.and_then(|key| trust_domain_pin(&key.certificate).ok());
    wire::Status {
        node_id: own.node_id,
        role: role_name(raft.role).to_owned(),
        term: raft.term,
        leader: raft.leader.unwrap_or(0),
        last_log_index: raft.last_log_index.unwrap_or(0),
        applied_index: raft.applied_log_index.unwrap_or(0),
        epoch: state.epoch(),
        trust_domain: state
            .trust_domain()
            .map(ToString::to_string)
            .unwrap_or_default(),
        cluster_id: state.cluster_id().map(Vec::from).unwrap_or_default(),
        sealed: own.sealed,
        members: members.collect(),
        audit_size: state.audit_size(),
        audit_root: state.audit_root().to_vec(),
        bundle_sequence: state.bundle_sequence(),
        settings: state.settings().cloned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at_ms: own.started_at.unix_millis(),
        trust_domain_key_pin: pin.map(Vec::from).unwrap_or_default(),
        clock: clock_name(own.clock).to_owned(),
        clock_offset_ms: match own.clock {
            ClockState::Unknown => 0,
            ClockState::Good(offset) | ClockState::Skewed(offset) => offset.0,
        },
        cluster_time_ahead_ms: u64::try_from(state.time().since(own.now).as_millis())
            .unwrap_or(u64::MAX),
        differing_members: own.differing_members as u64,
    }
}

fn clock_name(clock: ClockState) -> &'static str {
    match clock {
        ClockState::Unknown => "unknown",
        ClockState::Good(_) => "good",
        ClockState::Skewed(_) => "skewed",
    }
}

/// Through which entry a member has the log: the leader knows it of all, everybody of itself.
fn matched_index(raft: &RaftStatus, own: &Own, node_id: u64) -> u64 {
    if node_id == own.node_id {
        return raft.last_log_index.unwrap_or(0);
    }
    raft.replicated
        .get(&node_id)
        .copied()
        .flatten()
        .unwrap_or(0)
}

/// The field's word for a role.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Learner => "learner",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Stopped => "stopped",
    }
}

/// The authorities, oldest first, and who keeps the next ones from signing.
pub(super) fn authorities(state: &State, now: Timestamp) -> wire::ListAuthoritiesResponse {
    let authorities: Vec<_> = state.all_authorities().cloned().collect();
    let waiting = authorities.iter().filter(|authority| {
        matches!(
            authority.state(),
            AuthorityState::Prepared | AuthorityState::Published
        )
    });
    let missing: BTreeSet<String> = waiting
        .flat_map(|next| missing_acknowledgements(state, &next.id, now))
        .collect();
    let missing = missing.into_iter().take(MISSING_MAX).collect();
    wire::ListAuthoritiesResponse {
        authorities,
        missing,
    }
}

/// What to explain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The identity that is asked about.
    spiffe_id: Option<SpiffeId>,
    /// The selectors that somebody has.
    selectors: Selectors,
}

impl Question {
    /// Reads a request.
    ///
    /// # Errors
    /// When it asks nothing, or a field is malformed or too long.
    pub(super) fn from_wire(wire: &wire::ExplainEntriesRequest) -> Result<Self, ApiError> {
        if wire.selectors.len() > SELECTORS_MAX {
            return Err(ApiError::TooLarge {
                what: "selectors",
                limit: SELECTORS_MAX,
            });
        }
        let selectors = selectors_from_state("selectors", &wire.selectors)?;
        let id = match wire.spiffe_id.as_str() {
            "" => None,
            text => {
                let id = SpiffeId::parse(text);
                Some(id.map_err(|error| ApiError::invalid("spiffe_id", error))?)
            }
        };
        if id.is_none() && selectors.is_empty() {
            return Err(ApiError::invalid("spiffe_id", "or selectors must be given"));
        }
        Ok(Self {
            spiffe_id: id,
            selectors,
        })
    }
}

/// Entries of an identity, or those that selectors match or nearly match; with the agents that may
/// serve them. Without selectors nothing is said to be missing, for nothing was compared.
pub(super) fn explain(state: &State, question: &Question) -> wire::ExplainEntriesResponse {
    let Question {
        spiffe_id,
        selectors,
    } = question;
    let found = match spiffe_id {
        Some(id) => state.explain_spiffe_id(id, selectors, MATCHES_MAX),
        None => state.explain_selectors(selectors, NEAR_MAX, MATCHES_MAX),
    };
    let mut agents_left = AGENTS_MAX;
    let shown = |near: NearMatch<'_>| {
        let may_serve = near.agents.iter().filter(|agent| is_usable(state, agent));
        let agents: Vec<_> = may_serve
            .take(agents_left)
            .map(ToString::to_string)
            .collect();
        agents_left = agents_left.saturating_sub(agents.len());
        let missing = if selectors.is_empty() {
            &[][..]
        } else {
            &near.missing
        };
        Match {
            entry: Some(near.entry.into()),
            missing: missing.iter().map(Into::into).collect(),
            agents,
        }
    };
    wire::ExplainEntriesResponse {
        matches: found.into_iter().map(shown).collect(),
    }
}

fn is_usable(state: &State, agent: &SpiffeId) -> bool {
    state.attested_node(agent).is_some_and(|node| !node.banned)
}
