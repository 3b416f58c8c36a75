//! The product's keys: what their models allow, and what they refuse.

use chaos_tests::linearizability::Model;
use chaos_tests::linearizability::agent::{self, Agent, Standing};
use chaos_tests::linearizability::authority_slot::{self, Authority, AuthoritySlot, Ground, Phase};
use chaos_tests::linearizability::checker::{Budget, Verdict, check};
use chaos_tests::linearizability::entry::{self, Entry, Seen};
use chaos_tests::linearizability::history::History;
use chaos_tests::linearizability::join_token::{self, JoinToken};
use chaos_tests::linearizability::register::{self, Register};

/// What random histories of a model are made of.
pub trait Workload {
    type Model: Model<Op = Self::Op, Outcome = Self::Outcome>;
    type Op: Clone + std::fmt::Debug;
    type Outcome: Clone + std::fmt::Debug;

    fn model(&self) -> Self::Model;
    /// Operations to pick from.
    fn ops(&self) -> Vec<Self::Op>;
    /// Answers, right or wrong, to pick from.
    fn answers(&self, op: &Self::Op) -> Vec<Self::Outcome>;
}

/// Operations and answers of a model.
pub struct Table<M: Model> {
    model: M,
    ops: Vec<M::Op>,
    answers: Vec<M::Outcome>,
    /// Whether an answer is one to this operation at all, right or wrong.
    fits: fn(&M::Op, &M::Outcome) -> bool,
}

impl<M: Model + Clone> Workload for Table<M> {
    type Model = M;
    type Op = M::Op;
    type Outcome = M::Outcome;

    fn model(&self) -> M {
        self.model.clone()
    }

    fn ops(&self) -> Vec<M::Op> {
        self.ops.clone()
    }

    fn answers(&self, op: &M::Op) -> Vec<M::Outcome> {
        let all = self.answers.iter();
        all.filter(|it| (self.fits)(op, it)).cloned().collect()
    }
}

impl Workload for Register {
    type Model = Self;
    type Op = register::Op;
    type Outcome = register::Outcome;

    fn model(&self) -> Self {
        *self
    }

    fn ops(&self) -> Vec<register::Op> {
        use register::Op::{CompareAndSet, Read, Write};
        vec![
            Read,
            Read,
            Write(1),
            Write(2),
            CompareAndSet(1, 2),
            CompareAndSet(0, 1),
        ]
    }

    fn answers(&self, op: &register::Op) -> Vec<register::Outcome> {
        use register::Outcome::{Differs, Done, Value};
        match op {
            register::Op::Read => vec![Value(0), Value(1), Value(2)],
            register::Op::Write(_) => vec![Done],
            register::Op::CompareAndSet(..) => vec![Done, Differs],
        }
    }
}

pub fn entry() -> Table<Entry> {
    use entry::{Op, Outcome, Why};
    let mut answers = vec![Outcome::Absent, Outcome::Deleted];
    for why in [
        Why::NotFound,
        Why::AlreadyExists,
        Why::Stale,
        Why::KeyReused,
    ] {
        answers.push(Outcome::Refused(why, None));
    }
    for revision in 1..5 {
        for content in [7, 8] {
            let seen = Seen { revision, content };
            answers.push(Outcome::Found(seen));
            answers.push(Outcome::Created(seen));
            answers.push(Outcome::Updated(seen));
            answers.push(Outcome::Refused(Why::Stale, Some(seen)));
        }
    }
    let update = |key, expected, content| Op::Update {
        key,
        expected,
        content,
    };
    Table {
        model: Entry,
        ops: vec![
            Op::Read,
            Op::Read,
            Op::Create {
                key: None,
                content: 7,
            },
            Op::Create {
                key: Some(1),
                content: 7,
            },
            Op::Create {
                key: Some(1),
                content: 8,
            },
            update(None, None, 8),
            update(None, Some(1), 8),
            update(Some(2), Some(2), 7),
            Op::Delete { key: None },
            Op::Delete { key: Some(3) },
        ],
        answers,
        fits: |_, _| true,
    }
}

