//! Validity periods and the lifetimes that make them.
//!
//! Responsible for: [`Validity`], from when to when something counts; [`TtlPolicy`], lifetimes
//! that fit into each other.
//! Always holds: a resolved policy cannot produce an SVID that outlives its authority, whichever
//! authority signs it at whatever moment of its active life.
//! Not here: when to renew and rotate (`rotation`).

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;

/// How far before its issue a certificate begins to be valid, so that a relying party whose
/// clock is a little behind accepts it at once.
pub const SVID_BACKDATE: Duration = Duration::from_secs(10);

/// A leaf may take at most this part of the life of its authority: the old authority signs until
/// one sixth of its life remains (see `rotation`), and what it signs then must still fit.
pub const LEAVES_PER_AUTHORITY: u32 = 6;

/// Lifetime of an authority where nothing else is asked for.
pub const DEFAULT_CA_TTL: Duration = Duration::from_secs(24 * 3_600);
/// Lifetime of an X.509-SVID where nothing else is asked for.
pub const DEFAULT_X509_SVID_TTL: Duration = Duration::from_secs(3_600);
/// Lifetime of a JWT-SVID where nothing else is asked for.
pub const DEFAULT_JWT_SVID_TTL: Duration = Duration::from_secs(5 * 60);

/// The shortest lifetime of an SVID: dates in certificates and tokens count whole seconds.
pub const SVID_TTL_MIN: Duration = Duration::from_secs(1);
/// The longest lifetime of an authority: a hundred years, well inside what X.509 can write.
pub const CA_TTL_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// From when to when something is valid, both ends included (RFC 5280 section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Validity {
    /// The first instant.
    pub not_before: Timestamp,
    /// The last instant.
    pub not_after: Timestamp,
}

impl Validity {
    /// The validity of a certificate that is issued `now` and lives for `ttl`: in whole seconds
    /// and backdated.
    #[must_use]
    pub fn issued_at(now: Timestamp, ttl: Duration) -> Self {
        let issued = now.floor_to_second();
        Self {
            not_before: issued.saturating_sub(SVID_BACKDATE),
            not_after: issued.saturating_add(ttl).floor_to_second(),
        }
    }

    /// The same period, ending no later than `limit`.
    #[must_use]
    pub fn ending_by(self, limit: Timestamp) -> Self {
        Self {
            not_after: self.not_after.min(limit),
            ..self
        }
    }

    /// What both have in common; contains no instant if that is nothing.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }

    /// Whether `now` lies inside.
    #[must_use]
    pub fn contains(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// How long it still lasts; zero when it is over.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.not_after.since(now)
    }

    /// The whole period, the backdate included.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.not_after.since(self.not_before)
    }

    /// When it was issued: its beginning without the backdate.
    #[must_use]
    pub fn issue_time(&self) -> Timestamp {
        self.not_before
            .saturating_add(SVID_BACKDATE)
            .min(self.not_after)
    }
}

/// A duration in the words that configuration uses, such as `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let parts = [
            (seconds / 3_600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(millis), "ms"),
        ];
        if parts.iter().all(|(count, _)| *count == 0) {
            return f.write_str("0s");
        }
        parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
    }
}

/// The lifetimes that an operator asked for; `None` where any will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TtlRequest {
    /// Of the authorities.
    pub ca: Option<Duration>,
    /// Of X.509-SVIDs.
    pub x509_svid: Option<Duration>,
    /// Of JWT-SVIDs.
    pub jwt_svid: Option<Duration>,
    /// Of agents' SVIDs.
    pub agent_svid: Option<Duration>,
    /// What remains of the upstream authority that signs ours, where there is one.
    pub upstream: Option<Duration>,
}

/// Lifetimes that fit into each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlPolicy {
    /// Of the authorities.
    pub ca: Duration,
    /// Of X.509-SVIDs whose entry does not say otherwise.
    pub x509_svid: Duration,
    /// Of JWT-SVIDs whose entry does not say otherwise.
    pub jwt_svid: Duration,
    /// Of agents' SVIDs.
    pub agent_svid: Duration,
}

