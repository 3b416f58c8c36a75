//! Registration entries and their indexes.
//!
//! Responsible for: making, changing and deleting entries, and finding them by
//! id, parent, SPIFFE ID, selector or triple.
//! Always holds: every index agrees with the table; no two entries have the
//! same (parent, SPIFFE ID, selectors); a new entry's revision is above every
//! deleted one's, so that what was made from an entry never fits another that
//! took its id.
//! Not here: which agent may serve an entry (`authorization`).

use std::collections::{BTreeMap, BTreeSet};

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_identity::selector::Selector;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::audit::v1::{EntryChange, Leaf};
use mintmark_proto::mintmark::raft::v1::{
    CommandResult, CreateEntries, DeleteEntries, ItemResult, Refusal, UpdateEntries, update_entries,
};
use mintmark_proto::mintmark::state::v1::Entry;

use super::State;
use super::audit::message_sha256;
use super::event::Event;
use super::index::Index;
use super::turn::{Decided, Refused, Turn};

/// Entries that one command may carry; SPIRE's clients send at most 1000.
pub const ENTRY_BATCH_MAX: usize = 1_000;

/// All entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entries {
    by_id: BTreeMap<EntryId, RegistrationEntry>,
    by_parent: Index<SpiffeId, EntryId>,
    by_spiffe_id: Index<SpiffeId, EntryId>,
    by_selector: Index<Selector, EntryId>,
    /// Entries that name nodes (their parent is the servers' ID), each under
    /// its first selector only: a node that has them all has that one.
    aliases: Index<Selector, EntryId>,
    by_expiry: BTreeSet<(Timestamp, EntryId)>,
    /// Highest revision that a deleted entry had.
    pub(super) deleted_revision_max: u64,
}

impl Entries {
    pub(super) fn get(&self, id: &EntryId) -> Option<&RegistrationEntry> {
        self.by_id.get(id)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &RegistrationEntry> {
        self.by_id.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Entries with ids above `after`, in order of their ids.
    pub(super) fn after(
        &self,
        after: Option<&EntryId>,
    ) -> impl Iterator<Item = &RegistrationEntry> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.by_id
            .range::<EntryId, _>((from, Unbounded))
            .map(|(_, entry)| entry)
    }

    pub(super) fn of_parent(&self, parent: &SpiffeId) -> impl Iterator<Item = &RegistrationEntry> {
        self.by_parent
            .get(parent)
            .filter_map(|id| self.by_id.get(id))
    }

    pub(super) fn of_spiffe_id(&self, id: &SpiffeId) -> impl Iterator<Item = &RegistrationEntry> {
        self.by_spiffe_id
            .get(id)
            .filter_map(|id| self.by_id.get(id))
    }

    pub(super) fn with_selector(
        &self,
        selector: &Selector,
    ) -> impl Iterator<Item = &RegistrationEntry> {
        self.by_selector
            .get(selector)
            .filter_map(|id| self.by_id.get(id))
    }

    /// Node aliases whose first selector is this one.
    pub(super) fn aliases_under(
        &self,
        first: &Selector,
    ) -> impl Iterator<Item = &RegistrationEntry> {
        self.aliases.get(first).filter_map(|id| self.by_id.get(id))
    }

    /// The entry with the same parent, SPIFFE ID and selectors.
    pub(super) fn same_triple(&self, entry: &RegistrationEntry) -> Option<&RegistrationEntry> {
        let same = |other: &&RegistrationEntry| {
            other.parent_id == entry.parent_id
                && other.spiffe_id == entry.spiffe_id
                && other.selectors == entry.selectors
        };
        // One identity may stand under many parents, or one parent above many
        // identities: the shorter list is searched.
        if self.by_parent.count(&entry.parent_id) < self.by_spiffe_id.count(&entry.spiffe_id) {
            self.of_parent(&entry.parent_id).find(same)
        } else {
            self.of_spiffe_id(&entry.spiffe_id).find(same)
        }
    }

    /// Ids of at most `limit` entries that expired before `now`.
    pub(super) fn expired(&self, now: Timestamp, limit: usize) -> Vec<EntryId> {
        let before = self.by_expiry.iter().take_while(|(at, _)| *at <= now);
        before.take(limit).map(|(_, id)| id.clone()).collect()
    }

    /// Stores an entry in place of the one with its id, which is returned.
    pub(super) fn put(&mut self, entry: RegistrationEntry) -> Option<RegistrationEntry> {
        let old = self.unlink(&entry.id);
        let id = &entry.id;
        self.by_parent.insert(&entry.parent_id, id);
        self.by_spiffe_id.insert(&entry.spiffe_id, id);
        for selector in &entry.selectors {
            self.by_selector.insert(selector, id);
        }
        if let Some(first) = alias_key(&entry) {
            self.aliases.insert(first, id);
        }
        if let Some(at) = entry.expires_at {
            self.by_expiry.insert((at, id.clone()));
        }
        self.by_id.insert(id.clone(), entry);
        old
    }

    /// Removes an entry for good.
    pub(super) fn remove(&mut self, id: &EntryId) -> Option<RegistrationEntry> {
        let old = self.unlink(id)?;
        self.deleted_revision_max = self.deleted_revision_max.max(old.revision);
        Some(old)
    }

    fn unlink(&mut self, id: &EntryId) -> Option<RegistrationEntry> {
        let old = self.by_id.remove(id)?;
        self.by_parent.remove(&old.parent_id, id);
        self.by_spiffe_id.remove(&old.spiffe_id, id);
        for selector in &old.selectors {
            self.by_selector.remove(selector, id);
        }
        if let Some(first) = alias_key(&old) {
            self.aliases.remove(first, id);
        }
        if let Some(at) = old.expires_at {
            self.by_expiry.remove(&(at, id.clone()));
        }
        Some(old)
    }
}

/// The selector under which a node alias is indexed; `None` for other entries.
fn alias_key(entry: &RegistrationEntry) -> Option<&Selector> {
    if entry.parent_id.is_server() {
        entry.selectors.first()
    } else {
        None
    }
}

impl State {
    pub(super) fn create_entries(
        &mut self,
        turn: &mut Turn<'_>,
        body: &CreateEntries,
    ) -> Decided<CommandResult> {
        check_batch(body.entries.len())?;
        let items = body
            .entries
            .iter()
            .map(|wire| self.create_entry(turn, wire))
            .collect();
        Ok(CommandResult {
            items,
            ..CommandResult::default()
        })
    }

