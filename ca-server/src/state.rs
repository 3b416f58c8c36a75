//! The replicated trust-domain state: what every server knows, and the only
//! place where it changes.
//!
//! Responsible for: [`State`], applying commands to it, and reading it.
//! Always holds: applying is deterministic (no clock, no randomness, no I/O, no
//! private key), so equal commands give equal states on every server; command
//! time never falls; every audited decision leaves its leaf in the tree whose
//! size and root are part of the state.
//! Not here: ordering and storing commands (`raft`), and acting on events.

mod acknowledgements;
mod agents;
mod audit;
mod authorities;
mod authorization;
mod bundles;
mod checkpoint;
mod command;
mod entries;
mod event;
mod explain;
mod idempotency;
mod index;
mod issuance;
mod servers;
mod settings;
mod snapshot;
mod tokens;
mod turn;
mod vault;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_identity::selector::Selector;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::raft::v1::actor::Kind as ActorKind;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{Actor, Command, CommandResult};
use mintmark_proto::mintmark::state::v1::{
    AttestedNode, Authority, AuthorityKind, Checkpoint, JoinToken,
};
use mintmark_tlog::{Frontier, Hash};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

pub use acknowledgements::missing_acknowledgements;
pub use agents::{ACKNOWLEDGEMENTS_MAX, RESUME_SILENCE_MAX};
pub use audit::{LEAF_LENGTH_MAX, RECENT_ROOTS_MAX};
pub use authorization::{DEPTH_MAX, RemovedLinks};
pub use command::{COMMAND_VERSION, is_accepted, understands};
pub use entries::ENTRY_BATCH_MAX;
pub use event::{EVENTS_MAX, Event, Position, TooOld};
pub use explain::NearMatch;
pub use issuance::{INTENTS_MAX, ISSUE_SKEW_MAX};
pub use snapshot::SnapshotError;
pub use tokens::JOIN_TOKENS_MAX;
pub use turn::refusal_code;

use event::EventRing;
use turn::{Decided, Refused, Turn};

/// What applying one command did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// What the proposer learns.
    pub result: CommandResult,
    /// Canonical bytes of the leaves that were appended, in order; their hashes
    /// are in the tree already.
    pub leaves: Vec<Vec<u8>>,
    /// Index of the first of them: the size of the tree before.
    pub first_leaf_index: u64,
    /// What changed, in order.
    pub events: Vec<Event>,
}

/// The replicated state of a trust domain.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// `None` before the cluster was initialised.
    cluster: Option<settings::Cluster>,
    now: Timestamp,
    applied_index: u64,
    entries: entries::Entries,
    nodes: agents::Nodes,
    tokens: tokens::Tokens,
    serials: issuance::Serials,
    authorities: authorities::Authorities,
    servers: servers::Servers,
    vault: vault::SealedVault,
    audit: audit::AuditTree,
    idempotency: idempotency::Idempotency,
    /// Memory of this process, not part of the state: a server that starts from
    /// a snapshot has none, and its agents get everything anew.
    events: EventRing,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.cluster == other.cluster
            && self.now == other.now
            && self.applied_index == other.applied_index
            && self.entries == other.entries
            && self.nodes == other.nodes
            && self.tokens == other.tokens
            && self.serials == other.serials
            && self.authorities == other.authorities
            && self.servers == other.servers
            && self.vault == other.vault
            && self.audit == other.audit
            && self.idempotency == other.idempotency
    }
}

impl State {
    /// The state of a server that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the command at this Raft log index. Several commands may share
    /// an index; they are applied in order, each as if it stood alone.
    ///
    /// Ask [`understands`] first: a command that this build does not know is
    /// refused here, while a newer build may apply it.
    pub fn apply(&mut self, index: u64, command: &Command) -> Applied {
        self.note_applied(index);
        self.now = self.now.max(Timestamp::from_unix_millis(command.time_ms));
        let nobody = Actor {
            kind: ActorKind::Unspecified.into(),
            ..Actor::default()
        };
        let mut turn = Turn {
            now: self.now,
            log_index: index,
            actor: command.actor.as_ref().unwrap_or(&nobody),
            request_sha256: command.body.as_ref().map(body_sha256).unwrap_or_default(),
            leaves: Vec::new(),
            events: Vec::new(),
        };
        let first_leaf_index = self.audit.frontier.size();
        let mut result = self.decide(&mut turn, command);
        result.first_leaf_index = first_leaf_index;
        result.epoch = self.epoch();
        let Turn { leaves, events, .. } = turn;
        self.audit.remember_root();
        let position = self.applied_position();
        for event in &events {
            if *event == Event::Initialized {
                self.events = EventRing::starting_at(Position {
                    index: 0,
                    ..position
                });
            }
            self.events.push(position, event.clone());
        }
        Applied {
            result,
            leaves,
            first_leaf_index,
            events,
        }
    }

