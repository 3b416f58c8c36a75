//! What the authorities of one kind promise.
//!
//! Responsible for: prepare, publish, activate, taint, revoke and retire, and what a reader sees of it.
//! Always holds: states only go forward; at most one authority is active, and the one that it
//! replaces becomes old in the same step; only a tainted authority is revoked, and not the active
//! one.
//! Not here: who must have acknowledged a bundle, instants and expiry (`crate::model::authority` has
//! them): an activation may be refused on their account, and an old authority may still be needed.
//!
//! With `jobs`, servers move authorities on by themselves between the recorded calls: what was seen
//! is then the least that has happened, and a refusal is right if some further step would explain it.

use std::collections::BTreeMap;

use super::{Model, Window};

/// How far an authority has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its key exists.
    Prepared,
    /// The bundle has it.
    Published,
    /// It signs.
    Active,
    /// It signed, and what it signed may still be valid.
    Old,
    /// It is out of the bundle.
    Retired,
    /// It was put out of the bundle.
    Revoked,
}

/// One authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Authority {
    /// How far it has come.
    pub phase: Phase,
    /// Whether what it signed must be replaced.
    pub tainted: bool,
}

/// Why an authority may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ground {
    /// Everybody knows it.
    Acknowledged,
    /// The active one is near its end, or tainted.
    Deadline,
    /// None is active.
    ColdStart,
    /// An operator says so.
    Operator,
}

/// What is asked. Numbers name authorities.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Make one.
    Prepare(u64),
    /// Put it into the bundle.
    Publish(u64),
    /// Let it sign.
    Activate(u64, Ground),
    /// Take it out of the bundle.
    Retire(u64),
    /// Have what it signed replaced.
    Taint(u64),
    /// Put it out of the bundle.
    Revoke(u64),
    /// Look.
    Read,
}

/// Why nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is no such authority.
    NotFound,
    /// It was prepared before.
    Exists,
    /// Not from where it stands, or not while another is on its way.
    Conflict,
    /// Somebody does not know it yet.
    NotAcknowledged,
    /// It is tainted or expired.
    Unusable,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is done.
    Done,
    /// They stand like this.
    Stand(State),
    /// Nothing changed.
    Refused(Why),
}

/// All authorities of the kind.
pub type State = BTreeMap<u64, Authority>;

/// The authorities of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuthoritySlot {
    /// Whether servers take steps that the history does not show.
    pub jobs: bool,
}

impl Model for AuthoritySlot {
    type State = State;
    type Op = Op;
    type Outcome = Outcome;

    fn initial(&self) -> State {
        State::new()
    }

    fn step(&self, state: &State, op: &Op, observed: Option<&Outcome>, _: Window) -> Vec<State> {
        if let (true, Op::Read, Some(Outcome::Stand(seen))) = (self.jobs, op, observed) {
            return if is_further(state, seen) {
                vec![seen.clone()]
            } else {
                Vec::new()
            };
        }
        let from = if self.jobs {
            further(state, op)
        } else {
            vec![state.clone()]
        };
        let mut after: Vec<State> = from
            .iter()
            .flat_map(|state| self.answers(state, op))
            .filter(|(outcome, _)| observed.is_none_or(|seen| seen == outcome))
            .map(|(_, after)| after)
            .collect();
        after.sort();
        after.dedup();
        after
    }
}

impl AuthoritySlot {
    fn answers(self, state: &State, op: &Op) -> Vec<(Outcome, State)> {
        let refused = |why| (Outcome::Refused(why), state.clone());
        let id = match op {
            Op::Read => return vec![(Outcome::Stand(state.clone()), state.clone())],
            Op::Prepare(id) => return self.prepare(state, *id),
            Op::Publish(id) | Op::Activate(id, _) | Op::Retire(id) | Op::Taint(id) => *id,
            Op::Revoke(id) => *id,
        };
        let Some(it) = state.get(&id).copied() else {
            return vec![refused(Why::NotFound)];
        };
        let to = |phase, tainted| (Outcome::Done, with(state, id, Authority { phase, tainted }));
        let stands = it.phase <= Phase::Old;
        match op {
            Op::Publish(_) if it.phase == Phase::Prepared && !it.tainted => {
                vec![to(Phase::Published, false)]
            }
            Op::Activate(_, ground) => activate(state, id, it, *ground),
            Op::Retire(_) if it.phase < Phase::Active => vec![to(Phase::Retired, it.tainted)],
            Op::Retire(_) if it.phase == Phase::Old => {
                vec![to(Phase::Retired, it.tainted), refused(Why::Conflict)]
            }
            Op::Taint(_) if stands && !it.tainted => vec![to(it.phase, true)],
            Op::Revoke(_) if stands && it.tainted && it.phase != Phase::Active => {
                vec![to(Phase::Revoked, true)]
            }
            _ => vec![refused(Why::Conflict)],
        }
    }