pub fn agent() -> Table<Agent> {
    use agent::{Op, Outcome, Why};
    let mut answers = vec![Outcome::Done, Outcome::Attested(None)];
    for serial in 1..4 {
        answers.push(Outcome::Attested(Some(serial)));
        answers.push(Outcome::Renewed(serial));
    }
    for standing in [Standing::Absent, Standing::Attested, Standing::Banned] {
        answers.push(Outcome::Stands(standing));
    }
    for why in [
        Why::Banned,
        Why::NotAttested,
        Why::AlreadyAttested,
        Why::Serial,
        Why::Key,
    ] {
        answers.push(Outcome::Refused(why));
    }
    let attest = |key, issue| Op::Attest {
        key,
        repeatable: false,
        issue,
    };
    let renew = |presented, key| Op::Renew { presented, key };
    Table {
        model: Agent,
        ops: vec![
            attest(1, false),
            attest(1, true),
            attest(2, true),
            renew(None, 1),
            renew(Some(1), 2),
            renew(Some(2), 1),
            Op::Resume {
                proven: 1,
                new_key: Some(2),
            },
            Op::Resume {
                proven: 2,
                new_key: None,
            },
            Op::Show(2),
            Op::Ban,
            Op::Evict,
            Op::Read,
        ],
        answers,
        fits: |op, outcome| match outcome {
            Outcome::Attested(_) => matches!(op, Op::Attest { .. }),
            Outcome::Renewed(_) => matches!(op, Op::Renew { .. }),
            Outcome::Stands(_) => *op == Op::Read,
            Outcome::Done => {
                matches!(op, Op::Resume { .. } | Op::Show(_) | Op::Ban | Op::Evict)
            }
            Outcome::Refused(_) => *op != Op::Read,
        },
    }
}

pub fn join_token() -> Table<JoinToken> {
    use join_token::{Op, Outcome, Why};
    let refused = [Why::Exists, Why::Unknown, Why::Used].map(Outcome::Refused);
    let mut answers = vec![Outcome::Done];
    answers.extend(refused);
    Table {
        model: JoinToken { skew: 50 },
        ops: vec![
            Op::Create { expires_at: 1_300 },
            Op::Create { expires_at: 5_000 },
            Op::Consume { key: 1 },
            Op::Consume { key: 1 },
            Op::Consume { key: 2 },
            Op::End,
        ],
        answers,
        fits: |_, _| true,
    }
}

pub fn authority_slot() -> Table<AuthoritySlot> {
    use authority_slot::{Op, Outcome, Why};
    let mut answers = vec![Outcome::Done, Outcome::Stand(authority_slot::State::new())];
    for phase in [Phase::Prepared, Phase::Published, Phase::Active, Phase::Old] {
        let it = Authority {
            phase,
            tainted: false,
        };
        answers.push(Outcome::Stand([(1, it)].into()));
    }
    for why in [
        Why::NotFound,
        Why::Exists,
        Why::Conflict,
        Why::NotAcknowledged,
        Why::Unusable,
    ] {
        answers.push(Outcome::Refused(why));
    }
    Table {
        model: AuthoritySlot { jobs: false },
        ops: vec![
            Op::Prepare(1),
            Op::Prepare(1),
            Op::Prepare(2),
            Op::Publish(1),
            Op::Publish(2),
            Op::Activate(1, Ground::ColdStart),
            Op::Activate(2, Ground::Acknowledged),
            Op::Taint(1),
            Op::Revoke(1),
            Op::Retire(1),
            Op::Read,
        ],
        answers,
        fits: |_, _| true,
    }
}

fn accepted<M: Model>(model: &M, history: &History<M::Op, M::Outcome>) {
    match check(model, history, Budget::default()) {
        Verdict::Linearizable(_) => {}
        other => panic!("{other:?}"),
    }
}

/// Checks that this is a violation, and shows exactly at the last call.
fn refused<M: Model>(model: &M, history: &History<M::Op, M::Outcome>) {
    match check(model, history, Budget::default()) {
        Verdict::Violation(violation) => assert_eq!(violation.calls, history.len(), "{violation}"),
        other => panic!("{other:?}"),
    }
}

mod entries {
    use super::entry::{Op, Outcome, Why};
    use super::*;

    const fn create(key: Option<u64>) -> Op {
        Op::Create { key, content: 7 }
    }

