//! When to renew an SVID and when to rotate an authority.
//!
//! Responsible for: turning a validity into the instants at which something is due.
//! Always holds: everything here is a pure function of its arguments; jitter is a number that
//! the caller drew once and keeps, so a decision does not change by being asked for again.
//! Not here: waiting, and doing what is due.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::validity::{LEAVES_PER_AUTHORITY, Validity};

/// An SVID is renewed at most so often in its life, whatever the clock says.
const RENEWALS_PER_LIFE: u32 = 20;
/// Renewal falls due at this part of an SVID's life, in thousandths …
const RENEWAL_EARLIEST: u64 = 400;
/// … up to this one: early enough that more than half of the life remains to ride out an outage
/// of every server, late enough that a fleet does not renew twice as often as it must.
const RENEWAL_SPREAD: u64 = 80;

/// When an X.509-SVID should be renewed: at 40 to 48 % of its life, counted from its issue (the
/// backdate is not part of its life). `draw` spreads the fleet; draw it once per SVID.
#[must_use]
pub fn renewal_due(validity: Validity, draw: u64) -> Timestamp {
    renewal_due_between(validity.issue_time(), validity.not_after, draw)
}

/// The same for whoever received the SVID at `received`, by a clock of its own: never sooner than a
/// twentieth of its life after that. To a clock that runs ahead every new SVID looks half spent; it
/// asks for the next one a bounded number of times, not in a loop.
#[must_use]
pub fn renewal_due_once_received(validity: Validity, received: Timestamp, draw: u64) -> Timestamp {
    let life = validity.not_after.since(validity.issue_time());
    renewal_due(validity, draw).max(received.saturating_add(life / RENEWALS_PER_LIFE))
}

/// When something without a backdate, such as a JWT-SVID, should be renewed.
#[must_use]
pub fn renewal_due_between(issued: Timestamp, expires: Timestamp, draw: u64) -> Timestamp {
    let life = expires.since(issued).as_millis();
    // draw / 2^64 is uniform over [0, 1).
    let spread = u128::from(RENEWAL_SPREAD).saturating_mul(u128::from(draw));
    let part = (u128::from(RENEWAL_EARLIEST) << 64).saturating_add(spread);
    // Milliseconds of an i64 take 63 bits, and part less than 73: scale down before multiplying.
    let millis = (life.saturating_mul(part >> 32) >> 32) / 1_000;
    issued.saturating_add(Duration::from_millis(
        u64::try_from(millis).unwrap_or(u64::MAX),
    ))
}

/// When the successor of an authority is to be prepared: at half of its life.
#[must_use]
pub fn prepare_at(active: Validity) -> Timestamp {
    remaining_part(active, 2)
}

/// From when on a prepared successor may become active, provided that it is known everywhere:
/// when one quarter of the old one's life remains.
#[must_use]
pub fn activation_allowed_at(active: Validity) -> Timestamp {
    remaining_part(active, 4)
}

/// When a prepared successor becomes active whoever has not heard of it: when one sixth of the
/// old one's life remains, which is as long as a leaf may live.
#[must_use]
pub fn activation_forced_at(active: Validity) -> Timestamp {
    remaining_part(active, LEAVES_PER_AUTHORITY)
}

/// The instant at which one `parts`th of the life, counted from the issue, remains.
fn remaining_part(validity: Validity, parts: u32) -> Timestamp {
    let life = validity.not_after.since(validity.issue_time());
    validity.not_after.saturating_sub(life / parts.max(1))
}

/// What the one who rotates an authority should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityDue {
    /// Nothing before this instant, unless acknowledgements come in.
    Nothing {
        /// When to ask again at the latest.
        until: Timestamp,
    },
    /// Prepare a successor and publish it.
    Prepare,
    /// Let the prepared successor sign from now on.
    Activate {
        /// Whether this happens although not everybody acknowledged it.
        forced: bool,
    },
    /// There is no authority that could sign: make one and let it sign at once.
    ColdStart,
}

/// The successor of an authority, as far as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Successor {
    /// When it may sign.
    pub validity: Validity,
    /// Whether everybody who must know it has said so.
    pub acknowledged: bool,
}

