//! Wall time, and the only place where it enters.
//!
//! Responsible for: [`Timestamp`], the instant every other module calculates with, and the
//! [`Clock`] seam that produces it.
//! Always holds: arithmetic saturates, so no date from outside can overflow; code below the
//! composition root takes a `Timestamp`, not a `Clock`.
//! Not here: monotonic time and timers (`tokio::time`, owned by the runtime crate).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MILLIS_PER_SECOND: i64 = 1_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// An instant of wall time in whole milliseconds since the Unix epoch.
///
/// `Display` writes RFC 3339 in UTC, with milliseconds only where there are any.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);

    /// The instant `seconds` after the epoch, clamped to what milliseconds can express.
    #[must_use]
    pub const fn from_unix_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(MILLIS_PER_SECOND))
    }

    /// The instant `millis` after the epoch.
    #[must_use]
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Whole seconds since the epoch, rounded towards the past.
    #[must_use]
    pub const fn unix_secs(self) -> i64 {
        self.0.div_euclid(MILLIS_PER_SECOND)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// This instant moved into the future, stopping at the end of time.
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// This instant moved into the past, stopping at the beginning of time.
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let millis = i128::from(self.0) - i128::from(earlier.0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// This instant without its milliseconds: the precision of X.509 and JWT dates.
    #[must_use]
    pub const fn floor_to_second(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(MILLIS_PER_SECOND)))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.unix_secs();
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        if (0..=9_999).contains(&year) {
            write!(f, "{year:04}")?;
        } else {
            // ISO 8601 expanded years; RFC 3339 has no word for them.
            write!(f, "{year:+07}")?;
        }
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match self.0.rem_euclid(MILLIS_PER_SECOND) {
            0 => f.write_str("Z"),
            fraction => write!(f, ".{fraction:03}Z"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a date and time as RFC 3339 writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 date and time, such as 2026-11-24T11:00:00Z")]
pub struct TimestampError;

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_rfc3339(text).ok_or(TimestampError)
    }
}

fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once(['T', 't'])?;
    let (date, day) = date.rsplit_once('-')?;
    let (year, month) = date.rsplit_once('-')?;
    let (year, month, day) = (parse_year(year)?, fixed(month, 2)?, fixed(day, 2)?);
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let (clock, offset) = split_offset(time)?;
    let (clock, fraction) = clock
        .split_once('.')
        .map_or((clock, None), |(c, f)| (c, Some(f)));
    let mut parts = clock.split(':');
    let hour = fixed(parts.next()?, 2)?;
    let minute = fixed(parts.next()?, 2)?;
    let second = fixed(parts.next()?, 2)?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let of_day = hour * 3_600 + minute * 60 + second;
    let seconds = days_from_civil(year, month, day)?
        .checked_mul(SECONDS_PER_DAY)?
        .checked_add(of_day)?
        .checked_sub(offset)?;
    let fraction = fraction.map_or(Some(0), parse_fraction)?;
    // In 128 bits: the first second of all does not begin within an i64.
    let millis = i128::from(seconds) * i128::from(MILLIS_PER_SECOND) + i128::from(fraction);
    i64::try_from(millis).ok().map(Timestamp)
}

/// Splits `11:00:00+01:00` into its clock and the offset in seconds.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = time.rfind(['+', '-'])?;
    let (clock, offset) = time.split_at_checked(at)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes) = (fixed(hours, 2)?, fixed(minutes, 2)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3_600 + minutes * 60;
    Some((clock, if sign == "-" { -seconds } else { seconds }))
}

fn parse_year(text: &str) -> Option<i64> {
    match text.split_at_checked(1)? {
        ("+", digits) if digits.len() >= 6 => digits_only(digits),
        ("-", digits) if digits.len() >= 6 => digits_only(digits).map(|year| -year),
        _ => fixed(text, 4),
    }
}

fn fixed(text: &str, width: usize) -> Option<i64> {
    if text.len() == width {
        digits_only(text)
    } else {
        None
    }
}

