//! What operators were told of an entry is as if one had been served after the other: a create, update,
//! delete or read takes effect once, between question and answer; one without an answer may have taken
//! effect, or may yet, or not. Reads ask for linearizable answers.

use super::told::{Told, one_history_each};
use super::{Invariant, Seen as SeenByAll};
use crate::linearizability::entry::{Entry, Op, Outcome, Seen, Why};
use crate::oracle::{Answer, Asked, EntrySeen};
use crate::sim::operator::{Order, keyed};

/// The property.
pub struct OperatorsSawOneHistory;

impl Invariant for OperatorsSawOneHistory {
    fn name(&self) -> &'static str {
        "operators saw one history"
    }

    fn at_end(&mut self, seen: SeenByAll<'_>) -> Result<(), String> {
        let calls = seen.world.oracle.asked.iter().filter_map(call);
        one_history_each("entry", calls.collect(), Entry)
    }
}

fn call(asked: &Asked) -> Option<Told<'_, Op, Outcome>> {
    let (key, op) = match &asked.order {
        Order::CreateEntry { key, .. } => (
            key,
            Op::Create {
                key: keyed(key),
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
    Some(Told {
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
