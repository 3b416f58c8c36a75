//! When an authority may begin to sign.
//!
//! Responsible for: who must have acknowledged a bundle first, and the grounds
//! on which an authority becomes active.
//! Always holds: the leaf of an activation that did not wait names who was
//! missing; the authority that was active becomes old in the same command.
//! Not here: collecting acknowledgements (`agents`), timing (a job decides).

use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::raft::v1::activate_authority::Ground;
use mintmark_proto::mintmark::raft::v1::actor::Kind as ActorKind;
use mintmark_proto::mintmark::raft::v1::{ActivateAuthority, CommandResult, Refusal};
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind, AuthorityState};
use mintmark_runtime::mutation::{self, Bug};

use super::State;
use super::authorities::state_name;
use super::turn::{Decided, Refused, Turn};

/// Names of missing parties in a result; the count in the detail is of all.
const MISSING_MAX: usize = 100;

/// An authority is replaced by force when this part of its life remains.
const FORCED_PART: i128 = 6;

/// The counted parties that have not acknowledged this authority: issuing
/// servers that did not prove that they can use it, and agents with an
/// unexpired SVID that do not serve a bundle with it. An agent that polls has
/// acknowledged a bundle once it polled again after the answer that had it.
#[must_use]
pub fn missing_acknowledgements(state: &State, authority_id: &str, now: Timestamp) -> Vec<String> {
    let Some(authority) = state.authorities.get(authority_id) else {
        return Vec::new();
    };
    if mutation::is(Bug::ActivatedUnacknowledged) {
        return Vec::new();
    }
    let servers = state
        .servers()
        .filter(|server| server.issuing && !authority.proven_by.contains(&server.node_id))
        .map(|server| format!("server/{}", server.node_id));
    let sequence = authority.published_sequence;
    let agents = state
        .attested_nodes()
        .filter(|node| {
            !node.banned
                && node.svid_not_after_ms > now.unix_millis()
                && (sequence == 0 || node.acknowledged_bundle_sequence < sequence)
        })
        .map(|node| node.agent_id.clone());
    servers.chain(agents).collect()
}

impl State {
    /// Whether no authority of this kind is active and unexpired: a fresh one
    /// then begins without waiting for anybody.
    #[must_use]
    pub fn cold_start_needed(&self, kind: AuthorityKind, now: Timestamp) -> bool {
        self.authorities
            .active(kind)
            .is_none_or(|authority| authority.not_after_ms <= now.unix_millis())
    }

    /// Whether the active authority is so near its end, or so unusable, that
    /// the next one begins whoever is missing.
    #[must_use]
    pub fn activation_is_forced(&self, kind: AuthorityKind, now: Timestamp) -> bool {
        let Some(active) = self.authorities.active(kind) else {
            return true;
        };
        let life = i128::from(active.not_after_ms) - i128::from(active.not_before_ms);
        let left = i128::from(active.not_after_ms) - i128::from(now.unix_millis());
        active.tainted || left * FORCED_PART <= life
    }

    pub(super) fn activate_authority(
        &mut self,
        turn: &mut Turn<'_>,
        body: &ActivateAuthority,
    ) -> Decided<CommandResult> {
        let mut authority = self.authority_or_refuse(&body.authority_id)?;
        self.check_activable(&authority, body.ground(), turn.now)?;
        let missing = missing_acknowledgements(self, &body.authority_id, turn.now);
        self.check_ground(turn, &authority, body.ground(), &missing)?;

        let before = state_name(&authority);
        let previous = self.authorities.active(authority.kind()).cloned();
        if let Some(mut previous) = previous.clone() {
            previous.state = AuthorityState::Old.into();
            self.authorities.put(previous);
        }
        authority.state = AuthorityState::Active.into();
        authority.activated_at_ms = turn.now.unix_millis();
        if authority.published_at_ms == 0 {
            authority.published_at_ms = turn.now.unix_millis();
        }
        self.authorities.put(authority);
        let reason = ground_text(body.ground(), missing.len());
        self.activation_leaves(turn, body, before, &reason, &missing);
        if let Some(previous) = previous {
            self.authority_moved(turn, &previous.id, "authority.supersede", "active", "");
        }
        let missing = missing.into_iter().take(MISSING_MAX).collect();
        Ok(CommandResult {
            missing,
            ..CommandResult::default()
        })
    }

    fn check_activable(
        &self,
        authority: &Authority,
        ground: Ground,
        now: Timestamp,
    ) -> Decided<()> {
        // At a cold start nobody waits, so publishing is part of the same step.
        let from_prepared =
            authority.state() == AuthorityState::Prepared && ground == Ground::ColdStart;
        if authority.state() != AuthorityState::Published && !from_prepared {
            let detail = format!(
                "authority {} is {} and cannot be activated",
                authority.id,
                state_name(authority)
            );
            return Err(Refused::conflict(detail));
        }
        if authority.tainted || authority.not_after_ms <= now.unix_millis() {
            let detail = format!("authority {} is tainted or expired", authority.id);
            return Err(Refused::new(Refusal::Authority, detail));
        }
        Ok(())
    }

    fn check_ground(
        &self,
        turn: &Turn<'_>,
        authority: &Authority,
        ground: Ground,
        missing: &[String],
    ) -> Decided<()> {
        let kind = authority.kind();
        match ground {
            Ground::Acknowledged if missing.is_empty() => Ok(()),
            Ground::Acknowledged => Err(Refused {
                refusal: Refusal::NotAcknowledged,
                detail: format!("{} parties have not acknowledged the bundle", missing.len()),
                missing: missing.iter().take(MISSING_MAX).cloned().collect(),
            }),
            Ground::Deadline if self.activation_is_forced(kind, turn.now) => Ok(()),
            Ground::Deadline => Err(Refused::conflict(
                "more than one sixth of the active authority's life remains",
            )),
            Ground::ColdStart if self.cold_start_needed(kind, turn.now) => Ok(()),
            Ground::ColdStart => Err(Refused::conflict(
                "an authority of this kind is active: no cold start",
            )),
            Ground::Operator => match turn.actor.kind() {
                ActorKind::Local | ActorKind::Admin => Ok(()),
                _ => Err(Refused::new(
                    Refusal::NotAuthorized,
                    "only an operator may override",
                )),
            },
            Ground::Unspecified => Err(Refused::invalid("the activation has no ground")),
        }
    }

    fn activation_leaves(
        &mut self,
        turn: &mut Turn<'_>,
        body: &ActivateAuthority,
        before: &str,
        reason: &str,
        missing: &[String],
    ) {
        let id = &body.authority_id;
        self.refresh_bundle(turn);
        let mut leaf = self.authority_leaf(turn, id, "authority.activate", before, reason);
        // More than these never fit in a leaf.
        leaf.missing = missing.iter().take(32).cloned().collect();
        self.append_leaf(turn, leaf);
        turn.emit(super::event::Event::AuthorityChanged { id: id.clone() });
    }
}

fn ground_text(ground: Ground, missing: usize) -> String {
    let word = match ground {
        Ground::Unspecified => "unspecified",
        Ground::Acknowledged => "acknowledged",
        Ground::Deadline => "deadline",
        Ground::ColdStart => "cold_start",
        Ground::Operator => "operator",
    };
    if missing == 0 {
        word.to_owned()
    } else {
        format!("{word}, {missing} missing")
    }
}