fn digits_only(text: &str) -> Option<i64> {
    // Nine digits cover every year that milliseconds in an i64 can reach.
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_fraction(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis = text.bytes().chain(std::iter::repeat(b'0')).take(3);
    Some(millis.fold(0, |sum, digit| {
        sum * 10 + i64::from(digit.saturating_sub(b'0'))
    }))
}

fn is_leap(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The proleptic Gregorian date of a day counted from 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year, and in eras of
/// 400 years, after which the calendar repeats.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era.checked_mul(146_097)?.checked_add(day_of_era - 719_468)
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A source of wall time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present instant. Not monotonic: the machine's clock may be set back.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where wall time enters"
    )]
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp::UNIX_EPOCH.saturating_add(after),
            Err(before) => Timestamp::UNIX_EPOCH.saturating_sub(before.duration()),
        }
    }
}

/// A clock that moves only when it is told to; for tests and the simulator.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Puts the clock to `now`, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().saturating_add(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn known_dates_have_known_seconds() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-24T11:00:00Z", 1_795_518_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
        ] {
            assert_eq!(at(text), Timestamp::from_unix_secs(seconds), "{text}");
            assert_eq!(Timestamp::from_unix_secs(seconds).to_string(), text);
        }
    }

    #[test]
    fn milliseconds_are_written_only_where_there_are_any() {
        assert_eq!(
            Timestamp::from_unix_millis(1).to_string(),
            "1970-01-01T00:00:00.001Z"
        );
        assert_eq!(
            Timestamp::from_unix_millis(-1).to_string(),
            "1969-12-31T23:59:59.999Z"
        );
        assert_eq!(Timestamp::from_unix_millis(-1).unix_secs(), -1);
        assert_eq!(
            Timestamp::from_unix_millis(-1)
                .floor_to_second()
                .unix_millis(),
            -1_000
        );
    }

    #[test]
    fn offsets_and_fractions_are_understood() {
        assert_eq!(at("2026-11-24T12:00:00+01:00"), at("2026-11-24T11:00:00Z"));
        assert_eq!(at("2026-11-24T09:30:00-01:30"), at("2026-11-24T11:00:00Z"));
        assert_eq!(at("1970-01-01T00:00:00.5Z").unix_millis(), 500);
        assert_eq!(at("1970-01-01T00:00:00.123456789Z").unix_millis(), 123);
    }

    #[test]
    fn what_is_not_a_date_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-24",
            "2026-11-24T11:00:00",
            "2026-11-24 11:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T11:60:00Z",
            "2026-11-24T11:00:60Z",
            "2026-11-24T11:00:00.Z",
            "2026-11-24T11:00:00.1x3Z",
            "2026-11-24T11:00:00+1:00",
            "2026-11-24T11:00:00+24:00",
            "2026-1-24T11:00:00Z",
            "+2026-11-24T11:00:00Z",
            "+999999999-11-24T11:00:00Z",
            "2026-11-24T11:00:00é",
            "é026-11-24T11:00:00Z",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(TimestampError), "{text:?}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        let end = Timestamp::from_unix_millis(i64::MAX);
        let start = Timestamp::from_unix_millis(i64::MIN);
        assert_eq!(end.saturating_add(Duration::MAX), end);
        assert_eq!(start.saturating_sub(Duration::MAX), start);
        assert_eq!(start.since(end), Duration::ZERO);
        assert_eq!(end.since(start), Duration::from_millis(u64::MAX));
        assert_eq!(start.floor_to_second().unix_millis(), i64::MIN);
        assert_eq!(Timestamp::from_unix_secs(i64::MAX), end);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(Timestamp::from_unix_secs(10));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(clock.now().unix_millis(), 11_500);
        clock.set(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn the_system_clock_is_past_the_day_this_was_written() {
        assert!(SystemClock.now() > at("2026-01-01T00:00:00Z"));
    }

    proptest! {
        #[test]
        fn every_instant_survives_display_and_parse(
            millis in prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), 0..10_i64.pow(14)],
        ) {
            let instant = Timestamp::from_unix_millis(millis);
            prop_assert_eq!(instant.to_string().parse::<Timestamp>(), Ok(instant));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,40}|[-+0-9TZ:.]{0,40}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