    const fn update(expected: u64, content: u64) -> Op {
        Op::Update {
            key: None,
            expected: Some(expected),
            content,
        }
    }

    const fn seen(revision: u64, content: u64) -> Seen {
        Seen { revision, content }
    }

    #[test]
    fn a_lost_update_is_a_violation() {
        let mut history = History::new();
        history.call(1, create(None), Outcome::Created(seen(1, 7)), 10);
        let one = history.invoke(1, update(1, 8), 20);
        let two = history.invoke(2, update(1, 9), 20);
        history.answer(one, Outcome::Updated(seen(2, 8)), 30);
        history.answer(two, Outcome::Updated(seen(2, 9)), 30);
        refused(&Entry, &history);
    }

    #[test]
    fn of_two_updates_of_one_revision_one_is_stale() {
        let mut history = History::new();
        history.call(1, create(None), Outcome::Created(seen(1, 7)), 10);
        let one = history.invoke(1, update(1, 8), 20);
        let two = history.invoke(2, update(1, 9), 20);
        history.answer(one, Outcome::Refused(Why::Stale, Some(seen(2, 9))), 30);
        history.answer(two, Outcome::Updated(seen(2, 9)), 30);
        accepted(&Entry, &history);
    }

    #[test]
    fn a_stale_read_is_a_violation() {
        let mut history = History::new();
        history.call(1, create(None), Outcome::Created(seen(1, 7)), 10);
        history.call(1, update(1, 8), Outcome::Updated(seen(2, 8)), 20);
        history.call(2, Op::Read, Outcome::Found(seen(1, 7)), 30);
        refused(&Entry, &history);
    }

    #[test]
    fn a_read_after_an_acknowledged_delete_finds_nothing() {
        let mut history = History::new();
        history.call(1, create(None), Outcome::Created(seen(1, 7)), 10);
        history.call(1, Op::Delete { key: None }, Outcome::Deleted, 20);
        history.call(2, Op::Read, Outcome::Absent, 30);
        accepted(&Entry, &history);
        history.call(2, Op::Read, Outcome::Found(seen(1, 7)), 40);
        refused(&Entry, &history);
    }

    #[test]
    fn a_retry_of_a_lost_create_gets_its_answer() {
        let mut history = History::new();
        let _lost = history.invoke(1, create(Some(1)), 10);
        history.call(2, Op::Read, Outcome::Found(seen(5, 7)), 20);
        history.call(1, create(Some(1)), Outcome::Created(seen(5, 7)), 30);
        history.call(
            1,
            create(None),
            Outcome::Refused(Why::AlreadyExists, None),
            40,
        );
        accepted(&Entry, &history);
    }

    #[test]
    fn a_retry_that_acts_again_is_a_violation() {
        let mut history = History::new();
        history.call(1, create(Some(1)), Outcome::Created(seen(1, 7)), 10);
        history.call(1, Op::Delete { key: None }, Outcome::Deleted, 20);
        // The first answer is right, although the entry is gone …
        history.call(1, create(Some(1)), Outcome::Created(seen(1, 7)), 30);
        accepted(&Entry, &history);
        // … and a second creation is not.
        history.call(1, create(Some(1)), Outcome::Created(seen(2, 7)), 40);
        refused(&Entry, &history);
    }

    #[test]
    fn a_key_stands_for_one_request() {
        let mut history = History::new();
        history.call(1, create(Some(1)), Outcome::Created(seen(1, 7)), 10);
        let other = Op::Delete { key: Some(1) };
        history.call(1, other.clone(), Outcome::Refused(Why::KeyReused, None), 20);
        accepted(&Entry, &history);
        history.call(1, other, Outcome::Deleted, 30);
        refused(&Entry, &history);
    }

    #[test]
    fn a_new_life_begins_above_the_last_one() {
        let mut history = History::new();
        history.call(1, create(None), Outcome::Created(seen(1, 7)), 10);
        history.call(1, update(1, 8), Outcome::Updated(seen(2, 8)), 20);
        history.call(1, Op::Delete { key: None }, Outcome::Deleted, 30);
        let mut reborn = history.clone();
        reborn.call(1, create(None), Outcome::Created(seen(9, 7)), 40);
        accepted(&Entry, &reborn);
        history.call(1, create(None), Outcome::Created(seen(2, 7)), 40);
        refused(&Entry, &history);
    }