/// Lifetimes that do not fit; the text shows the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TtlError {
    /// A lifetime has a fraction of a second.
    #[error("{which} is {}, but lifetimes are whole seconds", DurationText(*.ttl))]
    Fraction {
        /// Which lifetime.
        which: &'static str,
        /// What was asked for.
        ttl: Duration,
    },
    /// A lifetime is shorter than it can be.
    #[error("{which} is {}, but at least {} is needed", DurationText(*.ttl), DurationText(*.least))]
    TooShort {
        /// Which lifetime.
        which: &'static str,
        /// What was asked for.
        ttl: Duration,
        /// The least possible.
        least: Duration,
    },
    /// The authority's lifetime is beyond a hundred years.
    #[error("ca_ttl is {}, but at most {} is possible", DurationText(*.ttl), DurationText(CA_TTL_MAX))]
    TooLong {
        /// What was asked for.
        ttl: Duration,
    },
    /// An SVID could outlive the authority that signs it.
    #[error(
        "{which} {} × 6 = {} is more than ca_ttl {}{}: an authority signs until a sixth of its \
         life remains, so its last SVIDs would be cut short; lower {which} to at most {} or raise \
         ca_ttl to at least {}",
        DurationText(*.ttl), DurationText(.ttl.saturating_mul(LEAVES_PER_AUTHORITY)),
        DurationText(*.ca), if *.ca_is_default { " (the default)" } else { "" },
        DurationText(leaf_limit(*.ca)), DurationText(.ttl.saturating_mul(LEAVES_PER_AUTHORITY))
    )]
    LeafOutlivesAuthority {
        /// Which lifetime.
        which: &'static str,
        /// What was asked for.
        ttl: Duration,
        /// The lifetime of the authority.
        ca: Duration,
        /// Whether nobody asked for that.
        ca_is_default: bool,
    },
    /// The authority could outlive the upstream authority that signs it.
    #[error(
        "ca_ttl {} is more than the {} that remain of the upstream authority; lower ca_ttl or \
         renew the upstream authority first",
        DurationText(*.ca), DurationText(*.upstream)
    )]
    AuthorityOutlivesUpstream {
        /// What was asked for.
        ca: Duration,
        /// What remains.
        upstream: Duration,
    },
}

/// The longest SVID that an authority of this lifetime never cuts short, in whole seconds.
#[must_use]
pub fn leaf_limit(ca: Duration) -> Duration {
    Duration::from_secs(ca.as_secs() / u64::from(LEAVES_PER_AUTHORITY))
}

impl TtlPolicy {
    /// Completes a request: what is not set takes its default or shrinks to fit what is set.
    ///
    /// # Errors
    /// When what is set does not fit together; nothing that was asked for is ever changed.
    pub fn resolve(request: TtlRequest) -> Result<Self, TtlError> {
        let ca = resolve_ca(&request)?;
        let ca_is_default = request.ca.is_none();
        let leaf = |which, asked: Option<Duration>, default: Duration| match asked {
            None => Ok(default.min(leaf_limit(ca))),
            Some(ttl) => check_leaf(which, ttl, ca, ca_is_default),
        };
        let x509_svid = leaf("x509_svid_ttl", request.x509_svid, DEFAULT_X509_SVID_TTL)?;
        let jwt_svid = leaf("jwt_svid_ttl", request.jwt_svid, DEFAULT_JWT_SVID_TTL)?;
        // As in SPIRE, an agent's SVID lives as long as those of its workloads.
        let agent_svid = leaf("agent_svid_ttl", request.agent_svid, x509_svid)?;
        Ok(Self {
            ca,
            x509_svid,
            jwt_svid,
            agent_svid,
        })
    }

    /// The lifetime for one X.509-SVID: the entry's wish, at most what never gets cut short.
    #[must_use]
    pub fn x509_svid_for(&self, wish: Option<Duration>) -> Duration {
        wish.unwrap_or(self.x509_svid).min(leaf_limit(self.ca))
    }

    /// The lifetime for one JWT-SVID: the entry's wish, at most what never gets cut short.
    #[must_use]
    pub fn jwt_svid_for(&self, wish: Option<Duration>) -> Duration {
        wish.unwrap_or(self.jwt_svid).min(leaf_limit(self.ca))
    }

    /// Whether an entry may ask for this lifetime without being cut short.
    ///
    /// # Errors
    /// The sum that shows why not.
    pub fn check_entry_ttl(&self, which: &'static str, ttl: Duration) -> Result<(), TtlError> {
        check_leaf(which, ttl, self.ca, false).map(drop)
    }
}

impl Default for TtlPolicy {
    fn default() -> Self {
        Self {
            ca: DEFAULT_CA_TTL,
            x509_svid: DEFAULT_X509_SVID_TTL,
            jwt_svid: DEFAULT_JWT_SVID_TTL,
            agent_svid: DEFAULT_X509_SVID_TTL,
        }
    }
}

fn resolve_ca(request: &TtlRequest) -> Result<Duration, TtlError> {
    let limit = request.upstream.unwrap_or(CA_TTL_MAX);
    let ca = match request.ca {
        Some(ca) if ca > CA_TTL_MAX => return Err(TtlError::TooLong { ttl: ca }),
        Some(ca) if ca > limit => {
            return Err(TtlError::AuthorityOutlivesUpstream {
                ca,
                upstream: limit,
            });
        }
        Some(ca) => ca,
        None => Duration::from_secs(DEFAULT_CA_TTL.min(limit).as_secs()),
    };
    let least = SVID_TTL_MIN.saturating_mul(LEAVES_PER_AUTHORITY);
    check_whole("ca_ttl", ca, least)
}

