//! Mutations: bugs that a test puts into a daemon, to see whether its tests would find them.
//!
//! Responsible for: naming them in one registry ([`Bug`]), and saying at each place whether its bug
//! is wanted. Always holds: a process has at most one of them, for its whole life; without the feature
//! `mutations` every question is answered no while compiling, and the environment is not read; with it,
//! a build without debug assertions does not compile, so no release has it. Not here: which property
//! catches which bug (`chaos-tests`).
//!
//! `MUTATION=name` gives a daemon that has the feature its bug; `fuzz --mutation name` a simulation.

mod bug;
#[cfg(feature = "mutations")]
mod chosen;

use thiserror::Error;

pub use self::bug::Bug;

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("mutations are for tests: build without the feature, or with debug assertions");

/// Whether this binary can be given a bug.
pub const COMPILED_IN: bool = cfg!(feature = "mutations");
/// The environment variable that names it.
pub const VARIABLE: &str = "MUTATION";

/// Why a process cannot be given a bug.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChooseError {
    /// Nothing in the registry has this name.
    #[error("there is no mutation {0:?}")]
    Unknown(String),
    /// The binary was built without them.
    #[error("this binary was built without the feature `mutations`")]
    NotCompiledIn,
    /// It has another one already.
    #[error("this process has the mutation {0:?} already")]
    Another(&'static str),
}

/// Whether this process has this bug.
#[cfg(feature = "mutations")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    chosen::is(bug)
}

/// Whether this process has this bug: never, in a binary without the feature.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Gives this process the bug of this name, until it ends.
///
/// # Errors
/// When there is none, or the process cannot have it.
pub fn choose(name: &str) -> Result<Bug, ChooseError> {
    let bug = Bug::named(name).ok_or_else(|| ChooseError::Unknown(name.to_owned()))?;
    #[cfg(feature = "mutations")]
    return chosen::choose(bug);
    #[cfg(not(feature = "mutations"))]
    return Err(ChooseError::NotCompiledIn).map(|()| bug);
}

/// Gives this process the bug that the environment names, and warns that this binary can have one.
/// Without the feature it does nothing, and asks for no variable.
///
/// # Errors
/// When the variable names a bug that there is not.
pub fn arm(environment: impl Fn(&str) -> Option<String>) -> Result<(), ChooseError> {
    if COMPILED_IN {
        tracing::warn!("this binary can be given bugs: it is for tests, and must serve nobody");
        if let Some(name) = environment(VARIABLE) {
            let bug = choose(&name)?;
            tracing::warn!(
                mutation = bug.name(),
                broken = bug.meaning(),
                "this process has a bug on purpose"
            );
        }
    }
    Ok(())
}
