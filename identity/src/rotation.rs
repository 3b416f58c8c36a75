//! When to renew an SVID and when to rotate an authority.
//!
//! Responsible for: turning a validity into the instants at which something is due.
//! Always holds: everything here is a pure function of its arguments; jitter is a number that
//! the caller drew once and keeps, so a decision does not change by being asked for again.
//! Not here: waiting, and doing what is due.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::validity::{LEAVES_PER_AUTHORITY, Validity};

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
