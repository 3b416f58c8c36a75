//! The audit tree and the leaves that commands append to it.
//!
//! Responsible for: canonical leaf bytes, their bounds and commitments, the
//! frontier, the roots that recent checkpoints may be about.
//! Always holds: a leaf has at most 1023 bytes; an identity that is too long,
//! and a path that bears a token nobody consumed yet, stand in it as SHA-256.
//! Not here: which command appends which leaf, and where leaves are stored.

use std::collections::VecDeque;

use mintmark_identity::clock::{Clock as _, SystemClock};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1::actor::Kind as ActorKind;
use mintmark_proto::mintmark::raft::v1::{Actor, Refusal};
use mintmark_proto::mintmark::state::v1::Checkpoint;
use mintmark_runtime::mutation::{self, Bug};
use mintmark_tlog::{Frontier, Hash, leaf_hash};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::State;
use super::agents::JOIN_TOKEN_PREFIX;
use super::turn::{Refused, Turn, refusal_code};

/// Version of the leaf format.
const LEAF_VERSION: u32 = 1;

/// Longest canonical leaf.
pub const LEAF_LENGTH_MAX: usize = 1_023;

/// Roots that are remembered between commands. A checkpoint is signed by a job
/// while the tree grows on; this many commands may pass meanwhile.
pub const RECENT_ROOTS_MAX: usize = 4_096;

/// Longest action and reason; ours are shorter, a proposer's are cut.
const WORD_MAX: usize = 96;

/// Strings longer than this are committed before shorter ones are.
const COMMITMENT_LENGTH: usize = "sha256:".len() + 64;

/// Values of `decision`.
pub(super) const ACCEPTED: &str = "accepted";
pub(super) const DENIED: &str = "denied";

/// The part of the Merkle log that is replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct AuditTree {
    pub(super) frontier: Frontier,
    /// Size and root after recent commands, oldest first.
    pub(super) recent_roots: VecDeque<(u64, Hash)>,
    pub(super) last_checkpoint: Option<Checkpoint>,
}

impl AuditTree {
    /// Remembers the root that a command left behind.
    pub(super) fn remember_root(&mut self) {
        let size = self.frontier.size();
        if self
            .recent_roots
            .back()
            .is_some_and(|(last, _)| *last == size)
        {
            return;
        }
        if self.recent_roots.len() >= RECENT_ROOTS_MAX {
            self.recent_roots.pop_front();
        }
        self.recent_roots.push_back((size, self.frontier.root()));
    }

    /// The root of the first `size` leaves, if it is remembered.
    pub(super) fn root_of(&self, size: u64) -> Option<Hash> {
        let found = self
            .recent_roots
            .binary_search_by_key(&size, |(size, _)| *size)
            .ok()?;
        self.recent_roots.get(found).map(|(_, root)| *root)
    }
}

impl State {
    /// Appends a leaf: fills in what every leaf has, bounds it, pushes its hash.
    pub(super) fn append_leaf(&mut self, turn: &mut Turn<'_>, mut leaf: Leaf) -> u64 {
        let index = self.audit.frontier.size();
        leaf.version = LEAF_VERSION;
        leaf.index = index;
        leaf.log_index = turn.log_index;
        leaf.time_ms = turn.now.unix_millis();
        if mutation::is(Bug::ApplyReadsClock) {
            leaf.time_ms = SystemClock.now().unix_millis();
        }
        leaf.actor = actor_text(turn.actor);
        if leaf.decision.is_empty() {
            leaf.decision = ACCEPTED.to_owned();
        }
        self.hide_tokens(&mut leaf);
        let bytes = canonical(leaf);
        self.audit.frontier.push(leaf_hash(&bytes));
        turn.leaves.push(bytes);
        index
    }

    /// Appends the leaf of a refusal, unless it is one that leaves none.
    /// Returns its index, or 0.
    pub(super) fn append_denial(
        &mut self,
        turn: &mut Turn<'_>,
        leaf: Leaf,
        refused: &Refused,
    ) -> u64 {
        if !refused.is_audited() {
            return 0;
        }
        self.append_leaf(turn, denied(leaf, refused.refusal))
    }

    /// A join token is a secret until it is consumed, and its agent's path
    /// contains it: such paths are committed, not written.
    fn hide_tokens(&self, leaf: &mut Leaf) {
        for text in identities(leaf) {
            if text.contains(JOIN_TOKEN_PREFIX) && !self.is_attested_path(text) {
                *text = commitment(text);
            }
        }
    }

