//! What the log says now, ahead of what the disk says.
//!
//! Responsible for: bounds, vote, marks and the tail of the log in memory. Always
//! holds: the tail is gapless and ends with the last entry; every entry that is not yet
//! durable stands in it; durable ones stay in it while there is room, because
//! replication and apply want them next. Not here: the disk.

use std::collections::BTreeMap;

use mintmark_proto::mintmark::raft::v1 as pb;
use openraft::EntryPayload;

use crate::raft::batch::WriteStage;
use crate::raft::type_config::{Entry, LogId, NodeId, Vote};
use crate::store::StoreError;

/// Durable entries that are kept for readers.
const TAIL_ENTRIES_MAX: usize = 4096;
/// Their bytes.
const TAIL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What an entry costs beside its commands.
const ENTRY_BYTES: usize = 64;

/// State of the log in memory.
#[derive(Debug, Default)]
pub struct View {
    last: Option<LogId>,
    purged: Option<LogId>,
    /// Index of the first entry; meaningless while there is none.
    first: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    peers: BTreeMap<NodeId, pb::PeerMemory>,
    tail: BTreeMap<u64, Entry>,
    tail_bytes: usize,
    /// The first entry of every leader, so that the id of any entry is known here.
    leaders: BTreeMap<u64, LogId>,
    /// Entries below this index are durable.
    durable_end: u64,
    /// Number of truncations; an append of an older generation proves nothing.
    generation: u64,
    /// What the log lost since the last append.
    removed: Removed,
    commits: u64,
    fault: Option<StoreError>,
}

/// What leaves the file together with the next entries that come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Entries from this index on.
    pub since: Option<u64>,
    /// Entries up to this one.
    pub through: Option<LogId>,
}

/// Bytes that an entry takes in memory, roughly.
pub fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.encoded().len().saturating_add(ENTRY_BYTES),
        EntryPayload::Blank | EntryPayload::Membership(_) => ENTRY_BYTES,
    }
}

/// Tells the proposer of an entry how far its write has come.
pub fn note_stage(entry: &Entry, stage: WriteStage) {
    if let EntryPayload::Normal(batch) = &entry.payload {
        batch.reached(stage);
    }
}

impl View {
    /// The view of a log that was just opened, with the first log id of every leader.
    pub fn opened(
        purged: Option<LogId>,
        leaders: BTreeMap<u64, LogId>,
        last: Option<LogId>,
        vote: Option<Vote>,
        committed: Option<LogId>,
        peers: BTreeMap<NodeId, pb::PeerMemory>,
    ) -> Self {
        let last = last.or(purged);
        Self {
            durable_end: last.map_or(0, |last| last.index.saturating_add(1)),
            first: purged.map_or(0, |purged| purged.index.saturating_add(1)),
            last,
            purged,
            vote,
            committed,
            peers,
            leaders,
            ..Self::default()
        }
    }

    pub fn last(&self) -> Option<LogId> {
        self.last
    }

    pub fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    pub fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    pub fn peers(&self) -> Vec<(NodeId, pb::PeerMemory)> {
        self.peers
            .iter()
            .map(|(node, memory)| (*node, memory.clone()))
            .collect()
    }

    pub fn remember(&mut self, node: NodeId, memory: pb::PeerMemory) {
        self.peers.insert(node, memory);
    }

    #[cfg(test)]
    pub fn commits(&self) -> u64 {
        self.commits
    }

    pub fn fault(&self) -> Option<&StoreError> {
        self.fault.as_ref()
    }

    /// The fault, or that the log was closed without one.
    pub fn closed_because(&self, file: &'static str) -> StoreError {
        self.fault.clone().unwrap_or(StoreError::Closed { file })
    }

    /// Nothing can be written any more.
    pub fn fail(&mut self, fault: StoreError) {
        self.fault.get_or_insert(fault);
    }

    /// Adds entries behind the last one; returns the generation they belong to, and what was
    /// removed before them.
    pub fn append(&mut self, entries: &[Entry]) -> (u64, Removed) {
        if let Some(entry) = entries.first()
            && self.last == self.purged
        {
            self.first = entry.log_id.index;
        }
        for entry in entries {
            self.tail_bytes = self.tail_bytes.saturating_add(weight(entry));
            if let Some(old) = self.tail.insert(entry.log_id.index, entry.clone()) {
                self.tail_bytes = self.tail_bytes.saturating_sub(weight(&old));
            }
            self.last = Some(entry.log_id);
            let of_leader = self.leaders.last_key_value().map(|(_, id)| id.leader_id);
            if of_leader != Some(entry.log_id.leader_id) {
                self.leaders.insert(entry.log_id.index, entry.log_id);
            }
        }
        (self.generation, std::mem::take(&mut self.removed))
    }

