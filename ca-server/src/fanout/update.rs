//! What one agent is told next.
//!
//! Always: an update brings the agent from what it was sent to what the state says now, both at one
//! position; after a break the agent resumes from its position when the state still remembers
//! everything since, and gets everything otherwise. Ids of entries that never were this agent's do
//! not reach it.
//!
//! Not here: when to look (`fanout`), the stream itself (`api::mintmark_agent`).

use std::collections::{BTreeMap, BTreeSet};

use mintmark_identity::entry::EntryId;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::convert::bundle::bundle_to_agent;
use mintmark_proto::mintmark::agent::v1 as wire;

use crate::state::{Event, Position, RemovedLinks, State};

/// What an agent has been told so far.
#[derive(Debug, Default)]
pub struct Told {
    entries: BTreeMap<EntryId, u64>,
    bundle_sequence: Option<u64>,
    tainted: Vec<String>,
    defaults: Option<wire::Defaults>,
    position: Option<Position>,
}

/// Positions that advanced this much are told even when nothing else is new, so that the agent can
/// resume from one that is still remembered.
const POSITION_STEP: u64 = 4096;

/// The agent is ahead of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent has seen a later position than this server")]
pub struct AgentAhead;

impl Told {
    /// What an agent knows that says it has seen everything up to `resume_from`; with it the first
    /// update.
    ///
    /// # Errors
    /// [`AgentAhead`] when this server has not applied that much.
    pub fn begin(
        state: &State,
        agent: &SpiffeId,
        resume_from: Option<Position>,
    ) -> Result<(Self, wire::Update), AgentAhead> {
        let applied = state.applied_position();
        if resume_from.is_some_and(|seen| seen > applied) {
            return Err(AgentAhead);
        }
        let changes = resume_from.and_then(|seen| Changes::since(state, agent, seen));
        let mut told = Self::default();
        let mut update = told.next(state, agent).unwrap_or_default();
        let Some(changes) = changes else {
            update.complete = true;
            return Ok((told, update));
        };
        update
            .entries
            .retain(|entry| changes.entries.contains(entry.id.as_str()));
        let gone = changes.entries.iter().filter(|id| {
            EntryId::parse(id.as_str()).is_ok_and(|id| !told.entries.contains_key(&id))
        });
        update.removed_entry_ids = gone.cloned().collect();
        if !changes.bundle {
            update.bundles.clear();
        }
        if !changes.defaults {
            update.defaults = None;
        }
        Ok((told, update))
    }

    /// The next update; `None` when there is nothing to say.
    pub fn next(&mut self, state: &State, agent: &SpiffeId) -> Option<wire::Update> {
        let position = state.applied_position();
        let mut update = wire::Update {
            position: Some(to_wire(position)),
            ..Default::default()
        };
        let entries = state.authorized_entries(agent);
        let now: BTreeMap<EntryId, u64> = entries
            .iter()
            .map(|entry| (entry.id.clone(), entry.revision))
            .collect();
        let changed = entries.iter().filter(|entry| {
            self.entries
                .get(&entry.id)
                .is_none_or(|revision| *revision != entry.revision)
        });
        update.entries = changed.map(|entry| (*entry).into()).collect();
        let gone = self.entries.keys().filter(|id| !now.contains_key(*id));
        update.removed_entry_ids = gone.map(ToString::to_string).collect();
        self.entries = now;

        let sequence = state.bundle_sequence();
        if self.bundle_sequence != Some(sequence)
            && let Some(bundle) = state.own_bundle()
        {
            update.bundles = vec![bundle_to_agent(&bundle)];
            self.bundle_sequence = Some(sequence);
        }
        let tainted = tainted(state);
        let newly_tainted = tainted != self.tainted;
        update.tainted_authorities.clone_from(&tainted);
        self.tainted = tainted;
        let defaults = defaults(state);
        if self.defaults != defaults {
            update.defaults.clone_from(&defaults);
            self.defaults = defaults;
        }
        let step = self.position.is_none_or(|told| {
            told.epoch != position.epoch
                || position.index.saturating_sub(told.index) >= POSITION_STEP
        });
        let news = !update.entries.is_empty()
            || !update.removed_entry_ids.is_empty()
            || !update.bundles.is_empty()
            || update.defaults.is_some()
            || newly_tainted;
        if !news && !step {
            return None;
        }
        self.position = Some(position);
        Some(update)
    }
}

