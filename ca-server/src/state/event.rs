//! What changed, in the order in which it changed.
//!
//! Responsible for: [`Event`], [`Position`], and the bounded memory of recent
//! events from which streams resume.
//! Always holds: positions of remembered events never fall; a reader either
//! gets every event after its position or is told that some are gone.
//! Not here: delivering events (`fanout`), and what they mean to an agent.

use std::collections::VecDeque;

use mintmark_identity::entry::EntryId;
use mintmark_identity::selector::Selectors;
use mintmark_identity::spiffe_id::SpiffeId;

/// Events that are remembered. An agent that slept longer gets everything anew,
/// which costs about as much as this many changes.
pub const EVENTS_MAX: usize = 16_384;

/// A point in the history of the replicated state; compared epoch first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Rises at each restore.
    pub epoch: u64,
    /// Number of the command in the log; blank and membership entries have none.
    pub index: u64,
}

/// A change of the replicated state that somebody may have to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The cluster was initialised.
    Initialized,
    /// An entry was made or changed.
    EntryChanged(EntryId),
    /// An entry is no longer what or where it was: a denial. With a change of
    /// parent, identity or selectors it comes before the `EntryChanged`.
    EntryRemoved {
        /// The entry.
        id: EntryId,
        /// Its parent until now.
        parent: SpiffeId,
        /// Its identity until now.
        spiffe_id: SpiffeId,
        /// Its selectors until now; with the servers' ID as parent they say
        /// which nodes the alias covered.
        selectors: Selectors,
    },
    /// The trust bundle has another content and a higher sequence.
    BundleChanged,
    /// An agent attested, attested again or resumed.
    AgentChanged(SpiffeId),
    /// An agent was banned: a denial.
    AgentBanned(SpiffeId),
    /// An agent was evicted: a denial.
    AgentRemoved(SpiffeId),
    /// An authority went to another state.
    AuthorityChanged {
        /// Its id.
        id: String,
    },
    /// An authority was tainted: a denial, SVIDs under it are to be replaced.
    AuthorityTainted {
        /// Its id.
        id: String,
    },
    /// A server was admitted, changed or removed.
    ServersChanged,
    /// A sealed record or a wrapped data key changed.
    VaultChanged,
    /// Cluster settings changed.
    SettingsChanged,
    /// A checkpoint of the audit log was accepted.
    CheckpointSigned,
}

impl Event {
    /// Whether somebody loses something by this event, so that it must reach
    /// agents before anything else does.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(
            self,
            Self::EntryRemoved { .. }
                | Self::AgentBanned(_)
                | Self::AgentRemoved(_)
                | Self::AuthorityTainted { .. }
        )
    }
}

/// Events after the asked position are no longer all remembered: send everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events since that position are no longer remembered")]
pub struct TooOld;

/// The remembered events.
#[derive(Debug, Clone, Default)]
pub(super) struct EventRing {
    events: VecDeque<(Position, Event)>,
    /// Everything after this position is remembered.
    floor: Position,
}

impl EventRing {
    /// A memory that begins after `floor`.
    pub(super) fn starting_at(floor: Position) -> Self {
        Self {
            events: VecDeque::new(),
            floor,
        }
    }

    pub(super) fn push(&mut self, position: Position, event: Event) {
        if self.events.len() >= EVENTS_MAX
            && let Some((gone, _)) = self.events.pop_front()
        {
            self.floor = gone;
        }
        self.events.push_back((position, event));
    }

    pub(super) fn since(
        &self,
        after: Position,
    ) -> Result<impl Iterator<Item = (Position, Event)> + '_, TooOld> {
        if after.epoch != self.floor.epoch || after < self.floor {
            return Err(TooOld);
        }
        let first = self
            .events
            .partition_point(|(position, _)| *position <= after);
        Ok(self.events.range(first..).cloned())
    }
}