    /// Removes the entry at `since` and those behind it.
    pub fn truncate(&mut self, since: u64) {
        self.generation = self.generation.saturating_add(1);
        let earlier = self.removed.since.unwrap_or(since);
        self.removed.since = Some(earlier.min(since));
        for removed in self.tail.split_off(&since).values() {
            self.tail_bytes = self.tail_bytes.saturating_sub(weight(removed));
        }
        drop(self.leaders.split_off(&since));
        self.durable_end = self.durable_end.min(since);
        self.last = since
            .checked_sub(1)
            .and_then(|index| self.log_id_at(index))
            .or(self.purged);
    }

    /// Removes the entries through `through`. If another entry stands in its place, those behind it
    /// are of a history that was given up: they go too.
    pub fn purge(&mut self, through: LogId) {
        let keep = through.index.saturating_add(1);
        let held = self.log_id_at(through.index);
        if held.is_some_and(|held| held != through) {
            self.truncate(keep);
            self.last = None;
        }
        let kept = self.tail.split_off(&keep);
        for removed in self.tail.values() {
            self.tail_bytes = self.tail_bytes.saturating_sub(weight(removed));
        }
        self.tail = kept;
        self.purged = self.purged.max(Some(through));
        self.removed.through = self.purged;
        self.first = self.first.max(keep);
        // A log that ends before it may have had the later leader all the same.
        if self.last.is_none_or(|last| last.index < through.index) {
            self.last = Some(through);
            self.durable_end = self.durable_end.max(keep);
        }
        let next_leader = self.log_id_at(keep);
        self.leaders = self.leaders.split_off(&keep);
        if let Some(next) = next_leader {
            self.leaders.entry(keep).or_insert(next);
        }
    }

