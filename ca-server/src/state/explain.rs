//! Which entries match, which nearly match, and why not.
//!
//! Responsible for: the answer to "why does this workload not get that identity".
//! Always holds: work is bounded, whatever is asked.
//! Not here: what selectors a workload has (the agent finds them).

use std::collections::BTreeSet;

use mintmark_identity::entry::RegistrationEntry;
use mintmark_identity::selector::{Selector, Selectors};
use mintmark_identity::spiffe_id::SpiffeId;

use super::State;

/// Entries that one question may look at: a selector that everything has would
/// otherwise make it a scan of all.
const EXAMINED_MAX: usize = 10_000;

/// An entry, and what keeps it from matching.
#[derive(Debug, Clone, PartialEq)]
pub struct NearMatch<'a> {
    /// The entry.
    pub entry: &'a RegistrationEntry,
    /// The selectors that were not found; none: it matches.
    pub missing: Vec<Selector>,
    /// The agents that may serve it; none: nobody can.
    pub agents: BTreeSet<SpiffeId>,
}

impl State {
    /// Entries of an identity, with what `have` lacks for each and the agents
    /// that may serve it.
    #[must_use]
    pub fn explain_spiffe_id(
        &self,
        id: &SpiffeId,
        have: &Selectors,
        limit: usize,
    ) -> Vec<NearMatch<'_>> {
        let entries = self.entries.of_spiffe_id(id).take(EXAMINED_MAX);
        self.nearest(entries, have, usize::MAX, limit)
    }

    /// Entries that `have` matches, or matches but for at most `missing_max`
    /// selectors; the nearest first.
    #[must_use]
    pub fn explain_selectors(
        &self,
        have: &Selectors,
        missing_max: usize,
        limit: usize,
    ) -> Vec<NearMatch<'_>> {
        let mut seen = BTreeSet::new();
        let candidates = have
            .iter()
            .flat_map(|selector| self.entries.with_selector(selector))
            .take(EXAMINED_MAX)
            .filter(move |entry| seen.insert(&entry.id));
        self.nearest(candidates, have, missing_max, limit)
    }

    fn nearest<'a>(
        &'a self,
        entries: impl Iterator<Item = &'a RegistrationEntry>,
        have: &Selectors,
        missing_max: usize,
        limit: usize,
    ) -> Vec<NearMatch<'a>> {
        let mut found: Vec<_> = entries
            .map(|entry| (entry.missing(have), entry))
            .filter(|(missing, _)| missing.len() <= missing_max)
            .collect();
        found.sort_by_key(|(missing, entry)| (missing.len(), &entry.id));
        found.truncate(limit);
        let near = |(missing, entry): (Vec<Selector>, &'a RegistrationEntry)| NearMatch {
            agents: self.agents_concerned(&entry.parent_id, &entry.selectors),
            missing,
            entry,
        };
        found.into_iter().map(near).collect()
    }
}
