//! Histories that are linearizable because of how they were made, and what becomes of them when one
//! answer is changed.

use chaos_tests::linearizability::checker::{Budget, Verdict, check};
use chaos_tests::linearizability::history::{CallId, History};
use chaos_tests::linearizability::register::Register;
use chaos_tests::linearizability::{Model, Window};
use proptest::prelude::*;

use crate::permutations::explainable;
use crate::product::Workload;

/// Between the instants at which two calls take effect.
const STEP: u64 = 100;

/// One call of a made-up execution. Numbers pick from small sets.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    op: u16,
    answer: u16,
    /// How long before its effect it is invoked, and how long after it returns.
    before: u16,
    after: u16,
    /// Whether its answer is lost, and it itself too.
    fate: u8,
}

pub fn made() -> impl Strategy<Value = Made> {
    let spans = (0_u16..450, 0_u16..450);
    (any::<u16>(), any::<u16>(), spans, 0_u8..12).prop_map(|(op, answer, spans, fate)| Made {
        op,
        answer,
        before: spans.0,
        after: spans.1,
        fate,
    })
}

enum Event {
    Invoke(usize),
    Return(usize),
}

/// Runs the calls one after the other on the model, and spreads their invocations and returns around
/// the instants at which they took effect.
pub fn execute<W: Workload>(workload: &W, calls: &[Made]) -> History<W::Op, W::Outcome> {
    let model = workload.model();
    let ops = workload.ops();
    let mut state = model.initial();
    let mut plan = Vec::new();
    let mut events = Vec::new();
    for (n, made) in calls.iter().enumerate() {
        let effect = 1_000 + STEP * n as u64;
        let op = ops[usize::from(made.op) % ops.len()].clone();
        let window = Window {
            earliest: effect,
            latest: effect,
        };
        events.push((effect - u64::from(made.before), 0, Event::Invoke(n)));
        let mut answer = None;
        match made.fate {
            // It never happens.
            0 => {}
            // It happens, and nobody learns what came of it.
            1 => {
                let after = model.step(&state, &op, None, window);
                if let Some(after) = pick(&after, made.answer) {
                    state = after.clone();
                }
            }
            _ => {
                let answers: Vec<_> = workload
                    .answers(&op)
                    .into_iter()
                    .flat_map(|answer| {
                        let after = model.step(&state, &op, Some(&answer), window);
                        after.into_iter().map(move |after| (answer.clone(), after))
                    })
                    .collect();
                if let Some((chosen, after)) = pick(&answers, made.answer) {
                    state = after.clone();
                    events.push((effect + u64::from(made.after), 1, Event::Return(n)));
                    answer = Some(chosen.clone());
                }
            }
        }
        plan.push((op, answer));
    }
    events.sort_by_key(|(at, kind, _)| (*at, *kind));
    record(plan, events)
}

fn pick<T>(all: &[T], which: u16) -> Option<&T> {
    all.get(usize::from(which) % all.len().max(1))
}

fn record<O, R>(plan: Vec<(O, Option<R>)>, events: Vec<(u64, i32, Event)>) -> History<O, R> {
    let mut history = History::new();
    let mut plan: Vec<_> = plan
        .into_iter()
        .map(|(op, answer)| (Some(op), answer))
        .collect();
    let mut ids: Vec<Option<CallId>> = plan.iter().map(|_| None).collect();
    for (at, _, event) in events {
        match event {
            // Every call is a process of its own, so that no order is imposed but that of time.
            Event::Invoke(n) => {
                let op = plan[n].0.take().unwrap();
                ids[n] = Some(history.invoke(n as u64, op, at));
            }
            Event::Return(n) => {
                let answer = plan[n].1.take().unwrap();
                history.answer(ids[n].unwrap(), answer, at);
            }
        }
    }
    history
}

