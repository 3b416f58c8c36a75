//! A register, and one that knows compare-and-set.
//!
//! Responsible for: the plainest of all models, which other checkers know too; the checker is
//! compared with theirs on it.
//! Always holds: a read answers what was written last; it begins with 0.

use super::{Model, Window};

/// What is asked of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// What is in it?
    Read,
    /// Put this in.
    Write(u8),
    /// Put the second in, if the first is in it.
    CompareAndSet(u8, u8),
}

/// What a register answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It holds this.
    Value(u8),
    /// It was written.
    Done,
    /// Something else was in it.
    Differs,
}

/// A register of one byte.
#[derive(Debug, Clone, Copy)]
pub struct Register;

impl Model for Register {
    type State = u8;
    type Op = Op;
    type Outcome = Outcome;

    fn initial(&self) -> u8 {
        0
    }

    fn step(&self, state: &u8, op: &Op, observed: Option<&Outcome>, _: Window) -> Vec<u8> {
        let (outcome, after) = match *op {
            Op::Read => (Outcome::Value(*state), *state),
            Op::Write(value) => (Outcome::Done, value),
            Op::CompareAndSet(old, new) if old == *state => (Outcome::Done, new),
            Op::CompareAndSet(..) => (Outcome::Differs, *state),
        };
        if observed.is_none_or(|observed| *observed == outcome) {
            vec![after]
        } else {
            Vec::new()
        }
    }
}
