//! What operators were told of the X.509 authorities is as if one call had been served after the other:
//! whoever asks for a fresh answer sees every authority at least as far as anybody has seen it before,
//! and each that was prepared for somebody. Servers move them on by themselves meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use mintmark_proto::mintmark::state::v1::{Authority as Record, AuthorityState};

use super::told::{Told, one_history_each};
use super::{Invariant, Seen};
use crate::linearizability::authority_slot::{
    Authority, AuthoritySlot, Op, Outcome, Phase, State, Why,
};
use crate::oracle::{Answer, Asked};
use crate::sim::operator::{Authority as Named, Order};

/// The property.
pub struct AuthoritiesStandAsTold;

/// Numbers of authorities, by their ids.
#[derive(Default)]
struct Numbers<'a>(BTreeMap<&'a str, u64>);

impl<'a> Numbers<'a> {
    fn of(&mut self, id: &'a str) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(id).or_insert(next)
    }
}

impl Invariant for AuthoritiesStandAsTold {
    fn name(&self) -> &'static str {
        "authorities stand as operators were told"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let mut numbers = Numbers::default();
        let asked = seen.world.oracle.asked.iter();
        let calls = asked.filter_map(|asked| call(asked, &mut numbers));
        one_history_each(
            "authorities of kind",
            calls.collect(),
            AuthoritySlot { jobs: true },
        )
    }
}

fn call<'a>(asked: &'a Asked, numbers: &mut Numbers<'a>) -> Option<Told<'static, Op, Outcome>> {
    let op = match &asked.order {
        Order::Taint(Named(id)) => Some(Op::Taint(numbers.of(id))),
        Order::Revoke(Named(id)) => Some(Op::Revoke(numbers.of(id))),
        _ => None,
    };
    if let Some(op) = op {
        let answered = asked.answered.as_ref();
        let answered = answered.and_then(|(at, answer)| Some((*at, withdrawn(answer)?)));
        return Some(told(op, asked, answered));
    }
    // Of all else a call without an answer says nothing: servers prepare authorities by themselves too.
    let (at, answer) = asked.answered.as_ref()?;
    let (op, outcome) = match (&asked.order, answer) {
        (Order::Rotate, Answer::Prepared(id)) => (Op::Prepare(numbers.of(id)), Outcome::Done),
        (Order::Rotate, Answer::Refused(_)) => {
            (Op::Prepare(u64::MAX), Outcome::Refused(Why::Conflict))
        }
        (Order::ReadAuthorities, Answer::Authorities(all)) => {
            (Op::Read, Outcome::Stand(stand(all, numbers)))
        }
        _ => return None,
    };
    Some(told(op, asked, Some((*at, outcome))))
}

fn told(
    op: Op,
    asked: &Asked,
    answered: Option<(Duration, Outcome)>,
) -> Told<'static, Op, Outcome> {
    Told {
        key: "X.509",
        op,
        invoked: asked.invoked,
        answered,
    }
}

/// What came of a taint or a revocation; nobody knows when there is no answer.
fn withdrawn(answer: &Answer) -> Option<Outcome> {
    match answer {
        Answer::Done => Some(Outcome::Done),
        Answer::NotFound => Some(Outcome::Refused(Why::NotFound)),
        Answer::Refused(_) => Some(Outcome::Refused(Why::Conflict)),
        _ => None,
    }
}

fn stand<'a>(all: &'a [Record], numbers: &mut Numbers<'a>) -> State {
    let known = all.iter().filter_map(|one| {
        let phase = match one.state() {
            AuthorityState::Prepared => Phase::Prepared,
            AuthorityState::Published => Phase::Published,
            AuthorityState::Active => Phase::Active,
            AuthorityState::Old => Phase::Old,
            AuthorityState::Retired => Phase::Retired,
            AuthorityState::Revoked => Phase::Revoked,
            AuthorityState::Unspecified => return None,
        };
        let tainted = one.tainted;
        Some((numbers.of(&one.id), Authority { phase, tainted }))
    });
    known.collect()
}
