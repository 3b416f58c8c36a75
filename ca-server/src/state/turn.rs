//! One command while it is being applied.
//!
//! Responsible for: what a command brings (time, actor, request hash), what it
//! leaves behind (leaves, events), and refusals.
//! Always holds: a refusal has a stable code; nothing secret stands in a detail.
//! Not here: the decisions themselves.

use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::raft::v1::{Actor, CommandResult, ItemResult, Refusal};

use super::event::Event;

/// A decision not to do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) detail: String,
    /// Activation only: who had not acknowledged.
    pub(super) missing: Vec<String>,
}

/// Outcome of a decision.
pub(super) type Decided<T> = Result<T, Refused>;

impl Refused {
    pub(super) fn new(refusal: Refusal, detail: impl Into<String>) -> Self {
        Self {
            refusal,
            detail: detail.into(),
            missing: Vec::new(),
        }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Refusal::Invalid, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Refusal::NotFound, detail)
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Refusal::Conflict, detail)
    }

    /// Whether the log has to show it. What was made from an outdated revision
    /// is rebuilt and tried again: the retry leaves the leaf.
    pub(super) fn is_audited(&self) -> bool {
        !matches!(self.refusal, Refusal::Stale | Refusal::NotInitialized)
    }

    pub(super) fn into_item(self, leaf_index: u64) -> ItemResult {
        ItemResult {
            refusal: self.refusal.into(),
            detail: self.detail,
            leaf_index,
            entry: None,
        }
    }

    pub(super) fn into_result(self) -> CommandResult {
        CommandResult {
            refusal: self.refusal.into(),
            detail: self.detail,
            missing: self.missing,
            ..CommandResult::default()
        }
    }
}

/// The stable code of a refusal, as leaves and error texts have it.
#[must_use]
pub fn refusal_code(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Unspecified => "accepted",
        Refusal::NotFound => "not_found",
        Refusal::AlreadyExists => "already_exists",
        Refusal::Invalid => "invalid",
        Refusal::Stale => "stale",
        Refusal::Banned => "banned",
        Refusal::TokenUnknown => "token_unknown",
        Refusal::TokenUsed => "token_used",
        Refusal::NotAuthorized => "not_authorized",
        Refusal::Authority => "authority",
        Refusal::SerialReused => "serial_reused",
        Refusal::Clock => "clock",
        Refusal::Conflict => "conflict",
        Refusal::Limit => "limit",
        Refusal::NotInitialized => "not_initialized",
        Refusal::NotAcknowledged => "not_acknowledged",
        Refusal::AgentNotAttested => "agent_not_attested",
        Refusal::AgentSerial => "agent_serial",
        Refusal::AuthorityState => "authority_state",
        Refusal::AuthorityNotTainted => "authority_not_tainted",
        Refusal::AuthorityInUse => "authority_in_use",
    }
}

/// The command being applied: its inputs and, as it proceeds, its traces.
pub(super) struct Turn<'a> {
    /// Command time: the greatest seen so far.
    pub(super) now: Timestamp,
    /// Raft log index.
    pub(super) log_index: u64,
    /// Who asked.
    pub(super) actor: &'a Actor,
    /// SHA-256 of the encoded body.
    pub(super) request_sha256: [u8; 32],
    /// Canonical bytes of the leaves appended so far.
    pub(super) leaves: Vec<Vec<u8>>,
    /// Events so far.
    pub(super) events: Vec<Event>,
}

impl Turn<'_> {
    pub(super) fn emit(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// The array in a byte field that has to hold a SHA-256 digest.
pub(super) fn digest(field: &str, bytes: &[u8]) -> Decided<[u8; 32]> {
    <[u8; 32]>::try_from(bytes)
        .map_err(|_| Refused::invalid(format!("{field} must have 32 bytes, not {}", bytes.len())))
}
