//! What one registration entry promises.
//!
//! Responsible for: create, update, delete and read of one entry id, with revisions and idempotency
//! keys.
//! Always holds: a revision rises by one at each update, and a new life of the id begins above every
//! revision of the lives before it; who expects another revision is told that his is stale; a
//! repeated idempotency key gets its first answer and changes nothing.
//! Not here: whether two ids say the same (that touches two keys: give each id a content of its own),
//! expiry of entries, and keys older than the 24 h for which they are remembered.

use std::collections::BTreeMap;

use super::{Model, Window};

/// What is asked of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Make it.
    Create {
        /// Idempotency key.
        key: Option<u64>,
        /// Stands for everything that the entry says.
        content: u64,
    },
    /// Change it.
    Update {
        /// Idempotency key.
        key: Option<u64>,
        /// Only if it is at this revision.
        expected: Option<u64>,
        /// What it is to say.
        content: u64,
    },
    /// Remove it.
    Delete {
        /// Idempotency key.
        key: Option<u64>,
    },
    /// Look at it, by a linearizable read.
    Read,
}

impl Op {
    fn key(&self) -> Option<u64> {
        match self {
            Self::Create { key, .. } | Self::Update { key, .. } | Self::Delete { key } => *key,
            Self::Read => None,
        }
    }
}

/// An entry as a client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Its revision.
    pub revision: u64,
    /// What it says.
    pub content: u64,
}

/// Why an entry was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is none.
    NotFound,
    /// There is one.
    AlreadyExists,
    /// It is at another revision.
    Stale,
    /// The idempotency key belongs to another request.
    KeyReused,
}

/// What an entry answers. `V` is how it names what it is about: [`Seen`] to clients.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome<V = Seen> {
    /// It stands like this.
    Found(V),
    /// It is not there.
    Absent,
    /// It stands like this from now on.
    Created(V),
    /// It stands like this from now on.
    Updated(V),
    /// It is gone.
    Deleted,
    /// Nothing changed; a client may learn how it stands.
    Refused(Why, Option<V>),
}

/// A revision whose number nobody may have seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    life: usize,
    updates: u64,
    content: u64,
}

/// One life of the id, from a create to its delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Life {
    /// The revision it began with, once somebody saw it.
    first: Option<u64>,
    updates: u64,
    content: u64,
}

/// What is known of one id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    lives: Vec<Life>,
    alive: bool,
    results: BTreeMap<u64, (Op, Outcome<Place>)>,
}

impl State {
    fn current(&self) -> Option<Place> {
        let life = self.lives.last().filter(|_| self.alive)?;
        Some(Place {
            life: self.lives.len() - 1,
            updates: life.updates,
            content: life.content,
        })
    }

    /// The state in which this place is what the client saw; `None` if that cannot be.
    fn learn(mut self, place: Place, seen: Seen) -> Option<Self> {
        let first = seen.revision.checked_sub(place.updates)?;
        let life = self.lives.get_mut(place.life)?;
        if place.content != seen.content || life.first.is_some_and(|known| known != first) {
            return None;
        }
        life.first = Some(first);
        self.is_rising().then_some(self)
    }

    /// Whether every life begins above the one before it.
    fn is_rising(&self) -> bool {
        let mut least = 1;
        self.lives.iter().all(|life| {
            let first = life.first.unwrap_or(least);
            let rises = first >= least;
            least = first + life.updates + 1;
            rises
        })
    }
}

/// One entry id.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry;

impl Model for Entry {
    type State = State;
    type Op = Op;
    type Outcome = Outcome;

    fn initial(&self) -> State {
        State {
            lives: Vec::new(),
            alive: false,
            results: BTreeMap::new(),
        }
    }

    fn step(&self, state: &State, op: &Op, observed: Option<&Outcome>, _: Window) -> Vec<State> {
        let answers = match op.key().and_then(|key| state.results.get(&key)) {
            Some((first, answer)) if first == op => vec![(answer.clone(), state.clone())],
            Some(_) => vec![(Outcome::Refused(Why::KeyReused, None), state.clone())],
            None => first_time(state, op),
        };
        let explained = answers
            .into_iter()
            .filter_map(|(answer, after)| match observed {
                Some(observed) => explain(after, &answer, observed),
                None => Some(after),
            });
        explained.collect()
    }
}

/// What an operation may answer that was not asked under its key before, and what it leads to.
fn first_time(state: &State, op: &Op) -> Vec<(Outcome<Place>, State)> {
    let mut answers = decide(state, op);
    if let Some(key) = op.key() {
        for (answer, after) in &mut answers {
            after.results.insert(key, (op.clone(), answer.clone()));
        }
    }
    answers
}

fn decide(state: &State, op: &Op) -> Vec<(Outcome<Place>, State)> {
    let refused = |why, current| vec![(Outcome::Refused(why, current), state.clone())];
    match (op, state.current()) {
        (Op::Read, None) => vec![(Outcome::Absent, state.clone())],
        (Op::Read, Some(place)) => vec![(Outcome::Found(place), state.clone())],
        (Op::Create { .. }, Some(place)) => refused(Why::AlreadyExists, Some(place)),
        (Op::Update { .. } | Op::Delete { .. }, None) => refused(Why::NotFound, None),
        (Op::Create { content, .. }, None) => created(state, *content),
        (Op::Delete { .. }, Some(_)) => {
            let mut after = state.clone();
            after.alive = false;
            vec![(Outcome::Deleted, after)]
        }
        (
            Op::Update {
                expected, content, ..
            },
            Some(place),
        ) => update(state, place, *expected, *content),
    }
}

fn created(state: &State, content: u64) -> Vec<(Outcome<Place>, State)> {
    let mut after = state.clone();
    after.lives.push(Life {
        first: None,
        updates: 0,
        content,
    });
    after.alive = true;
    let place = after.current().map(Outcome::Created);
    place
        .into_iter()
        .map(|answer| (answer, after.clone()))
        .collect()
}

/// While nobody has seen the number of the revision, an expected one may be right or stale.
fn update(
    state: &State,
    place: Place,
    expected: Option<u64>,
    content: u64,
) -> Vec<(Outcome<Place>, State)> {
    let mut answers = Vec::new();
    let number = state.lives[place.life]
        .first
        .map(|first| first + place.updates);
    let fits = match expected {
        None => Some(state.clone()),
        Some(revision) => {
            if number != Some(revision) {
                answers.push((Outcome::Refused(Why::Stale, Some(place)), state.clone()));
            }
            let content = place.content;
            state.clone().learn(place, Seen { revision, content })
        }
    };
    if let Some(mut after) = fits {
        let life = &mut after.lives[place.life];
        life.updates += 1;
        life.content = content;
        if let Some(place) = after.current() {
            answers.push((Outcome::Updated(place), after));
        }
    }
    answers
}

/// The state in which this answer reads as the observed one.
fn explain(state: State, answer: &Outcome<Place>, observed: &Outcome) -> Option<State> {
    match (answer, observed) {
        (Outcome::Found(place), Outcome::Found(seen))
        | (Outcome::Created(place), Outcome::Created(seen))
        | (Outcome::Updated(place), Outcome::Updated(seen)) => state.learn(*place, *seen),
        (Outcome::Absent, Outcome::Absent) | (Outcome::Deleted, Outcome::Deleted) => Some(state),
        (Outcome::Refused(why, current), Outcome::Refused(observed, seen)) if why == observed => {
            match (current, seen) {
                (_, None) => Some(state),
                (Some(place), Some(seen)) => state.learn(*place, *seen),
                (None, Some(_)) => None,
            }
        }
        _ => None,
    }
}