    /// Takes note of a log entry that holds no command.
    pub fn note_applied(&mut self, index: u64) {
        self.applied_index = self.applied_index.max(index);
    }

    /// Checks what every command needs, then decides, then remembers.
    fn decide(&mut self, turn: &mut Turn<'_>, command: &Command) -> CommandResult {
        let Some(body) = &command.body else {
            return Refused::invalid("the command has no body").into_result();
        };
        if command.version != COMMAND_VERSION {
            return Refused::invalid("the command's version is unknown").into_result();
        }
        if self.cluster.is_none() && !matches!(body, Body::InitializeCluster(_)) {
            return settings::not_initialized().into_result();
        }
        let remembered = match self.remembered(turn, command, body) {
            Ok(Remembered::Result(result)) => return *result,
            Ok(Remembered::Key(key)) => Ok(key),
            Err(refused) => Err(refused),
        };
        let decided = remembered.and_then(|key| {
            self.check_actor(turn.now, turn.actor, body)?;
            Ok(key)
        });
        let (key, decided) = match decided {
            Ok(key) => (key, self.dispatch(turn, body)),
            Err(refused) => (None, Err(refused)),
        };
        let result = decided.unwrap_or_else(|refused| {
            // Before there is a cluster there is no log that could show it.
            if self.cluster.is_some() {
                let leaf = command::refused_leaf(turn, body);
                self.append_denial(turn, leaf, &refused);
            }
            refused.into_result()
        });
        if let Some((key, request)) = key
            && result.is_final()
        {
            self.idempotency.remember(key, request, &result, turn.now);
        }
        result
    }

    /// The result of an earlier command with this key, or the key under which
    /// this one's result will be remembered.
    fn remembered(&self, turn: &Turn<'_>, command: &Command, body: &Body) -> Decided<Remembered> {
        if command.idempotency_key.is_empty() || matches!(body, Body::IssueBatch(_)) {
            return Ok(Remembered::Key(None));
        }
        let Ok(key) = idempotency::Key::try_from(&*command.idempotency_key) else {
            return Err(Refused::invalid("the idempotency key must have 16 bytes"));
        };
        let mut hasher = Sha256::new();
        hasher.update(turn.request_sha256);
        hasher.update(turn.actor.encode_to_vec());
        let request = hasher.finalize().into();
        Ok(match self.idempotency.find(&key, &request, turn.now)? {
            Some(result) => Remembered::Result(Box::new(result)),
            None => Remembered::Key(Some((key, request))),
        })
    }
}

/// What the idempotency key of a command is good for.
enum Remembered {
    Result(Box<CommandResult>),
    Key(Option<(idempotency::Key, [u8; 32])>),
}

/// Whether a retry should get this result again.
trait Final {
    fn is_final(&self) -> bool;
}

impl Final for CommandResult {
    /// What was stale is rebuilt and sent again under the same key, and what passes by itself is
    /// waited for.
    fn is_final(&self) -> bool {
        use mintmark_proto::mintmark::raft::v1::Refusal::{
            AuthorityInUse, NotAcknowledged, NotInitialized, Stale,
        };
        !matches!(
            self.refusal(),
            Stale | NotAcknowledged | NotInitialized | AuthorityInUse
        )
    }
}

/// SHA-256 of the body as it stands in the command; nothing for a batch of
/// intents, whose leaves have a hash of their own each.
fn body_sha256(body: &Body) -> [u8; 32] {
    if matches!(body, Body::IssueBatch(_)) {
        return [0; 32];
    }
    let mut bytes = Vec::with_capacity(body.encoded_len());
    body.encode(&mut bytes);
    Sha256::digest(bytes).into()
}

/// Reads. Lists are in order of their keys.
impl State {
    /// Where this state stands in history.
    #[must_use]
    pub fn applied_position(&self) -> Position {
        Position {
            epoch: self.epoch(),
            index: self.applied_index,
        }
    }

