//! What to do next for the workloads' SVIDs: a pure decision.
//!
//! Responsible for: `plan(inputs) -> Plan`, where the plan says which SVIDs to issue, renew and
//! drop now, whether streams must look again, and when to ask next. Always holds: the same
//! inputs give the same plan; an SVID that still holds is never dropped because a renewal
//! failed; nothing is asked for twice at once; no more than the cache limit is pre-fetched.
//! Not here: doing any of it (`rotation`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mintmark_identity::{clock::Timestamp, entry::EntryId};
use mintmark_runtime::{
    backoff::fraction,
    mutation::{self, Bug},
};

use super::{
    entries::Held,
    state::{CachedSvid, IssuedFor, State},
};

/// Over how long an agent spreads the renewal of SVIDs under a newly tainted authority, so that
/// a fleet does not ask at the same instant. Short: the authority is suspect.
pub const TAINT_SPREAD: Duration = Duration::from_secs(10);
/// First wait after a failed attempt.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait between attempts.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// While an SVID lasts, at least so many attempts would fit into what is left of it.
const RETRIES_PER_REST: u32 = 4;

/// What is under way or went wrong for one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Failures in a row.
    pub failures: u32,
    /// When it failed. A clock that shows less was set back since.
    pub noted: Timestamp,
    /// No new attempt before this.
    pub next: Timestamp,
    /// What the last failure was, for `explain`.
    pub problem: String,
    /// Whether it may pass by itself, as an absent server does.
    pub passing: bool,
    /// The arrival of the entry it was about.
    pub arrival: u64,
}

/// What the driver knows of running and failed attempts.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Entries whose SVID is being asked for.
    pub in_flight: BTreeSet<EntryId>,
    /// Entries whose last attempt failed.
    pub attempts: BTreeMap<EntryId, Attempt>,
}

/// Everything the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What the agent serves from.
    pub state: &'a State,
    /// Entries that an open stream waits for or uses.
    pub wanted: &'a BTreeSet<EntryId>,
    /// Running and failed attempts.
    pub progress: &'a Progress,
    /// How many SVIDs to hold beyond those that are wanted.
    pub cache_limit: usize,
    /// The time.
    pub now: Timestamp,
}

/// Why an SVID is renewed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RenewReason {
    /// Its authority is tainted.
    AuthorityTainted,
    /// Its entry asks for another certificate now.
    EntryChanged,
    /// Its drawn time has come.
    Due,
}

/// Why an SVID is dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DropReason {
    /// It expired.
    Expired,
    /// Its entry ended.
    EntryEnded,
    /// No stream uses it, and the cache is full or it would have to be renewed.
    Unused,
}

/// One thing to do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// Forget the SVID.
    Drop {
        /// Whose.
        entry: EntryId,
        /// Why.
        why: DropReason,
    },
    /// Tell streams to look again: an entry ended by itself.
    Notify,
    /// Ask for a first SVID.
    Issue {
        /// For which entry.
        entry: EntryId,
    },
    /// Ask for the next SVID and keep the present one meanwhile.
    Renew {
        /// For which entry.
        entry: EntryId,
        /// Why.
        why: RenewReason,
    },
}

/// What to do now, and when to ask again at the latest.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Drops first, then what a workload waits for, then renewals by expiry, then pre-fetching.
    pub actions: Vec<Action>,
    /// The next moment at which time alone changes the plan.
    pub wake_at: Option<Timestamp>,
}

/// Decides what to do next.
#[must_use]
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    if inputs.state.denied.is_some() {
        return plan;
    }
    let live = drop_ended(inputs, &mut plan);
    let fresh = kept_fresh(inputs, &live);
    drop_unused(inputs, &live, &fresh, &mut plan);
    tell_ends(inputs, &mut plan);
    let mut renewals: Vec<(Timestamp, Action)> = Vec::new();
    let mut prefetch: Vec<Action> = Vec::new();
    for (id, held) in &fresh {
        if inputs.progress.in_flight.contains(*id) {
            continue;
        }
        let svid = live.get(*id);
        let (due, why) = svid.map_or((inputs.now, RenewReason::Due), |svid| {
            next_renewal(inputs.state, held, svid)
        });
        let at = due.max(not_before(inputs, held));
        let entry = (*id).clone();
        if at > inputs.now {
            wake(&mut plan, at);
        } else if let Some(svid) = svid {
            renewals.push((svid.validity.not_after, Action::Renew { entry, why }));
        } else if inputs.wanted.contains(*id) {
            plan.actions.push(Action::Issue { entry });
        } else {
            prefetch.push(Action::Issue { entry });
        }
    }
    renewals.sort();
    plan.actions
        .extend(renewals.into_iter().map(|(_, action)| action));
    plan.actions.extend(prefetch);
    plan
}

type Live<'a> = BTreeMap<&'a EntryId, &'a CachedSvid>;

/// Plans to drop what time has ended, and returns the SVIDs that remain.
fn drop_ended<'a>(inputs: &Inputs<'a>, plan: &mut Plan) -> Live<'a> {
    let mut live = Live::new();
    for (id, svid) in inputs.state.svids.iter() {
        let served = inputs
            .state
            .entries
            .get(id)
            .is_some_and(|held| held.is_served(inputs.now));
        let why = if svid.validity.not_after < inputs.now {
            if mutation::is(Bug::ExpiredServed) {
                live.insert(id, svid.as_ref());
                continue;
            }
            DropReason::Expired
        } else if served {
            wake(
                plan,
                svid.validity
                    .not_after
                    .saturating_add(Duration::from_millis(1)),
            );
            live.insert(id, svid.as_ref());
            continue;
        } else {
            DropReason::EntryEnded
        };
        plan.actions.push(Action::Drop {
            entry: id.clone(),
            why,
        });
    }
    live
}

