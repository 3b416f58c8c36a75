//! Which agent may serve which entry.
//!
//! Responsible for: walking from an agent down to its entries, from an entry up
//! to its agents, and deciding about one pair.
//! Always holds: an entry is under an agent when its parent is the agent, or a
//! node alias that covers the agent (an entry whose parent is the servers' ID
//! and whose selectors the agent's node all has), or an entry that is itself
//! under the agent; at most [`DEPTH_MAX`] steps. All three walks agree. Work is
//! proportional to what is found, never to all entries.
//! Not here: selectors of workloads (the agent matches those).

use std::collections::{BTreeMap, BTreeSet};

use mintmark_identity::entry::RegistrationEntry;
use mintmark_identity::selector::Selectors;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_runtime::mutation::{self, Bug};

use super::State;

/// Steps from an agent to an entry. Deeper nesting than this is a mistake, and
/// a bound keeps a cycle or a chain from costing more than it is worth.
pub const DEPTH_MAX: usize = 16;

/// Parents and selectors of entries that were removed or moved, by the identity they had.
pub type RemovedLinks = BTreeMap<SpiffeId, Vec<(SpiffeId, Selectors)>>;

impl State {
    /// The entries that this agent may serve, in order of their ids: empty for
    /// an agent that is unknown or banned.
    #[must_use]
    pub fn authorized_entries(&self, agent: &SpiffeId) -> Vec<&RegistrationEntry> {
        let Some(node) = self.nodes.get(agent).filter(|node| !node.record.banned) else {
            return Vec::new();
        };
        let mut parents: BTreeSet<SpiffeId> = self
            .aliases_of(&node.selectors)
            .map(|alias| alias.spiffe_id.clone())
            .chain([agent.clone()])
            .collect();
        let mut level: Vec<SpiffeId> = parents.iter().cloned().collect();
        let mut found = BTreeMap::new();
        for _ in 0..DEPTH_MAX {
            let mut next = Vec::new();
            for entry in level
                .iter()
                .flat_map(|parent| self.entries.of_parent(parent))
            {
                found.insert(&entry.id, entry);
                if parents.insert(entry.spiffe_id.clone()) {
                    next.push(entry.spiffe_id.clone());
                }
            }
            level = next;
        }
        found.into_values().collect()
    }

    /// Whether this agent may serve this entry.
    #[must_use]
    pub fn is_authorized(&self, agent: &SpiffeId, entry: &RegistrationEntry) -> bool {
        let counts = |banned: bool| !banned || mutation::is(Bug::BanIgnored);
        let Some(node) = self
            .nodes
            .get(agent)
            .filter(|node| counts(node.record.banned))
        else {
            return false;
        };
        let covers = |alias: &RegistrationEntry| {
            alias.parent_id.is_server() && alias.matches(&node.selectors)
        };
        self.walk_up(&entry.parent_id, |parent| {
            parent == agent || self.entries.of_spiffe_id(parent).any(covers)
        })
    }

    /// Whether this agent may have served something under `parent` before `removed` went. Of what is
    /// gone only the links are left; they are followed beside those that are there now, so this errs
    /// to the side of yes.
    #[must_use]
    pub fn may_have_been_under(
        &self,
        agent: &SpiffeId,
        parent: &SpiffeId,
        removed: &RemovedLinks,
    ) -> bool {
        let none = Selectors::new();
        let have = self.nodes.get(agent).map_or(&none, |node| &node.selectors);
        let covers = |(above, selectors): &(&SpiffeId, &Selectors)| {
            above.is_server() && !selectors.is_empty() && selectors.is_subset(have)
        };
        let mut seen = BTreeSet::from([parent]);
        let mut level = vec![parent];
        for _ in 0..DEPTH_MAX {
            if level.contains(&agent) {
                return true;
            }
            let above = level.iter().copied().flat_map(|id| self.links(id, removed));
            let above: Vec<_> = above.collect();
            if above.iter().any(covers) {
                return true;
            }
            let above = above.into_iter().map(|(above, _)| above);
            level = above
                .filter(|above| !above.is_server() && seen.insert(*above))
                .collect();
        }
        false
    }

    /// Parents and selectors of the entries with this identity, those that went included.
    fn links<'a>(
        &'a self,
        id: &'a SpiffeId,
        removed: &'a RemovedLinks,
    ) -> impl Iterator<Item = (&'a SpiffeId, &'a Selectors)> {
        let present = self.entries.of_spiffe_id(id);
        let present = present.map(|entry| (&entry.parent_id, &entry.selectors));
        let gone = removed.get(id).into_iter().flatten();
        present.chain(gone.map(|(parent, selectors)| (parent, selectors)))
    }

    /// The agents that may serve what stands directly under this parent.
    /// `selectors` count when the parent is the servers' ID: an alias concerns
    /// the agents whose nodes have all of them. Give it the parts of an entry,
    /// or of a removed one, to learn whom the change concerns.
    #[must_use]
    pub fn agents_concerned(&self, parent: &SpiffeId, selectors: &Selectors) -> BTreeSet<SpiffeId> {
        let mut agents = BTreeSet::new();
        if parent.is_server() {
            agents.extend(self.nodes.covering(selectors).cloned());
            return agents;
        }
        self.walk_up(parent, |parent| {
            if self.nodes.get(parent).is_some() {
                agents.insert(parent.clone());
            }
            let above = self.entries.of_spiffe_id(parent);
            for alias in above.filter(|entry| entry.parent_id.is_server()) {
                agents.extend(self.nodes.covering(&alias.selectors).cloned());
            }
            false
        });
        agents
    }

    /// Node aliases that cover a node with these selectors.
    fn aliases_of<'a>(
        &'a self,
        selectors: &'a Selectors,
    ) -> impl Iterator<Item = &'a RegistrationEntry> {
        selectors
            .iter()
            .flat_map(|first| self.entries.aliases_under(first))
            .filter(|alias| alias.matches(selectors))
    }

    /// Visits a parent ID and those above it, nearest first and each once,
    /// until `visit` says that it has enough; returns whether it did.
    fn walk_up(&self, from: &SpiffeId, mut visit: impl FnMut(&SpiffeId) -> bool) -> bool {
        let mut seen = BTreeSet::from([from.clone()]);
        let mut level = vec![from.clone()];
        for _ in 0..DEPTH_MAX {
            if level.iter().any(&mut visit) {
                return true;
            }
            let mut next = Vec::new();
            for entry in level.iter().flat_map(|id| self.entries.of_spiffe_id(id)) {
                if !entry.parent_id.is_server() && seen.insert(entry.parent_id.clone()) {
                    next.push(entry.parent_id.clone());
                }
            }
            level = next;
        }
        false
    }
}