    /// Id of an entry of the log.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        if index > self.last?.index {
            return None;
        }
        let (_, run) = self.leaders.range(..=index).next_back()?;
        Some(LogId {
            leader_id: run.leader_id,
            index,
        })
    }

    /// The part of the range that only the disk has, and the entries of the rest.
    pub fn read(&self, start: u64, end: u64) -> (Option<(u64, u64)>, Vec<Entry>) {
        let log_end = self.last.map_or(0, |id| id.index.saturating_add(1));
        let start = start.max(self.first);
        let end = end.min(log_end);
        if start >= end {
            return (None, Vec::new());
        }
        let tail_start = self.tail.keys().next().copied().unwrap_or(log_end);
        let disk_end = end.min(tail_start);
        let from_disk = (start < disk_end).then_some((start, disk_end));
        let from_tail = start.max(tail_start);
        let tail = if from_tail < end {
            let range = self.tail.range(from_tail..end);
            range.map(|(_, entry)| entry.clone()).collect()
        } else {
            Vec::new()
        };
        (from_disk, tail)
    }

    /// A transaction is durable; its last append of each generation ended here.
    pub fn committed_through(&mut self, appended: impl Iterator<Item = (u64, u64)>) {
        self.commits = self.commits.saturating_add(1);
        for (generation, end) in appended {
            if generation == self.generation {
                self.durable_end = self.durable_end.max(end);
            }
        }
        while self.tail.len() > TAIL_ENTRIES_MAX || self.tail_bytes > TAIL_BYTES_MAX {
            let Some(oldest) = self.tail.first_entry() else {
                break;
            };
            if *oldest.key() >= self.durable_end {
                break;
            }
            self.tail_bytes = self.tail_bytes.saturating_sub(weight(&oldest.remove()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::batch::Batch;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            log_id: LogId {
                leader_id: openraft::LeaderId::new(term, 1),
                index,
            },
            payload: EntryPayload::Normal(Batch::from_encoded(vec![0; 10])),
        }
    }

    fn indices(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn truncation_restores_the_id_of_the_entry_before() {
        let mut view = View::default();
        view.append(&[entry(1, 0), entry(1, 1), entry(2, 2), entry(3, 3)]);
        view.truncate(3);
        assert_eq!(view.last(), Some(entry(2, 2).log_id));
        view.truncate(1);
        assert_eq!(view.last(), Some(entry(1, 0).log_id));
        view.append(&[entry(4, 1)]);
        assert_eq!(view.last(), Some(entry(4, 1).log_id));
        view.truncate(0);
        assert_eq!(view.last(), None);
    }

    #[test]
    fn purge_keeps_the_leader_of_what_is_left() {
        let mut view = View::default();
        view.append(&[entry(1, 0), entry(1, 1), entry(1, 2), entry(2, 3)]);
        view.purge(entry(1, 1).log_id);
        view.truncate(3);
        assert_eq!(view.last(), Some(entry(1, 2).log_id));
        view.purge(entry(5, 9).log_id);
        assert_eq!(view.last(), Some(entry(5, 9).log_id));
        assert_eq!(view.read(0, u64::MAX), (None, vec![]));
    }

    #[test]
    fn purge_beyond_another_history_takes_all_of_it_along() {
        let mut view = View::default();
        view.append(&(0..=15).map(|index| entry(2, index)).collect::<Vec<_>>());
        view.purge(entry(2, 5).log_id);
        view.purge(entry(2, 7).log_id);
        view.purge(entry(3, 12).log_id);
        assert_eq!(view.last(), Some(entry(3, 12).log_id));
        assert_eq!(view.read(0, u64::MAX), (None, vec![]));
        let (_, removed) = view.append(&[entry(3, 13)]);
        let all = Removed {
            since: Some(13),
            through: Some(entry(3, 12).log_id),
        };
        assert_eq!(removed, all);
        view.purge(entry(3, 12).log_id);
        assert_eq!(
            indices(&view.read(0, u64::MAX).1),
            [13],
            "nothing is given up again"
        );
    }

    #[test]
    fn a_history_that_was_given_up_goes_also_when_its_leader_was_the_later_one() {
        let mut view = View::default();
        view.append(&[entry(2, 0), entry(3, 1), entry(3, 2)]);
        view.purge(entry(2, 1).log_id);
        assert_eq!(view.last(), Some(entry(2, 1).log_id));
        assert_eq!(view.read(0, u64::MAX), (None, vec![]));
        let mut view = View::default();
        view.append(&[entry(2, 0), entry(3, 1)]);
        view.purge(entry(2, 1).log_id);
        assert_eq!(view.last(), Some(entry(2, 1).log_id));
        let mut view = View::default();
        view.append(&[entry(2, 0), entry(3, 1)]);
        view.purge(entry(2, 5).log_id);
        assert_eq!(view.last(), Some(entry(2, 5).log_id));
        view.append(&[entry(4, 6)]);
        assert_eq!(indices(&view.read(0, u64::MAX).1), [6]);
    }

    #[test]
    fn what_was_removed_goes_with_the_next_entries_and_once() {
        let mut view = View::default();
        let (_, removed) = view.append(&(0..=9).map(|index| entry(1, index)).collect::<Vec<_>>());
        assert_eq!(removed, Removed::default());
        view.purge(entry(1, 3).log_id);
        view.purge(entry(1, 2).log_id);
        view.truncate(8);
        view.truncate(7);
        let (_, removed) = view.append(&[entry(2, 7)]);
        assert_eq!(indices(&view.read(0, u64::MAX).1), [4, 5, 6, 7]);
        let both = Removed {
            since: Some(7),
            through: Some(entry(1, 3).log_id),
        };
        assert_eq!(removed, both);
        assert_eq!(view.append(&[entry(2, 8)]).1, Removed::default());
    }

    #[test]
    fn only_durable_entries_leave_the_tail() {
        let mut view = View::default();
        let entries: Vec<Entry> = (0..6000).map(|index| entry(1, index)).collect();
        let (generation, _) = view.append(&entries);
        view.committed_through(std::iter::once((generation, 1000)));
        let (from_disk, tail) = view.read(0, u64::MAX);
        assert_eq!(from_disk, Some((0, 1000)));
        assert_eq!(indices(&tail).first(), Some(&1000));
        view.committed_through(std::iter::once((generation, 6000)));
        let (from_disk, tail) = view.read(10, u64::MAX);
        assert_eq!(from_disk, Some((10, 6000 - TAIL_ENTRIES_MAX as u64)));
        assert_eq!(tail.len(), TAIL_ENTRIES_MAX);
    }

    #[test]
    fn an_append_from_before_a_truncation_does_not_count_as_durable() {
        let mut view = View::default();
        let entries: Vec<Entry> = (0..5000).map(|index| entry(1, index)).collect();
        let (before, _) = view.append(&entries);
        view.truncate(4000);
        view.append(&[entry(2, 4000)]);
        view.committed_through(std::iter::once((before, 5000)));
        assert_eq!(view.read(0, 1).1.len(), 1, "nothing may have been dropped");
    }
}
