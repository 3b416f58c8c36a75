//! Attested nodes: attestation, resume, ban, eviction, acknowledgements.
//!
//! Responsible for: the record of each agent, and which key and serial count
//! for it.
//! Always holds: a ban survives every later attestation and ends by eviction
//! only; a lost reply leaves the agent with a key that still counts; an agent
//! never acknowledges a bundle that does not exist yet.
//! Not here: evidence (verified before the command was made), issuance.

use std::collections::BTreeMap;
use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::selector::{Selector, Selectors};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::convert::ids::{selectors_from_state, selectors_to_state};
use mintmark_proto::mintmark::audit::v1::{Attestation, Leaf};
use mintmark_proto::mintmark::raft::v1::{
    AcknowledgeBundle, AttestNode, BanAgent, CommandResult, EvictAgent, ItemResult, RecordResume,
    Refusal, acknowledge_bundle,
};
use mintmark_proto::mintmark::state::v1::AttestedNode;
use mintmark_runtime::mutation::{self, Bug};

use super::State;
use super::event::Event;
use super::index::Index;
use super::turn::{Decided, Refused, Turn, digest};

/// What the path of every agent that joined by token contains, before the token.
pub(super) const JOIN_TOKEN_PREFIX: &str = "/spire/agent/join_token/";

/// Method name of attestation by join token.
pub(super) const JOIN_TOKEN: &str = "join_token";

/// An agent that was silent for longer must attest anew.
pub const RESUME_SILENCE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Selectors of one node; attestors yield a few dozen.
const NODE_SELECTORS_MAX: usize = 1_024;

/// Acknowledgements in one command: servers aggregate those of their agents.
pub const ACKNOWLEDGEMENTS_MAX: usize = 10_000;

/// Longest version text that an agent may report.
const VERSION_MAX: usize = 64;

/// One attested node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) record: AttestedNode,
    /// The record's selectors, parsed.
    pub(super) selectors: Selectors,
}

/// All attested nodes.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Nodes {
    by_id: BTreeMap<SpiffeId, Node>,
    by_selector: Index<Selector, SpiffeId>,
}

impl Nodes {
    pub(super) fn get(&self, id: &SpiffeId) -> Option<&Node> {
        self.by_id.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &SpiffeId) -> Option<&mut AttestedNode> {
        self.by_id.get_mut(id).map(|node| &mut node.record)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&SpiffeId, &Node)> {
        self.by_id.iter()
    }

    /// Nodes with ids above `after`, in order of their ids.
    pub(super) fn after(&self, after: Option<&SpiffeId>) -> impl Iterator<Item = &AttestedNode> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.by_id
            .range::<SpiffeId, _>((from, Unbounded))
            .map(|(_, node)| &node.record)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Nodes that have all of these selectors (at least one).
    pub(super) fn covering<'a>(
        &'a self,
        selectors: &'a Selectors,
    ) -> impl Iterator<Item = &'a SpiffeId> {
        // The rarest selector gives the fewest candidates.
        let rarest = selectors
            .iter()
            .min_by_key(|selector| self.by_selector.count(selector));
        rarest
            .into_iter()
            .flat_map(|selector| self.by_selector.get(selector))
            .filter(|id| {
                self.by_id
                    .get(*id)
                    .is_some_and(|node| selectors.is_subset(&node.selectors))
            })
    }

    pub(super) fn put(&mut self, id: SpiffeId, node: Node) {
        self.remove(&id);
        for selector in &node.selectors {
            self.by_selector.insert(selector, &id);
        }
        self.by_id.insert(id, node);
    }

    pub(super) fn remove(&mut self, id: &SpiffeId) -> Option<Node> {
        let node = self.by_id.remove(id)?;
        for selector in &node.selectors {
            self.by_selector.remove(selector, id);
        }
        Some(node)
    }
}

impl State {
    pub(super) fn attest_node(
        &mut self,
        turn: &mut Turn<'_>,
        body: &AttestNode,
    ) -> Decided<CommandResult> {
        let agent = self.agent_id(&body.agent_id)?;
        let prefix = format!("/spire/agent/{}/", body.attestation_type);
        if !agent.path().starts_with(&prefix) {
            let detail = format!("{agent} is not the ID of an agent attested by this method");
            return Err(Refused::invalid(detail));
        }
        let key = digest("csr_spki_sha256", &body.csr_spki_sha256)?;
        let selectors = node_selectors(body)?;
        if self
            .nodes
            .get(&agent)
            .is_some_and(|node| node.record.banned)
        {
            return Err(Refused::new(Refusal::Banned, format!("{agent} is banned")));
        }
        self.check_token_use(&agent, body, &key, turn.now)?;
        self.check_reattestation(&agent, &key)?;

        let alias = self.consume_token(&agent, body, &key);
        let old = self
            .nodes
            .get(&agent)
            .map(|node| node.record.clone())
            .unwrap_or_default();
        let record = AttestedNode {
            agent_id: body.agent_id.clone(),
            attestation_type: body.attestation_type.clone(),
            selectors: selectors_to_state(&selectors),
            key_spki_sha256: key.to_vec(),
            current_serial: Vec::new(),
            pending_serial: Vec::new(),
            pending_key_spki_sha256: Vec::new(),
            can_reattest: body.can_reattest,
            attested_at_ms: turn.now.unix_millis(),
            // It may have lost all it had served.
            acknowledged_bundle_sequence: 0,
            delivered_bundle_sequence: 0,
            ..old
        };
        self.nodes.put(
            agent.clone(),
            Node {
                record: record.clone(),
                selectors,
            },
        );
        self.append_leaf(turn, attest_leaf(turn, body));
        turn.emit(Event::AgentChanged(agent));
        if let Some(alias) = alias {
            self.create_entry(turn, &alias);
        }
        Ok(CommandResult {
            node: Some(record),
            ..CommandResult::default()
        })
    }