/// The history with another answer for one of its calls.
pub fn falsify<W: Workload>(
    workload: &W,
    history: &History<W::Op, W::Outcome>,
    which: u16,
    answer: u16,
) -> History<W::Op, W::Outcome> {
    let answered: Vec<usize> = (0..history.len())
        .filter(|n| history.calls()[*n].outcome().is_some())
        .collect();
    let Some(changed) = answered.get(usize::from(which) % answered.len().max(1)) else {
        return history.clone();
    };
    let mut events = Vec::new();
    let mut plan = Vec::new();
    for (n, call) in history.calls().iter().enumerate() {
        events.push((call.invoked, Event::Invoke(n)));
        let mut outcome = call.outcome().cloned();
        if outcome.is_some() {
            events.push((call.returned(), Event::Return(n)));
        }
        if n == *changed {
            let answers = workload.answers(&call.op);
            outcome = Some(answers[usize::from(answer) % answers.len()].clone());
        }
        plan.push((call.op.clone(), outcome));
    }
    events.sort_by_key(|(moment, _)| *moment);
    let events = events
        .into_iter()
        .map(|(moment, event)| (moment.at, 0, event));
    record(plan, events.collect())
}

fn accepts<W: Workload>(workload: &W, calls: &[Made]) -> Result<(), TestCaseError> {
    let history = execute(workload, calls);
    match check(&workload.model(), &history, Budget::default()) {
        Verdict::Linearizable(_) => Ok(()),
        Verdict::Violation(violation) => Err(TestCaseError::fail(violation.to_string())),
        Verdict::Undecided(why) => Err(TestCaseError::fail(format!("{why:?}"))),
    }
}

fn agrees<W: Workload>(
    workload: &W,
    calls: &[Made],
    which: u16,
    answer: u16,
) -> Result<(), TestCaseError> {
    let history = falsify(workload, &execute(workload, calls), which, answer);
    let model = workload.model();
    let verdict = check(&model, &history, Budget::default());
    let expected = explainable(&model, &history);
    prop_assert_eq!(
        verdict.is_linearizable(),
        expected,
        "{:?} of {:#?}",
        verdict,
        history
    );
    prop_assert_eq!(verdict.is_violation(), !expected);
    Ok(())
}

macro_rules! generated {
    ($name:ident, $workload:expr) => {
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

                #[test]
                fn what_was_executed_one_by_one_is_accepted(
                    calls in prop::collection::vec(made(), 0..40),
                ) {
                    accepts(&$workload, &calls)?;
                }

                #[test]
                fn a_changed_answer_is_judged_as_by_trying_every_order(
                    calls in prop::collection::vec(made(), 1..6),
                    which in any::<u16>(),
                    answer in any::<u16>(),
                ) {
                    agrees(&$workload, &calls, which, answer)?;
                }
            }
        }
    };
}

generated!(register, Register);
generated!(entry, crate::product::entry());
generated!(agent, crate::product::agent());
generated!(join_token, crate::product::join_token());
generated!(authority_slot, crate::product::authority_slot());

/// Of histories with one changed answer, some must be violations and some not: otherwise the
/// comparison above would show nothing.
#[test]
fn changed_answers_are_sometimes_right_and_sometimes_wrong() {
    fn counts<W: Workload>(workload: &W) -> (u32, u32) {
        let (mut right, mut wrong) = (0, 0);
        for seed in 0..400_u16 {
            let calls: Vec<Made> = (0..5_u16)
                .map(|n| Made {
                    op: seed.wrapping_mul(31).wrapping_add(n * 7),
                    answer: seed.wrapping_add(n * 3),
                    before: (seed * 13 + n * 101) % 450,
                    after: (seed * 29 + n * 57) % 450,
                    fate: 2 + (n % 2) as u8,
                })
                .collect();
            let history = falsify(workload, &execute(workload, &calls), seed, seed / 3);
            match check(&workload.model(), &history, Budget::default()) {
                Verdict::Linearizable(_) => right += 1,
                Verdict::Violation(_) => wrong += 1,
                Verdict::Undecided(why) => panic!("{why:?}"),
            }
        }
        (right, wrong)
    }
    for (name, (right, wrong)) in [
        ("register", counts(&Register)),
        ("entry", counts(&crate::product::entry())),
        ("agent", counts(&crate::product::agent())),
        ("join token", counts(&crate::product::join_token())),
        ("authority slot", counts(&crate::product::authority_slot())),
    ] {
        assert!(
            right >= 20 && wrong >= 20,
            "{name}: {right} right, {wrong} wrong"
        );
    }
}
