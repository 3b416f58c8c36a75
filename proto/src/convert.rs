//! Between wire messages and the types of `mintmark-identity`.
//!
//! Responsible for: every such conversion, so that a rule about a field is
//! written once.
//! Always holds: a message that breaks a rule gives a [`ConvertError`] that names
//! the field; converting out and back gives an equal value; output never fails.
//! Not here: rules that need the trust domain or the replicated state
//! (`RegistrationEntry::validate`, `ca-server`).

use std::time::Duration;

use mintmark_identity::bundle::JwtAuthorityError;
use mintmark_identity::bundle::document::DocumentError;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::EntryIdError;
use mintmark_identity::selector::SelectorError;
use mintmark_identity::spiffe_id::SpiffeIdError;
use mintmark_identity::svid::x509::anchor::AnchorError;

pub mod agent;
pub mod bundle;
pub mod entry;
pub mod ids;
pub mod svid;

/// A field of a message holds what it must not hold.
#[derive(Debug, thiserror::Error)]
#[error("field {field} is not acceptable")]
pub struct ConvertError {
    /// Path of the field in the message, such as `selectors[2].value`.
    pub field: String,
    /// The rule that it breaks.
    #[source]
    pub reason: Reason,
}

/// The rule that a field breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The field is not set and has no meaning when unset.
    #[error("it is missing")]
    Missing,
    /// A number that counts or dates something is below zero.
    #[error("it is negative")]
    Negative,
    /// A time is beyond what can be expressed.
    #[error("it is too far in the future")]
    TooLate,
    /// A byte string has another length than its kind has.
    #[error("it has {actual} bytes; at most {limit} are allowed")]
    TooLong {
        /// The length found.
        actual: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// A name that an earlier element has already.
    #[error("it is taken by an earlier element")]
    Duplicate,
    /// A SPIFFE ID or trust domain that breaks a rule of its own.
    #[error(transparent)]
    SpiffeId(#[from] SpiffeIdError),
    /// A selector that breaks a rule of its own.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// An entry ID that breaks a rule of its own.
    #[error(transparent)]
    EntryId(#[from] EntryIdError),
    /// A certificate that cannot be an anchor.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// A key that cannot verify tokens.
    #[error(transparent)]
    JwtAuthority(#[from] JwtAuthorityError),
    /// A bundle document that cannot be used at all.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl ConvertError {
    fn new(field: impl Into<String>, reason: impl Into<Reason>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The same fault, seen from the message that holds this one in `outer`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }

    /// Field, rule and what is behind it in one line, for the message of a gRPC
    /// status.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut line = format!("{}: {}", self.field, self.reason);
        let mut cause = std::error::Error::source(&self.reason);
        while let Some(deeper) = cause {
            line.push_str(": ");
            line.push_str(&deeper.to_string());
            cause = deeper.source();
        }
        line
    }
}

/// Converts a message field that has to be set.
fn required<'a, W, T>(field: &str, value: Option<&'a W>) -> Result<T, ConvertError>
where
    T: TryFrom<&'a W, Error = ConvertError>,
{
    let value = value.ok_or_else(|| ConvertError::new(field, Reason::Missing))?;
    T::try_from(value).map_err(|error| error.within(field))
}

/// Converts each element of a list, naming the position of a bad one.
fn each<'a, W: 'a, T, C>(
    field: &str,
    values: impl IntoIterator<Item = &'a W>,
    convert: impl Fn(&'a W) -> Result<T, ConvertError>,
) -> Result<C, ConvertError>
where
    C: FromIterator<T>,
{
    values
        .into_iter()
        .enumerate()
        .map(|(position, value)| {
            convert(value).map_err(|mut error| {
                let inner = std::mem::take(&mut error.field);
                let dot = if inner.is_empty() { "" } else { "." };
                error.field = format!("{field}[{position}]{dot}{inner}");
                error
            })
        })
        .collect()
}

/// The last second that [`Timestamp`] can express.
const LAST_SECOND: i64 = i64::MAX / 1_000;

/// A time in seconds that is always set.
fn seconds(field: &str, value: i64) -> Result<Timestamp, ConvertError> {
    match value {
        ..0 => Err(ConvertError::new(field, Reason::Negative)),
        0..=LAST_SECOND => Ok(Timestamp::from_unix_secs(value)),
        _ => Err(ConvertError::new(field, Reason::TooLate)),
    }
}

/// A time in seconds where 0 stands for "never".
fn optional_seconds(field: &str, value: i64) -> Result<Option<Timestamp>, ConvertError> {
    let time = seconds(field, value)?;
    Ok((value != 0).then_some(time))
}

/// A duration in seconds where 0 stands for "the default".
fn optional_ttl(seconds: u64) -> Option<Duration> {
    (seconds != 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn an_error_says_its_own_layer_and_keeps_the_cause() {
        let error = ConvertError::new("path", SpiffeIdError::TrailingSlash).within("spiffe_id");
        assert_eq!(error.to_string(), "field spiffe_id.path is not acceptable");
        let cause = error.source().unwrap();
        assert_eq!(cause.to_string(), "path ends with a slash");
        assert_eq!(error.explain(), "spiffe_id.path: path ends with a slash");
    }

    #[test]
    fn times_are_bounded_on_both_sides() {
        let early = seconds("t", -1).unwrap_err();
        assert!(matches!(early.reason, Reason::Negative), "{early:?}");
        let late = seconds("t", LAST_SECOND + 1).unwrap_err();
        assert!(matches!(late.reason, Reason::TooLate), "{late:?}");
        for good in [0, 1, LAST_SECOND] {
            assert_eq!(seconds("t", good).unwrap().unix_secs(), good);
        }
        assert_eq!(optional_seconds("t", 0).unwrap(), None);
        assert_eq!(
            optional_seconds("t", 1).unwrap(),
            Some(Timestamp::from_unix_secs(1))
        );
    }
}