    /// Creates one entry and leaves its leaf.
    pub(super) fn create_entry(&mut self, turn: &mut Turn<'_>, wire: &Entry) -> ItemResult {
        match self.acceptable_entry(wire, turn.now) {
            Ok(entry) => self.store_entry(turn, "entry.create", entry),
            Err(conflict) => {
                let (refused, existing) = *conflict;
                let leaf = entry_leaf(turn, "entry.create", wire);
                let leaf_index = self.append_denial(turn, leaf, &refused);
                ItemResult {
                    entry: existing,
                    ..refused.into_item(leaf_index)
                }
            }
        }
    }

    /// The entry as it will be stored, or why not, with the one in its place.
    fn acceptable_entry(
        &self,
        wire: &Entry,
        now: Timestamp,
    ) -> Result<RegistrationEntry, Box<(Refused, Option<Entry>)>> {
        let mut entry = self
            .checked_entry(wire)
            .map_err(|refused| Box::new((refused, None)))?;
        let existing = self
            .entries
            .same_triple(&entry)
            .or_else(|| self.entries.get(&entry.id));
        if let Some(existing) = existing {
            let detail = format!("entry {} is already there", existing.id);
            let refused = Refused::new(Refusal::AlreadyExists, detail);
            return Err(Box::new((refused, Some(existing.into()))));
        }
        entry.created_at = now.floor_to_second();
        entry.revision = self.entries.deleted_revision_max.saturating_add(1);
        Ok(entry)
    }

    fn checked_entry(&self, wire: &Entry) -> Decided<RegistrationEntry> {
        let entry =
            RegistrationEntry::try_from(wire).map_err(|error| Refused::invalid(error.explain()))?;
        entry
            .validate(self.trust_domain_or_refuse()?)
            .map_err(|error| Refused::invalid(error.to_string()))?;
        Ok(entry)
    }

    fn store_entry(
        &mut self,
        turn: &mut Turn<'_>,
        action: &str,
        entry: RegistrationEntry,
    ) -> ItemResult {
        let wire = Entry::from(&entry);
        let id = entry.id.clone();
        if let Some(old) = self.entries.put(entry) {
            let moved = self.entries.get(&id).is_some_and(|new| {
                new.parent_id != old.parent_id
                    || new.spiffe_id != old.spiffe_id
                    || new.selectors != old.selectors
            });
            if moved {
                turn.emit(removal(old));
            }
        }
        turn.emit(Event::EntryChanged(id));
        let leaf = entry_leaf(turn, action, &wire);
        let leaf_index = self.append_leaf(turn, leaf);
        ItemResult {
            leaf_index,
            entry: Some(wire),
            ..ItemResult::default()
        }
    }

