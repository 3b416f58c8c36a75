//! Whether the members' states are equal, and who stops if they are not.
//!
//! Responsible for: the marks of recent log entries (size and root of the audit tree, now and then a
//! digest of the whole state), comparing them with other members' marks of the same entries, and the
//! verdict. Always holds: equal log entries are compared, never the latest with the latest; a server
//! stops when a majority of the voters cannot be shown to agree with it, at once if it cannot agree any
//! more; memory is bounded. Not here: carrying marks between members ([`super::compare`]), and what
//! stopping means ([`super::consensus`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mintmark_proto::mintmark::raft::v1 as pb;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use super::type_config::NodeId;

/// Entries whose marks are kept: some seconds' worth. A member that lags further compares when it has
/// caught up, since it keeps what it was told.
const RECENT_MAX: usize = 4096;
/// Marks with a digest of the whole state that are kept.
const WHOLE_MAX: usize = 4;
/// Marks of one message that are looked at.
pub const MARKS_MAX: usize = 4;
/// For so long a server that differs from one member may wait for others to agree with it. Three rounds
/// of comparing.
const AGREEMENT_TIME: Duration = Duration::from_secs(3);

/// The state after one log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The entry.
    pub log_index: u64,
    /// Leaves of the audit tree.
    pub audit_size: u64,
    /// Its root.
    pub audit_root: [u8; 32],
    /// SHA-256 of the whole state, after some entries.
    pub state_sha256: Option<[u8; 32]>,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = hex::encode(self.audit_root);
        write!(f, "{} audit leaves with root {root}", self.audit_size)?;
        if let Some(digest) = self.state_sha256 {
            write!(f, " and a state of SHA-256 {}", hex::encode(digest))?;
        }
        Ok(())
    }
}

impl Mark {
    /// From a message; `None` if it is malformed.
    #[must_use]
    pub fn from_pb(mark: &pb::StateMark) -> Option<Self> {
        let state_sha256 = match mark.state_sha256.as_slice() {
            [] => None,
            digest => Some(digest.try_into().ok()?),
        };
        Some(Self {
            log_index: mark.log_index,
            audit_size: mark.audit_size,
            audit_root: mark.audit_root.as_slice().try_into().ok()?,
            state_sha256,
        })
    }

    /// For a message.
    #[must_use]
    pub fn to_pb(&self) -> pb::StateMark {
        pb::StateMark {
            log_index: self.log_index,
            audit_size: self.audit_size,
            audit_root: self.audit_root.to_vec(),
            state_sha256: self.state_sha256.map(Vec::from).unwrap_or_default(),
        }
    }

    fn same_tree(&self, other: &Self) -> bool {
        (self.audit_size, self.audit_root) == (other.audit_size, other.audit_root)
    }

    /// Of the same entry: whether the states are equal, as far as both say.
    fn agrees(&self, other: &Self) -> bool {
        let digests = (self.state_sha256, other.state_sha256);
        let same_state = match digests {
            (Some(own), Some(theirs)) => own == theirs,
            _ => true,
        };
        self.same_tree(other) && same_state
    }
}

/// Two members applied the same log, and have different states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "after log entry {} this server has {own}, and member {node} has {theirs}", own.log_index
)]
pub struct Divergence {
    /// The other member.
    pub node: NodeId,
    /// The state here.
    pub own: Mark,
    /// The state there.
    pub theirs: Mark,
}

/// What is known of another member's state.
#[derive(Debug, Default)]
struct Seen {
    /// The last entry after which the audit trees were equal.
    tree_agreed: Option<u64>,
    /// The last one after which the whole states were.
    state_agreed: Option<u64>,
    differs: Option<(Divergence, Instant)>,
    /// The first mark it told of an entry that is not applied here yet, without and with a digest.
    waiting: [Option<Mark>; 2],
}

/// The marks of this member, and what others' marks showed. A clone shares them.
#[derive(Clone)]
pub struct Marks(Arc<Shared>);

struct Shared {
    digest_every: u64,
    inner: Mutex<Inner>,
    fault: watch::Sender<Option<Divergence>>,
}

