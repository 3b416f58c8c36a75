//! The search for an order (Wing and Gong, with Lowe's memory of what was tried).
//!
//! Responsible for: deciding a history within a budget, key by key.
//! Always holds: an order that is found respects real time (what returned before another was invoked
//! stands before it) and the model; a pair of (calls ordered so far, state) is explored once; a
//! violation is only claimed when every order was tried; calls with unknown outcome stand anywhere
//! after their invocation, or nowhere.
//! Not here: recording (`history`), telling why not (`violation`).

use std::collections::BTreeSet;

use super::history::{Call, Ending, History, Moment};
use super::violation::Violation;
use super::{Model, Window};

/// Calls of one key that a check may take on, unless told otherwise.
const CALLS_MAX: usize = 10_000;

/// Steps of the model that a check may ask for, unless told otherwise; each remembered one takes
/// a state and a bit for each call, so this bounds memory too.
const STEPS_MAX: u64 = 2_000_000;

/// How much a check may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Longest history of one key.
    pub calls: usize,
    /// Steps of the model for one key.
    pub steps: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            calls: CALLS_MAX,
            steps: STEPS_MAX,
        }
    }
}

/// Why a check came to no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecided {
    /// There are more calls than the budget allows.
    TooLong {
        /// So many.
        calls: usize,
    },
    /// The steps ran out.
    TooHard {
        /// After so many.
        steps: u64,
    },
}

/// What is known of a history.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// These calls, one after the other, explain it. Unknown ones that are missing had no effect.
    Linearizable(Vec<usize>),
    /// No order explains it.
    Violation(Box<Violation>),
    /// The budget did not suffice.
    Undecided(Undecided),
}

impl Verdict {
    /// Whether an order was found.
    #[must_use]
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable(_))
    }

    /// Whether there surely is none.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Violation(_))
    }
}

/// Decides one key's history.
pub fn check<M: Model>(model: &M, history: &History<M::Op, M::Outcome>, budget: Budget) -> Verdict {
    match search(model, history, budget) {
        Found::Order(order) => Verdict::Linearizable(order),
        Found::Undecided(why) => Verdict::Undecided(why),
        Found::Nothing(stuck) => {
            let violation = match earliest(model, history, budget) {
                Some((cut, stuck)) => Violation::new(model, &cut, &stuck),
                None => Violation::new(model, history, &stuck),
            };
            Verdict::Violation(Box::new(violation))
        }
    }
}

/// What came out of checking every key of a history.
#[derive(Debug)]
pub struct KeysReport<K> {
    /// Keys without an explanation.
    pub violations: Vec<(K, Box<Violation>)>,
    /// Keys for which the budget did not suffice.
    pub undecided: Vec<(K, Undecided)>,
    /// Keys that were explained.
    pub linearizable: usize,
}

/// Decides each key's history with the model for it; the budget is each key's.
pub fn check_keys<K: Ord, M: Model>(
    history: &History<M::Op, M::Outcome>,
    key: impl Fn(&M::Op) -> K,
    model: impl Fn(&K) -> M,
    budget: Budget,
) -> KeysReport<K> {
    let mut report = KeysReport {
        violations: Vec::new(),
        undecided: Vec::new(),
        linearizable: 0,
    };
    for (key, part) in history.by_key(key) {
        match check(&model(&key), &part, budget) {
            Verdict::Linearizable(_) => report.linearizable += 1,
            Verdict::Violation(violation) => report.violations.push((key, violation)),
            Verdict::Undecided(why) => report.undecided.push((key, why)),
        }
    }
    report
}

/// The beginning of a history that cannot be explained, and how far an explanation got.
type Unexplained<M> = (
    History<<M as Model>::Op, <M as Model>::Outcome>,
    Stuck<<M as Model>::State>,
);

/// The shortest beginning of a history that has no explanation either. What is known at a moment is
/// explained by whatever explains more, so the first bad moment can be found by halving.
fn earliest<M: Model>(
    model: &M,
    history: &History<M::Op, M::Outcome>,
    budget: Budget,
) -> Option<Unexplained<M>> {
    let mut returns: Vec<Moment> = history
        .calls()
        .iter()
        .map(Call::returned)
        .filter(|at| *at < Moment::NEVER)
        .collect();
    returns.sort_unstable();
    let (mut low, mut high, mut found) = (0, returns.len(), None);
    while low < high {
        let middle = low + (high - low) / 2;
        let cut = history.until(returns[middle]);
        match search(model, &cut, budget) {
            Found::Order(_) => low = middle + 1,
            Found::Undecided(_) => return found,
            Found::Nothing(stuck) => {
                high = middle;
                found = Some((cut, stuck));
            }
        }
    }
    found
}

/// The longest order that a vain search came to.
#[derive(Debug, Clone)]
pub(super) struct Stuck<S> {
    /// The calls of it.
    pub(super) order: Vec<usize>,
    /// Where the object stands then.
    pub(super) state: S,
}

enum Found<S> {
    Order(Vec<usize>),
    Nothing(Stuck<S>),
    Undecided(Undecided),
}

/// A call that might come next, and where it would lead.
struct Branch<S> {
    call: usize,
    state: S,
}

/// One call that was placed, and what else could have been placed there.
struct Frame<S> {
    placed: Option<usize>,
    state: S,
    branches: std::vec::IntoIter<Branch<S>>,
}

