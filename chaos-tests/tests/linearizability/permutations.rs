//! A check that tries everything: every choice of unknown calls, in every order.
//!
//! It shares nothing with the checker but the model, so that where both agree, both are right.

use chaos_tests::linearizability::history::{Call, Ending, History, Moment};
use chaos_tests::linearizability::{Model, Window};

/// Whether some permutation explains the history. For a handful of calls.
pub fn explainable<M: Model>(model: &M, history: &History<M::Op, M::Outcome>) -> bool {
    let calls = history.calls();
    assert!(
        calls.len() <= 7,
        "{} calls have too many permutations",
        calls.len()
    );
    let mut rest = Vec::new();
    let mut sure = Vec::new();
    for (n, call) in calls.iter().enumerate() {
        match call.ending {
            Ending::Answered(..) => sure.push(n),
            Ending::Unknown => rest.push(n),
            Ending::Failed(_) => {}
        }
    }
    (0..1_u32 << rest.len()).any(|chosen| {
        let extra = rest.iter().enumerate();
        let extra = extra
            .filter(|(bit, _)| chosen >> bit & 1 == 1)
            .map(|(_, n)| *n);
        let mut all: Vec<usize> = sure.iter().copied().chain(extra).collect();
        let length = all.len();
        any_order(&mut all, length, &|order| fits(model, calls, order))
    })
}

/// Heap's algorithm.
fn any_order(all: &mut [usize], length: usize, fits: &dyn Fn(&[usize]) -> bool) -> bool {
    if length <= 1 {
        return fits(all);
    }
    for n in 0..length {
        if any_order(all, length - 1, fits) {
            return true;
        }
        all.swap(if length.is_multiple_of(2) { n } else { 0 }, length - 1);
    }
    false
}

fn fits<M: Model>(model: &M, calls: &[Call<M::Op, M::Outcome>], order: &[usize]) -> bool {
    let in_time = (0..order.len()).all(|late| {
        (0..late).all(|early| calls[order[late]].returned() > calls[order[early]].invoked)
    });
    if !in_time {
        return false;
    }
    let mut states = vec![model.initial()];
    for (place, n) in order.iter().enumerate() {
        let before = order[..=place].iter().map(|n| calls[*n].invoked.at).max();
        let after = order[place..].iter().map(|n| calls[*n].returned().at).min();
        let window = Window {
            earliest: before.unwrap_or(0),
            latest: after.unwrap_or(Moment::NEVER.at),
        };
        let call = &calls[*n];
        states = states
            .iter()
            .flat_map(|state| model.step(state, &call.op, call.outcome(), window))
            .collect();
    }
    !states.is_empty()
}
