//! Whether what clients saw can be explained by one order of what they did.
//!
//! Responsible for: what a model is (the sequential specification of one key) and the families of
//! models that the product promises to follow. `history` records, `checker` decides, `violation`
//! tells a person why.
//! Always holds: everything here is a pure function of the recorded history: no clock, no
//! randomness, no thread; the same history yields the same verdict and the same text.
//! Not here: who records histories (the simulator and its oracle). The models know nothing of the
//! product's code: they are the specification, and `tests/specifications.rs` holds the state
//! machine to it.

use std::fmt::Debug;

pub mod agent;
pub mod authority_slot;
pub mod checker;
pub mod entry;
pub mod history;
pub mod join_token;
pub mod register;
pub mod violation;

/// When an operation took effect, as far as the order chosen so far tells. Both ends are inclusive,
/// in the nanoseconds of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// Not before this: it, and everything ordered before it, had been invoked.
    pub earliest: u64,
    /// Not after this: it, and everything ordered after it, had not returned yet.
    pub latest: u64,
}

/// The sequential specification of one key.
pub trait Model {
    /// What the object remembers. The checker keeps sets of it.
    type State: Clone + Ord + Debug;
    /// What may be asked of it.
    type Op: Clone + Debug;
    /// What may be answered, refusals with their reasons included.
    type Outcome: Clone + Debug;

    /// The object before anything was done.
    fn initial(&self) -> Self::State;

    /// The states in which the object may be after `op` took effect in `state` and answered
    /// `observed`; `None`: the answer was lost and may have been anything. Empty: the object cannot
    /// answer that here.
    fn step(
        &self,
        state: &Self::State,
        op: &Self::Op,
        observed: Option<&Self::Outcome>,
        window: Window,
    ) -> Vec<Self::State>;
}