    fn is_attested_path(&self, text: &str) -> bool {
        SpiffeId::parse(text).is_ok_and(|id| self.nodes.get(&id).is_some())
    }
}

/// The leaf as a denial with this reason.
pub(super) fn denied(mut leaf: Leaf, refusal: Refusal) -> Leaf {
    leaf.decision = DENIED.to_owned();
    leaf.reason = refusal_code(refusal).to_owned();
    leaf
}

/// How a leaf names who asked.
fn actor_text(actor: &Actor) -> String {
    match actor.kind() {
        ActorKind::Local => "local".to_owned(),
        ActorKind::Server => format!("server/{}", actor.node_id),
        ActorKind::Admin | ActorKind::Agent => actor.spiffe_id.clone(),
        ActorKind::Nobody => "nobody".to_owned(),
        ActorKind::Unspecified => "unspecified".to_owned(),
    }
}

/// What stands in a leaf for a text that may not or cannot stand there itself.
fn commitment(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())))
}

/// The texts of a leaf that come from outside: identities, ids, methods.
fn identities(leaf: &mut Leaf) -> Vec<&mut String> {
    let mut texts = vec![&mut leaf.actor, &mut leaf.subject];
    if let Some(part) = &mut leaf.issuance {
        texts.extend([&mut part.authority_id, &mut part.entry_id, &mut part.agent]);
    }
    if let Some(part) = &mut leaf.attestation {
        texts.push(&mut part.method);
    }
    if let Some(part) = &mut leaf.entry {
        texts.extend([&mut part.entry_id, &mut part.spiffe_id, &mut part.parent_id]);
    }
    if let Some(part) = &mut leaf.authority {
        texts.push(&mut part.authority_id);
    }
    texts.extend(&mut leaf.missing);
    texts
}

/// Byte fields of a leaf, none of which is longer than a digest when the
/// command was well formed.
fn digests(leaf: &mut Leaf) -> Vec<&mut Vec<u8>> {
    let mut fields = vec![&mut leaf.request_sha256];
    if let Some(part) = &mut leaf.issuance {
        fields.extend([
            &mut part.serial,
            &mut part.svid_hash,
            &mut part.spki_sha256,
            &mut part.audience_sha256,
        ]);
    }
    if let Some(part) = &mut leaf.attestation {
        fields.extend([&mut part.spki_sha256, &mut part.evidence_sha256]);
    }
    if let Some(part) = &mut leaf.entry {
        fields.push(&mut part.entry_sha256);
    }
    if let Some(part) = &mut leaf.authority {
        fields.push(&mut part.public_key_sha256);
    }
    fields
}

/// Canonical bytes: the message with ascending fields and defaults left out,
/// shortened until it fits.
fn canonical(mut leaf: Leaf) -> Vec<u8> {
    clip(&mut leaf.action, WORD_MAX);
    clip(&mut leaf.reason, WORD_MAX);
    for bytes in digests(&mut leaf) {
        if bytes.len() > 32 {
            *bytes = Sha256::digest(&*bytes).to_vec();
        }
    }
    // Four names of missing parties say more than one long identity; after
    // that identities count for more. The reason has the number of all.
    while leaf.encoded_len() > LEAF_LENGTH_MAX && leaf.missing.len() > 4 {
        leaf.missing.pop();
    }
    while leaf.encoded_len() > LEAF_LENGTH_MAX {
        let longest = identities(&mut leaf)
            .into_iter()
            .max_by_key(|text| text.len());
        match longest {
            Some(text) if text.len() > COMMITMENT_LENGTH => *text = commitment(text),
            _ => break,
        }
    }
    while leaf.encoded_len() > LEAF_LENGTH_MAX && leaf.missing.pop().is_some() {}
    debug_assert!(
        leaf.encoded_len() <= LEAF_LENGTH_MAX,
        "every part of a leaf is bounded"
    );
    leaf.encode_to_vec()
}

/// Cuts a text at a character boundary.
fn clip(text: &mut String, length_max: usize) {
    while text.len() > length_max {
        text.pop();
    }
}

/// SHA-256 of a message's encoding.
pub(super) fn message_sha256(message: &impl prost::Message) -> Vec<u8> {
    Sha256::digest(message.encode_to_vec()).to_vec()
}