    fn prepare(self, state: &State, id: u64) -> Vec<(Outcome, State)> {
        let refused = |why| (Outcome::Refused(why), state.clone());
        let fresh = Authority {
            phase: Phase::Prepared,
            tainted: false,
        };
        let mut all = Vec::new();
        let on_its_way = |it: &Authority| it.phase <= Phase::Published && !it.tainted;
        let busy = state.values().any(on_its_way);
        match state.contains_key(&id) {
            true => all.push(refused(Why::Exists)),
            false if !busy || self.jobs => all.push((Outcome::Done, with(state, id, fresh))),
            false => {}
        }
        if busy || self.jobs {
            all.push(refused(Why::Conflict));
        }
        all
    }
}

fn with(state: &State, id: u64, authority: Authority) -> State {
    let mut after = state.clone();
    after.insert(id, authority);
    after
}

fn activate(state: &State, id: u64, it: Authority, ground: Ground) -> Vec<(Outcome, State)> {
    let refused = |why| (Outcome::Refused(why), state.clone());
    let ready =
        it.phase == Phase::Published || it.phase == Phase::Prepared && ground == Ground::ColdStart;
    if !ready {
        return vec![refused(Why::Conflict)];
    }
    if it.tainted {
        return vec![refused(Why::Unusable)];
    }
    let active = state.values().find(|it| it.phase == Phase::Active);
    let mut all = vec![
        (Outcome::Done, activated(state, id)),
        refused(Why::Unusable),
    ];
    match (ground, active) {
        (Ground::Acknowledged, _) => all.push(refused(Why::NotAcknowledged)),
        (Ground::Deadline, Some(active)) if !active.tainted => all.push(refused(Why::Conflict)),
        (Ground::ColdStart, Some(_)) => all.push(refused(Why::Conflict)),
        _ => {}
    }
    all
}

fn activated(state: &State, id: u64) -> State {
    let mut after = state.clone();
    for (other, authority) in &mut after {
        if *other == id {
            authority.phase = Phase::Active;
        } else if authority.phase == Phase::Active {
            authority.phase = Phase::Old;
        }
    }
    after
}

/// Whether servers alone could have brought one to the other.
fn leads(from: Authority, to: Authority) -> bool {
    let forward = match from.phase {
        Phase::Retired | Phase::Revoked => to.phase == from.phase,
        // A tainted one is given up, or replaced.
        _ if from.tainted && from.phase < Phase::Active && to.phase != from.phase => {
            to.phase == Phase::Retired
        }
        _ => to.phase >= from.phase && to.phase != Phase::Revoked,
    };
    forward && to.tainted == from.tainted
}

/// Whether servers alone could have brought the state to what was seen. Retired and revoked ones are
/// forgotten at some time.
fn is_further(state: &State, seen: &State) -> bool {
    let known = state.iter().all(|(id, from)| {
        let retired = Authority {
            phase: Phase::Retired,
            ..*from
        };
        match seen.get(id) {
            Some(to) => leads(*from, *to),
            None => from.phase == Phase::Revoked || leads(*from, retired),
        }
    });
    let unknown = seen.iter().filter(|(id, _)| !state.contains_key(id));
    let fresh = |it: &Authority| !it.tainted && it.phase != Phase::Revoked;
    let active = seen.values().filter(|it| it.phase == Phase::Active);
    known && unknown.map(|(_, it)| it).all(fresh) && active.count() <= 1
}

/// The states to which servers may have brought the authority that is meant.
fn further(state: &State, op: &Op) -> Vec<State> {
    let id = match op {
        Op::Publish(id) | Op::Activate(id, _) | Op::Retire(id) | Op::Taint(id) => *id,
        Op::Revoke(id) => *id,
        Op::Prepare(_) | Op::Read => return vec![state.clone()],
    };
    let phases = [
        Phase::Prepared,
        Phase::Published,
        Phase::Active,
        Phase::Old,
        Phase::Retired,
        Phase::Revoked,
    ];
    let known = state.get(&id).copied();
    // One that is new here was made by servers, and stood as this does at some time.
    let from = known.unwrap_or(Authority {
        phase: Phase::Prepared,
        tainted: false,
    });
    let reached = phases
        .into_iter()
        .map(|phase| Authority { phase, ..from })
        .filter(|to| leads(from, *to));
    let reached = reached.map(|to| match to.phase {
        Phase::Active if known.is_none_or(|known| known.phase != Phase::Active) => {
            activated(&with(state, id, to), id)
        }
        _ => with(state, id, to),
    });
    // Or there is none.
    let unknown = known.is_none().then(|| state.clone());
    reached.chain(unknown).collect()
}