    /// A method that works once binds the agent to its first key: the same
    /// attestation may repeat while that key is still the agent's.
    fn check_reattestation(&self, agent: &SpiffeId, key: &[u8; 32]) -> Decided<()> {
        let Some(node) = self.nodes.get(agent) else {
            return Ok(());
        };
        let remembered = !mutation::is(Bug::TokenNotConsumed);
        if node.record.can_reattest || node.record.key_spki_sha256 == key || !remembered {
            return Ok(());
        }
        let detail = format!("{agent} is attested already, and its method works once");
        Err(Refused::new(Refusal::AlreadyExists, detail))
    }

    pub(super) fn record_resume(
        &mut self,
        turn: &mut Turn<'_>,
        body: &RecordResume,
    ) -> Decided<CommandResult> {
        let agent = self.agent_id(&body.agent_id)?;
        let now = turn.now;
        let proven = digest("key_spki_sha256", &body.key_spki_sha256)?;
        if !body.new_key_spki_sha256.is_empty() {
            digest("new_key_spki_sha256", &body.new_key_spki_sha256)?;
        }
        let record = self.active_agent(&agent)?;
        if proven != *record.key_spki_sha256 && proven != *record.pending_key_spki_sha256 {
            let detail = format!("the key is not the last one that {agent} had");
            return Err(Refused::new(Refusal::NotAuthorized, detail));
        }
        let last_seen = record.last_issued_at_ms.max(record.attested_at_ms);
        if now.since(Timestamp::from_unix_millis(last_seen)) > RESUME_SILENCE_MAX {
            let detail = format!("{agent} was silent for more than 30 days and must attest anew");
            return Err(Refused::new(Refusal::NotAuthorized, detail));
        }
        let same_key = body.new_key_spki_sha256 == proven;
        let pending = if same_key {
            Vec::new()
        } else {
            body.new_key_spki_sha256.clone()
        };
        let mut result = CommandResult::default();
        if let Some(record) = self.nodes.get_mut(&agent) {
            record.key_spki_sha256 = proven.to_vec();
            record.pending_key_spki_sha256 = pending;
            record.current_serial.clear();
            record.pending_serial.clear();
            result.node = Some(record.clone());
        }
        let leaf = Leaf {
            action: "agent.resume".to_owned(),
            subject: body.agent_id.clone(),
            attestation: Some(Attestation {
                spki_sha256: proven.to_vec(),
                ..resume_method()
            }),
            request_sha256: turn.request_sha256.to_vec(),
            ..Leaf::default()
        };
        self.append_leaf(turn, leaf);
        turn.emit(Event::AgentChanged(agent));
        Ok(result)
    }

    pub(super) fn ban_agent(
        &mut self,
        turn: &mut Turn<'_>,
        body: &BanAgent,
    ) -> Decided<CommandResult> {
        let agent = self.agent_id(&body.agent_id)?;
        let Some(record) = self.nodes.get_mut(&agent) else {
            return Err(Refused::not_found(format!("there is no agent {agent}")));
        };
        record.banned = true;
        record.current_serial.clear();
        record.pending_serial.clear();
        let node = Some(record.clone());
        self.tokens.end(&agent, turn.now);
        self.append_leaf(turn, agent_leaf(turn, "agent.ban", &body.agent_id));
        turn.emit(Event::AgentBanned(agent));
        Ok(CommandResult {
            node,
            ..CommandResult::default()
        })
    }

    pub(super) fn evict_agent(
        &mut self,
        turn: &mut Turn<'_>,
        body: &EvictAgent,
    ) -> Decided<CommandResult> {
        let agent = self.agent_id(&body.agent_id)?;
        if self.nodes.get(&agent).is_none() {
            return Err(Refused::not_found(format!("there is no agent {agent}")));
        }
        // Before the record goes, because the path is a secret again after it.
        self.append_leaf(turn, agent_leaf(turn, "agent.evict", &body.agent_id));
        self.delete_token_aliases(turn, &agent);
        self.tokens.end(&agent, turn.now);
        let node = self.nodes.remove(&agent).map(|node| node.record);
        turn.emit(Event::AgentRemoved(agent));
        Ok(CommandResult {
            node,
            ..CommandResult::default()
        })
    }