struct Inner {
    own: NodeId,
    voters: BTreeSet<NodeId>,
    recent: VecDeque<Mark>,
    whole: VecDeque<Mark>,
    seen: BTreeMap<NodeId, Seen>,
}

impl Marks {
    /// Nothing is applied yet. So many entries lie between two digests of the whole state.
    #[must_use]
    pub fn new(own: NodeId, digest_every: u64) -> Self {
        Self(Arc::new(Shared {
            digest_every,
            inner: Mutex::new(Inner {
                own,
                voters: BTreeSet::new(),
                recent: VecDeque::new(),
                whole: VecDeque::new(),
                seen: BTreeMap::new(),
            }),
            fault: watch::Sender::new(None),
        }))
    }

    /// Whether the whole state is digested after this entry. It is the same entry on every member, or the
    /// digests could not be compared; and it is the one of which the library makes its first snapshot,
    /// and from there on every other, so that the state is encoded once for both.
    #[must_use]
    pub fn want_digest(&self, log_index: u64) -> bool {
        log_index.saturating_add(1).checked_rem(self.0.digest_every) == Some(0)
    }

    /// Entries between two digests.
    #[must_use]
    pub fn digest_every(&self) -> u64 {
        self.0.digest_every
    }

    /// Takes over who votes.
    pub fn set_voters(&self, voters: BTreeSet<NodeId>) {
        self.lock().voters = voters;
    }

    /// Forgets who is no member any more.
    pub fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.lock().seen.retain(|node, _| is_member(*node));
    }

    /// An entry was applied here.
    pub fn applied(&self, mark: Mark) {
        let mut inner = self.lock();
        inner.push(mark);
        inner.compare_waiting(&mark);
        drop(inner);
        self.judge();
    }

    /// A snapshot took the place of the state; marks of before are of another past.
    pub fn installed(&self, mark: Mark) {
        let mut inner = self.lock();
        inner.recent.clear();
        inner.whole.clear();
        drop(inner);
        self.applied(mark);
    }

    /// What to tell others: the last mark, and the last with a digest of the whole state.
    #[must_use]
    pub fn own(&self) -> Vec<Mark> {
        let inner = self.lock();
        let marks = [inner.recent.back(), inner.whole.back()];
        marks.into_iter().flatten().copied().collect()
    }

    /// Our marks of the entries that these are of, as far as they are remembered.
    #[must_use]
    pub fn counterparts(&self, theirs: &[Mark]) -> Vec<Mark> {
        let inner = self.lock();
        let found = theirs.iter().filter_map(|mark| inner.find(mark));
        found.copied().collect()
    }

    /// What another member says of itself.
    pub fn heard(&self, node: NodeId, marks: &[Mark]) {
        let mut inner = self.lock();
        for mark in marks.iter().take(MARKS_MAX) {
            inner.heard(node, *mark);
        }
        drop(inner);
        self.judge();
    }

    /// Decides whether this server has to stop.
    pub fn judge(&self) {
        let verdict = self.lock().verdict(Instant::now());
        if let Some(divergence) = verdict {
            self.0.fault.send_if_modified(|now| {
                let first = now.is_none();
                now.get_or_insert(divergence);
                first
            });
        }
    }

    /// Set when this server has to stop.
    #[must_use]
    pub fn fault(&self) -> watch::Receiver<Option<Divergence>> {
        self.0.fault.subscribe()
    }

    /// Members whose state differs from this one's.
    #[must_use]
    pub fn differing(&self) -> usize {
        let inner = self.lock();
        inner
            .seen
            .values()
            .filter(|seen| seen.differs.is_some())
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let lock = self.0.inner.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}

fn push_bounded(marks: &mut VecDeque<Mark>, mark: Mark, count_max: usize) {
    if marks.len() >= count_max {
        marks.pop_front();
    }
    marks.push_back(mark);
}

fn find(marks: &VecDeque<Mark>, log_index: u64) -> Option<&Mark> {
    let found = marks.binary_search_by_key(&log_index, |mark| mark.log_index);
    marks.get(found.ok()?)
}

