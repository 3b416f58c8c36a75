//! The audience of a token.
//!
//! Responsible for: [`Audience`], for whom a token is made or who a verifier is.
//! Always holds: there is at least one value and none is empty, so "any audience" has no
//! representation and a check against it cannot be skipped by accident.
//! Not here: comparing names in any way but byte by byte.

use crate::spiffe_id::SpiffeId;

/// The most values of one audience; bounds the size of a token.
pub const AUDIENCE_MAX: usize = 64;
/// The longest value in bytes; room for the longest SPIFFE ID.
pub const AUDIENCE_VALUE_MAX: usize = 2_048;

/// One or more recipients of a token, without repetition, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audience(Vec<String>);

/// The rule that an audience breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AudienceError {
    /// There is no value.
    #[error("audience is empty; name at least one recipient")]
    Empty,
    /// A value is the empty text.
    #[error("audience contains an empty value")]
    EmptyValue,
    /// There are more than 64 values.
    #[error("audience has {count} values; at most 64 are allowed")]
    TooMany {
        /// How many were given.
        count: usize,
    },
    /// A value has more than 2048 bytes.
    #[error("audience contains a value of {length} bytes; at most 2048 are allowed")]
    TooLong {
        /// The length found.
        length: usize,
    },
}

impl Audience {
    /// Takes the values as an audience; a value that occurs again is dropped.
    ///
    /// # Errors
    /// The rule that the values break.
    pub fn new<I>(values: I) -> Result<Self, AudienceError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let mut audience: Vec<String> = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let value = value.into();
            if index >= AUDIENCE_MAX {
                return Err(AudienceError::TooMany {
                    count: index.saturating_add(1),
                });
            }
            if value.is_empty() {
                return Err(AudienceError::EmptyValue);
            }
            if value.len() > AUDIENCE_VALUE_MAX {
                return Err(AudienceError::TooLong {
                    length: value.len(),
                });
            }
            if !audience.contains(&value) {
                audience.push(value);
            }
        }
        if audience.is_empty() {
            Err(AudienceError::Empty)
        } else {
            Ok(Self(audience))
        }
    }

    /// The values, at least one.
    #[must_use]
    pub fn values(&self) -> &[String] {
        &self.0
    }

    /// Whether `value` is one of the recipients.
    #[must_use]
    pub fn contains(&self, value: &str) -> bool {
        self.0.iter().any(|own| own == value)
    }

    /// Why a token for this audience is worth more to a thief than it need be; `None` when it is
    /// for one recipient (JWT-SVID section 3.2).
    #[must_use]
    pub fn scope_warning(&self) -> Option<String> {
        if self.0.len() > 1 {
            let count = self.0.len();
            return Some(format!(
                "audience has {count} recipients: each of them can present the token to the others"
            ));
        }
        let wide = |value: &&String| SpiffeId::parse(value).is_ok_and(|id| !id.has_path());
        let value = self.0.iter().find(wide)?;
        Some(format!(
            "audience {value} is a whole trust domain: any service in it can present the token \
             to any other"
        ))
    }
}
