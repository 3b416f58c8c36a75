//! What operators were told of an entry is as if one had been served after the other: a create, update,
//! delete or read takes effect once, between question and answer; one without an answer may have taken
//! effect, or may yet, or not. Reads ask for linearizable answers.

use std::time::Duration;

use super::{Invariant, Seen as SeenByAll};
use crate::linearizability::checker::{Budget, check_keys};
use crate::linearizability::entry::{Entry, Op, Outcome, Seen, Why};
use crate::linearizability::history::History;
use crate::oracle::{Answer, Asked, EntrySeen};
use crate::sim::operator::Order;

/// The property.
pub struct OperatorsSawOneHistory;

/// Entries are short-lived here: a handful of calls each.
const BUDGET: Budget = Budget {
    calls: 64,
    steps: 1_000_000,
};

/// A call, its key and what it came to.
struct Call<'a> {
    key: &'a str,
    op: Op,
    invoked: Duration,
    answered: Option<(Duration, Outcome)>,
}

impl Invariant for OperatorsSawOneHistory {
    fn name(&self) -> &'static str {
        "operators saw one history"
    }

    fn at_end(&mut self, seen: SeenByAll<'_>) -> Result<(), String> {
        let calls: Vec<Call<'_>> = seen.world.oracle.asked.iter().filter_map(call).collect();
        let mut keys: Vec<&str> = calls.iter().map(|call| call.key).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let history = history(calls.iter().filter(|call| call.key == key));
            let report = check_keys(&history, |_| (), |()| Entry, BUDGET);
            if let Some((_, violation)) = report.violations.first() {
                return Err(format!("of entry {key}: {violation}"));
            }
            if let Some((_, why)) = report.undecided.first() {
                return Err(format!("of entry {key} it cannot be decided: {why:?}"));
            }
        }
        Ok(())
    }
}

fn call(asked: &Asked) -> Option<Call<'_>> {
    let (key, op) = match &asked.order {
        Order::CreateEntry { key, .. } => (
            key,
            Op::Create {
                key: None,
                content: 0,
            },
        ),
        Order::UpdateEntry { key, ttl_seconds } => {
            let content = *ttl_seconds;
            (
                key,
                Op::Update {
                    key: None,
                    expected: None,
                    content,
                },
            )
        }
        Order::DeleteEntry { key } => (key, Op::Delete { key: None }),
        Order::ReadEntry { key } => (key, Op::Read),
        _ => return None,
    };
    let answered = match &asked.answered {
        // It was refused before anything was tried.
        Some((_, Answer::Refused(_))) => return None,
        Some((at, answer)) => outcome(&op, answer).map(|outcome| (*at, outcome)),
        None => None,
    };
    Some(Call {
        key,
        op,
        invoked: asked.invoked,
        answered,
    })
}

fn outcome(op: &Op, answer: &Answer) -> Option<Outcome> {
    let seen = |entry: &EntrySeen| Seen {
        revision: u64::try_from(entry.revision).unwrap_or(0),
        content: u64::try_from(entry.ttl_seconds).unwrap_or(0),
    };
    match (op, answer) {
        (Op::Create { .. }, Answer::Entry(entry)) => Some(Outcome::Created(seen(entry))),
        (Op::Update { .. }, Answer::Entry(entry)) => Some(Outcome::Updated(seen(entry))),
        (Op::Read, Answer::Entry(entry)) => Some(Outcome::Found(seen(entry))),
        (Op::Read, Answer::NotFound) => Some(Outcome::Absent),
        (Op::Delete { .. }, Answer::Done) => Some(Outcome::Deleted),
        (_, Answer::NotFound) => Some(Outcome::Refused(Why::NotFound, None)),
        (_, Answer::Exists) => Some(Outcome::Refused(Why::AlreadyExists, None)),
        _ => None,
    }
}

/// The calls in the order in which they began and ended.
fn history<'a>(calls: impl Iterator<Item = &'a Call<'a>>) -> History<Op, Outcome> {
    let calls: Vec<&Call<'_>> = calls.collect();
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
