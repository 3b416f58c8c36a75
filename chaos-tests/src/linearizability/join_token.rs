//! What one join token promises.
//!
//! Responsible for: who may join with a token, how often and until when.
//! Always holds: the first key that consumes a token is the only one; it may come again, because its
//! reply may be lost; nobody comes after the end of the token, be it expiry or the ban or eviction of
//! the agent that joined with it.
//! Not here: the attested agent (`agent`).
//!
//! Expiry is judged by the clock of the server that leads, which may differ from the history's by
//! `skew`; within that span both answers are right, but once the token is over it stays so.

use super::{Model, Window};

/// What is asked of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Make it.
    Create {
        /// From this instant on (in the history's nanoseconds) it is worth nothing.
        expires_at: u64,
    },
    /// Attest with it.
    Consume {
        /// The key of the certificate request.
        key: u64,
    },
    /// Ban or evict the agent that has the token in its path.
    End,
}

/// Why a token did not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It was made before.
    Exists,
    /// There is none, or it is over.
    Unknown,
    /// Another key consumed it.
    Used,
}

/// What a token answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It was made, consumed, or ended.
    Done,
    /// Nothing changed.
    Refused(Why),
}

/// How a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Not made yet.
    Absent,
    /// It can be used.
    Live {
        /// Until then.
        expires_at: u64,
        /// By this key only.
        used_by: Option<u64>,
    },
    /// It cannot be used any more. The record may be gone, so that it could be made again.
    Over,
}

/// One token.
#[derive(Debug, Clone, Copy, Default)]
pub struct JoinToken {
    /// Nanoseconds by which the leader's clock may differ from the history's.
    pub skew: u64,
}

impl JoinToken {
    /// The token as it may stand when the clocks of this window are looked at.
    fn at(self, state: State, window: Window) -> Vec<State> {
        let State::Live { expires_at, .. } = state else {
            return vec![state];
        };
        let mut stands = Vec::new();
        if window.earliest < expires_at.saturating_add(self.skew) {
            stands.push(state);
        }
        if window.latest.saturating_add(self.skew) >= expires_at {
            stands.push(State::Over);
        }
        stands
    }
}

/// What a token that stands like this may answer.
#[must_use]
pub fn answers(state: State, op: Op) -> Vec<(Outcome, State)> {
    let refused = |why| vec![(Outcome::Refused(why), state)];
    match (op, state) {
        (Op::Create { expires_at }, State::Absent) => vec![made(expires_at)],
        (Op::Create { .. }, State::Live { .. }) => refused(Why::Exists),
        (Op::Create { expires_at }, State::Over) => {
            vec![made(expires_at), (Outcome::Refused(Why::Exists), state)]
        }
        (Op::Consume { .. }, State::Absent | State::Over) => refused(Why::Unknown),
        (
            Op::Consume { key },
            State::Live {
                used_by: Some(by), ..
            },
        ) if by != key => refused(Why::Used),
        (Op::Consume { key }, State::Live { expires_at, .. }) => {
            let used_by = Some(key);
            vec![(
                Outcome::Done,
                State::Live {
                    expires_at,
                    used_by,
                },
            )]
        }
        (Op::End, State::Live { .. }) => vec![(Outcome::Done, State::Over)],
        (Op::End, State::Absent | State::Over) => vec![(Outcome::Done, state)],
    }
}

fn made(expires_at: u64) -> (Outcome, State) {
    let used_by = None;
    (
        Outcome::Done,
        State::Live {
            expires_at,
            used_by,
        },
    )
}

impl Model for JoinToken {
    type State = State;
    type Op = Op;
    type Outcome = Outcome;

    fn initial(&self) -> State {
        State::Absent
    }

    fn step(
        &self,
        state: &State,
        op: &Op,
        observed: Option<&Outcome>,
        window: Window,
    ) -> Vec<State> {
        let stands = self.at(*state, window).into_iter();
        let all = stands.flat_map(|state| answers(state, *op));
        let fitting = all.filter(|(outcome, _)| observed.is_none_or(|seen| seen == outcome));
        let mut after: Vec<State> = fitting.map(|(_, after)| after).collect();
        after.dedup();
        after
    }
}
