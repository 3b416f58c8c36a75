//! Join tokens: each for exactly one key.
//!
//! Responsible for: making tokens, binding them to the key that consumes them,
//! and ending them.
//! Always holds: only the SHA-256 of a token is known here; the key that
//! consumed a token never changes; a token of a banned or evicted agent is over.
//! Not here: what a token looks like, and who may ask for one.

use std::collections::{BTreeMap, BTreeSet};

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_identity::selector;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1::{AttestNode, CommandResult, CreateJoinToken, Refusal};
use mintmark_proto::mintmark::state::v1::{Entry, JoinToken, Selector};
use mintmark_runtime::mutation::{self, Bug};
use sha2::{Digest as _, Sha256};

use super::State;
use super::agents::{JOIN_TOKEN, JOIN_TOKEN_PREFIX};
use super::turn::{Decided, Refused, Turn, digest};

/// Tokens that may exist at a time; each holds a few hundred bytes of every
/// server's memory.
pub const JOIN_TOKENS_MAX: usize = 100_000;

/// Kind of the selector that is an agent's own ID.
const ALIAS_SELECTOR: &str = "spiffe_id";

/// All join tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tokens {
    by_hash: BTreeMap<[u8; 32], JoinToken>,
    by_expiry: BTreeSet<(i64, [u8; 32])>,
}

impl Tokens {
    pub(super) fn get(&self, hash: &[u8; 32]) -> Option<&JoinToken> {
        self.by_hash.get(hash)
    }

    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &JoinToken> {
        self.by_hash.values()
    }

    pub(super) fn put(&mut self, hash: [u8; 32], token: JoinToken) {
        self.remove(&hash);
        self.by_expiry.insert((token.expires_at_ms, hash));
        self.by_hash.insert(hash, token);
    }

    fn remove(&mut self, hash: &[u8; 32]) -> Option<JoinToken> {
        let token = self.by_hash.remove(hash)?;
        self.by_expiry.remove(&(token.expires_at_ms, *hash));
        Some(token)
    }

    /// Binds a token to its key.
    pub(super) fn consume(&mut self, hash: &[u8; 32], key: &[u8; 32], by: &str) {
        if let Some(token) = self.by_hash.get_mut(hash) {
            token.consumed_by_spki_sha256 = key.to_vec();
            token.agent_id = by.to_owned();
        }
    }

    /// Ends the token that this agent joined with, if it is still there.
    pub(super) fn end(&mut self, agent: &SpiffeId, now: Timestamp) {
        let Some(hash) = token_of(agent) else { return };
        if let Some(mut token) = self.remove(&hash) {
            token.expires_at_ms = token.expires_at_ms.min(now.unix_millis());
            self.put(hash, token);
        }
    }

    /// Drops what expired at `now` or before.
    pub(super) fn prune(&mut self, now: Timestamp) {
        while let Some((at, hash)) = self.by_expiry.first().copied() {
            if at > now.unix_millis() {
                break;
            }
            self.remove(&hash);
        }
    }
}

/// SHA-256 of the token in the path of an agent that joined by one.
fn token_of(agent: &SpiffeId) -> Option<[u8; 32]> {
    let token = agent.path().strip_prefix(JOIN_TOKEN_PREFIX)?;
    Some(Sha256::digest(token.as_bytes()).into())
}

impl State {
    pub(super) fn create_join_token(
        &mut self,
        turn: &mut Turn<'_>,
        body: &CreateJoinToken,
    ) -> Decided<CommandResult> {
        let mut token = body.token.clone().unwrap_or_default();
        let hash = digest("token_sha256", &token.token_sha256)?;
        if !token.agent_id.is_empty() || !token.consumed_by_spki_sha256.is_empty() {
            return Err(Refused::invalid("a new token cannot be consumed already"));
        }
        if token.expires_at_ms <= turn.now.unix_millis() {
            return Err(Refused::invalid("the token has expired already"));
        }
        if self.tokens.get(&hash).is_some() {
            return Err(Refused::new(
                Refusal::AlreadyExists,
                "the token exists already",
            ));
        }
        if self.tokens.len() >= JOIN_TOKENS_MAX {
            let detail = format!("{JOIN_TOKENS_MAX} join tokens exist already");
            return Err(Refused::new(Refusal::Limit, detail));
        }
        self.check_alias(&token.alias_spiffe_id)?;
        // An alias entry that comes with the token is made now; else it is made
        // when the token is consumed, and no path with the token is kept before.
        let mut items = Vec::new();
        if let Some(entry) = &body.alias_entry {
            let item = self.create_entry(turn, entry);
            if item.refusal() != Refusal::Unspecified {
                return Err(Refused::new(item.refusal(), item.detail));
            }
            items.push(item);
            token.alias_spiffe_id.clear();
        }
        token.created_at_ms = turn.now.unix_millis();
        self.tokens.put(hash, token);
        let leaf = Leaf {
            action: "token.create".to_owned(),
            subject: token_subject(&hash),
            request_sha256: turn.request_sha256.to_vec(),
            ..Leaf::default()
        };
        self.append_leaf(turn, leaf);
        Ok(CommandResult {
            items,
            ..CommandResult::default()
        })
    }