/// The entries whose SVID is to be there and fresh: the wanted ones, then, while there is room,
/// those that hold one already, then the oldest of the rest.
fn kept_fresh<'a>(inputs: &Inputs<'a>, live: &Live<'a>) -> BTreeMap<&'a EntryId, &'a Held> {
    let served = inputs
        .state
        .entries
        .iter()
        .filter(|held| held.is_served(inputs.now));
    let (wanted, mut rest): (Vec<&Held>, Vec<&Held>) =
        served.partition(|held| inputs.wanted.contains(&held.entry.id));
    let room = inputs.cache_limit.saturating_sub(wanted.len());
    rest.retain(|held| !held.entry.disable_x509_svid_prefetch);
    if rest.len() > room {
        let rank = |held: &Held| (!live.contains_key(&held.entry.id), held.entry.created_at);
        rest.sort_by(|a, b| {
            rank(a)
                .cmp(&rank(b))
                .then_with(|| a.entry.id.cmp(&b.entry.id))
        });
        rest.truncate(room);
    }
    wanted
        .into_iter()
        .chain(rest)
        .map(|held| (&held.entry.id, held))
        .collect()
}

/// An SVID that is not kept fresh stays for a caller who comes back, but only until it would
/// have to be renewed and while the cache has room; the soonest to expire go first.
fn drop_unused(
    inputs: &Inputs<'_>,
    live: &Live<'_>,
    fresh: &BTreeMap<&EntryId, &Held>,
    plan: &mut Plan,
) {
    let mut idle: Vec<(bool, Timestamp, Timestamp, &EntryId)> = live
        .iter()
        .filter(|(id, _)| !fresh.contains_key(**id))
        .map(|(id, svid)| {
            (
                inputs.now < svid.renew_at,
                svid.validity.not_after,
                svid.renew_at,
                *id,
            )
        })
        .collect();
    idle.sort();
    let fresh_held = live.len().saturating_sub(idle.len());
    let excess = idle
        .len()
        .saturating_sub(inputs.cache_limit.saturating_sub(fresh_held));
    for (at, (young, _, renew_at, id)) in idle.into_iter().enumerate() {
        if young && at >= excess {
            wake(plan, renew_at);
        } else {
            plan.actions.push(Action::Drop {
                entry: id.clone(),
                why: DropReason::Unused,
            });
        }
    }
}

/// Streams must look again when an entry ended by itself, and when the clock was set back: entries
/// that had ended by it go on.
fn tell_ends(inputs: &Inputs<'_>, plan: &mut Plan) {
    let told = inputs.state.told_until;
    if told > inputs.now || inputs.state.entries.ended_between(told, inputs.now) {
        plan.actions.push(Action::Notify);
    }
    if let Some(end) = inputs.state.entries.next_end(inputs.now) {
        wake(plan, end);
    }
}

/// When this SVID is to be renewed, and why then.
fn next_renewal(state: &State, held: &Held, svid: &CachedSvid) -> (Timestamp, RenewReason) {
    if svid.issued_for != IssuedFor::of(&held.entry) {
        return (held.since, RenewReason::EntryChanged);
    }
    let due = (svid.renew_at, RenewReason::Due);
    match state.tainted.get(&svid.authority_id) {
        Some(since) => {
            let wait = fraction(TAINT_SPREAD, svid.draw);
            due.min((since.saturating_add(wait), RenewReason::AuthorityTainted))
        }
        None => due,
    }
}

/// A failed attempt bars the next one for a while, but only about the same arrival, and only by the
/// clock that it failed by: one that was an hour ahead would bar the next one for an hour.
fn not_before(inputs: &Inputs<'_>, held: &Held) -> Timestamp {
    inputs
        .progress
        .attempts
        .get(&held.entry.id)
        .filter(|attempt| attempt.arrival == held.arrival && attempt.noted <= inputs.now)
        .map_or(Timestamp::UNIX_EPOCH, |attempt| attempt.next)
}

fn wake(plan: &mut Plan, at: Timestamp) {
    plan.wake_at = Some(plan.wake_at.map_or(at, |earlier| earlier.min(at)));
}

/// When to try again after the given number of failures in a row: exponential, jittered between
/// half and the whole. While there is an SVID, an attempt comes after at most a quarter of what is
/// left of it, so that a server which comes back before the expiry is asked before the expiry.
#[must_use]
pub fn retry_at(
    now: Timestamp,
    failures: u32,
    draw: u64,
    not_after: Option<Timestamp>,
) -> Timestamp {
    let doublings = failures.saturating_sub(1).min(16);
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let step = RETRY_FIRST.saturating_mul(factor).min(RETRY_MAX);
    let end = not_after.filter(|end| *end > now);
    let rest = end.map_or(Duration::MAX, |end| longest_pause(now, end, RETRY_FIRST));
    let half = step.min(rest) / 2;
    let wait = half.saturating_add(fraction(half, draw));
    let at = now.saturating_add(wait);
    end.map_or(at, |end| at.min(end))
}

/// The longest pause before the next attempt to renew what ends then: a quarter of what is left of
/// it, but no less than `least`.
#[must_use]
pub fn longest_pause(now: Timestamp, end: Timestamp, least: Duration) -> Duration {
    (end.since(now) / RETRIES_PER_REST).max(least)
}

#[cfg(test)]
mod tests;
