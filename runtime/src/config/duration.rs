//! Durations as people write them: `90s`, `1h30m`, `250ms`.
//!
//! Responsible for that text and its meaning. Always holds: a unit is required, because a bare
//! number says nothing; what is displayed can be read again. Not here: sensible bounds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration with its text form: whole numbers with the units `d h m s ms`, largest first, each
/// at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationText(pub Duration);

/// Units and their milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationTextError {
    /// A number without a unit.
    #[error("a duration needs a unit (d, h, m, s or ms), like {0}s")]
    UnitMissing(String),
    /// Something else than numbers and units, or units in the wrong order.
    #[error("{0:?} is no duration: write it like 90s, 1h30m or 250ms")]
    Malformed(String),
    /// More than 2⁶⁴ milliseconds.
    #[error("the duration {0} is too long")]
    TooLong(String),
}

impl DurationText {
    /// Reads a duration.
    ///
    /// # Errors
    /// [`DurationTextError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, DurationTextError> {
        let malformed = || DurationTextError::Malformed(text.to_owned());
        let too_long = || DurationTextError::TooLong(text.to_owned());
        if text.is_empty() {
            return Err(malformed());
        }
        let mut total: u64 = 0;
        let mut units = UNITS.iter();
        let mut rest = text;
        while !rest.is_empty() {
            let (digits, after) = split_while(rest, |byte| byte.is_ascii_digit());
            let (unit, after) = split_while(after, |byte| byte.is_ascii_alphabetic());
            if digits.is_empty() {
                return Err(malformed());
            }
            if unit.is_empty() && after.is_empty() {
                return Err(DurationTextError::UnitMissing(digits.to_owned()));
            }
            // Units not taken yet are the smaller ones, so order and uniqueness follow.
            let (_, millis) = units
                .find(|(name, _)| *name == unit)
                .ok_or_else(malformed)?;
            let count: u64 = digits.parse().map_err(|_| too_long())?;
            let part = count.checked_mul(*millis).ok_or_else(too_long)?;
            total = total.checked_add(part).ok_or_else(too_long)?;
            rest = after;
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

fn split_while(text: &str, matches: impl Fn(&u8) -> bool) -> (&str, &str) {
    let count = text.bytes().take_while(matches).count();
    // Only ASCII bytes are counted, so this is a character boundary.
    text.split_at_checked(count).unwrap_or(("", text))
}

impl FromStr for DurationText {
    type Err = DurationTextError;
    fn from_str(text: &str) -> Result<Self, DurationTextError> {
        Self::parse(text)
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, millis) in UNITS {
            let count = rest.checked_div(millis).unwrap_or(0);
            rest = rest.checked_rem(millis).unwrap_or(0);
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
        }
        Ok(())
    }
}

impl From<Duration> for DurationText {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<DurationText> for Duration {
    fn from(text: DurationText) -> Self {
        text.0
    }
}

impl serde::Serialize for DurationText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DurationText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = DurationText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with a unit, like \"90s\" or \"1h30m\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DurationText, E> {
                DurationText::parse(text).map_err(E::custom)
            }
        }
        // A number is refused by the visitor: it has no unit.
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("0h1s", 1000),
        ] {
            let parsed = DurationText::parse(text).unwrap();
            assert_eq!(parsed.0, Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn the_display_is_the_shortest_form() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (90_000, "1m30s"),
            (5_400_000, "1h30m"),
            (93_784_005, "1d2h3m4s5ms"),
        ] {
            assert_eq!(
                DurationText(Duration::from_millis(millis)).to_string(),
                text
            );
        }
    }

    #[test]
    fn a_bare_number_says_which_form_to_use() {
        let error = DurationText::parse("30").unwrap_err();
        assert_eq!(error, DurationTextError::UnitMissing(String::from("30")));
        assert!(error.to_string().ends_with("like 30s"));
        let error = DurationText::parse("1h30").unwrap_err();
        assert_eq!(error, DurationTextError::UnitMissing(String::from("30")));
    }

    #[test]
    fn malformed_durations_are_refused() {
        for text in [
            "", " ", "s", "1 h", " 1h", "1h ", "-1s", "+1s", "1.5h", "1H", "30m1h", "1s1s",
            "1ms1s", "1w", "1h,30m", "é", "1é", "１s",
        ] {
            let result = DurationText::parse(text);
            assert!(
                matches!(result, Err(DurationTextError::Malformed(_))),
                "{text:?}"
            );
        }
        for text in ["99999999999999999999s", "300000000000d", "213503982334d20h"] {
            let result = DurationText::parse(text);
            assert!(
                matches!(result, Err(DurationTextError::TooLong(_))),
                "{text}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_displayed_can_be_read(millis in 0_u64..=u64::MAX) {
            let duration = DurationText(Duration::from_millis(millis));
            proptest::prop_assert_eq!(DurationText::parse(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn any_text_parses_or_fails_cleanly(text in ".{0,30}") {
            let _ = DurationText::parse(&text);
        }
    }
}
