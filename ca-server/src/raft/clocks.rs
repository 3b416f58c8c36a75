//! How far this server's clock is from the voters'.
//!
//! Responsible for: readings of the other members' clocks, the voters' median, and whether this server
//! may propose, campaign and sign by it. Always holds: a jump of the own clock is seen at the next look,
//! without a message, because readings are carried forward by monotonic time; no verdict without
//! readings of a majority; the bound errs to the lenient side by half of the round trip that a reading
//! took, and by no more. Not here: taking the readings ([`super::compare`]), and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mintmark_identity::clock::{Clock, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::type_config::NodeId;

/// How far from the voters' median a server may be that takes part in issuance.
pub const SKEW_MAX: Duration = Duration::from_secs(5);
/// How near it has to come again, and for how long, before it takes part once more: a clock that
/// hovers at the bound would otherwise come and go with every reading.
const SKEW_RECOVERED: Duration = Duration::from_secs(4);
const RECOVERY_TIME: Duration = Duration::from_secs(3);
/// For so long a reading counts. Quartz drifts by 100 ppm: 0.06 s in this time. It outlives its server,
/// so that the two that are left of three know which of them is wrong.
const READING_AGE_MAX: Duration = Duration::from_secs(600);
/// A worse reading does not replace a better one that is younger than this.
const READING_FRESH: Duration = Duration::from_secs(5);

/// What is known of this server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockState {
    /// Not compared with a majority of the voters yet.
    #[default]
    Unknown,
    /// Near enough to the voters' median.
    Good(ClockOffset),
    /// Too far from it: this server neither proposes, campaigns nor signs.
    Skewed(ClockOffset),
}

/// Distance of this server's clock from the voters' median, in milliseconds; positive when it is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockOffset(pub i64);

impl ClockOffset {
    /// In seconds.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        let seconds = self.distance().as_secs_f64();
        if self.0 < 0 { -seconds } else { seconds }
    }

    fn distance(self) -> Duration {
        Duration::from_millis(self.0.unsigned_abs())
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.0 < 0 { "behind" } else { "ahead of" };
        write!(
            f,
            "{:.3} s {side} the voters' median",
            self.distance().as_secs_f64()
        )
    }
}

impl ClockState {
    /// Whether this server may propose, campaign and sign.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Good(_))
    }

    /// How far off, if it is too far.
    #[must_use]
    pub fn skew(self) -> Option<ClockOffset> {
        match self {
            Self::Skewed(offset) => Some(offset),
            Self::Unknown | Self::Good(_) => None,
        }
    }

    fn same_kind(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// The clocks of all members, as seen from this one. A clone shares them.
#[derive(Clone)]
pub struct Clocks(Arc<Shared>);

struct Shared {
    wall: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    state: watch::Sender<ClockState>,
}

#[derive(Debug)]
struct Inner {
    own: NodeId,
    voters: BTreeSet<NodeId>,
    readings: BTreeMap<NodeId, Reading>,
    /// Whether every member was asked once. Before that, the first answer of two could be the wrong one.
    asked_all: bool,
    skewed: Option<ClockOffset>,
    /// Since when the clock is near enough again.
    near_since: Option<Instant>,
}

/// What a member's clock showed.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    wall_ms: i64,
    /// Half of the round trip.
    error: Duration,
}

/// The voters' median, and how far it may be wrong.
#[derive(Debug, Clone, Copy)]
struct Median {
    wall_ms: i64,
    error: Duration,
}

