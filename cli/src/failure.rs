//! What a command failed with, as a person reads it and as a script does.
//!
//! Every failure says what happened, why, and what to do next; it has a stable code (listed in
//! `docs/errors.md`) and decides the exit code. Nothing here prints: `main` does, once.

use std::borrow::Cow;
use std::fmt;

use mintmark_runtime::cause::chain;

use crate::error_index;

/// Process exit codes, stable and documented in `mintmark help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that has no code of its own.
    Failure = 1,
    /// The command line or a file it names is wrong.
    Usage = 2,
    /// What was asked for does not exist.
    NotFound = 3,
    /// The caller may not do this.
    Denied = 4,
    /// Nobody answers, or there is no quorum.
    Unavailable = 5,
    /// It exists already, or changed meanwhile.
    Conflict = 6,
    /// No answer in time; the outcome is unknown.
    Timeout = 7,
    /// A check was made and its answer is no (verification, health).
    Unhealthy = 8,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    code: Cow<'static, str>,
    exit: Exit,
    what: String,
    why: Option<String>,
    next: Option<String>,
    reader_left: bool,
}

impl Failure {
    /// A failure with its stable code, its exit code and a sentence that says what happened.
    pub fn new(code: impl Into<Cow<'static, str>>, exit: Exit, what: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            exit,
            what: what.into(),
            why: None,
            next: None,
            reader_left: false,
        }
    }

    /// The reader of the output has seen enough (`| head`). The command ends, and that is all: nothing
    /// went wrong, and there is nobody to tell.
    pub fn reader_left() -> Self {
        Self {
            reader_left: true,
            ..Self::new("MM-3001", Exit::Failure, "the reader went away")
        }
    }

    /// Whether the logs of daemons may say more: something failed while they ran, and it was not the
    /// command line, nor a reader that left.
    pub fn is_about_daemons(&self) -> bool {
        self.exit != Exit::Usage && !self.reader_left
    }

    /// Whether this is [`Self::reader_left`].
    pub fn is_reader_left(&self) -> bool {
        self.reader_left
    }

    /// Adds the cause: the error's own text and those of its sources.
    #[must_use]
    pub fn because(mut self, cause: &dyn std::error::Error) -> Self {
        self.why = Some(chain(cause));
        self
    }

    /// A daemon that did not start, or ended: the first code that its error or a cause has is the code
    /// of the whole, else `code`.
    pub fn of_daemon(code: &'static str, error: &dyn std::error::Error) -> Self {
        let mut layers = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            let words = cause.to_string();
            if layers.last() != Some(&words) {
                layers.push(words);
            }
            source = cause.source();
        }
        let own = layers.iter().find_map(|words| error_index::code_in(words));
        let code = own.map_or(Cow::Borrowed(code), |own| Cow::Owned(own.to_owned()));
        let mut layers = layers
            .iter()
            .map(|words| words.replacen(&format!("{code}: "), "", 1));
        let failure = Self::new(
            code.clone(),
            Exit::Failure,
            layers.next().unwrap_or_default(),
        );
        let causes: Vec<String> = layers.collect();
        if causes.is_empty() {
            return failure;
        }
        failure.why(causes.join(": "))
    }

    /// Adds the cause as text.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds the next command or step for the reader.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// What to do next: what was said here, else what the index says of the code that the daemon gave,
    /// else of our own.
    fn next_step(&self) -> Option<&str> {
        let of_daemon = || error_index::advice(error_index::code_in(self.why.as_deref()?)?);
        let given = self.next.as_deref().or_else(of_daemon);
        given.or_else(|| error_index::advice(&self.code))
    }

    /// The code a script branches on.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// A failed call to a daemon: the exit code follows the gRPC code, the text is the daemon's own,
    /// which carries its own stable code.
    pub fn from_status(doing: &str, status: &tonic::Status) -> Self {
        use tonic::Code;
        let (code, exit) = match status.code() {
            Code::NotFound => ("MM-3010", Exit::NotFound),
            Code::PermissionDenied | Code::Unauthenticated => ("MM-3011", Exit::Denied),
            Code::Unavailable => ("MM-3012", Exit::Unavailable),
            Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => {
                ("MM-3013", Exit::Conflict)
            }
            Code::DeadlineExceeded => ("MM-3014", Exit::Timeout),
            Code::InvalidArgument | Code::OutOfRange => ("MM-3015", Exit::Usage),
            _ => ("MM-3016", Exit::Failure),
        };
        let mut failure = Self::new(code, exit, format!("cannot {doing}"));
        failure.why = Some(if status.message().is_empty() {
            status.code().description().to_owned()
        } else {
            status.message().to_owned()
        });
        if exit == Exit::Timeout {
            failure.next = Some(
                "the outcome is unknown: look before you repeat it (the log has a leaf for every change)"
                    .to_owned(),
            );
        }
        failure
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why:  {}", why.replace('\n', "\n        "))?;
        }
        match self.next_step() {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_decides_the_exit_code_and_keeps_the_daemons_words() {
        let cases = [
            (tonic::Code::NotFound, Exit::NotFound),
            (tonic::Code::PermissionDenied, Exit::Denied),
            (tonic::Code::Unavailable, Exit::Unavailable),
            (tonic::Code::AlreadyExists, Exit::Conflict),
            (tonic::Code::FailedPrecondition, Exit::Conflict),
            (tonic::Code::DeadlineExceeded, Exit::Timeout),
            (tonic::Code::InvalidArgument, Exit::Usage),
            (tonic::Code::Internal, Exit::Failure),
        ];
        for (code, exit) in cases {
            let failure =
                Failure::from_status("list entries", &tonic::Status::new(code, "MM-1999 said so"));
            assert_eq!(failure.exit(), exit, "{code:?}");
            assert!(failure.to_string().contains("MM-1999 said so"));
        }
    }

    #[test]
    fn the_next_step_is_the_nearest_that_is_known() {
        let of = |failure: Failure| failure.to_string().lines().last().unwrap().to_owned();
        let plain = || Failure::new("MM-3003", Exit::Usage, "it broke");
        assert_eq!(of(plain()), "  next: Check path and permissions.");
        let daemons = of(plain().why("MM-1303: sealed"));
        assert!(daemons.contains("key-encryption key"), "{daemons}");
        assert_eq!(
            of(plain().why("MM-1303: sealed").next("do that")),
            "  next: do that"
        );
    }

    #[test]
    fn causes_are_told_once_each() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let outer = Outer(std::io::Error::other("inner"));
        let text = Failure::new("MM-3000", Exit::Failure, "it broke")
            .because(&outer)
            .to_string();
        assert_eq!(text.lines().nth(1), Some("  why:  outer: inner"), "{text}");
    }
}