/// What happened since an agent's position, as far as it concerns the agent.
struct Changes {
    entries: BTreeSet<String>,
    bundle: bool,
    defaults: bool,
}

impl Changes {
    /// `None` when the agent has to be told everything.
    fn since(state: &State, agent: &SpiffeId, seen: Position) -> Option<Self> {
        let mut changes = Self {
            entries: BTreeSet::new(),
            bundle: false,
            defaults: false,
        };
        let events: Vec<Event> = state
            .events_since(seen)
            .ok()?
            .map(|(_, event)| event)
            .collect();
        let removed = removed_links(&events);
        for event in events {
            match event {
                Event::EntryChanged(id) => {
                    let Some(entry) = state.entry(&id) else {
                        continue;
                    };
                    if leads_to_others(state, &entry.parent_id, &entry.spiffe_id) {
                        return None;
                    }
                    if state.is_authorized(agent, entry) {
                        changes.entries.insert(id.to_string());
                    }
                }
                Event::EntryRemoved {
                    id,
                    parent,
                    spiffe_id,
                    selectors,
                } => {
                    if leads_to_others(state, &parent, &spiffe_id) {
                        return None;
                    }
                    if state.agents_concerned(&parent, &selectors).contains(agent) {
                        changes.entries.insert(id.to_string());
                    } else if state.may_have_been_under(agent, &parent, &removed) {
                        // What it hung on is gone too, so nobody can say any more whose it was.
                        return None;
                    }
                }
                Event::BundleChanged => changes.bundle = true,
                Event::SettingsChanged | Event::ServersChanged => changes.defaults = true,
                Event::AgentChanged(changed) if changed == *agent => return None,
                Event::Initialized => return None,
                _ => {}
            }
        }
        Some(changes)
    }
}

/// How the entries that events took away hung together.
fn removed_links(events: &[Event]) -> RemovedLinks {
    let mut removed = RemovedLinks::new();
    for event in events {
        if let Event::EntryRemoved {
            parent,
            spiffe_id,
            selectors,
            ..
        } = event
        {
            let link = (parent.clone(), selectors.clone());
            removed.entry(spiffe_id.clone()).or_default().push(link);
        }
    }
    removed
}

/// Whether entries hang on the entry with this identity, so that its change may concern more than
/// itself: a node alias, or the parent of another entry.
fn leads_to_others(state: &State, parent: &SpiffeId, spiffe_id: &SpiffeId) -> bool {
    parent.is_server() || state.entries_by_parent(spiffe_id).next().is_some()
}

fn tainted(state: &State) -> Vec<String> {
    let tainted = state
        .all_authorities()
        .filter(|authority| authority.tainted);
    tainted.map(|authority| authority.id.clone()).collect()
}

fn defaults(state: &State) -> Option<wire::Defaults> {
    let settings = state.settings()?;
    let addresses = state.servers().map(|server| server.api_address.clone());
    Some(wire::Defaults {
        x509_svid_ttl_seconds: settings.x509_svid_ttl_seconds,
        jwt_svid_ttl_seconds: settings.jwt_svid_ttl_seconds,
        pq: settings.pq,
        servers: addresses.filter(|address| !address.is_empty()).collect(),
    })
}

/// A position as messages have it.
#[must_use]
pub fn to_wire(position: Position) -> wire::Position {
    wire::Position {
        epoch: position.epoch,
        index: position.index,
    }
}

/// A position as the state has it.
#[must_use]
pub fn from_wire(position: &wire::Position) -> Position {
    Position {
        epoch: position.epoch,
        index: position.index,
    }
}