    pub(super) fn acknowledge_bundle(
        &mut self,
        body: &AcknowledgeBundle,
    ) -> Decided<CommandResult> {
        if body.acknowledgements.len() > ACKNOWLEDGEMENTS_MAX {
            let detail = format!("more than {ACKNOWLEDGEMENTS_MAX} acknowledgements");
            return Err(Refused::new(Refusal::Limit, detail));
        }
        let items = body
            .acknowledgements
            .iter()
            .map(|item| self.acknowledge(item))
            .collect();
        Ok(CommandResult {
            items,
            ..CommandResult::default()
        })
    }

    fn acknowledge(&mut self, item: &acknowledge_bundle::Acknowledgement) -> ItemResult {
        match self.try_acknowledge(item) {
            Ok(()) => ItemResult::default(),
            Err(refused) => refused.into_item(0),
        }
    }

    fn try_acknowledge(&mut self, item: &acknowledge_bundle::Acknowledgement) -> Decided<()> {
        let agent = self.agent_id(&item.agent_id)?;
        self.active_agent(&agent)?;
        if !item.presented_serial.is_empty() {
            if let Some(record) = self.nodes.get_mut(&agent)
                && record.pending_serial == item.presented_serial
            {
                promote(record);
            }
            return Ok(());
        }
        let newest = self.bundle_sequence();
        if item.sequence > newest {
            let detail = format!(
                "bundle {} does not exist yet; the newest is {newest}",
                item.sequence
            );
            return Err(Refused::invalid(detail));
        }
        if let Some(record) = self.nodes.get_mut(&agent) {
            // A stream says what is served. A poll only tells that the answer
            // to the one before it arrived.
            let served = if item.streams {
                item.sequence
            } else {
                std::mem::replace(&mut record.delivered_bundle_sequence, item.sequence)
            };
            record.acknowledged_bundle_sequence = record.acknowledged_bundle_sequence.max(served);
            record.streams = item.streams;
            if item.version.len() <= VERSION_MAX {
                record.agent_version.clone_from(&item.version);
            }
        }
        Ok(())
    }

    /// The record of an agent that is attested and not banned.
    pub(super) fn active_agent(&self, agent: &SpiffeId) -> Decided<&AttestedNode> {
        let Some(node) = self.nodes.get(agent) else {
            let detail = format!("{agent} is not attested");
            return Err(Refused::new(Refusal::AgentNotAttested, detail));
        };
        if node.record.banned && !mutation::is(Bug::BanIgnored) {
            return Err(Refused::new(Refusal::Banned, format!("{agent} is banned")));
        }
        Ok(&node.record)
    }

    /// Parses the ID of an agent of this trust domain.
    pub(super) fn agent_id(&self, text: &str) -> Decided<SpiffeId> {
        let id = SpiffeId::parse(text).map_err(|error| Refused::invalid(error.to_string()))?;
        if !id.is_agent() || !id.is_member_of(self.trust_domain_or_refuse()?) {
            return Err(Refused::invalid(format!(
                "{id} is not an agent of this trust domain"
            )));
        }
        Ok(id)
    }
}

/// The agent was seen with its pending SVID: that and its key are the current ones, and those before
/// are worth nothing any more.
pub(super) fn promote(record: &mut AttestedNode) {
    record.current_serial = std::mem::take(&mut record.pending_serial);
    record.key_spki_sha256 = std::mem::take(&mut record.pending_key_spki_sha256);
}

fn node_selectors(body: &AttestNode) -> Decided<Selectors> {
    if body.selectors.len() > NODE_SELECTORS_MAX {
        let detail = format!("more than {NODE_SELECTORS_MAX} selectors");
        return Err(Refused::new(Refusal::Limit, detail));
    }
    selectors_from_state("selectors", &body.selectors)
        .map_err(|error| Refused::invalid(error.explain()))
}

fn resume_method() -> Attestation {
    Attestation {
        method: "resume".to_owned(),
        ..Attestation::default()
    }
}

/// The leaf of an attestation, accepted unless made otherwise.
pub(super) fn attest_leaf(turn: &Turn<'_>, body: &AttestNode) -> Leaf {
    Leaf {
        action: "agent.attest".to_owned(),
        subject: body.agent_id.clone(),
        attestation: Some(Attestation {
            method: body.attestation_type.clone(),
            spki_sha256: body.csr_spki_sha256.clone(),
            evidence_sha256: body.evidence_sha256.clone(),
            selectors: u32::try_from(body.selectors.len()).unwrap_or(u32::MAX),
        }),
        request_sha256: turn.request_sha256.to_vec(),
        ..Leaf::default()
    }
}

fn agent_leaf(turn: &Turn<'_>, action: &str, agent: &str) -> Leaf {
    Leaf {
        action: action.to_owned(),
        subject: agent.to_owned(),
        request_sha256: turn.request_sha256.to_vec(),
        ..Leaf::default()
    }
}
