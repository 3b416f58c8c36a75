//! Selectors.
//!
//! Responsible for: [`Selector`], one property that attestation found on a node or a workload,
//! such as `unix:uid:1000`.
//! Always holds: the kind is 1 to 64 bytes without a colon, the value 1 to 4096 bytes, so the
//! text form is unambiguous: the first colon ends the kind.
//! Not here: what the values mean; that belongs to the attestor of the kind.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest kind in bytes.
pub const SELECTOR_KIND_MAX: usize = 64;
/// The longest value in bytes: the longest path that Linux knows.
pub const SELECTOR_VALUE_MAX: usize = 4_096;

/// A set of selectors in canonical order.
pub type Selectors = BTreeSet<Selector>;

/// One attested property: a kind and a value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    kind: String,
    value: String,
}

/// The rule that a selector breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The text has no colon between kind and value.
    #[error("selector has no colon; write it as kind:value, such as unix:uid:1000")]
    NoColon,
    /// The kind is empty.
    #[error("selector kind is empty")]
    EmptyKind,
    /// The kind is longer than 64 bytes.
    #[error("selector kind has {length} bytes; at most 64 are allowed")]
    KindTooLong {
        /// The length found.
        length: usize,
    },
    /// The kind holds a colon, white space or a control character.
    #[error("selector kind contains {character:?}")]
    KindCharacter {
        /// The first such character.
        character: char,
    },
    /// The value is empty.
    #[error("selector value is empty")]
    EmptyValue,
    /// The value is longer than 4096 bytes.
    #[error("selector value has {length} bytes; at most 4096 are allowed")]
    ValueTooLong {
        /// The length found.
        length: usize,
    },
}

impl Selector {
    /// Makes a selector from its two parts.
    ///
    /// # Errors
    /// The rule that a part breaks.
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Result<Self, SelectorError> {
        let (kind, value) = (kind.into(), value.into());
        if kind.is_empty() {
            return Err(SelectorError::EmptyKind);
        }
        if kind.len() > SELECTOR_KIND_MAX {
            return Err(SelectorError::KindTooLong { length: kind.len() });
        }
        let forbidden = |c: &char| *c == ':' || c.is_whitespace() || c.is_control();
        if let Some(character) = kind.chars().find(forbidden) {
            return Err(SelectorError::KindCharacter { character });
        }
        if value.is_empty() {
            return Err(SelectorError::EmptyValue);
        }
        if value.len() > SELECTOR_VALUE_MAX {
            return Err(SelectorError::ValueTooLong {
                length: value.len(),
            });
        }
        Ok(Self { kind, value })
    }

    /// Parses `kind:value`; the value may hold further colons.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text.split_once(':').ok_or(SelectorError::NoColon)?;
        Self::new(kind, value)
    }

    /// Which attestor found it, such as `unix`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What the attestor found, such as `uid:1000`.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({:?})", self.to_string())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_colon_ends_the_kind() {
        let selector = Selector::parse("unix:uid:1000").unwrap();
        assert_eq!((selector.kind(), selector.value()), ("unix", "uid:1000"));
        assert_eq!(selector.to_string(), "unix:uid:1000");
    }

    #[test]
    fn malformed_selectors_are_refused_by_name() {
        use SelectorError as E;
        for (text, error) in [
            ("unix", E::NoColon),
            ("", E::NoColon),
            (":uid:1", E::EmptyKind),
            ("unix:", E::EmptyValue),
            ("un ix:uid:1", E::KindCharacter { character: ' ' }),
            ("un\nix:uid:1", E::KindCharacter { character: '\n' }),
        ] {
            assert_eq!(Selector::parse(text), Err(error), "{text:?}");
        }
        let colon = E::KindCharacter { character: ':' };
        assert_eq!(Selector::new("a:b", "c"), Err(colon));
    }

    #[test]
    fn lengths_are_limited_exactly() {
        assert!(Selector::new("k".repeat(64), "v".repeat(4_096)).is_ok());
        let long_kind = SelectorError::KindTooLong { length: 65 };
        assert_eq!(Selector::new("k".repeat(65), "v"), Err(long_kind));
        let long_value = SelectorError::ValueTooLong { length: 4_097 };
        assert_eq!(Selector::new("k", "v".repeat(4_097)), Err(long_value));
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(kind in "[a-z0-9_]{1,64}", value in "\\PC{1,80}") {
            let selector = Selector::new(kind, value).unwrap();
            prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in any::<String>()) {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(selector.to_string(), text);
            }
        }
    }
}