fn check_leaf(
    which: &'static str,
    ttl: Duration,
    ca: Duration,
    ca_is_default: bool,
) -> Result<Duration, TtlError> {
    check_whole(which, ttl, SVID_TTL_MIN)?;
    if ttl > leaf_limit(ca) {
        return Err(TtlError::LeafOutlivesAuthority {
            which,
            ttl,
            ca,
            ca_is_default,
        });
    }
    Ok(ttl)
}

fn check_whole(which: &'static str, ttl: Duration, least: Duration) -> Result<Duration, TtlError> {
    if ttl < least {
        return Err(TtlError::TooShort { which, ttl, least });
    }
    if ttl.subsec_nanos() != 0 {
        return Err(TtlError::Fraction { which, ttl });
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_certificate_is_backdated_and_counts_whole_seconds() {
        let now = Timestamp::from_unix_millis(1_000_700);
        let validity = Validity::issued_at(now, MINUTE);
        assert_eq!(validity.not_before, Timestamp::from_unix_secs(990));
        assert_eq!(validity.not_after, Timestamp::from_unix_secs(1_060));
        assert_eq!(validity.issue_time(), Timestamp::from_unix_secs(1_000));
        assert_eq!(validity.lifetime(), MINUTE + SVID_BACKDATE);
        assert_eq!(
            validity.remaining(Timestamp::from_unix_secs(1_050)),
            10 * SECOND
        );
        assert_eq!(
            validity.remaining(Timestamp::from_unix_secs(2_000)),
            Duration::ZERO
        );
        let cut = validity.ending_by(Timestamp::from_unix_secs(1_030));
        assert_eq!(cut.not_after, Timestamp::from_unix_secs(1_030));
        assert_eq!(
            validity.ending_by(Timestamp::from_unix_secs(9_999)),
            validity
        );
    }

    #[test]
    fn both_ends_of_a_validity_are_inside() {
        let validity = Validity::issued_at(Timestamp::from_unix_secs(100), MINUTE);
        let at = Timestamp::from_unix_millis;
        for (millis, inside) in [
            (89_999, false),
            (90_000, true),
            (160_000, true),
            (160_001, false),
        ] {
            assert_eq!(validity.contains(at(millis)), inside, "{millis}");
        }
    }

    #[test]
    fn durations_are_written_as_configuration_writes_them() {
        for (duration, text) in [
            (Duration::ZERO, "0s"),
            (90 * MINUTE, "1h30m"),
            (36 * HOUR, "36h"),
            (30 * SECOND, "30s"),
            (Duration::from_millis(1_500), "1s500ms"),
        ] {
            assert_eq!(DurationText(duration).to_string(), text);
        }
    }

    #[test]
    fn an_empty_request_gives_the_defaults() {
        assert_eq!(
            TtlPolicy::resolve(TtlRequest::default()),
            Ok(TtlPolicy::default())
        );
    }

    #[test]
    fn what_is_not_set_shrinks_to_fit() {
        let short_ca = TtlRequest {
            ca: Some(3 * MINUTE),
            ..TtlRequest::default()
        };
        let policy = TtlPolicy::resolve(short_ca).unwrap();
        assert_eq!(policy.x509_svid, 30 * SECOND);
        assert_eq!(policy.jwt_svid, 30 * SECOND);
        assert_eq!(policy.agent_svid, 30 * SECOND);
        let upstream = TtlRequest {
            upstream: Some(2 * HOUR),
            ..TtlRequest::default()
        };
        let policy = TtlPolicy::resolve(upstream).unwrap();
        assert_eq!((policy.ca, policy.x509_svid), (2 * HOUR, 20 * MINUTE));
    }

    #[test]
    fn an_agent_follows_the_workloads_unless_told_otherwise() {
        let request = TtlRequest {
            x509_svid: Some(30 * SECOND),
            ..TtlRequest::default()
        };
        assert_eq!(TtlPolicy::resolve(request).unwrap().agent_svid, 30 * SECOND);
        let request = TtlRequest {
            agent_svid: Some(HOUR),
            ..request
        };
        assert_eq!(TtlPolicy::resolve(request).unwrap().agent_svid, HOUR);
    }

    #[test]
    fn lifetimes_of_seconds_can_be_expressed() {
        let request = TtlRequest {
            ca: Some(6 * SECOND),
            x509_svid: Some(SECOND),
            ..TtlRequest::default()
        };
        let policy = TtlPolicy::resolve(request).unwrap();
        assert_eq!(
            (policy.ca, policy.x509_svid, policy.jwt_svid),
            (6 * SECOND, SECOND, SECOND)
        );
    }

    #[test]
    fn a_leaf_that_could_be_cut_short_is_refused_with_the_sum() {
        let request = TtlRequest {
            x509_svid: Some(6 * HOUR),
            ..TtlRequest::default()
        };
        let error = TtlPolicy::resolve(request).unwrap_err().to_string();
        assert_eq!(
            error,
            "x509_svid_ttl 6h × 6 = 36h is more than ca_ttl 24h (the default): an authority signs \
             until a sixth of its life remains, so its last SVIDs would be cut short; lower \
             x509_svid_ttl to at most 4h or raise ca_ttl to at least 36h"
        );
        let fits = TtlRequest {
            ca: Some(36 * HOUR),
            ..request
        };
        assert_eq!(TtlPolicy::resolve(fits).unwrap().x509_svid, 6 * HOUR);
        let short = TtlRequest {
            ca: Some(36 * HOUR - SECOND),
            ..request
        };
        assert!(TtlPolicy::resolve(short).is_err());
        for set in [
            TtlRequest {
                jwt_svid: Some(5 * HOUR),
                ..TtlRequest::default()
            },
            TtlRequest {
                agent_svid: Some(5 * HOUR),
                ..TtlRequest::default()
            },
        ] {
            let refused = TtlPolicy::resolve(set);
            assert!(
                matches!(refused, Err(TtlError::LeafOutlivesAuthority { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn impossible_lifetimes_are_refused_by_name() {
        let resolve = |ca| {
            TtlPolicy::resolve(TtlRequest {
                ca: Some(ca),
                ..TtlRequest::default()
            })
        };
        let least = 6 * SECOND;
        let short = 5 * SECOND;
        assert_eq!(
            resolve(short),
            Err(TtlError::TooShort {
                which: "ca_ttl",
                ttl: short,
                least
            })
        );
        let long = CA_TTL_MAX + SECOND;
        assert_eq!(resolve(long), Err(TtlError::TooLong { ttl: long }));
        let uneven = Duration::from_millis(60_500);
        assert_eq!(
            resolve(uneven),
            Err(TtlError::Fraction {
                which: "ca_ttl",
                ttl: uneven
            })
        );
        let zero = TtlPolicy::resolve(TtlRequest {
            x509_svid: Some(Duration::ZERO),
            ..Default::default()
        });
        assert!(matches!(
            zero,
            Err(TtlError::TooShort {
                which: "x509_svid_ttl",
                ..
            })
        ));
        let beyond = TtlPolicy::resolve(TtlRequest {
            ca: Some(2 * HOUR),
            upstream: Some(HOUR),
            ..TtlRequest::default()
        });
        let error = TtlError::AuthorityOutlivesUpstream {
            ca: 2 * HOUR,
            upstream: HOUR,
        };
        assert_eq!(beyond, Err(error));
    }

    #[test]
    fn an_entry_gets_its_wish_only_as_far_as_it_is_never_cut_short() {
        let policy = TtlPolicy::default();
        assert_eq!(policy.x509_svid_for(None), HOUR);
        assert_eq!(policy.x509_svid_for(Some(2 * HOUR)), 2 * HOUR);
        assert_eq!(policy.x509_svid_for(Some(9 * HOUR)), 4 * HOUR);
        assert_eq!(policy.jwt_svid_for(None), 5 * MINUTE);
        assert_eq!(policy.jwt_svid_for(Some(9 * HOUR)), 4 * HOUR);
        assert_eq!(policy.check_entry_ttl("x509_svid_ttl", 4 * HOUR), Ok(()));
        assert!(policy.check_entry_ttl("x509_svid_ttl", 5 * HOUR).is_err());
    }

    proptest! {
        #[test]
        fn a_resolved_policy_always_fits(
            ca in proptest::option::of(1_u64..200_000),
            x509 in proptest::option::of(0_u64..40_000),
            jwt in proptest::option::of(0_u64..40_000),
            agent in proptest::option::of(0_u64..40_000),
            upstream in proptest::option::of(0_u64..200_000),
        ) {
            let seconds = |n: Option<u64>| n.map(Duration::from_secs);
            let request = TtlRequest {
                ca: seconds(ca),
                x509_svid: seconds(x509),
                jwt_svid: seconds(jwt),
                agent_svid: seconds(agent),
                upstream: seconds(upstream),
            };
            if let Ok(policy) = TtlPolicy::resolve(request) {
                for leaf in [policy.x509_svid, policy.jwt_svid, policy.agent_svid] {
                    prop_assert!(leaf >= SVID_TTL_MIN && leaf * 6 <= policy.ca);
                }
                prop_assert!(request.upstream.is_none_or(|limit| policy.ca <= limit));
                prop_assert!(request.ca.is_none_or(|asked| asked == policy.ca));
                prop_assert!(request.x509_svid.is_none_or(|asked| asked == policy.x509_svid));
            }
        }
    }
}
