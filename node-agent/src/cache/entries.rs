//! The registration entries that this agent may serve, and which match a caller.
//!
//! Responsible for: holding entries by id with the moment they arrived, finding those that a
//! set of selectors matches without looking at all of them, and the order and hint rules of
//! what one workload is shown. Always holds: the index names every entry exactly once; matches
//! come oldest entry first (ties: smaller id) with each non-empty hint once. Not here: SVIDs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mintmark_identity::{
    clock::Timestamp,
    entry::{EntryId, RegistrationEntry},
    selector::{Selector, Selectors},
    spiffe_id::SpiffeId,
};
use mintmark_runtime::mutation::{self, Bug};

/// An entry as this agent holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The entry itself.
    pub entry: Arc<RegistrationEntry>,
    /// When this revision of it reached the agent.
    pub since: Timestamp,
    /// Counts arrivals at this agent: an answer to a question that was asked about an earlier
    /// arrival of the same id is dropped.
    pub arrival: u64,
}

impl Held {
    /// Whether workloads may be shown this entry now. Entries for SVID stores go to stores
    /// only, and an entry ends at its `expires_at`.
    #[must_use]
    pub fn is_served(&self, now: Timestamp) -> bool {
        !self.entry.store_svid && self.entry.expires_at.is_none_or(|end| now < end)
    }

    fn rank(&self) -> (Timestamp, &EntryId) {
        (self.entry.created_at, &self.entry.id)
    }
}

/// An entry that nearly matches, and what the caller lacks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Near {
    /// The entry.
    pub held: Held,
    /// Its selectors that the caller does not have.
    pub missing: Vec<Selector>,
}

/// All entries of this agent.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Entries {
    by_id: BTreeMap<EntryId, Held>,
    /// Entries by their smallest selector: a caller without that one cannot match.
    by_selector: BTreeMap<Selector, BTreeSet<EntryId>>,
}

impl Entries {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The entry with this id.
    #[must_use]
    pub fn get(&self, id: &EntryId) -> Option<&Held> {
        self.by_id.get(id)
    }

    /// Every entry, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.by_id.values()
    }

    /// Adds an entry or replaces the one with its id. An equal entry keeps its arrival.
    /// Returns whether anything changed.
    pub fn put(&mut self, entry: RegistrationEntry, since: Timestamp, arrival: u64) -> bool {
        if self
            .by_id
            .get(&entry.id)
            .is_some_and(|held| *held.entry == entry)
        {
            return false;
        }
        self.remove(&entry.id.clone());
        if let Some(first) = entry.selectors.first() {
            self.by_selector
                .entry(first.clone())
                .or_default()
                .insert(entry.id.clone());
        }
        let held = Held {
            entry: Arc::new(entry),
            since,
            arrival,
        };
        self.by_id.insert(held.entry.id.clone(), held);
        true
    }

    /// Removes an entry. Returns whether it was there.
    pub fn remove(&mut self, id: &EntryId) -> bool {
        let Some(held) = self.by_id.remove(id) else {
            return false;
        };
        if let Some(first) = held.entry.selectors.first()
            && let Some(ids) = self.by_selector.get_mut(first)
        {
            ids.remove(id);
            if ids.is_empty() {
                self.by_selector.remove(first);
            }
        }
        true
    }

    /// What a caller with these selectors is shown, in the order it is shown: the first is its
    /// default identity (WLA-N1), and of entries that share a hint only the oldest remains
    /// (WLA-19).
    #[must_use]
    pub fn matching(&self, have: &Selectors, now: Timestamp) -> Vec<Held> {
        let mut found: Vec<&Held> = have
            .iter()
            .filter_map(|selector| self.by_selector.get(selector))
            .flatten()
            .filter_map(|id| self.by_id.get(id))
            .filter(|held| held.is_served(now) && held.entry.matches(have))
            .collect();
        if mutation::is(Bug::SelectorsIgnored) {
            found = self.by_id.values().collect();
        }
        found.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let mut hints: BTreeSet<&str> = BTreeSet::new();
        found
            .into_iter()
            .filter(|held| held.entry.hint.is_empty() || hints.insert(&held.entry.hint))
            .cloned()
            .collect()
    }

    /// Entries that these selectors miss by little, nearest first: they share at least one
    /// selector with the caller, or differ in nothing but values. At most `limit`.
    #[must_use]
    pub fn near(&self, have: &Selectors, now: Timestamp, limit: usize) -> Vec<Near> {
        let kinds: BTreeSet<&str> = have.iter().map(kind_and_key).collect();
        let mut near: Vec<Near> = self
            .by_id
            .values()
            .filter(|held| held.is_served(now) && !held.entry.matches(have))
            .filter(|held| {
                held.entry.selectors.iter().any(|selector| {
                    have.contains(selector) || kinds.contains(kind_and_key(selector))
                })
            })
            .map(|held| Near {
                held: held.clone(),
                missing: held.entry.missing(have),
            })
            .collect();
        near.sort_by(|a, b| {
            (a.missing.len(), a.held.rank()).cmp(&(b.missing.len(), b.held.rank()))
        });
        near.truncate(limit);
        near
    }

    /// Entries for a SPIFFE ID.
    #[must_use]
    pub fn with_spiffe_id(&self, id: &SpiffeId) -> Vec<Held> {
        self.by_id
            .values()
            .filter(|held| held.entry.spiffe_id == *id)
            .cloned()
            .collect()
    }

    /// The next moment after `now` at which an entry ends.
    #[must_use]
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.by_id
            .values()
            .filter_map(|held| held.entry.expires_at)
            .filter(|end| *end > now)
            .min()
    }

    /// Whether an entry ended after `seen` and by `now`.
    #[must_use]
    pub fn ended_between(&self, seen: Timestamp, now: Timestamp) -> bool {
        self.by_id
            .values()
            .filter_map(|held| held.entry.expires_at)
            .any(|end| seen < end && end <= now)
    }
}