impl Clocks {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(own: NodeId, wall: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            wall,
            inner: Mutex::new(Inner {
                own,
                voters: BTreeSet::new(),
                readings: BTreeMap::new(),
                asked_all: false,
                skewed: None,
                near_since: None,
            }),
            state: watch::Sender::new(ClockState::Unknown),
        }))
    }

    /// Takes over who votes.
    pub fn set_voters(&self, voters: BTreeSet<NodeId>) {
        let mut inner = self.lock();
        if inner.voters != voters {
            inner.voters = voters;
            drop(inner);
            self.judge();
        }
    }

    /// Forgets who is no member any more.
    pub fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.lock().readings.retain(|node, _| is_member(*node));
    }

    /// A member's clock showed `wall_ms` somewhere between `sent` and now.
    pub fn heard(&self, node: NodeId, sent: Instant, wall_ms: i64) {
        let now = Instant::now();
        let error = now.saturating_duration_since(sent) / 2;
        let reading = Reading {
            at: sent.checked_add(error).unwrap_or(now),
            wall_ms,
            error,
        };
        let mut inner = self.lock();
        let keeps = inner.readings.get(&node).is_some_and(|known| {
            let fresh = now.saturating_duration_since(known.at) < READING_FRESH;
            fresh && known.error < error && known.contains(&reading)
        });
        if !keeps {
            inner.readings.insert(node, reading);
        }
        drop(inner);
        self.judge();
    }

    /// Every member was asked, and answered or did not.
    pub fn asked_all(&self) {
        self.lock().asked_all = true;
        self.judge();
    }

    /// Looks at the clock, and says whether it may be used.
    pub fn judge(&self) -> ClockState {
        self.read().1
    }

    /// The time, and whether it may be used: of one look, so that no jump comes between.
    pub fn read(&self) -> (Timestamp, ClockState) {
        let own = self.0.wall.now();
        let state = self.lock().judge(Instant::now(), own.unix_millis());
        self.0.state.send_if_modified(|now| {
            let changed = !now.same_kind(state);
            *now = state;
            changed
        });
        (own, state)
    }

    /// Whether a member's clock is near enough to the median for it to vote. False if not known.
    #[must_use]
    pub fn may_vote(&self, node: NodeId) -> bool {
        let own_ms = self.0.wall.now().unix_millis();
        let inner = self.lock();
        let now = Instant::now();
        let median = inner.median(now, own_ms);
        let (Some(median), Some(shows)) = (median, inner.shows(node, now, own_ms)) else {
            return false;
        };
        median.offset_of(shows.wall_ms).distance() <= bound(median.error.max(shows.error))
    }

    /// Changes when a verdict does.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<ClockState> {
        self.0.state.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let lock = self.0.inner.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bound, for readings that may be wrong by so much.
fn bound(error: Duration) -> Duration {
    SKEW_MAX.saturating_add(error)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Reading {
    /// What the clock shows now, if it goes on as it did.
    fn carried_to(&self, now: Instant) -> Median {
        let since = now.saturating_duration_since(self.at);
        Median {
            wall_ms: self.wall_ms.saturating_add(millis(since)),
            error: self.error,
        }
    }

    /// Whether a later, less exact reading says nothing new.
    fn contains(&self, later: &Self) -> bool {
        let expected = self.carried_to(later.at).wall_ms;
        let moved = Duration::from_millis(expected.abs_diff(later.wall_ms));
        moved <= later.error.saturating_add(self.error)
    }
}

impl Median {
    fn offset_of(&self, wall_ms: i64) -> ClockOffset {
        ClockOffset(wall_ms.saturating_sub(self.wall_ms))
    }
}

impl Inner {
    fn shows(&self, node: NodeId, now: Instant, own_ms: i64) -> Option<Median> {
        if node == self.own {
            return Some(Median {
                wall_ms: own_ms,
                error: Duration::ZERO,
            });
        }
        let reading = self.readings.get(&node)?;
        let young = now.saturating_duration_since(reading.at) <= READING_AGE_MAX;
        young.then(|| reading.carried_to(now))
    }

    /// The median of the voters whose clocks are known, if they are a majority. Of an even number, the
    /// middle of the two in the middle: two clocks that contradict each other are both suspect.
    fn median(&self, now: Instant, own_ms: i64) -> Option<Median> {
        let shown = self
            .voters
            .iter()
            .filter_map(|voter| self.shows(*voter, now, own_ms));
        let known: Vec<Median> = shown.collect();
        if self.voters.is_empty() || known.len() <= self.voters.len() / 2 {
            return None;
        }
        let mut shown: Vec<i64> = known.iter().map(|clock| clock.wall_ms).collect();
        shown.sort_unstable();
        let upper = *shown.get(shown.len() / 2)?;
        let lower = *shown.get(shown.len().saturating_sub(1) / 2)?;
        Some(Median {
            wall_ms: lower.midpoint(upper),
            error: known.iter().map(|clock| clock.error).max()?,
        })
    }

    fn judge(&mut self, now: Instant, own_ms: i64) -> ClockState {
        let Some(median) = self.median(now, own_ms) else {
            self.near_since = None;
            return self.skewed.map_or(ClockState::Unknown, ClockState::Skewed);
        };
        let offset = median.offset_of(own_ms);
        let far = offset.distance() > bound(median.error);
        if far && self.skewed.is_none() && !self.asked_all {
            return ClockState::Unknown;
        }
        if far {
            self.near_since = None;
            self.skewed = Some(offset);
        } else if self.skewed.is_some() {
            self.skewed = Some(offset);
            if offset.distance() > SKEW_RECOVERED {
                self.near_since = None;
            } else {
                let since = *self.near_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= RECOVERY_TIME {
                    self.skewed = None;
                }
            }
        }
        match self.skewed {
            Some(offset) => ClockState::Skewed(offset),
            None => ClockState::Good(offset),
        }
    }
}

#[cfg(test)]
mod tests;
