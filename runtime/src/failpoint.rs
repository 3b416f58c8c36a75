//! Failpoints: the places where a test may kill a daemon.
//!
//! Responsible for: naming them in one registry ([`Step`]), and dying there when a test says so.
//! Always holds: without the feature `failpoints` a point compiles to nothing and the environment
//! is not read; with it, a build without debug assertions does not compile, so no release has it.
//! Not here: what must be true after a restart (`chaos-tests`).
//!
//! `FAILPOINTS` is `step=action`, several joined by `;`, or `@FILE`. A file holds the same and is read
//! anew whenever a point is reached, so that a test arms a process when it is where it should be.
//! An action is one of the crate `fail` (`sleep(ms)`, `pause`, `panic`, …, with `3*` or `20%`
//! before it and `->` between two) or one of ours: `kill` ends the process as a power cut would,
//! `note` only tells.

#[cfg(feature = "failpoints")]
mod armed;
mod step;

use thiserror::Error;

pub use self::step::Step;

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("failpoints are for tests: build without the feature, or with debug assertions");

/// Whether this binary has failpoints.
pub const COMPILED_IN: bool = cfg!(feature = "failpoints");
/// The environment variable that arms them.
pub const VARIABLE: &str = "FAILPOINTS";

/// Why failpoints cannot be armed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArmError {
    /// The text does not have the form `step=action;…`.
    #[error("{0:?} is not `step=action`")]
    Form(String),
    /// Nothing in the sources has this name.
    #[error("there is no failpoint {0:?}")]
    Unknown(String),
    /// The action is none.
    #[error("{action:?} is no action: {problem}")]
    Action {
        /// What was asked for.
        action: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A daemon has come to this step; where a test says so, it goes no further.
#[inline]
pub fn reach(step: Step) {
    #[cfg(feature = "failpoints")]
    armed::reach(step);
    #[cfg(not(feature = "failpoints"))]
    let _ = step;
}

/// Arms failpoints as the environment says, and warns that this binary has them. Without the
/// feature it does nothing, and asks for no variable.
///
/// # Errors
/// When the variable names a step that does not exist, or no action.
pub fn arm(environment: impl Fn(&str) -> Option<String>) -> Result<(), ArmError> {
    #[cfg(feature = "failpoints")]
    armed::arm(environment(VARIABLE))?;
    #[cfg(not(feature = "failpoints"))]
    drop(environment);
    Ok(())
}