    #[test]
    fn a_number_that_is_seen_late_must_fit_what_came_before() {
        let mut history = History::new();
        let _lost = history.invoke(1, create(Some(1)), 10);
        history.call(2, update(4, 8), Outcome::Updated(seen(5, 8)), 20);
        let mut retried = history.clone();
        retried.call(1, create(Some(1)), Outcome::Created(seen(4, 7)), 30);
        accepted(&Entry, &retried);
        history.call(1, create(Some(1)), Outcome::Created(seen(3, 7)), 30);
        refused(&Entry, &history);
    }
}

mod agents {
    use super::agent::{Op, Outcome, Why};
    use super::*;

    const JOIN: Op = Op::Attest {
        key: 1,
        repeatable: false,
        issue: true,
    };

    fn renew(presented: u64) -> Op {
        Op::Renew {
            presented: Some(presented),
            key: 1,
        }
    }

    fn joined() -> History<Op, Outcome> {
        let mut history = History::new();
        history.call(1, JOIN, Outcome::Attested(Some(100)), 10);
        history
    }

    #[test]
    fn a_renewal_after_an_acknowledged_ban_is_a_violation() {
        let mut history = joined();
        history.call(2, Op::Ban, Outcome::Done, 20);
        history.call(1, renew(100), Outcome::Renewed(101), 30);
        refused(&Agent, &history);
    }

    #[test]
    fn a_renewal_beside_a_ban_may_come_first() {
        let mut history = joined();
        let ban = history.invoke(2, Op::Ban, 20);
        history.call(1, renew(100), Outcome::Renewed(101), 30);
        history.call(1, renew(101), Outcome::Refused(Why::Banned), 40);
        history.answer(ban, Outcome::Done, 50);
        accepted(&Agent, &history);
    }

    #[test]
    fn a_lost_ban_counts_once_it_was_seen() {
        let mut history = joined();
        let _lost = history.invoke(2, Op::Ban, 20);
        history.call(1, renew(100), Outcome::Renewed(101), 30);
        history.call(3, Op::Read, Outcome::Stands(Standing::Banned), 40);
        history.call(1, renew(101), Outcome::Refused(Why::Banned), 50);
        accepted(&Agent, &history);
        history.call(1, renew(101), Outcome::Renewed(102), 60);
        refused(&Agent, &history);
    }

    #[test]
    fn a_lost_renewal_strands_nobody() {
        let mut history = joined();
        let _lost = history.invoke(1, renew(100), 20);
        history.call(1, renew(100), Outcome::Renewed(102), 30);
        history.call(1, renew(102), Outcome::Renewed(103), 40);
        accepted(&Agent, &history);
        history.call(1, renew(100), Outcome::Renewed(104), 50);
        refused(&Agent, &history);
    }

    #[test]
    fn once_the_agent_is_seen_with_the_next_svid_the_one_before_is_over() {
        let mut history = joined();
        history.call(1, renew(100), Outcome::Renewed(101), 20);
        let mut again = history.clone();
        again.call(1, renew(100), Outcome::Renewed(102), 40);
        accepted(&Agent, &again);
        history.call(1, Op::Show(101), Outcome::Done, 30);
        history.call(1, renew(100), Outcome::Renewed(102), 40);
        refused(&Agent, &history);
    }

    #[test]
    fn a_ban_survives_attestation_and_ends_by_eviction() {
        let mut history = joined();
        history.call(2, Op::Ban, Outcome::Done, 20);
        history.call(1, JOIN, Outcome::Refused(Why::Banned), 30);
        history.call(2, Op::Evict, Outcome::Done, 40);
        history.call(1, JOIN, Outcome::Attested(Some(101)), 50);
        accepted(&Agent, &history);
        let mut banned = joined();
        banned.call(2, Op::Ban, Outcome::Done, 20);
        banned.call(1, JOIN, Outcome::Attested(Some(101)), 30);
        refused(&Agent, &banned);
    }