    /// An alias is a workload's ID, or the servers' for a token that admits one.
    fn check_alias(&self, alias: &str) -> Decided<()> {
        if alias.is_empty() {
            return Ok(());
        }
        let id = SpiffeId::parse(alias).map_err(|error| Refused::invalid(error.to_string()))?;
        let of_workload = id.has_path() && !id.is_reserved();
        if !id.is_member_of(self.trust_domain_or_refuse()?) || !(of_workload || id.is_server()) {
            return Err(Refused::invalid(format!(
                "{id} cannot be the alias of a node"
            )));
        }
        Ok(())
    }

    /// Whether this attestation may use the token that it names, if its method
    /// is the one that needs a token.
    pub(super) fn check_token_use(
        &self,
        agent: &SpiffeId,
        body: &AttestNode,
        key: &[u8; 32],
        now: Timestamp,
    ) -> Decided<()> {
        if body.attestation_type != JOIN_TOKEN {
            return match body.join_token_sha256.is_empty() {
                true => Ok(()),
                false => Err(Refused::invalid("only the join_token method takes a token")),
            };
        }
        let hash = digest("join_token_sha256", &body.join_token_sha256)?;
        if token_of(agent) != Some(hash) {
            return Err(Refused::invalid(
                "the agent's path does not end in the token",
            ));
        }
        let token = self.usable_token(&hash, key, now)?;
        if self.admits_servers(token) {
            return Err(Refused::new(
                Refusal::TokenUnknown,
                "the token admits a server",
            ));
        }
        Ok(())
    }

    /// A token that exists, has not expired, and was consumed by nobody or by
    /// this very key.
    pub(super) fn usable_token(
        &self,
        hash: &[u8; 32],
        key: &[u8; 32],
        now: Timestamp,
    ) -> Decided<&JoinToken> {
        let alive = |token: &&JoinToken| token.expires_at_ms > now.unix_millis();
        let Some(token) = self.tokens.get(hash).filter(alive) else {
            let detail = "the join token does not exist, has expired or was withdrawn";
            return Err(Refused::new(Refusal::TokenUnknown, detail));
        };
        let consumed_by = &token.consumed_by_spki_sha256;
        if !consumed_by.is_empty() && consumed_by != key {
            let detail = "the join token was consumed by another key";
            return Err(Refused::new(Refusal::TokenUsed, detail));
        }
        Ok(token)
    }

    /// Whether a token is for a server: it then has the servers' ID as alias,
    /// and no agent can use it.
    pub(super) fn admits_servers(&self, token: &JoinToken) -> bool {
        SpiffeId::parse(&token.alias_spiffe_id).is_ok_and(|id| id.is_server())
    }

    /// Binds the token to the key and returns the alias entry to be made, which
    /// has to be asked for by the first use only.
    pub(super) fn consume_token(
        &mut self,
        agent: &SpiffeId,
        body: &AttestNode,
        key: &[u8; 32],
    ) -> Option<Entry> {
        let hash = <[u8; 32]>::try_from(&*body.join_token_sha256).ok()?;
        let token = self.tokens.get(&hash)?;
        let first_use = token.consumed_by_spki_sha256.is_empty();
        let alias = token.alias_spiffe_id.clone();
        if !mutation::is(Bug::TokenNotConsumed) {
            self.tokens.consume(&hash, key, agent.as_str());
        }
        (first_use && !alias.is_empty()).then(|| alias_entry(agent, &alias, &hash))
    }

    /// Deletes the entries that alias this agent alone, as SPIRE does when a
    /// join-token agent is evicted: those that ask for its ID and nothing else.
    pub(super) fn delete_token_aliases(&mut self, turn: &mut Turn<'_>, agent: &SpiffeId) {
        if token_of(agent).is_none() {
            return;
        }
        let Ok(own) = selector::Selector::new(ALIAS_SELECTOR, agent.as_str()) else {
            return;
        };
        let is_alias = |entry: &&RegistrationEntry| {
            entry.selectors.len() == 1 && (entry.parent_id == *agent || entry.parent_id.is_server())
        };
        let aliases = self.entries.with_selector(&own).filter(is_alias);
        let ids: Vec<EntryId> = aliases.map(|entry| entry.id.clone()).collect();
        for id in ids {
            self.delete_entry(turn, id.as_str(), "agent.evict");
        }
    }
}

/// The entry that gives a join-token agent another name. Its id follows from
/// the token's hash, so that every replica makes the same one.
fn alias_entry(agent: &SpiffeId, alias: &str, hash: &[u8; 32]) -> Entry {
    let mut id = format!("join-token-{}", hex::encode(hash));
    id.truncate("join-token-".len() + 32);
    Entry {
        id,
        spiffe_id: alias.to_owned(),
        parent_id: agent.as_str().to_owned(),
        selectors: vec![Selector {
            kind: ALIAS_SELECTOR.to_owned(),
            value: agent.as_str().to_owned(),
        }],
        ..Entry::default()
    }
}

/// How a leaf names a token.
pub(super) fn token_subject(hash: &[u8]) -> String {
    format!("sha256:{}", hex::encode(hash))
}
