//! Register histories whose verdict is plain to see, above all those with unknown outcomes.

use chaos_tests::linearizability::checker::{Budget, Undecided, Verdict, check, check_keys};
use chaos_tests::linearizability::history::History;
use chaos_tests::linearizability::register::{Op, Outcome, Register};

type Registers = History<Op, Outcome>;

fn verdict(history: &Registers) -> Verdict {
    check(&Register, history, Budget::default())
}

#[test]
fn an_empty_history_is_linearizable() {
    assert!(verdict(&Registers::new()).is_linearizable());
}

#[test]
fn what_is_sequential_and_right_is_linearizable_in_its_order() {
    let mut history = Registers::new();
    history.call(1, Op::Write(1), Outcome::Done, 10);
    history.call(2, Op::Read, Outcome::Value(1), 20);
    history.call(3, Op::CompareAndSet(1, 2), Outcome::Done, 30);
    history.call(1, Op::CompareAndSet(1, 3), Outcome::Differs, 40);
    let Verdict::Linearizable(order) = verdict(&history) else {
        panic!("an order was expected");
    };
    assert_eq!(order, [0, 1, 2, 3]);
}

#[test]
fn a_stale_read_is_a_violation() {
    let mut history = Registers::new();
    history.call(1, Op::Write(1), Outcome::Done, 10);
    history.call(1, Op::Write(2), Outcome::Done, 20);
    history.call(2, Op::Read, Outcome::Value(1), 30);
    assert!(verdict(&history).is_violation());
}

#[test]
fn concurrent_calls_may_stand_in_either_order() {
    for seen in [1, 2] {
        let mut history = Registers::new();
        let one = history.invoke(1, Op::Write(1), 10);
        let two = history.invoke(2, Op::Write(2), 10);
        history.answer(one, Outcome::Done, 20);
        history.answer(two, Outcome::Done, 20);
        history.call(3, Op::Read, Outcome::Value(seen), 30);
        assert!(verdict(&history).is_linearizable(), "{seen}");
    }
}

#[test]
fn two_readers_must_agree_on_the_order_of_concurrent_writes() {
    let mut history = Registers::new();
    let one = history.invoke(1, Op::Write(1), 10);
    let two = history.invoke(2, Op::Write(2), 10);
    history.call(3, Op::Read, Outcome::Value(1), 20);
    history.call(3, Op::Read, Outcome::Value(2), 30);
    history.call(4, Op::Read, Outcome::Value(1), 40);
    history.answer(one, Outcome::Done, 50);
    history.answer(two, Outcome::Done, 50);
    assert!(verdict(&history).is_violation());
}

#[test]
fn an_unknown_write_may_have_happened_or_not() {
    for seen in [0, 1] {
        let mut history = Registers::new();
        let _lost = history.invoke(1, Op::Write(1), 10);
        history.call(2, Op::Read, Outcome::Value(seen), 20);
        assert!(verdict(&history).is_linearizable(), "{seen}");
    }
}

#[test]
fn an_unknown_write_may_happen_long_after_it_was_given_up() {
    let mut history = Registers::new();
    let _lost = history.invoke(1, Op::Write(1), 10);
    history.call(1, Op::Write(2), Outcome::Done, 20);
    history.call(2, Op::Read, Outcome::Value(2), 30);
    history.call(2, Op::Read, Outcome::Value(1), 40);
    assert!(verdict(&history).is_linearizable());
}

#[test]
fn an_unknown_write_happens_once_only() {
    let mut history = Registers::new();
    let _lost = history.invoke(1, Op::Write(1), 10);
    history.call(2, Op::Read, Outcome::Value(1), 20);
    history.call(2, Op::Write(2), Outcome::Done, 30);
    history.call(2, Op::Read, Outcome::Value(1), 40);
    assert!(verdict(&history).is_violation());
}

#[test]
fn an_unknown_write_does_not_happen_before_it_is_asked_for() {
    let mut history = Registers::new();
    history.call(2, Op::Read, Outcome::Value(1), 10);
    let _lost = history.invoke(1, Op::Write(1), 20);
    assert!(verdict(&history).is_violation());
}