    #[test]
    fn a_method_that_works_once_binds_the_key() {
        let mut history = joined();
        let other = Op::Attest {
            key: 2,
            repeatable: false,
            issue: true,
        };
        history.call(3, other, Outcome::Refused(Why::AlreadyAttested), 20);
        history.call(1, JOIN, Outcome::Attested(Some(101)), 30);
        accepted(&Agent, &history);
        history.call(3, other, Outcome::Attested(Some(102)), 40);
        refused(&Agent, &history);
    }
}

mod tokens {
    use super::join_token::{Op, Outcome, Why};
    use super::*;

    const TOKEN: JoinToken = JoinToken { skew: 5 };
    const A: Op = Op::Consume { key: 1 };
    const B: Op = Op::Consume { key: 2 };

    fn made() -> History<Op, Outcome> {
        let mut history = History::new();
        history.call(9, Op::Create { expires_at: 1_000 }, Outcome::Done, 10);
        history
    }

    #[test]
    fn a_double_consume_is_a_violation() {
        let mut history = made();
        let a = history.invoke(1, A, 20);
        let b = history.invoke(2, B, 20);
        history.answer(a, Outcome::Done, 30);
        history.answer(b, Outcome::Done, 30);
        refused(&TOKEN, &history);
    }

    #[test]
    fn a_lost_reply_lets_the_same_key_come_again() {
        let mut history = made();
        let _lost = history.invoke(1, A, 20);
        history.call(2, B, Outcome::Refused(Why::Used), 30);
        history.call(1, A, Outcome::Done, 40);
        accepted(&TOKEN, &history);
    }

    #[test]
    fn a_key_that_is_denied_although_it_won_is_a_violation() {
        let mut history = made();
        history.call(1, A, Outcome::Done, 20);
        history.call(1, A, Outcome::Refused(Why::Used), 30);
        refused(&TOKEN, &history);
    }

    #[test]
    fn a_denial_without_a_winner_is_a_violation() {
        let mut history = made();
        history.call(2, B, Outcome::Refused(Why::Used), 30);
        refused(&TOKEN, &history);
    }

    #[test]
    fn about_its_expiry_a_token_is_judged_by_the_leaders_clock() {
        for (at, live, over) in [(990, true, false), (997, true, true), (1_010, false, true)] {
            let mut history = made();
            history.call(1, A, Outcome::Done, at);
            match live {
                true => accepted(&TOKEN, &history),
                false => refused(&TOKEN, &history),
            }
            let mut history = made();
            history.call(1, A, Outcome::Refused(Why::Unknown), at);
            match over {
                true => accepted(&TOKEN, &history),
                false => refused(&TOKEN, &history),
            }
        }
    }

    #[test]
    fn an_expired_token_does_not_come_back() {
        let mut history = made();
        history.call(1, A, Outcome::Refused(Why::Unknown), 997);
        history.call(1, A, Outcome::Done, 999);
        refused(&TOKEN, &history);
    }

    #[test]
    fn eviction_ends_the_token() {
        let mut history = made();
        history.call(1, A, Outcome::Done, 20);
        history.call(9, Op::End, Outcome::Done, 30);
        history.call(1, A, Outcome::Done, 40);
        refused(&TOKEN, &history);
    }
}

mod authorities {
    use super::authority_slot::{Op, Outcome, State, Why};
    use super::*;

    const SLOT: AuthoritySlot = AuthoritySlot { jobs: false };
    const BUSY: AuthoritySlot = AuthoritySlot { jobs: true };

    fn stand(all: &[(u64, Phase, bool)]) -> Outcome {
        let each = all.iter().map(|(id, phase, tainted)| {
            let (phase, tainted) = (*phase, *tainted);
            (*id, Authority { phase, tainted })
        });
        Outcome::Stand(each.collect::<State>())
    }

    fn rotated() -> History<Op, Outcome> {
        let mut history = History::new();
        let ops = [
            Op::Prepare(1),
            Op::Activate(1, Ground::ColdStart),
            Op::Prepare(2),
            Op::Publish(2),
            Op::Activate(2, Ground::Acknowledged),
        ];
        for (n, op) in ops.into_iter().enumerate() {
            history.call(1, op, Outcome::Done, 10 * n as u64);
        }
        history
    }

