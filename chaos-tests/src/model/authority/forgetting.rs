//! What no longer makes a difference.
//!
//! Responsible for: making states equal that nobody can tell apart from now on, so that there are few
//! enough to visit all.
//! Always holds: what is forgotten is read by no rule, no property and no settling any more: an
//! SVID that has expired, the past of an authority that signs no more, bundles that every agent
//! has left behind; interchangeable agents are sorted.
//! Not here: anything that could hide a violation: it is judged in the state in which it happens, and
//! that a rotation has gone wrong is remembered in the state.

use super::rules::{ALL_SERVERS, Phase};
use super::{Authority, Broken, State, bit};

/// An SVID that is over, or none.
const OVER: u8 = 0;

/// Forgets all of it.
pub fn forget(state: &mut State, broken: Option<Broken>) {
    let now = state.now;
    for id in 0..state.authorities.len() {
        let authority = &mut state.authorities[id];
        forget_uses(authority, now);
        if authority.phase >= Phase::Old {
            authority.proven = ALL_SERVERS;
            authority.named_servers = 0;
            authority.prepared_at = 0;
            authority.published = 0;
            for agent in &mut state.agents {
                agent.named &= !bit(id);
            }
        }
    }
    for agent in &mut state.agents {
        agent.svid = agent.svid.filter(|(_, until)| *until > now);
        if agent.recorded_until <= now {
            agent.recorded_until = OVER;
        }
    }
    if broken != Some(Broken::OlderBundleTaken) {
        forget_bundles(state);
    }
    state.agents.sort_unstable();
}

fn forget_uses(authority: &mut Authority, now: u8) {
    for last in [&mut authority.last_svid, &mut authority.truly_last_svid] {
        if last.is_some_and(|last| last < now) {
            *last = Some(OVER);
        }
    }
}

/// A bundle is delivered to agents that hold an older one; those that hold none get the newest.
fn forget_bundles(state: &mut State) {
    let held = state.agents.iter().filter_map(|agent| agent.holds);
    let least = held.map(|(sequence, _)| usize::from(sequence)).min();
    let newest = state.bundles.len().saturating_sub(1);
    let behind = least.unwrap_or(newest).min(newest);
    for bundle in &mut state.bundles[..behind] {
        *bundle = 0;
    }
}