#[test]
fn a_failed_write_did_not_happen() {
    let mut history = Registers::new();
    let failed = history.invoke(1, Op::Write(1), 10);
    history.fail(failed, 20);
    history.call(2, Op::Read, Outcome::Value(0), 30);
    assert!(verdict(&history).is_linearizable());
    history.call(2, Op::Read, Outcome::Value(1), 40);
    assert!(verdict(&history).is_violation());
}

#[test]
fn a_lost_compare_and_set_explains_one_that_differs() {
    let mut history = Registers::new();
    let _lost = history.invoke(1, Op::CompareAndSet(0, 1), 10);
    history.call(2, Op::CompareAndSet(0, 2), Outcome::Differs, 20);
    history.call(2, Op::Read, Outcome::Value(1), 30);
    assert!(verdict(&history).is_linearizable());
}

#[test]
fn the_counter_example_ends_where_the_violation_shows() {
    let mut history = Registers::new();
    history.call(1, Op::Write(1), Outcome::Done, 10);
    history.call(2, Op::Read, Outcome::Value(7), 20);
    for n in 0..40 {
        history.call(1, Op::Write(7), Outcome::Done, 100 + n);
    }
    let Verdict::Violation(violation) = verdict(&history) else {
        panic!("a violation was expected");
    };
    assert_eq!(violation.calls, 2);
    assert_eq!(violation.order, [0]);
    assert_eq!(violation.impossible, [1]);
    let text = violation.to_string();
    assert_eq!(
        text,
        "no order of these 2 calls explains what was seen\n  \
         #0   p1   []             10 .. 10           Write(1) -> Done\n  \
         #1   p2     []           20 .. 20           Read -> Value(7)\n\
         the longest order that fits: #0\n\
         it leads to: 1\n\
         there #1 cannot be: Read -> Value(7)\n"
    );
}

#[test]
fn a_history_that_is_too_long_or_too_hard_is_undecided() {
    let mut history = Registers::new();
    for n in 0..10 {
        history.invoke(n, Op::Write(n as u8), 10);
    }
    history.call(99, Op::Read, Outcome::Value(200), 20);
    let short = Budget {
        calls: 5,
        steps: 1_000,
    };
    let poor = Budget {
        calls: 100,
        steps: 1_000,
    };
    assert!(matches!(
        check(&Register, &history, short),
        Verdict::Undecided(Undecided::TooLong { calls: 11 })
    ));
    assert!(matches!(
        check(&Register, &history, poor),
        Verdict::Undecided(Undecided::TooHard { steps: 1_000 })
    ));
    assert!(verdict(&history).is_violation());
}

#[test]
fn what_was_tried_is_not_tried_again() {
    // Ten concurrent writes have 3.6 million orders, but only ten times 2^10 pairs of what is written
    // and what was written last.
    let mut history = Registers::new();
    let writes: Vec<_> = (0..10_u8)
        .map(|n| history.invoke(u64::from(n), Op::Write(n + 1), 10))
        .collect();
    history.call(99, Op::Read, Outcome::Value(200), 20);
    for write in writes {
        history.answer(write, Outcome::Done, 30);
    }
    let budget = Budget {
        calls: 100,
        steps: 200_000,
    };
    assert!(check(&Register, &history, budget).is_violation());
}

#[test]
fn each_key_is_judged_by_itself() {
    let mut history: History<Op, Outcome> = History::new();
    // Even and odd values go to two registers, which share nothing.
    history.call(1, Op::Write(2), Outcome::Done, 10);
    history.call(1, Op::Write(3), Outcome::Done, 20);
    history.call(1, Op::CompareAndSet(2, 4), Outcome::Done, 30);
    let key = |op: &Op| match op {
        Op::Write(value) | Op::CompareAndSet(value, _) => value % 2,
        Op::Read => 0,
    };
    let report = check_keys(&history, key, |_| Register, Budget::default());
    assert!(report.violations.is_empty() && report.undecided.is_empty());
    assert_eq!(report.linearizable, 2);
    assert!(
        verdict(&history).is_violation(),
        "together they are one register"
    );
}
