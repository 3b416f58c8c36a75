//! What a failpoint does in a binary that has them.
//!
//! Responsible for: reading what a test wants, and handing it to the crate `fail`. Always holds: a
//! step that the registry does not know is refused, never ignored. Not here: the registry.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, raise};

use super::{ArmError, Step};

/// Ends the process at once, with nothing written and nobody told.
const KILL: &str = "kill";
/// Tells that the step was reached.
const NOTE: &str = "note";

/// Where the configuration comes from, and what was last taken from there.
#[derive(Debug, Default)]
struct Source {
    file: Option<PathBuf>,
    taken: String,
}

static SOURCE: Mutex<Source> = Mutex::new(Source {
    file: None,
    taken: String::new(),
});

/// Takes the value of the environment variable.
pub fn arm(value: Option<String>) -> Result<(), ArmError> {
    tracing::warn!("this binary has failpoints: it is for tests, and must serve nobody");
    let value = value.unwrap_or_default();
    let mut source = SOURCE.lock().unwrap_or_else(PoisonError::into_inner);
    source.file = value.strip_prefix('@').map(PathBuf::from);
    if source.file.is_some() {
        return source.follow();
    }
    source.take(value)
}

/// Does what is configured for the step.
pub fn reach(step: Step) {
    let followed = SOURCE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .follow();
    if let Err(error) = followed {
        tell(&format!("failpoints: {error}"));
    }
    fail::fail_point!(step.name(), |action| act(step, action.as_deref()));
}

impl Source {
    /// Reads the file again. One that is not there arms nothing.
    fn follow(&mut self) -> Result<(), ArmError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "test builds only; a seam here would be a failpoint of its own"
        )]
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text == self.taken {
            return Ok(());
        }
        self.take(text)
    }

    fn take(&mut self, text: String) -> Result<(), ArmError> {
        for step in Step::ALL {
            fail::remove(step.name());
        }
        let parts = text.trim().split(';').map(str::trim);
        let configured = parts
            .filter(|part| !part.is_empty())
            .try_for_each(configure);
        self.taken = text;
        configured
    }
}

fn configure(part: &str) -> Result<(), ArmError> {
    let (name, action) = part
        .split_once('=')
        .ok_or_else(|| ArmError::Form(part.to_owned()))?;
    let step = Step::named(name).ok_or_else(|| ArmError::Unknown(name.to_owned()))?;
    let ours = action.split("->").map(|one| {
        let (count, task) = one
            .rfind(['*', '%'])
            .map_or(("", one), |at| one.split_at(at.saturating_add(1)));
        match task {
            KILL | NOTE => format!("{count}return({task})"),
            _ => one.to_owned(),
        }
    });
    let ours = ours.collect::<Vec<_>>().join("->");
    fail::cfg(step.name(), &ours).map_err(|problem| ArmError::Action {
        action: action.to_owned(),
        problem,
    })
}

fn act(step: Step, action: Option<&str>) {
    match action {
        Some(KILL) => {
            tell(&format!(
                "failpoint {} reached: this process ends",
                step.name()
            ));
            // Nothing runs after this: no destructor, no drain, no flush.
            let _ = raise(Signal::SIGKILL);
        }
        Some(NOTE) => tell(&format!("failpoint {} reached", step.name())),
        other => tell(&format!("failpoint {}: no action {other:?}", step.name())),
    }
}

fn tell(text: &str) {
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_known_steps_and_actions_are_taken() {
        let mut source = Source::default();
        let good = "issuance-prepared=2*off->kill; purge-synced = note";
        assert!(source.take(good.replace(" = ", "=")).is_ok());
        let configured = fail::list();
        let of = |name: &str| {
            let found = configured.iter().find(|(step, _)| step == name);
            found.map(|(_, actions)| actions.as_str())
        };
        assert_eq!(of("issuance-prepared"), Some("2*off->return(kill)"));
        assert_eq!(of("purge-synced"), Some("return(note)"));
        assert_eq!(
            source.take("no-such-step=kill".to_owned()),
            Err(ArmError::Unknown("no-such-step".to_owned()))
        );
        assert_eq!(
            source.take("purge-synced".to_owned()),
            Err(ArmError::Form("purge-synced".to_owned()))
        );
        assert!(matches!(
            source.take("purge-synced=explode".to_owned()),
            Err(ArmError::Action { .. })
        ));
        assert!(source.take(String::new()).is_ok());
        assert!(fail::list().is_empty(), "what is not named is disarmed");
    }
}
