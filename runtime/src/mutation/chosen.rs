//! The bug of this process, in a binary that can have one.
//!
//! Always: it is chosen once, before anything runs that asks for it, and never changes.

use std::sync::OnceLock;

use super::{Bug, ChooseError};

static CHOSEN: OnceLock<Bug> = OnceLock::new();

pub fn is(bug: Bug) -> bool {
    CHOSEN.get() == Some(&bug)
}

pub fn choose(bug: Bug) -> Result<Bug, ChooseError> {
    match CHOSEN.get_or_init(|| bug) {
        chosen if *chosen == bug => Ok(bug),
        chosen => Err(ChooseError::Another(chosen.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_bug_for_its_whole_life() {
        assert!(!is(Bug::StaleRead));
        assert_eq!(choose(Bug::StaleRead), Ok(Bug::StaleRead));
        assert_eq!(choose(Bug::StaleRead), Ok(Bug::StaleRead));
        let another = ChooseError::Another(Bug::StaleRead.name());
        assert_eq!(choose(Bug::KeyInClear), Err(another));
        assert!(is(Bug::StaleRead) && !is(Bug::KeyInClear));
    }
}