fn search<M: Model>(
    model: &M,
    history: &History<M::Op, M::Outcome>,
    budget: Budget,
) -> Found<M::State> {
    if history.len() > budget.calls {
        return Found::Undecided(Undecided::TooLong {
            calls: history.len(),
        });
    }
    let mut search = Search::new(model, history.calls(), budget.steps);
    let mut seen: BTreeSet<(Placed, M::State)> = BTreeSet::new();
    let initial = model.initial();
    let mut stuck = Stuck {
        order: Vec::new(),
        state: initial.clone(),
    };
    let mut answered = 0;
    let mut frames = vec![search.frame(None, initial)];
    while let Some(frame) = frames.last_mut() {
        if search.open == 0 {
            return Found::Order(order_of(&frames));
        }
        if search.steps_left == 0 {
            return Found::Undecided(Undecided::TooHard {
                steps: budget.steps,
            });
        }
        let Some(Branch { call, state }) = frame.branches.next() else {
            if let Some(call) = frame.placed {
                search.take_back(call);
            }
            frames.pop();
            continue;
        };
        search.place(call);
        if !seen.insert((search.placed.clone(), state.clone())) {
            search.take_back(call);
            continue;
        }
        frames.push(search.frame(Some(call), state));
        let depth = search.answered_total - search.open;
        if depth > answered {
            answered = depth;
            stuck.order = order_of(&frames);
            if let Some(frame) = frames.last() {
                stuck.state = frame.state.clone();
            }
        }
    }
    Found::Nothing(stuck)
}

fn order_of<S>(frames: &[Frame<S>]) -> Vec<usize> {
    frames.iter().filter_map(|frame| frame.placed).collect()
}

/// Which calls are placed: a bit for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Placed(Box<[u64]>);

impl Placed {
    fn none_of(calls: usize) -> Self {
        Self(vec![0; calls.div_ceil(64)].into_boxed_slice())
    }

    fn has(&self, call: usize) -> bool {
        self.0[call / 64] >> (call % 64) & 1 == 1
    }

    fn flip(&mut self, call: usize) {
        self.0[call / 64] ^= 1 << (call % 64);
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op, M::Outcome>],
    placed: Placed,
    /// Before this call, everything is placed or will never be.
    first: usize,
    /// Answered calls that are not placed yet.
    open: usize,
    answered_total: usize,
    steps_left: u64,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Call<M::Op, M::Outcome>], steps: u64) -> Self {
        let answered = calls.iter().filter(|call| call.outcome().is_some());
        let answered = answered.count();
        Self {
            model,
            calls,
            placed: Placed::none_of(calls.len()),
            first: 0,
            open: answered,
            answered_total: answered,
            steps_left: steps,
        }
    }

    fn place(&mut self, call: usize) {
        self.placed.flip(call);
        if self.calls[call].outcome().is_some() {
            self.open -= 1;
        }
        while self.first < self.calls.len() && self.is_done(self.first) {
            self.first += 1;
        }
    }

    fn take_back(&mut self, call: usize) {
        self.placed.flip(call);
        if self.calls[call].outcome().is_some() {
            self.open += 1;
        }
        self.first = self.first.min(call);
    }

    fn is_done(&self, call: usize) -> bool {
        self.placed.has(call) || matches!(self.calls[call].ending, Ending::Failed(_))
    }

    /// What may come next: calls that were invoked before any open one returned. Those that return
    /// first are tried first, and unknown ones last, because they may as well never happen.
    fn frame(&mut self, placed: Option<usize>, state: M::State) -> Frame<M::State> {
        let mut next = Vec::new();
        let mut limit = Moment::NEVER;
        let mut invoked = self.latest_before_first();
        for call in self.first..self.calls.len() {
            // Whatever is placed was invoked before the open calls returned, too.
            if self.calls[call].invoked > limit {
                break;
            }
            if self.placed.has(call) {
                invoked = self.calls[call].invoked.at;
            } else if !self.is_done(call) {
                limit = limit.min(self.calls[call].returned());
                next.push(call);
            }
        }
        next.sort_by_key(|call| self.calls[*call].returned());
        let mut branches = Vec::new();
        for call in next {
            self.branch(call, &state, invoked, limit, &mut branches);
        }
        Frame {
            placed,
            state,
            branches: branches.into_iter(),
        }
    }

    fn branch(
        &mut self,
        call: usize,
        state: &M::State,
        invoked: u64,
        limit: Moment,
        branches: &mut Vec<Branch<M::State>>,
    ) {
        let it = &self.calls[call];
        let window = Window {
            earliest: invoked.max(it.invoked.at),
            latest: limit.at,
        };
        self.steps_left = self.steps_left.saturating_sub(1);
        let next = self.model.step(state, &it.op, it.outcome(), window);
        for after in next {
            // Without an answer, an effect is all that could make a difference.
            if it.outcome().is_some() || after != *state {
                branches.push(Branch { call, state: after });
            }
        }
    }

    /// When the last call that is placed before the first open one was invoked.
    fn latest_before_first(&self) -> u64 {
        let done = (0..self.first).rev().find(|call| self.placed.has(*call));
        done.map_or(0, |call| self.calls[call].invoked.at)
    }
}
