//! What operators were told, as histories of calls.
//!
//! Always: a call whose answer did not come, or whose machine died, is of unknown outcome.
//!
//! Not here: what the calls mean (`crate::linearizability`), whose they are (the properties).

use std::time::Duration;

use crate::linearizability::Model;
use crate::linearizability::checker::{Budget, check_keys};
use crate::linearizability::history::History;

/// A run has a handful of calls of each key.
const BUDGET: Budget = Budget {
    calls: 64,
    steps: 1_000_000,
};

/// A call of one key and what it came to.
pub struct Told<'a, O, R> {
    /// Whose entry, agent or authorities.
    pub key: &'a str,
    /// What was asked.
    pub op: O,
    /// From when.
    pub invoked: Duration,
    /// Until when, and what was said.
    pub answered: Option<(Duration, R)>,
}

/// Whether the calls of each key are as if one had been served after the other.
///
/// # Errors
/// The first key of which they are not, and why.
pub fn one_history_each<M>(
    what: &str,
    calls: Vec<Told<'_, M::Op, M::Outcome>>,
    model: M,
) -> Result<(), String>
where
    M: Model + Clone,
{
    let mut keys: Vec<&str> = calls.iter().map(|call| call.key).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let history = history(calls.iter().filter(|call| call.key == key));
        let report = check_keys(&history, |_| (), |()| model.clone(), BUDGET);
        if let Some((_, violation)) = report.violations.first() {
            return Err(format!("of {what} {key}: {violation}"));
        }
        if let Some((_, why)) = report.undecided.first() {
            return Err(format!("of {what} {key} it cannot be decided: {why:?}"));
        }
    }
    Ok(())
}

/// The calls in the order in which they began and ended.
fn history<'a, O: Clone + 'a, R: Clone + 'a>(
    calls: impl Iterator<Item = &'a Told<'a, O, R>>,
) -> History<O, R> {
    let calls: Vec<&Told<'_, O, R>> = calls.collect();
    let mut events: Vec<(Duration, bool, usize)> = Vec::new();
    for (n, call) in calls.iter().enumerate() {
        events.push((call.invoked, false, n));
        if let Some((at, _)) = &call.answered {
            events.push((*at, true, n));
        }
    }
    events.sort();
    let nanos = |at: Duration| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    let mut history = History::new();
    let mut ids = Vec::new();
    ids.resize_with(calls.len(), || None);
    for (at, is_answer, n) in events {
        let call = calls[n];
        if !is_answer {
            ids[n] = Some(history.invoke(n as u64, call.op.clone(), nanos(at)));
        } else if let (Some(id), Some((_, outcome))) = (ids[n].take(), &call.answered) {
            history.answer(id, outcome.clone(), nanos(at));
        }
    }
    history
}
