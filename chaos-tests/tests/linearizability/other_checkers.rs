//! The same register histories, judged by checkers that other people wrote.
//!
//! `todc-utils` has a WGL checker for complete histories; `stateright` has a tester that also takes
//! calls that never returned.

use std::collections::BTreeSet;

use chaos_tests::linearizability::checker::{Budget, check};
use chaos_tests::linearizability::history::{Call, History};
use chaos_tests::linearizability::register::{Op, Outcome, Register};
use proptest::prelude::*;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as TodcHistory};
use todc_utils::specifications::Specification;

use crate::generated::{execute, falsify, made};

/// The register in todc's words: an operation carries its answer.
struct Todc;

impl Specification for Todc {
    type State = u8;
    type Operation = (Op, Option<Outcome>);

    fn init() -> u8 {
        0
    }

    fn apply((op, answer): &Self::Operation, state: &u8) -> (bool, u8) {
        let mut register = Stateright(*state);
        let right = answer.is_some_and(|answer| answer == register.invoke(op));
        (right, register.0)
    }
}

/// The register in stateright's words.
#[derive(Debug, Clone, PartialEq)]
struct Stateright(u8);

impl SequentialSpec for Stateright {
    type Op = Op;
    type Ret = Outcome;

    fn invoke(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Read => Outcome::Value(self.0),
            Op::Write(value) => {
                self.0 = value;
                Outcome::Done
            }
            Op::CompareAndSet(old, new) if old == self.0 => {
                self.0 = new;
                Outcome::Done
            }
            Op::CompareAndSet(..) => Outcome::Differs,
        }
    }
}

type Registers = History<Op, Outcome>;

enum End<'a> {
    Invoke(&'a Call<Op, Outcome>),
    Return(&'a Call<Op, Outcome>, Outcome),
}

/// Invocations and returns in their order, with the number of the call as its process.
fn ends(history: &Registers) -> Vec<(usize, End<'_>)> {
    let mut ends = Vec::new();
    for (n, call) in history.calls().iter().enumerate() {
        ends.push((call.invoked, n, End::Invoke(call)));
        if let Some(outcome) = call.outcome() {
            ends.push((call.returned(), n, End::Return(call, *outcome)));
        }
    }
    ends.sort_by_key(|(moment, ..)| *moment);
    ends.into_iter().map(|(_, n, end)| (n, end)).collect()
}

fn todc_accepts(history: &Registers) -> bool {
    let actions = ends(history).into_iter().map(|(process, end)| match end {
        End::Invoke(call) => (process, Action::Call((call.op, None))),
        End::Return(call, outcome) => (process, Action::Response((call.op, Some(outcome)))),
    });
    WGLChecker::<Todc>::is_linearizable(TodcHistory::from_actions(actions.collect()))
}

fn stateright_accepts(history: &Registers) -> bool {
    let mut tester = LinearizabilityTester::new(Stateright(0));
    for (process, end) in ends(history) {
        match end {
            End::Invoke(call) => tester.on_invoke(process, call.op).unwrap(),
            End::Return(_, outcome) => tester.on_return(process, outcome).unwrap(),
        };
    }
    tester.is_consistent()
}

/// The history without the calls that never returned.
fn complete(history: &Registers) -> Registers {
    let mut whole = Registers::new();
    let mut ids = std::collections::BTreeMap::new();
    let returned: BTreeSet<usize> = (0..history.len())
        .filter(|n| history.calls()[*n].outcome().is_some())
        .collect();
    for (n, end) in ends(history) {
        match end {
            End::Invoke(call) if returned.contains(&n) => {
                ids.insert(n, whole.invoke(n as u64, call.op, call.invoked.at));
            }
            End::Invoke(_) => {}
            End::Return(call, outcome) => {
                whole.answer(ids[&n], outcome, call.returned().at);
            }
        }
    }
    whole
}

fn ours(history: &Registers) -> bool {
    let verdict = check(&Register, history, Budget::default());
    assert!(verdict.is_linearizable() || verdict.is_violation());
    verdict.is_linearizable()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

    #[test]
    fn todc_agrees_on_complete_histories(
        calls in prop::collection::vec(made(), 1..10),
        which in any::<u16>(),
        answer in any::<u16>(),
    ) {
        let made = execute(&Register, &calls);
        for history in [complete(&made), complete(&falsify(&Register, &made, which, answer))] {
            // Of no calls at all it cannot tell.
            prop_assume!(!history.is_empty());
            prop_assert_eq!(ours(&history), todc_accepts(&history), "{:#?}", history);
        }
    }

    #[test]
    fn stateright_agrees_even_on_calls_that_never_returned(
        calls in prop::collection::vec(made(), 1..7),
        which in any::<u16>(),
        answer in any::<u16>(),
    ) {
        let made = execute(&Register, &calls);
        for history in [&made, &falsify(&Register, &made, which, answer)] {
            prop_assert_eq!(ours(history), stateright_accepts(history), "{:#?}", history);
        }
    }
}
