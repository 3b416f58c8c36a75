//! What is due for the authorities, decided from state and time alone.
//!
//! Always: at most one step of a kind is due at a time, and carrying it out makes another one due or none; a step
//! that the state would refuse is not due.
//!
//! Not here: carrying it out (`rotation`).

use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::rotation::{AuthorityDue, Successor, authority_due};
use mintmark_identity::validity::Validity;
use mintmark_proto::mintmark::raft::v1::activate_authority::Ground;
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind, AuthorityState, PqMode};
use mintmark_runtime::mutation::{self, Bug};

use crate::state::{State, missing_acknowledgements};

/// The kinds that are kept going.
pub const KINDS: [AuthorityKind; 2] = [AuthorityKind::X509, AuthorityKind::Jwt];

/// A prepared authority waits so long for the proofs of other servers before it is published; who has not
/// proven it by then is counted as missing when it is to be activated.
pub const PROOF_WAIT: Duration = Duration::from_secs(10);

/// One transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make an authority.
    Prepare {
        /// Of this kind.
        kind: AuthorityKind,
        /// Because there is none that signs.
        cold_start: bool,
    },
    /// Put it into the bundle.
    Publish {
        /// Which.
        id: String,
    },
    /// Let it sign.
    Activate {
        /// Which.
        id: String,
        /// Why it may.
        ground: Ground,
    },
    /// Take it out of the bundle, or give it up.
    Retire {
        /// Which.
        id: String,
    },
}

/// Whether its key may still be needed here.
#[must_use]
pub fn is_in_use(authority: &Authority) -> bool {
    use AuthorityState::{Active, Old, Prepared, Published};
    matches!(authority.state(), Prepared | Published | Active | Old)
}

fn is_on_its_way(authority: &Authority) -> bool {
    matches!(
        authority.state(),
        AuthorityState::Prepared | AuthorityState::Published
    )
}

/// Authorities that this server has yet to show it can use.
#[must_use]
pub fn unproven(state: &State, node_id: u64) -> Vec<Authority> {
    let mine = state.server(node_id).is_some_and(|server| server.issuing);
    let due = |authority: &&Authority| {
        let counts = is_on_its_way(authority) || authority.state() == AuthorityState::Active;
        counts && !authority.tainted && !authority.proven_by.contains(&node_id)
    };
    if mine {
        state.all_authorities().filter(due).cloned().collect()
    } else {
        Vec::new()
    }
}

/// The steps that are due: at most one for each kind, so that none waits for another.
#[must_use]
pub fn plan(state: &State, node_id: u64, now: Timestamp) -> Vec<Step> {
    KINDS
        .into_iter()
        .filter_map(|kind| plan_kind(state, kind, node_id, now))
        .collect()
}

fn plan_kind(state: &State, kind: AuthorityKind, node_id: u64, now: Timestamp) -> Option<Step> {
    let settings = state.settings()?;
    let hybrid = kind == AuthorityKind::X509 && settings.pq() == PqMode::Hybrid;
    let active = state.active_authority(kind);
    let cold = state.cold_start_needed(kind, now);
    let mut on_its_way = None;
    for authority in state
        .authorities(kind)
        .filter(|authority| is_on_its_way(authority))
    {
        let outdated = authority.hybrid != hybrid;
        let useless = authority.tainted || authority.not_after_ms <= now.unix_millis();
        if outdated || useless {
            return Some(Step::Retire {
                id: authority.id.clone(),
            });
        }
        on_its_way = Some(authority);
    }
    let wrong_kind = active.is_some_and(|active| active.hybrid != hybrid || active.tainted);
    let step = match on_its_way {
        None if cold => Some(Step::Prepare {
            kind,
            cold_start: true,
        }),
        None if wrong_kind => Some(Step::Prepare {
            kind,
            cold_start: false,
        }),
        None => {
            let due = authority_due(active.map(validity), None, now);
            matches!(due, AuthorityDue::Prepare).then_some(Step::Prepare {
                kind,
                cold_start: false,
            })
        }
        Some(next) if next.state() == AuthorityState::Prepared => {
            plan_prepared(state, next, cold, node_id, now)
        }
        Some(next) => plan_published(state, next, active, cold, wrong_kind, now),
    };
    step.or_else(|| retirable(state, kind, now))
}

fn plan_prepared(
    state: &State,
    next: &Authority,
    cold: bool,
    node_id: u64,
    now: Timestamp,
) -> Option<Step> {
    // Whoever moves it on must know itself that the key can be used.
    if !next.proven_by.contains(&node_id) {
        return None;
    }
    let id = next.id.clone();
    if cold {
        return Some(Step::Activate {
            id,
            ground: Ground::ColdStart,
        });
    }
    let issuing = state.servers().filter(|server| server.issuing);
    let all = issuing
        .into_iter()
        .all(|server| next.proven_by.contains(&server.node_id));
    let waited = now.since(Timestamp::from_unix_millis(next.prepared_at_ms)) >= PROOF_WAIT;
    (all || waited).then_some(Step::Publish { id })
}

fn plan_published(
    state: &State,
    next: &Authority,
    active: Option<&Authority>,
    cold: bool,
    wrong_kind: bool,
    now: Timestamp,
) -> Option<Step> {
    let id = next.id.clone();
    if cold {
        return Some(Step::Activate {
            id,
            ground: Ground::ColdStart,
        });
    }
    let acknowledged = missing_acknowledgements(state, &next.id, now).is_empty();
    let at_once = wrong_kind || mutation::is(Bug::ActivatedUnacknowledged);
    if at_once && acknowledged {
        return Some(Step::Activate {
            id,
            ground: Ground::Acknowledged,
        });
    }
    if active.is_some_and(|active| active.tainted) {
        return Some(Step::Activate {
            id,
            ground: Ground::Deadline,
        });
    }
    let successor = Successor {
        validity: validity(next),
        acknowledged,
    };
    match authority_due(active.map(validity), Some(successor), now) {
        AuthorityDue::Activate { forced: false } => Some(Step::Activate {
            id,
            ground: Ground::Acknowledged,
        }),
        AuthorityDue::Activate { forced: true } => state
            .activation_is_forced(next.kind(), now)
            .then_some(Step::Activate {
                id,
                ground: Ground::Deadline,
            }),
        _ => None,
    }
}

/// An old authority whose last SVID has expired.
fn retirable(state: &State, kind: AuthorityKind, now: Timestamp) -> Option<Step> {
    let mut old = state
        .authorities(kind)
        .filter(|authority| authority.state() == AuthorityState::Old);
    let is_over = |authority: &&Authority| authority.last_svid_not_after_ms < now.unix_millis();
    old.find(|authority| is_over(authority) || mutation::is(Bug::RetiredAtOnce))
        .map(|authority| Step::Retire {
            id: authority.id.clone(),
        })
}

fn validity(authority: &Authority) -> Validity {
    Validity {
        not_before: Timestamp::from_unix_millis(authority.not_before_ms),
        not_after: Timestamp::from_unix_millis(authority.not_after_ms),
    }
}