    pub(super) fn update_entries(
        &mut self,
        turn: &mut Turn<'_>,
        body: &UpdateEntries,
    ) -> Decided<CommandResult> {
        check_batch(body.updates.len())?;
        let items = body
            .updates
            .iter()
            .map(|update| self.update_entry(turn, update))
            .collect();
        Ok(CommandResult {
            items,
            ..CommandResult::default()
        })
    }

    fn update_entry(&mut self, turn: &mut Turn<'_>, update: &update_entries::Update) -> ItemResult {
        let wire = update.entry.clone().unwrap_or_default();
        match self.acceptable_update(&wire, update.expected_revision) {
            Ok(entry) => self.store_entry(turn, "entry.update", entry),
            Err(refused) => {
                let leaf = entry_leaf(turn, "entry.update", &wire);
                let leaf_index = self.append_denial(turn, leaf, &refused);
                let current = EntryId::parse(&*wire.id).ok();
                let entry = current
                    .and_then(|id| self.entries.get(&id))
                    .map(Entry::from);
                ItemResult {
                    entry,
                    ..refused.into_item(leaf_index)
                }
            }
        }
    }

    fn acceptable_update(&self, wire: &Entry, expected: u64) -> Decided<RegistrationEntry> {
        let mut entry = self.checked_entry(wire)?;
        let Some(current) = self.entries.get(&entry.id) else {
            return Err(Refused::not_found(format!(
                "there is no entry {}",
                entry.id
            )));
        };
        if expected != 0 && expected != current.revision {
            let detail = format!(
                "entry {} is at revision {}, not {expected}",
                current.id, current.revision
            );
            return Err(Refused::new(Refusal::Stale, detail));
        }
        if let Some(other) = self.entries.same_triple(&entry)
            && other.id != entry.id
        {
            let detail = format!("entry {} already says the same", other.id);
            return Err(Refused::new(Refusal::AlreadyExists, detail));
        }
        entry.created_at = current.created_at;
        entry.revision = current.revision.saturating_add(1);
        Ok(entry)
    }

    pub(super) fn delete_entries(
        &mut self,
        turn: &mut Turn<'_>,
        body: &DeleteEntries,
    ) -> Decided<CommandResult> {
        check_batch(body.ids.len())?;
        let items = body
            .ids
            .iter()
            .map(|id| self.delete_entry(turn, id, ""))
            .collect();
        Ok(CommandResult {
            items,
            ..CommandResult::default()
        })
    }

    /// Deletes one entry and leaves its leaf, with a reason if nobody asked.
    pub(super) fn delete_entry(
        &mut self,
        turn: &mut Turn<'_>,
        id: &str,
        reason: &str,
    ) -> ItemResult {
        let old = EntryId::parse(id)
            .ok()
            .and_then(|id| self.entries.remove(&id));
        let Some(old) = old else {
            let refused = Refused::not_found("there is no such entry");
            let wire = Entry {
                id: id.to_owned(),
                ..Entry::default()
            };
            let leaf = entry_leaf(turn, "entry.delete", &wire);
            let leaf_index = self.append_denial(turn, leaf, &refused);
            return refused.into_item(leaf_index);
        };
        let wire = Entry::from(&old);
        let leaf = Leaf {
            reason: reason.to_owned(),
            ..entry_leaf(turn, "entry.delete", &wire)
        };
        let leaf_index = self.append_leaf(turn, leaf);
        turn.emit(removal(old));
        ItemResult {
            leaf_index,
            entry: Some(wire),
            ..ItemResult::default()
        }
    }
}

fn removal(old: RegistrationEntry) -> Event {
    Event::EntryRemoved {
        id: old.id,
        parent: old.parent_id,
        spiffe_id: old.spiffe_id,
        selectors: old.selectors,
    }
}

fn check_batch(count: usize) -> Decided<()> {
    match count {
        0 => Err(Refused::invalid("the command names no entry")),
        _ if count > ENTRY_BATCH_MAX => Err(Refused::new(
            Refusal::Limit,
            format!("{count} entries in one command; at most {ENTRY_BATCH_MAX} are allowed"),
        )),
        _ => Ok(()),
    }
}

fn entry_leaf(turn: &Turn<'_>, action: &str, entry: &Entry) -> Leaf {
    Leaf {
        action: action.to_owned(),
        subject: entry.id.clone(),
        entry: Some(EntryChange {
            entry_id: entry.id.clone(),
            revision: entry.revision,
            entry_sha256: message_sha256(entry),
            spiffe_id: entry.spiffe_id.clone(),
            parent_id: entry.parent_id.clone(),
        }),
        request_sha256: turn.request_sha256.to_vec(),
        ..Leaf::default()
    }
}