impl Inner {
    fn push(&mut self, mark: Mark) {
        if self
            .recent
            .back()
            .is_some_and(|last| last.log_index >= mark.log_index)
        {
            return;
        }
        push_bounded(&mut self.recent, mark, RECENT_MAX);
        if mark.state_sha256.is_some() {
            push_bounded(&mut self.whole, mark, WHOLE_MAX);
        }
    }

    /// Our mark of the entry that this one is of.
    fn find(&self, theirs: &Mark) -> Option<&Mark> {
        find(&self.recent, theirs.log_index).or_else(|| find(&self.whole, theirs.log_index))
    }

    fn compare_waiting(&mut self, own: &Mark) {
        let mut due = Vec::new();
        for (node, seen) in &mut self.seen {
            let reached = seen
                .waiting
                .iter_mut()
                .filter_map(|waiting| waiting.take_if(|mark| mark.log_index <= own.log_index));
            due.extend(reached.map(|mark| (*node, mark)));
        }
        for (node, mark) in due {
            self.heard(node, mark);
        }
    }

    fn heard(&mut self, node: NodeId, theirs: Mark) {
        let own = self.find(&theirs).copied();
        let applied = self.recent.back().map(|last| last.log_index);
        let seen = self.seen.entry(node).or_default();
        match own {
            Some(own) => seen.compare(node, own, theirs),
            None if applied < Some(theirs.log_index) => seen.wait_for(theirs),
            // Too long ago.
            None => {}
        }
    }

    /// The difference for which this server has to stop.
    fn verdict(&self, now: Instant) -> Option<Divergence> {
        let differing = self.seen.values().filter_map(|seen| seen.differs.as_ref());
        differing
            .filter(|(divergence, since)| {
                let waited = now.saturating_duration_since(*since);
                let agreeing = self.count(|seen| seen.vouches_for(divergence));
                let hopeful = self.count(|seen| seen.differs.is_none());
                agreeing.is_none() && (hopeful.is_none() || waited >= AGREEMENT_TIME)
            })
            .map(|(divergence, _)| *divergence)
            .next()
    }

    /// The number of voters, this member included, of which `holds` is true, if they are a majority.
    fn count(&self, holds: impl Fn(&Seen) -> bool) -> Option<usize> {
        let unseen = Seen::default();
        let counted = self
            .voters
            .iter()
            .filter(|voter| **voter == self.own || holds(self.seen.get(voter).unwrap_or(&unseen)));
        let count = counted.count();
        (count > self.voters.len() / 2).then_some(count)
    }
}

impl Seen {
    fn compare(&mut self, node: NodeId, own: Mark, theirs: Mark) {
        if !own.agrees(&theirs) {
            if self.differs.is_none() {
                let divergence = Divergence { node, own, theirs };
                tracing::error!(%divergence, "the states of two members differ");
                self.differs = Some((divergence, Instant::now()));
            }
            return;
        }
        self.tree_agreed = self.tree_agreed.max(Some(own.log_index));
        if own.state_sha256.is_some() && theirs.state_sha256.is_some() {
            self.state_agreed = self.state_agreed.max(Some(own.log_index));
        }
        let mended = self
            .differs
            .is_some_and(|(divergence, _)| self.vouches_for(&divergence));
        if mended {
            tracing::warn!(node, "the states of two members agree again");
            self.differs = None;
        }
    }

    fn wait_for(&mut self, theirs: Mark) {
        let [tree, state] = &mut self.waiting;
        let waiting = if theirs.state_sha256.is_some() {
            state
        } else {
            tree
        };
        // The first is reached first; later ones come again.
        if waiting.is_none_or(|known| known.log_index > theirs.log_index) {
            *waiting = Some(theirs);
        }
    }

    /// Whether this member's state equals ours in what that difference is about, at that entry or later:
    /// what has once parted does not meet again.
    fn vouches_for(&self, divergence: &Divergence) -> bool {
        let agreed = if divergence.own.same_tree(&divergence.theirs) {
            self.state_agreed
        } else {
            self.tree_agreed
        };
        agreed >= Some(divergence.own.log_index)
    }
}

#[cfg(test)]
mod tests;