    /// The time of the last command, or of an earlier one that was later: it never falls.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.now
    }

    /// What changed after `after`, oldest first.
    ///
    /// # Errors
    /// [`TooOld`] when some of it is no longer remembered.
    pub fn events_since(
        &self,
        after: Position,
    ) -> Result<impl Iterator<Item = (Position, Event)> + '_, TooOld> {
        self.events.since(after)
    }

    /// The entry with this id.
    #[must_use]
    pub fn entry(&self, id: &EntryId) -> Option<&RegistrationEntry> {
        self.entries.get(id)
    }

    /// All entries.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &RegistrationEntry> {
        self.entries.iter()
    }

    /// Entries with ids above `after`: for listing page by page.
    pub fn entries_after(
        &self,
        after: Option<&EntryId>,
    ) -> impl Iterator<Item = &RegistrationEntry> {
        self.entries.after(after)
    }

    /// How many entries there are.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Entries directly under this parent.
    pub fn entries_by_parent(&self, parent: &SpiffeId) -> impl Iterator<Item = &RegistrationEntry> {
        self.entries.of_parent(parent)
    }

    /// Entries that give this identity.
    pub fn entries_by_spiffe_id(&self, id: &SpiffeId) -> impl Iterator<Item = &RegistrationEntry> {
        self.entries.of_spiffe_id(id)
    }

    /// Entries that ask for this selector, among others perhaps.
    pub fn entries_by_selector(
        &self,
        selector: &Selector,
    ) -> impl Iterator<Item = &RegistrationEntry> {
        self.entries.with_selector(selector)
    }

    /// The record of this agent, banned or not.
    #[must_use]
    pub fn attested_node(&self, agent: &SpiffeId) -> Option<&AttestedNode> {
        self.nodes.get(agent).map(|node| &node.record)
    }

    /// The records of all agents.
    pub fn attested_nodes(&self) -> impl ExactSizeIterator<Item = &AttestedNode> {
        self.nodes.iter().map(|(_, node)| &node.record)
    }

    /// Records of agents with ids above `after`: for listing page by page.
    pub fn attested_nodes_after(
        &self,
        after: Option<&SpiffeId>,
    ) -> impl Iterator<Item = &AttestedNode> {
        self.nodes.after(after)
    }

    /// How many agents there are.
    #[must_use]
    pub fn attested_node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The join token with this SHA-256.
    #[must_use]
    pub fn join_token(&self, sha256: &[u8; 32]) -> Option<&JoinToken> {
        self.tokens.get(sha256)
    }

    /// How many join tokens there are, consumed and expired ones included until
    /// they are pruned.
    #[must_use]
    pub fn join_token_count(&self) -> usize {
        self.tokens.len()
    }

    /// The authority with this id.
    #[must_use]
    pub fn authority(&self, id: &str) -> Option<&Authority> {
        self.authorities.get(id)
    }

    /// Authorities of one kind.
    pub fn authorities(&self, kind: AuthorityKind) -> impl Iterator<Item = &Authority> {
        self.all_authorities()
            .filter(move |authority| authority.kind() == kind)
    }

    /// Authorities of every kind, oldest first. Ids follow from random keys: work that went by them
    /// would be done in another order on every run.
    pub fn all_authorities(&self) -> impl Iterator<Item = &Authority> {
        let mut all: Vec<_> = self.authorities.iter().collect();
        all.sort_by_key(|one| (one.prepared_at_ms, one.kind, &one.id));
        all.into_iter()
    }

    /// The authority of this kind in state active. It may be tainted or
    /// expired: ask [`State::may_sign`] before using it.
    #[must_use]
    pub fn active_authority(&self, kind: AuthorityKind) -> Option<&Authority> {
        self.authorities.active(kind)
    }

    /// Whether this authority is active, untainted and unexpired.
    #[must_use]
    pub fn may_sign(&self, authority_id: &str, now: Timestamp) -> bool {
        let authority = self.authorities.get(authority_id);
        authority.is_some_and(|authority| self.authorities.may_sign(authority, now))
    }

    /// Number of leaves of the audit log.
    #[must_use]
    pub fn audit_size(&self) -> u64 {
        self.audit.frontier.size()
    }

    /// Root of the audit log.
    #[must_use]
    pub fn audit_root(&self) -> Hash {
        self.audit.frontier.root()
    }

    /// The right edge of the audit log's tree.
    #[must_use]
    pub fn audit_frontier(&self) -> &Frontier {
        &self.audit.frontier
    }

    /// The last checkpoint that was accepted.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<&Checkpoint> {
        self.audit.last_checkpoint.as_ref()
    }

    /// How many serial numbers are taken.
    #[must_use]
    pub fn live_serial_count(&self) -> usize {
        self.serials.len()
    }

    /// How many results are kept for repeated requests.
    #[must_use]
    pub fn remembered_result_count(&self) -> usize {
        self.idempotency.len()
    }
}