/// Decides what is due for the authority that is `active` and its `successor`.
#[must_use]
pub fn authority_due(
    active: Option<Validity>,
    successor: Option<Successor>,
    now: Timestamp,
) -> AuthorityDue {
    // A successor that ran out before it was ever used is as good as none.
    let successor = successor.filter(|successor| now < successor.validity.not_after);
    let Some(active) = active.filter(|active| now < active.not_after) else {
        return match successor {
            Some(successor) => AuthorityDue::Activate {
                forced: !successor.acknowledged,
            },
            None => AuthorityDue::ColdStart,
        };
    };
    match successor {
        None if now >= prepare_at(active) => AuthorityDue::Prepare,
        None => AuthorityDue::Nothing {
            until: prepare_at(active),
        },
        Some(Successor {
            acknowledged: true, ..
        }) if now >= activation_allowed_at(active) => AuthorityDue::Activate { forced: false },
        Some(Successor { acknowledged, .. }) if now >= activation_forced_at(active) => {
            AuthorityDue::Activate {
                forced: !acknowledged,
            }
        }
        Some(Successor {
            acknowledged: true, ..
        }) => AuthorityDue::Nothing {
            until: activation_allowed_at(active),
        },
        Some(_) => AuthorityDue::Nothing {
            until: activation_forced_at(active),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_secs(seconds)
    }

    /// An authority of 24 hours, issued at 0.
    fn authority() -> Validity {
        Validity::issued_at(Timestamp::UNIX_EPOCH, 24 * HOUR)
    }

    fn successor(acknowledged: bool) -> Option<Successor> {
        let validity = Validity::issued_at(prepare_at(authority()), 24 * HOUR);
        Some(Successor {
            validity,
            acknowledged,
        })
    }

    #[test]
    fn renewal_falls_due_at_40_to_48_percent_of_life() {
        let hour = Validity::issued_at(at(1_000_000), HOUR);
        assert_eq!(renewal_due(hour, 0), at(1_000_000 + 1_440));
        let latest = renewal_due(hour, u64::MAX);
        assert!(latest <= at(1_000_000 + 1_728) && latest > at(1_000_000 + 1_727));
        let middle = renewal_due(hour, 1 << 63);
        assert_eq!(middle, at(1_000_000 + 1_584));
    }

    #[test]
    fn the_backdate_is_not_part_of_a_short_life() {
        let short = Validity::issued_at(at(1_000), Duration::from_secs(30));
        assert_eq!(renewal_due(short, 0), at(1_012));
        assert!(renewal_due(short, u64::MAX) <= Timestamp::from_unix_millis(1_014_400));
    }

    #[test]
    fn an_authority_of_a_day_is_rotated_in_the_last_half_of_it() {
        assert_eq!(prepare_at(authority()), at(12 * 3_600));
        assert_eq!(activation_allowed_at(authority()), at(18 * 3_600));
        assert_eq!(activation_forced_at(authority()), at(20 * 3_600));
    }

    #[test]
    fn rotation_goes_from_prepare_over_acknowledgement_to_activation() {
        let due = |successor, seconds| authority_due(Some(authority()), successor, at(seconds));
        let hours = |n: i64| n * 3_600;
        assert_eq!(
            due(None, 0),
            AuthorityDue::Nothing {
                until: at(hours(12))
            }
        );
        assert_eq!(
            due(None, hours(12) - 1),
            AuthorityDue::Nothing {
                until: at(hours(12))
            }
        );
        assert_eq!(due(None, hours(12)), AuthorityDue::Prepare);
        let waits = AuthorityDue::Nothing {
            until: at(hours(20)),
        };
        assert_eq!(due(successor(false), hours(19)), waits);
        let known = AuthorityDue::Nothing {
            until: at(hours(18)),
        };
        assert_eq!(due(successor(true), hours(18) - 1), known);
        assert_eq!(
            due(successor(true), hours(18)),
            AuthorityDue::Activate { forced: false }
        );
        assert_eq!(
            due(successor(false), hours(20)),
            AuthorityDue::Activate { forced: true }
        );
        assert_eq!(
            due(successor(true), hours(22)),
            AuthorityDue::Activate { forced: false }
        );
    }

    #[test]
    fn when_every_authority_is_over_a_cold_start_is_due() {
        let dead = at(48 * 3_600);
        assert_eq!(authority_due(None, None, dead), AuthorityDue::ColdStart);
        assert_eq!(
            authority_due(Some(authority()), None, dead),
            AuthorityDue::ColdStart
        );
        assert_eq!(
            authority_due(Some(authority()), successor(true), dead),
            AuthorityDue::ColdStart
        );
    }

    #[test]
    fn a_successor_steps_in_when_the_active_one_is_over() {
        let over = at(25 * 3_600);
        let due = |acknowledged| authority_due(Some(authority()), successor(acknowledged), over);
        assert_eq!(due(true), AuthorityDue::Activate { forced: false });
        assert_eq!(due(false), AuthorityDue::Activate { forced: true });
        let first = authority_due(None, successor(true), at(13 * 3_600));
        assert_eq!(first, AuthorityDue::Activate { forced: false });
    }

    #[test]
    fn a_successor_that_ran_out_is_prepared_anew() {
        let stale = Successor {
            validity: Validity::issued_at(Timestamp::UNIX_EPOCH, HOUR),
            acknowledged: true,
        };
        let due = authority_due(Some(authority()), Some(stale), at(13 * 3_600));
        assert_eq!(due, AuthorityDue::Prepare);
    }

    #[test]
    fn a_clock_that_runs_ahead_does_not_renew_in_a_loop() {
        let hour = Validity::issued_at(at(1_000_000), Duration::from_secs(3_600));
        let right = at(1_000_001);
        assert_eq!(
            renewal_due_once_received(hour, right, 7),
            renewal_due(hour, 7)
        );
        let ahead = at(1_000_000 + 3_000);
        assert_eq!(
            renewal_due_once_received(hour, ahead, 7),
            at(1_000_000 + 3_180)
        );
    }

    proptest! {
        #[test]
        fn renewal_leaves_more_than_half_of_the_life(
            issued in -1_000_000_i64..10_000_000_000,
            ttl in 1_u64..4_000_000_000,
            draw in any::<u64>(),
        ) {
            let validity = Validity::issued_at(at(issued), Duration::from_secs(ttl));
            let due = renewal_due(validity, draw);
            let life = Duration::from_secs(ttl);
            prop_assert!(due.since(at(issued)) >= life * 39 / 100);
            prop_assert!(due.since(at(issued)) <= life * 48 / 100);
            prop_assert!(validity.remaining(due) * 2 > life);
        }

        #[test]
        fn renewal_arithmetic_has_no_edge(
            issued in any::<i64>(), expires in any::<i64>(), draw in any::<u64>(),
        ) {
            let (issued, expires) =
                (Timestamp::from_unix_millis(issued), Timestamp::from_unix_millis(expires));
            let due = renewal_due_between(issued, expires, draw);
            prop_assert!(due >= issued && due <= expires.max(issued));
        }

        #[test]
        fn a_leaf_of_a_sixth_always_fits_while_its_authority_signs(
            ca in 6_u64..1_000_000,
            issued in 0_i64..2_000_000_000,
            after in 0_u64..1_000_000,
        ) {
            let active = Validity::issued_at(at(issued), Duration::from_secs(ca));
            let now = at(issued).saturating_add(Duration::from_secs(after));
            prop_assume!(now <= activation_forced_at(active));
            let leaf = crate::validity::leaf_limit(Duration::from_secs(ca));
            prop_assert!(Validity::issued_at(now, leaf).not_after <= active.not_after);
        }

        #[test]
        fn the_instants_of_a_rotation_are_in_order(ca in 6_u64..1_000_000) {
            let active = Validity::issued_at(at(0), Duration::from_secs(ca));
            prop_assert!(at(0) < prepare_at(active));
            prop_assert!(prepare_at(active) < activation_allowed_at(active));
            prop_assert!(activation_allowed_at(active) < activation_forced_at(active));
            prop_assert!(activation_forced_at(active) < active.not_after);
        }
    }
}