    #[test]
    fn a_rotation_leaves_the_old_one_behind() {
        let mut history = rotated();
        let seen = stand(&[(1, Phase::Old, false), (2, Phase::Active, false)]);
        history.call(2, Op::Read, seen, 100);
        history.call(1, Op::Taint(1), Outcome::Done, 110);
        history.call(1, Op::Revoke(1), Outcome::Done, 120);
        let seen = stand(&[(1, Phase::Revoked, true), (2, Phase::Active, false)]);
        history.call(2, Op::Read, seen, 130);
        accepted(&SLOT, &history);
    }

    #[test]
    fn two_active_authorities_are_a_violation() {
        let seen = stand(&[(1, Phase::Active, false), (2, Phase::Active, false)]);
        for slot in [SLOT, BUSY] {
            let mut history = rotated();
            history.call(2, Op::Read, seen.clone(), 100);
            refused(&slot, &history);
        }
    }

    #[test]
    fn an_authority_does_not_go_back() {
        let seen = stand(&[(1, Phase::Active, false), (2, Phase::Published, false)]);
        for slot in [SLOT, BUSY] {
            let mut history = rotated();
            history.call(2, Op::Read, seen.clone(), 100);
            refused(&slot, &history);
        }
    }

    #[test]
    fn one_that_servers_made_is_tainted_for_good() {
        let seen = stand(&[
            (1, Phase::Retired, false),
            (2, Phase::Old, false),
            (3, Phase::Active, true),
        ]);
        let not_any_more = stand(&[
            (2, Phase::Old, false),
            (3, Phase::Old, false),
            (4, Phase::Active, false),
        ]);
        let mut history = rotated();
        history.call(1, Op::Taint(3), Outcome::Done, 100);
        history.call(2, Op::Read, seen, 110);
        accepted(&BUSY, &history);
        history.call(2, Op::Read, not_any_more, 120);
        refused(&BUSY, &history);
        let mut history = rotated();
        history.call(1, Op::Taint(3), Outcome::Refused(Why::NotFound), 100);
        accepted(&BUSY, &history);
        history.call(1, Op::Revoke(3), Outcome::Done, 110);
        refused(&BUSY, &history);
    }

    #[test]
    fn only_a_tainted_authority_is_revoked() {
        for slot in [SLOT, BUSY] {
            let mut history = rotated();
            history.call(1, Op::Revoke(1), Outcome::Refused(Why::Conflict), 100);
            accepted(&slot, &history);
            history.call(1, Op::Revoke(1), Outcome::Done, 110);
            refused(&slot, &history);
        }
    }

    #[test]
    fn the_active_authority_is_not_revoked() {
        let mut history = rotated();
        history.call(1, Op::Taint(2), Outcome::Done, 100);
        history.call(1, Op::Revoke(2), Outcome::Refused(Why::Conflict), 110);
        accepted(&SLOT, &history);
        history.call(1, Op::Revoke(2), Outcome::Done, 120);
        refused(&SLOT, &history);
    }

    #[test]
    fn of_two_activations_of_one_authority_one_is_refused() {
        let mut history = rotated();
        history.call(1, Op::Prepare(3), Outcome::Done, 100);
        history.call(1, Op::Publish(3), Outcome::Done, 110);
        let activate = || Op::Activate(3, Ground::Operator);
        let one = history.invoke(1, activate(), 120);
        let two = history.invoke(2, activate(), 120);
        history.answer(one, Outcome::Done, 130);
        let mut both = history.clone();
        history.answer(two, Outcome::Refused(Why::Conflict), 130);
        accepted(&SLOT, &history);
        both.answer(two, Outcome::Done, 130);
        refused(&SLOT, &both);
    }

    #[test]
    fn servers_may_go_on_by_themselves_if_they_are_said_to() {
        let seen = stand(&[
            (1, Phase::Retired, false),
            (2, Phase::Old, false),
            (3, Phase::Active, false),
        ]);
        let mut history = rotated();
        history.call(2, Op::Read, seen, 100);
        refused(&SLOT, &history);
        accepted(&BUSY, &history);
        history.call(1, Op::Taint(1), Outcome::Done, 110);
        refused(&BUSY, &history);
    }
}