/// `uid` of `unix:uid:1000`: what the selector speaks about.
fn kind_and_key(selector: &Selector) -> &str {
    selector
        .value()
        .split_once(':')
        .map_or(selector.value(), |(key, _)| key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::testing::entry;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_secs(seconds)
    }

    fn selectors(list: &[&str]) -> Selectors {
        list.iter()
            .map(|text| Selector::parse(text).unwrap())
            .collect()
    }

    fn held(list: Vec<RegistrationEntry>) -> Entries {
        let mut entries = Entries::default();
        for (arrival, entry) in (1..).zip(list) {
            entries.put(entry, at(100), arrival);
        }
        entries
    }

    fn ids(found: &[Held]) -> Vec<&str> {
        found.iter().map(|held| held.entry.id.as_str()).collect()
    }

    #[test]
    fn an_entry_matches_only_with_all_its_selectors() {
        let entries = held(vec![entry("a", "/a", &["unix:uid:1", "unix:gid:2"])]);
        assert_eq!(
            ids(&entries.matching(&selectors(&["unix:uid:1"]), at(200))),
            Vec::<&str>::new()
        );
        let have = selectors(&["unix:uid:1", "unix:gid:2", "unix:user:x"]);
        assert_eq!(ids(&entries.matching(&have, at(200))), ["a"]);
    }

    #[test]
    fn wla_n1_matches_come_oldest_first_and_ties_by_id() {
        let mut old = entry("z", "/z", &["unix:uid:1"]);
        old.created_at = at(1);
        let mut young = entry("b", "/b", &["unix:uid:1"]);
        young.created_at = at(9);
        let mut tie = entry("a", "/a", &["unix:uid:1"]);
        tie.created_at = at(9);
        let entries = held(vec![young, old, tie]);
        assert_eq!(
            ids(&entries.matching(&selectors(&["unix:uid:1"]), at(200))),
            ["z", "a", "b"]
        );
    }

    #[test]
    fn wla_19_of_entries_with_one_hint_the_oldest_is_shown_and_empty_hints_stay() {
        let mut list = Vec::new();
        for (id, created, hint) in [
            ("a", 5, "internal"),
            ("b", 4, "internal"),
            ("c", 6, ""),
            ("d", 7, ""),
        ] {
            let mut one = entry(id, &format!("/{id}"), &["unix:uid:1"]);
            one.created_at = at(created);
            one.hint = hint.to_owned();
            list.push(one);
        }
        let entries = held(list);
        assert_eq!(
            ids(&entries.matching(&selectors(&["unix:uid:1"]), at(200))),
            ["b", "c", "d"]
        );
    }

    #[test]
    fn entries_for_svid_stores_and_ended_entries_are_not_shown() {
        let mut store = entry("a", "/a", &["unix:uid:1"]);
        store.store_svid = true;
        let mut ended = entry("b", "/b", &["unix:uid:1"]);
        ended.expires_at = Some(at(200));
        let entries = held(vec![store, ended]);
        assert_eq!(
            ids(&entries.matching(&selectors(&["unix:uid:1"]), at(199))),
            ["b"]
        );
        assert_eq!(
            ids(&entries.matching(&selectors(&["unix:uid:1"]), at(200))),
            Vec::<&str>::new()
        );
        assert_eq!(entries.next_end(at(199)), Some(at(200)));
        assert_eq!(entries.next_end(at(200)), None);
        assert!(entries.ended_between(at(199), at(200)));
        assert!(!entries.ended_between(at(200), at(300)));
    }

    #[test]
    fn an_equal_entry_keeps_its_arrival_and_a_changed_one_gets_a_new() {
        let mut entries = held(vec![entry("a", "/a", &["unix:uid:1"])]);
        assert!(!entries.put(entry("a", "/a", &["unix:uid:1"]), at(500), 7));
        let id = EntryId::parse("a").unwrap();
        assert_eq!(entries.get(&id).unwrap().arrival, 1);
        assert!(entries.put(entry("a", "/a", &["unix:uid:2"]), at(500), 7));
        assert_eq!(entries.get(&id).unwrap().arrival, 7);
        assert!(
            entries
                .matching(&selectors(&["unix:uid:1"]), at(600))
                .is_empty()
        );
        assert!(entries.remove(&id));
        assert!(!entries.remove(&id));
        assert_eq!(entries, Entries::default());
    }

    #[test]
    fn near_matches_name_what_is_missing_nearest_first() {
        let entries = held(vec![
            entry(
                "far",
                "/far",
                &["unix:uid:1", "unix:path:/x", "unix:sha256:00"],
            ),
            entry("near", "/near", &["unix:uid:1", "unix:path:/x"]),
            entry("other", "/other", &["k8s:ns:default"]),
            entry("value", "/value", &["unix:uid:2"]),
            entry("match", "/match", &["unix:uid:1"]),
        ]);
        let near = entries.near(&selectors(&["unix:uid:1", "unix:gid:1"]), at(200), 10);
        let shown: Vec<(&str, usize)> = near
            .iter()
            .map(|near| (near.held.entry.id.as_str(), near.missing.len()))
            .collect();
        assert_eq!(shown, [("near", 1), ("value", 1), ("far", 2)]);
        assert_eq!(near[0].missing, [Selector::parse("unix:path:/x").unwrap()]);
        assert_eq!(
            entries.near(&selectors(&["unix:uid:1"]), at(200), 1).len(),
            1
        );
    }
}
