//! What happens when nothing more goes wrong.
//!
//! Responsible for: going on from a state with the rotation job of the product, agents that renew, and
//! no further faults; and what must come of it.
//! Always holds: going on is deterministic and bounded.
//! Not here: the instants (`mintmark_identity::rotation`), the rules (`rules`).

use mintmark_identity::rotation::{AuthorityDue, Successor, authority_due};

use super::rules::{AUTHORITY_TICKS, Ground, Phase, SVID_TICKS};
use super::{Action, AuthorityLife, State};

/// Ticks that are gone on for: a life of an authority and that of an SVID, so that one rotation begins
/// and ends, whatever was under way at first.
const TICKS: u8 = AUTHORITY_TICKS + SVID_TICKS;
/// Ticks within which whatever was wrong at first must be over: a cold start takes none.
const GRACE: u8 = 1;
/// Commands of the job within one tick; a rotation takes five.
const STEPS_MAX: usize = 16;

/// With agents that take bundles and acknowledge them: at every tick there is somebody who can sign,
/// no activation is forced but those of the first tick, and what is old is retired.
pub fn completes(model: AuthorityLife, state: &State) -> bool {
    let mut state = state.clone();
    for tick in 0..TICKS {
        let forced = !go_on(model, &mut state, true);
        if tick >= GRACE && (forced || state.signer(model.broken).is_none()) {
            return false;
        }
        if tick + 1 < TICKS {
            state.now += 1;
        }
    }
    let now = state.now;
    let stale = |it: &super::Authority| it.phase == Phase::Old && it.is_expired(now);
    !state.authorities.iter().any(stale) && agents_are_served(&state)
}

/// With agents that renew and never acknowledge: at every tick there is somebody who can sign.
pub fn goes_on_without_acknowledgements(model: AuthorityLife, state: &State) -> bool {
    let mut state = state.clone();
    for tick in 0..TICKS {
        go_on(model, &mut state, false);
        if tick >= GRACE && state.signer(model.broken).is_none() {
            return false;
        }
        state.now += 1;
    }
    true
}

/// Everybody holds an SVID that his own bundle verifies.
fn agents_are_served(state: &State) -> bool {
    let mut agents = state.agents.iter();
    agents.all(|agent| {
        let (Some((_, set)), Some((by, until))) = (agent.holds, agent.svid) else {
            return false;
        };
        until > state.now && set & super::bit(usize::from(by)) != 0
    })
}

/// One tick: agents and job act until nothing is due. Whether nothing was forced.
fn go_on(model: AuthorityLife, state: &mut State, cooperative: bool) -> bool {
    let mut unforced = true;
    for _ in 0..STEPS_MAX {
        if cooperative {
            acknowledge_all(model, state);
        }
        let Some(step) = plan(state) else { break };
        unforced &= !matches!(step, Action::Activate(_, Ground::Deadline));
        if !model.perform(state, step) {
            break;
        }
    }
    for n in 0..state.agents.len() {
        let action = match state.agents[n].holds {
            Some(_) => Action::Renew(n, true),
            None => Action::Attest(n, true),
        };
        model.perform(state, action);
    }
    if cooperative {
        acknowledge_all(model, state);
    }
    unforced
}

fn acknowledge_all(model: AuthorityLife, state: &mut State) {
    for n in 0..state.agents.len() {
        if state.agents[n].holds.is_some() {
            model.perform(state, Action::Deliver(n, state.sequence()));
            model.perform(state, Action::Acknowledge(n));
        }
    }
}

/// What the job does next, as `authority::rotation::plan` decides it.
fn plan(state: &State) -> Option<Action> {
    let all = || state.authorities.iter().enumerate();
    let useless = |it: &super::Authority| it.tainted || it.is_expired(state.now);
    let mut on_its_way = all().filter(|(_, it)| it.is_on_its_way());
    if let Some((id, _)) = all().find(|(_, it)| it.is_on_its_way() && useless(it)) {
        return Some(Action::Retire(id));
    }
    let active = state.active().map(|id| &state.authorities[id]);
    let tainted = active.is_some_and(|active| active.tainted);
    let validity = active.map(super::Authority::validity);
    let now = super::rules::at(state.now);
    let step = match on_its_way.next() {
        None if state.is_cold() || tainted => Some(Action::Prepare),
        None => {
            (authority_due(validity, None, now) == AuthorityDue::Prepare).then_some(Action::Prepare)
        }
        Some((id, next)) if next.proven != super::rules::ALL_SERVERS => Some(Action::Prove(id)),
        Some((id, _)) if state.is_cold() => Some(Action::Activate(id, Ground::ColdStart)),
        Some((id, next)) if next.phase == Phase::Prepared => Some(Action::Publish(id)),
        Some((id, next)) => {
            let acknowledged = state.is_acknowledged(id);
            let successor = Successor {
                validity: next.validity(),
                acknowledged,
            };
            match authority_due(validity, Some(successor), now) {
                _ if tainted && acknowledged => Some(Action::Activate(id, Ground::Acknowledged)),
                _ if tainted => Some(Action::Activate(id, Ground::Deadline)),
                AuthorityDue::Activate { forced: false } => {
                    Some(Action::Activate(id, Ground::Acknowledged))
                }
                AuthorityDue::Activate { forced: true } => state
                    .is_forced()
                    .then_some(Action::Activate(id, Ground::Deadline)),
                _ => None,
            }
        }
    };
    step.or_else(|| {
        let old = all().find(|(_, it)| {
            it.phase == Phase::Old && it.last_svid.is_none_or(|last| last < state.now)
        });
        old.map(|(id, _)| Action::Retire(id))
    })
}
