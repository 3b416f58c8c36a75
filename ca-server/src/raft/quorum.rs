//! How long ago a quorum last stood behind the leader.
//!
//! Responsible for: an upper bound of that age, on leaders and on everybody else. Always
//! holds: the bound errs to the old side. A leader counts from when it *sent* what a
//! voter then answered. A follower adds the age that the leader told to the time since
//! its own last answer that the leader had seen when it spoke, so a message that was
//! long under way makes it older, not younger. Not here: what age is too old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::type_config::{NodeId, Vote};

/// The age. A clone shares it.
#[derive(Debug, Clone)]
pub struct QuorumClock(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    own: NodeId,
    /// The leadership that the answers below belong to.
    vote: Vote,
    leading: bool,
    configs: Vec<BTreeSet<NodeId>>,
    /// When we sent what was last answered.
    answered: BTreeMap<NodeId, Instant>,
    /// What a leader told: its age, as of the instant.
    told: Option<(Instant, Duration)>,
}

impl QuorumClock {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(own: NodeId) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            start: Instant::now(),
            own,
            vote: Vote::default(),
            leading: false,
            configs: Vec::new(),
            answered: BTreeMap::new(),
            told: None,
        })))
    }

    /// Takes over who leads and who votes.
    pub fn set(&self, vote: Vote, leading: bool, configs: &[BTreeSet<NodeId>]) {
        let mut inner = self.lock();
        if inner.vote.leader_id != vote.leader_id {
            inner.vote = vote;
            inner.answered.clear();
            inner.told = None;
        }
        if inner.leading != leading {
            inner.leading = leading;
            inner.told = None;
        }
        if inner.configs != configs {
            inner.configs = configs.to_vec();
        }
    }

    /// A voter answered, as to its leader, what was sent at `sent` under `vote`.
    pub fn answered(&self, node: NodeId, vote: &Vote, sent: Instant) {
        let mut inner = self.lock();
        if inner.vote.leader_id == vote.leader_id {
            let last = inner.answered.entry(node).or_insert(sent);
            *last = (*last).max(sent);
        }
    }

    /// The leader told its age; it had then seen our answer of `echo_ms`. Zero: none.
    pub fn told(&self, age: Duration, echo_ms: u64) {
        let mut inner = self.lock();
        let Some(as_of) = inner.start.checked_add(Duration::from_millis(echo_ms)) else {
            return;
        };
        if echo_ms == 0 || as_of > Instant::now() {
            return;
        }
        inner.told = Some((as_of, age));
    }

    /// Our clock, for an answer. Never zero.
    #[must_use]
    pub fn clock_ms(&self) -> u64 {
        let elapsed = self.lock().start.elapsed().as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX).max(1)
    }

    /// An upper bound of the time since a quorum stood behind the leader; `None` if
    /// that is not known to have happened.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let inner = self.lock();
        let now = Instant::now();
        if !inner.leading {
            let (as_of, age) = inner.told?;
            return Some(now.saturating_duration_since(as_of).saturating_add(age));
        }
        let mut oldest = None;
        for voters in &inner.configs {
            let acked = inner.quorum_of(voters, now)?;
            oldest = Some(oldest.map_or(acked, |oldest: Instant| oldest.min(acked)));
        }
        oldest.map(|oldest| now.saturating_duration_since(oldest))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The latest instant at which a majority of these voters stood behind us.
    fn quorum_of(&self, voters: &BTreeSet<NodeId>, now: Instant) -> Option<Instant> {
        let mut times: Vec<Instant> = voters
            .iter()
            .filter_map(|node| {
                if *node == self.own {
                    Some(now)
                } else {
                    self.answered.get(node).copied()
                }
            })
            .collect();
        times.sort_unstable_by(|left, right| right.cmp(left));
        times.get(voters.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn voters(ids: &[NodeId]) -> BTreeSet<NodeId> {
        ids.iter().copied().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_as_fresh_as_its_majority() {
        let clock = QuorumClock::new(1);
        let vote = Vote::new_committed(3, 1);
        clock.set(vote, true, &[voters(&[1, 2, 3, 4, 5])]);
        assert_eq!(clock.age(), None);
        clock.answered(2, &vote, Instant::now());
        tokio::time::advance(SECOND).await;
        assert_eq!(clock.age(), None, "two of five are no majority");
        clock.answered(3, &vote, Instant::now());
        assert_eq!(clock.age(), Some(SECOND));
        clock.answered(4, &Vote::new_committed(2, 1), Instant::now());
        assert_eq!(
            clock.age(),
            Some(SECOND),
            "an answer to an earlier leadership"
        );
        clock.answered(4, &vote, Instant::now());
        assert_eq!(clock.age(), Some(Duration::ZERO));
        clock.set(vote, true, &[voters(&[1, 2, 3, 4, 5]), voters(&[1, 6])]);
        assert_eq!(
            clock.age(),
            None,
            "a joint membership needs both majorities"
        );
        clock.set(Vote::new_committed(4, 1), true, &[voters(&[1, 2])]);
        assert_eq!(clock.age(), None, "answers do not outlive a leadership");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_voter_is_always_fresh() {
        let clock = QuorumClock::new(1);
        clock.set(Vote::new_committed(1, 1), true, &[voters(&[1])]);
        tokio::time::advance(SECOND).await;
        assert_eq!(clock.age(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_was_long_under_way_is_old() {
        let clock = QuorumClock::new(2);
        clock.set(Vote::new_committed(1, 1), false, &[voters(&[1, 2])]);
        tokio::time::advance(SECOND).await;
        let echo = clock.clock_ms();
        clock.told(SECOND / 10, 0);
        assert_eq!(clock.age(), None, "nothing bounds the way of this one");
        tokio::time::advance(SECOND * 5).await;
        clock.told(SECOND / 10, echo);
        assert_eq!(clock.age(), Some(SECOND * 5 + SECOND / 10));
        clock.told(SECOND, u64::MAX);
        assert_eq!(
            clock.age(),
            Some(SECOND * 5 + SECOND / 10),
            "a clock of the future"
        );
    }
}
